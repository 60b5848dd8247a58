#include "compress/structure/unit_gradients.h"

namespace skiff {

std::set<std::string> UnitTaylorScores::keys() const {
    std::set<std::string> keys;
    for (const CutAxis& axis : axes_) keys.insert(axis.reader);
    return keys;
}

Status UnitTaylorScores::add_sample(const SampleGradients& gradients, const WeightSource& weights) {
    for (const CutAxis& axis : axes_) {
        const auto n_units = static_cast<std::size_t>(axis.n_units), unit_columns = static_cast<std::size_t>(axis.unit_columns);
        std::vector<double>& scores = scores_[axis.axis];
        scores.resize(n_units);
        const auto found = gradients.find(axis.reader);
        if (found == gradients.end()) continue;
        SKIFF_TRY(const auto weight, weights.load(axis.reader));
        std::vector<double> sums(n_units);
        std::vector<float> row(static_cast<std::size_t>(weight.n_columns()));
        for (std::size_t r = 0; r < static_cast<std::size_t>(weight.n_rows()); ++r) {
            weight.row(static_cast<std::int64_t>(r), row.data());
            for (std::size_t c = 0; c < row.size(); ++c) sums[(axis.transposed ? r : c) / unit_columns] += static_cast<double>(row[c]) * static_cast<double>(found->second[r * row.size() + c]);
        }
        for (std::size_t u = 0; u < n_units; ++u) scores[u] += sums[u] * sums[u];
    }
    return {};
}

}  // namespace skiff
