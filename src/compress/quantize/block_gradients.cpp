#include "compress/quantize/block_gradients.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "compress/algebra/algebra.h"

namespace skiff {
namespace {

using Row = std::span<const float>;

// Rows shared by the threads. // task(begin, end)
template <class Task>
void over_rows(std::int64_t n_rows, ThreadPool& pool, const Task& task) {
    pool.run([&](int thread) {
        const Range rows = share_of(n_rows, thread, pool.n_threads());
        if (rows.begin < rows.end) task(rows.begin, rows.end);
    });
}

float activate(Activation kind, float x) {
    switch (kind) {
        case Activation::silu: return x / (1 + std::exp(-x));
        case Activation::gelu_erf: return 0.5f * x * (1 + std::erf(x * 0.70710678f));
        case Activation::gelu_tanh: return 0.5f * x * (1 + std::tanh(0.79788456f * (x + 0.044715f * x * x * x)));
        case Activation::quick_gelu: return x / (1 + std::exp(-1.702f * x));
        case Activation::relu: return x > 0 ? x : 0;
        case Activation::sigmoid: return 1 / (1 + std::exp(-x));
        case Activation::tanh: return std::tanh(x);
    }
    return x;
}

float slope(Activation kind, float x) {
    switch (kind) {
        case Activation::silu: {
            const float s = 1 / (1 + std::exp(-x));
            return s * (1 + x * (1 - s));
        }
        case Activation::gelu_erf: return 0.5f * (1 + std::erf(x * 0.70710678f)) + x * 0.39894228f * std::exp(-0.5f * x * x);
        case Activation::gelu_tanh: {
            const float t = std::tanh(0.79788456f * (x + 0.044715f * x * x * x));
            return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * 0.79788456f * (1 + 0.134145f * x * x);
        }
        case Activation::quick_gelu: {
            const float s = 1 / (1 + std::exp(-1.702f * x));
            return s * (1 + 1.702f * x * (1 - s));
        }
        case Activation::relu: return x > 0 ? 1 : 0;
        case Activation::sigmoid: {
            const float s = 1 / (1 + std::exp(-x));
            return s * (1 - s);
        }
        case Activation::tanh: {
            const float t = std::tanh(x);
            return 1 - t * t;
        }
    }
    return 1;
}

enum class Direction : std::uint8_t { forward, backward };

// In place; backwards it is the rotation's transpose.
void rotate(const RopeOp& op, const std::vector<float>& inv_freq, Direction direction, float* x, std::int64_t n_tokens, std::int64_t width) {
    const std::int64_t head_dim = op.n_heads_unit, half = static_cast<std::int64_t>(inv_freq.size());
    for (std::int64_t token = 0; token < n_tokens; ++token)
        for (std::int64_t i = 0; i < half; ++i) {
            const float angle = static_cast<float>(token) * inv_freq[static_cast<std::size_t>(i)];
            const float cosine = std::cos(angle) * op.magnitude, sine = std::sin(angle) * (direction == Direction::forward ? op.magnitude : -op.magnitude);
            for (std::int64_t head = 0; head < width / head_dim; ++head) {
                float* own = x + token * width + head * head_dim;
                float& first = op.style == RopeStyle::half ? own[i] : own[2 * i];
                float& second = op.style == RopeStyle::half ? own[i + half] : own[2 * i + 1];
                const float a = first, b = second;
                first = a * cosine - b * sine;
                second = b * cosine + a * sine;
            }
        }
}

// One head's softmax(scale q k^T) with the softcap, zero where a token does not look. // p: (n, n); slopes of the cap into `capped`, or empty
void attention_weights(const AttentionOp& op, const float* q, std::int64_t q_stride, const float* k, std::int64_t k_stride, std::int64_t n, std::vector<float>& p, std::vector<float>& cap_slope) {
    p.resize(static_cast<std::size_t>(n * n));
    cap_slope.resize(op.softcap > 0 ? p.size() : 0);
    multiply({.m = n, .n = n, .k = op.head_dim, .a = q, .a_stride = q_stride, .b = k, .b_stride = k_stride, .b_as = Product::As::transposed, .c = p.data(), .c_stride = n, .factor = op.scale});
    for (std::int64_t t = 0; t < n; ++t) {
        float* row = p.data() + t * n;
        const std::int64_t first = op.window > 0 ? std::max<std::int64_t>(0, t - op.window + 1) : 0;
        float highest = -INFINITY;
        for (std::int64_t s = first; s <= t; ++s) {
            if (op.softcap > 0) {
                const float u = std::tanh(row[s] / op.softcap);
                cap_slope[static_cast<std::size_t>(t * n + s)] = 1 - u * u;
                row[s] = op.softcap * u;
            }
            highest = std::max(highest, row[s]);
        }
        float total = 0;
        for (std::int64_t s = first; s <= t; ++s) total += row[s] = std::exp(row[s] - highest);
        for (std::int64_t s = first; s <= t; ++s) row[s] /= total;
        std::fill(row, row + first, 0.0f);
        std::fill(row + t + 1, row + n, 0.0f);
    }
}

}  // namespace

struct BlockGradients::Values {
    std::int64_t n_tokens = 0;
    std::map<ValueId, std::vector<float>> value, gradient;  // (n_tokens, width)
    std::set<ValueId> learnt;                               // those that depend on a matrix of the block
};

BlockGradients::BlockGradients(const ModelSpec& spec, const Block& block) : spec_(spec), block_(block), values_(std::make_unique<Values>()) {}
BlockGradients::BlockGradients(BlockGradients&&) noexcept = default;
BlockGradients::~BlockGradients() = default;

Result<BlockGradients> BlockGradients::make(const ModelSpec& spec, std::size_t block, const WeightSource& weights, std::int64_t longest) {
    BlockGradients gradients(spec, spec.blocks.at(block));
    SKIFF_CHECK(gradients.prepare(weights, longest));
    return gradients;
}

Status BlockGradients::prepare(const WeightSource& weights, std::int64_t longest) {
    const auto load = [&](const TensorRef& ref) -> Status {
        if (ref.empty() || vectors_.count(ref.key) != 0) return {};
        SKIFF_TRY(const auto stored, weights.load(ref.key));
        auto& values = vectors_[ref.key];
        values.resize(static_cast<std::size_t>(element_count(stored.shape)));
        for (std::int64_t row = 0; row < stored.n_rows(); ++row) stored.row(row, values.data() + row * stored.n_columns());
        return {};
    };
    for (const Op& op : block_.ops) {
        const bool reads_learnt = std::any_of(op.in.begin(), op.in.end(), [&](ValueId in) { return values_->learnt.count(in) != 0; });
        if (reads_learnt) values_->learnt.insert(op.out);
        if (const auto* norm = std::get_if<NormOp>(&op.detail)) {
            SKIFF_CHECK(load(norm->weight));
            SKIFF_CHECK(load(norm->bias));
        } else if (const auto* linear = std::get_if<LinearOp>(&op.detail)) {
            if (linear->terms.size() != 1 || linear->terms[0].kind != LinearTerm::Kind::packed || linear->transform.kind != InputTransform::Kind::none) return unsupported(op.name + " is more than one matrix, which has no gradient here");
            const TensorRef& ref = linear->terms[0].weight;
            SKIFF_CHECK(load(linear->bias));
            values_->learnt.insert(op.out);
            if (matrices_.count(ref.key) != 0) continue;
            SKIFF_TRY(const auto stored, weights.load(ref.key));
            const Weight rows = ref.transposed && stored.plain() != nullptr ? transposed(stored) : stored;
            Matrix& matrix = matrices_[ref.key];
            matrix.n_rows = rows.n_rows();
            matrix.n_columns = rows.n_columns();
            matrix.values.resize(static_cast<std::size_t>(matrix.n_rows * matrix.n_columns));
            for (std::int64_t row = 0; row < matrix.n_rows; ++row) rows.row(row, matrix.values.data() + row * matrix.n_columns);
        } else if (const auto* rope = std::get_if<RopeOp>(&op.detail)) {
            long_rope_ = long_rope_ || (!rope->long_inv_freq.empty() && longest > rope->long_above);
        } else if (std::holds_alternative<EmbedOp>(op.detail) || std::holds_alternative<RouteOp>(op.detail) || std::holds_alternative<GateOp>(op.detail) || std::holds_alternative<CausalConvOp>(op.detail)) {
            return unsupported(op.name + " (" + std::string(op_kind_name(op.detail)) + ") has no gradient here");
        }
    }
    return {};
}

void BlockGradients::clear_gradients() {
    for (auto& [key, matrix] : matrices_) matrix.gradient.assign(matrix.values.size(), 0.0f);
}

std::span<const float> BlockGradients::floats(const TensorRef& ref) const { return ref.empty() ? std::span<const float>() : std::span<const float>(vectors_.at(ref.key)); }

namespace {

// The rows of a matrix that an operator reads: as they lie, or gathered.
class OwnRows {
public:
    OwnRows(const BlockGradients::Matrix& matrix, const RowMap& rows) : n_columns_(matrix.n_columns), rows_(rows.block == 0 ? RowMap::all(matrix.n_rows) : rows) {
        if (rows_.contiguous()) {
            data_ = matrix.values.data() + rows_.begin * n_columns_;
            return;
        }
        for (std::int64_t i = 0; i < rows_.n_rows(); ++i) gathered_.insert(gathered_.end(), matrix.values.begin() + rows_.at(i) * n_columns_, matrix.values.begin() + (rows_.at(i) + 1) * n_columns_);
        data_ = gathered_.data();
    }
    std::int64_t n_rows() const { return rows_.n_rows(); }
    const float* data() const { return data_; }
    // gradient += dy^T x, in the matrix's own rows
    void add_gradient(const float* dy, const float* x, std::int64_t n_tokens, std::vector<float>& gradient, ThreadPool& pool) const {
        const std::int64_t n = n_rows();
        const bool direct = rows_.contiguous();
        std::vector<float> sum(direct ? 0 : static_cast<std::size_t>(n * n_columns_));
        float* target = direct ? gradient.data() + rows_.begin * n_columns_ : sum.data();
        multiply({.m = n, .n = n_columns_, .k = n_tokens, .a = dy, .a_stride = n, .a_as = Product::As::transposed, .b = x, .b_stride = n_columns_, .c = target, .c_stride = n_columns_, .factor = 1, .keep = 1}, pool);
        for (std::int64_t i = 0; !direct && i < n; ++i)
            for (std::int64_t j = 0; j < n_columns_; ++j) gradient[static_cast<std::size_t>(rows_.at(i) * n_columns_ + j)] += sum[static_cast<std::size_t>(i * n_columns_ + j)];
    }

private:
    std::int64_t n_columns_;
    RowMap rows_;
    const float* data_ = nullptr;
    std::vector<float> gathered_;
};

// What one pass needs of its surroundings.
struct Pass {
    ThreadPool& pool;
    std::int64_t n_tokens;
};

void norm_forward(const NormOp& op, Row weight, Row bias, Row x, std::int64_t width, std::vector<float>& y, const Pass& pass) {
    const std::int64_t group = op.group_width > 0 ? op.group_width : width, n_items = pass.n_tokens * width / group;
    over_rows(n_items, pass.pool, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t item = begin; item < end; ++item) {
            const float* in = x.data() + item * group;
            double mean = 0, square = 0;
            if (op.kind == NormKind::layer)
                for (std::int64_t i = 0; i < group; ++i) mean += static_cast<double>(in[i]) / static_cast<double>(group);
            for (std::int64_t i = 0; i < group; ++i) square += (static_cast<double>(in[i]) - mean) * (static_cast<double>(in[i]) - mean);
            const auto scale = static_cast<float>(1 / std::sqrt(square / static_cast<double>(group) + static_cast<double>(op.eps)));
            for (std::int64_t i = 0; i < group; ++i) {
                const auto at = static_cast<std::size_t>(i);
                float value = (in[i] - static_cast<float>(mean)) * scale;
                if (!weight.empty()) value *= weight[at] + op.weight_offset;
                if (!bias.empty()) value += bias[at];
                y[static_cast<std::size_t>(item * group + i)] = value;
            }
        }
    });
}

void norm_backward(const NormOp& op, Row weight, Row x, std::int64_t width, Row dy, std::vector<float>& dx, const Pass& pass) {
    const std::int64_t group = op.group_width > 0 ? op.group_width : width, n_items = pass.n_tokens * width / group;
    over_rows(n_items, pass.pool, [&](std::int64_t begin, std::int64_t end) {
        std::vector<double> own(static_cast<std::size_t>(group)), h(own);
        for (std::int64_t item = begin; item < end; ++item) {
            const float* in = x.data() + item * group;
            double mean = 0, square = 0;
            if (op.kind == NormKind::layer)
                for (std::int64_t i = 0; i < group; ++i) mean += static_cast<double>(in[i]) / static_cast<double>(group);
            for (std::int64_t i = 0; i < group; ++i) square += (static_cast<double>(in[i]) - mean) * (static_cast<double>(in[i]) - mean);
            const double scale = 1 / std::sqrt(square / static_cast<double>(group) + static_cast<double>(op.eps));
            double h_mean = 0, h_own = 0;
            for (std::int64_t i = 0; i < group; ++i) {
                const auto at = static_cast<std::size_t>(i);
                own[at] = (static_cast<double>(in[i]) - mean) * scale;
                h[at] = static_cast<double>(dy[static_cast<std::size_t>(item * group + i)]) * (weight.empty() ? 1.0 : static_cast<double>(weight[at] + op.weight_offset));
                h_mean += h[at] / static_cast<double>(group);
                h_own += h[at] * own[at] / static_cast<double>(group);
            }
            if (op.kind == NormKind::rms) h_mean = 0;
            for (std::int64_t i = 0; i < group; ++i) {
                const auto at = static_cast<std::size_t>(i);
                dx[static_cast<std::size_t>(item * group + i)] += static_cast<float>(scale * (h[at] - h_mean - own[at] * h_own));
            }
        }
    });
}

struct Heads {
    Row q, k, v;
    std::int64_t q_width, kv_width, v_width;
};

void attention_forward(const AttentionOp& op, const Heads& in, std::vector<float>& y, const Pass& pass) {
    const std::int64_t n = pass.n_tokens, d = op.head_dim, repeats = op.n_heads / op.n_kv_heads;
    over_rows(op.n_heads, pass.pool, [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> p, cap;
        for (std::int64_t head = begin; head < end; ++head) {
            const std::int64_t kv = head / repeats;
            attention_weights(op, in.q.data() + head * d, in.q_width, in.k.data() + kv * d, in.kv_width, n, p, cap);
            multiply({.m = n, .n = d, .k = n, .a = p.data(), .a_stride = n, .b = in.v.data() + kv * d, .b_stride = in.v_width, .c = y.data() + head * d, .c_stride = in.q_width});
        }
    });
}

struct HeadGradients {
    std::vector<float>&q, &k, &v;
};

void attention_backward(const AttentionOp& op, const Heads& in, Row dy, const HeadGradients& out, const Pass& pass) {
    const std::int64_t n = pass.n_tokens, d = op.head_dim, repeats = op.n_heads / op.n_kv_heads;
    over_rows(op.n_kv_heads, pass.pool, [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> p, cap, dp(static_cast<std::size_t>(n * n));
        for (std::int64_t kv = begin; kv < end; ++kv)
            for (std::int64_t head = kv * repeats; head < (kv + 1) * repeats; ++head) {
                const float *q = in.q.data() + head * d, *k = in.k.data() + kv * d, *v = in.v.data() + kv * d, *own = dy.data() + head * d;
                attention_weights(op, q, in.q_width, k, in.kv_width, n, p, cap);
                multiply({.m = n, .n = d, .k = n, .a = p.data(), .a_stride = n, .a_as = Product::As::transposed, .b = own, .b_stride = in.q_width, .c = out.v.data() + kv * d, .c_stride = in.v_width, .factor = 1, .keep = 1});
                multiply({.m = n, .n = n, .k = d, .a = own, .a_stride = in.q_width, .b = v, .b_stride = in.v_width, .b_as = Product::As::transposed, .c = dp.data(), .c_stride = n});
                for (std::int64_t t = 0; t < n; ++t) {
                    float *row = dp.data() + t * n, sum = 0;
                    const float* weight = p.data() + t * n;
                    for (std::int64_t s = 0; s <= t; ++s) sum += row[s] * weight[s];
                    for (std::int64_t s = 0; s < n; ++s) row[s] = s <= t ? weight[s] * (row[s] - sum) * (cap.empty() ? 1.0f : cap[static_cast<std::size_t>(t * n + s)]) : 0;
                }
                multiply({.m = n, .n = d, .k = n, .a = dp.data(), .a_stride = n, .b = k, .b_stride = in.kv_width, .c = out.q.data() + head * d, .c_stride = in.q_width, .factor = op.scale, .keep = 1});
                multiply({.m = n, .n = d, .k = n, .a = dp.data(), .a_stride = n, .a_as = Product::As::transposed, .b = q, .b_stride = in.q_width, .c = out.k.data() + kv * d, .c_stride = in.kv_width, .factor = op.scale, .keep = 1});
            }
    });
}

}  // namespace

std::span<const float> BlockGradients::forward(std::span<const float> x, ThreadPool& pool) {
    Values& values = *values_;
    const std::int64_t n = values.n_tokens = static_cast<std::int64_t>(x.size()) / spec_.width(block_.in);
    const Pass pass{pool, n};
    values.value[block_.in].assign(x.begin(), x.end());
    for (const Op& op : block_.ops) {
        const std::int64_t width = spec_.width(op.out);
        std::vector<float>& y = values.value[op.out];
        y.resize(static_cast<std::size_t>(n * width));
        const auto in = [&](std::size_t i) -> const std::vector<float>& { return values.value.at(op.in[i]); };
        const auto each = [&](const auto& function) {
            over_rows(n * width, pool, [&](std::int64_t begin, std::int64_t end) {
                for (std::int64_t i = begin; i < end; ++i) y[static_cast<std::size_t>(i)] = function(static_cast<std::size_t>(i));
            });
        };
        if (const auto* norm = std::get_if<NormOp>(&op.detail)) {
            norm_forward(*norm, floats(norm->weight), floats(norm->bias), in(0), width, y, pass);
        } else if (const auto* linear = std::get_if<LinearOp>(&op.detail)) {
            const Matrix& matrix = matrices_.at(linear->terms[0].weight.key);
            const OwnRows rows(matrix, linear->terms[0].weight.rows);
            const auto bias = floats(linear->bias);
            for (std::int64_t i = 0; i < n * width; ++i) y[static_cast<std::size_t>(i)] = bias.empty() ? 0 : bias[static_cast<std::size_t>(linear->bias.rows.block == 0 ? i % width : linear->bias.rows.at(i % width))];
            multiply({.m = n, .n = width, .k = matrix.n_columns, .a = in(0).data(), .a_stride = matrix.n_columns, .b = rows.data(), .b_stride = matrix.n_columns, .b_as = Product::As::transposed, .c = y.data(), .c_stride = width, .factor = 1, .keep = 1}, pool);
        } else if (const auto* rope = std::get_if<RopeOp>(&op.detail)) {
            y = in(0);
            rotate(*rope, long_rope_ && !rope->long_inv_freq.empty() ? rope->long_inv_freq : rope->inv_freq, Direction::forward, y.data(), n, width);
        } else if (const auto* attention = std::get_if<AttentionOp>(&op.detail)) {
            attention_forward(*attention, {in(0), in(1), in(2), width, spec_.width(op.in[1]), spec_.width(op.in[2])}, y, pass);
        } else if (const auto* activation = std::get_if<ActivationOp>(&op.detail)) {
            each([&](std::size_t i) { return activate(activation->kind, in(0)[i]); });
        } else if (std::holds_alternative<MultiplyOp>(op.detail)) {
            each([&](std::size_t i) { return in(0)[i] * in(1)[i]; });
        } else if (std::holds_alternative<AddOp>(op.detail)) {
            each([&](std::size_t i) { return in(0)[i] + in(1)[i]; });
        } else if (const auto* scale = std::get_if<ScaleOp>(&op.detail)) {
            each([&](std::size_t i) { return in(0)[i] * scale->factor; });
        } else if (const auto* softcap = std::get_if<SoftcapOp>(&op.detail)) {
            each([&](std::size_t i) { return softcap->cap * std::tanh(in(0)[i] / softcap->cap); });
        }
    }
    return values.value.at(block_.out);
}

void BlockGradients::backward(std::span<const float> dy, ThreadPool& pool) {
    Values& values = *values_;
    const std::int64_t n = values.n_tokens;
    const Pass pass{pool, n};
    values.gradient.clear();
    values.gradient[block_.out].assign(dy.begin(), dy.end());
    for (auto op = block_.ops.rbegin(); op != block_.ops.rend(); ++op) {
        const auto found = values.gradient.find(op->out);
        if (found == values.gradient.end()) continue;
        const std::vector<float> own = std::move(found->second);
        values.gradient.erase(found);
        const std::int64_t width = spec_.width(op->out);
        const auto in = [&](std::size_t i) -> const std::vector<float>& { return values.value.at(op->in[i]); };
        const auto learnt = [&](std::size_t i) { return values.learnt.count(op->in[i]) != 0; };
        const auto gradient = [&](std::size_t i) -> std::vector<float>& {
            std::vector<float>& sum = values.gradient[op->in[i]];
            sum.resize(in(i).size());
            return sum;
        };
        const auto each = [&](std::size_t i, const auto& function) {
            if (!learnt(i)) return;
            std::vector<float>& sum = gradient(i);
            over_rows(n * width, pool, [&](std::int64_t begin, std::int64_t end) {
                for (std::int64_t at = begin; at < end; ++at) sum[static_cast<std::size_t>(at)] += function(static_cast<std::size_t>(at));
            });
        };
        if (const auto* norm = std::get_if<NormOp>(&op->detail)) {
            if (learnt(0)) norm_backward(*norm, floats(norm->weight), in(0), width, own, gradient(0), pass);
        } else if (const auto* linear = std::get_if<LinearOp>(&op->detail)) {
            Matrix& matrix = matrices_.at(linear->terms[0].weight.key);
            const OwnRows rows(matrix, linear->terms[0].weight.rows);
            rows.add_gradient(own.data(), in(0).data(), n, matrix.gradient, pool);
            if (learnt(0)) multiply({.m = n, .n = matrix.n_columns, .k = width, .a = own.data(), .a_stride = width, .b = rows.data(), .b_stride = matrix.n_columns, .c = gradient(0).data(), .c_stride = matrix.n_columns, .factor = 1, .keep = 1}, pool);
        } else if (const auto* rope = std::get_if<RopeOp>(&op->detail)) {
            std::vector<float> turned = own;
            rotate(*rope, long_rope_ && !rope->long_inv_freq.empty() ? rope->long_inv_freq : rope->inv_freq, Direction::backward, turned.data(), n, width);
            each(0, [&](std::size_t i) { return turned[i]; });
        } else if (const auto* attention = std::get_if<AttentionOp>(&op->detail)) {
            attention_backward(*attention, {in(0), in(1), in(2), width, spec_.width(op->in[1]), spec_.width(op->in[2])}, own, {gradient(0), gradient(1), gradient(2)}, pass);
        } else if (const auto* activation = std::get_if<ActivationOp>(&op->detail)) {
            each(0, [&](std::size_t i) { return own[i] * slope(activation->kind, in(0)[i]); });
        } else if (std::holds_alternative<MultiplyOp>(op->detail)) {
            each(0, [&](std::size_t i) { return own[i] * in(1)[i]; });
            each(1, [&](std::size_t i) { return own[i] * in(0)[i]; });
        } else if (std::holds_alternative<AddOp>(op->detail)) {
            each(0, [&](std::size_t i) { return own[i]; });
            each(1, [&](std::size_t i) { return own[i]; });
        } else if (const auto* scale = std::get_if<ScaleOp>(&op->detail)) {
            each(0, [&](std::size_t i) { return own[i] * scale->factor; });
        } else if (const auto* softcap = std::get_if<SoftcapOp>(&op->detail)) {
            each(0, [&](std::size_t i) {
                const float u = values.value.at(op->out)[i] / softcap->cap;
                return own[i] * (1 - u * u);
            });
        }
    }
}

}  // namespace skiff
