#!/usr/bin/env bash
# The page examples/digits on fewer images: each step of the chain costs and gains what it should.
# timeout: 240
set -euo pipefail
. "$SKIFF_SOURCE_DIR/tests/e2e/program_testing.bash"
needs_training
data=(--data digits:1000 --valid digits:500:9 -t 2)
right() { "$SKIFF" classify "$work/$1" --data digits:500:9 --json | grep -o '"accuracy": [0-9.]*' | cut -d' ' -f2; }
above() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a > b) }' || fail "$3: $1 is not above $2"; }

quietly "$SKIFF" train-net examples/digits/digits.json "${data[@]}" --epochs 6 --lr 0.01 -o "$work/whole"
quietly "$SKIFF" prune "$work/whole" --pattern filters:50% -o "$work/half"
quietly "$SKIFF" train-net "$work/half" "${data[@]}" --epochs 3 --lr 0.01 --teacher "$work/whole" --kd-temp 2 --kd-alpha 0.9 -o "$work/half-taught"
quietly "$SKIFF" factorize "$work/half-taught" --method depthwise --layers conv2,conv3,conv4 -o "$work/depthwise"
quietly "$SKIFF" train-net "$work/depthwise" "${data[@]}" --epochs 8 --lr 0.01 --teacher "$work/whole" --kd-temp 2 --kd-alpha 0.9 -o "$work/depthwise-taught"
quietly "$SKIFF" quantize "$work/depthwise-taught" --scheme w8g32 -o "$work/w8"
quietly "$SKIFF" quantize "$work/depthwise-taught" --scheme w4g32 -o "$work/w4"
expect 0 '2560 weights' "$SKIFF" inspect "$work/depthwise-taught"
for step in whole half half-taught depthwise depthwise-taught w8 w4; do echo "$step: $(right $step)"; done
above "$(right whole)" 0.75 "the network learnt"
above "$(right half-taught)" "$(right half)" "teaching wins back what pruning took"
above "$(right depthwise-taught)" "$(right depthwise)" "teaching wins back what depthwise convolutions took"
above "$(right depthwise-taught)" 0.6 "a 24th of the weights still reads"
above "$(right w8)" "$(awk -v a="$(right depthwise-taught)" 'BEGIN { print a - 0.02 }')" "8 bits cost next to nothing"
echo "digits: each step does what the page says"
