// GEMV of 8-bit weights: fp8 and int8.
#include "kernels/cuda/gemv.cuh"
#include "kernels/cuda/families.h"

namespace skiff::cuda {

int gemv_byte(const GemvArgs& args, const Launch& launch) {
    if (args.weight.form == CodeForm::e4m3) return launch_gemv_form<ByteDecoder<CodeForm::e4m3>>(args, launch);
    if (args.weight.form == CodeForm::e5m2) return launch_gemv_form<ByteDecoder<CodeForm::e5m2>>(args, launch);
    if (args.weight.form == CodeForm::linear8) return launch_gemv_form<Linear8Decoder>(args, launch);
    return cudaErrorInvalidValue;
}

}  // namespace skiff::cuda
