#include "formats/packed_inputs.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/checked.h"

namespace skiff {

Error tensor_mismatch(const std::string& module, std::string_view name, const TensorView& found, const std::string& expected) {
    return corrupt("module " + module + ": " + std::string(name) + " is " + std::string(dtype_info(found.dtype).name) + " " + shape_text(found.shape) +
                   ", expected " + expected);
}

Error not_finite_error(const std::string& module, std::string_view name, bool is_nan, const Shape& shape, std::int64_t at) {
    const std::int64_t n_across = shape.empty() ? 1 : std::max<std::int64_t>(1, shape.back());
    return corrupt("module " + module + ": " + std::string(name) + " holds " + (is_nan ? "NaN" : "infinity") + " at row " + std::to_string(at / n_across) + ", column " + std::to_string(at % n_across) + " of " + shape_text(shape) +
                   "; only finite numbers give a model: fetch the checkpoint again, or quantize the model that it was made from anew");
}

namespace {

// Whether all exponent bits of an element are ones, which they are of NaN and infinity; `mask` has them all. F8_E4M3 has no infinity, and its NaN is all ones but for the sign.
template <class Bits>
bool any_all_ones(std::span<const std::byte> bytes, Bits mask) {
    Bits any = 0;
    for (std::size_t at = 0; at + sizeof(Bits) <= bytes.size(); at += sizeof(Bits)) {
        Bits bits;
        std::memcpy(&bits, bytes.data() + at, sizeof(Bits));
        any = static_cast<Bits>(any | static_cast<Bits>((bits & mask) == mask ? 1 : 0));
    }
    return any != 0;
}

}  // namespace

Status check_finite(const std::string& module, std::string_view name, const TensorView& view) {
    bool any = false;
    switch (view.dtype) {
        case DType::f16: any = any_all_ones<std::uint16_t>(view.data, 0x7c00); break;
        case DType::bf16: any = any_all_ones<std::uint16_t>(view.data, 0x7f80); break;
        case DType::f32: any = any_all_ones<std::uint32_t>(view.data, 0x7f800000u); break;
        case DType::f8_e4m3: any = any_all_ones<std::uint8_t>(view.data, 0x7f); break;
        case DType::f8_e5m2: any = any_all_ones<std::uint8_t>(view.data, 0x7c); break;
        default: return {};
    }
    if (!any) return {};
    const DTypeInfo& info = dtype_info(view.dtype);
    for (std::int64_t i = 0; i < view.n_elements(); ++i) {
        float value;
        info.to_float(view.data.data() + i * info.bits / 8, 1, &value);
        if (!std::isfinite(value)) return not_finite_error(module, name, std::isnan(value), view.shape, i);
    }
    return {};
}

Result<FoundTensor> required_tensor(const TensorLookup& lookup, const std::string& module, std::string_view name, std::initializer_list<DType> types,
                                    const std::optional<Shape>& shape) {
    SKIFF_TRY(auto found, lookup(module + "." + std::string(name)));
    if (!found) return corrupt("module " + module + ": there is no tensor \"" + module + "." + std::string(name) + "\"");
    std::string expected;
    for (const DType type : types) expected += (expected.empty() ? "" : " or ") + std::string(dtype_info(type).name);
    if (shape) expected += " " + shape_text(*shape);
    // Sides that no file can fill are left to no arithmetic.
    const auto impossible = [](std::int64_t side) { return side < 1 || side > (std::int64_t{1} << 40); };
    if (std::any_of(found->view.shape.begin(), found->view.shape.end(), impossible)) return tensor_mismatch(module, name, found->view, expected + ", not an empty one");
    const bool good = std::find(types.begin(), types.end(), found->view.dtype) != types.end() && (!shape || found->view.shape == *shape);
    if (!good) return tensor_mismatch(module, name, found->view, expected);
    return std::move(*found);
}

Weight make_code_weight(Scheme scheme, std::int64_t n_rows, std::int64_t n_columns, CodeBytes bytes) {
    const auto middle = static_cast<std::byte>(1 << (scheme.bits - 1));
    const bool symmetric = std::all_of(bytes.zeros.begin(), bytes.zeros.end(), [&](std::byte zero) { return zero == middle; });
    scheme.symmetric = symmetric || scheme.kind != NumberKind::integer;
    auto owner = std::make_shared<CodeBytes>(std::move(bytes));
    const std::int64_t n_groups = scheme.n_groups(n_columns);
    Codes codes;
    codes.scheme = scheme;
    codes.packed = {DType::i32, {n_rows, packed_row_bytes(scheme.bits, n_columns) / 4}, owner->packed};
    codes.scales = {scheme.scale_dtype, {n_rows, n_groups}, owner->scales};
    if (codes.scheme.stores_zeros()) codes.zeros = {DType::u8, {n_rows, n_groups}, owner->zeros};
    return {{n_rows, n_columns}, std::move(codes), std::move(owner)};
}

Result<std::vector<std::byte>> scales_as_f16(const Codes& codes) {
    const TensorView& view = codes.scales;
    if (view.dtype == DType::f16) return std::vector<std::byte>(view.data.begin(), view.data.end());
    std::vector<float> values;
    if (!to_floats(view, values)) return unsupported("scales of the type " + std::string(dtype_info(view.dtype).name) + " cannot be F16");
    std::vector<std::byte> bytes(values.size() * 2);
    for (std::size_t i = 0; i < values.size(); ++i) {
        const std::uint16_t half = float_to_f16(values[i]);
        if (f16_to_float(half) != values[i])
            return unsupported("the form has F16 scales, which cannot hold " + std::to_string(values[i]) + " of the type " + std::string(dtype_info(view.dtype).name) +
                               " exactly; quantize the 16 bit model anew without --compat, or take --to hf");
        std::memcpy(bytes.data() + 2 * i, &half, 2);
    }
    return bytes;
}

std::vector<std::byte> transposed_bytes(std::span<const std::byte> source, std::int64_t n_rows, std::int64_t n_columns, std::int64_t element_bytes) {
    std::vector<std::byte> target(source.size());
    constexpr std::int64_t tile = 32;  // so that both sides stay in the cache
    const auto size = static_cast<std::size_t>(element_bytes);
    for (std::int64_t column_begin = 0; column_begin < n_columns; column_begin += tile)
        for (std::int64_t row = 0; row < n_rows; ++row)
            for (std::int64_t column = column_begin; column < std::min(n_columns, column_begin + tile); ++column)
                std::memcpy(target.data() + (column * n_rows + row) * element_bytes, source.data() + (row * n_columns + column) * element_bytes, size);
    return target;
}

Result<std::vector<std::int32_t>> order_by_group(const std::string& module, const TensorView& g_idx, std::int64_t group_size) {
    const std::int64_t n_columns = g_idx.n_elements(), n_groups = group_size == 0 ? 1 : ceil_div(n_columns, group_size);
    std::vector<std::int32_t> groups(static_cast<std::size_t>(n_columns));
    if (n_columns > 0) std::memcpy(groups.data(), g_idx.data.data(), groups.size() * 4);
    std::vector<std::int64_t> members(static_cast<std::size_t>(n_groups));
    for (const std::int32_t group : groups) {
        if (group < 0 || group >= n_groups)
            return corrupt("module " + module + ": g_idx holds the group " + std::to_string(group) + ", but there are " + std::to_string(n_groups));
        ++members[static_cast<std::size_t>(group)];
    }
    for (std::int64_t group = 0; group + 1 < n_groups; ++group)
        if (members[static_cast<std::size_t>(group)] != group_size)
            return unsupported("module " + module + ": the group " + std::to_string(group) + " of g_idx has " + std::to_string(members[static_cast<std::size_t>(group)]) +
                               " inputs, not " + std::to_string(group_size) + "; groups of different sizes cannot be read");
    if (std::is_sorted(groups.begin(), groups.end())) return std::vector<std::int32_t>();
    std::vector<std::int32_t> order(groups.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return groups[static_cast<std::size_t>(a)] < groups[static_cast<std::size_t>(b)]; });
    return order;
}

void take_columns(const std::vector<std::int32_t>& order, int bits, std::int64_t n_rows, std::vector<std::byte>& packed) {
    const auto n_columns = static_cast<std::int64_t>(order.size());
    const std::int64_t row_bytes = packed_row_bytes(bits, n_columns);
    std::vector<std::uint8_t> before(order.size()), after(order.size());
    for (std::int64_t row = 0; row < n_rows; ++row) {
        unpack_codes(packed.data() + row * row_bytes, bits, n_columns, before.data());
        for (std::size_t column = 0; column < order.size(); ++column) after[column] = before[static_cast<std::size_t>(order[column])];
        pack_codes(after.data(), bits, n_columns, packed.data() + row * row_bytes);
    }
}

std::vector<std::int32_t> inverse_order(const std::vector<std::int32_t>& order) {
    std::vector<std::int32_t> inverse(order.size());
    for (std::size_t column = 0; column < order.size(); ++column) inverse[static_cast<std::size_t>(order[column])] = static_cast<std::int32_t>(column);
    return inverse;
}

}  // namespace skiff
