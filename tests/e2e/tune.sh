#!/usr/bin/env bash
# bench --tune as users meet it: it prints what it found and keeps it, later runs use it, and the logits stay; damage is told and survived.
# timeout: 200
set -euo pipefail
. "$SKIFF_SOURCE_DIR/tests/e2e/program_testing.bash"
export SKIFF_CACHE_DIR=$work/cache
hash_of() { sed -n 's/.*logits \([0-9a-f]\{16\}\).*/\1/p'; }
model=$SKIFF_SOURCE_DIR/models/pocket
bench() { "$SKIFF" bench "$model" --scheme w4g32 -p 128 -n 0 -r 1 "$@" 2>>"$work/log"; }

plain=$(bench | hash_of)
[ -n "$plain" ] || fail "no hash"
[ ! -e "$work/cache/tiles.json" ] || fail "tiles without being asked"
bench --tune >"$work/tuned"
grep -q 'tokens at once' "$work/tuned" || fail "--tune printed no table"
[ "$(hash_of <"$work/tuned")" = "$plain" ] || fail "other logits with tiles"
grep -q '"format": "skiff tiles"' "$work/cache/tiles.json" || fail "no file"
for tiles in on off; do [ "$(bench --tiles $tiles | hash_of)" = "$plain" ] || fail "other logits with --tiles $tiles"; done
echo broken >"$work/cache/tiles.json"
: >"$work/log"
[ "$(bench | hash_of)" = "$plain" ] || fail "other logits beside a damaged file"
grep -q 'tiles.json.*not used' "$work/log" || fail "damage was not told"
code=0
bench --tune --pack-cache off >/dev/null || code=$?
[ $code = 2 ] || fail "--tune without a folder gives $code"
echo "passed"
