// A second copy of plain weights, for prompts: the own kernels read matrices in the order of the tensor cores' fragments, cuBLASLt wants rows. Written out for every run, they cost a
// quarter of the products' time at 2048 tokens; where the device has memory to spare, they are written out once.
#include <cstdio>

#include "backend/cuda/cuda_session.h"
#include "backend/cuda/device_weights.h"

namespace skiff::cuda {
namespace {

constexpr std::uint64_t share_of_free = 4;  // at most a quarter of what is free when all else is there

}  // namespace

Status CudaSession::keep_rows() {
    if (options_.matmul == Matmul::own || most_tokens_ < matmul_min_tokens) return {};
    std::map<const void*, GpuWeight> weights;  // by codes: layers may share
    for (const DeviceOp& op : model_.ops) {
        if (std::holds_alternative<SelectDevice>(op.detail)) break;  // the head has a row a sequence
        for (const MatrixDevice& matrix : matrices_of(op)) {
            if (matrix.weight.form != CodeForm::bf16 || matrix.weight.two_of_four || is_imaginary(matrix.weight)) continue;
            weights.emplace(matrix.weight.codes, matrix.weight);
        }
    }
    std::uint64_t size_bytes = 0;
    for (const auto& [codes, weight] : weights) size_bytes += kept_row_bytes(weight);
    SKIFF_TRY(const std::uint64_t available, device_->free_bytes());
    if (weights.empty() || size_bytes > available / share_of_free) return {};
    for (const auto& [codes, weight] : weights) {
        const auto taken = device_->allocate(kept_row_bytes(weight), "rows of a matrix");
        if (!taken.ok()) {  // somebody else took the memory meanwhile: without, then
            for (const auto& [of, rows] : kept_rows_) device_->release(rows);
            kept_rows_.clear();
            return {};
        }
        std::byte* rows = *taken;
        SKIFF_CHECK(device_->check(device_->table().dequantize({weight, 0, std::int64_t{weight.n_tiles} * 16, rows, kept_row_stride(weight)}, device_->launch()), "writing out a matrix"));
        kept_rows_.emplace(codes, rows);
    }
    char text[128];
    std::snprintf(text, sizeof text, "prompts' products read a second copy of the weights: %.2f GiB of the device's free memory", static_cast<double>(size_bytes) / (1 << 30));
    plan_.remarks.emplace_back(text);
    return {};
}

}  // namespace skiff::cuda
