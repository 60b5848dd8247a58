#!/usr/bin/env bash
# train-tokenizer: what it writes and says, what it refuses; a failure leaves the old output as it was.
set -euo pipefail
[ -x "$SKIFF" ] || { echo "skipped: no program at $SKIFF"; exit 77; }
cd "$SKIFF_SOURCE_DIR"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
text=models/pocket/calib.txt
fail() { echo "FAILED: $*"; exit 1; }

# expect CODE WORDS command...
expect() {
    local code=$1 words=$2 rc=0
    shift 2
    "$@" >"$work/stdout" 2>"$work/stderr" || rc=$?
    [ $rc = "$code" ] || fail "exit $rc instead of $code: $* : $(cat "$work/stderr")"
    grep -qF -- "$words" "$work/stderr" "$work/stdout" || fail "no \"$words\" in: $(cat "$work/stderr" "$work/stdout")"
}
train() { "$SKIFF" train-tokenizer "$@"; }

expect 2 'give the folder to write with -o' train $text
expect 2 'TEXT is required' train -o "$work/a"
expect 2 'expected 257' train $text -o "$work/a" --vocab-size 256
expect 2 'give the token with --special too' train $text -o "$work/a" --bos '<s>'
expect 2 'expected 0 to 1024' train $text -o "$work/a" -t 5000
expect 2 'expected 1 or more' train $text -o "$work/a" --min-frequency 0
expect 3 'nowhere.txt' train "$work/nowhere.txt" -o "$work/a"
expect 5 'expected a regular file' train "$work" -o "$work/a"
: > "$work/empty.txt"
expect 1 'no text to learn' train "$work/empty.txt" -o "$work/a"
printf '{"text": "a"}\n{"title": "b"}\n' > "$work/lines.jsonl"
expect 5 'lines.jsonl:2: no member "text"' train "$work/lines.jsonl" -o "$work/a"
[ ! -e "$work/a" ] && [ ! -e "$work/a.partial" ] || fail "an error left something behind"

expect 0 '1024 tokens, 767 merges' train $text -o "$work/a" --vocab-size 1024 -t 1
expect 2 'already exists' train $text -o "$work/a" --vocab-size 512
expect 0 '1024 tokens, 767 merges' train $text -o "$work/b" --vocab-size 1024 -t 3
cmp "$work/a/tokenizer.json" "$work/b/tokenizer.json" || fail "the result depends on the number of threads"
grep -v title "$work/lines.jsonl" > "$work/good.jsonl"
expect 0 '257 tokens, not 4096' train "$work/good.jsonl" -o "$work/c"
expect 0 'wrote' train $text -o "$work/b" --vocab-size 300 --force --special '<s>' --special '</s>' --bos '<s>' --eos '</s>' --max-length 64
grep -q '"eos_token": "</s>"' "$work/b/tokenizer_config.json" || fail "no end token"
grep -q '"model_max_length": 64' "$work/b/tokenizer_config.json" || fail "no length"

train $text -o "$work/d" --vocab-size 400 --json > "$work/json" 2>/dev/null
for key in output vocab_size merges special_tokens text_bytes documents distinct_words text_tokens bytes_per_token seconds; do
    grep -q "\"$key\":" "$work/json" || fail "--json has no $key"
done
echo "train-tokenizer refuses what it should and writes the rest"
