# The comparison with another program: models made once, turns in both orders, ratios and shares as the turns say. The other program is a stand-in
# that prints what the real one prints, with speeds fixed here.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "$1"; exit 1; }
script="$SKIFF_SOURCE_DIR/bench/rivals/ik_llama.sh"
config="$SKIFF_SOURCE_DIR/models/pocket/config.json"
[ -f "$config" ] || { echo "models/pocket is not here"; exit 77; }
mkdir -p "$work/rival/bin"
cat > "$work/rival/bin/llama-quantize" <<'STUB'
#!/bin/bash
[ "$1" = --output-tensor-type ] && shift 2
echo "[   1/   3]  token_embd.weight - [ 512, 4096, 1, 1], type = bf16, converting to q4_0 .. size =     4.00 MiB ->     1.00 MiB"
echo "[   2/   3]  output_norm.weight - [ 512, 1, 1, 1], type = f32, size =    0.500 MB"
echo "[   3/   3]  blk.0.attn_q.weight - [ 512, 512, 1, 1], type = bf16, converting to q4_0 .. size =     8.00 MiB ->     2.00 MiB"
cp "$1" "$2"
STUB
cat > "$work/rival/bin/llama-bench" <<'STUB'
#!/bin/bash
echo "$*" >> "${0%/*}/../calls"
cat <<'JSON'
[
  {
    "n_prompt": 8,
    "n_gen": 0,
    "samples_ts": [ 30.0, 10.0, 20.0 ]
  },
  {
    "n_prompt": 0,
    "n_gen": 4,
    "samples_ts": [ 1.0, 4.0 ]
  }
]
JSON
STUB
chmod +x "$work/rival/bin/"*
run() { MODELS="$work/models" ROWS="$work/rows" PROMPT=8 GEN=4 REPEATS=1 "$script" "$work/rival" "$config" 2 "$@" > "$work/table" 2> "$work/err" || { cat "$work/err"; exit 1; }; }

run w4g32:Q4_0 w4g32/w8:Q4_0/q6_K
[ "$(grep -c '^| w4g32' "$work/table")" = 2 ] || fail "not a row for each pair: $(cat "$work/table")"
[ "$(wc -l < "$work/rows")" = 4 ] || fail "not a line for each turn"
[ "$(wc -l < "$work/rival/calls")" = 4 ] || fail "the other program did not run in each turn"
# The rival's medians, its bytes (all; without the embedding) and the ratio of the medians' turns
awk -F'|' '/^\| w4g32 \| Q4_0 / { if ($6 !~ /\/ 20 $/ || $8 !~ /\/ 2\.5 $/) exit 1; if ($4 !~ /\/ 3\.5 $/ || $5 !~ /\/ 2\.5 $/) exit 1; found = 1 } END { exit !found }' "$work/table" ||
    fail "figures of the other program: $(cat "$work/table")"
awk -F, '$9 != 20 || $10 != 2.5 || $6 <= 0 || $7 <= 0 || $11 <= 0 || $14 <= 0 { exit 1 }' "$work/rows" || fail "a turn: $(cat "$work/rows")"

# Models stay for the next run, and nothing is left of half-made ones
before=$(ls -l --time-style=full-iso "$work/models")
run w4g32:Q4_0
[ "$(grep -v bytes <<< "$before")" = "$(ls -l --time-style=full-iso "$work/models" | grep -v bytes)" ] || fail "a model was made again"
if ls "$work/models" | grep -q part; then fail "half a model is left"; fi

# what cannot be done is said
if "$script" "$work/nowhere" "$config" 1 w4g32:Q4_0 2> "$work/err"; then fail "ran without the other program"; fi
grep -q "llama-bench" "$work/err" || fail "no word of what is missing"
if MODELS="$work/models" "$script" "$work/rival" "$config" 1 w4g32 2> "$work/err"; then fail "took half a pair"; fi
