"""A small function in a folder of its own: parameters, plan and program, without the model's code."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import masks as masks_lib
from jaxprune.structured.comparison import relative_error
from jaxprune.structured.plan import Plan
from jaxprune.structured.shrink import Small

__all__ = ["Loaded", "load", "save"]

_PARAMS, _PLAN, _PROGRAM, _ABOUT = "params", "plan.json", "program.stablehlo", "about.json"
_ROUNDING = 1e4  # in units of the last place: what another order of sums may change


class Loaded(NamedTuple):
    """A function that was read from a folder.

    Attributes:
      params: arrays by path.
      apply: (params, *inputs) -> outputs; it can be jitted and differentiated once.
      plan: by which the parameters were cut.
    """

    params: dict[str, jax.Array]
    apply: Callable[..., Any]
    plan: Plan


def save(
    folder: Path | str,
    small: Small,
    *inputs: Any,
    batched: bool = True,
    platforms: Sequence[str] | None = None,
) -> None:
    """Writes a small function: parameters by Orbax, the plan as JSON, the program as StableHLO.

    What is read again by `load` needs neither the model's code nor jaxprune's tracer, and trains on. It is
    compared with the small function once, on these inputs, and refused if it is another function.

    Args:
      folder: made by this call; one that exists is refused.
      small: the function.
      *inputs: trees of arrays that the program takes; of shapes, and numbers are drawn to compare with.
      batched: the inputs' and outputs' first axis counts examples, which do not see each other: the program
        then takes any number of them.
      platforms: where it is to run, `"cpu"`, `"cuda"`, `"rocm"`, `"tpu"`; `None`: what runs here.

    Raises:
      ValueError: if what is written gives something else than the small function.
      FileExistsError: if the folder exists.
      ImportError: if flatbuffers is not installed (`pip install 'jaxprune[export]'`).
    """
    try:
        import flatbuffers  # noqa: F401
    except ImportError as e:
        raise ImportError(
            "structured.save: writing a program needs flatbuffers; pip install 'jaxprune[export]'."
        ) from e
    from orbax.checkpoint import StandardCheckpointer

    folder = Path(folder).absolute()
    if folder.exists():
        raise FileExistsError(f"structured.save: {folder} exists; name a new folder.")
    paths, treedef = masks_lib.paths(small.params), jax.tree.structure(small.params)
    flat = dict(zip(paths, jax.tree.leaves(small.params), strict=True))

    def run(params: dict[str, jax.Array], *xs: Any) -> Any:
        return small.apply(treedef.unflatten([params[path] for path in paths]), *xs)

    exported = _program(run, flat, inputs, batched, platforms)
    program = exported.serialize(vjp_order=1)
    if jax.default_backend() in exported.platforms:
        _compare(program, run, flat, inputs, batched)
    folder.mkdir(parents=True)
    (folder / _PROGRAM).write_bytes(program)
    small.plan.save(folder / _PLAN)
    with StandardCheckpointer() as checkpointer:
        full = {str(i): x for i, x in enumerate(flat.values()) if x.size}  # Orbax refuses others
        checkpointer.save(folder / _PARAMS, full)
    empty = {str(i): [x.shape, str(x.dtype)] for i, x in enumerate(flat.values()) if not x.size}
    about = {"paths": paths, "empty": empty, "platforms": list(exported.platforms)}
    (folder / _ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
    _check_arrays(folder, flat)


def load(folder: Path | str) -> Loaded:
    """Reads what `save` wrote.

    Raises:
      FileNotFoundError: if something is missing there.
    """
    from jax import export
    from orbax.checkpoint import StandardCheckpointer

    folder = Path(folder).absolute()
    missing = [name for name in (_ABOUT, _PLAN, _PROGRAM, _PARAMS) if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"structured.load: {folder} has no {missing[0]}; it was not saved to its end."
        )
    about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    with StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(folder / _PARAMS)
    found |= {i: jnp.zeros(shape, dtype) for i, (shape, dtype) in about["empty"].items()}
    params = {path: jnp.asarray(found[str(i)]) for i, path in enumerate(about["paths"])}
    program = export.deserialize(bytearray((folder / _PROGRAM).read_bytes()))
    return Loaded(params, program.call, Plan.load(folder / _PLAN))


def _compare(program: bytes, run: Any, params: Any, inputs: Any, batched: bool) -> None:
    """Refuses a program that gives something else than the function that it was made of."""
    from jax import export

    given = jax.tree.map(_drawn, inputs)
    if batched:
        given = _two_at_least(given)
    theirs = jax.jit(run)(params, *given)
    try:
        ours = export.deserialize(bytearray(program)).call(params, *given)
    except ValueError as e:
        raise ValueError(f"structured.save: the program cannot be read again: {e}") from e
    error = relative_error(ours, theirs)
    floating = [x.dtype for x in jax.tree.leaves(theirs) if jnp.issubdtype(x.dtype, jnp.inexact)]
    rounding = max((_ROUNDING * float(jnp.finfo(d).eps) for d in floating), default=0.0)
    if error <= min(max(rounding, 1e-6), 0.05):
        return
    if not batched or error == float("inf"):
        raise ValueError(
            f"structured.save: the program differs from the small function by {error:.1e} of its largest "
            "output (infinite: there is NaN); give inputs for which the function is defined."
        )
    raise ValueError(
        "structured.save: taken for examples along the first axis of each input, one at a time, the inputs "
        f"give something else (by {error:.1e} of the largest output), as the first axis counts no examples, "
        "or these see each other; say batched=False, and the program takes these shapes alone."
    )


def _drawn(x: Any) -> Any:
    """An array, or one drawn in place of a shape."""
    if not isinstance(x, jax.ShapeDtypeStruct):
        return jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), x.shape)
    found = np.random.default_rng(0).normal(size=x.shape)
    return jnp.asarray(found if jnp.issubdtype(x.dtype, jnp.inexact) else found > 0).astype(x.dtype)


def _two_at_least(inputs: Any) -> Any:
    """Inputs of two examples at least: one alone cannot see another."""
    if any(x.shape[0] != 1 for x in jax.tree.leaves(inputs)):
        return inputs

    def other(x: Any) -> Any:
        return jnp.flip(x, -1) * 0.5 + 1 if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(lambda x: jnp.concatenate([x, other(x).astype(x.dtype)]), inputs)


def _check_arrays(folder: Path, params: dict[str, jax.Array]) -> None:
    """Refuses a folder whose arrays are not those that were written."""
    found = load(folder).params
    for path, x in params.items():
        y = found[path]
        same = y.dtype == x.dtype and y.shape == x.shape
        if not (same and np.asarray(_bits(y)).tobytes() == np.asarray(_bits(x)).tobytes()):
            shutil.rmtree(folder)
            raise ValueError(
                f"structured.save: {path!r} ({x.dtype}{list(x.shape)}) is not read as it was written "
                f"({y.dtype}{list(y.shape)}); keep it out of the parameters, or in another type."
            )


def _bits(x: Any) -> Any:
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def _program(run: Any, params: Any, inputs: Any, batched: bool, platforms: Any) -> Any:
    from jax import export

    shape = lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))
    given = jax.tree.map(shape, inputs)
    if batched:
        outputs = jax.eval_shape(run, jax.tree.map(shape, params), *given)
        if any(not x.shape for x in jax.tree.leaves((given, outputs))):
            raise ValueError(
                "structured.save: an input or output without axes has no examples; say batched=False, and "
                "the program takes these shapes alone."
            )
        if len({x.shape[0] for x in jax.tree.leaves(given)}) > 1:
            sizes = ", ".join(str(x.shape) for x in jax.tree.leaves(given))
            raise ValueError(
                f"structured.save: inputs of the shapes {sizes} have not the same number of examples along "
                "their first axes; say batched=False, and the program takes these shapes alone."
            )
        given = _any_number(given, export.symbolic_shape("examples")[0])
        whole, first = run, lambda tree: jax.tree.map(lambda y: y[0], tree)
        one = lambda p, *xs: first(whole(p, *jax.tree.map(lambda x: x[None], xs)))
        run = lambda p, *xs: jax.vmap(lambda *own: one(p, *own))(*xs)
    return export.export(jax.jit(run), platforms=platforms)(jax.tree.map(shape, params), *given)


def _any_number(inputs: Any, examples: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((examples, *x.shape[1:]), x.dtype), inputs)
