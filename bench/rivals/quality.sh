#!/usr/bin/env bash
# Quality at equal bytes against ik_llama.cpp's (and llama.cpp's) quantizers: mean KL from the same 16-bit model, over the same windows of a text.
#   bench/rivals/quality.sh RIVAL_BUILD MODEL CALIBRATION TEXT TYPE...
# TYPE is one of llama-quantize's (Q4_K_M, IQ3_K ...), with its own mixture of types; TYPE/HEAD gives the table another type. Both sides see CALIBRATION alone: theirs as
# an imatrix of the whole file, ours as samples of 512 tokens. In the environment:
#   SKIFF         the program (build/bin/skiff)
#   WINDOWS       windows of 512 tokens of TEXT, of which the second half is scored, as their tool does it (158)
#   METHOD        of ours (gptq)
#   LADDER        schemes that ours may choose from (the program's default)
#   SEARCH        more options for the search, such as "--sensitivity-tokens 2048"
#   SAMPLES       of 512 tokens that ours looks at (158)
#   MODELS        a folder for models and measurements, which stay for the next run (a cache folder of the user; never the repository)
#   OURS          no: only theirs
# Ours gets the bytes that are left of their file without what a GGUF file holds besides weights (their bf16 file less ours), header included. KL of theirs is what
# llama-perplexity --kl-divergence prints, of ours what skiff eval --protocol llamacpp does; "same file" checks one against the other: their Q8_0 and Q4_0 files, read by both.
# Prints a Markdown table: for each of their files its bytes and KL, the least KL of any of theirs that is no larger, and ours.
set -euo pipefail
if [ $# -lt 5 ]; then sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; fi
rival=$(realpath "$1") model=$(realpath "$2") calibration=$(realpath "$3") text=$(realpath "$4")
shift 4
here=$(cd "$(dirname "$0")" && pwd)
skiff=$(realpath "${SKIFF:-$here/../../build/bin/skiff}")
name=$(basename "$model")
models=${MODELS:-${XDG_CACHE_HOME:-$HOME/.cache}/skiff-rivals}/quality-$name
windows=${WINDOWS:-158} method=${METHOD:-gptq} samples=${SAMPLES:-158} threads=${THREADS:-$(nproc)}
mkdir -p "$models"
models=$(realpath "$models")
cd "$models"  # their tools leave logs where they stand
fail() { echo "quality.sh: $*" >&2; exit 1; }
for program in llama-imatrix llama-quantize llama-perplexity; do [ -x "$rival/bin/$program" ] || fail "no $program in $rival/bin; build it there first"; done
bytes_of() { stat -Lc %s "$1"; }
# quiet LOG command...: the log is shown when it fails.
quiet() { local log=$1; shift; "$@" >"$log" 2>&1 || { tail -5 "$log" >&2; fail "failed: $*"; }; }
theirs() { echo "$models/theirs-${1//\//+}"; }

base=$models/bf16.gguf
[ -f "$base" ] || quiet "$models/convert.log" "$skiff" convert "$model" --to gguf -o "$base"
[ -f "$models/imatrix.dat" ] || quiet "$models/imatrix.log" "$rival/bin/llama-imatrix" -m "$base" -f "$calibration" -c 512 -t "$threads" -o "$models/imatrix.dat"
[ -f "$models/base.kld" ] || quiet "$models/base.log" "$rival/bin/llama-perplexity" -m "$base" -f "$text" -c 512 --chunks "$windows" -t "$threads" --kl-divergence-base "$models/base.kld"
besides=$(($(bytes_of "$base") - $(bytes_of "$model/model.safetensors")))

# Theirs: file, then its KL.
for type in "$@"; do
    out=$(theirs "$type")
    head=${type#*/}
    [ "$head" = "$type" ] && head=
    [ -f "$out.gguf" ] || { quiet "$out.log" "$rival/bin/llama-quantize" --imatrix "$models/imatrix.dat" ${head:+--output-tensor-type "$head" --token-embedding-type "$head"} "$base" "$out.part" "${type%%/*}" "$threads" && mv "$out.part" "$out.gguf"; }
    [ -s "$out.kl" ] || { quiet "$out.kl.log" "$rival/bin/llama-perplexity" -m "$out.gguf" -c 512 --chunks "$windows" -t "$threads" --kl-divergence-base "$models/base.kld" --kl-divergence && awk '/^Mean +KLD/ { print $3, $5 }' "$out.kl.log" >"$out.kl"; }
    [ -s "$out.kl" ] || fail "no mean KL in $out.kl.log"
    echo "$(bytes_of "$out.gguf") $type $(cat "$out.kl")"
done | sort -n >"$models/theirs.txt"

# Ours, one for each size.
logits=$models/parent.logits
if [ "${OURS:-yes}" != no ]; then
    [ -f "$logits" ] || quiet "$models/logits.log" "$skiff" eval "$model" --text "$text" --protocol llamacpp --window 512 --max-windows "$windows" --save-logits "$logits"
    while read -r bytes type kl error; do
        budget=$((bytes - besides)) out=$models/ours-$budget
        [ -d "$out" ] || quiet "$out.log" "$skiff" quantize "$model" -o "$out" --target-mb "$(awk -v b=$budget 'BEGIN { printf "%.6f", b / 1e6 }')" --method "$method" --calibration "$calibration" \
            --calibration-samples "$samples" ${LADDER:+--ladder "$LADDER"} --measurements "$models/measurements" ${SEARCH:-}
        [ "$(bytes_of "$out/model.safetensors")" -le "$budget" ] || fail "$out is larger than $budget bytes"
        [ -s "$out.json" ] || { "$skiff" eval "$out" --text "$text" --protocol llamacpp --window 512 --against "$logits" --json >"$out.json.part" 2>"$out.eval.log" && mv "$out.json.part" "$out.json"; }
    done <"$models/theirs.txt"
fi
field() { awk -F'"' -v key="$1" '$2 == key { sub(/.*": */, ""); sub(/,$/, ""); print; exit }' "$2"; }

echo "| their file | bytes without metadata | bits per weight | KL of theirs | least of theirs so far | ours, bytes | KL of ours | ours / their least |"
echo "|---|---:|---:|---:|---:|---:|---:|---:|"
least=9999
while read -r bytes type kl error; do
    budget=$((bytes - besides)) out=$models/ours-$((bytes - besides))
    least=$(awk -v a="$least" -v b="$kl" 'BEGIN { print b < a ? b : a }')
    ours=- ours_bytes=- ratio=-
    if [ -s "$out.json" ]; then
        ours=$(field mean_kl "$out.json") ours_bytes=$(bytes_of "$out/model.safetensors")
        ratio=$(awk -v a="$ours" -v b="$least" 'BEGIN { printf "%.3f", a / b }')
        ours=$(awk -v a="$ours" -v e="$(field mean_kl_stderr "$out.json")" 'BEGIN { printf "%.5f ± %.5f", a, e }')
    fi
    echo "| $type | $budget | $(awk -v b=$budget -v p="$(bytes_of "$model/model.safetensors")" 'BEGIN { printf "%.2f", b * 16 / p }') | $kl ± $error | $least | $ours_bytes | $ours | $ratio |"
done <"$models/theirs.txt"
for type in Q8_0 Q4_0; do
    out=$(theirs $type)
    if [ ! -f "$out.gguf" ] || [ ! -f "$logits" ]; then continue; fi
    [ -s "$out.json" ] || "$skiff" eval "$out.gguf" --text "$text" --protocol llamacpp --window 512 --against "$logits" --json >"$out.json" 2>"$out.eval.log"
    echo
    echo "same file $type: their tool $(cat "$out.kl"), skiff $(field mean_kl "$out.json")"
done
