// The second step of AWQ (Lin et al. 2023): the largest weights of a group are clipped where that lowers the error of the group's part of the output,
// because all others then get finer steps. Queries and keys stay: their product's error is no sum over rows.
#include <algorithm>
#include <cmath>
#include <set>

#include "compress/algebra/algebra.h"
#include "compress/quantize/block_transform.h"
#include "compress/quantize/coded_rows.h"

namespace skiff {
namespace {

constexpr int n_ratios = 10;          // 1, 0.95 ... 0.55
constexpr double ratio_step = 0.05;
constexpr std::int64_t tile_rows = 32;

// Weights whose rows become queries or keys.
std::set<std::string> query_and_key_weights(const Block& block) {
    std::set<ValueId> values;
    for (const Op& op : block.ops)
        if (std::holds_alternative<AttentionOp>(op.detail)) values.insert({op.in[0], op.in[1]});
    std::set<std::string> keys;
    for (auto op = block.ops.rbegin(); op != block.ops.rend(); ++op) {
        if (values.count(op->out) == 0) continue;
        if (std::holds_alternative<RopeOp>(op->detail) || std::holds_alternative<NormOp>(op->detail)) values.insert(op->in[0]);
        if (const auto* linear = std::get_if<LinearOp>(&op->detail))
            for (const LinearTerm& term : linear->terms) keys.insert(term.weight.key);
    }
    return keys;
}

// The rows of one weight, clipped in place. // values: (n_rows, n_columns)
void clip_rows(std::vector<float>& values, std::int64_t n_columns, const Scheme& scheme, const BlockTransformInput& input, const InputStatistics& inputs) {
    const auto n_rows = static_cast<std::int64_t>(values.size()) / n_columns, n_tiles = (n_rows + tile_rows - 1) / tile_rows;
    const auto grid = make_grid(scheme, input.scale_rule);
    input.target.pool.run([&](int thread) {
        const Range tiles = share_of(n_tiles, thread, input.target.pool.n_threads());
        std::vector<float> clipped, error, product;
        std::vector<std::uint8_t> codes;
        for (std::int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
            const std::int64_t first = tile * tile_rows, rows = std::min(tile_rows, n_rows - first);
            for (std::int64_t group = 0; group < scheme.n_groups(n_columns); ++group) {
                const Range columns = columns_of_group(scheme, group, n_columns);
                const std::int64_t size = columns.end - columns.begin;
                clipped.resize(static_cast<std::size_t>(size));
                codes.resize(clipped.size());
                error.resize(static_cast<std::size_t>(rows * size));
                product.resize(error.size());
                std::vector<double> least(static_cast<std::size_t>(rows), INFINITY), best(least.size(), 1);
                for (int i = 0; i < n_ratios; ++i) {
                    const double ratio = 1 - ratio_step * i;
                    for (std::int64_t row = 0; row < rows; ++row) {
                        const float* own = values.data() + (first + row) * n_columns + columns.begin;
                        float largest = 0;
                        for (std::int64_t j = 0; j < size; ++j) largest = std::max(largest, std::fabs(own[j]));
                        const float limit = largest * static_cast<float>(ratio);
                        for (std::int64_t j = 0; j < size; ++j) clipped[static_cast<std::size_t>(j)] = std::clamp(own[j], -limit, limit);
                        const GroupParams params = grid->fit(clipped, {});
                        grid->round_group(clipped, params, codes.data());
                        for (std::int64_t j = 0; j < size; ++j) error[static_cast<std::size_t>(row * size + j)] = own[j] - grid->value(codes[static_cast<std::size_t>(j)], params);
                    }
                    const float* gram = inputs.gram.data() + columns.begin * n_columns + columns.begin;
                    multiply({.m = rows, .n = size, .k = size, .a = error.data(), .a_stride = size, .b = gram, .b_stride = n_columns, .c = product.data(), .c_stride = size});
                    for (std::int64_t row = 0; row < rows; ++row) {
                        double lost = 0;
                        for (std::int64_t j = row * size; j < (row + 1) * size; ++j) lost += static_cast<double>(error[static_cast<std::size_t>(j)]) * static_cast<double>(product[static_cast<std::size_t>(j)]);
                        if (!(lost < least[static_cast<std::size_t>(row)])) continue;
                        least[static_cast<std::size_t>(row)] = lost;
                        best[static_cast<std::size_t>(row)] = ratio;
                    }
                }
                for (std::int64_t row = 0; row < rows; ++row) {
                    float* own = values.data() + (first + row) * n_columns + columns.begin;
                    float largest = 0;
                    for (std::int64_t j = 0; j < size; ++j) largest = std::max(largest, std::fabs(own[j]));
                    const float limit = largest * static_cast<float>(best[static_cast<std::size_t>(row)]);
                    for (std::int64_t j = 0; j < size; ++j) own[j] = std::clamp(own[j], -limit, limit);
                }
            }
        }
    });
}

}  // namespace

Status clip_weights(const BlockTransformInput& input) {
    const Block& block = input.spec.blocks.at(input.block);
    const auto left_out = query_and_key_weights(block);
    std::map<std::string, TensorRef> weights;
    for (const Op& op : block.ops)
        if (const auto* linear = std::get_if<LinearOp>(&op.detail); linear != nullptr && linear->terms.size() == 1 && linear->terms[0].kind == LinearTerm::Kind::packed)
            weights.emplace(linear->terms[0].weight.key, linear->terms[0].weight);
    for (const auto& [key, ref] : weights) {
        const Scheme* scheme = input.scheme_of(key);
        const auto found = input.target.inputs.find(key);
        if (scheme == nullptr || !scheme->is_coded() || scheme->kind == NumberKind::clusters || scheme->kind == NumberKind::vectors || left_out.count(key) != 0) continue;
        if (found == input.target.inputs.end() || found->second->n_tokens < fewest_tokens || found->second->gram.empty()) continue;
        SKIFF_TRY(const auto stored, input.target.weights.load(key));
        const Weight rows = as_floats(ref.transposed ? transposed(stored) : stored, input.target.pool);
        std::vector<float> values(static_cast<std::size_t>(element_count(rows.shape)));
        for (std::int64_t row = 0; row < rows.n_rows(); ++row) rows.row(row, values.data() + row * rows.n_columns());
        clip_rows(values, rows.n_columns(), *scheme, input, *found->second);
        const Weight clipped = make_float_weight(rows.shape, std::move(values));
        SKIFF_CHECK(input.target.weights.clip(key, ref.transposed ? transposed(clipped) : clipped));
    }
    return {};
}

}  // namespace skiff
