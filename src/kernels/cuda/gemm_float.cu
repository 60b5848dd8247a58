// GEMM of bf16, f16, f32 weights.
#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/families.h"

namespace skiff::cuda {

int gemm_float(const GemmArgs& args, const Launch& launch) {
    if (args.weight.form == CodeForm::bf16) return launch_gemm_form<PlainDecoder<CodeForm::bf16>>(args, launch);
    if (args.weight.form == CodeForm::f16) return launch_gemm_form<PlainDecoder<CodeForm::f16>>(args, launch);
    if (args.weight.form == CodeForm::f32) return launch_gemm_form<PlainDecoder<CodeForm::f32>>(args, launch);
    return cudaErrorInvalidValue;
}

}  // namespace skiff::cuda
