"""The fields of `config.compare.quantised`: how weights come to share few values (Deep Compression)."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from experiments.config import UserError, check_part, check_type, unknown
from experiments.config.sections import check_expression, check_integer

__all__ = ["Quantisation", "check"]

_MOST_BITS = 8
_STARTS = ("linear", "density")


class Quantisation(NamedTuple):
    """The fields of an entry of `config.compare.quantised`.

    Attributes:
      of: label of the contestant whose trained networks are quantised: a method, or a criterion that prunes
        in training.
      bits: bits of an index into the table of a leaf's values, from 1 to 8: a number, or a dict of regular
        expression -> number.
      gap_bits: bits of the distance between two remaining weights in the file, from 1 to 8.
      start: first values of k-means: "linear" (evenly spaced) or "density" (at even quantiles).
      updates: number of updates in which the shared values are trained, at least 1.
      optimizer: part: the optimizer of these updates; `None`: `config.optimizer`, with its schedule started
        anew.
    """

    of: str
    bits: Any = 5
    gap_bits: int = 5
    start: Literal["linear", "density"] = "linear"
    updates: int = 1_000
    optimizer: Any = None


def check(fields: Any, where: str) -> None:
    """Raises `UserError` unless an entry of `config.compare.quantised` is valid.

    Args:
      fields: the entry.
      where: the entry's place in the config, for error messages.
    """
    if not isinstance(fields, Mapping) or "of" not in fields:
        raise UserError(
            f"{where}={fields!r}: a dict is needed, with of=the label of a method, and perhaps "
            f"{', '.join(Quantisation._field_defaults)}."
        )
    for name in fields:
        if name not in Quantisation._fields:
            raise UserError(unknown(f"{where}: no field", name, Quantisation._fields, "Fields"))
    quantisation = Quantisation(**fields)
    check_type("str", quantisation.of, f"{where}.of")
    if isinstance(quantisation.bits, Mapping):
        if not quantisation.bits:
            raise UserError(f"{where}.bits is empty; give numbers of bits by regular expression.")
        for pattern, bits in quantisation.bits.items():
            check_expression(pattern, f"{where}.bits")
            _check_bits(bits, f"{where}.bits[{pattern!r}]")
    else:
        _check_bits(quantisation.bits, f"{where}.bits")
    _check_bits(quantisation.gap_bits, f"{where}.gap_bits")
    check_integer(quantisation.updates, f"{where}.updates", least=1)
    if quantisation.start not in _STARTS:
        raise UserError(unknown(f"{where}.start: no start", quantisation.start, _STARTS, "Known"))
    if quantisation.optimizer is not None:
        check_part("optimizer", quantisation.optimizer, f"{where}.optimizer")


def _check_bits(bits: Any, where: str) -> None:
    check_type("int", bits, where)
    if not 1 <= bits <= _MOST_BITS:
        raise UserError(f"{where}={bits}: a number of bits from 1 to {_MOST_BITS} is needed.")
