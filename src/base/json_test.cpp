#include "base/json.h"

#include <gtest/gtest.h>

namespace skiff {
namespace {

TEST(Json, RoundTripKeepsOrderAndTypes) {
    const char* text = R"({"b": 1, "a": [1.5, -3, true, null, "x\n\u00e9"], "big": 18446744073709551615})";
    auto json = Json::parse(text);
    ASSERT_TRUE(json.ok());
    EXPECT_EQ(json->dump(), "{\"b\": 1, \"a\": [1.5, -3, true, null, \"x\\n\xc3\xa9\"], \"big\": 18446744073709551615}");
    EXPECT_EQ(Json::parse(json->dump(2))->dump(), json->dump());
}

TEST(Json, LimitsAreErrors) {
    EXPECT_NE(Json::parse(std::string(100, '[')).error().message.find("nested deeper"), std::string::npos);
    EXPECT_NE(Json::parse(R"({"a":1,"a":2})").error().message.find("appears twice"), std::string::npos);
    EXPECT_FALSE(Json::parse("{} x").ok());
    EXPECT_FALSE(Json::parse("{\"a\": 1e999}").ok());
    EXPECT_FALSE(Json::parse("\"\xff\"").ok());
    JsonLimits limits;
    limits.max_values = 3;
    EXPECT_FALSE(Json::parse("[1,2,3]", limits).ok());
}

TEST(Json, WrongTypeSaysWhatWasFound) {
    auto json = Json::parse(R"({"n": "seven"})");
    EXPECT_EQ((*json)["n"].as_int("n").error().message, "n: expected an integer, found a string");
}

TEST(Json, UnsignedValuesAreIntegersBeforeTheyAreText) {
    const Json size(std::uint64_t{5000000000}), beyond(UINT64_MAX);
    EXPECT_EQ(size.int_or(-1), 5000000000);
    EXPECT_EQ(*size.as_int("size"), 5000000000);
    EXPECT_EQ(beyond.int_or(-1), -1);
    EXPECT_FALSE(beyond.as_int("beyond").ok());
}

TEST(Json, PythonNanIsNoJson) {
    EXPECT_FALSE(Json::parse("[NaN]").ok());
    EXPECT_FALSE(Json::parse(R"({"x": -Infinity})").ok());
}

}  // namespace
}  // namespace skiff
