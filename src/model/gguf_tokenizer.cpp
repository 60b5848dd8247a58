#include "model/gguf_tokenizer.h"

#include "formats/gguf_vocab.h"

namespace skiff {
namespace {

// GgufVocab and VocabData have the same fields; the folders of the two do not know each other.
template <class To, class From>
To same_fields(From&& from) {
    To to;
    to.kind = from.kind;
    to.pre = from.pre;
    to.tokens = from.tokens;
    to.scores = from.scores;
    to.token_types = from.token_types;
    to.merges = from.merges;
    to.bos_id = from.bos_id;
    to.eos_id = from.eos_id;
    to.eot_id = from.eot_id;
    to.eom_id = from.eom_id;
    to.unk_id = from.unk_id;
    to.pad_id = from.pad_id;
    to.cls_id = from.cls_id;
    to.sep_id = from.sep_id;
    to.mask_id = from.mask_id;
    to.add_bos = from.add_bos;
    to.add_eos = from.add_eos;
    to.add_sep = from.add_sep;
    to.add_space_prefix = from.add_space_prefix;
    to.remove_extra_whitespaces = from.remove_extra_whitespaces;
    to.precompiled_charsmap = from.precompiled_charsmap;
    to.chat_template = from.chat_template;
    return to;
}

}  // namespace

Result<Tokenizer> read_gguf_tokenizer(const GgufMetadata& metadata) {
    SKIFF_TRY(const auto vocab, read_gguf_vocab(metadata));
    return load_vocab_data(same_fields<VocabData>(vocab));
}

Status add_gguf_tokenizer(const Tokenizer& tokenizer, std::int64_t n_vocab, GgufMetadata& metadata) {
    SKIFF_TRY(const auto data, tokenizer.to_vocab_data());
    auto vocab = same_fields<GgufVocab>(data);
    const auto n_tokens = static_cast<std::int64_t>(vocab.tokens.size());
    if (n_tokens > n_vocab)
        return unsupported("the tokenizer has " + std::to_string(n_tokens) + " tokens, the embedding only " + std::to_string(n_vocab) + " rows");
    if (n_tokens < n_vocab && vocab.token_types.empty())
        vocab.token_types.assign(vocab.tokens.size(), static_cast<std::int32_t>(GgufTokenType::normal));
    for (std::int64_t id = n_tokens; id < n_vocab; ++id) {
        vocab.tokens.push_back("[PAD" + std::to_string(id) + "]");
        vocab.token_types.push_back(static_cast<std::int32_t>(GgufTokenType::unused));
        if (!vocab.scores.empty()) vocab.scores.push_back(-1e6f);
    }
    return write_gguf_vocab(vocab, metadata);
}

}  // namespace skiff
