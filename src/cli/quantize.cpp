// skiff quantize: a smaller model by rounding its weights to fewer bits.
#include "cli/format.h"
#include "cli/make_child.h"
#include "cli/method_table.h"
#include "cli/net_child.h"
#include "cli/train_options.h"
#include "cli/verbs.h"
#include "compress/method.h"
#include "compress/pipeline.h"
#include "compress/quantize/block_transform.h"
#include "measure/scheme_speed.h"
#include "model/input_order.h"
#include "train/train.h"

namespace skiff {
namespace {

struct QuantizeOptions {
    std::string model, output, scheme, head, embedding, scale_rule = "search", method = "nearest", calibration, column_order = "by-groups", learn_by = "block", clip = "auto", activations = "dynamic", importance;
    bool compat = false, force = false, dry_run = false, restart = false, requantize = false, verbose = false, show_methods = false;
    std::vector<std::string> scheme_for;
    std::string ladder, sensitivity = "automatic", scheme_unit = "shared-input", measurements;
    double target_mb = 0, target_bpw = 0;
    std::int64_t sensitivity_tokens = 8192, refinements = 2;
    std::int64_t threads = 0, max_shard_mb = 5000, calibration_samples = 32, calibration_tokens = 512;
    MethodOptions method_options;
    std::vector<std::string> typed;

    void fields(FieldVisitor& visitor) {
        visitor.typed(typed);
        std::string schemes = "What the weights of linear layers become: ";
        for (const SchemePreset& preset : scheme_presets()) schemes += (&preset == scheme_presets().data() ? "" : ", ") + std::string(preset.name);
        help_ = schemes + "; an a behind means asymmetric. Default: the scheme that decodes fastest on this machine of those with an error of at most 8 % on normal weights, measured now";
        std::vector<std::string> methods;
        for (const WeightMethod& row : weight_methods()) methods.emplace_back(row.name);
        visitor.positional("MODEL", model, "A Hugging Face folder, a .gguf file, or random:CONFIG.json", FieldVisitor::Need::optional);
        visitor.flag("--methods", show_methods, "Show which method is defined on which scheme, and why not elsewhere, and stop");
        visitor.option("-o,--output", output, "Folder to write; it appears when it is complete");
        visitor.option("--scheme", scheme, help_.c_str());
        visitor.option("--head", head, "Scheme of the output layer; default: w8 where --scheme has fewer bits; keep: as it is");
        visitor.option("--embedding", embedding, "Scheme of the embedding table; default: w8 where --scheme has fewer bits; keep: as it is");
        visitor.option("--scheme-for", scheme_for, "PATTERN=SCHEME: of the tensors whose key matches, such as \"*.down_proj=n4g32r\"; may be repeated, the last one that matches counts; =keep: as it is");
        visitor.option("--target-mb", target_mb, "Millions of bytes that the weight files may take, all included: measures what each part of the model loses in each scheme of --ladder, and gives the parts those that lose least");
        visitor.option("--target-bpw", target_bpw, "The same by bits per weight of all tensors together");
        visitor.option("--ladder", ladder, "With a target: the schemes to choose from, with commas; default: one for each number of bits, 2 to 6 and 8");
        visitor.choice("--scheme-unit", scheme_unit, {"shared-input", "tensor"}, "With a target: what gets a scheme of its own: operators that read one value together (q|k|v, gate|up), or each tensor");
        visitor.choice("--sensitivity", sensitivity, {"automatic", "every-scheme", "one-scheme"},
                       "With a target: measure every part in every scheme; or in one, and estimate the others by the error of its outputs; automatic: the first, unless that would take hours");
        visitor.option("--sensitivity-tokens", sensitivity_tokens, "With a target: tokens of the calibration text for each measurement");
        visitor.option("--refinements", refinements, "With a target: times that the parts are measured anew around the result, and changed where the rest of the text agrees");
        visitor.option("--measurements", measurements, "With a target: keep what is measured in this file, for other targets; default: it is kept beside the output until that is complete");
        visitor.flag("--compat", compat, "Write only what other programs load: head and embedding keep their type, no short groups");
        visitor.choice("--method", method, methods, "How codes are chosen");
        visitor.option("--calibration", calibration, "Text that methods which look at the data are shown, .txt or .jsonl; default: a few pages that the program holds. Never the text of an evaluation");
        visitor.option("--calibration-samples", calibration_samples, "Stretches of that text");
        visitor.option("--calibration-tokens", calibration_tokens, "Tokens of each");
        for (const BlockTransform& row : block_transforms()) transform_help_ += (transform_help_.empty() ? "" : "; ") + std::string(row.name) + ": " + std::string(row.summary);
        transform_help_ = "Done to the weights of each block before they are rounded, without changing what it computes; may be repeated. " + transform_help_;
        visitor.option("--transform", transforms, transform_help_.c_str());
        visitor.option("--smooth-alpha", method_options.smooth_alpha, "Of smooth: how much of the inputs' spread goes into the weights, 0 to 1");
        visitor.choice("--column-order", column_order, {"by-groups", "by-inputs", "as-stored"},
                       "Of gptq: groups of columns whose inputs are largest first, with scales fitted on the way; columns whose inputs are largest first, with scales fitted before; or as they lie. All cost the same at run time");
        visitor.option("--damping", method_options.damping, "Of gptq and autoround: what is added to the diagonal of the inputs' second moments, as a share of its mean; ten times as much where that is too little");
        visitor.option("--refine-passes", method_options.refine_passes, "Of gptq: passes over codes and scales afterwards, each taking its best value while the others hold");
        visitor.option("--iterations", method_options.n_iterations, "Of autoround: steps along the sign of the gradient");
        visitor.choice("--learn-by", learn_by, {"block", "operator"}, "Of autoround: what is to lose little, the output of the whole block or that of each operator");
        visitor.choice("--clip", clip, {"auto", "search", "none"}, "Of --transform awq: search: the largest weights of a group are clipped where that lowers the error of the output; auto: so, but not before gptq and autoround, which make up for them and lose by it");
        visitor.option("--importance", importance, "What weighted, hqq and kmeans else learn from the inputs of a calibration text: an importance matrix of llama.cpp (.imatrix, .dat or .gguf) says it; or gradients, with kmeans and clusters: the squared gradient of the loss by each weight, which training computes on that text");
        visitor.option("--correct", correct, "What is put right after rounding: scale, the size of each output, by the scales of rows; bias, the mean error of each output, in biases that the model has or config.json can give it; norm, the gains of norms; several with commas; none. Left out: scale with gptq, else none");
        visitor.choice("--activations", activations, {"dynamic", "dynamic-token", "static-minmax", "static-percentile", "static-mse"},
                       "Scales of the 8-bit inputs of weights of 8 bits: each run of 32 of a token by itself; dynamic-token: so here, and other programs are told to quantize inputs with a scale for each token; or one for all, from the calibration text: its extremes, --percentile of it, or the one that loses least");
        visitor.option("--percentile", percentile, "Of static-percentile: the share of inputs that is not clipped, in percent");
        visitor.option("--outliers", outliers, "Share of the weights of every row, the largest, that stand beside the codes in 16 bits, such as 0.5%: scales become smaller, and the rest is rounded finer");
        visitor.choice("--scale-rule", scale_rule, {"search", "min-max"},
                       "search: the scale with the least squared error; min-max: the extremes as they are");
        visitor.choice("--device", device, {"cpu", "cuda"}, "What runs the model on the calibration text and adds up what its operators are fed; cuda: an NVIDIA GPU (skiff doctor), with its roundings");
        visitor.flag("--allow-requantize", requantize, "Accept weights that are quantized already; rounding twice loses twice");
        visitor.flag("--force", force, "Replace the output folder if it exists; the old one stays until the new one is complete");
        visitor.flag("--restart", restart, "Drop an unfinished run of the same output instead of going on with it");
        visitor.flag("--dry-run", dry_run, "Say sizes, memory, disk and time, and stop");
        visitor.option("-t,--threads", threads, "Threads; 0: the physical cores that this process may use. The result does not depend on it");
        visitor.option("--max-shard-mb", max_shard_mb, "Largest weight file, in millions of bytes");
        visitor.flag("-v,--verbose", verbose, "A line for each tensor");
    }
    std::string help_, transform_help_, outliers, device = "cpu";
    std::vector<std::string> transforms, correct;
    double percentile = 99.99;
};

// The scheme that this machine decodes fastest of those that lose little: about what 4 bits lose. Says why.
Result<std::string> fastest_scheme(Terminal& terminal) {
    constexpr double max_relative_error = 0.08;
    SchemeSpeedOptions options;
    options.n_threads = default_thread_count();
    for (const SchemePreset& preset : scheme_presets())
        if (preset.scheme.bits <= 8 && preset.scheme.bits >= 3) options.schemes.emplace_back(preset.name);
    options.progress = terminal.progress(" schemes");
    SKIFF_TRY(const auto speeds, measure_schemes(options));
    const SchemeSpeed* best = best_scheme(speeds, max_relative_error);
    if (best == nullptr) return std::string("w8");
    terminal.remark("scheme " + best->scheme + ": of the schemes with an error of at most 8 % on normal weights it decodes fastest here (" + number_text(best->decode_gmacs, 1) + " GMAC/s, error " +
                    number_text(best->relative_error * 100, 2) + " %); skiff doctor --schemes shows all, --scheme chooses");
    return best->scheme;
}

std::vector<std::string> split_at_commas(const std::string& list) {
    std::vector<std::string> names;
    std::string name;
    for (char c : list + ",") {
        if (c != ',') name += c;
        else if (!name.empty()) names.push_back(std::exchange(name, {}));
    }
    return names;
}

bool has_target(const QuantizeOptions& options) { return options.target_mb > 0 || options.target_bpw > 0; }

Status check_target(const QuantizeOptions& options) {
    if (options.target_mb < 0 || options.target_bpw < 0) return usage_error("a target must be more than 0");
    if (options.target_mb > 0 && options.target_bpw > 0) return usage_error("--target-mb and --target-bpw: give one of them");
    if (has_target(options) && !options.scheme.empty()) return usage_error("--scheme and a target: give one of them; --ladder names the schemes to choose from, --scheme-for those of certain tensors");
    const bool unused = !options.ladder.empty() || options.sensitivity != "automatic" || options.scheme_unit != "shared-input" || options.sensitivity_tokens != 8192 || options.refinements != 2 || !options.measurements.empty();
    if (!has_target(options) && unused) return usage_error("--ladder, --scheme-unit, --sensitivity, --sensitivity-tokens, --refinements and --measurements belong to --target-mb or --target-bpw");
    if (options.sensitivity_tokens < 1) return usage_error("--sensitivity-tokens " + std::to_string(options.sensitivity_tokens) + ": expected 1 or more");
    if (options.refinements < 0 || options.refinements > 100) return usage_error("--refinements " + std::to_string(options.refinements) + ": expected 0 to 100");
    return {};
}

SchemeTarget target_of(const QuantizeOptions& options) {
    SchemeTarget target;
    target.file_bytes = static_cast<std::uint64_t>(options.target_mb * 1e6 + 0.5);
    target.bits_per_weight = options.target_bpw;
    target.ladder = split_at_commas(options.ladder);
    target.unit = options.scheme_unit == "tensor" ? SchemeTarget::Unit::tensor : SchemeTarget::Unit::shared_input;
    target.measure = options.sensitivity == "every-scheme" ? SchemeTarget::Measure::every_scheme
                     : options.sensitivity == "one-scheme" ? SchemeTarget::Measure::one_scheme
                                                           : SchemeTarget::Measure::automatic;
    target.n_tokens = options.sensitivity_tokens;
    target.n_refinements = static_cast<int>(options.refinements);
    return target;
}

// The scheme of a table: as asked, or `fallback`.
Result<std::optional<Scheme>> table_scheme(const std::string& text, const std::optional<Scheme>& fallback) {
    if (text.empty()) return fallback;
    if (text == "keep") return std::optional<Scheme>();
    SKIFF_TRY(auto scheme, parse_scheme(text));
    return std::optional<Scheme>(scheme);
}

Result<double> outlier_share(const std::string& text) {
    if (text.empty()) return 0.0;
    char* end = nullptr;
    const double percent = std::strtod(text.c_str(), &end);
    if (end == text.c_str() || std::string_view(end) != "%" || !(percent >= 0 && percent <= 10)) return usage_error("--outliers " + text + ": expected a share from 0% to 10%, such as 0.5%");
    return percent / 100;
}

Result<QuantizeStep> step_of(const QuantizeOptions& options, const Checkpoint& parent) {
    QuantizeStep step;
    step.method = options.method;
    step.calibration = {options.calibration, options.calibration_samples, options.calibration_tokens};
    step.method_options = options.method_options;
    step.transforms = options.transforms;
    SKIFF_TRY(step.outliers, outlier_share(options.outliers));
    if (step.outliers > 0 && options.compat) return usage_error("--outliers: other programs do not read them; leave --compat out");
    step.method_options.learning = options.learn_by == "block" ? MethodOptions::Learning::by_block : MethodOptions::Learning::by_operator;
    step.method_options.clip = options.clip == "search" || (options.clip == "auto" && options.method != "gptq" && options.method != "autoround") ? MethodOptions::Clip::search : MethodOptions::Clip::none;
    step.importance = options.importance;
    SKIFF_TRY(step.corrections, parse_corrections(options.correct));
    if (options.correct.empty()) step.corrections.scale = options.method == "gptq";  // which measures all pairs of inputs itself
    if (options.activations != "dynamic") step.inputs = *input_rule(options.activations, options.percentile);
    using Order = MethodOptions::Order;
    step.method_options.order = options.column_order == "by-groups" ? Order::by_groups : options.column_order == "by-inputs" ? Order::by_inputs : Order::as_stored;
    step.scale_rule = options.scale_rule == "search" ? ScaleRule::search : ScaleRule::min_max;
    step.quantized = options.requantize ? QuantizeStep::Quantized::requantize : QuantizeStep::Quantized::refuse;
    SKIFF_TRY(const auto scheme, parse_scheme(options.scheme));
    step.schemes = default_wish(scheme);
    if (has_target(options)) {
        step.target = target_of(options);
        // Tables whose scheme is given are not searched for.
        for (const auto& [key, use] : tensor_uses(parent.spec)) {
            const bool is_head = use == TensorUse::head || use == TensorUse::tied_embedding, is_embedding = use == TensorUse::embedding || use == TensorUse::tied_embedding;
            std::string given = is_head && !options.head.empty() ? options.head : is_embedding ? options.embedding : "";
            if (given.empty() && options.compat && (is_head || is_embedding)) given = "keep";
            if (given.empty()) continue;
            SKIFF_TRY(auto rule, parse_scheme_rule(key + "=" + given));
            step.schemes.rules.push_back(std::move(rule));
        }
    }
    for (const std::string& text : options.scheme_for) {
        SKIFF_TRY(auto rule, parse_scheme_rule(text));
        step.schemes.rules.push_back(std::move(rule));
    }
    if (options.compat) {
        step.loadable = QuantizeStep::Loadable::elsewhere;
        if (scheme.is_coded()) step.schemes.head = step.schemes.embedding = std::nullopt;
    }
    SKIFF_TRY(step.schemes.head, table_scheme(options.head, step.schemes.head));
    SKIFF_TRY(step.schemes.embedding, table_scheme(options.embedding, step.schemes.embedding));
    // A tied table is one tensor: either option names it.
    bool tied = false;
    for (const auto& [key, use] : tensor_uses(parent.spec)) tied = tied || use == TensorUse::tied_embedding;
    if (tied && options.head.empty() && !options.embedding.empty()) step.schemes.head = step.schemes.embedding;
    if (tied && !options.head.empty() && !options.embedding.empty() && step.schemes.head != step.schemes.embedding)
        return usage_error("--head " + options.head + " and --embedding " + options.embedding +
                           " differ, but in this model they are one tensor; give one of them");
    if (tied) step.schemes.embedding = step.schemes.head;
    return step;
}

Json estimate_json(const WorkEstimate& estimate) {
    return Json::object({{"bytes_before", estimate.bytes_before},
                         {"bytes_after", estimate.bytes_after},
                         {"bits_per_weight", estimate.bits_per_weight},
                         {"memory_bytes", estimate.memory_bytes},
                         {"disk_bytes", estimate.disk_bytes},
                         {"free_disk_bytes", estimate.free_disk_bytes},
                         {"seconds", estimate.seconds}});
}

std::string estimate_text(const WorkEstimate& estimate) {
    return "weights " + bytes_text(estimate.bytes_before) + " -> " + bytes_text(estimate.bytes_after) + " (" +
           number_text(estimate.bits_per_weight, 2) + " bits per weight) · memory about " + bytes_text(estimate.memory_bytes) + " · disk " +
           bytes_text(estimate.disk_bytes) + " of " + bytes_text(estimate.free_disk_bytes) + " free · about " + duration_text(estimate.seconds);
}

std::string search_text(const SchemeSearchEstimate& search) {
    return "schemes for " + std::to_string(search.n_units) + " parts out of " + std::to_string(search.n_schemes) + ": " + std::to_string(search.n_measurements) + " measurements (" + search.measure + ", refined " +
           std::to_string(search.n_refinements) + " times) · about " + duration_text(search.seconds) + " · the ladder gives files of " + std::to_string(search.smallest_bytes) + " to " +
           std::to_string(search.largest_bytes) + " bytes\nthen, with one scheme for all (the search gives each part its own within the same target):";
}

// What the search chose.
std::string units_table(const Json& found) {
    std::vector<std::vector<std::string>> rows = {{"part", "scheme", "bytes", "KL of it alone"}};
    for (const Json& unit : found["units"].items()) {
        const std::string& chosen = unit["chosen"].text();
        char kl[32];
        std::snprintf(kl, sizeof kl, "%.3e", unit["kl"][chosen].number_or(0));
        rows.push_back({unit["name"].text(), chosen, bytes_text(static_cast<std::uint64_t>(unit["bytes"][chosen].int_or(0))), kl});
    }
    return table_text(rows, TableStyle::plain);
}

// Elements, bytes and error by scheme.
std::string table_of(const Manifest& manifest) {
    struct Sum {
        std::uint64_t n = 0, n_elements = 0, bytes = 0;
        double largest_error = 0;
    };
    std::map<std::string, Sum> sums;
    for (const ManifestTensor& tensor : manifest.tensors) {
        Sum& sum = sums[tensor.scheme];
        ++sum.n;
        sum.n_elements += tensor.n_elements;
        sum.bytes += tensor.bytes;
        sum.largest_error = std::max(sum.largest_error, tensor.relative_squared_error);
    }
    std::vector<std::vector<std::string>> rows = {{"scheme", "tensors", "weights", "bytes", "bits/weight", "largest squared error"}};
    for (const auto& [name, sum] : sums)
        rows.push_back({name, std::to_string(sum.n), count_text(static_cast<double>(sum.n_elements)), bytes_text(sum.bytes),
                        number_text(sum.n_elements > 0 ? static_cast<double>(sum.bytes) * 8 / static_cast<double>(sum.n_elements) : 0, 2),
                        number_text(sum.largest_error * 100, 4) + " %"});
    return table_text(rows, TableStyle::plain);
}

// Options of one method, transform or kind of activations, where another one was chosen.
Status check_idle_options(const QuantizeOptions& options) {
    const auto transforms = [&](std::string_view name) { return std::find(options.transforms.begin(), options.transforms.end(), name) != options.transforms.end(); };
    const bool is_gptq = options.method == "gptq", is_autoround = options.method == "autoround";
    const struct {
        std::string_view option, of;
        bool concerns;
    } rows[] = {
        {"--smooth-alpha", "--transform smooth", transforms("smooth")},
        {"--clip", "--transform awq", transforms("awq")},
        {"--percentile", "--activations static-percentile", options.activations == "static-percentile"},
        {"--column-order", "--method gptq", is_gptq},
        {"--refine-passes", "--method gptq", is_gptq},
        {"--iterations", "--method autoround", is_autoround},
        {"--learn-by", "--method autoround", is_autoround},
        {"--damping", "--method gptq and autoround", is_gptq || is_autoround},
    };
    for (const auto& row : rows)
        if (!row.concerns && std::find(options.typed.begin(), options.typed.end(), row.option) != options.typed.end())
            return usage_error(std::string(row.option) + " is of " + std::string(row.of) + "; leave it out, or give that");
    return {};
}

// A network of convolutions takes the scheme, exceptions by name, and the rule of the scales.
Status quantize_network(const QuantizeOptions& options, Terminal& terminal) {
    SKIFF_CHECK(only_for_nets(options.typed, {"--scheme", "--scheme-for", "--scale-rule", "--output", "--force", "--dry-run", "--threads"}));
    SKIFF_TRY(const auto scheme, parse_scheme(options.scheme.empty() ? "w8g32" : options.scheme));
    SchemeWish wish = default_wish(scheme);
    for (const std::string& text : options.scheme_for) {
        SKIFF_TRY(auto rule, parse_scheme_rule(text));
        wish.rules.push_back(std::move(rule));
    }
    NetChildOptions child;
    child.model = options.model, child.output = options.output, child.force = options.force, child.dry_run = options.dry_run, child.threads = options.threads;
    return quantize_net(child, wish, options.scale_rule == "search" ? ScaleRule::search : ScaleRule::min_max, terminal);
}

Status quantize(QuantizeOptions& options, Terminal& terminal) {
    if (options.show_methods && options.model.empty()) {
        show_method_table(terminal);
        return {};
    }
    if (options.show_methods) return usage_error("--methods shows a table and makes no model; leave MODEL out, or --methods");
    if (options.model.empty()) return usage_error("give the MODEL: a Hugging Face folder, a .gguf file, or random:CONFIG.json; skiff quantize --help says more");
    if (options.threads < 0 || options.threads > 1024) return usage_error("--threads " + std::to_string(options.threads) + ": expected 0 to 1024");
    if (options.max_shard_mb < 1 || options.max_shard_mb > 1'000'000)
        return usage_error("--max-shard-mb " + std::to_string(options.max_shard_mb) + ": expected 1 to 1000000");
    const MethodOptions& method = options.method_options;
    for (const std::string& name : options.transforms) {
        SKIFF_TRY(const auto known, find_block_transform(name));  // before the model is opened
        (void)known;
    }
    if (!(method.smooth_alpha >= 0 && method.smooth_alpha <= 1)) return usage_error("--smooth-alpha " + number_text(method.smooth_alpha, 4) + ": expected 0 to 1");
    if (!(method.damping > 0) || method.damping > 1) return usage_error("--damping " + number_text(method.damping, 4) + ": expected more than 0 and at most 1");
    if (!(options.percentile > 0) || options.percentile > 100) return usage_error("--percentile " + number_text(options.percentile, 4) + ": expected more than 0 and at most 100");
    if (method.refine_passes < 0 || method.refine_passes > 1000) return usage_error("--refine-passes " + std::to_string(method.refine_passes) + ": expected 0 to 1000");
    if (method.n_iterations < 1 || method.n_iterations > 100'000) return usage_error("--iterations " + std::to_string(method.n_iterations) + ": expected 1 to 100000");
    if (options.output.empty() && !options.dry_run) return usage_error("give the folder to write with -o");
    SKIFF_CHECK(check_target(options));
    if (!net::is_net(options.model)) SKIFF_CHECK(check_idle_options(options));  // of a network every such option is refused
    if (!options.scheme.empty()) {
        SKIFF_TRY(const auto known, parse_scheme(options.scheme));  // before the model is opened
        (void)known;
    }
    if (net::is_net(options.model)) return quantize_network(options, terminal);
    if (options.importance == importance_by_gradients && options.method == "kmeans" && !train::training_available()) return become_training_program().take_error().with_context("--importance gradients is computed by training");
    SKIFF_TRY(auto opened, Checkpoint::open(options.model));
    const Checkpoint parent = with_inputs_in_order(std::move(opened));
    CompressOptions compress;
    compress.output = options.output.empty() ? "." : options.output;
    compress.if_exists = options.force ? AtomicDirectory::IfExists::replace : AtomicDirectory::IfExists::refuse;
    compress.unfinished = options.restart ? CompressOptions::Unfinished::restart : CompressOptions::Unfinished::resume;
    compress.work = options.dry_run ? CompressOptions::Work::estimate_only : CompressOptions::Work::full;
    compress.n_threads = options.threads > 0 ? static_cast<int>(options.threads) : default_thread_count();
    compress.max_shard_bytes = static_cast<std::uint64_t>(options.max_shard_mb) * 1'000'000;
    if (options.scheme.empty() && has_target(options)) {
        options.scheme = options.ladder.empty() ? "w8" : split_at_commas(options.ladder).front();  // the search says
    } else if (options.scheme.empty()) {
        QuantizeOptions any = options;  // what is wrong with the other options is said before the kernels are measured, which takes half a minute
        any.scheme = "w8";
        SKIFF_CHECK(step_of(any, parent));
        if (!options.dry_run) SKIFF_CHECK(check_output(compress, parent));
        SKIFF_TRY(options.scheme, fastest_scheme(terminal));
    }
    Recipe recipe;
    SKIFF_TRY(const auto step, step_of(options, parent));
    recipe.steps.push_back(step);

    std::size_t n_remarks = 0;  // that were printed before the work
    SKIFF_TRY(const auto blocks, calibration_device(options.device));
    compress.blocks = blocks.get();
    compress.gradients = train::gradient_source();
    compress.measurements = options.measurements;
    compress.text_options = text_options(options.typed);
    compress.progress = terminal.progress(has_target(options) ? "" : " MiB");
    compress.on_search = [&](const SchemeSearchEstimate& search) { terminal.print(search_text(search)); };
    compress.on_plan = [&](const TensorPlan& plan, const WorkEstimate& estimate) {
        compress.progress = terminal.progress(" MiB");  // the clock of the work itself
        for (const std::string& remark : plan.remarks) terminal.remark("note: " + remark);
        n_remarks = plan.remarks.size();
        if (options.dry_run) terminal.print(estimate_text(estimate));
        else terminal.remark(estimate_text(estimate));
    };
    if (options.verbose)
        compress.on_tensor = [&](const ManifestTensor& tensor) {
            terminal.remark(tensor.key + ": " + tensor.from + " -> " + tensor.scheme + ", " + bytes_text(tensor.bytes) + ", squared error " +
                            number_text(tensor.relative_squared_error * 100, 4) + " %");
        };
    SKIFF_TRY(const auto report, run_recipe(parent, recipe, compress));
    terminal.end_progress();
    for (std::size_t i = n_remarks; i < report.remarks.size(); ++i) terminal.remark("note: " + report.remarks[i]);
    Json document = Json::object({{"estimate", estimate_json(report.estimate)}});
    if (!options.dry_run) {
        if (report.n_resumed > 0) terminal.remark("went on with an unfinished run: " + std::to_string(report.n_resumed) + " tensors were done");
        for (const std::string& remark : report.method_remarks) terminal.remark("note: " + remark);
        const Json& found = report.manifest.steps.back()["found"];
        if (found.contains("units")) terminal.print(units_table(found));  // of a search for schemes
        terminal.print(table_of(report.manifest));
        terminal.print("wrote " + options.output + " in " + duration_text(report.seconds) + "; try: skiff run " + options.output);
        document.set("output", options.output);
        document.set("seconds", report.seconds);
        document.set("resumed_tensors", static_cast<std::uint64_t>(report.n_resumed));
        document.set("manifest", manifest_json(report.manifest));
    }
    Json remarks = Json::array();
    for (const std::string& remark : report.remarks) remarks.push_back(remark);
    for (const std::string& remark : report.method_remarks) remarks.push_back(remark);
    document.set("remarks", remarks);
    terminal.result(document);
    return {};
}

}  // namespace

std::unique_ptr<Verb> quantize_verb_row() {
    return make_verb<QuantizeOptions>("quantize", "Make a model smaller by rounding its weights to 16 to 1 bits",
                                      {"skiff quantize models/pocket -o pocket-w4 --scheme w4g32",
                                       "skiff quantize MODEL -o OUT --scheme w4g128 --compat", "skiff quantize MODEL --scheme w8 --dry-run"},
                                      quantize);
}

}  // namespace skiff
