#!/bin/bash
# Pruning of single weights by method and strength on one model, and what each layer loses (--allocation): makes each child, evaluates it against its parent,
# and prints tables with paired differences over windows.
#     tools/prune_table.sh SKIFF MODEL WORK [STRENGTH...]
# WINDOWS (64), THREADS (all), METHODS and ALLOCATED (strengths at which layers differ: 50 70) choose less; CORRECT (none) is --correct of all. See child_rows.bash.
set -e
source "$(dirname "$0")/child_rows.bash" "$1" "$2" "$3"
shift 3
strengths=${*:-10 25 50 75 90}
methods=${METHODS:-magnitude wanda snip taylor sparsegpt}
allocated=${ALLOCATED-50 70} correct=${CORRECT:-none}
patterns=$(for s in $strengths; do echo "$s%"; done; echo 2:4)
for p in $patterns; do
    for method in $methods; do row "${p}_$method" prune --pattern "$p" --method "$method" --correct "$correct"; done
done
for s in $allocated; do
    row "$s%_wanda" prune --pattern "$s%" --method wanda --correct "$correct"
    for allocation in owl sensitivity; do row "$s%_wanda_$allocation" prune --pattern "$s%" --method wanda --allocation $allocation --correct "$correct"; done
done
matrix "$(echo $patterns)" $methods
for p in $patterns; do
    heading
    for method in $methods; do table "${p}_${methods%% *}" "${p}_$method"; done
done
for s in $allocated; do
    heading
    table "$s%_wanda" "$s%_wanda" "$s%_wanda"_{owl,sensitivity}
done
