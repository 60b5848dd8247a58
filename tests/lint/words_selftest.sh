#!/usr/bin/env bash
# check_words finds a planted path, and leaves relative ones alone.
set -euo pipefail
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
echo "see ../work/notes and framework/work/x" >"$tree/fine.md"
bash "$SKIFF_SOURCE_DIR/tools/check_words" "$tree"
printf 'read /%s/main\n' work >"$tree/planted.md"
if bash "$SKIFF_SOURCE_DIR/tools/check_words" "$tree"; then echo "FAILED: the planted path was not noticed"; exit 1; fi
