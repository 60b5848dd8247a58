// The part of a tokenizer that turns one piece of text into ids. Built once, then read by any number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "text/vocabulary.h"

namespace skiff {

class TokenModel {
public:
    virtual ~TokenModel() = default;
    // Appends the ids of one piece of valid UTF-8. Time is n log n in the piece at most.
    virtual void encode(std::string_view piece, std::vector<std::int32_t>& ids) const = 0;
};

// Byte-pair encoding. Tokens added to the vocabulary after the model was made are not the model's. A merge joins two neighbouring symbols; of all that apply, the one of lowest rank goes first, the leftmost among equals.
struct BpeOptions {
    std::optional<std::int32_t> unk_id;
    bool fuse_unk = false;        // a run of unknown characters gives one unknown token
    bool byte_fallback = false;   // unknown characters become <0x..> tokens, where all of them exist
    bool ignore_merges = false;   // a piece that is a token is taken whole
    std::string continuing_subword_prefix;
    std::string end_of_word_suffix;
};
struct TextMerge {
    std::string left, right;
    std::uint32_t rank = 0;
};
// Merges as a list, as tokenizer.json and merges.txt have them. Both parts and the joined text must be in the vocabulary.
Result<std::unique_ptr<TokenModel>> make_bpe_model(std::shared_ptr<const Vocabulary> vocabulary, const std::vector<TextMerge>& merges,
                                                   const BpeOptions& options);

// Merges implied by the vocabulary: two symbols join when their joined text is a token, best score first (SentencePiece), or, with ranks
// counted from the top, lowest id first (tiktoken).
struct ImpliedBpeOptions {
    BpeOptions bpe;
    std::vector<std::string_view> user_defined;  // taken whole wherever they stand, never merged
    std::vector<std::int32_t> unused;            // may arise while merging, and are cut back at the end
};
// priority[id]: higher goes first; only tokens with mergeable[id] take part.
Result<std::unique_ptr<TokenModel>> make_implied_bpe_model(std::shared_ptr<const Vocabulary> vocabulary, const std::vector<float>& priority,
                                                           const std::vector<bool>& mergeable, const ImpliedBpeOptions& options);

// Unigram language model, best path by Viterbi (Kudo 2018).
struct UnigramOptions {
    std::int32_t unk_id = -1;  // below 0: none; an unknown character is then dropped
    bool byte_fallback = false;
    bool single_precision = false;             // path scores as SentencePiece keeps them; tokenizer.json's are double
    std::vector<std::int32_t> user_defined;    // get a score above all others, by length
    std::vector<std::int32_t> excluded;        // control, unknown and unused tokens: never produced from text
};
Result<std::unique_ptr<TokenModel>> make_unigram_model(const Vocabulary& vocabulary, const std::vector<double>& scores, const UnigramOptions& options);

// WordPiece: the longest token first, from the left; one unknown token for a word that cannot be covered.
struct WordPieceOptions {
    std::int32_t unk_id = -1;
    std::string word_prefix;                        // GGUF marks word starts ...
    std::string continuing_subword_prefix = "##";   // ... where Hugging Face marks continuations
    std::size_t max_input_chars_per_word = 100;
};
Result<std::unique_ptr<TokenModel>> make_wordpiece_model(const Vocabulary& vocabulary, const WordPieceOptions& options);

}  // namespace skiff
