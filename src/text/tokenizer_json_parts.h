// The parts of a tokenizer.json by their type: one table per part, unknown types are errors that name themselves.
#pragma once

#include "base/json.h"
#include "text/tokenizer_state.h"

namespace skiff {

inline constexpr int max_json_part_depth = 16;

Status parse_normalizer(const Json& json, TokenizerState& state, int depth = 0);
Status parse_pre_tokenizer(const Json& json, TokenizerState& state, int depth = 0);
Status parse_post_processor(const Json& json, TokenizerState& state, int depth = 0);
Status parse_decoder(const Json& json, TokenizerState& state);
Status parse_model(const Json& json, TokenizerState& state);
Status parse_added_tokens(const Json& json, TokenizerState& state);

// What the parsers share.
Result<std::string> string_member(const Json& json, std::string_view key, std::string_view what);
Result<std::string> inserted_text(const Json& json, std::string_view key, std::string_view what);  // short, for what may be put in many times
bool bool_member(const Json& json, std::string_view key, bool fallback);
struct JsonPattern {
    std::string literal;          // used if there is no regex
    std::optional<Regex> regex;
};
Result<JsonPattern> parse_pattern(const Json& json, std::string_view what);  // {"String": ..} or {"Regex": ..}
Result<PrependScheme> parse_prepend_scheme(const Json& json);

using PartParser = Status (*)(const Json& json, TokenizerState& state, int depth);
struct PartRow {
    std::string_view type;
    PartParser parse;
};
// Finds json["type"] in the table and parses; "Sequence" parses every item of json[list_key].
Status parse_by_type(const Json& json, TokenizerState& state, int depth, std::string_view part, std::span<const PartRow> rows,
                     std::string_view list_key);

}  // namespace skiff
