// The rules S1-S17 of a safetensors loader, each with a file that breaks it, and damage at random.
#include "formats/safetensors.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <fstream>

#include "base/rng.h"

namespace skiff {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text.data(), text.size())); }

std::string file_text(const std::string& header, const std::string& data, std::int64_t claimed_bytes = -1) {
    const std::uint64_t n = claimed_bytes < 0 ? header.size() : static_cast<std::uint64_t>(claimed_bytes);
    std::string text(8, '\0');
    std::memcpy(text.data(), &n, 8);
    return text + header + data;
}

Result<SafetensorsHeader> parse(const std::string& text) { return parse_safetensors_header(bytes_of(text), text.size()); }

class TemporaryFolder {
public:
    TemporaryFolder() {
        std::string pattern = ::testing::TempDir() + "skiff_XXXXXX";
        path_ = ::mkdtemp(pattern.data());
    }
    ~TemporaryFolder() { (void)remove_all(path_); }
    std::string path(const std::string& name) const { return join_path(path_, name); }
    std::string write(const std::string& name, const std::string& text) const {
        std::ofstream(path(name), std::ios::binary) << text;
        return path(name);
    }

private:
    std::string path_;
};

const std::string good_header = R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                                R"("b":{"dtype":"BF16","shape":[],"data_offsets":[24,26]},"c":{"dtype":"U8","shape":[0,7],"data_offsets":[26,26]}})";
const std::string good_data = std::string("abcdefghijklmnopqrstuvwx") + "yz";

std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets, const std::string& name = "t") {
    return "{\"" + name + "\":{\"dtype\":" + dtype + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}}";
}

TEST(Safetensors, ReadsAGoodHeader) {
    auto header = parse(file_text(good_header, good_data));
    ASSERT_TRUE(header.ok()) << header.error().to_string();
    ASSERT_EQ(header->entries.size(), 3u);
    EXPECT_EQ(header->entries[0].name, "a");
    EXPECT_EQ(header->entries[0].shape, (Shape{2, 3}));
    EXPECT_EQ(header->entries[1].dtype, DType::bf16);
    EXPECT_TRUE(header->entries[1].shape.empty());
    EXPECT_EQ(header->entries[2].end, 26u);
    EXPECT_EQ(header->metadata, (SafetensorsMetadata{{"format", "pt"}}));
    EXPECT_TRUE(parse(file_text(good_header + "   ", good_data)).ok());
    EXPECT_TRUE(parse(file_text("{}", "")).ok());
    // The order in the header does not matter, only that of the bytes.
    auto swapped = parse(file_text(R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]},"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", "abcd"));
    ASSERT_TRUE(swapped.ok());
    EXPECT_EQ(swapped->entries[0].name, "a");
}

struct Violation {
    const char* rule;
    std::string text;
    const char* message;  // a part of it
};

std::vector<Violation> violations() {
    std::vector<Violation> all = {
        {"S1 shorter than 8 bytes", "1234567", "the header's length alone takes 8"},
        {"S1 empty", "", "it has 0 bytes"},
        {"S3 header over 100 MB", file_text("{}", "", 100'000'001), "at most 100000000 are allowed"},
        {"S2 length fills 64 bits", file_text("{}", "", INT64_MAX), "at most 100000000 are allowed"},
        {"S4 header past the end", file_text("{}", "", 3), "only 2 follow"},
        {"S5 begins with a space", file_text(" {}", ""), "must begin with '{'"},
        {"S5 empty header", file_text("", ""), "must begin with '{'"},
        {"S5 array", file_text("[]", ""), "must begin with '{'"},
        {"S6 not UTF-8", file_text("{\"\xff\":1}", ""), "not valid JSON"},
        {"S6 overlong UTF-8", file_text("{\"\xc0\x80\":1}", ""), "not valid JSON"},
        {"S7 not JSON", file_text("{\"a\":}", ""), "not valid JSON"},
        {"S7 two documents", file_text("{}{}", ""), "not valid JSON"},
        {"S7 too deep", file_text("{\"a\":[[[[1]]]]}", ""), "not valid JSON"},
        {"S7 padded with newline", file_text("{}\n", ""), "only spaces may follow"},
        {"S7 padded with zeros", file_text(std::string("{}") + '\0', ""), "only spaces may follow"},
        {"S8 same tensor twice",
         file_text(R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"t":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", "ab"), "appears twice"},
        {"S8 same field twice", file_text(R"({"t":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "a"), "appears twice"},
        {"S9 metadata not an object", file_text(R"({"__metadata__":[]})", ""), "__metadata__ must be an object of strings, found an array"},
        {"S9 metadata not a string", file_text(R"({"__metadata__":{"a":1}})", ""), "__metadata__ \"a\" must be a string"},
        {"S10 entry not an object", file_text(R"({"t":5})", ""), "tensor \"t\": expected an object"},
        {"S10 no dtype", file_text(R"({"t":{"shape":[1],"data_offsets":[0,1]}})", "a"), "tensor \"t\": has no dtype"},
        {"S10 no shape", file_text(R"({"t":{"dtype":"U8","data_offsets":[0,1]}})", "a"), "tensor \"t\": has no shape"},
        {"S10 no offsets", file_text(R"({"t":{"dtype":"U8","shape":[1]}})", "a"), "tensor \"t\": has no data_offsets"},
        {"S10 another field", file_text(R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}})", "a"), "has fields other than"},
        {"S10 unknown dtype", file_text(entry("\"F128\"", "[1]", "[0,16]"), std::string(16, 'a')), "unknown dtype \"F128\""},
        {"S10 dtype in lower case", file_text(entry("\"f32\"", "[1]", "[0,4]"), "abcd"), "unknown dtype"},
        {"S10 dtype not a string", file_text(entry("7", "[1]", "[0,1]"), "a"), "unknown dtype"},
        {"S11 negative dimension", file_text(entry("\"U8\"", "[-1]", "[0,1]"), "a"), "each dimension must be an integer of 0 or more"},
        {"S11 float dimension", file_text(entry("\"U8\"", "[1.0]", "[0,1]"), "a"), "each dimension must be an integer of 0 or more"},
        {"S11 exponent", file_text(entry("\"U8\"", "[1e0]", "[0,1]"), "a"), "each dimension must be an integer of 0 or more"},
        {"S11 beyond 63 bits", file_text(entry("\"U8\"", "[9223372036854775808]", "[0,1]"), "a"), "each dimension must be an integer of 0 or more"},
        {"S11 shape not an array", file_text(entry("\"U8\"", "1", "[0,1]"), "a"), "shape must be an array"},
        {"S11 nine dimensions", file_text(entry("\"U8\"", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), "a"), "at most 8 are allowed"},
        {"S12 product overflows", file_text(entry("\"U8\"", "[4294967296,4294967296]", "[0,0]"), ""), "too large"},
        {"S12 product overflows beside a zero", file_text(entry("\"U8\"", "[4294967296,4294967296,0]", "[0,0]"), ""), "too large"},
        {"S12 bits overflow", file_text(entry("\"F64\"", "[4611686018427387904]", "[0,0]"), ""), "too large"},
        {"S12 half a byte", file_text(entry("\"F4\"", "[3]", "[0,2]"), "ab"), "does not fill whole bytes"},
        {"S13 offsets not two", file_text(entry("\"U8\"", "[1]", "[0]"), "a"), "data_offsets must be two integers"},
        {"S13 offsets three", file_text(entry("\"U8\"", "[1]", "[0,1,2]"), "a"), "data_offsets must be two integers"},
        {"S13 offsets negative", file_text(entry("\"U8\"", "[1]", "[-1,0]"), "a"), "data_offsets must be two integers"},
        {"S13 offsets beyond 63 bits", file_text(entry("\"U8\"", "[1]", "[0,18446744073709551615]"), "a"), "data_offsets must be two integers"},
        {"S13 end before begin", file_text(entry("\"U8\"", "[1]", "[1,0]"), "a"), "end before they begin"},
        {"S13 size differs", file_text(entry("\"U8\"", "[2]", "[0,1]"), "a"), "takes 2 bytes, but data_offsets span 1"},
        {"S13 does not begin at 0", file_text(entry("\"U8\"", "[1]", "[1,2]"), "ab"), "without gap or overlap"},
        {"S13 gap", file_text(R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"u":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})", "abc"),
         "without gap or overlap"},
        {"S13 overlap", file_text(R"({"t":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"u":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})", "abc"),
         "without gap or overlap"},
        {"S13 same bytes twice", file_text(R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"u":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "a"),
         "without gap or overlap"},
        {"S14 trailing byte", file_text(entry("\"U8\"", "[1]", "[0,1]"), "ab"), "the file holds 2 bytes of data"},
        {"S14 data without tensors", file_text("{}", "a"), "the file holds 1 bytes of data"},
        {"S14 truncated", file_text(entry("\"U8\"", "[3]", "[0,3]"), "ab"), "it is truncated"},
        {"S15 huge tensor, small file", file_text(entry("\"F32\"", "[1000000000000]", "[0,4000000000000]"), ""), "it is truncated"},
        {"S15 long name", file_text(entry("\"U8\"", "[1]", "[0,1]", std::string(1025, 'n')), "a"), "at most 1024 are allowed"},
        {"S15 control character", file_text(entry("\"U8\"", "[1]", "[0,1]", "a\\u0007"), "a"), "control character"},
        {"a GGUF file", std::string("GGUF\3\0\0\0", 8) + std::string(64, '\0'), "looks like a GGUF file"},
        {"a zipped pickle", std::string("PK\3\4\0\0\0\0", 8) + std::string(64, 'x'), "looks like a pickle"},
    };
    std::string many = "{";
    for (int i = 0; i <= 1'000'001; ++i) many += (i ? ",\"" : "\"") + std::to_string(i) + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
    all.push_back({"S15 over a million tensors", file_text(many + "}", ""), "at most 1000000 are allowed"});
    std::string values = "{\"a\":[0";
    for (int i = 0; i < 1'000'000; ++i) values += ",0";
    all.push_back({"S15 more values than entries need", file_text(values + "]}", ""), "not valid JSON"});
    return all;
}

TEST(Safetensors, EachRuleRefusesItsViolation) {
    for (const auto& violation : violations()) {
        auto header = parse(violation.text);
        ASSERT_FALSE(header.ok()) << violation.rule;
        EXPECT_EQ(header.error().code, ErrorCode::corrupt) << violation.rule;
        EXPECT_NE(header.error().message.find(violation.message), std::string::npos) << violation.rule << ": " << header.error().message;
    }
}

TEST(Safetensors, EveryTruncationIsRefused) {
    const std::string good = file_text(good_header, good_data);
    for (std::size_t n = 0; n < good.size(); ++n) EXPECT_FALSE(parse(good.substr(0, n)).ok()) << n;
    // Claimed sizes may also be wrong about what was handed in.
    for (std::size_t n = 0; n < 8 + good_header.size(); ++n)
        EXPECT_FALSE(parse_safetensors_header(bytes_of(good).first(n), good.size()).ok()) << n;
}

TEST(Safetensors, RandomBitFlipsAreRefusedOrHarmless) {
    const std::string good = file_text(good_header, good_data);
    Rng rng(17);
    int n_accepted = 0;
    for (int trial = 0; trial < 10000; ++trial) {
        std::string damaged = good;
        const std::size_t n_flips = 1 + rng.below(4);
        for (std::size_t i = 0; i < n_flips; ++i) damaged[rng.below(damaged.size())] ^= static_cast<char>(1 << rng.below(8));
        auto header = parse(damaged);
        if (!header.ok()) {
            ASSERT_FALSE(header.error().message.empty());
            continue;
        }
        ++n_accepted;  // a name, a text or the data changed: all tensors still lie inside
        for (const auto& entry : header->entries) {
            ASSERT_LE(header->data_begin + entry.end, damaged.size());
            ASSERT_EQ(static_cast<std::int64_t>(entry.end - entry.begin), *dtype_bytes(entry.dtype, element_count(entry.shape)));
        }
    }
    EXPECT_GT(n_accepted, 100);
}

TEST(SafetensorsFile, OnlyRegularFilesAndNoPickles) {
    const TemporaryFolder folder;
    EXPECT_EQ(SafetensorsFile::open(folder.path("none.safetensors")).error().code, ErrorCode::not_found);
    ASSERT_EQ(::mkdir(folder.path("folder.safetensors").c_str(), 0755), 0);
    EXPECT_EQ(SafetensorsFile::open(folder.path("folder.safetensors")).error().code, ErrorCode::corrupt);
    for (const char* name : {"pytorch_model.bin", "model.pt", "x.pth", "last.ckpt", "m.pkl"}) {
        auto file = SafetensorsFile::open(folder.write(name, file_text(good_header, good_data)));
        ASSERT_FALSE(file.ok()) << name;
        EXPECT_EQ(file.error().code, ErrorCode::unsupported);
        EXPECT_NE(file.error().message.find("Convert it to safetensors"), std::string::npos);
    }
    auto truncated = SafetensorsFile::open(folder.write("t.safetensors", file_text(good_header, "abc")));
    ASSERT_FALSE(truncated.ok());
    EXPECT_NE(truncated.error().to_string().find("t.safetensors: "), std::string::npos);
}

TEST(SafetensorsFile, UnalignedTensorsRead) {
    const TemporaryFolder folder;
    const float value = 1.5f;
    std::string data = "x";
    data.append(reinterpret_cast<const char*>(&value), 4);
    const std::string header = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"f":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}} )";
    auto file = SafetensorsFile::open(folder.write("u.safetensors", file_text(header, data)));
    ASSERT_TRUE(file.ok()) << file.error().to_string();
    std::vector<float> floats;
    ASSERT_TRUE(to_floats(*file->view("f"), floats));
    EXPECT_EQ(floats, std::vector<float>{1.5f});
    EXPECT_EQ(file->view("g").error().code, ErrorCode::not_found);
}

TEST(SafetensorsWriter, EveryTypeThereAndBack) {
    const TemporaryFolder folder;
    const std::string path = folder.path("all.safetensors");
    std::vector<TensorDeclaration> tensors;
    std::map<std::string, std::string> contents;
    Rng rng(4);
    for (const auto& info : dtype_table())
        for (const Shape& shape : {Shape{}, Shape{0, 3}, Shape{3, 8}, Shape{1, 2, 1, 4}}) {
            if (!dtype_bytes(info.dtype, element_count(shape))) continue;
            const std::string name = std::string(info.name) + shape_text(shape) + " \"quoted\" \u00fc";
            tensors.push_back({name, info.dtype, shape});
            std::string& content = contents[name];
            content.resize(static_cast<std::size_t>(*dtype_bytes(info.dtype, element_count(shape))));
            for (char& byte : content) byte = static_cast<char>(rng.next());
        }
    auto writer = SafetensorsWriter::create(path, tensors, {{"format", "pt"}, {"note", "line\nbreak"}});
    ASSERT_TRUE(writer.ok()) << writer.error().to_string();
    for (const auto& [name, content] : contents) {  // in another order than declared, in two chunks
        const std::size_t half = content.size() / 2;
        ASSERT_TRUE(writer->write(name, bytes_of(content).first(half)).ok());
        ASSERT_TRUE(writer->write(name, bytes_of(content).subspan(half)).ok());
    }
    ASSERT_TRUE(writer->commit().ok());
    auto file = SafetensorsFile::open(path);
    ASSERT_TRUE(file.ok()) << file.error().to_string();
    EXPECT_EQ(file->entries().size(), tensors.size());
    EXPECT_EQ(file->metadata()[1].second, "line\nbreak");
    for (const auto& tensor : tensors) {
        auto view = file->view(tensor.name);
        ASSERT_TRUE(view.ok());
        EXPECT_EQ(view->dtype, tensor.dtype);
        EXPECT_EQ(view->shape, tensor.shape);
        EXPECT_EQ(std::string(reinterpret_cast<const char*>(view->data.data()), view->data.size()), contents[tensor.name]);
        // Aligned to its type, which numpy and PyTorch need in order to map it.
        if (!view->data.empty()) {
            const auto offset = static_cast<std::size_t>(view->data.data() - file->owner()->bytes().data());
            EXPECT_EQ(offset % static_cast<std::size_t>(std::max(1, dtype_info(tensor.dtype).bits / 8)), 0u) << tensor.name;
        }
    }
}

TEST(SafetensorsWriter, RefusesWhatItCouldNotReadBack) {
    const TemporaryFolder folder;
    const std::string path = folder.path("w.safetensors");
    EXPECT_FALSE(SafetensorsWriter::create(path, {{"a", DType::f32, {1}}, {"a", DType::f32, {2}}}).ok());
    EXPECT_FALSE(SafetensorsWriter::create(path, {{"a", DType::f32, {1}}, {"a", DType::u8, {2}}}).ok());
    EXPECT_FALSE(SafetensorsWriter::create(path, {{"a", DType::f4, {3}}}).ok());
    EXPECT_FALSE(SafetensorsWriter::create(path, {{"a\n", DType::u8, {3}}}).ok());
    EXPECT_FALSE(SafetensorsWriter::create(path, {{"a", DType::u8, {-3}}}).ok());
    {
        auto writer = SafetensorsWriter::create(path, {{"a", DType::u8, {3}}});
        ASSERT_TRUE(writer.ok());
        EXPECT_FALSE(writer->write("b", bytes_of("x")).ok());
        EXPECT_TRUE(writer->write("a", bytes_of("xy")).ok());
        EXPECT_FALSE(writer->write("a", bytes_of("zz")).ok());
        EXPECT_FALSE(writer->commit().ok());
    }
    EXPECT_FALSE(file_exists(path));
}

// Files written by the reference implementation read, and written again are the same to the byte.
TEST(SafetensorsWriter, SameBytesAsTheReference) {
    const std::string path = std::string(SKIFF_TEST_DATA_DIR) + "/compressed_tensors/tensors.safetensors";
    auto file = SafetensorsFile::open(path);
    ASSERT_TRUE(file.ok()) << file.error().to_string();
    const TemporaryFolder folder;
    std::vector<TensorDeclaration> tensors;
    for (const auto& entry : file->entries()) tensors.push_back({entry.name, entry.dtype, entry.shape});
    auto writer = SafetensorsWriter::create(folder.path("again.safetensors"), tensors, file->metadata());
    ASSERT_TRUE(writer.ok());
    for (const auto& entry : file->entries()) ASSERT_TRUE(writer->write(entry.name, file->view(entry).data).ok());
    ASSERT_TRUE(writer->commit().ok());
    EXPECT_TRUE(*read_text_file(folder.path("again.safetensors"), 1 << 20) == *read_text_file(path, 1 << 20));
}

}  // namespace
}  // namespace skiff
