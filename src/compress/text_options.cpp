#include "compress/text_options.h"

#include "compress/lowrank/factor.h"
#include "compress/method.h"
#include "compress/prune/prune_method.h"

namespace skiff {
namespace {

template <class Row>
bool looks(const Row& row) {
    return row.needs != StatisticsNeed::none;
}
bool looks(const PruneMethod& row) { return row.needs != StatisticsNeed::none || row.gradients != PruneMethod::Gradients::none; }

// "magnitude looks at no text; wanda, sparsegpt, snip and taylor do"
template <class Row>
std::string by_method(const std::string& method, std::span<const Row> rows) {
    std::string others;
    for (const Row& row : rows)
        if (looks(row)) others += (others.empty() ? "" : ", ") + std::string(row.name);
    return method + " looks at no text; these do: " + others;
}

std::string why_not(const QuantizeStep& step) {
    if (!step.importance.empty()) return "the importance file says what the method would learn from a text";
    return by_method(step.method, weight_methods());
}
std::string why_not(const PruneStep& step) { return by_method(step.method, prune_methods()); }
std::string why_not(const FactorizeStep& step) { return by_method(step.method, factor_methods()); }
std::string why_not(const StructureStep& step) {
    if (step.units == UnitKind::layers || step.order == StructureStep::Order::by_importance) return "--importance " + step.importance + " looks at no text";
    return "--importance " + step.importance + " looks at no text, and nothing is compensated";
}
std::string why_not(const ShareStep& step) { return step.groups.empty() ? "only --choose measured looks at a text" : "--layers names the groups, so that no text is looked at"; }
std::string why_not(const RotateStep&) { return "no text is looked at"; }

}  // namespace

Status refuse_text_options(const RecipeStep& step, std::span<const std::string> given) {
    if (given.empty()) return {};
    return usage_error(given[0] + ": " + std::visit([](const auto& fields) { return why_not(fields); }, step));
}

}  // namespace skiff
