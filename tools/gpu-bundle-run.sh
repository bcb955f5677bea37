#!/usr/bin/env bash
# Tests or measures the kernels on this host's GPU. Needs an NVIDIA driver; no Rust, no CUDA toolkit. Two calls:
#
#   ./run.sh correctness [OUT]      ends within 180 s: layouts, warpgroup products, graphs, every other test, doctor, memcheck
#   ./run.sh figures [OUT]          ends within 420 s: step, convolutions, PyTorch's, ncu, the compiled step, norms and losses
#
# No part spoils another: each has a time limit of its own and is killed three seconds after it, and each one's exit status,
# time and first telling lines are kept. OUT (default: out/ beside this script) gets at most 8 files, written anew every second
# and after every part, each by a rename, so that a run that is killed keeps what it had:
#   correctness.json or figures.json    all of it, benches/results/README.md tells the fields
#   rows.jsonl, join.md                 the rows of both sides, and both side by side (figures)
#   logs.tgz, choices.json, ncu.csv     what each part printed, the choices between kernels, three kernels under ncu
#
#   PARTS="step join"          only these parts (and host)
#   LIMITS="step=30 ncu=10"    other limits, in seconds: of a part, of one test that is repeated (one), of all that are (again)
#   TOTAL_SECONDS=100          another limit of the whole; a part gets what is left of it, or is left out
#   PYTHON=python3.12          the Python with torch (python3)
# Exits 0 if every part that could run passed, 1 if one failed or had no time, none ran, or there is no GPU, 2 if OUT cannot be written or the
# arguments are wrong.
set -uo pipefail
# Bytes, and `&` is a letter in replacements.
LC_ALL=C
shopt -u patsub_replacement 2>/dev/null

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
call=${1-}
declare -A limits=([host]=8 [one]=5 [again]=25)
case $call in
  correctness)
    total=180
    known="layouts wgmma graph others doctor memcheck"
    limits+=([layouts]=15 [wgmma]=40 [graph]=15 [others]=60 [doctor]=30 [memcheck]=40)
    ;;
  figures)
    total=420
    known="step conv2d peer-conv2d peer-step ncu compiled-step norm peer-norm compiled-losses join"
    limits+=([step]=60 [conv2d]=70 [peer-conv2d]=50 [peer-step]=50 [ncu]=25 [compiled-step]=70)
    limits+=([norm]=25 [peer-norm]=30 [compiled-losses]=20 [join]=10)
    ;;
  *)
    echo "usage: run.sh correctness|figures [OUT]" >&2
    exit 2
    ;;
esac
out=${2:-$here/out}
total=${TOTAL_SECONDS:-$total}
wanted=" ${PARTS:-$known} "
python=${PYTHON:-python3}
for name in $wanted; do
  [[ " $known " == *" $name "* ]] || { echo "run: PARTS names '$name'; known are $known" >&2; exit 2; }
done
for change in ${LIMITS:-}; do
  if ! [[ $change =~ ^([a-z0-9-]+)=([0-9]+)$ && -n ${limits[${BASH_REMATCH[1]}]-} ]]; then
    echo "run: LIMITS says '$change'; expected PART=SECONDS of ${!limits[*]}" >&2
    exit 2
  fi
  limits[${BASH_REMATCH[1]}]=${BASH_REMATCH[2]}
done

# What is left after the deadline is for the last part's end and the last save.
deadline=$((SECONDS + total - 5))
if ! { mkdir -p "$out" && out=$(cd "$out" && pwd) && touch "$out/.partial"; }; then
  echo "run: cannot write to $out" >&2
  exit 2
fi
for file in .partial correctness.json figures.json rows.jsonl join.md logs.tgz choices.json ncu.csv; do rm -f "${out:?}/$file"; done
cd "$here" || exit 2
work=$(mktemp -d) || exit 2
mkdir "$work/logs" "$work/rows" "$work/cache" "$work/inductor"
: >"$work/rows/none.jsonl"
host=$(uname -srm)
commit=$(cat commit)
date=$(date -u +%Y-%m-%dT%H:%M:%SZ)
card=
driver=
compute_mode=
torch=
running=
child=
declare -A background=() log_of=()
passed=0
failed=0
skipped=0
late=0

# shellcheck source=tools/gpu-bundle-parts.sh
. "$here/parts.sh"

# --- the host ------------------------------------------------------------------------------------------------------

host() {
  nvidia-smi --query-gpu=name,driver_version,compute_cap,compute_mode,memory.total,clocks.max.sm,power.limit --format=csv,noheader |
    head -n 1 | sed 's/^/gpu: /'
  # Versions without importing torch, which takes seconds.
  "$python" -c '
from importlib.metadata import distributions
found = {d.metadata["Name"]: d.version for d in distributions()}
print("torch:", " ".join(f"{n} {found[n]}" for n in sorted(found) if n in ("torch", "triton") or n.startswith("nvidia-cudnn")))'
  nvidia-smi
  "$here/bin/trainer" --version
}
export -f host
export python here
part host host bash -c host
IFS=, read -r card driver _ compute_mode _ < <(sed -n 's/^gpu: //p' "${log_of[host]}" | sed 's/, */,/g')
torch=$(sed -n 's/^torch: //p' "${log_of[host]}")
if [ -z "$card" ]; then
  # A container may have the driver without its tools.
  driver=$(head -n 1 /proc/driver/nvidia/version 2>/dev/null)
  card=$(sed -n 's/^Model:[[:space:]]*//p' /proc/driver/nvidia/gpus/*/information 2>/dev/null | head -n 1)
fi
if [ -z "$card" ]; then
  echo "run: no NVIDIA driver with a GPU on this host (nvidia-smi and /proc/driver/nvidia name none); nothing was run" >&2
  exit 1
fi
echo "run: $card, driver ${driver:-unknown}, torch ${torch:-none}, commit $commit"
# Tests leave out what needs no GPU.
export REQUIRE_GPU=1 BICL_TEST_DEVICES=gpu RUST_BACKTRACE=0 BICL_CACHE=$work/cache
# Processes that compile leave half of the cores to what is measured meanwhile.
export TORCHINDUCTOR_CACHE_DIR=$work/inductor TORCHINDUCTOR_COMPILE_THREADS=$((($(nproc) + 3) / 4))

# --- correctness ---------------------------------------------------------------------------------------------------

correctness() {
  local broken=
  # The layouts of shared memory come first: where they are wrong, that explains what follows.
  if wants layouts; then tests layouts kernels::layouts:: --test-threads 1 || broken=1; fi
  if wants wgmma; then tests wgmma kernels::conv2d_wgmma:: || broken=1; fi
  # What comes after is then tested on the kernels of older GPUs.
  if [ -n "$broken" ]; then export BICL_WARPGROUPS=off; fi
  if wants graph; then tests graph kernels::graph:: kernels::graph_step:: --test-threads 1; fi
  # The other modules of the binary need the repository.
  if wants others; then
    tests others kernels:: --skip kernels::layouts:: --skip kernels::conv2d_wgmma:: --skip kernels::graph:: --skip kernels::graph_step::
  fi
  if wants doctor; then
    if timeout -k 1 3 bin/trainer doctor --help >/dev/null 2>&1; then
      # shellcheck disable=SC2016 # the inner shell expands
      part doctor doctor bash -c 'exec bin/trainer doctor --json >"$1"' doctor "$work/doctor.json"
    else
      skip doctor "this trainer has no doctor"
    fi
  fi
  if wants memcheck; then
    local sanitizer
    if sanitizer=$(tool compute-sanitizer); then
      part memcheck memcheck env -u BICL_WARPGROUPS "$sanitizer" --tool memcheck --error-exitcode 9 tests/bin/it --test-threads 1 \
        kernels::layouts:: kernels::conv2d_wgmma::the_input_gradient kernels::conv2d_wgmma::moments_are kernels::conv2d_wgmma::sums_for
    else
      skip memcheck "compute-sanitizer is neither in PATH nor in /usr/local/cuda/bin"
    fi
  fi
}

# --- figures -------------------------------------------------------------------------------------------------------

# filters TEXT...: the rows that contain one of them, as arguments.
filters() {
  local text
  arguments=()
  for text in "$@"; do arguments+=(--filter "$text"); done
}

figures() {
  local step="resnet101 w64 C19 2+2x730x730 step bf16" text peer=("$python" tools/bench_pytorch.py --device cuda --dtype bf16) have=
  timeout -k 1 5 "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' 2>/dev/null && have=1
  if [ -z "$have" ]; then
    for text in peer-conv2d peer-step compiled-step peer-norm compiled-losses; do
      if wants $text; then skip $text "$python cannot import torch; PYTHON names another"; fi
      wanted=${wanted// $text / }
    done
  fi
  # PyTorch compiles its step while others measure: on the CPU alone, then it waits at its gate for its turn. A GPU that one
  # process has for itself cannot be shared even so.
  local compiled_step=("${peer[@]}" --seconds 2 --variants compile compile_graph --only step --json "$work/rows/compiled-step.jsonl")
  local compiled_losses=("${peer[@]}" --seconds 0.2 --variants compile --only contrastive segmentation_loss)
  compiled_losses+=(--json "$work/rows/compiled-losses.jsonl" --filter contrastive_labels --filter segmentation_loss)
  if [[ ${compute_mode:-Default} == Default ]]; then
    if wants compiled-step; then begin compiled-step "${compiled_step[@]}"; fi
    if wants compiled-losses; then begin compiled-losses "${compiled_losses[@]}"; fi
  fi

  if wants step; then
    filters "$step" "730x730 C19 both f32" "x19 730x730 both f32"
    part step step benches/step --device cuda --seconds 2 --json "$work/rows/step.jsonl" "${arguments[@]}"
  fi
  if wants conv2d; then
    # Dilations and strides are in the names of single convolutions, the last is the head's four as one.
    filters "d1 bf16" "d2 bf16" "d4 bf16" "d6 bf16" "d12 bf16" "d18 bf16" "d24 bf16" "19x3x3x2048 bf16"
    part conv2d conv2d benches/kernels --device cuda --seconds 0.3 --json "$work/rows/conv2d.jsonl" "${arguments[@]}"
  fi
  if wants peer-conv2d; then
    part peer-conv2d peer-conv2d "${peer[@]}" --seconds 0.2 --only ceilings conv2d head --json "$work/rows/peer-conv2d.jsonl"
  fi
  if wants peer-step; then
    part peer-step peer-step "${peer[@]}" --seconds 2 --variants eager graph --only step --json "$work/rows/peer-step.jsonl"
  fi
  if wants ncu; then
    local ncu
    if ncu=$(tool ncu); then
      # The twentieth launch of each kernel is one in the middle of the network, whose data gradient sums for a batch norm.
      part ncu ncu "$ncu" --clock-control none --csv --log-file "$work/ncu.csv" --section SpeedOfLight --section LaunchStats \
        --section Occupancy --section SchedulerStats --section WarpStateStats --section MemoryWorkloadAnalysis \
        --kernel-id '::regex:^conv2d_wgmma_(forward|data_gradient|weight_gradient)_(wide|tall|square)_bf16$:20' --launch-count 6 \
        benches/step --device cuda --seconds 0.1 --filter "$step"
    else
      skip ncu "ncu is neither in PATH nor in /usr/local/cuda/bin"
    fi
  fi
  if wants compiled-step; then finish compiled-step "${compiled_step[@]}"; fi
  filters "C19 bf16" "x19 730x730 bf16" "max_pool2d forward 2x365x365x64 bf16" "max_pool2d backward 2x365x365x64 bf16" sgd_step
  for text in 2x365x365x64 2x92x92x256 2x92x92x1024; do
    for name in batch_norm bn_relu bn_add_relu; do
      arguments+=(--filter "$name forward $text bf16" --filter "$name backward $text bf16")
    done
  done
  if wants norm; then
    part norm norm benches/kernels --device cuda --seconds 0.2 --json "$work/rows/norm.jsonl" "${arguments[@]}"
  fi
  if wants peer-norm; then
    # The losses of the step are f32 on both sides.
    part peer-norm peer-norm "${peer[@]}" --seconds 0.1 --only contrastive segmentation_loss memory \
      --json "$work/rows/peer-norm.jsonl" --filter " both " "${arguments[@]}"
  fi
  if wants compiled-losses; then finish compiled-losses "${compiled_losses[@]}"; fi
  # shellcheck disable=SC2016 # the inner shell expands
  if wants join; then
    part join join bash -c 'exec "$1" tools/join_bench.py "$2/all.jsonl" >"$2/join.md"' join "$python" "$work"
  fi
}

"$call"
running=
save
save_logs
printf '\n%-44s %5s %7s  %s\n' part limit seconds "exit status"
cat "$work/table"
echo "run: $passed passed, $failed failed, $skipped left out, $SECONDS s; $out/$call.json"
# The host itself is no result.
[ "$failed" = 0 ] && [ "$late" = 0 ] && [ "$passed" -gt 1 ]
