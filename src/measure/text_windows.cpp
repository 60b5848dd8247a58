#include "measure/text_windows.h"

#include <algorithm>

#include "base/hash.h"

namespace skiff {

const char* protocol_name(Protocol protocol) { return protocol == Protocol::windows ? "windows" : "llamacpp"; }

Result<Protocol> protocol_from_name(std::string_view name) {
    for (Protocol protocol : {Protocol::windows, Protocol::llamacpp})
        if (name == protocol_name(protocol)) return protocol;
    return usage_error("unknown protocol '" + std::string(name) + "'; known: windows, llamacpp");
}

Result<TokenizedText> tokenize_for_evaluation(const Tokenizer& tokenizer, std::string_view text) {
    TokenizedText result;
    SKIFF_TRY(auto probe, tokenizer.encode("", {.add_special = true}));
    const auto bos = tokenizer.bos_id();
    if (bos && !probe.empty() && probe.front() == *bos) result.begin_token = *bos;
    SKIFF_TRY(auto ids, tokenizer.encode(text, {.add_special = false}));
    if (result.begin_token >= 0) ids.insert(ids.begin(), result.begin_token);
    result.tokens = std::move(ids);
    return result;
}

Result<TextWindows> TextWindows::create(TokenizedText text, const Options& options) {
    const std::int64_t smallest = options.protocol == Protocol::windows ? 2 : 4;
    if (options.window < smallest)
        return usage_error("a window of " + std::to_string(options.window) + " tokens leaves nothing to score; the protocol " + protocol_name(options.protocol) +
                           " needs at least " + std::to_string(smallest));
    TextWindows windows;
    windows.options_ = options;
    windows.text_ = std::move(text);
    windows.n_windows_ = windows.n_tokens_in_text() / options.window;
    if (options.max_windows > 0) windows.n_windows_ = std::min(windows.n_windows_, options.max_windows);
    if (windows.n_windows_ == 0)
        return usage_error("the text has " + std::to_string(windows.n_tokens_in_text()) + " tokens, less than one window of " + std::to_string(options.window) +
                           "; take a longer text or a smaller --window");
    windows.first_scored_ = options.protocol == Protocol::windows ? 0 : options.window / 2;
    return windows;
}

std::vector<std::int32_t> TextWindows::inputs(std::int64_t window) const {
    const auto begin = text_.tokens.begin() + window * options_.window;
    std::vector<std::int32_t> tokens(begin, begin + options_.window - 1);
    if (options_.protocol == Protocol::llamacpp && text_.begin_token >= 0) tokens[0] = text_.begin_token;
    return tokens;
}

std::span<const std::int32_t> TextWindows::targets(std::int64_t window) const {
    return std::span(text_.tokens).subspan(static_cast<std::size_t>(window * options_.window + first_scored_ + 1), static_cast<std::size_t>(scored_per_window()));
}

std::string TextWindows::tokens_hash() const {
    Sha256 hash;
    hash.update(std::as_bytes(std::span(&text_.begin_token, 1)));
    hash.update(std::as_bytes(std::span(text_.tokens).first(static_cast<std::size_t>(n_windows_ * options_.window))));
    return hash.hex();
}

}  // namespace skiff
