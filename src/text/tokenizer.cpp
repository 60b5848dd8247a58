#include "text/tokenizer.h"

#include <algorithm>

#include "text/byte_level.h"
#include "text/tokenizer_state.h"

namespace skiff {
namespace {

constexpr std::size_t max_text_bytes = std::size_t{1} << 31;
constexpr std::string_view space_mark = "\xE2\x96\x81";  // U+2581

// One call of encode(): the stages share the ids and the caller's wishes.
class Encoding {
public:
    Encoding(const TokenizerState& state, const EncodeOptions& options)
        : state_(state), specials_(options.parse_special ? AddedTokenFinder::Specials::find : AddedTokenFinder::Specials::ignore) {}

    Status run(std::string_view text) {
        Status status;
        state_.raw_finder.split(text, specials_, [&](std::string_view part, const AddedToken* token) {
            if (!status.ok()) return;
            if (token) {
                ids.push_back(token->id);
            } else {
                status = encode_part(part, part.data() == text.data());
            }
        });
        return status;
    }
    std::vector<std::int32_t> ids;

private:
    Status encode_part(std::string_view part, bool at_text_start) {
        if (state_.normalizers.empty()) return encode_normalized(part, at_text_start);
        SKIFF_TRY(const std::string normalized, normalize_text(state_.normalizers, std::string(part)));
        return encode_normalized(normalized, at_text_start);
    }
    Status encode_normalized(std::string_view text, bool at_text_start) {
        Status status;
        state_.normalized_finder.split(text, specials_, [&](std::string_view part, const AddedToken* token) {
            if (!status.ok()) return;
            if (token) {
                ids.push_back(token->id);
                return;
            }
            const Piece piece{part, at_text_start && part.data() == text.data()};
            status = pre_tokenize(state_.pre_tokenizers, piece, [&](Piece word) -> Status {
                state_.model->encode(word.text, ids);
                return {};
            });
        });
        return status;
    }
    const TokenizerState& state_;
    AddedTokenFinder::Specials specials_;
};

bool is_added_special(const TokenizerState& state, std::int32_t id) {
    return id >= 0 && static_cast<std::size_t>(id) < state.special.size() && state.special[static_cast<std::size_t>(id)];
}

}  // namespace

Result<std::vector<std::int32_t>> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
    if (text.size() >= max_text_bytes) return resource_error("text of " + std::to_string(text.size()) + " bytes; at most 2 GiB in one call");
    Encoding encoding(*state_, options);
    if (options.add_special) encoding.ids = state_->prefix_ids;
    if (is_valid_utf8(text)) {
        SKIFF_CHECK(encoding.run(text));
    } else {
        SKIFF_CHECK(encoding.run(make_valid_utf8(text)));
    }
    if (options.add_special) encoding.ids.insert(encoding.ids.end(), state_->suffix_ids.begin(), state_->suffix_ids.end());
    return std::move(encoding.ids);
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, const DecodeOptions& options) const {
    TokenTexts tokens;
    tokens.reserve(ids.size());
    for (std::int32_t id : ids) {
        if (state_->vocabulary->has(id) && !(options.skip_special && is_special(id))) tokens.push_back(state_->vocabulary->text(id));
    }
    for (const TokenDecoder& decoder : state_->decoders) tokens = decoder(std::move(tokens));
    std::string text;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        if (i > 0 && !state_->has_decoder) text += ' ';
        text += tokens[i];
    }
    return is_valid_utf8(text) ? text : make_valid_utf8(text);
}

std::int32_t Tokenizer::n_vocab() const { return state_->vocabulary->size(); }
std::string Tokenizer::token_text(std::int32_t id) const { return state_->vocabulary->has(id) ? state_->vocabulary->text(id) : ""; }

std::string Tokenizer::token_bytes(std::int32_t id) const {
    if (!state_->vocabulary->has(id)) return "";
    const std::string& text = state_->vocabulary->text(id);
    switch (state_->bytes_of_token) {
        case BytesOfToken::byte_level: return from_byte_level(text).value_or(text);
        case BytesOfToken::metaspace:
            if (auto byte = parse_byte_token(text)) return std::string(1, static_cast<char>(*byte));
            return replace_all(text, space_mark, " ");
        case BytesOfToken::as_decoded: break;
    }
    return decode(std::span(&id, 1), {.skip_special = false});
}

std::optional<std::int32_t> Tokenizer::find_token(std::string_view text) const { return state_->vocabulary->find(text); }
bool Tokenizer::is_special(std::int32_t id) const { return is_added_special(*state_, id); }
std::optional<std::int32_t> Tokenizer::bos_id() const { return state_->bos_id; }
const std::vector<std::int32_t>& Tokenizer::eos_ids() const { return state_->eos_ids; }
bool Tokenizer::is_eos(std::int32_t id) const { return std::find(state_->eos_ids.begin(), state_->eos_ids.end(), id) != state_->eos_ids.end(); }
std::optional<std::int32_t> Tokenizer::unk_id() const { return state_->unk_id; }
std::optional<std::int32_t> Tokenizer::pad_id() const { return state_->pad_id; }
const std::string& Tokenizer::chat_template() const { return state_->chat_template; }
const std::string& Tokenizer::kind() const { return state_->kind; }

Result<Tokenizer> finish_tokenizer(TokenizerState state) {
    const std::int32_t n = state.vocabulary->size();
    auto check = [&](std::int32_t id, const char* what) -> Status {
        if (!state.vocabulary->has(id)) return corrupt(std::string(what) + " token id " + std::to_string(id) + " is not in the vocabulary of " + std::to_string(n));
        return {};
    };
    for (std::int32_t id : state.prefix_ids) SKIFF_CHECK(check(id, "prefix"));
    for (std::int32_t id : state.suffix_ids) SKIFF_CHECK(check(id, "suffix"));
    for (std::int32_t id : state.eos_ids) SKIFF_CHECK(check(id, "end"));
    if (state.bos_id) SKIFF_CHECK(check(*state.bos_id, "begin"));
    if (state.unk_id) SKIFF_CHECK(check(*state.unk_id, "unknown"));
    if (state.pad_id) SKIFF_CHECK(check(*state.pad_id, "padding"));
    state.special.assign(static_cast<std::size_t>(n), false);
    for (const AddedToken& token : state.added) {
        if (token.special) state.special[static_cast<std::size_t>(token.id)] = true;
        if (!token.normalized) {
            state.raw_finder.add(token, token.text);
            continue;
        }
        SKIFF_TRY(const std::string pattern, normalize_text(state.normalizers, token.text));
        state.normalized_finder.add(token, pattern);
    }
    return Tokenizer(std::make_shared<const TokenizerState>(std::move(state)));
}

void guess_begin_and_end(TokenizerState& state) {
    if (!state.bos_id && state.prefix_ids.size() == 1) state.bos_id = state.prefix_ids[0];
    if (!state.eos_ids.empty()) return;
    for (const char* name : {"</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>"}) {
        if (auto id = state.vocabulary->find(name)) state.eos_ids.push_back(*id);
        if (!state.eos_ids.empty()) return;
    }
}

void set_metaspace_decoding(TokenizerState& state, StripFirst strip_first) {
    state.decoders.clear();
    if (strip_first == StripFirst::one_space_until_text) state.decoders.push_back(leading_space_decoder(std::string(space_mark)));
    for (auto& step : {replace_decoder(std::string(space_mark), " "), byte_fallback_decoder(), fuse_decoder()}) state.decoders.push_back(step);
    if (strip_first == StripFirst::one_space) state.decoders.push_back(strip_decoder(" ", {1, 0}));
    state.has_decoder = true;
    state.bytes_of_token = BytesOfToken::metaspace;
    state.strip_first = strip_first;
}

void set_byte_level_decoding(TokenizerState& state) {
    state.decoders = {byte_level_decoder()};
    state.has_decoder = true;
    state.bytes_of_token = BytesOfToken::byte_level;
}

}  // namespace skiff
