// Learnt rounding over a whole decoder block: what one operator loses another may make up for, and what attention and the gate do with errors counts.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/progress.h"
#include "base/rng.h"
#include "compress/calibrate/block_work.h"
#include "compress/quantize/block_gradients.h"
#include "compress/quantize/learnt_rounding.h"
#include "tensor/codes_builder.h"

namespace skiff {
namespace {

constexpr std::int64_t batch_tokens = 2048;  // at least, for each step
constexpr std::int64_t tile_rows = 64;
constexpr std::size_t most_judged = 8;       // samples on which the best is chosen
constexpr std::int64_t n_judgements = 8;

// A weight of the block while its rounding is learnt.
struct Learning {
    Scheme scheme;
    std::unique_ptr<Grid> grid;
    std::unique_ptr<LearntSteps> steps;
    std::int64_t n_rows = 0, n_columns = 0;
    std::vector<float> values;  // as they were // (n_rows, n_columns)
    std::vector<RowChoice> now, best;
    std::vector<RowParams> fitted;      // scales as they were found first // (n_rows)
    std::vector<float> offset, factor;  // (n_rows, n_columns), (n_rows, n_groups)
};

class BlockLearner {
public:
    BlockLearner(const BlockRounding& input, BlockGradients block) : input_(input), block_(std::move(block)) {}

    Result<std::map<std::string, Weight>> run() {
        SKIFF_CHECK(take_samples());
        const std::int64_t n_iterations = input_.options.n_iterations;
        for (const auto& [key, scheme] : input_.wanted) SKIFF_CHECK(begin(key, scheme));
        if (learning_.empty()) return std::map<std::string, Weight>();
        take_targets();
        for (auto& [key, own] : learning_) {
            own.best = own.now;
            show(key, own.now);
        }
        double least = judged();
        std::vector<std::size_t> order(samples_.size());
        std::iota(order.begin(), order.end(), std::size_t{0});
        Rng rng(input_.block + 1);
        std::size_t next = order.size();
        const std::int64_t pause = std::max<std::int64_t>(1, n_iterations / n_judgements);
        for (std::int64_t iteration = 0; iteration < n_iterations; ++iteration) {
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
            block_.clear_gradients();
            for (std::int64_t n_tokens = 0; n_tokens < batch_tokens && n_tokens < n_all_tokens_;) {
                if (next == order.size()) {
                    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[static_cast<std::size_t>(rng.below(i))]);
                    next = 0;
                }
                n_tokens += one_sample(order[next++]);
            }
            const float rate = (1 - static_cast<float>(iteration) / static_cast<float>(n_iterations)) / static_cast<float>(n_iterations);
            for (auto& [key, own] : learning_) step(key, own, rate);
            if ((iteration + 1) % pause != 0 && iteration + 1 != n_iterations) continue;
            const double lost = judged();
            if (!(lost < least)) continue;
            least = lost;
            for (auto& [key, own] : learning_) own.best = own.now;
        }
        std::map<std::string, Weight> result;
        for (auto& [key, own] : learning_) {
            CodesBuilder builder(own.scheme, own.n_rows, own.n_columns);
            for (std::int64_t row = 0; row < own.n_rows; ++row) {
                const RowChoice& choice = own.best[static_cast<std::size_t>(row)];
                builder.set_row(row, choice.codes, choice.params);
            }
            result[key] = builder.finish();
        }
        return result;
    }

private:
    Status take_samples() {
        const ValueId in = input_.spec.blocks[input_.block].in;
        return input_.work.watch(input_.block, std::span(&in, 1), [&](std::int64_t, std::span<const std::span<const float>> values, ThreadPool&) -> Status {
            samples_.emplace_back(values[0].begin(), values[0].end());
            n_all_tokens_ += static_cast<std::int64_t>(values[0].size()) / input_.spec.d_model;
            return {};
        });
    }

    // What the block gives with its weights as they are.
    void take_targets() {
        for (const auto& sample : samples_) {
            const auto y = block_.forward(sample, input_.pool);
            targets_.emplace_back(y.begin(), y.end());
        }
    }

    // Each operator by itself first.
    Status begin(const std::string& key, const Scheme& scheme) {
        const auto matrix = block_.matrices().find(key);
        const InputStatistics* inputs = input_.work.inputs(key);
        if (matrix == block_.matrices().end() || inputs == nullptr || inputs->gram.empty() || inputs->n_tokens < fewest_tokens) return {};
        Learning own;
        own.scheme = scheme;
        own.grid = make_grid(scheme, input_.scale_rule);
        own.n_rows = matrix->second.n_rows;
        own.n_columns = matrix->second.n_columns;
        own.values = matrix->second.values;
        if (const std::int64_t bad = first_non_finite(own.values); bad >= 0)
            return non_finite_error(make_float_weight({own.n_rows, own.n_columns}, own.values), bad / own.n_columns).with_context("tensor " + key);
        own.now.resize(static_cast<std::size_t>(own.n_rows));
        own.fitted.resize(own.now.size());
        const std::int64_t n = own.n_columns, n_groups = scheme.n_groups(n), n_tiles = (own.n_rows + tile_rows - 1) / tile_rows;
        own.offset.resize(own.values.size());
        own.factor.resize(static_cast<std::size_t>(own.n_rows * n_groups));
        const SecondMoments moments = second_moments(*inputs, input_.options.damping);
        auto& kept = learning_[key] = std::move(own);  // the steps refer to its grid and scheme
        kept.steps = std::make_unique<LearntSteps>(*kept.grid, kept.scheme, input_.pruned.count(key) != 0 ? ZeroWeights::stay : ZeroWeights::move);
        input_.pool.run([&](int thread) {
            const Range tiles = share_of(n_tiles, thread, input_.pool.n_threads());
            for (std::int64_t i = tiles.begin; i < tiles.end; ++i) {
                RowTile tile;
                tile.first_row = i * tile_rows;
                tile.n_rows = std::min(tile_rows, kept.n_rows - tile.first_row);
                tile.n_columns = n;
                tile.values.assign(kept.values.begin() + tile.first_row * n, kept.values.begin() + (tile.first_row + tile.n_rows) * n);
                tile.choices.resize(static_cast<std::size_t>(tile.n_rows));
                for (std::int64_t row = 0; row < tile.n_rows; ++row) {
                    RowChoice& choice = tile.choices[static_cast<std::size_t>(row)];
                    fit_row(*kept.grid, kept.scheme, tile.row(row), moments.diagonal, choice.params);
                    round_row(*kept.grid, kept.scheme, tile.row(row), choice);
                    kept.fitted[static_cast<std::size_t>(tile.first_row + row)] = choice.params;
                }
                std::vector<float> offset, factor;
                kept.steps->learn_tile(tile, moments, input_.options.n_iterations, offset, factor);
                std::copy(offset.begin(), offset.end(), kept.offset.begin() + tile.first_row * n);
                std::copy(factor.begin(), factor.end(), kept.factor.begin() + tile.first_row * n_groups);
                std::move(tile.choices.begin(), tile.choices.end(), kept.now.begin() + tile.first_row);
            }
        });
        if (!loses_scales(kept)) return {};
        Scheme wider = scheme;  // a transform changed the weights that the survey saw; steps never leave what the type holds
        if (wider.scale_dtype == DType::f32) return corrupt(key + ": its weights need scales that are not finite");
        wider.scale_dtype = DType::f32;
        return begin(key, wider);
    }

    static bool loses_scales(const Learning& own) {
        for (std::int64_t row = 0; row < own.n_rows; ++row) {
            const auto values = std::span<const float>(own.values).subspan(static_cast<std::size_t>(row * own.n_columns), static_cast<std::size_t>(own.n_columns));
            if (scales_are_lost(own.scheme, values, own.now[static_cast<std::size_t>(row)])) return true;
        }
        return false;
    }

    // The block computes with these choices from now on.
    void show(const std::string& key, const std::vector<RowChoice>& choices) {
        const Learning& own = learning_.at(key);
        std::vector<float>& values = block_.matrices().at(key).values;
        over_rows(own.n_rows, [&](std::int64_t row) {
            const RowChoice& choice = choices[static_cast<std::size_t>(row)];
            for (std::int64_t i = 0; i < own.n_columns; ++i)
                values[static_cast<std::size_t>(row * own.n_columns + i)] = own.grid->value(choice.codes[static_cast<std::size_t>(i)], choice.params.groups[static_cast<std::size_t>(own.scheme.group_of(i))]);
        });
    }

    void step(const std::string& key, Learning& own, float rate) {
        std::vector<float>& gradient = block_.matrices().at(key).gradient;
        const std::int64_t n = own.n_columns, n_groups = own.scheme.n_groups(n);
        over_rows(own.n_rows, [&](std::int64_t row) {
            float* g = gradient.data() + row * n;
            for (std::int64_t i = 0; i < n; ++i) g[i] = -g[i];
            const auto at = static_cast<std::size_t>(row);
            own.steps->step_row(rate, std::span<const float>(own.values).subspan(static_cast<std::size_t>(row * n), static_cast<std::size_t>(n)), g, own.fitted[at], {own.offset.data() + row * n, own.factor.data() + row * n_groups}, own.now[at]);
        });
        show(key, own.now);
    }

    template <class Task>
    void over_rows(std::int64_t n_rows, const Task& task) {
        input_.pool.run([&](int thread) {
            const Range rows = share_of(n_rows, thread, input_.pool.n_threads());
            for (std::int64_t row = rows.begin; row < rows.end; ++row) task(row);
        });
    }

    // Squares of the output's error, by the block's output.
    std::int64_t one_sample(std::size_t sample) {
        const auto y = block_.forward(samples_[sample], input_.pool);
        std::vector<float> dy(y.begin(), y.end());
        for (std::size_t i = 0; i < dy.size(); ++i) dy[i] = 2 * (dy[i] - targets_[sample][i]);
        block_.backward(dy, input_.pool);
        return static_cast<std::int64_t>(dy.size()) / input_.spec.d_model;
    }

    double judged() {
        double lost = 0;
        const std::size_t n = std::min(most_judged, samples_.size());
        for (std::size_t i = 0; i < n; ++i) {
            const std::size_t sample = i * samples_.size() / n;
            const auto y = block_.forward(samples_[sample], input_.pool);
            for (std::size_t j = 0; j < y.size(); ++j) {
                const double error = static_cast<double>(y[j]) - static_cast<double>(targets_[sample][j]);
                lost += error * error;
            }
        }
        return lost;
    }

    const BlockRounding& input_;
    BlockGradients block_;
    std::vector<std::vector<float>> samples_, targets_;  // (n_tokens, d_model) each
    std::int64_t n_all_tokens_ = 0;
    std::map<std::string, Learning> learning_;
};

}  // namespace

Result<std::map<std::string, Weight>> learn_block(const BlockRounding& input) {
    SKIFF_TRY(auto block, BlockGradients::make(input.spec, input.block, input.work.weights(), input.work.text().longest()));
    return BlockLearner(input, std::move(block)).run();
}

}  // namespace skiff
