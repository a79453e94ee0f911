"""Remainders of what only arranges, cuts, joins, looks up or draws."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune import programs
from jaxprune.structured.remainders.values import (
    EVERYWHERE,
    Lost,
    Places,
    Region,
    Value,
    evaluated,
    is_number,
    is_zero,
    regions_of,
    spread,
)
from jaxprune.structured.rules import Step
from jaxprune.structured.rules.rule import again

__all__ = ["ARRANGEMENTS"]

_Remainders = dict[Region, Any]
Arrangement = Callable[[Any, Sequence[Value], Step, Places], list[_Remainders]]


def _moved(
    value: Value, step: Step, places: Places, source: Sequence[int | None], change: Any
) -> _Remainders:
    """Remainders of an output whose axes are axes of one input, or new.

    Args:
      value: the input.
      step: the equation as it was followed.
      places: which are left.
      source: of each axis of the output, the axis of the input; `None`: what is there is the same along it.
      change: an array of contents -> one of the output's rank, with 1 along new axes.
    """
    found: _Remainders = {}
    for region in [EVERYWHERE, *regions_of(places.cut(step.outputs[0]))]:
        content = value.at(frozenset(source[i] for i in region if source[i] is not None))  # type: ignore[misc]
        if (content is value.array and not region) or (region and is_zero(content)):
            continue
        told = is_number(content) or isinstance(content, Lost)
        found[region] = content if told else evaluated(change, content)
    return found


def _transpose(
    equation: Any, values: Sequence[Value], step: Step, places: Places
) -> list[_Remainders]:
    order = equation.params["permutation"]
    return [_moved(values[0], step, places, order, lambda x: lax.transpose(x, order))]


def _squeeze(
    equation: Any, values: Sequence[Value], step: Step, places: Places
) -> list[_Remainders]:
    gone = equation.params["dimensions"]
    source = [i for i in range(len(step.inputs[0])) if i not in gone]
    return [_moved(values[0], step, places, source, lambda x: lax.squeeze(x, gone))]


def _expand_dims(
    equation: Any, values: Sequence[Value], step: Step, places: Places
) -> list[_Remainders]:
    new, rest = equation.params["dimensions"], iter(range(len(step.inputs[0])))
    source = [None if i in new else next(rest) for i in range(len(step.outputs[0]))]
    return [_moved(values[0], step, places, source, lambda x: lax.expand_dims(x, new))]


def _broadcast(
    equation: Any, values: Sequence[Value], step: Step, places: Places
) -> list[_Remainders]:
    where, out = equation.params["broadcast_dimensions"], step.outputs[0]
    source: list[int | None] = [None] * len(out)
    for i, at in enumerate(where):
        source[at] = i if len(step.inputs[0][i]) == len(out[at]) else None

    def change(x: Any) -> Any:
        shape = [1] * len(out)
        for i, at in enumerate(where):
            shape[at] = x.shape[i]
        return x.reshape(shape)

    return [_moved(values[0], step, places, source, change)]


def _rev(equation: Any, values: Sequence[Value], step: Step, places: Places) -> list[_Remainders]:
    turned = equation.params["dimensions"]
    source = list(range(len(step.inputs[0])))
    return [_moved(values[0], step, places, source, lambda x: lax.rev(x, turned))]


def _blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Axes of two shapes that belong together, the fewest that have as many entries; none of length 1.

    >>> _blocks([2, 12, 5], [2, 3, 4, 1, 5])
    [([0], [0]), ([1], [1, 2]), ([2], [4])]
    """
    entering = [i for i, n in enumerate(before) if n > 1]
    leaving = [i for i, n in enumerate(after) if n > 1]
    found = []
    while entering:
        own, others = [entering.pop(0)], [leaving.pop(0)]
        while (a := math.prod(before[i] for i in own)) != (
            b := math.prod(after[i] for i in others)
        ):
            (own if a < b else others).append((entering if a < b else leaving).pop(0))
        found.append((own, others))
    return found


def _reshape(
    equation: Any, values: Sequence[Value], step: Step, places: Places
) -> list[_Remainders]:
    value, axes, out = values[0], step.inputs[0], step.outputs[0]
    before, after = [len(a) for a in axes], [len(a) for a in out]
    cut_before, cut_after = places.cut(axes), places.cut(out)
    found: _Remainders = {}
    if EVERYWHERE in value.remainders:
        found[EVERYWHERE] = value.remainders[EVERYWHERE]
    if not cut_after or 0 in before:
        return [found]
    blocks = _blocks(before, after)
    for region in regions_of(cut_after):
        choices: list[list[Region]] = []  # of each block, the regions that end up there
        for own, others in blocks:
            if region & frozenset(others):
                choices.append(list(regions_of(cut_before & frozenset(own))))
            else:
                choices.append([EVERYWHERE])
        sources = [EVERYWHERE]
        for options in choices:
            sources = [a | b for a in sources for b in options]
        contents = [value.at(source) for source in sources]
        first = contents[0]
        if all(is_number(c) and c == first for c in contents):
            if not is_zero(first):
                found[region] = first
            continue
        lost = next((c for c in contents if isinstance(c, Lost)), None)
        one_to_one = all(
            len(cut_before & set(own)) == len(cut_after & set(others)) == 1
            for own, others in blocks
            if region & frozenset(others)
        )
        if lost is None and one_to_one:
            sizes = places.sizes(out, region)
            found[region] = _reshaped(first, sources[0], blocks, axes, sizes, places)
        else:
            found[region] = lost or Lost("a reshape mixes what removed units leave behind")
    return [found]


def _reshaped(
    content: Any,
    source: Region,
    blocks: Sequence[tuple[list[int], list[int]]],
    axes: Any,
    sizes: Sequence[int],
    places: Places,
) -> Any:
    full = places.sizes(axes, source)

    def change(x: Any) -> Any:
        wide, shape = list(x.shape), [1] * len(sizes)
        for own, others in blocks:
            if any(x.shape[i] > 1 for i in own):
                for i in own:
                    wide[i] = full[i]
                for i in others:
                    shape[i] = sizes[i]
        return jnp.broadcast_to(x, wide).reshape(shape)

    return evaluated(change, content)


def _iota(equation: Any, values: Sequence[Value], step: Step, places: Places) -> list[_Remainders]:
    p, out = equation.params, step.outputs[0]
    at, found = p["dimension"], {}
    for region in regions_of(places.cut(out)):
        alive = places.alive(out[at])
        index = np.flatnonzero(~alive if at in region else alive).astype(p["dtype"])
        found[region] = index.reshape([-1 if i == at else 1 for i in range(len(out))])
    return [found]


def _joined(contents: Sequence[Any], sizes: Sequence[Sequence[int]], at: int, dtype: Any) -> Any:
    """Contents beside each other along an axis, as one."""
    first = contents[0]
    for content in contents:
        if isinstance(content, Lost):
            return content
    if all(is_number(c) and c == first for c in contents):
        return first
    rank = len(sizes[0])
    wide = [
        max([1, *(c.shape[i] for c in contents if not is_number(c))]) if i != at else None
        for i in range(rank)
    ]

    def change(*arrays: Any) -> Any:
        parts = []
        for x, size in zip(arrays, sizes, strict=True):
            shape = [size[i] if n is None else n for i, n in enumerate(wide)]
            parts.append(spread(x, shape, rank, dtype))
        return lax.concatenate(parts, at)

    return evaluated(change, *contents)


def _concatenate(
    equation: Any, values: Sequence[Value], step: Step, places: Places
) -> list[_Remainders]:
    at, dtype = equation.params["dimension"], equation.outvars[0].aval.dtype
    found: _Remainders = {}
    if all(EVERYWHERE in value.remainders for value in values):
        numbers = [value.remainders[EVERYWHERE] for value in values]
        if all(n == numbers[0] for n in numbers):
            found[EVERYWHERE] = numbers[0]
    for region in regions_of(places.cut(step.outputs[0])):
        sizes = [places.sizes(axes, region) for axes in step.inputs]
        there = [i for i, size in enumerate(sizes) if size[at]]
        contents = [values[i].at(region & places.cut(step.inputs[i])) for i in there]
        content = _joined(contents, [sizes[i] for i in there], at, dtype)
        if not is_zero(content):
            found[region] = content
    return [found]


def _piece(
    value: Value, axes: Any, out: Any, places: Places, picks: Sequence[slice | None]
) -> _Remainders:
    """Remainders of a part of a value: a slice of the whole along some of its axes."""
    found: _Remainders = {}
    if EVERYWHERE in value.remainders:
        found[EVERYWHERE] = value.remainders[EVERYWHERE]
    for region in regions_of(places.cut(out)):
        content = value.at(region)
        if is_number(content) or isinstance(content, Lost):
            if not is_zero(content):
                found[region] = content
            continue
        index: list[Any] = []
        for i, pick in enumerate(picks):
            if pick is None or content.shape[i] == 1:
                index.append(slice(None))
                continue
            alive = places.alive(axes[i])
            there = ~alive if i in region else alive
            place = (np.cumsum(there) - 1)[pick][there[pick]]
            index.append(place)

        def change(x: Any, index: list[Any] = index) -> Any:
            for i, own in enumerate(index):
                if not isinstance(own, slice):
                    x = jnp.take(x, own, axis=i)
            return x

        found[region] = evaluated(change, content)
    return found


def _slice(equation: Any, values: Sequence[Value], step: Step, places: Places) -> list[_Remainders]:
    p, axes = equation.params, step.inputs[0]
    steps = p["strides"] or (1,) * len(axes)
    triples = zip(p["start_indices"], p["limit_indices"], steps, strict=True)
    picks = [slice(*triple) for triple in triples]
    return [_piece(values[0], axes, step.outputs[0], places, picks)]


def _split(equation: Any, values: Sequence[Value], step: Step, places: Places) -> list[_Remainders]:
    at, axes, start = equation.params["axis"], step.inputs[0], 0
    found = []
    for out, size in zip(step.outputs, equation.params["sizes"], strict=True):
        picks = [slice(start, start + size) if i == at else None for i in range(len(axes))]
        found.append(_piece(values[0], axes, out, places, picks))
        start += size
    return found


def _tile(equation: Any, values: Sequence[Value], step: Step, places: Places) -> list[_Remainders]:
    counts, axes = equation.params["reps"], step.inputs[0]
    grown = [len(axis) == 1 and n != 1 for axis, n in zip(axes, counts, strict=True)]
    source = [None if new else i for i, new in enumerate(grown)]
    change = lambda x: jnp.tile(
        x, [1 if n == 1 else count for n, count in zip(x.shape, counts, strict=True)]
    )
    return [_moved(values[0], step, places, source, change)]


def _stack(equation: Any, values: Sequence[Value], step: Step, places: Places) -> list[_Remainders]:
    at, dtype, found = equation.params["axis"], equation.outvars[0].aval.dtype, {}
    for region in [EVERYWHERE, *regions_of(places.cut(step.outputs[0]))]:
        own = frozenset(i - (i > at) for i in region)
        contents = [value.at(own) for value in values]
        if lost := [c for c in contents if isinstance(c, Lost)]:
            found[region] = lost[0]
        elif all(is_number(c) and c == contents[0] for c in contents):
            if not region or not is_zero(contents[0]):
                found[region] = contents[0]
        elif region:

            def change(*xs: Any) -> Any:
                rank = len(step.inputs[0])
                arrays = [spread(x, [None] * rank, rank, dtype) for x in xs]
                return jnp.stack(jnp.broadcast_arrays(*arrays), at)

            found[region] = evaluated(change, *contents)
    return [found]


def _unstack(
    equation: Any, values: Sequence[Value], step: Step, places: Places
) -> list[_Remainders]:
    at, found = equation.params["axis"], []
    for k in range(len(step.outputs)):
        out = step.outputs[k]
        source = [i for i in range(len(step.inputs[0])) if i != at]
        own = step._replace(outputs=[out])

        def change(x: Any, k: int = k) -> Any:
            return lax.index_in_dim(x, k if x.shape[at] > 1 else 0, at, keepdims=False)

        found.append(_moved(values[0], own, places, source, change))
    return found


def _pad(equation: Any, values: Sequence[Value], step: Step, places: Places) -> list[_Remainders]:
    value, fill = values
    out, dtype = step.outputs[0], equation.outvars[0].aval.dtype
    number = fill.at(EVERYWHERE)
    found: _Remainders = {}
    for region in [EVERYWHERE, *regions_of(places.cut(out))]:
        content = value.at(region & places.cut(step.inputs[0]))
        sizes = places.sizes(step.inputs[0], region)
        if 0 in sizes:  # what was removed is padding alone
            content = number
        if is_number(content) and is_number(number) and content == number:
            if not region or not is_zero(content):
                found[region] = content
        elif isinstance(content, Lost):
            found[region] = content
        elif region:
            ends = _ends(equation.params["padding_config"], out, region, places)

            def change(x: Any, fill: Any, sizes: Any = sizes, ends: Any = ends) -> Any:
                array = spread(x, sizes, len(sizes), dtype)
                return lax.pad(array, jnp.asarray(fill, dtype), ends)

            found[region] = evaluated(change, content, number)
    return [found]


def _ends(config: Any, out: Any, region: Region, places: Places) -> list[tuple[int, int, int]]:
    """How much padding a region has."""
    ends = []
    for i, (low, high, inside) in enumerate(config):
        alive = places.alive(out[i])
        there = ~alive if i in region else alive
        if inside or low < 0 or high < 0:  # an axis of which everything stays
            ends.append((low, high, inside))
        else:
            ends.append((int(there[:low].sum()), int(there[len(there) - high :].sum()), 0))
    return ends


def _gather(
    equation: Any, values: Sequence[Value], step: Step, places: Places
) -> list[_Remainders]:
    p, (operand, index) = equation.params, values
    numbers, axes, out = p["dimension_numbers"], step.inputs[0], step.outputs[0]
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept_axes = [i for i in range(len(axes)) if i not in gone]
    source = {
        at: i
        for i, at in zip(kept_axes, numbers.offset_dims, strict=True)
        if p["slice_sizes"][i] == len(axes[i])
    }
    rows = [j for j in range(len(out)) if j not in numbers.offset_dims]
    batch = zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    beside = {rows[j]: i for i, j in batch}  # each index of these has places of its own
    found: _Remainders = {}
    if EVERYWHERE in operand.remainders:
        found[EVERYWHERE] = operand.remainders[EVERYWHERE]
    for region in regions_of(places.cut(out)):
        if region <= source.keys() | beside.keys() and region & beside.keys():
            content = operand.at(frozenset({**source, **beside}[i] for i in region))
            if not is_zero(content):
                found[region] = content if is_number(content) else Lost("a lookup of removed units")
            continue
        if not region <= source.keys():
            numbers_there = [operand.at(r) for r in (EVERYWHERE, *regions_of(places.cut(axes)))]
            same = all(is_number(c) and c == numbers_there[0] for c in numbers_there)
            content = numbers_there[0] if same else Lost("removed units are places to look up")
            if not is_zero(content):
                found[region] = content
            continue
        content = operand.at(frozenset(source[i] for i in region))
        if is_number(content) or isinstance(content, Lost):
            if not is_zero(content):
                found[region] = content
            continue
        whole = [n if i in source.values() else len(axes[i]) for i, n in enumerate(content.shape)]

        def change(x: Any, at: Any, whole: Any = whole) -> Any:
            sizes = [
                n if i in source.values() else p["slice_sizes"][i] for i, n in enumerate(whole)
            ]
            return again(equation, [jnp.broadcast_to(x, whole), at], slice_sizes=tuple(sizes))[0]

        found[region] = evaluated(change, content, index.array)
    return [found]


def _dynamic_slice(
    equation: Any, values: Sequence[Value], step: Step, places: Places
) -> list[_Remainders]:
    value, starts = values[0], [v.array for v in values[1:]]
    sizes = equation.params["slice_sizes"]

    def change(x: Any, *starts: Any) -> Any:
        own = [
            n if n == 1 or len(axis) == size else size
            for n, axis, size in zip(x.shape, step.inputs[0], sizes, strict=True)
        ]
        return again(equation, [x, *starts], slice_sizes=tuple(own))[0]

    found: _Remainders = {}
    if EVERYWHERE in value.remainders:
        found[EVERYWHERE] = value.remainders[EVERYWHERE]
    for region in regions_of(places.cut(step.outputs[0])):
        content = value.at(region)
        if not is_zero(content):
            told = is_number(content) or isinstance(content, Lost)
            found[region] = content if told else evaluated(change, content, *starts)
    return [found]


def _dynamic_update_slice(
    equation: Any, values: Sequence[Value], step: Step, places: Places
) -> list[_Remainders]:
    operand, update, found = values[0], values[1], {}
    dtype = equation.outvars[0].aval.dtype
    for region in [EVERYWHERE, *regions_of(places.cut(step.outputs[0]))]:
        a, b = operand.at(region), update.at(region)
        if is_number(a) and is_number(b) and a == b:
            if not region or not is_zero(a):
                found[region] = a
        elif isinstance(a, Lost) or isinstance(b, Lost):
            found[region] = a if isinstance(a, Lost) else b
        elif region:
            sizes = [places.sizes(axes, region) for axes in step.inputs[:2]]

            def change(x: Any, y: Any, *starts: Any, sizes: Any = sizes) -> Any:
                whole = spread(x, sizes[0], len(sizes[0]), dtype)
                piece = spread(y, sizes[1], len(sizes[1]), dtype)
                return programs.bind(equation, [whole, piece, *starts])[0]

            found[region] = evaluated(change, a, b, *(v.array for v in values[2:]))
    return [found]


def _drawn(equation: Any, values: Sequence[Value], step: Step, places: Places) -> list[_Remainders]:
    """Random numbers: drawn whole, they are there in all places."""
    out = step.outputs[0]
    region = places.cut(out)
    if not region:
        return [{}]
    draw = lambda *xs: programs.bind(equation, xs)[0]
    drawn = evaluated(draw, *(v.array for v in values))
    taken = lambda own: lambda x: places.taken(x, out, own)
    return [{own: evaluated(taken(own), drawn) for own in regions_of(region)}]


ARRANGEMENTS: dict[str, Arrangement] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "expand_dims": _expand_dims,
    "gather": _gather,
    "iota": _iota,
    "pad": _pad,
    "random_bits": _drawn,
    "reshape": _reshape,
    "rev": _rev,
    "slice": _slice,
    "stack": _stack,
    "tile": _tile,
    "split": _split,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "unstack": _unstack,
}
