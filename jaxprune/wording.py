"""Words of messages and tables: a count with its noun."""

__all__ = ["counted"]


def counted(count: int, noun: str, plural: str = "") -> str:
    """Returns a count with its noun in the singular or the plural.

    Args:
      count: of the things.
      noun: one of them.
      plural: more of them; by default the noun with an s.

    >>> counted(1, "leaf", "leaves"), counted(0, "leaf", "leaves"), counted(1200, "group")
    ('1 leaf', '0 leaves', '1,200 groups')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
