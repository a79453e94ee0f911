"""What Torch-Pruning does: run by the interpreter that has it, as a part of `benchmarks.torch_pruning`.

Run: python -m benchmarks._torch_side --out=FILE [--architecture=NAME]   (without one: the hard cases)
"""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import argparse
import copy
import json
import os
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp

from benchmarks import _architectures_torch as architectures
from benchmarks import _hard_cases_torch as hard_cases


def pruner_of(model: Any, x: torch.Tensor) -> Any:
    """Half of each group goes, by magnitude; the last layer stays, and heads are declared."""
    heads = {}
    for module in model.modules():
        if isinstance(module, architectures.Block):
            heads |= dict.fromkeys((module.query, module.key, module.value), module.heads)
    last = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
    return tp.pruner.BasePruner(
        model,
        x,
        importance=tp.importance.GroupMagnitudeImportance(p=1),
        pruning_ratio=0.5,
        ignored_layers=[getattr(model, "head", last)],
        num_heads=heads,
        prune_head_dims=True,
    )


def compared(name: str, rounds: int) -> dict[str, Any]:
    """Groups, seconds, sizes and latencies of one architecture."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = architectures.drawn(architectures.ARCHITECTURES[name]())
    x = architectures.INPUTS[name]()
    dense = model
    found = {}
    for when in ("first", "again"):
        model = copy.deepcopy(dense)
        start = time.process_time()
        pruner = pruner_of(model, x)
        between = time.process_time()
        groups = len(list(pruner.DG.get_all_groups(ignored_layers=pruner.ignored_layers)))
        middle = time.process_time()
        pruner.step()
        found[f"grouping_{when}"] = between - start
        found[f"cutting_{when}"] = time.process_time() - middle
        found |= {"groups": groups, "units": pruner.initial_total_channels}
    for when, own in (("dense", dense), ("small", model)):
        found[f"{when}_params"] = sum(p.numel() for p in own.parameters())
        found[f"{when}_macs"] = tp.utils.count_ops_and_params(own, x)[0]  # per example
    for threads in {
        1,
        len(os.sched_getaffinity(0)),
    }:  # the better of the two: the machine is shared
        torch.set_num_threads(threads)
        with torch.inference_mode():
            for key, least in best_of({"dense": dense, "small": model}, x, rounds).items():
                found[key] = min(found.get(key, least), least)
    return found


def best_of(models: dict[str, Any], x: torch.Tensor, rounds: int) -> dict[str, float]:
    """Least seconds of each, in turns, after one turn to warm up."""
    seconds = {name: [] for name in models}
    for _ in range(rounds + 1):
        for name, model in models.items():
            start = time.perf_counter()
            model(x)
            seconds[name].append(time.perf_counter() - start)
    return {f"{name}_seconds": min(each[1:]) for name, each in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--architecture", choices=architectures.ARCHITECTURES)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    found = (
        hard_cases.outcomes()
        if args.architecture is None
        else compared(args.architecture, args.rounds)
    )
    versions = {name: metadata.version(name) for name in ("torch", "torch-pruning")}
    args.out.write_text(json.dumps({"versions": versions, "found": found}))


if __name__ == "__main__":
    main()
