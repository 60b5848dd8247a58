// skiff train: a model from texts, or a better one from a model.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/cpu_features.h"
#include "base/mapped_file.h"
#include "cli/format.h"
#include "cli/rank_processes.h"
#include "cli/subprocess.h"
#include "cli/verbs.h"
#include "corpus/token_file.h"
#include "train/train.h"

namespace skiff {
namespace {

using train::TrainOptions;

struct TrainVerbOptions {
    std::string model, pack;
    TrainOptions train;
    std::string schedule = "cosine", optimizer = "adamw", precision = "auto", device = "auto", zeros = "keep", operators = "fused", lora_output = "merged";
    double min_lr = 0;
    std::int64_t threads = 0, ranks = 1, rank = -1, log_every = 10;
    bool force = false, restart = false, recompute = false;

    void fields(FieldVisitor& visitor) {
        train.schedule.peak = 1e-3;
        visitor.positional("MODEL", model, "A checkpoint to go on from, or random:CONFIG.json for fresh weights in that shape", FieldVisitor::Need::required);
        visitor.option("--data", train.data.texts, "Text to train on: .txt, .jsonl or packed .tokens (may be given several times)");
        visitor.option("--valid", train.data.validation, "Text whose loss is measured on the way");
        visitor.option("--tokenizer", train.data.tokenizer, "Folder of the tokenizer; default: the model's own");
        visitor.option("--jsonl-field", train.data.jsonl_field, "Field of a .jsonl line that holds the text");
        visitor.option("--separator", train.data.separator, "What stands between the documents of a .txt");
        visitor.option("--pack", pack, "Write the tokens of --data to this file (NAME.tokens), for later runs, and stop");
        visitor.option("-o,--output", train.output, "Folder to write; it appears when training is complete");
        visitor.option("--steps", train.n_steps, "Steps");
        visitor.option("--batch", train.batch, "Windows per step, of all ranks together");
        visitor.option("--micro-batch", train.micro_batch, "Windows computed at a time; 0: about 4096 tokens. Less needs less memory");
        visitor.option("-c,--context", train.context, "Tokens per window; 0: the model's, at most 1024");
        visitor.option("--lr", train.schedule.peak, "Learning rate at its highest");
        visitor.choice("--schedule", schedule, {"cosine", "linear", "wsd", "constant"}, "How the learning rate falls; wsd: only in the last --decay steps");
        visitor.option("--warmup", train.schedule.warmup_steps, "Steps in which the learning rate rises");
        visitor.option("--decay", train.schedule.decay_steps, "Steps of the fall of wsd; 0: a fifth of all");
        visitor.option("--min-lr", min_lr, "Learning rate at the end, as a share of --lr");
        visitor.choice("--optimizer", optimizer, {"adamw", "muon"}, "muon: orthogonal steps for the matrices of the blocks, AdamW for the rest");
        visitor.option("--beta1", train.beta1, "AdamW: decay of the mean");
        visitor.option("--beta2", train.beta2, "AdamW: decay of the square");
        visitor.option("--eps", train.eps, "AdamW: added to the divisor");
        visitor.option("--weight-decay", train.weight_decay, "Of matrices and tables; vectors have none");
        visitor.option("--clip", train.clip, "Largest norm of the gradient; 0: as it is");
        visitor.option("--seed", train.seed, "Of fresh weights, the order of the windows and what is dropped");
        visitor.choice("--precision", precision, {"auto", "f32", "bf16"}, "Numbers of the products; auto: bf16 where the device is faster with it");
        visitor.choice("--device", device, {"auto", "cpu", "cuda"}, "Where to compute");
        visitor.flag("--recompute", recompute, "Keep only what flows between blocks and compute the rest again in the backward pass: less memory, a third more time");
        visitor.choice("--operators", operators, {"fused", "composed"}, "composed: LibTorch's own operators one by one, for comparison");
        visitor.option("--layer-drop", train.layer_drop, "Share of blocks that each micro-batch leaves out");
        visitor.choice("--zeros", zeros, {"keep", "train"}, "Weights that were pruned to zero: keep them so, or train them too");
        visitor.option("--lora", train.lora_rank, "Rank of adapters that are trained instead of the weights; 0: none");
        visitor.option("--lora-alpha", train.lora_alpha, "Scale of the adapters, times the rank");
        visitor.option("--lora-target", train.lora_names, "Part of the names of weights that get adapters (may be given several times); default: all of the blocks");
        visitor.choice("--lora-output", lora_output, {"merged", "adapter"}, "merged: a whole model; adapter: what the peft package loads");
        visitor.option("--dtype", train.dtype, "Type of the weights written: F32, F16, BF16; auto: as they were, BF16 for fresh ones");
        visitor.option("--eval-every", train.evaluate_every, "Steps between measurements of --valid; 0: only at the end");
        visitor.option("--eval-windows", train.evaluate_windows, "Windows of such a measurement");
        visitor.option("--save-every", train.save_every, "Steps between states from which a killed run goes on; 0: only when interrupted");
        visitor.option("--sample-every", train.sample_every, "Steps between texts that the model writes; 0: none");
        visitor.option("--sample-prompt", train.sample_prompt, "Their beginning");
        visitor.option("--sample-tokens", train.sample_tokens, "Their length");
        visitor.option("--log-every", log_every, "Steps between lines on the terminal (train.csv has every step)");
        visitor.option("--dump-windows", train.dump_windows, "Write the first token of each window in the order of training to this file");
        visitor.flag("--force", force, "Replace the output folder if it exists");
        visitor.flag("--restart", restart, "Drop an unfinished run of the same output instead of going on with it");
        visitor.option("-t,--threads", threads, "Threads of each rank; 0: the physical cores, shared among the ranks here");
        visitor.option("--ranks", ranks, "Processes that share each batch");
        visitor.option("--rank", rank, "Which of them this is, where they are started by hand on several machines; default: all are started here");
        visitor.option("--meeting", train.meeting, "Where ranks started by hand meet: a file that all can reach, or HOST:PORT where rank 0 listens");
    }
};

template <class Enum>
Enum choice_of(const std::string& text, std::initializer_list<std::pair<const char*, Enum>> values) {
    for (const auto& [name, value] : values)
        if (text == name) return value;
    return values.begin()->second;  // the parser let only these through
}

// A text is anything that is not known to be something else.
Status check_data_names(const train::DataOptions& data) {
    std::vector<std::string> names = data.texts;
    if (!data.validation.empty()) names.push_back(data.validation);
    for (const std::string& name : names)
        for (const char* ending : {".bin", ".npy", ".parquet", ".arrow", ".gz", ".xz", ".zst", ".zip", ".safetensors", ".gguf"})
            if (name.ends_with(ending)) return usage_error(name + ": expected a text, .jsonl, or .tokens as --pack writes them");
    return {};
}

Status resolve(TrainVerbOptions& options) {
    TrainOptions& train = options.train;
    using Kind = train::Schedule::Kind;
    train.schedule.kind = choice_of<Kind>(options.schedule, {{"cosine", Kind::cosine}, {"linear", Kind::linear}, {"wsd", Kind::wsd}, {"constant", Kind::constant}});
    train.schedule.n_steps = train.n_steps;
    train.schedule.floor = options.min_lr;
    if (train.schedule.decay_steps == 0) train.schedule.decay_steps = train.n_steps / 5;
    if (!(options.min_lr >= 0 && options.min_lr <= 1)) return usage_error("--min-lr is a share of --lr: 0 to 1");
    train.optimizer = options.optimizer == "muon" ? TrainOptions::Optimizer::muon : TrainOptions::Optimizer::adamw;
    using Numbers = TrainOptions::Numbers;
    train.numbers = choice_of<Numbers>(options.precision, {{"auto", Numbers::automatic}, {"f32", Numbers::f32}, {"bf16", Numbers::bf16}});
    using Device = TrainOptions::Device;
    train.device = choice_of<Device>(options.device, {{"auto", Device::automatic}, {"cpu", Device::cpu}, {"cuda", Device::cuda}});
    train.recompute = options.recompute ? TrainOptions::Recompute::blocks : TrainOptions::Recompute::off;
    train.zeros = options.zeros == "train" ? TrainOptions::Zeros::train : TrainOptions::Zeros::keep;
    train.operators = options.operators == "composed" ? TrainOptions::Operators::composed : TrainOptions::Operators::fused;
    train.lora_output = options.lora_output == "adapter" ? TrainOptions::LoraOutput::adapter : TrainOptions::LoraOutput::merged;
    train.if_exists = options.force ? TrainOptions::IfExists::replace : TrainOptions::IfExists::refuse;
    train.unfinished = options.restart ? TrainOptions::Unfinished::restart : TrainOptions::Unfinished::resume;
    if (options.threads < 0 || options.threads > 1024) return usage_error("--threads " + std::to_string(options.threads) + ": expected 0 to 1024");
    if (options.ranks < 1 || options.ranks > 1024) return usage_error("--ranks " + std::to_string(options.ranks) + ": expected 1 to 1024");
    SKIFF_CHECK(check_data_names(train.data));
    train.n_ranks = static_cast<int>(options.ranks);
    train.rank = static_cast<int>(std::max<std::int64_t>(0, options.rank));
    const auto shared = static_cast<std::int64_t>(default_thread_count()) / (options.rank < 0 ? options.ranks : 1);
    train.n_threads = static_cast<int>(options.threads > 0 ? options.threads : std::max<std::int64_t>(1, shared));
    return {};
}

Result<Tokenizer> load_pack_tokenizer(const TrainVerbOptions& given) {
    if (!given.train.data.tokenizer.empty()) return load_tokenizer(given.train.data.tokenizer);
    SKIFF_TRY(const auto parent, Checkpoint::open(given.model));
    if (parent.kind == Checkpoint::Kind::random) return usage_error("texts need a tokenizer: give --tokenizer FOLDER (skiff train-tokenizer makes one)");
    return parent.load_tokenizer();
}

// Texts to a token file, once for many runs. Needs no LibTorch.
Status pack_texts(const TrainVerbOptions& given, Terminal& terminal) {
    const train::DataOptions& data = given.train.data;
    if (data.texts.empty()) return usage_error("give the text to pack with --data");
    for (const std::string& text : data.texts)
        if (text.ends_with(".tokens")) return usage_error(text + " is packed already");
    if (!given.pack.ends_with(".tokens")) return usage_error("--pack " + given.pack + ": the name must end in .tokens, by which packed files are known");
    if (file_exists(given.pack) && !given.force) return usage_error(given.pack + " already exists; give --force to replace it");
    SKIFF_TRY(const auto tokenizer, load_pack_tokenizer(given));
    const PackOptions options{data.texts, data.separator, data.jsonl_field, given.train.n_threads, terminal.progress(" MiB")};
    SKIFF_TRY(const auto report, pack_tokens(tokenizer, options, given.pack));
    terminal.end_progress();
    terminal.print(fmt::format("packed {} documents, {} of text, as {} tokens in {}", report.n_documents, bytes_text(report.n_bytes), report.n_tokens, duration_text(report.seconds)));
    terminal.print("wrote " + given.pack);
    terminal.result(Json::object({{"output", given.pack}, {"documents", report.n_documents}, {"text_bytes", report.n_bytes}, {"tokens", report.n_tokens}, {"seconds", report.seconds}}));
    return {};
}

Json report_json(const train::TrainReport& report, const TrainOptions& options) {
    Json json = Json::object({{"output", options.output},
                              {"steps", report.n_steps},
                              {"resumed_at", report.resumed_at},
                              {"tokens", report.n_tokens},
                              {"corpus_tokens", report.corpus_tokens},
                              {"parameters", report.n_parameters},
                              {"trained_parameters", report.n_trained},
                              {"first_loss", report.first_loss},
                              {"last_loss", report.last_loss},
                              {"seconds", report.seconds},
                              {"tokens_per_s", report.tokens_per_s},
                              {"peak_memory_bytes", report.peak_memory_bytes},
                              {"step", report.step}});
    if (!options.data.validation.empty()) json.set("validation_loss", report.validation_loss);
    return json;
}

// The program with LibTorch lies beside this one and takes the same arguments.
Status become_training_program() {
    Status status = become_sibling("skiff-train");
    return status.error().code == ErrorCode::not_found ? unsupported(train::training_library()) : status;
}

Status run_train(TrainVerbOptions& options, Terminal& terminal) {
    if (options.pack.empty() && !train::training_available()) return become_training_program();
    SKIFF_CHECK(resolve(options));
    if (!options.pack.empty()) return pack_texts(options, terminal);
    SKIFF_TRY(const auto parent, Checkpoint::open(options.model));
    std::vector<std::string> for_others;  // the share of the threads here, unless --threads says it
    if (options.threads == 0) for_others = {"--threads", std::to_string(options.train.n_threads)};
    SKIFF_TRY(const auto others, start_other_ranks(options.train, options.rank, for_others));
    train::TrainObserver observer;
    observer.on_remark = [&](const std::string& text) { terminal.remark(text); };
    observer.on_step = [&](const train::StepReport& step) {
        if (step.step != 1 && step.step != step.n_steps && (options.log_every <= 0 || step.step % options.log_every != 0)) return;
        terminal.remark(fmt::format("step {}/{}  loss {:.4f}  lr {:.2e}  |g| {:.2f}  {:.0f} tok/s  {} left", step.step, step.n_steps, step.loss, step.learning_rate, step.gradient_norm,
                                    step.tokens_per_s, duration_text(step.seconds_left)));
    };
    observer.on_validation = [&](std::int64_t step, double loss) { terminal.remark(fmt::format("step {}  validation loss {:.4f} nats a token, perplexity {:.2f}", step, loss, std::exp(loss))); };
    observer.on_sample = [&](std::int64_t step, const std::string& text) { terminal.remark(fmt::format("step {}  the model writes:\n{}", step, text)); };
    observer.progress = terminal.progress(" MiB");
    SKIFF_TRY(const auto report, train::run_training(parent, options.train, observer));
    SKIFF_CHECK(others->wait());
    if (options.train.rank != 0) return {};
    terminal.print(fmt::format("trained {} of {} parameters on {} tokens in {}: {:.0f} tok/s, loss {:.4f}{}, peak memory {}", count_text(static_cast<double>(report.n_trained)),
                               count_text(static_cast<double>(report.n_parameters)), count_text(static_cast<double>(report.n_tokens)), duration_text(report.seconds), report.tokens_per_s, report.last_loss,
                               options.train.data.validation.empty() ? "" : fmt::format(", validation {:.4f}", report.validation_loss), bytes_text(report.peak_memory_bytes)));
    terminal.print("wrote " + options.train.output + " (loss.svg shows the course); try: skiff run " + options.train.output);
    terminal.result(report_json(report, options.train));
    return {};
}

}  // namespace

std::unique_ptr<Verb> train_verb_row() {
    return make_verb<TrainVerbOptions>("train", "Train a model from fresh weights, or go on with one; also LoRA, and several processes",
                                       {"skiff train random:CONFIG.json --tokenizer TOK --data books.txt --valid other.txt -o OUT --steps 2000",
                                        "skiff train MODEL --data mine.jsonl -o OUT --lora 8 --lr 2e-4 --steps 300", "skiff train MODEL --data mine.txt -o OUT --ranks 2",
                                        "skiff train MODEL --data mine.txt --pack mine.tokens"},
                                       run_train);
}

}  // namespace skiff
