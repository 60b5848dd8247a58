#!/usr/bin/env bash
# The cache of packed weights as users meet it: a second start that needs no more memory than the weights, kills at any moment, damage, a folder
# that cannot be written, a disk that is full.
# timeout: 300
set -euo pipefail
[ -x "$SKIFF" ] || { echo "skipped: no program at $SKIFF"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export SKIFF_CACHE_DIR=$work/cache
fail() { echo "FAILED: $*"; exit 1; }
number() { sed -n "s/.*\"$1\": *\"\{0,1\}\([0-9a-f]*\).*/\1/p" <<<"$2" | head -1; }
shape=$SKIFF_SOURCE_DIR/bench/shapes/S.json
bench() { "$SKIFF" bench "random:$shape" --scheme "$1" -p 8 -n 8 -r 1 --json "${@:2}" 2>>"$work/log"; }

for scheme in w4g32 w8; do
    plain=$(bench $scheme --pack-cache off)
    [ ! -e "$work/cache" ] || [ $scheme = w8 ] || fail "--pack-cache off made a folder"
    first=$(bench $scheme)
    second=$(bench $scheme)
    hash=$(number logits_hash "$plain")
    [ -n "$hash" ] && [ "$hash" = "$(number logits_hash "$first")" ] && [ "$hash" = "$(number logits_hash "$second")" ] || fail "other logits with the cache"
    weights=$(number weight_bytes "$second") peak=$(number peak_memory_bytes "$second")
    limit=$((weights + weights / 20 + (64 << 20)))
    echo "$scheme: weights $weights, peak of the second start $peak, limit $limit"
    [ "$peak" -le "$limit" ] || fail "the second start takes $peak bytes"
done
# Weights in their file or in pages of 2 MiB: the same answers, and no more memory.
for pages in mapped huge; do
    [ $pages = mapped ] || ! grep -qs '\[never\]' /sys/kernel/mm/transparent_hugepage/enabled || continue
    run=$(bench w4g32 --weight-pages $pages)
    [ "$(number logits_hash "$run")" = "$(number logits_hash "$(bench w4g32)")" ] || fail "other logits with --weight-pages $pages"
    weights=$(number weight_bytes "$run") peak=$(number peak_memory_bytes "$run") moved=$(number huge_page_bytes "$run")
    limit=$((weights + weights / 20 + (64 << 20)))
    echo "$pages: $moved bytes in large pages, peak $peak, limit $limit"
    [ "$peak" -le "$limit" ] || fail "--weight-pages $pages takes $peak bytes"
    if [ $pages = mapped ]; then [ "$moved" = 0 ]; else [ "$moved" -ge $((weights / 2)) ]; fi || fail "--weight-pages $pages moved $moved of $weights bytes"
done
[ "$(ls "$work/cache/packed" | wc -l)" = 2 ] || fail "expected two files: $(ls "$work/cache/packed")"
"$SKIFF" doctor --no-measure | grep -q '2 models, .* of at most' || fail "doctor does not count the files"

# Killed anywhere: what is there is whole, and nothing half stays once a start has come through.
for round in 1 2 3 4 5 6; do
    rm -rf "$work/cache"
    setsid "$SKIFF" bench "random:$shape" --scheme w4g32 -p 8 -n 8 -r 1 >/dev/null 2>&1 &
    pid=$!
    sleep "0.$((RANDOM % 9 + 1))"
    kill -9 $pid 2>/dev/null || true
    wait $pid 2>/dev/null || true
    [ "$(number logits_hash "$(bench w4g32)")" != "" ] || fail "no start after a kill"
    [ "$(ls "$work/cache/packed" | wc -l)" = 1 ] || fail "left over: $(ls "$work/cache/packed")"
done

# Two at once.
rm -rf "$work/cache"
bench w4g32 >"$work/a" & a=$!
bench w4g32 >"$work/b" & b=$!
wait $a; wait $b
[ "$(number logits_hash "$(cat "$work/a")")" = "$(number logits_hash "$(cat "$work/b")")" ] || fail "two at once differ"
[ "$(ls "$work/cache/packed" | wc -l)" = 1 ] || fail "two at once left $(ls "$work/cache/packed")"

# Damage: a remark, and whole again.
file=$(ls "$work"/cache/packed/*.pack)
printf 'x' | dd of="$file" bs=1 seek=50000000 conv=notrunc status=none
: >"$work/log"
bench w4g32 >/dev/null
grep -q "damaged within the 4 MiB" "$work/log" || fail "no remark on damage: $(cat "$work/log")"
: >"$work/log"
bench w4g32 >/dev/null
! grep -q damaged "$work/log" || fail "damage was not repaired"

# Nowhere to write, and no room.
bench w4g32 --pack-cache /dev/null/folder >/dev/null || fail "a folder that cannot be made stops the program"
rm -rf "$work/cache"
(trap '' XFSZ; ulimit -f 20000; bench w4g32 >/dev/null) || fail "a file that cannot grow stops the program"
[ -z "$(ls -A "$work/cache/packed")" ] || fail "a part of a file stayed"
bench w4g32 >/dev/null
"$SKIFF" doctor --no-measure --clear-cache >/dev/null
[ -z "$(ls -A "$work/cache/packed")" ] || fail "--clear-cache left something"
