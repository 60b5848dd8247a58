#include "formats/imatrix.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include "base/mapped_file.h"
#include "formats/gguf_test_bytes.h"

namespace skiff {
namespace {

using gguf_testing::Bytes;

std::string golden(const char* name) { return std::string(SKIFF_TEST_DATA_DIR) + "/imatrix/" + name; }

// tests/golden/imatrix_files.py wrote the same sums in both forms, and the means.
TEST(Imatrix, ReadsBothForms) {
    std::ifstream expected(golden("expected.txt"));
    std::string line;
    int n_tensors = 0;
    auto gguf = Imatrix::open(golden("small.gguf")), binary = Imatrix::open(golden("small.dat"));
    ASSERT_TRUE(gguf.ok()) << gguf.error().to_string();
    ASSERT_TRUE(binary.ok()) << binary.error().to_string();
    while (std::getline(expected, line)) {
        ++n_tensors;
        std::istringstream words(line);
        std::string name;
        words >> name;
        std::vector<float> means;
        for (float mean; words >> mean;) means.push_back(mean);
        const bool experts = name.find("exps") != std::string::npos;
        const std::int64_t n_matrices = experts ? 3 : 1, n_inputs = static_cast<std::int64_t>(means.size()) / n_matrices;
        for (const Imatrix* imatrix : {&*gguf, &*binary})
            for (std::int64_t matrix = 0; matrix < n_matrices; ++matrix) {
                auto importance = imatrix->importance(name, n_inputs, matrix);
                ASSERT_TRUE(importance.ok()) << importance.error().to_string();
                for (std::int64_t i = 0; i < n_inputs; ++i)
                    EXPECT_FLOAT_EQ((*importance)[static_cast<std::size_t>(i)], means[static_cast<std::size_t>(matrix * n_inputs + i)]) << name << " " << i;
            }
        EXPECT_EQ(gguf->entries.at(name).n_matrices, n_matrices);
        EXPECT_EQ(gguf->importance(name, n_inputs + 1).error().code, ErrorCode::corrupt);
        EXPECT_EQ(gguf->importance(name, n_inputs, n_matrices).error().code, ErrorCode::corrupt);
    }
    EXPECT_EQ(n_tensors, 2);
    for (const Imatrix* imatrix : {&*gguf, &*binary}) {
        EXPECT_EQ(imatrix->n_chunks, 4);
        EXPECT_EQ(imatrix->datasets, std::vector<std::string>{"calib.txt"});
        EXPECT_EQ(imatrix->entries.size(), 2u);
        EXPECT_EQ(imatrix->importance("absent", 4).error().code, ErrorCode::not_found);
    }
    EXPECT_EQ(gguf->entries.at("blk.0.ffn_down_exps.weight").counts, (std::vector<double>{300, 0, 212}));
}

Bytes entry(std::int32_t n_name, std::string_view name, std::int32_t n_runs, std::int32_t n_values, float value) {
    Bytes bytes;
    bytes.put<std::int32_t>(1).put(n_name).raw(name).put(n_runs).put(n_values);
    for (int i = 0; i < 2; ++i) bytes.put(value);
    return bytes;
}

TEST(Imatrix, RefusesLiesInTheOlderForm) {
    ASSERT_TRUE(Imatrix::parse(entry(1, "a", 2, 2, 8).bytes()).ok());  // without the name of a text, as early files
    EXPECT_EQ(Imatrix::parse(entry(1, "a", 2, 2, 8).bytes())->entries.at("a").importance[0], 4);
    EXPECT_EQ(Imatrix::parse(entry(1, "a", 0, 2, 8).bytes())->entries.at("a").importance[0], 8);
    Bytes twice;
    twice.put<std::int32_t>(2);
    for (int i = 0; i < 2; ++i) twice.put<std::int32_t>(1).raw("a").put<std::int32_t>(1).put<std::int32_t>(1).put(1.0f);
    const std::pair<Bytes, const char*> bad[] = {
        {Bytes(), "the number of entries"},
        {Bytes().put<std::int32_t>(0), "0 entries"},
        {Bytes().put<std::int32_t>(-1), "-1 entries"},
        {Bytes().put<std::int32_t>(2000000), "2000000 entries"},
        {entry(0, "a", 2, 2, 8), "a name of 0 bytes"},
        {entry(-5, "a", 2, 2, 8), "a name of -5 bytes"},
        {entry(2000, "a", 2, 2, 8), "a name of 2000 bytes"},
        {entry(1, "a", -2, 2, 8), "of -2 runs"},
        {entry(1, "a", 2, 0, 8), "0 values"},
        {entry(1, "a", 2, -1, 8), "-1 values"},
        {entry(1, "a", 2, 1 << 20, 8), "the values of a"},
        {entry(1, "a", 2, 2, -8), "has the sum of squares"},
        {entry(1, "a", 2, 2, NAN), "has the sum of squares"},
        {entry(1, "a", 2, 2, INFINITY), "has the sum of squares"},
        {twice, "is there twice"},
        {entry(1, "a", 2, 2, 8).put<std::int32_t>(3), "the length of the text's name"},
        {entry(1, "a", 2, 2, 8).put<std::int32_t>(-3).put<std::int32_t>(0), "-3 runs"},
        {entry(1, "a", 2, 2, 8).put<std::int32_t>(3).put<std::int32_t>(9), "the text's name"},
        {entry(1, "a", 2, 2, 8).put<std::int32_t>(3).put<std::int32_t>(1).raw("tt"), "1 bytes behind its end"},
    };
    for (const auto& [bytes, message] : bad) {
        auto imatrix = Imatrix::parse(bytes.bytes());
        ASSERT_FALSE(imatrix.ok()) << message;
        EXPECT_EQ(imatrix.error().code, ErrorCode::corrupt);
        EXPECT_NE(imatrix.error().message.find(message), std::string::npos) << imatrix.error().message;
    }
}

// One entry of 4 inputs; what differs is said by the arguments.
Bytes gguf_form(const char* type, const char* counts_name, std::uint64_t n_counts, float sum, float count, std::uint32_t sums_type = 0) {
    Bytes bytes;
    bytes.head(2, 1).string("general.type").u32(8).string(type);
    bytes.tensor("a.in_sum2", {4, 1}, sums_type, 0).tensor(counts_name, {1, n_counts}, 0, 32).pad_to(32);
    for (int i = 0; i < 4; ++i) bytes.put(sum);
    bytes.pad_to(32);
    for (std::uint64_t i = 0; i < n_counts; ++i) bytes.put(count);
    return bytes.pad_to(32);
}

TEST(Imatrix, RefusesLiesInTheGgufForm) {
    auto good = Imatrix::parse(gguf_form("imatrix", "a.counts", 1, 6, 3).bytes());
    ASSERT_TRUE(good.ok()) << good.error().to_string();
    EXPECT_EQ(good->entries.at("a").importance, (std::vector<float>{2, 2, 2, 2}));
    const std::pair<Bytes, const char*> bad[] = {
        {gguf_form("model", "a.counts", 1, 6, 3), "of the type \"model\""},
        {gguf_form("imatrix", "b.counts", 1, 6, 3), "has no counts"},
        {gguf_form("imatrix", "a.counts", 2, 6, 3), "2 counts for sums [1, 4]"},
        {gguf_form("imatrix", "a.counts", 1, -6, 3), "has the sum of squares"},
        {gguf_form("imatrix", "a.counts", 1, NAN, 3), "has the sum of squares"},
        {gguf_form("imatrix", "a.counts", 1, 6, -3), "a count of"},
        {gguf_form("imatrix", "a.counts", 1, 6, INFINITY), "a count of"},
        {gguf_form("imatrix", "a.counts", 1, 6, 3, 26), "is I32, expected F32"},
        {Bytes().head(0, 1).string("general.type").u32(8).string("imatrix").pad_to(32), "holds no sums"},
    };
    for (const auto& [bytes, message] : bad) {
        auto imatrix = Imatrix::parse(bytes.bytes());
        ASSERT_FALSE(imatrix.ok()) << message;
        EXPECT_NE(imatrix.error().message.find(message), std::string::npos) << imatrix.error().message;
    }
}

}  // namespace
}  // namespace skiff
