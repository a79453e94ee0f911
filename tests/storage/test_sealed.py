"""JSON of others: read within a time and a memory that its size bounds."""

import time

import pytest

from jaxprune.storage import sealed
from jaxprune.structured import Plan


def test_a_key_twice_among_many_is_found_at_once():
    """Counting each key would take a minute for these, and hours for ten times as many."""
    names = [f'"k{i}": 0' for i in range(40_000)]
    start = time.process_time()
    with pytest.raises(sealed.DamagedError, match="'k39999' is there twice"):
        sealed.parse(f"{{{', '.join([*names, names[-1]])}}}")
    assert time.process_time() - start < 5


def test_a_huge_file_is_refused_before_it_is_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(sealed, "LARGEST", 1000)
    path = tmp_path / "plan.json"
    path.write_bytes(b" " * 1000)
    assert len(sealed.read_bounded(path)) == 1000
    with path.open("ab") as file:
        file.truncate(1 << 40)  # without a block on the disk; nobody has the memory
    with pytest.raises(ValueError, match="more than the 1000 that are read"):
        Plan.load(path)
