// What a GGUF file's metadata say, in the words of a Hugging Face config.json, so that the architectures read one kind of config.
#pragma once

#include "base/json.h"
#include "formats/gguf.h"
#include "model/gguf_maps.h"

namespace skiff {

struct GgufConfig {
    Json config;
    const GgufMap* map = nullptr;
};

// Errors: an architecture or a key of it that is not implemented, a missing or wrongly typed key, sizes that contradict each other.
Result<GgufConfig> read_gguf_config(const GgufFile& file);

// The same from parts, for files that are about to be written. `tensors` need names and shapes only; rope tensors also data.
Result<GgufConfig> read_gguf_config(const GgufMetadata& metadata, std::span<const GgufTensor> tensors);

}  // namespace skiff
