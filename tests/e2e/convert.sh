# skiff convert as its users meet it: files appear whole or not at all, what exists is kept, and the text stays the same.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
model="$SKIFF_SOURCE_DIR/models/pocket"
[ -f "$model/model.safetensors" ] || { echo "models/pocket is not here"; exit 77; }

text() { "$SKIFF" run "$1" --raw -p "Once upon a time" -n 24 --temp 0 -q --kernels reference; }
fail() { echo "$1"; exit 1; }

"$SKIFF" convert "$model" --to gguf -o "$work/m.gguf" > "$work/out"
grep -q "BF16" "$work/out" || fail "no table of types"
[ "$(text "$model")" = "$(text "$work/m.gguf")" ] || fail "the GGUF file continues differently"

# an output that exists
before=$(sha256sum < "$work/m.gguf")
if "$SKIFF" convert "$model" --to gguf -o "$work/m.gguf" 2> "$work/err"; then fail "an existing file was replaced"; fi
grep -q -- "--force" "$work/err" || fail "no word of --force: $(cat "$work/err")"
[ "$before" = "$(sha256sum < "$work/m.gguf")" ] || fail "the existing file was touched"
"$SKIFF" convert "$model" --to gguf -o "$work/m.gguf" --force > /dev/null
[ "$before" = "$(sha256sum < "$work/m.gguf")" ] || fail "the same conversion gives other bytes"

# a dry run writes nothing; --json has the figures
"$SKIFF" convert "$model" --to gguf --type Q4_K --dry-run --json > "$work/dry.json"
grep -q '"Q4_K"' "$work/dry.json" && grep -q '"Q6_K"' "$work/dry.json" || fail "types of Q4_K: $(cat "$work/dry.json")"
[ "$(ls "$work" | grep -c gguf)" = 1 ] || fail "a dry run left files"

# GGUF to GGUF keeps blocks and tokenizer; GGUF to a folder and back keeps the numbers
"$SKIFF" convert "$work/m.gguf" --to gguf --type Q8_0 -o "$work/q8.gguf" > /dev/null
"$SKIFF" convert "$work/q8.gguf" --to gguf -o "$work/again.gguf" > /dev/null
[ "$(text "$work/q8.gguf")" = "$(text "$work/again.gguf")" ] || fail "copying blocks changed them"
"$SKIFF" convert "$work/m.gguf" --to hf -o "$work/folder" > /dev/null
[ -f "$work/folder/config.json" ] && [ -f "$work/folder/model.safetensors" ] || fail "no folder"
cp "$model/tokenizer.json" "$work/folder/"
[ "$(text "$model")" = "$(text "$work/folder")" ] || fail "the folder continues differently"

# any shape, one tensor at a time
"$SKIFF" convert "random:$model/config.json" --to gguf --type Q4_0 -o "$work/random.gguf" > "$work/out"
grep -q "no tokenizer" "$work/out" || fail "no word of the missing tokenizer"
grep -aq "tokenizer.ggml.model.*no_vocab" "$work/random.gguf" || fail "other programs refuse a file that does not say so"
"$SKIFF" inspect "$work/random.gguf" > /dev/null

# ONNX: a folder, whole or not at all, the same bytes each time
"$SKIFF" convert "$model" --to onnx -o "$work/onnx" --json > "$work/onnx.json"
[ -s "$work/onnx/model.onnx" ] && [ -s "$work/onnx/model.onnx.data" ] && [ -s "$work/onnx/tokenizer.json" ] && [ -s "$work/onnx/config.json" ] || fail "files of $(ls "$work/onnx")"
before=$(cat "$work/onnx/model.onnx" "$work/onnx/model.onnx.data" | sha256sum)
if "$SKIFF" convert "$model" --to onnx -o "$work/onnx" 2> "$work/err"; then fail "an existing folder was replaced"; fi
"$SKIFF" convert "$model" --to onnx -o "$work/onnx" --force > /dev/null
[ "$before" = "$(cat "$work/onnx/model.onnx" "$work/onnx/model.onnx.data" | sha256sum)" ] || fail "the same conversion gives other bytes"
"$SKIFF" quantize "$model" --scheme nf4 -o "$work/nf4" > /dev/null
if "$SKIFF" convert "$work/nf4" --to onnx -o "$work/x" 2> "$work/err"; then fail "nf4 became integers"; fi
grep -q -- "q_proj.weight (nf4g64).*--densify" "$work/err" || fail "what cannot be said: $(cat "$work/err")"
"$SKIFF" convert "$work/nf4" --to onnx --densify --dry-run > "$work/out"
grep -q "F32 .*42" "$work/out" || fail "densify: $(cat "$work/out")"

# what cannot be done is said, and nothing is left behind
for arguments in "--type Q9_9 -o $work/x.gguf" "--to hf --type Q4_0 -o $work/x" "--to gguf" "--to onnx --type BF16 -o $work/x" "--to hf --densify -o $work/x" \
    "--to onnx --head-type F32 -o $work/x" "--to onnx --activations int8 -o $work/x" "--to onnx --context -1 -o $work/x"; do
    if "$SKIFF" convert "$model" $arguments > /dev/null 2> "$work/err"; then fail "accepted: $arguments"; fi
done
[ ! -e "$work/x.gguf" ] && [ ! -e "$work/x" ] && [ ! -e "$work/x.partial" ] || fail "left-overs: $(ls "$work")"

# the shared file prints what another program printed
stories="$SKIFF_SHARED_DIR/models/stories260K.gguf"
if [ -f "$stories" ]; then
    expected=$(head -c 480 "$SKIFF_SHARED_DIR/models/stories260K.expected_greedy.txt" | head -n 3)
    found=$("$SKIFF" run "$stories" -p "" -n 200 --temp 0 --raw -q | head -n 3)
    [ "$expected" = "$found" ] || fail "stories260K.gguf tells another story"
fi

# quantized forms of other programs: the same codes, zeros and scales, and what a form has no words for is said
"$SKIFF" quantize "$model" --scheme w4g32a --head keep --embedding keep -o "$work/w4" > /dev/null 2>&1
"$SKIFF" quantize "$model" --scheme w8 --compat -o "$work/w8" > /dev/null 2>&1
"$SKIFF" quantize "$model" --scheme w4g32r --head keep --embedding keep -o "$work/w4r" > /dev/null 2>&1
"$SKIFF" convert "$work/w4" --to onnx --form float --dry-run > "$work/out"
grep -q "^F32 .*43" "$work/out" || fail "float: $(cat "$work/out")"
values() { "$SKIFF" inspect "$1" --hash | grep hash; }
for form in gptq awq; do
    "$SKIFF" convert "$work/w4" --to $form -o "$work/$form" > "$work/out"
    grep -q "w4g32a" "$work/out" || fail "no table of schemes: $(cat "$work/out")"
    [ "$(values "$work/w4")" = "$(values "$work/$form")" ] || fail "$form holds other numbers"
done
grep -q gptq_v2 "$work/gptq/quantize_config.json" || fail "zeros need the second form"
"$SKIFF" convert "$work/gptq" --to awq -o "$work/again" > /dev/null
cmp "$work/awq/model.safetensors" "$work/again/model.safetensors" || fail "GPTQ to AWQ changed numbers"
"$SKIFF" convert "$work/w8" --to gptq -o "$work/gptq8" > /dev/null
[ "$(text "$work/w8")" = "$(text "$work/gptq8")" ] || fail "8 bits continue differently"
for arguments in "$work/w8 --to awq" "$work/w4r --to gptq" "$model --to gptq" "$work/w4 --to gptq --type F16"; do
    if "$SKIFF" convert $arguments -o "$work/x" > /dev/null 2> "$work/err"; then fail "accepted: $arguments"; fi
    grep -q -- "--scheme\|--type" "$work/err" || fail "no way out in: $(cat "$work/err")"
done
[ ! -e "$work/x" ] || fail "left-overs"

# pruned weights: GGUF has no form for them, and with --densify their zeros are written out, numbers stay; what is a product of matrices has no plain form
"$SKIFF" prune "$model" --pattern 50% -o "$work/sparse" > /dev/null
if "$SKIFF" convert "$work/sparse" --to gguf -o "$work/x.gguf" 2> "$work/err"; then fail "zeros were written out without being asked to"; fi
grep -q "is pruned.*--densify" "$work/err" || fail "no reason in: $(cat "$work/err")"
"$SKIFF" convert "$work/sparse" --to gguf --densify -o "$work/sparse.gguf" > "$work/out"
grep -q "zeros of .* pruned weights are written out" "$work/out" || fail "no word of zeros: $(cat "$work/out")"
"$SKIFF" convert "$work/sparse" --to hf -o "$work/sparse_hf" > "$work/out"
[ "$(text "$work/sparse")" = "$(text "$work/sparse.gguf")" ] || fail "the GGUF file of the pruned model continues differently"
[ "$(text "$work/sparse")" = "$(text "$work/sparse_hf")" ] || fail "the folder of the pruned model continues differently"
"$SKIFF" factorize "$model" --method svd --rank 64 -o "$work/thin" > /dev/null
if "$SKIFF" convert "$work/thin" --to hf -o "$work/x" 2> "$work/err"; then fail "factors were called plain weights"; fi
grep -q "product" "$work/err" || fail "no reason in: $(cat "$work/err")"
if "$SKIFF" convert "$work/thin" --to gguf -o "$work/x.gguf" 2> "$work/err"; then fail "factors were called one matrix"; fi
grep -q "product.*--densify" "$work/err" || fail "no reason in: $(cat "$work/err")"
"$SKIFF" convert "$work/thin" --to gguf --type F32 --densify -o "$work/thin.gguf" > "$work/out"
grep -q "of matrices are written out" "$work/out" || fail "no word of products: $(cat "$work/out")"
"$SKIFF" run "$work/thin.gguf" -p "Once" -n 4 --temp 0 > /dev/null || fail "the dense form of factors does not run"
if "$SKIFF" bench "$work/w4" --scheme w8 -p 0 -n 1 -r 1 2> "$work/err"; then fail "a scheme was accepted that changes nothing"; fi
grep -q "w4g32" "$work/err" || fail "no scheme named in: $(cat "$work/err")"
if "$SKIFF" quantize "$work/sparse" --scheme w4g32a -o "$work/x" 2> "$work/err"; then fail "pruned weights became codes without a zero"; fi
grep -q "is pruned" "$work/err" || fail "not called pruned: $(cat "$work/err")"
# pruned, then rounded: pruned still, and in GGUF as few bits as its codes have
"$SKIFF" quantize "$work/sparse" --scheme w4g32 --head keep --embedding keep -o "$work/sparse4" > "$work/out"
grep -q "w4g32 of single weights" "$work/out" || fail "not pruned any more: $(cat "$work/out")"
"$SKIFF" convert "$work/sparse4" --to gguf --densify -o "$work/sparse4.gguf" > "$work/out"
grep -q "Q4_0" "$work/out" || fail "no 4 bit blocks: $(cat "$work/out")"
[ "$(text "$work/sparse4")" = "$(text "$work/sparse4.gguf")" ] || fail "the GGUF file of the pruned and rounded model continues differently"
[ ! -e "$work/x" ] || fail "left-overs"
