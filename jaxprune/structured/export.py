"""A small function in a folder of its own: parameters, plan and program, without the model's code."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import masks as masks_lib
from jaxprune.structured.plan import Plan
from jaxprune.structured.shrink import Small

__all__ = ["Loaded", "load", "save"]

_PARAMS, _PLAN, _PROGRAM, _ABOUT = "params", "plan.json", "program.stablehlo", "about.json"


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

    What is read again by `load` needs neither the model's code nor jaxprune's tracer, and trains on.

    Args:
      folder: made by this call; one that exists is refused.
      small: the function.
      *inputs: trees of arrays or shapes that the program takes.
      batched: the inputs' and outputs' first axis counts examples, which do not see each other: the program
        then takes any number of them.
      platforms: where it is to run, `"cpu"`, `"cuda"`, `"rocm"`, `"tpu"`; `None`: what runs here.

    Raises:
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
    folder.mkdir(parents=True)
    (folder / _PROGRAM).write_bytes(exported.serialize(vjp_order=1))
    small.plan.save(folder / _PLAN)
    with StandardCheckpointer() as checkpointer:
        full = {str(i): x for i, x in enumerate(flat.values()) if x.size}  # Orbax refuses others
        checkpointer.save(folder / _PARAMS, full)
    empty = {str(i): [x.shape, str(x.dtype)] for i, x in enumerate(flat.values()) if not x.size}
    about = {"paths": paths, "empty": empty, "platforms": list(exported.platforms)}
    (folder / _ABOUT).write_text(json.dumps(about, indent=1))


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
    about = json.loads((folder / _ABOUT).read_text())
    with StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(folder / _PARAMS)
    found |= {i: jnp.zeros(shape, dtype) for i, (shape, dtype) in about["empty"].items()}
    params = {path: jnp.asarray(found[str(i)]) for i, path in enumerate(about["paths"])}
    program = export.deserialize(bytearray((folder / _PROGRAM).read_bytes()))
    return Loaded(params, program.call, Plan.load(folder / _PLAN))


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
        given = _any_number(given, export.symbolic_shape("examples")[0])
        whole, first = run, lambda tree: jax.tree.map(lambda y: y[0], tree)
        one = lambda p, *xs: first(whole(p, *jax.tree.map(lambda x: x[None], xs)))
        run = lambda p, *xs: jax.vmap(lambda *own: one(p, *own))(*xs)
    return export.export(jax.jit(run), platforms=platforms)(jax.tree.map(shape, params), *given)


def _any_number(inputs: Any, examples: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((examples, *x.shape[1:]), x.dtype), inputs)
