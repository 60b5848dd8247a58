// Experts of 3, 2 and 1-bit codes.
#include "kernels/cuda/experts.cuh"
#include "kernels/cuda/families.h"

namespace skiff::cuda {

int experts_linear_low(const ExpertsArgs& args, const Launch& launch) {
    if (args.product.weight.form == CodeForm::linear3) return launch_experts_form<LinearDecoder<CodeForm::linear3>>(args, launch);
    if (args.product.weight.form == CodeForm::linear2) return launch_experts_form<LinearDecoder<CodeForm::linear2>>(args, launch);
    if (args.product.weight.form == CodeForm::linear1) return launch_experts_form<LinearDecoder<CodeForm::linear1>>(args, launch);
    return cudaErrorInvalidValue;
}

}  // namespace skiff::cuda
