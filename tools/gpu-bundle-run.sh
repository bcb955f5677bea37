#!/usr/bin/env bash
# Tests and measures the kernels on this host's GPU. Needs an NVIDIA driver; no Rust, no CUDA toolkit. In order:
#   tests       the kernel tests, operation by operation
#   sanitizer   the same under compute-sanitizer's memcheck, racecheck, synccheck and initcheck, where it is installed
#   benches     training step and kernels, the PyTorch peer where torch can be imported, and both side by side (join.md)
#   demo        a short adaptation on generated scenes
# No part stops another; each one's exit status, time and log are kept, and OUT/figures.json is written anew after every
# part, so that a run that is cut off keeps what it had.
#
#   ./run.sh [OUT]        writes OUT/figures.json and OUT/logs/ (default: out/ beside this script)
#
# PARTS="tests benches" runs only those. TOTAL_SECONDS (default 570) limits the whole: what would begin later is left out and
# said so; the sanitizer gets at most SANITIZER_SECONDS (default 120) of it, for the SANITIZER_TOOLS in turn. PYTHON names the Python with torch (python3).
# Exits 0 if every part that could run passed, 1 if one failed, none ran, or there is no GPU, 2 if figures.json cannot be written.
set -uo pipefail

begun=$SECONDS
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-$here/out}
total=${TOTAL_SECONDS:-570}
sanitizer_total=${SANITIZER_SECONDS:-120}
sanitizer_tools=${SANITIZER_TOOLS:-memcheck racecheck synccheck initcheck}
wanted=" ${PARTS:-tests sanitizer benches demo} "
python=${PYTHON:-python3}
for name in $wanted; do
  case $name in tests | sanitizer | benches | demo) ;; *)
    echo "run: PARTS names '$name'; known are tests, sanitizer, benches, demo" >&2
    exit 2
    ;;
  esac
done

card=
driver=
if command -v nvidia-smi >/dev/null; then
  card=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)
fi
if [ -z "$card" ]; then
  # A container may have the driver without its tools.
  driver=$(head -n 1 /proc/driver/nvidia/version 2>/dev/null)
  card=$(sed -n 's/^Model:[[:space:]]*//p' /proc/driver/nvidia/gpus/*/information 2>/dev/null | head -n 1)
fi
if [ -z "$card" ]; then
  echo "run: no NVIDIA driver with a GPU on this host (nvidia-smi and /proc/driver/nvidia name none); nothing was run" >&2
  exit 1
fi

mkdir -p "$out/logs" && out=$(cd "$out" && pwd) || { echo "run: cannot write to $out" >&2; exit 2; }
cd "$here" || exit 2
commit=$(cat commit)
date=$(date -u +%Y-%m-%dT%H:%M:%SZ)
echo "run: $card, driver ${driver:-unknown}, commit $commit"
# Choices between kernels stay with the figures that they gave.
export REQUIRE_GPU=1 RUST_BACKTRACE=0 BICL_CACHE=$out/cache
parts=
failed=0
passed=0
skipped=0
rm -f "$out"/*.jsonl "$out/demo.json" "$out/join.md"

# A JSON string of stdin.
quote() {
  LC_ALL=C tr -d '\000-\010\013-\037\177-\377' | LC_ALL=C sed 's/\\/\\\\/g; s/"/\\"/g; s/\t/\\t/g' |
    awk 'BEGIN { printf "\"" } NR > 1 { printf "\\n" } { printf "%s", $0 } END { printf "\"" }'
}

# The JSON lines of a file as a JSON array. A line that a killed program left half written is dropped.
lines() {
  [ -s "$1" ] && awk 'BEGIN { printf "[" } /^[{].*[}]$/ { printf "%s\n      %s", (n++ ? "," : ""), $0 } END { printf "]" }' "$1" || printf '[]'
}

# The demo's outcome, or null: a demo that was cut off leaves no whole line.
outcome() {
  [ -s "$out/demo.json" ] && [ "$(tail -c 2 "$out/demo.json" | tr -d '\n')" = '}' ] && cat "$out/demo.json" || printf 'null'
}

figures() {
  {
    cat <<JSON
{
  "card": $(quote <<<"$card"),
  "driver": $(quote <<<"${driver:-unknown}"),
  "date": "$date",
  "commit": $(quote <<<"$commit"),
  "host": $(uname -srm | quote),
  "passed": $passed, "failed": $failed, "skipped": $skipped, "seconds": $((SECONDS - begun)),
  "parts": [
    $parts
  ],
  "figures": {
    "kernels": $(lines "$out/kernels.jsonl"),
    "kernels_by_warps": $(lines "$out/kernels_by_warps.jsonl"),
    "step": $(lines "$out/step.jsonl"),
    "pytorch": $(lines "$out/bench_pytorch.jsonl")
  },
  "demo": $(outcome)
}
JSON
  } >"$out/figures.json.partial" && mv "$out/figures.json.partial" "$out/figures.json" || {
    echo "run: cannot write $out/figures.json" >&2
    exit 2
  }
}

add() {
  parts+="${parts:+,
    }$1"
  figures
}

# skip NAME REASON
skip() {
  skipped=$((skipped + 1))
  printf 'skipped %-32s %s\n' "$1" "$2"
  add "{\"name\": $(quote <<<"$1"), \"status\": null, \"message\": $(quote <<<"skipped: $2")}"
}

# part NAME COMMAND...: runs it within what is left of the time, records how it ended.
deadline=$((begun + total))
part() {
  local name=$1 log=$out/logs/${1//[ :]/-}.log start=$SECONDS status seconds tail=null
  local limit=$((deadline - SECONDS))
  shift
  if [ $limit -lt 5 ]; then
    skip "$name" "no time left"
    return 1
  fi
  timeout --kill-after=10 "$limit" "$@" >"$log" 2>&1 </dev/null
  status=$?
  seconds=$((SECONDS - start))
  if [ $status = 0 ]; then
    passed=$((passed + 1))
    printf 'ok      %-32s %4d s\n' "$name" "$seconds"
  else
    failed=$((failed + 1))
    [ $status = 124 ] && echo "run: stopped after $limit s" >>"$log"
    # What went wrong: panics and errors first, else the end of the log.
    tail=$({ grep --no-group-separator -A1 -E "panicked at|^error|^Error|ERROR SUMMARY|Traceback|not found|stopped after" "$log" || tail -n 8 "$log"; } | head -n 12 | cut -c1-300)
    printf 'FAILED  %-32s %4d s, exit status %d: %s\n' "$name" "$seconds" "$status" "$(tail -n 1 <<<"$tail")"
    tail=$(quote <<<"$tail")
  fi
  add "{\"name\": $(quote <<<"$name"), \"status\": $status, \"seconds\": $seconds, \"log\": $(quote <<<"logs/${log##*/}"), \"message\": $tail}"
  return $status
}

wants() { [[ $wanted == *" $1 "* ]]; }
mapfile -t operations <tests/operations

# The tests of an operation, as arguments: a filter is any part of a name, so `entropy::` must leave `cross_entropy::` out.
tests_of() {
  local other
  arguments=("$1::")
  for other in "${operations[@]}"; do
    if [[ $other == ?*"$1" ]]; then arguments+=(--skip "$other::"); fi
  done
}

if wants tests; then
  for operation in "${operations[@]}"; do
    tests_of "$operation"
    part "test:$operation" tests/bin/gpu "${arguments[@]}"
  done
fi

if wants sanitizer; then
  sanitizer=$(command -v compute-sanitizer || { [ -x /usr/local/cuda/bin/compute-sanitizer ] && echo /usr/local/cuda/bin/compute-sanitizer; })
  if [ -z "$sanitizer" ]; then
    skip sanitizer "compute-sanitizer is neither in PATH nor in /usr/local/cuda/bin"
  else
    deadline=$((SECONDS + sanitizer_total < begun + total ? SECONDS + sanitizer_total : begun + total))
    for tool in $sanitizer_tools; do
      for operation in "${operations[@]}"; do
        tests_of "$operation"
        part "$tool:$operation" "$sanitizer" --tool "$tool" --error-exitcode 9 tests/bin/gpu "${arguments[@]}" --test-threads 1
      done
    done
    deadline=$((begun + total))
  fi
fi

if wants benches; then
  # The demo gets its share; the longest comes last, row by row, so that what is cut off are rows.
  if wants demo; then deadline=$((deadline - 45)); fi
  part bench:step benches/step --device cuda --seconds 2 --json "$out/step.jsonl"
  torch=
  if "$python" -c 'import torch' 2>/dev/null; then
    torch=1
    # It appends, so that all parts end in one file. The losses are f32 in both.
    peer() {
      local name=$1
      shift
      part "peer:pytorch-$name" "$python" tools/bench_pytorch.py --device cuda --seconds 0.3 --json "$out/bench_pytorch.jsonl" "$@"
    }
    peer bf16 --dtype bf16
    peer f32 --dtype f32 --only ceilings conv2d memory step
  else
    skip peer:pytorch "$python cannot import torch; PYTHON names another"
  fi
  part bench:kernels benches/kernels --device cuda --json "$out/kernels.jsonl"
  # What products by warpgroups gain over those by warps; only this capability has both.
  if [ "$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1)" = 9.0 ]; then
    part bench:warps benches/kernels --device cuda --filter conv2d --warpgroups off --json "$out/kernels_by_warps.jsonl"
  fi
  if [ -n "$torch" ]; then
    # Compiling takes minutes: last, what the README states first, and with time left to join what there is.
    deadline=$((deadline - 10))
    peer compile --dtype bf16 --variants compile --only contrastive segmentation_loss step memory
    deadline=$((deadline + 10))
    cat "$out/kernels.jsonl" "$out/step.jsonl" >"$out/ours.jsonl" 2>/dev/null
    # shellcheck disable=SC2016 # the inner shell expands
    part peer:join bash -c 'exec "$1" tools/join_bench.py "$2/ours.jsonl" "$2/bench_pytorch.jsonl" >"$2/join.md"' join "$python" "$out"
  fi
  deadline=$((begun + total))
fi

if wants demo; then
  rm -rf "$out/demo"
  # The outcome is the demo's standard output, its messages go to the log.
  # shellcheck disable=SC2016
  part demo bash -c 'exec bin/trainer --demo --device cuda --json --out "$1/demo" --set warmup.steps=60 --set adapt.rounds=1 \
    --set adapt.steps=30 >"$1/demo.json"' demo "$out"
fi

figures
echo "run: $passed passed, $failed failed, $skipped skipped; $out/figures.json"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
