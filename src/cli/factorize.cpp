// skiff factorize: linear weights as products of two thin matrices.
#include <charconv>

#include "cli/make_child.h"
#include "cli/net_child.h"
#include "cli/verbs.h"
#include "compress/lowrank/factor.h"

namespace skiff {
namespace {

struct FactorizeOptions {
    ChildOptions common;
    std::string method = "svd-llm", rank, remove, energy, budget, original, layers, pattern;
    std::int64_t multiple = 16;

    void fields(FieldVisitor& visitor) {
        std::vector<std::string> methods;
        help_ = "What is best:";
        for (const FactorMethod& row : factor_methods()) {
            methods.emplace_back(row.name);
            help_ += " " + std::string(row.name) + ": " + std::string(row.summary) + ".";
        }
        methods.emplace_back("correction");
        methods.emplace_back("sparse-low-rank");
        for (const char* of_nets : {"depthwise", "tucker", "kronecker"}) methods.emplace_back(of_nets);
        help_ += " correction: factors beside the codes of a quantized model, of what its rounding lost (EoRA, LQER). sparse-low-rank: factors of --rank and what --pattern leaves of the rest, found in turns. Of networks of convolutions: svd, for pointwise ones; depthwise: windows by depthwise kernels, then pointwise; tucker: pointwise, a small core, pointwise; kronecker: of pointwise ones, sums of Kronecker products";
        common.model_and_output(visitor);
        visitor.choice("--method", method, methods, help_.c_str());
        visitor.option("--remove", remove, "Of each weight's numbers, what goes: 25% (the default)");
        visitor.option("--rank", rank, "The rank of each weight: 64, or 25% of the full rank");
        visitor.option("--energy", energy, "Of the squared singular values of each weight, what stays: 0.95 or 95%");
        visitor.option("--budget", budget, "Of all these weights together, what goes: 25%; each gets the rank that serves the model best, by what cutting it was measured to cost");
        visitor.option("--multiple", multiple, "Ranks are a multiple of this");
        visitor.option("--pattern", pattern, "With --method sparse-low-rank: what goes of the part that is not low rank: 50% (the default), 2:4, block16x32:50% ...");
        visitor.option("--original", original, "With --method correction: the model that this one was quantized from");
        visitor.option("--layers", layers, layers_help);
        common.calibration_fields(visitor);
        common.run_fields(visitor);
    }
    std::string help_;
};

// "25%" or "0.25"; a number above 1 is a count.
Result<double> share_of_text(const std::string& flag, const std::string& text, bool& is_count) {
    const bool percent = text.ends_with('%');
    const std::string digits = percent ? text.substr(0, text.size() - 1) : text;
    double value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size() || !(value >= 0)) return usage_error(flag + " " + text.substr(0, 40) + ": expected a number or a percentage");
    is_count = !percent && value > 1;
    return percent ? value / 100 : value;
}

Status factorize(FactorizeOptions& options, Terminal& terminal) {
    using Rule = FactorizeStep::Rule;
    SKIFF_CHECK(options.common.check());
    FactorizeStep step;
    step.method = options.method;
    step.multiple_of = options.multiple;
    step.original = options.original;
    step.calibration = options.common.calibration_options();
    int n_rules = 0;
    for (const auto& [flag, text, rule] : {std::tuple{"--remove", &options.remove, Rule::remove}, std::tuple{"--rank", &options.rank, Rule::share}, std::tuple{"--energy", &options.energy, Rule::energy},
                                           std::tuple{"--budget", &options.budget, Rule::budget}}) {
        if (text->empty()) continue;
        ++n_rules;
        bool is_count = false;
        step.rule = rule;
        SKIFF_TRY(step.amount, share_of_text(flag, *text, is_count));
        const bool is_one = rule == Rule::share && *text == "1";
        if ((is_count || is_one) && rule == Rule::share) step.rule = Rule::rank;
        else if (is_count) return usage_error(std::string(flag) + " " + *text + ": expected a share, such as 25%");
    }
    if (n_rules > 1) return usage_error("give one of --remove, --rank, --energy and --budget");
    if (net::is_net(options.common.model)) {
        SKIFF_CHECK(only_for_nets(options.common.typed, {"--method", "--rank", "--energy", "--layers", "--output", "--force", "--dry-run", "--threads"}));
        if (!is_net_factorization(step.method)) return usage_error("--method: a network of convolutions is factorized by depthwise, tucker, svd or kronecker");
        if (n_rules == 0) {
            step.rule = Rule::rank, step.amount = 1;
            if (step.method == "tucker" || step.method == "svd") step.rule = Rule::share, step.amount = 0.5;
        }
        using NetRule = net::NetFactorization::Rule;
        net::NetFactorization wish;
        wish.rule = step.rule == Rule::energy ? NetRule::energy : step.rule == Rule::share ? NetRule::share : NetRule::rank;
        wish.amount = step.amount;
        return factorize_net(NetChildOptions(options.common, options.layers), step.method, wish, terminal);
    }
    if (!options.layers.empty() || (step.method != "svd" && is_net_factorization(step.method))) return usage_error("--layers, depthwise, tucker and kronecker are for networks of convolutions");
    const bool is_both = step.method == "sparse-low-rank";
    if (!options.pattern.empty() && !is_both) return usage_error("--pattern is for --method sparse-low-rank");
    if (is_both) step.method += ":" + (options.pattern.empty() ? "50%" : options.pattern);
    if (n_rules == 0 && is_both) step.rule = Rule::rank, step.amount = 16;
    if (n_rules == 0 && step.method == "correction") step.rule = Rule::rank, step.amount = 16;
    SKIFF_TRY(const auto parent, Checkpoint::open(options.common.model));
    Recipe recipe;
    recipe.steps.push_back(step);
    return make_child(options.common, parent, recipe, terminal);
}

}  // namespace

std::unique_ptr<Verb> factorize_verb_row() {
    return make_verb<FactorizeOptions>("factorize", "Make a model smaller by writing its weights as products of thin matrices",
                                       {"skiff factorize models/pocket -o pocket-thin --remove 25%", "skiff factorize MODEL -o OUT --budget 25% --calibration FILE",
                                        "skiff factorize QUANTIZED -o OUT --method correction --original MODEL --rank 16"},
                                       factorize);
}

}  // namespace skiff
