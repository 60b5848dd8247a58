#!/bin/bash
# Structured pruning and low rank by strength on one model: makes each child, evaluates it against its parent, and prints tables with paired differences over
# windows.
#     tools/structure_table.sh SKIFF MODEL WORK [STRENGTH...]
# WINDOWS (64), THREADS (all) and IMPORTANCES choose less. See child_rows.bash.
set -e
source "$(dirname "$0")/child_rows.bash" "$1" "$2" "$3"
shift 3
strengths=${*:-10 25 50 75 90}
layers=$(jq -r '[range(1; [.num_hidden_layers, 5] | min)] | join(" ")' "$model/config.json")  # up to four, one stays
importances=${IMPORTANCES:-l2 l1 activation apoz contribution taylor}
for s in $strengths; do
    for importance in $importances; do row "neurons-${s}%_${importance}" prune --pattern "neurons:$s%" --importance $importance --compensation none; done
    row "neurons-${s}%_l2_least-squares" prune --pattern "neurons:$s%" --importance l2
    row "neurons-${s}%_contribution_least-squares" prune --pattern "neurons:$s%" --importance contribution
    row "neurons-${s}%_taylor_least-squares" prune --pattern "neurons:$s%" --importance taylor
    row "neurons-${s}%_obs" prune --pattern "neurons:$s%" --importance obs --compensation none
    row "neurons-${s}%_obs_least-squares" prune --pattern "neurons:$s%"
    row "neurons-${s}%_obs_least-squares_spread" prune --pattern "neurons:$s%" --spread sensitivity
    for method in svd asvd svd-llm; do row "factors-${s}%_$method" factorize --remove "$s%" --method $method; done
    row "factors-${s}%_svd-llm_budget" factorize --budget "$s%" --method svd-llm
    row "hidden-${s}%_rotated" prune --pattern "hidden:$s%"
done
for n in $layers; do
    row "layers-${n}_block-influence" prune --pattern layers:$n --importance block-influence
    row "layers-${n}_kl" prune --pattern layers:$n
done
for c in none least-squares; do
    row "kv_groups-1_contribution_$c" prune --pattern kv_groups:1 --importance contribution --compensation $c
    row "kv_groups-1_taylor_$c" prune --pattern kv_groups:1 --importance taylor --compensation $c
    row "heads-25%_taylor_$c" prune --pattern heads:25% --importance taylor --compensation $c
    row "kv_groups-1_obs_$c" prune --pattern kv_groups:1 --importance obs --compensation $c
    row "heads-25%_obs_$c" prune --pattern heads:25% --importance obs --compensation $c
done
matrix "$(for s in $strengths; do echo -n "neurons-$s% "; done)" $importances obs {l2,contribution,taylor,obs}_least-squares obs_least-squares_spread
for s in $strengths; do
    heading
    table "neurons-${s}%_l2" "neurons-${s}%"_{l2,l1,activation,apoz,contribution,taylor,obs,l2_least-squares,contribution_least-squares,taylor_least-squares,obs_least-squares,obs_least-squares_spread}
done
for s in $strengths; do
    heading
    table "factors-${s}%_svd" "factors-${s}%"_{svd,asvd,svd-llm,svd-llm_budget} "hidden-${s}%_rotated"
done
matrix "$(for s in $strengths; do echo -n "factors-$s% "; done)" svd asvd svd-llm svd-llm_budget
matrix "$(for s in $strengths; do echo -n "hidden-$s% "; done)" rotated
for n in $layers; do
    heading
    table "layers-${n}_block-influence" "layers-${n}_block-influence" "layers-${n}_kl"
done
heading
table "kv_groups-1_contribution_none" kv_groups-1_{contribution,taylor,obs}_none kv_groups-1_{contribution,taylor,obs}_least-squares "heads-25%"_{taylor,obs}_none "heads-25%"_{taylor,obs}_least-squares
