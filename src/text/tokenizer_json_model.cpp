// The models of tokenizer.json, and vocab.json + merges.txt, which are BPE's two parts as files.
#include "text/pre_tokenizer_table.h"
#include "text/tokenizer_json_parts.h"

namespace skiff {
namespace {

constexpr std::size_t max_merges = std::size_t{1} << 23;

Status read_vocabulary(const Json& json, Vocabulary& vocabulary) {
    if (!json.is_object()) return corrupt("the vocabulary is " + std::string(json.type_name()) + ", expected an object of token to id");
    for (const auto& [token, id] : json.members()) {
        SKIFF_TRY(const auto value, id.as_int("vocabulary id"));
        SKIFF_CHECK(vocabulary.add(token, value));
    }
    if (vocabulary.size() == 0) return corrupt("the vocabulary is empty");
    return {};
}

// "left right"; neither part holds a space.
Result<TextMerge> parse_merge_line(std::string_view line, std::size_t rank) {
    const std::size_t space = line.find(' ');
    if (space == std::string_view::npos || space == 0 || space + 1 == line.size() || line.find(' ', space + 1) != std::string_view::npos) {
        return corrupt("merge " + std::to_string(rank) + " \"" + std::string(line.substr(0, 80)) + "\" is not two tokens");
    }
    return TextMerge{std::string(line.substr(0, space)), std::string(line.substr(space + 1)), static_cast<std::uint32_t>(rank)};
}

Result<std::vector<TextMerge>> read_merges(const Json& json) {
    if (!json.is_array()) return corrupt("BPE merges are " + std::string(json.type_name()) + ", expected a list");
    if (json.size() > max_merges) return resource_error(std::to_string(json.size()) + " merges; at most " + std::to_string(max_merges));
    std::vector<TextMerge> merges;
    merges.reserve(json.size());
    for (const Json& item : json.items()) {
        if (item.is_array() && item.size() == 2 && item.items()[0].is_string() && item.items()[1].is_string()) {
            merges.push_back({item.items()[0].text(), item.items()[1].text(), static_cast<std::uint32_t>(merges.size())});
            continue;
        }
        SKIFF_TRY(const auto line, item.as_string("BPE merge"));
        SKIFF_TRY(auto merge, parse_merge_line(line, merges.size()));
        merges.push_back(std::move(merge));
    }
    return merges;
}

Status set_bpe(TokenizerState& state, const std::vector<TextMerge>& merges, const BpeOptions& options) {
    SKIFF_TRY(state.model, make_bpe_model(state.vocabulary, merges, options));
    state.merges.reserve(merges.size());
    for (const TextMerge& merge : merges) state.merges.push_back(merge.left + " " + merge.right);
    state.unk_id = options.unk_id;
    state.continuing_subword_prefix = options.continuing_subword_prefix;
    state.kind = "BPE";
    return {};
}

std::string optional_text(const Json& json) { return json.is_string() ? json.text() : ""; }

Status parse_bpe(const Json& json, TokenizerState& state, int) {
    SKIFF_CHECK(read_vocabulary(json["vocab"], *state.vocabulary));
    SKIFF_TRY(const auto merges, read_merges(json["merges"]));
    BpeOptions options;
    options.fuse_unk = bool_member(json, "fuse_unk", false);
    options.byte_fallback = bool_member(json, "byte_fallback", false);
    options.ignore_merges = bool_member(json, "ignore_merges", false);
    options.continuing_subword_prefix = optional_text(json["continuing_subword_prefix"]);
    options.end_of_word_suffix = optional_text(json["end_of_word_suffix"]);
    if (json["unk_token"].is_string()) {
        options.unk_id = state.vocabulary->find(json["unk_token"].text());  // absent: unknown characters are dropped
    }
    return set_bpe(state, merges, options);
}

Status parse_unigram(const Json& json, TokenizerState& state, int) {
    if (!json["vocab"].is_array() || json["vocab"].size() == 0) return corrupt("Unigram vocab is empty or not a list");
    std::vector<double> scores;
    for (const Json& item : json["vocab"].items()) {
        if (item.size() != 2 || !item.items()[0].is_string() || !item.items()[1].is_number()) {
            return corrupt("Unigram vocab entry " + std::to_string(scores.size()) + " is not [token, score]");
        }
        SKIFF_CHECK(state.vocabulary->add(item.items()[0].text(), static_cast<std::int64_t>(scores.size())));
        scores.push_back(item.items()[1].number_or(0));
        state.scores.push_back(static_cast<float>(scores.back()));
    }
    UnigramOptions options;
    options.byte_fallback = bool_member(json, "byte_fallback", false);
    if (json["unk_id"].is_integer()) {
        const std::int64_t unk_id = json["unk_id"].int_or(-1);
        if (unk_id < 0 || unk_id >= state.vocabulary->size()) return corrupt("Unigram unk_id " + std::to_string(unk_id) + " is no token");
        options.unk_id = static_cast<std::int32_t>(unk_id);
        state.unk_id = options.unk_id;
    }
    state.unigram = true;
    state.kind = "unigram";
    SKIFF_TRY(state.model, make_unigram_model(*state.vocabulary, scores, options));
    return {};
}

Status parse_wordpiece(const Json& json, TokenizerState& state, int) {
    SKIFF_CHECK(read_vocabulary(json["vocab"], *state.vocabulary));
    WordPieceOptions options;
    options.continuing_subword_prefix = json["continuing_subword_prefix"].is_string() ? json["continuing_subword_prefix"].text() : "##";
    const std::int64_t max_chars = json["max_input_chars_per_word"].int_or(100);
    if (max_chars < 1) return corrupt("WordPiece max_input_chars_per_word is " + std::to_string(max_chars));
    options.max_input_chars_per_word = static_cast<std::size_t>(max_chars);
    if (auto unk = state.vocabulary->find(json["unk_token"].is_string() ? json["unk_token"].text() : "[UNK]")) {
        options.unk_id = *unk;
        state.unk_id = *unk;
    }
    state.wordpiece = true;
    state.continuing_subword_prefix = options.continuing_subword_prefix;
    state.kind = "wordpiece";
    SKIFF_TRY(state.model, make_wordpiece_model(*state.vocabulary, options));
    return {};
}

constexpr PartRow model_rows[] = {{"BPE", parse_bpe}, {"Unigram", parse_unigram}, {"WordPiece", parse_wordpiece}};

}  // namespace

Status parse_model(const Json& json, TokenizerState& state) {
    if (!json.is_object()) return corrupt("tokenizer.json has no \"model\" object");
    if (json["type"].is_string()) return parse_by_type(json, state, 0, "model", model_rows, "");
    // Old files name no type.
    if (json.contains("merges")) return parse_bpe(json, state, 0);
    return json["vocab"].is_array() ? parse_unigram(json, state, 0) : parse_wordpiece(json, state, 0);
}

Result<TokenizerState> load_vocab_and_merges_state(std::string_view vocab_json, std::string_view merges_text, const VocabMergesOptions& options) {
    TokenizerState state;
    SKIFF_TRY(const auto json, Json::parse(vocab_json));
    SKIFF_CHECK(read_vocabulary(json, *state.vocabulary));
    std::vector<TextMerge> merges;
    for (std::size_t at = 0, n_lines = 0; at < merges_text.size(); ++n_lines) {
        const std::size_t end = std::min(merges_text.find('\n', at), merges_text.size());
        std::string_view line = merges_text.substr(at, end - at);
        at = end + 1;
        if (line.ends_with('\r')) line.remove_suffix(1);
        if (line.empty() || (n_lines == 0 && line.starts_with("#version"))) continue;
        if (merges.size() >= max_merges) return resource_error("more than " + std::to_string(max_merges) + " merges");
        SKIFF_TRY(auto merge, parse_merge_line(line, merges.size()));
        merges.push_back(std::move(merge));
    }
    SKIFF_TRY(auto named, named_pre_tokenizer(options.pre));
    BpeOptions bpe;
    bpe.ignore_merges = named.ignore_merges;
    if (!options.unk_token.empty()) bpe.unk_id = state.vocabulary->find(options.unk_token);
    SKIFF_CHECK(set_bpe(state, merges, bpe));
    if (options.normalize_nfc) state.normalizers.push_back(unicode_normalizer(NormalForm::nfc));
    state.pre_tokenizers = std::move(named.chain);
    state.pre = options.pre;
    set_byte_level_decoding(state);
    state.kind = "byte-level BPE";
    auto add_special = [&](const std::string& text) -> std::optional<std::int32_t> {
        const auto id = state.vocabulary->find(text);
        if (id) state.added.push_back({.text = text, .id = *id, .special = true});
        return id;
    };
    state.bos_id = add_special(options.bos_token);
    const auto eos = options.eos_token == options.bos_token ? state.bos_id : add_special(options.eos_token);
    if (eos) state.eos_ids.push_back(*eos);
    if (options.add_bos && state.bos_id) state.prefix_ids.push_back(*state.bos_id);
    return state;
}

Result<Tokenizer> load_vocab_and_merges(std::string_view vocab_json, std::string_view merges_text, const VocabMergesOptions& options) {
    SKIFF_TRY(auto state, load_vocab_and_merges_state(vocab_json, merges_text, options));
    return finish_tokenizer(std::move(state));
}

}  // namespace skiff
