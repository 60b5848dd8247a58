// Which GGUF tensor holds which of our tensors, and how its numbers were changed on the way. Tables: docs/formats/gguf.md.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace skiff {

// What a converter does to a tensor's numbers on the way into GGUF.
enum class GgufChange : std::uint8_t {
    none,
    permuted_heads,   // rows of each head reordered, so that neighbours rotate together (weight and bias)
    regrouped_heads,  // (n_heads, 3, head_dim) rows become (3, n_heads, head_dim) (weight and bias)
    plus_one,         // norm weights that we keep as w - 1
    transposed,       // ours is (inputs, outputs), GGUF's (outputs, inputs)
};

// "{}" stands for the block's number, a second one in `hf` for an expert: GGUF keeps all experts of a block in one tensor.
// Without ".weight" / ".bias", which are the same in both.
struct GgufName {
    std::string_view hf;    // "model.layers.{}.self_attn.q_proj"
    std::string_view gguf;  // "blk.{}.attn_q"
    GgufChange change = GgufChange::none;
};

// A hyperparameter under both names; `gguf` without the architecture's prefix.
struct GgufKey {
    std::string_view gguf, hf;
    enum class Kind : std::uint8_t { count, counts, number, flag } kind;  // counts: one for all blocks, or an array with one for each
    enum class Need : std::uint8_t { required, optional } need;
};

// One row for each architecture of ours that GGUF can express; llama, mistral and mixtral share GGUF's "llama".
struct GgufMap {
    std::string_view architecture;  // row of the architecture table
    std::string_view model_type;    // config.json's
    std::string_view gguf_name;     // general.architecture
    std::span<const GgufName> names;
    std::span<const GgufKey> keys;
    GgufKey eps;
    std::string_view partial_rotary_key;  // config.json's, where heads may rotate in part
    enum class HeadDim : std::uint8_t {
        by_width,
        own
    } head_dim;  // what config.json's head_dim is when absent: d_model / n_heads, or a number of the family
};

std::span<const GgufMap> gguf_map_table();
const GgufMap* find_gguf_map(std::string_view architecture);  // nullptr: GGUF has no such architecture
// The first row with this general.architecture.
const GgufMap* find_gguf_map_by_gguf_name(std::string_view gguf_name);
std::string gguf_architecture_names();  // "llama, qwen2, ..."

// Where a tensor of ours is kept.
struct GgufPlace {
    std::string name;  // "blk.3.attn_q.weight"
    GgufChange change = GgufChange::none;
    std::int64_t expert = -1;  // its part of a tensor of all experts
};
std::optional<GgufPlace> gguf_place_of(const GgufMap& map, std::string_view key);

// The row of the GGUF tensor that holds our row. Changes other than those of heads leave rows where they are.
std::int64_t gguf_row_of(GgufChange change, std::int64_t row, std::int64_t n_rows, std::int64_t head_dim);
// Our row that a row of the GGUF tensor holds: the inverse.
std::int64_t row_of_gguf(GgufChange change, std::int64_t gguf_row, std::int64_t n_rows, std::int64_t head_dim);

}  // namespace skiff
