// Against the definitions, over sizes around and across the tiles.
#include "compress/algebra/algebra.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"

namespace skiff {
namespace {

std::vector<float> random_floats(std::int64_t n, std::uint64_t seed) {
    Rng rng(seed);
    std::vector<float> values(static_cast<std::size_t>(n));
    for (float& value : values) value = rng.normal();
    return values;
}

// x^T x / n_tokens + a little of the identity, in double precision.
std::vector<double> positive(std::int64_t n, std::uint64_t seed) {
    const std::int64_t n_tokens = n + 3;
    const auto x = random_floats(n_tokens * n, seed);
    std::vector<double> matrix(static_cast<std::size_t>(n * n));
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < n; ++j) {
            double sum = i == j ? 0.01 : 0;
            for (std::int64_t t = 0; t < n_tokens; ++t) sum += static_cast<double>(x[static_cast<std::size_t>(t * n + i)]) * static_cast<double>(x[static_cast<std::size_t>(t * n + j)]);
            matrix[static_cast<std::size_t>(i * n + j)] = sum;
        }
    return matrix;
}

class Algebra : public ::testing::Test {
protected:
    void SetUp() override {
        if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
    }
};

TEST_F(Algebra, ProductsWithEitherOperandTransposed) {
    ThreadPool three(3);
    for (auto [m, n, k] : {std::array<std::int64_t, 3>{1, 1, 1}, {5, 3, 7}, {300, 257, 33}})
        for (auto a_as : {Product::As::stored, Product::As::transposed})
            for (auto b_as : {Product::As::stored, Product::As::transposed}) {
                const auto a = random_floats(m * k, 1), b = random_floats(k * n, 2);
                auto c = random_floats(m * n, 3), whole = c;
                Product product{.m = m, .n = n, .k = k, .a = a.data(), .a_stride = a_as == Product::As::stored ? k : m, .a_as = a_as, .b = b.data(), .b_stride = b_as == Product::As::stored ? n : k, .b_as = b_as, .c = c.data(), .c_stride = n, .factor = 2, .keep = 0.5f};
                std::vector<double> expected;
                for (std::int64_t i = 0; i < m; ++i)
                    for (std::int64_t j = 0; j < n; ++j) {
                        double sum = 0;
                        for (std::int64_t l = 0; l < k; ++l)
                            sum += static_cast<double>(a[static_cast<std::size_t>(a_as == Product::As::stored ? i * k + l : l * m + i)]) * static_cast<double>(b[static_cast<std::size_t>(b_as == Product::As::stored ? l * n + j : j * k + l)]);
                        expected.push_back(2 * sum + 0.5 * static_cast<double>(c[static_cast<std::size_t>(i * n + j)]));
                    }
                multiply(product, three);
                for (std::size_t i = 0; i < c.size(); ++i) ASSERT_NEAR(c[i], expected[i], 1e-4) << m << " " << n << " " << i;
                ThreadPool one(1);
                product.c = whole.data();
                multiply(product, one);
                EXPECT_EQ(whole, c) << "bits depend on the threads";
            }
}

TEST_F(Algebra, GramAddsUp) {
    ThreadPool one(1), two(2);
    for (std::int64_t n : {1, 7, 256, 301}) {
        const auto x = random_floats(5 * n, 4);
        std::vector<float> gram(static_cast<std::size_t>(n * n)), other = gram;
        add_gram(x.data(), 3, n, gram.data(), one);
        add_gram(x.data() + 3 * n, 2, n, gram.data(), one);
        add_gram(x.data(), 3, n, other.data(), two);
        add_gram(x.data() + 3 * n, 2, n, other.data(), two);
        mirror_upper(gram.data(), n);
        mirror_upper(other.data(), n);
        EXPECT_EQ(gram, other);
        for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t j = 0; j < n; ++j) {
                double sum = 0;
                for (std::int64_t t = 0; t < 5; ++t) sum += static_cast<double>(x[static_cast<std::size_t>(t * n + i)]) * static_cast<double>(x[static_cast<std::size_t>(t * n + j)]);
                ASSERT_NEAR(gram[static_cast<std::size_t>(i * n + j)], sum, 1e-5);
            }
    }
}

TEST_F(Algebra, FactorsInversesAndSolutions) {
    for (std::int64_t n : {1, 6, 65}) {
        const auto matrix = positive(n, 5);
        auto at = [n](const std::vector<double>& m, std::int64_t i, std::int64_t j) { return m[static_cast<std::size_t>(i * n + j)]; };
        auto upper = matrix, inverse = matrix;
        ASSERT_TRUE(cholesky_upper(upper.data(), n));
        ASSERT_TRUE(invert_positive(inverse.data(), n));
        for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t j = 0; j < n; ++j) {
                double product = 0, identity = 0;
                for (std::int64_t l = 0; l < n; ++l) {
                    product += at(upper, l, i) * at(upper, l, j);
                    identity += at(inverse, i, l) * at(matrix, l, j);
                }
                ASSERT_NEAR(product, at(matrix, i, j), 1e-9 * at(matrix, 0, 0) * static_cast<double>(n));
                ASSERT_NEAR(identity, i == j ? 1 : 0, 1e-8);
                if (i > j) { ASSERT_EQ(at(upper, i, j), 0); }
            }
        // U^T (U y) = x: y is the inverse times x.
        std::vector<double> x(static_cast<std::size_t>(2 * n));
        for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<double>(i) - 1.5;
        auto y = x;
        solve_upper_transposed(upper.data(), n, y.data(), 2);
        solve_upper(upper.data(), n, y.data(), 2);
        for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t r = 0; r < 2; ++r) {
                double sum = 0;
                for (std::int64_t l = 0; l < n; ++l) sum += at(inverse, i, l) * x[static_cast<std::size_t>(l * 2 + r)];
                ASSERT_NEAR(y[static_cast<std::size_t>(i * 2 + r)], sum, 1e-7 * std::abs(sum) + 1e-9);
            }
    }
    std::vector<double> indefinite = {1, 2, 2, 1};
    EXPECT_FALSE(cholesky_upper(indefinite.data(), 2));
    indefinite = {1, 2, 2, 1};
    EXPECT_FALSE(invert_positive(indefinite.data(), 2));
}

TEST_F(Algebra, SingularValuesAndEigenvectors) {
    for (auto [m, n] : {std::array<std::int64_t, 2>{4, 9}, {9, 4}, {1, 3}, {6, 6}}) {
        std::vector<double> a;
        for (float value : random_floats(m * n, 6)) a.push_back(static_cast<double>(value));
        const auto svd = singular_values(a, m, n);
        ASSERT_TRUE(svd.ok());
        const std::int64_t k = std::min(m, n);
        for (std::int64_t i = 0; i < m; ++i)
            for (std::int64_t j = 0; j < n; ++j) {
                double sum = 0;
                for (std::int64_t l = 0; l < k; ++l) sum += svd->u[static_cast<std::size_t>(i * k + l)] * svd->s[static_cast<std::size_t>(l)] * svd->vt[static_cast<std::size_t>(l * n + j)];
                ASSERT_NEAR(sum, a[static_cast<std::size_t>(i * n + j)], 1e-12);
            }
        for (std::int64_t l = 1; l < k; ++l) EXPECT_GE(svd->s[static_cast<std::size_t>(l - 1)], svd->s[static_cast<std::size_t>(l)]);
    }
    const std::int64_t n = 9;
    const auto matrix = positive(n, 7);
    const auto eigen = symmetric_eigen(matrix, n);
    ASSERT_TRUE(eigen.ok());
    for (std::int64_t v = 0; v < n; ++v)
        for (std::int64_t i = 0; i < n; ++i) {
            double sum = 0;
            for (std::int64_t j = 0; j < n; ++j) sum += matrix[static_cast<std::size_t>(i * n + j)] * eigen->vectors[static_cast<std::size_t>(v * n + j)];
            ASSERT_NEAR(sum, eigen->values[static_cast<std::size_t>(v)] * eigen->vectors[static_cast<std::size_t>(v * n + i)], 1e-9 * eigen->values[0]);
        }
    EXPECT_GT(eigen->values.front(), eigen->values.back());
}

}  // namespace
}  // namespace skiff
