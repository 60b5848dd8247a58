# Entropy coded weight files: smaller, the same model to the bit, opened by every verb; back again byte for byte; damage is said.
. "$SKIFF_SOURCE_DIR/tests/e2e/program_testing.bash"
model=models/pocket
[ -f $model/model.safetensors ] || { echo "skipped: models/pocket is not here"; exit 77; }

quietly "$SKIFF" quantize $model --scheme w4g32 -o "$work/w4"
quietly "$SKIFF" prune $model --pattern 2:4 --scheme w8 -o "$work/sparse"
for plain in $model "$work/w4" "$work/sparse"; do
    coded="$work/coded"
    quietly "$SKIFF" convert "$plain" --to coded -o "$coded" --force
    below "$(bytes_of "$coded")" "$(bytes_of "$plain")" || fail "$plain did not become smaller"
    [ -n "$(hash_of "$plain")" ] && [ "$(hash_of "$plain")" = "$(hash_of "$coded")" ] || fail "$plain: other numbers"
    [ "$(text "$plain")" = "$(text "$coded")" ] || fail "$plain: another text"
    quietly "$SKIFF" convert "$coded" --to uncoded -o "$work/again" --force
    for file in model.safetensors config.json; do cmp "$plain/$file" "$work/again/$file" || fail "$plain: $file is not what it was"; done
done
cmp "$work/sparse/skiff.json" "$work/coded/skiff.json" || fail "the manifest changed"

quietly "$SKIFF" convert $model --to coded -o "$work/pocket"
# bf16: sign and mantissa are 8 bits of noise, an exponent has about 2.6 bits
awk -v a="$(bytes_of "$work/pocket")" -v b="$(bytes_of $model)" 'BEGIN { exit !(a < 0.68 * b && a > 0.62 * b) }' || fail "$(bytes_of "$work/pocket") bytes"
expect 0 "entropy coded" "$SKIFF" inspect "$work/pocket"
quietly "$SKIFF" quantize "$work/pocket" --scheme w4g32 -o "$work/w4_of_coded"
cmp "$work/w4/model.safetensors" "$work/w4_of_coded/model.safetensors" || fail "quantizing the coded model gives other bytes"
quietly "$SKIFF" convert "$work/pocket" --to gguf -o "$work/coded.gguf"
quietly "$SKIFF" convert $model --to gguf -o "$work/plain.gguf"
[ "$(hash_of "$work/coded.gguf")" = "$(hash_of "$work/plain.gguf")" ] || fail "another GGUF"
expect 0 perplexity "$SKIFF" eval "$work/pocket" --text $model/heldout.txt --max-windows 2
"$SKIFF" convert $model --to coded -o "$work/nothing" --dry-run --json | grep -q '"stored_bytes"' || fail "a dry run says nothing"
[ ! -e "$work/nothing" ] || fail "a dry run wrote"

# what cannot be
expect 2 "only the weight files of a model folder" "$SKIFF" convert "$work/plain.gguf" --to coded -o "$work/x"
expect 2 "no number changes" "$SKIFF" convert $model --to coded --type F16 -o "$work/x"
cp -r "$work/pocket" "$work/damaged"
printf '\377\377\377\377' | dd of="$work/damaged/model.safetensors" bs=1 seek=$(($(bytes_of "$work/pocket") / 2)) conv=notrunc status=none
expect 5 "is damaged" "$SKIFF" run "$work/damaged" -p x -n 1
said_in=stderr expect 5 "1 of " "$SKIFF" inspect "$work/damaged" --tensors
said_in=stdout expect 5 "damaged: tensor " "$SKIFF" inspect "$work/damaged" --tensors
grep -q "model.norm.weight" "$work/stdout" || fail "inspect stops at the damaged tensor"
