#!/usr/bin/env bash
# On a machine with a GPU: the suite's first stage (bench/gpu_suite), with the programs of this build.
# timeout: 600
"$SKIFF" doctor --no-measure --json | grep -q '"usable": *true' || { echo "skipped: no usable GPU here"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
BUILD=$SKIFF_BUILD_DIR RESULTS=$work bash "$SKIFF_SOURCE_DIR/bench/gpu_suite" test
