#!/usr/bin/env bash
# pack.sh FOLDER: builds what `run.sh` needs, for a machine with CUDA 13 and a driver for it.
#
# Needs no GPU: the compiler comes from PyPI, see `tools/cuda/toolkit.sh`.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$(realpath -m "${1:?usage: pack.sh FOLDER}")
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$folder/tests"
eval "$(tools/cuda/toolkit.sh "$target/cuda/compiler" compiler)"
# One build for the command, the tests and the measurement of single kernels.
read -ra tests < <(tools/gpu/tests.sh)
cargo build --release --message-format=json-render-diagnostics --package uniferum --bin uniferum \
  --example bandwidth --features uniferum/cuda "${tests[@]}" | python3 tools/gpu/built.py \
  | while read -r _ name program; do cp "$program" "$folder/tests/$name"; done
cp "$target/release/uniferum" "$target/release/examples/bandwidth" "$folder/"
strip "$folder"/uniferum "$folder"/bandwidth "$folder"/tests/*
cp tools/gpu/run.sh tools/gpu/pytorch_bench.py "$folder/"
