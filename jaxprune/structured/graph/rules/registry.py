"""The table of rules by primitive: those of the package, and those that users register."""

from typing import Any

from jaxprune import programs
from jaxprune.structured.graph.rules import (
    contractions,
    devices,
    draws,
    entrywise,
    indexing,
    mixing,
    reshaping,
    slicing,
    windows,
)
from jaxprune.structured.graph.rules.rule import Rule

__all__ = ["RULES", "register", "rule_of"]

RULES: dict[str, Rule] = {
    name: rule
    for module in (
        entrywise,
        reshaping,
        slicing,
        contractions,
        indexing,
        mixing,
        windows,
        draws,
        devices,
    )
    for name, rule in module.RULES.items()
}
# Primitives that run a program, which is followed equation by equation.
_FOLLOWED = frozenset({"scan", "cond", "while", "shard_map", "custom_linear_solve"})


def rule_of(name: str) -> Rule | None:
    """Returns the rule of a primitive, or `None`: everything that it touches is pinned.

    Args:
      name: of the primitive.

    >>> rule_of("add") is not None, rule_of("no_primitive") is None
    (True, True)
    """
    return RULES.get(name)


def register(primitive: Any, rule: Rule, *, overwrite: bool = False) -> None:
    """Gives a primitive a rule, for all functions that are traced from now on.

    Args:
      primitive: of JAX, or its name, as `Graph.summary` names those without a rule.
      rule: how labels go through it, and how it runs on smaller arrays. `Rule(elementwise)` is that of an
        elementwise operation.
      overwrite: whether a rule that is there already is replaced.

    Raises:
      ValueError: if it has a rule, or calls a program, which is followed itself.

    >>> import jax.numpy as jnp
    >>> from jax.extend.core import Primitive
    >>> from jaxprune import structured
    >>> swish = Primitive("my_swish")  # a kernel of one's own
    >>> _ = swish.def_abstract_eval(lambda x: x)
    >>> fn = lambda p, x: swish.bind(x @ p["in"]) @ p["out"]
    >>> params, x = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}, jnp.ones((1, 3))
    >>> print(structured.trace(fn, params, x).summary().splitlines()[-1])
    Without a rule, so what they touch is pinned: my_swish (1)
    >>> register("my_swish", Rule(entrywise.elementwise))
    >>> structured.trace(fn, params, x).groups
    (Group(in[1]: 8 units),)
    >>> register("my_swish", Rule(entrywise.elementwise))
    Traceback (most recent call last):
    ValueError: structured.rules.register: 'my_swish' has a rule; say overwrite=True to replace it.
    """
    name = primitive if isinstance(primitive, str) else primitive.name
    if name in _FOLLOWED or programs.is_call(name):
        raise ValueError(
            f"structured.rules.register: {name!r} runs a program, which is followed itself; give rules to "
            "the primitives in it."
        )
    if name in RULES and not overwrite:
        raise ValueError(
            f"structured.rules.register: {name!r} has a rule; say overwrite=True to replace it."
        )
    RULES[name] = rule
