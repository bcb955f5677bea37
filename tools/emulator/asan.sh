#!/usr/bin/env bash
# Runs kernels under AddressSanitizer: overruns of buffers, also by tensor maps, of dynamic shared memory and of every SHARED variable, in a C++
# program of its own (asan.cpp). Takes about ten seconds. Fails if an overrun goes unnoticed or a sound kernel is blamed.
#
#   tools/emulator/asan.sh
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
flags=(-std=c++20 -O1 -g -fno-omit-frame-pointer -fsanitize=address -ffp-contract=off "-fmacro-prefix-map=$root/=" "-I$here/src"
  "-I$root/kernels/include")
for source in "$here"/tests/kernels/*.cu; do
  "${CXX:-g++}" "${flags[@]}" -x c++ -include cuda_host.h -c "$source" -o "$out/$(basename "$source").o"
done
"${CXX:-g++}" "${flags[@]}" "$here"/src/*.cpp "$here/tests/asan.cpp" "$out"/*.o -o "$out/asan" -lpthread

check() { # name, wanted exit: 0 or the text of the report
  if "$out/asan" "$1" >"$out/log" 2>&1; then status=0; else status=1; fi
  if { [ "$2" = sound ] && [ $status = 0 ]; } || { [ "$2" != sound ] && [ $status = 1 ] && grep -q "$2" "$out/log"; }; then
    echo "asan: $1: as it should be"
  else
    cat "$out/log" >&2
    echo "asan: $1: wanted '$2', exit status was $status" >&2
    exit 1
  fi
}
check sound sound
check buffer 'heap-buffer-overflow'
check map 'heap-buffer-overflow'
check dynamic 'use-after-poison'
check variable 'use-after-poison'
