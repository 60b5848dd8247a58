#include "compress/calibrate/observe_inputs.h"

#include <algorithm>
#include <cmath>

#include "compress/algebra/algebra.h"

namespace skiff {

InputObserver::InputObserver(std::int64_t n_columns, StatisticsNeed need) : n_columns_(n_columns), need_(need) {
    const auto n = static_cast<std::size_t>(n_columns);
    sum_.resize(n);
    absolute_.resize(n);
    square_.resize(n);
    largest_.resize(n);
    if (need == StatisticsNeed::gram) gram_.resize(n * n);
}

void InputObserver::add(std::span<const float> x, ThreadPool& pool) {
    const std::int64_t n_tokens = static_cast<std::int64_t>(x.size()) / n_columns_;
    n_tokens_ += n_tokens;
    pool.run([&](int thread) {
        const Range columns = share_of(n_columns_, thread, pool.n_threads());
        for (std::int64_t token = 0; token < n_tokens; ++token) {
            const float* row = x.data() + token * n_columns_;
            for (std::int64_t column = columns.begin; column < columns.end; ++column) {
                const auto at = static_cast<std::size_t>(column);
                const float value = row[column], magnitude = std::fabs(value);
                sum_[at] += static_cast<double>(value);
                absolute_[at] += static_cast<double>(magnitude);
                square_[at] += static_cast<double>(value) * static_cast<double>(value);
                largest_[at] = std::max(largest_[at], magnitude);
            }
        }
    });
    if (need_ == StatisticsNeed::gram) add_gram(x.data(), n_tokens, n_columns_, gram_.data(), pool);
}

void InputObserver::add(const ColumnSums& sums) {
    n_tokens_ += sums.n_tokens;
    for (std::size_t at = 0; at < sum_.size(); ++at) {
        sum_[at] += sums.sum[at];
        absolute_[at] += sums.absolute[at];
        square_[at] += sums.square[at];
        largest_[at] = std::max(largest_[at], sums.largest[at]);
    }
    for (std::size_t at = 0; at < gram_.size() && at < sums.gram.size(); ++at) gram_[at] += sums.gram[at];
}

InputStatistics InputObserver::finish() {
    InputStatistics result;
    result.n_tokens = n_tokens_;
    const double share = 1.0 / static_cast<double>(std::max<std::int64_t>(1, n_tokens_));
    auto mean = [&](const std::vector<double>& sums) {
        std::vector<float> means;
        for (double sum : sums) means.push_back(static_cast<float>(sum * share));
        return means;
    };
    result.mean = mean(sum_);
    result.mean_absolute = mean(absolute_);
    result.mean_square = mean(square_);
    result.largest = std::move(largest_);
    if (need_ != StatisticsNeed::gram) return result;
    mirror_upper(gram_.data(), n_columns_);
    for (float& entry : gram_) entry *= static_cast<float>(share);
    result.gram = std::move(gram_);
    return result;
}

}  // namespace skiff
