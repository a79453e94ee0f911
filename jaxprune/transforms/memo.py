"""Answers about functions, remembered for the next call without keeping the functions.

An optimizer that is made inside a traced function has tracers in its closures, and a loss may hold its batch:
a cache that kept them would leak the one and fill memory with the other.
"""

import collections
import types
import weakref
from collections.abc import Callable, Hashable
from typing import Any

__all__ = ["Memo", "weak"]


def weak(value: Any) -> Any:
    """Returns a reference to a value that equals others to it, and does not keep it; else the value itself.

    What cannot be referred to in this way (numbers, strings) holds nothing either.

    >>> weak(len) == weak(len), weak("mean")
    (True, 'mean')
    """
    if isinstance(value, types.MethodType):  # each look-up makes another object of it
        return weakref.WeakMethod(value)
    try:
        return weakref.ref(value)
    except TypeError:
        return value


class Memo:
    """The latest answers to questions, each question a tuple."""

    def __init__(self, most: int = 256):
        self._answers: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
        self._most = most

    def answer(self, question: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
        """Returns the answer of last time, or a new one; what cannot be hashed is asked anew each time."""
        try:
            hash(question)
        except TypeError:
            return compute()
        if question not in self._answers:
            self._answers[question] = compute()
            if len(self._answers) > self._most:
                self._answers.popitem(last=False)
        return self._answers[question]
