"""Misuses of the public API: each with the words that its refusal must hold, or what is right instead.

A refusal comes from the package itself, in one sentence that names the argument or leaf and says what to do.
Some of what looks like a mistake has one plain meaning; then a check says whether that is what comes out.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp
from jaxprune import structured

__all__ = ["MISUSES", "Misuse"]


class Misuse(NamedTuple):
    """One call that a user could write by mistake.

    Attributes:
      call: makes it.
      words: a regular expression, searched in the message of the refusal; `None` if it is not refused.
      right: of what is not refused, whether the answer is the right one.
    """

    call: Callable[[], Any]
    words: str | None
    right: Callable[[Any], bool] | None = None


KEY = jax.random.key(0)
KERNEL = jnp.arange(1.0, 33.0).reshape(8, 4)
PARAMS = {"fc": {"kernel": KERNEL, "bias": jnp.ones(4)}}
OTHER = {"conv": {"kernel": KERNEL}}
TALL = {"fc": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(4)}}
HALF = {"fc": {"kernel": KERNEL > 16, "bias": None}}
ADAM = optax.adam(1e-3)
SGD = optax.sgd(0.1)
MAGNITUDE = jp.methods.magnitude(sparsity=0.5)
GMP = jp.methods.gmp(sparsity=0.5, begin=0, end=10, every=1)
STE = jp.methods.ste(sparsity=0.5, end=10)
INPUTS = jnp.ones((2, 8))
NAN = float("nan")


def apply(params, x):
    return x @ params["fc"]["kernel"] + params["fc"]["bias"][None, :]


def loss(params, x):
    return jnp.mean(apply(params, x) ** 2)


def grads(shape=(8, 4)):
    return {"fc": {"kernel": jnp.ones(shape), "bias": jnp.ones(4)}}


def network(params, x):
    return jax.nn.relu(x @ params["in"]) @ params["out"]


WEIGHTS = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}


def graph():
    return structured.trace(network, WEIGHTS, jnp.ones((1, 3)))


def unit_masks():
    return structured.prune(graph(), WEIGHTS, sparsity=0.5)


def sparse(method=MAGNITUDE, inner=SGD, **options):
    return jp.sparsify(inner, method, **options)


def updated(transform, given=None, state=None, params=PARAMS):
    state = transform.init(PARAMS) if state is None else state
    return transform.update(grads() if given is None else given, state, params)


def state_of(transform, params=PARAMS):
    return transform.init(params)


MISUSES: dict[str, dict[str, Misuse]] = {}

MISUSES["numbers"] = {
    "a sparsity in quotes": Misuse(
        lambda: jp.methods.magnitude(sparsity="0.5"), "leave out the quotes"
    ),
    "a sparsity of 95": Misuse(lambda: jp.methods.magnitude(sparsity=95), "sparsity=95.*fraction"),
    "a sparsity of 1": Misuse(lambda: jp.methods.magnitude(sparsity=1.0), "sparsity=1"),
    "a negative sparsity": Misuse(lambda: jp.methods.magnitude(sparsity=-0.1), "sparsity=-0.1"),
    "a sparsity of NaN": Misuse(lambda: jp.methods.magnitude(sparsity=NAN), "sparsity=nan"),
    "no sparsity": Misuse(
        lambda: jp.methods.magnitude(sparsity=None), "a number is needed, not None"
    ),
    "a truth for a sparsity": Misuse(
        lambda: jp.methods.magnitude(sparsity=True), "a number is needed"
    ),
    "a list of sparsities": Misuse(
        lambda: jp.methods.magnitude(sparsity=[0.5]), "a number is needed, not a list"
    ),
    "an array of sparsities": Misuse(
        lambda: jp.methods.magnitude(sparsity=jnp.ones(2) / 2), "a number is needed, not an array"
    ),
    "a traced sparsity": Misuse(
        lambda: jax.jit(lambda s: jp.methods.magnitude(sparsity=s).end)(0.5),
        "traced value.*before the program runs",
    ),
    "a traced begin": Misuse(
        lambda: jax.jit(lambda b: jp.schedules.one_shot(sparsity=0.5, at=b).end)(3), "traced value"
    ),
    "begin is half a step": Misuse(
        lambda: jp.methods.gmp(sparsity=0.5, begin=0.5, end=10, every=1), "begin=0.5.*an integer"
    ),
    "every is one and a half": Misuse(
        lambda: jp.methods.gmp(sparsity=0.5, begin=0, end=10, every=1.5), "every=1.5.*an integer"
    ),
    "every is zero": Misuse(
        lambda: jp.methods.gmp(sparsity=0.5, begin=0, end=10, every=0), "every=0"
    ),
    "begin after end": Misuse(
        lambda: jp.methods.gmp(sparsity=0.5, begin=10, end=1, every=1), "begin=10, end=1"
    ),
    "a negative begin": Misuse(
        lambda: jp.methods.gmp(sparsity=0.5, begin=-1, end=10, every=1), "begin=-1"
    ),
    "end in quotes": Misuse(
        lambda: jp.methods.gmp(sparsity=0.5, begin=0, end="10", every=1), "end='10'.*quotes"
    ),
    "NaN as the power": Misuse(
        lambda: jp.schedules.polynomial(sparsity=0.5, begin=0, end=9, power=NAN), "power"
    ),
    "a power of zero": Misuse(
        lambda: jp.schedules.polynomial(sparsity=0.5, begin=0, end=9, power=0), "power"
    ),
    "an initial sparsity of 1": Misuse(
        lambda: jp.schedules.cubic(sparsity=0.5, begin=0, end=9, initial=1.0), "initial=1"
    ),
    "an end that int32 cannot count": Misuse(
        lambda: jp.methods.rigl(sparsity=0.5, every=2, end=10**10), "end=10000000000.*int32"
    ),
    "cycles with a power of zero": Misuse(
        lambda: jp.schedules.cyclical(sparsity=0.5, begin=0, end=9, cycles=2, power=0), "power=0"
    ),
    "levels of rate 1": Misuse(lambda: jp.schedules.levels(rate=1.0, every=10, levels=3), "rate"),
    "no levels": Misuse(lambda: jp.schedules.levels(rate=0.2, every=10, levels=0), "levels=0"),
    "a regrown fraction of 2": Misuse(
        lambda: jp.methods.rigl(sparsity=0.5, every=1, end=9, fraction=2.0), "fraction"
    ),
    "a regrown fraction of NaN": Misuse(
        lambda: jp.methods.set_(sparsity=0.5, every=1, end=9, fraction=NAN), "fraction"
    ),
    "no cycles": Misuse(
        lambda: jp.schedules.cyclical(sparsity=0.5, begin=0, end=9, cycles=0), "cycles"
    ),
    "cosine over no steps": Misuse(
        lambda: jp.updates.cosine(0.3, 0),
        None,
        lambda share: float(share(0)) > 0.29 and float(share(1)) == 0,
    ),
    "cosine over fewer": Misuse(lambda: jp.updates.cosine(0.3, -1), "end=-1"),
    "groups of half": Misuse(lambda: jp.patterns.groups(2.5), "m=2.5"),
    "groups of zero": Misuse(lambda: jp.patterns.groups(0), "m=0"),
    "a block of one axis": Misuse(lambda: jp.patterns.block(4), "block"),
    "a block of nothing": Misuse(lambda: jp.patterns.block((0, 4)), "block"),
    "a block's unknown sum": Misuse(lambda: jp.patterns.block((2, 2), reduce="median"), "median"),
    "a channel of neither side": Misuse(lambda: jp.patterns.channel("left"), "left"),
    "a negative floor": Misuse(lambda: jp.allocation.uniform(at_least=-1), "at_least=-1"),
    "a ceiling above 1": Misuse(lambda: jp.allocation.global_budget(at_most=2.0), "at_most"),
    "an unknown normalisation": Misuse(lambda: jp.allocation.global_budget(normalize="l3"), "l3"),
    "a rate of 2 by path": Misuse(lambda: jp.allocation.by_path({"kernel": 2.0}), "2.0"),
    "no rates by path": Misuse(lambda: jp.allocation.by_path({}), "by_path"),
    "removing a negative count": Misuse(lambda: jp.allocation.removing(-3), "count=-3"),
    "removing half a unit": Misuse(lambda: jp.allocation.removing(2.5), "count=2.5.*an integer"),
    "a threshold of NaN": Misuse(lambda: jp.allocation.threshold(NAN), "quality"),
    "erk with a power of NaN": Misuse(lambda: jp.allocation.erk(NAN), "power"),
    "a decay of 1": Misuse(lambda: jp.averaged(SGD, 1.0), "decay=1"),
    "masks packed in another way": Misuse(
        lambda: updated(jp.sparsify(SGD, GMP, packed=True), state=state_of(jp.sparsify(SGD, GMP))),
        r"sparsify\(packed=True\): the state was made with packed=False",
    ),
    "an average of a ticket": Misuse(
        lambda: state_of(
            jp.averaged(jp.lottery_ticket(SGD, MAGNITUDE, jp.lottery.Plan(10, 2)), 0.9)
        ),
        "sets the parameters back",
    ),
    "a decay of NaN": Misuse(lambda: jp.averaged(SGD, NAN), "decay=nan"),
    "a growing decay of 2": Misuse(lambda: jp.growing(SGD, HALF, decay=2.0, until=3), "decay=2"),
    "until a negative step": Misuse(lambda: jp.growing(SGD, HALF, decay=0.1, until=-3), "until=-3"),
    "a strength below zero": Misuse(lambda: jp.penalties.l1(-1.0), "strength=-1"),
    "a strength in quotes": Misuse(lambda: jp.penalties.l1("0.1"), "quotes"),
    "a strength of NaN": Misuse(lambda: jp.penalties.l1(NAN), "strength"),
    "survivors of a sparsity of 2": Misuse(lambda: jp.allocation.survivors(10, 2.0), "sparsity"),
    "half a survivor": Misuse(lambda: jp.allocation.survivors(10.5, 0.5), "n=10.5"),
}

MISUSES["parts"] = {
    "a pattern by its name": Misuse(
        lambda: jp.methods.magnitude(sparsity=0.5, pattern="2:4"), r"groups\(4\)"
    ),
    "a pattern uncalled": Misuse(
        lambda: jp.methods.magnitude(sparsity=0.5, pattern=jp.patterns.channel), "call it"
    ),
    "an allocation by its name": Misuse(
        lambda: jp.methods.magnitude(sparsity=0.5, allocation="erk"), "an allocation is needed"
    ),
    "an allocation uncalled": Misuse(
        lambda: jp.methods.magnitude(sparsity=0.5, allocation=jp.allocation.erk), "call it"
    ),
    "a schedule for an allocation": Misuse(
        lambda: jp.methods.magnitude(sparsity=0.5, allocation=GMP.schedule),
        "an allocation is needed",
    ),
    "a criterion by its name": Misuse(
        lambda: jp.Method("magnitude", schedule=GMP.schedule), "a criterion is needed"
    ),
    "a method for a criterion": Misuse(
        lambda: jp.Method(GMP, schedule=GMP.schedule), "attribute criterion"
    ),
    "no schedule": Misuse(
        lambda: jp.Method(jp.criteria.magnitude, schedule=None), "a schedule is needed"
    ),
    "a sparsity for a schedule": Misuse(
        lambda: jp.Method(jp.criteria.magnitude, schedule=0.5), "a schedule is needed"
    ),
    "a schedule uncalled": Misuse(
        lambda: jp.Method(jp.criteria.magnitude, schedule=jp.schedules.cubic), "call it"
    ),
    "an update uncalled": Misuse(
        lambda: jp.Method(jp.criteria.magnitude, schedule=GMP.schedule, update=jp.updates.prune),
        "call it",
    ),
    "a method by its name": Misuse(lambda: jp.sparsify(SGD, "gmp"), "a method is needed"),
    "a method uncalled": Misuse(lambda: jp.sparsify(SGD, jp.methods.gmp), r"call it: gmp\("),
    "a criterion for a method": Misuse(
        lambda: jp.sparsify(SGD, jp.criteria.magnitude), "jaxprune.Method"
    ),
    "a dict of methods": Misuse(lambda: jp.sparsify(SGD, {"fc": GMP}), "jaxprune.partition"),
    "an optimizer uncalled": Misuse(lambda: jp.sparsify(optax.adam, GMP), r"call it: adam\("),
    "an optimizer by its name": Misuse(
        lambda: jp.sparsify("adam", GMP), "optimizer of optax is needed"
    ),
    "swapped optimizer and method": Misuse(lambda: jp.sparsify(GMP, SGD), "swapped"),
    "swapped parameters and method": Misuse(
        lambda: jp.prune(MAGNITUDE, PARAMS), "swapped|a tree of arrays"
    ),
    "a method that trains straight through": Misuse(
        lambda: jp.sparsify(SGD, STE), "straight_through"
    ),
    "straight through with regrowth": Misuse(
        lambda: jp.straight_through(SGD, jp.methods.rigl(sparsity=0.5, every=1, end=9)), "regrow"
    ),
    "partition of nothing": Misuse(lambda: jp.partition({}), "no methods"),
    "partition with a broken expression": Misuse(
        lambda: jp.partition({"[": GMP}), "no regular expression"
    ),
    "partition of a method": Misuse(lambda: jp.partition(GMP), "a dict or pairs"),
    "partition of mixed kinds": Misuse(
        lambda: jp.partition({"a": GMP, "b": STE}), "straight through"
    ),
    "partition twice the same": Misuse(lambda: jp.partition([("a", GMP), ("a", GMP)]), "twice"),
    "partition that matches nothing": Misuse(
        lambda: sparse(jp.partition({"conv9": GMP})).init(PARAMS), "conv9"
    ),
    "a penalty by its name": Misuse(lambda: jp.proximal(SGD, "l1", 0.1), "a penalty is needed"),
    "a penalty uncalled": Misuse(lambda: jp.proximal(SGD, jp.penalties.l1, 0.1), "call it"),
    "a penalty without a slope": Misuse(
        lambda: jp.add_penalty(jp.penalties.l0(0.1)), "no subgradient"
    ),
    "swapped optimizer and penalty": Misuse(
        lambda: jp.proximal(jp.penalties.l1(0.1), SGD, 0.1), "swapped|optimizer"
    ),
    "a learning rate in quotes": Misuse(
        lambda: jp.proximal(SGD, jp.penalties.l1(0.1), "0.1"), "learning_rate"
    ),
    "a plan by its number": Misuse(
        lambda: jp.lottery_ticket(SGD, MAGNITUDE, 3), "lottery.Plan is needed"
    ),
    "a plan without rounds": Misuse(
        lambda: jp.lottery.Plan(10, 0), None, lambda plan: plan.total_updates == 10
    ),
    "a plan of fewer than no rounds": Misuse(lambda: jp.lottery.Plan(10, -1), "rounds=-1"),
    "a plan of half a step": Misuse(lambda: jp.lottery.Plan(10.5, 2), "round_steps=10.5"),
    "a plan that rewinds late": Misuse(
        lambda: jp.lottery.Plan(10, 2, rewind_to=20), "rewind_to=20"
    ),
    "a plan that rewinds the unknown": Misuse(
        lambda: jp.lottery.Plan(10, 2, rewind="biases"), "biases"
    ),
    "packed is a word": Misuse(lambda: jp.sparsify(SGD, GMP, packed="yes"), "True or False"),
    "a regrowth without a criterion": Misuse(lambda: jp.updates.regrow(None), "criterion"),
    "a gate's broken expression": Misuse(
        lambda: jp.gates.hard_concrete(strength={"[": 1.0}).init(PARAMS, KEY),
        "no regular expression",
    ),
    "a gate's negative strength": Misuse(lambda: jp.gates.hard_concrete(strength=-1.0), "strength"),
    "a dropout rate of 2": Misuse(lambda: jp.gates.hard_concrete(dropout_rate=2.0), "dropout_rate"),
    "a supermask of sparsity 1": Misuse(lambda: jp.gates.supermask(sparsity=1.0), "sparsity"),
}

MISUSES["keys"] = {
    "a number for a key": Misuse(lambda: jp.sparsify(SGD, GMP, key=0), r"jax.random.key\(0\)"),
    "a batch of keys": Misuse(
        lambda: jp.sparsify(SGD, GMP, key=jax.random.split(KEY, 3)), "of these 3 keys give one"
    ),
    "a batch of old keys": Misuse(
        lambda: jp.sparsify(SGD, GMP, key=jax.random.split(jax.random.PRNGKey(0), 3)), "give one"
    ),
    "a number for prune's key": Misuse(
        lambda: jp.prune(PARAMS, jp.methods.random(sparsity=0.5), key=1), r"jax.random.key\(1\)"
    ),
    "no key for chance": Misuse(
        lambda: jp.prune(PARAMS, jp.methods.random(sparsity=0.5)), "give key="
    ),
    "no key in training": Misuse(
        lambda: updated(sparse(jp.methods.random(sparsity=0.5))), "give key="
    ),
    "no key for SET": Misuse(
        lambda: sparse(jp.methods.set_(sparsity=0.5, every=1, end=9)).init(PARAMS), "give key="
    ),
    "a number for shuffle's key": Misuse(lambda: jp.masks.shuffle(HALF, 0), r"jax.random.key\(0\)"),
    "a number for a gate's key": Misuse(
        lambda: jp.gates.supermask(sparsity=0.5).init(PARAMS, 0), r"jax.random.key\(0\)"
    ),
    "no key for a gate's noise": Misuse(
        lambda: jp.gates.hard_concrete().sample(jp.gates.hard_concrete().init(PARAMS, KEY)), "key"
    ),
    "a number for prune_on's key": Misuse(
        lambda: jp.prune_on(PARAMS, jp.methods.random(sparsity=0.5), {}, key=0),
        r"jax.random.key\(0\)",
    ),
    "a number for lottery's key": Misuse(
        lambda: jp.lottery_ticket(SGD, MAGNITUDE, jp.lottery.Plan(10, 2), key=0),
        r"jax.random.key\(0\)",
    ),
    "a number for straight_through's key": Misuse(
        lambda: jp.straight_through(SGD, STE, key=0), r"jax.random.key\(0\)"
    ),
    "a number for a signal's key": Misuse(
        lambda: jp.signals.hessian_diagonal(loss, PARAMS, [INPUTS], 0), r"jax.random.key\(0\)"
    ),
    "a number for the gatherers' key": Misuse(
        lambda: jp.signals.gatherers([INPUTS], loss=loss, key=0), r"jax.random.key\(0\)"
    ),
}

MISUSES["states"] = {
    "a plain optimizer's state": Misuse(
        lambda: updated(sparse(inner=ADAM), state=ADAM.init(PARAMS)), "needs the SparseState"
    ),
    "another optimizer's state": Misuse(
        lambda: updated(sparse(inner=ADAM), state=state_of(sparse(inner=SGD))),
        "another optimizer|init",
    ),
    "a state of momentum": Misuse(
        lambda: updated(
            sparse(inner=SGD), state=state_of(sparse(inner=optax.sgd(0.1, momentum=0.9)))
        ),
        "another optimizer|init",
    ),
    "a state of fixed": Misuse(
        lambda: updated(jp.fixed(ADAM, HALF), state=state_of(jp.fixed(SGD, HALF))),
        "another optimizer|init",
    ),
    "another optimizer's state straight through": Misuse(
        lambda: updated(
            jp.straight_through(ADAM, STE), state=state_of(jp.straight_through(SGD, STE))
        ),
        "another optimizer|init",
    ),
    "another optimizer's state in proximal": Misuse(
        lambda: updated(
            jp.proximal(ADAM, jp.penalties.l1(0.1), 0.1),
            state=state_of(jp.proximal(SGD, jp.penalties.l1(0.1), 0.1)),
        ),
        "another optimizer|init",
    ),
    "another optimizer's state in lottery": Misuse(
        lambda: updated(
            jp.lottery_ticket(ADAM, MAGNITUDE, jp.lottery.Plan(10, 2)),
            state=state_of(jp.lottery_ticket(SGD, MAGNITUDE, jp.lottery.Plan(10, 2))),
        ),
        "another optimizer|init",
    ),
    "another optimizer's state in growing": Misuse(
        lambda: updated(
            jp.growing(ADAM, HALF, decay=0.1, until=9),
            state=state_of(jp.growing(SGD, HALF, decay=0.1, until=9)),
        ),
        "another optimizer|init",
    ),
    "another optimizer's state in averaged": Misuse(
        lambda: updated(jp.averaged(ADAM, 0.9), state=state_of(jp.averaged(SGD, 0.9))),
        "another optimizer|init",
    ),
    "another optimizer's state in recorded": Misuse(
        lambda: updated(
            jp.recorded(jp.fixed(ADAM, HALF)), state=state_of(jp.recorded(jp.fixed(SGD, HALF)))
        ),
        "another optimizer|init",
    ),
    "a plain state in recorded": Misuse(
        lambda: updated(jp.recorded(jp.fixed(ADAM, HALF)), state=ADAM.init(PARAMS)), "Record"
    ),
    "another method's state": Misuse(
        lambda: updated(
            sparse(jp.methods.movement(sparsity=0.5, begin=0, end=9, every=1)),
            state=state_of(sparse(GMP)),
        ),
        "another method|init",
    ),
    "a state without a key": Misuse(
        lambda: updated(
            sparse(jp.methods.set_(sparsity=0.5, every=1, end=9), key=KEY),
            state=state_of(sparse(jp.methods.set_(sparsity=0.5, every=1, end=9), key=KEY))._replace(
                key=None
            ),
        ),
        "key",
    ),
    "no state": Misuse(lambda: sparse().update(grads(), None, PARAMS), "needs the SparseState"),
    "swapped state and parameters": Misuse(
        lambda: sparse().update(grads(), PARAMS, state_of(sparse())), "swapped"
    ),
    "no parameters": Misuse(
        lambda: sparse().update(grads(), state_of(sparse())), "needs the parameters"
    ),
    "a tree changed after init": Misuse(
        lambda: sparse().update(
            {**grads(), "new": jnp.ones(3)}, state_of(sparse()), {**PARAMS, "new": jnp.ones(3)}
        ),
        "unexpected|'new'",
    ),
    "a leaf lost after init": Misuse(
        lambda: sparse(inner=ADAM).update(
            {"fc": {"kernel": KERNEL}}, state_of(sparse(inner=ADAM)), {"fc": {"kernel": KERNEL}}
        ),
        "fc/bias'",
    ),
    "another tree after init": Misuse(
        lambda: sparse(inner=ADAM).update(OTHER, state_of(sparse(inner=ADAM)), OTHER),
        "'conv/kernel'",
    ),
    "a shape changed after init": Misuse(
        lambda: sparse(inner=ADAM).update(TALL, state_of(sparse(inner=ADAM)), TALL),
        r"'fc/kernel'.*\(4, 8\)",
    ),
    "a shape without a mask changed after init": Misuse(
        lambda: sparse(inner=ADAM).update(
            {"fc": {"kernel": KERNEL, "bias": jnp.ones(5)}},
            state_of(sparse(inner=ADAM)),
            {"fc": {"kernel": KERNEL, "bias": jnp.ones(5)}},
        ),
        r"'fc/bias'|bias",
    ),
    "a changed shape in averaged": Misuse(
        lambda: jp.averaged(SGD, 0.9).update(TALL, state_of(jp.averaged(SGD, 0.9)), TALL),
        r"'fc/kernel'",
    ),
    "a changed shape in proximal": Misuse(
        lambda: updated(jp.proximal(SGD, jp.penalties.l1(0.1), 0.1), given=TALL, params=TALL),
        r"'fc/kernel'",
    ),
    "parameters without masks for average_of": Misuse(
        lambda: jp.average_of(state_of(jp.averaged(SGD, 0.9)), PARAMS), "swapped"
    ),
    "average of another tree": Misuse(
        lambda: jp.average_of(OTHER, state_of(jp.averaged(SGD, 0.9))), "'conv/kernel'"
    ),
    "forward_params swapped": Misuse(
        lambda: jp.forward_params(state_of(jp.straight_through(SGD, STE)), PARAMS), "swapped"
    ),
    "forward_params of a plain state": Misuse(
        lambda: jp.forward_params(PARAMS, ADAM.init(PARAMS)), None, lambda found: found is PARAMS
    ),
    "forward_params of another tree": Misuse(
        lambda: jp.forward_params(OTHER, state_of(jp.straight_through(SGD, STE))), "'conv/kernel'"
    ),
    "masks_of a plain state": Misuse(lambda: jp.masks_of(ADAM.init(PARAMS)), "no sparse states"),
    "masks_of the parameters": Misuse(lambda: jp.masks_of(PARAMS), "no sparse states"),
    "masks_of nested transforms": Misuse(
        lambda: jp.masks_of(sparse(inner=sparse(GMP)).init(PARAMS)), "sparse states.*one is needed"
    ),
    "masks_of fixed around sparsify": Misuse(
        lambda: jp.masks_of(jp.fixed(sparse(GMP), HALF).init(PARAMS)),
        "sparse states.*one is needed",
    ),
    "record_of nothing": Misuse(lambda: jp.record_of(SGD.init(PARAMS)), "no records"),
    "recorded around nothing sparse": Misuse(
        lambda: jp.recorded(SGD).init(PARAMS), "no sparse states"
    ),
    "second_moment of SGD": Misuse(
        lambda: jp.signals.second_moment(SGD.init(PARAMS)), "second moment|second_moment"
    ),
}

MISUSES["gradients"] = {
    "gradients of another tree": Misuse(
        lambda: updated(sparse(), given=OTHER), "another tree.*'fc/kernel'"
    ),
    "gradients with one leaf less": Misuse(
        lambda: updated(sparse(), given={"fc": {"kernel": KERNEL}}), "fc/bias'"
    ),
    "no gradients": Misuse(
        lambda: sparse().update(None, state_of(sparse()), PARAMS), "another tree.*missing"
    ),
    "gradients that broadcast": Misuse(
        lambda: updated(sparse(), given=grads((1, 4))), r"'fc/kernel'.*\(1, 4\)"
    ),
    "gradients transposed": Misuse(
        lambda: updated(sparse(), given=grads((4, 8))), r"'fc/kernel'.*\(4, 8\)"
    ),
    "gradients that broadcast under fixed": Misuse(
        lambda: updated(jp.fixed(SGD, HALF), given=grads((1, 4))), r"\(1, 4\)"
    ),
    "gradients that broadcast straight through": Misuse(
        lambda: updated(jp.straight_through(SGD, STE), given=grads((1, 4))), r"\(1, 4\)"
    ),
    "gradients that broadcast in proximal": Misuse(
        lambda: updated(jp.proximal(SGD, jp.penalties.l1(0.1), 0.1), given=grads((1, 4))),
        r"\(1, 4\)",
    ),
    "gradients that broadcast in add_penalty": Misuse(
        lambda: updated(jp.add_penalty(jp.penalties.l1(0.1)), given=grads((1, 4))), r"\(1, 4\)"
    ),
    "gradients that broadcast in averaged": Misuse(
        lambda: updated(jp.averaged(SGD, 0.9), given=grads((1, 4))), r"\(1, 4\)"
    ),
    "gradients that broadcast in growing": Misuse(
        lambda: updated(jp.growing(SGD, HALF, decay=0.1, until=9), given=grads((1, 4))), r"\(1, 4\)"
    ),
    "gradients that broadcast in lottery": Misuse(
        lambda: updated(
            jp.lottery_ticket(SGD, MAGNITUDE, jp.lottery.Plan(10, 2)), given=grads((1, 4))
        ),
        r"\(1, 4\)",
    ),
    "gradients that broadcast in recorded": Misuse(
        lambda: updated(jp.recorded(jp.fixed(SGD, HALF)), given=grads((1, 4))), r"\(1, 4\)"
    ),
    "gradients of words": Misuse(
        lambda: updated(sparse(), given={"fc": {"kernel": "g", "bias": jnp.ones(4)}}), "'fc/kernel'"
    ),
    "scores of another shape": Misuse(
        lambda: jp.prune(
            PARAMS, jp.Method(jp.criteria.snip, schedule=MAGNITUDE.schedule), grads=grads((4, 8))
        ),
        "'fc/kernel'.*shape",
    ),
    "scores that broadcast": Misuse(
        lambda: jp.prune(
            PARAMS, jp.Method(jp.criteria.snip, schedule=MAGNITUDE.schedule), grads=grads((1, 4))
        ),
        r"'fc/kernel'.*\(1, 4\)",
    ),
    "a signal of another tree": Misuse(
        lambda: jp.prune(
            PARAMS, jp.Method(jp.criteria.snip, schedule=MAGNITUDE.schedule), grads=OTHER
        ),
        "'fc/kernel'|snip",
    ),
    "a missing signal": Misuse(
        lambda: jp.prune(PARAMS, jp.Method(jp.criteria.snip, schedule=MAGNITUDE.schedule)),
        "signal 'grads' is missing",
    ),
    "a misspelt signal": Misuse(
        lambda: jp.prune(
            PARAMS, jp.Method(jp.criteria.snip, schedule=MAGNITUDE.schedule), gradients=grads()
        ),
        "write grads=",
    ),
    "scores of one number": Misuse(
        lambda: jp.prune(PARAMS, jp.Method(lambda params, **_: 1.0, schedule=MAGNITUDE.schedule)),
        "scores",
    ),
    "scores of NaN": Misuse(
        lambda: jp.prune(
            PARAMS,
            jp.Method(
                lambda params, **_: jax.tree.map(lambda w: w * NAN, params),
                schedule=MAGNITUDE.schedule,
            ),
        ),
        "score NaN",
    ),
    "weights of NaN": Misuse(lambda: jp.prune({"kernel": KERNEL * NAN}, MAGNITUDE), "score NaN"),
}

MISUSES["masks"] = {
    "masks of another tree applied": Misuse(
        lambda: jp.masks.apply(PARAMS, {"conv": {"kernel": KERNEL > 0}}), "'fc/kernel'"
    ),
    "masks of a lacking tree applied": Misuse(
        lambda: jp.masks.apply(PARAMS, {"fc": {"kernel": KERNEL > 0}}), "fc/bias'"
    ),
    "masks that would grow a parameter": Misuse(
        lambda: jp.masks.apply({"w": jnp.ones((1, 4))}, {"w": jnp.ones((8, 4), bool)}),
        r"'w'.*\(8, 4\)",
    ),
    "masks that broadcast": Misuse(
        lambda: jp.masks.apply({"w": jnp.ones((8, 4))}, {"w": jnp.ones((1, 4), bool)}),
        r"'w'.*\(1, 4\)",
    ),
    "a mask of one number": Misuse(
        lambda: jp.masks.apply({"w": jnp.ones((8, 4))}, {"w": jnp.ones((), bool)}), r"'w'.*\(\)"
    ),
    "masks of another shape": Misuse(
        lambda: jp.masks.apply({"w": jnp.ones((8, 4))}, {"w": jnp.ones((4, 8), bool)}),
        r"'w'.*\(4, 8\)",
    ),
    "masks of numbers applied": Misuse(
        lambda: jp.masks.apply({"w": jnp.ones(4)}, {"w": jnp.ones(4)}), "bool"
    ),
    "masks of 0.5 applied": Misuse(
        lambda: jp.masks.apply({"w": jnp.ones(4)}, {"w": jnp.full(4, 0.5)}), "bool"
    ),
    "masks of integers applied": Misuse(
        lambda: jp.masks.apply({"w": jnp.ones(4)}, {"w": jnp.ones(4, int)}), "bool"
    ),
    "a mask of a key": Misuse(
        lambda: jp.masks.apply({"rng": KEY}, {"rng": jnp.array(True)}), "'rng'.*PRNG keys"
    ),
    "masks and parameters swapped": Misuse(lambda: jp.masks.apply(HALF, PARAMS), "swapped"),
    "packed masks of another shape": Misuse(
        lambda: jp.masks.apply(
            {"w": jnp.ones((8, 4))}, jp.masks.pack({"w": jnp.ones((4, 8), bool)})
        ),
        r"'w'.*\(4, 8\)",
    ),
    "where with another tree": Misuse(
        lambda: jp.masks.where(HALF, PARAMS, OTHER), "'fc/kernel'|'conv/kernel'"
    ),
    "where that broadcasts": Misuse(
        lambda: jp.masks.where(HALF, PARAMS, grads((1, 4))), r"\(1, 4\)"
    ),
    "where with masks of another shape": Misuse(
        lambda: jp.masks.where(
            {"w": jnp.ones((1, 4), bool)}, {"w": jnp.ones((8, 4))}, {"w": jnp.ones((8, 4))}
        ),
        r"\(1, 4\)",
    ),
    "where of masks that are numbers": Misuse(
        lambda: jp.masks.where({"w": jnp.ones(4)}, {"w": jnp.ones(4)}, {"w": jnp.ones(4)}), "bool"
    ),
    "hamming of unrelated trees": Misuse(
        lambda: jp.masks.hamming({"a": jnp.ones(3, bool)}, {"b": jnp.zeros(3, bool)}), "'a'|'b'"
    ),
    "hamming that broadcasts": Misuse(
        lambda: jp.masks.hamming({"w": jnp.ones((3, 1), bool)}, {"w": jnp.zeros((1, 3), bool)}),
        r"'w'.*\(",
    ),
    "hamming of a lacking tree": Misuse(
        lambda: jp.masks.hamming(HALF, {"fc": {"kernel": None, "bias": None}}), "'fc/kernel'"
    ),
    "hamming of parameters": Misuse(lambda: jp.masks.hamming(PARAMS, HALF), "bool"),
    "jaccard of unrelated trees": Misuse(
        lambda: jp.masks.jaccard({"a": jnp.ones(3, bool)}, {"b": jnp.zeros(3, bool)}),
        "'a'|'b'",
    ),
    "jaccard that broadcasts": Misuse(
        lambda: jp.masks.jaccard({"w": jnp.ones((3, 1), bool)}, {"w": jnp.zeros((1, 3), bool)}),
        r"'w'.*\(",
    ),
    "sparsity of parameters": Misuse(lambda: jp.masks.sparsity(PARAMS), "bool"),
    "sparsity of no masks": Misuse(
        lambda: jp.masks.sparsity({"w": None}), None, lambda found: float(found) == 0.0
    ),
    "hamming of no masks": Misuse(
        lambda: jp.masks.hamming({"w": None}, {"w": None}), None, lambda found: float(found) == 0.0
    ),
    "summary of parameters": Misuse(lambda: jp.masks.summary(PARAMS), "bool"),
    "a table of parameters": Misuse(lambda: jp.masks.table(PARAMS), "bool"),
    "a table with another tree's operations": Misuse(
        lambda: jp.masks.table(HALF, {"conv": {"kernel": 3}}), "'conv/kernel'|'fc/kernel'"
    ),
    "packed parameters": Misuse(lambda: jp.masks.pack(PARAMS), "bool"),
    "a packed mask of nothing": Misuse(
        lambda: jp.masks.unpack(jp.masks.pack({"w": jnp.zeros((0, 1), bool)})),
        None,
        lambda found: found["w"].shape == (0, 1),
    ),
    "a packed mask of no columns": Misuse(
        lambda: jp.masks.unpack(jp.masks.pack({"w": jnp.zeros((3, 0), bool)})),
        None,
        lambda found: found["w"].shape == (3, 0),
    ),
    "check of another tree": Misuse(lambda: jp.masks.check(OTHER, HALF), "'conv/kernel'"),
    "check of a leak": Misuse(lambda: jp.masks.check(PARAMS, HALF), "'fc/kernel': 16"),
    "check of a NaN off the mask": Misuse(
        lambda: jp.masks.check({"w": jnp.array([1.0, NAN])}, {"w": jnp.array([True, False])}),
        "'w': 1",
    ),
    "check of no arrays": Misuse(
        lambda: jp.masks.check({"w": "x"}, {"w": jnp.ones(1, bool)}), "'w'"
    ),
    "validate swapped": Misuse(lambda: jp.masks.validate(HALF, PARAMS), "swapped"),
    "prunable of a broken expression": Misuse(
        lambda: jp.masks.make(PARAMS, "["), r"'\['.*no regular expression"
    ),
    "prunable that matches nothing": Misuse(
        lambda: jp.masks.make(PARAMS, "conv9"), "'conv9' matches none"
    ),
    "prunable of a number": Misuse(lambda: jp.masks.make(PARAMS, 3), "a filter is needed"),
    "prunable of masks": Misuse(lambda: jp.masks.make(PARAMS, HALF), "a filter is needed"),
    "prunable without matches": Misuse(
        lambda: jp.masks.make(PARAMS, lambda path, leaf: False), "nothing to prune"
    ),
    "prunable of one argument": Misuse(
        lambda: jp.masks.make(PARAMS, lambda path: True), "predicate"
    ),
    "prunable with an empty list": Misuse(lambda: jp.masks.make(PARAMS, []), "nothing to prune"),
    "prunable of integers": Misuse(
        lambda: jp.masks.make({"kernel": jnp.ones((2, 2), int)}, "kernel"), "nothing to prune"
    ),
    "sparsify with a broken expression": Misuse(
        lambda: sparse(prunable="[").init(PARAMS), "no regular expression"
    ),
    "masks of an empty tree": Misuse(lambda: jp.masks.make({}), "nothing to prune"),
    "masks of a function": Misuse(
        lambda: jp.masks.make({"act": jax.nn.relu, "kernel": KERNEL}), "'act'.*function"
    ),
    "masks of words": Misuse(lambda: jp.masks.make({"name": "lenet", "kernel": KERNEL}), "'name'"),
    "zeros of a dense network": Misuse(lambda: jp.masks.of_zeros(PARAMS), "no weight of"),
    "zeros of a dead layer": Misuse(
        lambda: jp.masks.of_zeros({"kernel": jnp.zeros((2, 2))}), "zero throughout"
    ),
    "both masks and prunable": Misuse(
        lambda: jp.prune(PARAMS, MAGNITUDE, masks=HALF, prunable="kernel"), "give one"
    ),
    "masks of another tree given": Misuse(
        lambda: jp.prune(PARAMS, MAGNITUDE, masks={"conv": KERNEL > 0}), "'fc/kernel'|'fc/bias'"
    ),
    "masks of another tree for fixed": Misuse(
        lambda: jp.fixed(SGD, {"conv": KERNEL > 0}).init(PARAMS), "'fc/kernel'|'fc/bias'"
    ),
    "masks of another shape for fixed": Misuse(
        lambda: jp.fixed(SGD, {"fc": {"kernel": KERNEL[:1] > 0, "bias": None}}).init(PARAMS),
        r"\(1, 4\)",
    ),
    "parameters for the masks of fixed": Misuse(lambda: jp.fixed(SGD, PARAMS), "bool"),
    "swapped arguments of fixed": Misuse(lambda: jp.fixed(HALF, SGD), "swapped"),
    "given masks without a mask": Misuse(
        lambda: sparse(masks={"fc": {"kernel": None, "bias": None}}).init(PARAMS),
        "no mask for any leaf",
    ),
    "next_masks of another tree": Misuse(
        lambda: jp.next_masks(MAGNITUDE, PARAMS, {"conv": KERNEL > 0}, 0), "'fc/kernel'|'fc/bias'"
    ),
    "next_masks swapped": Misuse(lambda: jp.next_masks(MAGNITUDE, HALF, PARAMS, 0), "swapped"),
}

MISUSES["leaves"] = {
    "groups that do not divide": Misuse(
        lambda: jp.prune(
            {"kernel": jnp.ones((30, 4))},
            jp.methods.magnitude(sparsity=0.5, pattern=jp.patterns.groups(4)),
        ),
        "'kernel'.*multiple of 4",
    ),
    "2:4 of too much": Misuse(
        lambda: jp.prune(
            {"kernel": jnp.ones((8, 4))},
            jp.methods.magnitude(sparsity=0.9, pattern=jp.patterns.groups(4)),
        ),
        "'kernel'.*sparsity",
    ),
    "blocks that do not fit": Misuse(
        lambda: jp.prune(
            {"kernel": jnp.ones((30, 4))},
            jp.methods.magnitude(sparsity=0.5, pattern=jp.patterns.block((4, 4))),
        ),
        "'kernel'",
    ),
    "channels of a vector": Misuse(
        lambda: jp.prune(
            {"scale": jnp.ones(8)},
            jp.methods.magnitude(sparsity=0.5, pattern=jp.patterns.channel()),
            prunable="scale",
        ),
        None,
        lambda found: int(found[1]["scale"].sum()) == 4,
    ),
    "a rate by a path that is not there": Misuse(
        lambda: jp.prune(
            PARAMS,
            jp.methods.magnitude(sparsity=0.5, allocation=jp.allocation.by_path({"conv9": 0.5})),
        ),
        "conv9",
    ),
    "parameters that are a key": Misuse(lambda: jp.prune(KEY, MAGNITUDE), "a tree of arrays"),
    "parameters that are a model": Misuse(
        lambda: jp.prune({"kernel": KERNEL, "fn": apply}, MAGNITUDE), "'fn'.*function"
    ),
    "parameters in an array of words": Misuse(
        lambda: jp.prune({"w": np.array([["a", "b"]])}, MAGNITUDE), "'w' is an array"
    ),
    "parameters of objects": Misuse(
        lambda: jp.prune({"w": np.array([[None, 1]], object)}, MAGNITUDE), "a tree of arrays"
    ),
    "parameters of words": Misuse(lambda: jp.prune("params", MAGNITUDE), "a tree of arrays"),
    "no parameters to prune": Misuse(lambda: jp.prune({}, MAGNITUDE), "nothing to prune"),
    "init without arrays": Misuse(lambda: sparse().init({"kernel": "w"}), "'kernel'"),
    "axes of another tree": Misuse(
        lambda: jp.prune(PARAMS, MAGNITUDE, axes={"conv": jp.Axes(0, 1)}), "axes"
    ),
    "axes that are not there": Misuse(
        lambda: jp.prune(
            PARAMS,
            jp.methods.magnitude(sparsity=0.5, pattern=jp.patterns.groups(4)),
            axes={"kernel": jp.Axes(5, 1)},
        ),
        "'fc/kernel'|axes",
    ),
    "axes of words": Misuse(lambda: jp.Axes("in", "out"), "in_axis='in'"),
    "axes of half": Misuse(lambda: jp.Axes(0.5, 1), "in_axis=0.5"),
    "axes of no function": Misuse(lambda: jp.axes(PARAMS, apply, INPUTS), "swapped|function"),
    "a coupled pattern on another tree": Misuse(
        lambda: jp.prune(
            PARAMS, jp.methods.magnitude(sparsity=0.5, pattern=structured.coupled(graph()))
        ),
        "'in'|traced",
    ),
    "of_remaining is a word": Misuse(
        lambda: jp.prune(PARAMS, MAGNITUDE, of_remaining="yes"), "True or False"
    ),
}

MISUSES["signals"] = {
    "gatherers of nothing": Misuse(
        lambda: jp.signals.gatherers([], apply=apply), "batches: there is none"
    ),
    "gatherers of a spent iterator": Misuse(
        lambda: jp.signals.gatherers(iter([INPUTS]), loss=loss), "read only once"
    ),
    "an output loss without a network": Misuse(
        lambda: jp.signals.gatherers([INPUTS], output_loss=loss), "give apply="
    ),
    "gatherers of an array": Misuse(
        lambda: jp.signals.gatherers(INPUTS, loss=loss), "a list of batches|batches"
    ),
    "gatherers of a number": Misuse(lambda: jp.signals.gatherers(3, loss=loss), "batches"),
    "a loss by its name": Misuse(
        lambda: jp.signals.gatherers([INPUTS], loss="mse"), "loss='mse'|loss"
    ),
    "gradients of a loss by its name": Misuse(
        lambda: jp.signals.grads("mse", PARAMS, [INPUTS]), "loss='mse'.*a function"
    ),
    "gradients swapped": Misuse(lambda: jp.signals.grads(PARAMS, loss, [INPUTS]), "swapped"),
    "the flow of no network": Misuse(
        lambda: jp.signals.synaptic_flow(PARAMS, apply, INPUTS), "swapped"
    ),
    "gradients of no batches": Misuse(lambda: jp.signals.grads(loss, PARAMS, []), "there is none"),
    "gradients of an empty batch": Misuse(
        lambda: jp.signals.grads(loss, PARAMS, [jnp.ones((0, 8))]), "batch 0 has no examples"
    ),
    "gradients of a scalar batch": Misuse(
        lambda: jp.signals.grads(loss, PARAMS, [jnp.ones(())]), "no leading axis"
    ),
    "gradients of a vector loss": Misuse(
        lambda: jp.signals.grads(lambda p, x: apply(p, x).mean(1), PARAMS, [INPUTS]), "scalar"
    ),
    "gradients of NaN batches": Misuse(
        lambda: jp.signals.grads(loss, PARAMS, [INPUTS * NAN]), "NaN"
    ),
    "fisher of half an example": Misuse(
        lambda: jp.signals.fisher(loss, PARAMS, [INPUTS], examples=0), "examples=0"
    ),
    "fisher of groups that do not divide": Misuse(
        lambda: jp.signals.fisher(loss, PARAMS, [jnp.ones((3, 8))], examples=2), "not a multiple"
    ),
    "blocks of nothing": Misuse(
        lambda: jp.signals.inverse_fisher(loss, PARAMS, [INPUTS], block=0), "block=0"
    ),
    "no damping at all": Misuse(
        lambda: jp.signals.inverse_fisher(loss, PARAMS, [INPUTS], damp=-1.0), "damp"
    ),
    "no samples": Misuse(
        lambda: jp.signals.hessian_diagonal(loss, PARAMS, [INPUTS], KEY, samples=0), "samples=0"
    ),
    "no temperature": Misuse(
        lambda: jp.signals.hessian_gradient(
            apply, lambda y, x: y.mean(), PARAMS, [INPUTS], temperature=0.0
        ),
        "temperature",
    ),
    "a memory that keeps all": Misuse(
        lambda: jp.signals.moving_average(lambda p, g: g, decay=1.5), "decay"
    ),
    "prune_on with signals": Misuse(
        lambda: jp.prune_on(PARAMS, MAGNITUDE, {"grads": grads()}), "functions of the parameters"
    ),
    "prune_on without a signal": Misuse(
        lambda: jp.prune_on(PARAMS, jp.Method(jp.criteria.snip, schedule=MAGNITUDE.schedule), {}),
        "'grads'",
    ),
    "prune_on in no rounds": Misuse(
        lambda: jp.prune_on(PARAMS, MAGNITUDE, {}, rounds=0), "rounds=0"
    ),
    "snip of a sparsity of 95": Misuse(
        lambda: jp.at_init.snip(loss, PARAMS, [INPUTS], sparsity=95), "sparsity=95"
    ),
    "snip of no batches": Misuse(
        lambda: jp.at_init.snip(loss, PARAMS, [], sparsity=0.5), "there is none"
    ),
    "synflow of a dead network": Misuse(
        lambda: jp.at_init.synflow(
            lambda p, x: x @ (p["fc"]["kernel"] * 0), PARAMS, INPUTS, sparsity=0.5, rounds=1
        ),
        "flow",
    ),
}

MISUSES["measures"] = {
    "sensitivity of a NaN loss": Misuse(
        lambda: jp.sensitivity.sensitivity(lambda p: NAN, PARAMS, [0.5]), "loss.*NaN|NaN"
    ),
    "sensitivity of a loss that becomes NaN": Misuse(
        lambda: jp.sensitivity.sensitivity(
            lambda p: NAN if jp.sensitivity and float(p["fc"]["kernel"].min()) == 0 else 1.0,
            PARAMS,
            [0.5],
        ),
        "'fc/kernel'.*NaN|NaN",
    ),
    "sensitivity of an infinite loss": Misuse(
        lambda: jp.sensitivity.sensitivity(lambda p: float("inf"), PARAMS, [0.5]), "inf"
    ),
    "sensitivity of a vector loss": Misuse(
        lambda: jp.sensitivity.sensitivity(lambda p: jnp.ones(3), PARAMS, [0.5]),
        "one number|a number",
    ),
    "sensitivity of no loss": Misuse(
        lambda: jp.sensitivity.sensitivity(None, PARAMS, [0.5]), "evaluate"
    ),
    "sensitivity swapped": Misuse(
        lambda: jp.sensitivity.sensitivity(PARAMS, lambda p: 1.0, [0.5]), "swapped|evaluate"
    ),
    "sensitivity in per cent": Misuse(
        lambda: jp.sensitivity.sensitivity(lambda p: 1.0, PARAMS, [50]), r"\(0, 1\)"
    ),
    "sensitivity descending": Misuse(
        lambda: jp.sensitivity.sensitivity(lambda p: 1.0, PARAMS, [0.9, 0.5]), "ascending"
    ),
    "sensitivity of one number": Misuse(
        lambda: jp.sensitivity.sensitivity(lambda p: 1.0, PARAMS, 0.5), "ascending|a list"
    ),
    "sensitivity of words": Misuse(
        lambda: jp.sensitivity.sensitivity(lambda p: 1.0, PARAMS, ["0.5"]), "quotes|fractions"
    ),
    "a search for nothing": Misuse(
        lambda: jp.sensitivity.search(
            lambda p: 1.0, PARAMS, jp.sensitivity.sensitivity(lambda p: 1.0, PARAMS, [0.5])
        ),
        "budget=.*tolerance=",
    ),
    "a search below what was measured": Misuse(
        lambda: jp.sensitivity.search(
            lambda p: 1.0,
            PARAMS,
            jp.sensitivity.sensitivity(lambda p: 1.0, PARAMS, [0.5]),
            budget=0.1,
        ),
        "cost|0.1",
    ),
    "a search with another table": Misuse(
        lambda: jp.sensitivity.search(
            lambda p: 1.0,
            OTHER,
            jp.sensitivity.sensitivity(lambda p: 1.0, PARAMS, [0.5]),
            budget=0.6,
        ),
        "'fc/kernel'",
    ),
    "a search with a negative tolerance": Misuse(
        lambda: jp.sensitivity.search(
            lambda p: 1.0,
            PARAMS,
            jp.sensitivity.sensitivity(lambda p: 1.0, PARAMS, [0.5]),
            tolerance=-1.0,
        ),
        "tolerance=-1",
    ),
    "3 of 2 neighbours": Misuse(lambda: jp.metrics.nm_faults(PARAMS, 3, 2), "n=3, m=2"),
    "neighbours that do not divide": Misuse(
        lambda: jp.metrics.nm_faults(PARAMS, 1, 3), "'fc/kernel'"
    ),
    "neighbours of half": Misuse(lambda: jp.metrics.check_nm(PARAMS, 2.0, 4), "n=2.0.*write 2"),
    "units of parameters": Misuse(lambda: jp.metrics.units(PARAMS), "bool"),
    "effective masks of another tree": Misuse(
        lambda: jp.metrics.effective(apply, PARAMS, {"conv": KERNEL > 0}, INPUTS),
        "'fc/kernel'|'fc/bias'",
    ),
    "effective masks of another shape": Misuse(
        lambda: jp.metrics.effective(
            apply, PARAMS, {"fc": {"kernel": KERNEL[:1] > 0, "bias": None}}, INPUTS
        ),
        r"\(1, 4\)",
    ),
    "operations of no function": Misuse(
        lambda: jp.metrics.flops(PARAMS, apply, INPUTS), "swapped|function"
    ),
    "a knapsack without a budget": Misuse(
        lambda: jp.allocation.knapsack({"a": [0.0, 1.0]}, {"a": [2.0, 1.0]}, 0.5), "budget|0.5"
    ),
    "a knapsack of other layers": Misuse(
        lambda: jp.allocation.knapsack({"a": [0.0, 1.0]}, {"b": [2.0, 1.0]}, 3.0), "'a'|'b'"
    ),
    "an average's fold of one": Misuse(
        lambda: jp.data.k_folds(examples(), 1, seed=0), "k must be between"
    ),
    "a validation of everything": Misuse(
        lambda: jp.data.split(examples(), 10, seed=0), "cannot hold out 10"
    ),
    "a data set by a wrong name": Misuse(lambda: jp.data.load("mnits"), "mnist"),
    "weights by a wrong name": Misuse(lambda: jp.data.load_weights("resnet9000"), "resnet9000"),
}

MISUSES["gates"] = {
    "a gate on plain parameters": Misuse(
        lambda: jp.gates.hard_concrete().sample(PARAMS, KEY), "gate.init"
    ),
    "a penalty on plain parameters": Misuse(
        lambda: jp.gates.hard_concrete().penalty(PARAMS), "gate.init"
    ),
    "an expectation of plain parameters": Misuse(
        lambda: jp.gates.hard_concrete().expected_l0(PARAMS), "gate.init"
    ),
    "a final network of plain parameters": Misuse(
        lambda: jp.gates.supermask(sparsity=0.5).finalize(PARAMS), "gate.init"
    ),
    "gates of another tree": Misuse(
        lambda: jp.gates.hard_concrete().penalty(
            jp.gates.hard_concrete().init(PARAMS, KEY)._replace(params=OTHER)
        ),
        "'fc/kernel'",
    ),
    "gates of another gate": Misuse(
        lambda: jp.gates.hard_concrete(pattern=jp.patterns.channel()).sample(
            jp.gates.supermask(sparsity=0.5).init(PARAMS, KEY), KEY
        ),
        "gate",
    ),
    "projecting without parameters": Misuse(
        lambda: jp.gates.hard_concrete().project().update(grads(), optax.EmptyState()),
        "needs the parameters",
    ),
    "projecting plain updates": Misuse(
        lambda: (
            jp.gates.hard_concrete()
            .project()
            .update(grads(), optax.EmptyState(), jp.gates.hard_concrete().init(PARAMS, KEY))
        ),
        "gate",
    ),
    "a gate that matches nothing": Misuse(
        lambda: jp.gates.hard_concrete(prunable="conv9").init(PARAMS, KEY), "conv9"
    ),
    "gates.apply of no gate": Misuse(
        lambda: jp.gates.apply(
            None, apply, jp.gates.hard_concrete().init(PARAMS, KEY), INPUTS, key=KEY
        ),
        "gate",
    ),
    "gates.apply on plain parameters": Misuse(
        lambda: jp.gates.apply(jp.gates.variational_dropout(), apply, PARAMS, INPUTS, key=KEY),
        "gate.init",
    ),
    "a gate by its name": Misuse(lambda: jp.gates.gate_of("hard_concrete"), "Rule|rule"),
    "a schedule without its step": Misuse(
        lambda: jp.gates.hard_concrete(strength=lambda step: 0.1 * step).penalty(
            jp.gates.hard_concrete().init(PARAMS, KEY)
        ),
        "step=",
    ),
    "a movement gate that ends before": Misuse(
        lambda: jp.gates.movement(sparsity=0.5, begin=9, end=1), "begin=9"
    ),
}

MISUSES["structured"] = {
    "structured.prune of another tree": Misuse(
        lambda: structured.prune(graph(), PARAMS, sparsity=0.5), "'in'|'fc/kernel'"
    ),
    "structured.prune of both": Misuse(
        lambda: structured.prune(graph(), WEIGHTS, sparsity=0.5, budget=0.5), "one of"
    ),
    "structured.prune of neither": Misuse(lambda: structured.prune(graph(), WEIGHTS), "one of"),
    "structured.prune in per cent": Misuse(
        lambda: structured.prune(graph(), WEIGHTS, sparsity=50), r"\[0, 1\)"
    ),
    "structured.prune in quotes": Misuse(
        lambda: structured.prune(graph(), WEIGHTS, sparsity="0.5"), "quotes"
    ),
    "structured.prune of no group": Misuse(
        lambda: structured.prune(graph(), WEIGHTS, sparsity={"conv9": 0.5}), "conv9"
    ),
    "structured.prune with no scope": Misuse(
        lambda: structured.prune(graph(), WEIGHTS, sparsity=0.5, scope="all"), "scope='all'"
    ),
    "structured.prune of a budget of 2": Misuse(
        lambda: structured.prune(graph(), WEIGHTS, budget=2.0), "budget=2"
    ),
    "structured.prune of no graph": Misuse(
        lambda: structured.prune(WEIGHTS, graph(), sparsity=0.5), "swapped"
    ),
    "structured.prune of a broken expression": Misuse(
        lambda: structured.prune(graph(), WEIGHTS, sparsity=0.5, only="["), "no regular expression"
    ),
    "structured.prune by a broken expression": Misuse(
        lambda: structured.prune(graph(), WEIGHTS, sparsity={"[": 0.5}), "no regular expression"
    ),
    "structured.prune to nothing": Misuse(
        lambda: structured.prune(graph(), WEIGHTS, sparsity=0.5, round_to=0), "round_to=0"
    ),
    "structured.prune with foreign masks": Misuse(
        lambda: structured.prune(graph(), WEIGHTS, sparsity=0.5, masks={"conv": KERNEL > 0}), "'in'"
    ),
    "structured.prune without a signal": Misuse(
        lambda: structured.prune(graph(), WEIGHTS, sparsity=0.5, criterion=jp.criteria.snip),
        "'grads'",
    ),
    "structured.prune of NaN": Misuse(
        lambda: structured.prune(
            graph(), {"in": jnp.full((3, 8), NAN), "out": jnp.ones((8, 2))}, sparsity=0.5
        ),
        "NaN",
    ),
    "structured.load that is trusted by a word": Misuse(
        lambda: structured.load("nowhere", trusted="no"), "trusted='no'.*True or False"
    ),
    "structured.trace of no function": Misuse(
        lambda: structured.trace(WEIGHTS, network, jnp.ones((1, 3))), "swapped|function"
    ),
    "structured.trace of words": Misuse(
        lambda: structured.trace(network, {"in": "w"}, jnp.ones((1, 3))), "'in'"
    ),
    "structured.shrink of another tree": Misuse(
        lambda: structured.shrink(graph(), PARAMS, unit_masks()), "'in'|'fc/kernel'"
    ),
    "structured.shrink of another shape": Misuse(
        lambda: structured.shrink(
            graph(), {"in": jnp.ones((3, 9)), "out": jnp.ones((9, 2))}, unit_masks()
        ),
        r"'in'.*\(3, 9\)",
    ),
    "structured.shrink of single weights": Misuse(
        lambda: structured.shrink(
            graph(), WEIGHTS, {"in": jnp.eye(3, 8, dtype=bool) == 0, "out": None}
        ),
        "no unit",
    ),
    "structured.shrink of foreign masks": Misuse(
        lambda: structured.shrink(graph(), WEIGHTS, HALF), "'in'"
    ),
    "structured.shrink swapped": Misuse(
        lambda: structured.shrink(graph(), unit_masks(), WEIGHTS), "swapped"
    ),
    "structured.shrink of no graph": Misuse(
        lambda: structured.shrink(network, WEIGHTS, unit_masks()), "graph"
    ),
    "structured.flops of another tree": Misuse(
        lambda: structured.flops(graph(), WEIGHTS, HALF), "'in'"
    ),
    "structured.report of foreign masks": Misuse(
        lambda: structured.report(graph(), WEIGHTS, HALF, jnp.ones((1, 3))), "'in'"
    ),
    "structured.verify of another tree": Misuse(
        lambda: structured.verify(graph(), PARAMS, jnp.ones((1, 3))), "'in'|'fc/kernel'"
    ),
    "structured.fold of foreign masks": Misuse(
        lambda: structured.fold(graph(), WEIGHTS, HALF, jnp.ones((2, 3))), "'in'"
    ),
    "structured.coupled with nothing left": Misuse(
        lambda: structured.coupled(graph(), only="conv9"), "conv9"
    ),
    "structured.coupled by a broken expression": Misuse(
        lambda: structured.coupled(graph(), only="["), "no regular expression"
    ),
    "structured.coupled reduced by the unknown": Misuse(
        lambda: structured.coupled(graph(), reduce="median"), "median"
    ),
    "structured.coupled of no graph": Misuse(lambda: structured.coupled(WEIGHTS), "graph"),
    "structured.scores of another tree": Misuse(
        lambda: structured.scores(graph(), PARAMS), "'in'|'fc/kernel'"
    ),
    "structured.without_blocks of none": Misuse(
        lambda: structured.without_blocks(graph(), ["block9"]), "block9"
    ),
    "structured.latency of no repeats": Misuse(
        lambda: structured.latency(jnp.ones((1, 3)), repeats=0), "repeats=0"
    ),
    "structured.smaller of a function": Misuse(
        lambda: structured.smaller(network, jnp.ones((1, 3)), sparsity=0.5), "smaller"
    ),
}


def examples():
    return jp.data.Split(np.zeros((10, 2)), np.zeros(10, int))


def plan(params=PARAMS):
    return jp.posttrain.plan(apply, params, INPUTS)


def pruned_after(params=PARAMS, the_plan=None, batches=(INPUTS,), solver=None, **options):
    solver = jp.posttrain.solvers.sparsegpt() if solver is None else solver
    the_plan = plan() if the_plan is None else the_plan
    return jp.posttrain.prune(the_plan, params, batches, solver=solver, **options)


def spoilt(number):
    return {"fc": {**PARAMS["fc"], "kernel": KERNEL.at[1, 2].set(number)}}


SOLVERS = jp.posttrain.solvers
RATES = jp.posttrain.rates
MISUSES["posttrain"] = {
    "NaN that a solver would drop": Misuse(
        lambda: pruned_after(spoilt(NAN), solver=SOLVERS.admm()), "'fc/kernel' are NaN"
    ),
    "infinity that propagation would repair": Misuse(
        lambda: pruned_after(spoilt(jnp.inf), propagate=0.5), "'fc/kernel' are NaN or infinity"
    ),
    "a solver by its name": Misuse(
        lambda: pruned_after(solver="sparsegpt"), "a solver is needed, not a string"
    ),
    "a solver uncalled": Misuse(
        lambda: pruned_after(solver=SOLVERS.sparsegpt), r"call it: sparsegpt\("
    ),
    "a criterion for a solver": Misuse(
        lambda: pruned_after(solver=jp.criteria.magnitude), "by_criterion"
    ),
    "a method for a solver": Misuse(lambda: pruned_after(solver=MAGNITUDE), "by_criterion"),
    "a rate in quotes": Misuse(lambda: pruned_after(rates="0.5"), "leave out the quotes"),
    "no rate": Misuse(lambda: pruned_after(rates=None), "a fraction.* is needed, not None"),
    "a rate of 2": Misuse(lambda: pruned_after(rates=2.0), "the sparsity of 'fc/kernel' is 2"),
    "rates that are words": Misuse(lambda: pruned_after(rates={".*": "x"}), "is needed"),
    "rates of a function of words": Misuse(
        lambda: pruned_after(rates=lambda plan: "x"), "return a list of numbers"
    ),
    "rates of a function of nothing": Misuse(
        lambda: pruned_after(rates=lambda: 0.5), "a function of the plan is needed"
    ),
    "no rates by expression": Misuse(lambda: RATES.by_path({}), "fractions by regular expression"),
    "a rate of 2 by expression": Misuse(lambda: RATES.by_path({".*": 2}), "sparsity=2"),
    "outliers of a sparsity of 2": Misuse(lambda: RATES.owl(2.0), "sparsity=2.0"),
    "outliers in quotes": Misuse(lambda: RATES.owl("0.5"), "leave out the quotes"),
    "rates by depth in quotes": Misuse(
        lambda: RATES.monotone("0.5", step=0.1), "leave out the quotes"
    ),
    "rates by measurement of no solver": Misuse(
        lambda: RATES.measured(0.5, solver="sparsegpt"), "a solver is needed"
    ),
    "a function for the plan": Misuse(lambda: pruned_after(the_plan=apply), "a plan is needed"),
    "swapped plan and parameters": Misuse(
        lambda: jp.posttrain.prune(PARAMS, plan(), [INPUTS], solver=SOLVERS.sparsegpt()), "swapped"
    ),
    "another tree than the plan's": Misuse(lambda: pruned_after(OTHER), "'conv/kernel'"),
    "another shape than the plan's": Misuse(lambda: pruned_after(TALL), "'fc/kernel'"),
    "batches of another shape": Misuse(
        lambda: pruned_after(batches=[jnp.ones((3, 8))]), r"an array \(3, 8\)"
    ),
    "batches of NaN": Misuse(lambda: pruned_after(batches=[INPUTS * NAN]), "batch 0.*NaN"),
    "one batch for a list": Misuse(lambda: pruned_after(batches=INPUTS), "make a list"),
    "recovery by a name": Misuse(lambda: pruned_after(recover="adam"), "reconstruct"),
    "an optimizer for a recovery": Misuse(lambda: pruned_after(recover=SGD), "reconstruct"),
    "half a batch held out": Misuse(lambda: pruned_after(hold_out=1.5), "an integer is needed"),
    "progress by a word": Misuse(lambda: pruned_after(progress="yes"), "a function is needed"),
    "a number for posttrain's key": Misuse(lambda: pruned_after(key=0), r"jax.random.key\(0\)"),
    "a plan of swapped arguments": Misuse(
        lambda: jp.posttrain.plan(PARAMS, apply, INPUTS), "swapped"
    ),
    "a plan that excludes a number": Misuse(
        lambda: jp.posttrain.plan(apply, PARAMS, INPUTS, exclude=3), "a regular expression"
    ),
}
