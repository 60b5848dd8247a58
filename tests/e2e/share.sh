# skiff share: layers with one set of weights run, shrink, quantize by methods that look at the data, resume, and become copies for other programs.
# timeout: 600
. "$SKIFF_SOURCE_DIR/tests/e2e/program_testing.bash"
model=models/pocket
[ -f $model/model.safetensors ] || { echo "skipped: models/pocket is not here"; exit 77; }

quietly "$SKIFF" share $model --groups 5 --calibration-samples 2 --calibration-tokens 128 -o "$work/five" -t 1
quietly "$SKIFF" share $model --groups 5 --calibration-samples 2 --calibration-tokens 128 -o "$work/five2" -t 2
cmp "$work/five/model.safetensors" "$work/five2/model.safetensors" || fail "the result depends on the threads"
grep -q skiff_layer_weights "$work/five/config.json" || fail "config.json does not say what is shared"
grep -q '"kind": "share"' "$work/five/skiff.json" || fail "the manifest does not name the step"
grep -q 'share their weights: .*(KL of it alone [0-9.e-]*)' "$work/log" || fail "what was measured is not said: $(cat "$work/log")"
[ "$(grep -c '"tokens": 256' "$work/five/skiff.json")" = 2 ] || fail "the manifest does not say what text was measured on, and how much of it"
expect 0 "(5 sets of weights: layers " "$SKIFF" inspect "$work/five"
"$SKIFF" inspect "$work/five" --json | tr -d ' \n' | grep -qE '"layer_weights":\[0(,[0-9]){5}\]' || fail "inspect --json does not say which layers share"
# a sixth of the layers' 11 million weights is gone
below "$(bytes_of "$work/five")" $(($(bytes_of $model) * 9 / 10)) || fail "$(bytes_of "$work/five") bytes"

# copies for whoever cannot share: the same text everywhere
quietly "$SKIFF" convert "$work/five" --to hf -o "$work/copies"
if grep -q skiff_layer_weights "$work/copies/config.json"; then fail "the copies still say that they share"; fi
[ "$(bytes_of "$work/copies")" = "$(bytes_of $model)" ] || fail "the copies have another size than the parent"
quietly "$SKIFF" convert "$work/five" --to gguf -o "$work/five.gguf"
[ "$(text "$work/five")" = "$(text "$work/copies")" ] || fail "the copies tell another text"
[ "$(text "$work/five")" = "$(text "$work/five.gguf")" ] || fail "the GGUF file tells another text"
quietly "$SKIFF" convert "$work/five" --to coded -o "$work/coded"
[ "$(hash_of "$work/five")" = "$(hash_of "$work/coded")" ] || fail "coding changed it"

# nothing shared, nothing changed; equal layers share without loss
quietly "$SKIFF" share $model --groups 6 -o "$work/six"
[ "$(hash_of "$work/six")" = "$(hash_of $model)" ] || fail "six groups of six layers are another model"
quietly "$SKIFF" share "$work/copies" --groups 5 --choose similar --weights average -o "$work/again"
[ "$(hash_of "$work/again")" = "$(hash_of "$work/five")" ] || fail "layers that are equal were not found, or their mean is not what they are"

# methods that look at the data, and what no group may be
quietly "$SKIFF" quantize "$work/five" --scheme w4g32 --method gptq --calibration-samples 2 --calibration-tokens 64 -o "$work/gptq"
quietly "$SKIFF" quantize "$work/five" --scheme w4g32 --transform awq --calibration-samples 2 --calibration-tokens 64 -o "$work/awq"
quietly "$SKIFF" prune "$work/five" --method wanda --pattern 2:4 --calibration-samples 2 --calibration-tokens 64 -o "$work/sparse"
quietly "$SKIFF" factorize "$work/five" --remove 25% --calibration-samples 2 --calibration-tokens 64 -o "$work/thin"
for child in gptq awq sparse thin; do
    grep -q skiff_layer_weights "$work/$child/config.json" || fail "$child no longer shares"
    [ -n "$(text "$work/$child")" ] || fail "$child does not run"
done
quietly "$SKIFF" convert "$work/gptq" --to hf --type F32 -o "$work/gptq_copies"
[ "$(text "$work/gptq")" = "$(text "$work/gptq_copies")" ] || fail "the copies of the quantized model tell another text"
expect 1 "shares its weight" "$SKIFF" rotate "$work/five" -o "$work/x"
expect 1 "share their weights" "$SKIFF" prune "$work/five" --pattern neurons:25% -o "$work/x"
quietly "$SKIFF" convert $model --to gguf --type Q8_0 -o "$work/q8.gguf"
expect 1 "let layers share before" timeout 5 "$SKIFF" share "$work/q8.gguf" --groups 2 -o "$work/x"
expect 1 "share their weights already" "$SKIFF" share "$work/five" --groups 2 -o "$work/x"
expect 2 "expected 1 to 6" "$SKIFF" share $model --groups 7 -o "$work/x"
expect 2 "such as 0-1,2-5" "$SKIFF" share $model --layers 1-0 -o "$work/x"
expect 2 "--groups N" "$SKIFF" share $model -o "$work/x"

# what is measured for a key that several layers use is measured once: the same ranks and importances as of the copies
quietly "$SKIFF" factorize "$work/five" --method svd --energy 80% -o "$work/thin_shared"
quietly "$SKIFF" factorize "$work/copies" --method svd --energy 80% -o "$work/thin_copies"
[ "$(text "$work/thin_shared")" = "$(text "$work/thin_copies")" ] || fail "factors of the shared weights are others than of their copies"
quietly "$SKIFF" calibrate "$work/five" --calibration-samples 2 --calibration-tokens 64 --to-imatrix "$work/five.imatrix"
quietly "$SKIFF" calibrate "$work/copies" --calibration-samples 2 --calibration-tokens 64 --to-imatrix "$work/copies.imatrix"
cmp "$work/five.imatrix" "$work/copies.imatrix" || fail "importances differ from those of the copies"

# heads are rotated once, whatever number of layers uses them
quietly "$SKIFF" rotate "$work/five" --what heads -o "$work/turned"
[ "$(text "$work/five")" = "$(text "$work/turned")" ] || fail "rotated heads of shared layers tell another text"
expect 1 "use the same weights" "$SKIFF" quantize "$work/five" --scheme w8 --activations static-minmax --calibration-samples 2 --calibration-tokens 64 -o "$work/x"
expect 0 "learnt operator by operator" "$SKIFF" quantize "$work/five" --scheme w3g32r --method autoround --iterations 2 --calibration-samples 2 --calibration-tokens 64 -o "$work/learnt"
expect 2 "give one of them" "$SKIFF" share $model --groups 5 --layers 3-4 -o "$work/x"
expect 2 "names the groups already" "$SKIFF" share $model --layers 3-4 --choose even -o "$work/x"

# training keeps what is shared shared
if [ -x "$(dirname "$SKIFF")/skiff-train" ]; then
    quietly "$SKIFF" recover "$work/five" --parent $model --data $model/calib.txt --steps 2 --batch 2 --context 64 --warmup 1 -o "$work/recovered"
    grep -q skiff_layer_weights "$work/recovered/config.json" || fail "the trained model no longer shares"
    [ "$(bytes_of "$work/recovered")" = "$(bytes_of "$work/five")" ] || fail "training changed the size"
    [ "$(hash_of "$work/recovered")" != "$(hash_of "$work/five")" ] || fail "training changed nothing"
    [ -n "$(text "$work/recovered")" ] || fail "the trained model does not run"
fi
