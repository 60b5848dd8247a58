// Experts of weights of which two of every four columns are kept: bf16, 8-bit and 4-bit codes.
#include "kernels/cuda/experts.cuh"
#include "kernels/cuda/families.h"

namespace skiff::cuda {

int experts_two_of_four(const ExpertsArgs& args, const Launch& launch) {
    if (args.product.weight.form == CodeForm::bf16) return launch_experts_form<TwoOfFour<PlainDecoder<CodeForm::bf16>>>(args, launch);
    if (args.product.weight.form == CodeForm::linear8) return launch_experts_form<TwoOfFour<ByteDecoder<CodeForm::linear8>>>(args, launch);
    if (args.product.weight.form == CodeForm::linear4) return launch_experts_form<TwoOfFour<LinearDecoder<CodeForm::linear4>>>(args, launch);
    return cudaErrorInvalidValue;
}

}  // namespace skiff::cuda
