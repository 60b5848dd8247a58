// Which tensors a wish such as "w4g32" means, and what the others get.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/spec.h"
#include "tensor/scheme.h"

namespace skiff {

// What a tensor does in the model. A tied table is an embedding and a head at once.
enum class TensorUse : std::uint8_t { other, linear, router, embedding, head, tied_embedding, positions };
const char* tensor_use_name(TensorUse use);  // "linear"

std::map<std::string, TensorUse> tensor_uses(const ModelSpec& spec);

// A wish for the linear weights, heads and embeddings whose key, or that without ".weight" behind, matches a pattern (base/glob.h).
struct SchemeRule {
    std::string pattern;
    std::optional<Scheme> scheme;  // nothing: stays as it is
    bool operator==(const SchemeRule&) const = default;
};

// Schemes by use. Nothing: stays as it is. Routers, norms, biases and learned positions always stay, but for a floating `linear` scheme, which all take.
struct SchemeWish {
    Scheme linear;
    std::optional<Scheme> embedding, head;
    std::vector<SchemeRule> rules = {};  // go before the use; of several that match, the last
    bool operator==(const SchemeWish&) const = default;
};

// What `scheme` alone means: head and embedding take 8 bit rows where it has fewer bits, and w6g32r where it is 2 to 4 bits with relative
// scales or a codebook.
SchemeWish default_wish(const Scheme& scheme);

// The scheme that a use takes; null: stays as it is. A tied table takes the head's.
const Scheme* scheme_for(const SchemeWish& wish, TensorUse use);
// The rule that decides about a tensor; null: its use does.
const SchemeRule* rule_for(const SchemeWish& wish, const std::string& key, TensorUse use);
// "*.down_proj=n4g32r", or "...=keep".
Result<SchemeRule> parse_scheme_rule(std::string_view text);

}  // namespace skiff
