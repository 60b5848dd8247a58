#include "train/blockwise_training.h"

#include <malloc.h>

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include "base/cpu_features.h"
#include "train/block_log.h"
#include "train/distillation_loss.h"
#include "train/layer_drop.h"
#include "train/model_parts.h"
#include "train/training_log.h"

namespace skiff::train {
namespace {

using Unit = StudentBlocks::Unit;

std::uint64_t stream_bound(const TrainOptions& options) { return static_cast<std::uint64_t>(options.distill.stream_mb) << 20; }

// Streams that are kept at the same time, at most: those that a unit or a later one needs, as far as they have been computed.
std::uint64_t most_streams(const BlockwiseSetup& blockwise) {
    const auto& units = blockwise.student->units();
    std::set<std::int64_t> made;
    std::size_t most = 0;
    for (std::size_t unit = 0; unit < units.size(); ++unit) {
        const auto now = blockwise.streams_of(units[unit]);
        made.insert(now.begin(), now.end());
        std::set<std::int64_t> needed;
        for (std::size_t later = unit; later < units.size(); ++later)
            for (std::int64_t stream : blockwise.streams_of(units[later]))
                if (made.count(stream) != 0) needed.insert(stream);
        most = std::max(most, needed.size());
    }
    return most;
}

class BlockwiseLoop {
public:
    BlockwiseLoop(TrainingSetup& setup, const TrainOptions& options, const TrainObserver& observer, TrainReport& report)
        : setup_(setup), blockwise_(*setup.blockwise), options_(options), observer_(observer), report_(report) {}

    Status run() {
        began_ = monotonic_seconds();
        SKIFF_CHECK(find_out_what_is_done());
        SKIFF_CHECK(open_logs());
        std::int64_t step = first_step_;
        // A run may have been killed behind its last step, or between a step and what was to be measured there.
        if (step > 0 && validates_after(step) && all_are_at(step) && !(log_ && log_->last_validation_step() == step)) SKIFF_CHECK(validate(step));
        while (step < options_.n_steps) {
            const std::int64_t end = end_of_round(step);
            SKIFF_CHECK(round(step, end));
            SKIFF_CHECK(list_steps(step, end));
            if (validates_after(end) && all_are_at(end)) SKIFF_CHECK(validate(end));
            if (log_) SKIFF_CHECK(log_->write_plot(base_name(options_.output) + ": loss", "training: relative squared distance; validation: nats a token"));
            step = end;
        }
        report_.seconds = monotonic_seconds() - began_;
        if (log_) {
            report_.first_loss = log_->first_loss();
            report_.last_loss = log_->last_loss();
            if (setup_.validation) report_.validation_loss = log_->last_validation_loss();
        }
        return {};
    }

private:
    const std::vector<Unit>& units() const { return blockwise_.student->units(); }
    bool is_writer() const { return options_.rank == 0; }
    std::int64_t tokens_per_step() const { return options_.batch * setup_.window; }
    std::int64_t windows_here() const { return options_.batch / options_.n_ranks; }
    void remark(const std::string& text) const {
        if (is_writer() && observer_.on_remark) observer_.on_remark(text);
    }

    Status find_out_what_is_done() {
        for (const Unit& unit : units()) {
            SKIFF_TRY(const auto steps, blockwise_.student->steps_done(unit));
            if (steps > options_.n_steps) return usage_error("the unfinished run is at step " + std::to_string(steps) + " already; give --restart");
            done_.push_back(steps);
        }
        first_step_ = *std::min_element(done_.begin(), done_.end());
        report_.resumed_at = first_step_;
        const std::int64_t furthest = *std::max_element(done_.begin(), done_.end());
        if (furthest > 0) remark(fmt::format("going on after step {}{}", first_step_, furthest > first_step_ ? fmt::format(", of some blocks after step {}", furthest) : ""));
        return {};
    }

    Status open_logs() {
        if (!is_writer()) return {};
        std::vector<std::int64_t> first_blocks;
        for (const Unit& unit : units()) first_blocks.push_back(unit.blocks.front());
        SKIFF_TRY(auto blocks, BlockLog::open(setup_.working_folder, first_blocks, done_));
        block_log_.emplace(std::move(blocks));
        SKIFF_TRY(auto log, TrainingLog::open(setup_.working_folder, first_step_));
        log_.emplace(std::move(log));
        return list_steps(log_->n_steps(), first_step_);  // a run that was killed behind a round's last block has not listed them
    }

    bool validates_after(std::int64_t step) const {
        return setup_.validation && (step == options_.n_steps || (options_.evaluate_every > 0 && step % options_.evaluate_every == 0));
    }

    // Where --eval-every has changed, a block may be further than the measurement.
    bool all_are_at(std::int64_t step) const {
        return std::all_of(done_.begin(), done_.end(), [&](std::int64_t done) { return done == step; });
    }

    // Rounds up to the next validation are of about one length.
    std::int64_t end_of_round(std::int64_t begin) const {
        std::int64_t stop = options_.n_steps;
        if (setup_.validation && options_.evaluate_every > 0) stop = std::min(stop, (begin / options_.evaluate_every + 1) * options_.evaluate_every);
        const std::int64_t n_rounds = (stop - begin + blockwise_.steps_per_round - 1) / blockwise_.steps_per_round;
        return begin + (stop - begin + n_rounds - 1) / n_rounds;
    }

    // The micro-batches of this rank, step by step.
    struct MicroBatches {
        std::int64_t per_step = 0;
        std::vector<std::uint64_t> first_windows;
        std::vector<std::int64_t> n_windows;
    };
    at::Tensor tokens_of(const MicroBatches& micro_batches, std::size_t i) { return setup_.data->shuffled(micro_batches.first_windows[i], micro_batches.n_windows[i]); }

    // All blocks, from step `begin` (or where they are) to `end`.
    Status round(std::int64_t begin, std::int64_t end) {
        MicroBatches micro_batches;
        TeacherStreams::Windows windows;
        for (std::int64_t step = begin; step < end; ++step)
            for (std::int64_t done = 0; done < windows_here(); done += setup_.micro_batch) {
                micro_batches.per_step += step == begin ? 1 : 0;
                micro_batches.first_windows.push_back(static_cast<std::uint64_t>(step * options_.batch + options_.rank * windows_here() + done));
                micro_batches.n_windows.push_back(std::min(setup_.micro_batch, windows_here() - done));
                windows.first_rows.push_back(windows.n_rows);
                windows.n_rows += micro_batches.n_windows.back() * setup_.window;
            }
        windows.tokens = [&](std::size_t i) { return tokens_of(micro_batches, i).narrow(1, 0, setup_.window); };
        windows.place = blockwise_.place;
        windows.folder = setup_.working_folder;
        // Several ranks stop together, at the end of a step.
        if (options_.n_ranks == 1) windows.between = [&] { return interrupt_requested() ? stopped(begin, "before the next block") : Status(); };
        blockwise_.teacher->begin(std::move(windows));
        for (std::size_t unit = 0; unit < units().size(); ++unit) {
            if (done_[unit] >= end) continue;
            std::set<std::int64_t> later;
            for (std::size_t other = unit + 1; other < units().size(); ++other)
                if (done_[other] < end) later.merge(blockwise_.streams_of(units()[other]));
            SKIFF_CHECK(blockwise_.teacher->make(blockwise_.streams_of(units()[unit]), later));
            SKIFF_CHECK(train(unit, {begin, end, micro_batches}));
        }
        blockwise_.teacher->begin({});
        return {};
    }

    struct Round {
        std::int64_t begin, end;
        const MicroBatches& micro_batches;
    };
    Status train(std::size_t unit, const Round& round) {
        {
            SKIFF_TRY(Student student, blockwise_.student->load(units()[unit]));
            Optimizer optimizer(student.model->parameters().trained(units()[unit].spec), settings_of(units()[unit]));
            if (done_[unit] > 0) SKIFF_CHECK(blockwise_.student->load_moments(units()[unit], optimizer));
            while (done_[unit] < round.end) {
                SKIFF_CHECK(one_step(unit, student, optimizer, round));
                const std::int64_t done = ++done_[unit];
                if (done == round.end || interrupted_ || (options_.save_every > 0 && done % options_.save_every == 0)) SKIFF_CHECK(save(unit, student, optimizer));
                if (interrupted_ && !all_are_at(options_.n_steps)) return stopped(done, fmt::format("of block {}", units()[unit].blocks.front()));
            }
        }
        malloc_trim(0);  // what was this block's must not lie in the way of the next
        return {};
    }

    // Together the blocks' gradients stay below --clip, as those of a student that is trained as a whole do.
    OptimizerSettings settings_of(const Unit& unit) const {
        OptimizerSettings settings = optimizer_settings(options_, setup_.trainable);
        settings.clip *= std::sqrt(static_cast<double>(unit.blocks.size()) / static_cast<double>(blockwise_.streams.size()));
        return settings;
    }

    Status save(std::size_t unit, const Student& student, const Optimizer& optimizer) {
        if (is_writer()) SKIFF_CHECK(block_log_->sync());
        if (is_writer()) SKIFF_CHECK(blockwise_.student->save(units()[unit], student, optimizer, done_[unit]));
        if (setup_.ranks) {  // the others read it
            std::vector<at::Tensor> nothing = {at::zeros({1})};
            setup_.ranks->sum(nothing);
        }
        return {};
    }

    static Status stopped(std::int64_t step, const std::string& where) {
        return Error{ErrorCode::interrupted, fmt::format("stopped after step {} {}; the same command goes on from there", step, where), {}};
    }

    Status one_step(std::size_t unit, Student& student, Optimizer& optimizer, const Round& round) {
        const std::int64_t step = done_[unit];
        ParameterSet& parameters = student.model->parameters();
        if (student.masks && student.masks->before_step(step)) parameters.refresh();
        double loss = 0;
        for (std::int64_t micro = 0; micro < round.micro_batches.per_step; ++micro) {
            SKIFF_TRY(const double part, add_gradients(unit, *student.model, round, {step, micro}));
            loss += part;
        }
        parameters.collect_gradients();
        interrupted_ = interrupt_requested();
        if (setup_.ranks) {
            std::vector<at::Tensor> gradients;
            for (const auto& parameter : parameters.trained(units()[unit].spec)) gradients.push_back(parameter.value.grad());
            at::Tensor both = at::tensor({loss, interrupted_ ? 1.0 : 0.0}, at::kDouble);
            gradients.push_back(both);
            setup_.ranks->sum(gradients);
            loss = both[0].item<double>();
            interrupted_ = both[1].item<double>() > 0;
        }
        const double norm = optimizer.gradient_norm();
        if (!std::isfinite(loss) || !std::isfinite(norm))
            return runtime_error(fmt::format("step {} of block {}: the loss is {} and the gradient's norm {}; a lower --lr, a longer --warmup or --precision f32 may help. The states of the last save are kept",
                                             step + 1, units()[unit].blocks.front(), loss, norm));
        const double rate = learning_rate(options_.schedule, step);
        optimizer.step(rate, step + 1, norm);
        parameters.refresh();
        return list(unit, {loss, norm, monotonic_seconds() - began_}, rate);
    }

    struct Place {
        std::int64_t step, micro;
    };
    // Each block from the teacher's stream before the stretch that it stands for, to the one behind it.
    Result<double> add_gradients(std::size_t unit, const TrainableModel& model, const Round& round, Place place) {
        const auto batch = static_cast<std::size_t>((place.step - round.begin) * round.micro_batches.per_step + place.micro);
        const at::Tensor inputs = tokens_of(round.micro_batches, batch).to(setup_.device).narrow(1, 0, setup_.window);
        const auto n_blocks = static_cast<std::int64_t>(blockwise_.streams.size());
        const DroppedBlocks dropped = dropped_blocks(options_, n_blocks, place.step, place.micro);
        const double share = 1.0 / static_cast<double>(tokens_per_step()) * static_cast<double>(inputs.numel()) / static_cast<double>(n_blocks);
        double total = 0;
        for (std::size_t i = 0; i < units()[unit].blocks.size(); ++i) {
            const std::int64_t block = units()[unit].blocks[i];
            if (!dropped.empty() && dropped[static_cast<std::size_t>(block)]) continue;
            SKIFF_TRY(const auto in, blockwise_.teacher->of(blockwise_.stream_before(block), batch));
            SKIFF_TRY(const auto wanted, blockwise_.teacher->of(blockwise_.stream_behind(block), batch));
            const at::AutoGradMode with_grad(true);
            const at::Tensor loss = relative_square(model.decoder_block(static_cast<std::int64_t>(i), inputs, in), wanted) * share;
            total += loss.item<double>();
            torch::autograd::backward({loss});
        }
        return total;
    }

    // A step of one block.
    Status list(std::size_t unit, const BlockLog::Row& row, double rate) {
        ++n_done_here_;
        if (!is_writer()) return {};
        SKIFF_CHECK(block_log_->add(unit, row));
        if (!observer_.on_step) return {};
        StepReport step = report_of(done_[unit] + 1, row);
        step.learning_rate = rate;
        step.block = units()[unit].blocks.front();
        observer_.on_step(step);
        return {};
    }

    // Steps that all blocks have behind them.
    Status list_steps(std::int64_t begin, std::int64_t end) {
        for (std::int64_t step = begin; log_ && step < end; ++step) {
            StepReport row = report_of(step + 1, block_log_->sum(step));
            row.learning_rate = learning_rate(options_.schedule, step);
            SKIFF_CHECK(log_->add_step(row, (step + 1) * tokens_per_step()));
            if (observer_.on_step && n_done_here_ > 0) observer_.on_step(row);
        }
        return {};
    }

    StepReport report_of(std::int64_t step, const BlockLog::Row& row) {
        StepReport report;
        report.step = step;
        report.n_steps = options_.n_steps;
        report.loss = row.loss;
        report.gradient_norm = row.gradient_norm;
        report.seconds = row.seconds;
        const double seconds = std::max(1e-9, monotonic_seconds() - began_), n_units = static_cast<double>(units().size());
        double left = 0;
        for (std::int64_t done : done_) left += static_cast<double>(options_.n_steps - done);
        report.tokens_per_s = static_cast<double>(n_done_here_) / n_units * static_cast<double>(tokens_per_step()) / seconds;
        report.seconds_left = n_done_here_ > 0 ? seconds / static_cast<double>(n_done_here_) * left : 0;
        report_.tokens_per_s = report.tokens_per_s;
        return report;
    }

    // The whole student, a block at a time. // nats a token
    Result<double> validation_loss() const {
        const at::NoGradGuard no_grad;
        const StudentBlocks& student = *blockwise_.student;
        const std::int64_t window = setup_.window, n_windows = static_cast<std::int64_t>(std::min<std::uint64_t>(setup_.validation->n_in_order(), static_cast<std::uint64_t>(options_.evaluate_windows)));
        const std::int64_t n_rows = n_windows * window, width = student.whole().d_model;
        const bool fits = static_cast<std::uint64_t>(n_rows * width) * sizeof(float) <= stream_bound(options_);
        SKIFF_TRY(StreamStore store, StreamStore::create(n_rows, width, fits ? StreamStore::Place::memory : StreamStore::Place::file, setup_.working_folder));
        const auto tokens_at = [&](std::int64_t first) { return setup_.validation->in_order(static_cast<std::uint64_t>(first), std::min(setup_.micro_batch, n_windows - first)).to(setup_.device); };
        {
            SKIFF_TRY(const Student embedding, student.frozen(embedding_part(student.whole())));
            for (std::int64_t first = 0; first < n_windows; first += setup_.micro_batch)
                SKIFF_CHECK(store.write(first * window, embedding.model->embedded(tokens_at(first).narrow(1, 0, window))));
        }
        std::size_t loaded = units().size();  // none
        std::optional<Student> unit;
        for (std::int64_t block = 0; block < static_cast<std::int64_t>(blockwise_.streams.size()); ++block) {
            if (const std::size_t wanted = student.unit_of(block); loaded != wanted) {
                unit.reset();
                SKIFF_TRY(Student next, student.load(units()[wanted]));
                unit.emplace(std::move(next));
                loaded = wanted;
            }
            const auto& blocks = units()[loaded].blocks;
            const auto place = std::find(blocks.begin(), blocks.end(), block) - blocks.begin();
            for (std::int64_t first = 0; first < n_windows; first += setup_.micro_batch) {
                const at::Tensor tokens = tokens_at(first).narrow(1, 0, window);
                SKIFF_TRY(const auto stream, store.read(first * window, tokens.numel()));
                SKIFF_CHECK(store.write(first * window, unit->model->decoder_block(place, tokens, stream.to(setup_.device))));
            }
        }
        unit.reset();
        SKIFF_TRY(const Student head, student.frozen(head_part(student.whole())));
        double sum = 0;
        for (std::int64_t first = 0; first < n_windows; first += setup_.micro_batch) {
            const at::Tensor targets = tokens_at(first).narrow(1, 1, window);
            SKIFF_TRY(const auto stream, store.read(first * window, targets.numel()));
            sum += head.model->head_loss_sum(stream.to(setup_.device), targets);
        }
        return sum / static_cast<double>(n_rows);
    }

    Status validate(std::int64_t step) {
        if (!is_writer()) return {};
        SKIFF_TRY(report_.validation_loss, validation_loss());
        malloc_trim(0);
        SKIFF_CHECK(log_->add_validation(step, step * tokens_per_step(), report_.validation_loss));
        if (observer_.on_validation) observer_.on_validation(step, report_.validation_loss);
        return {};
    }

    TrainingSetup& setup_;
    BlockwiseSetup& blockwise_;
    const TrainOptions& options_;
    const TrainObserver& observer_;
    TrainReport& report_;
    std::vector<std::int64_t> done_;  // steps, by unit
    std::optional<BlockLog> block_log_;
    std::optional<TrainingLog> log_;
    double began_ = 0;
    std::int64_t first_step_ = 0, n_done_here_ = 0;  // the latter: steps of blocks, in this process
    bool interrupted_ = false;
};

}  // namespace

Result<std::unique_ptr<BlockwiseSetup>> prepare_blockwise(TrainingSetup& setup, const Checkpoint& parent, const TrainOptions& options) {
    SKIFF_TRY(auto teacher, Checkpoint::open(options.distill.teacher));
    SKIFF_CHECK(check_vocabulary(teacher, parent.spec, options));
    if (teacher.spec.d_model != parent.spec.d_model)
        return usage_error("--block-wise feeds the student's blocks with the teacher's hidden states: both need one width, not " + std::to_string(parent.spec.d_model) + " and " +
                           std::to_string(teacher.spec.d_model));
    SKIFF_TRY(const auto teacher_hash, teacher.content_hash());
    setup.distillation = Json::object({{"teacher", teacher_hash}, {"loss", "block-wise"}, {"clip", "each block"}});
    auto blockwise = std::make_unique<BlockwiseSetup>();
    blockwise->streams = matched_streams(parent.spec.n_layers, teacher.spec.n_layers);
    blockwise->student = std::make_unique<StudentBlocks>(*setup.maker, parent.spec);
    auto streams = TeacherStreams::create(std::move(teacher), setup.trainable);
    if (!streams.ok()) return streams.take_error().with_context("teacher " + options.distill.teacher);
    blockwise->teacher = std::move(*streams);
    const std::uint64_t bytes_per_step = most_streams(*blockwise) * static_cast<std::uint64_t>(options.batch / options.n_ranks * setup.window * parent.spec.d_model) * sizeof(float);
    const std::uint64_t fitting = stream_bound(options) / bytes_per_step;
    blockwise->place = fitting == 0 ? StreamStore::Place::file : StreamStore::Place::memory;
    blockwise->steps_per_round = std::clamp<std::int64_t>(static_cast<std::int64_t>(std::min<std::uint64_t>(fitting, 1u << 30)), 1, options.n_steps);
    blockwise->stream_bytes = bytes_per_step * static_cast<std::uint64_t>(blockwise->steps_per_round);
    return blockwise;
}

Status run_blockwise(TrainingSetup& setup, const TrainOptions& options, const TrainObserver& observer, TrainReport& report) {
    report.streams = {setup.blockwise->steps_per_round, setup.blockwise->stream_bytes, setup.blockwise->place == StreamStore::Place::file};
    return BlockwiseLoop(setup, options, observer, report).run();
}

}  // namespace skiff::train
