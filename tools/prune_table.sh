#!/bin/bash
# Pruning of single weights by method and strength on one model, and what each layer loses (--allocation): makes each child, evaluates it against its parent,
# and prints tables with paired differences over windows.
#     tools/prune_table.sh SKIFF MODEL WORK [STRENGTH...]
# WINDOWS (64), THREADS (all), METHODS choose less. See child_rows.bash.
set -e
source "$(dirname "$0")/child_rows.bash" "$1" "$2" "$3"
shift 3
strengths=${*:-10 25 50 75 90}
methods=${METHODS:-magnitude wanda sparsegpt snip taylor}
for s in $strengths; do
    for method in $methods; do row "${s}%_$method" prune --pattern "$s%" --method "$method"; done
done
for method in $methods; do row "2:4_$method" prune --pattern 2:4 --method "$method"; done
for s in 50 70; do
    for allocation in uniform owl sensitivity; do row "${s}%_wanda_$allocation" prune --pattern "$s%" --method wanda --allocation $allocation; done
done
for s in $strengths 2:4; do
    s=${s/%[0-9]/&%} s=${s/2:4%/2:4}
    heading
    for method in $methods; do names+=("${s}_$method"); done
    table "${s}_magnitude" "${names[@]}"
    names=()
done
for s in 50 70; do
    heading
    table "${s}%_wanda_uniform" "${s}%_wanda"_{uniform,owl,sensitivity}
done
