// Writing: the same bytes as were read, numbers converted and quantized, and what the writer refuses.
#include "formats/gguf_writer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "base/rng.h"
#include "formats/gguf.h"
#include "formats/gguf_test_bytes.h"

namespace skiff {
namespace {

class GgufWriting : public ::testing::Test {
protected:
    void SetUp() override {
        path_ = ::testing::TempDir() + "skiff_gguf_writer_" + std::to_string(::getpid()) + "_" +
                ::testing::UnitTest::GetInstance()->current_test_info()->name() + ".gguf";
    }
    void TearDown() override {
        if (std::getenv("SKIFF_KEEP_FILES") == nullptr) ::unlink(path_.c_str());  // tests/golden/gguf_check.py reads them
    }
    std::string path_;
};

std::string file_text(const std::string& path) { return read_text_file(path, 1 << 24).value(); }

void copy_file(const std::span<const std::byte> bytes, const std::string& target) {
    auto part = parse_gguf(bytes);
    ASSERT_TRUE(part.ok()) << part.error().to_string();
    auto writer = GgufWriter::create(target, gguf_layout_of(part->metadata, part->tensors));
    ASSERT_TRUE(writer.ok()) << writer.error().to_string();
    for (const GgufTensor& tensor : part->tensors) {
        ASSERT_TRUE(writer->begin(tensor.name).ok());
        ASSERT_TRUE(writer->append_bytes(tensor.data.first(tensor.data.size() / 2)).ok());
        ASSERT_TRUE(writer->append_bytes(tensor.data.subspan(tensor.data.size() / 2)).ok());
    }
    ASSERT_TRUE(writer->commit().ok());
}

TEST_F(GgufWriting, CopiesAreIdentical) {
    auto file = gguf_testing::small_file();
    copy_file(file.bytes(), path_);
    EXPECT_EQ(file_text(path_), file.text());
}

TEST_F(GgufWriting, CopiesOfTheGgufPackagesFilesAreIdentical) {
    for (const char* name : {"python_small.gguf", "split-00001-of-00002.gguf", "split-00002-of-00002.gguf"}) {
        const std::string source = std::string(SKIFF_TEST_DATA_DIR) + "/gguf/" + name, text = file_text(source);
        copy_file(std::as_bytes(std::span(text.data(), text.size())), path_);
        EXPECT_EQ(file_text(path_), text) << name;
    }
}

TEST_F(GgufWriting, LargerAlignmentIsKept) {
    gguf_testing::Bytes file;
    file.head(2, 1).entry_u32("general.alignment", 128).tensor("a", {1}, 0, 0).tensor("b", {1}, 0, 128).pad_to(128).put(2.5f).pad_to(128).put(3.5f).pad_to(128);
    copy_file(file.bytes(), path_);
    EXPECT_EQ(file_text(path_), file.text());
}

TEST_F(GgufWriting, EveryWritableTypeReadsBackClose) {
    constexpr std::int64_t n_rows = 3, n_columns = 512;
    Rng rng(2);
    std::vector<float> values(n_rows * n_columns);
    for (float& value : values) value = rng.normal();
    GgufLayout layout;
    layout.metadata.set("general.architecture", std::string("llama"));
    for (const GgufType& type : gguf_type_table()) {
        const bool is_float = type.dtype && dtype_info(*type.dtype).is_float;
        if (is_float || (type.block && block_format(*type.block).encode != nullptr)) layout.tensors.push_back({std::string(type.name), &type, {n_rows, n_columns}});
    }
    EXPECT_EQ(layout.tensors.size(), 13u);
    auto writer = GgufWriter::create(path_, layout);
    ASSERT_TRUE(writer.ok()) << writer.error().to_string();
    const std::vector<float> importance(n_columns, 2.0f);
    for (const GgufTensorSpec& spec : layout.tensors) {
        ASSERT_TRUE(writer->begin(spec.name).ok());
        ASSERT_TRUE(writer->append_floats(std::span(values).first(n_columns), importance).ok());
        ASSERT_TRUE(writer->append_floats(std::span(values).subspan(n_columns)).ok());
    }
    ASSERT_TRUE(writer->commit().ok());
    auto file = GgufFile::open(path_);
    ASSERT_TRUE(file.ok()) << file.error().to_string();
    std::vector<float> row(n_columns);
    for (const GgufTensorSpec& spec : layout.tensors) {
        Weight weight = file->weight(spec.name).value();
        double error = 0, energy = 0;
        for (std::int64_t r = 0; r < n_rows; ++r) {
            weight.row(r, row.data());
            for (std::int64_t i = 0; i < n_columns; ++i) {
                const double x = values[static_cast<std::size_t>(r * n_columns + i)];
                error += (row[static_cast<std::size_t>(i)] - x) * (row[static_cast<std::size_t>(i)] - x);
                energy += x * x;
            }
        }
        EXPECT_LT(error / energy, 0.008) << spec.name;
        if (spec.name == "F32" || spec.name == "F64") {
            EXPECT_EQ(error, 0.0) << spec.name;
        }
    }
}

TEST_F(GgufWriting, RefusesWhatReadersWouldRefuse) {
    const GgufType* f32 = gguf_type_by_name("F32");
    auto message_of = [&](const GgufLayout& layout) {
        auto writer = GgufWriter::create(path_, layout);
        return writer.ok() ? std::string("no error") : writer.error().to_string();
    };
    auto with_tensor = [&](GgufTensorSpec spec) {
        GgufLayout layout;
        layout.tensors = {{"first", f32, {1}}, std::move(spec)};
        return message_of(layout);
    };
    EXPECT_NE(with_tensor({"first", f32, {1}}).find("declared twice"), std::string::npos);
    EXPECT_NE(with_tensor({"", f32, {1}}).find("name is empty"), std::string::npos);
    EXPECT_NE(with_tensor({std::string(64, 'n'), f32, {1}}).find("length is 64"), std::string::npos);
    EXPECT_NE(with_tensor({"t", f32, {}}).find("rank 0"), std::string::npos);
    EXPECT_NE(with_tensor({"t", f32, {1, 1, 1, 1, 1}}).find("rank 5"), std::string::npos);
    EXPECT_NE(with_tensor({"t", f32, {2, 0}}).find("dimension is 0"), std::string::npos);
    EXPECT_NE(with_tensor({"t", gguf_type_by_name("Q4_K"), {2, 128}}).find("do not fill Q4_K blocks"), std::string::npos);
    GgufLayout layout;
    layout.metadata.set("", 1.0f);
    EXPECT_NE(message_of(layout).find("key is empty"), std::string::npos);
    layout = {};
    layout.metadata.set(std::string(65536, 'k'), 1.0f);
    EXPECT_NE(message_of(layout).find("key length is 65536"), std::string::npos);
    layout = {};
    for (int i = 0; i <= 65536; ++i) layout.metadata.set("k" + std::to_string(i), std::int32_t{i});
    EXPECT_NE(message_of(layout).find("more than 65536 metadata entries"), std::string::npos);
    layout = {};
    for (int i = 0; i <= 131072; ++i) layout.tensors.push_back({"t" + std::to_string(i), f32, {1}});
    EXPECT_NE(message_of(layout).find("more than 131072 tensors"), std::string::npos);
    layout = {};
    layout.metadata.set("general.alignment", std::uint32_t{3});
    EXPECT_NE(message_of(layout).find("power of two"), std::string::npos);
    layout = {};
    layout.metadata.set("k", GgufArray(std::monostate()));
    EXPECT_NE(message_of(layout).find("without a type"), std::string::npos);
    EXPECT_FALSE(file_exists(path_));
}

TEST_F(GgufWriting, RefusesTensorsOutOfOrderOrIncomplete) {
    GgufLayout layout;
    layout.tensors = {{"a", gguf_type_by_name("F32"), {2, 2}}, {"b", gguf_type_by_name("Q8_0"), {1, 32}}, {"c", gguf_type_by_name("Q2_K"), {1, 256}},
                      {"d", gguf_type_by_name("IQ2_XXS"), {1, 256}}};
    auto writer = GgufWriter::create(path_, layout);
    ASSERT_TRUE(writer.ok());
    const std::vector<float> row(32, 1.0f);
    const auto two = std::span(row).first(2);
    EXPECT_FALSE(writer->append_floats(two).ok()) << "nothing begun";
    EXPECT_NE(writer->append_bytes(std::as_bytes(two)).error().to_string().find("no tensor was begun"), std::string::npos);
    EXPECT_FALSE(writer->begin("b").ok());
    ASSERT_TRUE(writer->begin("a").ok());
    ASSERT_TRUE(writer->append_floats(two).ok());
    EXPECT_FALSE(writer->begin("b").ok()) << "a is not complete";
    EXPECT_FALSE(writer->commit().ok());
    EXPECT_FALSE(writer->append_floats(std::span(row).first(1)).ok()) << "not a whole row";
    EXPECT_FALSE(writer->append_floats(std::span(row).first(4)).ok()) << "too many";
    ASSERT_TRUE(writer->append_floats(two).ok());
    EXPECT_FALSE(writer->append_floats(two).ok()) << "full";
    ASSERT_TRUE(writer->begin("b").ok());
    EXPECT_FALSE(writer->append_floats(row, two).ok()) << "importance of another width";
    std::vector<float> bad = row;
    bad[5] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_NE(writer->append_floats(bad).error().to_string().find("column 5 is not a finite number"), std::string::npos);
    ASSERT_TRUE(writer->append_floats(row).ok());
    ASSERT_TRUE(writer->begin("c").ok());
    const std::vector<float> wide(256, 1.0f);
    EXPECT_EQ(writer->append_floats(wide).error().code, ErrorCode::unsupported);
    ASSERT_TRUE(writer->append_bytes(std::vector<std::byte>(84)).ok());
    ASSERT_TRUE(writer->begin("d").ok());
    EXPECT_NE(writer->append_floats(wide).error().to_string().find("writing IQ2_XXS is not offered"), std::string::npos);
    EXPECT_FALSE(writer->commit().ok());
    EXPECT_FALSE(file_exists(path_));
}

}  // namespace
}  // namespace skiff
