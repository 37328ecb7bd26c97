#!/usr/bin/env bash
# available.sh: succeeds where the feature `mpi` can be built and two processes be started; installs
# Open MPI and libclang from Debian first where they are missing and that is allowed.
set -uo pipefail

works() {
  command -v mpicc >/dev/null \
    && compgen -G "/usr/lib/llvm-*/lib/libclang*.so*" >/dev/null \
    && timeout 60 mpirun -n 2 --allow-run-as-root --oversubscribe true >/dev/null 2>&1
}

works && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  timeout 300 sh -c 'apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      libopenmpi-dev openmpi-bin libclang-dev' >/dev/null 2>&1
  works && exit 0
fi
for _ in 1 2 3; do
  echo "WARNING: no working Open MPI with libclang here: THE FEATURE mpi WAS NOT BUILT OR TESTED" >&2
done
exit 1
