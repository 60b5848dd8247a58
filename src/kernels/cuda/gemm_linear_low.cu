// GEMM of 3, 2 and 1-bit codes.
#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/families.h"

namespace skiff::cuda {

int gemm_linear_low(const GemmArgs& args, const Launch& launch) {
    if (args.weight.form == CodeForm::linear3) return launch_gemm_form<LinearDecoder<CodeForm::linear3>>(args, launch);
    if (args.weight.form == CodeForm::linear2) return launch_gemm_form<LinearDecoder<CodeForm::linear2>>(args, launch);
    if (args.weight.form == CodeForm::linear1) return launch_gemm_form<LinearDecoder<CodeForm::linear1>>(args, launch);
    return cudaErrorInvalidValue;
}

}  // namespace skiff::cuda
