#!/usr/bin/env bash
# skiff train --elastic on a tiny corpus: models cut out of the trained one lose what training said of them; sorted units; the student's own text; runs that are killed; what is refused.
# timeout: 600
set -euo pipefail
. "$SKIFF_SOURCE_DIR/tests/e2e/program_testing.bash"
needs_training
export TMPDIR=$work

head -c 60000 models/pocket/calib.txt > "$work/corpus.txt"
head -c 12000 models/pocket/heldout.txt > "$work/other.txt"
cat > "$work/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
 "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "hidden_act": "silu",
 "tie_word_embeddings": true}
JSON
quietly "$SKIFF" train-tokenizer "$work/corpus.txt" -o "$work/tok" --vocab-size 320
usual=(--data "$work/corpus.txt" --batch 16 -c 64 --warmup 3 -t 1 --precision f32)
lists=(--elastic-neurons 0.5,1 --elastic-kv-groups 1,2 --elastic-layers 2,3)
fresh() { "$SKIFF" train "random:$work/config.json" --tokenizer "$work/tok" "${usual[@]}" --lr 4e-3 "$@"; }
course() { cut -d, -f1-5 "$work/$1/train.csv"; }
# resumed NAME command...: the command killed in the middle and given again ends where the whole run ended
resumed() {
    local name=$1
    shift
    "$@" -o "$work/$name-killed" --save-every 2 >"$work/log" 2>&1 &
    local pid=$!
    for _ in $(seq 1 3000); do
        [ "$(2>/dev/null wc -l < "$work/$name-killed.partial/train.csv" || echo 0)" -ge 6 ] && break
        kill -0 $pid 2>/dev/null || break
        sleep 0.01
    done
    pkill -9 -P $pid 2>/dev/null || true
    kill -9 $pid 2>/dev/null || true
    wait $pid 2>/dev/null || true
    [ -d "$work/$name-killed" ] || quietly "$@" -o "$work/$name-killed" --save-every 2
    [ "$(course "$name")" = "$(course "$name-killed")" ] || fail "$name: a killed run takes another course"
    cmp "$work/$name/model.safetensors" "$work/$name-killed/model.safetensors" || fail "$name: a killed run ends elsewhere"
}

# ---- every rule trains, and sub-networks come out as training measured them
for rule in uniform fair sandwich; do
    quietly fresh --elastic $rule "${lists[@]}" --steps 30 --valid "$work/other.txt" --eval-windows 1000 --dtype F32 -o "$work/$rule"
    [ "$(wc -l < "$work/$rule/elastic.csv")" = 9 ] || fail "$rule: elastic.csv has not a line for each of 8 sub-networks: $(cat "$work/$rule/elastic.csv")"
    grep -q "\"rule\": \"$rule\"" "$work/$rule/skiff.json" || fail "the manifest does not say $rule"
done
prune() { "$SKIFF" prune "$@"; }
# as_trained MODEL RUN LINE: what the model loses is what the run's elastic.csv says in its line
as_trained() {
    "$SKIFF" eval "$work/$1" --text "$work/other.txt" --window 65 --json >"$work/json" 2>/dev/null
    measured=$(tr -d '\n' < "$work/json" | sed -n 's/.*"perplexity": *{[^}]*"value": *\([0-9.]*\).*/\1/p')
    trained=$(grep "^$3," "$work/$2/elastic.csv" | cut -d, -f5)
    awk -v p="$measured" -v l="$trained" 'BEGIN { r = p / exp(l); exit !(r > 0.99 && r < 1.01) }' || fail "$1 of $2: eval's perplexity $measured, training's loss $trained"
}
# cut RUN: into $work/RUN-a (half the neurons) and $work/RUN-smallest
cut_out() {
    quietly prune "$work/$1" -o "$work/$1-a" --pattern neurons:50% --importance leading
    quietly prune "$work/$1-a" -o "$work/$1-b" --pattern kv_groups:1 --importance leading
    quietly prune "$work/$1-b" -o "$work/$1-smallest" --pattern layers:1 --importance elastic-order
}
for rule in uniform fair sandwich; do
    cut_out $rule
    as_trained $rule-smallest $rule 0.5,1,2
done
as_trained sandwich sandwich 1,2,3
as_trained sandwich-a sandwich 0.5,2,3
quietly fresh --elastic sandwich "${lists[@]}" --steps 12 -o "$work/again"
resumed again fresh --elastic sandwich "${lists[@]}" --steps 12

# ---- units in the order of their importance: the same model
quietly "$SKIFF" train "random:$work/config.json" --tokenizer "$work/tok" "${usual[@]}" --optimizer muon --lr 2e-2 --steps 120 --dtype F32 -o "$work/parent"
quietly prune "$work/parent" -o "$work/sorted" --pattern neurons:0% --importance l2 --sort
cmp -s "$work/parent/model.safetensors" "$work/sorted/model.safetensors" && fail "nothing was sorted"
quietly "$SKIFF" eval "$work/sorted" --against "$work/parent" --text "$work/other.txt" --window 64 --max-windows 8 --json
tr -d '\n' < "$work/log" | sed -n 's/.*"mean_kl": *\([-0-9.e+]*\).*/\1/p' | awk '{ exit !($1 < 1e-6) }' || fail "sorted units compute something else: $(cat "$work/log")"

# ---- sorted, trained as elastic, cut
quietly "$SKIFF" train "$work/sorted" --elastic sandwich "${lists[@]}" "${usual[@]}" --lr 2e-3 --steps 6 --valid "$work/other.txt" --eval-windows 1000 --dtype F32 -o "$work/sorted-elastic"
cut_out sorted-elastic
as_trained sorted-elastic-a sorted-elastic 0.5,2,3
as_trained sorted-elastic-smallest sorted-elastic 0.5,1,2

# ---- what the student writes itself
distill() { "$SKIFF" distill "random:$work/config.json" --tokenizer "$work/tok" --teacher "$work/parent" "${usual[@]}" --lr 4e-3 --seed 5 "$@"; }
quietly distill --on-policy 0.5 --kd-loss reverse-kl --steps 10 -o "$work/on"
quietly distill --kd-loss reverse-kl --steps 10 -o "$work/off"
[ "$(course on)" != "$(course off)" ] || fail "--on-policy does nothing"
grep -q '"on_policy": 0.5' "$work/on/skiff.json" || fail "the manifest does not say on_policy"
resumed on distill --on-policy 0.5 --kd-loss reverse-kl --steps 10

# ---- levels that are trained
quietly "$SKIFF" qat "$work/parent" --scheme k4 "${usual[@]}" --lr 3e-3 --steps 40 -o "$work/trained"
quietly "$SKIFF" quantize "$work/parent" --scheme k4 -o "$work/rounded"
kl() {
    quietly "$SKIFF" eval "$1" --against "$work/parent" --text "$work/other.txt" --window 64 --max-windows 8 --json
    tr -d "\n" < "$work/log" | sed -n 's/.*"mean_kl": *\([-0-9.e+]*\).*/\1/p'
}
awk -v a="$(kl "$work/trained")" -v b="$(kl "$work/rounded")" 'BEGIN { exit !(a < b) }' || fail "trained levels: KL $(kl "$work/trained"), clusters alone $(kl "$work/rounded")"
quietly "$SKIFF" qat "$work/parent" --scheme k16 --train scales "${usual[@]}" --steps 3 -o "$work/levels"

# ---- what is refused
refused() { expect 2 "$1" fresh --steps 5 -o "$work/x" "${@:2}"; }
refused 'need --elastic uniform' --elastic-layers 2,3
refused '--elastic needs what sub-networks keep' --elastic fair
refused 'of which the last is 1' --elastic fair --elastic-neurons 0.5
refused "the last must be the model's 3" --elastic fair --elastic-layers 1,2
refused "the last must be the model's 2" --elastic fair --elastic-kv-groups 1,4
refused 'must ascend' --elastic fair --elastic-layers 3,2
refused 'expected numbers with commas' --elastic fair --elastic-layers 2,3,
refused 'leave --layer-drop out' --elastic fair --elastic-layers 2,3 --layer-drop 0.1
refused 'leave --lora out' --elastic fair --elastic-layers 2,3 --lora 2
expect 2 'leave --elastic out' "$SKIFF" qat "$work/parent" --scheme w4g32 "${usual[@]}" --steps 5 -o "$work/x" --elastic fair --elastic-layers 2,3
expect 2 'leave --teacher-cache out' distill --steps 5 -o "$work/x" --on-policy 1 --teacher-cache "$work/cache"
expect 2 'some must be left for the student' distill --steps 5 -o "$work/x" --on-policy 1 --on-policy-prompt 64
expect 2 'sorting units takes none away' prune "$work/parent" -o "$work/x" --pattern neurons:25% --importance l2 --sort
[ ! -e "$work/x" ] && [ ! -e "$work/x.partial" ] || fail "an error left something behind"
echo "elastic training, sorted units, the student's own text and trained levels do what they should"
