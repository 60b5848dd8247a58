#include "backend/cuda/cudnn/attention.h"

#include <limits>

namespace skiff::cuda::cudnn {

std::size_t attention_stats_bytes(const AttentionShape& s) { return (static_cast<std::size_t>(s.n_heads * s.n_rows) * sizeof(float) + 255) / 256 * 256; }

AttentionGraph attention_graph(const Library& library, const AttentionShape& s) {
    AttentionGraph made{Graph(library)};
    Graph& graph = made.graph;
    using Dims = std::vector<std::int64_t>;
    const std::int64_t n_positions = s.n_pages * s.page_positions, width = s.n_heads * s.head_dim;
    const auto one = [](std::int64_t n) { return TensorSpec{{1, 1, n, 1}, {n, n, 1, 1}, DataType::i32, sizeof(std::int32_t)}; };  // a row of a page table begins anywhere
    const TensorSpec rows = {{1, s.n_heads, s.n_rows, s.head_dim}, {s.n_rows * width, s.head_dim, width, 1}, DataType::bf16};
    const TensorSpec pool = {{s.n_pool_pages, s.n_kv_heads, s.page_positions, s.head_dim}, {s.page_stride, s.page_positions * s.head_dim, s.head_dim, 1}, DataType::bf16};
    made.q = graph.tensor(rows);
    made.keys = graph.tensor(pool);
    made.values = graph.tensor(pool);
    made.key_pages = graph.tensor(one(s.n_pages));
    made.value_pages = graph.tensor(one(s.n_pages));
    made.n_tokens = graph.tensor(one(1));
    made.n_positions = graph.tensor(one(1));
    made.y = graph.tensor(rows);

    const Dims scores = {1, s.n_heads, s.n_rows, n_positions}, row_sums = {1, s.n_heads, s.n_rows, 1};
    const auto step = [&](Pointwise mode, const Graph::PointwiseInputs& in, DataType math = DataType::f32, DataType type = DataType::f32, std::int64_t axis = -1) {
        const int y = graph.inside(scores, type);
        graph.pointwise({mode, math, axis}, in, y);
        return y;
    };

    // The keys' pages as one matrix that is turned: (head_dim, positions).
    const std::int64_t of_head = n_positions * s.head_dim;
    const int keys = graph.inside(TensorSpec{{1, s.n_kv_heads, s.head_dim, n_positions}, {s.n_kv_heads * of_head, of_head, 1, s.head_dim}, DataType::bf16});
    graph.paged_load(made.keys, made.key_pages, made.n_positions, keys);
    int x = graph.inside(scores, DataType::f32);
    graph.matmul(made.q, keys, x, {made.n_tokens, made.n_positions, -1});
    x = step(Pointwise::multiply, {x, graph.number(s.scale)});
    if (s.softcap > 0) {
        const int cap = graph.number(s.softcap);
        x = step(Pointwise::divide, {x, cap});
        x = step(Pointwise::tanh, {x});
        x = step(Pointwise::multiply, {x, cap});
    }

    // What is masked gets minus infinity; versions before 9.10 want the lowest number.
    const float lowest = library.version() < 91000 ? std::numeric_limits<float>::lowest() : -std::numeric_limits<float>::infinity();
    const auto i32 = DataType::i32, boolean = DataType::boolean;
    const auto keep_where = [&](int mask) { x = step(Pointwise::select, {x, graph.number(lowest), mask}); };
    {  // rows that are no tokens, positions that are not written
        const int row = step(Pointwise::index, {x}, i32, i32, 2), column = step(Pointwise::index, {x}, i32, i32, 3);
        const int is_token = step(Pointwise::less, {row, made.n_tokens}, boolean, boolean), is_written = step(Pointwise::less, {column, made.n_positions}, boolean, boolean);
        keep_where(step(Pointwise::logical_and, {is_token, is_written}, boolean, boolean));
    }
    {  // row + n_positions - n_tokens is the position of the row's token
        int row = step(Pointwise::index, {x}, DataType::f32, i32, 2);
        const int column = step(Pointwise::index, {x}, DataType::f32, i32, 3);
        row = step(Pointwise::add, {row, made.n_positions}, i32, i32);
        row = step(Pointwise::subtract, {row, made.n_tokens}, i32, i32);
        keep_where(step(Pointwise::greater_equal, {row, column}, boolean, boolean));
    }
    if (s.window > 0) {  // column + window > position of the token
        const int row = step(Pointwise::index, {x}, DataType::f32, i32, 2);
        int column = step(Pointwise::index, {x}, DataType::f32, i32, 3);
        column = step(Pointwise::add, {column, graph.number(static_cast<std::int32_t>(s.window))}, i32, i32);
        column = step(Pointwise::subtract, {column, made.n_positions}, i32, i32);
        column = step(Pointwise::add, {column, made.n_tokens}, i32, i32);
        keep_where(step(Pointwise::greater, {column, row}, boolean, boolean));
    }

    const int highest = graph.inside(row_sums, DataType::f32), sum = graph.inside(row_sums, DataType::f32);
    graph.reduce(Reduction::max, x, highest);
    x = step(Pointwise::subtract, {x, highest});
    x = step(Pointwise::exp, {x});
    graph.reduce(Reduction::add, x, sum);
    const int log_sum = graph.inside(row_sums, DataType::f32);
    graph.pointwise({Pointwise::log, DataType::f32}, {sum}, log_sum);
    made.stats = graph.tensor({row_sums, packed_strides(row_sums), DataType::f32});
    graph.pointwise({Pointwise::add, DataType::f32}, {highest, log_sum}, made.stats);
    const int shares = step(Pointwise::divide, {x, sum}, DataType::f32, DataType::bf16);

    const int values = graph.inside({1, s.n_kv_heads, n_positions, s.head_dim}, DataType::bf16);
    graph.paged_load(made.values, made.value_pages, made.n_positions, values);
    graph.matmul(shares, values, made.y, {made.n_tokens, -1, made.n_positions});
    return made;
}

}  // namespace skiff::cuda::cudnn
