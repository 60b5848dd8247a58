#include "train/training_setup.h"

#include <malloc.h>

#include <algorithm>
#include <cstdio>

#include <fmt/format.h>
#include <torch/cuda.h>

#include "base/cpu_features.h"
#include "base/hash.h"
#include "base/mapped_file.h"
#include "compress/parent_files.h"
#include "compress/quantize/coded_inputs.h"
#include "train/block_log.h"
#include "train/blockwise_training.h"

namespace skiff::train {
namespace {

// Of the student one block at a time is there.
Status check_blockwise(const TrainOptions& options) {
    auto need = [](bool holds, const char* message) { return holds ? Status() : Status(usage_error(message)); };
    const DistillOptions& distill = options.distill;
    if (distill.block_wise == DistillOptions::BlockWise::off) return need(distill.stream_mb == DistillOptions().stream_mb, "--stream-mb bounds what passes between blocks of --block-wise");
    SKIFF_CHECK(need(!distill.teacher.empty(), "--block-wise needs a teacher, for whose blocks the student's stand"));
    SKIFF_CHECK(need(distill.stream_mb >= 0 && distill.stream_mb <= (std::int64_t{1} << 30), "--stream-mb must be 0 (a file instead) to 2^30"));
    const DistillOptions usual;
    SKIFF_CHECK(need(distill.divergence == usual.divergence && distill.temperature == usual.temperature && distill.beta == usual.beta && distill.cache_top == usual.cache_top,
                     "--block-wise compares hidden states, not distributions; leave --kd-loss, --kd-temp, --kd-beta and --teacher-top out"));
    SKIFF_CHECK(need(distill.alpha == usual.alpha || distill.alpha == 1, "--block-wise learns from the teacher alone; leave --kd-alpha out"));
    SKIFF_CHECK(need(options.sample_every == 0, "--block-wise holds one block of the student at a time, and --sample-every writes text with all of them; leave it out, and use skiff run on the result"));
    SKIFF_CHECK(need(options.recompute == TrainOptions::Recompute::off, "--recompute computes blocks again in the backward pass through all of them; --block-wise has one at a time, leave --recompute out"));
    SKIFF_CHECK(need(options.quant.inputs.kind != InputScaleRule::Kind::fixed, "--activations static-...: fixed scales begin with what passes through all blocks, and --block-wise holds one at a time; take int8 or dynamic-token"));
    return need(!options.sparsify.any() || options.sparsify.scope != SparsifyOptions::Scope::global,
                "--prune-scope global looks for the smallest weights of all blocks together, and --block-wise holds one at a time; take row or tensor");
}

Status check_distillation(const TrainOptions& options) {
    const DistillOptions& distill = options.distill;
    auto need = [](bool holds, const char* message) { return holds ? Status() : Status(usage_error(message)); };
    SKIFF_CHECK(need(distill.on_policy >= 0 && distill.on_policy <= 1 && distill.on_policy_prompt >= 0, "--on-policy must be 0 to 1, --on-policy-prompt at least 0"));
    SKIFF_CHECK(need(distill.on_policy > 0 || distill.on_policy_prompt == DistillOptions().on_policy_prompt, "--on-policy-prompt needs --on-policy"));
    SKIFF_CHECK(need(distill.on_policy == 0 || !distill.teacher.empty(), "--on-policy needs a teacher: the student's own text is no text to learn from"));
    SKIFF_CHECK(check_blockwise(options));
    if (distill.teacher.empty()) return {};
    SKIFF_CHECK(need(distill.temperature >= 0.1 && distill.temperature <= 1000, "--kd-temp must be 0.1 to 1000"));
    SKIFF_CHECK(need(distill.alpha >= 0 && distill.alpha <= 1, "--kd-alpha must be 0 to 1"));
    SKIFF_CHECK(need(distill.beta > 0 && distill.beta < 1, "--kd-beta must be more than 0 and less than 1"));
    SKIFF_CHECK(need(distill.cache_top >= 1 && distill.cache_top <= 65536, "--teacher-top must be 1 to 65536"));
    SKIFF_CHECK(need(distill.hidden_weight >= 0 && distill.attention_weight >= 0, "--hidden-weight and --attention-weight cannot be negative"));
    const bool looks_inside = distill.hidden_weight > 0 || distill.attention_weight > 0, local = distill.block_wise == DistillOptions::BlockWise::on;
    SKIFF_CHECK(need(distill.cache.empty() || (!looks_inside && !local), "--teacher-cache holds a teacher's distributions; losses on the inside (--hidden-weight, --attention-weight, --block-wise) need the teacher itself"));
    SKIFF_CHECK(need(distill.cache.empty() || options.n_ranks == 1, "--teacher-cache is for one rank"));
    SKIFF_CHECK(need(distill.on_policy == 0 || distill.cache.empty(), "--on-policy asks the teacher about tokens that the student has only now written; leave --teacher-cache out"));
    SKIFF_CHECK(need(distill.on_policy == 0 || (!local && options.elastic.rule == ElasticOptions::Rule::off), "--on-policy trains the whole model on what it writes; leave --block-wise and --elastic out"));
    SKIFF_CHECK(need(!local || !looks_inside, "--block-wise is a loss of its own; leave --hidden-weight and --attention-weight out"));
    SKIFF_CHECK(need(!local || options.lora_rank == 0, "--block-wise trains the blocks themselves; leave --lora out"));
    return {};
}

Status check_quantization(const TrainOptions& options) {
    if (!options.quant.schemes) return {};
    auto need = [](bool holds, const char* message) { return holds ? Status() : Status(usage_error(message)); };
    SKIFF_CHECK(check_trainable_scheme(options.quant.schemes->linear));
    for (const auto& scheme : {options.quant.schemes->embedding, options.quant.schemes->head})
        if (scheme) SKIFF_CHECK(check_trainable_scheme(*scheme));
    SKIFF_CHECK(need(options.lora_rank == 0, "adapters cannot be merged into rounded weights; leave --lora out"));
    SKIFF_CHECK(need(options.dtype == "auto", "--dtype is for plain weights; codes are stored as the scheme says"));
    SKIFF_CHECK(need(options.quant.inputs.percentile > 0 && options.quant.inputs.percentile <= 100, "--percentile must be more than 0 and at most 100"));
    if (options.sparsify.any()) {
        SKIFF_CHECK(need(options.quant.inputs.kind == InputScaleRule::Kind::dynamic, "--sparsity leaves zeros out, and --activations dynamic-token and static-... are for dense codes; leave one of them out"));
        SKIFF_CHECK(need(options.quant.train == QuantTrainOptions::Train::all, "--sparsity takes weights away, and with --train scales their codes stay; leave one of them out"));
        SKIFF_CHECK(check_zero_level(options.quant.schemes->linear));
    }
    return need(options.quant.train == QuantTrainOptions::Train::all || options.distill.block_wise == DistillOptions::BlockWise::off, "--train scales trains the scales of all blocks together; leave --block-wise out");
}

Status check_sparsity(const TrainOptions& options) {
    const SparsifyOptions& sparsify = options.sparsify;
    auto need = [](bool holds, const char* message) { return holds ? Status() : Status(usage_error(message)); };
    SKIFF_CHECK(need(sparsify.any() || sparsify.mask_from.empty(), "--mask-from chooses which weights are zero; --sparsity says how many"));
    if (!sparsify.any()) return {};
    SKIFF_CHECK(need(sparsify.target >= 0 && sparsify.target < 1, "--sparsity must be 0 to less than 1, or N:M"));
    SKIFF_CHECK(need(sparsify.every >= 1 && sparsify.n_stages >= 1 && sparsify.until >= 0, "--prune-every and --prune-stages must be at least 1, --prune-until at least 0"));
    SKIFF_CHECK(need(sparsify.until < options.n_steps, "--prune-until must be less than --steps, so that what is left can recover"));
    return need(options.lora_rank == 0, "--sparsity prunes weights that are trained; leave --lora out");
}

Status check(const TrainOptions& options) {
    auto need = [](bool holds, const char* message) { return holds ? Status() : Status(usage_error(message)); };
    SKIFF_CHECK(need(!options.data.texts.empty(), "give the text to train on with --data"));
    SKIFF_CHECK(need(!options.output.empty(), "give the folder to write with -o"));
    SKIFF_CHECK(need(options.n_steps >= 1 && options.n_steps <= 100'000'000, "--steps must be 1 to 100 million"));
    SKIFF_CHECK(need(options.batch >= 1 && options.batch <= 1'000'000, "--batch must be 1 to 1 million windows"));
    SKIFF_CHECK(need(options.micro_batch >= 0 && options.context >= 0, "--micro-batch and --context cannot be negative"));
    SKIFF_CHECK(need(options.batch % options.n_ranks == 0, "--batch must be a multiple of the number of ranks"));
    SKIFF_CHECK(need(options.schedule.peak > 0 && options.schedule.peak <= 1, "--lr must be more than 0 and at most 1"));
    SKIFF_CHECK(need(options.schedule.warmup_steps >= 0 && options.schedule.decay_steps >= 0, "--warmup and --decay cannot be negative"));
    SKIFF_CHECK(need(options.schedule.warmup_steps <= options.n_steps && options.schedule.decay_steps <= options.n_steps, "--warmup and --decay must not be longer than --steps"));
    SKIFF_CHECK(need(options.layer_drop >= 0 && options.layer_drop < 1, "--layer-drop must be at least 0 and less than 1"));
    SKIFF_CHECK(need(options.beta1 >= 0 && options.beta1 < 1 && options.beta2 >= 0 && options.beta2 < 1, "--beta1 and --beta2 must be at least 0 and less than 1"));
    SKIFF_CHECK(need(options.eps > 0 && options.weight_decay >= 0 && options.clip >= 0, "--eps must be more than 0, --weight-decay and --clip at least 0"));
    SKIFF_CHECK(need(options.lora_rank >= 0, "--lora cannot be negative"));
    SKIFF_CHECK(need(options.lora_rank > 0 || (options.lora_names.empty() && options.lora_output == TrainOptions::LoraOutput::merged), "--lora-target and --lora-output adapter need --lora RANK"));
    SKIFF_CHECK(need(options.evaluate_every >= 0 && options.save_every >= 0 && options.sample_every >= 0, "--eval-every, --save-every and --sample-every cannot be negative"));
    SKIFF_CHECK(check_distillation(options));
    SKIFF_CHECK(check_quantization(options));
    SKIFF_CHECK(check_sparsity(options));
    SKIFF_CHECK(check_elastic(options));
    SKIFF_CHECK(stored_dtype(options));  // a wrong --dtype is better known before hours of work
    return need(options.evaluate_windows >= 1, "--eval-windows must be at least 1");
}

bool only_packed(const DataOptions& data) {
    auto packed = [](const std::string& name) { return name.empty() || name.ends_with(".tokens"); };
    return packed(data.validation) && std::all_of(data.texts.begin(), data.texts.end(), packed);
}

Result<at::Device> choose_device(TrainOptions::Device wish, int rank) {
    const bool has_cuda = at::hasCUDA();
    if (wish == TrainOptions::Device::cuda && !has_cuda) return unsupported("--device cuda: this LibTorch sees no GPU; put one built for CUDA on CMAKE_PREFIX_PATH and build again");
    if (wish == TrainOptions::Device::cpu || !has_cuda) return at::Device(at::kCPU);
    return at::Device(at::kCUDA, static_cast<at::DeviceIndex>(rank % std::max<int>(1, static_cast<int>(torch::cuda::device_count()))));
}

// bf16 where the products are faster for it: tensor cores, or the processor's own bf16 instructions.
at::ScalarType choose_numbers(TrainOptions::Numbers wish, at::Device device) {
    if (wish == TrainOptions::Numbers::f32) return at::kFloat;
    if (wish == TrainOptions::Numbers::bf16 || device.is_cuda()) return at::kBFloat16;
    const std::string features = read_cpu_info().feature_list;
    return features.find("avx512_bf16") != std::string::npos || features.find("amx_bf16") != std::string::npos ? at::kBFloat16 : at::kFloat;
}

// glibc gives large blocks back to the system at once and takes them anew, page by page, for every tensor. Kept, a step is a few percent faster.
void keep_freed_memory() {
#ifdef M_MMAP_THRESHOLD
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    mallopt(M_TOP_PAD, 64 << 20);
#endif
}

// What decides the result of a run: an unfinished one is gone on with only if all of it is the same.
Result<std::string> fingerprint_of(const Checkpoint& parent, const TrainOptions& options, const TrainingSetup& setup) {
    std::string weights = "fresh";
    if (parent.kind != Checkpoint::Kind::random) {
        SKIFF_TRY(weights, parent.content_hash());
    }
    const Schedule& schedule = options.schedule;
    // The constant part of warm-up, stable, decay can be made longer or ended whenever one likes.
    // But for blocks that are trained one after the other: some may be ready.
    const bool open_end = (schedule.kind == Schedule::Kind::wsd || schedule.kind == Schedule::Kind::constant) && !setup.blockwise;
    // Texts are packed once; that another file stands under the name now shows in its size.
    Json sizes = Json::array();
    for (const std::string& text : options.data.texts) {
        SKIFF_TRY(const auto size, file_size_bytes(text));
        sizes.push_back(size);
    }
    std::string lora = std::to_string(options.lora_rank) + "/" + std::to_string(options.lora_alpha);
    for (const std::string& name : options.lora_names) lora += "/" + name;
    Json json = Json::object({{"config", parent.config},
                                    {"weights", weights},
                                    {"text_bytes", sizes},
                                    {"tokens", static_cast<std::uint64_t>(setup.data->n_tokens())},
                                    {"first_tokens", hash_of_tokens(*setup.data)},
                                    {"steps", open_end ? 0 : options.n_steps},
                                    {"batch", options.batch},
                                    {"micro_batch", setup.micro_batch},
                                    {"window", setup.window},
                                    {"seed", options.seed},
                                    {"schedule", Json::array({static_cast<std::int64_t>(schedule.kind), schedule.peak, schedule.floor, schedule.warmup_steps})},
                                    {"optimizer", Json::array({static_cast<std::int64_t>(options.optimizer), options.beta1, options.beta2, options.eps, options.weight_decay, options.clip})},
                                    {"bf16", setup.trainable.numbers == at::kBFloat16},
                                    {"zeros", static_cast<std::int64_t>(options.zeros)},
                                    {"layer_drop", options.layer_drop},
                                    {"lora", lora},
                                    {"ranks", static_cast<std::int64_t>(options.n_ranks)}});
    if (setup.blockwise && schedule.kind == Schedule::Kind::wsd) json.set("decay", schedule.decay_steps);
    if (!setup.distillation.is_null()) json.set("distillation", setup.distillation);
    if (options.quant.schemes) json.set("quantization", quantization_json(options.quant));
    if (setup.elastic) json.set("elastic", setup.elastic->describe());
    if (options.sparsify.any()) json.set("sparsity", sparsity_json(options.sparsify, setup.masks_hash));
    return hex64(hash64(std::as_bytes(std::span(std::string_view(json.dump())))));
}

// Makes a TrainingSetup step by step, in the order in which mistakes are cheapest to notice.
class Preparation {
    static constexpr std::int64_t n_watched_tokens = 8192;  // that fixed scales of inputs begin with

public:
    Preparation(TrainingSetup& setup, const Checkpoint& parent, const TrainOptions& options, const TrainObserver& observer)
        : setup_(setup), parent_(parent), options_(options), observer_(observer) {}

    Status run() {
        SKIFF_TRY(setup_.device, choose_device(options_.device, options_.rank));
        SKIFF_CHECK(choose_sizes());
        SKIFF_CHECK(open_tokenizer());
        SKIFF_TRY(setup_.ranks, Ranks::meet(options_.rank, options_.n_ranks, options_.meeting, setup_.device));
        SKIFF_CHECK(open_output());
        // The first rank packs; the others wait for what it wrote.
        if (is_writer()) SKIFF_CHECK(open_texts());
        wait_for_writer();
        if (!is_writer()) SKIFF_CHECK(open_texts());
        SKIFF_CHECK(make_model());
        SKIFF_TRY(setup_.fingerprint, fingerprint_of(parent_, options_, setup_));
        if (setup_.blockwise) setup_.blockwise->student->set_place(setup_.working_folder, setup_.fingerprint);
        SKIFF_CHECK(check_states());
        const std::string where = setup_.device.is_cuda() ? "the GPU" : std::to_string(options_.n_threads) + (options_.n_threads == 1 ? " thread" : " threads");
        remark((setup_.trainable.numbers == at::kBFloat16 ? "bf16 on " : "f32 on ") + where +
               (setup_.ranks ? ", " + std::to_string(options_.n_ranks) + " ranks over " + setup_.ranks->name() : ""));
        return {};
    }

private:
    bool is_writer() const { return options_.rank == 0; }
    void remark(const std::string& text) const {
        if (observer_.on_remark && is_writer()) observer_.on_remark(text);
    }

    Status choose_sizes() {
        setup_.window = options_.context > 0 ? options_.context : std::clamp<std::int64_t>(parent_.spec.max_positions, 1, 1024);
        if (parent_.spec.max_positions > 0 && setup_.window > parent_.spec.max_positions)
            return usage_error("--context " + std::to_string(setup_.window) + " is more than the model's " + std::to_string(parent_.spec.max_positions) + " positions");
        const std::int64_t fitting = options_.micro_batch > 0 ? options_.micro_batch : std::max<std::int64_t>(1, 4096 / setup_.window);
        setup_.micro_batch = std::min(fitting, options_.batch / options_.n_ranks);
        return {};
    }

    Status open_tokenizer() {
        const bool given = !options_.data.tokenizer.empty();
        setup_.tokenizer_folder = given ? options_.data.tokenizer : parent_.kind == Checkpoint::Kind::folder ? parent_.path : "";
        if (given) {
            SKIFF_TRY(setup_.tokenizer, load_tokenizer(options_.data.tokenizer));
        } else if (parent_.kind != Checkpoint::Kind::random) {
            // A model without one can be trained on packed tokens.
            auto own = parent_.load_tokenizer();
            if (own.ok()) setup_.tokenizer = std::move(*own);
            else if (own.error().code != ErrorCode::not_found || !only_packed(options_.data)) return own.take_error();
        }
        if (setup_.tokenizer && setup_.tokenizer->n_vocab() > parent_.spec.n_vocab)
            return usage_error("the tokenizer has " + std::to_string(setup_.tokenizer->n_vocab()) + " tokens, the model " + std::to_string(parent_.spec.n_vocab));
        if (options_.sample_every > 0 && (!setup_.tokenizer || setup_.tokenizer_folder.empty()))
            return usage_error("--sample-every needs a tokenizer folder: give --tokenizer");
        if (parent_.kind == Checkpoint::Kind::gguf && !given)
            remark("note: the tokenizer of a GGUF file is not written as tokenizer.json; --tokenizer FOLDER puts one beside the result");
        return {};
    }

    Status open_output() {
        setup_.working_folder = options_.output + ".partial";
        if (!is_writer()) return {};
        const auto if_exists = options_.if_exists == TrainOptions::IfExists::replace ? AtomicDirectory::IfExists::replace : AtomicDirectory::IfExists::refuse;
        SKIFF_TRY(auto directory, AtomicDirectory::create(options_.output, if_exists));
        if (options_.unfinished == TrainOptions::Unfinished::restart && directory.resumed()) {
            SKIFF_CHECK(directory.discard());
            SKIFF_TRY(directory, AtomicDirectory::create(options_.output, if_exists));
        }
        setup_.working_folder = directory.working_path();
        SKIFF_CHECK(remove_temporaries(setup_.working_folder));
        // Only a state says what the packed texts beside it are; the validation text may change from call to call.
        if (state_files(setup_.working_folder).empty())
            for (const char* name : {packed_name, BlockLog::file_name}) std::remove(join_path(setup_.working_folder, name).c_str());
        std::remove(join_path(setup_.working_folder, packed_validation_name).c_str());
        setup_.directory.emplace(std::move(directory));
        return {};
    }

    void wait_for_writer() {
        if (!setup_.ranks) return;
        std::vector<at::Tensor> nothing = {at::zeros({1})};
        setup_.ranks->sum(nothing);
    }

    Status open_texts() {
        const Tokenizer* tokenizer = setup_.tokenizer ? &*setup_.tokenizer : nullptr;
        Batches::Settings settings{options_.data.texts, join_path(setup_.working_folder, packed_name), setup_.window, parent_.spec.n_vocab, options_.seed};
        SKIFF_TRY(auto data, Batches::open(settings, tokenizer, options_.data, observer_, options_.n_threads));
        setup_.data.emplace(std::move(data));
        if (options_.data.validation.empty()) return {};
        settings.files = {options_.data.validation};
        settings.packed_path = join_path(setup_.working_folder, packed_validation_name);
        SKIFF_TRY(auto validation, Batches::open(settings, tokenizer, options_.data, observer_, options_.n_threads));
        setup_.validation.emplace(std::move(validation));
        return {};
    }

    Status make_model() {
        setup_.trainable.device = setup_.device;
        setup_.trainable.numbers = choose_numbers(options_.numbers, setup_.device);
        setup_.trainable.form = options_.operators == TrainOptions::Operators::fused ? Form::automatic : Form::composed;
        setup_.trainable.recompute_blocks = options_.recompute == TrainOptions::Recompute::blocks;
        SKIFF_CHECK(plan_quantization());
        SKIFF_CHECK(open_mask_model());
        setup_.maker.emplace(parent_, options_, StudentMaker::Settings{setup_.trainable, setup_.quant_plan ? &*setup_.quant_plan : nullptr, setup_.mask_from ? &*setup_.mask_from : nullptr});
        if (options_.distill.block_wise == DistillOptions::BlockWise::on && !options_.distill.teacher.empty()) return make_blockwise();
        SKIFF_TRY(Student student, setup_.maker->make(parent_.spec));
        remark_on(student.n_hashed, student.n_pruned, student.n_rounded);
        if (student.n_adapters > 0) remark("LoRA: " + std::to_string(student.n_adapters) + " weights get adapters of rank " + std::to_string(options_.lora_rank));
        setup_.model = std::move(student.model);
        if (student.masks) setup_.masks.emplace(std::move(*student.masks));
        SKIFF_CHECK(begin_input_scales());
        if (setup_.mask_from) remark(fmt::format("{:.1f} % of the blocks' weights are zero, by the magnitudes of {}", 100 * setup_.masks->sparsity(), options_.sparsify.mask_from));
        SKIFF_CHECK(make_objective());
        setup_.trained = setup_.model->parameters().trained(parent_.spec);
        for (ParameterSet::Trained& more : setup_.objective->trained()) setup_.trained.push_back(std::move(more));
        setup_.optimizer = std::make_unique<Optimizer>(setup_.trained, optimizer_settings(options_, setup_.trainable));
        setup_.state = state_tensors(setup_.trained, *setup_.optimizer);
        return {};
    }

    Status make_blockwise() {
        SKIFF_TRY(setup_.blockwise, prepare_blockwise(setup_, parent_, options_));
        BlockwiseSetup& blockwise = *setup_.blockwise;
        SKIFF_TRY(const auto found, blockwise.student->survey());
        blockwise.n_trained = found.n_trained;
        remark_on(found.n_hashed, found.n_pruned, found.n_rounded);
        remark(fmt::format("block by block: one of the student's blocks and one of the teacher's in memory at a time, {} of {} steps each in turn; activations between blocks take {:.1f} MiB {} (--stream-mb {})",
                           blockwise.steps_per_round, options_.n_steps, static_cast<double>(blockwise.stream_bytes) / 1048576.0,
                           blockwise.place == StreamStore::Place::file ? "in a file beside the output" : "of memory", options_.distill.stream_mb));
        if (parent_.kind == Checkpoint::Kind::random) remark("note: embedding and head are not trained block by block, and stay random here");
        return {};
    }

    void remark_on(std::size_t n_hashed, std::size_t n_pruned, std::size_t n_rounded) const {
        if (n_hashed > 0) remark(std::to_string(n_hashed) + " weights are hashed: their banks are trained, and stay shared");
        if (n_pruned > 0) remark("the zeros of " + std::to_string(n_pruned) + " pruned tensors are kept (--zeros train: trained too)");
        if (options_.quant.schemes)
            remark(std::to_string(n_rounded) + " tensors are trained as " + options_.quant.schemes->linear.name() + " and what their tables take stores them" +
                   (options_.quant.train == QuantTrainOptions::Train::scales ? ", scales only" : ""));
    }

    Status plan_quantization() {
        if (!options_.quant.schemes) return {};
        if (setup_.device.is_cuda()) return unsupported("weights are rounded on the CPU here; give --device cpu");
        ThreadPool pool(options_.n_threads);
        const auto zeros = options_.zeros == TrainOptions::Zeros::keep ? Zeros::keep : Zeros::write_out;
        SKIFF_TRY(auto plan, plan_tensors(parent_, quantize_step(options_.quant), pool, observer_.progress, zeros));
        for (const std::string& text : plan.remarks) remark("note: " + text);
        SKIFF_CHECK(plan_inputs(plan));
        setup_.quant_plan = std::move(plan);
        return {};
    }

    // Weights of whose inputs the file says how they are coded; all others' are coded as the kernels do.
    Status plan_inputs(TensorPlan& plan) const {
        using Activations = QuantTrainOptions::Activations;
        const InputScaleRule& rule = options_.quant.inputs;
        if (options_.quant.activations == Activations::fp8) {
            const bool any = std::any_of(plan.tensors.begin(), plan.tensors.end(), [](const PlannedTensor& planned) { return multiplies_e4m3(planned); });
            return any ? Status() : usage_error("--activations fp8: 8-bit floats as inputs are for weights of e4m3 with one scale a row (--scheme e4m3), and no weight of a block becomes that");
        }
        if (options_.quant.activations == Activations::floats || rule.kind == InputScaleRule::Kind::dynamic) return {};
        const std::set<std::string> operators = operator_weights(parent_.spec);
        bool any = false;
        for (PlannedTensor& planned : plan.tensors) {
            if (operators.count(planned.key) == 0 || !planned.becomes_codes()) continue;
            if (planned.sparse) return coded_inputs_of_pruned(planned).with_context("tensor " + planned.key);
            if (!can_code_inputs(planned)) continue;
            plan_coded_inputs(planned, rule.kind, plan);
            any = true;
        }
        return any ? Status() : no_coded_inputs(rule.kind, plan);
    }

    // Where fixed scales begin: what the first windows of the training are like, with weights as they are rounded.
    Status begin_input_scales() {
        if (!options_.quant.schemes || options_.quant.inputs.kind != InputScaleRule::Kind::fixed) return {};
        const at::NoGradGuard no_grad;
        const std::int64_t n_windows = (n_watched_tokens + setup_.window - 1) / setup_.window;
        for (std::int64_t first = 0; first < n_windows; first += setup_.micro_batch) {
            const at::Tensor windows = setup_.data->shuffled(static_cast<std::uint64_t>(first), std::min(setup_.micro_batch, n_windows - first));
            setup_.model->observe(windows.narrow(1, 0, setup_.window), {});
        }
        return setup_.model->parameters().begin_input_scales(options_.quant.inputs);
    }

    Status open_mask_model() {
        if (options_.sparsify.mask_from.empty()) return {};
        SKIFF_TRY(auto other, Checkpoint::open(options_.sparsify.mask_from));
        SKIFF_TRY(setup_.masks_hash, other.content_hash());
        setup_.mask_from.emplace(std::move(other));
        return {};
    }

    Status make_objective() {
        if (options_.distill.teacher.empty()) {
            setup_.objective = label_objective(*setup_.model);
        } else {
            SKIFF_TRY(setup_.objective, distillation_objective(*setup_.model, *setup_.data, options_, setup_.window, observer_));
        }
        setup_.distillation = setup_.objective->describe();
        if (options_.elastic.rule == ElasticOptions::Rule::off) return {};
        SKIFF_TRY(auto space, ElasticSpace::create(*setup_.model, options_.elastic));
        setup_.elastic.emplace(std::move(space));
        setup_.objective = elastic_objective(*setup_.model, *setup_.elastic, std::move(setup_.objective), options_);
        setup_.distillation = setup_.objective->describe();
        remark(fmt::format("{} sub-networks are trained together, {} to {} parameters", setup_.elastic->all().size(), setup_.elastic->n_parameters({}), setup_.elastic->n_parameters(setup_.elastic->largest())));
        return {};
    }

    // States of this run alone: another one's are not gone on with, nor written over.
    Status check_states() const {
        for (const std::string& name : state_files(setup_.working_folder)) SKIFF_CHECK(load_state(setup_.working_folder, {}, setup_.fingerprint, name));
        return {};
    }

    TrainingSetup& setup_;
    const Checkpoint& parent_;
    const TrainOptions& options_;
    const TrainObserver& observer_;
};

}  // namespace

OptimizerSettings optimizer_settings(const TrainOptions& options, const TrainableOptions& trainable) {
    OptimizerSettings settings;
    settings.kind = options.optimizer == TrainOptions::Optimizer::muon ? OptimizerSettings::Kind::muon : OptimizerSettings::Kind::adamw;
    settings.beta1 = options.beta1;
    settings.beta2 = options.beta2;
    settings.eps = options.eps;
    settings.weight_decay = options.weight_decay;
    settings.clip = options.clip;
    settings.muon_numbers = trainable.numbers;
    return settings;
}

QuantizeStep quantize_step(const QuantTrainOptions& options) {
    QuantizeStep step;
    step.schemes = *options.schemes;
    step.inputs = options.inputs;
    return step;
}

const char* activations_name(const QuantTrainOptions& options) {
    using Activations = QuantTrainOptions::Activations;
    if (options.activations != Activations::int8) return options.activations == Activations::fp8 ? "fp8" : "float";
    return options.inputs.kind == InputScaleRule::Kind::dynamic ? "int8" : input_rule_name(options.inputs);
}

Json quantization_json(const QuantTrainOptions& options) {
    const SchemeWish& schemes = *options.schemes;
    Json json = Json::object({{"scheme", schemes.linear.name()},
                         {"head", schemes.head ? Json(schemes.head->name()) : Json()},
                         {"embedding", schemes.embedding ? Json(schemes.embedding->name()) : Json()},
                         {"train", options.train == QuantTrainOptions::Train::scales ? "scales" : "all"},
                         {"activations", activations_name(options)}});
    if (options.inputs.kind == InputScaleRule::Kind::fixed && options.inputs.range == RangeRule::percentile) json.set("percentile", options.inputs.percentile);
    return json;
}

Json sparsity_json(const SparsifyOptions& options, const std::string& masks_hash) {
    constexpr const char* courses[] = {"cubic", "stages", "once"};
    constexpr const char* scopes[] = {"row", "tensor", "global"};
    const bool from_another = !options.mask_from.empty(), pattern = options.pattern_m > 0;
    Json json = pattern ? Json::object({{"pattern", std::to_string(options.pattern_n) + ":" + std::to_string(options.pattern_m)}, {"mask_from_another", from_another}})
                        : Json::object({{"target", options.target}, {"scope", scopes[static_cast<std::size_t>(options.scope)]}, {"mask_from_another", from_another}});
    if (from_another) json.set("mask_from", masks_hash);
    if (from_another || pattern) return json;
    json.set("schedule", courses[static_cast<std::size_t>(options.course)]);
    json.set("until", options.until);
    if (options.course == SparsifyOptions::Course::cubic) json.set("every", options.every);
    if (options.course == SparsifyOptions::Course::stages) json.set("stages", options.n_stages);
    return json;
}

Result<std::unique_ptr<TrainingSetup>> prepare_training(const Checkpoint& parent, const TrainOptions& options, const TrainObserver& observer) {
    SKIFF_CHECK(check(options));
    keep_freed_memory();
    auto setup = std::make_unique<TrainingSetup>();
    Status status = Preparation(*setup, parent, options, observer).run();
    if (status.ok()) return setup;
    // Nothing has been trained yet: what could not begin leaves nothing behind.
    if (setup->directory && !setup->directory->resumed()) (void)setup->directory->discard();
    return status.take_error();
}

}  // namespace skiff::train
