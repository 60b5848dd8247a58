#include <algorithm>

#include "text/base64.h"
#include "text/tokenizer_json_parts.h"

namespace skiff {
namespace {

constexpr std::size_t max_json_bytes = std::size_t{128} << 20;

Status parse_regex_like_normalizer(const Json& json, TokenizerState& state, int) {
    SKIFF_TRY(auto pattern, parse_pattern(json["pattern"], "Replace normalizer"));
    SKIFF_TRY(auto content, inserted_text(json, "content", "Replace normalizer"));
    state.normalizers.push_back(pattern.regex ? replace_normalizer(std::move(*pattern.regex), std::move(content))
                                              : replace_normalizer(std::move(pattern.literal), std::move(content)));
    return {};
}

Status parse_precompiled(const Json& json, TokenizerState& state, int) {
    if (json["precompiled_charsmap"].is_null()) return {};
    SKIFF_TRY(auto text, string_member(json, "precompiled_charsmap", "Precompiled normalizer"));
    SKIFF_TRY(auto blob, decode_base64(text));
    if (blob.empty()) return {};
    SKIFF_TRY(auto map, Charsmap::parse(blob));
    state.charsmap_blob = blob;
    state.normalizers.push_back(charsmap_normalizer(std::make_shared<const Charsmap>(std::move(map))));
    return {};
}

Status parse_bert_normalizer(const Json& json, TokenizerState& state, int) {
    BertNormalizerOptions options;
    options.clean_text = bool_member(json, "clean_text", true);
    options.handle_chinese_chars = bool_member(json, "handle_chinese_chars", true);
    options.lowercase = bool_member(json, "lowercase", true);
    options.strip_accents = bool_member(json, "strip_accents", options.lowercase);
    state.normalizers.push_back(bert_normalizer(options));
    return {};
}

template <NormalForm form>
Status parse_normal_form(const Json&, TokenizerState& state, int) {
    state.normalizers.push_back(unicode_normalizer(form));
    return {};
}

constexpr PartRow normalizer_rows[] = {
    {"NFC", parse_normal_form<NormalForm::nfc>},
    {"NFD", parse_normal_form<NormalForm::nfd>},
    {"NFKC", parse_normal_form<NormalForm::nfkc>},
    {"NFKD", parse_normal_form<NormalForm::nfkd>},
    {"BertNormalizer", parse_bert_normalizer},
    {"Precompiled", parse_precompiled},
    {"Replace", parse_regex_like_normalizer},
    {"Prepend",
     [](const Json& json, TokenizerState& state, int) -> Status {
         SKIFF_TRY(auto prefix, inserted_text(json, "prepend", "Prepend normalizer"));
         state.normalizers.push_back(prepend_normalizer(std::move(prefix)));
         return {};
     }},
    {"Lowercase",
     [](const Json&, TokenizerState& state, int) -> Status {
         state.normalizers.push_back(lowercase_normalizer());
         return {};
     }},
    {"StripAccents",
     [](const Json&, TokenizerState& state, int) -> Status {
         state.normalizers.push_back(strip_accents_normalizer());
         return {};
     }},
    {"Strip",
     [](const Json& json, TokenizerState& state, int) -> Status {
         const bool left = bool_member(json, "strip_left", true), right = bool_member(json, "strip_right", true);
         state.normalizers.push_back(
             strip_normalizer(left ? (right ? StripSide::both : StripSide::left) : (right ? StripSide::right : StripSide::none)));
         return {};
     }},
    {"Nmt",
     [](const Json&, TokenizerState& state, int) -> Status {
         state.normalizers.push_back(nmt_normalizer());
         return {};
     }},
    {"ByteLevel",
     [](const Json&, TokenizerState& state, int) -> Status {
         state.normalizers.push_back(byte_level_normalizer());
         return {};
     }},
};

}  // namespace

Result<std::string> string_member(const Json& json, std::string_view key, std::string_view what) {
    return json[key].as_string(std::string(what) + "." + std::string(key));
}

Result<std::string> inserted_text(const Json& json, std::string_view key, std::string_view what) {
    constexpr std::size_t max_bytes = 256;
    SKIFF_TRY(auto text, string_member(json, key, what));
    if (text.size() <= max_bytes) return text;
    return resource_error(std::string(what) + "." + std::string(key) + " has " + std::to_string(text.size()) + " bytes; at most " +
                          std::to_string(max_bytes));
}

bool bool_member(const Json& json, std::string_view key, bool fallback) { return json[key].bool_or(fallback); }

Result<JsonPattern> parse_pattern(const Json& json, std::string_view what) {
    JsonPattern pattern;
    if (json.is_string()) {
        pattern.literal = json.text();
    } else if (json.contains("String")) {
        SKIFF_TRY(pattern.literal, string_member(json, "String", what));
    } else {
        SKIFF_TRY(auto text, string_member(json, "Regex", what));
        SKIFF_TRY(auto regex, Regex::compile(text));
        pattern.regex = std::move(regex);
    }
    return pattern;
}

Result<PrependScheme> parse_prepend_scheme(const Json& json) {
    if (json["prepend_scheme"].is_null()) return bool_member(json, "add_prefix_space", true) ? PrependScheme::always : PrependScheme::never;
    SKIFF_TRY(auto name, string_member(json, "prepend_scheme", "Metaspace"));
    if (name == "always") return PrependScheme::always;
    if (name == "first") return PrependScheme::first;
    if (name == "never") return PrependScheme::never;
    return unsupported("Metaspace.prepend_scheme \"" + name + "\"; known are always, first, never");
}

Status parse_by_type(const Json& json, TokenizerState& state, int depth, std::string_view part, std::span<const PartRow> rows,
                     std::string_view list_key) {
    if (json.is_null()) return {};
    if (depth > max_json_part_depth) return corrupt(std::string(part) + " nested deeper than " + std::to_string(max_json_part_depth));
    SKIFF_TRY(const auto type, string_member(json, "type", part));
    if (type == "Sequence") {
        if (!json[list_key].is_array()) return corrupt(std::string(part) + " Sequence has no list \"" + std::string(list_key) + "\"");
        for (const Json& item : json[list_key].items()) SKIFF_CHECK(parse_by_type(item, state, depth + 1, part, rows, list_key));
        return {};
    }
    for (const PartRow& row : rows)
        if (row.type == type) return row.parse(json, state, depth);
    std::string known = "Sequence";
    for (const PartRow& row : rows) known += ", " + std::string(row.type);
    return unsupported(std::string(part) + " type \"" + type + "\" is not known; known are " + known);
}

Status parse_normalizer(const Json& json, TokenizerState& state, int depth) {
    return parse_by_type(json, state, depth, "normalizer", normalizer_rows, "normalizers");
}

Status parse_added_tokens(const Json& json, TokenizerState& state) {
    if (json.is_null()) return {};
    if (!json.is_array()) return corrupt("added_tokens is " + std::string(json.type_name()) + ", expected a list");
    for (const Json& item : json.items()) {
        AddedToken token;
        SKIFF_TRY(token.text, string_member(item, "content", "added_tokens[]"));
        if (token.text.empty()) continue;
        SKIFF_TRY(const auto id, item["id"].as_int("added_tokens[].id"));
        token.special = bool_member(item, "special", false);
        token.normalized = bool_member(item, "normalized", !token.special);
        token.single_word = bool_member(item, "single_word", false);
        token.lstrip = bool_member(item, "lstrip", false);
        token.rstrip = bool_member(item, "rstrip", false);
        if (auto known = state.vocabulary->find(token.text)) {
            token.id = *known;
        } else {
            SKIFF_CHECK(state.vocabulary->add(token.text, id));
            token.id = static_cast<std::int32_t>(id);
        }
        state.added.push_back(std::move(token));
    }
    return {};
}

Result<TokenizerState> load_tokenizer_json_state(std::string_view text) {
    JsonLimits limits;
    limits.max_bytes = max_json_bytes;
    SKIFF_TRY(const auto json, Json::parse(text, limits));
    if (!json.is_object()) return corrupt("tokenizer.json holds " + std::string(json.type_name()) + ", expected an object");
    TokenizerState state;
    SKIFF_CHECK(parse_model(json["model"], state));
    SKIFF_CHECK(parse_normalizer(json["normalizer"], state));
    SKIFF_CHECK(parse_pre_tokenizer(json["pre_tokenizer"], state));
    SKIFF_CHECK(parse_added_tokens(json["added_tokens"], state));
    SKIFF_CHECK(parse_post_processor(json["post_processor"], state));
    SKIFF_CHECK(parse_decoder(json["decoder"], state));
    return state;
}

Result<Tokenizer> load_tokenizer_json(std::string_view json) {
    SKIFF_TRY(auto state, load_tokenizer_json_state(json));
    guess_begin_and_end(state);
    return finish_tokenizer(std::move(state));
}

}  // namespace skiff
