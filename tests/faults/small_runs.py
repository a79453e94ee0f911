"""Runs of seconds, one per binary, in this process or in one of their own."""

import contextlib
import hashlib
import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

from experiments import cli
from experiments.cli import Options, Stopper
from experiments.config import config
from experiments.runs.folder import folder_name

ROOT = Path(__file__).parents[2]
NAME = "small"
BINARIES = ("train", "lottery", "compare", "structured", "sensitivity")

# The same fields in process and in a config file.
SOURCE = '''
"""A run of seconds."""
from experiments.config import config, part

def get_config():
    return config(**FIELDS)

def tiny():
    """A model and its text, for pruning after training."""
    import jax
    import numpy as np

    draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape) / shape[0] ** 0.5
    params = {{"embed": draw(0, 11, 16), "up": draw(1, 16, 32)}}
    params |= {{"down": draw(2, 32, 16), "head": draw(3, 16, 11)}}

    def apply(params, tokens):
        x = params["embed"][tokens]
        return (x + jax.nn.relu(x @ params["up"]) @ params["down"]) @ params["head"]

    windows = np.random.default_rng(0).integers(0, 11, (8, 12))
    return apply, params, dict.fromkeys(("calibration", "validation", "test"), windows)

METHOD = part("gmp", sparsity=0.8, begin=2, end={last}, every=4)
CUT = {{"when": "trained", "finetune": 4, "examples": 64}}
FIELDS = dict(
    data=part("synthetic_mnist", batch_size=32), model=part("{model}"), steps={steps}, validation=256,
    optimizer=part("adam", learning_rate=1e-3), seeds=(0,),
    log_every={every}, eval_every={every}, save_every={every},
)
FIELDS |= {{
    "train": dict(method=METHOD),
    "lottery": dict(method=part("magnitude", sparsity=0.3), lottery={{"rounds": 1, "controls": ("reinit",)}}),
    "compare": dict(compare={{
        "sparsities": (0.8,), "controls": ("shuffled",),
        "methods": {{"GMP": part("gmp", begin=2, end={last}, every=4)}}}}),
    "structured": dict(compare={{
        "sparsities": (0.25,), "criteria": ("l2",), "pipeline": {{**CUT, "pattern": part("coupled")}}}}),
    "sensitivity": dict(sensitivity={{
        "criterion": "magnitude", "sparsities": (0.5, 0.9), "budget": (0.3,), "examples": 64,
        "tolerance": 0.0}}),
    "branches": dict(
        method=part("magnitude", sparsity=0.3), lottery={{"rounds": 1, "controls": ()}},
        branches={{"levels": (1,), "copies": 2, "alphas": 3,
            "branches": {{"rewound": {{}}, "reinit": {{"kept": "reinit"}}}}}}),
    "posttrain": dict(posttrain={{
        "model": f"{{__file__}}:tiny", "calibration": 4, "validation": 2, "test": 3, "length": 12,
        "rows": {{"SparseGPT": {{"solver": part("sparsegpt")}}, "OBC": {{"solver": part("obc")}}}}}}),
}}["{binary}"]
if "{binary}" == "posttrain":
    FIELDS = {{"posttrain": FIELDS["posttrain"], "seeds": tuple(range({steps}))}}
'''


def source(binary: str, steps: int = 20, every: int = 5) -> str:
    """The text of a config file."""
    return SOURCE.format(
        binary=binary, steps=steps, every=every, last=steps - 2, model="lenet_300_100"
    )


def fields(binary: str, steps: int = 20, every: int = 5) -> dict:
    """Its fields."""
    space = {"__file__": "small.py"}
    exec(source(binary, steps, every), space)
    return dict(space["FIELDS"])


def settings(binary: str, steps: int = 20, every: int = 5, **changes):
    """Its config, with changes."""
    return config(**{**fields(binary, steps, every), **changes})


def run(binary: str, cfg, workdir: Path, stopper=None) -> Path:
    """Runs in this process; returns the run folder."""
    module = importlib.import_module(f"experiments.{binary}")
    module.main(cfg, Options(NAME, workdir, False, stopper or Stopper()))
    return folder_of(cfg, workdir)


def folder_of(cfg, workdir: Path) -> Path:
    """Where a run is."""
    return workdir / folder_name(NAME, cfg)


def command(binary: str, file: Path, workdir: Path, *more: str) -> list[str]:
    """The command line of a run in a process of its own."""
    return [
        *(sys.executable, "-m", f"experiments.{binary}"),
        *(f"--config={file}", f"--workdir={workdir}", *more),
    ]


def environment(cache: Path | str, **changes: str | None) -> dict[str, str]:
    """Environment of such a process; `None` takes a variable away."""
    found = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **changes,
    }
    return {name: value for name, value in found.items() if value is not None}


def outcome(arguments, **options) -> tuple[int, str, str]:
    """Runs a process to its end: exit code, stdout, stderr."""
    options = {"cwd": ROOT, "timeout": 600, **options}
    done = subprocess.run(arguments, capture_output=True, text=True, errors="replace", **options)
    return done.returncode, done.stdout, done.stderr


VARYING = (
    "seconds",
    "wall_seconds",
    "cpu_seconds",
    "resumed",
    "checksum",
    "cost",
    "provenance",
    "small_faster",
    "time",
)


def without_times(value):
    """JSON without what no two runs share."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in VARYING}
    return [without_times(v) for v in value] if isinstance(value, list) else value


_EXACT = ("metrics.csv", "metrics.jsonl", "rates.json", "config.json")


def fingerprint(folder: Path) -> dict[str, str]:
    """What a finished run leaves, file by file: results without times, metrics, masks, and arrays saved."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "results.json":
            text = json.dumps(without_times(json.loads(path.read_text(encoding="utf-8"))))
            found[name] = hashlib.sha256(text.encode()).hexdigest()
        elif path.suffix == ".npz" or path.name in _EXACT:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "checkpoints":
            found[name] = _last_arrays(path)
    return found


def _last_arrays(folder: Path) -> str:
    """The checksums of all arrays of the last checkpoint, as its manifest has them."""
    steps = sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())
    (path,) = (folder / str(steps[-1])).rglob("manifest/metadata")
    manifest = json.loads(json.loads(path.read_text(encoding="utf-8"))["text"])
    return f"{steps[-1]} {json.dumps(manifest['leaves'])}"


@contextlib.contextmanager
def told():
    """Collects what is printed to stderr."""
    stream = io.StringIO()
    with contextlib.redirect_stderr(stream):
        yield stream


def sentence(error: BaseException) -> bool:
    """Whether an error ends a run in one line."""
    known = isinstance(error, OSError) and error.errno in cli._MACHINE_FAULTS
    return isinstance(error, cli.UserError) or known
