// skiff prune: weights that matter least go, and what stays is stored so that it is smaller and faster.
#include "cli/format.h"
#include "cli/verbs.h"
#include "compress/pipeline.h"
#include "compress/prune/prune_method.h"

namespace skiff {
namespace {

struct PruneOptions {
    std::string model, output, method = "magnitude", pattern = "50%", scope = "row", allocation = "uniform", scheme, calibration;
    bool force = false, dry_run = false, restart = false, verbose = false;
    std::int64_t threads = 0, max_shard_mb = 5000, calibration_samples = 32, calibration_tokens = 512;
    double damping = 0.01;

    void fields(FieldVisitor& visitor) {
        std::vector<std::string> methods;
        method_help_ = "Which weights stay. ";
        for (const PruneMethod& row : prune_methods()) {
            methods.emplace_back(row.name);
            method_help_ += (methods.size() > 1 ? "; " : "") + std::string(row.name) + ": " + std::string(row.summary);
        }
        visitor.positional("MODEL", model, "A Hugging Face folder, a .gguf file, or random:CONFIG.json", FieldVisitor::Need::required);
        visitor.option("-o,--output", output, "Folder to write; it appears when it is complete");
        visitor.choice("--method", method, methods, method_help_.c_str());
        visitor.option("--pattern", pattern,
                       "What goes: 50% (single weights), 2:4 (2 of every 4 inputs stay), block16x32:50% (blocks of outputs x inputs; these save the most time), 4x1:50%, 1xchannel:50% (outputs), channelx1:50% (inputs)");
        visitor.choice("--scope", scope, {"row", "layer"}, "Where weights or blocks compete: in their row, so that all rows keep as many, or in the whole matrix");
        visitor.choice("--allocation", allocation, {"uniform", "global"}, "How much each layer loses: all the same, or by one threshold of magnitude for the whole model");
        visitor.option("--scheme", scheme, "Also round what stays, as quantize does: w8g32, w4g32r ...; default: the type that it has");
        visitor.option("--damping", damping, "Of sparsegpt: what is added to the diagonal of the inputs' second moments, as a share of its mean; ten times as much where that is too little");
        visitor.option("--calibration", calibration, "Text that methods which look at the data are shown, .txt or .jsonl; default: a few pages that the program holds");
        visitor.option("--calibration-samples", calibration_samples, "Stretches of that text");
        visitor.option("--calibration-tokens", calibration_tokens, "Tokens of each");
        visitor.flag("--force", force, "Replace the output folder if it exists; the old one stays until the new one is complete");
        visitor.flag("--restart", restart, "Drop an unfinished run of the same output instead of going on with it");
        visitor.flag("--dry-run", dry_run, "Say sizes, memory, disk and time, and stop");
        visitor.option("-t,--threads", threads, "Threads; 0: the physical cores that this process may use. The result does not depend on it");
        visitor.option("--max-shard-mb", max_shard_mb, "Largest weight file, in millions of bytes");
        visitor.flag("-v,--verbose", verbose, "A line for each tensor");
    }
    std::string method_help_;
};

Result<PruneStep> step_of(const PruneOptions& options) {
    PruneStep step;
    step.method = options.method;
    SKIFF_TRY(step.target, parse_prune_target(options.pattern));
    step.target.scope = options.scope == "layer" ? PruneTarget::Scope::layer : PruneTarget::Scope::row;
    step.allocation = options.allocation == "global" ? PruneStep::Allocation::global : PruneStep::Allocation::uniform;
    if (step.allocation == PruneStep::Allocation::global && step.target.pattern.m > 0) return usage_error("--allocation global: N:M keeps the same share everywhere");
    if (!(options.damping > 0 && options.damping <= 1)) return usage_error("--damping " + std::to_string(options.damping) + ": expected more than 0, at most 1");
    step.damping = options.damping;
    step.calibration = {options.calibration, options.calibration_samples, options.calibration_tokens};
    if (!options.scheme.empty()) {
        SKIFF_TRY(step.scheme, parse_scheme(options.scheme));
        SKIFF_CHECK(sparse_defined_on(*step.scheme));
    }
    return step;
}

std::string sizes_text(const WorkEstimate& estimate) {
    return "weights " + bytes_text(estimate.bytes_before) + " -> " + bytes_text(estimate.bytes_after) + " (" + number_text(estimate.bits_per_weight, 2) + " bits per weight) · about " + duration_text(estimate.seconds);
}

Status prune(PruneOptions& options, Terminal& terminal) {
    if (options.threads < 0 || options.threads > 1024) return usage_error("--threads " + std::to_string(options.threads) + ": expected 0 to 1024");
    if (options.max_shard_mb < 1 || options.max_shard_mb > 1'000'000) return usage_error("--max-shard-mb " + std::to_string(options.max_shard_mb) + ": expected 1 to 1000000");
    if (options.output.empty() && !options.dry_run) return usage_error("give the folder to write with -o");
    SKIFF_TRY(const auto step, step_of(options));
    SKIFF_TRY(const auto parent, Checkpoint::open(options.model));
    Recipe recipe;
    recipe.steps.push_back(step);
    CompressOptions compress;
    compress.output = options.output.empty() ? "." : options.output;
    compress.if_exists = options.force ? AtomicDirectory::IfExists::replace : AtomicDirectory::IfExists::refuse;
    compress.unfinished = options.restart ? CompressOptions::Unfinished::restart : CompressOptions::Unfinished::resume;
    compress.work = options.dry_run ? CompressOptions::Work::estimate_only : CompressOptions::Work::full;
    compress.n_threads = options.threads > 0 ? static_cast<int>(options.threads) : default_thread_count();
    compress.max_shard_bytes = static_cast<std::uint64_t>(options.max_shard_mb) * 1'000'000;
    compress.progress = terminal.progress(" MiB");
    compress.on_plan = [&](const TensorPlan&, const WorkEstimate& estimate) {
        compress.progress = terminal.progress(" MiB");
        if (options.dry_run) terminal.print(sizes_text(estimate));
        else terminal.remark(sizes_text(estimate));
    };
    if (options.verbose)
        compress.on_tensor = [&](const ManifestTensor& tensor) {
            terminal.remark(tensor.key + ": " + tensor.from + " -> " + tensor.scheme + ", " + bytes_text(tensor.bytes) + ", squared error " + number_text(tensor.relative_squared_error * 100, 4) + " %");
        };
    SKIFF_TRY(const auto report, run_recipe(parent, recipe, compress));
    terminal.end_progress();
    for (const std::string& remark : report.remarks) terminal.remark("note: " + remark);
    Json document = Json::object({{"bytes_before", report.estimate.bytes_before}, {"bytes_after", report.estimate.bytes_after}, {"bits_per_weight", report.estimate.bits_per_weight}});
    if (!options.dry_run) {
        terminal.print("wrote " + options.output + " in " + duration_text(report.seconds) + "; try: skiff eval " + options.output + " --against " + options.model);
        document.set("output", options.output);
        document.set("seconds", report.seconds);
        document.set("resumed_tensors", static_cast<std::uint64_t>(report.n_resumed));
        document.set("manifest", manifest_json(report.manifest));
    }
    Json remarks = Json::array();
    for (const std::string& remark : report.remarks) remarks.push_back(remark);
    document.set("remarks", remarks);
    terminal.result(document);
    return {};
}

}  // namespace

std::unique_ptr<Verb> prune_verb_row() {
    return make_verb<PruneOptions>("prune", "Make a model smaller and faster by leaving out the weights that matter least",
                                   {"skiff prune models/pocket -o pocket-half --pattern 50% --scheme w8g32", "skiff prune MODEL -o OUT --method sparsegpt --pattern 2:4",
                                    "skiff prune MODEL -o OUT --method wanda --pattern block16x32:50% --scheme w4g32r"},
                                   prune);
}

}  // namespace skiff
