// links: skiff_formats
// quantization_config of a config.json on any bytes: no crash; patterns end in bounded time; what it accepts answers for any module.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/json.h"
#include "formats/compressed_tensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    skiff::JsonLimits limits;
    limits.max_values = 1 << 14;
    auto json = skiff::Json::parse(std::string_view(reinterpret_cast<const char*>(data), size), limits);
    if (!json.ok()) return 0;
    const skiff::Json* section = json->find("quantization_config");
    auto config = skiff::QuantizationConfig::parse(section != nullptr ? *section : *json);
    if (!config.ok()) {
        if (config.error().message.empty()) std::abort();
        return 0;
    }
    for (std::string_view module : {"model.layers.0.mlp.down_proj", "lm_head", ""}) {
        auto scheme = config->scheme_of(module);
        if (!scheme.ok()) {
            if (scheme.error().message.empty()) std::abort();
            continue;
        }
        if (*scheme && ((*scheme)->bits < 1 || (*scheme)->bits > 8 || (*scheme)->group_size < 0)) std::abort();
    }
    return 0;
}
