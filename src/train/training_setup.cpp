#include "train/training_setup.h"

#include <malloc.h>

#include <algorithm>
#include <cstdio>

#include <torch/cuda.h>

#include "base/cpu_features.h"
#include "base/hash.h"
#include "base/mapped_file.h"
#include "compress/parent_files.h"

namespace skiff::train {
namespace {

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
    const bool open_end = schedule.kind == Schedule::Kind::wsd || schedule.kind == Schedule::Kind::constant;
    // Texts are packed once; that another file stands under the name now shows in its size.
    Json sizes = Json::array();
    for (const std::string& text : options.data.texts) {
        SKIFF_TRY(const auto size, file_size_bytes(text));
        sizes.push_back(size);
    }
    std::string lora = std::to_string(options.lora_rank) + "/" + std::to_string(options.lora_alpha);
    for (const std::string& name : options.lora_names) lora += "/" + name;
    const Json json = Json::object({{"config", parent.config},
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
                                    {"bf16", setup.model->options().numbers == at::kBFloat16},
                                    {"zeros", static_cast<std::int64_t>(options.zeros)},
                                    {"layer_drop", options.layer_drop},
                                    {"lora", lora},
                                    {"ranks", static_cast<std::int64_t>(options.n_ranks)}});
    return hex64(hash64(std::as_bytes(std::span(std::string_view(json.dump())))));
}

}  // namespace

namespace {

Status prepare(TrainingSetup* setup, const Checkpoint& parent, const TrainOptions& options, const TrainObserver& observer) {
    auto remark = [&](const std::string& text) {
        if (observer.on_remark && options.rank == 0) observer.on_remark(text);
    };
    SKIFF_TRY(setup->device, choose_device(options.device, options.rank));
    setup->window = options.context > 0 ? options.context : std::clamp<std::int64_t>(parent.spec.max_positions, 1, 1024);
    if (parent.spec.max_positions > 0 && setup->window > parent.spec.max_positions)
        return usage_error("--context " + std::to_string(setup->window) + " is more than the model's " + std::to_string(parent.spec.max_positions) + " positions");
    setup->micro_batch = options.micro_batch > 0 ? options.micro_batch : std::max<std::int64_t>(1, 4096 / setup->window);
    setup->micro_batch = std::min(setup->micro_batch, options.batch / options.n_ranks);

    // The tokenizer first: a wrong folder is better known before hours of work.
    setup->tokenizer_folder = !options.data.tokenizer.empty() ? options.data.tokenizer : parent.kind == Checkpoint::Kind::folder ? parent.path : "";
    if (!options.data.tokenizer.empty()) {
        SKIFF_TRY(setup->tokenizer, load_tokenizer(options.data.tokenizer));
    } else if (parent.kind != Checkpoint::Kind::random) {
        // A model without one can be trained on packed tokens.
        auto own = parent.load_tokenizer();
        if (own.ok()) setup->tokenizer = std::move(*own);
        else if (own.error().code != ErrorCode::not_found || !only_packed(options.data)) return own.take_error();
    }
    if (setup->tokenizer && setup->tokenizer->n_vocab() > parent.spec.n_vocab)
        return usage_error("the tokenizer has " + std::to_string(setup->tokenizer->n_vocab()) + " tokens, the model " + std::to_string(parent.spec.n_vocab));

    if (options.sample_every > 0 && (!setup->tokenizer || setup->tokenizer_folder.empty())) return usage_error("--sample-every needs a tokenizer folder: give --tokenizer");

    SKIFF_TRY(setup->ranks, Ranks::meet(options.rank, options.n_ranks, options.meeting, setup->device));
    setup->working_folder = options.output + ".partial";
    if (options.rank == 0) {
        SKIFF_TRY(auto directory, AtomicDirectory::create(options.output, options.if_exists == TrainOptions::IfExists::replace ? AtomicDirectory::IfExists::replace : AtomicDirectory::IfExists::refuse));
        if (options.unfinished == TrainOptions::Unfinished::restart && directory.resumed()) {
            SKIFF_CHECK(directory.discard());
            SKIFF_CHECK(make_directories(directory.working_path()));
        }
        setup->working_folder = directory.working_path();
        SKIFF_CHECK(remove_temporaries(setup->working_folder));
        // Only a state says what the packed texts beside it are; the validation text may change from call to call.
        if (!file_exists(join_path(setup->working_folder, state_file_name))) std::remove(join_path(setup->working_folder, "train.tokens").c_str());
        std::remove(join_path(setup->working_folder, "validation.tokens").c_str());
        setup->directory.emplace(std::move(directory));
    }
    // The first rank packs; the others wait for what it wrote.
    auto wait_for_writer = [&] {
        if (!setup->ranks) return;
        std::vector<at::Tensor> nothing = {at::zeros({1})};
        setup->ranks->sum(nothing);
    };
    auto open_data = [&]() -> Status {
        const std::string packed = join_path(setup->working_folder, "train.tokens"), packed_validation = join_path(setup->working_folder, "validation.tokens");
        const Tokenizer* tokenizer = setup->tokenizer ? &*setup->tokenizer : nullptr;
        Batches::Settings settings{options.data.texts, packed, setup->window, parent.spec.n_vocab, options.seed};
        SKIFF_TRY(auto data, Batches::open(settings, tokenizer, options.data, observer, options.n_threads));
        setup->data.emplace(std::move(data));
        if (options.data.validation.empty()) return {};
        settings.files = {options.data.validation};
        settings.packed_path = packed_validation;
        SKIFF_TRY(auto validation, Batches::open(settings, tokenizer, options.data, observer, options.n_threads));
        setup->validation.emplace(std::move(validation));
        return {};
    };
    if (options.rank == 0) SKIFF_CHECK(open_data());
    wait_for_writer();
    if (options.rank != 0) SKIFF_CHECK(open_data());

    const bool fresh = parent.kind == Checkpoint::Kind::random;
    // Adapters that are merged would fill the zeros of a pruned weight.
    const bool merges = options.lora_rank > 0 && options.lora_output == TrainOptions::LoraOutput::merged;
    const std::shared_ptr<WeightSource> source = fresh ? initial_weights(parent.spec, options.seed) : parent.weights;
    SKIFF_TRY(auto parameters, ParameterSet::load(parent.spec, *source, setup->device));
    if (options.zeros == TrainOptions::Zeros::keep && (options.lora_rank == 0 || merges))
        if (const std::size_t n = parameters.keep_zeros(0.05); n > 0) {
            if (merges) return usage_error("the model is pruned: adapters merged into its weights would fill the zeros of " + std::to_string(n) + " tensors. Give --zeros train if they may, or --lora-output adapter");
            remark("the zeros of " + std::to_string(n) + " pruned tensors are kept (--zeros train: trained too)");
        }
    if (options.lora_rank > 0) {
        SKIFF_TRY(const auto n, parameters.add_adapters(parent.spec, {options.lora_rank, options.lora_alpha, options.lora_names, options.seed}));
        remark("LoRA: " + std::to_string(n) + " weights get adapters of rank " + std::to_string(options.lora_rank));
    }
    TrainableOptions trainable;
    trainable.device = setup->device;
    trainable.numbers = choose_numbers(options.numbers, setup->device);
    trainable.form = options.operators == TrainOptions::Operators::fused ? Form::automatic : Form::composed;
    trainable.recompute_blocks = options.recompute == TrainOptions::Recompute::blocks;
    SKIFF_TRY(setup->model, TrainableModel::create(parent.spec, std::move(parameters), trainable));
    setup->trained = setup->model->parameters().trained(parent.spec);

    OptimizerSettings optimizer;
    optimizer.kind = options.optimizer == TrainOptions::Optimizer::muon ? OptimizerSettings::Kind::muon : OptimizerSettings::Kind::adamw;
    optimizer.beta1 = options.beta1;
    optimizer.beta2 = options.beta2;
    optimizer.eps = options.eps;
    optimizer.weight_decay = options.weight_decay;
    optimizer.clip = options.clip;
    optimizer.muon_numbers = trainable.numbers;
    setup->optimizer = std::make_unique<Optimizer>(setup->trained, optimizer);
    setup->state = state_tensors(setup->trained, *setup->optimizer);
    SKIFF_TRY(setup->fingerprint, fingerprint_of(parent, options, *setup));
    remark(std::string(trainable.numbers == at::kBFloat16 ? "bf16" : "f32") + " on " + (setup->device.is_cuda() ? "the GPU" : std::to_string(options.n_threads) + " threads") +
           (setup->ranks ? ", " + std::to_string(options.n_ranks) + " ranks over " + setup->ranks->name() : ""));
    return {};
}

}  // namespace

Result<std::unique_ptr<TrainingSetup>> prepare_training(const Checkpoint& parent, const TrainOptions& options, const TrainObserver& observer) {
    SKIFF_CHECK(check(options));
    keep_freed_memory();
    auto setup = std::make_unique<TrainingSetup>();
    Status status = prepare(setup.get(), parent, options, observer);
    if (status.ok()) return setup;
    // Nothing has been trained yet: what could not begin leaves nothing behind.
    if (setup->directory && !setup->directory->resumed()) (void)setup->directory->discard();
    return status.take_error();
}

}  // namespace skiff::train
