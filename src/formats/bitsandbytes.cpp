// Weights of bitsandbytes (Dettmers et al. 2022 and 2023): NF4 and FP4 with scales per block of the flattened matrix, themselves quantized or not, and
// int8 with a scale per row. docs/formats/bitsandbytes.md.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/checked.h"
#include "formats/packed_inputs.h"
#include "formats/quantized_reader.h"

namespace skiff {
namespace {

constexpr std::size_t max_state_bytes = 65536;
constexpr std::int64_t max_side = std::int64_t{1} << 31, max_block = 1 << 16;
// Groups that kernels are worth having for; smaller ones, of blocks that run over the ends of rows, become plain numbers.
constexpr std::int64_t least_group = 16;

// What the JSON in `quant_state.bitsandbytes__nf4` says.
struct State {
    std::string type;
    std::int64_t n_rows = 0, n_columns = 0, block = 0, nested_block = 0;
    double nested_offset = 0;
};

Error wrong(const std::string& module, const std::string& what) { return corrupt("module " + module + ": quant_state " + what); }

Result<std::int64_t> read_integer(const std::string& module, const Json& state, const char* key, std::int64_t most) {
    const std::int64_t value = state[key].int_or(-1);
    if (value < 1 || value > most) return wrong(module, std::string(key) + " must be an integer from 1 to " + std::to_string(most));
    return value;
}

Result<State> parse_state(const std::string& module, const std::string& type, const TensorView& view) {
    if (view.dtype != DType::u8 || view.data.size() > max_state_bytes) return tensor_mismatch(module, "quant_state", view, "JSON in at most 65536 U8");
    JsonLimits limits;
    limits.max_depth = 8;
    auto json = Json::parse(std::string_view(reinterpret_cast<const char*>(view.data.data()), view.data.size()), limits);
    if (!json.ok()) return json.take_error().with_context("module " + module + ": quant_state");
    State state;
    state.type = (*json)["quant_type"].text();
    if (state.type != type) return wrong(module, "has the quant_type \"" + state.type.substr(0, 40) + "\" under the name " + type);
    const Json& shape = (*json)["shape"];
    if (shape.size() != 2 || !shape.is_array()) return wrong(module, "shape must be two integers");
    state.n_rows = shape.items()[0].int_or(-1);
    state.n_columns = shape.items()[1].int_or(-1);
    if (state.n_rows < 1 || state.n_rows > max_side || state.n_columns < 1 || state.n_columns > max_side) return wrong(module, "shape must be two integers from 1 to 2^31");
    SKIFF_TRY(state.block, read_integer(module, *json, "blocksize", max_block));
    if (!(*json)["nested_blocksize"].is_null()) {
        SKIFF_TRY(state.nested_block, read_integer(module, *json, "nested_blocksize", max_block));
        SKIFF_TRY(state.nested_offset, (*json)["nested_offset"].as_double("module " + module + ": quant_state nested_offset"));
    }
    return state;
}

Result<std::vector<float>> read_floats(const TensorLookup& lookup, const std::string& module, std::string_view name, std::int64_t n) {
    SKIFF_TRY(const auto found, required_tensor(lookup, module, name, {DType::f32}));
    if (found.view.n_elements() != n) return tensor_mismatch(module, name, found.view, std::to_string(n) + " numbers");
    SKIFF_CHECK(check_finite(module, name, found.view));
    std::vector<float> values;
    to_floats(found.view, values);
    return values;
}

// The scale of every block. Nested ones are table[code] * scale + offset, each step rounded to F32.
Result<std::vector<float>> read_scales(const TensorLookup& lookup, const std::string& module, const State& state, std::int64_t n_blocks) {
    if (state.nested_block == 0) return read_floats(lookup, module, "weight.absmax", n_blocks);
    SKIFF_TRY(const auto codes, required_tensor(lookup, module, "weight.absmax", {DType::u8}));
    if (codes.view.n_elements() != n_blocks) return tensor_mismatch(module, "weight.absmax", codes.view, std::to_string(n_blocks) + " codes");
    SKIFF_TRY(const auto table, read_floats(lookup, module, "weight.nested_quant_map", 256));
    SKIFF_TRY(const auto outer, read_floats(lookup, module, "weight.nested_absmax", ceil_div(n_blocks, state.nested_block)));
    const auto offset = static_cast<float>(state.nested_offset);
    std::vector<float> scales(static_cast<std::size_t>(n_blocks));
    for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = table[std::to_integer<std::size_t>(codes.view.data[i])] * outer[i / static_cast<std::size_t>(state.nested_block)];
    for (float& scale : scales) scale += offset;  // apart, so that no compiler makes one rounding of two
    for (std::size_t i = 0; i < scales.size(); ++i)  // products of finite numbers need not be
        if (!std::isfinite(scales[i])) return not_finite_error(module, "weight.absmax times nested_absmax", std::isnan(scales[i]), codes.view.shape, static_cast<std::int64_t>(i));
    return scales;
}

Status check_table(const TensorLookup& lookup, const std::string& module, const Codebook& book) {
    SKIFF_TRY(const auto table, read_floats(lookup, module, "weight.quant_map", 16));
    for (std::size_t code = 0; code < 16; ++code)
        if (table[code] != book.levels[code])
            return unsupported("module " + module + ": quant_map is not the table of " + std::string(book.name) + " (code " + std::to_string(code) + " means " + std::to_string(table[code]) + ")");
    return {};
}

// Codes of the flattened matrix, the first of two in the upper four bits, as rows with scales per group. A group is what divides a block and a row.
Weight as_codes(const State& state, const Codebook& book, std::span<const std::byte> packed, const std::vector<float>& scales, std::int64_t group) {
    Scheme scheme;
    scheme.kind = NumberKind::codebook;
    scheme.codebook = &book;
    scheme.bits = 4;
    scheme.scale_dtype = DType::f32;
    scheme.group_size = group;
    const std::int64_t row_bytes = packed_row_bytes(4, state.n_columns), n_groups = scheme.n_groups(state.n_columns);
    CodeBytes bytes;
    bytes.packed.resize(static_cast<std::size_t>(state.n_rows * row_bytes));
    bytes.scales.resize(static_cast<std::size_t>(state.n_rows * n_groups * 4));
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(state.n_columns));
    for (std::int64_t row = 0; row < state.n_rows; ++row) {
        for (std::int64_t column = 0; column < state.n_columns; ++column) {
            const std::int64_t i = row * state.n_columns + column;
            const int pair = std::to_integer<int>(packed[static_cast<std::size_t>(i / 2)]);
            codes[static_cast<std::size_t>(column)] = static_cast<std::uint8_t>(i % 2 == 0 ? pair >> 4 : pair & 15);
        }
        pack_codes(codes.data(), 4, state.n_columns, bytes.packed.data() + row * row_bytes);
        for (std::int64_t g = 0; g < n_groups; ++g) {
            const float scale = scales[static_cast<std::size_t>((row * state.n_columns + g * group) / state.block)];
            std::memcpy(bytes.scales.data() + (row * n_groups + g) * 4, &scale, 4);
        }
    }
    return make_code_weight(scheme, state.n_rows, state.n_columns, std::move(bytes));
}

Weight as_floats(const State& state, const Codebook& book, std::span<const std::byte> packed, const std::vector<float>& scales) {
    std::vector<float> values(static_cast<std::size_t>(state.n_rows * state.n_columns));
    for (std::size_t i = 0; i < values.size(); ++i) {
        const int pair = std::to_integer<int>(packed[i / 2]);
        values[i] = book.levels[static_cast<std::size_t>(i % 2 == 0 ? pair >> 4 : pair & 15)] * scales[i / static_cast<std::size_t>(state.block)];
    }
    return make_float_weight({state.n_rows, state.n_columns}, std::move(values));
}

Result<Weight> read_four_bits(const std::string& module, const std::string& type, const TensorView& state_view, const TensorLookup& lookup) {
    SKIFF_TRY(const auto state, parse_state(module, type, state_view));
    SKIFF_TRY(const auto packed, lookup(module + ".weight"));
    if (!packed) return corrupt("module " + module + ": there is no tensor \"" + module + ".weight\"");
    const std::int64_t n = state.n_rows * state.n_columns, n_bytes = ceil_div<std::int64_t>(n, 2);
    // The bytes may be kept under another type ("quant_storage").
    if (static_cast<std::int64_t>(packed->view.data.size()) != n_bytes) return tensor_mismatch(module, "weight", packed->view, std::to_string(n_bytes) + " bytes for " + shape_text({state.n_rows, state.n_columns}));
    const Codebook& book = *find_codebook(type);
    SKIFF_CHECK(check_table(lookup, module, book));
    SKIFF_TRY(const auto scales, read_scales(lookup, module, state, ceil_div(n, state.block)));
    const bool whole_rows = state.block >= n || state.block % state.n_columns == 0;
    const std::int64_t group = whole_rows ? 0 : std::gcd(state.block, state.n_columns);
    if (group == 0 || group >= least_group) return as_codes(state, book, packed->view.data, scales, group);
    return as_floats(state, book, packed->view.data, scales);
}

// LLM.int8(): value = code * SCB / 127.
Result<std::optional<Weight>> read_eight_bits(const std::string& module, const TensorLookup& lookup) {
    SKIFF_TRY(const auto found, lookup(module + ".SCB"));
    if (!found) return std::optional<Weight>();
    SKIFF_TRY(const auto codes, required_tensor(lookup, module, "weight", {DType::i8}));
    if (codes.view.shape.size() != 2) return tensor_mismatch(module, "weight", codes.view, "a matrix");
    const std::int64_t n_rows = codes.view.shape[0], n_columns = codes.view.shape[1];
    SKIFF_TRY(auto scales, read_floats(lookup, module, "SCB", n_rows));
    for (float& scale : scales) scale *= 1.0f / 127;
    Scheme scheme;
    scheme.kind = NumberKind::integer;
    scheme.bits = 8;
    scheme.scale_dtype = DType::f32;
    const std::int64_t row_bytes = packed_row_bytes(8, n_columns);
    CodeBytes bytes;
    bytes.packed.resize(static_cast<std::size_t>(n_rows * row_bytes));
    for (std::int64_t row = 0; row < n_rows; ++row)
        for (std::int64_t column = 0; column < n_columns; ++column)
            bytes.packed[static_cast<std::size_t>(row * row_bytes + column)] = codes.view.data[static_cast<std::size_t>(row * n_columns + column)] ^ std::byte{0x80};
    const auto scale_bytes = std::as_bytes(std::span<const float>(scales));
    bytes.scales.assign(scale_bytes.begin(), scale_bytes.end());
    return std::optional<Weight>(make_code_weight(scheme, n_rows, n_columns, std::move(bytes)));
}

class BitsandbytesReader final : public QuantizedReader {
public:
    std::string_view marker() const override { return ".weight"; }
    Result<std::optional<Weight>> read(const std::string& module, const TensorLookup& lookup) const override {
        for (const std::string type : {"nf4", "fp4"}) {
            SKIFF_TRY(const auto state, lookup(module + ".weight.quant_state.bitsandbytes__" + type));
            if (!state) continue;
            SKIFF_TRY(auto weight, read_four_bits(module, type, state->view, lookup));
            return std::optional<Weight>(std::move(weight));
        }
        return read_eight_bits(module, lookup);
    }
};

}  // namespace

Result<std::unique_ptr<QuantizedReader>> make_bitsandbytes_reader(const Json&) { return std::unique_ptr<QuantizedReader>(std::make_unique<BitsandbytesReader>()); }

}  // namespace skiff
