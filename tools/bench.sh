#!/usr/bin/env bash
# bench.sh PROGRAM: prefill and decode speed of the small model and of random weights in the shape S, as float and in 4 bits.
set -euo pipefail
cd "$(dirname "$0")/.."
program=$1
"$program" bench models/pocket -p 128 -n 64 -r 5
"$program" bench random:bench/shapes/S.json -p 128 -n 64 -r 3
"$program" bench random:bench/shapes/S.json --scheme w4g32 -p 512 -n 128 -r 3
