# shellcheck shell=bash
# How run.sh runs its parts and keeps what they gave; run.sh reads this file, and sets what is used here: `call`, `out` and `work`
# (folders), `wanted` and `limits` (parts, seconds), `deadline`, and what figures.json says of the host.
# shellcheck disable=SC2154,SC2034

# --- what is kept --------------------------------------------------------------------------------------------------

# quote TEXT: a JSON string, of what is ASCII.
quote() {
  local text=${1//[$'\001'-$'\010'$'\013'-$'\037'$'\177'-$'\377']/}
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//$'\t'/\\t}
  printf '"%s"' "${text//$'\n'/\\n}"
}

# whole FILE...: the lines that are whole JSON objects; what a killed program left half written is dropped. Strings aside,
# brackets must match and nothing but numbers, punctuation and the three words may stand.
whole() {
  awk '/^[{].*[}][ \r]*$/ {
    rest = $0
    gsub(/"([^"\\]|\\.)*"/, "", rest)
    gsub(/true|false|null/, "0", rest)
    if (rest ~ /[^-+0-9.eE,: \t\r{}\[\]]/) next
    if (gsub(/[{]/, "", rest) != gsub(/[}]/, "", rest) || gsub(/\[/, "", rest) != gsub(/\]/, "", rest)) next
    print
  }' "$@"
}

# Lines as the elements of a JSON array.
elements() { awk '{ printf "%s\n    %s", (n++ ? "," : ""), $0 }'; }

# keep NAME: stdin becomes OUT/NAME.
keep() {
  if cat >"$out/.partial" && mv "$out/.partial" "$out/$1"; then return; fi
  echo "run: cannot write $out/$1" >&2
  kill -TERM $$
}

save() {
  local doctor=
  if [ "$call" = figures ]; then
    # Not through `cat`, which would join a file's half last line and the next one's first.
    whole "$work"/rows/*.jsonl >"$work/all.jsonl"
    keep rows.jsonl <"$work/all.jsonl"
  fi
  [ -s "$work/doctor.json" ] && doctor=$(tr '\n' ' ' <"$work/doctor.json" | whole -)
  {
    cat <<JSON
{
  "call": "$call",
  "card": $(quote "${card:-unknown}"),
  "driver": $(quote "${driver:-unknown}"),
  "torch": $(quote "${torch:-none}"),
  "date": "$date",
  "commit": $(quote "$commit"),
  "host": $(quote "$host"),
  "warpgroups": "${BICL_WARPGROUPS:-on}",
  "passed": $passed, "failed": $failed, "skipped": $skipped, "seconds": $SECONDS,
  "running": $([ -n "$running" ] && quote "$running" || echo null),
  "parts": [$(cat "$work/parts" 2>/dev/null | elements)
  ],
JSON
    if [ "$call" = figures ]; then
      printf '  "rows": ['
      elements <"$work/all.jsonl"
      printf '\n  ]\n}\n'
    else
      printf '  "doctor": %s\n}\n' "${doctor:-null}"
    fi
  } | keep "$call.json"
}

# What is too large to be written every second.
save_logs() {
  local log size
  mkdir -p "$work/pack/logs"
  for log in "$work"/logs/*.log; do
    size=$(stat -c %s "$log")
    if [ "$size" -le 524288 ]; then
      cp "$log" "$work/pack/logs/"
    else
      { head -c 262144 "$log"; printf '\n... %d bytes left out ...\n' $((size - 524288)); tail -c 262144 "$log"; } \
        >"$work/pack/logs/${log##*/}"
    fi
  done
  tar -C "$work/pack" -czf - logs | keep logs.tgz
  # One file for each card, driver and build: here one.
  cat "$work"/cache/*.json 2>/dev/null | head -c 16000000 >"$work/choices"
  [ -s "$work/choices" ] && keep choices.json <"$work/choices"
  [ -s "$work/ncu.csv" ] && head -c 16000000 "$work/ncu.csv" | keep ncu.csv
  [ -s "$work/join.md" ] && keep join.md <"$work/join.md"
}

# --- parts ---------------------------------------------------------------------------------------------------------

wants() { [[ $wanted == *" $1 "* ]]; }

# The time, in milliseconds.
now() { echo $((${EPOCHREALTIME/./} / 1000)); }

# record NAME LIMIT MILLISECONDS STATUS MESSAGE
record() {
  local seconds
  printf -v seconds '%d.%01d' $(($3 / 1000)) $(($3 % 1000 / 100))
  printf '{"name": %s, "limit": %s, "seconds": %s, "status": %s, "log": %s, "message": %s}\n' "$(quote "$1")" "$2" "$seconds" \
    "$4" "$([ -n "${log_of[$1]-}" ] && quote "logs/${log_of[$1]##*/}" || echo null)" \
    "$([ -n "$5" ] && quote "$5" || echo null)" >>"$work/parts"
  printf '%-44s %5s %7s  %s\n' "$1" "$2" "$seconds" "${4/null/left out}" >>"$work/table"
  if [ "$4" != 0 ]; then head -n 4 <<<"$5" | cut -c1-180 | sed 's/^/    /' >>"$work/table"; fi
  running=
  save
  save_logs
}

# skip NAME REASON
skip() {
  skipped=$((skipped + 1))
  record "$1" 0 0 null "skipped: $2"
}

# What went wrong, of a log: panics and errors first, else its end.
telling() {
  { grep --no-group-separator -A1 -aE 'panicked at|^error|^Error|"error":|ERROR SUMMARY|Traceback|^[A-Za-z.]+Error|not found|stopped after' "$1" ||
    tail -n 8 "$1"; } | head -n 12 | cut -c1-300
}

# allowed NAME: its limit, or what is left of the whole; the join at the end keeps its share.
allowed() {
  local own=${limits[$1]} left=$((deadline - SECONDS))
  if [ "$1" != join ] && [ "$call" = figures ] && wants join; then left=$((left - limits[join])); fi
  echo $((own < left ? own : left))
}

# await NAME SECONDS BEGUN: waits for $child, saving every second, and records how it ended. Returns its exit status.
await() {
  local name=$1 limit=$2 begun=$3 log=${log_of[$1]} status tick spent=0 message=
  while kill -0 "$child" 2>/dev/null; do
    sleep 1 &
    tick=$!
    wait -n "$child" "$tick"
    kill "$tick" 2>/dev/null
    spent=$(($(now) - begun))
    # What began in the background has a later limit of its own. `timeout` hands the signal on, and kills three seconds later.
    if [ $spent -ge $((1000 * limit)) ]; then kill "$child" 2>/dev/null; fi
    # A process that not even SIGKILL ends is left behind.
    if [ $spent -ge $((1000 * limit + 5000)) ]; then break; fi
    save
  done
  if kill -0 "$child" 2>/dev/null; then
    status=137
  else
    wait "$child"
    status=$?
  fi
  child=
  if [ "$status" = 0 ]; then
    passed=$((passed + 1))
    printf '%-44s ok\n' "$name"
  else
    failed=$((failed + 1))
    if [ $spent -ge $((1000 * limit)) ]; then
      echo "run: stopped after $limit s" >>"$log"
    elif [ "$status" -gt 128 ]; then
      echo "error: ended by signal $((status - 128))" >>"$log"
    fi
    message=$(telling "$log")
    printf '%-44s FAILED, exit status %s\n' "$name" "$status"
  fi
  record "$name" "$limit" $(($(now) - begun)) "$status" "$message"
  return "$status"
}

# launch NAME SECONDS COMMAND...: starts it as $child.
launch() {
  log_of[$1]=$work/logs/${1//[^a-zA-Z0-9_-]/-}.log
  timeout -k 3 "$2" "${@:3}" >"${log_of[$1]}" 2>&1 </dev/null &
  child=$!
}

# due NAME KIND: sets `limit` to what a part of this kind may take, and says that it runs; or leaves it out where no time is left.
due() {
  limit=$(allowed "$2")
  if [ "$limit" -lt 1 ]; then
    late=1
    skip "$1" "no time left"
    return 1
  fi
  running=$1
  save
}

# part NAME KIND COMMAND...: runs it within the limit of its kind.
part() {
  local name=$1 limit
  due "$name" "$2" || return 1
  launch "$name" "$limit" "${@:3}"
  await "$name" "$limit" "$(now)"
}

# begin NAME COMMAND...: starts it in the background, at low priority. It prepares itself without work for the GPU and waits for
# the file that `--gate` names, so that it disturbs no figure.
begin() {
  local limit=$((deadline - SECONDS))
  if [ "$limit" -lt 1 ]; then return; fi
  launch "$1" "$limit" nice -n 10 "${@:2}" --gate "$work/go-$1"
  background[$1]=$child
  child=
}

# finish NAME COMMAND...: opens the gate of what began (or begins it now) and gives it the part's limit.
finish() {
  local name=$1 limit
  due "$name" "$name" || return 1
  touch "$work/go-$name"
  [ -n "${background[$name]-}" ] || begin "$@"
  child=${background[$name]}
  unset "background[$name]"
  await "$name" "$limit" "$(now)"
}

# end STATUS: leaves no process behind that can be ended. A signal may come at any moment: what was running stays in the file.
# shellcheck disable=SC2317,SC2329 # called by the traps
end() {
  trap - EXIT INT TERM HUP
  local pid
  for pid in $child "${background[@]}"; do kill "$pid" 2>/dev/null; done
  if [ "$1" -gt 128 ]; then
    save
    save_logs
  fi
  rm -rf "$work"
  exit "$1"
}
trap 'end 130' INT
trap 'end 143' TERM HUP
trap 'end $?' EXIT

# tests NAME FILTER...: the tests of a module in one process; those that did not pass then run one by one.
tests() {
  local name=$1 log until test left=0
  shift
  part "$name" "$name" tests/bin/it "$@" && return 0
  log=${log_of[$name]-}
  [ -n "$log" ] || return 1
  until=$((SECONDS + limits[again]))
  while read -r test; do
    if grep -qaxF "test $test ... ok" "$log"; then continue; fi
    if [ $SECONDS -ge $until ]; then left=$((left + 1)); else part "$test" one tests/bin/it --exact "$test" --test-threads 1; fi
  done < <(timeout -k 1 5 tests/bin/it --list "$@" 2>/dev/null | sed -n 's/: test$//p')
  [ $left = 0 ] || skip "$name: $left more tests" "the time for repeated tests is over"
  return 1
}

# tool NAME: where a tool of the CUDA toolkit is.
tool() { command -v "$1" || { [ -x "/usr/local/cuda/bin/$1" ] && echo "/usr/local/cuda/bin/$1"; }; }
