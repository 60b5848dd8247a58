#!/usr/bin/env bash
# On a processor without AVX2 (emulated) the program runs, and says the same as the generic path here.
# timeout: 600
set -euo pipefail
[ -x "$SKIFF" ] || { echo "skipped: no program at $SKIFF"; exit 77; }
[ "$(uname -m)" = x86_64 ] || { echo "skipped: for x86-64"; exit 77; }
emulator=$(command -v qemu-x86_64 || command -v qemu-x86_64-static) || { echo "skipped: no qemu-x86_64 (apt-get install qemu-user)"; exit 77; }
cd "$SKIFF_SOURCE_DIR"
arguments=(run models/pocket -p "The ship" -n 8 --temp 0 --raw)
here=$("$SKIFF" "${arguments[@]}" --isa generic 2>/dev/null)
there=$("$emulator" -cpu Nehalem "$SKIFF" "${arguments[@]}" 2>/dev/null)
[ -n "$here" ]
[ "$here" = "$there" ] || { printf 'FAILED: here:\n%s\nwithout AVX2:\n%s\n' "$here" "$there"; exit 1; }
if "$emulator" -cpu Nehalem "$SKIFF" "${arguments[@]}" --isa avx2 >/dev/null 2>&1; then echo "FAILED: --isa avx2 was accepted without AVX2"; exit 1; fi
echo "same text: $there"
