// Tokenizers from a model folder: which file to take, and what its companions add.
#include <algorithm>

#include "base/json.h"
#include "base/mapped_file.h"
#include "text/tokenizer_state.h"

namespace skiff {
namespace {

constexpr std::size_t max_tokenizer_file_bytes = std::size_t{128} << 20;
constexpr std::size_t max_template_bytes = std::size_t{1} << 20;

// A special token is a string, or an object that holds it as "content".
std::optional<std::string> token_text_of(const Json& json) {
    if (json.is_string()) return json.text();
    if (json["content"].is_string()) return json["content"].text();
    return std::nullopt;
}

std::optional<bool> optional_bool(const Json& json) {
    if (!json.is_bool()) return std::nullopt;
    return json.bool_or(false);
}

// A template is a string, or a list of named ones, of which "default" counts.
std::string template_of(const Json& json) {
    if (json.is_string()) return json.text();
    for (const Json& item : json.items()) {
        if (item["name"].is_string() && item["name"].text() == "default" && item["template"].is_string()) return item["template"].text();
    }
    return "";
}

Result<std::vector<AddedToken>> added_tokens_of(const Json& decoder) {
    std::vector<AddedToken> added;
    for (const auto& [key, item] : decoder.members()) {
        AddedToken token;
        std::int64_t id = 0;
        for (char c : key) id = c >= '0' && c <= '9' && id < (std::int64_t{1} << 40) ? id * 10 + (c - '0') : INT64_MAX / 16;
        const auto text = token_text_of(item);
        if (key.empty() || static_cast<std::size_t>(id) >= max_vocabulary_size || !text) {
            return corrupt("tokenizer_config.json: added_tokens_decoder entry \"" + key.substr(0, 40) + "\" is not an id with a token");
        }
        token.text = *text;
        token.id = static_cast<std::int32_t>(id);
        token.special = item["special"].bool_or(false);
        token.normalized = item["normalized"].bool_or(!token.special);
        token.single_word = item["single_word"].bool_or(false);
        token.lstrip = item["lstrip"].bool_or(false);
        token.rstrip = item["rstrip"].bool_or(false);
        if (!token.text.empty()) added.push_back(std::move(token));
    }
    std::sort(added.begin(), added.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
    return added;
}

class Folder {
public:
    explicit Folder(std::string path) : path_(std::move(path)) {}

    Result<Tokenizer> load() {
        SKIFF_TRY(config_, optional_json("tokenizer_config.json"));
        SKIFF_TRY(auto state, load_state());
        SKIFF_CHECK(apply_config(state));
        SKIFF_CHECK(apply_generation_config(state));
        guess_begin_and_end(state);
        SKIFF_CHECK(read_template(state));
        return finish_tokenizer(std::move(state));
    }

private:
    bool has(const char* name) const { return file_exists(join_path(path_, name)); }
    Result<std::string> read(const char* name) const { return read_text_file(join_path(path_, name), max_tokenizer_file_bytes); }
    Result<Json> optional_json(const char* name) const {
        if (!has(name)) return Json();
        return read_json_file(join_path(path_, name));
    }
    std::string tokenizer_class() const { return config_["tokenizer_class"].is_string() ? config_["tokenizer_class"].text() : ""; }

    Result<TokenizerState> load_state() {
        for (const char* name : {"tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt"}) {
            if (!has(name)) continue;
            SKIFF_TRY(const auto text, read(name));
            auto state = load_file(name, text);
            if (!state.ok()) return state.take_error().with_context(join_path(path_, name));
            return state;
        }
        return not_found("no tokenizer in " + path_ + ": expected tokenizer.json, tokenizer.model, spiece.model, vocab.json with merges.txt, or vocab.txt");
    }
    Result<TokenizerState> load_file(std::string_view name, const std::string& text) {
        if (name == "tokenizer.json") return load_tokenizer_json_state(text);
        is_fast_ = false;
        if (name == "vocab.json") return load_vocab_pair(text);
        if (name == "vocab.txt") return load_vocab_txt(text);
        // tokenizer.model is SentencePiece's protocol buffer, or lines of base64.
        const bool is_sentencepiece = text.starts_with('\n');
        return is_sentencepiece ? load_sentencepiece_state(text) : load_tiktoken_state(text, {});
    }
    Result<TokenizerState> load_vocab_pair(const std::string& vocab) {
        SKIFF_TRY(const auto merges, read("merges.txt"));
        VocabMergesOptions options;
        if (tokenizer_class().starts_with("Qwen2")) {
            options.pre = "qwen2";
            options.normalize_nfc = true;
        }
        options.bos_token = token_text_of(config_["bos_token"]).value_or("");
        options.eos_token = token_text_of(config_["eos_token"]).value_or("<|endoftext|>");
        options.unk_token = token_text_of(config_["unk_token"]).value_or("");
        return load_vocab_and_merges_state(vocab, merges, options);
    }
    // BERT's vocabulary: a token per line.
    Result<TokenizerState> load_vocab_txt(const std::string& text) {
        TokenizerState state;
        std::vector<std::string> tokens;
        for (std::size_t at = 0; at < text.size();) {
            const std::size_t end = std::min(text.find('\n', at), text.size());
            std::string line = text.substr(at, end - at);
            if (line.ends_with('\r')) line.pop_back();
            tokens.push_back(std::move(line));
            at = end + 1;
        }
        SKIFF_TRY(*state.vocabulary, Vocabulary::from_list(std::move(tokens)));
        auto special = [&](const char* name) {
            const auto id = state.vocabulary->find(name);
            if (id) state.added.push_back({.text = name, .id = *id, .special = true});
            return id;
        };
        state.unk_id = special("[UNK]");
        state.pad_id = special("[PAD]");
        if (auto id = special("[CLS]")) state.prefix_ids.push_back(*id);
        if (auto id = special("[SEP]")) state.suffix_ids.push_back(*id);
        special("[MASK]");
        WordPieceOptions options;
        options.unk_id = state.unk_id.value_or(-1);
        SKIFF_TRY(state.model, make_wordpiece_model(*state.vocabulary, options));
        BertNormalizerOptions normalizer;
        normalizer.lowercase = config_["do_lower_case"].bool_or(true);
        normalizer.handle_chinese_chars = config_["tokenize_chinese_chars"].bool_or(true);
        normalizer.strip_accents = config_["strip_accents"].bool_or(normalizer.lowercase);
        state.normalizers.push_back(bert_normalizer(normalizer));
        state.pre_tokenizers.push_back(split_by_class(is_white_space, {SplitBehavior::removed, false}));
        state.pre_tokenizers.push_back(split_by_class(is_punctuation, {SplitBehavior::isolated, false}));
        state.decoders.push_back(wordpiece_decoder("##", Cleanup::english));
        state.has_decoder = true;
        state.wordpiece = true;
        state.continuing_subword_prefix = "##";
        state.kind = "wordpiece";
        return state;
    }

    Status apply_config(TokenizerState& state) {
        if (!is_fast_) SKIFF_CHECK(add_tokens(state));
        auto find = [&](const char* key) -> std::optional<std::int32_t> {
            const auto text = token_text_of(config_[key]);
            return text ? state.vocabulary->find(*text) : std::nullopt;
        };
        if (auto id = find("bos_token")) state.bos_id = id;
        if (auto id = find("unk_token")) state.unk_id = id;
        if (auto id = find("pad_token")) state.pad_id = id;
        if (auto id = find("eos_token")) {
            state.eos_ids.erase(std::remove(state.eos_ids.begin(), state.eos_ids.end(), *id), state.eos_ids.end());
            state.eos_ids.insert(state.eos_ids.begin(), *id);
        }
        apply_begin_and_end(state);
        return {};
    }
    Status add_tokens(TokenizerState& state) {
        SKIFF_TRY(auto added, added_tokens_of(config_["added_tokens_decoder"]));
        for (AddedToken& token : added) {
            if (auto known = state.vocabulary->find(token.text)) {
                token.id = *known;
            } else {
                SKIFF_CHECK(state.vocabulary->add(token.text, token.id));
            }
            const auto same = std::find_if(state.added.begin(), state.added.end(), [&](const AddedToken& other) { return other.id == token.id; });
            if (same != state.added.end()) {
                *same = std::move(token);
            } else {
                state.added.push_back(std::move(token));
            }
        }
        return {};
    }
    // add_bos_token and add_eos_token count where the file has no post-processor of its own to say it, and for the classes that rebuild it.
    void apply_begin_and_end(TokenizerState& state) const {
        const std::string name = tokenizer_class();
        const bool rebuilds = !is_fast_ || name.starts_with("Llama") || name.starts_with("CodeLlama") || name.starts_with("Gemma") ||
                              name.starts_with("Cohere");
        if (!rebuilds) return;
        if (auto add = optional_bool(config_["add_bos_token"])) {
            state.prefix_ids.clear();
            if (*add && state.bos_id) state.prefix_ids.push_back(*state.bos_id);
        }
        if (auto add = optional_bool(config_["add_eos_token"])) {
            state.suffix_ids.clear();
            if (*add && !state.eos_ids.empty()) state.suffix_ids.push_back(state.eos_ids[0]);
        }
    }
    Status apply_generation_config(TokenizerState& state) {
        for (const char* name : {"generation_config.json", "config.json"}) {
            SKIFF_TRY(const auto json, optional_json(name));
            const Json& eos = json["eos_token_id"];
            for (const Json& item : eos.is_array() ? eos.items() : Json::Array{eos}) {
                const std::int64_t id = item.int_or(-1);
                if (id < 0 || id >= state.vocabulary->size() || !state.vocabulary->has(static_cast<std::int32_t>(id))) continue;
                if (std::find(state.eos_ids.begin(), state.eos_ids.end(), id) == state.eos_ids.end()) state.eos_ids.push_back(static_cast<std::int32_t>(id));
            }
            const std::int64_t bos = json["bos_token_id"].int_or(-1);
            if (!state.bos_id && bos >= 0 && bos < state.vocabulary->size() && state.vocabulary->has(static_cast<std::int32_t>(bos))) {
                state.bos_id = static_cast<std::int32_t>(bos);
            }
        }
        return {};
    }
    Status read_template(TokenizerState& state) {
        if (has("chat_template.jinja")) {
            SKIFF_TRY(state.chat_template, read_text_file(join_path(path_, "chat_template.jinja"), max_template_bytes));
            return {};
        }
        state.chat_template = template_of(config_["chat_template"]);
        if (!state.chat_template.empty() || !has("chat_template.json")) return {};
        SKIFF_TRY(const auto json, optional_json("chat_template.json"));
        state.chat_template = template_of(json["chat_template"]);
        return {};
    }

    std::string path_;
    Json config_;
    bool is_fast_ = true;  // from tokenizer.json
};

}  // namespace

Result<Tokenizer> load_tokenizer(const std::string& folder) {
    if (!is_directory(folder)) return not_found("no folder " + folder);
    return Folder(folder).load();
}

}  // namespace skiff
