#!/usr/bin/env bash
# Memory that runs out, threads that the system refuses, signals: clear messages and the promised exit codes.
# timeout: 600
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pocket=models/pocket

fail() {
    echo "FAILED: $1"
    cat "$work/out" 2>/dev/null
    exit 1
}
# expect CODE TEXT COMMAND...: the exit code, and TEXT somewhere in the output.
expect() {
    local code=$1 text=$2 found
    shift 2
    "$@" >"$work/out" 2>&1
    found=$?
    [ "$found" -eq "$code" ] || fail "exit $found instead of $code: $*"
    grep -q -- "$text" "$work/out" || fail "no \"$text\" in the output of: $*"
}
limited() { # KILOBYTES COMMAND...
    (
        ulimit -v "$1" || exit 77
        shift
        exec "$@"
    )
}

if ! "$SKIFF" --version >"$work/out" 2>&1 || ldd "$SKIFF" 2>/dev/null | grep -q asan; then
    echo "a program with AddressSanitizer cannot run under a limit of address space"
    exit 77
fi
expect 4 "memory" limited 2097152 "$SKIFF" bench random:bench/shapes/L8.json -p 8 -n 2
# Less and less memory, also for the threads' stacks: an answer or exit code 4, never an abort.
for kilobytes in 300000 200000 120000 80000 50000 35000 30000 27000 25000; do
    limited $kilobytes "$SKIFF" run $pocket --raw -p Once -n 2 -t 16 -q >"$work/out" 2>&1
    code=$?
    [ $code -eq 0 ] || [ $code -eq 4 ] || [ $code -eq 127 ] || fail "exit $code with $kilobytes kB"
done

# interrupt SECONDS COMMAND...: SIGINT after a while must end it soon with 130.
interrupt() {
    local seconds=$1
    shift
    env --default-signal=INT "$@" >"$work/out" 2>&1 &
    local pid=$!
    sleep "$seconds"
    kill -INT $pid 2>/dev/null || fail "over before the signal: $*"
    wait $pid
    local code=$?
    [ $code -eq 130 ] || fail "exit $code instead of 130: $*"
}
interrupt 2 "$SKIFF" bench random:bench/shapes/L8.json -p 8 -n 2
interrupt 2 "$SKIFF" run $pocket --raw -p Once -n 1000000 -c 1000000 --ignore-eos
interrupt 2 "$SKIFF" eval $pocket --text $pocket/heldout.txt -t 1
for i in 1 2 3 4 5 6; do cat $pocket/heldout.txt; done >"$work/long.txt"
interrupt 3 "$SKIFF" run $pocket --raw -f "$work/long.txt" -c 1000000 -t 1
echo "limits hold"
