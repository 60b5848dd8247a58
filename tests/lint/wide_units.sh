#!/usr/bin/env bash
# Units compiled for one instruction set define no weak symbols: the linker could give such a copy of an inline function to code that runs everywhere.
set -euo pipefail
shopt -s nullglob
units="$SKIFF_BUILD_DIR/src/kernels/CMakeFiles/skiff_kernels.dir/cpu"
objects=("$units"/*_avx2.cpp.o "$units"/*_avx2vnni.cpp.o "$units"/*_avx512.cpp.o "$units"/*_avx512vbmi.cpp.o "$units"/*_avx512bf16.cpp.o "$units"/*_amx.cpp.o "$units"/*_neon*.cpp.o)
[ ${#objects[@]} -gt 0 ] || { echo "skipped: the kernels are not built in $SKIFF_BUILD_DIR"; exit 77; }
if nm "${objects[@]}" 2>/dev/null | grep '__asan\|__ubsan' >/dev/null; then echo "skipped: a build with sanitizers"; exit 77; fi
if nm -C "${objects[@]}" | grep -E ' [WwuV] '; then echo "FAILED: the symbols above are shared; keep templates and inline functions of headers out of them"; exit 1; fi
echo "${#objects[@]} units define no weak symbols"
