// Pre-tokenizers, post-processors and decoders of tokenizer.json.
#include <algorithm>

#include "text/tokenizer_json_parts.h"

namespace skiff {
namespace {

Result<SplitBehavior> parse_behavior(const Json& json, SplitBehavior fallback) {
    if (json.is_null()) return fallback;
    SKIFF_TRY(const auto name, json.as_string("pre_tokenizer.behavior"));
    constexpr std::pair<std::string_view, SplitBehavior> names[] = {{"Removed", SplitBehavior::removed},
                                                                    {"Isolated", SplitBehavior::isolated},
                                                                    {"MergedWithPrevious", SplitBehavior::merged_with_previous},
                                                                    {"MergedWithNext", SplitBehavior::merged_with_next},
                                                                    {"Contiguous", SplitBehavior::contiguous}};
    for (const auto& [known, behavior] : names)
        if (name == known) return behavior;
    return unsupported("pre_tokenizer behavior \"" + name + "\" is not known");
}

Status parse_byte_level(const Json& json, TokenizerState& state, int) {
    if (bool_member(json, "add_prefix_space", true)) state.pre_tokenizers.push_back(prepend_space());
    if (bool_member(json, "use_regex", true)) {
        SKIFF_TRY(auto split, gpt2_split());
        state.pre_tokenizers.push_back(std::move(split));
    }
    state.pre_tokenizers.push_back(byte_level_spelling());
    return {};
}

Status parse_split(const Json& json, TokenizerState& state, int) {
    SplitOptions options;
    SKIFF_TRY(auto pattern, parse_pattern(json["pattern"], "Split pre_tokenizer"));
    SKIFF_TRY(options.behavior, parse_behavior(json["behavior"], SplitBehavior::isolated));
    options.invert = bool_member(json, "invert", false);
    state.pre_tokenizers.push_back(pattern.regex ? split_by_regex(std::move(*pattern.regex), options)
                                                 : split_by_literal(std::move(pattern.literal), options));
    return {};
}

Status parse_metaspace(const Json& json, TokenizerState& state, int) {
    MetaspaceOptions options;
    SKIFF_TRY(options.replacement, inserted_text(json, "replacement", "Metaspace"));
    if (options.replacement.empty()) return corrupt("Metaspace.replacement is empty");
    SKIFF_TRY(options.prepend, parse_prepend_scheme(json));
    options.split = bool_member(json, "split", true);
    state.pre_tokenizers.push_back(metaspace(std::move(options)));
    return {};
}

template <bool (*is_member)(char32_t)>
Status parse_punctuation(const Json& json, TokenizerState& state, int) {
    SKIFF_TRY(const auto behavior, parse_behavior(json["behavior"], SplitBehavior::isolated));
    state.pre_tokenizers.push_back(split_by_class(is_member, {behavior, false}));
    return {};
}

constexpr PartRow pre_tokenizer_rows[] = {
    {"ByteLevel", parse_byte_level},
    {"Split", parse_split},
    {"Metaspace", parse_metaspace},
    {"Punctuation", parse_punctuation<is_punctuation>},
    {"Whitespace",
     [](const Json&, TokenizerState& state, int) -> Status {
         state.pre_tokenizers.push_back(whitespace_words());
         return {};
     }},
    {"WhitespaceSplit",
     [](const Json&, TokenizerState& state, int) -> Status {
         state.pre_tokenizers.push_back(split_by_class(is_white_space, {SplitBehavior::removed, false}));
         return {};
     }},
    {"BertPreTokenizer",
     [](const Json&, TokenizerState& state, int) -> Status {
         state.pre_tokenizers.push_back(split_by_class(is_white_space, {SplitBehavior::removed, false}));
         state.pre_tokenizers.push_back(split_by_class(is_punctuation, {SplitBehavior::isolated, false}));
         return {};
     }},
    {"Digits",
     [](const Json& json, TokenizerState& state, int) -> Status {
         const bool individual = bool_member(json, "individual_digits", false);
         state.pre_tokenizers.push_back(split_by_class(is_numeric, {individual ? SplitBehavior::isolated : SplitBehavior::contiguous, false}));
         return {};
     }},
    {"CharDelimiterSplit",
     [](const Json& json, TokenizerState& state, int) -> Status {
         SKIFF_TRY(auto delimiter, string_member(json, "delimiter", "CharDelimiterSplit"));
         state.pre_tokenizers.push_back(split_by_literal(std::move(delimiter), {SplitBehavior::removed, false}));
         return {};
     }},
};

// ---- post-processors: what stands around a single sequence ----

Status parse_template(const Json& json, TokenizerState& state, int) {
    if (!json["single"].is_array()) return corrupt("TemplateProcessing.single is not a list");
    std::vector<std::int32_t>* side = &state.prefix_ids;
    for (const Json& item : json["single"].items()) {
        if (item.contains("Sequence")) {
            if (side == &state.suffix_ids) return unsupported("TemplateProcessing.single with the text twice");
            side = &state.suffix_ids;
            continue;
        }
        SKIFF_TRY(const auto name, string_member(item["SpecialToken"], "id", "TemplateProcessing SpecialToken"));
        const Json& ids = json["special_tokens"][name]["ids"];
        if (!ids.is_array()) return corrupt("TemplateProcessing: special token \"" + name + "\" has no ids");
        for (const Json& id : ids.items()) {
            SKIFF_TRY(const auto value, id.as_int("TemplateProcessing id"));
            if (value < 0 || value >= state.vocabulary->size()) return corrupt("TemplateProcessing: id " + std::to_string(value) + " is no token");
            side->push_back(static_cast<std::int32_t>(value));
        }
    }
    return {};
}

Status parse_cls_sep(const Json& json, TokenizerState& state, int) {
    for (const char* key : {"cls", "sep"}) {
        const auto& pair = json[key].items();
        if (pair.size() != 2) return corrupt(std::string("post_processor.") + key + " is not [token, id]");
        SKIFF_TRY(const auto id, pair[1].as_int("post_processor id"));
        if (id < 0 || id >= state.vocabulary->size()) return corrupt("post_processor: id " + std::to_string(id) + " is no token");
        (key[0] == 'c' ? state.prefix_ids : state.suffix_ids).push_back(static_cast<std::int32_t>(id));
    }
    return {};
}

constexpr PartRow post_processor_rows[] = {
    {"TemplateProcessing", parse_template},
    {"BertProcessing", parse_cls_sep},
    {"RobertaProcessing", parse_cls_sep},
    {"ByteLevel", [](const Json&, TokenizerState&, int) -> Status { return {}; }},  // changes offsets only
};

// ---- decoders ----

Status parse_replace_decoder(const Json& json, TokenizerState& state, int) {
    SKIFF_TRY(auto pattern, parse_pattern(json["pattern"], "Replace decoder"));
    SKIFF_TRY(auto content, inserted_text(json, "content", "Replace decoder"));
    state.decoders.push_back(pattern.regex ? replace_decoder(std::move(*pattern.regex), std::move(content))
                                           : replace_decoder(std::move(pattern.literal), std::move(content)));
    return {};
}

Status parse_strip_decoder(const Json& json, TokenizerState& state, int) {
    SKIFF_TRY(auto content, string_member(json, "content", "Strip decoder"));
    auto count = [&](const char* key) { return static_cast<std::size_t>(std::clamp<std::int64_t>(json[key].int_or(0), 0, 1 << 20)); };
    state.decoders.push_back(strip_decoder(std::move(content), {count("start"), count("stop")}));
    return {};
}

Status parse_metaspace_decoder(const Json& json, TokenizerState& state, int) {
    SKIFF_TRY(auto replacement, string_member(json, "replacement", "Metaspace decoder"));
    SKIFF_TRY(const auto prepend, parse_prepend_scheme(json));
    state.decoders.push_back(metaspace_decoder(std::move(replacement), prepend));
    return {};
}

constexpr PartRow decoder_rows[] = {
    {"Replace", parse_replace_decoder},
    {"Strip", parse_strip_decoder},
    {"Metaspace", parse_metaspace_decoder},
    {"ByteLevel",
     [](const Json&, TokenizerState& state, int) -> Status {
         state.decoders.push_back(byte_level_decoder());
         return {};
     }},
    {"ByteFallback",
     [](const Json&, TokenizerState& state, int) -> Status {
         state.decoders.push_back(byte_fallback_decoder());
         return {};
     }},
    {"Fuse",
     [](const Json&, TokenizerState& state, int) -> Status {
         state.decoders.push_back(fuse_decoder());
         return {};
     }},
    {"WordPiece",
     [](const Json& json, TokenizerState& state, int) -> Status {
         const std::string prefix = json["prefix"].is_string() ? json["prefix"].text() : "##";
         state.decoders.push_back(wordpiece_decoder(prefix, bool_member(json, "cleanup", true) ? Cleanup::english : Cleanup::none));
         return {};
     }},
    {"BPEDecoder",
     [](const Json& json, TokenizerState& state, int) -> Status {
         state.decoders.push_back(suffix_decoder(json["suffix"].is_string() ? json["suffix"].text() : "</w>"));
         return {};
     }},
};

bool is_type(const Json& json, std::string_view type) { return json["type"].is_string() && json["type"].text() == type; }
bool is_space_mark(const Json& json) { return json.is_string() && json.text() == "\xE2\x96\x81"; }

// Whether the chain gives every token bytes of its own, so that streaming needs no window.
void recognize_decoder(const Json& json, TokenizerState& state) {
    if (is_type(json, "ByteLevel")) state.bytes_of_token = BytesOfToken::byte_level;
    const Json::Array list = is_type(json, "Sequence") ? json["decoders"].items() : Json::Array{json};
    if (list.size() == 1 && is_type(list[0], "ByteLevel")) state.bytes_of_token = BytesOfToken::byte_level;
    bool marks_spaces = false, only_known = true;
    StripFirst strip = StripFirst::nothing;
    for (const Json& item : list) {
        if (is_type(item, "Replace") && is_space_mark(item["pattern"]["String"]) && item["content"].is_string() && item["content"].text() == " ") {
            marks_spaces = true;
        } else if (is_type(item, "Metaspace") && is_space_mark(item["replacement"])) {
            marks_spaces = true;
            auto prepend = parse_prepend_scheme(item);
            if (prepend.ok() && *prepend != PrependScheme::never) strip = StripFirst::spaces_of_first_token;
        } else if (is_type(item, "Strip") && item["content"].is_string() && item["content"].text() == " " && item["stop"].int_or(0) == 0 &&
                   item["start"].int_or(0) <= 1) {
            if (item["start"].int_or(0) == 1) strip = StripFirst::one_space;
        } else if (!is_type(item, "ByteFallback") && !is_type(item, "Fuse")) {
            only_known = false;
        }
    }
    if (marks_spaces && only_known) {
        state.bytes_of_token = BytesOfToken::metaspace;
        state.strip_first = strip;
    }
}

}  // namespace

Status parse_pre_tokenizer(const Json& json, TokenizerState& state, int depth) {
    return parse_by_type(json, state, depth, "pre_tokenizer", pre_tokenizer_rows, "pretokenizers");
}

Status parse_post_processor(const Json& json, TokenizerState& state, int depth) {
    return parse_by_type(json, state, depth, "post_processor", post_processor_rows, "processors");
}

Status parse_decoder(const Json& json, TokenizerState& state) {
    if (json.is_null()) return {};
    SKIFF_CHECK(parse_by_type(json, state, 0, "decoder", decoder_rows, "decoders"));
    state.has_decoder = true;
    recognize_decoder(json, state);
    return {};
}

}  // namespace skiff
