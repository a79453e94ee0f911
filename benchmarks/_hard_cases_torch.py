"""Cases in which Torch-Pruning 1.6.1 was seen to fail; read by `_torch_side`.

Each function runs one and returns what came of it, in words, and whether it failed. Removal is compared with
the module whose slices were set to zero by hand.
"""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import nn
from torch.nn import functional

TOLERANCE = 1e-5
Outcome = dict[str, Any]


def outcomes() -> dict[str, Outcome]:
    """By case."""
    results = {}
    for name, case in CASES.items():
        torch.manual_seed(0)
        results[name] = case()
    return results


class Plain(nn.Module):
    """Named layers, and a function of them and the input."""

    def __init__(self, forward: Callable[..., torch.Tensor], **layers: nn.Module):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.function = forward

    def forward(self, x):
        """Outputs."""
        return self.function(self, x)


def group_of(model: nn.Module, x: torch.Tensor, layer: str, indices: Sequence[int]) -> Any:
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=x)
    module = getattr(model, layer)
    pruning_functions = {
        nn.Conv2d: tp.prune_conv_out_channels,
        nn.Linear: tp.prune_linear_out_channels,
    }
    pruning_functions[nn.Embedding] = tp.prune_embedding_out_channels
    return graph.get_pruning_group(module, pruning_functions[type(module)], list(indices))


def parts(group: Any) -> list[str]:
    """What a group takes: layer, side, indices; parameters alone."""
    descriptions = []
    for dependency, indices in group:
        name = dependency.target.name.split(" ")[0]
        if isinstance(dependency.target.module, (nn.Conv2d, nn.Linear, nn.Embedding, nn.Parameter)):
            side = "in" if "in_channels" in dependency.handler.__name__ else "out"
            descriptions.append(f"{name} {side} {[int(i) for i in indices]}")
    return descriptions


def with_zeros(model: nn.Module, zeros: Mapping[str, Sequence[int]]) -> nn.Module:
    """A copy in which some outputs of some layers are zero."""
    model = copy.deepcopy(model)
    for name, indices in zeros.items():
        layer = getattr(model, name)
        axis = 1 if isinstance(layer, nn.Embedding) else 0
        layer.weight.data.index_fill_(axis, torch.tensor(indices), 0.0)
        if getattr(layer, "bias", None) is not None:
            layer.bias.data[indices] = 0.0
    return model


def difference(model: nn.Module, expected: nn.Module, x: torch.Tensor) -> float:
    """The largest difference of outputs over their largest size."""
    with torch.no_grad():
        output = model(x)
        expected_output = expected(x)
    return float((output - expected_output).abs().max() / expected_output.abs().max())


def removed(
    model: nn.Module,
    x: torch.Tensor,
    layer: str,
    indices: Sequence[int],
    zeros: Mapping[str, Sequence[int]] | None = None,
) -> Outcome:
    """Removes outputs of a layer, and compares with zeros, there if nowhere else."""
    expected = with_zeros(model, zeros or {layer: indices})
    stage = "grouping"
    removed_text = ""
    try:
        group = group_of(model, x, layer, indices)
        removed_text = "; it removes " + ", ".join(parts(group))
        stage = "removal"
        group.prune()
        stage = "forward"
        error = difference(model, expected, x)
    except Exception as e:  # whatever it is, it is the finding
        message = str(e).strip().splitlines()[0][:110] if str(e).strip() else ""
        return {
            "failed": True,
            "text": f"crash in the {stage}: {type(e).__name__}: {message}{removed_text}",
        }
    failed = error > TOLERANCE
    return {
        "failed": failed,
        "text": f"{'wrong' if failed else 'right'}: {error:.1e}{removed_text}",
    }


def channel_shuffle() -> Outcome:
    def forward(model, x):
        hidden = functional.relu(model.first(x))
        batch, channels, height, width = hidden.shape
        hidden = (
            hidden.view(batch, 2, channels // 2, height, width)
            .transpose(1, 2)
            .reshape(batch, channels, height, width)
        )
        return functional.relu(model.second(hidden)).mean((2, 3))

    model = Plain(forward, first=nn.Conv2d(3, 8, 1), second=nn.Conv2d(8, 6, 3))
    return removed(model, torch.randn(2, 3, 8, 8), "first", [1, 5])


def depth_to_space() -> Outcome:
    def forward(model, x):
        return model.second(functional.pixel_shuffle(functional.relu(model.first(x)), 2)).mean(
            (2, 3)
        )

    model = Plain(forward, first=nn.Conv2d(3, 16, 3), second=nn.Conv2d(4, 5, 3))
    return removed(model, torch.randn(2, 3, 8, 8), "first", [0, 1, 2, 3])


def grouped_queries() -> Outcome:
    """Six heads of eight dimensions, in two groups: the first group goes."""

    def forward(model, x):
        batch, length, _ = x.shape
        query, key, value = (
            heads.view(batch, length, -1, 8)
            for heads in (model.query(x), model.key(x), model.value(x))
        )
        key, value = (
            heads[:, :, :, None].expand(-1, -1, -1, 3, -1).reshape(batch, length, -1, 8)
            for heads in (key, value)
        )
        query, key, value = (heads.transpose(1, 2) for heads in (query, key, value))
        attended = functional.scaled_dot_product_attention(query, key, value)
        return model.out(attended.transpose(1, 2).reshape(batch, length, -1))

    def make():
        return Plain(
            forward,
            query=nn.Linear(12, 48),
            key=nn.Linear(12, 16),
            value=nn.Linear(12, 16),
            out=nn.Linear(48, 12),
        )

    x = torch.randn(2, 5, 12)
    zeros = {"query": range(24), "key": range(8), "value": range(8)}
    zeros = {name: list(indices) for name, indices in zeros.items()}
    by_key = removed(make(), x, "key", range(8), zeros)
    by_query = removed(make(), x, "query", range(24), zeros)
    summary = f"from the keys: {by_key['text']}; from the queries: {by_query['text']}"
    return {"failed": by_key["failed"] or by_query["failed"], "text": summary}


def tied_embedding() -> Outcome:
    def forward(module, x):
        return module.head(module.embed(x) + module.mix(module.embed(x)))

    model = Plain(
        forward,
        embed=nn.Embedding(11, 8),
        mix=nn.Linear(8, 8),
        head=nn.Linear(8, 11, bias=False),
    )
    model.head.weight = model.embed.weight
    count_before = sum(parameter.numel() for parameter in model.parameters())
    zeros = {"embed": [0, 1], "mix": [0, 1]}  # the head's columns are the embedding's
    result = removed(model, torch.randint(11, (2, 5)), "embed", [0, 1], zeros)
    is_tied = model.head.weight is model.embed.weight
    count_after = sum(parameter.numel() for parameter in model.parameters())
    tie = "tied" if is_tied else "the tie is broken"
    summary = f"{tie}: {count_before} parameters, then {count_after}; outputs "
    return {"failed": result["failed"] or not is_tied, "text": summary + result["text"]}


def raw_parameter() -> Outcome:
    def forward(module, x):
        return module.second(torch.einsum("bi,io->bo", functional.relu(module.first(x)), module.w))

    model = Plain(forward, first=nn.Linear(6, 8), second=nn.Linear(10, 3))
    model.w = nn.Parameter(torch.randn(8, 10))
    return removed(model, torch.randn(4, 6), "first", [0, 1])


def separate_widths() -> Outcome:
    """One head: a dimension of queries and keys is none of values."""

    def forward(module, x):
        query = module.query(x)
        key = module.key(x)
        value = module.value(x)
        return module.out(torch.softmax(query @ key.transpose(1, 2) / 4, -1) @ value)

    layers = {name: nn.Linear(12, 16) for name in ("query", "key", "value")}
    model = Plain(forward, **layers, out=nn.Linear(16, 12))
    x = torch.randn(2, 5, 12)
    zeros = {"query": [0], "key": [0]}
    result = removed(copy.deepcopy(model), x, "query", [0], zeros)
    coupled = removed(copy.deepcopy(model), x, "query", [0], zeros | {"value": [0]})
    summary = (
        f"against zeros in q and k {result['text']}; in q, k and v {coupled['text'].split(';')[0]}"
    )
    return {"failed": result["failed"], "text": summary}


def multiplications() -> Outcome:
    """A layer of 256, then products of 128: with a parameter, and of activations."""
    results = []
    is_wrong = False
    for kind in ("a parameter", "activations"):
        if kind == "a parameter":
            model = Plain(
                lambda module, x: module.first(x) @ module.w, first=nn.Linear(32, 8, bias=False)
            )
            model.w = nn.Parameter(torch.randn(8, 16))
        else:

            def forward(module, x):
                return (lambda matrix: matrix.view(8, 2) @ matrix.view(2, 8))(module.first(x))

            model = Plain(forward, first=nn.Linear(16, 16, bias=False))
        x = torch.randn(1, model.first.in_features)
        count = int(tp.utils.count_ops_and_params(model, x)[0])
        is_wrong |= count != 256 + 128
        results.append(f"{count} of 384 (product with {kind})")
    return {"failed": is_wrong, "text": ", ".join(results)}


def group_hessian() -> Outcome:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(10, 6)
    labels = torch.randint(3, (10,))
    scorer = tp.importance.GroupHessianImportance(group_reduction="sum", normalizer=None)
    scorer.zero_grad()
    squares = []
    for loss in functional.cross_entropy(model(x), labels, reduction="none"):
        model.zero_grad()
        loss.backward(retain_graph=True)
        scorer.accumulate_grad(model)
        squares.append(
            [parameter.grad.clone() ** 2 for parameter in (model[0].weight, model[2].weight)]
        )
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=x)
    unit_scores = scorer(graph.get_pruning_group(model[0], tp.prune_linear_out_channels, range(8)))

    def by_hand(samples):
        first_squares, second_squares = (
            torch.stack(sample_squares).mean(0) for sample_squares in zip(*samples, strict=True)
        )
        first_weight = model[0].weight
        second_weight = model[2].weight
        return (
            (first_weight**2 * first_squares).sum(1) + (second_weight**2 * second_squares).sum(0)
        ).detach()

    mean_scores = by_hand(squares)
    last_sample_scores = by_hand(squares[-1:])

    def relative_error(expected):
        return float((unit_scores - expected).abs().max() / expected.abs().max())

    summary = (
        f"off the mean over 10 samples by {relative_error(mean_scores):.1e}, "
        f"off the last sample's by {relative_error(last_sample_scores):.1e}"
    )
    return {"failed": relative_error(mean_scores) > TOLERANCE, "text": summary}


def taylor_and_batchnorm() -> Outcome:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)
    ).eval()
    x = torch.randn(2, 3, 8, 8)
    model(x).square().sum().backward()
    scorer = tp.importance.GroupTaylorImportance(group_reduction="sum", normalizer=None)
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=x)

    def group():
        return graph.get_pruning_group(model[0], tp.prune_conv_out_channels, list(range(8)))

    scores_before = scorer(group())
    scale_scores = (model[1].weight * model[1].weight.grad).abs().detach()
    model[1].weight.grad *= 100
    change = float((scorer(group()) - scores_before).abs().max())
    summary = (
        f"scores change by {change:.1e} where the scales' gradients, "
        f"of score {float(scale_scores.max()):.1e}, grow 100-fold"
    )
    return {"failed": change == 0, "text": summary}


def geometric_median() -> Outcome:
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    scorer = tp.importance.FPGMImportance(group_reduction="first", normalizer=None)
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=torch.randn(1, 6))
    unit_scores = scorer(
        graph.get_pruning_group(model[0], tp.prune_linear_out_channels, list(range(8)))
    )
    filters = model[0].weight.detach()
    distances, squared_distances = (
        torch.cdist(vectors, vectors).sum(1) for vectors in (filters, filters**2)
    )

    def relative_error(expected):
        return float((unit_scores - expected).abs().max() / expected.abs().max())

    def half_removed(scores):
        return sorted(scores.argsort()[:4].tolist())

    summary = (
        f"off the filters' distances by {relative_error(distances):.1e}, "
        f"off their squares' by {relative_error(squared_distances):.1e}; "
        f"half removed: {half_removed(unit_scores)}, by the filters' {half_removed(distances)}"
    )
    return {"failed": relative_error(distances) > TOLERANCE, "text": summary}


CASES: dict[str, Callable[[], Outcome]] = {
    "channel shuffle": channel_shuffle,
    "depth to space": depth_to_space,
    "grouped queries, heads not declared": grouped_queries,
    "tied embedding": tied_embedding,
    "einsum with a raw parameter": raw_parameter,
    "widths of q, k and v, o": separate_widths,
    "multiplications of a functional matmul": multiplications,
    "diagonal Fisher over samples": group_hessian,
    "Taylor and BatchNorm": taylor_and_batchnorm,
    "FPGM": geometric_median,
}
