#!/usr/bin/env bash
# skiff qat and skiff recover on a tiny corpus: few bits that were trained against few bits that were not; a killed run; scales alone; zeros that stay, that come, that another
# model chooses; lottery tickets; what is refused.
# timeout: 900
set -euo pipefail
. "$SKIFF_SOURCE_DIR/tests/e2e/program_testing.bash"
needs_training
export TMPDIR=$work

head -c 60000 models/pocket/calib.txt > "$work/corpus.txt"
head -c 12000 models/pocket/heldout.txt > "$work/other.txt"
cat > "$work/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
 "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "hidden_act": "silu",
 "tie_word_embeddings": true}
JSON
quietly "$SKIFF" train-tokenizer "$work/corpus.txt" -o "$work/tok" --vocab-size 320
usual=(--data "$work/corpus.txt" --batch 16 -c 64 --warmup 3 -t 1 --precision f32)
quietly "$SKIFF" train "random:$work/config.json" --tokenizer "$work/tok" "${usual[@]}" --optimizer muon --lr 2e-2 --steps 120 --dtype F32 -o "$work/parent"
# kl MODEL [WINDOWS]: the mean divergence from the parent
kl() {
    quietly "$SKIFF" eval "$1" --against "$work/parent" --text "$work/other.txt" --window 64 --max-windows "${2:-8}" --json
    tr -d "\n" < "$work/log" | sed -n 's/.*"mean_kl": *\([-0-9.e+]*\).*/\1/p'
}

# ---- few bits: trained for them, and only rounded
for scheme in ternary n2g32r; do
    quietly "$SKIFF" quantize "$work/parent" -o "$work/rounded-$scheme" --scheme $scheme
    quietly "$SKIFF" qat "$work/parent" --scheme $scheme "${usual[@]}" --lr 3e-3 --steps 40 -o "$work/trained-$scheme"
    below "$(kl "$work/trained-$scheme")" "$(awk -v x="$(kl "$work/rounded-$scheme")" 'BEGIN { print x / 2 }')" ||
        fail "$scheme: KL $(kl "$work/trained-$scheme") trained, $(kl "$work/rounded-$scheme") rounded: less than half was expected"
    grep -q '"kind": "qat"' "$work/trained-$scheme/skiff.json" || fail "the manifest does not say qat"
    grep -q quantization_config "$work/trained-$scheme/config.json" || fail "config.json does not say how it is quantized"
    quietly "$SKIFF" run "$work/trained-$scheme" --raw -p "The" -n 4
    a=$(stat -c %s "$work/trained-$scheme/model.safetensors") b=$(stat -c %s "$work/rounded-$scheme/model.safetensors")
    [ "$a" -le $((b + 4096)) ] || fail "$scheme: the trained model takes $a bytes, the rounded one $b"
done
quietly "$SKIFF" qat "$work/parent" --scheme n2g32r --train scales "${usual[@]}" --lr 1e-2 --steps 30 -o "$work/scales"
below "$(kl "$work/scales")" "$(kl "$work/rounded-n2g32r")" || fail "training scales alone did not help: $(kl "$work/scales")"
quietly "$SKIFF" qat "$work/parent" --scheme w4g32 --activations int8 "${usual[@]}" --steps 3 -o "$work/int8"

# ---- inputs as the model will be run with: what quantize declares, trained
quietly "$SKIFF" quantize "$work/parent" --scheme w8 --activations static-mse --calibration "$work/corpus.txt" --calibration-samples 8 --calibration-tokens 64 -o "$work/w8-static"
for how in static-mse dynamic-token; do
    quietly "$SKIFF" qat "$work/parent" --scheme w8 --activations $how "${usual[@]}" --lr 1e-4 --steps 20 --sample-every 20 --sample-tokens 4 -o "$work/w8-$how"
    grep -q "\"activations\": \"$how\"" "$work/w8-$how/skiff.json" || fail "the manifest does not say $how"
    grep -q '"input_activations": {' "$work/w8-$how/config.json" || fail "config.json does not say how inputs are coded"
    quietly "$SKIFF" run "$work/w8-$how" --raw -p "The" -n 4
    below "$(kl "$work/w8-$how")" 0.01 || fail "$how: KL $(kl "$work/w8-$how")"
done
# What training gains at 8 bits is a tenth of a small error: enough steps and text, so that it does not hang on how a processor rounds.
quietly "$SKIFF" qat "$work/parent" --scheme w8 --activations static-mse "${usual[@]}" --lr 1e-4 --steps 120 -o "$work/w8-static-long"
trained=$(kl "$work/w8-static-long" 64) rounded=$(kl "$work/w8-static" 64)
below "$trained" "$rounded" || fail "training for fixed inputs did not help: KL $trained, of quantize $rounded"
quietly "$SKIFF" qat "$work/parent" --scheme e4m3 --activations fp8 "${usual[@]}" --steps 3 -o "$work/fp8"
quietly "$SKIFF" factorize "$work/parent" --remove 25% --calibration "$work/corpus.txt" --calibration-samples 2 -o "$work/factored"
for how in static-mse dynamic-token; do
    expect 2 "are factored" "$SKIFF" quantize "$work/factored" --scheme w8 --activations $how --calibration "$work/corpus.txt" --calibration-samples 2 -o "$work/x"
    expect 2 "are factored" "$SKIFF" qat "$work/factored" --scheme w8 --activations $how "${usual[@]}" --steps 3 -o "$work/x"
done
quietly "$SKIFF" qat "$work/factored" --scheme w8 --activations int8 "${usual[@]}" --lr 1e-4 --steps 3 -o "$work/factored-int8"
below "$(kl "$work/factored-int8")" "$(awk -v x="$(kl "$work/factored")" 'BEGIN { print 1.1 * x }')" || fail "factored and trained for codes as inputs: KL $(kl "$work/factored-int8")"
expect 2 "symmetric integers of 8 bits" "$SKIFF" qat "$work/parent" --scheme w4g32 --activations static-minmax "${usual[@]}" --steps 3 -o "$work/x"
expect 2 "leave one of them out" "$SKIFF" qat "$work/parent" --scheme w8 --activations dynamic-token --sparsity 0.5 "${usual[@]}" --steps 3 -o "$work/x"
expect 2 "percentile is of" "$SKIFF" qat "$work/parent" --scheme w8 --activations int8 --percentile 99 "${usual[@]}" --steps 3 -o "$work/x"
expect 2 "with one scale a row" "$SKIFF" qat "$work/parent" --scheme w8 --activations fp8 "${usual[@]}" --steps 3 -o "$work/x"

# ---- killed, and gone on with: the same bytes
killed() { "$SKIFF" qat "$work/parent" --scheme ternary "${usual[@]}" --lr 3e-3 --steps 40 -o "$work/killed" --save-every 3; }
killed >"$work/log" 2>&1 &
pid=$!
for _ in $(seq 1 3000); do
    [ "$(2>/dev/null wc -l < "$work/killed.partial/train.csv" || echo 0)" -ge 8 ] && break
    kill -0 $pid 2>/dev/null || break
    sleep 0.01
done
kill -9 $(pgrep -P $pid) $pid 2>/dev/null || true
wait $pid 2>/dev/null || true
sleep 0.3
[ -d "$work/killed" ] || quietly killed
cmp "$work/trained-ternary/model.safetensors" "$work/killed/model.safetensors" || fail "a killed run ends elsewhere"

# ---- zeros that come, and stay
quietly "$SKIFF" recover "$work/parent" --parent "$work/parent" "${usual[@]}" --lr 3e-3 --steps 24 --sparsity 0.6 --prune-every 2 -o "$work/ramp"
grep -q '"zeros": 0.59\|"zeros": 0.6' "$work/ramp/skiff.json" || fail "not 60 % of zeros: $(grep -A6 sparsity "$work/ramp/skiff.json")"
quietly "$SKIFF" recover "$work/parent" --parent "$work/parent" "${usual[@]}" --lr 1e-12 --steps 4 --sparsity 0.6 --prune-schedule once -o "$work/once"
below "$(kl "$work/ramp")" "$(kl "$work/once")" || fail "what was pruned on a ramp and trained, KL $(kl "$work/ramp"), is no better than what was only pruned, $(kl "$work/once")"
quietly "$SKIFF" recover "$work/once" --parent "$work/parent" "${usual[@]}" --lr 3e-3 --steps 20 -o "$work/recovered"
grep -q "pruned tensors are kept" "$work/log" || fail "zeros were not noticed: $(cat "$work/log")"
below "$(kl "$work/recovered")" "$(kl "$work/once")" || fail "recovery did not help"
quietly "$SKIFF" recover "$work/once" --parent "$work/parent" "${usual[@]}" --lora 4 --lr 1e-2 --steps 20 -o "$work/adapted"
below "$(kl "$work/adapted")" "$(kl "$work/once")" || fail "recovery by adapters did not help"
for options in "--sparsity 2:4" "--sparsity 0.5 --prune-schedule stages --prune-stages 2 --prune-scope global" "--sparsity 0.5 --prune-scope tensor"; do
    quietly "$SKIFF" train "$work/parent" "${usual[@]}" --lr 1e-3 --steps 8 $options -o "$work/pruned" --force
    grep -q '"zeros": 0.5\b\|"zeros": 0.4999\|"zeros": 0.5000' "$work/pruned/skiff.json" || fail "$options: not half zeros: $(grep -A6 sparsity "$work/pruned/skiff.json")"
done

# ---- pruned children: trained under their masks, stored sparse, also as codes
# tensor MODEL NAME: its bytes in the weight file
tensor() {
    local header places
    header=$(od -An -t u8 -N 8 "$1/model.safetensors" | tr -d ' ')
    places=$(dd if="$1/model.safetensors" bs=1 skip=8 count="$header" 2>/dev/null | tr -d '\n' | sed -n "s/.*\"$2\": *{[^}]*\"data_offsets\": *\[ *\([0-9]*\) *, *\([0-9]*\) *\].*/\1 \2/p")
    [ -n "$places" ] || fail "$1 has no tensor $2"
    set -- "$1" $places
    tail -c +$((9 + header + $2)) "$1/model.safetensors" | head -c $(($3 - $2))
}
mask_of() { tensor "$1" model.layers.1.mlp.up_proj.weight_bitmask | cksum; }
within() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a < b * 1.02 + 2048) }'; }  # manifests apart, no more bytes
quietly "$SKIFF" quantize "$work/parent" -o "$work/rounded-w8" --scheme w8g32
for pattern in 50% 2:4; do
    quietly "$SKIFF" prune "$work/parent" -o "$work/sparse" --pattern $pattern --force
    quietly "$SKIFF" recover "$work/sparse" --parent "$work/parent" "${usual[@]}" --lr 3e-3 --steps 12 -o "$work/kept" --force
    grep -q "the zeros of 14 pruned tensors are kept" "$work/log" || fail "$pattern: zeros were not noticed: $(cat "$work/log")"
    [ "$(mask_of "$work/sparse")" = "$(mask_of "$work/kept")" ] || fail "$pattern: recovery changed the mask"
    within "$(bytes_of "$work/kept")" "$(bytes_of "$work/sparse")" || fail "$pattern: $(bytes_of "$work/kept") bytes recovered, $(bytes_of "$work/sparse") before"
    below "$(kl "$work/kept")" "$(kl "$work/sparse")" || fail "$pattern: recovery did not help: $(kl "$work/kept"), before $(kl "$work/sparse")"
    quietly "$SKIFF" qat "$work/kept" --teacher "$work/parent" --scheme w8g32 "${usual[@]}" --lr 1e-3 --steps 3 -o "$work/kept-w8" --force
    [ "$(mask_of "$work/sparse")" = "$(mask_of "$work/kept-w8")" ] || fail "$pattern: qat changed the mask"
    below "$(bytes_of "$work/kept-w8")" "$(bytes_of "$work/rounded-w8")" || fail "$pattern: codes take $(bytes_of "$work/kept-w8") bytes, without zeros $(bytes_of "$work/rounded-w8")"
    quietly "$SKIFF" quantize "$work/kept" --scheme w8g32 -o "$work/kept-rounded" --force
    [ "$(bytes_of "$work/kept-rounded")" = "$(bytes_of "$work/kept-w8")" ] && [ "$(mask_of "$work/kept-rounded")" = "$(mask_of "$work/sparse")" ] || fail "$pattern: quantize stores it otherwise than qat"
    for child in kept kept-w8 kept-rounded; do quietly "$SKIFF" run "$work/$child" --raw -p "The" -n 4; done
    said_in=stdout expect 0 "w8g32 of" "$SKIFF" inspect "$work/kept-w8"
done
expect 1 "no code for zero" "$SKIFF" qat "$work/kept" --scheme n4g32r "${usual[@]}" --steps 3 -o "$work/x"
expect 1 "first write the zeros out with skiff convert --to hf" "$SKIFF" qat "$work/kept" --scheme w4g32a "${usual[@]}" --steps 3 -o "$work/x"
expect 1 "inputs as codes are for dense codes" "$SKIFF" qat "$work/kept" --scheme w8 --activations dynamic-token "${usual[@]}" --steps 3 -o "$work/x"
expect 1 "is quantized already" "$SKIFF" qat "$work/kept-w8" --scheme w4g32 "${usual[@]}" --steps 3 -o "$work/x"
# Zeros that come in training are not written either, and are taken for what they are by the next step.
quietly "$SKIFF" qat "$work/parent" --scheme w8g32 --sparsity 0.6 --prune-schedule once "${usual[@]}" --steps 3 -o "$work/both"
below "$(bytes_of "$work/both")" "$(bytes_of "$work/rounded-w8")" || fail "60 % of zeros are written"
below "$(bytes_of "$work/ramp")" $(($(bytes_of "$work/parent") * 7 / 10)) || fail "60 % of zeros are written: $(bytes_of "$work/ramp") bytes"
expect 2 "--train scales their codes stay" "$SKIFF" qat "$work/parent" --scheme w4g32 --train scales --sparsity 0.5 "${usual[@]}" --steps 3 -o "$work/x"
expect 1 "no level for zero" "$SKIFF" qat "$work/parent" --scheme n4g32r --sparsity 0.5 "${usual[@]}" --steps 3 -o "$work/x"
# Masks of another model: which one decides whether an unfinished run goes on.
masked() { "$SKIFF" train "$work/parent" "${usual[@]}" --lr 1e-3 --steps "$2" --save-every 2 --sparsity 0.5 --mask-from "$work/$1" -o "$work/masked" "${@:3}"; }
masked trained-ternary 400 >"$work/log" 2>&1 &
pid=$!
for _ in $(seq 1 3000); do [ ! -e "$work/masked.partial/state.safetensors" ] && kill -0 $pid 2>/dev/null || break; sleep 0.01; done
kill -9 $(pgrep -P $pid) $pid 2>/dev/null || true
wait $pid 2>/dev/null || true
[ -e "$work/masked.partial/state.safetensors" ] || fail "no state of a run that was killed"
expect 2 "unfinished run with other options" masked once 400
rm -r "$work/masked.partial"

# ---- rounding to zero is not pruning
quietly "$SKIFF" quantize "$work/parent" -o "$work/w4" --scheme w4g32
quietly "$SKIFF" train "$work/w4" "${usual[@]}" --steps 3 -o "$work/from-w4"
if grep -q "zeros of" "$work/log"; then fail "what was rounded to zero was taken for pruned: $(cat "$work/log")"; fi

# ---- children of other shapes recover too
for how in "prune --pattern neurons:75%" "prune --pattern heads:1" "prune --pattern layers:1" "factorize --method svd --rank 8" "factorize --method sparse-low-rank --rank 4"; do
    set -- $how
    [[ "$how" != *neurons* && "$how" != *heads* ]] || set -- "$@" --importance l2 --compensation none
    [[ "$how" != *layers* && "$how" != *sparse* ]] || set -- "$@" --calibration "$work/other.txt" --calibration-samples 2 --calibration-tokens 64
    quietly "$SKIFF" "$1" "$work/parent" -o "$work/shaped" --force "${@:2}"
    quietly "$SKIFF" recover "$work/shaped" --parent "$work/parent" "${usual[@]}" --lr 1e-3 --steps 12 -o "$work/shaped-recovered" --force
    before=$(kl "$work/shaped") after=$(kl "$work/shaped-recovered")
    below "$after" "$before" || fail "$how: recovery did not help: KL $after, before $before"
    within "$(bytes_of "$work/shaped-recovered")" "$(bytes_of "$work/shaped")" || fail "$how: $(bytes_of "$work/shaped-recovered") bytes recovered, $(bytes_of "$work/shaped") before"
done

# ---- lottery tickets
quietly bash tools/lottery_ticket.sh -s "$SKIFF" -c "$work/config.json" -t "$work/tok" -d "$work/corpus.txt" -v "$work/other.txt" -o "$work/tickets" -r 2 -k 6 -n 20 -w 3 -f 5 -- --batch 16 -c 64 -t 1 --precision f32 --lr 3e-3
grep -q "^2," "$work/tickets/table.csv" || fail "no second round in: $(cat "$work/tickets/table.csv")"
grep -q '"zeros": 0.3[56]' "$work/tickets/2-ticket/skiff.json" || fail "two rounds of 20 % leave 64 %: $(grep -A6 sparsity "$work/tickets/2-ticket/skiff.json")"

# ---- what is refused
expect 2 "give the --scheme" "$SKIFF" qat "$work/parent" "${usual[@]}" -o "$work/x"
expect 2 "schemes with codes" "$SKIFF" qat "$work/parent" --scheme bf16 "${usual[@]}" -o "$work/x"
expect 1 "quantized already" "$SKIFF" qat "$work/trained-ternary" --scheme ternary "${usual[@]}" -o "$work/x"
expect 2 "leave --lora out" "$SKIFF" qat "$work/parent" --scheme ternary --lora 4 "${usual[@]}" -o "$work/x"
expect 2 "with --parent" "$SKIFF" recover "$work/once" "${usual[@]}" -o "$work/x"
expect 2 "--sparsity 1.5" "$SKIFF" train "$work/parent" --sparsity 1.5 "${usual[@]}" -o "$work/x"
expect 2 "--sparsity 4:2" "$SKIFF" train "$work/parent" --sparsity 4:2 "${usual[@]}" -o "$work/x"
expect 2 "--sparsity says how many" "$SKIFF" train "$work/parent" --mask-from "$work/once" "${usual[@]}" -o "$work/x"
[ ! -e "$work/x.partial" ] || fail "a refused run left its folder"
echo "qat: all as expected"
