#include "text/sentencepiece_normalizer.h"
#include "text/sentencepiece_proto.h"
#include "text/tokenizer_state.h"

namespace skiff {
namespace {

Status fill_vocabulary(const SentencePieceModel& model, TokenizerState& state) {
    for (std::size_t i = 0; i < model.pieces.size(); ++i) {
        const SentencePiece& piece = model.pieces[i];
        SKIFF_CHECK(state.vocabulary->add(piece.text, static_cast<std::int64_t>(i)));
        state.scores.push_back(piece.score);
        state.token_types.push_back(static_cast<std::int32_t>(piece.type));
        const bool special = piece.type == GgufTokenType::control || piece.type == GgufTokenType::unknown;
        if (special) state.added.push_back({.text = piece.text, .id = static_cast<std::int32_t>(i), .special = true});
        if (piece.type == GgufTokenType::unknown) state.unk_id = static_cast<std::int32_t>(i);
    }
    return {};
}

Status set_normalizer(const SentencePieceModel& model, TokenizerState& state) {
    SentencePieceNormalizerOptions options;
    options.add_dummy_prefix = model.add_dummy_prefix;
    options.remove_extra_whitespaces = model.remove_extra_whitespaces;
    options.escape_whitespaces = model.escape_whitespaces;
    options.space_as_suffix = model.space_as_suffix;
    auto user_defined = std::make_shared<ByteTrie>();
    for (std::size_t i = 0; i < model.pieces.size(); ++i) {
        if (model.pieces[i].type == GgufTokenType::user_defined) user_defined->insert(model.pieces[i].text, static_cast<std::uint32_t>(i));
    }
    if (!user_defined->empty()) options.user_defined = std::move(user_defined);
    if (!model.precompiled_charsmap.empty()) {
        SKIFF_TRY(auto map, Charsmap::parse(model.precompiled_charsmap));
        options.charsmap = std::make_shared<const Charsmap>(std::move(map));
        state.charsmap_blob = model.precompiled_charsmap;
    }
    state.remove_extra_whitespaces = model.remove_extra_whitespaces;
    state.normalizers.push_back(sentencepiece_normalizer(std::move(options)));
    return {};
}

Status set_unigram(const SentencePieceModel& model, TokenizerState& state) {
    UnigramOptions options;
    options.byte_fallback = model.byte_fallback;
    options.single_precision = true;
    options.unk_id = state.unk_id.value_or(-1);
    for (std::size_t i = 0; i < model.pieces.size(); ++i) {
        const auto id = static_cast<std::int32_t>(i);
        switch (model.pieces[i].type) {
            case GgufTokenType::normal: break;
            case GgufTokenType::user_defined: options.user_defined.push_back(id); break;
            default: options.excluded.push_back(id); break;
        }
    }
    const std::vector<double> scores(state.scores.begin(), state.scores.end());
    state.unigram = true;
    state.kind = "unigram";
    SKIFF_TRY(state.model, make_unigram_model(*state.vocabulary, scores, options));
    return {};
}

Status set_bpe(const SentencePieceModel& model, TokenizerState& state) {
    ImpliedBpeOptions options;
    options.bpe.unk_id = state.unk_id;
    options.bpe.byte_fallback = model.byte_fallback;
    options.bpe.fuse_unk = true;
    std::vector<bool> mergeable(model.pieces.size());
    for (std::size_t i = 0; i < model.pieces.size(); ++i) {
        const GgufTokenType type = model.pieces[i].type;
        const bool in_text = type == GgufTokenType::normal || type == GgufTokenType::user_defined || type == GgufTokenType::unused;
        mergeable[i] = in_text && model.algorithm == SentencePieceModel::Algorithm::bpe;
        if (type == GgufTokenType::user_defined) options.user_defined.push_back(model.pieces[i].text);
        if (type == GgufTokenType::unused) options.unused.push_back(static_cast<std::int32_t>(i));
    }
    state.kind = "BPE";
    SKIFF_TRY(state.model, make_implied_bpe_model(state.vocabulary, state.scores, mergeable, options));
    return {};
}

// -1 and any other id outside the vocabulary mean that there is no such token.
std::optional<std::int32_t> id_of(std::int64_t id, const TokenizerState& state) {
    if (id < 0 || id >= state.vocabulary->size()) return std::nullopt;
    return static_cast<std::int32_t>(id);
}

}  // namespace

Result<TokenizerState> load_sentencepiece_state(std::string_view model_bytes) {
    SKIFF_TRY(const auto model, parse_sentencepiece_model(model_bytes));
    TokenizerState state;
    SKIFF_CHECK(fill_vocabulary(model, state));
    SKIFF_CHECK(set_normalizer(model, state));
    switch (model.algorithm) {
        case SentencePieceModel::Algorithm::unigram: SKIFF_CHECK(set_unigram(model, state)); break;
        case SentencePieceModel::Algorithm::bpe:
        case SentencePieceModel::Algorithm::character: SKIFF_CHECK(set_bpe(model, state)); break;
        case SentencePieceModel::Algorithm::word: return unsupported("SentencePiece model of type WORD; known are UNIGRAM, BPE, CHAR");
    }
    state.bos_id = id_of(model.bos_id, state);
    state.pad_id = id_of(model.pad_id, state);
    const auto eos_id = id_of(model.eos_id, state);
    if (eos_id) state.eos_ids.push_back(*eos_id);
    // The file does not say what stands around a text; models with a begin token start with it (Llama), those without end with </s> (T5).
    if (state.bos_id) {
        state.prefix_ids.push_back(*state.bos_id);
    } else if (eos_id) {
        state.suffix_ids.push_back(*eos_id);
    }
    set_metaspace_decoding(state, model.remove_extra_whitespaces ? StripFirst::one_space_until_text
                                  : model.add_dummy_prefix       ? StripFirst::one_space
                                                                 : StripFirst::nothing);
    return state;
}

Result<Tokenizer> load_sentencepiece(std::string_view model_bytes) {
    SKIFF_TRY(auto state, load_sentencepiece_state(model_bytes));
    return finish_tokenizer(std::move(state));
}

}  // namespace skiff
