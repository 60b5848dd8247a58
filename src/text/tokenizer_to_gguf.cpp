// Tokenizers to GGUF vocabularies: Tokenizer::to_vocab_data().
#include <algorithm>

#include "text/pre_tokenizer_table.h"
#include "text/tokenizer_state.h"
#include "text/unicode.h"

namespace skiff {
namespace {

constexpr std::string_view space_mark = "\xE2\x96\x81";

// What normalizers and pre-tokenizers make of a text, put together again.
Result<std::string> prepared(const TokenizerState& state, std::string_view text) {
    SKIFF_TRY(const auto normalized, normalize_text(state.normalizers, std::string(text)));
    std::string out;
    SKIFF_CHECK(pre_tokenize(state.pre_tokenizers, {normalized, true}, [&](Piece piece) -> Status {
        out += piece.text;
        return {};
    }));
    return out;
}

void copy_tokens(const TokenizerState& state, VocabData& data) {
    const auto n = static_cast<std::size_t>(state.vocabulary->size());
    data.tokens.resize(n);
    data.token_types.assign(n, static_cast<std::int32_t>(GgufTokenType::normal));
    for (std::size_t i = 0; i < n; ++i) {
        const auto id = static_cast<std::int32_t>(i);
        if (!state.vocabulary->has(id)) {
            data.tokens[i] = "[PAD" + std::to_string(i) + "]";  // what other converters write for a hole
            data.token_types[i] = static_cast<std::int32_t>(GgufTokenType::unused);
            continue;
        }
        data.tokens[i] = state.vocabulary->text(id);
        if (i < state.token_types.size()) {
            data.token_types[i] = state.token_types[i];
        } else if (state.bytes_of_token == BytesOfToken::metaspace && parse_byte_token(data.tokens[i])) {
            data.token_types[i] = static_cast<std::int32_t>(GgufTokenType::byte);
        }
    }
    for (const AddedToken& token : state.added) {
        const auto at = static_cast<std::size_t>(token.id);
        if (at < state.token_types.size()) continue;
        data.token_types[at] = static_cast<std::int32_t>(token.special ? GgufTokenType::control : GgufTokenType::user_defined);
    }
    if (state.unk_id && static_cast<std::size_t>(*state.unk_id) >= state.token_types.size() && data.kind != "gpt2") {
        data.token_types[static_cast<std::size_t>(*state.unk_id)] = static_cast<std::int32_t>(GgufTokenType::unknown);
    }
}

void copy_ids(const TokenizerState& state, VocabData& data) {
    if (state.bos_id) data.bos_id = *state.bos_id;
    if (!state.eos_ids.empty()) data.eos_id = state.eos_ids[0];
    if (state.eos_ids.size() > 1) data.eot_id = state.eos_ids[1];
    if (state.unk_id) data.unk_id = *state.unk_id;
    if (state.pad_id) data.pad_id = *state.pad_id;
    data.add_bos = !state.prefix_ids.empty();
    data.add_eos = !state.suffix_ids.empty();
    if (!state.prefix_ids.empty()) data.bos_id = state.prefix_ids[0];
    if (!state.suffix_ids.empty() && !state.wordpiece) data.eos_id = state.suffix_ids[0];
    data.chat_template = state.chat_template;
}

Status check_surroundings(const TokenizerState& state) {
    if (state.prefix_ids.size() <= 1 && state.suffix_ids.size() <= 1) return {};
    return unsupported("the tokenizer puts " + std::to_string(state.prefix_ids.size()) + " tokens before and " + std::to_string(state.suffix_ids.size()) +
                       " behind a text; GGUF can say one each");
}

Status fill_gpt2(const TokenizerState& state, VocabData& data) {
    if (state.merges.empty()) return unsupported("a byte-level BPE without a list of merges (tiktoken) cannot be written as GGUF");
    data.merges = state.merges;
    if (!state.pre.empty()) {
        data.pre = state.pre;
    } else {
        SKIFF_TRY(data.pre, name_of_pre_tokenizer(state.pre_tokenizers, *state.model));
    }
    return {};
}

// Scores that order the merges as the list does: a token gets minus the rank of the first merge that makes it.
std::vector<float> scores_from_merges(const TokenizerState& state) {
    const auto n = static_cast<std::size_t>(state.vocabulary->size());
    const auto n_merges = state.merges.size();
    std::vector<float> scores(n, -static_cast<float>(n_merges) - 1.0f);
    for (std::size_t rank = n_merges; rank-- > 0;) {
        std::string joined = state.merges[rank];
        joined.erase(joined.find(' '), 1);
        if (auto id = state.vocabulary->find(joined)) scores[static_cast<std::size_t>(*id)] = -static_cast<float>(rank);
    }
    return scores;
}

Status fill_llama(const TokenizerState& state, VocabData& data) {
    SKIFF_TRY(const auto probe, prepared(state, "a b"));
    const std::string with_prefix = std::string(space_mark) + "a" + std::string(space_mark) + "b";
    if (probe != with_prefix && probe != with_prefix.substr(space_mark.size())) {
        return unsupported("a BPE whose text preparation GGUF does not know: \"a b\" becomes \"" + probe + "\"");
    }
    data.add_space_prefix = probe == with_prefix;
    data.scores = state.scores.empty() ? scores_from_merges(state) : state.scores;
    data.scores.resize(data.tokens.size(), -static_cast<float>(state.merges.size()) - 1.0f);
    if (state.remove_extra_whitespaces) data.remove_extra_whitespaces = state.remove_extra_whitespaces;
    data.pre = "default";
    return {};
}

Status fill_t5(const TokenizerState& state, VocabData& data) {
    SKIFF_TRY(const auto probe, prepared(state, "a  b"));
    data.add_space_prefix = probe.starts_with(space_mark);
    data.remove_extra_whitespaces = probe.find(std::string(space_mark) + std::string(space_mark)) == std::string::npos;
    data.scores = state.scores;
    data.scores.resize(data.tokens.size(), 0.0f);
    data.precompiled_charsmap = state.charsmap_blob;
    data.pre = "default";
    return {};
}

// GGUF marks the starts of words, Hugging Face their continuations.
Status fill_bert(const TokenizerState& state, VocabData& data) {
    for (std::size_t i = 0; i < data.tokens.size(); ++i) {
        std::string& token = data.tokens[i];
        const auto type = static_cast<GgufTokenType>(data.token_types[i]);
        if (type != GgufTokenType::normal || (token.starts_with('[') && token.ends_with(']')) || state.continuing_subword_prefix.empty()) continue;
        if (token.starts_with(state.continuing_subword_prefix)) {
            token.erase(0, state.continuing_subword_prefix.size());
        } else {
            token.insert(0, space_mark);
        }
    }
    if (!state.prefix_ids.empty()) data.cls_id = state.prefix_ids[0];
    if (!state.suffix_ids.empty()) data.sep_id = state.suffix_ids[0];
    data.add_eos = false;
    data.add_sep = !state.suffix_ids.empty();
    data.pre = "default";
    return {};
}

}  // namespace

Result<VocabData> Tokenizer::to_vocab_data() const {
    const TokenizerState& state = *state_;
    VocabData data;
    SKIFF_CHECK(check_surroundings(state));
    const bool byte_level = state.bytes_of_token == BytesOfToken::byte_level;
    data.kind = state.unigram ? "t5" : state.wordpiece ? "bert" : byte_level ? "gpt2" : "llama";
    copy_tokens(state, data);
    copy_ids(state, data);
    if (state.unigram) {
        SKIFF_CHECK(fill_t5(state, data));
    } else if (state.wordpiece) {
        SKIFF_CHECK(fill_bert(state, data));
    } else if (byte_level) {
        SKIFF_CHECK(fill_gpt2(state, data));
    } else {
        SKIFF_CHECK(fill_llama(state, data));
    }
    return data;
}

}  // namespace skiff
