#include "cli/train_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/cpu_features.h"
#include "base/output_place.h"
#include "cli/format.h"
#include "cli/rank_processes.h"
#include "cli/subprocess.h"

namespace skiff {

using train::TrainOptions;

void TrainVerbOptions::data_fields(FieldVisitor& visitor) {
    visitor.option("--data", train.data.texts, "Text to train on: .txt, .jsonl or packed .tokens (may be given several times)");
    visitor.option("--valid", train.data.validation, "Text whose loss is measured on the way");
    visitor.option("--tokenizer", train.data.tokenizer, "Folder of the tokenizer; default: the model's own");
    visitor.option("--jsonl-field", train.data.jsonl_field, "Field of a .jsonl line that holds the text");
    visitor.option("--separator", train.data.separator, "What stands between the documents of a .txt");
    visitor.option("-o,--output", train.output, "Folder to write; it appears when training is complete");
}

void TrainVerbOptions::training_fields(FieldVisitor& visitor) {
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
    visitor.option("--sparsity", sparsity, "Share of the blocks' weights that become zero by magnitude while training goes on (0.5), or N:M (2:4)");
    visitor.choice("--prune-schedule", prune_schedule, {"cubic", "stages", "once"}, "How zeros come: along a cubic ramp, in stages with training between, or before the first step");
    visitor.option("--prune-until", train.sparsify.until, "Step at which all zeros are there; 0: half of --steps");
    visitor.option("--prune-every", train.sparsify.every, "Steps between masks of the ramp");
    visitor.option("--prune-stages", train.sparsify.n_stages, "Stages of prune, train, prune");
    visitor.choice("--prune-scope", prune_scope, {"row", "tensor", "global"}, "Among which weights the smallest are sought");
    visitor.option("--mask-from", train.sparsify.mask_from, "Another model of this shape, whose magnitudes choose the zeros before the first step (lottery tickets)");
    visitor.choice("--elastic", elastic, {"off", "uniform", "fair", "sandwich"},
                   "Train sub-networks that can be cut out afterwards: uniform: one of them at random for each micro-batch (SPOS); fair: every choice once a step (FairNAS); sandwich: the largest, the smallest, some at random (BigNAS)");
    visitor.option("--elastic-neurons", elastic_neurons, "Shares of each feed-forward's neurons that sub-networks keep, the leading ones: 0.5,0.75,1");
    visitor.option("--elastic-kv-groups", elastic_kv_groups, "KV groups (with their query heads) that they keep of each layer, the leading ones: 1,2");
    visitor.option("--elastic-layers", elastic_layers, "Layers that they keep: 4,5,6");
    visitor.option("--elastic-random", train.elastic.n_random, "sandwich: sub-networks at random beside the largest and the smallest");
    visitor.choice("--elastic-teach", elastic_teach, {"auto", "largest", "same"}, "largest: sub-networks learn the distribution of the largest one; same: what it learns itself; auto: largest for sandwich");
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

void DistillVerbFields::fields(FieldVisitor& visitor, train::DistillOptions& distill) {
    visitor.choice("--kd-loss", loss, {"forward-kl", "reverse-kl", "jsd"}, "Divergence of the student's distribution from the teacher's");
    visitor.option("--kd-temp", distill.temperature, "Temperature of both distributions; the divergence is multiplied by its square");
    visitor.option("--kd-alpha", distill.alpha, "Share of the divergence; the text's own next token has the rest");
    visitor.option("--kd-beta", distill.beta, "jsd: share of the teacher in the middle distribution");
    visitor.option("--teacher-cache", distill.cache, "Keep the teacher's likeliest tokens of each window in this file, and read them there: it then runs once for many students");
    visitor.option("--teacher-top", distill.cache_top, "Tokens that the file keeps of each distribution, beside the sum of the rest");
    visitor.option("--on-policy", distill.on_policy, "Share of the batches in which the student goes on with the text's windows itself and learns what the teacher says to that, without labels");
    visitor.option("--on-policy-prompt", distill.on_policy_prompt, "Tokens of the text in front of the student's own; 0: a quarter of the window");
    visitor.option("--hidden-weight", distill.hidden_weight, "Weight of the hidden states' relative squared distance (by a learnt projection where widths differ)");
    visitor.option("--attention-weight", distill.attention_weight, "Weight of the distance of relations among tokens in the last blocks' queries, keys and values");
    visitor.flag("--block-wise", block_wise, "Each block alone, from the teacher's hidden states before it to those behind it, instead of the whole model. Of both models one block at a time is in memory");
    visitor.option("--stream-mb", distill.stream_mb, "--block-wise: memory for the activations between blocks, in MiB. The blocks take as many steps in turn as fit; one that does not fit goes to a file; 0: always");
}

void DistillVerbFields::resolve(train::DistillOptions& distill) const {
    using train::Divergence;
    distill.divergence = choice_of<Divergence>(loss, {{"forward-kl", Divergence::forward_kl}, {"reverse-kl", Divergence::reverse_kl}, {"jsd", Divergence::jsd}});
    distill.block_wise = block_wise ? train::DistillOptions::BlockWise::on : train::DistillOptions::BlockWise::off;
}

namespace {

// A text is anything that is not known to be something else.
Status check_data_names(const train::DataOptions& data) {
    std::vector<std::string> names = data.texts;
    if (!data.validation.empty()) names.push_back(data.validation);
    for (const std::string& name : names)
        for (const char* ending : {".bin", ".npy", ".parquet", ".arrow", ".gz", ".xz", ".zst", ".zip", ".safetensors", ".gguf"})
            if (name.ends_with(ending)) return usage_error(name + ": expected a text, .jsonl, or .tokens as --pack writes them");
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
    if (report.streams.steps_per_round > 0)
        json.set("between_blocks", Json::object({{"steps_per_round", report.streams.steps_per_round}, {"bytes", report.streams.bytes}, {"in", report.streams.in_file ? "file" : "memory"}}));
    return json;
}

}  // namespace

Status TrainVerbOptions::resolve_sparsity() {
    skiff::train::SparsifyOptions& sparsify = this->train.sparsify;
    using Course = skiff::train::SparsifyOptions::Course;
    using Scope = skiff::train::SparsifyOptions::Scope;
    const std::size_t colon = sparsity.find(':');
    const auto number = [](std::string_view text, auto& value) {
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        return error == std::errc() && end == text.data() + text.size();
    };
    const std::string_view text = sparsity;
    const bool read = colon == std::string::npos ? number(text, sparsify.target) : number(text.substr(0, colon), sparsify.pattern_n) && number(text.substr(colon + 1), sparsify.pattern_m);
    const bool sound = colon == std::string::npos ? sparsify.target >= 0 && sparsify.target < 1 : sparsify.pattern_n >= 1 && sparsify.pattern_n < sparsify.pattern_m && sparsify.pattern_m <= 64;
    if (!read || !sound) return usage_error("--sparsity " + sparsity + ": expected a share of 0 to less than 1 (0.5), or N:M (2:4)");
    sparsify.course = choice_of<Course>(prune_schedule, {{"cubic", Course::cubic}, {"stages", Course::stages}, {"once", Course::once}});
    sparsify.scope = choice_of<Scope>(prune_scope, {{"row", Scope::row}, {"tensor", Scope::tensor}, {"global", Scope::global}});
    if (sparsify.until == 0) sparsify.until = this->train.n_steps / 2;
    return {};
}

namespace {

template <class T>
Status read_list(const char* flag, const std::string& text, std::vector<T>& list) {
    for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = std::min(text.find(',', begin), text.size());
        T value{};
        const auto [last, error] = std::from_chars(text.data() + begin, text.data() + end, value);
        if (error != std::errc() || last != text.data() + end || end + 1 == text.size()) return usage_error(std::string(flag) + " " + text + ": expected numbers with commas between them");
        list.push_back(value);
        begin = end + 1;
    }
    return {};
}

}  // namespace

Status TrainVerbOptions::resolve_elastic() {
    skiff::train::ElasticOptions& options = this->train.elastic;
    using Rule = skiff::train::ElasticOptions::Rule;
    using Teach = skiff::train::ElasticOptions::Teach;
    options.rule = choice_of<Rule>(elastic, {{"off", Rule::off}, {"uniform", Rule::uniform}, {"fair", Rule::fair}, {"sandwich", Rule::sandwich}});
    options.teach = choice_of<Teach>(elastic_teach, {{"auto", Teach::automatic}, {"largest", Teach::largest}, {"same", Teach::same}});
    SKIFF_CHECK(read_list("--elastic-neurons", elastic_neurons, options.neurons));
    SKIFF_CHECK(read_list("--elastic-kv-groups", elastic_kv_groups, options.kv_groups));
    return read_list("--elastic-layers", elastic_layers, options.layers);
}

Status TrainVerbOptions::resolve() {
    using Kind = skiff::train::Schedule::Kind;
    train.schedule.kind = choice_of<Kind>(schedule, {{"cosine", Kind::cosine}, {"linear", Kind::linear}, {"wsd", Kind::wsd}, {"constant", Kind::constant}});
    train.schedule.n_steps = train.n_steps;
    train.schedule.floor = min_lr;
    if (train.schedule.decay_steps == 0) train.schedule.decay_steps = train.n_steps / 5;
    if (!(min_lr >= 0 && min_lr <= 1)) return usage_error("--min-lr is a share of --lr: 0 to 1");
    train.optimizer = optimizer == "muon" ? TrainOptions::Optimizer::muon : TrainOptions::Optimizer::adamw;
    using Numbers = TrainOptions::Numbers;
    train.numbers = choice_of<Numbers>(precision, {{"auto", Numbers::automatic}, {"f32", Numbers::f32}, {"bf16", Numbers::bf16}});
    using Device = TrainOptions::Device;
    train.device = choice_of<Device>(device, {{"auto", Device::automatic}, {"cpu", Device::cpu}, {"cuda", Device::cuda}});
    train.recompute = recompute ? TrainOptions::Recompute::blocks : TrainOptions::Recompute::off;
    train.zeros = zeros == "train" ? TrainOptions::Zeros::train : TrainOptions::Zeros::keep;
    train.operators = operators == "composed" ? TrainOptions::Operators::composed : TrainOptions::Operators::fused;
    train.lora_output = lora_output == "adapter" ? TrainOptions::LoraOutput::adapter : TrainOptions::LoraOutput::merged;
    train.if_exists = force ? TrainOptions::IfExists::replace : TrainOptions::IfExists::refuse;
    train.unfinished = restart ? TrainOptions::Unfinished::restart : TrainOptions::Unfinished::resume;
    SKIFF_CHECK(resolve_sparsity());
    SKIFF_CHECK(resolve_elastic());
    if (threads < 0 || threads > 1024) return usage_error("--threads " + std::to_string(threads) + ": expected 0 to 1024");
    if (ranks < 1 || ranks > 1024) return usage_error("--ranks " + std::to_string(ranks) + ": expected 1 to 1024");
    SKIFF_CHECK(check_data_names(train.data));
    train.n_ranks = static_cast<int>(ranks);
    train.rank = static_cast<int>(std::max<std::int64_t>(0, rank));
    const auto shared = static_cast<std::int64_t>(default_thread_count()) / (rank < 0 ? ranks : 1);
    train.n_threads = static_cast<int>(threads > 0 ? threads : std::max<std::int64_t>(1, shared));
    return {};
}

Status become_training_program() {
    Status status = become_sibling("skiff-train");
    return status.error().code == ErrorCode::not_found ? unsupported(train::training_library()) : status;
}


Status run_training_verb(const Checkpoint& parent, TrainVerbOptions& options, Terminal& terminal) {
    SKIFF_CHECK(check_output_apart(options.train.output, parent.path));
    if (!options.train.distill.teacher.empty()) SKIFF_CHECK(check_output_apart(options.train.output, options.train.distill.teacher));
    std::vector<std::string> for_others;  // the share of the threads here, unless --threads says it
    if (options.threads == 0) for_others = {"--threads", std::to_string(options.train.n_threads)};
    SKIFF_TRY(const auto others, start_other_ranks(options.train, options.rank, for_others));
    train::TrainObserver observer;
    observer.on_remark = [&](const std::string& text) { terminal.remark(text); };
    observer.on_step = [&](const train::StepReport& step) {
        if (step.step != 1 && step.step != step.n_steps && (options.log_every <= 0 || step.step % options.log_every != 0)) return;
        const std::string where = step.block < 0 ? "" : fmt::format(" of block {}", step.block);
        terminal.remark(fmt::format("step {}/{}{}  loss {:.4f}  lr {:.2e}  |g| {:.2f}  {:.0f} tok/s  {} left", step.step, step.n_steps, where, step.loss, step.learning_rate, step.gradient_norm,
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

}  // namespace skiff
