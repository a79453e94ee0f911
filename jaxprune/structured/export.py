"""A small function in a folder of its own: parameters, plan and program, without the model's code.

A folder holds `program.stablehlo`, a program that will be run: it is code, and a stranger's is a stranger's
code. StableHLO itself computes; what could do more is a call of something that is registered in this process.
`load` refuses calls that `jax.export` does not guarantee, unless the folder is said to be trusted.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import array_files, sealed
from jaxprune import masks as masks_lib
from jaxprune.durable import sync_folder, sync_tree, unused_path
from jaxprune.structured.comparison import relative_error
from jaxprune.structured.plan import Plan
from jaxprune.structured.shrink import Small

__all__ = ["Loaded", "load", "save"]

_PARAMS = "params.npz"
_PLAN = "plan.json"
_PROGRAM = "program.stablehlo"
_MANIFEST = "manifest.json"
_KIND = "jaxprune small function"
_KIND_OF_PARAMS = "jaxprune parameters"
_VERSION = 2  # 1 had no checksums
_TALKS = re.compile(r"\bstablehlo\.(infeed|outfeed|send|recv)\b")
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
    """Writes a small function: parameters as an `.npz`, the plan as JSON, the program as StableHLO.

    What is read again by `load` needs neither the model's code nor jaxprune's tracer, and trains on. It is
    compared with the small function once, on these inputs, and refused if it is another function. A manifest
    has the checksums of all files and arrays; the folder appears whole or not at all.

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
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = unused_path(folder)
    partial.mkdir()
    try:
        (partial / _PROGRAM).write_bytes(program)
        small.plan.save(partial / _PLAN)
        _write_params(partial / _PARAMS, flat)
        told = {"files": sealed.checksums_of_folder(partial), "platforms": list(exported.platforms)}
        (partial / _MANIFEST).write_bytes(sealed.manifest(_KIND, _VERSION, told))
        _check_arrays(partial, flat)
        sync_tree(partial)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def load(folder: Path | str, *, trusted: bool = False) -> Loaded:
    """Reads what `save` wrote.

    The program in the folder will be run by `Loaded.apply`: take folders from strangers as you would take
    their code. Nothing of it is run here.

    Args:
      folder: of `save`.
      trusted: whether the program may call what `jax.export` does not guarantee, such as functions of the
        host and kernels of other libraries, which may do anything.

    Raises:
      FileNotFoundError: if something is missing there.
      ValueError: if something was changed, is of another version (the folders of version 1 had no checksums:
        save them again), or the program calls what it may not.
    """
    from jax import export

    folder = Path(folder).absolute()
    names = (_PARAMS, _PLAN, _PROGRAM)
    missing = [name for name in (*names, _MANIFEST) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"structured.load: {folder} has no {missing[0]}; it was not saved to its end, or by an older "
            "jaxprune, whose folders had no checksums: save it again."
        )
    try:
        told = sealed.read_manifest((folder / _MANIFEST).read_bytes(), _KIND, _VERSION)
        sealed.check_files(folder, told.get("files"), allowed=names)
        plan = Plan.load(folder / _PLAN)
        params = _read_params(folder / _PARAMS)
    except (sealed.DamagedError, OSError, TypeError) as error:
        raise ValueError(
            f"structured.load: {folder} is damaged: {error}; save it again, or get another copy."
        ) from error
    try:
        program = export.deserialize(bytearray((folder / _PROGRAM).read_bytes()))
        said = "" if trusted else _forbidden(program)
    except Exception as error:  # whatever the readers make of a file of others
        raise ValueError(
            f"structured.load: the program in {folder} cannot be read ({_first_line(error)}); save it again."
        ) from error
    if said:
        raise ValueError(
            f"structured.load: the program in {folder} {said}, which may do anything in this process; if you "
            "trust whoever made it as you would trust their code, give trusted=True."
        )
    return Loaded(params, program.call, plan)


def _forbidden(program: Any) -> str:
    """What a program does that is not computing, or "": `jax.export`'s own check finds it, and runs nothing.

    To export the call of a program is to lower it, and then `jax.export` goes through all of its operations.
    """
    from jax import export

    orders = [program]
    while orders[-1].has_vjp():
        orders.append(orders[-1].vjp())
    for order in orders:
        if found := _TALKS.search(order.mlir_module()):
            return f"has the operation {found[0]}"
        given = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in order.in_avals]
        args, kwargs = jax.tree.unflatten(order.in_tree, given)
        try:
            export.export(jax.jit(order.call), platforms=order.platforms)(*args, **kwargs)
        except ValueError as error:
            if "custom call" not in str(error):
                raise
            names = sorted(set(re.findall(r'custom_call @("[^"]*"|[\w.$-]+)', str(error))))
            return f"calls {', '.join(names) or 'something'}, which jax.export does not guarantee"
    return ""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")


def _write_params(path: Path, params: dict[str, jax.Array]) -> None:
    """Writes arrays by number, since paths may be any text."""
    array_files.write(
        path,
        {str(i): np.asarray(_bits(x)) for i, x in enumerate(params.values())},
        kind=_KIND_OF_PARAMS,
        version=_VERSION,
        about={"leaves": [[path, _kind(x)] for path, x in params.items()]},
    )


def _read_params(path: Path) -> dict[str, jax.Array]:
    stored = array_files.read(path, kind=_KIND_OF_PARAMS, version=_VERSION)
    told = stored.about.get("leaves")
    leaves: list[Any] = told if isinstance(told, list) else []
    pairs = all(
        isinstance(leaf, list) and len(leaf) == 2 and all(isinstance(text, str) for text in leaf)
        for leaf in leaves
    )
    if not pairs or set(stored.arrays) != {str(i) for i in range(len(leaves))}:
        raise sealed.DamagedError(f"the arrays in {path.name} are not those of its leaves")
    params = {}
    for i, (name, kind) in enumerate(leaves):
        array = stored.arrays[str(i)]
        found = jnp.asarray(array)
        if found.dtype != array.dtype:
            raise ValueError(
                f"structured.load: {name!r} is {array.dtype}, and JAX makes {found.dtype} of it; set "
                "jax_enable_x64 first."
            )
        params[name] = jax.random.wrap_key_data(found, impl=kind) if kind else found
    return params


def _kind(x: Any) -> str:
    """The implementation of a typed PRNG key; "" for arrays."""
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return str(jax.random.key_impl(x)) if is_key else ""


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
    found = load(folder, trusted=True).params
    for path, x in params.items():
        y = found[path]
        same = y.dtype == x.dtype and y.shape == x.shape
        if not (same and np.asarray(_bits(y)).tobytes() == np.asarray(_bits(x)).tobytes()):
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
