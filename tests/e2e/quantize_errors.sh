#!/usr/bin/env bash
# What quantize refuses, with which exit code and words; and that a failure leaves the old output as it was.
set -euo pipefail
. "$SKIFF_SOURCE_DIR/tests/e2e/program_testing.bash"
model=models/pocket
said_in=stderr
sums() { (cd "$1" && find . -type f | sort | xargs sha256sum); }

expect 2 'no scheme is called "w9"' "$SKIFF" quantize $model -o "$work/a" --scheme w9
expect 2 'give the folder to write with -o' "$SKIFF" quantize $model
expect 3 'no such folder or file' "$SKIFF" quantize "$work/nowhere" -o "$work/a"
expect 2 'in this model they are one tensor' "$SKIFF" quantize $model -o "$work/a" --head w8 --embedding w4g32
expect 2 'belong to --target-mb or --target-bpw' "$SKIFF" quantize $model -o "$work/a" --scheme w8 --ladder w4g32,w8
expect 2 '--scheme and a target: give one of them' "$SKIFF" quantize $model -o "$work/a" --scheme w8 --target-mb 5
expect 2 '--target-mb and --target-bpw: give one of them' "$SKIFF" quantize $model -o "$work/a" --target-bpw 4 --target-mb 5
expect 2 'is no PATTERN=SCHEME' "$SKIFF" quantize $model -o "$work/a" --scheme w8 --scheme-for w4g32
expect 2 'no tensor has its scheme from "*.nothing"' "$SKIFF" quantize $model -o "$work/a" --scheme w8 --scheme-for '*.nothing=w4g32'
expect 2 'the target is too small: with n2g16t throughout' "$SKIFF" quantize $model -o "$work/a" --target-mb 1
expect 2 'expected 0 to 1024' "$SKIFF" quantize $model -o "$work/a" -t 5000
expect 2 'stay as they are' "$SKIFF" quantize tests/data/models/gpt2 -o "$work/a" --scheme w8 --compat
echo "three short words" > "$work/short.txt"
expect 2 'are needed to say anything' "$SKIFF" quantize $model -o "$work/a" --scheme w4g32 --method gptq --calibration "$work/short.txt"
expect 2 'expected scale, norm, bias' "$SKIFF" quantize $model -o "$work/a" --scheme w4g32 --correct gains
expect 2 'fixed scales are for symmetric integers of 8 bits' "$SKIFF" quantize $model -o "$work/a" --scheme w4g32 --activations static-mse
expect 2 'expected more than 0 and at most 100' "$SKIFF" quantize $model -o "$work/a" --scheme w8 --activations static-percentile --percentile 101
expect 2 'needs the products of all pairs of inputs' "$SKIFF" quantize $model -o "$work/a" --scheme w4g32 --method gptq --importance tests/data/imatrix/small.gguf
expect 2 'nearest looks at no data' "$SKIFF" quantize $model -o "$work/a" --scheme w4g32 --importance tests/data/imatrix/small.gguf
expect 5 'which has 512 inputs' "$SKIFF" quantize $model -o "$work/a" --scheme w4g32 --method weighted --importance tests/data/imatrix/small.dat
expect 3 'nowhere.gguf' "$SKIFF" quantize $model -o "$work/a" --scheme w4g32 --method weighted --importance "$work/nowhere.gguf"
# Options of what was not chosen.
for idle in "--percentile 99" "--smooth-alpha 0.9" "--clip none" "--column-order as-stored" "--refine-passes 9" "--iterations 7" "--learn-by operator" "--damping 0.5"; do
    # shellcheck disable=SC2086
    expect 2 'leave it out, or give that' "$SKIFF" quantize $model -o "$work/a" --scheme w4g32 $idle
done
expect 2 'is of --tasks' "$SKIFF" eval $model --limit 5
expect 2 'is of --soft-labels' "$SKIFF" eval $model --kd-temp 2
expect 2 'does not concern the pattern layers:1' "$SKIFF" prune $model -o "$work/a" --pattern layers:1 --multiple 8
expect 2 'nothing is solved for' "$SKIFF" prune $model -o "$work/a" --pattern neurons:25% --importance l2 --compensation none --damping 0.3
expect 2 'give the file to write with --to-imatrix' "$SKIFF" calibrate $model
[ ! -e "$work/a" ] && [ ! -e "$work/a.partial" ] || fail "an error left something behind"

"$SKIFF" quantize $model -o "$work/a" --scheme w4g32 >/dev/null 2>&1
before=$(sums "$work/a")
expect 2 'already exists' "$SKIFF" quantize $model -o "$work/a" --scheme w8
expect 1 'is quantized already (w8)' "$SKIFF" quantize "$work/a" -o "$work/b" --scheme w4g128
expect 0 'weights' "$SKIFF" quantize "$work/a" -o "$work/b" --scheme w4g128 --allow-requantize
grep -q '"steps"' "$work/b/skiff.json" || fail "no steps of the parent in the manifest"

# AWQ clips before rounding to nearest, and not before gptq, unless it is told to.
small=models/pocket-student
few="--scheme w4g32 --transform awq --calibration-samples 2 --calibration-tokens 64"
for row in "nearest search" "gptq none" "autoround none --iterations 1" "gptq search --clip search"; do
    read -r method clip more <<<"$row"
    # shellcheck disable=SC2086
    "$SKIFF" quantize $small -o "$work/clip" --method "$method" $few $more --force >/dev/null 2>&1 || fail "quantize with awq and $method"
    grep -q "\"clip\": \"$clip\"" "$work/clip/skiff.json" || fail "awq before $method: clip is not $clip"
done

# Widths that packages pack in two ways are not for others, and still for us.
expect 2 'before May 2026' "$SKIFF" quantize $model -o "$work/w3" --scheme w3g32 --compat
expect 2 'before May 2026' "$SKIFF" quantize $model -o "$work/w3" --scheme w4g32 --scheme-for '*.q_proj=w6' --compat
quietly "$SKIFF" quantize $model -o "$work/w3" --scheme w3g32
grep -q '"format": "skiff-quantized"' "$work/w3/config.json" || fail "w3g32 is written as others would misread it"
quietly "$SKIFF" run "$work/w3" --raw -p x -n 1
rm -rf "$work/w3"
expect 2 'levels of clusters alone' "$SKIFF" quantize $model -o "$work/d" --scheme w4g32 --method weighted --importance gradients --dry-run

# Groups that do not divide a row: a short last group here, said; with --compat such rows stay, which is said too.
expect 0 'rows that are not a multiple of 32 stay as they are' "$SKIFF" quantize tests/data/models/llama -o "$work/d" --scheme w4g32 --compat
rm -rf "$work/d"

# A file system that is full, or a limit on file sizes: the old output stays, the message says what to do.
limited() { (ulimit -f 1000; exec "$@"); }
expect 4 'free some disk space' limited "$SKIFF" quantize $model -o "$work/a" --scheme w8 --force
[ "$before" = "$(sums "$work/a")" ] || fail "the old output changed"
# With room again the same command completes.
expect 0 'weights' "$SKIFF" quantize $model -o "$work/a" --scheme w8 --force
[ "$before" != "$(sums "$work/a")" ] || fail "--force did not replace the output"
[ ! -e "$work/a.old" ] && [ ! -e "$work/a.partial" ] || fail "something is left beside the output"

# An unfinished run of something else is not taken for this one.
mkdir -p "$work/c.partial"
echo mine > "$work/c.partial/notes.txt"
expect 2 'notes.txt' "$SKIFF" quantize $model -o "$work/c" --scheme w8
[ "$(cat "$work/c.partial/notes.txt")" = mine ] || fail "a file of somebody else is gone"
rm -rf "$work/c.partial"
cat > "$work/config.json" <<'JSON'
{"model_type": "llama", "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 8,
 "vocab_size": 8000, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "hidden_act": "silu"}
JSON
interrupted() {  # Ctrl-C once the first tensors are done
    setsid "$SKIFF" quantize "random:$work/config.json" -o "$work/c" --scheme w4g32 -t 1 &
    local pid=$! tries=0
    while [ "$(cat "$work/c.partial/journal" 2>/dev/null | wc -l)" -lt 3 ] && [ $tries -lt 1000 ]; do sleep 0.02; tries=$((tries + 1)); done
    kill -TERM $pid
    wait $pid
}
expect 130 'run the same command again to go on' interrupted
expect 2 'scheme was "w4g32" and is "w8"' "$SKIFF" quantize "random:$work/config.json" -o "$work/c" --scheme w8
expect 0 'went on with an unfinished run' "$SKIFF" quantize "random:$work/config.json" -o "$work/c" --scheme w4g32
expect 2 'already exists' "$SKIFF" quantize "random:$work/config.json" -o "$work/c" --scheme w8

# Killed right before the rename: the same command only renames; another one is refused, and --restart drops the result.
whole=$(sums "$work/c")
mv "$work/c" "$work/c.partial"
expect 2 'holds the result of something else' "$SKIFF" quantize "random:$work/config.json" -o "$work/c" --scheme w8
expect 0 'went on with an unfinished run' "$SKIFF" quantize "random:$work/config.json" -o "$work/c" --scheme w4g32
[ "$whole" = "$(sums "$work/c")" ] || fail "the adopted result has other bytes"
mv "$work/c" "$work/c.partial"
expect 0 'weights' "$SKIFF" quantize "random:$work/config.json" -o "$work/c" --scheme w8 --restart
[ "$whole" != "$(sums "$work/c")" ] || fail "--restart kept the old result"

# A dry run writes nothing.
"$SKIFF" quantize $model --dry-run --scheme w4g32 --json > "$work/dry.json" 2>/dev/null
grep -q '"bits_per_weight": 5.07' "$work/dry.json" || fail "dry run: $(cat "$work/dry.json")"
echo "all refusals as expected"
