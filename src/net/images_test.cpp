// IDX files as they are and as an attacker might write them; drawn digits; accuracy by hand.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "base/atomic_file.h"
#include "net/generated_digits.h"
#include "net/idx_file.h"

namespace skiff::net {
namespace {

std::vector<std::byte> bytes_of(std::initializer_list<int> values) {
    std::vector<std::byte> bytes;
    for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
    return bytes;
}

TEST(Idx, ReadsBigEndianSizes) {
    auto array = parse_idx(bytes_of({0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255}));
    ASSERT_TRUE(array.ok()) << array.error().to_string();
    EXPECT_EQ(array->shape, (std::vector<std::int64_t>{2, 3}));
    EXPECT_EQ(array->values, (std::vector<std::uint8_t>{1, 2, 3, 4, 5, 255}));
}

TEST(Idx, RefusesWhatDoesNotAddUp) {
    const std::vector<std::byte> bad[] = {
        bytes_of({}),
        bytes_of({0, 0, 8}),
        bytes_of({0x1f, 0x8b, 8, 0, 0, 0, 0, 0}),
        bytes_of({0, 1, 8, 1, 0, 0, 0, 1, 7}),
        bytes_of({0, 0, 13, 1, 0, 0, 0, 1, 7}),                                       // floats
        bytes_of({0, 0, 8, 0, 7}),                                                    // no dimension
        bytes_of({0, 0, 8, 9, 0, 0, 0, 1, 0, 0, 0, 1}),                               // nine
        bytes_of({0, 0, 8, 2, 0, 0, 0, 1, 0, 0}),                                     // ends in its head
        bytes_of({0, 0, 8, 1, 0, 0, 0, 2, 7}),                                        // a number too few
        bytes_of({0, 0, 8, 1, 0, 0, 0, 1, 7, 7}),                                     // one too many
        bytes_of({0, 0, 8, 1, 0, 0, 0, 0}),                                           // an empty side
        bytes_of({0, 0, 8, 1, 255, 255, 255, 255, 7}),                                // 4 G
        bytes_of({0, 0, 8, 3, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 2, 3}),          // 2^48
        bytes_of({0, 0, 8, 4, 128, 0, 0, 0, 128, 0, 0, 0, 128, 0, 0, 0, 2, 0, 0, 0}),  // the product overflows to 0
    };
    for (const auto& bytes : bad) EXPECT_FALSE(parse_idx(bytes).ok()) << bytes.size();
}

Status write_idx(const IdxArray& array, const std::string& path) {
    std::vector<std::byte> bytes = {std::byte{0}, std::byte{0}, std::byte{8}, static_cast<std::byte>(array.shape.size())};
    for (const std::int64_t size : array.shape)
        for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<std::byte>(size >> shift & 255));
    for (const std::uint8_t value : array.values) bytes.push_back(static_cast<std::byte>(value));
    SKIFF_TRY(auto file, AtomicFile::create(path));
    SKIFF_CHECK(file.write(std::span<const std::byte>(bytes)));
    return file.commit();
}

TEST(Images, DigitsComeBackFromIdxFiles) {
    const LabelledImages digits = generate_digits(50, 3);
    const std::string images = ::testing::TempDir() + "images_test.idx3", labels = ::testing::TempDir() + "images_test.idx1";
    IdxArray pixels{{50, 28, 28}, {}}, answers{{50}, {}};
    for (const float value : digits.pixels) pixels.values.push_back(static_cast<std::uint8_t>(std::lround(value * 255)));
    for (const std::int32_t label : digits.labels) answers.values.push_back(static_cast<std::uint8_t>(label));
    ASSERT_TRUE(write_idx(pixels, images).ok() && write_idx(answers, labels).ok());
    auto loaded = load_images(images + "," + labels);
    ASSERT_TRUE(loaded.ok()) << loaded.error().to_string();
    EXPECT_EQ(loaded->shape, digits.shape);
    EXPECT_EQ(loaded->pixels, digits.pixels);
    EXPECT_EQ(loaded->labels, digits.labels);
    EXPECT_FALSE(load_images(labels + "," + labels).ok());
    EXPECT_FALSE(load_images(images).ok());
    answers.values.pop_back(), answers.shape[0] = 49;
    ASSERT_TRUE(write_idx(answers, labels).ok());
    EXPECT_FALSE(load_images(images + "," + labels).ok());
    for (const std::string& path : {images, labels}) ASSERT_TRUE(remove_all(path).ok());
    for (const char* bad : {"digits:", "digits:0", "digits:5:", "digits:5:x", "digits:-1", "digits:2000000", "digits"}) EXPECT_FALSE(load_images(bad).ok()) << bad;
    auto again = load_images("digits:50:3");
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(again->pixels, digits.pixels);
    EXPECT_EQ(std::set<std::int32_t>(digits.labels.begin(), digits.labels.end()).size(), 10u);
    EXPECT_NE(load_images("digits:50:4")->pixels, digits.pixels);
}

TEST(Images, AccuracyByHand) {
    auto json = Json::parse(R"({"model_type": "skiff-net", "input": {"channels": 2}, "ops": [{"name": "l", "op": "conv", "channels": 2}]})");
    Net net = random_net(*parse_net(*json), 1);
    net.set_floats("l.weight", {2, 2}, {1, 0, 0, 1});
    const LabelledImages images{{1, 1, 2}, {2, 1, 0, 3, 5, 4, 1, 2}, {0, 1, 1, 0}};
    ASSERT_TRUE(check_images(net.spec, images).ok());
    auto session = Session::create(net, {});
    const Accuracy accuracy = measure_accuracy(**session, images);
    EXPECT_EQ(accuracy.n_right, 2);
    EXPECT_EQ(accuracy.counts[0][0], 1);
    EXPECT_EQ(accuracy.counts[1][0], 1);
    EXPECT_NEAR(accuracy.loss, (std::log1p(std::exp(-1)) + std::log1p(std::exp(-3)) + 2 * std::log1p(std::exp(1))) / 4, 1e-5);
    EXPECT_NEAR(accuracy.standard_error(), std::sqrt(0.25 / 3), 1e-9);
    EXPECT_FALSE(check_images(net.spec, {{1, 1, 2}, {0, 0}, {2}}).ok());
    EXPECT_FALSE(check_images(net.spec, {{1, 1, 1}, {0}, {0}}).ok());
}

}  // namespace
}  // namespace skiff::net
