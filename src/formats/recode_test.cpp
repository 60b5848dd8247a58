#include "formats/recode.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "base/mapped_file.h"
#include "base/rng.h"

namespace skiff {
namespace {

class Recode : public ::testing::Test {
protected:
    Recode() {
        std::string pattern = ::testing::TempDir() + "skiff_XXXXXX";
        path_ = ::mkdtemp(pattern.data());
        for (const char* folder : {"plain", "coded", "again", "twice"}) EXPECT_TRUE(make_directories(at(folder)).ok());
    }
    ~Recode() override { (void)remove_all(path_); }
    std::string at(const std::string& name) const { return join_path(path_, name); }

    // Shards of matrices whose exponents are like those of weights, a vector of zeros, and noise.
    void write_model(std::uint64_t max_shard_bytes) const {
        const std::vector<TensorDeclaration> tensors = {{"a.weight", DType::bf16, {64, 512}}, {"b.weight", DType::f32, {64, 256}}, {"norm.bias", DType::f32, {4096}}, {"noise", DType::u8, {5000}}, {"empty", DType::f32, {0}}};
        auto writer = CheckpointWriter::create(at("plain"), tensors, max_shard_bytes);
        ASSERT_TRUE(writer.ok());
        Rng rng(1);
        for (const auto& tensor : tensors) {
            std::vector<float> values(static_cast<std::size_t>(element_count(tensor.shape)));
            for (float& value : values) value = tensor.name == "norm.bias" ? 0 : rng.uniform() + rng.uniform() - 1;
            std::vector<std::byte> bytes(static_cast<std::size_t>(*dtype_bytes(tensor.dtype, element_count(tensor.shape))));
            dtype_info(tensor.dtype).from_float(values.data(), static_cast<std::int64_t>(values.size()), bytes.data());
            if (tensor.name == "noise") std::generate(bytes.begin(), bytes.end(), [&] { return static_cast<std::byte>(rng.next()); });
            ASSERT_TRUE(writer->write(tensor.name, bytes).ok());
        }
        ASSERT_TRUE(writer->commit().ok());
    }
    RecodeReport recoded(const std::string& from, const std::string& to, RecodeOptions options) const {
        auto files = CheckpointFiles::open(at(from));
        EXPECT_TRUE(files.ok());
        auto report = recode(*files, at(to), options);
        EXPECT_TRUE(report.ok()) << report.error().to_string();
        return *report;
    }
    std::string text(const std::string& name) const {
        auto found = read_text_file(at(name), std::size_t{1} << 30);
        EXPECT_TRUE(found.ok()) << name;
        return *found;
    }
    void expect_same_tensors(const std::string& one, const std::string& other) const {
        auto a = CheckpointFiles::open(at(one)), b = CheckpointFiles::open(at(other));
        ASSERT_TRUE(a.ok() && b.ok());
        ASSERT_EQ(a->names(), b->names());
        for (const std::string& name : a->names()) {
            auto x = a->tensor(name), y = b->tensor(name);
            ASSERT_TRUE(x.ok() && y.ok()) << name;
            EXPECT_EQ(x->view.dtype, y->view.dtype);
            EXPECT_EQ(x->view.shape, y->view.shape);
            EXPECT_EQ(b->entry(name)->shape, x->view.shape);
            ASSERT_EQ(x->view.data.size(), y->view.data.size());
            EXPECT_TRUE(std::equal(x->view.data.begin(), x->view.data.end(), y->view.data.begin())) << name;
        }
    }
    std::string path_;
};

TEST_F(Recode, ThereAndBackAgain) {
    write_model(CheckpointWriter::default_max_shard_bytes);
    const RecodeReport report = recoded("plain", "coded", {});
    EXPECT_EQ(report.total.n_tensors, 5u);
    EXPECT_EQ(report.n_coded, 2u);
    EXPECT_LT(report.by_type.at("BF16").stored_bytes * 100, report.by_type.at("BF16").plain_bytes * 72);
    EXPECT_EQ(report.by_type.at("U8").stored_bytes, 5000u);
    expect_same_tensors("plain", "coded");
    auto files = CheckpointFiles::open(at("coded"));
    ASSERT_TRUE(files.ok());
    EXPECT_EQ(files->coded_totals().n_tensors, 2u);
    EXPECT_EQ(files->coded_totals().plain_bytes, report.coded_plain_bytes);
    EXPECT_EQ(files->tensor_bytes(), report.total.stored_bytes);
    EXPECT_TRUE(files->contains("a.weight"));
    EXPECT_FALSE(files->contains("a.weight.coded"));
    EXPECT_NE(files->coded("a.weight"), nullptr);
    EXPECT_EQ(files->coded("noise"), nullptr);
    // While somebody holds a decoded tensor, others get the same memory.
    auto first = files->tensor("a.weight"), second = files->tensor("a.weight");
    ASSERT_TRUE(first.ok() && second.ok());
    EXPECT_EQ(first->view.data.data(), second->view.data.data());
    EXPECT_GT(*decoding_seconds(*files, 2), 0);

    RecodeOptions back;
    back.to = RecodeOptions::To::plain;
    (void)recoded("coded", "again", back);
    EXPECT_EQ(text("plain/model.safetensors"), text("again/model.safetensors"));
    (void)recoded("coded", "twice", {});  // coding what is coded changes nothing
    EXPECT_EQ(text("coded/model.safetensors"), text("twice/model.safetensors"));
}

TEST_F(Recode, ShardsThreadsAndMemoryChangeNothing) {
    write_model(70'000);
    RecodeOptions options;
    options.n_threads = 3;
    options.keep_bytes = 0;
    (void)recoded("plain", "coded", options);
    (void)recoded("plain", "twice", {});
    expect_same_tensors("plain", "coded");
    ASSERT_TRUE(file_exists(at("coded/model-00001-of-00003.safetensors")));
    for (const std::string name : {"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors", "model.safetensors.index.json"})
        EXPECT_EQ(text("coded/" + name), text("twice/" + name)) << name;
}

TEST_F(Recode, NothingIsWrittenWhereOnlyTheReportIsWanted) {
    write_model(CheckpointWriter::default_max_shard_bytes);
    auto files = CheckpointFiles::open(at("plain"));
    ASSERT_TRUE(files.ok());
    auto report = recode(*files, "", {});
    ASSERT_TRUE(report.ok());
    EXPECT_EQ(report->total.stored_bytes, recoded("plain", "coded", {}).total.stored_bytes);
}

// What a file says about its coding is believed only after a look.
TEST_F(Recode, FilesThatLieAreRefused) {
    const auto write = [&](const std::string& name, const SafetensorsMetadata& metadata, const std::string& tensor, DType dtype) {
        auto writer = SafetensorsWriter::create(at(name), {{tensor, dtype, {8}}}, metadata);
        ASSERT_TRUE(writer.ok());
        ASSERT_TRUE(writer->write(tensor, std::vector<std::byte>(static_cast<std::size_t>(*dtype_bytes(dtype, 8)))).ok());
        ASSERT_TRUE(writer->commit().ok());
    };
    const std::string key(coded_metadata_key);
    write("no_code.safetensors", {{key, "1"}}, "x.coded", DType::u8);
    auto files = CheckpointFiles::open(at("no_code.safetensors"));
    ASSERT_FALSE(files.ok());
    EXPECT_NE(files.error().to_string().find("tensor x.coded"), std::string::npos) << files.error().to_string();
    write("newer.safetensors", {{key, "2"}}, "x.coded", DType::u8);
    files = CheckpointFiles::open(at("newer.safetensors"));
    ASSERT_FALSE(files.ok());
    EXPECT_EQ(files.error().code, ErrorCode::unsupported);
    // Without the metadata it is a tensor like others.
    write("other.safetensors", {}, "x.coded", DType::u8);
    files = CheckpointFiles::open(at("other.safetensors"));
    ASSERT_TRUE(files.ok());
    EXPECT_TRUE(files->contains("x.coded"));
    auto report = recode(*files, "", {});
    ASSERT_FALSE(report.ok());
    EXPECT_EQ(report.error().code, ErrorCode::unsupported);
}

// A name may be there as it is and coded: in one file as wrong as in two.
TEST_F(Recode, ATensorThatIsThereTwiceIsRefused) {
    write_model(std::uint64_t{1} << 30);
    (void)recoded("plain", "coded", {});
    auto coded = CheckpointFiles::open(at("coded"));
    ASSERT_TRUE(coded.ok());
    const SafetensorsFile& file = coded->files()[0];
    std::string name;
    for (const TensorEntry& entry : file.entries())
        if (entry.name == "a.weight.coded") name = "a.weight";
    ASSERT_FALSE(name.empty());
    const std::span<const std::byte> code = file.view(*file.find(name + ".coded")).data;
    auto writer = SafetensorsWriter::create(at("twice.safetensors"), {{name, DType::u8, {8}}, {name + ".coded", DType::u8, {static_cast<std::int64_t>(code.size())}}}, {{std::string(coded_metadata_key), "1"}});
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer->write(name, std::vector<std::byte>(8)).ok());
    ASSERT_TRUE(writer->write(name + ".coded", code).ok());
    ASSERT_TRUE(writer->commit().ok());
    const auto files = CheckpointFiles::open(at("twice.safetensors"));
    ASSERT_FALSE(files.ok());
    EXPECT_NE(files.error().to_string().find("twice, as it is and coded"), std::string::npos) << files.error().to_string();
}

// Some have an index for a single shard.
TEST_F(Recode, OneShardKeepsItsIndex) {
    write_model(std::uint64_t{1} << 30);
    ASSERT_EQ(::rename(at("plain/model.safetensors").c_str(), at("plain/model-00001-of-00001.safetensors").c_str()), 0);
    std::ofstream(at("plain/model.safetensors.index.json")) << R"({"weight_map": {"a.weight": "model-00001-of-00001.safetensors", "b.weight": "model-00001-of-00001.safetensors",
        "norm.bias": "model-00001-of-00001.safetensors", "noise": "model-00001-of-00001.safetensors", "empty": "model-00001-of-00001.safetensors"}})";
    (void)recoded("plain", "coded", {});
    expect_same_tensors("plain", "coded");
    RecodeOptions back;
    back.to = RecodeOptions::To::plain;
    (void)recoded("coded", "again", back);
    expect_same_tensors("plain", "again");
}

// Who asks for one tensor after the other does not hold them all.
TEST_F(Recode, DecodedBytesAreGivenBack) {
    write_model(std::uint64_t{1} << 30);
    (void)recoded("plain", "coded", {});
    auto files = CheckpointFiles::open(at("coded"));
    ASSERT_TRUE(files.ok());
    std::weak_ptr<const void> seen;
    {
        auto found = files->tensor("a.weight");
        ASSERT_TRUE(found.ok());
        seen = found->owner;
        EXPECT_EQ(files->tensor("a.weight")->view.data.data(), found->view.data.data());
    }
    EXPECT_TRUE(seen.expired());
}

TEST_F(Recode, DamageInAFileIsNamedWithItsTensor) {
    write_model(CheckpointWriter::default_max_shard_bytes);
    (void)recoded("plain", "coded", {});
    std::string bytes = text("coded/model.safetensors");
    auto intact = CheckpointFiles::open(at("coded"));
    ASSERT_TRUE(intact.ok());
    const auto* entry = intact->entry("a.weight");
    const std::size_t data_begin = bytes.size() - static_cast<std::size_t>(intact->tensor_bytes());
    bytes[data_begin + static_cast<std::size_t>(entry->end) - 1] ^= 1;
    std::ofstream(at("again/model.safetensors"), std::ios::binary) << bytes;
    auto files = CheckpointFiles::open(at("again"));
    ASSERT_TRUE(files.ok());
    auto found = files->tensor("a.weight");
    ASSERT_FALSE(found.ok());
    EXPECT_EQ(found.error().code, ErrorCode::corrupt);
    for (const char* words : {"again/model.safetensors", "a.weight.coded", "block 0 of 1 is damaged"}) EXPECT_NE(found.error().to_string().find(words), std::string::npos) << found.error().to_string();
    EXPECT_TRUE(files->tensor("b.weight").ok());
}

}  // namespace
}  // namespace skiff
