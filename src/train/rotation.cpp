// Rope as an operator of its own, from LibTorch's operators.
#include "train/fused_rows.h"
#include "train/operators.h"

namespace skiff::train {

Rotation make_rotation(const std::vector<float>& inv_freq, float magnitude, RopeStyle style, std::int64_t n_positions, at::Device device) {
    const auto half = static_cast<std::int64_t>(inv_freq.size());
    const at::Tensor frequency = at::tensor(at::ArrayRef<float>(inv_freq.data(), inv_freq.size()));
    const at::Tensor angle = at::arange(n_positions, at::kFloat).unsqueeze(1) * frequency.view({1, half});
    return {(angle.cos() * magnitude).contiguous().to(device), (angle.sin() * magnitude).contiguous().to(device), style == RopeStyle::interleaved};
}

at::Tensor rotate(const at::Tensor& x, const Rotation& rotation, std::int64_t n_tokens, std::int64_t head_dim) {
    if (rotation.empty()) return x;
    const std::int64_t half = rotation.cosine.size(1);
    const at::Tensor heads = x.view({-1, n_tokens, x.size(1) / head_dim, head_dim});
    const at::Tensor turned = widened(heads.narrow(3, 0, 2 * half));
    const at::Tensor cosine = rotation.cosine.narrow(0, 0, n_tokens).view({1, n_tokens, 1, half}), sine = rotation.sine.narrow(0, 0, n_tokens).view({1, n_tokens, 1, half});
    at::Tensor result;
    if (rotation.interleaved) {
        const at::Tensor pairs = turned.unflatten(3, {half, 2});
        const at::Tensor a = pairs.select(4, 0), b = pairs.select(4, 1);
        result = at::stack({a * cosine - b * sine, b * cosine + a * sine}, 4).flatten(3);
    } else {
        const at::Tensor a = turned.narrow(3, 0, half), b = turned.narrow(3, half, half);
        result = at::cat({a * cosine - b * sine, b * cosine + a * sine}, 3);
    }
    result = result.to(x.scalar_type());
    if (2 * half < head_dim) result = at::cat({result, heads.narrow(3, 2 * half, head_dim - 2 * half)}, 3);
    return result.reshape(x.sizes());
}

}  // namespace skiff::train
