#include "compress/structure/structure_step.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace skiff {
namespace {

constexpr const char* kind_names[] = {"neurons", "heads", "kv_groups", "layers", "hidden"};

std::string number(double value) {
    char buffer[32];
    const auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
    return {buffer, end};
}

Result<Removal> parse_removal(const std::string& text) {
    Removal removal;
    const bool percent = text.ends_with('%');
    const std::string digits = percent ? text.substr(0, text.size() - 1) : text;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), removal.amount);
    const bool whole = error == std::errc() && end == digits.data() + digits.size() && !digits.empty();
    const bool fits = whole && removal.amount >= 0 && (percent ? removal.amount < 100 : removal.amount <= 1e6 && removal.amount == std::floor(removal.amount));
    if (!fits) return usage_error("\"" + text.substr(0, 40) + "\": expected what goes, as 25% (below 100%) or as a number of units");
    removal.by = percent ? Removal::By::share : Removal::By::count;
    if (percent) removal.amount /= 100;
    return removal;
}

}  // namespace

const char* unit_kind_name(UnitKind kind) { return kind_names[static_cast<int>(kind)]; }

std::string Removal::text() const { return by == By::share ? number(amount * 100) + "%" : number(amount); }

bool is_structure_pattern(const std::string& text) {
    return std::any_of(std::begin(kind_names), std::end(kind_names), [&](const std::string& name) { return text.starts_with(name + ":"); });
}

Result<StructureStep> parse_structure_pattern(const std::string& text) {
    StructureStep step;
    for (std::size_t i = 0; i < std::size(kind_names); ++i) {
        const std::string begin = std::string(kind_names[i]) + ":";
        if (!text.starts_with(begin)) continue;
        step.units = static_cast<UnitKind>(i);
        SKIFF_TRY(step.removal, parse_removal(text.substr(begin.size())));
        return step;
    }
    std::string known;
    for (const char* name : kind_names) known += (known.empty() ? "" : ", ") + std::string(name);
    return usage_error("\"" + text.substr(0, 60) + "\": expected units and what goes of them, such as neurons:25% or layers:2; the units are " + known);
}

Result<std::int64_t> units_kept(const Removal& removal, std::int64_t n, std::int64_t multiple_of) {
    if (removal.amount == 0) return n;
    const double left = removal.by == Removal::By::share ? static_cast<double>(n) * (1 - removal.amount) : static_cast<double>(n) - removal.amount;
    const double unit = static_cast<double>(n % multiple_of == 0 ? multiple_of : 1);
    const auto kept = static_cast<std::int64_t>(std::round(left / unit) * unit);
    if (kept < 1) return usage_error("of " + std::to_string(n) + " units none would stay; remove less");
    return kept;
}

void note_rounding(const StructureStep& step, std::int64_t n, std::int64_t n_kept, std::int64_t multiple_of, std::vector<std::string>& remarks) {
    const double asked = step.removal.by == Removal::By::share ? static_cast<double>(n) * step.removal.amount : step.removal.amount;
    if (n_kept == n || std::fabs(static_cast<double>(n - n_kept) - asked) < 1) return;
    const std::string of = step.units == UnitKind::hidden ? "directions of the hidden state" : std::string(kind_names[static_cast<int>(step.units)]) + " of each layer";
    remarks.push_back(std::to_string(n - n_kept) + " of the " + std::to_string(n) + " " + of + " go where " + step.removal.text() + (step.removal.by == Removal::By::share ? " would be " + number(std::round(asked * 10) / 10) : " were asked for") +
                      ": widths stay a multiple of " + std::to_string(multiple_of) + " (--multiple)");
}

Json structure_step_json(const StructureStep& step) {
    Json json = Json::object({{"kind", "structure"},
                              {"units", unit_kind_name(step.units)},
                              {"removed", step.removal.text()},
                              {"importance", step.importance},
                              {"compensation", step.compensation == StructureStep::Compensation::none ? "none" : "least-squares"},
                              {"spread", step.spread == StructureStep::Spread::uniform ? "uniform" : "sensitivity"},
                              {"multiple_of", step.multiple_of},
                              {"damping", step.damping},
                              {"zero_epsilon", step.zero_epsilon},
                              {"calibration_file", step.calibration.file.substr(step.calibration.file.find_last_of('/') + 1)},
                              {"calibration_samples", step.calibration.n_samples},
                              {"calibration_tokens", step.calibration.sample_tokens}});
    if (step.order == StructureStep::Order::by_importance) json.set("order", "by importance");
    return json;
}

}  // namespace skiff
