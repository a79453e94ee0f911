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
    heads_by_layer = {}
    for module in model.modules():
        if isinstance(module, architectures.Block):
            heads_by_layer |= dict.fromkeys((module.query, module.key, module.value), module.heads)
    last_layer = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    return tp.pruner.BasePruner(
        model,
        x,
        importance=tp.importance.GroupMagnitudeImportance(p=1),
        pruning_ratio=0.5,
        ignored_layers=[getattr(model, "head", last_layer)],
        num_heads=heads_by_layer,
        prune_head_dims=True,
    )


def compared(name: str, rounds: int) -> dict[str, Any]:
    """Groups, seconds, sizes and latencies of one architecture."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = architectures.drawn(architectures.ARCHITECTURES[name]())
    x = architectures.INPUTS[name]()
    dense = model
    figures = {}
    for attempt in ("first", "again"):
        model = copy.deepcopy(dense)
        start_time = time.process_time()
        pruner = pruner_of(model, x)
        grouped_time = time.process_time()
        groups = len(list(pruner.DG.get_all_groups(ignored_layers=pruner.ignored_layers)))
        cut_start = time.process_time()
        pruner.step()
        figures[f"grouping_{attempt}"] = grouped_time - start_time
        figures[f"cutting_{attempt}"] = time.process_time() - cut_start
        figures |= {"groups": groups, "units": pruner.initial_total_channels}
    for attempt, network in (("dense", dense), ("small", model)):
        figures[f"{attempt}_params"] = sum(parameter.numel() for parameter in network.parameters())
        figures[f"{attempt}_macs"] = tp.utils.count_ops_and_params(network, x)[0]  # per example
    for threads in {
        1,
        len(os.sched_getaffinity(0)),
    }:  # the better of the two: the machine is shared
        torch.set_num_threads(threads)
        with torch.inference_mode():
            for latency_name, least_seconds in best_of(
                {"dense": dense, "small": model}, x, rounds
            ).items():
                figures[latency_name] = min(figures.get(latency_name, least_seconds), least_seconds)
    return figures


def best_of(models: dict[str, Any], x: torch.Tensor, rounds: int) -> dict[str, float]:
    """Least seconds of each, in turns, after one turn to warm up."""
    seconds = {name: [] for name in models}
    for _ in range(rounds + 1):
        for name, model in models.items():
            start = time.perf_counter()
            model(x)
            seconds[name].append(time.perf_counter() - start)
    return {f"{name}_seconds": min(model_seconds[1:]) for name, model_seconds in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--architecture", choices=architectures.ARCHITECTURES)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    found = (
        hard_cases.outcomes()
        if arguments.architecture is None
        else compared(arguments.architecture, arguments.rounds)
    )
    versions = {name: metadata.version(name) for name in ("torch", "torch-pruning")}
    arguments.out.write_text(json.dumps({"versions": versions, "found": found}))


if __name__ == "__main__":
    main()
