#!/bin/bash
# Methods by schemes on one model: makes each child, evaluates it against its parent, and prints a table with paired differences over windows.
#     tools/method_table.sh SKIFF MODEL WORK [SCHEME...]
# Needs jq. MODEL has calib.txt and heldout.txt beside its weights. WORK keeps the evaluations; what is there already is not made again.
set -e
skiff=$1 model=$2 work=$3
shift 3
schemes=${*:-n4g32r w4g32 w4g128 n3g32r w3g32r n2g16r w2g32r ternary}
windows=${WINDOWS:-64}
mkdir -p "$work"
parent=$work/parent$windows.logits
[ -s "$parent" ] || "$skiff" eval "$model" --max-windows "$windows" --save-logits "$parent" > /dev/null

# row SCHEME NAME MODEL ARGUMENTS...
row() {
    local scheme=$1 name=$2 source=$3
    shift 3
    [ -s "$work/t_$scheme.$name.json" ] && return
    rm -rf "$work/child"
    "$skiff" quantize "$source" -o "$work/child" --restart --calibration "$model/calib.txt" --scheme "$scheme" "$@" --json > "$work/q_$scheme.$name.json"
    "$skiff" eval "$work/child" --text "$model/heldout.txt" --max-windows "$windows" --against "$parent" --json > "$work/t.json"
    mv "$work/t.json" "$work/t_$scheme.$name.json"
    rm -rf "$work/child"
}
for turned in heads all; do
    [ -d "$work/turned-$turned" ] || "$skiff" rotate "$model" -o "$work/turned-$turned" --what $turned
done
for scheme in $schemes; do
    row "$scheme" nearest "$model" --method nearest
    row "$scheme" hqq "$model" --method hqq
    row "$scheme" weighted "$model" --method weighted
    row "$scheme" awq "$model" --method nearest --transform awq
    row "$scheme" gptq "$model" --method gptq
    row "$scheme" gptq-by-inputs "$model" --method gptq --column-order by-inputs
    row "$scheme" gptq-as-stored "$model" --method gptq --column-order as-stored
    row "$scheme" awq-gptq "$model" --method gptq --transform awq
    row "$scheme" heads-gptq "$work/turned-heads" --method gptq
    row "$scheme" turned-gptq "$work/turned-all" --method gptq
    row "$scheme" turned-nearest "$work/turned-all" --method nearest
    row "$scheme" awq-unclipped "$model" --method nearest --transform awq --clip none
    row "$scheme" nearest-corrected "$model" --method nearest --correct bias,norm
    row "$scheme" gptq-corrected "$model" --method gptq --correct bias,norm
    [ -z "$AUTOROUND" ] || row "$scheme" autoround "$model" --method autoround
    [ -z "$AUTOROUND" ] || row "$scheme" autoround-operator "$model" --method autoround --learn-by operator
done
echo "| scheme | method | weights, bytes | perplexity | mean KL | less than nearest, 95 % | same top-1 |"
echo "|---|---|---:|---:|---:|---:|---:|"
for scheme in $schemes; do
    for name in nearest hqq weighted awq gptq gptq-by-inputs gptq-as-stored awq-gptq heads-gptq turned-nearest turned-gptq awq-unclipped nearest-corrected gptq-corrected autoround autoround-operator; do
        own=$work/t_$scheme.$name.json
        [ -s "$own" ] || continue
        jq -rn --arg scheme "$scheme" --arg name "$name" --slurpfile own "$own" --slurpfile base "$work/t_$scheme.nearest.json" --slurpfile made "$work/q_$scheme.$name.json" '
            def fixed($n): . * pow(10; $n) | round / pow(10; $n) | tostring;
            $own[0] as $o | ($o.against.window_kl) as $kl | [range($kl | length) | $base[0].against.window_kl[.] - $kl[.]] as $d
            | ($d | add / length) as $mean | (1.96 * (($d | map((. - $mean) * (. - $mean)) | add) / (($d | length) - 1) / ($d | length) | sqrt)) as $half
            | "| \($scheme) | \($name) | \($made[0].estimate.bytes_after) | \($o.perplexity.value | fixed(3)) ± \($o.perplexity.stderr | fixed(3)) | \($o.against.mean_kl | fixed(5)) | \(if $name == "nearest" then "" else "\($mean | fixed(5)) ± \($half | fixed(5))" end) | \($o.against.top1_agreement * 100 | fixed(2)) % |"'
    done
done
