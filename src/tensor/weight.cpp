#include "tensor/weight.h"

#include "base/checked.h"
#include "base/memory_pages.h"

namespace skiff {

void Weight::row(std::int64_t row, float* target) const {
    const std::int64_t n = n_columns();
    if (n == 0) return;
    if (const auto* view = plain()) {
        const DTypeInfo& info = dtype_info(view->dtype);
        if (info.to_float != nullptr) info.to_float(view->data.data() + row * n * info.bits / 8, n, target);
    } else if (const auto* quantized = codes()) {
        decode_codes_row(quantized->scheme, sections_of(*quantized), row, n, target);
    } else if (const auto* packed = blocks()) {
        const BlockFormat& format = block_format(packed->type);
        format.decode(packed->data.data() + row * (n / format.block_size) * format.block_bytes, n, target);
    } else if (const auto* kept = sparse()) {
        decode_sparse_row(*kept, row, n, target);
    } else if (const auto* listed = outliers()) {
        decode_outlier_row(*listed, row, n, target);
    } else if (const auto* shared = hashed()) {
        decode_hashed_row(*shared, row, target);
    }
}

std::uint64_t Weight::stored_bytes() const {
    if (const auto* view = plain()) return view->data.size();
    if (const auto* packed = blocks()) return packed->data.size();
    if (const auto* kept = sparse()) return kept->stored_bytes();
    if (const auto* listed = outliers()) return listed->values.data.size() + listed->columns.data.size() + listed->rows.data.size();
    if (const auto* shared = hashed()) return shared->bank->stored_bytes() + 32;  // and four numbers that are the hash
    const Codes& quantized = *codes();
    std::uint64_t bytes = 0;
    for (const TensorView* part : {&quantized.packed, &quantized.scales, &quantized.zeros, &quantized.super_scales, &quantized.minimums, &quantized.super_minimums, &quantized.books})
        bytes += part->data.size();
    return bytes;
}

std::string Weight::encoding_name() const {
    if (const auto* view = plain()) return std::string(dtype_info(view->dtype).name);
    if (const auto* quantized = codes()) return quantized->scheme.name();
    if (const auto* kept = sparse()) return kept->scheme.name() + " of " + kept->pattern.name();
    if (const auto* listed = outliers()) return std::string(dtype_info(listed->values.dtype).name) + " outliers";
    if (const auto* shared = hashed()) return shared->bank->encoding_name() + " hashed 1:" + std::to_string(shared->hash.shared);
    return std::string(block_format(blocks()->type).name);
}

Weight make_float_weight(Shape shape, std::vector<float> values) {
    auto owner = std::make_shared<std::vector<float>>(std::move(values));
    TensorView view{DType::f32, shape, std::as_bytes(std::span<const float>(*owner))};
    return {std::move(shape), std::move(view), std::move(owner)};
}

Weight make_plain_weight(Shape shape, DType dtype, std::vector<std::byte> bytes) {
    auto owner = std::make_shared<std::vector<std::byte>>(std::move(bytes));
    TensorView view{dtype, shape, std::span<const std::byte>(*owner)};
    return {std::move(shape), std::move(view), std::move(owner)};
}

Weight transposed(const Weight& plain_matrix) {
    const TensorView& view = *plain_matrix.plain();
    const std::int64_t n_rows = view.shape[1], n_columns = view.shape[0], size = dtype_info(view.dtype).bits / 8;
    constexpr std::int64_t tile = 32;  // so that both sides stay in the cache
    std::vector<std::byte> bytes(view.data.size());
    for (std::int64_t row_begin = 0; row_begin < n_rows; row_begin += tile)
        for (std::int64_t column = 0; column < n_columns; ++column)
            for (std::int64_t row = row_begin; row < std::min(n_rows, row_begin + tile); ++row)
                std::memcpy(bytes.data() + (row * n_columns + column) * size, view.data.data() + (column * n_rows + row) * size, static_cast<std::size_t>(size));
    return make_plain_weight({n_rows, n_columns}, view.dtype, std::move(bytes));
}

void release_pages(const Weight& weight) {
    if (const auto* shared = weight.hashed()) return release_pages(*shared->bank);
    if (!weight.file_backed) return;
    if (const auto* view = weight.plain()) give_back_pages(view->data);
    if (const auto* blocks = weight.blocks()) give_back_pages(blocks->data);
    if (const auto* codes = weight.codes()) {
        give_back_pages(codes->packed.data);  // zeros may be a copy
        give_back_pages(codes->scales.data);
    }
}

}  // namespace skiff
