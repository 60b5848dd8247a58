// The two protocols of perplexity: how a tokenized text is cut into windows, what is fed and what is scored.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "text/tokenizer.h"

namespace skiff {

// windows:  the windows lie side by side from token 0; in each, tokens 2 to n are predicted from those before them in the window.
// llamacpp: as the perplexity tool of llama.cpp: the first token of each window gives way to the begin token, only the second half is scored
//           (positions n/2 to n-2, counted from 0, predict tokens n/2+1 to n-1).
// In both the whole text is tokenized once, the begin token stands in front if the tokenizer puts one before texts, and a last window that is
// not full is left out.
enum class Protocol : std::uint8_t { windows, llamacpp };
const char* protocol_name(Protocol protocol);
Result<Protocol> protocol_from_name(std::string_view name);

// All tokens of a text for evaluation, with the begin token in front if the tokenizer puts one before texts.
struct TokenizedText {
    std::vector<std::int32_t> tokens;
    std::int32_t begin_token = -1;  // -1: none
};
Result<TokenizedText> tokenize_for_evaluation(const Tokenizer& tokenizer, std::string_view text);

class TextWindows {
public:
    struct Options {
        Protocol protocol = Protocol::windows;
        std::int64_t window = 512;       // tokens
        std::int64_t max_windows = 0;    // 0: all that are full
    };
    static Result<TextWindows> create(TokenizedText text, const Options& options);

    std::int64_t n_windows() const { return n_windows_; }
    std::int64_t window() const { return options_.window; }
    Protocol protocol() const { return options_.protocol; }
    std::int64_t n_tokens_in_text() const { return static_cast<std::int64_t>(text_.tokens.size()); }
    std::int64_t first_scored() const { return first_scored_; }                           // index in inputs() of the first row that is scored
    std::int64_t scored_per_window() const { return options_.window - 1 - first_scored_; }
    std::int64_t n_scored() const { return n_windows_ * scored_per_window(); }

    // What the model is fed for a window: all its tokens but the last.
    std::vector<std::int32_t> inputs(std::int64_t window) const;                           // (window - 1)
    // The tokens that rows first_scored() .. window - 2 predict.
    std::span<const std::int32_t> targets(std::int64_t window) const;                      // (scored_per_window)
    // Place in the text (in tokens) of a scored row's target.
    std::int64_t text_position(std::int64_t window, std::int64_t scored_row) const { return window * options_.window + first_scored_ + 1 + scored_row; }
    // SHA-256 over the ids that the windows use and the begin token: equal for two models only when they see the same tokens.
    std::string tokens_hash() const;

private:
    TokenizedText text_;
    Options options_;
    std::int64_t n_windows_ = 0, first_scored_ = 0;
};

}  // namespace skiff
