"""Makes the golden files: what this version writes, for every later one to read.

Run: PYTHONPATH=. JAX_PLATFORMS=cpu python tests/golden/make.py

Committed files are never made again for a format that has not changed. Where a format changes on purpose, its
number is raised, and the files of the old one stay as long as it is read, in a folder of their own.
"""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import train
from experiments.cli import Options, Stopper
from experiments.config import config, part, validate
from experiments.runs import mask_files
from experiments.runs.checkpoint import Checkpoints
from experiments.runs.files import seal
from jaxprune import masks, structured
from jaxprune.data import arrays
from jaxprune.data.synthetic import twin
from jaxprune.storage import sealed

FILES = Path(__file__).parent / "0.1.0"
PARAMS = {
    "a": {"kernel": np.arange(48, dtype=np.float32).reshape(8, 6), "bias": np.zeros(6, np.float32)},
    "b": {"kernel": np.ones((6, 5), np.float32)},
}
MASKS = {
    "a": {"kernel": np.arange(48).reshape(8, 6) % 3 == 0, "bias": None},
    "b": {"kernel": np.arange(30).reshape(6, 5) % 2 == 0},
}
SAVED = {
    "params": PARAMS,
    "key": jax.random.key(3),
    "half": jnp.arange(5, dtype=jnp.bfloat16),
    "empty": np.zeros((0, 2), np.float32),
    "count": np.int32(7),
}
META = {"level": 2, "best": 0.5}
PLAN = structured.Plan(
    {"a/kernel": (8, 6), "a/bias": (6,), "b/kernel": (6, 5)},
    {"a/kernel": {1: [0, 1, 4]}, "a/bias": {0: [0, 1, 4]}, "b/kernel": {0: [0, 1, 4]}},
)
INPUT = jnp.arange(6, dtype=jnp.float32).reshape(2, 3) / 4
OUTPUT = [[69.5, 83.25], [218.0, 261.0]]  # by hand
STOPPED_AT = 6


class StopsAfter(Stopper):
    """Asks to stop at the n-th look."""

    def __init__(self, looks: int):
        super().__init__()
        self.left = looks

    @property
    def requested(self) -> bool:
        self.left -= 1
        return self.left < 0


def setting(prunable: str):
    """A training of a few steps, with so few weights left that its checkpoints are small."""
    cfg = config(
        data=part("synthetic_mnist", batch_size=32),
        model=part("lenet_300_100"),
        optimizer=part("sgd", learning_rate=0.05),
        method=part("gmp", sparsity=0.99, begin=1, end=3, every=1),
        prunable=prunable,
        validation=64,
        steps=12,
        log_every=3,
        eval_every=6,
        save_every=STOPPED_AT,
    )
    validate(cfg)
    return cfg


BEGUN = ("begun", "kernel")
FINISHED = ("finished", "fc2/kernel")


def small_function():
    """Two layers, of whose four hidden units two are left."""
    fn = lambda params, x: jax.nn.relu(x @ params["a"]) @ params["b"]
    params = {"a": jnp.arange(12.0).reshape(3, 4), "b": jnp.arange(8.0).reshape(4, 2)}
    graph = structured.trace(fn, params, INPUT)
    return structured.shrink(graph, params, structured.prune(graph, params, sparsity=0.5))


def main() -> None:
    jax.config.update("jax_include_full_tracebacks_in_locations", False)
    jax.config.update("jax_hlo_source_file_canonicalization_regex", ".*/")  # paths of this machine
    shutil.rmtree(FILES, ignore_errors=True)
    FILES.mkdir(parents=True)
    mask_files.save(FILES / "masks.npz", MASKS)
    masks.save(FILES / "masks.safetensors", MASKS)
    PLAN.save(FILES / "plan.json")
    structured.save(FILES / "small", small_function(), INPUT)
    arrays.write(FILES / "arrays.npz", twin("mnist", train=6, test=3))
    with Checkpoints(FILES / "checkpoints") as checkpoints:
        checkpoints.save(5, SAVED, META)
    name, prunable = BEGUN
    train.main(setting(prunable), Options(name, FILES, False, StopsAfter(2)))
    name, prunable = FINISHED
    train.main(setting(prunable), Options(name, FILES, False, Stopper()))
    for folder in FILES.glob(f"{name}-*/seed_*/checkpoints"):
        shutil.rmtree(folder)  # of a finished run nobody reads them
    for file in [*FILES.rglob("lock"), *FILES.rglob("*.png")]:
        file.unlink()
    for sums in FILES.rglob("files.json"):
        for file in sums.parent.rglob(
            "commit_success.txt"
        ):  # of Orbax, with the path of this machine
            file.write_text("Checkpoint commit was successful.", encoding="utf-8")
        sums.unlink()
        sums.write_text(
            json.dumps(sealed.checksums_of_folder(sums.parent), indent=1), encoding="utf-8"
        )
    for file in FILES.rglob("versions.json"):  # of nobody's machine
        starts = json.loads(file.read_text(encoding="utf-8"))
        unknown = {"platform": "-", "cpu": "-", "cpus": 1, "git": None}
        plain = [{k: v for k, v in start.items() if k != "checksum"} for start in starts]
        text = json.dumps([seal({**start, **unknown}) for start in plain], indent=1)
        file.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
