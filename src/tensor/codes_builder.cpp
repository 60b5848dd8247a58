#include "tensor/codes_builder.h"

#include <bit>
#include <cmath>

#include "base/checked.h"

namespace skiff {
namespace {

constexpr float negligible = 0x1p-100f;  // as in grid_parts.h: such a group has scale 0 on purpose

// Which types scales may have when they are chosen here: others are only read.
bool scales_can_be_chosen(const Scheme& scheme) {
    const DType dtype = scheme.scale_dtype;
    const bool fine = dtype == DType::f16 || dtype == DType::bf16 || dtype == DType::f32 || (dtype == DType::f8_e8m0 && scheme.kind == NumberKind::codebook);
    const DType super = scheme.super_dtype;
    const bool supers = scheme.group_size > 0 && scheme.super_size % scheme.group_size == 0 && (super == DType::f32 || super == DType::f16 || super == DType::bf16);
    return fine || (supers && (scheme.scale_book != nullptr ? dtype == DType::u8 : dtype == DType::i8));
}

// Codes of a table of scales, two to a byte.
void store_table_codes(const RowParams& params, std::byte* target) {
    for (std::size_t group = 0; group < params.groups.size(); ++group) {
        const auto code = static_cast<std::byte>(params.groups[group].scale_code << group % 2 * 4);
        target[group / 2] = group % 2 == 0 ? code : target[group / 2] | code;
    }
}

}  // namespace

// Where each section of a quantized weight lies in one buffer.
struct CodesBuilder::Buffer {
    AlignedBuffer memory;
    std::byte *packed = nullptr, *scales = nullptr, *zeros = nullptr, *super_scales = nullptr, *books = nullptr;
};

CodesBuilder::CodesBuilder(const Scheme& scheme, std::int64_t n_rows, std::int64_t n_columns)
    : scheme_(scheme), n_rows_(n_rows), n_columns_(n_columns), row_bytes_(code_row_bytes(scheme, n_columns)), buffer_(std::make_shared<Buffer>()) {
    std::size_t n_bytes = 0;
    const auto place = [&](std::int64_t row_bytes) {
        const std::size_t at = n_bytes;
        n_bytes = round_up<std::size_t>(at + static_cast<std::size_t>(n_rows * row_bytes), 64);
        return at;
    };
    const std::int64_t one_table_bytes = scheme.one_table ? std::int64_t{scheme.n_levels} * scheme.scale_bits() / 8 : 0;
    const std::size_t packed_at = place(row_bytes_.packed), scales_at = place(row_bytes_.scales), one_table_at = n_bytes;
    n_bytes = round_up<std::size_t>(n_bytes + static_cast<std::size_t>(one_table_bytes), 64);
    const std::size_t zeros_at = place(row_bytes_.zeros), supers_at = place(row_bytes_.super_scales);
    const std::size_t books_at = n_bytes;
    n_bytes += static_cast<std::size_t>(scheme.n_books * scheme.n_levels * scheme.vector);
    buffer_->memory = AlignedBuffer(n_bytes);
    buffer_->books = buffer_->memory.data() + books_at;
    buffer_->packed = buffer_->memory.data() + packed_at;
    buffer_->scales = buffer_->memory.data() + (scheme.one_table ? one_table_at : scales_at);
    buffer_->zeros = buffer_->memory.data() + zeros_at;
    buffer_->super_scales = buffer_->memory.data() + supers_at;
}

void CodesBuilder::set_row(std::int64_t row, std::span<const std::uint8_t> codes, const RowParams& params) {
    pack_codes(codes.data(), scheme_.bits, n_columns_, buffer_->packed + row * row_bytes_.packed);
    set_params(row, params);
}

void CodesBuilder::set_row(std::int64_t row, std::span<const std::uint16_t> codes, const RowParams& params) {
    pack_wide_codes(codes.data(), scheme_.bits, scheme_.n_codes(n_columns_), buffer_->packed + row * row_bytes_.packed);
    set_params(row, params);
}

void CodesBuilder::set_books(std::span<const std::int8_t> books) { std::memcpy(buffer_->books, books.data(), books.size()); }

void CodesBuilder::set_params(std::int64_t row, const RowParams& params) {
    std::vector<float> scales(params.groups.size());
    for (std::size_t group = 0; group < params.groups.size(); ++group) {
        const GroupParams& own = params.groups[group];
        scales[group] = scheme_.relative_scales() ? static_cast<float>(own.scale_code) : own.scale;
        if (row_bytes_.zeros > 0) buffer_->zeros[row * row_bytes_.zeros + static_cast<std::int64_t>(group)] = static_cast<std::byte>(own.zero);
    }
    const auto store = [row](DType dtype, const std::vector<float>& values, std::byte* section, std::int64_t row_bytes) {
        if (row_bytes > 0) dtype_info(dtype).from_float(values.data(), static_cast<std::int64_t>(values.size()), section + row * row_bytes);
    };
    if (scheme_.scale_book != nullptr) store_table_codes(params, buffer_->scales + row * row_bytes_.scales);
    else store(scheme_.scale_dtype, scales, buffer_->scales, row_bytes_.scales);
    store(scheme_.super_dtype, params.super_scales, buffer_->super_scales, row_bytes_.super_scales);
}

void CodesBuilder::set_row(std::int64_t row, std::span<const std::uint8_t> codes, std::span<const float> levels) {
    pack_codes(codes.data(), scheme_.bits, n_columns_, buffer_->packed + row * row_bytes_.packed);
    if (!scheme_.one_table) dtype_info(scheme_.scale_dtype).from_float(levels.data(), static_cast<std::int64_t>(levels.size()), buffer_->scales + row * row_bytes_.scales);
}

void CodesBuilder::set_levels_of_all(std::span<const float> levels) {
    dtype_info(scheme_.scale_dtype).from_float(levels.data(), static_cast<std::int64_t>(levels.size()), buffer_->scales);
}

Weight CodesBuilder::finish() {
    const auto view = [this](DType dtype, std::int64_t n_items, const std::byte* section, std::int64_t row_bytes) {
        return TensorView{dtype, {n_rows_, n_items}, {section, static_cast<std::size_t>(n_rows_ * row_bytes)}};
    };
    Codes codes;
    codes.scheme = scheme_;
    codes.packed = view(DType::i32, row_bytes_.packed / 4, buffer_->packed, row_bytes_.packed);
    const std::int64_t level_bytes = std::int64_t{scheme_.n_levels} * scheme_.scale_bits() / 8;
    if (scheme_.one_table) codes.scales = {scheme_.scale_dtype, {1, scheme_.n_levels}, {buffer_->scales, static_cast<std::size_t>(level_bytes)}};
    else if (scheme_.kind == NumberKind::clusters) codes.scales = view(scheme_.scale_dtype, scheme_.n_groups(n_columns_) * scheme_.n_levels, buffer_->scales, row_bytes_.scales);
    else codes.scales = view(scheme_.scale_dtype, scheme_.scale_book != nullptr ? row_bytes_.scales : scheme_.n_groups(n_columns_), buffer_->scales, row_bytes_.scales);
    if (scheme_.stores_zeros()) codes.zeros = view(DType::u8, scheme_.n_groups(n_columns_), buffer_->zeros, row_bytes_.zeros);
    if (scheme_.relative_scales()) codes.super_scales = view(scheme_.super_dtype, scheme_.n_supers(n_columns_), buffer_->super_scales, row_bytes_.super_scales);
    const Shape books = {std::int64_t{scheme_.n_books} * scheme_.n_levels, scheme_.vector};
    if (scheme_.kind == NumberKind::vectors) codes.books = {DType::i8, books, {buffer_->books, static_cast<std::size_t>(element_count(books))}};
    return Weight{{n_rows_, n_columns_}, std::move(codes), std::move(buffer_)};
}

Status check_can_encode(const Weight& source, const Scheme& scheme) {
    if (const auto* view = source.plain(); view != nullptr && dtype_info(view->dtype).to_float == nullptr)
        return unsupported("a weight of type " + std::string(dtype_info(view->dtype).name) + " has no float values to quantize");
    if (scheme.kind == NumberKind::floating) return {};
    if (source.shape.size() != 2)
        return usage_error("only a matrix can be quantized to " + scheme.name() + "; this weight is " + shape_text(source.shape));
    if (scheme.kind == NumberKind::vectors && !decodes(scheme)) return usage_error(scheme.name() + " is no scheme of vectors: 2, 4 or 8 columns to a code, 16 to 4096 entries, groups of whole vectors");
    if (scheme.bits < 1 || (scheme.bits > 8 && scheme.kind != NumberKind::vectors) || scheme.group_size < 0)
        return usage_error("a scheme has 1 to 8 bits and a group size of 0 or more, not " + std::to_string(scheme.bits) + " and " +
                           std::to_string(scheme.group_size));
    if (scheme.minimums) return unsupported("weights with minimums (" + scheme.name() + ") are read from GGUF files, not made; take " +
                                            "a scheme with zeros, such as w4g32a");
    if (!scales_can_be_chosen(scheme)) return usage_error("scales of type " + std::string(dtype_info(scheme.scale_dtype).name) + " cannot be chosen for " + scheme.name());
    return {};
}

std::int64_t first_non_finite(std::span<const float> values) {
    // The exponent bits of NaN and infinity are all ones: an integer test, which the compiler can take several at a time.
    std::uint32_t any = 0;
    for (float value : values) any |= (std::bit_cast<std::uint32_t>(value) & 0x7f800000u) == 0x7f800000u;
    if (!any) return -1;
    for (std::size_t i = 0; i < values.size(); ++i)
        if (!std::isfinite(values[i])) return static_cast<std::int64_t>(i);
    return -1;
}

Error non_finite_error(const Weight& source, std::int64_t row) {
    std::vector<float> values(static_cast<std::size_t>(source.n_columns()));
    source.row(row, values.data());
    const std::int64_t column = std::max<std::int64_t>(0, first_non_finite(values));
    const char* what = std::isnan(values[static_cast<std::size_t>(column)]) ? "NaN" : "infinity";
    return corrupt("the weight " + shape_text(source.shape) + " holds " + what + " at row " + std::to_string(row) + ", column " +
                   std::to_string(column) + "; only finite weights can be quantized");
}

bool scale_is_lost(const GroupParams& params, const Scheme& scheme, std::span<const float> values) {
    // A codebook's search knows how scales are rounded, so that only one that f16 has not at all is lost.
    bool lost = scheme.kind == NumberKind::integer ? !scale_is_storable(params.scale, scheme.scale_dtype, scheme.bits)
                                                   : scheme.scale_dtype == DType::f16 && std::fabs(params.scale) >= 65504;
    if (params.scale == 0 && scheme.scale_dtype == DType::f16)
        for (float value : values) lost = lost || std::fabs(value) > negligible;
    return lost;
}

}  // namespace skiff
