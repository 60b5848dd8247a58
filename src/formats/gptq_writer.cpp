#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "formats/gptq.h"
#include "formats/name_pattern.h"
#include "formats/packed_inputs.h"

namespace skiff {
namespace {

struct Settings {
    int bits;
    std::int64_t group_size;
    auto operator<=>(const Settings&) const = default;
};
Settings settings_of(const Scheme& scheme) { return {scheme.bits, scheme.group_size == 0 ? -1 : scheme.group_size}; }

// The zeros of each group as one stream over the rows. // (n_groups, ceil(n_rows*bits/32)) i32
std::vector<std::byte> packed_zeros(const Codes& codes, std::int64_t n_rows, std::int64_t n_groups, GptqForm form) {
    const int bits = codes.scheme.bits, mask = (1 << bits) - 1;
    const std::int64_t row_bytes = packed_row_bytes(bits, n_rows);
    std::vector<std::byte> packed(static_cast<std::size_t>(row_bytes * n_groups));
    std::vector<std::uint8_t> values(static_cast<std::size_t>(n_rows));
    for (std::int64_t group = 0; group < n_groups; ++group) {
        for (std::int64_t row = 0; row < n_rows; ++row) {
            const int zero = codes.scheme.symmetric ? 1 << (bits - 1) : std::to_integer<int>(codes.zeros.data[static_cast<std::size_t>(row * n_groups + group)]);
            values[static_cast<std::size_t>(row)] = static_cast<std::uint8_t>((zero - (form == GptqForm::v1 ? 1 : 0)) & mask);
        }
        pack_codes(values.data(), bits, n_rows, packed.data() + group * row_bytes);
    }
    return packed;
}

}  // namespace

Status check_gptq(const Scheme& scheme, const Shape& shape) {
    const std::string name = scheme.name();
    if (scheme.kind != NumberKind::integer || scheme.relative_scales() || scheme.minimums || scheme.scale_dtype == DType::f8_e8m0)
        return unsupported("GPTQ has no words for " + name + ", only for integers with a scale of their own per group; quantize the 16 bit model with --scheme w4g128 or w4g32");
    if (scheme.bits != 2 && scheme.bits != 3 && scheme.bits != 4 && scheme.bits != 8)
        return unsupported("GPTQ has 2, 3, 4 or 8 bits, not " + std::to_string(scheme.bits) + " (" + name + "); quantize the 16 bit model to one of these");
    const std::int64_t n_rows = shape[0], n_columns = shape[1];
    if (n_rows % 32 != 0 || n_columns % 32 != 0) return unsupported("GPTQ's readers need multiples of 32 inputs and outputs, this is " + shape_text(shape));
    if (scheme.group_size != 0 && n_columns % scheme.group_size != 0)
        return unsupported("GPTQ's groups are whole: " + std::to_string(n_columns) + " inputs are no multiple of " + std::to_string(scheme.group_size) + "; choose a smaller group");
    return {};
}

std::vector<TensorDeclaration> gptq_declarations(const std::string& module, const Scheme& scheme, const Shape& shape) {
    const std::int64_t n_rows = shape[0], n_columns = shape[1], n_groups = scheme.n_groups(n_columns);
    return {{module + ".qweight", DType::i32, {packed_row_bytes(scheme.bits, n_columns) / 4, n_rows}},
            {module + ".qzeros", DType::i32, {n_groups, packed_row_bytes(scheme.bits, n_rows) / 4}},
            {module + ".scales", DType::f16, {n_groups, n_rows}},
            {module + ".g_idx", DType::i32, {n_columns}}};
}

Result<std::vector<StoredTensor>> gptq_tensors(const std::string& module, const Weight& weight, GptqForm form, const std::vector<std::int32_t>& order) {
    if (weight.codes() == nullptr) return unsupported("module " + module + ": " + weight.encoding_name() + " is not made of codes");
    const Codes& codes = *weight.codes();
    const Scheme& scheme = codes.scheme;
    if (auto status = check_gptq(scheme, weight.shape); !status.ok()) return status.take_error().with_context("module " + module);
    SKIFF_TRY(const auto scales, scales_as_f16(codes));
    const std::int64_t n_rows = weight.n_rows(), n_columns = weight.n_columns(), n_groups = scheme.n_groups(n_columns);
    struct Bytes {
        std::vector<std::byte> qweight, qzeros, scales;
        std::vector<std::int32_t> g_idx;
    };
    auto bytes = std::make_shared<Bytes>();
    std::vector<std::byte> rows(codes.packed.data.begin(), codes.packed.data.end());
    bytes->g_idx.resize(static_cast<std::size_t>(n_columns));
    for (std::int64_t column = 0; column < n_columns; ++column) {
        const std::int64_t input = order.empty() ? column : order[static_cast<std::size_t>(column)];
        bytes->g_idx[static_cast<std::size_t>(input)] = static_cast<std::int32_t>(scheme.group_of(column));
    }
    if (!order.empty()) take_columns(inverse_order(order), scheme.bits, n_rows, rows);
    bytes->qweight = transposed_bytes(rows, n_rows, packed_row_bytes(scheme.bits, n_columns) / 4, 4);
    bytes->qzeros = packed_zeros(codes, n_rows, n_groups, form);
    bytes->scales = transposed_bytes(scales, n_rows, n_groups, 2);
    std::vector<StoredTensor> tensors;
    const std::span<const std::byte> data[] = {bytes->qweight, bytes->qzeros, bytes->scales, std::as_bytes(std::span<const std::int32_t>(bytes->g_idx))};
    for (TensorDeclaration& declared : gptq_declarations(module, scheme, weight.shape))
        tensors.push_back({declared.name, declared.dtype, declared.shape, data[tensors.size()], bytes});
    return tensors;
}

GptqForm GptqModel::form() const {
    return std::all_of(modules.begin(), modules.end(), [](const auto& module) { return module.second.symmetric; }) ? GptqForm::v1 : GptqForm::v2;
}

Json gptq_config(const GptqModel& model) {
    std::map<Settings, std::int64_t> counts;
    for (const auto& [name, scheme] : model.modules) ++counts[settings_of(scheme)];
    const auto most = std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    const Settings common = most == counts.end() ? Settings{4, 128} : most->first;
    Json dynamic = Json::object();
    for (const auto& [name, scheme] : model.modules)
        if (const Settings own = settings_of(scheme); own != common) dynamic.set("+:" + pattern_of_name(name), Json::object({{"bits", own.bits}, {"group_size", own.group_size}}));
    for (const std::string& name : model.plain)
        if (name != "lm_head") dynamic.set("-:" + pattern_of_name(name), Json::object());
    const GptqForm form = model.form();
    Json config = Json::object({{"quant_method", "gptq"},
                                {"bits", common.bits},
                                {"group_size", common.group_size},
                                {"desc_act", model.reordered},
                                {"sym", form == GptqForm::v1},
                                {"lm_head", model.modules.count("lm_head") != 0},
                                {"pack_dtype", "int32"},
                                {"checkpoint_format", form == GptqForm::v1 ? "gptq" : "gptq_v2"}});
    for (const auto& [key, value] : model.made) config.set(key, value);
    if (dynamic.size() > 0) config.set("dynamic", std::move(dynamic));
    return config;
}

}  // namespace skiff
