// Consecutive layers that use one set of weights (ALBERT, Lan et al. 2020; block-wise sharing in MobileLLM, Liu et al. 2024): each computes with its own
// position, state and window, but its tensors are those of the first of its group. They are stored, loaded and packed once.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/checkpoint.h"

namespace skiff {

// config.json has a list with an entry for each layer: the layer whose tensors it uses. The first of a group names itself: [0, 0, 2, 2].
inline constexpr const char* shared_layers_key = "skiff_layer_weights";

// The name that a layer's tensor has in another layer: the first number in it is the layer's. "model.layers.3.mlp.up_proj.weight", 2: "model.layers.2..."
std::string key_of_layer(const std::string& key, std::int64_t layer);

// Makes the operators of each layer refer to the tensors of weights_of[layer]. Error: a list that is none, or layers whose tensors differ in shape.
Status share_layers(ModelSpec& spec, std::span<const std::int64_t> weights_of);
// What config.json says; empty: every layer has its own.
Result<std::vector<std::int64_t>> shared_layers(const Json& config);

// Whether some layers of a model of plain layers could share: the same operators with tensors of the same shapes.
bool may_share(const ModelSpec& spec, std::int64_t layer, std::int64_t other);

// The same model as one whose layers have tensors of their own, which are copies: for what has no words for sharing. One that shares nothing is returned as it is.
Result<Checkpoint> without_sharing(const Checkpoint& checkpoint);

}  // namespace skiff
