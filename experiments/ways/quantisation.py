"""How weights come to share few values: the fields of a config, checked before JAX is imported."""

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
      of: label of the method, or of the criterion while training, whose networks are quantised.
      bits: of an index into the values of a leaf: a number, or numbers by regular expression.
      gap_bits: of the distance between two weights in the file.
      start: first values of k-means, "linear" or "density".
      updates: in which the values are trained.
      optimizer: part, of these updates; `None`: that of the config, its schedule from the start.
    """

    of: str
    bits: Any = 5
    gap_bits: int = 5
    start: Literal["linear", "density"] = "linear"
    updates: int = 1_000
    optimizer: Any = None


def check(fields: Any, where: str) -> None:
    """Raises `UserError` unless an entry of `config.compare.quantised` says how to quantise a network.

    Args:
      fields: the entry.
      where: in the config, to blame.
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
