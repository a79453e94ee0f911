"""Kills a lottery run with SIGKILL at random moments and compares it with one that was left alone.

The run is small (synthetic data, a checkpoint every few updates), so that many kills land in the middle of a
save. Each life is killed a random time after it has saved something of its own; the last one may finish. All
hashes of parameters and masks, level by level and control by control, must equal those of the unkilled run.

Run: python -m benchmarks.kill --kills 20   (writes results/benchmarks/kill.json)
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = (
    "--config=configs/lottery/quickstart.py",
    "--config.data.name=synthetic_mnist",
    "--config.validation=256",
    "--config.seeds=(0,)",
    "--config.steps=1500",
    "--config.save_every=20",
    "--config.log_every=20",
    "--config.lottery.rounds=3",
)


def start(workdir: Path) -> subprocess.Popen:
    """Starts the run in a process of its own; its output goes to a file."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "xla")}
    limits = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = [sys.executable, "-m", "experiments.lottery", *SETTINGS, f"--workdir={workdir}"]
    with (workdir.parent / f"{workdir.name}.log").open("ab") as log:
        env = {**os.environ, **cache, **limits}
        return subprocess.Popen(command, stdout=log, stderr=log, env=env)


def saved(workdir: Path) -> set[str]:
    """The checkpoints that are complete."""
    found = workdir.glob("*/seed_0/*/checkpoints/[0-9]*")
    return {f"{p.parent.parent.name}/{p.name}" for p in found if p.name.isdigit()}


def being_saved(workdir: Path) -> bool:
    """Whether a checkpoint is being written right now."""
    return any(workdir.glob("*/seed_0/*/checkpoints/*tmp*"))


def digests(workdir: Path) -> list[str]:
    """The hashes of all levels of the ticket and its controls."""
    (results,) = workdir.glob("*/results.json")
    levels = json.loads(results.read_text())["seeds"][0]["levels"]
    found = []
    for level in levels:
        for _, branch in sorted(level["branches"].items()):
            found += [b["digest"] for b in (branch if isinstance(branch, list) else [branch])]
    return found


def main() -> None:
    """Runs, kills and compares; exits with 1 if a hash differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/kill.json"))
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "whole")
        killed = Path(folder, "killed")
        if start(whole).wait() != 0:
            sys.exit(Path(folder, "whole.log").read_text()[-2000:])
        lives = 0
        kills = 0
        resumed = 0
        in_save = 0
        empty = 0
        while True:
            before = saved(killed)
            process = start(killed)
            lives += 1
            resumed += bool(before)
            while process.poll() is None and not saved(killed) - before:
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 1.0) if kills < arguments.kills else 0)
            if kills >= arguments.kills:
                process.wait()
            if process.poll() is not None:
                break
            in_save += being_saved(killed)
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            empty += not saved(killed)
            print(f"kill {kills}: {len(saved(killed))} checkpoints on disk", flush=True)
        if process.returncode != 0:
            sys.exit(Path(folder, "killed.log").read_text()[-2000:])
        expected = digests(whole)
        found = digests(killed)
    differ = sum(a != b for a, b in zip(expected, found, strict=True))
    results = {
        "kills": kills,
        "lives": lives,
        "resumed_past_zero": resumed,
        "killed_in_mid_save": in_save,
        "killed_before_the_first_save": empty,
        "hashes_compared": len(expected),
        "hashes_that_differ": differ,
        "seed": arguments.seed,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))
    sys.exit(1 if differ or kills < arguments.kills else 0)


if __name__ == "__main__":
    main()
