// config.json of a model whose shape has changed, in the words that it used before; plain numbers where all layers are alike, so that other programs load it.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "model/spec.h"

namespace skiff {

// `child` is `parent` after a cut along axes of its layers or of its hidden width. Verified: what the result implies is what `child` says.
Result<Json> config_after_cut(const Json& config, const ModelSpec& parent, const ModelSpec& child, std::vector<std::string>& remarks);

// Without some of the layers (numbered from 0). Verified in the same way, with the layers that stay.
Result<Json> config_without_layers(const Json& config, const ModelSpec& parent, const std::set<std::int64_t>& dropped);

// The name of a layer's tensor when the layer has another number: "model.layers.3.mlp..." to "model.layers.2.mlp...".
std::string key_in_layer(const std::string& key, std::int64_t from, std::int64_t to);

}  // namespace skiff
