// Experts of 8-bit weights: fp8 and int8.
#include "kernels/cuda/experts.cuh"
#include "kernels/cuda/families.h"

namespace skiff::cuda {

int experts_byte(const ExpertsArgs& args, const Launch& launch) {
    if (args.product.weight.form == CodeForm::e4m3) return launch_experts_form<ByteDecoder<CodeForm::e4m3>>(args, launch);
    if (args.product.weight.form == CodeForm::e5m2) return launch_experts_form<ByteDecoder<CodeForm::e5m2>>(args, launch);
    if (args.product.weight.form == CodeForm::linear8) return launch_experts_form<ByteDecoder<CodeForm::linear8>>(args, launch);
    return cudaErrorInvalidValue;
}

}  // namespace skiff::cuda
