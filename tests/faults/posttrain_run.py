"""A pruning after training, from a file to a file, that goes on where it was stopped.

Run: python posttrain_run.py DENSE WORKDIR. Parameters of the decoder in DENSE are read when they are needed;
WORKDIR gets the steps, the pruned decoder and the masks.
"""

import sys
from pathlib import Path

import numpy as np
import optax

import jaxprune as jp
from jaxprune.posttrain import solvers


def main(dense: Path, workdir: Path) -> None:
    """Prunes; where it is done, what comes out is compared with what was written."""
    pruned = workdir / "pruned"
    model = jp.models.load(dense, lazy=True)
    draw = np.random.default_rng(1)
    batches = [draw.integers(0, model.config.vocabulary, (4, 16), np.int32) for _ in range(4)]
    plan = jp.posttrain.plan(model.apply, model.params, batches[0], exclude="embedding|head")
    with jp.models.decoder_sink(pruned, model.config, shard_bytes=10_000, resume=True) as sink:
        result = jp.posttrain.prune(
            plan,
            model.params,
            batches,
            solver=solvers.by_criterion(jp.criteria.wanda),
            pattern=jp.patterns.groups(4),
            recover=jp.posttrain.reconstruct(optax.adam(1e-3), steps=8),
            stream_budget=2 * 3 * plan.slot_bytes,
            sink=sink,
            folder=workdir / "steps",
        )
        jp.masks.save(workdir / "masks.safetensors", result.masks, overwrite=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
