// What a GGUF file says about a model, made from its spec; the inverse of gguf_config.h.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "formats/gguf_value.h"
#include "model/gguf_maps.h"
#include "model/spec.h"

namespace skiff {

// A small f32 tensor that stands for rope settings: "rope_freqs.weight".
struct GgufRopeTensor {
    std::string name;
    std::vector<float> values;
};

struct GgufDescription {
    const GgufMap* map = nullptr;
    GgufMetadata metadata;  // general.architecture and the architecture's own keys
    std::vector<GgufRopeTensor> ropes;
    std::vector<std::string> notes;  // what other programs will not do with this file
};

// Error where GGUF cannot express the model. What is returned was read back: it gives a spec with the same operators and numbers.
// `config` is only asked for the base of the rope, which a spec no longer knows.
Result<GgufDescription> describe_as_gguf(const ModelSpec& spec, const Json& config);

// Nothing, or the first difference in what two specs compute. Names of architectures, axes and values do not count; rope frequencies may
// differ by 1e-5 of their value.
Status check_same_computation(const ModelSpec& expected, const ModelSpec& found);

}  // namespace skiff
