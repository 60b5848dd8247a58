// The steps that programs are made of. Each holds its kernel, its buffers' numbers and its weights; run() does this thread's share.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "plan/plan.h"

namespace skiff {

using Vector = std::shared_ptr<const std::vector<float>>;
inline const float* data_or_null(const Vector& vector) { return vector == nullptr || vector->empty() ? nullptr : vector->data(); }

struct EmbedStep final : Step {
    std::shared_ptr<const PackedWeight> table;
    EmbedOp::Index index = EmbedOp::Index::token;
    std::int64_t offset = 0;
    float scale = 1;
    int out = -1;
    void run(const RunContext& context) const override;
};

struct SelectStep final : Step {  // keeps the rows of the tokens whose logits are wanted
    int in = -1, out = -1;
    std::int64_t width = 0;
    void run(const RunContext& context) const override;
};

struct NormStep final : Step {
    NormFn fn = nullptr;
    Vector weight, bias;
    NormKind norm_kind = NormKind::rms;
    float eps = 0;
    std::int64_t width = 0, n_groups = 1;
    int in = -1, out = -1;
    void run(const RunContext& context) const override;
};

struct PrepareStep final : Step {
    QuantizeFn fn = nullptr;
    std::int64_t n_columns = 0, padded_columns = 0;
    int in = -1, out = -1;  // out: number of a prepared buffer
    void run(const RunContext& context) const override;
};

// Codes, scales and sums of an i8_b32 activation inside one prepared buffer of n_tokens tokens.
PreparedActivation prepared_view(std::byte* buffer, std::int64_t n_tokens, std::int64_t n_columns, std::int64_t padded_columns);
std::int64_t prepared_bytes_per_token(std::int64_t padded_columns);

struct LinearSegment {
    std::shared_ptr<const PackedWeight> weight;
    std::array<const LinearKernel*, n_buckets> kernels{};  // by number of tokens really worked on: the head sees only the selected ones
    Vector bias;
    int in = -1, prepared = -1, out = -1;
    LinearArgs::Write write = LinearArgs::Write::replace;
};
struct LinearStep final : Step {  // segments have no dependence on each other
    std::vector<LinearSegment> segments;
    void run(const RunContext& context) const override;
};

struct RopeStep final : Step {
    RopeFn fn = nullptr;
    std::vector<float> inv_freq, long_inv_freq;
    std::int64_t long_above = 0;
    float magnitude = 1;
    RopeStyle style = RopeStyle::half;
    std::int64_t n_heads = 0, head_dim = 0;
    int in = -1, out = -1;
    void run(const RunContext& context) const override;
};

struct StateWriteStep final : Step {
    StateWriteFn fn = nullptr;
    int state = -1, keys = -1, values = -1;
    std::int64_t key_width = 0, value_width = 0;
    void run(const RunContext& context) const override;
};

struct AttentionStep final : Step {
    AttentionFn fn = nullptr;
    AttentionOp op;
    int state = -1, q = -1, out = -1;
    void run(const RunContext& context) const override;
};

struct ElementStep final : Step {
    ElementFn fn = nullptr;
    int a = -1, b = -1, out = -1;
    std::int64_t width = 0;
    float factor = 1;
    Activation activation = Activation::silu;
    void run(const RunContext& context) const override;
};

struct ColumnScaleStep final : Step {  // out[t, c] = in[t, c] * scale[c]
    ElementFn multiply = nullptr;
    Vector scale;
    int in = -1, out = -1;
    std::int64_t width = 0;
    void run(const RunContext& context) const override;
};

struct PermuteStep final : Step {  // out[t, c] = in[t, order[c]]
    std::vector<std::int32_t> order;
    int in = -1, out = -1;
    void run(const RunContext& context) const override;
};

struct RouteStep final : Step {
    RouteOp op;
    std::int64_t n_experts = 0;
    int in = -1, out = -1;
    void run(const RunContext& context) const override;
};

struct GateStep final : Step {  // out[t, :] = in[t, :] * weights[t, column]
    std::int64_t column = 0, n_experts = 0, width = 0;
    int in = -1, weights = -1, out = -1;
    void run(const RunContext& context) const override;
};

}  // namespace skiff
