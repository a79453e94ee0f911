"""What holds for every part of a method: the text that makes it is what it prints, equals and pickles as."""

import copy
import dataclasses
import functools
import inspect
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.parts import factory
from jaxprune.types import Allocation, Backward, Pattern, Penalty, Schedule, Share, Units, Update

CONCEPTS = {
    "patterns": Pattern,
    "schedules": Schedule,
    "allocation": Allocation,
    "updates": Update,
    "penalties": Penalty,
    "methods": jp.Method,
}
PLAIN = {"survivors", "knapsack", "by_signal", "by_survivors"}  # functions that make no part

# By concept, calls as they print. No two of them are equal.
TEXTS = {
    "patterns": [
        "unstructured()",
        "groups()",
        "groups(4)",
        "groups(4, axis=-1)",
        "groups(axis=0)",
        "block((4, 2))",
        "block((4, 2), reduce='max')",
        "block((4, 2), pad=True)",
        "channel()",
        "channel(-2)",
    ],
    "schedules": [
        "one_shot(sparsity=0.5)",
        "one_shot(sparsity=0.5, at=3)",
        "cubic(sparsity=0.9, begin=0, end=100)",
        "cubic(sparsity=0.9, begin=0, end=100, every=10)",
        "linear(sparsity=0.9, begin=0, end=100, every=10)",
        "polynomial(sparsity=0.9, begin=0, end=100, power=2.0)",
        "exponential(sparsity=0.9, begin=0, end=100, initial=0.5)",
        "levels(rate=0.2, every=10, levels=3)",
        "every(5, sparsity=0.9, end=11)",
        "every(5, sparsity=0.9, end=11, begin=0)",
        "constant(sparsity=0.9, every=5)",
        "never()",
        "never(sparsity=0.9)",
        "alternate(sparsity=0.9, every=2, begin=0, end=6)",
        "cyclical(sparsity=0.8, begin=0, end=20, every=5, cycles=2, power=1.0)",
    ],
    "allocation": [
        "uniform()",
        "uniform({'a': 0.5, 'b': 0.0})",
        "uniform({'b': 0.0, 'a': 0.5})",  # the first that matches counts
        "uniform_plus(first='a', last='b')",
        "removing(3, of_tree=True)",
        "erk()",
        "erk(0.5)",
        "erk(kernel=False)",
        "erk(sparsities={'a': 0.5})",
        "erk(at_least=2)",
        "by_path({'a': 0.9, 'b': 0.5})",
        "global_budget()",
        "global_budget('lamp')",
        "global_budget(at_least=1, at_most=0.9)",
        "threshold(1.0)",
        "owl()",
        "owl(spread=0.1)",
        "cost_budget({'a': 2.0, 'b': 1.0})",
        "cost_budget({'a': 2.0, 'b': 1.0}, power=0.5)",
        "at_cost(allocation=erk(), costs={'a': 2.0, 'b': 1.0})",
    ],
    "updates": [
        "prune()",
        "reselect()",
        "regrow(gradient)",
        "regrow(random)",
        "regrow(gradient, fraction=cosine(fraction=0.3, end=100), skip_gradient=True)",
        "redistribute(random, fraction=0.5, shares=by_survivors)",
        "splice()",
        "splice(margin=0.2)",
    ],
    "penalties": [
        "l1(0.1)",
        "l1(0.1, leaves='scale$')",
        "elastic(0.1, ridge=0.2)",
        "l0(0.1)",
        "group_l2(0.1, axis=-1)",
        "group_l2(0.1, pattern=channel())",
        "coupled(strength=0.1, groups=[{'a': -1, 'b': 0}])",
    ],
    "methods": [
        "none()",
        "magnitude(sparsity=0.5)",
        "magnitude(sparsity=0.5, pattern=groups(4))",
        "random(sparsity=0.5)",
        "gmp(sparsity=0.9, begin=0, end=100, every=10)",
        "gmp(sparsity=0.9, begin=0, end=100, every=10, allocation=erk())",
        "global_magnitude(sparsity=0.9, begin=0, end=100, every=10)",
        "lamp(sparsity=0.9, begin=0, end=100, every=10)",
        "saliency(sparsity=0.9, begin=0, end=100, every=10)",
        "iterative(rate=0.2, every=10, levels=3)",
        "movement(sparsity=0.9, begin=1, end=100, every=10)",
        "movement(sparsity=0.9, begin=1, end=100, every=10, straight_through=True)",
        "weight_change(sparsity=0.9, begin=1, end=100, every=10)",
        "magnitude_increase(sparsity=0.9, begin=1, end=100, every=10)",
        "std_threshold(quality=1.0)",
        "cyclical(sparsity=0.9, begin=0, end=100, every=10, cycles=2)",
        "ac_dc(sparsity=0.9, begin=0, end=100, every=10)",
        "granet(sparsity=0.9, begin=0, end=100, every=10, initial=0.5)",
        "static(sparsity=0.9)",
        "set_(sparsity=0.9, every=10, end=100)",
        "set_(sparsity=0.9, every=10, end=100, decay=True)",
        "rigl(sparsity=0.9, every=10, end=100)",
        "itop(sparsity=0.9, every=10, end=100)",
        "snfs(sparsity=0.9, every=10, end=100)",
        "dsr(sparsity=0.9, every=10, end=100)",
        "mest(sparsity=0.9, every=10, end=100)",
        "ste(sparsity=0.9, end=100)",
        "sr_ste(sparsity=0.5, end=100)",
        "surgery(end=100)",
        "top_kast(sparsity=0.9, backward_sparsity=0.8, end=100)",
        "partition({'a': rigl(sparsity=0.9, every=10, end=100), 'b': static(sparsity=0.5)})",
    ],
    "composed": [
        "Method(magnitude, schedule=one_shot(sparsity=0.5))",
        "Method(magnitude, schedule=one_shot(sparsity=0.5), pattern=groups(4))",
        "Method(partial(taylor, signed=True), schedule=one_shot(sparsity=0.5), allocation=erk())",
        "Method(magnitude, schedule=every(1, sparsity=0.5, end=9), update=reselect(), "
        "backward=Backward(decay=0.1, sparsity=None))",
        "cosine(fraction=0.3, end=100)",
        "cosine(fraction=0.3, end=50)",
    ],
}
CASES = [(concept, text) for concept, texts in TEXTS.items() for text in texts]
every_text = pytest.mark.parametrize(("concept", "text"), CASES, ids=[text for _, text in CASES])


def namespace(concept):
    """The names that a text may use; those of its own concept hide the others' (`methods.magnitude`)."""
    names = {"Method": jp.Method, "partition": jp.partition, "Backward": Backward}
    names["partial"] = functools.partial
    for module in (jp.criteria, jp.patterns, jp.schedules, jp.allocation, jp.updates):
        names |= {name: getattr(module, name) for name in module.__all__}
    own = getattr(jp, concept, None)
    return names | {name: getattr(own, name) for name in getattr(own, "__all__", [])}


def made(concept, text):
    return eval(text, namespace(concept))


@pytest.mark.parametrize("concept", CONCEPTS)
def test_every_factory_is_listed(concept):
    listed = {text.split("(")[0] for text in TEXTS[concept] + TEXTS["composed"]}
    assert set(getattr(jp, concept).__all__) - PLAIN <= listed


@every_text
def test_a_part_prints_the_call_that_makes_it(concept, text):
    assert repr(made(concept, text)) == text
    assert str(made(concept, text)) == text


@every_text
def test_equal_calls_make_equal_parts(concept, text):
    part, again = made(concept, text), made(concept, text)
    assert part == again
    assert hash(part) == hash(again)
    assert part != text


@pytest.mark.parametrize("concept", TEXTS)
def test_other_arguments_make_other_parts(concept):
    parts = [made(concept, text) for text in TEXTS[concept]]
    assert len(set(parts)) == len(parts)


@every_text
def test_pickles_and_copies_are_equal(concept, text):
    part = made(concept, text)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(part, protocol)) == part
    assert copy.copy(part) == part
    assert copy.deepcopy(part) == part
    assert repr(copy.deepcopy(part)) == text


@pytest.mark.parametrize("concept", CONCEPTS)
def test_help_shows_the_arguments_and_their_defaults(concept):
    for name in set(getattr(jp, concept).__all__) - PLAIN:
        function = getattr(getattr(jp, concept), name)
        signature = str(inspect.signature(function))
        assert "*args" not in signature
        assert " at 0x" not in signature
        assert function.__name__ == name
        assert function.__doc__
    assert "pattern: Pattern | Coupled = unstructured()" in _plain(jp.methods.gmp)


def _plain(function):
    signature = str(inspect.signature(function))
    return signature.replace("jaxprune.types.", "").replace("jaxprune.units.coupling.", "")


@pytest.mark.parametrize("text", TEXTS["schedules"])
def test_a_schedule_from_a_pickle_does_the_same(text):
    schedule = made("schedules", text)
    again = pickle.loads(pickle.dumps(schedule))
    assert again.end == schedule.end
    for step in range(0, 110, 5):
        assert bool(again.due(step)) == bool(schedule.due(step))
        assert float(again.sparsity(step)) == float(schedule.sparsity(step))


def test_a_method_from_a_pickle_does_the_same():
    params = {"a": jax.random.normal(jax.random.key(0), (16, 8))}
    rigl = jp.methods.rigl(sparsity=0.9, every=10, end=60)
    again = pickle.loads(pickle.dumps(rigl))
    assert again == rigl
    key = jax.random.key(1)
    _, masks = jp.prune(params, rigl, key=key, grads=params)
    _, others = jp.prune(params, again, key=key, grads=params)
    assert jnp.array_equal(masks["a"], others["a"])


def test_a_method_is_what_its_parts_are():
    parts = {"schedule": jp.schedules.cubic(sparsity=0.9, begin=0, end=100, every=10)}
    composed = jp.Method(jp.criteria.magnitude, **parts)
    gmp = jp.methods.gmp(sparsity=0.9, begin=0, end=100, every=10)
    assert composed == gmp
    assert hash(composed) == hash(gmp)
    assert repr(composed) != repr(gmp)
    assert jp.partition({"a": gmp}) == jp.partition([("a", composed)])
    assert composed != jp.Method(jp.criteria.taylor, **parts)


def test_a_replaced_field_drops_the_call():
    gmp = jp.methods.gmp(sparsity=0.9, begin=0, end=100, every=10)
    wider = dataclasses.replace(gmp, pattern=jp.patterns.groups(4))
    assert wider.made_by is None
    assert wider == dataclasses.replace(gmp, pattern=jp.patterns.groups(4))
    assert repr(wider).startswith("Method(magnitude, schedule=cubic(sparsity=0.9, begin=0, end=")
    assert pickle.loads(pickle.dumps(wider)) == wider
    assert dataclasses.replace(gmp) == gmp


def halves(params, units, sparsity):
    return {name: unit.members // 2 for name, unit in units.items()}


def by_hand(**changed):
    fields = {"due": _first, "sparsity": _half, "end": 0}
    return Schedule(**fields | changed)


def _first(step):
    return step == 0


def _half(step):
    return 0.5


def test_parts_made_by_hand_are_compared_by_their_fields():
    assert by_hand() == by_hand()
    assert hash(by_hand()) == hash(by_hand())
    assert by_hand() != by_hand(end=1)
    assert repr(by_hand()) == "Schedule(due=_first, sparsity=_half, end=0)"
    assert pickle.loads(pickle.dumps(by_hand())) == by_hand()
    assert repr(by_hand(due=lambda step: False)) == "Schedule(due=<lambda>, sparsity=_half, end=0)"
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(by_hand(due=lambda step: False))


def test_an_allocation_may_be_a_plain_function():
    units = {"a": Units(jnp.ones(8))}
    assert Allocation(halves)(units, units, 0.5) == {"a": 4}
    for allocation in (halves, Allocation(halves)):
        method = jp.methods.magnitude(sparsity=0.1, allocation=allocation)
        _, masks = jp.prune({"a": jnp.arange(8.0).reshape(2, 4)}, method)
        assert int(masks["a"].sum()) == 4
        assert method == jp.methods.magnitude(sparsity=0.1, allocation=allocation)
        assert "halves" in repr(method)
        assert pickle.loads(pickle.dumps(method)) == method


def test_arguments_of_any_kind_can_be_compared_and_printed():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Costs:
        a: jax.Array

    def many(scale=1.0):
        return [
            {"a": jnp.arange(3.0) * scale},
            {"a": np.arange(3.0) * scale},
            {"a": [scale, np.float32(2.0)]},
            Costs(jnp.full(2, scale)),
            jax.tree.map(jnp.float32, {"a": scale}),
        ]

    parts = [jp.allocation.cost_budget(costs) for costs in many()]
    again = [jp.allocation.cost_budget(costs) for costs in many()]
    others = [jp.allocation.cost_budget(costs) for costs in many(2.0)]
    assert parts == again
    assert list(map(hash, parts)) == list(map(hash, again))
    assert all(a != b for a, b in zip(parts, others, strict=True))
    assert len(set(parts)) == len(parts)
    assert repr(parts[0]) == "cost_budget({'a': float32[3]})"
    assert repr(parts[2]) == "cost_budget({'a': [1.0, 2.0]})"
    assert "0x" not in "".join(map(repr, parts))


def test_arguments_stay_as_they_were_at_the_call():
    costs = {"a": 1.0}
    part = jp.allocation.cost_budget(costs)
    costs["a"] = 2.0
    assert repr(part) == "cost_budget({'a': 1.0})"
    pairs = (("a", jp.methods.static(sparsity=rate)) for rate in (0.5,))
    assert repr(jp.partition(pairs)) == "partition((('a', static(sparsity=0.5)),))"


def test_a_schedule_of_optax_is_equal_to_itself_alone():
    growth = optax.linear_schedule(0.0, 1.0, 10)
    assert jp.penalties.l1(growth) == jp.penalties.l1(growth)
    assert jp.penalties.l1(growth) != jp.penalties.l1(optax.linear_schedule(0.0, 1.0, 10))
    assert "0x" not in repr(jp.penalties.l1(growth))


def test_a_traced_argument_breaks_nothing():
    @jax.jit
    def loss(strength, w):
        penalty = jp.penalties.l1(strength)
        assert penalty == penalty
        assert hash(penalty) == hash(penalty)
        assert repr(penalty) == "l1(float32[])"
        return penalty.value({"w": w}, 0)

    assert float(loss(2.0, jnp.ones(3))) == 6.0


def test_methods_are_static_arguments():
    compiled = []

    @functools.partial(jax.jit, static_argnames="method")
    def masks(params, method):
        compiled.append(method)
        return jp.prune(params, method)[1]

    for sparsity in (0.5, 0.5, 0.25):
        masks({"a": jnp.ones((4, 4))}, jp.methods.magnitude(sparsity=sparsity))
    assert len(compiled) == 2


def test_a_wrong_call_is_told_in_the_words_of_python():
    with pytest.raises(TypeError, match=r"gmp\(\) missing 2 required keyword-only arguments"):
        jp.methods.gmp(sparsity=0.5, begin=0)
    with pytest.raises(TypeError, match=r"gmp\(\) got an unexpected keyword argument 'stop'"):
        jp.methods.gmp(sparsity=0.5, stop=0)


def test_a_factory_of_the_users_own():
    @factory
    def halving(every: int = 10) -> Share:
        return Share(lambda step: 0.5 ** (step // every))

    assert repr(halving()) == "halving()"
    assert repr(halving(5)) == "halving(5)"
    assert halving(5) == halving(every=5) != halving()
    assert float(halving()(20)) == 0.25


def test_coupled_units_print_in_one_line():
    params = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 2))}
    graph = jp.structured.trace(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 3)))
    pattern = jp.structured.coupled(graph)
    assert repr(pattern) == (
        "Coupled(8 units; a[1]: 8; reduce='sum', normalize='none', over='all')"
    )
    method = jp.methods.magnitude(sparsity=0.5, pattern=pattern)
    again = jp.methods.magnitude(sparsity=0.5, pattern=jp.structured.coupled(graph))
    assert method == again
    assert hash(method) == hash(again)
    assert pickle.loads(pickle.dumps(method)) == method
    assert repr(pattern) in repr(method)
