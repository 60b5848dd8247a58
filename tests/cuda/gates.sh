#!/usr/bin/env bash
# gates.sh CUOBJDUMP LIBRARY, or gates.sh --logs FILE...: what can be said of the CUDA kernels' machine code without a GPU. For each kernel and architecture: nothing spilled, registers and static shared
# memory within what the launch needs; and the instructions that its speed rests on are there (16-byte asynchronous copies past the L1, tensor-core products, matrix loads). From sm_90 on every
# kernel waits for the one before it (griddepcontrol.wait, ACQBULK in machine code): all may be launched with programmatic dependence, and one that does not wait reads what is not written yet.
# FILEs are what ptxas says when it compiles (-Xptxas -v): resources alone, for where there is no cuobjdump.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
has_code=1
if [ "${1:?}" = --logs ]; then
    has_code=0
    shift
    awk '/Compiling entry function/ { split($0, quoted, "\047"); kernel = quoted[2]; arch = quoted[4]; stack = shared = 0 }
         /bytes stack frame/ { stack = $1 }
         /: Used [0-9]+ registers/ { match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5, RLENGTH - 5)
             if (match($0, /[0-9]+ bytes smem/)) shared = substr($0, RSTART) + 0
             printf "arch = %s\n Function %s:\n  REG:%d STACK:%d SHARED:%d LOCAL:0\n", arch, kernel, registers, stack, shared }' "$@" >"$work/usage"
    : >"$work/sass"
else
    cuobjdump=$1 library=${2:?}
    "$cuobjdump" --dump-resource-usage "$library" > "$work/usage" 2>/dev/null
    "$cuobjdump" -sass "$library" 2>/dev/null | awk '/^ *arch = sm_/{print} /Function : /{print} /ACQBULK|LDGSTS|HMMA|IMMA|LDSM|LDG\.E\.128|LDG\.E\.ENL2\.256/{print}' > "$work/sass"
fi
has_cutlass=$(grep -c 7cutlass7Kernel "$work/usage" || true)
awk -v has_code=$has_code -v has_cutlass="$has_cutlass" '
# kernel (a part of its mangled name), most registers, most static shared bytes
function limit(name, registers, shared_bytes) { ++n; of[n] = name; most_registers[n] = registers; most_shared[n] = shared_bytes }
BEGIN {
    limit("expert_gemv_kernel", 128, 2048)
    limit("gemv_kernel", 128, 0)               # 256 threads: two blocks an SM and more
    limit("gemv_digits_kernel", 128, 0)        # up to 512 threads, alone on an SM; with one block of tokens 768, below
    limit("gemm_kernel", 255, 2048)
    limit("decode_attention_kernel", 255, 256)
    limit("prefill_attention_kernel", 255, 0)
    limit("gather_kernel", 255, 20480)         # 64 threads
    limit("rope_write_kernel", 128, 4096)
    limit("sample_kernel", 128, 2560)
    limit("fp8_rows_kernel", 128, 4352)        # 16 rows of 256 codes
    limit("gram_kernel", 128, 17408)           # 128 threads: four blocks an SM
    if (has_cutlass) limit("7cutlass7Kernel", 255, 0)  # 128 threads; never launched with programmatic dependence
    limit("", 128, 4096)                       # all others
}
/^ *arch = sm_/ { arch = $NF; next }
FILENAME ~ /usage$/ && /^ *Function / { kernel = $2; sub(/:$/, "", kernel); kernel = arch " " kernel; used[kernel] = 1; next }
FILENAME ~ /usage$/ && /REG:/ {
    split("", value)
    for (i = 1; i <= NF; ++i) { split($i, pair, ":"); value[pair[1]] = pair[2] }
    for (i = 1; i <= n && index(kernel, of[i]) == 0; ++i) ;
    ++n_kernels; ++seen[of[i]]
    # A block that is launched with shared memory has 1024 bytes of the system on sm_90.
    if (value["STACK"] + value["LOCAL"] > 0) complain(kernel ": " value["STACK"] + value["LOCAL"] " bytes of stack or spilled")
    if (kernel ~ /expert_gemv_kernelINS0_(16WideTableDecoderILNS0_8CodeFormE13|12PlainDecoderILNS0_8CodeFormE[01])EEELi2E/) most = 255  # alone on an SM (experts.cuh)
    else most = most_registers[i]
    if (value["REG"] + 0 > most) complain(kernel ": " value["REG"] " registers, at most " most)
    if (index(kernel, "gemv_digits_kernel") && index(kernel, "ELi1EEEv") && value["REG"] + 0 > 80) complain(kernel ": " value["REG"] " registers, at most 80 for 768 threads")
    if (value["SHARED"] + 0 > most_shared[i] + 1024) complain(kernel ": " value["SHARED"] " bytes of shared memory, at most " most_shared[i])
    next
}
function complain(text) { print text; ++problems }
FILENAME ~ /sass$/ && /Function : / { kernel = arch " " $NF; functions[kernel] = 1; next }
FILENAME ~ /sass$/ && /ACQBULK/ { waits[kernel]++; next }
FILENAME ~ /sass$/ && /LDGSTS/ && /128/ { copies[kernel]++; next }
FILENAME ~ /sass$/ && /HMMA\.SP\.16832\.F32\.BF16/ { sparse_products[kernel]++; next }
FILENAME ~ /sass$/ && /HMMA\.16816\.F32\.BF16/ { products[kernel]++; next }
FILENAME ~ /sass$/ && /IMMA\.16832\.S8\.S8/ { byte_products[kernel]++; next }
FILENAME ~ /sass$/ && /LDSM/ { matrices[kernel]++; next }
FILENAME ~ /sass$/ && /LDG\.E\.128/ { loads[kernel]++; next }
END {
    for (kernel in functions) {
        digits = index(kernel, "gemv_digits_kernel")
        matrix = index(kernel, "gemv_kernel") || index(kernel, "gemm_kernel") || digits
        attention = index(kernel, "attention_kernel")
        sparse = matrix && index(kernel, "TwoOfFour")
        if (digits && (!byte_products[kernel] || products[kernel])) complain(kernel ": bytes are not multiplied by the tensor cores")
        if ((matrix || attention) && !sparse && !digits && !products[kernel]) complain(kernel ": no tensor-core products")
        if (sparse && (!sparse_products[kernel] || products[kernel])) complain(kernel ": kept columns are not multiplied by the sparse tensor cores")
        if (index(kernel, "gram_kernel") && !products[kernel]) complain(kernel ": no tensor-core products")
        if (attention && !matrices[kernel]) complain(kernel ": no ldmatrix")
        if (matrix && !copies[kernel]) complain(kernel ": weights are not copied 16 bytes at a time")
        if (attention && index(kernel, "ELb1E") && !copies[kernel]) complain(kernel ": keys and values of bf16 are not copied 16 bytes at a time")
        split(kernel, words, " ")
        if (substr(words[1], 4) + 0 >= 90 && !waits[kernel] && !index(kernel, "7cutlass7Kernel")) complain(kernel ": does not wait for the kernel before it")
        if (attention && !copies[kernel] && !loads[kernel]) complain(kernel ": the state is not read 16 bytes at a time")
        if (index(kernel, "gather_kernel") && !loads[kernel]) complain(kernel ": weights are not read 16 bytes at a time")
    }
    if (has_code) for (kernel in used) if (!(kernel in functions)) complain(kernel ": no machine code to look at")
    if (n_kernels + 0 == 0) complain("no kernel at all")
    for (i = 1; i < n; ++i) if (!seen[of[i]]) complain("no kernel is called " of[i])
    if (problems) { printf "gates: %d problem(s) in %d kernels\n", problems, n_kernels; exit 1 }
    printf "gates: %d kernels in order%s\n", n_kernels, has_code ? "" : ", by what ptxas said"
}' "$work/usage" "$work/sass"
