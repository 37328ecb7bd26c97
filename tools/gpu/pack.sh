#!/usr/bin/env bash
# pack.sh FOLDER: builds what `run.sh` needs, for a machine with CUDA 13 and a driver for it.
#
# Needs no GPU: the compiler comes from PyPI, see `tools/cuda/toolkit.sh`.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$(realpath -m "${1:?usage: pack.sh FOLDER}")
mkdir -p "$folder/tests"
eval "$(tools/cuda/toolkit.sh target/cuda/compiler compiler)"
cargo build --release -p uniferum --features cuda
cp target/release/uniferum "$folder/"
cargo test --release --no-run --message-format=json -p uniferum-kernels -p uniferum-fusion \
  --features uniferum-fusion/cuda \
  --test conv --test layers --test mbconv --test transformer --test bf16 --test device \
  | python3 -c '
import json, shutil, sys
for line in sys.stdin:
    made = json.loads(line) if line.startswith("{") else {}
    if made.get("executable") and made["target"]["kind"] == ["test"]:
        shutil.copy(made["executable"], sys.argv[1] + "/tests/" + made["target"]["name"])' "$folder"
cp -r tools/gpu/run.sh tools/gpu/pytorch_bench.py "$folder/"
