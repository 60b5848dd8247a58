#!/usr/bin/env bash
# Every relative link of the documents leads to a file, and every path of the repository that they name in code type is there.
set -euo pipefail
cd "$SKIFF_SOURCE_DIR"
problems=0
n=0
for file in *.md docs/*.md docs/*/*.md models/*/*.md; do
    folder=$(dirname "$file")
    while IFS= read -r target; do
        n=$((n + 1))
        [ -e "$folder/$target" ] || { echo "$file: links to $target, which is not there"; problems=1; }
    done < <(grep -oE '\]\([^)#[:space:]]+' "$file" | sed 's/^](//' | grep -vE '^[a-z]+:' || true)
    while IFS= read -r path; do
        n=$((n + 1))
        case $path in */foo* | *foo/) continue ;; esac  # foo stands for what the reader writes
        [ -e "$path" ] || { echo "$file: names $path, which is not there"; problems=1; }
    done < <(grep -oE '`(src|tests|tools|bench|examples|docs|models)/[A-Za-z0-9_./-]+`' "$file" | tr -d '`' || true)
done
[ $problems = 0 ] || exit 1
echo "$n links and paths lead somewhere"
