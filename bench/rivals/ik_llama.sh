#!/usr/bin/env bash
# Prefill and decode against ik_llama.cpp, on the same random weights, taking turns in one session.
#   bench/rivals/ik_llama.sh RIVAL_BUILD SHAPE.json ROUNDS PAIR...
# PAIR is SCHEME[/HEAD[/EMBEDDING]]:TYPE[/HEAD], ours before the colon, a type of llama-quantize behind it: w4g32:Q4_K_R4, w4g32/w4g32:IQ4_KS/iq4_ks.
# @TYPE on our side: their file of that type, read by us, so that both hold the same numbers. Without a HEAD each program takes its own default. ROUNDS 0 only makes the models. In the environment:
#   SKIFF   the program (build/bin/skiff)
#   ISA     --isa of our side, for a rival built for that instruction set
#   STATE   --state of our side (theirs keeps keys and values in f16)
#   PROMPT, GEN, REPEATS   512 64 3; 0 leaves a test out
#   MODELS  a folder for the models, which stay for the next run (a cache folder of the user; never the repository)
#   QUIET   a command that waits for a quiet machine; each turn of a pair runs under it
#   KEEP    no: the bf16 file, which only serves to make the others, goes as soon as they exist
#   ROWS    a file to add every turn to, as comma-separated values
# Prints a Markdown table: medians of the ratios of each turn, their extremes, and both sides' bytes and share of the read bandwidth. That is
# measured before and after each program within the turn; the higher of the two counts, as in `skiff bench`. A turn in which a reading fell below
# three quarters of the turn's highest is left out: something else was running beside one of the two. A machine whose bandwidth moves from turn to turn is no reason to.
set -euo pipefail
if [ $# -lt 4 ]; then sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; fi
rival=$1 shape=$2 rounds=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
skiff=${SKIFF:-$here/../../build/bin/skiff}
models=${MODELS:-${XDG_CACHE_HOME:-$HOME/.cache}/skiff-rivals}
prompt=${PROMPT:-512} gen=${GEN:-64} repeats=${REPEATS:-3} isa=${ISA:-} state=${STATE:-}
name=$(basename "$shape" .json)
mkdir -p "$models"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "ik_llama.sh: $*" >&2; exit 1; }
for program in llama-bench llama-quantize; do [ -x "$rival/bin/$program" ] || fail "no $program in $rival/bin; build it there first"; done

# One line of JSON per key: the first value of `key`, or the n-th.
field() { awk -F'"' -v key="$1" -v n="${3:-1}" '$2 == key { sub(/.*": */, ""); sub(/,$/, ""); gsub(/"/, ""); if (++seen == n) { print; exit } }' "$2"; }
# The prefix under which a spec's files lie: slashes of a spec are no folders.
at() { echo "$models/$name-${1//\//+}"; }

# What our side measures: their file, a folder made once, or, where checkpoints cannot hold a scheme, the shape quantized at each start.
ours_is() {
    case $1 in
    @*) echo "$(at "${1#@}").gguf" ;;
    *) if [ -d "$(at "$1")" ]; then at "$1"; else echo "random:$shape --scheme ${1%%/*}"; fi ;;
    esac
}
make_ours() {
    local scheme head embedding out
    if [[ $1 == @* ]]; then make_rivals "${1#@}"; return; fi
    IFS=/ read -r scheme head embedding <<<"$1"
    out=$(at "$1")
    [ -d "$out" ] || "$skiff" quantize "random:$shape" --scheme "$scheme" ${head:+--head "$head"} ${embedding:+--embedding "$embedding"} -o "$out" >"$work/log" 2>&1 ||
        { [ "$1" = "$scheme" ] && grep -q "checkpoints cannot hold" "$work/log"; } || { cat "$work/log" >&2; fail "quantize --scheme $1 failed"; }
}
make_rivals() {
    local type head out
    IFS=/ read -r type head <<<"$1"
    out=$(at "$1").gguf
    if [ ! -f "$out" ]; then
        [ -f "$models/$name-bf16.gguf" ] || "$skiff" convert "random:$shape" --to gguf -o "$models/$name-bf16.gguf" >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "convert failed"; }
        "$rival/bin/llama-quantize" ${head:+--output-tensor-type "$head"} "$models/$name-bf16.gguf" "$out.part" "$type" "$threads" >"$out.log" 2>&1 || { tail -3 "$out.log" >&2; fail "llama-quantize to $1 failed"; }
        mv "$out.part" "$out"
    fi
    # Each tensor has a line that ends in its new size, which a warning may tear in two; tensors that stay as they are say only one size, in MB.
    awk '/^\[ *[0-9]+\/ *[0-9]+\]/ { embedding = /token_embd/ } { size = 0
             if (match($0, /-> *[0-9.]+ MiB/)) size = substr($0, RSTART + 2, RLENGTH - 6)
             else if ($0 !~ /->/ && match($0, /size = *[0-9.]+ MB/)) size = substr($0, RSTART + 6, RLENGTH - 9)
             total += size; if (!embedding) read += size } END { printf "%.0f %.0f\n", total * 1048576, read * 1048576 }' "$out.log" >"$out.bytes"
}

bandwidth() { "$skiff" doctor --json 2>/dev/null | field read_gbps /dev/stdin; }
# Sets ours_pp, ours_tg, ours_gbps and the bandwidth before and after.
run_ours() {
    "$skiff" bench $(ours_is "$1") -t "$threads" ${isa:+--isa "$isa"} ${state:+--state "$state"} -p "$prompt" -n "$gen" -r "$repeats" --json >"$work/ours.json"
    ours_isa=$(field isa "$work/ours.json") before=$(field read_gbps_before "$work/ours.json") after=$(field read_gbps_after "$work/ours.json")
    local n=1
    ours_pp=0 ours_tg=0 ours_gbps=0 ours_bytes=$(field weight_bytes "$work/ours.json")
    if [ "$prompt" != 0 ]; then ours_pp=$(field median "$work/ours.json" $n); n=$((n + 1)); fi
    if [ "$gen" != 0 ]; then ours_tg=$(field median "$work/ours.json" $n); ours_gbps=$(field gbps "$work/ours.json" $n); fi
}
# Sets rival_pp and rival_tg: medians of the samples of each test.
run_rivals() {
    local tests
    "$rival/bin/llama-bench" -m "$(at "$1").gguf" -t "$threads" -fa 1 -p "$prompt" -n "$gen" -r "$repeats" -o json >"$work/rival.json" 2>"$work/log" || { tail -3 "$work/log" >&2; fail "llama-bench failed on $1"; }
    tests=$(awk '/"n_gen":/ { gsub(/[^0-9]/, ""); gen = $0 } /"samples_ts":/ { sub(/.*\[/, ""); inside = 1 } inside { text = text $0 }
        inside && /\]/ { gsub(/[\],]/, " ", text); n = split(text, v, " "); for (i = 2; i <= n; ++i) for (j = i; j > 1 && v[j] < v[j - 1]; --j) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
            print gen, (v[int((n + 1) / 2)] + v[int(n / 2) + 1]) / 2; inside = 0; text = "" }' "$work/rival.json")
    rival_pp=$(awk '$1 == 0 { print $2 }' <<<"$tests") rival_tg=$(awk '$1 > 0 { print $2 }' <<<"$tests")
}
# One turn of a pair; the order changes from round to round. The reading between the two programs serves both.
turn() {
    local round=$1 ours=${2%%:*} theirs=${2#*:} outer
    if [ $((round % 2)) = 1 ]; then
        run_ours "$ours"; run_rivals "$theirs"; outer=$(bandwidth)
        set -- "$before" "$after" "$after" "$outer"
    else
        outer=$(bandwidth); run_rivals "$theirs"; run_ours "$ours"
        set -- "$before" "$after" "$outer" "$before"
    fi
    echo "$name,$ours,$theirs,$ours_isa,$round,${ours_pp},${ours_tg},${ours_gbps},${rival_pp:-0},${rival_tg:-0},$1,$2,$3,$4,$ours_bytes" | tee -a "$rows" >&2
}
# Under QUIET the script calls itself for one turn.
if [ "${1:-}" = --turn ]; then threads=$2 rows=$3; turn "$4" "$5"; exit; fi

"$skiff" doctor --json >"$work/doctor.json" 2>/dev/null
threads=$(field threads "$work/doctor.json")
rows=$work/rows
: >"$rows"
for pair in "$@"; do
    [[ $pair == *:* ]] || fail "a pair is SCHEME:TYPE, not '$pair'"
    make_ours "${pair%%:*}"
    make_rivals "${pair#*:}"
done
[ "${KEEP:-yes}" = yes ] || rm -f "$models/$name-bf16.gguf"
[ "$rounds" -gt 0 ] || exit 0
for round in $(seq "$rounds"); do
    for pair in "$@"; do SKIFF=$skiff MODELS=$models ${QUIET:-} "$0" "$rival" "$shape" "$rounds" --turn "$threads" "$rows" "$round" "$pair"; done
done
[ -z "${ROWS:-}" ] || cat "$rows" >>"$ROWS"

"$skiff" inspect "random:$shape" --json >"$work/inspect.json" 2>/dev/null
state=$(awk -v bytes="$(field state_bytes_f16 "$work/inspect.json")" -v context="$(field state_context "$work/inspect.json")" 'BEGIN { print bytes / context }')
echo "$name, $threads threads, $(field cpu "$work/doctor.json"), $(cut -d, -f4 "$rows" | sort -u | tr '\n' ' ')against $(basename "$rival")"
echo
for pair in "$@"; do
    read -r rival_total rival_read <"$(at "${pair#*:}").gguf.bytes"
    echo "$name,${pair%%:*},${pair#*:},$rival_total,$rival_read"
done >"$work/bytes"
awk -F, -v gen="$gen" -v state="$state" '
function median(list, count,   i, j, t, v) {
    for (i = 1; i <= count; ++i) v[i] = list[i]
    for (i = 2; i <= count; ++i) for (j = i; j > 1 && v[j] < v[j - 1]; --j) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
    lowest = v[1]; highest = v[count]
    return (v[int((count + 1) / 2)] + v[int(count / 2) + 1]) / 2 }
function quiet(key, i) { return value[key, i, "low"] >= 0.75 * value[key, i, "high"] }
function of(field_, key,   i, v, count) {
    for (i = 1; i <= n[key]; ++i) if (quiet(key, i)) v[++count] = value[key, i, field_]
    if (!count) for (i = 1; i <= n[key]; ++i) v[++count] = value[key, i, field_]
    return median(v, count) }
function mib(a, b) { return sprintf("%.1f / %.1f", a / 1048576, b / 1048576) }
function larger(a, b) { return a > b ? a : b }
NR == FNR { key = $2 ":" $3; order[++pairs] = key; rival_total[key] = $4; rival_read[key] = $5; next }
{ key = $2 ":" $3; i = ++n[key]
  value[key, i, "ours_pp"] = $6; value[key, i, "ours_tg"] = $7; value[key, i, "rival_pp"] = $9; value[key, i, "rival_tg"] = $10
  value[key, i, "pp"] = $9 ? $6 / $9 : 0; value[key, i, "tg"] = $10 ? $7 / $10 : 0
  value[key, i, "ours_total"] = $15; value[key, i, "ours_read"] = $7 ? $8 * 1e9 / $7 - state * gen / 2 : 0
  value[key, i, "ours_share"] = $8 / larger($11, $12)
  value[key, i, "rival_share"] = (rival_read[key] + state * gen / 2) * $10 / 1e9 / larger($13, $14)
  for (j = 11; j <= 14; ++j) { if (!value[key, i, "low"] || $j < value[key, i, "low"]) value[key, i, "low"] = $j; if ($j > value[key, i, "high"]) value[key, i, "high"] = $j } }
END {
  for (key in n) for (i = 1; i <= n[key]; ++i) if (quiet(key, i)) {
      ++kept; if (!low || value[key, i, "low"] < low) low = value[key, i, "low"]; if (value[key, i, "high"] > high) high = value[key, i, "high"]
  } else ++out
  print "| ours | theirs | MiB | MiB a token reads | prefill, tok/s | ratio (extremes) | decode, tok/s | ratio (extremes) | share of bandwidth |"
  print "|---|---|--:|--:|--:|--:|--:|--:|--:|"
  for (p = 1; p <= pairs; ++p) { key = order[p]; split(key, side, ":")
      pp = of("pp", key); pp_text = sprintf("%.2f (%.2f to %.2f)", pp, lowest, highest); tg = of("tg", key); tg_text = sprintf("%.2f (%.2f to %.2f)", tg, lowest, highest)
      printf "| %s | %s | %s | %s | %.0f / %.0f | %s | %.1f / %.1f | %s | %.0f %% / %.0f %% |\n", side[1], side[2],
          mib(of("ours_total", key), rival_total[key]), mib(of("ours_read", key), rival_read[key]), of("ours_pp", key), of("rival_pp", key), pp_text,
          of("ours_tg", key), of("rival_tg", key), tg_text, 100 * of("ours_share", key), 100 * of("rival_share", key) }
  printf "\n%d turns of each pair; read bandwidth %.1f to %.1f GB/s", n[order[1]], low, high
  if (out) printf "; %d of %d turns left out, in which it fell below three quarters of the turn\047s highest", out, kept + out
  print "" }' "$work/bytes" "$rows"
