#!/usr/bin/env bash
# What pruning and factors gain in speed, by strength: each child in turns with its parent, both rounded to one scheme, medians of the ratios.
#     tools/speed_table.sh SKIFF MODEL WORK [FORM...]
# MODEL: a folder, whose children prune and factorize make (by the methods that need no data, since speed does not depend on which numbers stay; hidden widths by
# the built-in text), or random:SHAPE.json, whose children are weights pruned while loading and shapes with fewer neurons, KV groups, layers and columns.
# FORM: single 2:4 block neurons kv_groups layers hidden factors; default: all that MODEL can have (factors of a random: model are made by hand: factorize, then bench).
# Needs jq. WORK keeps every turn; what is there is not measured again. Packed weights are mapped from files in WORK, as at every start but the first. In the environment:
#   SCHEME (w8g32), STRENGTHS (10 25 50 75 90), ROUNDS (3), PROMPT (512), GEN (128), REPEATS (3), THREADS (all physical cores)
#   QUIET  a command that waits for a quiet machine; each turn runs under it
# Prints a line for each child: the bytes of its weights, the bound that they imply for decoding, what was reached (extremes), and prefill; then, for each form, from which strength
# on decoding gains 5 % and more at every strength above.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
skiff=$1 model=$2 work=$3
shift 3
scheme=${SCHEME:-w8g32} strengths=${STRENGTHS:-10 25 50 75 90} rounds=${ROUNDS:-3}
random=false
[[ $model != random:* ]] || random=true
if [ $# -gt 0 ]; then forms=$*; else forms="single 2:4 block neurons kv_groups layers hidden"; $random || forms+=" factors"; fi
mkdir -p "$work"

config=$model/config.json
! $random || config=${model#random:}
# less KEY PERCENT MULTIPLE: the number under KEY of the shape with so much gone, as a multiple, one at least
less() { jq -r --arg key "$1" --argjson gone "$2" --argjson multiple "$3" '[(.[$key] * (100 - $gone) / 100 / $multiple | round), 1] | max * $multiple' "$config"; }
# children FORM: a line for each: its name, a blank, and how it is made
children() {
    local s n
    case $1 in
    single) for s in $strengths; do echo "$s% $s%"; done ;;
    2:4) echo "2:4 2:4" ;;
    block) for s in $strengths; do echo "block16x32:$s% block16x32:$s%"; done ;;
    neurons) for s in $strengths; do echo "neurons:$s% intermediate_size=$(less intermediate_size "$s" 32)"; done ;;
    hidden) for s in $strengths; do echo "hidden:$s% hidden_size=$(less hidden_size "$s" 32)"; done ;;
    layers)
        for s in $strengths; do
            n=$(less num_hidden_layers "$s" 1)
            echo "layers:$(($(jq .num_hidden_layers "$config") - n)) num_hidden_layers=$n"
        done | awk '$1 != "layers:0" && !seen[$1]++' ;;
    kv_groups)
        for ((n = 1; n < $(jq .num_key_value_heads "$config"); n *= 2)); do
            echo "kv_groups:$n $(jq -r --argjson n "$n" '.num_key_value_heads as $kv | "num_key_value_heads=\($kv - $n) num_attention_heads=\(.num_attention_heads / $kv * ($kv - $n))"' "$config")"
        done ;;
    factors)
        ! $random || { echo "speed_table.sh: factors of a random: model are made by hand" >&2; return 2; }
        for s in $strengths; do echo "factors:$s% $s%"; done ;;
    *) echo "speed_table.sh: no form is called $1" >&2; return 2 ;;
    esac
}
for form in $forms; do children "$form" >/dev/null; done  # a form that is none ends here
made() { "$skiff" "$@" --restart -t "${THREADS:-0}" >"$work/log" 2>&1 || { cat "$work/log" >&2; return 1; }; }
# child NAME HOW: sets `arguments`, what bench is given
child() {
    local name=$1 how=$2 set keys=()
    if $random; then
        arguments=("$model" --scheme "$scheme")
        case $how in
        "") ;;
        *=*)
            for set in $how; do keys+=("| .${set%=*} = ${set#*=}"); done
            jq ".head_dim //= (.hidden_size / .num_attention_heads) ${keys[*]}" "$config" >"$work/shape.json"
            arguments=("random:$work/shape.json" --scheme "$scheme") ;;
        *) arguments+=(--prune "$how") ;;
        esac
        return
    fi
    arguments=("$work/child")
    rm -rf "$work/child" "$work/plain"
    case $name in
    "") made quantize "$model" --scheme "$scheme" -o "$work/child" ; return ;;
    factors:*) made factorize "$model" --method svd --remove "$how" -o "$work/plain" ;;
    hidden:*) made prune "$model" --pattern "$name" -o "$work/plain" ;;
    layers:*) made prune "$model" --pattern "$name" --importance elastic-order -o "$work/plain" ;;
    neurons:* | kv_groups:*) made prune "$model" --pattern "$name" --importance l2 --compensation none -o "$work/plain" ;;
    *) made prune "$model" --pattern "$name" --scheme "$scheme" -o "$work/child"; return ;;
    esac
    made quantize "$work/plain" --scheme "$scheme" -o "$work/child"
}
# turn WHOSE BENCH-ARGUMENTS...: after the first start, which packs
turn() {
    local cache=$work/packed/$1
    shift
    [ -n "$(ls "$cache" 2>/dev/null)" ] || SKIFF_CACHE_DIR=$cache "$skiff" bench "$@" -t "${THREADS:-0}" -p 1 -n 1 -r 1 >"$work/log" 2>&1 || { cat "$work/log" >&2; return 1; }
    SKIFF_CACHE_DIR=$cache ${QUIET:-} "$skiff" bench "$@" -t "${THREADS:-0}" -p "${PROMPT:-512}" -n "${GEN:-128}" -r "${REPEATS:-3}" --json
}
for form in $forms; do
    while read -r name how; do
        rm -rf "$work/packed/child"  # of a run that was stopped
        for ((round = 1; round <= rounds; ++round)); do
            at=$work/${name//:/-}.$round
            [ ! -s "$at.child.json" ] || continue
            if $random; then
                child "" ""
                turn parent "${arguments[@]}" >"$at.parent.json"
                child "$name" "$how"
            else
                [ -d "$work/parent" ] || { child "" "" && mv "$work/child" "$work/parent"; }
                [ "$round" != 1 ] && [ -d "$work/child" ] || child "$name" "$how"
                turn parent "$work/parent" >"$at.parent.json"
            fi
            turn child "${arguments[@]}" >"$work/turn.json"
            mv "$work/turn.json" "$at.child.json"
        done
        rm -rf "$work/child" "$work/plain" "$work/packed/child"
    done < <(children "$form")
done
echo "| what goes | bytes | of all | bound | decode, tok/s | reached | of the bound | prefill, tok/s | reached |"
echo "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
for form in $forms; do
    while read -r name how; do
        jq -rn --arg name "$name" '
            def fixed($n): . * pow(10; $n) | round / pow(10; $n);
            def median: sort | if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end;
            [inputs] as $all | [$all | to_entries[] | select(.key % 2 == 0) | .value] as $children | [$all | to_entries[] | select(.key % 2 == 1) | .value] as $parents
            | def speeds($of; $i): [$of[] | .results[$i].tokens_per_s.median];
            def ratios($i): [range($children | length) | speeds($children; $i)[.] / speeds($parents; $i)[.]];
            ($children[0].model.weight_bytes / $parents[0].model.weight_bytes) as $share | ratios(1) as $decode | ratios(0) as $prefill
            | "| \($name) | \($children[0].model.weight_bytes) | \($share | fixed(3)) | \(1 / $share | fixed(2))x | \(speeds($children; 1) | median | fixed(0)) | \($decode | median | fixed(2))x (\($decode | min | fixed(2)) to \($decode | max | fixed(2))) | \(($decode | median) * $share | fixed(2)) | \(speeds($children; 0) | median | fixed(0)) | \($prefill | median | fixed(2))x (\($prefill | min | fixed(2)) to \($prefill | max | fixed(2))) |"
        ' "$work/${name//:/-}".*.json
    done < <(children "$form")
done | tee "$work/lines"
echo
for form in $forms; do
    # shellcheck disable=SC2046
    names=$(children "$form" | cut -d' ' -f1 | tr '\n' ' ')
    awk -F'|' -v form="$form" -v names="$names" '
        { gsub(/ /, "", $2); split($7, reached, "x"); gain[$2] = reached[1] + 0 }
        END { n = split(names, list, " "); from = ""; for (i = n; i > 0 && gain[list[i]] >= 1.05; --i) from = list[i]; print "- " form ": " (from == "" ? "no strength measured pays" : "pays from " from " on") }' "$work/lines"
done
