// Clustering against every way to cut, the figure of Deep Compression, and weights of clusters from end to end.
#include "tensor/clusters.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/rng.h"
#include "tensor/encode_clusters.h"

namespace skiff {
namespace {

std::vector<float> normal_values(std::size_t n, std::uint64_t seed, float scale = 0.02f) {
    Rng rng(seed);
    std::vector<float> values(n);
    for (float& value : values) value = scale * rng.normal();
    return values;
}

double loss_of(std::span<const float> values, std::span<const float> weights, std::span<const float> means) {
    double loss = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
        double least = std::numeric_limits<double>::infinity();
        for (float mean : means) least = std::min(least, std::pow(static_cast<double>(values[i]) - static_cast<double>(mean), 2));
        loss += least * (weights.empty() ? 1.0 : static_cast<double>(weights[i]));
    }
    return loss;
}

// The least loss of all ways to cut sorted values into k runs.
double least_loss(const std::vector<float>& values, const std::vector<float>& weights, std::size_t begin, int k) {
    const std::size_t n = values.size();
    if (begin == n) return 0;
    if (k == 0) return std::numeric_limits<double>::infinity();
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t end = begin + 1; end <= n; ++end) {
        double weight = 0, sum = 0, squares = 0;
        for (std::size_t i = begin; i < end; ++i) {
            const double w = static_cast<double>(weights[i]), x = static_cast<double>(values[i]);
            weight += w, sum += w * x, squares += w * x * x;
        }
        least = std::min(least, (weight > 0 ? squares - sum * sum / weight : 0) + least_loss(values, weights, end, k - 1));
    }
    return least;
}

TEST(Clusters, NoOtherCutLosesLess) {
    Rng rng(1);
    for (int trial = 0; trial < 60; ++trial) {
        const std::size_t n = 1 + rng.below(11);
        auto values = normal_values(n, rng.next(), trial % 2 == 0 ? 1.0f : 1e-3f);
        if (trial % 3 == 0)
            for (float& value : values) value = std::nearbyint(value * 2);  // equal ones
        std::vector<float> weights(n);
        for (float& weight : weights) weight = static_cast<float>(rng.uniform()) + 0.01f;
        std::sort(values.begin(), values.end());
        for (int k = 1; k <= 4; ++k) {
            const auto means = cluster_means(cluster_points(values, weights, 4096), k);
            ASSERT_EQ(means.size(), static_cast<std::size_t>(k));
            EXPECT_TRUE(std::is_sorted(means.begin(), means.end()));
            const double power = loss_of(values, weights, std::vector<float>{0});
            EXPECT_NEAR(loss_of(values, weights, means), least_loss(values, weights, 0, k), 1e-6 * power + 1e-12) << "trial " << trial << " k " << k;
        }
    }
}

// Lloyd's iteration cannot improve on it, and from random starts does not reach it.
TEST(Clusters, LloydFindsNothingBetter) {
    const auto values = normal_values(3000, 5, 1);
    for (int k : {4, 16, 61}) {
        const auto means = cluster_means(cluster_points(values, {}, 4096), k);
        const double exact = loss_of(values, {}, means);
        Rng rng(static_cast<std::uint64_t>(k));
        std::vector<float> centres(static_cast<std::size_t>(k));
        for (float& centre : centres) centre = values[rng.below(values.size())];
        for (int round = 0; round < 40; ++round) {
            std::vector<double> sum(centres.size()), count(centres.size());
            for (float x : values) {
                std::size_t own = 0;
                for (std::size_t i = 1; i < centres.size(); ++i)
                    if (std::fabs(x - centres[i]) < std::fabs(x - centres[own])) own = i;
                sum[own] += static_cast<double>(x), ++count[own];
            }
            for (std::size_t i = 0; i < centres.size(); ++i)
                if (count[i] > 0) centres[i] = static_cast<float>(sum[i] / count[i]);
        }
        EXPECT_LE(exact, loss_of(values, {}, centres) * (1 + 1e-6)) << k;
        // Over 512 stretches instead of every number: means are exact, borders are not.
        EXPECT_LE(loss_of(values, {}, cluster_means(cluster_points(values, {}, 512), k)), exact * 1.02) << k;
    }
}

TEST(Clusters, FewerNumbersThanClusters) {
    const std::vector<float> two = {3, -1, 3, 3, -1}, none;
    EXPECT_EQ(cluster_means(cluster_points(two, {}, 4096), 4), (std::vector<float>{-1, 3, 3, 3}));
    EXPECT_EQ(cluster_means(cluster_points(none, {}, 4096), 2), (std::vector<float>{0, 0}));
    const std::vector<float> zeros(5, 0.0f);  // weights that are all zero: as if there were none
    EXPECT_EQ(cluster_means(cluster_points(two, zeros, 4096), 2), (std::vector<float>{-1, 3}));
    const std::vector<float> only_first = {1, 0, 0, 0, 0};
    EXPECT_EQ(cluster_means(cluster_points(two, only_first, 4096), 2), (std::vector<float>{3, 3}));
}

// Han et al. 2016, Deep Compression, figure 3: sixteen weights, four means, indices of two bits.
TEST(Clusters, TheFigureOfDeepCompression) {
    const std::vector<float> weights = {2.09f, -0.98f, 1.48f, 0.09f, 0.05f, -0.14f, -1.08f, 2.12f, -0.91f, 1.92f, 0, -1.03f, 1.87f, 0, 1.53f, 1.49f};
    const std::vector<std::uint8_t> indices = {3, 0, 2, 1, 1, 1, 0, 3, 0, 3, 1, 0, 3, 1, 2, 2};
    auto coded = encode_nearest(make_float_weight({4, 4}, weights), *parse_scheme("k4tensor"), ScaleRule::search);
    ASSERT_TRUE(coded.ok()) << coded.error().to_string();
    const Codes& codes = *coded->codes();
    EXPECT_EQ(codes.scheme.bits, 2);
    std::vector<float> levels(4);
    dtype_info(codes.scales.dtype).to_float(codes.scales.data.data(), 4, levels.data());
    const float means[] = {-1, 0, 1.5f, 2};
    for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(levels[i], means[i], 1e-3f);
    std::vector<float> row(4);
    for (std::int64_t r = 0; r < 4; ++r) {
        std::uint8_t found[4];
        unpack_codes(codes.packed.data.data() + r * packed_row_bytes(2, 4), 2, 4, found);
        coded->row(r, row.data());
        for (std::size_t c = 0; c < 4; ++c) {
            EXPECT_EQ(found[c], indices[static_cast<std::size_t>(r) * 4 + c]);
            EXPECT_EQ(row[c], levels[found[c]]);
        }
    }
}

TEST(Clusters, EveryReachOfATable) {
    const std::int64_t n_rows = 9, n_columns = 200;
    const auto values = normal_values(static_cast<std::size_t>(n_rows * n_columns), 8);
    const Weight source = make_float_weight({n_rows, n_columns}, values);
    ThreadPool three(3);
    double previous = 1;
    for (const char* name : {"k2tensor", "k3", "k4", "k4g64", "k5", "k16tensor", "k16", "k64tensor", "k256tensor", "k200"}) {
        const Scheme scheme = *parse_scheme(name);
        auto coded = encode_nearest(source, scheme, ScaleRule::search), threaded = encode_nearest(source, scheme, ScaleRule::min_max, {}, &three);
        ASSERT_TRUE(coded.ok() && threaded.ok()) << name;
        EXPECT_EQ(coded->encoding_name(), name);
        EXPECT_TRUE(decodes(scheme)) << name;
        EXPECT_TRUE(std::equal(coded->codes()->packed.data.begin(), coded->codes()->packed.data.end(), threaded->codes()->packed.data.begin()));
        const std::size_t n_tables = scheme.one_table ? 1 : static_cast<std::size_t>(n_rows * scheme.n_groups(n_columns));
        EXPECT_EQ(coded->codes()->scales.data.size(), n_tables * static_cast<std::size_t>(scheme.n_levels) * 2) << name;
        double error = 0, power = 0;
        std::vector<float> row(static_cast<std::size_t>(n_columns));
        for (std::int64_t r = 0; r < n_rows; ++r) {
            coded->row(r, row.data());
            for (std::size_t c = 0; c < row.size(); ++c) {
                const double x = static_cast<double>(values[static_cast<std::size_t>(r * n_columns) + c]);
                error += std::pow(static_cast<double>(row[c]) - x, 2), power += x * x;
            }
        }
        EXPECT_LT(error / power, previous) << name;  // in this order each is more exact than those before
        previous = error / power;
    }
}

TEST(Clusters, ImportanceMovesTheLevels) {
    const auto values = normal_values(4 * 64, 3);
    std::vector<float> importance(64, 1e-4f), even, moved;
    importance[5] = 1;
    const Weight source = make_float_weight({4, 64}, values);
    for (const char* name : {"k4", "k4tensor"}) {
        auto weighted = encode_nearest(source, *parse_scheme(name), ScaleRule::search, importance), plain = encode_nearest(source, *parse_scheme(name), ScaleRule::search);
        double of_weighted = 0, of_plain = 0;
        std::vector<float> row(64);
        for (std::int64_t r = 0; r < 4; ++r) {
            weighted->row(r, row.data());
            of_weighted += std::fabs(row[5] - values[static_cast<std::size_t>(r) * 64 + 5]);
            plain->row(r, row.data());
            of_plain += std::fabs(row[5] - values[static_cast<std::size_t>(r) * 64 + 5]);
        }
        EXPECT_LT(of_weighted, of_plain * 0.2) << name;
    }
}

TEST(Clusters, LevelsThatF16LosesAreF32) {
    for (const char* name : {"k4", "k4tensor", "k4g32"})
        for (float size : {1e-6f, 1e6f}) {
            auto coded = encode_nearest(make_float_weight({2, 64}, normal_values(128, 4, size)), *parse_scheme(name), ScaleRule::search);
            ASSERT_TRUE(coded.ok());
            EXPECT_EQ(coded->codes()->scheme.scale_dtype, DType::f32) << name;
        }
    auto bad = normal_values(128, 4);
    bad[70] = std::nanf("");
    for (const char* name : {"k4", "k4tensor"}) {
        auto refused = encode_nearest(make_float_weight({2, 64}, bad), *parse_scheme(name), ScaleRule::search);
        ASSERT_FALSE(refused.ok());
        EXPECT_NE(refused.error().message.find("row 1, column 6"), std::string::npos) << refused.error().message;
    }
}

TEST(Clusters, NamesThatMeanNothingAreRefused) {
    for (const char* name : {"k", "k1", "k257", "k4g", "k4r", "k4a", "k4tensorg32", "k04", "k4g32tensor", "k16t"}) EXPECT_FALSE(parse_scheme(name).ok()) << name;
}

}  // namespace
}  // namespace skiff
