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
    with (workdir.parent / f"{workdir.name}.log").open("ab") as log_file:
        environment = {**os.environ, **cache, **limits}
        return subprocess.Popen(command, stdout=log_file, stderr=log_file, env=environment)


def saved(workdir: Path) -> set[str]:
    """The checkpoints that are complete."""
    paths = workdir.glob("*/seed_0/*/checkpoints/[0-9]*")
    return {f"{path.parent.parent.name}/{path.name}" for path in paths if path.name.isdigit()}


def being_saved(workdir: Path) -> bool:
    """Whether a checkpoint is being written right now."""
    return any(workdir.glob("*/seed_0/*/checkpoints/*tmp*"))


def digests(workdir: Path) -> list[str]:
    """The hashes of all levels of the ticket and its controls."""
    (results,) = workdir.glob("*/results.json")
    levels = json.loads(results.read_text())["seeds"][0]["levels"]
    hashes = []
    for level in levels:
        for _, branch in sorted(level["branches"].items()):
            hashes += [
                results_of_branch["digest"]
                for results_of_branch in (branch if isinstance(branch, list) else [branch])
            ]
    return hashes


def main() -> None:
    """Runs, kills and compares; exits with 1 if a hash differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/kill.json"))
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole_folder = Path(folder, "whole")
        killed_folder = Path(folder, "killed")
        if start(whole_folder).wait() != 0:
            sys.exit(Path(folder, "whole.log").read_text()[-2000:])
        life_count = 0
        kill_count = 0
        resumed_count = 0
        in_save_count = 0
        empty_count = 0
        while True:
            saved_before = saved(killed_folder)
            process = start(killed_folder)
            life_count += 1
            resumed_count += bool(saved_before)
            while process.poll() is None and not saved(killed_folder) - saved_before:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 1.0) if kill_count < arguments.kills else 0)
            if kill_count >= arguments.kills:
                process.wait()
            if process.poll() is not None:
                break
            in_save_count += being_saved(killed_folder)
            process.send_signal(signal.SIGKILL)
            process.wait()
            kill_count += 1
            empty_count += not saved(killed_folder)
            print(f"kill {kill_count}: {len(saved(killed_folder))} checkpoints on disk", flush=True)
        if process.returncode != 0:
            sys.exit(Path(folder, "killed.log").read_text()[-2000:])
        expected_hashes = digests(whole_folder)
        found_hashes = digests(killed_folder)
    different_count = sum(
        expected_hash != found_hash
        for expected_hash, found_hash in zip(expected_hashes, found_hashes, strict=True)
    )
    results = {
        "kills": kill_count,
        "lives": life_count,
        "resumed_past_zero": resumed_count,
        "killed_in_mid_save": in_save_count,
        "killed_before_the_first_save": empty_count,
        "hashes_compared": len(expected_hashes),
        "hashes_that_differ": different_count,
        "seed": arguments.seed,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))
    sys.exit(1 if different_count or kill_count < arguments.kills else 0)


if __name__ == "__main__":
    main()
