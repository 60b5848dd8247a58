# tools/pocket_corpus.sh on a small folder: what evaluation reads stays out under any title, marks are straightened, junk goes, numbers are told.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
heldout="$SKIFF_SOURCE_DIR/models/pocket/heldout.txt"
[ -f "$heldout" ] || { echo "models/pocket is not here"; exit 77; }
fail() { echo "$1"; exit 1; }
has() { grep -qF -- "$2" "$work/out/$1" || fail "$1 lacks: $2"; }
lacks() { if grep -qF -- "$2" "$work/out/$1"; then fail "$1 has: $2"; fi; }

# prose SEED N: N sentences that are the same for the same seed only.
prose() {
    awk -v seed="$1" -v n="$2" 'BEGIN {
        srand(seed)
        count = split("the fox and a hen went over hill to see what was in barn where old man kept his corn but she had not been there before so they ran", words, " ")
        for (i = 0; i < n; ++i) { for (j = 0; j < 12; ++j) printf "%s ", words[int(rand() * count) + 1]; print ".\n" }
    }'
}
books() {
    prose 1 50
    printf '<|endoftext|>\n'
    prose 2 50
    printf '“It’s—well…” said  he .\r\n\r\n## A *bold* _heading_ ![picture](a.png) [link](b)\n\n* * *\n\n[Illustration: a fox]\n\n'
    printf 'The end of this book from Project Gutenberg\n\nXII.\n\nonce there were\nfour little\nrabbits\n\nShe could n'"'"'t come\nFor all the World\n'
    printf '<|endoftext|>\n'
    prose 3 50
    sed -n '201,230p' "$heldout" | tr '[:lower:]' '[:upper:]'
    printf '<|endoftext|>\n'
    prose 4 50
}
mkdir "$work/in"
books | gzip > "$work/in/books_children_easy.txt.gz"
printf '%s.md\n' "A/First" "B/Second" "C/Under another title" "H.G. Wells/The Time Machine" > "$work/in/books_children_easy.list"
{ prose 5 40; echo '<|endoftext|>'; prose 6 40; echo '<|endoftext|>'; prose 1 49; } > "$work/in/fairytaleqa_train.txt"
{ prose 7 40; echo '<|endoftext|>'; prose 5 40; } > "$work/in/fairytaleqa_val.txt"
bash "$SKIFF_SOURCE_DIR/tools/pocket_corpus.sh" "$work/in" "$work/out" > "$work/log"

first() { prose "$1" 1 | head -1 | sed 's/ \.$//'; }
has train.txt "$(first 1)"
has train.txt "$(first 2)"
has valid.txt "$(first 4)"
has valid.txt "$(first 7)"
lacks train.txt "$(first 3)"
lacks train.txt "$(first 4)"
lacks train.txt "$(first 7)"
lacks valid.txt "$(first 5)"  # train has it
[ "$(grep -cF "$(first 5)" "$work/out/train.txt")" = 1 ] || fail "the tale that two files have is not in train.txt once"
[ "$(grep -cF "$(first 1)" "$work/out/train.txt")" = 1 ] || fail "a tale that a book has stands twice"
grep -q "C/Under another title: [0-9]* of its 8-word sequences (.*) are in heldout.txt" "$work/log" || fail "the report does not tell why a book is missing"
has train.txt "\"It's--well...\" said he"
has train.txt "A bold heading link"
has train.txt "once there were four little rabbits"
has train.txt "She couldn't come"
for junk in "* *" "Illustration" "Gutenberg" "XII." "#" "_" "picture"; do lacks train.txt "$junk"; done
if grep -n $'\r' "$work/out/train.txt"; then fail "a carriage return is left"; fi
[ "$(grep -c '^<|endoftext|>$' "$work/out/train.txt")" = 3 ] || fail "wrong number of separators"
[ "$(ls -A "$work/out" | wc -l)" = 3 ] || fail "more than three files: $(ls -A "$work/out")"

# a list that does not fit, and files that are not there
printf 'A/First.md\n' > "$work/in/books_children_easy.list"
if bash "$SKIFF_SOURCE_DIR/tools/pocket_corpus.sh" "$work/in" "$work/other" > "$work/log" 2>&1; then fail "a list of one name for four books was taken"; fi
grep -q "4 books, but .* names 1" "$work/log" || fail "wrong words: $(cat "$work/log")"
rm "$work/in/fairytaleqa_val.txt"
if bash "$SKIFF_SOURCE_DIR/tools/pocket_corpus.sh" "$work/in" "$work/other" 2> "$work/log"; then fail "a missing file was not noticed"; fi
grep -q "cannot read .*fairytaleqa_val.txt" "$work/log" || fail "wrong words: $(cat "$work/log")"
