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
echo ok
