// Learning from a teacher: its distributions (computed beside, or read from a file), its hidden states, its relations among tokens. Block by block: train/blockwise_training.h.
#include <algorithm>
#include <cmath>

#include <torch/csrc/autograd/autograd.h>

#include "base/hash.h"
#include "base/rng.h"
#include "corpus/token_file.h"
#include "train/distillation_loss.h"
#include "train/objective.h"
#include "train/student_text.h"
#include "train/teacher_cache.h"

namespace skiff::train {
namespace {

const char* divergence_name(Divergence divergence) {
    return divergence == Divergence::reverse_kl ? "reverse-kl" : divergence == Divergence::jsd ? "jsd" : "forward-kl";
}

class Distillation final : public Objective {
public:
    Distillation(TrainableModel& student, const DistillOptions& options) : student_(student), options_(options) {}

    Status prepare(const Batches& batches, const TrainOptions& whole, std::int64_t window, const TrainObserver& observer) {
        SKIFF_TRY(const auto checkpoint, Checkpoint::open(options_.teacher));
        SKIFF_CHECK(check_vocabulary(checkpoint, student_.spec(), whole));
        SKIFF_TRY(teacher_hash_, checkpoint.content_hash());
        n_teacher_blocks_ = checkpoint.spec.n_layers;
        if (!options_.cache.empty()) {
            const TeacherCacheKey key{teacher_hash_,  hash_of_tokens(batches),  batches.n_tokens(), whole.seed, window, checkpoint.spec.n_vocab,
                                      std::min(options_.cache_top, checkpoint.spec.n_vocab - 1), options_.temperature};
            SKIFF_TRY(auto cache, TeacherCache::open(options_.cache, key));
            cache_.emplace(std::move(cache));
            top_ = key.k;
            if (observer.on_remark) observer.on_remark("the teacher's word on " + std::to_string(cache_->n_windows()) + " windows is in " + options_.cache);
        }
        if (!cache_ || cache_->n_windows() < static_cast<std::uint64_t>(whole.n_steps * whole.batch)) {
            SKIFF_CHECK(load_teacher(checkpoint));  // with every window in the file it is not needed at all
        }
        streams_ = matched_streams(student_.spec().n_layers, n_teacher_blocks_);
        if (options_.on_policy > 0) {
            n_prompt_ = options_.on_policy_prompt > 0 ? options_.on_policy_prompt : std::max<std::int64_t>(1, window / 4);
            if (n_prompt_ >= window) return usage_error("--on-policy-prompt " + std::to_string(n_prompt_) + ": the window has " + std::to_string(window) + " tokens, of which some must be left for the student");
            text_.emplace(student_, StudentText::Settings{n_prompt_, whole.seed, whole.n_threads});
        }
        if (options_.hidden_weight > 0) make_projections(checkpoint.spec.d_model, whole.seed);
        watch_.streams = options_.hidden_weight > 0;
        teacher_watch_.streams = watch_.streams;
        if (options_.attention_weight > 0) {
            watch_.attention_block = student_.spec().n_layers - 1;
            teacher_watch_.attention_block = n_teacher_blocks_ - 1;
            SKIFF_CHECK(student_.check_watch(watch_));
            auto status = teacher_->check_watch(teacher_watch_);
            if (!status.ok()) return status.take_error().with_context("teacher");
        }
        return {};
    }

    Result<double> add_gradients(const MicroBatch& batch) override {
        if (!is_on_policy(batch)) return learn(batch, options_.alpha);
        SKIFF_TRY(const auto written, written_by_student(batch));
        return learn(written, 1);
    }

    std::vector<ParameterSet::Trained> trained() const override {
        std::vector<ParameterSet::Trained> result;
        for (std::size_t i = 0; i < projections_.size(); ++i) result.push_back({"distillation.projection." + std::to_string(i), TensorDecl::Role::linear, projections_[i], {}, false});
        return result;
    }

    Json describe() const override {
        Json json = Json::object({{"teacher", teacher_hash_}});
        json.set("loss", divergence_name(options_.divergence));
        if (options_.divergence == Divergence::jsd) json.set("beta", options_.beta);
        json.set("temperature", options_.temperature);
        json.set("alpha", options_.alpha);
        if (options_.hidden_weight > 0) json.set("hidden_weight", options_.hidden_weight);
        if (options_.attention_weight > 0) json.set("attention_weight", options_.attention_weight);
        if (cache_) json.set("top", top_);
        if (text_) {
            json.set("on_policy", options_.on_policy);
            json.set("on_policy_prompt", n_prompt_);
        }
        return json;
    }

private:
    Status load_teacher(const Checkpoint& checkpoint) {
        SKIFF_TRY(auto parameters, ParameterSet::load(checkpoint.spec, *checkpoint.weights, student_.options().device));
        parameters.train_zeros();  // it is not trained: no mask is needed
        for (Parameter& parameter : parameters.all()) parameter.value.set_requires_grad(false);
        TrainableOptions options = student_.options();
        options.recompute_blocks = false;
        auto model = TrainableModel::create(checkpoint.spec, std::move(parameters), options);
        if (!model.ok()) return model.take_error().with_context("teacher " + options_.teacher);
        teacher_ = std::move(*model);
        return {};
    }

    void make_projections(std::int64_t teacher_width, std::uint64_t seed) {
        const std::int64_t width = student_.spec().d_model;
        if (width == teacher_width) return;
        for (std::size_t i = 0; i < streams_.size(); ++i) {
            Rng rng(hash64(std::as_bytes(std::span("projection")), seed + i));
            at::Tensor matrix = at::empty({teacher_width, width}, at::kFloat);
            for (std::int64_t j = 0; j < matrix.numel(); ++j) matrix.data_ptr<float>()[j] = static_cast<float>(rng.normal() / std::sqrt(static_cast<double>(width)));
            projections_.push_back(matrix.to(student_.options().device).set_requires_grad(true));
        }
    }

    // Spread evenly over the micro-batches.
    bool is_on_policy(const MicroBatch& batch) const {
        if (!text_) return false;
        const auto number = static_cast<double>(batch.first_window / static_cast<std::uint64_t>(batch.inputs.size(0)));
        return std::floor((number + 1) * options_.on_policy + 1e-9) > std::floor(number * options_.on_policy + 1e-9);
    }

    // The windows as the student goes on with them. What stands before its own tokens counts nothing, and these have the weight of the whole.
    Result<MicroBatch> written_by_student(const MicroBatch& batch) {
        const std::int64_t window = batch.inputs.size(1), n_silent = n_prompt_ - 1;
        SKIFF_TRY(const auto tokens, text_->continued(at::cat({batch.inputs, batch.targets.narrow(1, window - 1, 1)}, 1), batch.first_window, batch.step));
        MicroBatch written = batch;
        written.inputs = tokens.narrow(1, 0, window);
        written.targets = tokens.narrow(1, 1, window).clone();
        written.targets.narrow(1, 0, n_silent).fill_(-1);
        written.scale = batch.scale * static_cast<double>(window) / static_cast<double>(window - n_silent);
        return written;
    }

    // With this share of the divergence.
    Result<double> learn(const MicroBatch& batch, double alpha) {
        const at::Tensor targets = batch.targets.reshape({-1});
        Pass taught;
        SoftTargets kept;
        if (cache_) {
            SKIFF_TRY(kept, from_cache(batch));
        } else {
            const at::NoGradGuard no_grad;
            taught = teacher_->observe(batch.inputs, teacher_watch_);
        }
        const DistillLossSettings settings{options_.divergence, options_.temperature, alpha, options_.beta};
        const LogitsLoss loss = [&](const at::Tensor& logits, std::int64_t first) {
            const std::int64_t n = logits.size(0);
            return distillation_loss(logits, cache_ ? kept.rows(first, n) : teacher_rows(taught, first, n), targets.narrow(0, first, n), settings, batch.scale, student_.options().form);
        };
        const double share = batch.scale * static_cast<double>((targets >= 0).sum().item<std::int64_t>());
        const bool looks_inside = options_.hidden_weight > 0 || options_.attention_weight > 0;
        const InsideLoss inside = [&](const Pass& own) {
            if (batch.look) batch.look(own);
            return looks_inside ? inside_loss(own, taught, batch.inputs.size(1)) * share : at::Tensor();
        };
        return student_.add_gradients(batch.inputs, loss, batch.network, watch_, inside);
    }

    SoftTargets teacher_rows(const Pass& taught, std::int64_t first, std::int64_t n) const {
        const at::NoGradGuard no_grad;
        return {teacher_->head(taught.hidden.narrow(0, first, n)).to(at::kFloat), {}, {}};
    }

    Result<SoftTargets> from_cache(const MicroBatch& batch) {
        const std::int64_t n = batch.inputs.size(0), window = batch.inputs.size(1);
        if (const std::uint64_t end = batch.first_window + static_cast<std::uint64_t>(n); end > cache_->n_windows()) {
            if (cache_->n_windows() < batch.first_window) return runtime_error(options_.cache + ": holds fewer windows than an earlier part of this run needed; give another --teacher-cache");
            // An earlier run with batches of another size may have ended within this one.
            const auto n_known = static_cast<std::int64_t>(cache_->n_windows() - batch.first_window), n_missing = n - n_known;
            const at::NoGradGuard no_grad;
            const Pass taught = teacher_->observe(batch.inputs.narrow(0, n_known, n_missing), {});
            std::vector<at::Tensor> values, tokens;
            for (std::int64_t first = 0; first < n_missing * window; first += teacher_->head_chunk()) {
                const std::int64_t rows = std::min(teacher_->head_chunk(), n_missing * window - first);
                const SoftTargets top = top_targets(teacher_rows(taught, first, rows).logits, options_.temperature, top_);
                values.push_back(top.log_probabilities);
                tokens.push_back(top.tokens);
            }
            SKIFF_CHECK(cache_->append({{}, at::cat(values, 0), at::cat(tokens, 0)}));
        }
        // Also what was computed a moment ago is read back: a run that finds all in the file computes the same.
        SKIFF_TRY(auto targets, cache_->read(batch.first_window, n));
        if (targets.tokens.max().item<std::int64_t>() >= student_.spec().n_vocab || targets.tokens.min().item<std::int64_t>() < 0) return corrupt(options_.cache + ": holds tokens beyond the vocabulary");
        const at::Device device = student_.options().device;
        return SoftTargets{{}, targets.log_probabilities.to(device), targets.tokens.to(device)};
    }

    at::Tensor inside_loss(const Pass& own, const Pass& taught, std::int64_t n_tokens) const {
        at::Tensor loss = at::zeros({}, own.hidden.options().dtype(at::kFloat));
        if (options_.hidden_weight > 0) {
            at::Tensor sum = at::zeros_like(loss);
            for (std::size_t i = 0; i < streams_.size(); ++i) {
                at::Tensor stream = own.streams[i + 1];
                if (!projections_.empty()) stream = merged_linear(stream.to(student_.options().numbers), {projections_[i]}, {at::Tensor()}, student_.options().form);
                sum = sum + relative_square(stream, taught.streams[static_cast<std::size_t>(streams_[i])]);
            }
            loss = loss + sum * (options_.hidden_weight / static_cast<double>(streams_.size()));
        }
        if (options_.attention_weight > 0 && own.qkv[0].defined()) {  // not where the pass has left that block out
            at::Tensor sum = at::zeros_like(loss);
            for (std::size_t i = 0; i < 3; ++i) sum = sum + relation_loss(own.qkv[i], taught.qkv[i], n_tokens, common_relations(own.qkv[i].size(1), taught.qkv[i].size(1)));
            loss = loss + sum * (options_.attention_weight / 3);
        }
        return loss;
    }
    // As many as MiniLMv2 would take for small models, if both widths can be cut so.
    static std::int64_t common_relations(std::int64_t a, std::int64_t b) {
        for (std::int64_t n = 8; n > 1; --n)
            if (a % n == 0 && b % n == 0) return n;
        return 1;
    }

    TrainableModel& student_;
    const DistillOptions& options_;
    std::unique_ptr<TrainableModel> teacher_;
    std::string teacher_hash_;
    std::int64_t n_teacher_blocks_ = 0, top_ = 0;
    std::optional<TeacherCache> cache_;
    std::optional<StudentText> text_;
    std::int64_t n_prompt_ = 0;
    std::vector<std::int64_t> streams_;
    std::vector<at::Tensor> projections_;  // (teacher's width, student's) f32 for each student block; none where the widths are one
    Watch watch_, teacher_watch_;
};

}  // namespace

Status check_vocabulary(const Checkpoint& teacher, const ModelSpec& student, const TrainOptions& options) {
    const std::int64_t own = student.n_vocab, theirs = teacher.spec.n_vocab;
    if (own != theirs)
        return usage_error("teacher and student need one vocabulary: " + options.distill.teacher + " has " + std::to_string(theirs) + " tokens, the student " + std::to_string(own));
    if (options.data.tokenizer.empty()) return {};
    const auto of_teacher = teacher.load_tokenizer(), given = load_tokenizer(options.data.tokenizer);
    if (of_teacher.ok() && given.ok() && tokenizer_hash(*of_teacher) != tokenizer_hash(*given))
        return usage_error("the tokenizer of " + options.distill.teacher + " is another than " + options.data.tokenizer + "'s: the teacher would be asked about other tokens");
    return {};
}

std::vector<std::int64_t> matched_streams(std::int64_t n_student_blocks, std::int64_t n_teacher_blocks) {
    std::vector<std::int64_t> streams;
    for (std::int64_t i = 1; i <= n_student_blocks; ++i) streams.push_back((2 * i * n_teacher_blocks + n_student_blocks) / (2 * n_student_blocks));
    return streams;
}

Result<std::unique_ptr<Objective>> distillation_objective(TrainableModel& model, const Batches& batches, const TrainOptions& options, std::int64_t window, const TrainObserver& observer) {
    auto objective = std::make_unique<Distillation>(model, options.distill);
    SKIFF_CHECK(objective->prepare(batches, options, window, observer));
    return std::unique_ptr<Objective>(std::move(objective));
}

}  // namespace skiff::train
