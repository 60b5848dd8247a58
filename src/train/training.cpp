// The loop: batches in, steps, and from time to time a state, a validation, a sample.
#include <fmt/format.h>

#include <cmath>
#include <fstream>

#include <ATen/Parallel.h>

#include "base/atomic_file.h"
#include "base/cpu_features.h"
#include "base/hash.h"
#include "base/mapped_file.h"
#include "train/batches.h"
#include "train/blockwise_training.h"
#include "train/layer_drop.h"
#include "train/training_log.h"
#include "train/training_setup.h"

namespace skiff::train {
namespace {

class Loop {
public:
    Loop(TrainingSetup& setup, const TrainOptions& options, const TrainObserver& observer) : setup_(setup), options_(options), observer_(observer) {}

    Status run(std::int64_t first_step) {
        const std::string& folder = setup_.working_folder;
        if (is_writer()) {
            SKIFF_TRY(auto log, TrainingLog::open(folder, first_step));
            log_.emplace(std::move(log));
        }
        begin_ = monotonic_seconds();
        first_step_ = first_step;
        for (std::int64_t step = first_step; step < options_.n_steps; ++step) {
            SKIFF_CHECK(one_step(step));
            const std::int64_t done = step + 1;
            const bool last = done == options_.n_steps;
            if (setup_.validation && (last || (options_.evaluate_every > 0 && done % options_.evaluate_every == 0))) SKIFF_CHECK(validate(done));
            if (options_.sample_every > 0 && done % options_.sample_every == 0 && is_writer()) SKIFF_CHECK(sample(done));
            if (last || interrupted_ || (options_.save_every > 0 && done % options_.save_every == 0)) SKIFF_CHECK(save(done));
            if (interrupted_ && !last)
                return Error{ErrorCode::interrupted, "stopped after step " + std::to_string(done) + " of " + std::to_string(options_.n_steps) + "; the same command goes on from there", {}};
        }
        report.seconds = monotonic_seconds() - begin_;
        if (log_) {
            report.first_loss = log_->first_loss();
            report.last_loss = log_->last_loss();
            if (setup_.validation) report.validation_loss = log_->last_validation_loss();
        }
        return {};
    }

    TrainReport report;

private:
    bool is_writer() const { return options_.rank == 0; }
    std::int64_t tokens_per_step() const { return options_.batch * setup_.window; }

    Status one_step(std::int64_t step) {
        if (setup_.masks && setup_.masks->before_step(step)) setup_.model->parameters().refresh();
        const std::int64_t per_rank = options_.batch / options_.n_ranks;
        const auto first_window = static_cast<std::uint64_t>(step * options_.batch + options_.rank * per_rank);
        const double scale = 1.0 / static_cast<double>(tokens_per_step());
        double loss = 0;
        for (std::int64_t done = 0, micro = 0; done < per_rank; done += setup_.micro_batch, ++micro) {
            const std::int64_t n = std::min(setup_.micro_batch, per_rank - done);
            const at::Tensor tokens = setup_.data->shuffled(first_window + static_cast<std::uint64_t>(done), n).to(setup_.device);
            SKIFF_TRY(const double part, setup_.objective->add_gradients({tokens.narrow(1, 0, setup_.window), tokens.narrow(1, 1, setup_.window), first_window + static_cast<std::uint64_t>(done), scale,
                                                                          SubNetwork{dropped_blocks(options_, setup_.model->spec().n_layers, step, micro)}, step, micro}));
            loss += part;
        }
        setup_.model->parameters().collect_gradients();
        interrupted_ = interrupt_requested();
        if (setup_.ranks) {
            std::vector<at::Tensor> gradients;
            for (const auto& parameter : setup_.trained) gradients.push_back(parameter.value.grad());
            // All ranks stop at the same step, whichever of them was asked to.
            at::Tensor both = at::tensor({loss, interrupted_ ? 1.0 : 0.0}, at::kDouble);
            gradients.push_back(both);
            setup_.ranks->sum(gradients);
            loss = both[0].item<double>();
            interrupted_ = both[1].item<double>() > 0;
        }
        const double norm = setup_.optimizer->gradient_norm();
        if (!std::isfinite(loss) || !std::isfinite(norm))
            return runtime_error(fmt::format("step {}: the loss is {} and the gradient's norm {}; a lower --lr, a longer --warmup or --precision f32 may help. The state of the last save is kept",
                                             step + 1, loss, norm));
        StepReport row;
        row.step = step + 1;
        row.n_steps = options_.n_steps;
        row.loss = loss;
        row.learning_rate = learning_rate(options_.schedule, step);
        row.gradient_norm = norm;
        setup_.optimizer->step(row.learning_rate, step + 1, norm);
        setup_.model->parameters().refresh();
        row.seconds = monotonic_seconds() - begin_;
        const auto done = static_cast<double>(step + 1 - first_step_);
        row.tokens_per_s = done * static_cast<double>(tokens_per_step()) / row.seconds;
        row.seconds_left = row.seconds / done * static_cast<double>(options_.n_steps - step - 1);
        if (log_) SKIFF_CHECK(log_->add_step(row, (step + 1) * tokens_per_step()));
        if (is_writer() && observer_.on_step) observer_.on_step(row);
        report.tokens_per_s = row.tokens_per_s;
        return {};
    }

    // Of one sub-network, nats a token.
    double validation_loss(const SubNetwork& network) const {
        const auto n_windows = static_cast<std::int64_t>(std::min<std::uint64_t>(setup_.validation->n_in_order(), static_cast<std::uint64_t>(options_.evaluate_windows)));
        double sum = 0;
        for (std::int64_t done = 0; done < n_windows; done += setup_.micro_batch) {
            const at::Tensor tokens = setup_.validation->in_order(static_cast<std::uint64_t>(done), std::min(setup_.micro_batch, n_windows - done)).to(setup_.device);
            sum += setup_.model->loss_sum(tokens.narrow(1, 0, setup_.window), tokens.narrow(1, 1, setup_.window), network);
        }
        return sum / static_cast<double>(n_windows * setup_.window);
    }

    Status validate(std::int64_t step) {
        report.validation_loss = validation_loss({});
        if (log_) SKIFF_CHECK(log_->add_validation(step, step * tokens_per_step(), report.validation_loss));
        if (is_writer() && observer_.on_validation) observer_.on_validation(step, report.validation_loss);
        return step == options_.n_steps && is_writer() ? compare_sub_networks() : Status();
    }

    // What each sub-network loses, in elastic.csv.
    Status compare_sub_networks() {
        constexpr std::size_t most = 100;
        if (!setup_.elastic || setup_.elastic->all().size() > most) return {};
        const ElasticSpace& space = *setup_.elastic;
        std::string table = "neurons,kv_groups,layers,parameters,validation_loss\n";
        for (const ElasticChoice& choice : space.all()) {
            const double loss = choice == space.largest() ? report.validation_loss : validation_loss(space.network(choice));
            const std::string groups = space.kv_groups(choice) > 0 ? std::to_string(space.kv_groups(choice)) : "all";
            table += fmt::format("{},{},{},{},{:.9g}\n", space.neurons(choice), groups, space.layers(choice), space.n_parameters(choice), loss);
            if (choice == ElasticChoice{} && observer_.on_remark) observer_.on_remark(fmt::format("the smallest sub-network: validation loss {:.4f} (all of them: elastic.csv)", loss));
        }
        return write_file_atomic(join_path(setup_.working_folder, "elastic.csv"), table);
    }

    Status sample(std::int64_t step) {
        SKIFF_TRY(const auto text, sample_text(setup_, options_));
        return observer_.on_sample ? (observer_.on_sample(step, text), Status()) : Status();
    }

    Status save(std::int64_t step) {
        if (!is_writer()) return {};
        SKIFF_CHECK(save_state(setup_.working_folder, setup_.state, step, setup_.fingerprint));
        return log_->write_plot(base_name(options_.output) + ": loss");
    }

    TrainingSetup& setup_;
    const TrainOptions& options_;
    const TrainObserver& observer_;
    std::optional<TrainingLog> log_;
    double begin_ = 0;
    std::int64_t first_step_ = 0;
    bool interrupted_ = false;
};

Status dump_windows(TrainingSetup& setup, const TrainOptions& options) {
    std::string text;
    for (std::int64_t i = 0; i < options.n_steps * options.batch; ++i) text += std::to_string(setup.data->first_token(static_cast<std::uint64_t>(i))) + "\n";
    return write_file_atomic(options.dump_windows, text);
}

Result<TrainReport> run_whole(TrainingSetup& setup, const TrainOptions& options, const TrainObserver& observer) {
    SKIFF_TRY(const auto resumed, load_state(setup.working_folder, setup.state, setup.fingerprint));
    if (resumed && *resumed > options.n_steps) return usage_error("the unfinished run is at step " + std::to_string(*resumed) + " already; give more --steps, or --restart");
    if (resumed && setup.masks) setup.masks->take_from_zeros();
    if (resumed) setup.model->parameters().refresh();
    if (resumed && observer.on_remark) observer.on_remark("going on after step " + std::to_string(*resumed));
    Loop loop(setup, options, observer);
    SKIFF_CHECK(loop.run(resumed.value_or(0)));
    loop.report.resumed_at = resumed.value_or(0);
    return loop.report;
}

Result<TrainReport> train_guarded(const Checkpoint& parent, const TrainOptions& options, const TrainObserver& observer) {
    at::set_num_threads(options.n_threads);
    SKIFF_TRY(auto setup, prepare_training(parent, options, observer));
    if (!options.dump_windows.empty()) SKIFF_CHECK(dump_windows(*setup, options));
    TrainReport report;
    if (setup->blockwise) {
        SKIFF_CHECK(run_blockwise(*setup, options, observer, report));
    } else {
        SKIFF_TRY(report, run_whole(*setup, options, observer));
    }
    report.n_steps = options.n_steps;
    report.n_tokens = static_cast<std::uint64_t>(options.n_steps * options.batch * setup->window);
    report.corpus_tokens = setup->data->n_tokens();
    report.n_parameters = parent.spec.n_parameters();
    if (setup->blockwise) report.n_trained = setup->blockwise->n_trained;
    for (const auto& parameter : setup->trained) report.n_trained += parameter.value.numel();
    if (options.rank == 0) SKIFF_CHECK(write_trained(*setup, parent, options, report));
    report.peak_memory_bytes = peak_resident_bytes();
    return report;
}

}  // namespace

Result<TrainReport> run_training(const Checkpoint& parent, const TrainOptions& options, const TrainObserver& observer) {
    try {
        return train_guarded(parent, options, observer);
    } catch (const std::bad_alloc&) {
        throw;
    } catch (const std::exception& error) {  // LibTorch's
        std::string message = error.what();
        message = message.substr(0, message.find('\n'));
        if (message.find("allocate memory") != std::string::npos || message.find("out of memory") != std::string::npos)
            return resource_error("not enough memory: " + message + (options.distill.block_wise == DistillOptions::BlockWise::on ? "; a smaller --stream-mb or --micro-batch, or a shorter --context, needs less"
                                                                                                                                 : "; a smaller --micro-batch, --recompute or a shorter --context needs less"));
        if (message.find("gloo") != std::string::npos || message.find("NCCL") != std::string::npos)
            return runtime_error("another rank is gone (" + message + "); the same command goes on from the last saved state");
        return runtime_error("LibTorch: " + message);
    }
}

}  // namespace skiff::train
