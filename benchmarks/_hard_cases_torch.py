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
    found = {}
    for name, case in CASES.items():
        torch.manual_seed(0)
        found[name] = case()
    return found


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
    root = getattr(model, layer)
    remove = {nn.Conv2d: tp.prune_conv_out_channels, nn.Linear: tp.prune_linear_out_channels}
    remove[nn.Embedding] = tp.prune_embedding_out_channels
    return graph.get_pruning_group(root, remove[type(root)], list(indices))


def parts(group: Any) -> list[str]:
    """What a group takes: layer, side, indices; parameters alone."""
    shown = []
    for dep, indices in group:
        name = dep.target.name.split(" ")[0]
        if isinstance(dep.target.module, (nn.Conv2d, nn.Linear, nn.Embedding, nn.Parameter)):
            side = "in" if "in_channels" in dep.handler.__name__ else "out"
            shown.append(f"{name} {side} {[int(i) for i in indices]}")
    return shown


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
        a = model(x)
        b = expected(x)
    return float((a - b).abs().max() / b.abs().max())


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
    took = ""
    try:
        group = group_of(model, x, layer, indices)
        took = "; it removes " + ", ".join(parts(group))
        stage = "removal"
        group.prune()
        stage = "forward"
        error = difference(model, expected, x)
    except Exception as e:  # whatever it is, it is the finding
        said = str(e).strip().splitlines()[0][:110] if str(e).strip() else ""
        return {"failed": True, "text": f"crash in the {stage}: {type(e).__name__}: {said}{took}"}
    failed = error > TOLERANCE
    return {"failed": failed, "text": f"{'wrong' if failed else 'right'}: {error:.1e}{took}"}


def channel_shuffle() -> Outcome:
    def forward(own, x):
        h = functional.relu(own.first(x))
        b, c, n, m = h.shape
        h = h.view(b, 2, c // 2, n, m).transpose(1, 2).reshape(b, c, n, m)
        return functional.relu(own.second(h)).mean((2, 3))

    model = Plain(forward, first=nn.Conv2d(3, 8, 1), second=nn.Conv2d(8, 6, 3))
    return removed(model, torch.randn(2, 3, 8, 8), "first", [1, 5])


def depth_to_space() -> Outcome:
    def forward(own, x):
        return own.second(functional.pixel_shuffle(functional.relu(own.first(x)), 2)).mean((2, 3))

    model = Plain(forward, first=nn.Conv2d(3, 16, 3), second=nn.Conv2d(4, 5, 3))
    return removed(model, torch.randn(2, 3, 8, 8), "first", [0, 1, 2, 3])


def grouped_queries() -> Outcome:
    """Six heads of eight dimensions, in two groups: the first group goes."""

    def forward(own, x):
        b, n, _ = x.shape
        q, k, v = (z.view(b, n, -1, 8) for z in (own.query(x), own.key(x), own.value(x)))
        k, v = (z[:, :, :, None].expand(-1, -1, -1, 3, -1).reshape(b, n, -1, 8) for z in (k, v))
        q, k, v = (z.transpose(1, 2) for z in (q, k, v))
        y = functional.scaled_dot_product_attention(q, k, v)
        return own.out(y.transpose(1, 2).reshape(b, n, -1))

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
    both = f"from the keys: {by_key['text']}; from the queries: {by_query['text']}"
    return {"failed": by_key["failed"] or by_query["failed"], "text": both}


def tied_embedding() -> Outcome:
    def forward(own, x):
        return own.head(own.embed(x) + own.mix(own.embed(x)))

    model = Plain(
        forward,
        embed=nn.Embedding(11, 8),
        mix=nn.Linear(8, 8),
        head=nn.Linear(8, 11, bias=False),
    )
    model.head.weight = model.embed.weight
    before = sum(p.numel() for p in model.parameters())
    zeros = {"embed": [0, 1], "mix": [0, 1]}  # the head's columns are the embedding's
    found = removed(model, torch.randint(11, (2, 5)), "embed", [0, 1], zeros)
    tied = model.head.weight is model.embed.weight
    after = sum(p.numel() for p in model.parameters())
    text = f"{'tied' if tied else 'the tie is broken'}: {before} parameters, then {after}; outputs "
    return {"failed": found["failed"] or not tied, "text": text + found["text"]}


def raw_parameter() -> Outcome:
    def forward(own, x):
        return own.second(torch.einsum("bi,io->bo", functional.relu(own.first(x)), own.w))

    model = Plain(forward, first=nn.Linear(6, 8), second=nn.Linear(10, 3))
    model.w = nn.Parameter(torch.randn(8, 10))
    return removed(model, torch.randn(4, 6), "first", [0, 1])


def separate_widths() -> Outcome:
    """One head: a dimension of queries and keys is none of values."""

    def forward(own, x):
        q = own.query(x)
        k = own.key(x)
        v = own.value(x)
        return own.out(torch.softmax(q @ k.transpose(1, 2) / 4, -1) @ v)

    layers = {name: nn.Linear(12, 16) for name in ("query", "key", "value")}
    model = Plain(forward, **layers, out=nn.Linear(16, 12))
    x = torch.randn(2, 5, 12)
    apart = {"query": [0], "key": [0]}
    found = removed(copy.deepcopy(model), x, "query", [0], apart)
    coupled = removed(copy.deepcopy(model), x, "query", [0], apart | {"value": [0]})
    text = (
        f"against zeros in q and k {found['text']}; in q, k and v {coupled['text'].split(';')[0]}"
    )
    return {"failed": found["failed"], "text": text}


def multiplications() -> Outcome:
    """A layer of 256, then products of 128: with a parameter, and of activations."""
    results = []
    wrong = False
    for kind in ("a parameter", "activations"):
        if kind == "a parameter":
            model = Plain(lambda own, x: own.first(x) @ own.w, first=nn.Linear(32, 8, bias=False))
            model.w = nn.Parameter(torch.randn(8, 16))
        else:

            def forward(own, x):
                return (lambda y: y.view(8, 2) @ y.view(2, 8))(own.first(x))

            model = Plain(forward, first=nn.Linear(16, 16, bias=False))
        x = torch.randn(1, model.first.in_features)
        counted = int(tp.utils.count_ops_and_params(model, x)[0])
        wrong |= counted != 256 + 128
        results.append(f"{counted} of 384 (product with {kind})")
    return {"failed": wrong, "text": ", ".join(results)}


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
        squares.append([p.grad.clone() ** 2 for p in (model[0].weight, model[2].weight)])
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=x)
    found = scorer(graph.get_pruning_group(model[0], tp.prune_linear_out_channels, range(8)))

    def by_hand(samples):
        a, b = (torch.stack(each).mean(0) for each in zip(*samples, strict=True))
        into = model[0].weight
        out = model[2].weight
        return ((into**2 * a).sum(1) + (out**2 * b).sum(0)).detach()

    whole = by_hand(squares)
    last = by_hand(squares[-1:])

    def off(right):
        return float((found - right).abs().max() / right.abs().max())

    text = f"off the mean over 10 samples by {off(whole):.1e}, off the last sample's by {off(last):.1e}"
    return {"failed": off(whole) > TOLERANCE, "text": text}


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

    before = scorer(group())
    own = (model[1].weight * model[1].weight.grad).abs().detach()
    model[1].weight.grad *= 100
    change = float((scorer(group()) - before).abs().max())
    text = (
        f"scores change by {change:.1e} where the scales' gradients, of score {float(own.max()):.1e}, "
        "grow 100-fold"
    )
    return {"failed": change == 0, "text": text}


def geometric_median() -> Outcome:
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    scorer = tp.importance.FPGMImportance(group_reduction="first", normalizer=None)
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=torch.randn(1, 6))
    found = scorer(graph.get_pruning_group(model[0], tp.prune_linear_out_channels, list(range(8))))
    filters = model[0].weight.detach()
    right, squared = (torch.cdist(w, w).sum(1) for w in (filters, filters**2))

    def off(other):
        return float((found - other).abs().max() / other.abs().max())

    def half(scores):
        return sorted(scores.argsort()[:4].tolist())

    text = (
        f"off the filters' distances by {off(right):.1e}, off their squares' by {off(squared):.1e}; "
        f"half removed: {half(found)}, by the filters' {half(right)}"
    )
    return {"failed": off(right) > TOLERANCE, "text": text}


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
