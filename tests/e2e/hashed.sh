# skiff share --hash: weights whose blocks are those of a bank shrink, run, are quantized and gathered, written out for other programs, and stay shared in training.
# timeout: 600
. "$SKIFF_SOURCE_DIR/tests/e2e/program_testing.bash"
model=models/pocket
[ -f $model/model.safetensors ] || { echo "skipped: models/pocket is not here"; exit 77; }

quietly "$SKIFF" share $model --hash 4 -o "$work/four" -t 1
quietly "$SKIFF" share $model --hash 4 -o "$work/four2" -t 2
cmp "$work/four/model.safetensors" "$work/four2/model.safetensors" || fail "the result depends on the threads"
grep -q '"hash": 4' "$work/four/skiff.json" || fail "the manifest does not name the step"
# three quarters of the layers' 11 of 13 million weights are gone
below "$(bytes_of "$work/four")" $(($(bytes_of $model) * 5 / 10)) || fail "$(bytes_of "$work/four") bytes"
expect 0 "skiff recover HASHED --parent" "$SKIFF" share $model --hash 4 -o "$work/x" --dry-run
said_in=stdout expect 0 "BF16 hashed 1:4" "$SKIFF" inspect "$work/four"
said_in=stdout expect 0 "hashed           " "$SKIFF" inspect "$work/four"
gathers() { grep -q " avx2 " /proc/cpuinfo || return 0; "$SKIFF" inspect "$1" --plan >"$work/plan" || fail "inspect --plan of $1"; grep -q "_hash\|linear_bank" "$work/plan" || fail "no kernel of $1 gathers"; if grep -q "written out" "$work/plan"; then fail "the blocks of $1 are written out"; fi; }
gathers "$work/four"

# strength 0: each block has one of its own
quietly "$SKIFF" share $model --hash 1 -o "$work/one"
[ "$(text "$work/one")" = "$(text $model)" ] || fail "a bank with a block for each is another model"
quietly "$SKIFF" convert "$work/one" --to hf -o "$work/one_copy"
[ "$(hash_of "$work/one_copy")" = "$(hash_of $model)" ] || fail "written out it is not the parent"

# the blocks written out for whoever cannot share: the same text everywhere
quietly "$SKIFF" convert "$work/four" --to hf -o "$work/copy"
[ "$(bytes_of "$work/copy")" = "$(bytes_of $model)" ] || fail "the copy has another size than the parent"
[ "$(text "$work/four")" = "$(text "$work/copy")" ] || fail "the copy tells another text"
# the kernels that gather, against those of whole weights: bf16 in both
"$SKIFF" eval "$work/four" --against "$work/copy" --text $model/heldout.txt --max-windows 1 --json >"$work/against" || fail "eval against the copy"
awk -F: '/"mean_kl":/ { found = 1; if ($2 + 0 > 1e-6 || $2 + 0 < -1e-6) exit 1 } END { exit !found }' "$work/against" || { cat "$work/against"; fail "gathered blocks compute something else"; }
quietly "$SKIFF" convert "$work/four" --to gguf -o "$work/four.gguf"
[ "$(text "$work/four")" = "$(text "$work/four.gguf")" ] || fail "the GGUF file tells another text"
quietly "$SKIFF" convert "$work/four" --to coded -o "$work/coded"
[ "$(hash_of "$work/four")" = "$(hash_of "$work/coded")" ] || fail "coding changed it"

# the bank is rounded, and its blocks are gathered: no text of the plan says otherwise, and memory holds the bank alone
quietly "$SKIFF" quantize "$work/four" --scheme w8g32 -o "$work/w8"
said_in=stdout expect 0 "w8g32 hashed 1:4" "$SKIFF" inspect "$work/w8"
gathers "$work/w8"
quietly "$SKIFF" convert "$work/w8" --to hf --type F32 -o "$work/w8_copy"
[ "$(text "$work/w8")" = "$(text "$work/w8_copy")" ] || fail "the copy of the quantized model tells another text"
[ "$("$SKIFF" run "$work/w8" --raw -p "Once upon a time" -n 16 --temp 0 -q -t 1)" = "$("$SKIFF" run "$work/w8" --raw -p "Once upon a time" -n 16 --temp 0 -q -t 2)" ] || fail "the text depends on the threads"

expect 1 "rounded to nearest" "$SKIFF" quantize "$work/four" --scheme w4g32 --method gptq --calibration-samples 2 --calibration-tokens 64 -o "$work/x"
few="--calibration-samples 2 --calibration-tokens 64"
# shellcheck disable=SC2086
for transform in smooth awq; do expect 1 "leave --transform out" "$SKIFF" quantize "$work/four" --scheme bf16 --transform $transform $few -o "$work/x"; done
expect 1 "leave --compat out" "$SKIFF" quantize "$work/four" --scheme bf16 --compat -o "$work/x"
expect 1 "before hashing it" "$SKIFF" factorize "$work/four" --rank 8 -o "$work/x"
quietly "$SKIFF" share $model --hash 2 --tensors "*.mlp.*" -o "$work/mlp"
quietly "$SKIFF" quantize "$work/mlp" --scheme bf16 --scheme-for "*.mlp.*=w8g32" -o "$work/mlp8"
# shellcheck disable=SC2086
quietly "$SKIFF" quantize "$work/mlp8" --scheme w8 --scheme-for "*.mlp.*=keep" --correct scale,norm --allow-requantize $few -o "$work/mlp88"
[ -n "$(text "$work/mlp88")" ] || fail "a kept bank beside corrected weights does not run"
expect 1 "symmetric integers" "$SKIFF" quantize "$work/four" --scheme n4g32r -o "$work/x"
expect 1 "quantized already" "$SKIFF" quantize "$work/w8" --scheme w4g32 -o "$work/x"
expect 1 "hashed 1:4" "$SKIFF" share "$work/four" --hash 2 -o "$work/x"
expect 1 "hashed 1:4" "$SKIFF" prune "$work/four" --pattern neurons:25% -o "$work/x"
expect 2 "expected 1 to 256" "$SKIFF" share $model --hash 257 -o "$work/x"
expect 2 "no linear weight has such a name" "$SKIFF" share $model --hash 4 --tensors "*.mlp.*" --tensors "*.nothing" -o "$work/x"
expect 2 "belong to --hash" "$SKIFF" share $model --groups 5 --tensors "*.mlp.*" -o "$work/x"
expect 2 "share one after the other" "$SKIFF" share $model --groups 5 --hash 2 -o "$work/x"
expect 2 "share one after the other" "$SKIFF" share $model --hash 2 --choose measured -o "$work/x"
expect 2 "looks at no text" "$SKIFF" share $model --hash 2 --calibration-samples 3 -o "$work/x"

# what does not go together: a map and the config, a bank without its map, the default ladder
cp -r "$work/four" "$work/odd"
sed -i 's/"intermediate_size": *[0-9]*/"intermediate_size": 32/' "$work/odd/config.json"
expect 5 "where config.json says" "$SKIFF" quantize "$work/odd" --scheme w8g32 -o "$work/x"
cp "$work/four/config.json" "$work/odd/config.json"
LC_ALL=C sed -i 's/\.hash_map/.hash_mop/g' "$work/odd/model.safetensors"
expect 5 "says where each of its blocks goes" "$SKIFF" run "$work/odd" --raw -p x -n 1
expect 1 "take --ladder w2g32,w3g32,w4g32,w8g32" "$SKIFF" quantize "$work/four" --target-bpw 4 -o "$work/x"

# training keeps what is shared shared
if [ -x "$(dirname "$SKIFF")/skiff-train" ]; then
    quietly "$SKIFF" recover "$work/four" --parent $model --data $model/calib.txt --steps 2 --batch 2 --context 64 --warmup 1 -o "$work/recovered"
    [ "$(bytes_of "$work/recovered")" = "$(bytes_of "$work/four")" ] || fail "training changed the size"
    [ "$(hash_of "$work/recovered")" != "$(hash_of "$work/four")" ] || fail "training changed nothing"
    said_in=stdout expect 0 "BF16 hashed 1:4" "$SKIFF" inspect "$work/recovered"
    [ -n "$(text "$work/recovered")" ] || fail "the trained model does not run"
    quietly "$SKIFF" qat "$work/four" --teacher $model --data $model/calib.txt --scheme w8g32 --steps 2 --batch 2 --context 64 --warmup 1 -o "$work/qat"
    said_in=stdout expect 0 "w8g32 hashed 1:4" "$SKIFF" inspect "$work/qat"
    [ -n "$(text "$work/qat")" ] || fail "the model trained in 8 bits does not run"
    expect 1 "has hashed weights" "$SKIFF" recover "$work/four" --parent $model --data $model/calib.txt --steps 2 --batch 2 --context 64 --warmup 1 --lora 4 -o "$work/x"
fi
