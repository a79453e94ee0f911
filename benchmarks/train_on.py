"""A pruned network that is shrunk and trained on, beside the same network trained on under its masks.

LeNet-5 (Caffe's) on MNIST and a narrow ResNet-20 with batch normalisation (8, 16 and 32 filters) on
Fashion-MNIST: trained dense, half of the units of each group removed by magnitude, then trained on for as
many updates, once masked (`jp.fixed`) and once shrunk (`small.like` of the training function), with the same
batches. Beside them the dense network with all those updates, and the masked one once more with weights off
by one rounding (1e-7 of each): rounding grows in training, and the two masked ones tell how far. Adam, 0.001,
in the second training decayed to zero by a cosine, batches of 64; test accuracy at the end.

Run: python -m benchmarks.train_on   (writes results/benchmarks/structured_train_on.json and .md)
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp
from benchmarks import _timing
from experiments.reports.markdown import table
from jaxprune import data
from jaxprune.nn.resnet import HE_NORMAL, ResNet

SEEDS = (0, 1, 2)
COLUMNS = (
    "network",
    "seeds",
    "parameters",
    "dense",
    "trained on masked",
    "trained on shrunk",
    "shrunk less masked",
    "masked again less masked",
)


class Case(NamedTuple):
    """A network, its data, and the updates of each of the two trainings."""

    model: Any
    data: str
    updates: int


CASES = {
    "LeNet-5, MNIST": Case(jp.nn.lenet5_caffe(num_classes=10), "mnist", 600),
    "narrow ResNet-20, Fashion-MNIST": Case(
        ResNet(3, (8, 16, 32), 10, "pad", None, HE_NORMAL), "fashion_mnist", 300
    ),
}


def training(model: Any) -> Callable[[Any, jax.Array], Any]:
    """Returns (variables, inputs) -> (logits, new statistics)."""
    return lambda variables, x: model.apply(variables, x, train=True, mutable=["batch_stats"])


def train(function: Callable, variables: Any, transform: Any, batches: Any) -> Any:
    """Returns the variables after one update for each batch."""

    def loss(params: Any, rest: Any, batch: Any) -> Any:
        logits, new_statistics = function({"params": params, **rest}, batch[0])
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, batch[1]
        ).mean(), new_statistics

    @jax.jit
    def step(params: Any, rest: Any, state: Any, batch: Any) -> Any:
        grads, new_statistics = jax.grad(loss, has_aux=True)(params, rest, batch)
        updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), {**rest, **new_statistics}, state

    params = variables["params"]
    rest = {name: value for name, value in variables.items() if name != "params"}
    state = transform.init(params)
    for batch in batches:
        params, rest, state = step(params, rest, state, batch)
    return {"params": params, **rest}


def accuracy(function: Callable, variables: Any, split: Any) -> float:
    """Share of the split that is told right."""
    predict = jax.jit(lambda variables, inputs: function(variables, inputs).argmax(-1))
    starts = range(0, len(split.labels), 1000)
    is_right = [
        predict(variables, split.inputs[start : start + 1000]) == split.labels[start : start + 1000]
        for start in starts
    ]
    return float(jnp.concatenate(is_right).mean())


def compare(case: Case, seed: int) -> dict[str, float]:
    """Test accuracies of one seed."""
    dataset = data.load(case.data)

    def prepare(split):
        return split._replace(inputs=np.asarray(split.inputs, np.float32) / 255)

    fitting = prepare(dataset.train)
    test_data = prepare(dataset.test)
    order = np.random.default_rng(seed).permutation(len(fitting.labels))
    batch_indices = [
        order[(64 * batch_index + np.arange(64)) % len(order)]
        for batch_index in range(2 * case.updates)
    ]

    def batches(part):
        return (
            (fitting.inputs[batch_index], fitting.labels[batch_index])
            for batch_index in batch_indices[part]
        )

    first = slice(0, case.updates)
    second = slice(case.updates, None)

    def evaluate(variables, inputs):
        return case.model.apply(variables, inputs, train=False)

    training_function = training(case.model)
    adam = optax.adam(1e-3)
    variables = case.model.init(jax.random.key(seed), fitting.inputs[:2], train=False)
    decayed = optax.adam(optax.cosine_decay_schedule(1e-3, case.updates))
    dense = train(training_function, variables, adam, batches(first))
    graph = jp.structured.trace(evaluate, dense, fitting.inputs[:2])
    masks = jp.structured.prune(graph, dense, sparsity=0.5)
    small = jp.structured.shrink(graph, dense, masks)
    pruned = jp.masks.apply(dense, masks)
    # Statistics stand beside the parameters: what is masked of them is read as it is, as their scale is zero.
    fixed_transform = jp.fixed(decayed, masks["params"])
    masked = train(training_function, pruned, fixed_transform, batches(second))
    rounded = jax.tree.map(lambda leaf: leaf * np.float32(1 + 1e-7), pruned["params"])
    rounded_network = train(
        training_function, pruned | {"params": rounded}, fixed_transform, batches(second)
    )
    shrunk = train(small.like(training_function), small.params, decayed, batches(second))
    dense_trained_on = train(training_function, dense, decayed, batches(second))

    def count(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree["params"]))

    return {
        "dense": accuracy(evaluate, dense_trained_on, test_data),
        "masked": accuracy(evaluate, masked, test_data),
        "masked_again": accuracy(evaluate, rounded_network, test_data),
        "shrunk": accuracy(small.apply, shrunk, test_data),
        "parameters": count(dense),
        "parameters_shrunk": count(shrunk),
    }


def _spread(values: list[float]) -> str:
    """Mean and standard deviation in per cent; of one seed there is none."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation} %"


def report(found: dict[str, list[dict[str, float]]], hardware: dict[str, Any]) -> str:
    """Returns the table as Markdown."""
    rows = []
    for name, seeds in found.items():

        def spread(key, seeds=seeds):
            return _spread([100 * seed[key] for seed in seeds])

        def spread_of_difference(key, seeds=seeds):
            return _spread(
                [
                    100 * (results_of_seed[key] - results_of_seed["masked"])
                    for results_of_seed in seeds
                ]
            )

        sizes = f"{seeds[0]['parameters']:,} to {seeds[0]['parameters_shrunk']:,}"
        rows.append(
            [
                name,
                str(len(seeds)),
                sizes,
                *map(spread, ("dense", "masked", "shrunk")),
                spread_of_difference("shrunk"),
                spread_of_difference("masked_again"),
            ]
        )
    lines = [
        "# Shrunk and trained on",
        *__doc__.split("\n\n")[:2],
        f"Mean ± standard deviation over seeds. {_timing.hardware_line(hardware)}.",
        table(COLUMNS, rows),
    ]
    return "\n\n".join(lines) + "\n"


def main() -> None:
    """Writes the table; what is there already is not run again."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--updates", type=int, help="of each training, to try it out")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="folder")
    arguments = parser.parse_args()
    hardware = _timing.hardware("flax", "optax")
    path = arguments.out / "structured_train_on.json"
    results_by_network = (
        json.loads(path.read_text(encoding="utf-8"))["seeds"] if path.exists() else {}
    )
    for name, case in CASES.items():
        case = case._replace(updates=arguments.updates or case.updates)
        results_of_seeds = results_by_network.setdefault(name, [])
        for seed in arguments.seeds:
            setting = {"seed": seed, "updates": case.updates}
            if any(setting.items() <= row.items() for row in results_of_seeds):
                continue
            results_of_seeds.append(setting | compare(case, seed))
            print(name, json.dumps(results_of_seeds[-1]), flush=True)
            _timing.write(path, {"seeds": results_by_network})
            (arguments.out / "structured_train_on.md").write_text(
                report(results_by_network, hardware)
            )


if __name__ == "__main__":
    main()
