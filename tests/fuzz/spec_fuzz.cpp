// links: skiff_model
// config.json on any bytes: no crash, errors that say something, and specs whose sizes are positive and consistent.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/json.h"
#include "model/arch/arch.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    skiff::JsonLimits limits;
    limits.max_values = 1 << 14;
    auto json = skiff::Json::parse(std::string_view(reinterpret_cast<const char*>(data), size), limits);
    if (!json.ok()) return 0;
    auto spec = skiff::build_spec(*json);
    if (!spec.ok()) {
        if (spec.error().message.empty()) std::abort();
        return 0;
    }
    for (const skiff::Axis& axis : spec->axes)
        if (axis.size < 1 || axis.multiple_of < 1 || axis.size % axis.multiple_of != 0) std::abort();
    if (spec->blocks.size() < 3 || spec->width(spec->logits) != spec->n_vocab) std::abort();
    if (spec->n_layers <= 16 && (spec->n_parameters() < 1 || spec->multiply_adds_per_token() < 1)) std::abort();
    return 0;
}
