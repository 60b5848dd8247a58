// GEMM of 6, 5 and 4-bit codes.
#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/families.h"

namespace skiff::cuda {

int gemm_linear(const GemmArgs& args, const Launch& launch) {
    if (args.weight.form == CodeForm::linear6) return launch_gemm_form<LinearDecoder<CodeForm::linear6>>(args, launch);
    if (args.weight.form == CodeForm::linear5) return launch_gemm_form<LinearDecoder<CodeForm::linear5>>(args, launch);
    if (args.weight.form == CodeForm::linear4) return launch_gemm_form<LinearDecoder<CodeForm::linear4>>(args, launch);
    return cudaErrorInvalidValue;
}

}  // namespace skiff::cuda
