#include "compress/pipeline.h"

#include <unistd.h>

#include "base/hash.h"
#include "base/mapped_file.h"
#include "base/output_place.h"
#include "compress/algebra/algebra.h"
#include "compress/calibrate/block_work.h"
#include "compress/journal.h"
#include "compress/parent_files.h"
#include "compress/step_work.h"
#include "compress/survey.h"
#include "compress/text_options.h"
#include "formats/compressed_tensors.h"
#include "formats/staged_checkpoint.h"

namespace skiff {
namespace {

constexpr const char* journal_file_name = "journal";

class Run {
public:
    // `parent` is the original, or that with tensors added which change nothing.
    Run(const Checkpoint& original, const Checkpoint& parent, const RecipeStep& step, std::uint64_t seed, const CompressOptions& options) : original_(original), parent_(parent), step_(step), options_(options), pool_(std::max(1, options.n_threads)) {
        report_.manifest.tool = std::string("skiff ") + SKIFF_VERSION;
        report_.manifest.seed = seed;
        report_.manifest.steps.push_back(step_json(step));
    }

    void text_was_read() { text_was_read_ = true; }  // by the search for what the step left open

    Result<CompressReport> run() {
        const double begin = monotonic_seconds();
        if (options_.work == CompressOptions::Work::full) SKIFF_CHECK(check_output(options_, parent_));
        SKIFF_TRY(work_, make_step_work(parent_, step_, options_.gradients));
        SKIFF_TRY(plan_, work_->plan(pool_, options_.progress));
        if (!text_was_read_ && !work_->reads_text()) SKIFF_CHECK(refuse_text_options(step_, options_.text_options));
        if (const Json found = work_->found(); !found.is_null()) report_.manifest.steps.back().set("found", found);
        if (parent_.kind == Checkpoint::Kind::gguf)
            plan_.remarks.push_back("the tokenizer of a GGUF file is not written; put the tokenizer.json of the model that it was made from into the folder");
        SKIFF_CHECK(prepare_walk());
        report_.remarks = plan_.remarks;
        SKIFF_TRY(report_.estimate, estimate(parent_, plan_, *work_, block_work_ ? &block_work_->text() : nullptr, options_.output, pool_));
        if (options_.on_plan) options_.on_plan(plan_, report_.estimate);
        if (options_.work == CompressOptions::Work::estimate_only) return std::move(report_);
        SKIFF_CHECK(describe_parent());
        SKIFF_TRY(auto directory, AtomicDirectory::create(options_.output, options_.if_exists));
        working_path_ = directory.working_path();
        SKIFF_CHECK(open_journal());
        if (!complete_) {
            SKIFF_CHECK(work());
            SKIFF_CHECK(finish());
        }
        SKIFF_CHECK(directory.commit());
        collect_remarks();
        report_.seconds = monotonic_seconds() - begin;
        return std::move(report_);
    }

private:
    void collect_remarks() {
        std::map<std::string, std::vector<std::string>> keys_of;
        for (const ManifestTensor& tensor : report_.manifest.tensors)
            if (!tensor.remark.empty()) keys_of[tensor.remark].push_back(tensor.key);
        for (const auto& [text, keys] : keys_of) report_.method_remarks.push_back(keys[0] + (keys.size() > 1 ? " and " + std::to_string(keys.size() - 1) + " more" : "") + ": " + text);
    }

    // A step that looks at the data works block by block.
    Status prepare_walk() {
        const auto note = [&](const CalibrationText& text) {
            plan_.remarks.insert(plan_.remarks.end(), text.remarks.begin(), text.remarks.end());
            Json calibration = text.json();
            if (options_.blocks != nullptr && work_->needs() != StatisticsNeed::none) calibration.set("run_by", options_.blocks->where());
            report_.manifest.steps.back().set("calibration", std::move(calibration));
        };
        if (work_->needs() == StatisticsNeed::none) {
            if (options_.blocks != nullptr) return usage_error("--device: this step looks at no data block by block, so there is nothing for a GPU to run");
            if (work_->text() != nullptr) note(*work_->text());
            return {};
        }
        SKIFF_CHECK(algebra_available());
        SKIFF_TRY(auto text, load_calibration(parent_, work_->calibration()));
        note(text);
        order_by_block(parent_.spec, plan_);
        block_work_.emplace(parent_, std::move(text), work_->needs(), pool_.n_threads(), options_.blocks);
        return {};
    }

    Status describe_parent() {
        ManifestParent& parent = report_.manifest.parent;
        parent.name = parent_.name;
        SKIFF_TRY(parent.content_hash, original_.content_hash());
        parent.architecture = parent_.spec.architecture;
        parent.n_elements = plan_.n_elements_before > 0 ? plan_.n_elements_before : plan_.n_elements;
        parent.bytes = plan_.bytes_before;
        describe_history(parent_.manifest, parent);
        return {};
    }

    // Whose work the journal is about. Equal heads mean equal results.
    Json head() const {
        Json::Array steps(report_.manifest.steps);
        return Json::object({{"tool", report_.manifest.tool},
                             {"parent", report_.manifest.parent.content_hash},
                             {"name", report_.manifest.parent.name},
                             {"steps", std::move(steps)},
                             {"seed", report_.manifest.seed},
                             {"max_shard_bytes", options_.max_shard_bytes}});
    }

    Error other_run(const Json& found) const {
        std::string differences;
        const Json mine = head();
        auto note = [&](const std::string& what, const Json& theirs, const Json& ours) {
            if (theirs.dump() != ours.dump()) differences += (differences.empty() ? "" : ", ") + what + " was " + theirs.dump() + " and is " + ours.dump();
        };
        for (const auto& [key, value] : mine.members()) {
            if (key != "steps" || found["steps"].size() != value.size()) {
                note(key, found[key], value);
                continue;
            }
            for (std::size_t i = 0; i < value.size(); ++i)
                for (const auto& [field, ours] : value.items()[i].members()) note(field, found["steps"].items()[i][field], ours);
        }
        return usage_error(working_path_ + ": holds an unfinished run of something else: " + differences + "; give the same model and options to go on with it, or --restart to drop it");
    }

    // Finds out whether to begin, to go on, or only to rename.
    Status open_journal() {
        const std::string path = join_path(working_path_, journal_file_name);
        const bool restart = options_.unfinished == CompressOptions::Unfinished::restart;
        if (!file_exists(path) && file_exists(join_path(working_path_, manifest_file_name)) && !restart) return adopt_complete();
        SKIFF_TRY(auto journal, Journal::open(path));
        if (restart) SKIFF_CHECK(journal.clear());
        const bool fresh = journal.entries().empty();
        if (!fresh && journal.entries()[0].dump() != head().dump()) return other_run(journal.entries()[0]);
        if (fresh) {
            SKIFF_CHECK(check_disk(report_.estimate, options_.output));
            SKIFF_CHECK(remove_other_files(working_path_, journal_file_name));
        }
        std::vector<TensorDeclaration> declarations;
        for (const PlannedTensor& tensor : plan_.tensors) declarations.insert(declarations.end(), tensor.declarations.begin(), tensor.declarations.end());
        SKIFF_TRY(const auto shards, assign_shards(working_path_, std::move(declarations), options_.max_shard_bytes));
        SKIFF_TRY(auto staged, StagedCheckpoint::open(working_path_, shards, fresh ? StagedCheckpoint::Start::fresh : StagedCheckpoint::Start::resume));
        staged_.emplace(std::move(staged));
        if (fresh) {  // the head comes last: where it is, the files are laid out
            SKIFF_CHECK(staged_->sync());
            SKIFF_CHECK(journal.append(head()));
        }
        journal_.emplace(std::move(journal));
        return {};
    }

    // The earlier run was killed between its last file and the rename.
    Status adopt_complete() {
        SKIFF_TRY(const auto found, read_json_file(join_path(working_path_, manifest_file_name)));
        Manifest mine = report_.manifest;
        const Json ours = manifest_json(mine);
        for (const char* key : {"tool", "parent", "steps", "seed"})
            if (found[key].dump() != ours[key].dump())
                return usage_error(working_path_ + ": holds the result of something else (\"" + key + "\" differs); rename it, or add --restart to drop it");
        for (const Json& tensor : found["tensors"].items()) {
            SKIFF_TRY(auto done, parse_tensor_json(tensor));
            report_.manifest.tensors.push_back(std::move(done));
        }
        report_.n_resumed = report_.manifest.tensors.size();
        complete_ = true;
        return StagedCheckpoint::remove_parts(working_path_);
    }

    Status work() {
        const std::size_t n_done = journal_->entries().size() - 1;
        if (n_done > plan_.tensors.size()) return corrupt(working_path_ + ": the journal lists more tensors than the model has; add --restart");
        std::uint64_t done = 0, total = 0;
        for (std::size_t i = 0; i < plan_.tensors.size(); ++i) {
            const PlannedTensor& planned = plan_.tensors[i];
            if (i >= n_done) {
                total += planned.bytes_before;
                continue;
            }
            SKIFF_TRY(auto finished, parse_tensor_json(journal_->entries()[i + 1]));
            if (finished.key != planned.key || finished.scheme != planned.name())
                return corrupt(working_path_ + ": the journal has " + finished.key + " where " + planned.key + " is expected; add --restart");
            report_.manifest.tensors.push_back(std::move(finished));
        }
        report_.n_resumed = n_done;
        std::size_t begin = n_done;
        while (begin > 0 && begin < plan_.tensors.size() && !begins_unit(begin)) --begin;  // a block that was begun is done again, with the same result
        if (block_work_ && begin > 0 && begin < plan_.tensors.size()) SKIFF_CHECK(block_work_->restore(working_path_, *plan_.tensors[begin].block));
        for (std::size_t end; begin < plan_.tensors.size(); begin = end) {
            end = begin + 1;
            while (end < plan_.tensors.size() && !begins_unit(end)) ++end;
            SKIFF_CHECK(one_unit(begin, end, n_done, [&](const PlannedTensor& planned) {
                done += planned.bytes_before;
                if (options_.progress) options_.progress({report_.manifest.steps.back()["kind"].text(), planned.key, std::min(done, total) >> 20, std::max<std::uint64_t>(1, total >> 20)});
            }));
        }
        return {};
    }

    // Tensors that are finished together: those of a block where the data are looked at, else each by itself.
    bool begins_unit(std::size_t i) const { return i == 0 || !block_work_ || plan_.tensors[i].block != plan_.tensors[i - 1].block; }

    Status one_unit(std::size_t begin, std::size_t end, std::size_t n_done, const std::function<void(const PlannedTensor&)>& on_done) {
        std::vector<ManifestTensor> finished;
        const std::size_t block = plan_.tensors[begin].block.value_or(0);
        const auto context = [&](Status status, const std::string& what) -> Status {
            if (status.ok()) return {};
            if (status.error().code == ErrorCode::interrupted) return interrupted();
            return status.take_error().with_context(what);
        };
        if (block_work_) {
            SKIFF_CHECK(context(block_work_->enter(block), "observing " + block_name(block)));
            SKIFF_CHECK(context(work_->begin_block(block, *block_work_, pool_), block_name(block)));
        }
        for (std::size_t i = begin; i < end; ++i) {
            const PlannedTensor& planned = plan_.tensors[i];
            if (interrupt_requested()) return interrupted();
            auto tensor = one_tensor(planned);
            SKIFF_CHECK(context(tensor.ok() ? Status() : Status(tensor.take_error()), "tensor " + planned.key));
            finished.push_back(std::move(*tensor));
            on_done(planned);
        }
        if (block_work_) {
            SKIFF_CHECK(context(block_work_->leave(block, end < plan_.tensors.size() ? *plan_.tensors[end].block : block + 1), "running " + block_name(block)));
            if (end < plan_.tensors.size()) SKIFF_CHECK(block_work_->save(working_path_, *plan_.tensors[end].block));
        }
        for (std::size_t i = std::max(begin, n_done); i < end; ++i) {
            ManifestTensor& tensor = finished[i - begin];
            SKIFF_CHECK(journal_->append(tensor_json(tensor)));
            if (options_.on_tensor) options_.on_tensor(tensor);
            report_.manifest.tensors.push_back(std::move(tensor));
        }
        if (block_work_ && begin > 0) SKIFF_CHECK(block_work_->forget(working_path_, block));
        return {};
    }

    std::string block_name(std::size_t block) const { return block < parent_.spec.blocks.size() ? parent_.spec.blocks[block].name : "tensors that no block reads"; }

    Error interrupted() const {
        return {ErrorCode::interrupted, "interrupted; " + std::to_string(report_.manifest.tensors.size()) + " of " + std::to_string(plan_.tensors.size()) +
                                            " tensors are done: run the same command again to go on", {}};
    }

    Result<ManifestTensor> one_tensor(const PlannedTensor& planned) {
        const WeightSource& weights = block_work_ ? block_work_->weights() : *parent_.weights;
        std::vector<std::string> remarks;
        SKIFF_TRY(const auto made, work_->make(planned, weights, block_work_ ? block_work_->inputs(planned.key) : nullptr, pool_, remarks));
        std::uint64_t wider_bytes = 0;
        for (const StoredTensor& part : made.parts) {
            SKIFF_CHECK(staged_->write_as(part.name, part.dtype, part.bytes));
            for (const TensorDeclaration& declared : planned.declarations)
                if (declared.name == part.name && declared.dtype != part.dtype) wider_bytes += part.bytes.size() - static_cast<std::uint64_t>(element_count(declared.shape) * dtype_info(declared.dtype).bits / 8);
        }
        SKIFF_CHECK(staged_->sync());
        if (wider_bytes > 0) remarks.push_back("its scales are F32: F16 does not hold those of the weights as they were changed before rounding");
        ManifestTensor done{planned.key, planned.from, planned.name(), planned.n_elements, planned.bytes_after + wider_bytes, 0, {}};
        for (const std::string& remark : remarks) done.remark += (done.remark.empty() ? "" : "; ") + remark;
        if (!made.changed) return done;
        SKIFF_TRY(const auto source, block_work_ ? block_work_->unclipped(planned.key) : weights.load(planned.key));
        if (source.shape == made.effective.shape && !planned.turn_result()) done.relative_squared_error = relative_squared_error(source, made.effective, pool_);
        release_pages(source);
        // Plain numbers are read as columns where the parent's codes or kept values were rows.
        const bool turned = planned.stored_as_columns && !planned.parent_is_plain && !planned.turn_result() && made.effective.shape.size() == 2;
        if (block_work_) block_work_->replace(planned.key, turned ? transposed(as_floats(made.effective, pool_)) : made.effective, pool_);
        return done;
    }

    Status finish() {
        SKIFF_CHECK(remove_temporaries(working_path_));
        SKIFF_CHECK(staged_->finish());
        SKIFF_TRY(const auto config, work_->config(plan_));
        SKIFF_CHECK(write_file_atomic(join_path(working_path_, "config.json"), config.dump(2) + "\n"));
        SKIFF_CHECK(copy_parent_files(parent_, working_path_));
        SKIFF_CHECK(write_file_atomic(join_path(working_path_, manifest_file_name), manifest_json(report_.manifest).dump(1) + "\n"));
        const std::string journal = join_path(working_path_, journal_file_name);
        if (::unlink(journal.c_str()) != 0) return runtime_error(journal + ": cannot remove the journal of the finished run");
        return StagedCheckpoint::remove_parts(working_path_);
    }

    const Checkpoint& original_;
    const Checkpoint& parent_;
    const RecipeStep& step_;
    const CompressOptions& options_;
    ThreadPool pool_;
    std::unique_ptr<StepWork> work_;
    TensorPlan plan_;
    CompressReport report_;
    std::string working_path_;
    std::optional<StagedCheckpoint> staged_;
    std::optional<Journal> journal_;
    std::optional<BlockWork> block_work_;
    bool complete_ = false, text_was_read_ = false;
};

std::string measurements_path(const CompressOptions& options) { return options.measurements.empty() ? options.output + ".measurements" : options.measurements; }

// What a step leaves open is found: the schemes of a target.
Result<RecipeStep> settled(const Checkpoint& parent, const RecipeStep& step, const CompressOptions& options, std::vector<std::string>& remarks) {
    const auto* quantize = std::get_if<QuantizeStep>(&step);
    if (quantize == nullptr || !quantize->target) return step;
    if (!quantize->importance.empty()) return usage_error("--importance and a target: what the parts lose is measured on the calibration text; give one of them");
    SchemeSearchOptions search{measurements_path(options), options.unfinished == CompressOptions::Unfinished::restart ? SchemeSearchOptions::Found::drop : SchemeSearchOptions::Found::reuse,
                               std::max(1, options.n_threads), options.max_shard_bytes, options.progress};
    if (options.work == CompressOptions::Work::estimate_only) {
        QuantizeStep uniform;
        SKIFF_TRY(const auto estimate, estimate_scheme_search(parent, *quantize, search, uniform));
        if (options.on_search) options.on_search(estimate);
        return RecipeStep(std::move(uniform));
    }
    SKIFF_CHECK(check_output(options, parent));
    SKIFF_TRY(auto found, find_schemes(parent, *quantize, search, remarks));
    return RecipeStep(std::move(found));
}

Result<CompressReport> run_one(const Checkpoint& parent, const RecipeStep& step, std::uint64_t seed, const CompressOptions& options) {
    std::vector<std::string> remarks;
    const double begin = monotonic_seconds();
    SKIFF_TRY(const RecipeStep whole, settled(parent, step, options, remarks));
    std::optional<Checkpoint> widened;
    const auto *quantizes = std::get_if<QuantizeStep>(&whole);
    const auto *prunes = std::get_if<PruneStep>(&whole);
    if ((quantizes != nullptr && quantizes->corrections.bias) || (prunes != nullptr && prunes->corrections.bias)) {
        SKIFF_TRY(widened, with_new_biases(parent));
    }
    Run one(parent, widened ? *widened : parent, whole, seed, options);
    if (const auto* quantize = std::get_if<QuantizeStep>(&step); quantize != nullptr && quantize->target) one.text_was_read();
    SKIFF_TRY(auto report, one.run());
    report.remarks.insert(report.remarks.end(), remarks.begin(), remarks.end());
    report.seconds = monotonic_seconds() - begin;
    if (options.measurements.empty() && file_exists(measurements_path(options))) SKIFF_CHECK(remove_all(measurements_path(options)));
    return report;
}

}  // namespace

Status check_output(const CompressOptions& options, const Checkpoint& parent) {
    if (options.output.empty()) return usage_error("give the folder to write with -o");
    SKIFF_CHECK(check_output_apart(options.output, parent.path));
    if (options.if_exists == AtomicDirectory::IfExists::refuse && (is_directory(options.output) || file_exists(options.output)))
        return usage_error(options.output + ": already exists; give another -o, remove it, or add --force");
    return {};
}

Result<CompressReport> run_recipe(const Checkpoint& parent, const Recipe& recipe, const CompressOptions& options) {
    if (recipe.steps.size() != 1) return usage_error("a run is one step; this one has " + std::to_string(recipe.steps.size()));
    return run_one(parent, recipe.steps[0], recipe.seed, options);
}

}  // namespace skiff
