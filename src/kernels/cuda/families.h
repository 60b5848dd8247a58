// The matrix kernels by the forms of weight that one file instantiates.
#pragma once

#include "kernels/cuda/launch.h"

namespace skiff::cuda {

enum class Family : std::uint8_t { plain, byte, linear, linear_low, table, table_wide, two_of_four };
inline Family family_of(const GpuWeight& weight) {
    if (weight.two_of_four) return Family::two_of_four;
    switch (weight.form) {
        case CodeForm::f32:
        case CodeForm::f16:
        case CodeForm::bf16: return Family::plain;
        case CodeForm::e4m3:
        case CodeForm::e5m2:
        case CodeForm::linear8: return Family::byte;
        case CodeForm::linear6:
        case CodeForm::linear5:
        case CodeForm::linear4: return Family::linear;
        case CodeForm::linear3:
        case CodeForm::linear2:
        case CodeForm::linear1: return Family::linear_low;
        case CodeForm::table8: return Family::table_wide;
        default: return weight.table_exact && !weight.table_per_row ? Family::table : Family::table_wide;
    }
}

int gemv_float(const GemvArgs& args, const Launch& launch);
int gemv_byte(const GemvArgs& args, const Launch& launch);
int gemv_linear(const GemvArgs& args, const Launch& launch);
int gemv_linear_low(const GemvArgs& args, const Launch& launch);
int gemv_table(const GemvArgs& args, const Launch& launch);
int gemv_two_of_four(const GemvArgs& args, const Launch& launch);
int gemv_table_wide(const GemvArgs& args, const Launch& launch);
int gemm_float(const GemmArgs& args, const Launch& launch);
int gemm_byte(const GemmArgs& args, const Launch& launch);
int gemm_linear(const GemmArgs& args, const Launch& launch);
int gemm_linear_low(const GemmArgs& args, const Launch& launch);
int gemm_table(const GemmArgs& args, const Launch& launch);
int gemm_two_of_four(const GemmArgs& args, const Launch& launch);
int gemm_table_wide(const GemmArgs& args, const Launch& launch);

int experts_float(const ExpertsArgs& args, const Launch& launch);
int experts_byte(const ExpertsArgs& args, const Launch& launch);
int experts_linear(const ExpertsArgs& args, const Launch& launch);
int experts_linear_low(const ExpertsArgs& args, const Launch& launch);
int experts_table(const ExpertsArgs& args, const Launch& launch);
int experts_two_of_four(const ExpertsArgs& args, const Launch& launch);
int experts_table_wide(const ExpertsArgs& args, const Launch& launch);

}  // namespace skiff::cuda
