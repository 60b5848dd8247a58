#!/usr/bin/env bash
# What would be looked past is refused: texts that nothing reads, options of other kinds, models of which a part is quantized, files that exist.
# timeout: 600
set -euo pipefail
. "$SKIFF_SOURCE_DIR/tests/e2e/program_testing.bash"
model=tests/data/models/llama
reader=models/pocket-student  # which has a tokenizer
x="$work/x"
nowhere="$work/nowhere.txt"

# An option about the text, where no text is read; with what reads one it is looked at: this model has no tokenizer to read a file with.
for verb in "prune --pattern 50%" "prune --pattern 2:4 --scheme w8g32" "prune --pattern 50% --allocation global" "prune --pattern neurons:25% --importance leading" "prune --pattern neurons:25% --importance l2 --compensation none" \
    "prune --pattern layers:1 --importance elastic-order" "prune --pattern neurons:0% --importance l2 --sort" "quantize --scheme w4g32" "quantize --scheme w4g32 --method hqq" "quantize --scheme w8 --outliers 0.5%" "factorize --method svd" \
    "factorize --method svd --energy 80%" "share --layers 0-1" "share --groups 1 --choose even" "share --groups 1 --choose similar"; do
    for option in "--calibration $nowhere" "--calibration-samples 4" "--calibration-tokens 64"; do
        set -- $verb $option
        expect 2 "${option%% *}: " "$SKIFF" $1 $model "${@:2}" -o "$x" -t 1
    done
done
for verb in "prune --pattern 50% --method wanda" "prune --pattern 50% --allocation owl" "prune --pattern neurons:25%" "prune --pattern neurons:25% --importance l2 --compensation none --spread sensitivity" "prune --pattern layers:1" \
    "prune --pattern hidden:25%" "quantize --scheme w4g32 --method gptq" "quantize --scheme w4g32 --correct norm" "quantize --scheme w4g32 --transform awq" "quantize --scheme w8 --activations static-mse" "quantize --target-bpw 6 --ladder w4g32,w8 --measurements $work/measured" \
    "factorize" "factorize --method svd --budget 25% --multiple 1" "factorize --method sparse-low-rank" "share --groups 1"; do
    set -- $verb
    expect 3 "no tokenizer in" "$SKIFF" $1 $model "${@:2}" --calibration "$nowhere" -o "$x" -t 1
done
expect 2 "these do: wanda" "$SKIFF" prune $model --pattern 50% --calibration "$nowhere" -o "$x"
expect 2 "--importance apoz does" "$SKIFF" prune $model --pattern neurons:25% --zero-epsilon 0.1 -o "$x"
expect 2 "does not concern the pattern 50%" "$SKIFF" prune $model --pattern 50% --zero-epsilon 0.1 -o "$x"
expect 2 "does not concern the pattern neurons:25%" "$SKIFF" prune $model --pattern neurons:25% --correct bias -o "$x"
expect 2 "here there are scale and bias" "$SKIFF" prune $model --pattern 50% --correct norm -o "$x"
expect 2 "cannot be compared by its scores" "$SKIFF" prune $model --pattern 50% --method sparsegpt --allocation global -o "$x"
expect 2 "sparsegpt does" "$SKIFF" prune $model --pattern 50% --damping 0.1 -o "$x"

# Patterns, and how they are counted.
for pattern in fifty filters:25%; do
    for each in 50% 2:4 neurons:25% heads:2 kv_groups:1 layers:2 hidden:10% "networks of convolutions alone: filters:25%"; do expect 2 "$each" "$SKIFF" prune $model --pattern $pattern -o "$x"; done
done
expect 2 "give --importance" "$SKIFF" prune $model --pattern neurons:25% --method wanda -o "$x"
expect 2 "give --method" "$SKIFF" prune $model --pattern 50% --importance l2 -o "$x"
expect 2 "each KV group has 2 query heads, of which at most 1 can go" "$SKIFF" prune $model --pattern heads:2 -o "$x"

# What is done while a model is loaded is done to all of it.
quietly "$SKIFF" quantize $model --scheme w8 --scheme-for 'model.layers.0.*=keep' -o "$work/later" -t 1
expect 2 "--scheme is for plain weights, and model.layers.1." "$SKIFF" bench "$work/later" --scheme w4g32 -p 0 -n 1 -r 1 -t 1 --pack-cache off
expect 2 "--prune is for plain weights, and model.layers.1." "$SKIFF" bench "$work/later" --prune 50% -p 0 -n 1 -r 1 -t 1 --pack-cache off
expect 2 "--scheme is for plain weights" "$SKIFF" bench "$work/later" --scheme w4g32 -p 0 -n 1 -r 1 -t 1 --pack-cache off
expect 2 "--weight-pages is of the weights that the processor reads" "$SKIFF" bench $model --device cuda --weight-pages huge -p 0 -n 1 -r 1
expect 0 "w4g32" "$SKIFF" bench $model --scheme w4g32 -p 0 -n 1 -r 1 -t 1 --pack-cache off

# Errors name a tensor once.
expect 1 "is quantized (w8)" "$SKIFF" rotate "$work/later" -o "$x"
[ "$(grep -o '\.weight' "$work/stderr" | wc -l)" = 1 ] || fail "named twice: $(cat "$work/stderr")"

# An importance matrix of nothing is an error, and takes no file's place unasked.
quietly "$SKIFF" factorize $reader --method svd --rank 4 -o "$work/thin" -t 1
expect 2 "products of factors" "$SKIFF" calibrate "$work/thin" --to-imatrix "$work/nothing.imatrix" --calibration-samples 1 --calibration-tokens 64 -t 1
[ ! -e "$work/nothing.imatrix" ] || fail "an empty importance matrix was written"
quietly "$SKIFF" calibrate $reader --to-imatrix "$work/m.imatrix" --calibration-samples 1 --calibration-tokens 64 -t 1
before=$(sha256sum "$work/m.imatrix")
expect 2 "already exists" "$SKIFF" calibrate $reader --to-imatrix "$work/m.imatrix" --calibration-samples 2 --calibration-tokens 64 -t 1
[ "$before" = "$(sha256sum "$work/m.imatrix")" ] || fail "the file changed"
quietly "$SKIFF" calibrate $reader --to-imatrix "$work/m.imatrix" --calibration-samples 2 --calibration-tokens 64 -t 1 --force
[ "$before" != "$(sha256sum "$work/m.imatrix")" ] || fail "--force did not replace the file"
quietly "$SKIFF" quantize $reader --scheme w4g32 --method weighted --importance "$work/m.imatrix" -o "$work/weighted" -t 1
if grep -q "KL of it alone" "$work/log"; then fail "a table of parts without parts: $(cat "$work/log")"; fi
expect 2 "is a folder" "$SKIFF" calibrate $reader --to-imatrix "$work" --force

# What a result is is told: numbers that are stored, more bytes than before, nothing shared.
expect 0 "of them stored" "$SKIFF" prune $model --pattern 50% -o "$work/half" -t 1
# what is pruned is not called quantized
for verb in "rotate" "prune --pattern 50%" "prune --pattern neurons:25% --importance l2 --compensation none" "factorize --method svd" "share --layers 0-1" "quantize --scheme w8 --compat"; do
    set -- $verb
    expect 1 "is pruned (" "$SKIFF" $1 "$work/half" "${@:2}" -o "$x" -t 1
done
expect 0 "takes more bytes than the model does" "$SKIFF" prune $model --pattern 1% -o "$work/one" -t 1
expect 0 "of them stored" "$SKIFF" factorize $reader --method sparse-low-rank --rank 2 --calibration-samples 1 --calibration-tokens 64 -o "$work/both" -t 1
expect 0 "every layer keeps weights of its own" "$SKIFF" share $model --groups 2 -o "$work/two" -t 1
parameters() { "$SKIFF" inspect "$1" --json | sed -n 's/.*"parameters": *\([0-9]*\).*/\1/p' | head -1; }
grep -q "\"elements\": $(parameters "$work/both")" "$work/both/skiff.json" || fail "the manifest counts other parameters than inspect: $(parameters "$work/both")"
[ ! -e "$x" ] && [ ! -e "$x.partial" ] || fail "an error left something behind"
echo "all refused as expected"
