# What tests of the program in shell share; they source it: . "$SKIFF_SOURCE_DIR/tests/e2e/program_testing.bash"
# Afterwards: the repository is the working folder, $work an empty one that goes at the end.
[ -x "$SKIFF" ] || { echo "skipped: no program at $SKIFF"; exit 77; }
cd "$SKIFF_SOURCE_DIR"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() { echo "FAILED: $*"; exit 1; }
needs_training() { [ -x "$(dirname "$SKIFF")/skiff-train" ] || { echo "skipped: this build has no LibTorch, so it cannot train"; exit 77; }; }
# quietly command...: its output is shown only if it fails.
quietly() { "$@" >"$work/log" 2>&1 || fail "exit $? : $* : $(cat "$work/log")"; }
# expect CODE WORDS command...: the exit code, and WORDS in what it says ($said_in: both outputs, or the one that is named).
said_in="stderr stdout"
expect() {
    local code=$1 words=$2 rc=0 output
    shift 2
    "$@" >"$work/stdout" 2>"$work/stderr" || rc=$?
    [ $rc = "$code" ] || fail "exit $rc instead of $code: $* : $(cat "$work/stderr")"
    for output in $said_in; do
        if grep -qF -- "$words" "$work/$output"; then return 0; fi
    done
    fail "no \"$words\" in: $(cd "$work" && cat $said_in)"
}
below() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a < b) }'; }
# Of a model folder: the hash of its contents; what it tells; the size of its weight file.
hash_of() { "$SKIFF" inspect "$1" --hash --json | sed -n 's/.*"hash": *"\([0-9a-f]*\)".*/\1/p'; }
text() { "$SKIFF" run "$1" --raw -p "Once upon a time" -n 16 --temp 0 -q --kernels reference; }
bytes_of() { stat -c %s "$1/model.safetensors"; }
