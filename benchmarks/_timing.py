"""Interleaved timing: wall clocks drift on shared machines, ratios taken in turns do not."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

Thunk = Callable[[], Any]


class Timing(NamedTuple):
    """Median seconds, median ratio to the base in the same round, and the seconds of each round."""

    seconds: float
    ratio: float
    rounds: list[float]


def interleave(
    thunks: Mapping[str, Thunk],
    base: str | None = None,
    rounds: int = 9,
    once: tuple[str, ...] = (),
) -> dict[str, Timing]:
    """Times thunks in turns, in a new random order each round.

    Args:
      thunks: functions of no arguments, by name; results are waited for.
      base: whose time the ratios refer to; the first by default. It is timed a second time in each
        round, as "<base> again", whose ratio shows the noise floor.
      rounds: how often each is timed.
      once: names of slow thunks, run in the first round only; the others get a call to warm up.

    Returns:
      A `Timing` per thunk, in their order.
    """
    base = base or next(iter(thunks))
    thunks = {base: thunks[base], f"{base} again": thunks[base], **thunks}
    for name, thunk in thunks.items():
        if name not in once:
            jax.block_until_ready(thunk())
    seconds = {name: [] for name in thunks}
    rng = np.random.default_rng(0)
    for round_index in range(rounds):
        names = [name for name in thunks if round_index == 0 or name not in once]
        for name in rng.permutation(names):
            seconds[name].append(_timed(thunks[name]))
    return {name: _summary(thunk_seconds, seconds[base]) for name, thunk_seconds in seconds.items()}


def _timed(thunk: Thunk) -> float:
    start = time.perf_counter()
    jax.block_until_ready(thunk())
    return time.perf_counter() - start


def _summary(seconds: list[float], base: list[float]) -> Timing:
    if len(seconds) < len(base):  # timed once
        base = [statistics.median(base)] * len(seconds)
    ratios = [
        own_seconds / base_seconds for own_seconds, base_seconds in zip(seconds, base, strict=True)
    ]
    return Timing(statistics.median(seconds), statistics.median(ratios), seconds)


def hardware(*packages: str) -> dict[str, Any]:
    """Describes what a benchmark ran on: processor, cores, devices, versions."""
    core_count = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("jax", "jaxlib", "numpy", *packages):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "processor": _processor(),
        "cores": core_count,
        "devices": [device.device_kind for device in jax.devices()],
        "versions": versions,
    }


def hardware_line(found: Mapping[str, Any]) -> str:
    """What `hardware` says, in one line."""
    versions = ", ".join(
        f"{name} {version}" for name, version in found["versions"].items() if version
    )
    devices = ", ".join(dict.fromkeys(found["devices"]))
    return f"{found['processor']}, {found['cores']} cores; {devices}; {versions}"


def _processor() -> str:
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        for line in cpu_info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write(path: Path, results: Mapping[str, Any], *packages: str) -> None:
    """Writes results beside the hardware they were got on, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"hardware": hardware(*packages), **results}, indent=1) + "\n")
