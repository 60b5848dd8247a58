#!/usr/bin/env bash
# Every ```sh block of the guide and of README.md runs, and both languages hold the same commands. ```sh no-test blocks are not run.
# timeout: 1800
set -euo pipefail
[ -x "$SKIFF" ] || { echo "skipped: no program at $SKIFF"; exit 77; }
cd "$SKIFF_SOURCE_DIR"

# code_of FILE FENCES: the lines of all blocks whose fence is one of FENCES (a regular expression).
code_of() { awk -v fence="^\`\`\`($2)\$" '/^```$/ && inside { inside = 0; next } inside { print } $0 ~ fence { inside = 1 }' "$1"; }
# Commands without comments, which are in the reader's language.
commands_of() { code_of "$1" 'sh|sh no-test' | sed -E 's/[[:space:]]+#.*$//'; }

for document in README docs/guide; do
    diff <(commands_of $document.md) <(commands_of $document.zh-CN.md) || { echo "FAILED: $document.md and $document.zh-CN.md have different commands"; exit 1; }
done

# A copy of the repository's top level by links, so that outputs land in a scratch folder.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for entry in *; do
    case $entry in out | build*) ;; *) ln -s "$PWD/$entry" "$scratch/$entry" ;; esac
done
mkdir "$scratch/out" "$scratch/bin"
ln -s "$SKIFF" "$scratch/bin/skiff"
export PATH="$scratch/bin:$PATH"
cd "$scratch"

[ -x "$(dirname "$SKIFF")/skiff-train" ] && can_train=yes || can_train=
n_commands=0
for document in docs/guide.md README.md; do
    while IFS= read -r line; do
        [ -n "$line" ] || continue
        # Without LibTorch there is no training, and nothing to do with what it would have made.
        [ -n "$can_train" ] || case $line in "skiff train "* | "skiff train-net "* | "skiff distill "* | "skiff qat "* | "skiff recover "* | *out/guide-trained* | *out/guide-elastic* | *"--method snip"* | *"--importance taylor"*) continue ;; esac
        n_commands=$((n_commands + 1))
        if ! bash -o pipefail -c "$line" >output.txt 2>&1 </dev/null; then
            echo "FAILED: $document: $line"
            tail -20 output.txt
            exit 1
        fi
    done < <(code_of $document sh)
done
[ $n_commands -ge 20 ] || { echo "FAILED: only $n_commands commands found"; exit 1; }
echo "$n_commands commands ran"
