#include "measure/text_fingerprints.h"

#include <gtest/gtest.h>

#include "base/rng.h"

namespace skiff {
namespace {

std::string random_words(std::uint64_t seed, int n_words) {
    Rng rng(seed);
    std::string text;
    for (int i = 0; i < n_words; ++i) {
        for (std::uint64_t k = 2 + rng.below(7); k > 0; --k) text += static_cast<char>('a' + rng.below(26));
        text += i % 11 == 10 ? '\n' : ' ';
    }
    return text;
}

TEST(TextFingerprints, FindWhatIsThereAndNothingElse) {
    const std::string text = random_words(1, 5000), other = random_words(2, 5000);
    const TextFingerprints fingerprints = fingerprints_of(text);
    ASSERT_EQ(fingerprints.hashes.size(), 256u);
    EXPECT_EQ(count_found(fingerprints, text), 256);
    EXPECT_EQ(count_found(fingerprints, other), 0);
    const auto half = count_found(fingerprints, other + text.substr(text.size() / 2) + other);  // wherever it stands
    EXPECT_GE(half, 126);
    EXPECT_LE(half, 129);
    std::string broken = text;  // other lines, the same text
    for (char& c : broken)
        if (c == ' ') c = '\n';
    EXPECT_EQ(count_found(fingerprints, "\r\n " + broken), 256);
    std::string changed = text;  // a letter in a stretch is enough
    for (std::size_t i = 0; i < changed.size(); i += 30) changed[i] = '#';
    EXPECT_EQ(count_found(fingerprints, changed), 0);
}

TEST(TextFingerprints, ComeBackFromTheirJson) {
    const TextFingerprints fingerprints = fingerprints_of(random_words(3, 400), 20);
    ASSERT_EQ(fingerprints.hashes.size(), 20u);
    auto back = TextFingerprints::parse(fingerprints.to_json());
    ASSERT_TRUE(back.ok()) << back.error().message;
    EXPECT_EQ(back->hashes, fingerprints.hashes);
    EXPECT_EQ(back->stretch_bytes, fingerprints.stretch_bytes);
    for (const char* bad : {"{}", R"({"stretch_bytes": 0, "hashes": []})", R"({"stretch_bytes": 64, "hashes": ["12"]})", R"({"stretch_bytes": 64, "hashes": ["00000000000000zz"]})", R"({"stretch_bytes": 1e9, "hashes": []})"})
        EXPECT_FALSE(TextFingerprints::parse(*Json::parse(bad)).ok()) << bad;
}

TEST(TextFingerprints, ShortTextsHaveFewOrNone) {
    EXPECT_TRUE(fingerprints_of("").hashes.empty());
    EXPECT_TRUE(fingerprints_of(std::string(63, 'x')).hashes.empty());
    EXPECT_EQ(fingerprints_of(std::string(64, 'x')).hashes.size(), 1u);
    EXPECT_EQ(fingerprints_of(random_words(4, 12)).hashes.size(), random_words(4, 12).size() - 63);
    EXPECT_EQ(count_found(TextFingerprints(), "some text"), 0);
}

}  // namespace
}  // namespace skiff
