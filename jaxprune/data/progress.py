"""Progress bars and notes on standard error while data is fetched.

Bars are drawn on terminals; elsewhere each leaves one line when it ends.
"""

from collections.abc import Iterable, Iterator


def note(text: str) -> None:
    """Prints one line to standard error."""
    _console().print(text, highlight=False, markup=False)


def track(items: Iterable, description: str, total: int | None = None) -> Iterator:
    """Passes the items on under a progress bar on standard error."""
    from rich.progress import track

    return iter(track(items, description, total, console=_console()))


def _console():
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True)
