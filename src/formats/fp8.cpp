#include "formats/fp8.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/checked.h"
#include "formats/packed_inputs.h"
#include "formats/quantized_reader.h"

namespace skiff {
namespace {

// The scale of element (row, column) is values[row / rows * n_across + column / columns].
struct Scales {
    std::vector<float> values;
    std::int64_t rows = 1, columns = 1, n_across = 1;
    float of(std::int64_t row, std::int64_t column) const { return values[static_cast<std::size_t>(row / rows * n_across + column / columns)]; }
};

Result<Scales> read_scales(const std::string& module, const TensorView& weight, const TensorView& view, const std::string& name, const Fp8Blocks& blocks) {
    const std::int64_t n_rows = weight.shape[0], n_columns = weight.shape[1];
    const Shape by_block = {ceil_div(n_rows, blocks.rows), ceil_div(n_columns, blocks.columns)};
    Scales scales;
    if (view.n_elements() == 1 && view.shape.size() <= 2) {
        scales.rows = n_rows, scales.columns = n_columns;
    } else if (view.shape == Shape{n_rows} || view.shape == Shape{n_rows, 1}) {
        scales.columns = n_columns;
    } else if (view.shape == by_block) {
        scales.rows = blocks.rows, scales.columns = blocks.columns, scales.n_across = by_block[1];
    } else {
        return tensor_mismatch(module, name, view, "one scale, " + shape_text({n_rows, 1}) + " or blocks " + shape_text(by_block));
    }
    const bool known = view.dtype == DType::f32 || view.dtype == DType::bf16 || view.dtype == DType::f16 || view.dtype == DType::f8_e8m0;
    if (!known || !to_floats(view, scales.values)) return tensor_mismatch(module, name, view, "F32, BF16, F16 or F8_E8M0");
    for (std::size_t i = 0; i < scales.values.size(); ++i)
        if (!std::isfinite(scales.values[i])) return not_finite_error(module, name, std::isnan(scales.values[i]), view.shape, static_cast<std::int64_t>(i));
    return scales;
}

// Codes with a scale in F32 for each row and the columns of a block give the same products to the bit. The kernels' groups are whole blocks of 32 columns, and
// their powers of two on the way to a product must not leave what F32 has.
bool stays_codes(const Scales& scales, std::int64_t n_columns) {
    const bool whole_row = scales.columns >= n_columns;
    constexpr float least = 0x1p-100f, most = 0x1p100f;
    return (whole_row || scales.columns % 32 == 0) && std::all_of(scales.values.begin(), scales.values.end(), [](float scale) { return scale == 0 || (std::fabs(scale) >= least && std::fabs(scale) <= most); });
}

Weight as_codes(const FoundTensor& found, const Scales& scales) {
    const TensorView& view = found.view;
    const std::int64_t n_rows = view.shape[0], n_columns = view.shape[1], row_bytes = packed_row_bytes(8, n_columns);
    struct Owned {
        std::vector<std::byte> packed;
        std::vector<float> scales;
        std::shared_ptr<const void> file;
    };
    auto owned = std::make_shared<Owned>();
    owned->file = found.owner;
    Codes codes;
    codes.scheme.kind = NumberKind::codebook;
    codes.scheme.codebook = find_codebook(view.dtype == DType::f8_e4m3 ? "e4m3" : "e5m2");
    codes.scheme.bits = 8;
    codes.scheme.scale_dtype = DType::f32;
    codes.scheme.group_size = scales.columns >= n_columns ? 0 : scales.columns;
    codes.packed = {DType::i32, {n_rows, row_bytes / 4}, view.data};
    if (row_bytes != n_columns) {
        owned->packed.resize(static_cast<std::size_t>(n_rows * row_bytes));
        for (std::int64_t row = 0; row < n_rows; ++row) std::memcpy(owned->packed.data() + row * row_bytes, view.data.data() + row * n_columns, static_cast<std::size_t>(n_columns));
        codes.packed.data = owned->packed;
    }
    const std::int64_t n_groups = codes.scheme.n_groups(n_columns);
    owned->scales.reserve(static_cast<std::size_t>(n_rows * n_groups));
    for (std::int64_t row = 0; row < n_rows; ++row)
        for (std::int64_t group = 0; group < n_groups; ++group) owned->scales.push_back(scales.of(row, group * codes.scheme.group_size));
    codes.scales = {DType::f32, {n_rows, n_groups}, std::as_bytes(std::span<const float>(owned->scales))};
    return {view.shape, std::move(codes), std::move(owned)};
}

bool is_bf16(const std::vector<float>& row) {
    for (const float value : row)
        if ((std::bit_cast<std::uint32_t>(value) & 0xffff) != 0) return false;
    return true;
}

// Each weight rounded to F32; BF16 where all are numbers of that type.
Result<Weight> as_floats(const std::string& module, const TensorView& view, const Scales& scales) {
    const std::int64_t n_rows = view.shape[0], n_columns = view.shape[1];
    const DTypeInfo& info = dtype_info(view.dtype);
    const auto decode = [&](std::int64_t row, std::vector<float>& values) {
        info.to_float(view.data.data() + row * n_columns, n_columns, values.data());
        for (std::int64_t column = 0; column < n_columns; ++column) values[static_cast<std::size_t>(column)] *= scales.of(row, column);
    };
    std::vector<float> values(static_cast<std::size_t>(n_columns));
    bool narrow = true;
    for (std::int64_t row = 0; row < n_rows; ++row) {
        decode(row, values);
        narrow = narrow && is_bf16(values);
        for (std::size_t i = 0; i < values.size(); ++i)  // products of finite numbers need not be
            if (!std::isfinite(values[i])) return not_finite_error(module, "weight times its scales", std::isnan(values[i]), view.shape, row * n_columns + static_cast<std::int64_t>(i));
    }
    const DType dtype = narrow ? DType::bf16 : DType::f32;
    const std::size_t row_bytes = static_cast<std::size_t>(n_columns) * (narrow ? 2 : 4);
    std::vector<std::byte> bytes(static_cast<std::size_t>(n_rows) * row_bytes);
    for (std::int64_t row = 0; row < n_rows; ++row) {
        decode(row, values);
        dtype_info(dtype).from_float(values.data(), n_columns, bytes.data() + static_cast<std::size_t>(row) * row_bytes);
    }
    return make_plain_weight(view.shape, dtype, std::move(bytes));
}

class Fp8Reader final : public QuantizedReader {
public:
    explicit Fp8Reader(const Fp8Blocks& blocks) : blocks_(blocks) {}
    std::string_view marker() const override { return ".weight"; }
    Result<std::optional<Weight>> read(const std::string& module, const TensorLookup& lookup) const override { return read_fp8_weight(module, lookup, blocks_); }

private:
    Fp8Blocks blocks_;
};

}  // namespace

Result<std::optional<Weight>> read_fp8_weight(const std::string& module, const TensorLookup& lookup, const Fp8Blocks& blocks) {
    SKIFF_TRY(const auto found, lookup(module + ".weight"));
    if (!found || (found->view.dtype != DType::f8_e4m3 && found->view.dtype != DType::f8_e5m2)) return std::optional<Weight>();
    const TensorView& view = found->view;
    if (view.shape.size() != 2 || view.n_elements() == 0) return tensor_mismatch(module, "weight", view, "a matrix that is not empty");
    std::string name = "weight_scale_inv";
    SKIFF_TRY(auto scale, lookup(module + "." + name));
    if (!scale) {
        name = "weight_scale";
        SKIFF_TRY(scale, lookup(module + "." + name));
    }
    if (!scale) return std::optional<Weight>();
    SKIFF_TRY(const auto scales, read_scales(module, view, scale->view, name, blocks));

    SKIFF_CHECK(check_finite(module, "weight", view));
    if (stays_codes(scales, view.shape[1])) return std::optional<Weight>(as_codes(*found, scales));
    SKIFF_TRY(auto floats, as_floats(module, view, scales));
    return std::optional<Weight>(std::move(floats));
}

Result<std::unique_ptr<QuantizedReader>> make_fp8_reader(const Json& config) {
    Fp8Blocks blocks;
    if (const Json& size = config["weight_block_size"]; !size.is_null()) {
        const auto& items = size.items();
        const auto good = [](const Json& item) { return item.int_or(0) >= 1 && item.int_or(0) <= (1 << 24); };
        if (items.size() != 2 || !good(items[0]) || !good(items[1])) return corrupt("quantization_config: weight_block_size must be two positive integers");
        blocks = {items[0].int_or(128), items[1].int_or(128)};
    }
    return std::unique_ptr<QuantizedReader>(std::make_unique<Fp8Reader>(blocks));
}

}  // namespace skiff
