// GEMM of codebooks whose levels are small integers.
#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/families.h"

namespace skiff::cuda {

int gemm_table(const GemmArgs& args, const Launch& launch) {
    if (args.weight.form == CodeForm::table4) return launch_gemm_form<TableDecoder<CodeForm::table4>>(args, launch);
    if (args.weight.form == CodeForm::table3) return launch_gemm_form<TableDecoder<CodeForm::table3>>(args, launch);
    if (args.weight.form == CodeForm::table2) return launch_gemm_form<TableDecoder<CodeForm::table2>>(args, launch);
    if (args.weight.form == CodeForm::table1) return launch_gemm_form<TableDecoder<CodeForm::table1>>(args, launch);
    return cudaErrorInvalidValue;
}

}  // namespace skiff::cuda
