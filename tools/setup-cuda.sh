#!/usr/bin/env bash
# Installs a CUDA 13.0 compiler into .cuda/ at the repository root (.cuda/bin/nvcc), from NVIDIA's wheels on PyPI: no root
# rights, no GPU, no driver needed. build.rs finds it there. Does nothing if it is already in place and works.
#
#   tools/setup-cuda.sh            install, or check what is installed
#   tools/setup-cuda.sh --force    install anew
#
# PYTHON names the Python whose pip downloads the wheels (default: python3).
set -euo pipefail

die() { printf 'setup-cuda: %s\n' "$*" >&2; exit 1; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dest=$root/.cuda
python=${PYTHON:-python3}

# One minor version for the compiler's parts: a ptxas refuses the PTX of a newer front end.
compiler=(nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm nvidia-cuda-runtime nvidia-cuda-cccl)
wheels=("${compiler[@]/%/==13.0.*}")
# The disassemblers are on PyPI from 13.2 on and read older images. They serve inspection only.
wheels+=('nvidia-cuda-cuobjdump==13.2.*' 'nvidia-cuda-nvdisasm==13.2.*')

# Compiles a kernel for every architecture that build.rs asks for; prints the compiler's message if it fails.
check() {
  local nvcc=$1 dir status=0
  dir=$(mktemp -d)
  cat >"$dir/check.cu" <<'CU'
#include <cuda_bf16.h>
extern "C" __global__ void check(const __nv_bfloat16* x, float* y) { y[threadIdx.x] = __bfloat162float(x[threadIdx.x]); }
CU
  "$nvcc" -fatbin -std=c++17 -gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_90a,code=sm_90a \
    -gencode=arch=compute_80,code=compute_80 -o "$dir/check.fatbin" "$dir/check.cu" >"$dir/log" 2>&1 &&
    [ -s "$dir/check.fatbin" ] || status=1
  [ $status = 0 ] || cat "$dir/log" >&2
  rm -rf "$dir"
  return $status
}

case ${1:-} in
  --force) rm -rf "$dest" ;;
  '') ;;
  *) die "unknown argument '$1'; usage: tools/setup-cuda.sh [--force]" ;;
esac

if [ -x "$dest/bin/nvcc" ] && check "$dest/bin/nvcc" 2>/dev/null; then
  echo "setup-cuda: $dest/bin/nvcc is in place"
  exit 0
fi

[ "$(uname -s)" = Linux ] || die "the wheels exist for Linux only; install the CUDA toolkit and set CUDA_HOME"
command -v g++ >/dev/null || die "g++ was not found; nvcc needs it as its host compiler"
"$python" -m pip --version >/dev/null 2>&1 || die "$python has no pip; install it, or set PYTHON to a Python that has it"

# Unpack beside the destination and move at the end: an interrupted run leaves no half toolkit behind.
partial=$root/.cuda.partial.$$
trap 'rm -rf "$partial"' EXIT
"$python" -m pip install --quiet --quiet --disable-pip-version-check --no-deps --only-binary :all: --target "$partial" \
  "${wheels[@]}" || die "pip could not install the wheels (its message is above); check the network, then run this again"
# The wheels share one tree, nvidia/cu13; its parts find each other by relative paths.
[ -f "$partial/nvidia/cu13/bin/nvcc" ] || die "the wheels hold no nvidia/cu13/bin/nvcc; their layout has changed"
mv "$partial"/*.dist-info "$partial/nvidia/cu13/"
find "$partial" -path '*/bin/*' -type f -exec chmod +x {} +
check "$partial/nvidia/cu13/bin/nvcc" || die "the installed nvcc cannot compile a kernel (its message is above)"
rm -rf "$dest"
mv "$partial/nvidia/cu13" "$dest"
echo "setup-cuda: installed $dest/bin/nvcc"
