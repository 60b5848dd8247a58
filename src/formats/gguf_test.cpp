// Whole files: one that the gguf package wrote, split models, and (where they are) models from elsewhere.
#include "formats/gguf.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <filesystem>

#include "base/json.h"
#include "formats/gguf_test_bytes.h"
#include "formats/gguf_vocab.h"
#include "formats/gguf_writer.h"

namespace skiff {
namespace {

std::string data_path(const std::string& name) { return std::string(SKIFF_TEST_DATA_DIR) + "/gguf/" + name; }
std::string shared_path(const std::string& name) { return std::string(SKIFF_SHARED_DIR) + "/" + name; }

class GgufFolder : public ::testing::Test {
protected:
    void SetUp() override {
        folder_ = ::testing::TempDir() + "skiff_gguf_" + std::to_string(::getpid()) + "_" + ::testing::UnitTest::GetInstance()->current_test_info()->name();
        ASSERT_TRUE(make_directories(folder_).ok());
    }
    void TearDown() override { (void)remove_all(folder_); }
    std::string path(const std::string& name) const { return join_path(folder_, name); }
    std::string folder_;
};
using GgufSplit = GgufFolder;

void expect_value(const GgufMetadata& metadata, const std::string& key, const Json& expected) {
    const GgufValue* value = metadata.find(key);
    ASSERT_NE(value, nullptr) << key;
    const auto type = static_cast<std::size_t>(expected["type"].items()[0].int_or(-1));
    ASSERT_EQ(value->index(), type) << key;
    const Json& wanted = expected["value"];
    if (type == gguf_array_type) {
        const auto& array = std::get<GgufArray>(*value);
        ASSERT_EQ(static_cast<std::int64_t>(array.index()), expected["type"].items()[1].int_or(-1)) << key;
        ASSERT_EQ(gguf_array_size(array), wanted.size()) << key;
        for (std::size_t i = 0; i < wanted.size(); ++i) {
            const Json& item = wanted.items()[i];
            if (item.is_string()) EXPECT_EQ((**metadata.strings(key))[i], item.text());
            else if (item.is_bool()) EXPECT_EQ(std::get<GgufBools>(array).values[i] == 1, item.bool_or(false));
            else if (item.is_integer()) EXPECT_EQ(metadata.integers(key).value()[i], item.int_or(0)) << key;
            else EXPECT_EQ(metadata.floats(key).value()[i], static_cast<float>(item.number_or(0)));
        }
    } else if (wanted.is_string()) {
        EXPECT_EQ(metadata.text(key).value(), wanted.text());
    } else if (wanted.is_bool()) {
        EXPECT_EQ(metadata.boolean(key).value(), wanted.bool_or(false));
    } else if (wanted.is_integer()) {
        EXPECT_EQ(metadata.integer(key).value(), wanted.int_or(0)) << key;
    } else {
        EXPECT_EQ(metadata.number(key).value(), wanted.number_or(0)) << key;
    }
}

TEST(GgufFile, ReadsWhatTheGgufPackageWrote) {
    auto file = GgufFile::open(data_path("python_small.gguf"));
    ASSERT_TRUE(file.ok()) << file.error().to_string();
    auto golden = read_json_file(data_path("python_small.json"));
    ASSERT_TRUE(golden.ok());
    const Json& metadata = (*golden)["metadata"];
    EXPECT_EQ(file->metadata().entries().size(), metadata.size());
    for (const auto& [key, expected] : metadata.members()) expect_value(file->metadata(), key, expected);
    const auto& tensors = (*golden)["tensors"].items();
    ASSERT_EQ(file->tensors().size(), tensors.size());
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        const std::string& name = tensors[t]["name"].text();
        EXPECT_EQ(file->tensors()[t].name, name);
        EXPECT_EQ(file->tensors()[t].type->name, tensors[t]["type"].text());
        Shape shape;
        for (const Json& n : tensors[t]["shape"].items()) shape.push_back(n.int_or(0));
        auto weight = file->weight(name);
        ASSERT_TRUE(weight.ok()) << weight.error().to_string();
        EXPECT_EQ(weight->shape, shape);
        std::vector<float> values(static_cast<std::size_t>(element_count(shape)));
        for (std::int64_t row = 0; row < weight->n_rows(); ++row) weight->row(row, values.data() + row * weight->n_columns());
        const auto& bits = tensors[t]["bits"].items();
        double sum = 0;
        for (float value : values) sum += value;
        EXPECT_NEAR(sum, tensors[t]["sum"].number_or(0), 1e-6 * static_cast<double>(values.size())) << name;
        for (std::size_t i = 0; i < bits.size(); ++i) ASSERT_EQ(std::bit_cast<std::uint32_t>(values[i]), bits[i].int_or(-1)) << name << " " << i;
    }
}

TEST(GgufFile, WeightsComeAsTheyAreStored) {
    auto file = GgufFile::open(data_path("python_small.gguf"));
    ASSERT_TRUE(file.ok());
    Weight packed = file->weight("blk.0.Q8_0.weight").value();
    ASSERT_NE(packed.blocks(), nullptr);
    EXPECT_EQ(packed.blocks()->type, BlockType::q8_0);
    EXPECT_EQ(packed.stored_bytes(), 4u * 256 / 32 * 34);
    Weight plain = file->weight("blk.0.BF16.weight").value();
    ASSERT_NE(plain.plain(), nullptr);
    EXPECT_EQ(plain.plain()->dtype, DType::bf16);
    auto missing = file->weight("nothing");
    ASSERT_FALSE(missing.ok());
    EXPECT_EQ(missing.error().code, ErrorCode::not_found);
    EXPECT_TRUE(GgufFile::is_gguf(file->path()));
    EXPECT_FALSE(GgufFile::is_gguf(data_path("python_small.json")));
    EXPECT_FALSE(GgufFile::is_gguf(data_path("nothing")));
}

TEST_F(GgufFolder, WeightOutlivesTheFile) {
    Weight weight;
    {
        auto file = GgufFile::open(data_path("split-00001-of-00002.gguf"));
        ASSERT_TRUE(file.ok());
        weight = file->weight("t2").value();
    }
    float row[4];
    weight.row(1, row);
    EXPECT_EQ(row[3], 2.0f);
}

TEST_F(GgufFolder, TypesWithoutADecoderAreListedButNotRead) {
    gguf_testing::Bytes bytes;
    bytes.head(1, 0).tensor("t", {256}, 16, 0).pad_to(32).raw(std::string(66, 'x'));
    ASSERT_TRUE(write_file_atomic(path("iq2.gguf"), bytes.text()).ok());
    auto file = GgufFile::open(path("iq2.gguf"));
    ASSERT_TRUE(file.ok());
    EXPECT_EQ(file->tensors()[0].type->name, "IQ2_XXS");
    auto weight = file->weight("t");
    ASSERT_FALSE(weight.ok());
    EXPECT_EQ(weight.error().code, ErrorCode::unsupported);
    EXPECT_NE(weight.error().message.find("type IQ2_XXS"), std::string::npos);
}

TEST_F(GgufFolder, OneDimensionalBlocksAreOneRow) {
    gguf_testing::Bytes bytes;
    bytes.head(1, 0).tensor("t", {64}, 8, 0).pad_to(32).raw(std::string(68, '\0'));
    ASSERT_TRUE(write_file_atomic(path("row.gguf"), bytes.text()).ok());
    EXPECT_EQ(GgufFile::open(path("row.gguf"))->weight("t")->shape, (Shape{1, 64}));
}

TEST_F(GgufFolder, ErrorsNameTheFile) {
    auto missing = GgufFile::open(path("none.gguf"));
    ASSERT_FALSE(missing.ok());
    EXPECT_EQ(missing.error().code, ErrorCode::not_found);
    ASSERT_TRUE(write_file_atomic(path("bad.gguf"), "GGUF").ok());
    auto bad = GgufFile::open(path("bad.gguf"));
    ASSERT_FALSE(bad.ok());
    EXPECT_NE(bad.error().to_string().find("bad.gguf: truncated at byte 4: version needs 4 bytes, 0 are left"), std::string::npos) << bad.error().to_string();
}

TEST_F(GgufSplit, EitherPartOpensAll) {
    for (const char* name : {"split-00001-of-00002.gguf", "split-00002-of-00002.gguf"}) {
        auto file = GgufFile::open(data_path(name));
        ASSERT_TRUE(file.ok()) << file.error().to_string();
        EXPECT_EQ(file->n_parts(), 2u);
        ASSERT_EQ(file->tensors().size(), 3u);
        EXPECT_EQ(file->metadata().text("general.name").value(), "split");
        float row[4];
        file->weight("t2")->row(0, row);
        EXPECT_EQ(row[0], 2.0f);
    }
}

TEST_F(GgufSplit, MissingOrRenamedPartsAreRefused) {
    std::filesystem::copy(data_path("split-00001-of-00002.gguf"), path("x-00001-of-00002.gguf"));
    auto lonely = GgufFile::open(path("x-00001-of-00002.gguf"));
    ASSERT_FALSE(lonely.ok());
    EXPECT_EQ(lonely.error().code, ErrorCode::not_found);
    EXPECT_NE(lonely.error().to_string().find("x-00002-of-00002.gguf"), std::string::npos);
    std::filesystem::copy(data_path("split-00001-of-00002.gguf"), path("x-00002-of-00002.gguf"));
    EXPECT_NE(GgufFile::open(path("x-00001-of-00002.gguf")).error().to_string().find("do not agree with the name, which says part 2 of 2"), std::string::npos);
    std::filesystem::copy(data_path("split-00001-of-00002.gguf"), path("model.gguf"));
    EXPECT_NE(GgufFile::open(path("model.gguf")).error().to_string().find("is not named like"), std::string::npos);
}

TEST_F(GgufSplit, PartsMustAddUp) {
    auto part = [&](int number, int count, int n_tensors, const std::string& tensor) {
        GgufLayout layout;
        layout.metadata.set("split.no", static_cast<std::uint16_t>(number - 1));
        layout.metadata.set("split.count", static_cast<std::uint16_t>(count));
        layout.metadata.set("split.tensors.count", static_cast<std::int32_t>(n_tensors));
        layout.tensors.push_back({tensor, gguf_type_by_name("F32"), {1}});
        GgufSplitName name{path("y"), number, 2};
        auto writer = GgufWriter::create(name.part_path(number), layout);
        const float value[1] = {1};
        EXPECT_TRUE(writer.ok() && writer->begin(tensor).ok() && writer->append_floats(value).ok() && writer->commit().ok());
    };
    const std::string first = path("y-00001-of-00002.gguf");
    part(1, 2, 2, "a");
    part(2, 2, 2, "b");
    EXPECT_TRUE(GgufFile::open(first).ok());
    part(2, 2, 2, "a");
    EXPECT_NE(GgufFile::open(first).error().to_string().find("tensor \"a\" is in two parts"), std::string::npos);
    part(2, 3, 2, "b");
    EXPECT_NE(GgufFile::open(first).error().to_string().find("do not agree"), std::string::npos);
    part(2, 2, 2, "b");
    std::string text = read_text_file(path("y-00002-of-00002.gguf"), 1 << 20).value();
    text[4] = 2;
    ASSERT_TRUE(write_file_atomic(path("y-00002-of-00002.gguf"), text).ok());
    EXPECT_NE(GgufFile::open(first).error().to_string().find("version 2, the first part has 3"), std::string::npos);
    part(2, 2, 2, "b");
    part(1, 2, 5, "a");
    EXPECT_NE(GgufFile::open(first).error().to_string().find("split.tensors.count is 5, the parts hold 2 tensors"), std::string::npos);
}

TEST(GgufSplitName, Parses) {
    auto name = parse_gguf_split_name("dir/m-00002-of-00005.gguf");
    ASSERT_TRUE(name);
    EXPECT_EQ(name->prefix, "dir/m");
    EXPECT_EQ(name->part, 2);
    EXPECT_EQ(name->part_path(5), "dir/m-00005-of-00005.gguf");
    for (const char* bad : {"m.gguf", "-00001-of-00002.gguf", "m-0001-of-00002.gguf", "m-00003-of-00002.gguf", "m-00000-of-00002.gguf", "m-0000x-of-00002.gguf", "m-00001-of-00002.bin"})
        EXPECT_FALSE(parse_gguf_split_name(bad)) << bad;
}

TEST(GgufShared, ReadsModelsFromElsewhere) {
    std::vector<std::string> paths = {shared_path("models/stories260K.gguf")};
    for (const char* folder : {"data/tokenizers/gguf-vocab", "data/checkpoints"}) {
        if (!is_directory(shared_path(folder))) continue;
        for (const auto& entry : std::filesystem::recursive_directory_iterator(shared_path(folder))) {
            if (entry.path().extension() == ".gguf") paths.push_back(entry.path());
        }
    }
    int n_read = 0;
    for (const std::string& path : paths) {
        if (!file_exists(path)) continue;
        auto file = GgufFile::open(path);
        ASSERT_TRUE(file.ok()) << file.error().to_string();
        ++n_read;
        for (const GgufTensor& tensor : file->tensors()) {
            auto weight = file->weight(tensor);
            ASSERT_TRUE(weight.ok()) << weight.error().to_string();
            std::vector<float> row(static_cast<std::size_t>(weight->n_columns()));
            weight->row(weight->n_rows() - 1, row.data());
            for (float value : row) ASSERT_TRUE(std::isfinite(value)) << path << " " << tensor.name;
        }
        if (!file->metadata().contains("tokenizer.ggml.model")) continue;
        auto vocab = read_gguf_vocab(file->metadata());
        ASSERT_TRUE(vocab.ok()) << path << ": " << vocab.error().to_string();
        EXPECT_GE(vocab->tokens.size(), 512u);
    }
    if (n_read == 0) GTEST_SKIP() << "no GGUF files under " << SKIFF_SHARED_DIR;
}

}  // namespace
}  // namespace skiff
