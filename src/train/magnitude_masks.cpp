#include "train/magnitude_masks.h"

#include <algorithm>
#include <cmath>

namespace skiff::train {
namespace {

// Zeros at the `n_out` smallest of all numbers, ties by index.
at::Tensor without_smallest(const at::Tensor& values, std::int64_t n_out) {
    at::Tensor mask = at::ones({values.numel()}, at::kFloat);
    if (n_out > 0) {
        const auto order = std::get<1>(at::sort(values.reshape({-1}), true, 0, false));
        mask.index_fill_(0, order.narrow(0, 0, n_out), 0.0);
    }
    return mask.view(values.sizes());
}
std::int64_t count_out(double sparsity, std::int64_t n) { return std::clamp<std::int64_t>(std::llround(sparsity * static_cast<double>(n)), 0, n); }

}  // namespace

double sparsity_at(const SparsifyOptions& options, std::int64_t step) {
    if (options.course == SparsifyOptions::Course::once || step >= options.until) return options.target;
    const double t = static_cast<double>(step) / static_cast<double>(options.until);
    if (options.course == SparsifyOptions::Course::cubic) return options.target * (1 - std::pow(1 - t, 3));
    const double stage = std::floor(t * static_cast<double>(options.n_stages)) + 1;
    return options.target * std::min(1.0, stage / static_cast<double>(options.n_stages));
}

bool prunes_before(const SparsifyOptions& options, std::int64_t step) {
    if (!options.any() || !options.mask_from.empty()) return false;
    if (options.course == SparsifyOptions::Course::once || options.pattern_m > 0) return step == 0;
    if (step == 0 || step == options.until) return true;
    if (step > options.until) return false;
    if (options.course == SparsifyOptions::Course::stages) return sparsity_at(options, step) != sparsity_at(options, step - 1);
    return step % options.every == 0;
}

std::vector<at::Tensor> magnitude_masks(const std::vector<at::Tensor>& magnitudes, double sparsity, SparsifyOptions::Scope scope) {
    std::vector<at::Tensor> masks;
    if (scope == SparsifyOptions::Scope::global) {
        std::vector<at::Tensor> flat;
        for (const at::Tensor& one : magnitudes) flat.push_back(one.reshape({-1}));
        const at::Tensor all = at::cat(flat, 0), mask = without_smallest(all, count_out(sparsity, all.numel()));
        std::int64_t begin = 0;
        for (const at::Tensor& one : magnitudes) {
            masks.push_back(mask.narrow(0, begin, one.numel()).view(one.sizes()));
            begin += one.numel();
        }
        return masks;
    }
    for (const at::Tensor& one : magnitudes) {
        if (scope == SparsifyOptions::Scope::tensor) {
            masks.push_back(without_smallest(one, count_out(sparsity, one.numel())));
            continue;
        }
        at::Tensor mask = at::ones_like(one);
        if (const std::int64_t n_out = count_out(sparsity, one.size(1)); n_out > 0)
            mask.scatter_(1, std::get<1>(at::sort(one, true, 1, false)).narrow(1, 0, n_out), 0.0);
        masks.push_back(mask);
    }
    return masks;
}

at::Tensor pattern_mask(const at::Tensor& magnitudes, std::int64_t n, std::int64_t m) {
    const std::int64_t whole = magnitudes.size(1) / m * m;  // inputs beyond the last whole group stay
    at::Tensor mask = at::ones_like(magnitudes);
    if (whole == 0) return mask;
    const at::Tensor groups = magnitudes.narrow(1, 0, whole).reshape({-1, m});
    at::Tensor kept = at::ones_like(groups);
    kept.scatter_(1, std::get<1>(at::sort(groups, true, 1, false)).narrow(1, 0, m - n), 0.0);
    mask.narrow(1, 0, whole).copy_(kept.view({magnitudes.size(0), whole}));
    return mask;
}

void leave_out_zeros(Parameter& parameter, const SparsePattern& pattern) {
    if (parameter.mask.defined() && parameter.mask_form.kind == MaskForm::Kind::written_out && parameter.key.ends_with(".weight")) parameter.mask_form = {MaskForm::Kind::if_smaller, pattern};
}

MagnitudeMasks::MagnitudeMasks(const ModelSpec& spec, ParameterSet& parameters, const SparsifyOptions& options)
    : parameters_(parameters), options_(options), columns_(keys_stored_as_columns(spec)) {
    const auto in_blocks = parameters.keys_of_blocks(spec);
    for (Parameter& parameter : parameters.all()) {
        if (parameter.role != TensorDecl::Role::linear || parameter.value.dim() != 2 || in_blocks.count(parameter.key) == 0) continue;
        if (!parameter.mask.defined()) parameter.mask = at::ones_like(parameter.value.detach());
        leave_out_zeros(parameter, options.pattern_m > 0 ? SparsePattern{1, 1, options.pattern_n, options.pattern_m} : SparsePattern{});
        keys_.push_back(parameter.key);
    }
}

at::Tensor MagnitudeMasks::as_rows(const Parameter& parameter, const at::Tensor& values) const { return columns_.count(parameter.key) != 0 ? values.t().contiguous() : values; }

void MagnitudeMasks::prune(const std::vector<at::Tensor>& magnitudes, double sparsity) {
    std::vector<at::Tensor> masks;
    if (options_.pattern_m > 0)
        for (const at::Tensor& one : magnitudes) masks.push_back(pattern_mask(one, options_.pattern_n, options_.pattern_m));
    else masks = magnitude_masks(magnitudes, sparsity, options_.scope);
    for (std::size_t i = 0; i < keys_.size(); ++i) {
        Parameter& parameter = *parameters_.find(keys_[i]);
        parameter.mask.mul_(as_rows(parameter, masks[i]));  // what is out stays out
    }
    parameters_.apply_masks();
}

Status MagnitudeMasks::take_from(const Checkpoint& other) {
    std::vector<at::Tensor> magnitudes;
    for (const std::string& key : keys_) {
        const Parameter& parameter = *parameters_.find(key);
        SKIFF_TRY(const auto weight, other.weights->load(key));
        const bool turned = weight.plain() == nullptr && columns_.count(key) != 0;
        at::Tensor values = at::empty(weight.shape, at::kFloat);
        for (std::int64_t row = 0; row < weight.n_rows(); ++row) weight.row(row, values.data_ptr<float>() + row * weight.n_columns());
        release_pages(weight);
        if (turned) values = values.t().contiguous();
        if (values.sizes() != parameter.value.sizes()) return usage_error("--mask-from " + other.path + ": tensor " + key + " has another shape there");
        magnitudes.push_back(as_rows(parameter, values).abs());
    }
    const at::NoGradGuard no_grad;
    prune(magnitudes, options_.target);
    return {};
}

void MagnitudeMasks::take_from_zeros() {
    const at::NoGradGuard no_grad;
    for (const std::string& key : keys_) {
        Parameter& parameter = *parameters_.find(key);
        parameter.mask.mul_((parameter.value != 0).to(at::kFloat));
    }
}

bool MagnitudeMasks::before_step(std::int64_t step) {
    if (!prunes_before(options_, step)) return false;
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> magnitudes;
    for (const std::string& key : keys_) {
        const Parameter& parameter = *parameters_.find(key);
        magnitudes.push_back(as_rows(parameter, parameter.value.detach()).abs());
    }
    prune(magnitudes, sparsity_at(options_, step));
    return true;
}

double MagnitudeMasks::sparsity() const {
    const Count count = this->count();
    return count.all > 0 ? count.zeros / count.all : 0;
}

MagnitudeMasks::Count MagnitudeMasks::count() const {
    Count count;
    for (const std::string& key : keys_) {
        const at::Tensor& mask = parameters_.find(key)->mask;
        count.zeros += static_cast<double>(mask.numel()) - mask.sum(at::kDouble).item<double>();
        count.all += static_cast<double>(mask.numel());
    }
    return count;
}

}  // namespace skiff::train
