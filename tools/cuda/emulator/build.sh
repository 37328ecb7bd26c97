#!/usr/bin/env bash
# build.sh DEST [FOLDER_OF_KERNELS]
#
# Makes in DEST a CUDA driver and the libraries around it that run candle's kernels and ours on the
# host: `LD_LIBRARY_PATH=DEST PROGRAM` for a program built with `--features cuda`. It shows what is
# computed, whether barriers are where they must be, and writes outside arrays; it shows no races
# between blocks and nothing of speed, and has no f16 in candle's own kernels.
#
# Needs g++, and CUDA_HOME from `toolkit.sh DEST compiler` for CUDA's headers. About half a minute.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dest=$(realpath -m "${1:?usage: build.sh DEST [FOLDER_OF_KERNELS]}")
ours=$(realpath "${2:-$here/../../../crates/uniferum-kernels/src}")
mkdir -p "$dest"
candle=$(cargo metadata --format-version 1 --all-features | python3 -c '
import json, os, sys
packages = json.load(sys.stdin)["packages"]
print(next(os.path.dirname(p["manifest_path"]) for p in packages if p["name"] == "candle-kernels"))')
cp -rf "$candle/src" "$dest/candle"
: > "$dest/candle/compatibility.cuh" # atomics of old chips
# Kernels of bf16 are there for devices that have it, as an H100.
sed -i 's/__CUDA_ARCH__ >= 800/1/' "$dest"/candle/*.cu "$dest"/candle/*.cuh
cd "$dest"

include=(-I "$here" -I "$CUDA_HOME/include" -I "$CUDA_HOME/include/cccl")
flags=(-std=c++17 -O2 -fno-strict-aliasing -w -fpermissive -fPIC -U_FORTIFY_SOURCE -fno-stack-protector "${include[@]}")
# Misaligned vectors and places outside fixed arrays, in our own kernels.
checks=(-fsanitize=alignment,bounds -fsanitize-undefined-trap-on-error)

# Compiles a kernel file and registers every kernel in it: object, source, more flags.
kernels() {
  local object=$1 source=$2
  shift 2
  {
    echo '#include "registry.hpp"'
    echo "#include \"$source\""
    echo 'static bool registered[] = {false,'
    g++ -E -P -x c++ "${flags[@]}" "$@" -include "$here/prelude.hpp" "$source" \
      | grep -oE 'extern "C" +(__attribute__\(\([a-z_() 0-9,]*\)\) +)*void +(__attribute__\(\([a-z_() 0-9,]*\)\) +)*[A-Za-z0-9_]+ ?\(' \
      | grep -oE '[A-Za-z0-9_]+ ?\($' | tr -d '( ' | sort -u \
      | sed 's/.*/    emulator::add("&", \&&),/'
    echo '};'
  } > "$object.cpp"
  g++ "${flags[@]}" "$@" -include "$here/prelude.hpp" -c "$object.cpp" -o "$object.o"
  echo "$object: $(grep -c 'emulator::add' "$object.cpp") kernels"
}

jobs_allowed=$(nproc)
running=()
start() {
  "$@" &
  running+=($!)
  if [ ${#running[@]} -ge "$jobs_allowed" ]; then
    wait "${running[0]}"
    running=("${running[@]:1}")
  fi
}
rm -f ./*.o
start g++ "${flags[@]}" -c "$here/driver.cpp" -o driver.o
for name in reduce indexing binary unary cast affine fill ternary; do
  start kernels "candle_$name" "$dest/candle/$name.cu" -I "$dest/candle"
done
for source in $(find "$ours" -name '*.cu' | sort); do
  start kernels "own_$(basename "${source%.cu}")" "$source" -I "$ours/cuda" "${checks[@]}"
done
start g++ "${flags[@]}" -shared -Wl,-soname,libcublas.so.13 -o libcublas.so.13 "$here/blas.cpp"
start g++ "${flags[@]}" -shared -Wl,-soname,libcurand.so.10 -o libcurand.so.10 "$here/rand.cpp"
for job in "${running[@]}"; do wait "$job"; done
g++ -shared -Wl,--allow-multiple-definition -Wl,-soname,libcuda.so.1 -o libcuda.so.1 ./*.o
# Linked against, never called.
for library in libcublasLt.so.13 libcudart.so.13 libnvrtc.so.13; do
  for folder in "$CUDA_HOME/lib64/stubs" "$CUDA_HOME/lib64"; do
    [ -e "$folder/$library" ] && cp -Lf "$folder/$library" . && break
  done
done
