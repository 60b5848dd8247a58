// GGUF vocabularies to tokenizers.
#include <algorithm>

#include "text/pre_tokenizer_table.h"
#include "text/sentencepiece_normalizer.h"
#include "text/tokenizer_state.h"
#include "text/unicode.h"

namespace skiff {
namespace {

constexpr const char* space_mark = "\xE2\x96\x81";

// End-of-turn tokens by the names that models give them: generation stops at each, though the file names one end token only.
constexpr std::string_view end_of_turn_names[] = {"<|eot_id|>",    "<|im_end|>",      "<|end|>",          "<end_of_turn>", "<|endoftext|>",
                                                  "<|eom_id|>",    "<|end_of_text|>", "<|EOT|>",          "<|eot|>",       "<EOT>",
                                                  "<|return|>",    "<turn|>",         "<|END_OF_TURN_TOKEN|>", "<end_of_utterance>"};

Result<std::optional<std::int32_t>> checked_id(std::optional<std::int64_t> id, const VocabData& data, const char* what) {
    if (!id || *id == -1 || *id == 0xFFFFFFFF) return std::optional<std::int32_t>();
    if (*id < 0 || static_cast<std::uint64_t>(*id) >= data.tokens.size()) {
        return corrupt(std::string(what) + " token id " + std::to_string(*id) + " is outside the vocabulary of " + std::to_string(data.tokens.size()));
    }
    return std::optional<std::int32_t>(static_cast<std::int32_t>(*id));
}

Status check_sizes(const VocabData& data) {
    if (data.tokens.empty()) return corrupt("the vocabulary is empty");
    if (data.tokens.size() > max_vocabulary_size) return resource_error(std::to_string(data.tokens.size()) + " tokens; at most " + std::to_string(max_vocabulary_size));
    if (!data.scores.empty() && data.scores.size() != data.tokens.size()) {
        return corrupt(std::to_string(data.scores.size()) + " scores for " + std::to_string(data.tokens.size()) + " tokens");
    }
    if (!data.token_types.empty() && data.token_types.size() != data.tokens.size()) {
        return corrupt(std::to_string(data.token_types.size()) + " token types for " + std::to_string(data.tokens.size()) + " tokens");
    }
    return {};
}

GgufTokenType type_of(const TokenizerState& state, std::size_t id) {
    return state.token_types.empty() ? GgufTokenType::normal : static_cast<GgufTokenType>(state.token_types[id]);
}

// Control and unknown tokens are special; user-defined ones are found in every text.
void collect_added(const VocabData& data, TokenizerState& state) {
    for (std::size_t i = 0; i < data.tokens.size(); ++i) {
        const GgufTokenType type = type_of(state, i);
        const bool special = type == GgufTokenType::control || type == GgufTokenType::unknown;
        if ((!special && type != GgufTokenType::user_defined) || data.tokens[i].empty()) continue;
        state.added.push_back({.text = data.tokens[i], .id = static_cast<std::int32_t>(i), .special = special});
    }
}

Status load_llama(const VocabData& data, TokenizerState& state) {
    ImpliedBpeOptions options;
    options.bpe.unk_id = state.unk_id;
    options.bpe.byte_fallback = true;
    std::vector<bool> mergeable(data.tokens.size());
    for (std::size_t i = 0; i < data.tokens.size(); ++i) {
        const GgufTokenType type = type_of(state, i);
        mergeable[i] = type != GgufTokenType::control && type != GgufTokenType::unknown && type != GgufTokenType::byte && is_valid_utf8(data.tokens[i]);
    }
    std::vector<float> scores = data.scores;
    scores.resize(data.tokens.size());
    SKIFF_TRY(state.model, make_implied_bpe_model(state.vocabulary, scores, mergeable, options));
    const bool space_prefix = data.add_space_prefix.value_or(true);
    if (space_prefix) state.normalizers.push_back(prepend_normalizer(space_mark));
    state.normalizers.push_back(replace_normalizer(std::string(" "), space_mark));
    set_metaspace_decoding(state, space_prefix ? StripFirst::one_space : StripFirst::nothing);
    state.kind = "BPE";
    return {};
}

Status load_gpt2(const VocabData& data, TokenizerState& state, bool& add_bos) {
    std::vector<TextMerge> merges;
    merges.reserve(data.merges.size());
    for (const std::string& line : data.merges) {
        // A part may begin with a space only in files that spell it so; the cut is the first space after the first byte.
        const std::size_t space = line.size() < 3 ? std::string::npos : line.find(' ', 1);
        if (space == std::string::npos || space + 1 == line.size()) return corrupt("merge " + std::to_string(merges.size()) + " \"" + line.substr(0, 80) + "\" is not two tokens");
        merges.push_back({line.substr(0, space), line.substr(space + 1), static_cast<std::uint32_t>(merges.size())});
    }
    SKIFF_TRY(auto named, named_pre_tokenizer(data.pre.empty() ? "default" : data.pre));
    BpeOptions options;
    options.ignore_merges = named.ignore_merges;
    options.unk_id = state.unk_id;
    SKIFF_TRY(state.model, make_bpe_model(state.vocabulary, merges, options));
    if (data.add_space_prefix.value_or(false)) state.pre_tokenizers.push_back(prepend_space());
    for (auto& step : named.chain) state.pre_tokenizers.push_back(std::move(step));
    add_bos = named.add_bos;
    set_byte_level_decoding(state);
    state.kind = "byte-level BPE";
    return {};
}

Status load_bert(const VocabData& data, TokenizerState& state) {
    WordPieceOptions options;
    options.unk_id = state.unk_id.value_or(-1);
    options.word_prefix = space_mark;
    options.continuing_subword_prefix = "";
    (void)data;
    SKIFF_TRY(state.model, make_wordpiece_model(*state.vocabulary, options));
    state.normalizers.push_back(bert_normalizer({}));
    state.pre_tokenizers.push_back(split_by_class(is_white_space, {SplitBehavior::removed, false}));
    state.pre_tokenizers.push_back(split_by_class(is_punctuation, {SplitBehavior::isolated, false}));
    set_metaspace_decoding(state, StripFirst::one_space);
    state.wordpiece = true;
    state.kind = "wordpiece";
    return {};
}

Status load_t5(const VocabData& data, TokenizerState& state) {
    UnigramOptions options;
    options.single_precision = true;
    options.unk_id = state.unk_id.value_or(-1);
    for (std::size_t i = 0; i < data.tokens.size(); ++i) {
        const GgufTokenType type = type_of(state, i);
        if (type == GgufTokenType::byte) options.byte_fallback = true;
        if (type == GgufTokenType::user_defined) {
            options.user_defined.push_back(static_cast<std::int32_t>(i));
        } else if (type != GgufTokenType::normal && type != GgufTokenType::undefined) {
            options.excluded.push_back(static_cast<std::int32_t>(i));
        }
    }
    std::vector<double> scores(data.scores.begin(), data.scores.end());
    scores.resize(data.tokens.size());
    SKIFF_TRY(state.model, make_unigram_model(*state.vocabulary, scores, options));
    SentencePieceNormalizerOptions normalizer;
    normalizer.add_dummy_prefix = data.add_space_prefix.value_or(true);
    normalizer.remove_extra_whitespaces = data.remove_extra_whitespaces.value_or(true);
    if (!data.precompiled_charsmap.empty()) {
        SKIFF_TRY(auto map, Charsmap::parse(data.precompiled_charsmap));
        normalizer.charsmap = std::make_shared<const Charsmap>(std::move(map));
    }
    state.normalizers.push_back(sentencepiece_normalizer(normalizer));
    state.charsmap_blob = data.precompiled_charsmap;
    state.remove_extra_whitespaces = normalizer.remove_extra_whitespaces;
    set_metaspace_decoding(state, normalizer.add_dummy_prefix ? StripFirst::one_space : StripFirst::nothing);
    state.unigram = true;
    state.kind = "unigram";
    return {};
}

// What stands around a text, by the flags or else by what is usual for the kind.
struct Surroundings {
    bool bos = false, eos = false, sep = false;
};

Status set_special_ids(const VocabData& data, TokenizerState& state, Surroundings usual) {
    SKIFF_TRY(state.bos_id, checked_id(data.bos_id, data, "begin"));
    SKIFF_TRY(state.pad_id, checked_id(data.pad_id, data, "padding"));
    SKIFF_TRY(const auto eos, checked_id(data.eos_id, data, "end"));
    SKIFF_TRY(const auto eot, checked_id(data.eot_id, data, "end-of-turn"));
    SKIFF_TRY(const auto eom, checked_id(data.eom_id, data, "end-of-message"));
    SKIFF_TRY(const auto cls, checked_id(data.cls_id, data, "cls"));
    SKIFF_TRY(const auto sep, checked_id(data.sep_id, data, "sep"));
    auto add_end = [&](std::optional<std::int32_t> id) {
        if (id && std::find(state.eos_ids.begin(), state.eos_ids.end(), *id) == state.eos_ids.end()) state.eos_ids.push_back(*id);
    };
    for (auto id : {eos, eot, eom}) add_end(id);
    for (std::string_view name : end_of_turn_names) {
        const auto id = state.vocabulary->find(name);
        if (id && type_of(state, static_cast<std::size_t>(*id)) == GgufTokenType::control) add_end(id);
    }
    const auto begin = cls && state.wordpiece ? cls : state.bos_id;
    if (data.add_bos.value_or(usual.bos) && begin) state.prefix_ids.push_back(*begin);
    if (data.add_eos.value_or(usual.eos) && eos) state.suffix_ids.push_back(*eos);
    if (data.add_sep.value_or(usual.sep) && sep && state.suffix_ids.empty()) state.suffix_ids.push_back(*sep);
    return {};
}

}  // namespace

Result<Tokenizer> load_vocab_data(const VocabData& data) {
    SKIFF_CHECK(check_sizes(data));
    TokenizerState state;
    SKIFF_TRY(*state.vocabulary, Vocabulary::from_list(data.tokens));
    state.token_types = data.token_types;
    state.scores = data.scores;
    state.merges = data.merges;
    state.pre = data.pre;
    state.chat_template = data.chat_template;
    SKIFF_TRY(state.unk_id, checked_id(data.unk_id, data, "unknown"));
    Surroundings usual;
    if (data.kind == "llama") {
        if (!state.unk_id && data.token_types.size() > 0 && type_of(state, 0) == GgufTokenType::unknown) state.unk_id = 0;
        usual.bos = true;
        SKIFF_CHECK(load_llama(data, state));
    } else if (data.kind == "gpt2") {
        SKIFF_CHECK(load_gpt2(data, state, usual.bos));
    } else if (data.kind == "bert") {
        usual = {.bos = true, .eos = false, .sep = true};
        SKIFF_CHECK(load_bert(data, state));
    } else if (data.kind == "t5") {
        usual.eos = true;
        SKIFF_CHECK(load_t5(data, state));
    } else {
        return unsupported("tokenizer.ggml.model \"" + data.kind + "\" is not known; known are llama, gpt2, bert, t5");
    }
    collect_added(data, state);
    SKIFF_CHECK(set_special_ids(data, state, usual));
    return finish_tokenizer(std::move(state));
}

}  // namespace skiff
