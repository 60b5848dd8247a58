// GPTQ (Frantar et al. 2022): columns are rounded one after another, and what rounding one loses is made up for by those not yet rounded, as far as their
// inputs go together. Columns may be visited in any order, since groups stay where they are stored.
#include <cmath>

#include "compress/algebra/algebra.h"
#include "compress/quantize/refine.h"
#include "compress/quantize/weighted.h"
#include "tensor/codes_builder.h"

namespace skiff {
namespace {

constexpr std::int64_t tile_rows = 64, block_columns = 128;

class Sweep {
public:
    Sweep(const Grid& grid, const Scheme& scheme, const Feedback& feedback, std::span<const float> importance, MethodOptions::Order order)
        : grid_(grid), scheme_(scheme), feedback_(feedback), importance_(importance) {
        const auto n = static_cast<std::int64_t>(feedback.order.size());
        const bool updates_scales = order != MethodOptions::Order::by_inputs && scheme.group_size != 0;
        group_sizes_.resize(static_cast<std::size_t>(n));
        std::int64_t begin = 0;
        for (std::int64_t k = 0; k < n;) {  // blocks hold whole groups where scales are fitted on the way
            std::int64_t end = k + 1;
            const auto group_of = [&](std::int64_t at) { return scheme.group_of(feedback.order[static_cast<std::size_t>(at)]); };
            while (updates_scales && end < n && group_of(end) == group_of(k)) ++end;
            if (updates_scales) group_sizes_[static_cast<std::size_t>(k)] = end - k;
            if (end - begin > block_columns && k > begin) {
                blocks_.push_back({begin, k});
                begin = k;
            }
            k = end;
        }
        blocks_.push_back({begin, n});
        for (const Range& block : blocks_) longest_block_ = std::max(longest_block_, block.end - block.begin);
    }

    void run(RowTile& tile) const {
        const std::int64_t n = tile.n_columns;
        std::vector<float> original(tile.values.size()), error(tile.values.size());  // in the order of the visit
        for (std::int64_t row = 0; row < tile.n_rows; ++row) {
            RowChoice& choice = tile.choices[static_cast<std::size_t>(row)];
            fit_row(grid_, scheme_, tile.row(row), importance_, choice.params);
            for (std::int64_t k = 0; k < n; ++k) original[static_cast<std::size_t>(row * n + k)] = tile.row(row)[static_cast<std::size_t>(feedback_.order[static_cast<std::size_t>(k)])];
        }
        std::vector<float> moved(static_cast<std::size_t>(tile.n_rows * longest_block_));
        for (const auto& [begin, end] : blocks_) {
            const std::int64_t size = end - begin;
            for (std::int64_t row = 0; row < tile.n_rows; ++row) std::copy_n(original.data() + row * n + begin, size, moved.data() + row * size);
            if (begin > 0)
                multiply({.m = tile.n_rows, .n = size, .k = begin, .a = error.data(), .a_stride = n, .b = feedback_.factor.data() + begin, .b_stride = n, .c = moved.data(), .c_stride = size, .factor = 1, .keep = 1});
            for (std::int64_t row = 0; row < tile.n_rows; ++row)
                one_block({begin, size, original.data() + row * n + begin, moved.data() + row * size, error.data() + row * n + begin, tile.zeros}, tile.choices[static_cast<std::size_t>(row)]);
        }
    }

private:
    // Of one row. `moved` holds the weights with the errors of the blocks before made up for. // (size) each
    struct BlockRow {
        std::int64_t begin, size;
        const float* original;
        float *moved, *error;
        ZeroWeights zeros;
        bool stays(std::int64_t k) const { return zeros == ZeroWeights::stay && original[k] == 0; }
    };

    void one_block(const BlockRow& block, RowChoice& choice) const {
        const auto n = static_cast<std::int64_t>(feedback_.order.size());
        for (std::int64_t k = 0; k < block.size; ++k) {
            const std::int64_t at = block.begin + k, column = feedback_.order[static_cast<std::size_t>(at)];
            if (const std::int64_t group_size = group_sizes_[static_cast<std::size_t>(at)]; group_size > 0) fit_group(block, k, group_size, choice);
            const GroupParams& params = choice.params.groups[static_cast<std::size_t>(scheme_.group_of(column))];
            // What was pruned stays zero; the columns behind it make up for what it would have made up for.
            const std::int32_t code = grid_.round(block.stays(k) ? 0.0f : block.moved[k], params);
            choice.codes[static_cast<std::size_t>(column)] = static_cast<std::uint8_t>(code);
            block.error[k] = block.original[k] - grid_.value(code, params);
            const float* factor = feedback_.factor.data() + at * n + block.begin;
            const float own = block.error[k];
            for (std::int64_t i = k + 1; i < block.size; ++i) block.moved[i] += own * factor[i];
        }
    }

    // The group's weights as they would be if none of them were rounded: each moves by what those before it moved. The group is visited from `first` on.
    void fit_group(const BlockRow& block, std::int64_t first, std::int64_t size, RowChoice& choice) const {
        const auto n = static_cast<std::int64_t>(feedback_.order.size()), at = block.begin + first;
        std::vector<float> free(block.moved + first, block.moved + first + size), importance;
        const std::int64_t column = feedback_.order[static_cast<std::size_t>(at)];
        for (std::int64_t k = 0; k < size; ++k) {
            if (block.stays(first + k)) free[static_cast<std::size_t>(k)] = 0;
            const float own = block.original[first + k] - free[static_cast<std::size_t>(k)];
            const float* factor = feedback_.factor.data() + (at + k) * n + at;
            importance.push_back(importance_[static_cast<std::size_t>(feedback_.order[static_cast<std::size_t>(at + k)])]);
            for (std::int64_t i = k + 1; i < size; ++i) free[static_cast<std::size_t>(i)] += own * factor[i];
        }
        GroupParams& params = choice.params.groups[static_cast<std::size_t>(scheme_.group_of(column))];
        const GroupParams fitted = grid_.fit(free, importance);
        // What is left of others' errors in a group of zeros may be too little for a scale in F16: the group keeps that of its own weights.
        if (scale_is_lost(fitted, scheme_, {})) return;
        params = scheme_.relative_scales() ? grid_.fit_under(super_scale_of(scheme_, choice.params, column), fitted, free, importance).params : fitted;
    }

    const Grid& grid_;
    const Scheme& scheme_;
    const Feedback& feedback_;
    const std::span<const float> importance_;
    std::vector<std::int64_t> group_sizes_;  // at the position where a group begins whose scale is fitted then; else 0
    std::vector<Range> blocks_;
    std::int64_t longest_block_ = 0;
};

}  // namespace

Status gptq_defined_on(const Scheme& scheme) {
    SKIFF_CHECK(algebra_available());
    return scheme.kind == NumberKind::vectors ? nearest_defined_on(scheme) : codes_defined_on(scheme);
}

Result<Weight> gptq_encode(const MethodInput& input) {
    if (input.scheme.kind == NumberKind::floating) return nearest_encode(input);
    if (input.scheme.kind == NumberKind::vectors) return gptq_vectors_encode(input);
    if (const std::string why = why_not_calibrated(input, StatisticsNeed::gram); !why.empty()) {
        remark(input, "no GPTQ: " + why);
        return weighted_encode(input);
    }
    SKIFF_CHECK(check_statistics(input));
    const auto feedback = make_feedback(*input.inputs, input.scheme, input.options);
    if (!feedback) {
        remark(input, "no GPTQ: the second moments of its inputs are not positive definite; searched with weights instead");
        return weighted_encode(input);
    }
    if (feedback->damping > input.options.damping * 1.0001) remark(input, "GPTQ with damping " + std::to_string(feedback->damping) + ": with less, the second moments of its inputs are not positive definite");
    const auto grid = make_grid(input.scheme, input.scale_rule);
    const SecondMoments moments = second_moments(*input.inputs, feedback->damping);
    const Sweep sweep(*grid, input.scheme, *feedback, feedback->own, input.options.order);
    return encode_tiles(input, tile_rows, [&](RowTile& tile) {
        sweep.run(tile);
        refine({*grid, input.scheme, moments, input.options.refine_passes}, tile);
    });
}

}  // namespace skiff
