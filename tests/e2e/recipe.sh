#!/usr/bin/env bash
# A recipe: its steps in order, what it leaves, how a stopped one goes on, and what the manifest says of the chain.
# timeout: 600
set -euo pipefail
. "$SKIFF_SOURCE_DIR/tests/e2e/program_testing.bash"
model=tests/data/models/llama

cat > "$work/two.yaml" <<YAML
steps:
  - quantize: {scheme: bf16}
  - quantize: {scheme: w8}
  - convert: {to: gguf, output: $work/child.gguf}
YAML
"$SKIFF" compress $model --recipe "$work/two.yaml" -o "$work/child" --dry-run > "$work/commands"
[ "$(wc -l < "$work/commands")" = 3 ] || fail "--dry-run: $(cat "$work/commands")"
[ ! -e "$work/child" ] && [ ! -e "$work/child.steps" ] || fail "--dry-run left something"

# The second step cannot begin where its output is a file: the first one's result waits for the next try, which does not do it again.
touch "$work/child.partial"
rc=0; "$SKIFF" compress $model --recipe "$work/two.yaml" -o "$work/child" > "$work/log" 2>&1 || rc=$?
[ $rc != 0 ] || fail "a step that failed went unnoticed"
grep -q 'step 2 (line 3 of the recipe)' "$work/log" || fail "no place in: $(cat "$work/log")"
[ -d "$work/child.steps/1-quantize" ] || fail "the first step's result is gone"
rc=0; sed 's/bf16/fp16/' "$work/two.yaml" > "$work/other.yaml"; "$SKIFF" compress $model --recipe "$work/other.yaml" -o "$work/child" > "$work/log" 2>&1 || rc=$?
[ $rc = 2 ] && grep -q 'unfinished run of another recipe' "$work/log" || fail "another recipe went on with it: $(cat "$work/log")"
# A step that was complete but killed before it was noted is made anew.
cp -r "$work/child.steps" "$work/noted.steps"
rm "$work/noted.steps/done.json"
"$SKIFF" compress $model --recipe "$work/two.yaml" -o "$work/noted" > "$work/log" 2>&1 || fail "a complete step stands in the way: $(cat "$work/log")"
rm -r "$work/noted" "$work/child.gguf"
rm "$work/child.partial"
"$SKIFF" compress $model --recipe "$work/two.yaml" -o "$work/child" > "$work/log" 2>&1 || fail "$(cat "$work/log")"
grep -q 'step 1 of 3 was done' "$work/log" || fail "the first step was done again"
[ ! -e "$work/child.steps" ] && [ -f "$work/child.gguf" ] || fail "what is left: $(ls "$work")"
grep -q '"origin"' "$work/child/skiff.json" && grep -q '"bf16"' "$work/child/skiff.json" || fail "the manifest does not know the first step"

# The same bytes as the two verbs by hand.
"$SKIFF" quantize $model -o "$work/a" --scheme bf16 > /dev/null 2>&1
"$SKIFF" quantize "$work/a" -o "$work/b" --scheme w8 > /dev/null 2>&1
cmp "$work/b/model.safetensors" "$work/child/model.safetensors" || fail "the recipe gave other weights"
rc=0; "$SKIFF" compress $model --recipe "$work/two.yaml" -o "$work/child" > "$work/log" 2>&1 || rc=$?
[ $rc = 2 ] && grep -q 'already exists' "$work/log" || fail "an output that exists: $(cat "$work/log")"

# Any order: codes are written out as plain numbers between quantizing and pruning, and the manifest tells the whole way.
cat > "$work/order.yaml" <<YAML
steps:
  - quantize: {scheme: w8g32}
  - convert: {to: hf, type: F32}
  - prune: {pattern: "neurons:25%", importance: l2, compensation: none}
  - prune: {pattern: "50%", scheme: w8g32}
YAML
"$SKIFF" compress $model --recipe "$work/order.yaml" -o "$work/order" > "$work/log" 2>&1 || fail "$(cat "$work/log")"
[ "$(grep -oE '"kind": "(quantize|convert|structure|prune)"' "$work/order/skiff.json" | sed 's/.*: //' | tr '\n' ' ')" = '"quantize" "convert" "structure" "prune" ' ] || fail "another way: $(grep kind "$work/order/skiff.json")"
"$SKIFF" inspect "$work/order" | grep -q "w8.* of single weights" || fail "not pruned: $("$SKIFF" inspect "$work/order")"
sed '/convert/d' "$work/order.yaml" > "$work/direct.yaml"
rc=0; "$SKIFF" compress $model --recipe "$work/direct.yaml" -o "$work/direct" > "$work/log" 2>&1 || rc=$?
[ $rc = 1 ] && grep -q 'is quantized.*convert: {to: hf}' "$work/log" || fail "no reason and no way out in: $(tail -5 "$work/log")"

# Every recipe of the examples: on a smaller model and less text, so that it is fast. What each leaves runs here, and in GGUF.
student=models/pocket-student
for recipe in examples/recipes/*.yaml; do
    name=$(basename "$recipe" .yaml)
    sed -E -e 's/calibration-samples: [0-9]+(, calibration-tokens: [0-9]+)?/calibration-samples: 2, calibration-tokens: 96/' -e 's/max-windows: [0-9]+/max-windows: 1/' -e "s#out/guide-#$work/guide-#" "$recipe" > "$work/small.yaml"
    quietly "$SKIFF" compress $student --recipe "$work/small.yaml" -o "$work/$name"
    exported=$(ls "$work"/guide-*.gguf)
    quietly "$SKIFF" eval "$exported" --text models/pocket/heldout.txt --max-windows 1
    rm "$exported"
    steps=$(grep -cE '^ *- (prune|quantize)' "$recipe")
    [ "$(grep -cE '"kind": "(prune|structure|quantize)"' "$work/$name/skiff.json")" = "$steps" ] || fail "$name: the manifest has other steps: $(grep '"kind"' "$work/$name/skiff.json")"
done

# What each step cost and gained is in the manifest, with what the eval behind the last one found.
grep -q '"kind": "recipe"' "$work/pocket-sparse/skiff.json" || fail "no evidence of the recipe"
[ "$(grep -c '"seconds"' "$work/pocket-sparse/skiff.json")" = 2 ] || fail "seconds of other steps than two: $(grep '"seconds"' "$work/pocket-sparse/skiff.json")"
quietly "$SKIFF" report "$work/pocket-sparse" --against $student --text models/pocket/heldout.txt --max-windows 1 --no-speed -o "$work/page"
grep -q "What each step cost and gained: pocket-sparse" "$work/page/report.html" || fail "the page does not show the steps"
grep -Eq '^\| quantize gptq w4g32 \+ scale \|( [0-9.]+ %? ?\|){3} [0-9.]+ ± [0-9.]+ \| [0-9.]+ ± [0-9.]+ \|' "$work/page/report.md" || fail "no figures of the second step: $(cat "$work/page/report.md")"

# Prune, quantize, export: pruned still after it was rounded, with fewer bytes than dense codes take; GGUF says why not, and --densify is the way out.
quietly "$SKIFF" quantize $student --scheme w4g32 -o "$work/dense4"
[ "$(bytes_of "$work/pocket-sparse")" -lt "$(bytes_of "$work/dense4")" ] || fail "sparse codes take as many bytes as dense ones"
"$SKIFF" inspect "$work/pocket-sparse" > "$work/log"
grep -q "w4g32 of single weights" "$work/log" || fail "not pruned any more: $(cat "$work/log")"
sed -E -e 's/calibration-samples: [0-9]+(, calibration-tokens: [0-9]+)?/calibration-samples: 1, calibration-tokens: 64/' -e 's/max-windows: [0-9]+/max-windows: 1/' -e "s#out/guide-#$work/guide-#" -e 's/, densify: true//' examples/recipes/pocket-sparse.yaml > "$work/refused.yaml"
rc=0; "$SKIFF" compress $student --recipe "$work/refused.yaml" -o "$work/refused" > "$work/log" 2>&1 || rc=$?
[ $rc = 1 ] && grep -q 'is pruned.*--densify' "$work/log" || fail "no reason and no way out in: $(tail -5 "$work/log")"
echo ok
