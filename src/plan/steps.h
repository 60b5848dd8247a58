// The steps that programs are made of. Each holds its kernel, its buffers' numbers and its weights; run() does this thread's share.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "plan/plan.h"
#include "plan/tile_table.h"

namespace skiff {

using Vector = std::shared_ptr<const std::vector<float>>;
inline const float* data_or_null(const Vector& vector) { return vector == nullptr || vector->empty() ? nullptr : vector->data(); }

// The tokens that a step works on.
std::int64_t count(const Step& step, const RunContext& context);
// The tokens of a thread, and all columns.
Tile token_share(const Step& step, const RunContext& context);

struct EmbedStep final : Step {
    std::shared_ptr<const PackedWeight> table;
    EmbedOp::Index index = EmbedOp::Index::token;
    std::int64_t offset = 0;
    float scale = 1;
    int out = -1;
    void run(const RunContext& context) const override { run_tile(context, token_share(*this, context)); }
    void run_tile(const RunContext& context, const Tile& tile) const override;
    Uses uses() override { return {{}, {&out}}; }
    std::int64_t width() const override { return table->n_columns; }
};

struct SelectStep final : Step {  // keeps the rows of the tokens whose logits are wanted
    int in = -1, out = -1;
    std::int64_t n_columns = 0;
    void run(const RunContext& context) const override { run_tile(context, token_share(*this, context)); }
    void run_tile(const RunContext& context, const Tile& tile) const override;
    Uses uses() override { return {{&in}, {&out}}; }
    std::int64_t width() const override { return n_columns; }
};

struct NormStep final : Step {
    NormFn fn = nullptr;
    Vector weight, bias;
    NormKind norm_kind = NormKind::rms;
    float eps = 0;
    std::int64_t group_width = 0, n_groups = 1;
    enum class Over : std::uint8_t { row, heads } over = Over::row;
    int in = -1, out = -1;
    void run(const RunContext& context) const override;
    void run_tile(const RunContext& context, const Tile& tile) const override;
    Uses uses() override { return {{&in}, {&out}}; }
    std::int64_t width() const override { return group_width * n_groups; }
    std::int64_t column_unit() const override { return over == Over::heads ? group_width : 0; }
};

struct PrepareStep final : Step {
    QuantizeFn fn = nullptr;
    float fixed_scale = 0;  // as QuantizeArgs has it
    std::int64_t n_columns = 0, padded_columns = 0;
    int in = -1, out = -1;  // out: number of a prepared buffer
    void run(const RunContext& context) const override { run_tile(context, token_share(*this, context)); }
    void run_tile(const RunContext& context, const Tile& tile) const override;
    Uses uses() override { return {{&in}, {&out}}; }
    std::int64_t width() const override { return n_columns; }
    std::int64_t column_unit() const override { return 32; }
};

// Codes, scales and sums of an i8_b32 activation inside one prepared buffer of n_tokens tokens.
PreparedActivation prepared_view(std::byte* buffer, std::int64_t n_tokens, std::int64_t n_columns, std::int64_t padded_columns);
std::int64_t prepared_bytes_per_token(std::int64_t padded_columns);

struct LinearSegment {
    std::string name;  // of its operator
    std::shared_ptr<const PackedWeight> weight;
    std::array<const LinearKernel*, n_buckets> kernels{};  // by number of tokens really worked on: the head sees only the selected ones
    Vector bias;
    int in = -1, prepared = -1, out = -1;
    LinearArgs::Write write = LinearArgs::Write::replace;
    TilesByTokens tiles = {};
};
struct LinearStep final : Step {  // segments have no dependence on each other
    std::vector<LinearSegment> segments;
    void run(const RunContext& context) const override;
    void run_tile(const RunContext& context, const Tile& tile) const override;
    Uses uses() override;
    std::int64_t width() const override { return segments[0].weight->n_rows; }
    std::int64_t column_unit() const override { return segments.size() == 1 ? segments[0].weight->layout->row_unit : 0; }
    bool token_by_token() const override { return false; }
};

struct RopeStep final : Step {
    RopeFn fn = nullptr;
    std::vector<float> inv_freq, long_inv_freq;
    std::int64_t long_above = 0;
    float magnitude = 1;
    RopeStyle style = RopeStyle::half;
    std::int64_t n_heads = 0, head_dim = 0;
    int in = -1, out = -1;
    void run(const RunContext& context) const override { run_tile(context, token_share(*this, context)); }
    void run_tile(const RunContext& context, const Tile& tile) const override;
    Uses uses() override { return {{&in}, {&out}}; }
    std::int64_t width() const override { return n_heads * head_dim; }
    std::int64_t column_unit() const override { return head_dim; }
};

struct StateWriteStep final : Step {
    StateWriteFn fn = nullptr;
    int state = -1, keys = -1, values = -1;  // a fused step has one for the keys and one for the values; the other is -1 then
    std::int64_t key_width = 0, value_width = 0, head_dim = 0;
    void run(const RunContext& context) const override;
    void run_tile(const RunContext& context, const Tile& tile) const override;
    Uses uses() override;
    std::int64_t width() const override { return keys >= 0 ? key_width : value_width; }
    std::int64_t column_unit() const override { return head_dim; }

private:
    void write_tile(const RunContext& context, const Tile& tile, StatePart part) const;
};

struct AttentionStep final : Step {
    AttentionFn fn = nullptr;
    AttentionOp op;
    int state = -1, q = -1, out = -1;
    void run(const RunContext& context) const override;
    void run_tile(const RunContext& context, const Tile& tile) const override;
    Uses uses() override { return {{&q}, {&out}}; }
    std::int64_t width() const override { return op.n_heads * op.head_dim; }
    std::int64_t column_unit() const override { return op.n_heads / op.n_kv_heads * op.head_dim; }
    bool token_by_token() const override { return false; }
};

// Every thread has some columns of all tokens, and writes what it has read of them into the ring behind them.
struct CausalConvStep final : Step {
    CausalConvFn fn = nullptr;
    Vector taps, bias;  // (n_taps, n_columns), (n_columns)
    std::int64_t n_taps = 1, n_columns = 0, n_ring_rows = 0;
    int state = -1, in = -1, out = -1;
    void run(const RunContext& context) const override;
    void run_tile(const RunContext& context, const Tile& tile) const override;  // all tokens
    Uses uses() override { return {{&in}, {&out}}; }
    std::int64_t width() const override { return n_columns; }
    std::int64_t column_unit() const override { return 1; }
    bool token_by_token() const override { return false; }
};

struct ElementStep final : Step {
    ElementFn fn = nullptr;
    int a = -1, b = -1, out = -1;
    std::int64_t n_columns = 0;
    float factor = 1;
    Activation activation = Activation::silu;
    void run(const RunContext& context) const override;
    void run_tile(const RunContext& context, const Tile& tile) const override;
    Uses uses() override { return {b >= 0 ? std::vector<int*>{&a, &b} : std::vector<int*>{&a}, {&out}}; }
    std::int64_t width() const override { return n_columns; }
    std::int64_t column_unit() const override { return 1; }
};

struct ColumnScaleStep final : Step {  // out[t, c] = in[t, c] * scale[c]
    ElementFn multiply = nullptr;
    Vector scale;
    int in = -1, out = -1;
    std::int64_t n_columns = 0;
    void run(const RunContext& context) const override { run_tile(context, token_share(*this, context)); }
    void run_tile(const RunContext& context, const Tile& tile) const override;
    Uses uses() override { return {{&in}, {&out}}; }
    std::int64_t width() const override { return n_columns; }
    std::int64_t column_unit() const override { return 1; }
};

struct PermuteStep final : Step {  // out[t, c] = in[t, order[c]]
    std::vector<std::int32_t> order;
    int in = -1, out = -1;
    void run(const RunContext& context) const override { run_tile(context, token_share(*this, context)); }
    void run_tile(const RunContext& context, const Tile& tile) const override;
    Uses uses() override { return {{&in}, {&out}}; }
    std::int64_t width() const override { return static_cast<std::int64_t>(order.size()); }
};

// Collects the largest logits, where the run asks for them.
struct TopStep final : Step {
    int logits = -1;
    std::int64_t n_columns = 0;
    void run(const RunContext& context) const override;
    void run_tile(const RunContext& context, const Tile& tile) const override;
    Uses uses() override { return {{&logits}, {}}; }
    std::int64_t width() const override { return n_columns; }
    std::int64_t column_unit() const override { return 1; }
    bool token_by_token() const override { return false; }
};

struct RouteStep final : Step {
    RouteOp op;
    std::int64_t n_experts = 0;
    int in = -1, out = -1;
    void run(const RunContext& context) const override { run_tile(context, token_share(*this, context)); }
    void run_tile(const RunContext& context, const Tile& tile) const override;
    Uses uses() override { return {{&in}, {&out}}; }
    std::int64_t width() const override { return n_experts; }
};

struct GateStep final : Step {  // out[t, :] = in[t, :] * weights[t, column]
    std::int64_t column = 0, n_experts = 0, n_columns = 0;
    int in = -1, weights = -1, out = -1;
    void run(const RunContext& context) const override { run_tile(context, token_share(*this, context)); }
    void run_tile(const RunContext& context, const Tile& tile) const override;
    Uses uses() override { return {{&in, &weights}, {&out}}; }
    std::int64_t width() const override { return n_columns; }
    std::int64_t column_unit() const override { return 1; }
};

}  // namespace skiff
