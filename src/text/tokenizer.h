// Text to token ids and back, for every kind of tokenizer that models come with. Immutable and cheap to copy; any number of threads may use one.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/vocab_data.h"

namespace skiff {

struct TokenizerState;

struct EncodeOptions {
    bool add_special = true;    // begin and end tokens, as the tokenizer's file says
    bool parse_special = true;  // control tokens spelled in the text are found; turn off for text that a stranger wrote
};
struct DecodeOptions {
    bool skip_special = true;
};

class Tokenizer {
public:
    explicit Tokenizer(std::shared_ptr<const TokenizerState> state) : state_(std::move(state)) {}

    // The ids of a text. Invalid UTF-8 counts as U+FFFD. Time grows with the length, n log n at most.
    Result<std::vector<std::int32_t>> encode(std::string_view text, const EncodeOptions& options = {}) const;
    // Always valid UTF-8. Ids outside the vocabulary are left out.
    std::string decode(std::span<const std::int32_t> ids, const DecodeOptions& options = {}) const;

    std::int32_t n_vocab() const;                           // largest id + 1
    std::string token_text(std::int32_t id) const;          // as the vocabulary spells it; "" for no token
    std::string token_bytes(std::int32_t id) const;         // what it adds to the output, possibly a part of a character
    std::optional<std::int32_t> find_token(std::string_view text) const;
    bool is_special(std::int32_t id) const;                 // a control token

    std::optional<std::int32_t> bos_id() const;
    const std::vector<std::int32_t>& eos_ids() const;       // every id that ends a generation; the first is the tokenizer's own
    bool is_eos(std::int32_t id) const;
    std::optional<std::int32_t> unk_id() const;
    std::optional<std::int32_t> pad_id() const;
    const std::string& chat_template() const;               // Jinja; "" if the model has none
    const std::string& kind() const;                        // "byte-level BPE", "BPE", "unigram", "wordpiece"

    // The same tokenizer as GGUF keeps it; an error says what GGUF cannot express. Ids keep their places, holes become unused tokens.
    Result<VocabData> to_vocab_data() const;

    const TokenizerState& state() const { return *state_; }

private:
    std::shared_ptr<const TokenizerState> state_;
};

// Gives out decoded text token by token, whole UTF-8 characters only. What push() and finish() gave, put together, is decode()'s text
// (where the ids hold invalid UTF-8, only the number of U+FFFD may differ).
class StreamDecoder {
public:
    explicit StreamDecoder(Tokenizer tokenizer, DecodeOptions options = {});
    std::string push(std::int32_t id);
    std::string finish();  // what is left of an unfinished character, as U+FFFD

private:
    std::string push_bytes(std::int32_t id);
    std::string push_window(std::int32_t id);
    Tokenizer tokenizer_;
    DecodeOptions options_;
    std::string pending_;                // bytes of an unfinished character
    bool at_start_ = true;               // no byte has come yet
    std::vector<std::int32_t> window_;   // ids that the next text may depend on
    std::string window_text_;
};

// ---- Where tokenizers come from ----

// What a model folder holds: tokenizer.json first, else tokenizer.model (SentencePiece or tiktoken), vocab.json + merges.txt, vocab.txt;
// with tokenizer_config.json, generation_config.json, config.json and chat_template.jinja for special tokens and the template.
Result<Tokenizer> load_tokenizer(const std::string& folder);

// The text of a tokenizer.json.
Result<Tokenizer> load_tokenizer_json(std::string_view json);

// vocab.json and merges.txt: byte-level BPE. `pre` names the pre-tokenizer as GGUF does (text/pre_tokenizer_table.h).
struct VocabMergesOptions {
    std::string pre = "gpt-2";
    bool normalize_nfc = false;
    bool add_bos = false;
    std::string bos_token = "<|endoftext|>", eos_token = "<|endoftext|>", unk_token;
};
Result<Tokenizer> load_vocab_and_merges(std::string_view vocab_json, std::string_view merges_text, const VocabMergesOptions& options = {});

// A SentencePiece model file: unigram or BPE, with its own normalization.
Result<Tokenizer> load_sentencepiece(std::string_view model_bytes);

// A tiktoken rank file ("<base64> <rank>" lines); special tokens follow the ranks. Without options it is taken for Llama 3's if it has 128,000 ranks.
struct TiktokenOptions {
    std::string pre;                         // "": by the number of ranks
    std::vector<std::string> special_tokens;
    std::string bos_token, eos_token;
};
Result<Tokenizer> load_tiktoken(std::string_view text, const TiktokenOptions& options = {});

// GGUF metadata.
Result<Tokenizer> load_vocab_data(const VocabData& data);

}  // namespace skiff
