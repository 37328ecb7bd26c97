#!/usr/bin/env bash
# run.sh FOLDER [REPORT]: tests and benchmarks on a GPU machine without cargo.
#
# FOLDER holds what `tools/gpu/pack.sh` built elsewhere: the test programs, `uniferum` and
# `bandwidth`. Writes one report (default: gpu-report.txt) and goes on after a failure, so that the
# report is whole; the exit status is 1 if anything failed.
#
# PARTS="machine tests curve sanitizer kernels speed pytorch" chooses parts, for a machine that is
# lent for a few minutes at a time; each writes its own report. With the emulated driver of
# `tools/cuda/emulator` in LD_LIBRARY_PATH the part `tests` runs on any machine.
set -uo pipefail
folder=$(realpath "${1:?usage: run.sh FOLDER [REPORT]}")
report=$(realpath -m "${2:-gpu-report.txt}")
here=$(cd "$(dirname "$0")" && pwd)
parts=${PARTS:-machine tests curve sanitizer kernels speed pytorch}
device=${DEVICE:-cuda:0}
export UNIFERUM_TEST_DEVICE=$device

# CUDA's own libraries, where Python's packages brought them.
libraries=$(python3 -c 'import importlib.util as u
s = u.find_spec("nvidia.cu13")
print(s.submodule_search_locations[0] + "/lib" if s else "")' 2> /dev/null || true)
[ -n "$libraries" ] && export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$libraries

failures=$(mktemp)
trap 'rm -f "$failures"' EXIT
say() { printf '\n== %s\n' "$*"; }
attempt() {
  "$@" || {
    echo "$*" >> "$failures"
    echo "FAILED: $*"
  }
}

# Runs a command and says how much of the GPU's memory was in use at most, this process and others.
with_peak() {
  local used status
  used=$(mktemp)
  nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -lms 50 > "$used" 2> /dev/null &
  local watcher=$!
  "$@"
  status=$?
  kill "$watcher" 2> /dev/null
  wait "$watcher" 2> /dev/null
  echo "peak GPU memory: $(sort -n "$used" | tail -1) MiB"
  rm -f "$used"
  return "$status"
}

part_machine() {
  say "machine"
  date -u
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
  lscpu | grep -E '^(Model name|CPU\(s\))'
}

part_tests() {
  local program
  for program in "$folder"/tests/*; do
    say "test $(basename "$program")"
    attempt "$program" --nocapture
  done
}

# 200 steps on phantoms in f32 and bf16 against the CPU's loss curve.
part_curve() {
  say "200 training steps on phantoms against the CPU"
  attempt "$folder/tests/gpu_training" --nocapture --ignored
}

part_sanitizer() {
  local program tool
  if ! command -v compute-sanitizer > /dev/null; then
    say "compute-sanitizer is not here: memory and races were not checked"
    return
  fi
  # All at once: each keeps one core and a small part of the GPU busy.
  local logs started=()
  logs=$(mktemp -d)
  for program in conv layers mbconv transformer bf16 augment gpu_loader; do
    for tool in memcheck racecheck synccheck; do
      timeout "${SANITIZER_SECONDS:-1800}" compute-sanitizer --tool "$tool" --error-exitcode 1 \
        "$folder/tests/$program" --quiet > "$logs/$program.$tool" 2>&1 &
      started+=("$! $tool $program")
    done
  done
  local process status
  for process in "${started[@]}"; do
    read -r process tool program <<< "$process"
    wait "$process"
    status=$?
    say "$tool of $program: exit status $status"
    tail -4 "$logs/$program.$tool"
    [ "$status" = 0 ] || echo "$tool of $program: $status" >> "$failures"
  done
  rm -r "$logs"
}

# A line of JSON a kernel: its bytes a second and their share of a copy's. Depthwise convolutions of
# bf16 also without tensor cores.
part_kernels() {
  local dtype batch
  say "kernels beside a copy, bf16, batch 8, without tensor cores"
  UNIFERUM_TENSOR_CORES=0 attempt "$folder/bandwidth" "$device" bf16 8 50
  for dtype in f32 bf16; do
    for batch in 1 8; do
      say "kernels beside a copy, $dtype, batch $batch"
      attempt "$folder/bandwidth" "$device" "$dtype" "$batch" 50
    done
  done
}

part_speed() {
  local dtype batch
  for dtype in f32 bf16; do
    for batch in 1 8; do
      say "encoder, $dtype, batch $batch"
      attempt with_peak "$folder/uniferum" bench encoder --device "$device" --dtype "$dtype" \
        --batch "$batch" --runs 20
    done
    # The largest batch that fits is the last that does not fail.
    for batch in 1 8 16 32 64; do
      say "training step, $dtype, batch $batch"
      with_peak "$folder/uniferum" bench train-step --device "$device" --dtype "$dtype" \
        --batch "$batch" --freeze none --runs 10 \
        || { echo "batch $batch does not fit or failed"; break; }
    done
  done
  say "training step, bf16, batch 64, depthwise convolutions without tensor cores"
  UNIFERUM_TENSOR_CORES=0 with_peak "$folder/uniferum" bench train-step --device "$device" \
    --dtype bf16 --batch 64 --freeze none --runs 10
}

part_pytorch() {
  say "PyTorch"
  if python3 -c 'import torch, monai' 2> /dev/null; then
    attempt python3 "$here/pytorch_bench.py"
  else
    echo "PyTorch or MONAI is not here: nothing to compare with"
  fi
}

{
  for part in $parts; do
    if declare -F "part_$part" > /dev/null; then
      "part_$part"
    else
      echo "there is no part $part" | tee -a "$failures"
    fi
  done
  say "$(wc -l < "$failures") failures"
  cat "$failures"
} 2>&1 | tee "$report"
[ ! -s "$failures" ]
