// AWQ (Lin et al. 2023): the columns of a weight whose inputs are large are multiplied before rounding, and what gives the inputs is divided. How much is
// searched on a grid. The paper runs the block for each candidate; here the loss is the output error of the operators that read the value, which the second
// moments of their inputs give, over a sample of rows.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "compress/algebra/algebra.h"
#include "compress/quantize/block_transform.h"
#include "compress/quantize/coded_rows.h"
#include "compress/quantize/weighted.h"

namespace skiff {
namespace {

constexpr int n_ratios = 20;
// Rows that are looked at for each candidate: so many of those that lose most, which few rows may do, and so many of the others, spread evenly.
constexpr std::int64_t worst_rows = 128, other_rows = 128;

// Rows of a reader. // (n_rows, n_columns)
struct Sample {
    const Scheme* scheme = nullptr;
    std::int64_t n_rows = 0;
    std::vector<float> rows;
    std::vector<double> stands_for;  // how many rows each // (n_rows)
};

class Search {
public:
    Search(const BlockTransformInput& input, const InputCoupling& coupling, const InputStatistics& inputs) : input_(input), coupling_(coupling), inputs_(inputs) {}

    // The best scales, or nothing where none beat those of ones.
    Result<std::vector<float>> run() {
        SKIFF_CHECK(take_samples());
        if (samples_.empty()) return std::vector<float>();
        const auto n = static_cast<std::size_t>(coupling_.n_sources);
        std::vector<float> best, ones(n, 1.0f);
        double least = loss(ones);
        const auto x = with_floor(by_source(inputs_.mean_absolute)), w = with_floor(by_source(weight_magnitude_));
        for (const bool divide_by_weights : {false, true})
            for (int i = divide_by_weights ? 0 : 1; i < n_ratios; ++i) {
                const double ratio = static_cast<double>(i) / n_ratios;
                std::vector<float> scales(n);
                for (std::size_t j = 0; j < n; ++j) {
                    double scale = std::pow(x[j], ratio);
                    if (divide_by_weights) scale /= std::pow(w[j], 1 - ratio);
                    scales[j] = static_cast<float>(scale);
                }
                normalize(scales);
                const double lost = loss(scales);
                if (!(lost < least)) continue;
                least = lost;
                best = std::move(scales);
            }
        return best;
    }

private:
    Status take_samples() {
        weight_magnitude_.assign(static_cast<std::size_t>(coupling_.n_columns), 0);
        std::int64_t n_all = 0;
        for (const TensorRef& reader : coupling_.readers) {
            const Scheme* scheme = input_.scheme_of(reader.key);
            if (scheme == nullptr || !scheme->is_coded() || scheme->kind == NumberKind::clusters || scheme->kind == NumberKind::vectors) continue;  // levels that are learnt have no grid
            SKIFF_TRY(const auto stored, input_.target.weights.load(reader.key));
            const Weight weight = reader.transposed ? transposed(stored) : stored;
            Sample whole{scheme, weight.n_rows(), std::vector<float>(static_cast<std::size_t>(weight.n_rows() * coupling_.n_columns)), {}};
            for (std::int64_t i = 0; i < whole.n_rows; ++i) {
                float* row = whole.rows.data() + i * coupling_.n_columns;
                weight.row(i, row);
                for (std::int64_t j = 0; j < coupling_.n_columns; ++j) weight_magnitude_[static_cast<std::size_t>(j)] += std::fabs(row[j]);
            }
            n_all += whole.n_rows;
            samples_.push_back(thinned(whole));
        }
        for (float& magnitude : weight_magnitude_) magnitude /= static_cast<float>(std::max<std::int64_t>(1, n_all));
        return {};
    }

    Sample thinned(const Sample& whole) const {
        const auto losses = row_losses(whole, std::vector<float>(static_cast<std::size_t>(coupling_.n_columns), 1.0f));
        std::vector<std::int64_t> order(losses.size());
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return losses[static_cast<std::size_t>(a)] > losses[static_cast<std::size_t>(b)]; });
        const std::int64_t n_worst = std::min(worst_rows, whole.n_rows), n_rest = whole.n_rows - n_worst, n_others = std::min(other_rows, n_rest);
        Sample sample{whole.scheme, n_worst + n_others, {}, {}};
        for (std::int64_t i = 0; i < sample.n_rows; ++i) {
            const std::int64_t at = i < n_worst ? i : n_worst + (i - n_worst) * n_rest / n_others;
            const float* row = whole.rows.data() + order[static_cast<std::size_t>(at)] * coupling_.n_columns;
            sample.rows.insert(sample.rows.end(), row, row + coupling_.n_columns);
            sample.stands_for.push_back(i < n_worst ? 1 : static_cast<double>(n_rest) / static_cast<double>(n_others));
        }
        return sample;
    }

    // Means over the columns that share a scale.
    std::vector<double> by_source(const std::vector<float>& columns) const {
        std::vector<double> sums(static_cast<std::size_t>(coupling_.n_sources));
        for (std::int64_t i = 0; i < coupling_.n_columns; ++i) sums[static_cast<std::size_t>(coupling_.source_of(i))] += static_cast<double>(columns[static_cast<std::size_t>(i)]) / static_cast<double>(coupling_.n_repeats);
        return sums;
    }

    // A dead channel must not set the scale of the others.
    static std::vector<double> with_floor(std::vector<double> values) {
        double sum = 0;
        for (double value : values) sum += value;
        const double floor = sum > 0 ? 1e-3 * sum / static_cast<double>(values.size()) : 1;
        for (double& value : values) value = std::max(value, floor);
        return values;
    }

    static void normalize(std::vector<float>& scales) {
        const auto [least, most] = std::minmax_element(scales.begin(), scales.end());
        const float middle = std::sqrt(*least) * std::sqrt(*most);
        for (float& scale : scales) scale = std::clamp(scale / middle, 1e-3f, 1e3f);
    }

    double loss(const std::vector<float>& scales) const {
        std::vector<float> columns(static_cast<std::size_t>(coupling_.n_columns));
        for (std::int64_t i = 0; i < coupling_.n_columns; ++i) columns[static_cast<std::size_t>(i)] = scales[static_cast<std::size_t>(coupling_.source_of(i))];
        double sum = 0;
        for (const Sample& sample : samples_) {
            const auto losses = row_losses(sample, columns);
            for (std::size_t row = 0; row < losses.size(); ++row) sum += losses[row] * sample.stands_for[row];
        }
        return sum;
    }

    // (w - Q(w s) / s) H (w - Q(w s) / s)^T of each row w. // columns: (n_columns); (n_rows)
    std::vector<double> row_losses(const Sample& sample, const std::vector<float>& columns) const {
        const std::int64_t n = coupling_.n_columns;
        std::vector<float> importance;
        if (input_.search == BlockTransformInput::Search::weighted) {
            importance = column_importance(inputs_);
            for (std::size_t i = 0; i < importance.size(); ++i) importance[i] /= columns[i] * columns[i];
        }
        const auto grid = make_grid(*sample.scheme, input_.scale_rule);
        std::vector<float> error(sample.rows.size()), product(sample.rows.size());
        input_.target.pool.run([&](int thread) {
            const Range rows = share_of(sample.n_rows, thread, input_.target.pool.n_threads());
            RowChoice choice;
            std::vector<float> scaled(static_cast<std::size_t>(n));
            for (std::int64_t row = rows.begin; row < rows.end; ++row) {
                const float* own = sample.rows.data() + row * n;
                for (std::size_t i = 0; i < scaled.size(); ++i) scaled[i] = own[i] * columns[i];
                fit_row(*grid, *sample.scheme, scaled, importance, choice.params);
                round_row(*grid, *sample.scheme, scaled, choice);
                for (std::size_t i = 0; i < scaled.size(); ++i) {
                    const GroupParams& params = choice.params.groups[static_cast<std::size_t>(sample.scheme->group_of(static_cast<std::int64_t>(i)))];
                    error[static_cast<std::size_t>(row * n) + i] = own[i] - grid->value(choice.codes[i], params) / columns[i];
                }
            }
        });
        multiply({.m = sample.n_rows, .n = n, .k = n, .a = error.data(), .a_stride = n, .b = inputs_.gram.data(), .b_stride = n, .c = product.data(), .c_stride = n}, input_.target.pool);
        std::vector<double> losses;
        for (std::int64_t row = 0; row < sample.n_rows; ++row) {
            double sum = 0;
            for (std::int64_t i = row * n; i < (row + 1) * n; ++i) sum += static_cast<double>(error[static_cast<std::size_t>(i)]) * static_cast<double>(product[static_cast<std::size_t>(i)]);
            losses.push_back(sum);
        }
        return losses;
    }

    const BlockTransformInput& input_;
    const InputCoupling& coupling_;
    const InputStatistics& inputs_;
    std::vector<Sample> samples_;
    std::vector<float> weight_magnitude_;  // mean over rows // (n_columns)
};

}  // namespace

Status awq_apply(const BlockTransformInput& input) {
    for (const InputCoupling& coupling : find_couplings(input.spec, input.block)) {
        const auto found = input.target.inputs.find(coupling.readers[0].key);
        if (found == input.target.inputs.end() || found->second->n_tokens < fewest_tokens) continue;
        const std::shared_ptr<const InputStatistics> inputs = found->second;
        SKIFF_TRY(auto scales, Search(input, coupling, *inputs).run());
        if (!scales.empty()) SKIFF_CHECK(scale_inputs(coupling, std::move(scales), input.target));
    }
    return input.options.clip == MethodOptions::Clip::search ? clip_weights(input) : Status();
}

}  // namespace skiff
