#!/usr/bin/env bash
# toolkit.sh DEST [stand-ins|compiler]
#
# Makes a CUDA_HOME in DEST on a machine without CUDA, and prints the `export` line that selects it.
#
#   stand-ins   (default) libraries whose functions all answer "no driver", and an nvcc that compiles
#               nothing: enough for `cargo check`, `clippy` and for programs that link and start.
#   compiler    also the real nvcc 13.0 and headers, from PyPI (five packages, 104 MB): compiles
#               kernels, and serves the emulator with headers. Programs built with it run on a
#               machine with CUDA 13.
#
# Run it inside the cargo workspace. Needs cc, cargo and python3 (with pip for `compiler`).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dest=$(realpath -m "${1:?usage: toolkit.sh DEST [stand-ins|compiler]}")
kind=${2:-stand-ins}
mkdir -p "$dest/bin" "$dest/lib64/stubs" "$dest/include"
ln -sfn lib64 "$dest/lib"

# The functions that candle may call are those that cudarc declares.
bindings=$(cargo metadata --format-version 1 --all-features | python3 -c '
import json, os, sys
packages = json.load(sys.stdin)["packages"]
print(next(os.path.dirname(p["manifest_path"]) for p in packages if p["name"] == "cudarc"))')

stand_in() { # library, version, module of cudarc, prefix of its functions, what they answer
  local file=$dest/lib64/stubs/lib$1.so
  grep -rhoE "fn $4[A-Za-z0-9_]*\(" "$bindings/src/$3/sys" \
    | sed -E 's/fn ([A-Za-z0-9_]+)\(/int \1(void) { return '"${5:-34}"'; }/' \
    | sort -u | cc -x c -shared -fPIC -w -O1 "-Wl,-soname,lib$1.so.$2" -o "$file" -
  ln -sfn "lib$1.so" "$file.$2"
}
# 34 is CUDA_ERROR_STUB_LIBRARY.
stand_in cuda 1 driver 'cu[A-Z]'
stand_in cublas 13 cublas cublas
stand_in cublasLt 13 cublaslt cublasLt
stand_in curand 10 curand curand
stand_in nvrtc 13 nvrtc nvrtc
stand_in cudart 13 runtime cuda
stand_in nccl 2 nccl nccl 2 # ncclSystemError

if [ "$kind" = compiler ]; then
  python3 -m pip install --quiet --root-user-action=ignore --disable-pip-version-check --upgrade \
    --target "$dest/wheels" --no-deps --no-compile \
    nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 >&2
  real=$dest/wheels/nvidia/cu13
  rm -rf "$dest/include" "$dest/nvvm"
  ln -sfn "$real/include" "$dest/include"
  ln -sfn "$real/nvvm" "$dest/nvvm"
  for tool in "$real"/bin/*; do ln -sfn "$tool" "$dest/bin/"; done
  rm -f "$dest/bin/nvcc"
  ln -sfn "$real/bin" "$dest/real-bin"
  install -m 755 "$here/nvcc-lite" "$dest/bin/nvcc"
  install -m 755 "$here/nvcc-stand-in" "$dest/nvcc-stand-in"
  for library in "$real"/lib/lib*; do ln -sfn "$library" "$dest/lib64/"; done
  ln -sfn libcudart.so.13 "$dest/lib64/libcudart.so"
  rm -f "$dest"/lib64/stubs/libcudart*
else
  install -m 755 "$here/nvcc-stand-in" "$dest/bin/nvcc"
fi
echo "export CUDA_HOME=$dest CUDA_PATH=$dest PATH=$dest/bin:\$PATH CUDA_COMPUTE_CAP=80" \
  "LD_LIBRARY_PATH=$dest/lib64/stubs"
