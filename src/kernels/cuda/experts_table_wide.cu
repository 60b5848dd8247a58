// Experts of tables of any levels.
#include "kernels/cuda/experts.cuh"
#include "kernels/cuda/families.h"

namespace skiff::cuda {

int experts_table_wide(const ExpertsArgs& args, const Launch& launch) {
    if (args.product.weight.form == CodeForm::table4) return launch_experts_form<WideTableDecoder<CodeForm::table4>>(args, launch);
    if (args.product.weight.form == CodeForm::table3) return launch_experts_form<WideTableDecoder<CodeForm::table3>>(args, launch);
    if (args.product.weight.form == CodeForm::table2) return launch_experts_form<WideTableDecoder<CodeForm::table2>>(args, launch);
    if (args.product.weight.form == CodeForm::table1) return launch_experts_form<WideTableDecoder<CodeForm::table1>>(args, launch);
    if (args.product.weight.form == CodeForm::table8) return launch_experts_form<Table8Decoder>(args, launch);
    return cudaErrorInvalidValue;
}

}  // namespace skiff::cuda
