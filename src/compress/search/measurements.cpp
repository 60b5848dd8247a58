#include "compress/search/measurements.h"

namespace skiff {

Result<Measurements> Measurements::open(const std::string& path, const Json& head, Found found) {
    SKIFF_TRY(auto journal, Journal::open(path));
    if (found == Found::drop) SKIFF_CHECK(journal.clear());
    Measurements measurements(std::move(journal));
    const auto& entries = measurements.journal_.entries();
    if (entries.empty()) {
        SKIFF_CHECK(measurements.journal_.append(head));
        return measurements;
    }
    std::string differences;
    for (const auto& [key, value] : head.members())
        if (entries[0][key].dump() != value.dump()) differences += (differences.empty() ? "" : ", ") + key + " was " + entries[0][key].dump() + " and is " + value.dump();
    if (!differences.empty()) return usage_error(path + ": holds measurements of something else: " + differences + "; give the same model and options to use them, or --restart to drop them");
    for (std::size_t i = 1; i < entries.size(); ++i) {
        const Json& value = entries[i]["value"];
        if (!entries[i]["what"].is_string() || !value.is_number()) return corrupt(path + ": line " + std::to_string(i + 1) + " is no measurement; add --restart to drop the file");
        measurements.values_[entries[i]["what"].text()] = value.number_or(0);
    }
    measurements.n_found_ = measurements.values_.size();
    return measurements;
}

std::optional<double> Measurements::find(const std::string& what) const {
    const auto found = values_.find(what);
    return found == values_.end() ? std::nullopt : std::optional(found->second);
}

Status Measurements::add(const std::string& what, double value) {
    values_[what] = value;
    return journal_.append(Json::object({{"what", what}, {"value", value}}));
}

}  // namespace skiff
