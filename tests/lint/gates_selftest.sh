#!/usr/bin/env bash
# tests/cuda/gates.sh finds each kind of fault that is planted in what cuobjdump or ptxas would print, and accepts the listing without it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
kernels="gemv_kernel gemv_digits_kernelILi2EEEv gemm_kernel decode_attention_kernel prefill_attention_kernel gather_kernel expert_gemv_kernel rope_write_kernel sample_kernel fp8_rows_kernel gram_kernel decode_attention_kernelELb1E gemm_kernelTwoOfFour"
architectures="sm_80 sm_90a"
cat >"$work/cuobjdump" <<'END'
#!/usr/bin/env bash
case $1 in -sass) cat "${0%/*}/code" ;; *) cat "${0%/*}/resources" ;; esac
END
chmod +x "$work/cuobjdump"
fresh() {
    local arch kernel product
    : >"$work/code"
    : >"$work/resources"
    : >"$work/ptxas"
    for arch in $architectures; do
        printf '\nFatbin elf code:\n================\narch = %s\ncode version = [1,8]\n' "$arch" | tee -a "$work/code" >>"$work/resources"
        printf 'Resource usage:\n Common:\n  GLOBAL:0\n' >>"$work/resources"
        for kernel in $kernels; do
            printf ' Function _Z%s:\n  REG:100 STACK:0 SHARED:1024 LOCAL:0 TEXTURE:0\n' "$kernel" >>"$work/resources"
            printf "ptxas info    : Compiling entry function '_Z%s' for '%s'\nptxas info    : Function properties for _Z%s\n    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n" "$kernel" "$arch" "$kernel" >>"$work/ptxas"
            printf 'ptxas info    : Used 100 registers, used 1 barriers, 16 bytes smem, 792 bytes cmem[0]\nptxas info    : Compile time = 1.0 ms\n' >>"$work/ptxas"
            printf '\t\tFunction : _Z%s\n' "$kernel" >>"$work/code"
            printf '        /*0100*/   LDGSTS.E.BYPASS.128 [R1], [R2.64] ; // %s %s\n' "$arch" "$kernel" >>"$work/code"
            case $kernel in *TwoOfFour) product=HMMA.SP.16832.F32.BF16 ;; *digits*) product=IMMA.16832.S8.S8 ;; *) product=HMMA.16816.F32.BF16 ;; esac
            printf '        /*0110*/   %s R1, R2, R3 ; // %s %s\n' "$product" "$arch" "$kernel" >>"$work/code"
            printf '        /*0118*/   ACQBULK ; // %s %s\n' "$arch" "$kernel" >>"$work/code"
            printf '        /*0120*/   LDSM.16.M88.4 R1, [R2] ; // %s %s\n' "$arch" "$kernel" >>"$work/code"
            printf '        /*0130*/   LDG.E.128 R1, [R2] ; // %s %s\n' "$arch" "$kernel" >>"$work/code"
        done
    done
}
# check [FILE]: by what ptxas says where FILE is ptxas, else by cuobjdump.
check() {
    if [ "${1:-}" = ptxas ]; then set -- --logs "$work/ptxas"; else set -- "$work/cuobjdump" library; fi
    bash "$SKIFF_SOURCE_DIR/tests/cuda/gates.sh" "$@" >"$work/log" 2>&1
}
# plant FILE SED WORDS: with the listing changed, the gates must fail and say WORDS.
plant() {
    fresh
    sed -i "$2" "$work/$1"
    if check "$1"; then echo "FAILED: not noticed: $2 in $1"; exit 1; fi
    grep -qF -- "$3" "$work/log" || { echo "FAILED: wrong message for $2 in $1:"; cat "$work/log"; exit 1; }
}
fresh
check || { echo "FAILED: a listing in order was refused:"; cat "$work/log"; exit 1; }
grep -q "26 kernels in order" "$work/log" || { cat "$work/log"; echo "FAILED: not every kernel was counted"; exit 1; }
plant code '/HMMA.*sm_90a gemv_kernel/d' "sm_90a _Zgemv_kernel: no tensor-core products"
plant code '/LDGSTS.*sm_80 gemm_kernel/d' "sm_80 _Zgemm_kernel: weights are not copied"
plant code '/LDSM.*sm_90a decode_attention/d' "sm_90a _Zdecode_attention_kernel: no ldmatrix"
plant code '/LDG\.E.*sm_80 gather/d' "sm_80 _Zgather_kernel: weights are not read"
plant code '/Function : _Zsample/d' "_Zsample_kernel: no machine code"
plant code '/HMMA.*sm_80 gram/d' "sm_80 _Zgram_kernel: no tensor-core products"
plant code '/ACQBULK.*sm_90a rope_write/d' "sm_90a _Zrope_write_kernel: does not wait"
plant code '/LDGSTS.*sm_80 decode_attention_kernelELb1E/d' "sm_80 _Zdecode_attention_kernelELb1E: keys and values of bf16 are not copied"
plant code '/IMMA.*sm_80/d' "sm_80 _Zgemv_digits_kernelILi2EEEv: bytes are not multiplied"
plant code '/HMMA\.SP.*sm_80/d' "sm_80 _Zgemm_kernelTwoOfFour: kept columns are not multiplied"
plant code 'd' "no machine code"
plant resources 'd' "no kernel at all"
plant resources '0,/STACK:0/s/STACK:0/STACK:8/' "bytes of stack or spilled"
plant resources '/_Zgemv/{n;s/REG:100/REG:200/}' "200 registers"
plant resources '/_Zrope/{n;s/SHARED:1024/SHARED:9000/}' "bytes of shared memory"
# By what ptxas says, where there is no cuobjdump.
fresh
check ptxas || { echo "FAILED: resources in order were refused:"; cat "$work/log"; exit 1; }
grep -q "26 kernels in order" "$work/log" || { cat "$work/log"; echo "FAILED: not every kernel was counted in what ptxas said"; exit 1; }
plant ptxas 'd' "no kernel at all"
plant ptxas '0,/0 bytes stack/s/0 bytes stack frame, 0 bytes spill/8 bytes stack frame, 8 bytes spill/' "8 bytes of stack or spilled"
plant ptxas '0,/Used 100/s/Used 100/Used 200/' "200 registers"
plant ptxas '0,/16 bytes smem/s/16 bytes smem/90000 bytes smem/' "bytes of shared memory"
plant ptxas '/sample_kernel/d' "no kernel is called sample_kernel"
echo "every planted fault was found"
