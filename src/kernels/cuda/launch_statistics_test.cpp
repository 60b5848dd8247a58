// Sums over tokens against plain loops in double precision.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/launch_testing.h"
#include "kernels/cuda/statistics.h"
#include "kernels/kernels_testing.h"

namespace skiff::cuda {
namespace {

using namespace skiff::testing;
using namespace skiff::cuda::testing;

TEST(CudaStatistics, sums_of_columns_are_the_processors_bits) {
    SKIFF_NEEDS_DEVICE();
    for (const std::int64_t n_columns : {1, 63, 130})
        for (const std::int64_t n_tokens : {1, 7, 40}) {
            const std::int64_t stride = n_columns + 3;
            const auto first = normal_values(n_tokens * stride, 1, 2), second = normal_values(n_tokens * stride, 2, 5);
            std::vector<double> wanted(static_cast<std::size_t>(3 * n_columns));
            std::vector<float> wanted_largest(static_cast<std::size_t>(n_columns));
            for (const auto& x : {first, second})
                for (std::int64_t t = 0; t < n_tokens; ++t)
                    for (std::int64_t c = 0; c < n_columns; ++c) {
                        const float value = x[static_cast<std::size_t>(t * stride + c)];
                        const auto at = static_cast<std::size_t>(c), n = static_cast<std::size_t>(n_columns);
                        wanted[at] += static_cast<double>(value);
                        wanted[n + at] += static_cast<double>(std::fabs(value));
                        wanted[2 * n + at] += static_cast<double>(value) * static_cast<double>(value);
                        wanted_largest[at] = std::max(wanted_largest[at], std::fabs(value));
                    }
            const DeviceArray<float> one(first), two(second);
            in_every_mode([&](const Launch& launch) {
                const DeviceArray<double> sums(3 * n_columns);
                const DeviceArray<float> largest(n_columns);
                for (const float* x : {one.data(), two.data()}) ASSERT_EQ(launch_column_sums({x, stride, n_tokens, n_columns, sums.data(), largest.data()}, launch), 0);
                EXPECT_EQ(sums.values(), wanted);
                EXPECT_EQ(largest.values(), wanted_largest);
            });
        }
}

// Within 2^-15 of the product of the columns' lengths, which is what 16 bits of each factor leave; below the diagonal's tiles nothing is written.
TEST(CudaStatistics, second_moments) {
    SKIFF_NEEDS_DEVICE();
    for (const std::int64_t n_columns : {5, 64, 100, 140})
        for (const std::int64_t n_tokens : {1, 31, 32, 70}) {
            const std::int64_t stride = n_columns + 5;
            auto x = normal_values(n_tokens * stride, 3);
            for (std::int64_t t = 0; t < n_tokens; ++t) x[static_cast<std::size_t>(t * stride)] *= 100;  // an outlier
            const auto before = normal_values(n_columns * n_columns, 4);
            const DeviceArray<float> device(x);
            in_every_mode([&](const Launch& launch) {
                const DeviceArray<float> gram(before);
                ASSERT_EQ(launch_gram({device.data(), stride, n_tokens, n_columns, gram.data()}, launch), 0);
                const auto got = gram.values();
                double worst = 0;
                for (std::int64_t i = 0; i < n_columns; ++i)
                    for (std::int64_t j = 0; j < n_columns; ++j) {
                        const auto at = static_cast<std::size_t>(i * n_columns + j);
                        if (j / 64 < i / 64) {
                            ASSERT_EQ(got[at], before[at]) << i << " " << j;
                            continue;
                        }
                        double sum = 0, a = 0, b = 0;
                        for (std::int64_t t = 0; t < n_tokens; ++t) {
                            const double first = x[static_cast<std::size_t>(t * stride + i)], second = x[static_cast<std::size_t>(t * stride + j)];
                            sum += first * second, a += first * first, b += second * second;
                        }
                        worst = std::max(worst, std::abs(static_cast<double>(got[at]) - before[at] - sum) / (std::sqrt(a * b) + std::abs(before[at])));
                    }
                EXPECT_LT(worst, 0x1p-15) << n_columns << " columns, " << n_tokens << " tokens";
            });
        }
}

}  // namespace
}  // namespace skiff::cuda
