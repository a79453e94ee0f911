#!/usr/bin/env bash
# All measurements that need an accelerator, in under ten minutes and without a network: step overheads, selection up to
# 10^9 scores beside one pass that compares, N:M masks, memory and compile time of a step, and as much of ResNet-20 with
# three seeds as fits, if its data are prepared (cifar10_jpeg75): a later call goes on where it stopped.
#
#   bash benchmarks/gpu.sh OUT [PYTHON]     writes its tables below OUT; QUICK=1 tries it out on small sizes
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${1:?a folder for the results}
PYTHON=${2:-python}
SIZES=1e7,1e8,1e9 ROUNDS=9 FOOTPRINT=MLP TASK=
if [ "${QUICK:-}" ]; then SIZES=1e5 ROUNDS=2 TASK=MLP; fi
mkdir -p "$OUT"
failed=0

part() {  # name, seconds, command: one that fails or runs long does not keep the others from running
    local name=$1 limit=$2; shift 2
    local start=$SECONDS
    echo "== $name"
    timeout "$limit" "$@" >"$OUT/$name.log" 2>&1 || { echo "$name failed: see $OUT/$name.log"; failed=1; }
    echo "$name: $((SECONDS - start)) s"
}

"$PYTHON" -c "import jax; print(jax.devices())" | tee "$OUT/devices.txt"
part selection 120 "$PYTHON" -m benchmarks.selection --sizes "$SIZES" --rounds "$ROUNDS" --out "$OUT/selection.json"
part train_step 200 "$PYTHON" -m benchmarks.train_step --only "$TASK" --rounds "$ROUNDS" --out "$OUT/train_step.json"
part footprint 100 "$PYTHON" -m benchmarks.footprint --only "$FOOTPRINT" --out "$OUT"
CONFIG=configs/compare/resnet20_cifar10.py
if [ -z "${QUICK:-}" ] && "$PYTHON" -m experiments.compare --config=$CONFIG --workdir="$OUT/work" --dry_run >"$OUT/data.log" 2>&1; then
    part resnet20 150 "$PYTHON" -m experiments.compare --config=$CONFIG --workdir="$OUT/work"
else
    echo "resnet20 is left out: its data are not prepared (see $OUT/data.log)"
fi
exit $failed
