#!/bin/bash
# Methods by schemes on one model: makes each child, evaluates it against its parent, and prints a table with paired differences over windows.
#     tools/method_table.sh SKIFF MODEL WORK [SCHEME...]
# Needs jq. MODEL has calib.txt and heldout.txt beside its weights. WORK keeps the evaluations; what is there already is not made again. In the environment:
#   WINDOWS     of heldout.txt (64)
#   METHODS     names of the rows below, with blanks (all but the learnt ones, which take minutes each: autoround autoround-operator)
#   THREADS     (all physical cores)
#   QUIET       a command that waits for a quiet machine; decoding is timed under it
#   PLOT        an SVG file to write: mean KL against bytes, a line for each plain method; its children stay in WORK/plot
# "made in" is processor time, of all threads together.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
skiff=$1 model=$2 work=$3
shift 3
schemes=${*:-w8 n4g32r w4g32 w4g128 n4g16t n3g32r w3g32r n3g16t n2g16r w2g32r n2g16t ternary}
windows=${WINDOWS:-64} threads=${THREADS:-0}
all="nearest hqq weighted awq gptq gptq-by-inputs gptq-as-stored awq-gptq awq-unclipped-gptq heads-gptq turned-nearest turned-gptq awq-unclipped nearest-corrected gptq-uncorrected gptq-corrected"
methods=${METHODS:-$all}
[[ " $methods " == *" nearest "* ]] || methods="nearest $methods"  # what the others are compared with
plain=" nearest weighted awq gptq "  # the lines of the plot
mkdir -p "$work"
parent=$work/parent$windows.logits
[ -s "$parent" ] || "$skiff" eval "$model" --max-windows "$windows" --save-logits "$parent" >/dev/null

options_of() {
    case $1 in
    nearest | hqq | weighted | gptq | autoround) echo "--method $1" ;;
    awq) echo "--method nearest --transform awq" ;;
    awq-unclipped) echo "--method nearest --transform awq --clip none" ;;
    gptq-by-inputs | gptq-as-stored) echo "--method gptq --column-order ${1#gptq-}" ;;
    awq-gptq) echo "--method gptq --transform awq --clip search" ;;
    awq-unclipped-gptq) echo "--method gptq --transform awq --clip none" ;;
    heads-gptq | turned-gptq) echo "--method gptq" ;;
    turned-nearest) echo "--method nearest" ;;
    nearest-corrected | gptq-corrected) echo "--method ${1%-corrected} --correct scale,bias" ;;
    gptq-uncorrected) echo "--method gptq --correct none" ;;
    autoround-operator) echo "--method autoround --learn-by operator" ;;
    *) echo "method_table.sh: no row is called $1" >&2; return 1 ;;
    esac
}
# row SCHEME NAME: t_SCHEME.NAME.json is the evaluation, q_... what quantize says, s_... its seconds.
row() {
    local scheme=$1 name=$2 source=$model at=$2 child=$work/child options
    at=$work/t_$scheme.$name.json
    [[ $name != heads-* ]] || source=$work/turned-heads
    [[ $name != turned-* ]] || source=$work/turned-all
    [[ -z ${PLOT:-} || $plain != *" $name "* ]] || child=$work/plot/$scheme.$name
    [ -s "$at" ] && { [ "$child" = "$work/child" ] || [ -d "$child" ]; } && return
    options=$(options_of "$name")
    case $name in nearest | hqq | turned-nearest) ;; *) options+=" --calibration $model/calib.txt" ;; esac  # those look at no text, and refuse one
    if [ "$source" != "$model" ] && [ ! -d "$source" ]; then "$skiff" rotate "$model" -o "$source" --what "${source##*-}" >/dev/null; fi
    rm -rf "$child"
    mkdir -p "$(dirname "$child")"
    TIMEFORMAT=%U
    if ! { time "$skiff" quantize "$source" -o "$child" --restart --scheme "$scheme" $options -t "$threads" --json >"$work/q_$scheme.$name.json" 2>"$work/log"; } 2>"$work/s_$scheme.$name"; then
        if grep -q "not defined\|is for\|looks at no data" "$work/log"; then rm -f "$work/q_$scheme.$name.json"; return 0; fi
        cat "$work/log" >&2
        return 1
    fi
    "$skiff" eval "$child" --text "$model/heldout.txt" --max-windows "$windows" --against "$parent" -t "$threads" --json >"$work/t.json"
    mv "$work/t.json" "$at"
    [ "$child" != "$work/child" ] || rm -rf "$child"
}
for scheme in $schemes; do
    for name in $methods; do row "$scheme" "$name"; done
    [ -s "$work/b_$scheme.json" ] || ${QUIET:-} "$skiff" bench "$model" --scheme "$scheme" -t "$threads" -p 0 -n 128 -r 5 --json >"$work/b_$scheme.json"
done
echo "| scheme | method | weights, bytes | bits/weight | perplexity | mean KL | less than nearest, 95 % | same top-1 | decode, tok/s | made in, s |"
echo "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
for scheme in $schemes; do
    for name in $methods; do
        own=$work/t_$scheme.$name.json
        [ -s "$own" ] || continue
        jq -rn --arg scheme "$scheme" --arg name "$name" --slurpfile own "$own" --slurpfile base "$work/t_$scheme.nearest.json" --slurpfile made "$work/q_$scheme.$name.json" \
            --slurpfile speed "$work/b_$scheme.json" --arg seconds "$(cat "$work/s_$scheme.$name")" '
            def fixed($n): . * pow(10; $n) | round / pow(10; $n) | tostring;
            $own[0] as $o | ($o.against.window_kl) as $kl | [range($kl | length) | $base[0].against.window_kl[.] - $kl[.]] as $d
            | ($d | add / length) as $mean | (1.96 * (($d | map((. - $mean) * (. - $mean)) | add) / (($d | length) - 1) / ($d | length) | sqrt)) as $half
            | "| \($scheme) | \($name) | \($made[0].estimate.bytes_after) | \($made[0].estimate.bits_per_weight | fixed(2)) | \($o.perplexity.value | fixed(3)) ± \($o.perplexity.stderr | fixed(3)) | \($o.against.mean_kl | fixed(5)) | \(if $name == "nearest" then "" else "\($mean | fixed(5)) ± \($half | fixed(5))" end) | \($o.against.top1_agreement * 100 | fixed(2)) % | \(if $name == "nearest" then ($speed[0].results[0].tokens_per_s.median | fixed(0)) else "" end) | \($seconds | tonumber | fixed(1)) |"'
    done
done
if [ -n "${PLOT:-}" ]; then
    "$skiff" report "$work"/plot/* --against "$model" --max-windows "$windows" --no-speed -t "$threads" -o "$work/report" --title "Schemes and methods" >/dev/null
    cp "$work/report/kl_bytes.svg" "$PLOT"
fi
