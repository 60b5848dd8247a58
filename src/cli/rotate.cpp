// skiff rotate: the same model with its weights turned, so that none stands out when they are rounded.
#include "cli/format.h"
#include "cli/verbs.h"
#include "compress/pipeline.h"

namespace skiff {
namespace {

struct RotateOptions {
    std::string model, output, what = "all";
    std::uint64_t seed = 0;
    bool force = false, restart = false;
    std::int64_t threads = 0;

    void fields(FieldVisitor& visitor) {
        visitor.positional("MODEL", model, "A Hugging Face folder with 16 or 32 bit weights", FieldVisitor::Need::required);
        visitor.option("-o,--output", output, "Folder to write; it appears when it is complete");
        visitor.choice("--what", what, {"all", "residual", "heads"},
                       "residual: the stream between the blocks, with the weights of its norms folded away; a head that shares the embedding's tensor gets its own, which costs bytes. heads: the values of each attention head, at no cost");
        visitor.option("--seed", seed, "Of the signs, or of the rotation where there is no Hadamard matrix");
        visitor.flag("--force", force, "Replace the output folder if it exists; the old one stays until the new one is complete");
        visitor.flag("--restart", restart, "Drop an unfinished run of the same output instead of going on with it");
        visitor.option("-t,--threads", threads, "Threads; 0: the physical cores that this process may use. The result does not depend on it");
    }
};

Status rotate(RotateOptions& options, Terminal& terminal) {
    if (options.threads < 0 || options.threads > 1024) return usage_error("--threads " + std::to_string(options.threads) + ": expected 0 to 1024");
    if (options.output.empty()) return usage_error("give the folder to write with -o");
    SKIFF_TRY(const auto parent, Checkpoint::open(options.model));
    Recipe recipe;
    using What = RotationOptions::What;
    recipe.steps.push_back(RotateStep{{options.what == "all" ? What::all : options.what == "heads" ? What::heads : What::residual, options.seed}});
    recipe.seed = options.seed;

    CompressOptions compress;
    compress.output = options.output;
    compress.if_exists = options.force ? AtomicDirectory::IfExists::replace : AtomicDirectory::IfExists::refuse;
    compress.unfinished = options.restart ? CompressOptions::Unfinished::restart : CompressOptions::Unfinished::resume;
    compress.n_threads = options.threads > 0 ? static_cast<int>(options.threads) : default_thread_count();
    compress.progress = terminal.progress(" MiB");
    SKIFF_TRY(const auto report, run_recipe(parent, recipe, compress));
    terminal.end_progress();
    Json remarks = Json::array();
    for (const std::string& remark : report.remarks) {
        terminal.remark("note: " + remark);
        remarks.push_back(remark);
    }
    terminal.print("wrote " + options.output + " in " + duration_text(report.seconds) + "; next: skiff quantize " + options.output + " --method gptq --scheme w3g32r -o OUT");
    terminal.result(Json::object({{"output", options.output}, {"seconds", report.seconds}, {"remarks", remarks}, {"manifest", manifest_json(report.manifest)}}));
    return {};
}

}  // namespace

std::unique_ptr<Verb> rotate_verb_row() {
    return make_verb<RotateOptions>("rotate", "Turn a model's weights so that they round better; it computes the same",
                                    {"skiff rotate MODEL -o TURNED", "skiff rotate MODEL -o TURNED --what heads"}, rotate);
}

}  // namespace skiff
