#!/usr/bin/env bash
# Two children on the same windows, with and without a parent; and the warning where the text is what a model was calibrated on.
# timeout: 600
set -euo pipefail
. "$SKIFF_SOURCE_DIR/tests/e2e/program_testing.bash"
model=models/pocket
# number FILE KEY [N]: the n-th value of a key in JSON of one value a line.
number() { awk -F'"' -v key="$2" -v n="${3:-1}" '$2 == key && ++seen == n { sub(/.*": */, ""); sub(/,$/, ""); print; exit }' "$1"; }
head -c 60000 $model/heldout.txt > "$work/text.txt"
eval_json() { "$SKIFF" eval "$@" --window 128 --max-windows 6 --json; }

"$SKIFF" quantize $model -o "$work/w4" --scheme w4g32 >/dev/null 2>&1
"$SKIFF" quantize $model -o "$work/w3" --scheme w3g32r >/dev/null 2>&1
eval_json "$work/w3" --text "$work/text.txt" --against $model --paired-with "$work/w4" >"$work/json" 2>"$work/err" || fail "$(cat "$work/err")"
grep -q '"windows": 6' "$work/json" || fail "no paired figure: $(cat "$work/json")"
below "$(number "$work/json" second)" "$(number "$work/json" first)" || fail "4 bits lose no less than 3"
eval_json "$work/w4" --text "$work/text.txt" --against $model >"$work/alone"
[ "$(number "$work/json" second)" = "$(number "$work/alone" mean_kl)" ] || fail "paired $(number "$work/json" second), alone $(number "$work/alone" mean_kl)"
# From a file of logits, and without a parent.
eval_json $model --text "$work/text.txt" --save-logits "$work/logits" >/dev/null
eval_json "$work/w3" --text "$work/text.txt" --against "$work/logits" --paired-with "$work/w4" >"$work/from_file"
[ "$(number "$work/from_file" difference)" = "$(number "$work/json" difference)" ] || fail "the file of logits gives another difference"
eval_json "$work/w3" --text "$work/text.txt" --paired-with "$work/w3" >"$work/same"
[ "$(number "$work/same" difference)" = 0.0 ] || [ "$(number "$work/same" difference)" = 0 ] || fail "a model differs from itself by $(number "$work/same" difference)"
"$SKIFF" eval "$work/w3" --text "$work/text.txt" --window 128 --max-windows 6 --against $model --paired-with "$work/w4" >"$work/table"
grep -q 'over 6 windows' "$work/table" || fail "$(cat "$work/table")"
# A child has no text of its own: its parent's is taken, and without one the error says what was looked for.
"$SKIFF" eval "$work/w3" --against $model --window 128 --max-windows 6 >"$work/table" || fail "no text in the parent's folder"
grep -q "$model/heldout.txt" "$work/table" || fail "$(cat "$work/table")"
rc=0; "$SKIFF" eval "$work/w3" 2>"$work/err" || rc=$?
[ $rc = 2 ] && grep -q 'else heldout.txt is taken' "$work/err" || fail "without a text: $rc, $(cat "$work/err")"
rc=0; "$SKIFF" eval $model --tasks piqa --tasks-dir tests/data/tasks --paired-with "$work/w4" 2>"$work/err" || rc=$?
[ $rc = 2 ] || fail "pairing without a text gives $rc"

# State by layer: its own effect shows, since the parent keeps floats.
eval_json $model --text "$work/text.txt" --against $model --state int4 >"$work/int4"
eval_json $model --text "$work/text.txt" --against $model --state int4,0-4=f32 >"$work/last"
below 0 "$(number "$work/last" mean_kl)" && below "$(number "$work/last" mean_kl)" "$(number "$work/int4" mean_kl)" || fail "int4 of one layer: $(number "$work/last" mean_kl), of all: $(number "$work/int4" mean_kl)"
grep -q '"state": "int4,0-4=f32"' "$work/last" || fail "the state is not said"
rc=0; "$SKIFF" eval $model --text "$work/text.txt" --state int8,9=f16 2>"$work/err" || rc=$?
[ $rc = 2 ] && grep -q 'layers 0 to 5' "$work/err" || fail "a layer that is not there: $rc, $(cat "$work/err")"

# Calibrated on the text of the evaluation, on half of it, on another.
calibrate() { "$SKIFF" quantize $model -o "$work/cal-$1" --scheme w4g32 --method weighted --calibration "$2" --calibration-samples 4 --calibration-tokens 64 >/dev/null 2>&1; }
warned() { "$SKIFF" eval "$work/cal-$1" --text "$work/text.txt" --window 128 --max-windows 1 2>&1 >/dev/null | sed -n 's/^warning: \([0-9]*\) of 256 stretches of the calibration text .*/\1/p'; }
if calibrate same "$work/text.txt"; then
    [ "$(warned same)" = 256 ] || fail "the same text: $(warned same) of 256"
    head -c 30000 "$work/text.txt" > "$work/half.txt"; head -c 30000 $model/calib.txt >> "$work/half.txt"
    calibrate half "$work/half.txt"
    [ "$(warned half)" -ge 120 ] && [ "$(warned half)" -le 136 ] || fail "half the text: $(warned half) of 256"
    calibrate other $model/calib.txt
    [ -z "$(warned other)" ] || fail "another text: $(warned other) of 256"
    grep -q '"fingerprints"' "$work/cal-other/skiff.json" || fail "no fingerprints in the manifest"
    eval_json "$work/cal-same" --text "$work/text.txt" 2>/dev/null | grep -q '"calibration_overlap"' || fail "no overlap in the JSON"
else
    echo "without OpenBLAS nothing is calibrated"
fi
echo ok
