// What a tokenizer consists of. Inner header of the tokenizer files: loaders fill it, tokenizer.cpp works with it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "text/added_tokens.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/token_decoder.h"
#include "text/token_model.h"
#include "text/tokenizer.h"
#include "text/vocab_data.h"
#include "text/vocabulary.h"

namespace skiff {

// How a token's text stands for bytes, where that does not depend on its neighbours.
enum class BytesOfToken {
    byte_level,     // GPT-2's spelling
    metaspace,      // U+2581 is a space, <0x..> a byte
    as_decoded,     // none of these: only the decoder chain knows
};

// What the decoder takes away in front of the whole text, where bytes_of_token is metaspace.
enum class StripFirst { nothing, one_space, spaces_of_first_token, one_space_until_text };

struct TokenizerState {
    std::string kind;
    std::shared_ptr<Vocabulary> vocabulary = std::make_shared<Vocabulary>();
    std::vector<AddedToken> added;            // in order of id
    AddedTokenFinder raw_finder;              // those found in the raw text
    AddedTokenFinder normalized_finder;       // those found in the normalized text
    std::vector<Normalizer> normalizers;
    std::vector<PreTokenizer> pre_tokenizers;
    std::unique_ptr<TokenModel> model;
    std::vector<std::int32_t> prefix_ids, suffix_ids;  // around a text: the post-processor for a single sequence
    std::vector<TokenDecoder> decoders;
    bool has_decoder = false;                 // without one, token texts are joined by spaces
    BytesOfToken bytes_of_token = BytesOfToken::as_decoded;
    StripFirst strip_first = StripFirst::nothing;
    std::vector<bool> special;                // by id

    std::optional<std::int32_t> bos_id, unk_id, pad_id;
    std::vector<std::int32_t> eos_ids;
    std::string chat_template;

    // For to_vocab_data(): what the model was made of.
    std::vector<float> scores;
    std::vector<std::string> merges;
    std::vector<std::int32_t> token_types;    // GgufTokenType, where the source knew them
    std::string pre;                          // the named pre-tokenizer, where known
    std::string charsmap_blob;
    std::string continuing_subword_prefix;
    std::optional<bool> remove_extra_whitespaces;
    bool unigram = false, wordpiece = false;
};

// Fills what follows from the rest (finders, special flags) and checks ids; every loader ends with it.
Result<Tokenizer> finish_tokenizer(TokenizerState state);

// The decoder of SentencePiece-like vocabularies: U+2581 to space, byte tokens to bytes, one leading space off.
void set_metaspace_decoding(TokenizerState& state, StripFirst strip_first);
void set_byte_level_decoding(TokenizerState& state);

// Begin and end tokens by the post-processor and by usual names, where no file has told them.
void guess_begin_and_end(TokenizerState& state);

// The loaders of tokenizer.h, before finish_tokenizer(): load_tokenizer(folder) adds what tokenizer_config.json says.
Result<TokenizerState> load_tokenizer_json_state(std::string_view json);
Result<TokenizerState> load_vocab_and_merges_state(std::string_view vocab_json, std::string_view merges_text, const VocabMergesOptions& options);
Result<TokenizerState> load_sentencepiece_state(std::string_view model_bytes);
Result<TokenizerState> load_tiktoken_state(std::string_view text, const TiktokenOptions& options);

}  // namespace skiff
