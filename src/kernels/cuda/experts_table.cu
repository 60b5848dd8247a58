// Experts of codebooks whose levels are small integers.
#include "kernels/cuda/experts.cuh"
#include "kernels/cuda/families.h"

namespace skiff::cuda {

int experts_table(const ExpertsArgs& args, const Launch& launch) {
    if (args.product.weight.form == CodeForm::table4) return launch_experts_form<TableDecoder<CodeForm::table4>>(args, launch);
    if (args.product.weight.form == CodeForm::table3) return launch_experts_form<TableDecoder<CodeForm::table3>>(args, launch);
    if (args.product.weight.form == CodeForm::table2) return launch_experts_form<TableDecoder<CodeForm::table2>>(args, launch);
    if (args.product.weight.form == CodeForm::table1) return launch_experts_form<TableDecoder<CodeForm::table1>>(args, launch);
    return cudaErrorInvalidValue;
}

}  // namespace skiff::cuda
