// Experts of 6, 5 and 4-bit codes.
#include "kernels/cuda/experts.cuh"
#include "kernels/cuda/families.h"

namespace skiff::cuda {

int experts_linear(const ExpertsArgs& args, const Launch& launch) {
    if (args.product.weight.form == CodeForm::linear6) return launch_experts_form<LinearDecoder<CodeForm::linear6>>(args, launch);
    if (args.product.weight.form == CodeForm::linear5) return launch_experts_form<LinearDecoder<CodeForm::linear5>>(args, launch);
    if (args.product.weight.form == CodeForm::linear4) return launch_experts_form<LinearDecoder<CodeForm::linear4>>(args, launch);
    return cudaErrorInvalidValue;
}

}  // namespace skiff::cuda
