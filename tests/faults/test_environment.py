"""Odd surroundings: no home, no name, no UTF-8, other folders, zones and switches; the same results."""

import ast
import json
import shutil
import sys

import pytest

from . import small_runs

NAMELESS = """
import os, pwd, runpy, sys
def nobody(_):
    raise KeyError("getpwuid(): uid not found")
pwd.getpwuid = nobody
try:
    os.path.expanduser("~/x") == "~/x" or sys.exit("there is a home")
except KeyError:
    pass
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A config file, a cache, and the results of a run in ordinary surroundings."""
    folder = tmp_path_factory.mktemp("environment")
    file = folder / "small.py"
    file.write_text(
        small_runs.source("train", steps=10).replace("METHOD)", "None)"), encoding="utf-8"
    )
    environment = small_runs.environment(folder / "xla")
    arguments = small_runs.command("train", file, folder / "runs")
    code, _, err = small_runs.outcome(arguments, env=environment)
    assert code == 0, err[-2000:]
    (found,) = (folder / "runs").iterdir()
    return file, folder / "xla", small_runs.fingerprint(found)


def same(whole, workdir, arguments, tally, case, **options):
    """Whether a run ends with the same files."""
    code, out, err = small_runs.outcome(arguments, **options)
    tally.happened(True, case)
    folders = list(workdir.iterdir()) if workdir.is_dir() else []
    if code == 0 and len(folders) == 1 and small_runs.fingerprint(folders[0]) == whole[2]:
        tally.survive()
    elif code == 0:
        tally.silent.append(f"{case}: {out[-300:]} {err[-300:]}")
    else:
        tally.foreign.append(f"{case}: {code} {err[-1500:]}")


def test_no_home_and_a_uid_without_a_name(whole, tmp_path, attack, amount):
    """As in a container with a random uid."""
    tally = attack("environment", "no HOME, uid without passwd entry", least=1)
    environment = small_runs.environment("", HOME=None, JAX_COMPILATION_CACHE_DIR=None)
    arguments = small_runs.command("train", whole[0], tmp_path / "runs")
    assert arguments[1] == "-m"
    arguments = [sys.executable, "-c", NAMELESS, *arguments[2:]]
    if amount(True, False):
        code, out, err = small_runs.outcome([*arguments, "--dry_run"], env=environment)
        tally.happened(True, "dry run")
        assert (code, "fc1/kernel" in out) == (0, True), err[-1000:]
        tally.survive()
        return
    same(whole, tmp_path / "runs", arguments, tally, "nameless", env=environment)


ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_a_locale_of_ascii(whole, tmp_path, attack):
    tally = attack("environment", "ASCII locale without UTF-8 mode, non-ASCII paths", least=2)
    environment = small_runs.environment(whole[1], **ASCII)
    code, out, _ = small_runs.outcome(
        [sys.executable, "-c", "import locale; print(locale.getpreferredencoding(False))"],
        env=environment,
    )
    assert (code, out.strip().lower()) == (0, "ansi_x3.4-1968"), "the locale is ASCII"
    file = tmp_path / "Lauf mit Ümläuten" / "small.py"
    file.parent.mkdir()
    file.write_bytes(whole[0].read_bytes())
    workdir = tmp_path / "runs"
    arguments = small_runs.command("train", file, workdir)
    same(whole, workdir, arguments, tally, "ASCII", env=environment)
    refused = small_runs.command("train", file, tmp_path / "Läufe")  # checkpoints need it in UTF-8
    code, _, err = small_runs.outcome(refused, env=environment)
    tally.happened(code != 0, "a folder for runs that the locale cannot spell")
    if code == 2 and err.count("\n") == 1 and "PYTHONUTF8=1" in err:
        tally.survive()


OTHERS = {
    "another zone": {"TZ": "Pacific/Kiritimati"},
    "hashes differ": {"PYTHONHASHSEED": "7"},
    "optimised": {"PYTHONOPTIMIZE": "2"},
    "no cache": {"JAX_COMPILATION_CACHE_DIR": "/dev/null/cache"},
    "no columns": {"COLUMNS": "1", "TERM": "dumb"},
    "home is a file": {"HOME": "/dev/null"},
    "home is missing": {"HOME": "/nowhere"},
    "no PATH": {"PATH": ""},
    "another locale": {"LC_ALL": "tr_TR.UTF-8"},
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_surroundings(case, whole, tmp_path, attack, amount):
    if amount(True, False):
        pytest.skip("make faults")
    tally = attack("environment", case, least=1)
    environment = small_runs.environment(whole[1], **OTHERS[case])
    arguments = small_runs.command("train", whole[0], tmp_path / "runs")
    same(whole, tmp_path / "runs", arguments, tally, case, env=environment)


def test_another_folder(whole, tmp_path, attack, amount):
    """Relative paths, with spaces, from elsewhere."""
    if amount(True, False):
        pytest.skip("make faults")
    tally = attack("environment", "another working folder, relative paths with spaces", least=1)
    here = tmp_path / "a b" / "ä"
    here.mkdir(parents=True)
    (here / "small.py").write_bytes(whole[0].read_bytes())
    arguments = small_runs.command("train", "small.py", "my runs")
    environment = small_runs.environment(whole[1])
    same(whole, here / "my runs", arguments, tally, "cwd", env=environment, cwd=here)


def test_a_uid_that_nobody_has(whole, tmp_path, attack, amount):
    """In a user namespace, as in a container that is started with any uid."""
    if amount(True, False):
        pytest.skip("make faults")
    nobody = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
    if shutil.which("unshare") is None or small_runs.outcome([*nobody, "true"])[0]:
        pytest.skip("no user namespaces")
    tally = attack("environment", "uid 54321", least=1)
    environment = small_runs.environment("", HOME=None, JAX_COMPILATION_CACHE_DIR=None)
    arguments = [*nobody, *small_runs.command("train", whole[0], tmp_path / "runs")]
    same(whole, tmp_path / "runs", arguments, tally, "uid", env=environment)


def test_all_text_is_opened_with_an_encoding():
    """Whatever the locale says: a grep over the sources."""

    wrong = []
    for folder in ("experiments", "jaxprune"):
        for path in sorted((small_runs.ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.Call) and opens_text(node):
                    wrong.append(f"{path.relative_to(small_runs.ROOT)}:{node.lineno}")
    assert not wrong


def opens_text(node) -> bool:
    """Whether a call opens a file as text and names no encoding."""

    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    keywords = {keyword.arg for keyword in node.keywords}
    if "encoding" in keywords or None in keywords:
        return False
    if name in ("read_text", "write_text"):
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        ours = isinstance(owner, ast.Name) and owner.id == "files"
        return isinstance(node.func, ast.Attribute) and not ours
    if name not in ("open", "fdopen"):
        return False
    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
    if isinstance(owner, ast.Name) and owner.id in (
        "os",
        "tarfile",
        "gzip",
        "Image",
        "RunFolder",
        "request",
    ):
        return False
    modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    modes += [k.value.value for k in node.keywords if k.arg == "mode"]
    return not any("b" in mode for mode in modes)


def test_the_grep_finds_what_it_looks_for():

    calls = {
        "path.read_text()": True,
        "open(path)": True,
        "path.open('w')": True,
        "path.open('rb')": False,
        "open(path, encoding='utf-8')": False,
        "files.read_text(path)": False,
    }
    for text, wrong in calls.items():
        assert opens_text(ast.parse(text).body[0].value) == wrong, text


def test_results_are_strict_json(tmp_path):
    from experiments.runs.files import read_sealed, write_sealed

    write_sealed(
        tmp_path / "x.json", {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": True}}
    )
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    json.loads(text, parse_constant=pytest.fail)
    assert read_sealed(tmp_path / "x.json") == {"a": None, "b": [None, 1.5], "c": {"d": True}}
