"""Every optimizer of optax and optax.contrib, and its wrappers, under GMP and RigL.

For each pair a small network trains for 30 updates, and after each update two things are checked: every
removed weight is exactly 0.0, and the optimizer's state there is what `init` gives.

Run: python -m benchmarks.optimizers   (writes results/benchmarks/optimizers.md and .json)
"""

import argparse
import functools
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

import jaxprune as jp
from jaxprune.transforms.masked_state import masks_of_state

STEPS = 30
METHODS = {
    "gmp": jp.methods.gmp(sparsity=0.8, begin=3, end=20, every=5),
    "rigl": jp.methods.rigl(sparsity=0.8, every=5, end=20),
}


class Case(NamedTuple):
    """An optimizer, and what its update must be told beside gradients and parameters."""

    make: Callable[[], optax.GradientTransformation]
    extra: Callable[[jax.Array, Any, Any], dict[str, Any]] = lambda loss, grads, params: {}
    why_not: str = ""  # with any method
    why_no_regrowth: str = ""  # with methods that bring weights back


def _value(loss, grads, params):
    return {"value": loss}


def _search(loss, grads, params):
    return {"value": loss, "grad": grads, "value_fn": loss_of}


def _rates(*names: str, module: Any = optax, rate: float = 1e-2) -> dict[str, Case]:
    return {name: Case(functools.partial(getattr(module, name), rate)) for name in names}


ALIASES = {
    **_rates("adabelief", "adagrad", "adam", "adamax", "adamaxw", "adamw", "adan", "amsgrad"),
    **_rates("fromage", "lamb", "lars", "lion", "nadam", "nadamw", "novograd", "radam", "rmsprop"),
    **_rates("optimistic_adam_v2", "optimistic_gradient_descent", "rprop", "sgd", "sign_sgd"),
    **_rates("signum", "sm3", "yogi"),
    "adadelta": Case(lambda: optax.adadelta(1.0)),
    "adafactor": Case(lambda: optax.adafactor(1e-2)),
    "adafactor (factored)": Case(lambda: optax.adafactor(1e-2, min_dim_size_to_factor=4)),
    "lbfgs": Case(optax.lbfgs, _search),
    "noisy_sgd": Case(lambda: optax.noisy_sgd(1e-2, key=jax.random.key(1))),
    "polyak_sgd": Case(optax.polyak_sgd, _value),
    "sgd (momentum)": Case(lambda: optax.sgd(1e-2, momentum=0.9, nesterov=True)),
}
CONTRIB = {
    "acprop": Case(
        lambda: contrib.acprop(1e-2),
        why_no_regrowth="divides by the second moment of earlier updates, and a regrown weight has none",
    ),
    **_rates("ademamix", "adopt", "madgrad", "muon", module=contrib),
    **_rates("galore", module=contrib, rate=1e-3),
    "cocob": Case(contrib.cocob),
    "dadapt_adamw": Case(contrib.dadapt_adamw),
    "dog": Case(contrib.dog),
    "dowg": Case(contrib.dowg),
    "dpsgd": Case(
        lambda: contrib.dpsgd(1e-2, 1.0, 0.1, seed=1),
        why_not="takes gradients per example, a leading axis more than the parameters have; "
        "put its aggregation before `sparsify`",
    ),
    "mechanize": Case(lambda: contrib.mechanize(optax.adam(1e-2))),
    "momo": Case(lambda: contrib.momo(1e-2), _value),
    "momo_adam": Case(lambda: contrib.momo_adam(1e-2), _value),
    "prodigy": Case(contrib.prodigy),
    "reduce_on_plateau": Case(
        lambda: optax.chain(optax.adam(1e-2), contrib.reduce_on_plateau()), _value
    ),
    "sam": Case(lambda: contrib.sam(optax.sgd(1e-2), contrib.normalize(), sync_period=2)),
    "schedule_free": Case(lambda: contrib.schedule_free(optax.sgd(1e-2), 1e-2)),
    "schedule_free_adamw": Case(lambda: contrib.schedule_free_adamw(1e-2)),
    "schedule_free_sgd": Case(lambda: contrib.schedule_free_sgd(1e-2)),
    "sophia": Case(lambda: contrib.sophia(1e-2), lambda loss, grads, params: {"obj_fn": loss_of}),
    "simplified_ademamix": Case(lambda: contrib.simplified_ademamix(1e-3)),
}


def _labels(params):
    return jax.tree.map(lambda leaf: "matrix" if leaf.ndim > 1 else "vector", params)


def _matrices(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


WRAPPERS = {
    "MultiSteps": Case(lambda: optax.MultiSteps(optax.adam(1e-2), every_k_schedule=2)),
    "apply_if_finite": Case(lambda: optax.apply_if_finite(optax.adam(1e-2), 3)),
    "chain": Case(
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.ema(0.9), optax.adamw(1e-2))
    ),
    "decay into momentum": Case(
        lambda: optax.chain(
            optax.add_decayed_weights(1e-2), optax.trace(0.9), optax.scale_by_learning_rate(1e-2)
        )
    ),
    "flatten": Case(lambda: optax.flatten(optax.adam(1e-2))),
    "freeze": Case(lambda: optax.chain(optax.freeze({"a": False, "b": False, "c": True}))),
    "inject_hyperparams": Case(lambda: optax.inject_hyperparams(optax.adam)(learning_rate=1e-2)),
    "lookahead": Case(
        lambda: optax.lookahead(optax.sgd(1e-2), 5, 0.5),
        why_not="takes pairs of fast and slow parameters but gradients of the fast ones alone, so "
        "masks cannot sit beside both",
    ),
    "masked": Case(lambda: optax.masked(optax.adam(1e-2), _matrices)),
    "named_chain": Case(lambda: optax.named_chain(("first", optax.adam(1e-2)))),
    "partition": Case(
        lambda: optax.partition({"matrix": optax.adam(1e-2), "vector": optax.sgd(1e-2)}, _labels)
    ),
    "trust ratio and decay": Case(
        lambda: optax.chain(
            optax.scale_by_adam(), optax.add_decayed_weights(1e-2), optax.scale_by_trust_ratio()
        )
    ),
    "zero_nans": Case(lambda: optax.chain(optax.zero_nans(), optax.adam(1e-2))),
}
CASES = {**ALIASES, **CONTRIB, **WRAPPERS}

_x = jax.random.normal(jax.random.key(0), (64, 12))
_y = jnp.sin(_x @ jax.random.normal(jax.random.key(1), (12, 3)))


def initial() -> Any:
    """Returns the network's parameters."""
    keys = jax.random.split(jax.random.key(2), 3)
    shapes = {"a": (12, 16), "b": (16, 16), "c": (16, 3)}
    return {
        name: {
            "kernel": jax.random.normal(key, shape) / shape[0] ** 0.5,
            "bias": jnp.zeros(shape[1]),
        }
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def loss_of(params: Any) -> jax.Array:
    """Returns the mean squared error of the network."""
    hidden = _x
    for name in ("a", "b"):
        hidden = jnp.tanh(hidden @ params[name]["kernel"] + params[name]["bias"])
    return jnp.mean((hidden @ params["c"]["kernel"] + params["c"]["bias"] - _y) ** 2)


class Outcome(NamedTuple):
    """What came of one pair."""

    verdict: str  # "yes", or why not
    revived: int = 0  # removed weights that were not zero, over all updates
    stale: int = 0  # leaves of the optimizer's state that were not as `init` gives them
    sparsity: float = 0.0
    loss: tuple[float, float] = (0.0, 0.0)


def try_out(case: Case, method: jp.Method) -> Outcome:
    """Trains, and checks after each update."""
    why_not = case.why_not or (method.update.grow_criterion and case.why_no_regrowth)
    if why_not:
        return Outcome(f"no: {why_not}")
    inner = optax.with_extra_args_support(case.make())
    transform = jp.sparsify(inner, method, key=jax.random.key(3))
    params = initial()

    def check(params: Any, state: Any) -> tuple[jax.Array, jax.Array]:
        masks = jp.masks_of(state)
        revived = jax.tree.map(
            lambda leaf, mask: 0 if mask is None else jnp.sum(~mask & (leaf != 0)), params, masks
        )
        leaf_masks = masks_of_state(inner, state.inner, params, masks)
        state_leaves = jax.tree.leaves(state.inner)
        fresh_leaves = jax.tree.leaves(inner.init(params))
        stale_flags = [
            jnp.any(~mask & (state_leaf != fresh_leaf))
            for mask, state_leaf, fresh_leaf in zip(
                leaf_masks, state_leaves, fresh_leaves, strict=True
            )
            if mask is not None
        ]
        return sum(jax.tree.leaves(revived)), sum(
            is_stale.astype(int) for is_stale in stale_flags
        ) + jnp.zeros((), int)

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, state = transform.update(grads, state, params, **case.extra(loss, grads, params))
        params = optax.apply_updates(params, updates)
        return (params, state), (loss, *check(params, state))

    try:
        initial_carry = (params, transform.init(params))
        run_steps = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=STEPS))
        (params, state), (losses, revived, stale) = run_steps(initial_carry)
    except Exception as error:  # the table reports what an optimizer cannot do
        return Outcome(f"no: {type(error).__name__}: {str(error).splitlines()[0][:150]}")
    outcome = Outcome(
        "yes",
        int(revived.sum()),
        int(stale.sum()),
        float(jp.masks.sparsity(jp.masks_of(state))),
        (float(losses[0]), float(losses[-1])),
    )
    if outcome.revived or outcome.stale or abs(outcome.sparsity - 0.8) > 2e-3:
        return outcome._replace(verdict="no: an invariant is broken")
    if not jnp.isfinite(losses[-1]):
        return outcome._replace(verdict="no: the loss is not finite")
    return outcome


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/optimizers"))
    parser.add_argument(
        "--only", default="", help="part of a name; the other rows stay as they are"
    )
    arguments = parser.parse_args()
    stored_path = arguments.out.with_suffix(".json")
    stored_outcomes = (
        json.loads(stored_path.read_text()) if arguments.only and stored_path.exists() else {}
    )
    outcomes = {}
    for name, case in CASES.items():
        if arguments.only not in name:
            if name in stored_outcomes:
                outcomes[name] = {
                    method_name: Outcome(**outcome)
                    for method_name, outcome in stored_outcomes[name].items()
                }
        else:
            outcomes[name] = {
                method_name: try_out(case, method) for method_name, method in METHODS.items()
            }
            print(
                name,
                *(
                    f"{method_name}: {outcome.verdict}"
                    for method_name, outcome in outcomes[name].items()
                ),
                sep=" | ",
                flush=True,
            )
    lines = [
        "# Optimizers under `sparsify`",
        "",
        f"Generated by `python -m benchmarks.optimizers`: jax {jax.__version__}, "
        f"optax {optax.__version__}, Python {platform.python_version()}, {jax.default_backend()}. "
        f"{STEPS} updates each; after every update all removed weights are exactly 0.0 and the "
        "optimizer's state there is as `init` gives it.",
        "",
        "| optimizer | " + " | ".join(METHODS) + " | loss, first to last (gmp) |",
        "|---|" + "---|" * (len(METHODS) + 1),
    ]
    for name, row in outcomes.items():
        first_loss, last_loss = row["gmp"].loss
        verdicts = " | ".join(outcome.verdict for outcome in row.values())
        lines.append(f"| {name} | {verdicts} | {first_loss:.3f} to {last_loss:.3f} |")
    for method in METHODS:
        working_count = sum(row[method].verdict == "yes" for row in outcomes.values())
        lines.append(f"\n{method}: {working_count} of {len(outcomes)} work.")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    plain_outcomes = {
        optimizer: {method_name: outcome._asdict() for method_name, outcome in row.items()}
        for optimizer, row in outcomes.items()
    }
    stored_path.write_text(json.dumps(plain_outcomes, indent=1) + "\n")


if __name__ == "__main__":
    main()
