"""Kills two processes that train one network together under RigL, and compares with a run left alone.

The two processes share a mesh of four CPU devices over which parameters, masks and optimizer state are split.
Every few updates Orbax saves all of it. Both are killed with SIGKILL at random moments, one before the
other, and started again from what is on disk. The last parameters and masks must have the bits of the run
that nobody killed.

Run: python -m benchmarks.kill_two --kills 6   (writes results/benchmarks/kill_two.json)
"""

import argparse
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = 120
SAVE_EVERY = 5
CHANGE_EVERY = 4


def train(folder: Path, process: int, port: int) -> None:
    """One of the two processes: trains to the end from what is on disk, and writes a digest."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from jax.experimental import multihost_utils
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P
    from orbax.checkpoint import CheckpointManager, CheckpointManagerOptions, args

    import jaxprune as jp

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=process)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rng = np.random.default_rng(0)
    host_params = {
        name: {"kernel": rng.standard_normal(shape, np.float32) / shape[0] ** 0.5}
        for name, shape in {"a": (32, 64), "b": (64, 64), "c": (64, 8)}.items()
    }
    sharding = NamedSharding(mesh, P("data"))

    def place(array, target_sharding):
        return jax.make_array_from_callback(
            array.shape, target_sharding, lambda index: array[index]
        )

    params = jax.tree.map(lambda array: place(array, sharding), host_params)
    method = jp.methods.rigl(sparsity=0.9, every=CHANGE_EVERY, end=STEPS)
    transform = jp.sparsify(optax.adam(1e-2), method, key=jax.random.key(0))
    state = jax.jit(transform.init)(params)
    inputs = place(rng.standard_normal((16, 32), np.float32), sharding)

    def loss(params, inputs, noise):
        array = inputs + 0.1 * jax.random.normal(noise, inputs.shape)
        for name in ("a", "b"):
            array = jnp.tanh(array @ params[name]["kernel"])
        return jnp.mean((array @ params["c"]["kernel"] - 1) ** 2)

    @jax.jit
    def step(params, state, inputs, number):
        grads = jax.grad(loss)(params, inputs, jax.random.fold_in(jax.random.key(1), number))
        updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    with CheckpointManager(
        (folder / "checkpoints").absolute(),
        options=CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False),
    ) as manager:
        saved_step = manager.latest_step() or 0
        params, state = step(params, state, inputs, 0) if not saved_step else (params, state)
        if saved_step:
            state_shapes = jax.eval_shape(lambda: (params, state))
            known_shardings = step.lower(params, state, inputs, 0).compile().output_shardings
            shapes = jax.tree.map(
                lambda array, sharding_of_leaf: jax.ShapeDtypeStruct(
                    array.shape, array.dtype, sharding=sharding_of_leaf
                ),
                state_shapes,
                known_shardings,
            )
            params, state = manager.restore(saved_step, args=args.StandardRestore(shapes))
        for number in range(max(saved_step, 1), STEPS):
            params, state = step(params, state, inputs, number)
            if (number + 1) % SAVE_EVERY == 0:
                manager.save(number + 1, args=args.StandardSave((params, state)))
    masks = jp.masks_of(state)
    gathered = multihost_utils.process_allgather((params, masks), tiled=True)
    if process == 0:
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(gathered):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        kept_counts = {row["leaf"]: row["kept"] for row in jp.masks.summary(gathered[1])}
        result_text = json.dumps({"digest": digest.hexdigest(), "kept": kept_counts})
        (folder / "result.json").write_text(result_text)


def start(folder: Path) -> list[subprocess.Popen]:
    """Starts both processes."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free_socket:
        free_socket.bind(("localhost", 0))
        port = free_socket.getsockname()[1]
    flags = "--xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    processes = []
    for process in range(2):
        command = [sys.executable, "-m", "benchmarks.kill_two", "--train", str(folder)]
        command += ["--process", str(process), "--port", str(port)]
        with (folder / f"{process}.log").open("ab") as log_file:
            processes.append(
                subprocess.Popen(command, stdout=log_file, stderr=log_file, env=environment)
            )
    return processes


def saved(folder: Path) -> set[str]:
    """The checkpoints that are complete."""
    return {path.name for path in folder.glob("checkpoints/[0-9]*") if path.name.isdigit()}


def main() -> None:
    """Runs, kills and compares; exits with 1 if the bits differ."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/kill_two.json"))
    parser.add_argument("--train", type=Path, help="be one of the two processes, in this folder")
    parser.add_argument("--process", type=int, default=0, help="which of the two")
    parser.add_argument("--port", type=int, default=0, help="where they meet")
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments.train, arguments.process, arguments.port)
        return
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        whole_folder = Path(temporary, "whole")
        killed_folder = Path(temporary, "killed")
        if any(process.wait() for process in start(whole_folder)):
            sys.exit((whole_folder / "0.log").read_text()[-3000:])
        kill_count = 0
        resumed_count = 0
        while not (killed_folder / "result.json").exists():
            saved_before = saved(killed_folder)
            processes = start(killed_folder)
            resumed_count += bool(saved_before)

            def are_running(processes=processes):
                return all(process_of_run.poll() is None for process_of_run in processes)

            if kill_count < arguments.kills:
                while are_running() and not saved(killed_folder) - saved_before:
                    time.sleep(0.005)
                time.sleep(rng.uniform(0, 0.3))
                if not are_running():
                    break
                for process in rng.sample(processes, 2):
                    process.send_signal(signal.SIGKILL)
                    time.sleep(rng.uniform(0, 0.05))
                kill_count += 1
            for process in processes:
                process.wait()
            print(f"kill {kill_count}: saved {sorted(saved(killed_folder), key=int)}", flush=True)
            if kill_count == arguments.kills and any(
                process.returncode > 0 for process in processes
            ):
                sys.exit((killed_folder / "0.log").read_text()[-3000:])
        whole_result, killed_result = (
            json.loads((run_folder / "result.json").read_text())
            for run_folder in (whole_folder, killed_folder)
        )
    results = {
        "processes": 2,
        "devices": 4,
        "updates": STEPS,
        "masks_change_every": CHANGE_EVERY,
        "saved_every": SAVE_EVERY,
        "kills": kill_count,
        "resumed_past_zero": resumed_count,
        "kept": whole_result["kept"],
        "same_bits": whole_result["digest"] == killed_result["digest"],
        "seed": arguments.seed,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))
    sys.exit(not results["same_bits"])


if __name__ == "__main__":
    main()
