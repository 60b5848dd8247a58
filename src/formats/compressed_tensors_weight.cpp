// Reading weights of codes: every shape and type is checked against what the config and the matrix say.
#include <algorithm>
#include <cmath>

#include "base/checked.h"
#include "formats/compressed_tensors.h"
#include "formats/packed_inputs.h"
#include "formats/sparse_weights.h"

namespace skiff {
namespace {

struct Parts {
    std::string module;
    Scheme scheme;
    bool may_end_short = false;
    FoundTensor codes;  // weight_packed, or weight of integers
    FoundTensor scale;
    std::optional<FoundTensor> zero, super_scale, minimum, super_minimum, books;
    std::vector<std::int32_t> order;  // the input of each column; empty: its own
    std::int64_t n_rows = 0, n_columns = 0, n_groups = 0;
};

// What keeps the parts of a weight alive that lie in different files or were rewritten.
struct Owners {
    std::vector<std::shared_ptr<const void>> files;
    std::vector<std::byte> packed, scales, zeros;
};

Error mismatch(const Parts& parts, const std::string& tensor, const TensorView& found, const std::string& expected) {
    return corrupt("module " + parts.module + ": " + tensor + " is " + std::string(dtype_info(found.dtype).name) + " " + shape_text(found.shape) +
                   ", expected " + expected);
}

Result<Shape> read_weight_shape(const Parts& parts, const TensorView& view) {
    const bool good = (view.dtype == DType::i64 || view.dtype == DType::i32) && view.shape == Shape{2};
    if (!good) return mismatch(parts, "weight_shape", view, "two integers");
    Shape shape;
    for (int i = 0; i < 2; ++i) {
        std::int64_t wide = 0;
        std::int32_t narrow = 0;
        if (view.dtype == DType::i64) {
            std::memcpy(&wide, view.data.data() + i * 8, 8);
        } else {
            std::memcpy(&narrow, view.data.data() + i * 4, 4);
            wide = narrow;
        }
        if (wide < 0 || wide > (std::int64_t{1} << 40)) return corrupt("module " + parts.module + ": weight_shape holds " + std::to_string(wide));
        shape.push_back(wide);
    }
    return shape;
}

Status check_groups(Parts& parts) {
    const std::int64_t group_size = parts.scheme.group_size;
    parts.n_groups = parts.scheme.n_groups(parts.n_columns);
    if (group_size != 0 && parts.n_columns % group_size != 0 && !parts.may_end_short)
        return corrupt("module " + parts.module + ": " + std::to_string(parts.n_columns) + " columns are not a multiple of the group size " + std::to_string(group_size));
    return {};
}

// A tensor of the weight that must have exactly this type and shape.
Result<TensorView> exactly(const Parts& parts, const std::optional<FoundTensor>& found, const char* name, DType dtype, const Shape& shape) {
    if (!found) return corrupt("module " + parts.module + ": the scheme needs the tensor " + name);
    if (found->view.dtype != dtype || found->view.shape != shape) return mismatch(parts, name, found->view, std::string(dtype_info(dtype).name) + " " + shape_text(shape));
    return TensorView{dtype, shape, found->view.data};
}

// Few numbers that scale many: none may be NaN or infinite.
Status check_supers(const Parts& parts, const TensorView& view, const char* name) { return check_finite(parts.module, name, view); }

Status take_relative_scales(const Parts& parts, Codes& codes) {
    const bool table = parts.scheme.scale_book != nullptr;
    const DType dtype = table ? DType::u8 : parts.scale.view.dtype;
    if (dtype != DType::i8 && dtype != DType::u8) return mismatch(parts, "weight_scale", parts.scale.view, "I8 or U8, relative to weight_super_scale");
    if (!table && dtype == DType::u8 && parts.scheme.kind == NumberKind::vectors) return mismatch(parts, "weight_scale", parts.scale.view, "I8: relative scales of vectors have signs");
    codes.scheme.scale_dtype = dtype;
    SKIFF_TRY(codes.scales, exactly(parts, parts.scale, "weight_scale", dtype, {parts.n_rows, table ? ceil_div<std::int64_t>(parts.n_groups, 2) : parts.n_groups}));
    if (parts.super_scale) {
        const DType super = parts.super_scale->view.dtype;
        codes.scheme.super_dtype = super == DType::f16 || (super == DType::bf16 && table) ? super : DType::f32;
    }
    const Shape supers = {parts.n_rows, parts.scheme.n_supers(parts.n_columns)};
    SKIFF_TRY(codes.super_scales, exactly(parts, parts.super_scale, "weight_super_scale", codes.scheme.super_dtype, supers));
    return check_supers(parts, codes.super_scales, "weight_super_scale");
}

// After the scales, whose types decide those of the minimums.
Status take_minimums(const Parts& parts, Codes& codes) {
    if (!parts.scheme.minimums) return {};
    SKIFF_TRY(codes.minimums, exactly(parts, parts.minimum, "weight_minimum", codes.scheme.minimum_dtype(), {parts.n_rows, parts.n_groups}));
    if (!codes.scheme.relative_scales()) return check_supers(parts, codes.minimums, "weight_minimum");
    const Shape supers = {parts.n_rows, parts.scheme.n_supers(parts.n_columns)};
    SKIFF_TRY(codes.super_minimums, exactly(parts, parts.super_minimum, "weight_super_minimum", codes.scheme.super_dtype, supers));
    return check_supers(parts, codes.super_minimums, "weight_super_minimum");
}

// The levels of clusters, of the whole weight or of each group: finite, and of a type that is read.
Status take_levels(const Parts& parts, Codes& codes) {
    const TensorView& view = parts.scale.view;
    if (view.dtype != DType::f16 && view.dtype != DType::bf16 && view.dtype != DType::f32) return mismatch(parts, "weight_levels", view, "F16, BF16 or F32");
    codes.scheme.scale_dtype = view.dtype;
    const Shape shape = parts.scheme.one_table ? Shape{1, parts.scheme.n_levels} : Shape{parts.n_rows, parts.n_groups * parts.scheme.n_levels};
    SKIFF_TRY(codes.scales, exactly(parts, parts.scale, "weight_levels", view.dtype, shape));
    return check_supers(parts, codes.scales, "weight_levels");
}

// Scales as (n_rows, n_groups); one scale for the whole tensor is repeated.
Status take_scales(Parts& parts, Owners& owners, Codes& codes) {
    const TensorView& view = parts.scale.view;
    if (parts.scheme.kind == NumberKind::clusters) return take_levels(parts, codes);
    if (parts.scheme.relative_scales()) return take_relative_scales(parts, codes);
    if (view.dtype != DType::f16 && view.dtype != DType::bf16 && view.dtype != DType::f32) return mismatch(parts, "weight_scale", view, "F16, BF16 or F32");
    codes.scheme.scale_dtype = view.dtype;
    SKIFF_CHECK(check_finite(parts.module, "weight_scale", view));
    codes.scales = {view.dtype, {parts.n_rows, parts.n_groups}, view.data};
    const bool per_row = view.shape == Shape{parts.n_rows, parts.n_groups} || (parts.n_groups == 1 && view.shape == Shape{parts.n_rows});
    if (per_row) return {};
    if (parts.scheme.group_size != 0 || view.n_elements() != 1) return mismatch(parts, "weight_scale", view, shape_text(codes.scales.shape));
    for (std::int64_t row = 0; row < parts.n_rows; ++row) owners.scales.insert(owners.scales.end(), view.data.begin(), view.data.end());
    codes.scales.data = owners.scales;
    return {};
}

// The books of vectors: sums of an entry of each must be what a signed byte holds, since kernels add them there.
Status take_books(const Parts& parts, Codes& codes) {
    const Scheme& scheme = parts.scheme;
    if (scheme.kind != NumberKind::vectors) return {};
    SKIFF_TRY(codes.books, exactly(parts, parts.books, "weight_books", DType::i8, {std::int64_t{scheme.n_books} * scheme.n_levels, scheme.vector}));
    const auto* entry = reinterpret_cast<const std::int8_t*>(codes.books.data.data());
    for (int i = 0; i < scheme.vector; ++i) {
        int low = 0, high = 0;
        for (int book = 0; book < scheme.n_books; ++book) {
            int least = 127, most = -128;
            for (int level = 0; level < scheme.n_levels; ++level) {
                const int value = entry[(book * scheme.n_levels + level) * scheme.vector + i];
                least = std::min(least, value), most = std::max(most, value);
            }
            low += least, high += most;
        }
        if (low < -128 || high > 127) return corrupt("module " + parts.module + ": weight_books have entries whose sum is from " + std::to_string(low) + " to " + std::to_string(high) + ", beyond -128 .. 127");
    }
    return {};
}

// Zeros as one byte each, offset like the codes. The file has them packed down the rows, or as signed bytes.
Status take_zeros(const Parts& parts, Owners& owners, Codes& codes) {
    if (!parts.scheme.stores_zeros()) return {};
    if (!parts.zero) return corrupt("module " + parts.module + ": the scheme is asymmetric, but there is no weight_zero_point");
    const TensorView& view = parts.zero->view;
    const int bits = parts.scheme.bits;
    const std::int64_t n_words = ceil_div<std::int64_t>(parts.n_rows * bits, 32);
    owners.zeros.resize(static_cast<std::size_t>(parts.n_rows * parts.n_groups));
    auto* zeros = reinterpret_cast<std::uint8_t*>(owners.zeros.data());
    const Shape unpacked = {parts.n_rows, parts.n_groups};
    if (view.dtype == DType::i32 && view.shape == Shape{n_words, parts.n_groups}) {
        std::vector<std::byte> column(static_cast<std::size_t>(n_words) * 4);
        std::vector<std::uint8_t> values(static_cast<std::size_t>(parts.n_rows));
        for (std::int64_t group = 0; group < parts.n_groups; ++group) {
            for (std::int64_t word = 0; word < n_words; ++word) std::memcpy(column.data() + word * 4, view.data.data() + (word * parts.n_groups + group) * 4, 4);
            unpack_codes(column.data(), bits, parts.n_rows, values.data());
            for (std::int64_t row = 0; row < parts.n_rows; ++row) zeros[row * parts.n_groups + group] = values[static_cast<std::size_t>(row)];
        }
    } else if (const std::int64_t n_padded = ceil_div<std::int64_t>(parts.n_rows, 32 / bits); view.dtype == DType::i32 && view.shape == Shape{n_padded, parts.n_groups}) {
        for (std::int64_t row = 0; row < parts.n_rows; ++row)  // as repack_padded()
            for (std::int64_t group = 0; group < parts.n_groups; ++group) {
                std::uint32_t word;
                std::memcpy(&word, view.data.data() + (row / (32 / bits) * parts.n_groups + group) * 4, 4);
                zeros[row * parts.n_groups + group] = static_cast<std::uint8_t>(word >> (row % (32 / bits) * bits) & ((1u << bits) - 1));
            }
    } else if (view.dtype == DType::i8 && (view.shape == unpacked || view.n_elements() == 1)) {
        const bool one = view.shape != unpacked;
        for (std::size_t i = 0; i < owners.zeros.size(); ++i) {
            const int zero = static_cast<std::int8_t>(view.data[one ? 0 : i]) + (1 << (bits - 1));
            if (zero < 0 || zero >= 1 << bits) return corrupt("module " + parts.module + ": weight_zero_point is outside of " + std::to_string(bits) + " bits");
            zeros[i] = static_cast<std::uint8_t>(zero);
        }
    } else {
        return mismatch(parts, "weight_zero_point", view, "I32 " + shape_text({n_words, parts.n_groups}) + " or I8 " + shape_text(unpacked));
    }
    codes.zeros = {DType::u8, unpacked, owners.zeros};
    return {};
}

// Before May 2026 the package began each word with a new code, which differs where the bits do not divide 32.
void repack_padded(const Parts& parts, std::int64_t n_words, std::vector<std::byte>& packed) {
    const int bits = parts.scheme.bits, per_word = 32 / bits;
    const std::int64_t row_bytes = packed_row_bytes(bits, parts.n_columns);
    packed.resize(static_cast<std::size_t>(parts.n_rows * row_bytes));
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(parts.n_columns));
    for (std::int64_t row = 0; row < parts.n_rows; ++row) {
        const std::byte* source = parts.codes.view.data.data() + row * n_words * 4;
        for (std::int64_t column = 0; column < parts.n_columns; ++column) {
            std::uint32_t word;
            std::memcpy(&word, source + column / per_word * 4, 4);
            codes[static_cast<std::size_t>(column)] = static_cast<std::uint8_t>(word >> (column % per_word * bits) & ((1u << bits) - 1));
        }
        pack_codes(codes.data(), bits, parts.n_columns, packed.data() + row * row_bytes);
    }
}

Status take_packed(const Parts& parts, Owners& owners, Codes& codes) {
    const TensorView& view = parts.codes.view;
    const int bits = parts.scheme.bits;
    const std::int64_t n_words = packed_row_bytes(bits, parts.scheme.n_codes(parts.n_columns)) / 4, n_padded = ceil_div<std::int64_t>(parts.n_columns, 32 / bits);
    codes.packed = {DType::i32, {parts.n_rows, n_words}, view.data};
    if (view.dtype == DType::i32 && view.shape == codes.packed.shape) return {};
    if (parts.scheme.kind == NumberKind::vectors || view.dtype != DType::i32 || view.shape != Shape{parts.n_rows, n_padded}) return mismatch(parts, "weight_packed", view, "I32 " + shape_text(codes.packed.shape));
    repack_padded(parts, n_padded, owners.packed);
    codes.packed.data = owners.packed;
    return {};
}

// int-quantized: one signed byte per weight.
Status pack_signed_bytes(const Parts& parts, Owners& owners, Codes& codes) {
    const int bits = parts.scheme.bits, offset = 1 << (bits - 1);
    const std::int64_t row_bytes = packed_row_bytes(bits, parts.n_columns);
    owners.packed.resize(static_cast<std::size_t>(parts.n_rows * row_bytes));
    std::vector<std::uint8_t> row_codes(static_cast<std::size_t>(parts.n_columns));
    for (std::int64_t row = 0; row < parts.n_rows; ++row) {
        const auto* source = reinterpret_cast<const std::int8_t*>(parts.codes.view.data.data()) + row * parts.n_columns;
        for (std::int64_t column = 0; column < parts.n_columns; ++column) {
            const int code = source[column] + offset;
            if (code < 0 || code >= 2 * offset)
                return corrupt("module " + parts.module + ": weight holds " + std::to_string(source[column]) + ", which is outside of " + std::to_string(bits) + " bits");
            row_codes[static_cast<std::size_t>(column)] = static_cast<std::uint8_t>(code);
        }
        pack_codes(row_codes.data(), bits, parts.n_columns, owners.packed.data() + row * row_bytes);
    }
    codes.packed = {DType::i32, {parts.n_rows, row_bytes / 4}, owners.packed};
    return {};
}

// Of the rows as they are kept: padded to words with zeros.
Status check_float8(const Parts& parts, const Codes& codes) {
    const DType dtype = parts.scheme.codebook == find_codebook("e4m3") ? DType::f8_e4m3 : DType::f8_e5m2;
    return check_finite(parts.module, "weight", {dtype, {parts.n_rows, packed_row_bytes(8, parts.n_columns)}, codes.packed.data});
}

// float-quantized: the numbers of FP8 as they are, in rows without padding to words.
void pad_rows(const Parts& parts, Owners& owners, Codes& codes) {
    const std::int64_t row_bytes = packed_row_bytes(8, parts.n_columns);
    codes.packed = {DType::i32, {parts.n_rows, row_bytes / 4}, parts.codes.view.data};
    if (row_bytes == parts.n_columns) return;
    owners.packed.resize(static_cast<std::size_t>(parts.n_rows * row_bytes));
    for (std::int64_t row = 0; row < parts.n_rows; ++row)
        std::memcpy(owners.packed.data() + row * row_bytes, parts.codes.view.data.data() + row * parts.n_columns, static_cast<std::size_t>(parts.n_columns));
    codes.packed.data = owners.packed;
}

// A table with fewer levels than codes (ternary: 3 of 4): no code may lie behind the last level. Nor may FP8 hold NaN or infinity.
Status check_codes(const Parts& parts, const Codes& codes) {
    if (parts.scheme.kind == NumberKind::codebook && parts.scheme.codebook->is_float8()) return check_float8(parts, codes);
    if (parts.scheme.kind == NumberKind::integer || parts.scheme.kind == NumberKind::vectors) return {};
    const bool book = parts.scheme.kind == NumberKind::codebook;
    const auto n_levels = book ? parts.scheme.codebook->levels.size() : static_cast<std::size_t>(parts.scheme.n_levels);
    if (n_levels == std::size_t{1} << parts.scheme.bits) return {};
    std::vector<std::uint8_t> row_codes(static_cast<std::size_t>(parts.n_columns));
    const std::int64_t row_bytes = packed_row_bytes(parts.scheme.bits, parts.n_columns);
    for (std::int64_t row = 0; row < parts.n_rows; ++row) {
        unpack_codes(codes.packed.data.data() + row * row_bytes, parts.scheme.bits, parts.n_columns, row_codes.data());
        std::uint8_t largest = 0;
        for (std::uint8_t code : row_codes) largest = code > largest ? code : largest;
        if (largest >= n_levels)
            return corrupt("module " + parts.module + ": row " + std::to_string(row) + " holds the code " + std::to_string(largest) + ", but " +
                           (book ? "the codebook " + std::string(parts.scheme.codebook->name) + " has " : "there are ") + std::to_string(n_levels) + " levels");
    }
    return {};
}

// Two codes to a byte, the even column in the low four bits.
Status take_byte_pairs(const Parts& parts, Owners& owners, Codes& codes) {
    const std::int64_t file_bytes = ceil_div<std::int64_t>(parts.n_columns, 2), row_bytes = packed_row_bytes(4, parts.n_columns);
    SKIFF_TRY(const auto packed, exactly(parts, parts.codes, "weight_packed", DType::u8, {parts.n_rows, file_bytes}));
    codes.packed = {DType::i32, {parts.n_rows, row_bytes / 4}, packed.data};
    if (file_bytes == row_bytes) return {};
    owners.packed.resize(static_cast<std::size_t>(parts.n_rows * row_bytes));
    for (std::int64_t row = 0; row < parts.n_rows; ++row)
        std::memcpy(owners.packed.data() + row * row_bytes, packed.data.data() + row * file_bytes, static_cast<std::size_t>(file_bytes));
    codes.packed.data = owners.packed;
    return {};
}

// mxfp4-pack-quantized: one exponent per group.
Status take_mxfp4(const Parts& parts, Owners& owners, Codes& codes) {
    SKIFF_CHECK(take_byte_pairs(parts, owners, codes));
    SKIFF_TRY(const auto scales, exactly(parts, parts.scale, "weight_scale", DType::u8, {parts.n_rows, parts.n_groups}));
    // Our levels are doubled, so the exponent is one less.
    owners.scales.assign(scales.data.begin(), scales.data.end());
    std::vector<float> row(static_cast<std::size_t>(parts.n_columns));
    codes.scales = {DType::f8_e8m0, {parts.n_rows, parts.n_groups}, owners.scales};
    for (std::size_t i = 0; i < owners.scales.size(); ++i) {
        const int exponent = std::to_integer<int>(owners.scales[i]);
        if (exponent == 255) return corrupt("module " + parts.module + ": weight_scale holds NaN");
        owners.scales[i] = static_cast<std::byte>(std::max(0, exponent - 1));
        if (exponent != 0) continue;
        const auto group_row = static_cast<std::int64_t>(i) / parts.n_groups, group = static_cast<std::int64_t>(i) % parts.n_groups;
        decode_codes_row(codes.scheme, sections_of(codes), group_row, parts.n_columns, row.data());
        const auto end = row.begin() + std::min(parts.n_columns, (group + 1) * 32);
        if (std::any_of(row.begin() + group * 32, end, [](float value) { return value != 0; }))
            return unsupported("module " + parts.module + ": weight_scale holds 2^-127, smaller than what is read here");
    }
    return {};
}

// nvfp4-pack-quantized: codes as MXFP4's, scales in F8_E4M3 per 16 columns over one scale of the tensor.
Status take_nvfp4(const Parts& parts, const TensorLookup& lookup, Owners& owners, Codes& codes) {
    SKIFF_CHECK(take_byte_pairs(parts, owners, codes));
    SKIFF_TRY(const auto scales, exactly(parts, parts.scale, "weight_scale", DType::f8_e4m3, {parts.n_rows, parts.n_groups}));
    SKIFF_TRY(const auto global, required_tensor(lookup, parts.module, "weight_global_scale", {DType::f32}));
    std::vector<float> divisor, values;
    if (global.view.n_elements() != 1 || !to_floats(global.view, divisor)) return mismatch(parts, "weight_global_scale", global.view, "one number");
    if (!std::isfinite(divisor[0]) || divisor[0] <= 0) return corrupt("module " + parts.module + ": weight_global_scale is " + std::to_string(divisor[0]));
    to_floats(scales, values);
    owners.scales.resize(values.size() * 4);
    for (std::size_t i = 0; i < values.size(); ++i) {
        const float scale = values[i] / divisor[0], half = scale * 0.5f;  // our levels are doubled
        if (half + half != scale) return unsupported("module " + parts.module + ": weight_scale over weight_global_scale is " + std::to_string(scale) + ", which is not read here");
        std::memcpy(owners.scales.data() + 4 * i, &half, 4);
    }
    codes.scales = {DType::f32, {parts.n_rows, parts.n_groups}, owners.scales};
    return {};
}

Result<FoundTensor> required(const TensorLookup& lookup, const std::string& name) {
    SKIFF_TRY(auto found, lookup(name));
    if (!found) return corrupt("there is no tensor \"" + name + "\"");
    return std::move(*found);
}

// Rows and columns: as weight_shape says, which public MXFP4 has not.
Result<Shape> shape_of(const Parts& parts, const TensorLookup& lookup) {
    const TensorView& view = parts.codes.view;
    if (view.shape.size() != 2) return mismatch(parts, "the weight", view, "a matrix");
    if (view.dtype == DType::i8 || view.dtype == DType::f8_e4m3) return view.shape;
    SKIFF_TRY(const auto stored, lookup(parts.module + ".weight_shape"));
    if (!stored && view.dtype == DType::u8) return Shape{view.shape[0], view.shape[1] * 2};
    if (!stored) return corrupt("there is no tensor \"" + parts.module + ".weight_shape\"");
    SKIFF_TRY(auto shape, read_weight_shape(parts, stored->view));
    if (shape[0] != view.shape[0]) return mismatch(parts, "weight_packed", view, std::to_string(shape[0]) + " rows as weight_shape says");
    return shape;
}

Result<Weight> read_codes(Parts parts, const TensorLookup& lookup) {
    SKIFF_TRY(parts.scale, required(lookup, parts.module + (parts.scheme.kind == NumberKind::clusters ? ".weight_levels" : ".weight_scale")));
    const std::pair<const char*, std::optional<FoundTensor>*> optional_parts[] = {{".weight_zero_point", &parts.zero},
                                                                                  {".weight_super_scale", &parts.super_scale},
                                                                                  {".weight_minimum", &parts.minimum},
                                                                                  {".weight_super_minimum", &parts.super_minimum},
                                                                                  {".weight_books", &parts.books}};
    for (const auto& [name, part] : optional_parts) {
        SKIFF_TRY(*part, lookup(parts.module + name));
    }
    SKIFF_TRY(auto shape, shape_of(parts, lookup));
    parts.n_rows = shape[0];
    parts.n_columns = shape[1];
    SKIFF_CHECK(check_groups(parts));
    SKIFF_TRY(const auto g_idx, lookup(parts.module + ".weight_g_idx"));
    if (g_idx && g_idx->view.shape != Shape{parts.n_columns}) return mismatch(parts, "weight_g_idx", g_idx->view, "I32 " + shape_text({parts.n_columns}));
    SKIFF_TRY(parts.order, weight_input_order(parts.module, lookup, parts.scheme));
    auto owners = std::make_shared<Owners>();
    Codes codes;
    codes.scheme = parts.scheme;
    // Packed codes first: their size bounds what weight_shape may claim.
    if (parts.scheme.scale_dtype == DType::f8_e8m0) {
        SKIFF_CHECK(take_mxfp4(parts, *owners, codes));
    } else if (parts.codes.view.dtype == DType::u8) {
        SKIFF_CHECK(take_nvfp4(parts, lookup, *owners, codes));
    } else {
        if (parts.codes.view.dtype == DType::i8 && parts.scheme.kind == NumberKind::integer) SKIFF_CHECK(pack_signed_bytes(parts, *owners, codes));
        else if (parts.codes.view.dtype == DType::f8_e4m3) pad_rows(parts, *owners, codes);
        else SKIFF_CHECK(take_packed(parts, *owners, codes));
        SKIFF_CHECK(take_scales(parts, *owners, codes));
        SKIFF_CHECK(take_zeros(parts, *owners, codes));
        SKIFF_CHECK(take_minimums(parts, codes));
        SKIFF_CHECK(take_books(parts, codes));
        SKIFF_CHECK(check_codes(parts, codes));
    }
    if (!parts.order.empty() && parts.scheme.kind == NumberKind::vectors) return corrupt("module " + parts.module + ": columns of vectors have no weight_g_idx");
    if (!parts.order.empty()) {
        if (owners->packed.empty()) owners->packed.assign(codes.packed.data.begin(), codes.packed.data.end());
        take_columns(parts.order, codes.scheme.bits, parts.n_rows, owners->packed);
        codes.packed.data = owners->packed;
    }
    owners->files = {parts.codes.owner, parts.scale.owner};
    for (const auto& [name, part] : optional_parts)
        if (*part) owners->files.push_back((*part)->owner);
    return Weight{std::move(shape), std::move(codes), std::move(owners)};
}

}  // namespace

TensorLookup lookup_in(const CheckpointFiles& files) {
    return [&files](const std::string& name) -> Result<std::optional<FoundTensor>> {
        if (!files.contains(name)) return std::optional<FoundTensor>();
        SKIFF_TRY(auto found, files.tensor(name));
        return std::optional<FoundTensor>(std::move(found));
    };
}

Result<std::vector<std::int32_t>> weight_input_order(const std::string& module, const TensorLookup& lookup, const Scheme& scheme) {
    SKIFF_TRY(auto g_idx, lookup(module + ".weight_g_idx"));
    if (!g_idx) return std::vector<std::int32_t>();
    SKIFF_TRY(g_idx, required_tensor(lookup, module, "weight_g_idx", {DType::i32}));
    if (g_idx->view.shape.size() != 1) return tensor_mismatch(module, "weight_g_idx", g_idx->view, "I32 of one dimension");
    std::int32_t first;
    std::memcpy(&first, g_idx->view.data.data(), 4);
    if (first == -1) return std::vector<std::int32_t>();  // the package's sign that nothing was reordered
    return order_by_group(module, g_idx->view, scheme.group_size);
}

Result<Weight> read_weight(const std::string& module, const TensorLookup& lookup, const QuantizationConfig* config, std::string_view module_class) {
    SKIFF_TRY(const auto bitmask, lookup(module + ".weight_bitmask"));
    if (bitmask) {  // codes where the config says how they are
        std::optional<Scheme> scheme;
        if (config != nullptr) {
            SKIFF_TRY(scheme, config->scheme_of(module, module_class));
        }
        return read_sparse_weight(module, lookup, scheme ? &*scheme : nullptr);
    }
    SKIFF_TRY(auto packed, lookup(module + ".weight_packed"));
    if (!packed) {
        SKIFF_TRY(auto plain, required(lookup, module + ".weight"));
        SKIFF_TRY(const auto scale, lookup(module + ".weight_scale"));
        if (!scale) return Weight{plain.view.shape, plain.view, plain.owner};
        if (plain.view.dtype != DType::i8 && plain.view.dtype != DType::f8_e4m3)
            return unsupported("module " + module + ": weight of type " + std::string(dtype_info(plain.view.dtype).name) + " with weight_scale cannot be read yet");
        packed = std::move(plain);
    }
    const bool bytes = packed->view.dtype == DType::u8 && config != nullptr;  // MXFP4, if the config says so
    const bool float8 = packed->view.dtype == DType::f8_e4m3;
    if (packed->view.dtype != DType::i32 && packed->view.dtype != DType::i8 && !bytes && !float8)
        return unsupported("module " + module + ": weight_packed of type " + std::string(dtype_info(packed->view.dtype).name) + " cannot be read yet");
    if (config == nullptr) return corrupt("module " + module + " is quantized, but config.json has no quantization_config");
    SKIFF_TRY(const auto scheme, config->scheme_of(module, module_class));
    if (!scheme) return corrupt("module " + module + " is quantized, but quantization_config does not say how");
    if (float8 && (scheme->kind != NumberKind::codebook || scheme->codebook != find_codebook("e4m3")))
        return corrupt("module " + module + ": weight is F8_E4M3, but quantization_config says " + scheme->name());
    if (bytes && scheme->name() != "mxfp4" && scheme->name() != "e2m1g16") return unsupported("module " + module + ": weight_packed of type U8 cannot be read yet");
    Parts parts;
    parts.module = module;
    parts.scheme = *scheme;
    parts.may_end_short = config->short_last_group();
    parts.codes = std::move(*packed);
    return read_codes(std::move(parts), lookup);
}

}  // namespace skiff
