#!/bin/bash
# Types of one name in one namespace are found, and there are none.
set -u
cd "$SKIFF_SOURCE_DIR" && bash tools/check_names || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/src/a" "$work/src/b"
printf 'namespace skiff {\nstruct Twin {\n};\n}  // namespace skiff\n' >"$work/src/a/a.h"
printf 'namespace skiff::other {\nstruct Twin {\n};\n}  // namespace skiff::other\n' >"$work/src/b/b.h"
bash tools/check_names "$work" >/dev/null || { echo "other namespaces may have the name"; exit 1; }
printf 'namespace skiff {\nclass Twin final : Base {\n};\n}  // namespace skiff\n' >"$work/src/b/b.h"
if bash tools/check_names "$work" >/dev/null; then echo "a planted pair was not found"; exit 1; fi
exit 0
