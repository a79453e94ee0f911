"""Arguments of the wrong kind: who refuses them, what was found, what is needed and what to do."""

import dataclasses
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune import checks, parts
from jaxprune.pruning.scoring import check_signals

PARAMS = {"a": jnp.arange(1.0, 9.0).reshape(2, 4), "b": jnp.ones((4, 2))}
MASKS = jax.tree.map(lambda p: p > 1, PARAMS)
GRADS = jax.tree.map(jnp.ones_like, PARAMS)
KEY = jax.random.key(0)
ADAM = optax.adam(1e-3)
GMP = jp.methods.gmp(sparsity=0.5, begin=0, end=10, every=1)
RANDOM = jp.methods.random(sparsity=0.5)
ONCE = jp.schedules.one_shot(sparsity=0.5)
PLAN = jp.lottery.Plan(round_steps=5, rounds=2)
GATE = jp.gates.hard_concrete()
THETA = GATE.init(PARAMS, KEY)
STATE = jp.sparsify(ADAM, GMP).init(PARAMS)
THROUGH = jp.straight_through(ADAM, GMP)
AVERAGED = jp.averaged(ADAM, 0.9)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Module:
    """Like a module of Equinox: its activation is a leaf."""

    weight: jax.Array
    activation: object


class Plain:
    """Like a module of linen: no tree at all."""


MODULE = Module(jnp.ones((2, 2)), jax.nn.relu)


def method(**changed):
    return jp.Method(**{"criterion": jp.criteria.magnitude, "schedule": ONCE} | changed)


def needs_no_signals(params):
    return params


def update(**changed):
    given = {"grads": GRADS, "state": STATE, "params": PARAMS} | changed
    return jp.sparsify(ADAM, GMP).update(*given.values())


SWAPPED = {
    "prune": lambda: jp.prune(GMP, PARAMS),
    "prune_on": lambda: jp.prune_on(GMP, PARAMS, {}),
    "next_masks: method": lambda: jp.next_masks(PARAMS, GMP, MASKS, 0),
    "next_masks: masks": lambda: jp.next_masks(GMP, MASKS, PARAMS, 0),
    "sparsify": lambda: jp.sparsify(GMP, ADAM),
    "straight_through": lambda: jp.straight_through(GMP, ADAM),
    "lottery_ticket": lambda: jp.lottery_ticket(GMP, ADAM, PLAN),
    "lottery_ticket: method": lambda: jp.lottery_ticket(ADAM, PLAN, GMP),
    "fixed": lambda: jp.fixed(MASKS, ADAM),
    "growing": lambda: jp.growing(MASKS, ADAM, decay=0.1, until=5),
    "averaged": lambda: jp.averaged(0.9, ADAM),
    "proximal": lambda: jp.proximal(jp.penalties.l1(0.1), ADAM, 0.1),
    "masks.apply": lambda: jp.masks.apply(MASKS, PARAMS),
    "masks.check": lambda: jp.masks.check(MASKS, PARAMS),
    "masks.validate": lambda: jp.masks.validate(MASKS, PARAMS),
    "masks.shuffle": lambda: jp.masks.shuffle(KEY, MASKS),
    "gate.init": lambda: GATE.init(KEY, PARAMS),
    "gate.sample": lambda: GATE.sample(KEY, THETA),
    "Method: schedule": lambda: jp.Method(ONCE, schedule=jp.criteria.magnitude),
    "Method: pattern": lambda: method(
        pattern=jp.allocation.erk(), allocation=jp.patterns.groups(4)
    ),
    "gmp": lambda: jp.methods.magnitude(
        sparsity=0.5, pattern=jp.allocation.erk(), allocation=jp.patterns.channel()
    ),
    "forward_params": lambda: jp.forward_params(THROUGH.init(PARAMS), PARAMS),
    "average_of": lambda: jp.average_of(AVERAGED.init(PARAMS), PARAMS),
    "sparsify: state": lambda: update(state=PARAMS, params=STATE),
}


@pytest.mark.parametrize("name", SWAPPED)
def test_swapped_arguments_are_told_to_be(name):
    who = name.split(":")[0].replace("gmp", "magnitude")
    with pytest.raises(
        TypeError, match=rf"^{re.escape(who)}: \w+ and \w+ are swapped; (give|write)"
    ):
        SWAPPED[name]()


# What the message matches, and the call.
WRONG_TYPES = {
    # a method is wanted
    r"prune\(method=magnitude\): a method is": lambda: jp.prune(PARAMS, jp.criteria.magnitude),
    r"jaxprune\.Method\(taylor, schedule=\.\.\.\)": lambda: jp.sparsify(ADAM, jp.criteria.taylor),
    r"not called; call it: gmp\(sparsity=\.\.\., beg": lambda: jp.sparsify(ADAM, jp.methods.gmp),
    r"sparsify\(method='gmp'\): a method is needed, not a str": lambda: jp.sparsify(ADAM, "gmp"),
    r"not a dict; .* jaxprune\.partition\(": lambda: jp.sparsify(ADAM, {"a": GMP}),
    r"method=one_shot\(sparsity=0\.5\)\): .* not a Schedule": lambda: jp.sparsify(ADAM, ONCE),
    r"straight_through\(method=None\): a method is": lambda: jp.straight_through(ADAM, None),
    r"lottery_ticket\(method='gmp'\)": lambda: jp.lottery_ticket(ADAM, "gmp", PLAN),
    r"lottery\.Plan is needed, not a dict": lambda: jp.lottery_ticket(ADAM, GMP, {"rounds": 3}),
    r"next_masks\(method='gmp'\)": lambda: jp.next_masks("gmp", PARAMS, MASKS, 0),
    r"prune_on\(method=taylor\)": lambda: jp.prune_on(PARAMS, jp.criteria.taylor, {}),
    r"partition\(methods\['a'\]=gmp\): .* call it": lambda: jp.partition({"a": jp.methods.gmp}),
    r"methods\['a'\]='gmp'\): a method is needed, not a str": lambda: jp.partition({"a": "gmp"}),
    r"partition\(methods=gmp\(.*\): a dict or pairs are needed": lambda: jp.partition(GMP),
    r"a dict or pairs are needed": lambda: jp.partition([GMP, GMP]),
    # an optimizer is wanted
    r"sparsify\(inner=adam\): .* call it: adam\(learning": lambda: jp.sparsify(optax.adam, GMP),
    r"fixed\(inner=sgd\): an optimizer of optax is needed": lambda: jp.fixed(optax.sgd, MASKS),
    r"recorded\(inner='adam'\): .* such as optax\.adam\(1e-3\)": lambda: jp.recorded("adam"),
    r"averaged\(inner=adam\)": lambda: jp.averaged(optax.adam, 0.9),
    r"proximal\(inner=0\.001\)": lambda: jp.proximal(1e-3, jp.penalties.l1(0.1), 0.1),
    # parts of a method
    r"Method\(criterion=one_shot\(.*: a criterion .* a Schedule": lambda: method(criterion=ONCE),
    r"not a Method; that of this method is its attribute crit": lambda: method(criterion=GMP),
    r"Method\(criterion=gmp\): a criterion is needed": lambda: method(criterion=jp.methods.gmp),
    r"'magnitude'\): .* such as criteria\.magnitude": lambda: method(criterion="magnitude"),
    r"schedule='cubic'\): .* schedules\.one_shot\(sparsity": lambda: method(schedule="cubic"),
    r"call it: cubic\(sparsity=\.\.\., begin=": lambda: method(schedule=jp.schedules.cubic),
    r"Method\(schedule=0\.5\): a schedule is needed, not a float": lambda: method(schedule=0.5),
    r"2:4 is patterns\.groups\(4\) at a sparsity of 0\.5": lambda: method(pattern="2:4"),
    r"1:4 is patterns\.groups\(4\) at a sparsity of 0\.75": lambda: method(pattern="1:4"),
    r"Method\(pattern=groups\): .* call it: groups\(\)": lambda: method(pattern=jp.patterns.groups),
    r"Method\(pattern=4\): a pattern is needed, not an int": lambda: method(pattern=4),
    r"Method\(pattern=None\): a pattern is needed, not None": lambda: method(pattern=None),
    r"allocation='erk'\): .* such as allocation\.erk\(\)": lambda: method(allocation="erk"),
    r"not called; call it: erk\(\)": lambda: method(allocation=jp.allocation.erk),
    r"allocation=magnitude\): an allocation is": lambda: method(allocation=jp.criteria.magnitude),
    r"Method\(update=prune\): .* call it: prune\(\)": lambda: method(update=jp.updates.prune),
    r"update='regrow'\): an update is needed, not a string": lambda: method(update="regrow"),
    r"Method\(initial=0\.5\): a criterion is needed, not a float": lambda: method(initial=0.5),
    r"Method\(backward=True\): a Backward is needed, not a bool": lambda: method(backward=True),
    r"^gmp\(patt": lambda: jp.methods.gmp(sparsity=0.5, begin=0, end=9, every=1, pattern="2:4"),
    r"regrow\(grow_criterion=gmp\): a criterion is need": lambda: jp.updates.regrow(jp.methods.gmp),
    r"cosine\(fractio": lambda: jp.updates.regrow(jp.criteria.random, fraction=jp.updates.cosine),
    r"regrow\(fraction='a'\): a num": lambda: jp.updates.regrow(jp.criteria.random, fraction="a"),
    r"at_cost\(allocation='erk'\): an allocation is": lambda: jp.allocation.at_cost("erk", {}),
    r"group_l2\(pattern='2:4'\): a pattern": lambda: jp.penalties.group_l2(0.1, pattern="2:4"),
    r"hard_concrete\(pattern='2:4'\): a pattern": lambda: jp.gates.hard_concrete(pattern="2:4"),
    r"pattern\['a'\]=channel": lambda: jp.gates.hard_concrete(pattern={"a": jp.patterns.channel}),
    # a key is missing, or none
    r"random: .*'key' is missing; give key=jax\.random\.key\(0\)": lambda: jp.prune(PARAMS, RANDOM),
    r"random: .*'key' is missing": lambda: jp.sparsify(ADAM, RANDOM).update(GRADS, STATE, PARAMS),
    r"'key' is missing": lambda: jp.sparsify(ADAM, jp.methods.static(sparsity=0.5)).init(PARAMS),
    r"prune_on: random draws .*'key' is missing; give": lambda: jp.prune_on(PARAMS, RANDOM, {}),
    r"prune\(key=0\): .* write jax\.random\.key\(0\)": lambda: jp.prune(PARAMS, RANDOM, key=0),
    r"sparsify\(key=7\): .* jax\.random\.key\(7\)": lambda: jp.sparsify(ADAM, RANDOM, key=7),
    r"\(key='a'\): a PRNG key is needed, not a": lambda: jp.straight_through(ADAM, GMP, key="a"),
    r"lottery_ticket\(key=1\.5\): a PRNG key": lambda: jp.lottery_ticket(ADAM, GMP, PLAN, key=1.5),
    r"prune_on\(key=0\): a PRNG key is needed": lambda: jp.prune_on(PARAMS, RANDOM, {}, key=0),
    r"of these 3 keys give one": lambda: jp.sparsify(ADAM, RANDOM, key=jax.random.split(KEY, 3)),
    r"such as key\[0": lambda: jp.sparsify(ADAM, GMP, key=jax.random.split(jax.random.PRNGKey(0))),
    r"masks\.shuffle\(key=0\): a PRNG key is needed, not an": lambda: jp.masks.shuffle(MASKS, 0),
    r"gate\.init\(key=0\): a PRNG key is needed, not an int": lambda: GATE.init(PARAMS, 0),
    r"gate\.sample\(key=0\): a PRNG key is needed, not an int": lambda: GATE.sample(THETA, 0),
    # signals
    r"taylor: .* reads 'grads', given was 'gradients': write grads=": lambda: jp.prune(
        PARAMS, method(criterion=jp.criteria.taylor), gradients=GRADS
    ),
    r"wanda: the signal 'input_moments' is missing; .* write input_moments=": lambda: jp.prune(
        PARAMS, method(criterion=jp.criteria.wanda), inputs=GRADS
    ),
    r"'inverse_fisher' is missing; .* write inverse_fisher=": lambda: jp.prune(
        PARAMS, method(criterion=jp.criteria.woodfisher), fisher=GRADS
    ),
    r"'grads', given was nothing: give grads= as well": lambda: jp.prune(
        PARAMS, method(criterion=jp.criteria.taylor)
    ),
    r"movement: .* training remembers it, but in one shot you must give movement_sum=": lambda: (
        jp.prune(PARAMS, method(criterion=jp.criteria.movement))
    ),
    r"wanda: .* given was 'grads': give input_moments= as well": lambda: jp.sparsify(
        ADAM, method(criterion=jp.criteria.wanda)
    ).update(GRADS, STATE, PARAMS),
    r"needs_no_signals: it takes no signal 'grads'; let its arguments end with \*\*_": lambda: (
        jp.prune(PARAMS, method(criterion=needs_no_signals), grads=GRADS)
    ),
    r"prune_on\(gatherers=\[1, 2\]\): a dict of func": lambda: jp.prune_on(PARAMS, GMP, [1, 2]),
    r"a dict of functions of the parameters": lambda: jp.prune_on(PARAMS, GMP, {"grads": GRADS}),
    r"leaf 'm/activation' is the func": lambda: jp.straight_through(ADAM, GMP).init({"m": MODULE}),
    r"its leaf 'a' is a string": lambda: jp.masks.make({"a": "kernel"}),
    r"not a Plain; give the parameters alone, such as model\.init": lambda: jp.prune(Plain(), GMP),
    # masks
    r"fixed\(masks=gmp\(.*\): a tree of bool arrays is needed, not a": lambda: jp.fixed(ADAM, GMP),
    r"its leaf 'a' is float32; masks\.make\(params\) makes masks": lambda: jp.fixed(ADAM, PARAMS),
    r"growing\(masks='all'\): a tree of bool": lambda: jp.growing(ADAM, "all", decay=0.1, until=5),
    r"masks\.sparsity\(masks=.*: a tree of bool arrays is need": lambda: jp.masks.sparsity(PARAMS),
    r"jaxprune\.masks_of\(opt_state\) reads them": lambda: jp.masks.sparsity(STATE),
    r"masks\.jaccard\(b=.*: a tree of bool": lambda: jp.masks.jaccard(MASKS, PARAMS),
    r"masks\.hamming\(a=.*: a tree of bool": lambda: jp.masks.hamming(PARAMS, MASKS),
    r"masks\.summary\(masks=": lambda: jp.masks.summary(PARAMS),
    r"masks\.table\(masks=": lambda: jp.masks.table(PARAMS),
    r"masks\.pack\(masks=": lambda: jp.masks.pack(PARAMS),
    r"masks\.make\(prunable=3\): a filter is needed, not an int": lambda: jp.masks.make(PARAMS, 3),
    r"a filter is needed, not a dict; a regular expression": lambda: jp.masks.make(PARAMS, MASKS),
    r"prunable: a regular expression is needed, not an int": lambda: jp.masks.make(PARAMS, [3]),
    r"partition: a regular expression is needed, not an int": lambda: jp.partition({3: GMP}),
    r"by_path\(sparsities=\[0\.5\]\): a dict of numbers": lambda: jp.allocation.by_path([0.5]),
    # numbers
    r"^magnitude\(sparsity='0\.5'\): .* the quotes": lambda: jp.methods.magnitude(sparsity="0.5"),
    r"sr_ste\(sparsity='half'\): a number is": lambda: jp.methods.sr_ste(sparsity="half", end=9),
    r"\(sparsity=None\): a number is needed, not None": lambda: jp.methods.magnitude(sparsity=None),
    r"a number is needed, not a bool": lambda: jp.methods.magnitude(sparsity=True),
    r"a number is needed, not a list": lambda: jp.methods.magnitude(sparsity=[0.5]),
    r"float32\[2\]\): .* not an array": lambda: jp.methods.magnitude(sparsity=jnp.ones(2)),
    r"magnitude\(at=0\.5\): an integer .* rou": lambda: jp.methods.magnitude(sparsity=0.5, at=0.5),
    r"iterative\(every=1\.5\)": lambda: jp.methods.iterative(rate=0.2, every=1.5, levels=3),
    r"end=10000\.0\): .* write 10000": lambda: jp.schedules.cubic(sparsity=0.5, begin=0, end=1e4),
    r"cubic\(begin=0\.5\): an integer": lambda: jp.schedules.cubic(sparsity=0.5, begin=0.5, end=9),
    r"every\(every=True\): .* not a bool": lambda: jp.schedules.every(True, sparsity=0.5, end=9),
    r"an integer is needed": lambda: jp.schedules.every(np.True_, sparsity=0.5, end=9),
    r"uniform\(rates\['a'\]='0\.5'\): a number is": lambda: jp.allocation.uniform({"a": "0.5"}),
    r"set_\(decay=0\.1\): True": lambda: jp.methods.set_(sparsity=0.5, every=1, end=9, decay=0.1),
    r"groups\(m='4'\): an integer is needed, not a string": lambda: jp.patterns.groups("4"),
    r"block\(shape=4\): a pair of integers is needed, not an int": lambda: jp.patterns.block(4),
    r"l1\(strength='0\.1'\): a number or a schedule of optax": lambda: jp.penalties.l1("0.1"),
    r"l1\(strength=linear_schedule\): a number or": lambda: jp.penalties.l1(optax.linear_schedule),
    r"group_l2\(axis=1\.5\): one axis or several": lambda: jp.penalties.group_l2(0.1, axis=1.5),
    r"coupled\(groups=.*: a list of couplings is": lambda: jp.penalties.coupled(0.1, {"a": -1}),
    r"Plan\(round_steps=1\.5\): an integer is": lambda: jp.lottery.Plan(round_steps=1.5, rounds=2),
    r"growing\(until=1\.5\): an integer": lambda: jp.growing(ADAM, MASKS, decay=0.1, until=1.5),
    r"growing\(decay='a'\): a number or a sch": lambda: jp.growing(ADAM, MASKS, decay="a", until=1),
    r"averaged\(decay='0\.9'\): a number is needed, not a string": lambda: jp.averaged(ADAM, "0.9"),
    r"prune_on\(rounds=1\.5\): an integer is": lambda: jp.prune_on(PARAMS, GMP, {}, rounds=1.5),
    r"sparsify\(packed=1\): True or False is needed": lambda: jp.sparsify(ADAM, GMP, packed=1),
    r"movement\(end=1\.5\): an integer is needed": lambda: jp.gates.movement(sparsity=0.5, end=1.5),
    r"supermask\(sparsity='0\.5'\): a number is needed": lambda: jp.gates.supermask(sparsity="0.5"),
    r"dropout_rate\['a'\]='b'\): a number": lambda: jp.gates.hard_concrete(dropout_rate={"a": "b"}),
    r"sparsity=float32\[\]\): .* not a traced value; .* outside of the function": lambda: jax.jit(
        lambda s: jp.prune(PARAMS, jp.methods.magnitude(sparsity=s))
    )(0.5),
    # penalties and gates
    r"proximal\(penalty=l1\): .* call it: l1\(str": lambda: jp.proximal(ADAM, jp.penalties.l1, 0.1),
    r"proximal\(penalty=0\.1\): a penalty is needed, not a fl": lambda: jp.proximal(ADAM, 0.1, 0.1),
    r"proximal\(learning_rate='a'\): a numb": lambda: jp.proximal(ADAM, jp.penalties.l1(0.1), "a"),
    r"preconditioner=adam\): .* such as preconditioners\.adam\(\), called": lambda: jp.proximal(
        ADAM, jp.penalties.l1(0.1), 0.1, preconditioner=jp.preconditioners.adam
    ),
    r"add_penalty\(penalty='l1'\): a penalty is needed, not a str": lambda: jp.add_penalty("l1"),
    r"gate\.sample\(theta=.*: a Gated is needed": lambda: GATE.sample(PARAMS, KEY),
    r"gate\.penalty\(theta=.*theta = gate\.init\(params, key\)": lambda: GATE.penalty(PARAMS),
    r"gate\.expected_l0\(theta=": lambda: GATE.expected_l0(PARAMS),
    r"gate\.finalize\(theta=": lambda: GATE.finalize(PARAMS),
    r"gates\.apply\(gate=hard_concrete\): a gate is needed, not a function": lambda: jp.gates.apply(
        jp.gates.hard_concrete, jnp.sin, THETA, key=KEY
    ),
    r"needs the SparseState that init\(params\) returned": lambda: update(state=ADAM.init(PARAMS)),
}
WRONG_VALUES = {
    r"masks: the tree differs .*missing 'b'": lambda: jp.masks.apply(PARAMS, {"a": MASKS["a"]}),
    r"masks: the tree differs": lambda: jp.next_masks(GMP, PARAMS, None, 0),
    r"prunable: '\[' is no regular expression \(unterminated": lambda: jp.masks.make(PARAMS, "["),
    r"'\(' is no regular expression .* re\.es": lambda: jp.prune(PARAMS, GMP, prunable=["a", "("]),
    r"prunable: '\*' is no regular ex": lambda: jp.sparsify(ADAM, GMP, prunable="*").init(PARAMS),
    r"partition: '\[' is no regular expression": lambda: jp.partition({"[": GMP}),
    r"uniform\(rates=\): '\[' is no regular expressi": lambda: jp.allocation.uniform({"[": 0.5}),
    r"by_path: '\[' is no regular expression": lambda: jp.allocation.by_path({"[": 0.5}),
    r"uniform_plus: '\[' is no regular": lambda: jp.allocation.uniform_plus(first="[", last="b"),
    r"l1\(leaves=\): '\[' is no regular expression": lambda: jp.penalties.l1(0.1, leaves="["),
    r"'\[' is no regular": lambda: jp.gates.hard_concrete(strength={"[": 1.0}).init(PARAMS, KEY),
    r"sparsify: update\(grads, state, params\) needs the parameters": lambda: update(params=None),
    r"the gradients are another tree .*missing 'b'": lambda: update(grads={"a": GRADS["a"]}),
    r"'a' has gradients of the shape \(1,": lambda: update(grads=GRADS | {"a": jnp.ones((1, 4))}),
    r"parameters are not those that init was given; .*unexpected 'b'": lambda: update(
        params={"a": PARAMS["a"]}, grads={"a": GRADS["a"]}
    ),
}
NOT_SPLIT = {
    "prune": lambda: jp.prune(MODULE, GMP),
    "prune_on": lambda: jp.prune_on(MODULE, GMP, {}),
    "sparsify": lambda: jp.sparsify(ADAM, GMP).init(MODULE),
    "lottery_ticket": lambda: jp.lottery_ticket(
        ADAM, jp.methods.magnitude(sparsity=0.5), PLAN
    ).init(MODULE),
    "proximal": lambda: jp.proximal(ADAM, jp.penalties.l1(0.1), 0.1).init(MODULE),
    "add_penalty": lambda: jp.add_penalty(jp.penalties.l1(0.1)).init(MODULE),
    "fixed": lambda: jp.fixed(ADAM, MASKS).init(MODULE),
    "growing": lambda: jp.growing(ADAM, MASKS, decay=0.1, until=5).init(MODULE),
    "averaged": lambda: jp.averaged(ADAM, 0.9).init(MODULE),
    "masks.make": lambda: jp.masks.make(MODULE),
    "gate.init": lambda: GATE.init(MODULE, KEY),
}


MISTAKES = [(TypeError, *pair) for pair in WRONG_TYPES.items()]
MISTAKES += [(ValueError, *pair) for pair in WRONG_VALUES.items()]
SPLIT = r"leaf 'activation' is the function relu; .* eqx\.partition\(module, eqx\.is_array\)"
MISTAKES += [(TypeError, SPLIT, call) for call in NOT_SPLIT.values()]


@pytest.mark.parametrize(("error", "words", "call"), MISTAKES, ids=[m[1][:50] for m in MISTAKES])
def test_mistakes_are_told_in_a_sentence(error, words, call):
    with pytest.raises(error, match=words) as caught:
        call()
    said = str(caught.value)
    assert said.endswith(".")
    assert " at 0x" not in said
    assert len(said) < 400


FACTORIES = [
    (concept, name)
    for concept in ("patterns", "schedules", "allocation", "updates", "penalties", "methods")
    for name in getattr(jp, concept).__all__
    if hasattr(getattr(getattr(jp, concept), name), "__wrapped__")
]
VALUES = {"sparsity": 0.5, "begin": 0, "end": 50, "every": 2, "levels": 3, "cycles": 2, "rate": 0.2}
VALUES |= {"grow_criterion": jp.criteria.random, "shares": jp.updates.by_survivors, "fraction": 0.5}
VALUES |= {"shape": (2, 2), "first": "a", "last": "b", "sparsities": {"a": 0.5}, "quality": 1.0}
VALUES |= {"costs": {"a": 1.0}, "allocation": jp.allocation.erk(), "strength": 0.1, "ridge": 0.1}
VALUES |= {"groups": [{"a": 0}], "backward_sparsity": 0.2, "count": 3}


@pytest.mark.parametrize(("concept", "name"), FACTORIES, ids=[name for _, name in FACTORIES])
def test_every_factory_refuses_what_is_no_number_and_no_part(concept, name):
    make = getattr(getattr(jp, concept), name)
    parameters = inspect.signature(make).parameters.values()
    needed = {p.name: VALUES[p.name] for p in parameters if p.default is p.empty}
    checked = [p for p in parameters if p.annotation in parts._KINDS]
    for parameter in checked:
        for wrong in ("x", object(), [1], jp.methods.gmp, KEY, GMP, ADAM):
            with pytest.raises(
                TypeError, match=rf"^{name}\({parameter.name}=.* (is|are) needed, not"
            ):
                make(**needed | {parameter.name: wrong})
    known = {
        "sparsity",
        "begin",
        "end",
        "every",
        "initial",
        "pattern",
        "allocation",
        "grow_criterion",
    }
    assert known & {p.name for p in parameters} == known & {p.name for p in checked}


@pytest.mark.parametrize("number", [np.int64(2), np.int32(2), jnp.int32(2), np.uint8(2)])
def test_integers_of_numpy_and_jax_are_integers(number):
    schedule = jp.schedules.every(number, sparsity=0.5, end=number * 3)
    assert [t for t in range(8) if schedule.due(t)] == [2, 4, 6]
    assert int(jp.schedules.one_shot(sparsity=0.5, at=number).end) == 2


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), jnp.float32(0.5), 1 / 2])
def test_numbers_of_numpy_and_jax_are_numbers(number):
    _, masks = jp.prune(PARAMS, jp.methods.magnitude(sparsity=number))
    assert float(jp.masks.sparsity(masks)) == 0.5


@pytest.mark.parametrize("key", [KEY, jax.random.PRNGKey(0), jax.random.key(0, impl="rbg")])
def test_keys_of_both_kinds_are_keys(key):
    jp.prune(PARAMS, RANDOM, key=key)
    jp.sparsify(ADAM, RANDOM, key=key).init(PARAMS)


def test_signals_by_position_or_with_a_default_are_no_mistake():
    def by_position(params, grads, scale=2.0, **_):
        return jax.tree.map(lambda g: scale * g, grads)

    class Object:
        def __call__(self, params, *, grads, **_):
            return grads

    for criterion in (by_position, Object()):
        check_signals(criterion, {"grads": GRADS})
        jp.prune(PARAMS, method(criterion=criterion), grads=GRADS, key=KEY)
        with pytest.raises(TypeError, match="'grads' is missing"):
            check_signals(criterion, {"key": KEY})


def test_masks_and_parameters_that_look_alike_are_no_mistake():
    assert jp.masks.apply({}, {}) == {}
    both = jp.masks.apply(MASKS, MASKS)
    assert all(map(jnp.array_equal, jax.tree.leaves(both), jax.tree.leaves(MASKS)))
    packed = jp.masks.pack(MASKS)
    assert float(jp.masks.sparsity(packed)) == float(jp.masks.sparsity(MASKS))
    jp.masks.validate(PARAMS, packed)
    jp.fixed(ADAM, packed).init(PARAMS)


def test_a_compiled_step_checks_nothing(monkeypatch):
    tx = jp.sparsify(optax.sgd(0.1), GMP)
    step, state = jax.jit(tx.update), tx.init(PARAMS)
    _, state = step(GRADS, state, PARAMS)

    def fail(*_, **__):
        raise AssertionError("checked while training")

    monkeypatch.setattr(checks, "check", fail)
    monkeypatch.setattr(checks, "swapped", fail)
    with pytest.raises(AssertionError, match="while training"):
        tx.update(GRADS, state, PARAMS)
    for _ in range(3):
        _, state = step(GRADS, state, PARAMS)


def test_a_partition_may_be_pruned_on_data():
    def loss(params, x):
        return jnp.sum(x @ params["a"] @ params["b"])

    known = jp.signals.gatherers([jnp.ones((3, 2))], loss=loss)
    taylor = method(criterion=jp.criteria.taylor)
    both = jp.partition({"a": taylor, "b": jp.methods.magnitude(sparsity=0.25)})
    for rounds in (1, 3):
        _, masks = jp.prune_on(PARAMS, both, known, rounds=rounds)
        assert [int(m.sum()) for m in jax.tree.leaves(masks)] == [4, 6]
    start = {"a": PARAMS["a"] > 7, "b": None}
    _, masks = jp.prune_on(PARAMS, taylor, known, masks=start)
    assert int(masks["a"].sum()) == 1
    assert masks["b"] is None
