#!/usr/bin/env bash
# Packs everything that a GPU host without Rust needs to test and measure the kernels into target/gpu-bundle/:
# the integration tests (one binary, tests/it), the benchmarks and the trainer as stripped release binaries, the goldens, the
# peer scripts, and run.sh with its parts.sh.
# Needs nvcc (tools/setup-cuda.sh). Copy the folder to the host, run ./run.sh correctness and ./run.sh figures there, and take
# their JSON files home. target/ is not in git: what copies the repository's files alone must be told of the folder.
#
#   tools/gpu-bundle.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { printf 'gpu-bundle: %s\n' "$*" >&2; exit 1; }

limit_mib=64
bundle=target/gpu-bundle
benches=
for bench in kernels step; do
  if [ -f "benches/$bench.rs" ]; then benches+=" $bench"; fi
done

# Prints "NAME EXECUTABLE" for the artifacts of one kind that a cargo command builds.
artifacts() {
  local kind=$1
  shift
  "$@" --features require-nvcc --message-format=json |
    sed -n 's/.*"kind":\["'"$kind"'"\].*"name":"\([^"]*\)".*"executable":"\([^"]*\)".*/\1 \2/p'
}

# Copies "NAME EXECUTABLE" lines into a folder, stripped.
place() {
  local folder=$1 name path count=0
  mkdir -p "$folder"
  while read -r name path; do
    strip -o "$folder/$name" "$path"
    count=$((count + 1))
  done
  [ "$count" = "$2" ] || die "$folder: $count binaries, expected $2; cargo's messages are above"
}

rm -rf "$bundle"
mkdir -p "$bundle/tools"
artifacts bin cargo build --release --bin trainer | place "$bundle/bin" 1
# shellcheck disable=SC2046,SC2086 # one word each
artifacts bench cargo bench --no-run $(printf -- '--bench %s ' $benches) | place "$bundle/benches" "$(wc -w <<<"$benches")"
artifacts test cargo test --release --no-run --test it | place "$bundle/tests/bin" 1
# run.sh names these modules. A host without the repository runs no others than those of tests/it/kernels.
for module in layouts conv2d_wgmma graph graph_step; do
  [ -f "tests/it/kernels/$module.rs" ] || die "tests/it/kernels has no $module, which run.sh runs by its name"
done

cp -r tests/golden "$bundle/tests/golden"
for script in bench_harness.py bench_memory.py bench_pytorch.py bicl_torch.py join_bench.py; do cp "tools/$script" "$bundle/tools/"; done
cp tools/gpu-bundle-parts.sh "$bundle/parts.sh"
cp tools/gpu-bundle-run.sh "$bundle/run.sh"
chmod +x "$bundle/run.sh"
commit=$(git rev-parse HEAD)
if [ -n "$(git status --porcelain)" ]; then commit+=-modified; fi
echo "$commit" >"$bundle/commit"

# Nothing that a bare host lacks: glibc and its companions only, no Rust, no CUDA.
for binary in "$bundle"/bin/* "$bundle"/benches/* "$bundle"/tests/bin/*; do
  needs=$(ldd "$binary") || die "$binary: ldd fails"
  ! grep -E 'not found|cuda|nvidia|/libstd-' <<<"$needs" || die "$binary needs libraries that a GPU host may lack"
done

bytes=$(du -sb "$bundle" | cut -f1)
du -ah "$bundle" | sort -h | tail -n 40
[ "$bytes" -le $((limit_mib << 20)) ] || die "$bundle holds $((bytes >> 20)) MiB, more than $limit_mib"
echo "gpu-bundle: $bundle, $((bytes >> 20)) MiB, commit $commit"
