#!/usr/bin/env bash
# A result does not take the place of the model that it is made from, nor of a folder around it, --force or not: weights, README and all else stay.
# timeout: 300
set -euo pipefail
. "$SKIFF_SOURCE_DIR/tests/e2e/program_testing.bash"
mkdir "$work/models"
cp -r tests/data/models/llama "$work/models/m"
cp -r "$work/models/m" "$work/models/other"
model=$work/models/m
echo "mine" > "$model/README.md"
ln -s models/m "$work/link"
printf 'steps:\n  - quantize: {scheme: bf16}\n  - quantize: {scheme: w8}\n' > "$work/two.yaml"
state() { (cd "$work/models" && find . -type f | sort | xargs sha256sum); }
before=$(state)
is="is the model that is read"
for verb in "quantize --scheme w8" "prune --pattern 50%" "factorize --method svd --rank 4" "share --layers 0-1" "rotate" "convert --to coded" "convert --to uncoded" "convert --to hf" "convert --to onnx" "compress --recipe $work/two.yaml"; do
    set -- $verb
    name=$1
    shift
    expect 2 "$is" "$SKIFF" $name "$model" "$@" -o "$model" --force
    expect 2 "$is" "$SKIFF" $name "$work/link" "$@" -o "$model/" --force
    expect 2 "holds $model" "$SKIFF" $name "$model" "$@" -o "$work/models" --force
done
if [ -x "$(dirname "$SKIFF")/skiff-train" ]; then
    expect 2 "$is" "$SKIFF" train "$model" --data README.md -o "$model" --force
    expect 2 "$is" "$SKIFF" recover "$model" --parent "$work/models/other" --data README.md -o "$work/models/other" --force
fi
[ "$before" = "$(state)" ] || fail "something of the source changed: $(state)"
[ -z "$(ls "$work" "$work/models" | grep -e partial -e steps)" ] || fail "left behind: $(ls "$work" "$work/models")"

cp examples/digits/digits.json "$work/net.json"
mkdir "$work/net" && mv "$work/net.json" "$work/net/"
expect 2 'holds ' "$SKIFF" prune "$work/net/net.json" --pattern filters:25% -o "$work/net" --force
expect 0 'wrote' "$SKIFF" prune "$work/net/net.json" --pattern filters:25% -o "$work/child" -t 1
expect 2 "$is" "$SKIFF" quantize "$work/child" --scheme w8g32 -o "$work/child" --force
expect 0 'wrote' "$SKIFF" quantize "$model" --scheme w8 -o "$model/w8"  # in it is beside it
echo ok
