#include "eval/evaluate.h"

#include <algorithm>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "eval/choice_scorer.h"
#include "eval/evaluation_inputs.h"
#include "measure/measure_text.h"

namespace skiff {
namespace {

using Parent = EvaluationInputs::Parent;

// Removes a file of logits that nobody asked to keep.
struct TemporaryFile {
    std::string path;
    ~TemporaryFile() {
        if (!path.empty() && file_exists(path)) (void)remove_all(path);
    }
};

Result<std::unique_ptr<Engine>> load_engine(const EvaluationInputs& inputs, const EvalOptions& options, const Checkpoint& checkpoint) {
    EngineOptions engine = options.engine;
    engine.progress = options.progress;
    const std::int64_t chunk = chunk_for_vocabulary(checkpoint.spec.n_vocab);
    engine.max_batch = engine.max_batch > 0 ? std::min(engine.max_batch, chunk) : chunk;
    engine.n_context = 1;
    if (inputs.windows) engine.n_context = inputs.windows->window();
    if (!inputs.tasks.empty()) {
        engine.n_context = std::max(engine.n_context, inputs.task_length());
        engine.n_sequences = ChoiceScorer::n_sequences;
    }
    if (&checkpoint != &inputs.model) {  // the parent and the model to pair with are measured as they are
        engine.scheme.reset();
        engine.state_scheme = StateScheme::f32;
        engine.state_rules.clear();
    }
    return Engine::load(checkpoint, engine);
}

MeasureOptions measure_options(const EvalOptions& options, const Session& session) {
    MeasureOptions measure;
    measure.chunk_tokens = chunk_for_vocabulary(session.plan().output_width);
    measure.progress = options.progress;
    return measure;
}

// Scores the text, the logits going to inputs.logits_path.
Result<std::vector<TokenScore>> score_and_save(Session& session, const EvaluationInputs& inputs, const EvalOptions& options, const ModelIdentity& identity) {
    MeasureOptions measure = measure_options(options, session);
    LogitsHeader header = inputs.header(session.plan().output_width);
    header.model_name = identity.name;
    header.model_hash = identity.hash;
    SKIFF_TRY(auto writer, LogitsWriter::create(inputs.logits_path, header));
    measure.keep_logits = [&](std::span<const float> rows) { return writer.add(rows); };
    SKIFF_TRY(auto scores, score_text(session, *inputs.windows, measure));
    SKIFF_CHECK(writer.finish());
    return scores;
}

Result<ModelIdentity> identity_of(const Checkpoint& checkpoint) {
    SKIFF_TRY(auto hash, checkpoint.content_hash());
    return ModelIdentity{checkpoint.path, checkpoint.name, std::move(hash)};
}

Result<std::vector<SetResult>> run_tasks(Engine& engine, const EvaluationInputs& inputs, const EvalOptions& options) {
    return run_task_sets(engine.session(), *inputs.tokenizer, inputs.tasks, {inputs.task_length(), options.progress});
}

// A parent's part of the work, done before the child's or beside it.
struct ParentWork {
    std::unique_ptr<Engine> engine;            // beside
    std::unique_ptr<ParentLogits> logits;
    std::optional<LogitsFile> file;
    std::optional<std::vector<SetResult>> tasks;
    ModelIdentity identity;
};

Result<ParentWork> prepare_parent(const EvaluationInputs& inputs, const EvalOptions& options) {
    ParentWork work;
    if (inputs.parent_mode == Parent::none) return work;
    if (inputs.parent_mode == Parent::file) {
        work.identity = {options.against, inputs.parent_file->header().model_name, inputs.parent_file->header().model_hash};
        work.logits = inputs.parent_file->rows();
        return work;
    }
    SKIFF_TRY(work.identity, identity_of(*inputs.parent));
    SKIFF_TRY(auto engine, load_engine(inputs, options, *inputs.parent));
    if (inputs.parent_mode == Parent::before && inputs.windows) {
        SKIFF_TRY(const auto scores, score_and_save(engine->session(), inputs, options, work.identity));
        SKIFF_TRY(work.file, LogitsFile::open(inputs.logits_path));
        SKIFF_CHECK(work.file->check_matches(inputs.header(engine->plan().output_width)));
        work.logits = work.file->rows();
    }
    if (!inputs.tasks.empty()) {
        SKIFF_TRY(work.tasks, run_tasks(*engine, inputs, options));
    }
    if (inputs.parent_mode == Parent::beside && inputs.windows) {
        work.engine = std::move(engine);
        work.logits = live_parent(work.engine->session());
    }
    return work;
}

// What pairing compares. kl: empty without a parent.
struct TokenFigures {
    std::vector<double> log_likelihoods, kl;
};

std::vector<double> kl_of(const std::vector<TokenDivergence>& positions) {
    std::vector<double> values;
    for (const TokenDivergence& position : positions) values.push_back(position.kl);
    return values;
}

Status measure_the_text(Engine& engine, ParentWork& parent, const EvaluationInputs& inputs, const EvalOptions& options, EvalReport& report, TokenFigures& figures) {
    const double begin = monotonic_seconds();
    std::vector<double>& log_likelihoods = figures.log_likelihoods;
    if (parent.logits) {
        SKIFF_TRY(const auto positions, compare_text(engine.session(), *parent.logits, *inputs.windows, measure_options(options, engine.session())));
        log_likelihoods = child_log_likelihoods_of(positions);
        figures.kl = kl_of(positions);
        report.against = against_report(positions, inputs.windows->n_windows());
        report.against->parent_path = parent.identity.path;
        report.against->parent_name = parent.identity.name;
        report.against->parent_hash = parent.identity.hash;
        report.against->parent_logits = inputs.parent_mode == Parent::beside ? "beside" : "file";
    } else if (!inputs.logits_path.empty()) {
        ModelIdentity identity = report.model;
        if (!report.scheme_on_load.empty()) identity.name += " (" + report.scheme_on_load + " on load)";
        SKIFF_TRY(const auto scores, score_and_save(engine.session(), inputs, options, identity));
        log_likelihoods = log_likelihoods_of(scores);
    } else {
        SKIFF_TRY(const auto scores, score_text(engine.session(), *inputs.windows, measure_options(options, engine.session())));
        log_likelihoods = log_likelihoods_of(scores);
    }
    report.perplexity = perplexity_report(log_likelihoods, *inputs.windows);
    report.text_seconds = monotonic_seconds() - begin;
    report.tokens_per_s = static_cast<double>(inputs.windows->n_windows() * (inputs.windows->window() - 1)) / std::max(report.text_seconds, 1e-9);
    return {};
}

// The model to pair with, on the same windows.
Result<PairedReport> pair(ParentWork& parent, const EvaluationInputs& inputs, const EvalOptions& options, const TokenFigures& first) {
    PairedReport report;
    SKIFF_TRY(const auto identity, identity_of(*inputs.other));
    report.other_path = identity.path;
    report.other_name = identity.name;
    report.other_hash = identity.hash;
    SKIFF_TRY(const auto engine, load_engine(inputs, options, *inputs.other));
    const std::int64_t n_windows = inputs.windows->n_windows();
    std::vector<double> log_likelihoods;
    if (parent.logits) {
        // From the first row again.
        if (inputs.parent_mode == Parent::file) parent.logits = inputs.parent_file->rows();
        if (inputs.parent_mode == Parent::before) parent.logits = parent.file->rows();
        SKIFF_TRY(const auto positions, compare_text(engine->session(), *parent.logits, *inputs.windows, measure_options(options, engine->session())));
        log_likelihoods = child_log_likelihoods_of(positions);
        report.mean_kl = paired_figure(first.kl, kl_of(positions), n_windows);
    } else {
        SKIFF_TRY(const auto scores, score_text(engine->session(), *inputs.windows, measure_options(options, engine->session())));
        log_likelihoods = log_likelihoods_of(scores);
    }
    std::vector<double> mine(first.log_likelihoods);
    for (auto* values : {&mine, &log_likelihoods})
        for (double& value : *values) value = -value;
    report.mean_nll = paired_figure(mine, log_likelihoods, n_windows);
    return report;
}

}  // namespace

Result<EvalReport> evaluate(const EvalOptions& options) {
    SKIFF_TRY(const auto inputs, open_inputs(options));
    TemporaryFile temporary{inputs.keep_logits == EvaluationInputs::KeepLogits::no ? inputs.logits_path : ""};
    EvalReport report;
    report.text_path = inputs.text_path;
    report.text_sha256 = inputs.text_sha256;
    report.isa = isa_name(options.engine.isa);
    report.kernels = options.engine.kernels == KernelChoice::reference ? "reference" : "fastest";
    report.state = StateChoice{options.engine.state_scheme, options.engine.state_rules}.name();
    if (options.engine.scheme) report.scheme_on_load = options.engine.scheme->name();
    SKIFF_TRY(report.model, identity_of(inputs.model));
    SKIFF_TRY(auto parent, prepare_parent(inputs, options));
    SKIFF_TRY(auto engine, load_engine(inputs, options, inputs.model));
    report.n_threads = engine->session().n_threads();
    if (const std::string where = engine->session().where(); !where.starts_with("cpu")) {  // on a device: its name, its kernels
        report.isa = where;
        report.kernels = "device";
    }
    report.overlaps = inputs.overlaps;
    TokenFigures figures;
    if (inputs.windows) {
        auto status = measure_the_text(*engine, parent, inputs, options, report, figures);
        if (!status.ok()) return status.take_error().with_context(inputs.text_path);
    }
    if (inputs.keep_logits == EvaluationInputs::KeepLogits::yes) report.logits_path = inputs.logits_path;
    if (!inputs.tasks.empty()) {
        const double begin = monotonic_seconds();
        SKIFF_TRY(const auto results, run_tasks(*engine, inputs, options));
        report.tasks = report_tasks(results, parent.tasks ? &*parent.tasks : nullptr);
        report.task_seconds = monotonic_seconds() - begin;
    }
    if (inputs.other) {
        engine.reset();
        auto paired = pair(parent, inputs, options, figures);
        if (!paired.ok()) return paired.take_error().with_context(options.paired_with);
        report.paired = std::move(*paired);
    }
    return report;
}

Result<EvalEstimate> estimate_evaluation(const EvalOptions& options) {
    SKIFF_TRY(const auto inputs, open_inputs(options));
    EvalEstimate estimate;
    estimate.weight_bytes = inputs.model.weight_bytes();
    if (inputs.parent) estimate.parent_weight_bytes = inputs.parent->weight_bytes();
    for (const TaskSet& set : inputs.tasks) estimate.task_items += static_cast<std::int64_t>(set.items.size());
    estimate.parent_logits = inputs.parent_mode == Parent::none ? "" : inputs.parent_mode == Parent::beside ? "beside" : "file";
    if (!inputs.windows) return estimate;
    estimate.tokens_in_text = inputs.windows->n_tokens_in_text();
    estimate.windows = inputs.windows->n_windows();
    estimate.window = inputs.windows->window();
    estimate.tokens_scored = inputs.windows->n_scored();
    estimate.logits_path = inputs.logits_path;
    if (inputs.logits_path.empty()) return estimate;
    estimate.logits_file_bytes = inputs.header(inputs.model.spec.n_vocab).file_bytes();
    const std::string folder = parent_path(inputs.logits_path);
    SKIFF_TRY(estimate.free_disk_bytes, free_disk_bytes(folder.empty() ? "." : folder));
    return estimate;
}

}  // namespace skiff
