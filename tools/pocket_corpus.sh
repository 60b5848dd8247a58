#!/usr/bin/env bash
# pocket_corpus.sh FOLDER OUT: makes the texts that models/pocket is trained on: OUT/train.txt, OUT/valid.txt (documents separated by a line
# <|endoftext|>) and OUT/report.txt (each document that was left out and why, printed too, and those that are in train.txt, with their bytes).
# FOLDER holds books_children_easy.txt.gz with books_children_easy.list (the books' names in the same order), fairytaleqa_train.txt and
# fairytaleqa_val.txt; FOLDER/SOURCE.txt, where there is one, says where they are from. Needs gzip, awk, sed and coreutils; a minute.
#
# No document of train.txt shares more than a stray phrase with valid.txt or with models/pocket/heldout.txt and calib.txt, under whatever title it
# stands: every document's 8-word sequences are looked up among theirs. Punctuation takes the form it has in heldout.txt (straight quotes, --, three
# dots, one space), so that a small vocabulary is not spent on two forms of the same mark.
set -euo pipefail
tab=$'\t'
export LC_ALL=C  # bytes: the same result on every machine, and several times faster
if [ $# -ne 2 ]; then echo "usage: pocket_corpus.sh FOLDER OUT" >&2; exit 2; fi
folder=$1 out=$2
pocket=$(cd "$(dirname "$0")/../models/pocket" && pwd)
for file in "$folder"/{books_children_easy.txt.gz,books_children_easy.list,fairytaleqa_train.txt,fairytaleqa_val.txt} "$pocket"/{heldout,calib}.txt; do
    [ -r "$file" ] || { echo "pocket_corpus.sh: cannot read $file" >&2; exit 3; }
done
mkdir -p "$out"
temporary=$(mktemp -d "$out/.pocket_corpus.XXXXXX")
trap 'rm -rf "$temporary"' EXIT

# Whole books that only valid.txt sees: two for children, one not, one short; with them the stories of fairytaleqa_val.txt that no book repeats.
valid_books="Edith Nesbit/The Railway Children
Hugh Lofting/The Story of Doctor Dolittle
H.G. Wells/The Time Machine
Abbie Farwell Brown/The Christmas Angel"

# A document repeats a text from so many shared 8-word sequences on, or from so many thousandths of its length if those are more than a phrase. Chance and
# common quotations stay well below (at most 11 of a book); the report prints the nearest misses.
most_shared=30 most_permille=10 phrase=5

# ---- Cleaning ----

straighten() {
    sed -e 's/\r$//' \
        -e 's/\xc3\xa2\xc2\x80\xc2[\x98\x99]/'"'"'/g; s/\xc3\xa2\xc2\x80\xc2[\x93\x94]/--/g' \
        -e 's/\xc3\x83\xc2\([\x80-\xbf]\)/\xc3\1/g; s/\xc3\x83 /\xc3\xa0 /g' \
        -e 's/‘/'"'"'/g; s/’/'"'"'/g; s/′/'"'"'/g; s/´/'"'"'/g; s/`/'"'"'/g; s/“/"/g; s/”/"/g; s/—/--/g; s/–/-/g; s/…/.../g' \
        -e 's/\xc2\xa0/ /g; s/\xe2\x80[\x80-\x8a]/ /g; s/\xe2\x80[\x8b-\x8d]//g; s/\xe2\x81\xa0//g; s/\xef\xbb\xbf//g; s/\xc2[\x80-\x9f]//g; s/\t/ /g' \
        -e 's/!\[[^]]*\]([^)]*)//g; s/\[\([^]]*\)\]([^)]*)/\1/g; s/^ *#\+ *//; s/^ *> *//; s/<\/\?[a-zA-Z][^>|]*>//g' \
        -e 's/ *\[[0-9*]\{1,3\}\]//g; s/{footnote[^}]*}//g; s/{//g; s/}//g; s/\\//g' \
        -e 's/__\+/\x01/g; s/_//g; s/\x01/___/g' \
        -e '/^[ *.=~-]*$/s/.*//; s/\*//g' \
        -e 's/\(\. \)\{2,\}\./.../g; s/  \+/ /g; s/^ //; s/ $//; s/ \([,;:!?]\)\([ "'"'"')]\|$\)/\1\2/g; s/\[ /[/g; s/ n'"'"'t\([ ,.;:!?]\)/n'"'"'t\1/g'
}

# Paragraphs that are no prose are dropped; lines of a paragraph are joined where they were wrapped (most go on in lower case; verse does not).
# A document begins with a line "<|endoftext|>\tname". Without a list of names it is called by the file, its number and its first words.
paragraphs='
function flush_paragraph(    i, joined, low, text) {
    if (!n_lines) return
    for (i = 2; i <= n_lines; ++i) if (line[i] ~ /^[a-z]/) ++low
    joined = n_lines > 1 && low * 2 > n_lines - 1
    text = line[1]
    for (i = 2; i <= n_lines; ++i) text = text (joined ? " " : "\n") line[i]
    n_lines = 0
    if (is_junk(text)) return
    if (pending) {
        name = named ? names[n_documents] : label " " n_documents " \"" substr(text, 1, 40) "\""
        gsub(/\n/, " ", name)
        print "<|endoftext|>\t" name
        pending = 0
    } else print ""
    print text
}
function is_junk(text,    lower, count, words, i, known, digits) {
    if (text ~ /Project Gutenberg|gutenberg\.(net|org)|Transcriber|https?:|www\./) return 1
    if (text ~ /^\[? *(Illustration|Footnote|FOOTNOTE|NOTE:)/ || text ~ /^\[[0-9]+\]/) return 1
    if (length(text) < 120) {
        if (text ~ /^(Translated (by|from)|TRANSLAT|Published|Copyright|COPYRIGHT|Illustrated|ILLUSTRATED|Produced by)/) return 1
        if (text ~ /^(FINIS|THE END\.?$|The End\.?$|END OF)/) return 1
    }
    if (text ~ /^[(\[]?(Section |SECTION |Part |PART |Chapter |CHAPTER )?([IVXLC]+|[0-9]+)[.)\]]?$/) return 1  # the number of a section says nothing
    if (text ~ /\.\.\.\.\.\./) return 1                                                                       # tables and cast lists
    lower = tolower(text)
    digits = gsub(/[0-9]/, "", lower)
    if (length(text) > 30 && digits * 8 > length(text)) return 1
    gsub(/[^a-z]+/, " ", lower)
    count = split(lower, words, " ")
    if (count < 20) return 0
    for (i = 1; i <= count; ++i) if (words[i] in common) ++known
    return known * 100 < 10 * count  # English prose has 40 in 100, verse 30
}
BEGIN {
    count = split("the of and to a in that it is was i he she his her you for with as had not be at on by but this my we they so me all if no from said him " \
                  "have are or were there what when an which one their up out who them its your our do will would then upon into than some very", list, " ")
    for (i = 1; i <= count; ++i) common[list[i]] = 1
    while (named && (getline text < named) > 0) { sub(/\.md$/, "", text); names[++n_names] = text }
    n_documents = pending = 1
}
/^<\|endoftext\|>$/ { flush_paragraph(); ++n_documents; pending = 1; next }
/^$/ { flush_paragraph(); next }
{ line[++n_lines] = $0 }
END {
    flush_paragraph()
    if (named && n_documents != n_names) { printf "pocket_corpus.sh: %d books, but %s names %d\n", n_documents, named, n_names > "/dev/stderr"; exit 1 }
}'

gzip -dc "$folder/books_children_easy.txt.gz" | straighten | awk -v named="$folder/books_children_easy.list" "$paragraphs" > "$temporary/books"
for part in train val; do
    straighten < "$folder/fairytaleqa_$part.txt" | awk -v label="fairytaleqa $part" "$paragraphs" > "$temporary/tales_$part"
done
for text in heldout calib; do
    { printf '<|endoftext|>\t%s.txt\n' "$text"; cat "$pocket/$text.txt"; } > "$temporary/$text"
done

# ---- Overlap ----

# overlap REFERENCES TEXT...: for each document of the texts and each of the references of which it repeats anything, a line
# "shared 8-word sequences, thousandths of the document, document, reference". A document is not compared with itself.
overlap() {
    awk '
    FNR == 1 { ++n_files }
    /^<\|endoftext\|>/ { finish(); name = substr($0, 15); n_words = 0; sequence = ""; next }
    {
        text = tolower($0)
        gsub(/[^a-z]+/, " ", text)
        count = split(text, words, " ")
        for (i = 1; i <= count; ++i) {
            ++n_words
            if (n_words <= 8) { sequence = sequence " " words[i]; if (n_words < 8) continue }
            else sequence = substr(sequence, index(substr(sequence, 2), " ") + 1) " " words[i]
            if (n_files == 1) { if (!(sequence in owner)) owner[sequence] = name }
            else if (sequence in owner && owner[sequence] != name) ++shared[owner[sequence]]
        }
    }
    END { finish() }
    function finish(    reference) {
        for (reference in shared) {
            printf "%d\t%d\t%s\t%s\n", shared[reference], shared[reference] * 1000 / n_words, name, reference
            delete shared[reference]
        }
    }' "$@"
}

# repeated TABLE: the lines of an overlap table over the threshold.
repeated() { awk -F '\t' -v most="$most_shared" -v permille="$most_permille" -v phrase="$phrase" '$1 > most || ($1 > phrase && $2 > permille)' "$1"; }

# pick MODE NAMES TEXT: the documents that NAMES lists (MODE only) or the others (MODE without).
pick() { awk -F '\t' -v mode="$1" 'FILENAME == ARGV[1] { named[$1] = 1; next } /^<\|endoftext\|>/ { on = ($2 in named) == (mode == "only") } on' "$2" "$3"; }

# Tales of fairytaleqa_val.txt that a book or another tale repeats are not for valid.txt: train.txt has them. Nor do those go to train.txt of which a book has
# 300 sequences: they would stand there twice.
overlap "$temporary/tales_val" "$temporary/books" "$temporary/tales_train" > "$temporary/table"
repeated "$temporary/table" | cut -f 4 | sort -u > "$temporary/known_tales"
overlap "$temporary/tales_train" "$temporary/books" | awk -F '\t' '$1 >= 300' | sort -t "$tab" -k 4,4 -k 1,1nr | sort -t "$tab" -s -u -k 4,4 > "$temporary/in_books"
cut -f 4 "$temporary/in_books" > "$temporary/twice"
echo "$valid_books" > "$temporary/valid_books"
{ pick only "$temporary/valid_books" "$temporary/books"; pick without "$temporary/known_tales" "$temporary/tales_val"; } > "$temporary/valid"
{ pick without "$temporary/valid_books" "$temporary/books"; pick without "$temporary/twice" "$temporary/tales_train"; } > "$temporary/rest"

cat "$temporary/heldout" "$temporary/calib" "$temporary/valid" > "$temporary/references"
overlap "$temporary/references" "$temporary/rest" > "$temporary/table"
repeated "$temporary/table" | sort -t "$tab" -k 1,1nr > "$temporary/repeated"
cut -f 3 "$temporary/repeated" | sort -u > "$temporary/dropped"
pick without "$temporary/dropped" "$temporary/rest" > "$temporary/train"
# valid.txt must not repeat heldout.txt and calib.txt either.
cat "$temporary/heldout" "$temporary/calib" > "$temporary/references"
overlap "$temporary/references" "$temporary/valid" > "$temporary/valid_table"
repeated "$temporary/valid_table" | cut -f 3 | sort -u > "$temporary/valid_dropped"
pick without "$temporary/valid_dropped" "$temporary/valid" > "$temporary/valid_kept"

# ---- Output ----

# A separator stands between documents, none before the first.
separate() { awk -F '\t' '/^<\|endoftext\|>\t/ { if (NR > 1) print $1; next } { print }' "$1"; }
separate "$temporary/train" > "$out/train.txt"
separate "$temporary/valid_kept" > "$out/valid.txt"

count() { grep -c '^<|endoftext|>' "$1" || true; }
bytes() { wc -c < "$1"; }
{
    echo "train.txt: $(count "$temporary/train") documents, $(bytes "$out/train.txt") bytes, sha256 $(sha256sum < "$out/train.txt" | cut -c 1-16)"
    echo "valid.txt: $(count "$temporary/valid_kept") documents, $(bytes "$out/valid.txt") bytes, sha256 $(sha256sum < "$out/valid.txt" | cut -c 1-16)"
    sed -n 's/^<|endoftext|>\t/    /p' "$temporary/valid_kept"
    echo "left out of train.txt, for repeating a text of evaluation: $(wc -l < "$temporary/dropped") documents"
    awk -F '\t' '{ printf "    %s: %d of its 8-word sequences (%.1f %%) are in %s\n", $3, $1, $2 / 10, $4 }' "$temporary/repeated"
    echo "kept, with the most in common:"
    sort -t "$tab" -k 1,1nr "$temporary/table" | awk -F '\t' '
        FILENAME == ARGV[1] { dropped[$1] = 1; next }
        !($3 in dropped) && n++ < 5 { printf "    %s: %d of its 8-word sequences (%.1f %%) are in %s\n", $3, $1, $2 / 10, $4 }' "$temporary/dropped" -
    echo "left out of train.txt, for standing in a book: $(wc -l < "$temporary/in_books") tales"
    awk -F '\t' '{ printf "    %s: %s has %d of its 8-word sequences\n", $4, $3, $1 }' "$temporary/in_books"
    echo "left out of valid.txt, for standing elsewhere: $(wc -l < "$temporary/known_tales") tales"
    sed 's/^/    /' "$temporary/known_tales"
} | tee "$out/report.txt"
{
    echo "in train.txt:"
    awk -F '\t' '
        function finish() { if (name) printf "%10d  %s\n", size, name; size = 0 }
        /^<\|endoftext\|>\t/ { finish(); name = $2; next }
        { size += length($0) + 1 }
        END { finish() }' "$temporary/train"
} >> "$out/report.txt"
