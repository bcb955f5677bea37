#!/usr/bin/env bash
# What ptxas says about every kernel, as a markdown table: registers, spilled bytes (stores + loads) and static shared memory;
# with --sass also how many 16-byte accesses to global and shared memory and how many tensor-core products (HMMA, HGMMA) the
# machine code holds, and copies by tensor maps (UTMALDG + UTMASTG). One row a kernel, f32 and bf16 instances alone; "46, 48" is sm_80, sm_90a where the two differ. The last line counts everything, f64 included.
#
#   tools/ptxas-table.sh [--sass] [FOLDER]
#
# FOLDER holds NAME.ptxas and NAME.fatbin; by default it is kernels/ under CARGO_TARGET_DIR or target/, where the build script puts
# them. Exits 1 if a hot kernel spills, if the compiler complained of products that it made wait for each
# other or of registers that do not move (C75..), or with --sass if a kernel by warpgroups lacks HGMMA or UTMALDG, or has HMMA or a fence
# (MEMBAR) in its main loop. Hot
# is every kernel but the f64 instances, which serve gradient checks alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { printf 'ptxas-table: %s\n' "$*" >&2; exit 2; }

sass=
folder=
for argument; do
  case $argument in
    --sass) sass=1 ;;
    -*) die "unknown option '$argument'; usage: tools/ptxas-table.sh [--sass] [FOLDER]" ;;
    *) folder=$argument ;;
  esac
done
folder=${folder:-${CARGO_TARGET_DIR:-target}/kernels}
[ -d "$folder" ] || die "no folder $folder: run tools/setup-cuda.sh, then cargo build"
# A renamed kernel file leaves its old .ptxas there: only those of today's sources count.
files=()
for source in kernels/*.cu; do
  name=$(basename "$source" .cu)
  [ -s "$folder/$name.ptxas" ] || die "$folder/$name.ptxas is missing: build once more with nvcc in place"
  [ "$folder/$name.ptxas" -nt "$source" ] || die "$folder/$name.ptxas is older than $source: build once more"
  files+=("$folder/$name.ptxas")
done

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
vectors=$scratch/all
if [ -n "$sass" ]; then
  cuobjdump=$(PATH=.cuda/bin:${CUDA_HOME:+$CUDA_HOME/bin:}$PATH command -v cuobjdump) ||
    die "no cuobjdump in .cuda/bin, CUDA_HOME or PATH: run tools/setup-cuda.sh"
  export PATH=$(dirname "$cuobjdump"):$PATH
  # One file's kernels into a file of their own: as many at once as there are cores.
  sass_of() {
    set -o pipefail
    cuobjdump -sass "${1%.ptxas}.fatbin" | awk '
      /code for sm_/ { arch = $3 }
      /Function : / { kernel = $3; seen[arch " " kernel] = 1; loop = 0 }
      # A main loop is what stands between a product and the arrival that gives its slice back.
      /HGMMA\./ { loop = 1 }
      /SYNCS\.ARRIVE/ { loop = 0 }
      /MEMBAR/ && loop { fences[arch " " kernel]++ }
      /(LDG|LDGSTS|LDG\.E)[.A-Z0-9]*\.128/ { ldg[arch " " kernel]++ }
      /STG[.A-Z0-9]*\.128/ { stg[arch " " kernel]++ }
      (/LDS[.A-Z0-9]*\.128/ && !/LDGSTS/) || /LDSM[.A-Z0-9]*\.4/ { lds[arch " " kernel]++ }
      /HMMA\./ { mma[arch " " kernel]++ }
      /HMMA\./ && loop { warps[arch " " kernel]++ }
      /HGMMA\./ { groups[arch " " kernel]++ }
      /UTMALDG/ { maps[arch " " kernel]++ }
      /UTMASTG/ { stores[arch " " kernel]++ }
      END {
        for (key in seen) print key, ldg[key] + 0, stg[key] + 0, lds[key] + 0, mma[key] + groups[key] + 0, maps[key] + stores[key] + 0
        for (key in seen) if (key ~ / conv2d_wgmma_/ && (warps[key] || !groups[key] || !maps[key] || (key !~ /weight/ && !stores[key])) && key !~ /_fixup_/)
          print "bad", key
        for (key in seen) if (key ~ / conv2d_wgmma_/ && fences[key]) print "fenced", key
      }' >"$2/$(basename "$1").sass"
  }
  export -f sass_of
  printf '%s\0' "${files[@]}" | xargs -0 -P "$(nproc)" -I FILE bash -c 'sass_of "$1" "$2"' _ FILE "$scratch" ||
    die "cuobjdump cannot read the .fatbin files in $folder"
  cat "$scratch"/*.sass >"$vectors"
  if grep '^bad ' "$vectors" | sed 's/^bad /ptxas-table: not by warpgroups and tensor maps alone: /' >&2; then exit 1; fi
fi
if [ -n "$sass" ] && grep '^fenced ' "$vectors" | sed 's/^fenced /ptxas-table: a fence (MEMBAR) in the main loop: /' >&2; then exit 1; fi
if grep -h 'C75[0-9][0-9]' "${files[@]}" >&2; then exit 1; fi

awk -v sass="$sass" -v vectors="$vectors" '
  function value(text, unit,    parts) {
    # The number before a unit, as in "4096 bytes smem"; 0 where the line has none.
    if (match(text, "[0-9]+ " unit)) { split(substr(text, RSTART, RLENGTH), parts, " "); return parts[1] + 0 }
    return 0
  }
  # What a kernel says on both architectures; one of them alone where the file is compiled for no other.
  function both(what, kernel,    a, b) {
    a = what["sm_80 " kernel]; b = what["sm_90a " kernel]
    return a == "" ? b : b == "" || a == b ? a : a ", " b
  }
  BEGIN {
    while ((getline line < vectors) > 0) { split(line, f, " "); key = f[1] " " f[2]; ldg[key] = f[3]; stg[key] = f[4]; lds[key] = f[5]; mma[key] = f[6]; tma[key] = f[7] }
    head = "| file | kernel | registers | spill bytes | static shared |"
    rule = "|---|---|--:|--:|--:|"
    if (sass) { head = head " 16-byte global loads | 16-byte global stores | 16-byte shared loads | tensor-core products | copies by maps |"; rule = rule "--:|--:|--:|--:|--:|" }
    print head; print rule
  }
  /Compiling entry function/ {
    split($0, quoted, "\047"); kernel = quoted[2]; key = quoted[4] " " kernel; spill[key] = 0
    if (!(kernel in file)) {
      name = FILENAME; sub(/.*\//, "", name); sub(/\.ptxas$/, "", name)
      file[kernel] = name; order[++kernels] = kernel
    }
  }
  /bytes spill stores/ { spill[key] = value($0, "bytes spill stores") + value($0, "bytes spill loads") }
  /Used [0-9]+ registers/ {
    match($0, /Used [0-9]+/); registers[key] = substr($0, RSTART + 5, RLENGTH - 5); shared[key] = value($0, "bytes smem")
    images++
    if (spill[key] > 0 && kernel ~ /_f64$/) cold++
    else if (spill[key] > 0) { hot = hot "\nptxas-table: " key " spills " spill[key] " bytes"; bad++ }
  }
  END {
    if (!images) { print "ptxas-table: the files name no kernel" > "/dev/stderr"; exit 2 }
    for (i = 1; i <= kernels; i++) {
      kernel = order[i]
      if (kernel ~ /_f64$/) continue
      row = "| " file[kernel] " | " kernel " | " both(registers, kernel) " | " both(spill, kernel) " | " both(shared, kernel) " |"
      if (sass) row = row " " both(ldg, kernel) " | " both(stg, kernel) " | " both(lds, kernel) " | " both(mma, kernel) " | " both(tma, kernel) " |"
      print row
    }
    printf "\n%d kernels, %d machine codes; that spill: %d in f32 and bf16, %d in f64.\n", kernels, images, bad + 0, cold + 0
    if (bad) { print substr(hot, 2) > "/dev/stderr"; exit 1 }
  }' "${files[@]}"
