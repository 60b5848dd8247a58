#include "compress/calibrate/calibration_text.h"

#include <algorithm>

#include "base/hash.h"
#include "base/mapped_file.h"
#include "base/rng.h"
#include "corpus/documents.h"
#include "measure/text_windows.h"

namespace skiff {
namespace {

constexpr std::uint64_t max_text_bytes = std::uint64_t{256} << 20;  // far more than samples are taken from
constexpr std::int64_t fewest_text_tokens = 128;  // less says nothing about a model's activations

// All the text of a file, documents of a .jsonl behind one another.
Result<std::string> read_text(const std::string& path, const Tokenizer& tokenizer) {
    SKIFF_TRY(const InputForm form, input_form(path));
    if (form == InputForm::text) return read_text_file(path, max_text_bytes);
    const PieceCutter cutter(tokenizer, max_text_bytes);
    SKIFF_TRY(auto reader, DocumentReader::open(path, "", cutter));
    std::string text;
    while (auto unit = reader.next()) {
        SKIFF_TRY(const auto document, text_of_json_line(*unit, "text"));
        text += document + "\n\n";
        if (text.size() > max_text_bytes) break;
    }
    return text;
}

std::vector<std::int32_t> random_ids(std::int64_t n_tokens, std::int64_t n_vocab) {
    Rng rng(1);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(n_tokens));
    for (std::int32_t& id : ids) id = static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(n_vocab)));
    return ids;
}

// n_samples stretches, the first at the beginning and the last at the end.
void cut(const TokenizedText& text, std::int64_t n_samples, std::int64_t length, CalibrationText& result) {
    const bool has_begin = text.begin_token >= 0;
    const std::int64_t first = has_begin ? 1 : 0, body = length - first;
    const std::int64_t n_tokens = static_cast<std::int64_t>(text.tokens.size()) - first;
    n_samples = std::min(n_samples, std::max<std::int64_t>(1, n_tokens / body));
    for (std::int64_t sample = 0; sample < n_samples; ++sample) {
        const std::int64_t size = std::min(body, n_tokens), begin = first + (n_samples == 1 ? 0 : (n_tokens - size) * sample / (n_samples - 1));
        std::vector<std::int32_t> ids(static_cast<std::size_t>(first + size), text.begin_token);
        std::copy_n(text.tokens.begin() + begin, size, ids.begin() + first);
        result.samples.push_back(std::move(ids));
    }
}

}  // namespace

std::int64_t CalibrationText::n_tokens() const {
    std::int64_t n = 0;
    for (const auto& sample : samples) n += static_cast<std::int64_t>(sample.size());
    return n;
}

std::int64_t CalibrationText::longest() const {
    std::size_t n = 0;
    for (const auto& sample : samples) n = std::max(n, sample.size());
    return static_cast<std::int64_t>(n);
}

Json CalibrationText::json() const {
    Json json = Json::object({{"name", name}, {"sha256", sha256}, {"samples", static_cast<std::uint64_t>(samples.size())}, {"tokens", n_tokens()}});
    if (!fingerprints.hashes.empty()) json.set("fingerprints", fingerprints.to_json());
    return json;
}

Result<CalibrationText> load_calibration(const Checkpoint& model, const CalibrationOptions& options) {
    if (options.n_samples < 1 || options.n_samples > 1'000'000) return usage_error("calibration with " + std::to_string(options.n_samples) + " samples: expected 1 to 1000000");
    if (options.sample_tokens < 2) return usage_error("calibration samples of " + std::to_string(options.sample_tokens) + " tokens: expected at least 2");
    CalibrationText result;
    const std::int64_t longest = model.spec.max_positions > 0 ? model.spec.max_positions : options.sample_tokens;
    const std::int64_t length = std::min(options.sample_tokens, longest);
    TokenizedText text;
    if (model.kind == Checkpoint::Kind::random) {
        result.name = "random ids";
        result.remarks.push_back("a random model has no tokenizer: calibrated on random ids, which says how long it takes and nothing about quality");
        text.tokens = random_ids(options.n_samples * length, model.spec.n_vocab);
    } else {
        SKIFF_TRY(const auto tokenizer, model.load_tokenizer());
        std::string words(built_in_calibration_text());
        result.name = "built-in";
        if (!options.file.empty()) {
            SKIFF_TRY(words, read_text(options.file, tokenizer));
            result.name = base_name(options.file);
        }
        result.fingerprints = fingerprints_of(words);
        SKIFF_TRY(text, tokenize_for_evaluation(tokenizer, words));
        for (std::int32_t id : text.tokens)
            if (id < 0 || id >= model.spec.n_vocab) return corrupt("the tokenizer gives token " + std::to_string(id) + ", the model has " + std::to_string(model.spec.n_vocab));
    }
    const auto n_tokens = static_cast<std::int64_t>(text.tokens.size());
    if (n_tokens < fewest_text_tokens)
        return usage_error("the calibration text " + result.name + " has " + std::to_string(n_tokens) + " tokens; at least " + std::to_string(fewest_text_tokens) +
                           " are needed to say anything, and some ten thousand to say it well: give a longer --calibration");
    cut(text, options.n_samples, length, result);
    if (static_cast<std::int64_t>(result.samples.size()) < options.n_samples)
        result.remarks.push_back("the calibration text " + result.name + " gives " + std::to_string(result.samples.size()) + " samples of " + std::to_string(length) + " tokens, " +
                                 std::to_string(options.n_samples) + " were asked for");
    Sha256 hash;
    for (const auto& sample : result.samples) hash.update(std::as_bytes(std::span(sample)));
    result.sha256 = hash.hex();
    return result;
}

}  // namespace skiff
