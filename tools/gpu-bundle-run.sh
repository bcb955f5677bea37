#!/usr/bin/env bash
# Tests and measures the kernels on this host's GPU. Needs an NVIDIA driver; no Rust, no CUDA toolkit. In order:
# the kernel tests, the same under compute-sanitizer where it is installed, the benchmarks, the PyTorch peer where torch can
# be imported, and a short demo. No part stops another; each one's exit status, time and log are kept.
#
#   ./run.sh [OUT]        writes OUT/figures.json and OUT/logs/ (default: out/ beside this script)
#
# PYTHON names the Python with torch (default: python3). PART_SECONDS limits each part (default: 600).
# Exits 0 if every part that could run passed, 1 if one failed, 2 if figures.json could not be written.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-$here/out}
mkdir -p "$out/logs" && out=$(cd "$out" && pwd) || { echo "run: cannot write to $out" >&2; exit 2; }
cd "$here" || exit 2
python=${PYTHON:-python3}
limit=${PART_SECONDS:-600}
export REQUIRE_GPU=1 RUST_BACKTRACE=0
parts=
failed=0
passed=0
skipped=0

# A JSON string of stdin.
quote() {
  LC_ALL=C tr -d '\000-\010\013-\037\177-\377' | LC_ALL=C sed 's/\\/\\\\/g; s/"/\\"/g; s/\t/\\t/g' |
    awk 'BEGIN { printf "\"" } NR > 1 { printf "\\n" } { printf "%s", $0 } END { printf "\"" }'
}

add() { parts+="${parts:+,
    }$1"; }

# part NAME COMMAND...: runs it, records how it ended.
part() {
  local name=$1 log=$out/logs/${1//[ :]/-}.log start status
  shift
  start=$(date +%s)
  timeout --kill-after=10 "$limit" "$@" >"$log" 2>&1 </dev/null
  status=$?
  local seconds=$(($(date +%s) - start)) tail='null'
  if [ $status = 0 ]; then
    passed=$((passed + 1))
    printf 'ok      %-32s %4d s\n' "$name" "$seconds"
  else
    failed=$((failed + 1))
    [ $status = 124 ] && echo "run: stopped after $limit s (PART_SECONDS)" >>"$log"
    # What went wrong: panics and errors first, else the end of the log.
    tail=$({ grep -A1 -E "panicked at|^error|^Error|ERROR SUMMARY|Traceback|not found|stopped after" "$log" || tail -n 8 "$log"; } | head -n 12 | cut -c1-300)
    printf 'FAILED  %-32s %4d s, exit status %d: %s\n' "$name" "$seconds" "$status" "$(tail -n 1 <<<"$tail")"
    tail=$(quote <<<"$tail")
  fi
  add "{\"name\": $(quote <<<"$name"), \"status\": $status, \"seconds\": $seconds, \"log\": $(quote <<<"logs/${log##*/}"), \"message\": $tail}"
  return $status
}

# skip NAME REASON
skip() {
  skipped=$((skipped + 1))
  printf 'skipped %-32s %s\n' "$1" "$2"
  add "{\"name\": $(quote <<<"$1"), \"status\": null, \"message\": $(quote <<<"skipped: $2")}"
}

# The JSON lines of a file as a JSON array. A line that a killed program left half written is dropped.
lines() {
  [ -s "$1" ] && awk 'BEGIN { printf "[" } /^[{].*[}]$/ { printf "%s\n      %s", (n++ ? "," : ""), $0 } END { printf "]" }' "$1" || printf '[]'
}

card=none
driver=none
if command -v nvidia-smi >/dev/null; then
  card=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)
elif [ -r /proc/driver/nvidia/version ]; then
  driver=$(head -n 1 /proc/driver/nvidia/version)
fi
[ -n "$card" ] || card=none
[ -n "$driver" ] || driver=none
commit=$(cat commit)
echo "run: card $card, driver $driver, commit $commit"
[ "$card" != none ] || echo "run: no NVIDIA GPU was found here; the parts that need one will fail" >&2

for test in tests/bin/*; do
  part "test:${test##*/}" "$test"
done

sanitizer=$(command -v compute-sanitizer || { [ -x /usr/local/cuda/bin/compute-sanitizer ] && echo /usr/local/cuda/bin/compute-sanitizer; })
for tool in memcheck racecheck; do
  for test in tests/bin/*; do
    if [ -n "$sanitizer" ]; then
      part "$tool:${test##*/}" "$sanitizer" --tool "$tool" --error-exitcode 9 "$test" --test-threads 1
    else
      skip "$tool:${test##*/}" "compute-sanitizer is neither in PATH nor in /usr/local/cuda/bin"
    fi
  done
done

for bench in benches/*; do
  name=${bench##*/}
  part "bench:$name" "$bench" --device cuda --json "$out/$name.jsonl"
done

if ! "$python" -c 'import torch' 2>/dev/null; then
  skip peer:pytorch "$python cannot import torch; PYTHON names another"
elif [ ! -f tools/bench_pytorch.py ]; then
  skip peer:pytorch "the bundle holds no tools/bench_pytorch.py"
else
  # It appends, so that both precisions end in one file.
  rm -f "$out/bench_pytorch.jsonl"
  for dtype in bf16 f32; do
    part "peer:pytorch-$dtype" "$python" tools/bench_pytorch.py --device cuda --dtype "$dtype" --json "$out/bench_pytorch.jsonl"
  done
fi

rm -rf "$out/demo"
demo=null
# The outcome is the demo's standard output, its messages go to the log.
if part demo bash -c 'exec bin/trainer --demo --device cuda --json --out "$1/demo" --set warmup.steps=60 --set adapt.rounds=1 \
  --set adapt.steps=30 >"$1/demo.json"' demo "$out" && [ -s "$out/demo.json" ]; then
  demo=$(cat "$out/demo.json")
fi

{
  cat <<JSON
{
  "card": $(quote <<<"$card"),
  "driver": $(quote <<<"$driver"),
  "date": "$(date -u +%Y-%m-%dT%H:%M:%SZ)",
  "commit": $(quote <<<"$commit"),
  "host": $(uname -srm | quote),
  "passed": $passed, "failed": $failed, "skipped": $skipped,
  "parts": [
    $parts
  ],
  "figures": {
    "kernels": $(lines "$out/kernels.jsonl"),
    "step": $(lines "$out/step.jsonl"),
    "pytorch": $(lines "$out/bench_pytorch.jsonl")
  },
  "demo": $demo
}
JSON
} >"$out/figures.json.partial" && mv "$out/figures.json.partial" "$out/figures.json" || { echo "run: cannot write $out/figures.json" >&2; exit 2; }
echo "run: $passed passed, $failed failed, $skipped skipped; $out/figures.json"
[ "$failed" = 0 ]
