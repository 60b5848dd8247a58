// What an operator's outputs lose, whichever way its weight is stored.
#include "compress/search/mixed_precision.h"

#include <gtest/gtest.h>

#include "base/rng.h"
#include "compress/small_models_testing.h"

namespace skiff {
namespace {

Weight random_weight(std::int64_t n_rows, std::int64_t n_columns, std::uint64_t seed) {
    Rng rng(seed);
    std::vector<float> values(static_cast<std::size_t>(n_rows * n_columns));
    for (float& value : values) value = 0.05f * rng.normal();
    return make_float_weight({n_rows, n_columns}, std::move(values));
}

TEST(OutputError, IsTheSameHoweverTheWeightIsStored) {
    if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
    ThreadPool pool(2);
    for (const std::int64_t n_rows : {70, 48}) {  // 48: square, where shapes do not tell
        constexpr std::int64_t n = 48;
        Rng rng(4);
        InputStatistics moments, gram;
        moments.n_tokens = 100;
        for (std::int64_t i = 0; i < n; ++i) moments.mean_square.push_back(std::exp(2 * rng.normal()));
        gram = moments;
        gram.gram.resize(static_cast<std::size_t>(n * n));
        for (std::int64_t i = 0; i < n; ++i) gram.gram[static_cast<std::size_t>(i * n + i)] = moments.mean_square[static_cast<std::size_t>(i)];
        gram.gram[5] = gram.gram[5 * n] = 0.01f;
        const Weight original = random_weight(n_rows, n, 1);
        const Weight coded = *encode_nearest(original, *parse_scheme("w3g32"), ScaleRule::search);
        const Weight made = as_floats(coded, pool);
        const double expected = testing::output_loss(original, made, gram).lost;
        for (const InputStatistics* inputs : {&gram, &moments}) {
            EXPECT_NEAR(output_error(original, made, StoredAs::rows, inputs, pool), expected, 0.02 * expected);
            EXPECT_EQ(output_error(transposed(original), transposed(made), StoredAs::columns, inputs, pool), output_error(original, made, StoredAs::rows, inputs, pool));
            EXPECT_EQ(output_error(transposed(original), coded, StoredAs::columns, inputs, pool), output_error(original, made, StoredAs::rows, inputs, pool));
        }
    }
}

}  // namespace
}  // namespace skiff
