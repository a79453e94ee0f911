"""Saves a small function in a folder: parameters, plan and program, without the model's code.

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

from jaxprune import checks, extras
from jaxprune import masks as masks_lib
from jaxprune.storage import array_files, sealed
from jaxprune.storage.durable import sync_folder, sync_tree, unused_path
from jaxprune.structured.shrinking.comparison import relative_error
from jaxprune.structured.shrinking.plan import Plan
from jaxprune.structured.shrinking.shrink import Small

__all__ = ["LoadedModel", "load", "save"]

_PARAMS = "params.npz"
_PLAN = "plan.json"
_PROGRAM = "program.stablehlo"
_MANIFEST = "manifest.json"
_KIND = "jaxprune small function"
_KIND_OF_PARAMS = "jaxprune parameters"
_VERSION = 2  # 1 had no checksums
_COMMUNICATION = re.compile(r"\bstablehlo\.(infeed|outfeed|send|recv)\b")
_ROUNDING = 1e4  # in machine epsilons: what another order of sums may change


class LoadedModel(NamedTuple):
    """A small function that was read from a folder.

    Attributes:
      params: path -> array.
      apply: (params, *inputs) -> outputs; it can be jitted and differentiated once.
      plan: which indices of the whole parameters these are.
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

    The function that `load` reads needs neither the model's code nor jaxprune's tracer, and can be trained.
    The written program is compared with the small function once, on these inputs, and refused if its outputs
    differ. A manifest has the checksums of all files and arrays; the folder appears whole or not at all.

    Args:
      folder: made by this call; one that exists is refused.
      small: the function.
      *inputs: trees of arrays that the program takes; or of shapes, and then random numbers are used to
        compare.
      batched: whether the first axis of inputs and outputs counts examples that do not see each other; the
        program then takes any number of them.
      platforms: where the program shall run, `"cpu"`, `"cuda"`, `"rocm"`, `"tpu"`; `None`: the platform of
        this process.

    Raises:
      ValueError: if the program that was written gives something else than the small function.
      FileExistsError: if the folder exists.
      ImportError: if flatbuffers is not installed (`pip install -e '.[export]'`).
    """
    extras.require("flatbuffers", extra="export", needed_by="structured.save")
    folder = Path(folder).absolute()
    if folder.exists():
        raise FileExistsError(f"structured.save: {folder} exists; name a new folder.")
    paths = masks_lib.paths(small.params)
    treedef = jax.tree.structure(small.params)
    params_by_path = dict(zip(paths, jax.tree.leaves(small.params), strict=True))

    def run(params: dict[str, jax.Array], *inputs: Any) -> Any:
        return small.apply(treedef.unflatten([params[path] for path in paths]), *inputs)

    exported = _export(run, params_by_path, inputs, batched, platforms)
    program = exported.serialize(vjp_order=1)
    if jax.default_backend() in exported.platforms:
        _compare(program, run, params_by_path, inputs, batched)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial_folder = unused_path(folder)
    partial_folder.mkdir()
    try:
        (partial_folder / _PROGRAM).write_bytes(program)
        small.plan.save(partial_folder / _PLAN)
        _write_params(partial_folder / _PARAMS, params_by_path)
        content = {
            "files": sealed.checksums_of_folder(partial_folder),
            "platforms": list(exported.platforms),
        }
        (partial_folder / _MANIFEST).write_bytes(sealed.manifest(_KIND, _VERSION, content))
        _check_arrays(partial_folder, params_by_path)
        sync_tree(partial_folder)
        partial_folder.rename(folder)
    except BaseException:
        shutil.rmtree(partial_folder, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def load(folder: Path | str, *, trusted: bool = False) -> LoadedModel:
    """Reads a small function that `save` wrote.

    `LoadedModel.apply` runs the program in the folder, so treat a folder from a stranger like code from a
    stranger. `load` itself runs nothing of it.

    Args:
      folder: that `save` made.
      trusted: whether the program may call what `jax.export` does not guarantee, such as functions of the
        host and kernels of other libraries, which may do anything.

    Returns:
      The function, its parameters and its plan.

    Raises:
      FileNotFoundError: if something is missing there.
      ValueError: if a file was changed or is of another version (folders of version 1 had no checksums: save
        them again), or the program makes a call that is not allowed.
    """
    from jax import export

    checks.check("structured.load", trusted=(trusted, checks.BOOLEAN))
    folder = Path(folder).absolute()
    names = (_PARAMS, _PLAN, _PROGRAM)
    missing = [name for name in (*names, _MANIFEST) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"structured.load: {folder} has no {missing[0]}; it was not saved to its end, or by an older "
            "jaxprune, whose folders had no checksums: save it again."
        )
    try:
        content = sealed.read_manifest(sealed.read_bounded(folder / _MANIFEST), _KIND, _VERSION)
        sealed.check_files(folder, content.get("files"), allowed=names)
        plan = Plan.load(folder / _PLAN)
        params = _read_params(folder / _PARAMS)
    except (sealed.DamagedError, OSError, TypeError) as error:
        raise ValueError(
            f"structured.load: {folder} is damaged: {error}; save it again, or get another copy."
        ) from error
    try:
        program = export.deserialize(bytearray((folder / _PROGRAM).read_bytes()))
        mismatch = _find_mismatch(program, params)
        offence = "" if trusted else _find_offence(program)
    except Exception as error:  # whatever the readers make of a file of others
        raise ValueError(
            f"structured.load: the program in {folder} cannot be read ({_first_line(error)}); save it again."
        ) from error
    if mismatch:
        raise ValueError(
            f"structured.load: {folder} is damaged: its program {mismatch}; save it again, or get another "
            "copy."
        )
    if offence:
        raise ValueError(
            f"structured.load: the program in {folder} {offence}, which may do anything in this process; if "
            "you trust whoever made it as you would trust their code, give trusted=True."
        )
    return LoadedModel(params, program.call, plan)


def _find_mismatch(program: Any, params: dict[str, jax.Array]) -> str:
    """Returns how parameters that a program takes differ from those stored, in words; "" if they do not."""
    args, kwargs = jax.tree.unflatten(program.in_tree, program.in_avals)
    if kwargs or not args or not isinstance(args[0], dict):
        return "takes no parameters"
    taken = {path: (aval.shape, aval.dtype) for path, aval in args[0].items()}
    given = {path: (leaf.shape, leaf.dtype) for path, leaf in params.items()}
    for path in sorted(taken | given):
        if taken.get(path) != given.get(path):
            return f"takes other parameters: {path!r} is missing, or of another shape or type"
    return ""


def _find_offence(program: Any) -> str:
    """Returns what a program, or a derivative of it, does besides computing, in words; "" if nothing.

    To export the call of a program is to lower it, and then `jax.export` goes through all of its operations.
    Nothing is run.
    """
    from jax import export

    derivatives = [program]  # of order 0, 1, ...
    while derivatives[-1].has_vjp():
        derivatives.append(derivatives[-1].vjp())
    for derivative in derivatives:
        if operation := _COMMUNICATION.search(derivative.mlir_module()):
            return f"has the operation {operation[0]}"
        shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in derivative.in_avals]
        args, kwargs = jax.tree.unflatten(derivative.in_tree, shapes)
        try:
            call = jax.jit(derivative.call)
            export.export(call, platforms=derivative.platforms)(*args, **kwargs)
        except ValueError as error:
            if "custom call" not in str(error):
                raise
            names = sorted(set(re.findall(r'custom_call @("[^"]*"|[\w.$-]+)', str(error))))
            return f"calls {', '.join(names) or 'something'}, which jax.export does not guarantee"
    return ""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")


def _write_params(path: Path, params: dict[str, jax.Array]) -> None:
    """Writes arrays under their indices, since paths may be any text."""
    array_files.write(
        path,
        {str(index): np.asarray(_bits(leaf)) for index, leaf in enumerate(params.values())},
        kind=_KIND_OF_PARAMS,
        version=_VERSION,
        about={"leaves": [[leaf_path, _key_kind(leaf)] for leaf_path, leaf in params.items()]},
    )


def _read_params(path: Path) -> dict[str, jax.Array]:
    stored = array_files.read(path, kind=_KIND_OF_PARAMS, version=_VERSION)
    content = stored.about.get("leaves")
    leaves: list[Any] = content if isinstance(content, list) else []
    are_pairs = all(
        isinstance(leaf, list) and len(leaf) == 2 and all(isinstance(text, str) for text in leaf)
        for leaf in leaves
    )
    are_those = (
        are_pairs
        and len({leaf_path for leaf_path, _ in leaves}) == len(leaves)
        and set(stored.arrays) == {str(index) for index in range(len(leaves))}
    )
    if not are_those:
        raise sealed.DamagedError(f"the arrays in {path.name} are not those of its leaves")
    params = {}
    for index, (leaf_path, key_kind) in enumerate(leaves):
        array = stored.arrays[str(index)]
        try:
            leaf = jnp.asarray(array)
        except TypeError as error:
            raise sealed.DamagedError(
                f"{leaf_path!r} is {array.dtype}, no type of numbers that JAX has"
            ) from error
        if leaf.dtype != array.dtype:
            raise ValueError(
                f"structured.load: {leaf_path!r} is {array.dtype}, and JAX makes {leaf.dtype} of it; set "
                "jax_enable_x64 first."
            )
        params[leaf_path] = _wrapped_key(leaf_path, leaf, key_kind) if key_kind else leaf
    return params


def _wrapped_key(leaf_path: str, leaf: jax.Array, key_kind: str) -> jax.Array:
    try:
        return jax.random.wrap_key_data(leaf, impl=key_kind)
    except (TypeError, ValueError) as error:
        raise sealed.DamagedError(
            f"{leaf_path!r} is said to hold PRNG keys of {key_kind!r}, and does not"
        ) from error


def _key_kind(x: Any) -> str:
    """Returns the implementation of a typed PRNG key; "" for arrays."""
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return str(jax.random.key_impl(x)) if is_key else ""


def _compare(program: bytes, run: Any, params: Any, inputs: Any, batched: bool) -> None:
    """Raises if a program gives something else than the function that it was made of."""
    from jax import export

    arrays = jax.tree.map(_to_array, inputs)
    if batched:
        arrays = _two_examples_at_least(arrays)
    expected = jax.jit(run)(params, *arrays)
    try:
        outputs = export.deserialize(bytearray(program)).call(params, *arrays)
    except ValueError as e:
        raise ValueError(f"structured.save: the program cannot be read again: {e}") from e
    error = relative_error(outputs, expected)
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(expected)]
    epsilons = [float(jnp.finfo(d).eps) for d in dtypes if jnp.issubdtype(d, jnp.inexact)]
    rounding = max((_ROUNDING * epsilon for epsilon in epsilons), default=0.0)
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


def _to_array(x: Any) -> Any:
    """Returns an array, or random numbers in place of a shape."""
    if not isinstance(x, jax.ShapeDtypeStruct):
        return jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), x.shape)
    normal = np.random.default_rng(0).normal(size=x.shape)
    numbers = normal if jnp.issubdtype(x.dtype, jnp.inexact) else normal > 0
    return jnp.asarray(numbers).astype(x.dtype)


def _two_examples_at_least(inputs: Any) -> Any:
    """Returns inputs of two examples or more: one alone cannot see another."""
    if any(x.shape[0] != 1 for x in jax.tree.leaves(inputs)):
        return inputs

    def other(x: Any) -> Any:
        return jnp.flip(x, -1) * 0.5 + 1 if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(lambda x: jnp.concatenate([x, other(x).astype(x.dtype)]), inputs)


def _check_arrays(folder: Path, params: dict[str, jax.Array]) -> None:
    """Raises if the arrays of a folder are not those that were written."""
    loaded_params = load(folder, trusted=True).params
    for path, written in params.items():
        read = loaded_params[path]
        is_alike = read.dtype == written.dtype and read.shape == written.shape
        if not (is_alike and _bytes_of(read) == _bytes_of(written)):
            raise ValueError(
                f"structured.save: {path!r} ({written.dtype}{list(written.shape)}) is not read as it was "
                f"written ({read.dtype}{list(read.shape)}); keep it out of the parameters, or in another "
                "type."
            )


def _bits(x: Any) -> Any:
    """Returns an array as it is stored: of PRNG keys, their data."""
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def _bytes_of(x: Any) -> bytes:
    return np.asarray(_bits(x)).tobytes()


def _shape_of(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))


def _export(run: Any, params: Any, inputs: Any, batched: bool, platforms: Any) -> Any:
    """Returns a function's program, for any number of examples if it is batched."""
    from jax import export

    param_shapes = jax.tree.map(_shape_of, params)
    input_shapes = jax.tree.map(_shape_of, inputs)
    if batched:
        output_shapes = jax.eval_shape(run, param_shapes, *input_shapes)
        if any(not x.shape for x in jax.tree.leaves((input_shapes, output_shapes))):
            raise ValueError(
                "structured.save: an input or output without axes has no examples; say batched=False, and "
                "the program takes these shapes alone."
            )
        if len({x.shape[0] for x in jax.tree.leaves(input_shapes)}) > 1:
            shapes = ", ".join(str(x.shape) for x in jax.tree.leaves(input_shapes))
            raise ValueError(
                f"structured.save: inputs of the shapes {shapes} have not the same number of examples along "
                "their first axes; say batched=False, and the program takes these shapes alone."
            )
        input_shapes = _with_first_size(input_shapes, export.symbolic_shape("examples")[0])
    function = jax.jit(_example_by_example(run) if batched else run)
    return export.export(function, platforms=platforms)(param_shapes, *input_shapes)


def _with_first_size(shapes: Any, size: Any) -> Any:
    """Returns shapes with another number of examples, which may be symbolic."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), shapes)


def _example_by_example(run: Callable[..., Any]) -> Callable[..., Any]:
    """Returns (params, *inputs) -> outputs of a function that sees one example at a time."""

    def run_one(params: Any, *example: Any) -> Any:
        outputs = run(params, *jax.tree.map(lambda x: x[None], example))
        return jax.tree.map(lambda x: x[0], outputs)

    def run_all(params: Any, *inputs: Any) -> Any:
        return jax.vmap(lambda *example: run_one(params, *example))(*inputs)

    return run_all
