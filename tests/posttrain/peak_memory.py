"""Prunes a synthetic decoder in a process of its own; prints how far its memory grew, and the plan's bound.

Run: python peak_memory.py CASE (see `CASES`), with MALLOC_MMAP_THRESHOLD_=65536, so that freed arrays go
back to the system at once. A first pruning, of one batch, compiles all programs; these are not in the bound.
The growth of the second is measured from before its parameters and batches exist.
"""

import gc
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp
from jaxprune.models import llama
from jaxprune.posttrain import solvers


class Case(NamedTuple):
    """A pruning.

    Attributes:
      config: of the decoder.
      batches: number of batches, of windows of 256 tokens.
      windows: in a batch.
      prunable: parameters that are pruned.
      options: of `prune`.
      settings: of `Plan.bytes_needed`.
      lazy: whether parameters are read from a file when they are needed, and go to one.
    """

    config: llama.Config
    batches: int
    windows: int
    prunable: str
    options: dict[str, Any]
    settings: dict[str, Any]
    lazy: bool = False


def decoder(width: int, hidden: int, layers: int = 2) -> llama.Config:
    """Returns the configuration of a decoder with four heads."""
    return llama.Config(
        vocabulary=64,
        width=width,
        hidden=hidden,
        layers=layers,
        heads=4,
        kv_heads=2,
        head_dim=width // 4,
    )


WANDA = {"solver": solvers.by_criterion(jp.criteria.wanda)}
RECOVERY = {**WANDA, "recover": jp.posttrain.reconstruct(optax.adam(1e-4), steps=2)}
LENGTH = 256
BUDGET = {"stream_budget": 20_000_000}
SPARSEGPT = {"solver": solvers.sparsegpt()}
KERNELS = "query|key|value|output|gate|up|down"
CASES = {
    "grams": Case(decoder(256, 2560), 3, 2, "down", SPARSEGPT, {}),
    "streams": Case(decoder(256, 512, layers=1), 32, 8, KERNELS, WANDA, {}),
    "recovery": Case(decoder(256, 512, layers=1), 12, 8, KERNELS, RECOVERY, {"recover": True}),
    "file": Case(decoder(256, 512, layers=1), 32, 8, KERNELS, {**WANDA, **BUDGET}, BUDGET),
    "lazy": Case(decoder(512, 1024, layers=16), 2, 2, KERNELS, WANDA, {"sink": True}, lazy=True),
}


def random_params(config: llama.Config) -> Any:
    """Returns parameters of a decoder, without temporary arrays beside them."""
    draw = np.random.default_rng(0)

    def leaf(shape: Any) -> np.ndarray:
        values = draw.standard_normal(shape.shape, np.float32)
        values *= 0.05
        return values

    return jax.tree.map(leaf, llama.shapes(config))


def random_batches(case: Case, count: int) -> list[np.ndarray]:
    """Returns batches of tokens."""
    draw = np.random.default_rng(1)
    size = (case.windows, LENGTH)
    return [draw.integers(0, case.config.vocabulary, size, np.int32) for _ in range(count)]


def growth_bytes(action: Callable[[], None]) -> int:
    """Returns how many bytes the resident set grew at most while something was done."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
    before = _status_bytes("VmRSS")
    action()
    return _status_bytes("VmHWM") - before


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = [line for line in lines if line.startswith(name)]
    return 1024 * int(line.split()[1])


def main(name: str) -> None:
    """Runs a case."""
    case = CASES[name]
    batch_shape = jax.ShapeDtypeStruct((case.windows, LENGTH), jnp.int32)
    plan = jp.posttrain.plan(
        llama.decoder(case.config), llama.shapes(case.config), batch_shape, prunable=case.prunable
    )

    def prune(count: int, dense: Path, pruned: Path) -> None:
        batches = random_batches(case, count)
        if not case.lazy:
            params = random_params(case.config)
            result = jp.posttrain.prune(plan, params, batches, **case.options)
        else:
            params = jp.models.load(dense, lazy=True).params
            with jp.models.decoder_sink(pruned, case.config, shard_bytes=2**20) as sink:
                result = jp.posttrain.prune(plan, params, batches, sink=sink, **case.options)
        assert abs(result.report.sparsity - 0.5) < 1e-3

    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder) / "dense"
        if case.lazy:
            jp.models.save(dense, random_params(case.config), case.config)
        prune(1, dense, Path(folder) / "warm")
        growth = growth_bytes(lambda: prune(case.batches, dense, Path(folder) / "pruned"))
    bound = plan.bytes_needed(case.batches, **case.settings)
    model = plan.parameter_bytes
    print(json.dumps({"growth": growth, "bound": bound, "model": model}))


if __name__ == "__main__":
    main(sys.argv[1])
