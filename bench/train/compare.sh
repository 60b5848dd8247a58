#!/usr/bin/env bash
# Time to the same loss: `skiff train` against plain_loop.py, from the same weights, over the same windows in the same order, with the same
# optimizer, batch and threads; one after the other, several times.
#   bench/train/compare.sh CONFIG.json TOKENIZER TEXT [ROUNDS=2] [STEPS=30] [PRECISION=bf16|f32]
# PYTHON is one with torch, numpy and safetensors. Prints a row per run and the medians.
set -euo pipefail
config=$1 tokenizer=$2 text=$3 rounds=${4:-2} steps=${5:-30} precision=${6:-bf16}
here=$(cd "$(dirname "$0")" && pwd)
skiff=${SKIFF:-$here/../../build/bin/skiff}
python=${PYTHON:-python3}
threads=${THREADS:-$(nproc)}
batch=${BATCH:-16} lr=1e-3 warmup=10
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
case $precision in bf16) dtype=bfloat16 ;; f32) dtype=float32 ;; *) echo "precision: bf16 or f32" >&2; exit 2 ;; esac

"$skiff" train --pack "$work/corpus.tokens" "random:$config" --tokenizer "$tokenizer" --data "$text" >/dev/null 2>&1
common=(--data "$work/corpus.tokens" --tokenizer "$tokenizer" --batch "$batch" --save-every 0 --eval-every 0)
# Weights that have seen a few steps: a fresh model's first losses say little.
"$skiff" train "random:$config" "${common[@]}" -o "$work/begin" --steps 20 --lr 3e-3 --dtype F32 --precision "$precision" -t "$threads" >/dev/null 2>&1

ours() {
    "$skiff" train "$work/begin" "${common[@]}" -o "$work/ours" --force --steps "$steps" --lr $lr --warmup $warmup --precision "$precision" -t "$threads" \
        --dump-windows "$work/windows.txt" "$@" --json >"$work/ours.json" 2>"$work/log" || { cat "$work/log"; exit 1; }
    cut -d, -f1,3,6 "$work/ours/train.csv" | tail -n +2 >"$work/ours.csv"
    peak=$(sed -n 's/^ *"peak_memory_bytes": \([0-9]*\).*/\1/p' "$work/ours.json")
}
plain() {
    # glibc keeps large blocks, as ours does: some ten percent for the plain loop.
    MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184 "$python" "$here/plain_loop.py" --init "$work/begin" --tokens "$work/corpus.tokens" \
        --windows "$work/windows.txt" --context "$(sed -n 's/.*"max_position_embeddings": *\([0-9]*\).*/\1/p' "$config")" --batch "$batch" --accumulate 1 \
        --steps "$steps" --lr $lr --warmup $warmup --dtype $dtype --threads "$threads" --csv "$work/plain_raw.csv" "$@" >"$work/plain.log" 2>&1 || { tail -5 "$work/plain.log"; exit 1; }
    tr -d '\r' <"$work/plain_raw.csv" | awk -F, 'NR == 1 { for (i = 1; i <= NF; ++i) at[$i] = i; next } { print $at["step"] "," $at["loss"] "," $at["seconds"] }' >"$work/plain.csv"
    peak=$(sed -n 's/.*peak[^0-9]*\([0-9.]*\) *MiB.*/\1/p' "$work/plain.log" | awk '{ printf "%.0f", $1 * 1048576 }')
}
# The loss is the mean over the last five steps; the time is that of the steps after the second, which warm up caches and compilers.
row() {
    awk -F, -v name="$1" -v peak="$peak" -v out="$work/rows" '{ step[NR] = $1; loss[NR] = $2; time[NR] = $3 } END {
        for (i = NR - 4; i <= NR; ++i) mean += loss[i] / 5
        seconds = (time[NR] - time[2]) / (NR - 2) * NR
        printf "%-22s %8.2f s  loss %.4f  peak %.0f MiB\n", name, seconds, mean, peak / 1048576
        print name "," seconds >> out }' "$2"
}
for round in $(seq "$rounds"); do
    ours; row skiff "$work/ours.csv"
    plain; row plain "$work/plain.csv"
    if [ -n "${COMPILE:-}" ]; then plain --compile; row plain-compiled "$work/plain.csv"; fi
done
awk -F, '{ n[$1]++; v[$1, n[$1]] = $2 } END {
    for (name in n) { for (i = 1; i <= n[name]; ++i) for (j = i + 1; j <= n[name]; ++j) if (v[name, j] < v[name, i]) { t = v[name, i]; v[name, i] = v[name, j]; v[name, j] = t }
        median[name] = (v[name, int((n[name] + 1) / 2)] + v[name, int(n[name] / 2) + 1]) / 2 }
    for (name in n) if (name != "skiff") printf "skiff takes %.1f %% less time than %s\n", 100 * (1 - median["skiff"] / median[name]), name }' "$work/rows"
