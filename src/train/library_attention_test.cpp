// Attention as one operator of LibTorch, which GPUs use, against attention put together from small ones: results and gradients.
#include <gtest/gtest.h>

#include <torch/csrc/autograd/autograd.h>

#include "train/operators.h"

namespace skiff::train {
namespace {

struct Passed {
    at::Tensor out, gradient;
};
Passed pass(const at::Tensor& qkv, const at::Tensor& d_out, const AttentionSettings& settings, Form form) {
    const at::Tensor input = qkv.clone().requires_grad_(true);
    const at::Tensor out = attention({input}, settings, form);
    torch::autograd::backward({out}, {d_out});
    return {out.detach(), input.grad()};
}

// A window that hides keys, one that hides none, none; query heads that share keys; a softcap, which LibTorch's operator does not know.
TEST(LibraryAttention, IsTheComposedOne) {
    constexpr std::int64_t n_sequences = 2, n_tokens = 37;
    struct Case {
        std::int64_t n_heads, n_kv_heads, window;
        float softcap;
    };
    for (const Case& c : {Case{4, 4, 0, 0}, Case{6, 2, 0, 0}, Case{4, 1, 5, 0}, Case{4, 2, 64, 0}, Case{4, 2, 0, 3}}) {
        at::manual_seed(5);
        AttentionSettings settings;
        settings.n_heads = c.n_heads;
        settings.n_kv_heads = c.n_kv_heads;
        settings.head_dim = 16;
        settings.n_tokens = n_tokens;
        settings.window = c.window;
        settings.scale = 0.3f;
        settings.softcap = c.softcap;
        settings.q_rotation = settings.k_rotation = make_rotation({1.0f, 0.1f, 0.01f, 0.001f}, 1, RopeStyle::half, n_tokens, at::kCPU);
        const at::Tensor qkv = at::randn({n_sequences * n_tokens, (c.n_heads + 2 * c.n_kv_heads) * settings.head_dim});
        const at::Tensor d_out = at::randn({n_sequences * n_tokens, c.n_heads * settings.head_dim});
        const Passed library = pass(qkv, d_out, settings, Form::library), composed = pass(qkv, d_out, settings, Form::composed);
        EXPECT_LT((library.out - composed.out).abs().max().item<double>(), 1e-5) << c.window;
        EXPECT_LT((library.gradient - composed.gradient).abs().max().item<double>(), 1e-5 * composed.gradient.abs().max().item<double>()) << c.window;
    }
}

}  // namespace
}  // namespace skiff::train
