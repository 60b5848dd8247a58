// skiff calibrate: what a model's operators are fed over a text, for other programs.
#include "base/mapped_file.h"
#include "cli/format.h"
#include "cli/verbs.h"
#include "compress/calibrate/importance.h"

namespace skiff {
namespace {

struct CalibrateOptions {
    std::string model, to_imatrix, calibration;
    std::int64_t threads = 0, calibration_samples = 32, calibration_tokens = 512;
    bool force = false;

    void fields(FieldVisitor& visitor) {
        visitor.positional("MODEL", model, "A Hugging Face folder or a .gguf file", FieldVisitor::Need::required);
        visitor.option("--to-imatrix", to_imatrix, "File to write: an importance matrix of llama.cpp in its GGUF form, for llama-quantize --imatrix and skiff quantize --importance");
        visitor.option("--calibration", calibration, "Text, .txt or .jsonl; default: a few pages that the program holds. Never the text of an evaluation");
        visitor.option("--calibration-samples", calibration_samples, "Stretches of that text");
        visitor.option("--calibration-tokens", calibration_tokens, "Tokens of each");
        visitor.flag("--force", force, "Replace the file if it exists");
        visitor.option("-t,--threads", threads, "Threads; 0: the physical cores that this process may use. The result does not depend on it");
    }
};

Status calibrate(CalibrateOptions& options, Terminal& terminal) {
    if (options.threads < 0 || options.threads > 1024) return usage_error("--threads " + std::to_string(options.threads) + ": expected 0 to 1024");
    if (options.to_imatrix.empty()) return usage_error("give the file to write with --to-imatrix");
    if (is_directory(options.to_imatrix)) return usage_error(options.to_imatrix + ": is a folder, but a file is to be written");
    if (!options.force && file_exists(options.to_imatrix)) return usage_error(options.to_imatrix + ": already exists; give another file, remove it, or add --force");
    SKIFF_TRY(const auto model, Checkpoint::open(options.model));
    SKIFF_TRY(const auto text, load_calibration(model, {options.calibration, options.calibration_samples, options.calibration_tokens}));
    for (const std::string& remark : text.remarks) terminal.remark("note: " + remark);
    const int n_threads = options.threads > 0 ? static_cast<int>(options.threads) : default_thread_count();
    SKIFF_TRY(const auto imatrix, measure_importance(model, text, n_threads, terminal.progress(" blocks")));
    terminal.end_progress();
    SKIFF_CHECK(imatrix.write(options.to_imatrix, text.longest()));
    terminal.print("wrote " + options.to_imatrix + ": the mean squares of the inputs of " + counted(static_cast<std::int64_t>(imatrix.entries.size()), "tensors") + " over " + counted(text.n_tokens(), "tokens"));
    terminal.result(Json::object({{"output", options.to_imatrix}, {"tensors", static_cast<std::uint64_t>(imatrix.entries.size())}, {"calibration", text.json()}}));
    return {};
}

}  // namespace

std::unique_ptr<Verb> calibrate_verb_row() {
    return make_verb<CalibrateOptions>("calibrate", "Measure what matters in a model, in the form of llama.cpp's importance matrices",
                                       {"skiff calibrate MODEL --to-imatrix model.imatrix --calibration text.txt"}, calibrate);
}

}  // namespace skiff
