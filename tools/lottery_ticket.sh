#!/usr/bin/env bash
# lottery_ticket.sh -s SKIFF -c CONFIG.json -t TOKENIZER -d TEXT -v TEXT -o OUT [-r ROUNDS] [-p SHARE] [-k REWIND_STEP] [-n STEPS] [-w WARMUP] [-f FALL] [-e SEED] [-- options of skiff train]
# Lottery tickets by iterative magnitude pruning with rewinding (Frankle et al. 2020): train, prune the smallest SHARE of what is left, set the rest back to what it was
# after REWIND_STEP steps, and train again; beside each ticket the same mask on fresh random weights. Every model here has the same two phases: REWIND_STEP steps in which
# the rate rises (WARMUP) and stays, then STEPS more over the same windows, at that rate until it falls in the last FALL. OUT/table.csv: round, share left, validation loss of both.
set -euo pipefail
rounds=3 share=0.2 rewind=20 steps=200 warmup=10 fall=40 seed=1 skiff=skiff
while getopts s:c:t:d:v:o:r:p:k:n:w:f:e: flag; do
    case $flag in
        s) skiff=$OPTARG ;; c) config=$OPTARG ;; t) tokenizer=$OPTARG ;; d) text=$OPTARG ;; v) validation=$OPTARG ;; o) out=$OPTARG ;;
        r) rounds=$OPTARG ;; p) share=$OPTARG ;; k) rewind=$OPTARG ;; n) steps=$OPTARG ;; w) warmup=$OPTARG ;; f) fall=$OPTARG ;; e) seed=$OPTARG ;;
        *) sed -n '2,5s/^# //p' "$0" >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
if [ -z "${config-}" ] || [ -z "${tokenizer-}" ] || [ -z "${text-}" ] || [ -z "${validation-}" ] || [ -z "${out-}" ]; then sed -n '2,5s/^# //p' "$0" >&2; exit 2; fi
mkdir -p "$out"
common=(--tokenizer "$tokenizer" --data "$text" --dtype F32 "$@")
train() { "$skiff" train "${@:2}" "${common[@]}" -o "$out/$1" --force; }
begin() { train "$1" "random:$config" --steps "$rewind" --schedule constant --warmup "$warmup" --seed "$2" "${@:3}"; }
go_on() { train "$2" "$out/$1" --steps "$steps" --schedule wsd --warmup 0 --decay "$fall" --seed "$seed" --valid "$validation" "${@:3}"; }
loss() { tail -1 "$out/$1/validation.csv" | cut -d, -f3; }

begin rewound "$seed"
echo "round,left,ticket,random" > "$out/table.csv"
for round in $(seq 0 "$rounds"); do
    sparsity=$(awk -v s="$share" -v r="$round" 'BEGIN { printf "%.6f", 1 - (1 - s) ^ r }')
    mask=()
    if [ "$round" -gt 0 ]; then mask=(--sparsity "$sparsity" --prune-scope global --mask-from "$out/$((round - 1))-ticket"); fi
    go_on rewound "$round-ticket" ${mask[@]+"${mask[@]}"}
    begin fresh "$((seed + 1000))" ${mask[@]+"${mask[@]}"}  # other weights
    go_on fresh "$round-random"                             # zeros stay
    echo "$round,$(awk -v s="$sparsity" 'BEGIN { print 1 - s }'),$(loss "$round-ticket"),$(loss "$round-random")" | tee -a "$out/table.csv"
done
