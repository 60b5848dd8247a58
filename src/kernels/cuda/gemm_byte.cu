// GEMM of 8-bit weights: fp8 and int8.
#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/families.h"

namespace skiff::cuda {

int gemm_byte(const GemmArgs& args, const Launch& launch) {
    if (args.weight.form == CodeForm::e4m3) return launch_gemm_form<ByteDecoder<CodeForm::e4m3>>(args, launch);
    if (args.weight.form == CodeForm::e5m2) return launch_gemm_form<ByteDecoder<CodeForm::e5m2>>(args, launch);
    if (args.weight.form == CodeForm::linear8) return launch_gemm_form<ByteDecoder<CodeForm::linear8>>(args, launch);
    return cudaErrorInvalidValue;
}

}  // namespace skiff::cuda
