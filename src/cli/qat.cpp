// skiff qat: quantization-aware training: weights are rounded in the forward pass, and learn to live with it.
#include <algorithm>

#include "cli/train_options.h"
#include "cli/verbs.h"

namespace skiff {
namespace {

struct QatVerb : TrainVerbOptions {
    std::vector<std::string> typed;
    std::string scheme, head, embedding, trained = "all", activations = "float";
    DistillVerbFields distillation;

    void fields(FieldVisitor& visitor) {
        train.schedule.peak = 2e-4;
        train.weight_decay = 0;
        train.distill.alpha = 1;
        train.n_steps = 300;
        visitor.typed(typed);
        visitor.positional("MODEL", model, "The model with 16 or 32 bit weights", FieldVisitor::Need::required);
        visitor.option("--scheme", scheme, "What the weights of linear layers become, as in skiff quantize");
        visitor.option("--head", head, "Scheme of the output layer; default: as in skiff quantize; keep: as it is");
        visitor.option("--embedding", embedding, "Scheme of the embedding table; default: as in skiff quantize; keep: as it is");
        visitor.choice("--train", trained, {"all", "scales"}, "scales: codes stay as rounding has them, only the scales of groups are trained, the cheap form");
        visitor.choice("--activations", activations, {"float", "int8", "dynamic-token", "static-minmax", "static-percentile", "static-mse", "fp8"},
                       "How training sees the inputs of quantized weights: int8: as the int8 kernels do, a scale for each run of 32; the next four, of weights of 8 bits, as skiff quantize --activations declares them to other programs: a scale for each "
                       "token, or one for all, which begins where that option would put it on the first windows and is trained; fp8: as run --gemm fp8 does, of --scheme e4m3");
        visitor.option("--percentile", train.quant.inputs.percentile, "Of static-percentile: the share of inputs that is not clipped at first, in percent");
        visitor.option("--teacher", train.distill.teacher, "The model to stay close to; default: MODEL as it was; none: learn from the text alone");
        data_fields(visitor);
        distillation.fields(visitor, train.distill);
        training_fields(visitor);
    }
};

Result<std::optional<Scheme>> table_scheme(const std::string& text, const std::optional<Scheme>& fallback) {
    if (text.empty()) return fallback;
    if (text == "keep") return std::optional<Scheme>();
    SKIFF_TRY(auto scheme, parse_scheme(text));
    return std::optional<Scheme>(scheme);
}

Status run_qat(QatVerb& options, Terminal& terminal) {
    if (!train::training_available()) return become_training_program();
    if (options.scheme.empty()) return usage_error("give the --scheme to train for, such as w4g32, n2g32r or ternary");
    SKIFF_CHECK(options.resolve());
    options.distillation.resolve(options.train.distill);
    SKIFF_TRY(const auto scheme, parse_scheme(options.scheme));
    SchemeWish wish = default_wish(scheme);
    SKIFF_TRY(wish.head, table_scheme(options.head, wish.head));
    SKIFF_TRY(wish.embedding, table_scheme(options.embedding, wish.embedding));
    train::QuantTrainOptions& quant = options.train.quant;
    quant.schemes = wish;
    quant.train = options.trained == "scales" ? train::QuantTrainOptions::Train::scales : train::QuantTrainOptions::Train::all;
    using Activations = train::QuantTrainOptions::Activations;
    quant.activations = options.activations == "float" ? Activations::floats : options.activations == "fp8" ? Activations::fp8 : Activations::int8;
    if (const auto rule = input_rule(options.activations, quant.inputs.percentile)) quant.inputs = *rule;
    if (options.activations != "static-percentile" && std::find(options.typed.begin(), options.typed.end(), "--percentile") != options.typed.end())
        return usage_error("--percentile is of --activations static-percentile; leave it out, or give that");
    SKIFF_TRY(const auto parent, Checkpoint::open(options.model));
    std::string& teacher = options.train.distill.teacher;
    if (teacher == "none") teacher.clear();
    else if (teacher.empty() && parent.kind != Checkpoint::Kind::random) teacher = options.model;
    return run_training_verb(parent, options, terminal);
}

}  // namespace

std::unique_ptr<Verb> qat_verb_row() {
    return make_verb<QatVerb>("qat", "Quantization-aware training: a model learns to live with few bits, from the model that it was",
                              {"skiff qat MODEL --scheme ternary --data books.txt -o OUT --steps 500", "skiff qat MODEL --scheme n2g32r --data books.txt -o OUT --train scales",
                               "skiff qat MODEL --scheme w4g32 --activations int8 --data books.txt -o OUT", "skiff qat MODEL --scheme w8 --activations static-mse --data books.txt -o OUT"},
                              run_qat);
}

}  // namespace skiff
