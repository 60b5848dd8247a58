// Which tensors a wish such as "w4g32" means, and what the others get.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "model/spec.h"
#include "tensor/scheme.h"

namespace skiff {

// What a tensor does in the model. A tied table is an embedding and a head at once.
enum class TensorUse : std::uint8_t { other, linear, router, embedding, head, tied_embedding, positions };
const char* tensor_use_name(TensorUse use);  // "linear"

std::map<std::string, TensorUse> tensor_uses(const ModelSpec& spec);

// Schemes by use. Nothing: stays as it is. Routers, norms, biases and learned positions always stay, but for a floating `linear` scheme, which all take.
struct SchemeWish {
    Scheme linear;
    std::optional<Scheme> embedding, head;
    bool operator==(const SchemeWish&) const = default;
};

// What `scheme` alone means: head and embedding take 8 bit rows where it has fewer bits, and w6g32r where it is 2 to 4 bits with relative
// scales or a codebook.
SchemeWish default_wish(const Scheme& scheme);

// The scheme that a use takes; null: stays as it is. A tied table takes the head's.
const Scheme* scheme_for(const SchemeWish& wish, TensorUse use);

}  // namespace skiff
