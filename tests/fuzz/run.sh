#!/usr/bin/env bash
# run.sh FUZZ_DIR SOURCE_DIR TARGET N_TARGETS: fuzzes one target for its share of FUZZ_SECONDS (default 60 for all targets together).
# What it finds is kept in FUZZ_DIR/corpus/TARGET and used again next time; an input that fails is in FUZZ_DIR/failures.
set -uo pipefail
fuzz_dir=$1
source_dir=$2
target=$3
n_targets=$4
if [ -e "$fuzz_dir/absent" ]; then
    cat "$fuzz_dir/absent"
    exit 77
fi
program="$fuzz_dir/tests/fuzz/$target"
if [ ! -x "$program" ]; then
    echo "$program has not been built: see the test fuzz.build"
    exit 1
fi
seconds=$((${FUZZ_SECONDS:-60} / n_targets))
found="$fuzz_dir/corpus/${target%_fuzz}"
seeds="$source_dir/corpus/${target%_fuzz}"
mkdir -p "$found" "$fuzz_dir/failures"
folders=("$found")
[ -d "$seeds" ] && folders+=("$seeds")
exec "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=512 -max_len=65536 -print_final_stats=1 -verbosity=1 \
    -artifact_prefix="$fuzz_dir/failures/$target-" "${folders[@]}"
