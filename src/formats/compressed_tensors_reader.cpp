// compressed-tensors among the readers of quantized checkpoints, and folders that name no quant_method.
#include <cmath>

#include "formats/fp8.h"
#include "formats/quantized_reader.h"

namespace skiff {
namespace {

class CompressedTensorsReader final : public QuantizedReader {
public:
    explicit CompressedTensorsReader(std::optional<QuantizationConfig> config) : config_(std::move(config)) {}
    std::string_view marker() const override { return ".weight_packed"; }

    Result<std::optional<Weight>> read(const std::string& module, const TensorLookup& lookup) const override {
        SKIFF_TRY(const auto bitmask, lookup(module + ".weight_bitmask"));
        if (bitmask) {
            SKIFF_TRY(auto sparse, read_weight(module, lookup, config_ ? &*config_ : nullptr));
            return std::optional<Weight>(std::move(sparse));
        }
        SKIFF_TRY(const auto packed, lookup(module + ".weight_packed"));
        SKIFF_TRY(const auto plain, lookup(module + ".weight"));
        if (!packed) {
            SKIFF_TRY(const auto scale, lookup(module + ".weight_scale"));
            if (!plain) return corrupt("module " + module + ": there is no tensor \"" + module + ".weight\"");
            if (plain->view.dtype == DType::f8_e4m3 && scale && says_float8(module)) {
                SKIFF_TRY(auto coded, read_weight(module, lookup, &*config_));
                return std::optional<Weight>(std::move(coded));
            }
            SKIFF_TRY(auto floating, read_fp8_weight(module, lookup, config_ ? config_->fp8_blocks() : Fp8Blocks()));
            // An int8 weight with scales beside it is a quantized one, not plain integers.
            if (floating || plain->view.dtype != DType::i8 || !scale) return floating;
        }
        SKIFF_TRY(auto weight, read_weight(module, lookup, config_ ? &*config_ : nullptr));
        return std::optional<Weight>(std::move(weight));
    }

    Result<std::vector<std::int32_t>> input_order(const std::string& module, const TensorLookup& lookup) const override {
        SKIFF_TRY(const auto g_idx, lookup(module + ".weight_g_idx"));
        if (!g_idx || !config_) return std::vector<std::int32_t>();
        SKIFF_TRY(const auto scheme, config_->scheme_of(module));
        return scheme ? weight_input_order(module, lookup, *scheme) : std::vector<std::int32_t>();
    }

    Result<std::optional<float>> fixed_input_scale(const std::string& module, const TensorLookup& lookup) const override {
        if (!config_) return std::optional<float>();
        SKIFF_TRY(const bool fixed, config_->has_fixed_inputs(module));
        if (!fixed) return std::optional<float>();
        SKIFF_TRY(const auto found, lookup(module + ".input_scale"));
        if (!found) return corrupt("module " + module + ": quantization_config fixes the scale of its inputs, but there is no tensor \"" + module + ".input_scale\"");
        std::vector<float> scale;
        if (found->view.n_elements() != 1 || !to_floats(found->view, scale)) return corrupt("module " + module + ": input_scale is " + std::string(dtype_info(found->view.dtype).name) + " " + shape_text(found->view.shape) + ", expected one number");
        constexpr float least = 1e-30f, most = 1e30f;  // its inverse and its products with codes are finite numbers
        if (!(scale[0] >= least && scale[0] <= most)) return corrupt("module " + module + ": input_scale is " + std::to_string(scale[0]) + ", expected 1e-30 to 1e30");
        return std::optional<float>(scale[0]);
    }

private:
    // Scales of rows or of the tensor: such weights stay codes. Others (blocks) become floats.
    bool says_float8(const std::string& module) const {
        if (!config_) return false;
        const auto scheme = config_->scheme_of(module);
        return scheme.ok() && *scheme && (*scheme)->codebook == find_codebook("e4m3");
    }
    std::optional<QuantizationConfig> config_;
};

}  // namespace

Result<std::unique_ptr<QuantizedReader>> make_compressed_tensors_reader(const Json& json) {
    std::optional<QuantizationConfig> config;
    if (!json.is_null()) {
        SKIFF_TRY(config, QuantizationConfig::parse(json));
    }
    return std::unique_ptr<QuantizedReader>(std::make_unique<CompressedTensorsReader>(std::move(config)));
}

}  // namespace skiff
