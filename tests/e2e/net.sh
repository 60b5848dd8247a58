#!/usr/bin/env bash
# Networks of convolutions from the command line: what the verbs say, write and refuse; training, where the program has it.
# timeout: 300
set -euo pipefail
. "$SKIFF_SOURCE_DIR/tests/e2e/program_testing.bash"
spec=examples/digits/digits.json
expect 0 '60688 weights' "$SKIFF" inspect $spec
expect 0 '"multiply_adds": 9145216' "$SKIFF" inspect $spec --json
expect 0 'depthwise' "$SKIFF" inspect examples/structures/shufflenet-unit.json
expect 0 'linear_plain' "$SKIFF" bench $spec -r 1 -t 1

# 3x3, 2 -> 4 channels: 72 weights become 26.
echo '{"model_type": "skiff-net", "input": {"height": 6, "width": 6, "channels": 2}, "ops": [{"name": "c", "op": "conv", "channels": 4, "kernel": 3}]}' >"$work/small.json"
expect 0 '26 (depthwise x1 + pointwise)' "$SKIFF" factorize "$work/small.json" --method depthwise -o "$work/small" -t 1
expect 0 '26 weights' "$SKIFF" inspect "$work/small"

# A chain of steps, each on what the one before wrote; a folder with all of them still answers.
expect 0 '16 -> 32' "$SKIFF" prune $spec --pattern filters:25% -o "$work/filters" -t 1
expect 0 'wrote' "$SKIFF" prune "$work/filters" --pattern channels:25% --layers conv4 -o "$work/channels" -t 1
expect 0 '9 positions' "$SKIFF" prune "$work/channels" --pattern taps:5 --layers conv2 -o "$work/taps" -t 1
expect 0 'wrote' "$SKIFF" factorize "$work/taps" --method depthwise --layers conv3 -o "$work/depthwise" -t 1
expect 0 'wrote' "$SKIFF" factorize "$work/depthwise" --method tucker --energy 0.7 --layers conv4 -o "$work/tucker" -t 1
expect 0 'w8g32' "$SKIFF" quantize "$work/tucker" --scheme w8g32 --scheme-for conv1=keep -o "$work/w8" -t 1
expect 0 '(5 kept)' "$SKIFF" inspect "$work/w8"
expect 0 '"method": "tucker"' "$SKIFF" inspect "$work/w8"
expect 0 '% right' "$SKIFF" classify "$work/w8" --data digits:50 --against "$work/tucker" -t 2
expect 0 '"images": 50' "$SKIFF" classify "$work/w8" --data digits:50 --json
expect 0 'label ' "$SKIFF" classify "$work/w8" --data digits:3 --show 1

expect 2 'already exists' "$SKIFF" prune $spec --pattern filters:25% -o "$work/w8"
expect 2 'give the folder' "$SKIFF" prune $spec --pattern filters:25%
expect 2 'filters:25%, channels:25% or taps:5' "$SKIFF" prune $spec --pattern 50% -o "$work/x"
expect 2 'does not concern' "$SKIFF" prune $spec --pattern filters:25% --method wanda -o "$work/x"
expect 2 'no operator "conv9"' "$SKIFF" prune $spec --pattern filters:25% --layers conv9 -o "$work/x"
expect 0 '1 x (2x8 by 5x8)' "$SKIFF" factorize $spec --method kronecker -o "$work/kronecker" -t 1
expect 2 'depthwise, tucker, svd or kronecker' "$SKIFF" factorize $spec --method asvd -o "$work/x"
expect 2 '--remove does not concern' "$SKIFF" factorize $spec --method tucker --remove 25% -o "$work/x"
expect 2 'networks of convolutions' "$SKIFF" factorize models/pocket --method tucker -o "$work/x"
expect 2 '--method does not concern a network of convolutions' "$SKIFF" quantize $spec --scheme w8 --method gptq -o "$work/x"
expect 2 '--correct does not' "$SKIFF" quantize $spec --scheme w8 --correct bias -o "$work/x"
expect 2 '--activations does not' "$SKIFF" quantize $spec --scheme w8 --activations static-mse -o "$work/x"
expect 2 '--importance does not' "$SKIFF" quantize $spec --scheme w8 --importance nowhere -o "$work/x"
expect 2 '--device does not' "$SKIFF" bench $spec --device cuda
expect 2 '--tune does not' "$SKIFF" bench $spec --tune
expect 2 'expected 0 to 65536' "$SKIFF" bench $spec --batch -5
expect 2 '--sort does not' "$SKIFF" prune $spec --pattern filters:0% --sort -o "$work/x"
expect 2 'taps has none' "$SKIFF" prune $spec --pattern taps:5 --multiple 4 -o "$work/x"
expect 2 'whole number' "$SKIFF" prune $spec --pattern taps:5.7 -o "$work/x"
expect 2 'percentage' "$SKIFF" prune $spec --pattern taps:inf -o "$work/x"
expect 2 '--calibration does not' "$SKIFF" factorize $spec --method svd --rank 4 --calibration nowhere -o "$work/x"
expect 1 'is quantized' "$SKIFF" prune "$work/w8" --pattern filters:25% -o "$work/x"
expect 1 'is quantized' "$SKIFF" factorize "$work/w8" --method svd --rank 4 -o "$work/x"
expect 1 'skiff classify' "$SKIFF" run "$work/w8" -p a
expect 0 'random ones answer' "$SKIFF" classify $spec --data digits:5 -t 1
expect 1 'quantized already' "$SKIFF" quantize "$work/w8" --scheme w8 -o "$work/x"
expect 2 'no network of convolutions' "$SKIFF" classify models/pocket --data digits:5
expect 2 'expected digits:N' "$SKIFF" classify "$work/w8" --data digits:none
printf '\0\0\10\1\0\0\0\5abc' >"$work/short.idx"
expect 5 'holds 3 numbers' "$SKIFF" classify "$work/w8" --data "$work/short.idx,$work/short.idx"

# ONNX: a folder with the graph alone; what it has no form for is said by name.
expect 0 'Quant, 8 bits' "$SKIFF" convert "$work/w8" --to onnx --form qonnx -o "$work/qonnx"
[ -s "$work/qonnx/model.onnx" ] && [ -s "$work/qonnx/model.onnx.data" ] && [ "$(ls "$work/qonnx" | wc -l)" = 2 ] || fail "files of $(ls "$work/qonnx")"
grep -aq qonnx.custom_op.general "$work/qonnx/model.onnx" || fail "no QONNX in the graph"
expect 0 'pruning took are zeros' "$SKIFF" convert "$work/taps" --to onnx --dry-run
expect 0 'DequantizeLinear, 8 bits' "$SKIFF" convert "$work/w8" --to onnx --dry-run
expect 0 'F32 ' "$SKIFF" convert "$work/w8" --to onnx --form float --dry-run
expect 0 'wrote' "$SKIFF" quantize examples/digits/mlp.json --scheme binary -o "$work/mlp" -t 1
expect 0 'BipolarQuant' "$SKIFF" convert "$work/mlp" --to onnx --form qonnx -o "$work/mlp_onnx"
expect 0 'wrote' "$SKIFF" quantize $spec --scheme nf4 -o "$work/nf4" -t 1
expect 1 'conv1.weight (nf4g64)' "$SKIFF" convert "$work/nf4" --to onnx -o "$work/x"
expect 0 'F32 ' "$SKIFF" convert "$work/nf4" --to onnx --densify --dry-run
expect 2 'exists' "$SKIFF" convert "$work/w8" --to onnx -o "$work/qonnx"
expect 2 'one other form: --to onnx' "$SKIFF" convert $spec -o "$work/x"
expect 2 '--form nbits' "$SKIFF" convert $spec --to onnx --form nbits -o "$work/x"
expect 2 '--context does not' "$SKIFF" convert $spec --to onnx --context 5 -o "$work/x"
expect 0 'wrote' "$SKIFF" convert "$work/w8" --to onnx --activations int8 --data digits:20 -o "$work/int8" -t 1
grep -aq QuantizeLinear "$work/int8/model.onnx" || fail "no integers in the graph"
expect 2 'needs images' "$SKIFF" convert "$work/w8" --to onnx --form qonnx --activations int8 -o "$work/x"
expect 2 'is for --activations int8' "$SKIFF" convert "$work/w8" --to onnx --data digits:20 -o "$work/x"
expect 2 'nothing runs' "$SKIFF" convert "$work/w8" --to onnx -t 1 -o "$work/x"
expect 2 'qdq and qonnx' "$SKIFF" convert "$work/w8" --to onnx --form float --activations int8 --data digits:20 -o "$work/x"
expect 2 'another size' "$SKIFF" convert "$work/small" --to onnx --activations int8 --data digits:20 -o "$work/x"
expect 2 'is none' "$SKIFF" convert models/pocket --to onnx --data digits:20 -o "$work/x"
expect 2 'nothing to do' "$SKIFF" convert $spec --to onnx --form float --densify -o "$work/x"
echo '{"model_type": "skiff-net", "input": {"height": 6, "width": 6}, "ops": [{"name": "around", "op": "pool", "kernel": 2, "padding": 2}]}' >"$work/around.json"
expect 1 'operator around' "$SKIFF" convert "$work/around.json" --to onnx -o "$work/x"
[ ! -e "$work/x" ] && [ ! -e "$work/x.partial" ] || fail "an error left something behind"

if [ -x "$(dirname "$SKIFF")/skiff-train" ]; then
    expect 2 'already exists' "$SKIFF" train-net $spec --data digits:64 -o "$work/w8"
    grep -q epoch "$work/stdout" && fail "an existing folder was found after the work"
    expect 2 'there is none' "$SKIFF" train-net $spec --data digits:64 --kd-temp 9 -o "$work/x"
    expect 2 'is no network of convolutions' "$SKIFF" train-net $spec --data digits:64 --teacher models/pocket -o "$work/x"
    expect 2 'give the images with --data' "$SKIFF" train-net $spec -o "$work/a"
    expect 0 '% right' "$SKIFF" train-net examples/structures/../digits/digits.json --data digits:256 --valid digits:64:9 --epochs 1 -o "$work/a" -t 1
    expect 0 'wrote' "$SKIFF" train-net "$work/taps" --teacher "$work/a" --data digits:128 --epochs 1 -o "$work/student" -t 1
    expect 0 '"teacher": "a"' "$SKIFF" inspect "$work/student"
fi
echo "networks of convolutions are pruned, factorized, quantized and asked"
