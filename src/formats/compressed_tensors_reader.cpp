// compressed-tensors among the readers of quantized checkpoints, and folders that name no quant_method.
#include "formats/fp8.h"
#include "formats/quantized_reader.h"

namespace skiff {
namespace {

class CompressedTensorsReader final : public QuantizedReader {
public:
    explicit CompressedTensorsReader(std::optional<QuantizationConfig> config) : config_(std::move(config)) {}
    std::string_view marker() const override { return ".weight_packed"; }

    Result<std::optional<Weight>> read(const std::string& module, const TensorLookup& lookup) const override {
        SKIFF_TRY(const auto packed, lookup(module + ".weight_packed"));
        SKIFF_TRY(const auto plain, lookup(module + ".weight"));
        if (!packed) {
            SKIFF_TRY(const auto scale, lookup(module + ".weight_scale"));
            if (!plain) return corrupt("module " + module + ": there is no tensor \"" + module + ".weight\"");
            SKIFF_TRY(auto floating, read_fp8_weight(module, lookup, {}));
            // An int8 weight with scales beside it is a quantized one, not plain integers.
            if (floating || plain->view.dtype != DType::i8 || !scale) return floating;
        }
        SKIFF_TRY(auto weight, read_weight(module, lookup, config_ ? &*config_ : nullptr));
        return std::optional<Weight>(std::move(weight));
    }

private:
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
