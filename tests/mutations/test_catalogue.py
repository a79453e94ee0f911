"""The list of mutations does not rot: what each of them breaks is there, once, and so are its tests."""

from pathlib import Path

import pytest
from mutations.catalogue import MUTATIONS

ROOT = Path(__file__).parents[2]


def test_the_list_is_long_enough_and_has_no_name_twice():
    names = [mutation.name for mutation in MUTATIONS]
    assert len(names) >= 60
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_what_a_mutation_breaks_is_there_once(mutation):
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1, f"{mutation.file}: {mutation.old!r}"
    assert mutation.old != mutation.new
    for test in mutation.tests:
        file, *name = test.split("::")
        assert (ROOT / file).is_file()
        if name:
            function = name[0].split("[")[0]
            assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8"), test
