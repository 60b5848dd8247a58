#!/bin/bash
# Structured pruning and low rank by strength on one model: makes each child, evaluates it against its parent, and prints tables with paired differences over
# windows.
#     tools/structure_table.sh SKIFF MODEL WORK [STRENGTH...]
# Needs jq. MODEL has calib.txt and heldout.txt beside its weights. WORK keeps the evaluations; what is there already is not made again.
set -e
skiff=$1 model=$2 work=$3
shift 3
strengths=${*:-10 25 50}
windows=${WINDOWS:-64}
mkdir -p "$work"
parent=$work/parent$windows.logits
[ -s "$parent" ] || "$skiff" eval "$model" --text "$model/heldout.txt" --max-windows "$windows" --save-logits "$parent" > /dev/null

# row NAME VERB ARGUMENTS...: t_NAME.json and q_NAME.json
row() {
    local name=$1 verb=$2
    shift 2
    [ -s "$work/t_$name.json" ] && return
    rm -rf "$work/child"
    "$skiff" "$verb" "$model" -o "$work/child" --restart --calibration "$model/calib.txt" "$@" --json > "$work/q_$name.json"
    "$skiff" eval "$work/child" --text "$model/heldout.txt" --max-windows "$windows" --against "$parent" --json > "$work/t.json"
    mv "$work/t.json" "$work/t_$name.json"
    rm -rf "$work/child"
}
# table BASE NAME...: the difference in KL is that of BASE less each
table() {
    local base=$1
    shift
    for name in "$@"; do
        [ -s "$work/t_$name.json" ] || continue
        jq -rn --arg name "$name" --arg base "$base" --slurpfile own "$work/t_$name.json" --slurpfile base_of "$work/t_$base.json" --slurpfile made "$work/q_$name.json" '
            def fixed($n): . * pow(10; $n) | round / pow(10; $n) | tostring;
            $own[0] as $o | ($o.against.window_kl) as $kl | [range($kl | length) | $base_of[0].against.window_kl[.] - $kl[.]] as $d
            | ($d | add / length) as $mean | (1.96 * (($d | map((. - $mean) * (. - $mean)) | add) / (($d | length) - 1) / ($d | length) | sqrt)) as $half
            | "| \($name | gsub("_"; " ")) | \($made[0].estimate.bytes_after) | \($o.perplexity.value | fixed(3)) ± \($o.perplexity.stderr | fixed(3)) | \($o.against.mean_kl | fixed(5)) | \(if $name == $base then "" else "\($mean | fixed(5)) ± \($half | fixed(5))" end) |"'
    done
}
heading() {
    echo
    echo "| what goes | weights, bytes | perplexity | mean KL | less than the first, 95 % |"
    echo "|---|---:|---:|---:|---:|"
}
for s in $strengths; do
    for importance in l2 l1 activation apoz contribution; do row "neurons-${s}%_${importance}" prune --pattern "neurons:$s%" --importance $importance --compensation none; done
    row "neurons-${s}%_l2_least-squares" prune --pattern "neurons:$s%" --importance l2
    row "neurons-${s}%_contribution_least-squares" prune --pattern "neurons:$s%" --importance contribution
    row "neurons-${s}%_obs" prune --pattern "neurons:$s%" --importance obs --compensation none
    row "neurons-${s}%_obs_least-squares" prune --pattern "neurons:$s%"
    row "neurons-${s}%_obs_least-squares_spread" prune --pattern "neurons:$s%" --spread sensitivity
    for method in svd asvd svd-llm; do row "factors-${s}%_$method" factorize --remove "$s%" --method $method; done
    row "factors-${s}%_svd-llm_budget" factorize --budget "$s%" --method svd-llm
    row "hidden-${s}%" prune --pattern "hidden:$s%"
done
for n in 1 2; do
    row "layers-${n}_block-influence" prune --pattern layers:$n --importance block-influence
    row "layers-${n}_kl" prune --pattern layers:$n
done
for c in none least-squares; do
    row "kv_groups-1_contribution_$c" prune --pattern kv_groups:1 --importance contribution --compensation $c
    row "kv_groups-1_obs_$c" prune --pattern kv_groups:1 --importance obs --compensation $c
    row "heads-25%_obs_$c" prune --pattern heads:25% --importance obs --compensation $c
done
for s in $strengths; do
    heading
    table "neurons-${s}%_l2" "neurons-${s}%"_{l2,l1,activation,apoz,contribution,l2_least-squares,obs,contribution_least-squares,obs_least-squares,obs_least-squares_spread}
done
for s in $strengths; do
    heading
    table "factors-${s}%_svd" "factors-${s}%"_{svd,asvd,svd-llm,svd-llm_budget} "hidden-${s}%"
done
for n in 1 2; do
    heading
    table "layers-${n}_block-influence" "layers-${n}_block-influence" "layers-${n}_kl"
done
heading
table "kv_groups-1_contribution_none" kv_groups-1_{contribution_none,contribution_least-squares,obs_none,obs_least-squares} "heads-25%_obs_none" "heads-25%_obs_least-squares"
