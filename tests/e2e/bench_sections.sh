#!/usr/bin/env bash
# `make bench` measures section by section; here with few tokens, and without what builds programs or takes minutes.
set -euo pipefail
. "$SKIFF_SOURCE_DIR/tests/e2e/program_testing.bash"

sections="limits speed decode sequences context fusion speculation starting rival"
if command -v jq >/dev/null; then sections+=" batch"; fi
QUICK=1 RIVAL= tools/bench.sh "$SKIFF" $sections >"$work/tables" 2>"$work/err" || fail "exit $?: $(cat "$work/err")"
part() { awk -v name="## $1" '$0 == name { inside = 1; next } /^## / { inside = 0 } inside' "$work/tables"; }
rows() { part "$1" | grep -c "^| .* $2 " || true; }
has() { [[ $(part "$1") == *"$2"* ]] || fail "no \"$2\" in section $1: $(part "$1")"; }
has limits "bandwidth  "
[ "$(rows speed pp8)" = 6 ] && [ "$(rows speed tg4)" = 6 ] || fail "not two rows for each of six models: $(part speed)"
[ "$(rows decode tg32)" = 2 ] || fail "not a row for each scheme: $(part decode)"
[ "$(rows sequences tg4x16)" -ge 1 ] || fail "no row of 16 sequences: $(part sequences)"
[ "$(rows context "tg32 @ d32")" = 3 ] || fail "not a row for each form of the state: $(part context)"
has fusion norm_quantize
[ "$(rows speculation tg8)" = 2 ] && has speculation "tokens a pass" || fail "no table of guesses for each of two models: $(part speculation)"
[ "$(rows starting pp16)" = 4 ] && has starting "second start:" || fail "not two starts of each of two models: $(part starting)"
if [[ " $sections " == *" batch "* ]]; then [ "$(part batch | grep -c "^| w8 | fastest | [12] ")" = 2 ] || fail "not a row for each batch: $(part batch)"; fi
has rival bench/rivals/ik_llama.sh
expect 2 "no section is called speeds" tools/bench.sh "$SKIFF" speeds
