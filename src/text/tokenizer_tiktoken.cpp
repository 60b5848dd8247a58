#include <charconv>

#include "text/base64.h"
#include "text/byte_level.h"
#include "text/pre_tokenizer_table.h"
#include "text/tokenizer_state.h"

namespace skiff {
namespace {

constexpr std::size_t llama3_ranks = 128000;

std::vector<std::string> llama3_special_tokens() {
    auto reserved = [](int i) { return "<|reserved_special_token_" + std::to_string(i) + "|>"; };
    std::vector<std::string> tokens = {"<|begin_of_text|>", "<|end_of_text|>",     reserved(0),         reserved(1), reserved(2),
                                       reserved(3),         "<|start_header_id|>", "<|end_header_id|>", reserved(4), "<|eot_id|>"};
    for (int i = 5; tokens.size() < 256; ++i) tokens.push_back(reserved(i));
    return tokens;
}

// "IQ== 0" per line; ranks count up from 0 without holes.
Result<std::vector<std::string>> read_ranks(std::string_view text) {
    std::vector<std::string> tokens;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = std::min(text.find('\n', at), text.size());
        std::string_view line = text.substr(at, end - at);
        at = end + 1;
        if (line.ends_with('\r')) line.remove_suffix(1);
        if (line.empty()) continue;
        const std::string where = "line " + std::to_string(tokens.size() + 1);
        const std::size_t space = line.find(' ');
        std::size_t rank = 0;
        if (space == std::string_view::npos) return corrupt(where + " is not \"<base64> <rank>\"");
        const auto parsed = std::from_chars(line.data() + space + 1, line.data() + line.size(), rank);
        if (parsed.ec != std::errc{} || parsed.ptr != line.data() + line.size()) return corrupt(where + " has no rank");
        if (rank != tokens.size()) return corrupt(where + " has rank " + std::to_string(rank) + ", expected " + std::to_string(tokens.size()));
        auto bytes = decode_base64(line.substr(0, space));
        if (!bytes.ok()) return bytes.take_error().with_context(where);
        if (bytes->empty() || bytes->size() > max_token_bytes / 2) return corrupt(where + ": a token of " + std::to_string(bytes->size()) + " bytes");
        if (tokens.size() >= max_vocabulary_size) return resource_error("more than " + std::to_string(max_vocabulary_size) + " ranks");
        std::string spelled;
        append_byte_level(spelled, *bytes);
        tokens.push_back(std::move(spelled));
    }
    if (tokens.empty()) return corrupt("no ranks: this is not a tiktoken file");
    return tokens;
}

}  // namespace

Result<TokenizerState> load_tiktoken_state(std::string_view text, const TiktokenOptions& given) {
    TiktokenOptions options = given;
    SKIFF_TRY(auto tokens, read_ranks(text));
    const std::size_t n_ranks = tokens.size();
    if (options.pre.empty()) {
        const bool llama3 = n_ranks == llama3_ranks;
        options.pre = llama3 ? "llama-bpe" : "gpt-2";
        if (llama3 && options.special_tokens.empty()) options.special_tokens = llama3_special_tokens();
        if (llama3 && options.bos_token.empty()) options.bos_token = "<|begin_of_text|>";
        if (llama3 && options.eos_token.empty()) options.eos_token = "<|end_of_text|>";
    }
    TokenizerState state;
    SKIFF_TRY(*state.vocabulary, Vocabulary::from_list(std::move(tokens)));
    std::vector<float> priority(n_ranks);
    for (std::size_t i = 0; i < n_ranks; ++i) priority[i] = -static_cast<float>(i);
    ImpliedBpeOptions bpe;
    bpe.bpe.ignore_merges = true;
    SKIFF_TRY(state.model, make_implied_bpe_model(state.vocabulary, priority, std::vector<bool>(n_ranks, true), bpe));
    SKIFF_TRY(auto named, named_pre_tokenizer(options.pre));
    state.pre_tokenizers = std::move(named.chain);
    state.pre = options.pre;
    for (std::size_t i = 0; i < options.special_tokens.size(); ++i) {
        const auto id = static_cast<std::int32_t>(n_ranks + i);
        SKIFF_CHECK(state.vocabulary->add(options.special_tokens[i], id));
        state.added.push_back({.text = options.special_tokens[i], .id = id, .special = true});
    }
    state.bos_id = state.vocabulary->find(options.bos_token);
    if (auto eos = state.vocabulary->find(options.eos_token)) state.eos_ids.push_back(*eos);
    if (auto eot = state.vocabulary->find("<|eot_id|>")) state.eos_ids.push_back(*eot);
    if (state.bos_id) state.prefix_ids.push_back(*state.bos_id);
    set_byte_level_decoding(state);
    state.kind = "byte-level BPE";
    return state;
}

Result<Tokenizer> load_tiktoken(std::string_view text, const TiktokenOptions& options) {
    SKIFF_TRY(auto state, load_tiktoken_state(text, options));
    return finish_tokenizer(std::move(state));
}

}  // namespace skiff
