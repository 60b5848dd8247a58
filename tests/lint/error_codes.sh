#!/usr/bin/env bash
# docs/errors.md lists every error code of base/result.h.
set -euo pipefail
cd "$SKIFF_SOURCE_DIR"
codes=$(awk '/^enum class ErrorCode/ { inside = 1; next } inside && /^\}/ { exit } inside { sub(/,.*/, ""); gsub(/ /, ""); print }' src/base/result.h)
[ -n "$codes" ]
missing=0
for code in $codes; do
    grep -q "^| \`$code\` |" docs/errors.md || { echo "docs/errors.md has no row for $code"; missing=1; }
done
exit $missing
