// Experts of bf16, f16, f32 weights.
#include "kernels/cuda/experts.cuh"
#include "kernels/cuda/families.h"

namespace skiff::cuda {

int experts_float(const ExpertsArgs& args, const Launch& launch) {
    if (args.product.weight.form == CodeForm::bf16) return launch_experts_form<PlainDecoder<CodeForm::bf16>>(args, launch);
    if (args.product.weight.form == CodeForm::f16) return launch_experts_form<PlainDecoder<CodeForm::f16>>(args, launch);
    if (args.product.weight.form == CodeForm::f32) return launch_experts_form<PlainDecoder<CodeForm::f32>>(args, launch);
    return cudaErrorInvalidValue;
}

}  // namespace skiff::cuda
