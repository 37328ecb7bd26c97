#!/usr/bin/env bash
# run.sh FOLDER [REPORT]: tests and benchmarks on a GPU machine without cargo.
#
# FOLDER holds what `tools/gpu/pack.sh` built elsewhere: the test programs and `uniferum`. Writes one
# report (default: gpu-report.txt) and goes on after a failure, so that the report is whole.
set -uo pipefail
folder=$(realpath "${1:?usage: run.sh FOLDER [REPORT]}")
report=$(realpath -m "${2:-gpu-report.txt}")
here=$(cd "$(dirname "$0")" && pwd)
export UNIFERUM_TEST_DEVICE=cuda:0

# CUDA's own libraries, where Python's packages brought them.
libraries=$(python3 -c 'import importlib.util as u
s = u.find_spec("nvidia.cu13")
print(s.submodule_search_locations[0] + "/lib" if s else "")' 2>/dev/null || true)
[ -n "$libraries" ] && export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

failed=0
say() { printf '\n== %s\n' "$*"; }
attempt() { "$@" || { failed=$((failed + 1)); echo "FAILED: $*"; }; }

{
  say "machine"
  date -u
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
  for program in "$folder"/tests/*; do
    say "$(basename "$program")"
    attempt "$program" --nocapture
  done
  if command -v compute-sanitizer > /dev/null; then
    for program in conv layers mbconv transformer bf16; do
      for tool in memcheck racecheck; do
        say "$tool of $program"
        attempt compute-sanitizer --tool "$tool" --error-exitcode 1 "$folder/tests/$program" --quiet
      done
    done
  else
    say "compute-sanitizer is not here: memory and races were not checked"
  fi
  for dtype in f32 bf16; do
    for batch in 1 8; do
      say "encoder, $dtype, batch $batch"
      attempt "$folder/uniferum" bench encoder --device cuda:0 --dtype "$dtype" --batch "$batch" --runs 20
    done
    # The largest batch that fits is the last that does not fail.
    for batch in 1 8 16 32 64; do
      say "training step, $dtype, batch $batch"
      "$folder/uniferum" bench train-step --device cuda:0 --dtype "$dtype" --batch "$batch" --freeze none --runs 10 \
        || { echo "batch $batch does not fit or failed"; break; }
      nvidia-smi --query-gpu=memory.used --format=csv,noheader
    done
  done
  say "PyTorch"
  if python3 -c 'import torch, monai' 2> /dev/null; then
    attempt python3 "$here/pytorch_bench.py"
  else
    echo "PyTorch or MONAI is not here: nothing to compare with"
  fi
  say "$failed failures"
} 2>&1 | tee "$report"
exit "$failed"
