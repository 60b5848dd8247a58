// skiff share: consecutive layers with one set of weights, or weights whose blocks share those of a bank.
#include "cli/make_child.h"
#include "cli/verbs.h"
#include "compress/share/layer_groups.h"

namespace skiff {
namespace {

struct ShareOptions {
    ChildOptions common;
    std::int64_t groups = 0;
    std::string layers, choose = "measured", weights = "first";
    std::int64_t hash = 0;
    std::vector<std::string> tensors;
    std::uint64_t hash_seed = 0;

    void fields(FieldVisitor& visitor) {
        common.model_and_output(visitor);
        visitor.option("--groups", groups, "Sets of weights that stay: consecutive layers form so many groups, each with one set");
        visitor.option("--layers", layers, "Groups by name instead: 0-1,2-5; layers in none keep their own weights");
        visitor.choice("--choose", choose, {"measured", "similar", "even"}, "Which layers form --groups. measured: those whose sharing changes the predictions on the calibration text least, each group tried by itself; similar: those whose weights lie closest together; even: equally many");
        visitor.choice("--weights", weights, {"first", "average"}, "What a group uses: the weights of its first layer, or the mean of all; what is trained afterwards may begin with either");
        visitor.option("--hash", hash, "Hashed weights instead of layers: blocks of 16 rows x 32 columns share those of a bank, so many of them each (4: a quarter of the weights stays). Such a model must be trained before it is of use");
        visitor.option("--tensors", tensors, "With --hash, which weights, by patterns of their names such as *.mlp.*; default: all linear weights of the decoder blocks");
        visitor.option("--hash-seed", hash_seed, "With --hash: another number, other blocks that meet");
        common.calibration_fields(visitor);
        common.run_fields(visitor);
    }
};

Status share_blocks(const ShareOptions& options, Terminal& terminal) {
    const ShareOptions plain;
    if (options.groups != 0 || !options.layers.empty() || options.common.is_typed("--choose") || options.common.is_typed("--weights")) return usage_error("--hash shares blocks of weights, --groups, --layers, --choose and --weights are about layers; share one after the other");
    if (!options.common.calibration.empty() || options.common.calibration_samples != plain.common.calibration_samples || options.common.calibration_tokens != plain.common.calibration_tokens)
        return usage_error("--hash looks at no text; leave --calibration out");
    if (options.hash < 1 || options.hash > BlockHash::most_shared) return usage_error("--hash " + std::to_string(options.hash) + ": expected 1 to " + std::to_string(BlockHash::most_shared) + ", blocks that share one");
    ShareStep step;
    step.hash = options.hash;
    step.hash_tensors = options.tensors;
    step.hash_seed = options.hash_seed;
    SKIFF_TRY(const auto parent, Checkpoint::open(options.common.model));
    Recipe recipe;
    recipe.steps.push_back(step);
    return make_child(options.common, parent, recipe, terminal);
}

Status share(ShareOptions& options, Terminal& terminal) {
    SKIFF_CHECK(options.common.check());
    if (options.hash != 0) return share_blocks(options, terminal);
    if (!options.tensors.empty() || options.hash_seed != 0) return usage_error("--tensors and --hash-seed belong to --hash N");
    if (options.layers.empty() && options.groups == 0) return usage_error("give --groups N, --layers such as 0-1,2-5, or --hash N");
    if (!options.layers.empty() && options.groups != 0) return usage_error("--groups says how many sets stay, --layers which layers share one; give one of them");
    if (!options.layers.empty() && options.choose != "measured") return usage_error("--choose " + options.choose + ": --layers names the groups already");
    ShareStep step;
    step.n_groups = options.groups;
    step.choice = options.choose == "even" ? ShareStep::Choice::even : options.choose == "similar" ? ShareStep::Choice::similar : ShareStep::Choice::measured;
    step.calibration = options.common.calibration_options();
    step.weights = options.weights == "first" ? ShareStep::Weights::first : ShareStep::Weights::average;
    if (!options.layers.empty()) {
        SKIFF_TRY(step.groups, parse_layer_groups(options.layers));
    }
    SKIFF_TRY(const auto parent, Checkpoint::open(options.common.model));
    Recipe recipe;
    recipe.steps.push_back(step);
    return make_child(options.common, parent, recipe, terminal);
}

}  // namespace

std::unique_ptr<Verb> share_verb_row() {
    return make_verb<ShareOptions>("share", "Let consecutive layers use one set of weights, or blocks of weights those of a bank, stored and held once",
                                   {"skiff share models/pocket -o pocket-shared --groups 4", "skiff share MODEL -o OUT --layers 4-5,6-7 --weights average", "skiff share models/pocket -o pocket-hashed --hash 4"}, share);
}

}  // namespace skiff
