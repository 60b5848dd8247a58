#include "formats/checkpoint_files.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "base/atomic_file.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "formats/staged_checkpoint.h"

namespace skiff {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text.data(), text.size())); }

class CheckpointFolder : public ::testing::Test {
protected:
    CheckpointFolder() {
        std::string pattern = ::testing::TempDir() + "skiff_XXXXXX";
        path_ = ::mkdtemp(pattern.data());
    }
    ~CheckpointFolder() override { (void)remove_all(path_); }
    void write(const std::string& name, const std::string& text) const { std::ofstream(join_path(path_, name), std::ios::binary) << text; }
    void write_shard(const std::string& name, const std::vector<std::string>& tensors) const {
        std::vector<TensorDeclaration> declarations;
        for (const auto& tensor : tensors) declarations.push_back({tensor, DType::u8, {1}});
        auto writer = SafetensorsWriter::create(join_path(path_, name), declarations);
        ASSERT_TRUE(writer.ok());
        for (const auto& tensor : tensors) ASSERT_TRUE(writer->write(tensor, bytes_of(tensor).first(1)).ok());
        ASSERT_TRUE(writer->commit().ok());
    }
    void expect_refused(const std::string& part) const {
        auto files = CheckpointFiles::open(path_);
        ASSERT_FALSE(files.ok()) << part;
        EXPECT_NE(files.error().to_string().find(part), std::string::npos) << files.error().to_string();
    }
    const std::string index_ = "model.safetensors.index.json";
    std::string path_;
};

TEST_F(CheckpointFolder, WritesAndReadsOneFile) {
    auto writer = CheckpointWriter::create(path_, {{"b", DType::u8, {4}}, {"a", DType::f32, {2}}});
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer->write("b", bytes_of("wxyz")).ok());
    ASSERT_TRUE(writer->write("a", bytes_of("01234567")).ok());
    ASSERT_TRUE(writer->commit().ok());
    EXPECT_EQ(writer->file_names(), std::vector<std::string>{"model.safetensors"});
    EXPECT_FALSE(file_exists(join_path(path_, index_)));
    for (const std::string& path : {path_, join_path(path_, "model.safetensors")}) {
        auto files = CheckpointFiles::open(path);
        ASSERT_TRUE(files.ok()) << files.error().to_string();
        EXPECT_EQ(files->names(), (std::vector<std::string>{"a", "b"}));
        EXPECT_EQ(files->tensor_bytes(), 12u);
        EXPECT_EQ(files->entry("a")->dtype, DType::f32);
        EXPECT_EQ(files->entry("c"), nullptr);
        EXPECT_EQ(files->tensor("c").error().code, ErrorCode::not_found);
    }
}

// Work of which some tensors turn out to be of another type: killed anywhere, and gone on with.
TEST_F(CheckpointFolder, StagedTensorsMayTurnOutWider) {
    const std::vector<TensorDeclaration> tensors = {{"a.codes", DType::i32, {2}}, {"a.scale", DType::f16, {3}}, {"b.codes", DType::i32, {2}}, {"b.scale", DType::f16, {3}}, {"c", DType::u8, {5}}};
    const std::string wide = "0123456789AB";
    for (const bool several : {false, true})
        for (int killed = 0; killed < 4; ++killed) {
            SCOPED_TRACE(std::to_string(several) + " " + std::to_string(killed));
            const std::string folder = join_path(path_, std::to_string(several) + std::to_string(killed));
            ASSERT_TRUE(make_directories(folder).ok());
            auto shards = assign_shards(folder, tensors, several ? 20 : 1 << 20);
            ASSERT_TRUE(shards.ok());
            ASSERT_EQ(shards->size() > 1, several);
            auto begin = [&](StagedCheckpoint::Start start) {
                auto staged = StagedCheckpoint::open(folder, *shards, start);
                EXPECT_TRUE(staged.ok()) << staged.error().to_string();
                return std::move(*staged);
            };
            std::optional<StagedCheckpoint> staged(begin(StagedCheckpoint::Start::fresh));
            ASSERT_TRUE(staged->write_as("a.codes", DType::i32, bytes_of("abcdefgh")).ok());
            ASSERT_TRUE(staged->write_as("a.scale", DType::f32, bytes_of(wide)).ok());
            EXPECT_FALSE(staged->write_as("a.scale", DType::f32, bytes_of("short")).ok());
            EXPECT_FALSE(staged->write_as("b.codes", DType::u8, bytes_of("zz")).ok());
            if (killed == 1) staged.emplace(begin(StagedCheckpoint::Start::resume));
            ASSERT_TRUE(staged->write_as("b.codes", DType::i32, bytes_of("ijklmnop")).ok());
            ASSERT_TRUE(staged->write_as("b.scale", DType::f16, bytes_of("uvwxyz")).ok());
            ASSERT_TRUE(staged->write_as("c", DType::u8, bytes_of("12345")).ok());
            if (killed == 2) staged.emplace(begin(StagedCheckpoint::Start::resume));
            ASSERT_TRUE(staged->finish().ok());
            if (killed == 3) {  // behind finish(), and before anything was removed
                staged.emplace(begin(StagedCheckpoint::Start::resume));
                ASSERT_TRUE(staged->finish().ok());
            }
            ASSERT_TRUE(StagedCheckpoint::remove_parts(folder).ok());
            auto files = CheckpointFiles::open(folder);
            ASSERT_TRUE(files.ok()) << files.error().to_string();
            const std::pair<const char*, std::string> expected[] = {{"a.codes", "abcdefgh"}, {"a.scale", wide}, {"b.codes", "ijklmnop"}, {"b.scale", "uvwxyz"}, {"c", "12345"}};
            for (const auto& [name, text] : expected) {
                auto found = files->tensor(name);
                ASSERT_TRUE(found.ok());
                EXPECT_EQ(std::string(reinterpret_cast<const char*>(found->view.data.data()), found->view.data.size()), text) << name;
            }
            EXPECT_EQ(files->entry("a.scale")->dtype, DType::f32);
            EXPECT_EQ(files->entry("b.scale")->dtype, DType::f16);
            EXPECT_EQ(files->tensor_bytes(), 8 + 12 + 8 + 6 + 5u);
        }
}

TEST_F(CheckpointFolder, WritesAndReadsShards) {
    std::vector<TensorDeclaration> tensors;
    for (int i = 0; i < 7; ++i) tensors.push_back({"layer." + std::to_string(i), DType::u8, {i == 3 ? 25 : 4}});
    auto writer = CheckpointWriter::create(path_, tensors, 10);
    ASSERT_TRUE(writer.ok());
    for (const auto& tensor : tensors) ASSERT_TRUE(writer->write(tensor.name, bytes_of(std::string(static_cast<std::size_t>(tensor.shape[0]), tensor.name.back()))).ok());
    ASSERT_TRUE(writer->commit().ok());
    EXPECT_EQ(writer->file_names().size(), 5u);  // 0 1 | 2 | 3 alone, larger than the limit | 4 5 | 6
    EXPECT_EQ(writer->file_names()[0], "model-00001-of-00005.safetensors");
    auto index = read_json_file(join_path(path_, index_));
    ASSERT_TRUE(index.ok());
    EXPECT_EQ((*index)["metadata"]["total_size"].int_or(0), 49);
    EXPECT_EQ((*index)["weight_map"]["layer.3"].text(), "model-00003-of-00005.safetensors");

    FoundTensor kept;
    {
        auto files = CheckpointFiles::open(path_);
        ASSERT_TRUE(files.ok()) << files.error().to_string();
        EXPECT_EQ(files->names().size(), 7u);
        kept = *files->tensor("layer.3");
    }
    EXPECT_EQ(kept.view.data.size(), 25u);  // the owner outlives the folder's object
    EXPECT_EQ(static_cast<char>(kept.view.data[24]), '3');
}

TEST_F(CheckpointFolder, IndexAndShardsMustAgree) {
    write_shard("one.safetensors", {"a", "b"});
    write_shard("two.safetensors", {"c"});
    write(index_, R"({"weight_map":{"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"}})");
    EXPECT_TRUE(CheckpointFiles::open(path_).ok());
    write(index_, R"({"weight_map":{"a":"one.safetensors","b":"one.safetensors","c":"one.safetensors"}})");
    expect_refused("holds \"c\", but it does not");
    write(index_, R"({"weight_map":{"a":"one.safetensors","c":"two.safetensors"}})");
    expect_refused("lists 2 tensors, the shards hold 3");
    write(index_, R"({"weight_map":{"a":"one.safetensors","b":"one.safetensors","c":"three.safetensors"}})");
    expect_refused("no such file");
    write(index_, R"({"weight_map":{"a":"one.safetensors","a":"two.safetensors"}})");
    expect_refused("appears twice");
    write_shard("two.safetensors", {"a", "c"});
    write(index_, R"({"weight_map":{"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"}})");
    expect_refused("is in two shards");
    for (const char* wrong : {R"([])", R"({})", R"({"weight_map":[]})", R"({"weight_map":"x"})"}) {
        write(index_, wrong);
        expect_refused("weight_map");
    }
    write(index_, R"({"weight_map":{"a":7}})");
    expect_refused("must be a string");
    write(index_, R"({"weight_map":)");
    EXPECT_FALSE(CheckpointFiles::open(path_).ok());
}

TEST_F(CheckpointFolder, ShardNamesStayInTheFolder) {
    for (const char* name : {"../one.safetensors", "/etc/passwd", "sub/one.safetensors", ".hidden.safetensors", "..", "", "a\\\\b.safetensors",
                             "a\\u0000.safetensors"}) {
        write(index_, R"({"weight_map":{"a":")" + std::string(name) + R"("}})");
        expect_refused("is not a plain file name");
    }
    write(index_, R"({"weight_map":{"a":"pytorch_model-00001-of-00002.bin"}})");
    expect_refused("pickle");
    write(index_, R"({"weight_map":{"a":"model.json"}})");
    expect_refused("does not end in .safetensors");
}

TEST_F(CheckpointFolder, SaysWhatIsMissing) {
    expect_refused("there is neither model.safetensors nor");
    write("tiny.gguf", "GGUF");
    expect_refused("it holds a GGUF file");
    write("pytorch_model.bin", "x");
    expect_refused("Convert it to safetensors");
    EXPECT_EQ(CheckpointFiles::open(path_ + "/absent").error().code, ErrorCode::not_found);
}

TEST(CheckpointFiles, ReadsALargerModel) {
    const std::string path = std::string(SKIFF_SHARED_DIR) + "/models/pocket";
    if (!is_directory(path)) GTEST_SKIP() << path << " is not here";
    auto files = CheckpointFiles::open(path);
    ASSERT_TRUE(files.ok()) << files.error().to_string();
    EXPECT_TRUE(files->contains("model.embed_tokens.weight"));
}

}  // namespace
}  // namespace skiff
