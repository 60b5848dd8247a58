#include <algorithm>

#include "base/checked.h"
#include "formats/compressed_tensors.h"

namespace skiff {
namespace {

// ---- reading ----

struct Parts {
    std::string module;
    Scheme scheme;
    bool may_end_short = false;
    FoundTensor codes;  // weight_packed, or weight of integers
    FoundTensor scale;
    std::optional<FoundTensor> zero;
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

// Scales as (n_rows, n_groups); one scale for the whole tensor is repeated.
Status take_scales(Parts& parts, Owners& owners, Codes& codes) {
    const TensorView& view = parts.scale.view;
    if (view.dtype != DType::f16 && view.dtype != DType::bf16 && view.dtype != DType::f32) return mismatch(parts, "weight_scale", view, "F16, BF16 or F32");
    codes.scheme.scale_dtype = view.dtype;
    codes.scales = {view.dtype, {parts.n_rows, parts.n_groups}, view.data};
    const bool per_row = view.shape == Shape{parts.n_rows, parts.n_groups} || (parts.n_groups == 1 && view.shape == Shape{parts.n_rows});
    if (per_row) return {};
    if (parts.scheme.group_size != 0 || view.n_elements() != 1) return mismatch(parts, "weight_scale", view, shape_text(codes.scales.shape));
    for (std::int64_t row = 0; row < parts.n_rows; ++row) owners.scales.insert(owners.scales.end(), view.data.begin(), view.data.end());
    codes.scales.data = owners.scales;
    return {};
}

// Zeros as one byte each, offset like the codes. The file has them packed down the rows, or as signed bytes.
Status take_zeros(const Parts& parts, Owners& owners, Codes& codes) {
    if (parts.scheme.symmetric) return {};
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
    const std::int64_t n_words = packed_row_bytes(bits, parts.n_columns) / 4, n_padded = ceil_div<std::int64_t>(parts.n_columns, 32 / bits);
    codes.packed = {DType::i32, {parts.n_rows, n_words}, view.data};
    if (view.dtype == DType::i32 && view.shape == codes.packed.shape) return {};
    if (view.dtype != DType::i32 || view.shape != Shape{parts.n_rows, n_padded}) return mismatch(parts, "weight_packed", view, "I32 " + shape_text(codes.packed.shape));
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

Result<FoundTensor> required(const TensorLookup& lookup, const std::string& name) {
    SKIFF_TRY(auto found, lookup(name));
    if (!found) return corrupt("there is no tensor \"" + name + "\"");
    return std::move(*found);
}

Result<Weight> read_codes(Parts parts, const TensorLookup& lookup) {
    const bool is_packed = parts.codes.view.dtype == DType::i32;
    SKIFF_TRY(parts.scale, required(lookup, parts.module + ".weight_scale"));
    SKIFF_TRY(parts.zero, lookup(parts.module + ".weight_zero_point"));
    SKIFF_TRY(const auto order, lookup(parts.module + ".weight_g_idx"));
    if (order) return unsupported("module " + parts.module + ": columns reordered by activation (weight_g_idx) cannot be read");
    if (parts.codes.view.shape.size() != 2) return mismatch(parts, "the weight", parts.codes.view, "a matrix");
    Shape shape = parts.codes.view.shape;
    if (is_packed) {
        SKIFF_TRY(const auto stored, required(lookup, parts.module + ".weight_shape"));
        SKIFF_TRY(shape, read_weight_shape(parts, stored.view));
        if (shape[0] != parts.codes.view.shape[0]) return mismatch(parts, "weight_packed", parts.codes.view, std::to_string(shape[0]) + " rows as weight_shape says");
    }
    parts.n_rows = shape[0];
    parts.n_columns = shape[1];
    SKIFF_CHECK(check_groups(parts));
    auto owners = std::make_shared<Owners>();
    Codes codes;
    codes.scheme = parts.scheme;
    // Packed codes first: their size bounds what weight_shape may claim.
    if (is_packed) {
        SKIFF_CHECK(take_packed(parts, *owners, codes));
    } else {
        SKIFF_CHECK(pack_signed_bytes(parts, *owners, codes));
    }
    SKIFF_CHECK(take_scales(parts, *owners, codes));
    SKIFF_CHECK(take_zeros(parts, *owners, codes));
    owners->files = {parts.codes.owner, parts.scale.owner};
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

Result<Weight> read_weight(const std::string& module, const TensorLookup& lookup, const QuantizationConfig* config, std::string_view module_class) {
    SKIFF_TRY(auto packed, lookup(module + ".weight_packed"));
    if (!packed) {
        SKIFF_TRY(auto plain, required(lookup, module + ".weight"));
        SKIFF_TRY(const auto scale, lookup(module + ".weight_scale"));
        if (!scale) return Weight{plain.view.shape, plain.view, plain.owner};
        if (plain.view.dtype != DType::i8)
            return unsupported("module " + module + ": weight of type " + std::string(dtype_info(plain.view.dtype).name) + " with weight_scale cannot be read yet");
        packed = std::move(plain);
    }
    if (packed->view.dtype != DType::i32 && packed->view.dtype != DType::i8)
        return unsupported("module " + module + ": weight_packed of type " + std::string(dtype_info(packed->view.dtype).name) + " cannot be read yet");
    if (config == nullptr) return corrupt("module " + module + " is quantized, but config.json has no quantization_config");
    SKIFF_TRY(const auto scheme, config->scheme_of(module, module_class));
    if (!scheme) return corrupt("module " + module + " is quantized, but quantization_config does not say how");
    Parts parts;
    parts.module = module;
    parts.scheme = *scheme;
    parts.may_end_short = config->short_last_group();
    parts.codes = std::move(*packed);
    return read_codes(std::move(parts), lookup);
}

// ---- writing ----

namespace {

struct WrittenParts {
    std::vector<std::int64_t> shape;
    std::vector<std::byte> zeros;
    std::shared_ptr<const void> source;
};

std::vector<std::byte> pack_zeros_down_the_rows(const Codes& codes, std::int64_t n_rows, std::int64_t n_groups) {
    const std::int64_t n_words = packed_row_bytes(codes.scheme.bits, n_rows) / 4;
    std::vector<std::byte> packed(static_cast<std::size_t>(n_words * n_groups * 4)), column(static_cast<std::size_t>(n_words) * 4);
    std::vector<std::uint8_t> values(static_cast<std::size_t>(n_rows));
    for (std::int64_t group = 0; group < n_groups; ++group) {
        for (std::int64_t row = 0; row < n_rows; ++row)
            values[static_cast<std::size_t>(row)] = static_cast<std::uint8_t>(codes.zeros.data[static_cast<std::size_t>(row * n_groups + group)]);
        pack_codes(values.data(), codes.scheme.bits, n_rows, column.data());
        for (std::int64_t word = 0; word < n_words; ++word) std::memcpy(packed.data() + (word * n_groups + group) * 4, column.data() + word * 4, 4);
    }
    return packed;
}

}  // namespace

Result<std::vector<StoredTensor>> weight_tensors(const std::string& module, const Weight& weight) {
    if (const auto* view = weight.plain())
        return std::vector<StoredTensor>{{module + ".weight", view->dtype, weight.shape, view->data, weight.owner}};
    if (weight.blocks() != nullptr)
        return unsupported("module " + module + ": " + weight.encoding_name() + " blocks cannot be stored as compressed-tensors; quantize it to an integer scheme");
    const Codes& codes = *weight.codes();
    auto parts = std::make_shared<WrittenParts>();
    parts->source = weight.owner;
    parts->shape = {weight.n_rows(), weight.n_columns()};
    std::vector<StoredTensor> tensors = {
        {module + ".weight_packed", DType::i32, codes.packed.shape, codes.packed.data, parts},
        {module + ".weight_scale", codes.scales.dtype, codes.scales.shape, codes.scales.data, parts},
        {module + ".weight_shape", DType::i64, {2}, std::as_bytes(std::span<const std::int64_t>(parts->shape)), parts},
    };
    if (!codes.scheme.symmetric) {
        const std::int64_t n_groups = codes.scheme.n_groups(weight.n_columns());
        parts->zeros = pack_zeros_down_the_rows(codes, weight.n_rows(), n_groups);
        tensors.push_back({module + ".weight_zero_point", DType::i32, {packed_row_bytes(codes.scheme.bits, weight.n_rows()) / 4, n_groups}, parts->zeros, parts});
    }
    return tensors;
}

}  // namespace skiff
