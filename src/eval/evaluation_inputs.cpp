#include "eval/evaluation_inputs.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "base/cpu_features.h"
#include "base/hash.h"
#include "base/mapped_file.h"
#include "measure/text_fingerprints.h"

namespace skiff {
namespace {

constexpr std::size_t max_text_bytes = std::size_t{4} << 30;
constexpr std::int64_t default_window = 512;

std::string text_path_of(const EvalOptions& options) {
    if (!options.text_path.empty() || !options.tasks.empty()) return options.text_path;
    for (const std::string& folder : {options.model, options.against})
        if (const std::string heldout = join_path(folder, "heldout.txt"); !folder.empty() && file_exists(heldout)) return heldout;
    return "";
}

Result<TextWindows> cut_text(const EvalOptions& options, const Checkpoint& model, const Tokenizer& tokenizer, const std::string& text) {
    TextWindows::Options cut{options.protocol, options.window, options.max_windows};
    const std::int64_t positions = model.spec.max_positions;
    if (cut.window == 0) cut.window = positions > 0 ? std::min(default_window, positions) : default_window;
    if (positions > 0 && cut.window > positions)
        return usage_error("--window " + std::to_string(cut.window) + ": the model has " + std::to_string(positions) + " positions");
    SKIFF_TRY(auto tokens, tokenize_for_evaluation(tokenizer, text));
    for (std::int32_t token : tokens.tokens)
        if (token < 0 || token >= model.spec.n_vocab)
            return corrupt("the tokenizer gives token " + std::to_string(token) + ", the model has " + std::to_string(model.spec.n_vocab) +
                           "; the two do not belong together");
    return TextWindows::create(std::move(tokens), cut);
}

// Packed weights take about what they take on disk; a third more is left for state, buffers and the text.
bool both_fit(std::uint64_t child_bytes, std::uint64_t parent_bytes) {
    const auto available = static_cast<double>(read_cpu_info().available_memory_bytes);
    return available == 0 || static_cast<double>(child_bytes + parent_bytes) * 1.33 < available;
}

Status open_parent(const EvalOptions& options, EvaluationInputs& inputs) {
    if (options.against.empty()) return {};
    if (inputs.parent_file) {
        if (!inputs.windows) return usage_error("--against " + options.against + " is a file of logits over a text; give that text with --text, or a model");
        inputs.parent_mode = EvaluationInputs::Parent::file;
        return inputs.parent_file->check_matches(inputs.header(inputs.model.spec.n_vocab));
    }
    SKIFF_TRY(inputs.parent, Checkpoint::open(options.against));
    if (inputs.parent->spec.n_vocab != inputs.model.spec.n_vocab)
        return usage_error(options.against + ": has a vocabulary of " + std::to_string(inputs.parent->spec.n_vocab) + " tokens, " + options.model + " one of " +
                           std::to_string(inputs.model.spec.n_vocab) + "; only models with the same vocabulary can be compared");
    const bool beside = both_fit(inputs.model.weight_bytes(), inputs.parent->weight_bytes()) && options.save_logits.empty();
    inputs.parent_mode = beside ? EvaluationInputs::Parent::beside : EvaluationInputs::Parent::before;
    return {};
}

// Has to cut the text as the model's own tokenizer does.
Status check_same_tokens(const EvalOptions& options, const EvaluationInputs& inputs, const Checkpoint& model, const std::string& path) {
    SKIFF_TRY(const auto tokenizer, model.load_tokenizer());
    SKIFF_TRY(const std::string text, read_text_file(inputs.text_path, max_text_bytes));
    SKIFF_TRY(const auto windows, cut_text(options, inputs.model, tokenizer, text));
    if (windows.tokens_hash() == inputs.windows->tokens_hash()) return {};
    return usage_error(path + ": its tokenizer cuts " + inputs.text_path + " into other tokens; only models with the same tokenizer can be compared");
}

Status open_other(const EvalOptions& options, EvaluationInputs& inputs) {
    if (options.paired_with.empty()) return {};
    if (!inputs.windows) return usage_error("--paired-with compares two models on a text; give it with --text FILE");
    SKIFF_TRY(inputs.other, Checkpoint::open(options.paired_with));
    if (inputs.other->spec.n_vocab != inputs.model.spec.n_vocab)
        return usage_error(options.paired_with + ": has a vocabulary of " + std::to_string(inputs.other->spec.n_vocab) + " tokens, " + options.model + " one of " +
                           std::to_string(inputs.model.spec.n_vocab) + "; only models with the same vocabulary can be compared");
    return check_same_tokens(options, inputs, *inputs.other, options.paired_with);
}

// What a step was shown: `calibration`, and what a search for schemes was.
void add_overlaps(const Json& steps, const Checkpoint& model, const std::string& text, std::vector<CalibrationOverlap>& overlaps) {
    for (const Json& step : steps.items())
        for (const Json* calibration : {&step["calibration"], &step["found"]["calibration"]}) {
            const auto fingerprints = TextFingerprints::parse((*calibration)["fingerprints"]);
            if (!fingerprints.ok() || fingerprints->hashes.empty()) continue;  // made before there were any
            const std::string& name = (*calibration)["name"].text();
            const bool known = std::any_of(overlaps.begin(), overlaps.end(), [&](const CalibrationOverlap& overlap) { return overlap.model == model.name && overlap.text_name == name; });
            const std::int64_t found = known ? 0 : count_found(*fingerprints, text);
            if (found > 0) overlaps.push_back({model.name, name, found, static_cast<std::int64_t>(fingerprints->hashes.size())});
        }
}

void find_overlaps(const Checkpoint& model, const std::string& text, std::vector<CalibrationOverlap>& overlaps) {
    add_overlaps(model.manifest["parent"]["steps"], model, text, overlaps);
    add_overlaps(model.manifest["steps"], model, text, overlaps);
}

void choose_logits_path(const EvalOptions& options, EvaluationInputs& inputs) {
    if (!inputs.windows) return;
    inputs.logits_path = options.save_logits;
    inputs.keep_logits = options.save_logits.empty() ? EvaluationInputs::KeepLogits::no : EvaluationInputs::KeepLogits::yes;
    if (!options.save_logits.empty() || inputs.parent_mode != EvaluationInputs::Parent::before) return;
    const char* folder = std::getenv("TMPDIR");
    inputs.logits_path = join_path(folder != nullptr && *folder != '\0' ? folder : "/tmp", "skiff-logits-" + std::to_string(::getpid()));
}

}  // namespace

LogitsHeader EvaluationInputs::header(std::int64_t n_vocab) const {
    LogitsHeader result = logits_header(*windows, n_vocab);
    result.text_sha256 = text_sha256;
    return result;
}

std::int64_t EvaluationInputs::task_length() const { return model.spec.max_positions > 0 ? model.spec.max_positions : 2048; }

Result<EvaluationInputs> open_inputs(const EvalOptions& given) {
    EvaluationInputs inputs;
    EvalOptions options = given;
    if (!options.against.empty() && is_logits_file(options.against)) {
        SKIFF_TRY(inputs.parent_file, LogitsFile::open(options.against));
        const LogitsHeader& header = inputs.parent_file->header();
        if (options.window == 0) options.window = header.window;
        if (options.max_windows == 0) options.max_windows = header.n_windows;
    }
    SKIFF_TRY(inputs.model, Checkpoint::open(options.model));
    SKIFF_TRY(inputs.tokenizer, inputs.model.load_tokenizer());
    inputs.text_path = text_path_of(options);
    if (inputs.text_path.empty() && options.tasks.empty())
        return usage_error("nothing to evaluate on: give a text with --text FILE, or tasks with --tasks LIST --tasks-dir DIR; else heldout.txt is taken, which is neither in the folder of the model nor in that of --against");
    if (!inputs.text_path.empty()) {
        SKIFF_TRY(const std::string text, read_text_file(inputs.text_path, max_text_bytes));
        inputs.text_sha256 = sha256_hex(std::as_bytes(std::span(text)));
        auto windows = cut_text(options, inputs.model, *inputs.tokenizer, text);
        if (!windows.ok()) return windows.take_error().with_context(inputs.text_path);
        inputs.windows = std::move(*windows);
        find_overlaps(inputs.model, text, inputs.overlaps);
    } else if (!options.save_logits.empty()) {
        return usage_error("--save-logits needs a text; give --text FILE");
    }
    if (!options.tasks.empty() && options.tasks_dir.empty()) return usage_error("--tasks needs --tasks-dir, the folder of the task sets");
    for (const std::string& task : options.tasks) {
        SKIFF_TRY(auto sets, load_task_sets(task, options.tasks_dir, options.limit));
        std::move(sets.begin(), sets.end(), std::back_inserter(inputs.tasks));
    }
    SKIFF_CHECK(open_parent(options, inputs));
    if (inputs.parent && inputs.windows) SKIFF_CHECK(check_same_tokens(options, inputs, *inputs.parent, options.against));
    SKIFF_CHECK(open_other(options, inputs));
    if (inputs.other) {
        SKIFF_TRY(const std::string text, read_text_file(inputs.text_path, max_text_bytes));
        find_overlaps(*inputs.other, text, inputs.overlaps);
    }
    choose_logits_path(options, inputs);
    return inputs;
}

}  // namespace skiff
