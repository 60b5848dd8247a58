// skiff share: consecutive layers with one set of weights.
#include "cli/make_child.h"
#include "cli/verbs.h"
#include "compress/share/layer_groups.h"

namespace skiff {
namespace {

struct ShareOptions {
    ChildOptions common;
    std::int64_t groups = 0;
    std::string layers, choose = "measured", weights = "first";

    void fields(FieldVisitor& visitor) {
        common.model_and_output(visitor);
        visitor.option("--groups", groups, "Sets of weights that stay: consecutive layers form so many groups, each with one set");
        visitor.option("--layers", layers, "Groups by name instead: 0-1,2-5; layers in none keep their own weights");
        visitor.choice("--choose", choose, {"measured", "similar", "even"}, "Which layers form --groups. measured: those whose sharing changes the predictions on the calibration text least, each group tried by itself; similar: those whose weights lie closest together; even: equally many");
        visitor.choice("--weights", weights, {"first", "average"}, "What a group uses: the weights of its first layer, or the mean of all; what is trained afterwards may begin with either");
        common.calibration_fields(visitor);
        common.run_fields(visitor);
    }
};

Status share(ShareOptions& options, Terminal& terminal) {
    SKIFF_CHECK(options.common.check());
    if (options.layers.empty() && options.groups == 0) return usage_error("give --groups N, or --layers such as 0-1,2-5");
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
    return make_verb<ShareOptions>("share", "Let consecutive layers use one set of weights, stored and held once",
                                   {"skiff share models/pocket -o pocket-shared --groups 4", "skiff share MODEL -o OUT --layers 4-5,6-7 --weights average"}, share);
}

}  // namespace skiff
