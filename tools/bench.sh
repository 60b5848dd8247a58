#!/usr/bin/env bash
# Tables of docs/performance.md, measured anew on this machine, section by section.
#   tools/bench.sh PROGRAM [SECTION...]
# SECTION, all of them without one; nothing else should run:
#   limits     the machine: processor, caches, bandwidth with one thread and with all
#   speed      prefill and decode of the small model and of shape S (0.1 billion), in floats, 8 and 4 bits
#   kernels    each kernel row on one thread: bytes a second beside a plain read, multiply-adds a cycle (needs Google Benchmark, and builds kernels_bench)
#   roof       prompts end to end as a share of what the kernel does by itself on all cores at once, in turns (needs jq, and builds kernels_bench); ROOF names other models than shapes S, A and B, in n4g32r
#   schemes    every scheme: what its kernel does, and whether to use it
#   decode     every scheme on shape A (0.44 billion)
#   sequences  several tokens in one pass, with the widest instruction set and with AVX2
#   context    decoding behind 4096 tokens, for each form of the state
#   fusion     what each fusion is worth, in turns
#   speculation  guessing tokens by n-grams, in turns, on four kinds of text
#   starting   the first start, which packs the weights, and the second, which maps them
#   pruned     pruned and hashed weights beside dense ones, in turns (builds pruned_bench)
#   batch      512 tokens in, 512 out, 1 to 16 sequences, by scheme (needs jq)
#   rival      ik_llama.cpp on the same weights, in turns; RIVAL names its build folder, without it the commands are shown
# QUICK=1: the small model and a few tokens instead of every shape, to try the script.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
program=$(realpath "$1")
shift
cd "$(dirname "$0")/.."
all="limits speed kernels roof schemes decode sequences context fusion speculation starting pruned batch rival"
sections=${*:-$all}
S=random:bench/shapes/S.json A=random:bench/shapes/A.json B=random:bench/shapes/B.json prompt=512 answer=64 repeats=5 depth=4096
if [ -n "${QUICK:-}" ]; then S=models/pocket A=models/pocket B=models/pocket prompt=8 answer=4 repeats=1 depth=32; fi

# The instruction set that this machine's models run with, and AVX2 beside a later one.
isas() { "$program" doctor --json --no-measure | awk -F'"' '$2 == "isa" { print $4; if ($4 ~ /^avx512|^avx2vnni/) print "avx2" }'; }
limits() { "$program" doctor; }
speed() {
    "$program" bench models/pocket -p $prompt -n $answer -r $repeats
    for scheme in "" w8 w4g32 w4g128 n4g32r; do "$program" bench $S ${scheme:+--scheme $scheme} -p $prompt -n $answer -r $repeats; done
}
# A program of bench/micro, built beside ours, with arguments.
micro() {
    local name=$1 build log
    shift
    build=$(dirname "$(dirname "$program")")
    [ -f "$build/CMakeCache.txt" ] || { echo "not measured: $program does not lie in a build folder, where $name could be built"; return 0; }
    log=$(mktemp)
    if { cmake -S . -B "$build" -DSKIFF_MICRO_BENCH=ON && cmake --build "$build" --target "$name"; } >"$log" 2>&1; then "$build/bench/micro/$name" "$@"
    else echo "not measured: $name cannot be built in $build: $(grep -m1 -i "error" "$log" || tail -1 "$log")"; fi
    rm -f "$log"
}
kernels() {
    local filter='read|decode|roof|tokens:512'
    [ -z "${QUICK:-}" ] || filter='tokens:1/w4g32/'
    micro kernels_bench --benchmark_filter="$filter"
}
# Medians of the turns.
roof() {
    local shapes=${ROOF:-$S $A $B} rounds=4 scheme=n4g32r threads isa work model i
    [ -z "${QUICK:-}" ] || shapes=${ROOF:-$S} rounds=1
    command -v jq >/dev/null || { echo "not measured: the roof needs jq"; return 0; }
    threads=$("$program" bench models/pocket -p 8 -n 0 -r 1 --json | jq .machine.threads)
    work=$(mktemp -d)
    micro kernels_bench --benchmark_list_tests >"$work/log"  # builds it
    if grep "^not measured" "$work/log"; then rm -rf "$work"; return 0; fi
    for isa in $(isas); do
        for model in $shapes; do
            : >"$work/shares"
            for i in $(seq $rounds); do
                for thread in $(seq "$threads"); do "$(dirname "$(dirname "$program")")/bench/micro/kernels_bench" --benchmark_filter="^roof/$scheme/$isa\$" --benchmark_format=json >"$work/roof.$thread" 2>/dev/null & done
                wait
                "$program" bench "$model" $(case $model in random:*) echo "--scheme $scheme" ;; esac) --isa "$isa" --state bf16 -p $prompt -n 0 -r 3 --json >"$work/bench"
                sed -n '/^{/,$p' -s "$work"/roof.* | jq -s --slurpfile bench "$work/bench" '
                    (map(.benchmarks[0].macs) | add / 1e9) as $roof | $bench[0].results[0].gmac_per_s as $own
                    | [$own, $roof, $own / $roof, (map(.benchmarks[0].macs_per_cycle) | add / length)]' -c >>"$work/shares"
            done
            jq -rs --arg what "$model $isa" 'def median: sort | .[(length - 1) / 2 | floor]; def fixed($n): . * pow(10; $n) | round / pow(10; $n);
                "\($what): \(map(.[0]) | median | fixed(1)) of \(map(.[1]) | median | fixed(1)) GMAC/s (\(map(.[3]) | median | fixed(1)) a cycle and core): \(map(.[2]) | median | fixed(3)) (\(map(.[2]) | min | fixed(3)) to \(map(.[2]) | max | fixed(3)))"' "$work/shares"
        done
    done
    rm -rf "$work"
}
schemes() { "$program" doctor --schemes; }
decode() {
    local list="bf16 fp16 w8g32 w8 e4m3 k256tensor k64tensor w6g32r w5g32r w4g32 k16 mxfp4 iq4nl w4g128 k16tensor w4g32r n4g32r nf4 w3g32r n3g32r n3g16t v2k64 n2g16r n2g16t n2g32r w2g32r n2g64r ternary v4k256 v2k16 binary v8k256"
    [ -z "${QUICK:-}" ] || list="w8 ternary"
    for scheme in $list; do "$program" bench $A --scheme "$scheme" -p 0 -n 32 -r $repeats; done
}
sequences() { for isa in $(isas); do "$program" bench $S --scheme w4g32 -p 0 -n $answer -r $repeats --sequences 1,2,3,4,6,8,12,16 --isa "$isa"; done; }
context() { for state in bf16 int8 int4; do "$program" bench $A --scheme n4g32r -p 0 -n 32 -r 2 -d 0,$depth --state $state; done; }
fusion() { for model in models/pocket $S; do "$program" bench "$model" --scheme w4g32 -p $prompt -n $answer -r 3 --fuse each; done; }
speculation() { for model in models/pocket $S; do "$program" bench "$model" --scheme w4g32 -p 0 -n $((2 * answer)) -r $repeats --speculate ngram; done; }
starting() {
    local cache model start
    for model in $S $B; do
        cache=$(mktemp -d)
        for start in first second; do
            echo "$start start:"
            TIMEFORMAT="%R s, with two measurements of the bandwidth"
            { time SKIFF_CACHE_DIR=$cache "$program" bench "$model" --scheme w4g32 -p 16 -n 16 -r 1; } 2>&1
        done
        rm -rf "$cache"
    done
}
pruned() {
    if [ -n "${QUICK:-}" ]; then micro pruned_bench 1 "$(isas | head -1)" w8g32 50%
    else for isa in $(isas); do for tokens in 1 4; do micro pruned_bench $tokens "$isa" pruned; micro pruned_bench $tokens "$isa" hashed; done; done; fi
}
batch() {
    command -v jq >/dev/null || { echo "not measured: tools/batch_table.sh needs jq"; return 0; }
    if [ -n "${QUICK:-}" ]; then BATCHES="1 2" TOKENS=$prompt tools/batch_table.sh "$program" $A w8
    else for model in $A $B; do tools/batch_table.sh "$program" $model; done; fi
}
rival() {
    local head=w6g32r pairs
    pairs="n4g32r/$head/$head:Q4_K_R4 n4g32r/$head/$head:IQ4_XS n3g32r/$head/$head:Q3_K_R4 n2g16r/$head/$head:Q2_K_R4"
    if [ -n "${RIVAL:-}" ]; then
        for shape in S A; do SKIFF=$program bench/rivals/ik_llama.sh "$RIVAL" bench/shapes/$shape.json 3 $pairs; done
    else
        echo "not measured: RIVAL names no build of ik_llama.cpp. docs/performance.md says how to make one; then"
        for shape in S A B; do echo "    bench/rivals/ik_llama.sh BUILD bench/shapes/$shape.json 3 $pairs"; done
    fi
}
for section in $sections; do
    [[ " $all " == *" $section "* ]] || { echo "bench.sh: no section is called $section" >&2; exit 2; }
done
for section in $sections; do
    printf '\n## %s\n\n' "$section"
    $section
done
