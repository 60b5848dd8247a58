#include "text/tokenizer_writer.h"

#include <algorithm>

#include "base/json.h"
#include "base/mapped_file.h"
#include "text/pre_tokenizer_table.h"

namespace skiff {
namespace {

// Hugging Face's value for "not known" (its VERY_LARGE_INTEGER).
constexpr double unknown_length = 1e30;

enum class TrimOffsets { yes, no };
enum class AddPrefixSpace { yes, no };

// One object serves as pre-tokenizer, post-processor and decoder; only the first reads add_prefix_space and use_regex.
Json byte_level_json(AddPrefixSpace prefix_space, TrimOffsets trim) {
    return Json::object({{"type", "ByteLevel"},
                         {"add_prefix_space", prefix_space == AddPrefixSpace::yes},
                         {"trim_offsets", trim == TrimOffsets::yes},
                         {"use_regex", prefix_space == AddPrefixSpace::yes}});
}

Json pre_tokenizer_json(const NamedPreTokenizer& named) {
    Json list = Json::array();
    for (const std::string& pattern : named.patterns)
        list.push_back(Json::object(
            {{"type", "Split"}, {"pattern", Json::object({{"Regex", pattern}})}, {"behavior", "Isolated"}, {"invert", false}}));
    list.push_back(byte_level_json(AddPrefixSpace::no, TrimOffsets::yes));
    return Json::object({{"type", "Sequence"}, {"pretokenizers", list}});
}

Json special_item(const std::string& token, int type_id) {
    return Json::object({{"SpecialToken", Json::object({{"id", token}, {"type_id", type_id}})}});
}
Json sequence_item(const char* name, int type_id) { return Json::object({{"Sequence", Json::object({{"id", name}, {"type_id", type_id}})}}); }

Json post_processor_json(const std::string& bos_token, std::size_t bos_id) {
    Json offsets = byte_level_json(AddPrefixSpace::yes, TrimOffsets::no);
    if (bos_token.empty()) return offsets;
    Json begin = Json::object({{"id", bos_token}, {"ids", Json::array({bos_id})}, {"tokens", Json::array({bos_token})}});
    Json single = Json::array({special_item(bos_token, 0), sequence_item("A", 0)});
    Json pair = Json::array({special_item(bos_token, 0), sequence_item("A", 0), special_item(bos_token, 1), sequence_item("B", 1)});
    Json around = Json::object({{"type", "TemplateProcessing"},
                                {"single", single},
                                {"pair", pair},
                                {"special_tokens", Json::object({{bos_token, begin}})}});
    return Json::object({{"type", "Sequence"}, {"processors", Json::array({offsets, around})}});
}

Json model_json(const TrainedBpe& trained, const NamedPreTokenizer& named) {
    Json::Object vocab;
    for (std::size_t id = 0; id < trained.tokens.size(); ++id) vocab.emplace_back(trained.tokens[id], id);
    Json::Array merges;
    for (const auto& [left, right] : trained.merges) merges.push_back(Json::array({trained.tokens[left], trained.tokens[right]}));
    return Json::object({{"type", "BPE"},
                         {"dropout", nullptr},
                         {"unk_token", nullptr},
                         {"continuing_subword_prefix", nullptr},
                         {"end_of_word_suffix", nullptr},
                         {"fuse_unk", false},
                         {"byte_fallback", false},
                         {"ignore_merges", named.ignore_merges},
                         {"vocab", std::move(vocab)},
                         {"merges", std::move(merges)}});
}

Json added_tokens_json(const TrainedBpe& trained) {
    Json list = Json::array();
    for (std::size_t id = 0; id < trained.n_special; ++id)
        list.push_back(Json::object({{"id", id},
                                     {"content", trained.tokens[id]},
                                     {"single_word", false},
                                     {"lstrip", false},
                                     {"rstrip", false},
                                     {"normalized", false},
                                     {"special", true}}));
    return list;
}

}  // namespace

Result<std::string> tokenizer_json_text(const TrainedBpe& trained, const TokenizerFileOptions& options) {
    SKIFF_TRY(const auto named, named_pre_tokenizer(options.pre));
    const auto special = std::span(trained.tokens).first(trained.n_special);
    for (const std::string& token : {options.bos_token, options.eos_token})
        if (!token.empty() && std::find(special.begin(), special.end(), token) == special.end())
            return usage_error("\"" + token + "\" is none of the special tokens; name it as one");
    const auto bos_id = static_cast<std::size_t>(std::find(special.begin(), special.end(), options.bos_token) - special.begin());
    const Json document = Json::object({{"version", "1.0"},
                                        {"truncation", nullptr},
                                        {"padding", nullptr},
                                        {"added_tokens", added_tokens_json(trained)},
                                        {"normalizer", nullptr},
                                        {"pre_tokenizer", pre_tokenizer_json(named)},
                                        {"post_processor", post_processor_json(options.bos_token, bos_id)},
                                        {"decoder", byte_level_json(AddPrefixSpace::yes, TrimOffsets::yes)},
                                        {"model", model_json(trained, named)}});
    return document.dump(1) + "\n";
}

std::string tokenizer_config_text(const TokenizerFileOptions& options) {
    Json document = Json::object({{"tokenizer_class", "PreTrainedTokenizerFast"}});
    if (!options.bos_token.empty()) document.set("bos_token", options.bos_token);
    if (!options.eos_token.empty()) document.set("eos_token", options.eos_token);
    document.set("model_max_length", options.model_max_length > 0 ? Json(options.model_max_length) : Json(unknown_length));
    document.set("clean_up_tokenization_spaces", false);
    return document.dump(1) + "\n";
}

Status write_tokenizer_folder(const std::string& path, AtomicDirectory::IfExists if_exists, const TrainedBpe& trained,
                              const TokenizerFileOptions& options) {
    SKIFF_TRY(const auto tokenizer, tokenizer_json_text(trained, options));
    SKIFF_TRY(auto folder, AtomicDirectory::create(path, if_exists));
    Status status = write_file_atomic(join_path(folder.working_path(), "tokenizer.json"), tokenizer);
    if (status.ok()) status = write_file_atomic(join_path(folder.working_path(), "tokenizer_config.json"), tokenizer_config_text(options));
    if (!status.ok()) {
        SKIFF_CHECK(folder.discard());
        return status;
    }
    return folder.commit();
}

}  // namespace skiff
