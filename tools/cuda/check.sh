#!/usr/bin/env bash
# check.sh: what can be known of the feature `cuda` without a GPU.
#
#   1. what the features `cuda` and `nccl` add is lint-free, and everything above builds (no NVIDIA software needed);
#   2. the real nvcc compiles every kernel of ours for sm_80 and sm_90;
#   3. every kernel, compiled for the host, agrees with the f64 oracle under three orders of
#      threads; through candle's CUDA backend the whole model agrees with the CPU's, and so do the
#      loader's batches and a short training.
#
# 2 and 3 take NVIDIA's compiler and headers from PyPI (104 MB); where these cannot be had they are
# left out, and the last line says so. The whole takes minutes on two cores, most of it building.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=${CARGO_TARGET_DIR:-target}/cuda
mkdir -p "$work"

say() { printf -- '-- cuda: %s\n' "$*"; }

say "lints with --features nccl, which contains cuda"
# Only there does code depend on these features; all other crates forward them.
(
  eval "$(tools/cuda/toolkit.sh "$work/stand-ins")"
  cargo clippy --package uniferum-kernels --package uniferum-train --all-targets \
    --features uniferum-train/nccl --quiet -- -D warnings
)

say "building the tests"
# Binaries link against the stand-ins and are run with the emulated driver in their place.
read -ra tests < <(tools/gpu/tests.sh)
binaries=$(
  eval "$(tools/cuda/toolkit.sh "$work/stand-ins")"
  cargo test --no-run --message-format=json "${tests[@]}" | python3 tools/gpu/built.py
)

if ! selected=$(tools/cuda/toolkit.sh "$work/compiler" compiler); then
  for _ in 1 2 3; do
    echo "WARNING: NVIDIA's compiler could not be fetched from PyPI: NO KERNEL WAS COMPILED OR TESTED" >&2
  done
  exit 0
fi

say "every kernel by nvcc for sm_80 and sm_90"
kernels=$(find crates/uniferum-kernels/src -name '*.cu' | sort)
(
  eval "$selected"
  for architecture in sm_80 sm_90; do
    for kernel in $kernels; do
      echo "$architecture $kernel"
    done
  done | xargs -P "$(nproc)" -L 1 bash -c '
    nvcc -cubin -arch="$0" -O3 -std=c++17 --expt-relaxed-constexpr -I crates/uniferum-kernels/src/cuda \
      -o "'"$work"'/$(basename "${1%.cu}").$0" "$1" || { echo "nvcc failed on $1 for $0" >&2; exit 255; }'
)
say "$(echo "$kernels" | wc -l) files compiled twice"

say "building the emulated driver"
(
  eval "$selected"
  tools/cuda/emulator/build.sh "$work/emulator" > "$work/emulator.log"
)

export LD_LIBRARY_PATH=$PWD/$work/emulator UNIFERUM_TEST_DEVICE=cuda:0
# One thread each, so that as many run at once as there are cores.
all_of() { # lines of: log, order of threads, program, its arguments
  xargs -P "$(nproc)" -L 1 bash -c '
    log=$0 order=$1
    EMULATOR_ORDER=$order "${@:2}" > "$log" 2>&1 || { cat "$log"; echo "$log: failed" >&2; exit 255; }'
}
say "kernels against the oracle, three orders of threads"
for order in 0 1 2; do
  echo "$binaries" | grep '^uniferum-kernels ' | while read -r _ name binary; do
    echo "$work/$name.$order.log $order $binary --quiet"
  done
done | all_of
say "the model, the loader and a training against the CPU"
models=$(echo "$binaries" | grep -v '^uniferum-kernels ')
echo "$models" | while read -r _ name binary; do
  echo "$work/$name.log 0 $binary --nocapture"
done | all_of
echo "$models" | while read -r _ name _; do cat "$work/$name.log"; done
say "all of it holds"
