#include "train/optimizer.h"

#include <algorithm>
#include <cmath>

#include "train/fused_rows.h"

namespace skiff::train {

Optimizer::Optimizer(std::vector<ParameterSet::Trained> trained, const OptimizerSettings& settings) : settings_(settings) {
    for (ParameterSet::Trained& parameter : trained) {
        Slot slot;
        slot.orthogonal = settings.kind == OptimizerSettings::Kind::muon && parameter.in_block && parameter.value.dim() == 2;
        slot.first = at::zeros_like(parameter.value.detach());
        if (!slot.orthogonal) slot.second = at::zeros_like(slot.first);
        parameter.value.mutable_grad() = at::zeros_like(slot.first);
        slot.parameter = std::move(parameter);
        slots_.push_back(std::move(slot));
    }
}

double Optimizer::gradient_norm() const {
    double sum = 0;
    for (const Slot& slot : slots_) {
        const at::Tensor gradient = slot.parameter.value.grad();
        if (!can_fuse(gradient)) {
            sum += gradient.to(at::kDouble).square().sum().item<double>();
            continue;
        }
        // In parts of one size, added in order: the same sum on any number of threads.
        constexpr std::int64_t part = 1 << 16;
        const std::int64_t n = gradient.numel(), n_parts = (n + part - 1) / part;
        std::vector<double> sums(static_cast<std::size_t>(n_parts));
        for_rows(n_parts, 1, [&](std::int64_t first, std::int64_t last) {
            for (std::int64_t i = first; i < last; ++i)
                sums[static_cast<std::size_t>(i)] = square_sum(numbers<const float>(gradient) + i * part, std::min(part, n - i * part));
        });
        for (double value : sums) sum += value;
    }
    return std::sqrt(sum);
}

void Optimizer::step(double learning_rate, std::int64_t step, double norm) {
    const at::NoGradGuard no_grad;
    // As torch.nn.utils.clip_grad_norm_ does it.
    const double scale = settings_.clip > 0 ? std::min(1.0, settings_.clip / (norm + 1e-6)) : 1.0;
    for (Slot& slot : slots_) {
        if (slot.orthogonal) muon(slot, learning_rate, scale);
        else adamw(slot, learning_rate, step, scale);
        if (slot.parameter.mask.defined()) slot.parameter.value.masked_fill_(slot.parameter.mask == 0, 0);  // a product would leave -0
        slot.parameter.value.mutable_grad().zero_();
    }
}

void Optimizer::adamw(Slot& slot, double learning_rate, std::int64_t step, double gradient_scale) const {
    at::Tensor& value = slot.parameter.value;
    const at::Tensor gradient = value.grad();
    AdamStep adam;
    adam.learning_rate = static_cast<float>(learning_rate);
    adam.beta1 = static_cast<float>(settings_.beta1);
    adam.beta2 = static_cast<float>(settings_.beta2);
    adam.eps = static_cast<float>(settings_.eps);
    adam.weight_decay = value.dim() >= 2 ? static_cast<float>(settings_.weight_decay) : 0.0f;
    adam.correction1 = static_cast<float>(1.0 - std::pow(settings_.beta1, static_cast<double>(step)));
    adam.correction2 = static_cast<float>(1.0 - std::pow(settings_.beta2, static_cast<double>(step)));
    adam.gradient_scale = static_cast<float>(gradient_scale);
    if (can_fuse(value)) {
        for_rows(value.numel(), 1 << 14, [&](std::int64_t first, std::int64_t last) {
            adamw_update(adam, numbers<float>(value) + first, numbers<const float>(gradient) + first, numbers<float>(slot.first) + first,
                         numbers<float>(slot.second) + first, last - first);
        });
        return;
    }
    const at::Tensor g = gradient * gradient_scale;
    slot.first.mul_(settings_.beta1).add_(g, 1 - settings_.beta1);
    slot.second.mul_(settings_.beta2).addcmul_(g, g, 1 - settings_.beta2);
    const at::Tensor deviation = slot.second.sqrt().div_(std::sqrt(static_cast<double>(adam.correction2))).add_(settings_.eps);
    value.mul_(1 - learning_rate * adam.weight_decay).addcdiv_(slot.first, deviation, -learning_rate / adam.correction1);
}

// The step is scaled to the size of AdamW's (Liu et al. 2025, Muon is scalable for LLM training: 0.2 * sqrt(the longer side)), so that one
// learning rate serves both.
void Optimizer::muon(Slot& slot, double learning_rate, double gradient_scale) const {
    at::Tensor& value = slot.parameter.value;
    const at::Tensor gradient = value.grad() * gradient_scale;
    slot.first.lerp_(gradient, 1 - settings_.momentum);
    const at::Tensor direction = orthogonalized(gradient.lerp(slot.first, settings_.momentum), settings_.muon_numbers);
    const double size = 0.2 * std::sqrt(static_cast<double>(std::max(value.size(0), value.size(1))));
    value.mul_(1 - learning_rate * settings_.weight_decay).add_(direction, -learning_rate * size);
}

std::vector<std::pair<std::string, at::Tensor>> Optimizer::state() const {
    std::vector<std::pair<std::string, at::Tensor>> result;
    for (const Slot& slot : slots_) {
        result.emplace_back(slot.parameter.name + ".first", slot.first);
        if (slot.second.defined()) result.emplace_back(slot.parameter.name + ".second", slot.second);
    }
    return result;
}

std::uint64_t Optimizer::state_bytes() const {
    std::uint64_t bytes = 0;
    for (const auto& [name, tensor] : state()) bytes += static_cast<std::uint64_t>(tensor.numel()) * 4;
    return bytes;
}

at::Tensor orthogonalized(const at::Tensor& x, at::ScalarType numbers) {
    constexpr double a = 3.4445, b = -4.7750, c = 2.0315;
    const bool tall = x.size(0) > x.size(1);
    at::Tensor y = (tall ? x.t() : x).to(numbers).contiguous();
    y = y / (y.to(at::kFloat).norm().clamp_min(1e-7)).to(numbers);
    for (int i = 0; i < 5; ++i) {
        const at::Tensor gram = at::mm(y, y.t());
        // Fused sums: in bf16 each rounds once.
        const at::Tensor polynomial = at::addmm(gram, gram, gram, b, c);
        y = at::addmm(y, polynomial, y, a, 1);
    }
    return (tall ? y.t() : y).to(at::kFloat);
}

}  // namespace skiff::train
