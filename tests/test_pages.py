"""The Python blocks of README, CONTRIBUTING and the pages of docs/ run as they stand."""

import importlib.util
import re
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("blocks", ROOT / "docs" / "blocks.py")
blocks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(blocks)


@pytest.mark.parametrize("page", blocks.every_file(), ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    with jax.numpy_rank_promotion("allow"):  # as it is for readers
        blocks.run(page)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_the_tests_that_a_page_names_are_there(page):
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text()):
        assert f"def {name}(" in (ROOT / path).read_text(), f"{path}::{name}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_the_files_that_a_page_links_are_there(page):
    for link in re.findall(r"\]\(([\w./-]+)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_the_configs_of_the_reproductions_are_there():
    page = (ROOT / "docs" / "reproductions.md").read_text()
    names = re.findall(r"`([\w/]+\.py)", page)
    assert len(names) > 20
    assert all((ROOT / "configs" / name).is_file() for name in names)


def test_what_a_block_does_not_print_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 2\n```\n\n```python\nprint(x)\n```\n\n```\n3\n```\n")
    with pytest.raises(AssertionError, match="line 9"):
        blocks.run(page)
    page.write_text(page.read_text().replace("\n3\n", "\n2\n"))
    assert blocks.run(page) == 2
    page.write_text("```python\nundefined\n```\n")
    with pytest.raises(AssertionError, match="line 1: NameError"):
        blocks.run(page)
