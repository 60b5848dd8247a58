#!/usr/bin/env bash
# lottery_ticket.sh -s SKIFF -c CONFIG.json -t TOKENIZER -d TEXT -v TEXT -o OUT [-r ROUNDS] [-p SHARE] [-k REWIND_STEP] [-n STEPS] [-e SEED] [-- options of skiff train]
# Lottery tickets by iterative magnitude pruning with rewinding (Frankle et al. 2020): train, prune the smallest SHARE of what is left, set the rest back to what it was
# after REWIND_STEP steps, and train again; beside each ticket the same mask on fresh random weights. OUT/table.csv: round, share left, validation loss of both.
set -euo pipefail
rounds=3 share=0.2 rewind=20 steps=200 seed=1 skiff=skiff
while getopts s:c:t:d:v:o:r:p:k:n:e: flag; do
    case $flag in
        s) skiff=$OPTARG ;; c) config=$OPTARG ;; t) tokenizer=$OPTARG ;; d) text=$OPTARG ;; v) validation=$OPTARG ;; o) out=$OPTARG ;;
        r) rounds=$OPTARG ;; p) share=$OPTARG ;; k) rewind=$OPTARG ;; n) steps=$OPTARG ;; e) seed=$OPTARG ;;
        *) sed -n '2,4s/^# //p' "$0" >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
if [ -z "${config-}" ] || [ -z "${tokenizer-}" ] || [ -z "${text-}" ] || [ -z "${validation-}" ] || [ -z "${out-}" ]; then sed -n '2,4s/^# //p' "$0" >&2; exit 2; fi
mkdir -p "$out"
common=(--tokenizer "$tokenizer" --data "$text" --dtype F32 "$@")
train() { "$skiff" train "${@:2}" "${common[@]}" -o "$out/$1" --force; }
loss() { tail -1 "$out/$1/validation.csv" | cut -d, -f3; }

train rewound "random:$config" --steps "$rewind" --seed "$seed"
train 0-ticket "$out/rewound" --steps "$steps" --seed "$seed" --valid "$validation"
train 0-random "random:$config" --steps "$((steps + rewind))" --seed "$((seed + 1))" --valid "$validation"
echo "round,left,ticket,random" > "$out/table.csv"
echo "0,1,$(loss 0-ticket),$(loss 0-random)" | tee -a "$out/table.csv"
for round in $(seq 1 "$rounds"); do
    sparsity=$(awk -v s="$share" -v r="$round" 'BEGIN { printf "%.6f", 1 - (1 - s) ^ r }')
    mask=(--sparsity "$sparsity" --prune-scope global --mask-from "$out/$((round - 1))-ticket")
    train "$round-ticket" "$out/rewound" --steps "$steps" --seed "$seed" --valid "$validation" "${mask[@]}"
    train "$round-random" "random:$config" --steps "$((steps + rewind))" --seed "$((seed + 1))" --valid "$validation" "${mask[@]}"
    echo "$round,$(awk -v s="$sparsity" 'BEGIN { print 1 - s }'),$(loss "$round-ticket"),$(loss "$round-random")" | tee -a "$out/table.csv"
done
