// GEMV of codebooks whose levels are small integers.
#include "kernels/cuda/gemv.cuh"
#include "kernels/cuda/families.h"

namespace skiff::cuda {

int gemv_table(const GemvArgs& args, const Launch& launch) {
    if (args.weight.form == CodeForm::table4) return launch_gemv_form<ByteTableDecoder<CodeForm::table4>>(args, launch);
    if (args.weight.form == CodeForm::table3) return launch_gemv_form<ByteTableDecoder<CodeForm::table3>>(args, launch);
    if (args.weight.form == CodeForm::table2) return launch_gemv_form<ByteTableDecoder<CodeForm::table2>>(args, launch);
    if (args.weight.form == CodeForm::table1) return launch_gemv_form<ByteTableDecoder<CodeForm::table1>>(args, launch);
    return cudaErrorInvalidValue;
}

}  // namespace skiff::cuda
