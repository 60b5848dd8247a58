#!/bin/bash
# A model file that becomes shorter while it is mapped (S17): a message and exit code 5, not a crash.
set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$SKIFF_SOURCE_DIR"/models/pocket/{config.json,generation_config.json,model.safetensors,tokenizer.json,tokenizer_config.json} "$work"
# The prompt is read after the model was opened; the weights are read from the mapping when the prompt has come.
( sleep 2; truncate -s 9000 "$work/model.safetensors"; echo "Once upon a time" ) | "$SKIFF" run "$work" --raw -n 4 >"$work/out" 2>"$work/err"
rc=${PIPESTATUS[1]}
if [ "$rc" -ne 5 ] || ! grep -q "truncated while it was being read" "$work/err"; then
    echo "exit $rc instead of 5; stderr:"
    cat "$work/err"
    exit 1
fi
