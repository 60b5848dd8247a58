#include "base/checked.h"
#include "kernels/cuda/lane.h"
#include "kernels/cuda/launch.h"

namespace skiff::cuda {

std::int64_t operand_columns(std::int64_t n_columns) { return round_up<std::int64_t>(n_columns, 256); }

std::size_t operand_bytes(OperandForm form, std::int64_t n_tokens, std::int64_t n_columns) {
    const std::int64_t slabs = operand_columns(n_columns) / slab_columns;
    switch (form) {
        case OperandForm::rows: return static_cast<std::size_t>(n_tokens * n_columns * 2);
        case OperandForm::fragments: return static_cast<std::size_t>(ceil_div<std::int64_t>(n_tokens, 8) * slabs * 1024);
        case OperandForm::split: return static_cast<std::size_t>(ceil_div<std::int64_t>(n_tokens, 4) * slabs * 1024);
    }
    return 0;
}

OperandForm operand_form(std::int64_t n_tokens, bool own_gemm) {
    if (n_tokens <= max_gemv_tokens) return OperandForm::split;
    return own_gemm ? OperandForm::fragments : OperandForm::rows;
}

std::size_t state_page_bytes(StateForm form, std::int64_t n_kv_heads, std::int64_t head_dim) {
    const std::int64_t numbers = n_kv_heads * page_positions * head_dim, rows = n_kv_heads * page_positions;
    std::int64_t bytes = 0;
    switch (form) {
        case StateForm::bf16: bytes = numbers * 2; break;
        case StateForm::fp8: bytes = numbers; break;
        case StateForm::int8: bytes = numbers + rows * 2; break;
        case StateForm::int4: bytes = numbers / 2 + rows * ceil_div<std::int64_t>(head_dim, 32) * 2; break;
    }
    return static_cast<std::size_t>(round_up<std::int64_t>(bytes, 256));
}

}  // namespace skiff::cuda
