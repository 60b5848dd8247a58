#include "text/tokenizer.h"
#include "text/tokenizer_state.h"

namespace skiff {

StreamDecoder::StreamDecoder(Tokenizer tokenizer, DecodeOptions options) : tokenizer_(std::move(tokenizer)), options_(options) {}

std::string StreamDecoder::push(std::int32_t id) {
    const TokenizerState& state = tokenizer_.state();
    if (!state.vocabulary->has(id) || (options_.skip_special && tokenizer_.is_special(id))) return "";
    return state.bytes_of_token == BytesOfToken::as_decoded ? push_window(id) : push_bytes(id);
}

std::string StreamDecoder::push_bytes(std::int32_t id) {
    std::string bytes = tokenizer_.token_bytes(id);
    const StripFirst strip = tokenizer_.state().strip_first;
    const bool one_space = strip == StripFirst::one_space || strip == StripFirst::one_space_until_text;
    if (at_start_ && one_space && bytes.starts_with(' ')) bytes.erase(0, 1);
    if (at_start_ && strip == StripFirst::spaces_of_first_token) bytes = replace_all(tokenizer_.token_text(id), "\xE2\x96\x81", "");
    at_start_ = strip == StripFirst::one_space_until_text && at_start_ && bytes.empty();
    pending_ += bytes;
    const std::size_t n_whole = pending_.size() - incomplete_utf8_tail(pending_);
    std::string out = make_valid_utf8(std::string_view(pending_).substr(0, n_whole));
    pending_.erase(0, n_whole);
    return out;
}

// Where a token's text depends on its neighbours: decode a short window with and without the new id.
std::string StreamDecoder::push_window(std::int32_t id) {
    constexpr std::size_t longest_window = 8;
    window_.push_back(id);
    std::string text = tokenizer_.decode(window_, options_);
    // An unfinished character shows as U+FFFD at the end; a real one is held back for a few tokens only.
    if (text.ends_with("\xEF\xBF\xBD") && window_.size() < longest_window) return "";
    std::string out = text.starts_with(window_text_) ? text.substr(window_text_.size()) : text;
    window_ = {id};
    window_text_ = tokenizer_.decode(window_, options_);
    return out;
}

std::string StreamDecoder::finish() {
    std::string out = make_valid_utf8(pending_);
    pending_.clear();
    if (window_.size() > 1) {
        const std::string text = tokenizer_.decode(window_, options_);
        if (text.starts_with(window_text_)) out += text.substr(window_text_.size());
    }
    window_.clear();
    window_text_.clear();
    at_start_ = true;
    return out;
}

}  // namespace skiff
