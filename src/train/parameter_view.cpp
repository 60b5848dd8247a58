#include "train/parameter_view.h"

namespace skiff::train {

ParameterView::ParameterView(const ParameterSet& set, const ModelSpec& spec, const AxisCut& units) : set_(set) {
    for (const auto& [key, declared] : spec.tensors) {
        const Parameter* parameter = set.find(key);
        if (parameter == nullptr) continue;
        for (std::size_t d = 0; d < declared.dimensions.size(); ++d) {
            const std::vector<std::int64_t> kept = kept_entries(spec, declared.dimensions[d], units);
            const auto n = static_cast<std::int64_t>(kept.size());
            if (n == parameter->computed().size(static_cast<std::int64_t>(d))) continue;
            Entries entries{static_cast<std::int64_t>(d), kept.front(), n, {}};
            if (kept.back() - kept.front() + 1 != n) entries.index = at::tensor(kept, at::kLong).to(parameter->value.device());
            left_[key].push_back(std::move(entries));
        }
    }
}

at::Tensor ParameterView::left_of(const std::string& key, at::Tensor value) const {
    const auto found = left_.find(key);
    if (found == left_.end()) return value;
    for (const Entries& entries : found->second)
        value = entries.index.defined() ? value.index_select(entries.dimension, entries.index) : value.narrow(entries.dimension, entries.begin, entries.n);
    return value;
}

at::Tensor ParameterView::matrix(const TensorRef& ref) const {
    const Parameter* parameter = find(ref.key);
    const at::Tensor value = left_of(ref.key, parameter->computed());
    return selected_rows(ref.transposed ? value.t() : value, ref.rows);
}

at::Tensor ParameterView::merged_matrix(const TensorRef& ref) const {
    const at::Tensor value = left_of(ref.key, set_.merged(ref.key));
    return selected_rows(ref.transposed ? value.t() : value, ref.rows);
}

at::Tensor ParameterView::vector(const TensorRef& ref) const {
    if (ref.empty()) return {};
    const Parameter* parameter = find(ref.key);
    return parameter == nullptr ? at::Tensor() : selected_rows(left_of(ref.key, parameter->value), ref.rows);
}

}  // namespace skiff::train
