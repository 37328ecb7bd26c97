#!/usr/bin/env bash
# check.sh: what can be known of the feature `cuda` without a GPU.
#
#   1. the workspace is lint-free with `--features nccl`, which contains `cuda` (no NVIDIA software
#      needed);
#   2. the real nvcc compiles every kernel of ours for sm_80 and sm_90;
#   3. every kernel, compiled for the host, agrees with the f64 oracle under three orders of
#      threads, and the whole model with the CPU's, through candle's CUDA backend.
#
# 2 and 3 take NVIDIA's compiler and headers from PyPI (104 MB); where these cannot be had they are
# left out, and the last line says so. The whole takes minutes on two cores, most of it building.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=${CARGO_TARGET_DIR:-target}/cuda
mkdir -p "$work"

say() { printf -- '-- cuda: %s\n' "$*"; }

say "lints with --features nccl"
(
  eval "$(tools/cuda/toolkit.sh "$work/stand-ins")"
  cargo clippy --workspace --all-targets --features uniferum/nccl --quiet -- -D warnings
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

say "building the tests"
# Binaries link against the stand-ins and are run with the emulated driver in their place.
binaries=$(
  eval "$(tools/cuda/toolkit.sh "$work/stand-ins")"
  cargo test --no-run --message-format=json -p uniferum-kernels -p uniferum-fusion \
    --features uniferum-fusion/cuda \
    --test conv --test layers --test mbconv --test transformer --test bf16 --test device \
    | python3 -c '
import json, sys
for line in sys.stdin:
    made = json.loads(line) if line.startswith("{") else {}
    if made.get("executable") and made["target"]["kind"] == ["test"]:
        print(made["target"]["name"], made["executable"])'
)

export LD_LIBRARY_PATH=$PWD/$work/emulator UNIFERUM_TEST_DEVICE=cuda:0
for order in 0 1 2; do
  say "kernels against the oracle, order $order"
  echo "$binaries" | grep -v '^device ' | while read -r name binary; do
    EMULATOR_ORDER=$order "$binary" --quiet > "$work/$name.log" 2>&1 \
      || { cat "$work/$name.log"; say "$name failed"; exit 1; }
  done
done
say "the whole model against the CPU"
model=$(echo "$binaries" | sed -n 's/^device //p')
"$model" --nocapture
say "all of it holds"
