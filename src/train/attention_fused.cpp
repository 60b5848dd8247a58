// Causal attention of whole sequences without a matrix of all scores: queries in blocks, each against the keys up to its end; the backward
// pass computes the probabilities again from the saved log-sums (FlashAttention-2, Dao 2023, algorithms 1 and 2, with LibTorch's batched products
// for the matrices). The query heads of one key/value head are rows of one product.
#include <torch/csrc/autograd/custom_function.h>

#include "train/attention_parts.h"
#include "train/fused_rows.h"

namespace skiff::train {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t query_block = 128;

struct Shapes : torch::CustomClassHolder {  // goes from forward to backward as a capsule
    AttentionSettings settings;
    std::int64_t n_sequences = 0;
    std::int64_t group() const { return settings.n_heads / settings.n_kv_heads; }
    std::int64_t batch() const { return n_sequences * settings.n_kv_heads; }
    std::int64_t n_tokens() const { return settings.n_tokens; }
    std::int64_t head_dim() const { return settings.head_dim; }
};

RotaryTable table_of(const Rotation& rotation) {
    if (rotation.empty()) return {};
    return {numbers<const float>(rotation.cosine), numbers<const float>(rotation.sine), rotation.cosine.size(1), rotation.interleaved};
}

// Packed heads: (batch, group * n_tokens, head_dim), a batch entry for each sequence and key/value head. Within it, block after block of queries;
// within a block head after head, so that a block is one matrix. Keys and values are a group of one head, and one block.
struct Packing {
    std::int64_t group, n_tokens, block;
    std::int64_t row(std::int64_t head_in_group, std::int64_t token) const {
        const std::int64_t begin = token / block * block, size = std::min(block, n_tokens - begin);
        return begin * group + head_in_group * size + (token - begin);
    }
};
Packing query_packing(const Shapes& shapes) { return {shapes.group(), shapes.n_tokens(), query_block}; }
Packing key_packing(const Shapes& shapes) { return {1, shapes.n_tokens(), shapes.n_tokens()}; }

// Heads out of columns [column, ...) of `rows` (n_sequences * n_tokens, width), turned, into `packed`; or back (Turn::inverse).
struct HeadMove {
    RotaryTable table;
    float scale = 1;
    std::int64_t column = 0, n_heads = 0;
    Packing packing;
};
template <class T, class Fn>
void for_heads(const Shapes& shapes, const HeadMove& move, const at::Tensor& rows, const at::Tensor& packed, Fn&& fn) {
    const std::int64_t n_kv = move.n_heads / move.packing.group, dim = shapes.head_dim(), width = rows.size(1), T_ = shapes.n_tokens();
    for_rows(shapes.n_sequences * T_, 8, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t token = first; token < last; ++token) {
            T* row = numbers<T>(rows) + token * width + move.column;
            for (std::int64_t head = 0; head < move.n_heads; ++head) {
                const std::int64_t entry = token / T_ * n_kv + head / move.packing.group;
                T* place = numbers<T>(packed) + (entry * move.packing.group * T_ + move.packing.row(head % move.packing.group, token % T_)) * dim;
                fn(token % T_, row + head * dim, place);
            }
        }
    });
}
at::Tensor pack_heads(const Shapes& shapes, const HeadMove& move, const at::Tensor& rows) {
    at::Tensor packed = at::empty({shapes.n_sequences * move.n_heads / move.packing.group, move.packing.group * shapes.n_tokens(), shapes.head_dim()}, rows.options());
    by_number_type(rows, [&](auto number) {
        using T = decltype(number);
        for_heads<T>(shapes, move, rows, packed, [&](std::int64_t position, const T* row, T* place) {
            turn_head(move.table, position, Turn::forward, move.scale, row, place, shapes.head_dim());
        });
    });
    return packed;
}
void unpack_heads(const Shapes& shapes, const HeadMove& move, const at::Tensor& packed, const at::Tensor& rows) {
    by_number_type(rows, [&](auto number) {
        using T = decltype(number);
        for_heads<T>(shapes, move, rows, packed, [&](std::int64_t position, T* row, const T* place) {
            turn_head(move.table, position, Turn::inverse, move.scale, place, row, shapes.head_dim());
        });
    });
}

struct Moves {
    HeadMove q, k, v, out;
};
Moves moves_of(const Shapes& shapes, std::size_t n_tensors) {
    const AttentionSettings& settings = shapes.settings;
    const auto source = sources(settings, n_tensors);
    Moves moves;
    moves.q = {table_of(settings.q_rotation), settings.scale, source[0].column, settings.n_heads, query_packing(shapes)};
    moves.k = {table_of(settings.k_rotation), 1, source[1].column, settings.n_kv_heads, key_packing(shapes)};
    moves.v = {{}, 1, source[2].column, settings.n_kv_heads, key_packing(shapes)};
    moves.out = {{}, 1, 0, settings.n_heads, query_packing(shapes)};
    return moves;
}

// One block of queries and the keys it may see.
struct BlockOf {
    std::int64_t first_query, n_queries, first_key, n_keys;
    at::Tensor queries(const at::Tensor& packed, std::int64_t group) const { return packed.narrow(1, first_query * group, n_queries * group); }
    at::Tensor keys(const at::Tensor& packed) const { return packed.narrow(1, first_key, n_keys); }
};
template <class Fn>
void for_query_blocks(const Shapes& shapes, Fn&& fn) {
    for (std::int64_t first = 0; first < shapes.n_tokens(); first += query_block) {
        const std::int64_t n = std::min(query_block, shapes.n_tokens() - first), window = shapes.settings.window;
        const std::int64_t first_key = window > 0 ? std::max<std::int64_t>(0, first - window + 1) : 0;
        fn(BlockOf{first, n, first_key, first + n - first_key});
    }
}
// fn(row of the block's scores over all batch entries, its query's ScoreRow, its place in the packed queries)
template <class Fn>
void for_score_rows(const Shapes& shapes, const BlockOf& block, Fn&& fn) {
    const std::int64_t rows = shapes.group() * block.n_queries;
    for_rows(shapes.batch() * rows, 4, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t i = first; i < last; ++i) {
            const std::int64_t query = block.first_query + i % rows % block.n_queries;
            const std::int64_t place = i / rows * shapes.group() * shapes.n_tokens() + block.first_query * shapes.group() + i % rows;
            fn(i, ScoreRow{query, block.first_key, block.n_keys, shapes.settings.window, shapes.settings.softcap}, place);
        }
    });
}

class FusedAttention : public torch::autograd::Function<FusedAttention> {
public:
    static at::Tensor forward(AutogradContext* context, at::TensorList qkv, c10::intrusive_ptr<Shapes> shapes_pointer) {
        const Shapes& shapes = *shapes_pointer;
        const Moves moves = moves_of(shapes, qkv.size());
        const auto source = sources(shapes.settings, qkv.size());
        const at::Tensor q = pack_heads(shapes, moves.q, qkv[static_cast<std::size_t>(source[0].tensor)]);
        const at::Tensor k = pack_heads(shapes, moves.k, qkv[static_cast<std::size_t>(source[1].tensor)]);
        const at::Tensor v = pack_heads(shapes, moves.v, qkv[static_cast<std::size_t>(source[2].tensor)]);
        at::Tensor packed_out = at::empty_like(q), log_sums = at::empty({q.size(0), q.size(1)}, q.options().dtype(at::kFloat));
        for_query_blocks(shapes, [&](const BlockOf& block) {
            at::Tensor scores = at::bmm(block.queries(q, shapes.group()), block.keys(k).transpose(1, 2));
            by_number_type(scores, [&](auto number) {
                using T = decltype(number);
                for_score_rows(shapes, block, [&](std::int64_t i, const ScoreRow& row, std::int64_t place) {
                    numbers<float>(log_sums)[place] = softmax_row(row, numbers<T>(scores) + i * block.n_keys);
                });
            });
            block.queries(packed_out, shapes.group()).copy_(at::bmm(scores, block.keys(v)));
        });
        at::Tensor out = at::empty({shapes.n_sequences * shapes.n_tokens(), shapes.settings.n_heads * shapes.head_dim()}, q.options());
        unpack_heads(shapes, moves.out, packed_out, out);
        variable_list saved = qkv.vec();
        saved.push_back(out);
        saved.push_back(log_sums);
        context->save_for_backward(std::move(saved));
        context->saved_data["shapes"] = c10::IValue::make_capsule(shapes_pointer);
        return out;
    }

    static variable_list backward(AutogradContext* context, variable_list gradients) {
        variable_list qkv = context->get_saved_variables();
        const at::Tensor log_sums = qkv.back();
        qkv.pop_back();
        const at::Tensor out = qkv.back();
        qkv.pop_back();
        const auto holder = context->saved_data["shapes"].toCapsule();
        const Shapes& shapes = static_cast<const Shapes&>(*holder);
        const Moves moves = moves_of(shapes, qkv.size());
        const auto source = sources(shapes.settings, qkv.size());
        const at::Tensor q = pack_heads(shapes, moves.q, qkv[static_cast<std::size_t>(source[0].tensor)]);
        const at::Tensor k = pack_heads(shapes, moves.k, qkv[static_cast<std::size_t>(source[1].tensor)]);
        const at::Tensor v = pack_heads(shapes, moves.v, qkv[static_cast<std::size_t>(source[2].tensor)]);
        const at::Tensor d_out = pack_heads(shapes, moves.out, gradients[0].contiguous());
        const at::Tensor deltas = inner_products(pack_heads(shapes, moves.out, out), d_out);
        at::Tensor d_q = at::empty_like(q);
        // Sums over blocks of queries, in f32 whatever the number type.
        at::Tensor d_k = at::zeros(k.sizes(), k.options().dtype(at::kFloat)), d_v = at::zeros(v.sizes(), v.options().dtype(at::kFloat));
        for_query_blocks(shapes, [&](const BlockOf& block) {
            const at::Tensor block_q = block.queries(q, shapes.group()), block_d = block.queries(d_out, shapes.group());
            at::Tensor scores = at::bmm(block_q, block.keys(k).transpose(1, 2));
            at::Tensor d_scores = at::bmm(block_d, block.keys(v).transpose(1, 2));
            by_number_type(scores, [&](auto number) {
                using T = decltype(number);
                for_score_rows(shapes, block, [&](std::int64_t i, const ScoreRow& row, std::int64_t place) {
                    softmax_row_backward(row, numbers<const float>(log_sums)[place], numbers<const float>(deltas)[place], numbers<T>(scores) + i * block.n_keys,
                                         numbers<T>(d_scores) + i * block.n_keys);
                });
            });
            block.queries(d_q, shapes.group()).copy_(at::bmm(d_scores, block.keys(k)));
            block.keys(d_k).add_(at::bmm(d_scores.transpose(1, 2), block_q));
            block.keys(d_v).add_(at::bmm(scores.transpose(1, 2), block_d));
        });
        variable_list result;
        for (const at::Tensor& tensor : qkv) result.push_back(at::empty_like(tensor));
        unpack_heads(shapes, moves.q, d_q, result[static_cast<std::size_t>(source[0].tensor)]);
        unpack_heads(shapes, moves.k, d_k.to(k.scalar_type()), result[static_cast<std::size_t>(source[1].tensor)]);
        unpack_heads(shapes, moves.v, d_v.to(v.scalar_type()), result[static_cast<std::size_t>(source[2].tensor)]);
        result.emplace_back();
        return result;
    }

private:
    // Row by row. a, b: (batch, rows, head_dim); result: (batch, rows) f32
    static at::Tensor inner_products(const at::Tensor& a, const at::Tensor& b) {
        at::Tensor result = at::empty({a.size(0), a.size(1)}, a.options().dtype(at::kFloat));
        const std::int64_t dim = a.size(2);
        by_number_type(a, [&](auto number) {
            using T = decltype(number);
            for_rows(a.size(0) * a.size(1), 64, [&](std::int64_t first, std::int64_t last) {
                for (std::int64_t i = first; i < last; ++i) numbers<float>(result)[i] = inner_product(numbers<const T>(a) + i * dim, numbers<const T>(b) + i * dim, dim);
            });
        });
        return result;
    }
};

}  // namespace

at::Tensor fused_attention(const std::vector<at::Tensor>& qkv, const AttentionSettings& settings) {
    auto shapes = c10::make_intrusive<Shapes>();
    shapes->settings = settings;
    shapes->n_sequences = qkv[0].size(0) / settings.n_tokens;
    variable_list inputs;
    for (const at::Tensor& tensor : qkv) inputs.push_back(tensor.contiguous());
    return FusedAttention::apply(at::TensorList(inputs), shapes);
}

}  // namespace skiff::train
