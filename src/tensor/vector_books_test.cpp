// Books of vectors: Lloyd's steps against NumPy, the choice of entries against every sum, and weights of vectors from end to end.
#include "tensor/vector_books.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "base/json.h"
#include "tensor/encode_vectors.h"

namespace skiff {
namespace {

std::vector<float> normal_values(std::int64_t n, std::uint64_t seed, float scale = 0.02f) {
    Rng rng(seed);
    std::vector<float> values(static_cast<std::size_t>(n));
    for (float& value : values) value = scale * rng.normal();
    return values;
}

double relative_error(const Weight& exact, const Weight& coded, std::span<const float> importance = {}) {
    const auto n = static_cast<std::size_t>(exact.n_columns());
    std::vector<float> x(n), y(n);
    double error = 0, size = 0;
    for (std::int64_t row = 0; row < exact.n_rows(); ++row) {
        exact.row(row, x.data());
        coded.row(row, y.data());
        for (std::size_t i = 0; i < n; ++i) {
            const double weight = importance.empty() ? 1.0 : static_cast<double>(importance[i]);
            error += weight * std::pow(static_cast<double>(x[i]) - static_cast<double>(y[i]), 2), size += weight * std::pow(static_cast<double>(x[i]), 2);
        }
    }
    return std::sqrt(error / size);
}

std::vector<float> of_64(const Json& numbers) {
    std::vector<float> values;
    for (const Json& number : numbers.items()) values.push_back(static_cast<float>(number.int_or(0)) / 64);
    return values;
}

TEST(VectorBooks, StepsAreLloyds) {
    const auto document = read_json_file(std::string(SKIFF_TEST_DATA_DIR) + "/compress/vector_books.json");
    ASSERT_TRUE(document.ok());
    ASSERT_EQ((*document)["cases"].size(), 4u);
    for (const Json& test : (*document)["cases"].items()) {
        Scheme scheme = *parse_scheme("v2k16");
        scheme.vector = static_cast<int>(test["vector"].int_or(0));
        scheme.n_books = static_cast<int>(test["books"].int_or(0));
        SCOPED_TRACE(scheme.name());
        const VectorSample sample{scheme.vector, of_64(test["values_64"]), of_64(test["weights_64"])};
        VectorBooks books(scheme);
        const auto start = of_64(test["start_64"]);
        const auto at = [&](int book, int level, int i) { return static_cast<std::size_t>((book * 16 + level) * scheme.vector + i); };
        for (int book = 0; book < scheme.n_books; ++book)
            for (int level = 0; level < 16; ++level)
                for (int i = 0; i < scheme.vector; ++i) books.at(book, level, i) = start[at(book, level, i)];
        for (const Json& cost : test["costs"].items()) EXPECT_NEAR(lloyd_step(sample, books), cost.number_or(0), 1e-4 * cost.number_or(0));
        for (int book = 0; book < scheme.n_books; ++book)
            for (int level = 0; level < 16; ++level)
                for (int i = 0; i < scheme.vector; ++i) EXPECT_NEAR(books.at(book, level, i), test["entries"].items()[at(book, level, i)].number_or(NAN), 2e-4) << book << " " << level << " " << i;
    }
}

// Against all sums, under metrics that are not diagonal.
TEST(VectorBooks, ChoosesTheBestSum) {
    Rng rng(5);
    for (const char* name : {"v2k16", "v4k64", "v8k256", "v2k16x2", "v4k64x2", "v8k16x2", "v8k256x2"}) {
        const Scheme scheme = *parse_scheme(name);
        const int d = scheme.vector, n = scheme.n_levels, n_second = scheme.n_books > 1 ? n : 1;
        VectorBooks books(scheme);
        for (std::size_t i = 0; i < books.entries.size(); ++i) books.entries[i] = rng.normal() * (i < books.entries.size() / static_cast<std::size_t>(scheme.n_books) ? 1.0f : 0.4f);  // the second is for what the first leaves
        double found = 0, best = 0;
        for (int trial = 0; trial < (n_second > 64 ? 4 : 40); ++trial) {
            float root[64], metric[64] = {}, target[8], pull[8];
            for (int i = 0; i < d * d; ++i) root[i] = rng.normal();
            for (int i = 0; i < d; ++i)
                for (int j = 0; j < d; ++j)
                    for (int k = 0; k < d; ++k) metric[i * d + j] += root[i * d + k] * root[j * d + k];
            for (int i = 0; i < d; ++i) target[i] = 1.5f * rng.normal();
            std::vector<float> norms(static_cast<std::size_t>(scheme.n_books * n));
            entry_norms(books, metric, norms.data());
            times_metric(d, metric, target, pull);
            ChosenVector chosen;
            choose_vector(books, metric, norms.data(), pull, chosen);
            double least = std::numeric_limits<double>::infinity();
            const auto cost_of = [&](int first, int second) {
                float error[8];
                for (int i = 0; i < d; ++i) error[i] = target[i] - books.at(0, first, i) - (scheme.n_books > 1 ? books.at(1, second, i) : 0);
                return vector_cost(d, metric, error);
            };
            for (int first = 0; first < n; ++first)
                for (int second = 0; second < n_second; ++second) least = std::min(least, cost_of(first, second));
            const double own = cost_of(chosen.codes[0], chosen.codes[1]);
            if (n <= 16 || scheme.n_books == 1) {
                EXPECT_NEAR(own, least, 1e-4 * (1 + least)) << name;
            }
            found += own, best += least;
        }
        EXPECT_LE(found, best * 1.5 + 1e-3) << name;  // of large books not all sums are looked at
    }
}

// As many different vectors as entries: nothing is lost, whatever the draw.
TEST(VectorBooks, FewVectorsAreKeptExactly) {
    const Scheme scheme = *parse_scheme("v4k16");
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
        Rng rng(seed);
        VectorSample sample;
        sample.vector = 4;
        const auto points = normal_values(16 * 4, seed, 1);
        for (int i = 0; i < 200; ++i) {
            const std::size_t which = i < 16 ? static_cast<std::size_t>(i) : rng.below(16);
            sample.values.insert(sample.values.end(), points.begin() + static_cast<std::ptrdiff_t>(which * 4), points.begin() + static_cast<std::ptrdiff_t>(which * 4 + 4));
        }
        sample.weights.assign(sample.values.size(), 1.0f);
        VectorBooks books = make_books(sample, scheme, seed);
        EXPECT_NEAR(lloyd_step(sample, books), 0, 1e-6);
    }
}

TEST(VectorBooks, BitsDoNotDependOnTheNumberOfThreads) {
    for (const char* name : {"v2k16", "v4k64x2", "v8k256"}) {
        const Scheme scheme = *parse_scheme(name);
        VectorSample sample;
        sample.vector = scheme.vector;
        sample.values = normal_values(1001 * scheme.vector, 3, 1);
        sample.weights.assign(sample.values.size(), 1.0f);
        for (std::size_t i = 0; i < sample.weights.size(); i += 5) sample.weights[i] = 2;
        const VectorBooks alone = make_books(sample, scheme, 7);
        for (const int n_threads : {1, 2, 5}) {
            ThreadPool pool(n_threads);
            EXPECT_EQ(make_books(sample, scheme, 7, &pool).entries, alone.entries) << name;
        }
    }
}

TEST(VectorBooks, SumsOfBytesAreBytes) {
    for (const char* name : {"v4k256", "v8k64x2"}) {
        const Scheme scheme = *parse_scheme(name);
        VectorBooks books(scheme);
        Rng rng(9);
        for (float& entry : books.entries) entry = 3 * rng.normal() + 5;  // one side is longer
        const VectorBooks before = books;
        const float factor = books.round_to_bytes();
        const auto bytes = books.bytes();
        ASSERT_EQ(bytes.size(), static_cast<std::size_t>(scheme.n_books * scheme.n_levels * scheme.vector));
        int largest = 0;
        for (int a = 0; a < scheme.n_levels; ++a)
            for (int b = 0; b < (scheme.n_books > 1 ? scheme.n_levels : 1); ++b)
                for (int i = 0; i < scheme.vector; ++i) {
                    const int sum = bytes[static_cast<std::size_t>(a * scheme.vector + i)] + (scheme.n_books > 1 ? bytes[static_cast<std::size_t>((scheme.n_levels + b) * scheme.vector + i)] : 0);
                    largest = std::max(largest, std::abs(sum));
                    EXPECT_NEAR(static_cast<float>(bytes[static_cast<std::size_t>(a * scheme.vector + i)]) * factor, before.at(0, a, i), factor * 0.51f);
                }
        EXPECT_LE(largest, 127);
        EXPECT_GE(largest, 60);
    }
}

// Normal weights; the figures are of this program, the order and the distance from the bound (2^-rate) are what theory says.
TEST(Vectors, ErrorsOfNormalWeights) {
    const Weight exact = make_float_weight({128, 1024}, normal_values(128 * 1024, 4));  // few, so that books fit them better than more of the kind
    const struct {
        const char* name;
        double error;
    } cases[] = {{"v8k256", 0.54}, {"v2k16", 0.33}, {"v4k256", 0.315}, {"v8k256x2", 0.276}, {"v4k256g16t", 0.27}, {"v2k64", 0.175}, {"v2k64g16t", 0.138}, {"v4k64x2", 0.168}};
    for (const auto& test : cases) {
        const auto coded = encode_vectors(exact, *parse_scheme(test.name), {}, nullptr);
        ASSERT_TRUE(coded.ok());
        EXPECT_NEAR(relative_error(exact, *coded), test.error, 0.04 * test.error) << test.name;
        EXPECT_GT(relative_error(exact, *coded), std::exp2(-parse_scheme(test.name)->bits_per_weight(1024)));
    }
}

TEST(Vectors, OddWidthsBytesAndThreads) {
    ThreadPool pool(3);
    for (const char* name : {"v2k16", "v4k256", "v8k256x2", "v2k64g16t", "v4k4096", "v8k16x2g32r", "v4k64g8", "v8k16g64ts128"})
        for (std::int64_t n_columns : {1, 3, 8, 33, 172}) {
            SCOPED_TRACE(std::string(name) + " " + std::to_string(n_columns));
            const Scheme scheme = *parse_scheme(name);
            const Weight exact = make_float_weight({9, n_columns}, normal_values(9 * n_columns, 6, 1));
            const auto one = encode_vectors(exact, scheme, {}, nullptr), three = encode_vectors(exact, scheme, {}, &pool);
            ASSERT_TRUE(one.ok() && three.ok());
            EXPECT_EQ(one->codes()->scheme, scheme);
            const std::int64_t books = scheme.n_books * scheme.n_levels * scheme.vector, vectors = (n_columns + scheme.vector - 1) / scheme.vector;
            EXPECT_EQ(static_cast<std::int64_t>(one->stored_bytes()), 9 * code_row_bytes(scheme, n_columns).total() + books);
            EXPECT_EQ(code_row_bytes(scheme, n_columns).packed, (vectors * scheme.n_books * scheme.bits + 31) / 32 * 4);
            std::vector<float> a(static_cast<std::size_t>(n_columns)), b(a);
            for (std::int64_t row = 0; row < 9; ++row) {
                one->row(row, a.data());
                three->row(row, b.data());
                EXPECT_EQ(a, b);
            }
            EXPECT_LT(relative_error(exact, *one), 0.75);
        }
}

TEST(Vectors, WeightsMoveTheBooks) {
    const std::int64_t n = 256;
    const Weight exact = make_float_weight({64, n}, normal_values(64 * n, 7));
    std::vector<float> importance;
    Rng rng(8);
    for (std::int64_t i = 0; i < n; ++i) importance.push_back(1e-9f * std::exp(2 * rng.normal()));
    for (const char* name : {"v2k16", "v4k256", "v4k16x2", "v4k256g16t"}) {
        const auto plain = encode_vectors(exact, *parse_scheme(name), {}, nullptr), weighted = encode_vectors(exact, *parse_scheme(name), importance, nullptr);
        ASSERT_TRUE(plain.ok() && weighted.ok());
        EXPECT_LT(relative_error(exact, *weighted, importance), 0.9 * relative_error(exact, *plain, importance)) << name;
    }
}

TEST(Vectors, SizeDoesNotMatterAndZerosStay) {
    for (const char* name : {"v4k256", "v2k16g16t", "v8k16x2g32r"}) {
        auto values = normal_values(12 * 64, 10, 1);
        std::fill(values.begin() + 3 * 64, values.begin() + 4 * 64, 0.0f);
        double first = 0;
        for (float size : {1.0f, 0x1p-40f, 0x1p-90f, 0x1p60f}) {
            std::vector<float> scaled(values);
            for (float& x : scaled) x *= size;
            const Weight exact = make_float_weight({12, 64}, scaled);
            const auto coded = encode_vectors(exact, *parse_scheme(name), {}, nullptr);
            ASSERT_TRUE(coded.ok());
            std::vector<float> row(64);
            coded->row(3, row.data());
            for (float x : row) EXPECT_EQ(x, 0);
            if (first == 0) first = relative_error(exact, *coded);
            EXPECT_NEAR(relative_error(exact, *coded), first, 0.15 * first) << name << " " << size;
        }
    }
    const auto zeros = encode_vectors(make_float_weight({4, 32}, std::vector<float>(128, 0.0f)), *parse_scheme("v4k256"), {}, nullptr);
    ASSERT_TRUE(zeros.ok());
}

TEST(Vectors, RefuseWhatIsNotFinite) {
    auto values = normal_values(8 * 40, 11);
    values[5 * 40 + 33] = values[6 * 40] = NAN;
    const auto refused = encode_nearest(make_float_weight({8, 40}, values), *parse_scheme("v4k256"), ScaleRule::search);
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.error().message.find("row 5, column 33"), std::string::npos) << refused.error().message;
}

TEST(Vectors, Names) {
    for (const char* name : {"v2k16", "v4k256g16t", "v8k256x2g32r", "v4k4096g64ts128", "v8k16g8"}) {
        const auto scheme = parse_scheme(name);
        ASSERT_TRUE(scheme.ok()) << name;
        EXPECT_EQ(scheme->name(), name);
        EXPECT_TRUE(decodes(*scheme));
    }
    for (const char* name : {"v", "v3k16", "v16k16", "v4", "v4k", "v4k8", "v4k24", "v4k8192", "v4k256x1", "v4k256x3", "v8k256g12", "v4k256t", "v4k256g16a", "v4k256tensor"}) {
        const auto refused = parse_scheme(name);
        ASSERT_FALSE(refused.ok()) << name;
        EXPECT_NE(refused.error().message.find("v<2|4|8 columns>"), std::string::npos);
    }
    EXPECT_NEAR(parse_scheme("v4k256g16t")->bits_per_weight(4096), 2.25, 0.01);
    EXPECT_NEAR(parse_scheme("v8k256x2")->bits_per_weight(4096), 2.0, 0.01);
}

}  // namespace
}  // namespace skiff
