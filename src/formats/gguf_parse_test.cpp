// The reader against files that break one rule each, against truncation at every byte, and against flipped bits.
#include "formats/gguf_parse.h"

#include <gtest/gtest.h>

#include <sys/resource.h>

#include <functional>

#include "base/rng.h"
#include "formats/gguf_test_bytes.h"
#include "formats/gguf_vocab.h"

namespace skiff {
namespace {

using gguf_testing::Bytes;
using gguf_testing::small_file;

constexpr std::uint64_t huge = ~std::uint64_t{0};

std::string error_of(const Bytes& file) {
    auto part = parse_gguf(file.bytes());
    if (part.ok()) return "no error";
    EXPECT_EQ(part.error().code, ErrorCode::corrupt);
    return part.error().to_string();
}

Bytes one_entry(std::string_view key, const std::function<void(Bytes&)>& value) {
    Bytes file;
    file.head(0, 1).string(key);
    value(file);
    return file.raw(std::string(64, '\0'));
}

Bytes one_tensor(std::string_view name, const std::vector<std::uint64_t>& dimensions, std::uint32_t type, std::uint64_t offset = 0, std::size_t data = 4096) {
    Bytes file;
    return file.head(1, 0).tensor(name, dimensions, type, offset).pad_to(32).raw(std::string(data, '\0'));
}

Bytes two_tensors(std::uint64_t second_offset, std::string_view second_name = "b") {
    Bytes file;
    return file.head(2, 0).tensor("a", {9}, 0, 0).tensor(second_name, {8}, 0, second_offset).pad_to(32).raw(std::string(4096, '\0'));
}

struct Violation {
    const char* name;
    Bytes file;
    const char* message;
};

std::vector<Violation> violations() {
    return {
        {"G1_magic", Bytes().raw("GGUG").u32(3).u64(0).u64(0), "does not begin with \"GGUF\""},
        {"G2_version_1", Bytes().head(0, 0, 1), "version 1, versions 2 and 3 are read"},
        {"G2_version_4", Bytes().head(0, 0, 4), "version 4"},
        {"G2_big_endian", Bytes().head(0, 0, 3u << 24), "big-endian"},
        {"G3_tensor_cap", Bytes().head((1u << 17) + 1, 0), "tensor count is 131073, at most 131072"},
        {"G3_key_cap", Bytes().head(0, 65537), "metadata count is 65537, at most 65536"},
        {"G3_tensors_beyond_file", Bytes().head(3, 0).raw(std::string(98, 'x')), "3 tensors do not fit into the 98 bytes left"},
        {"G3_keys_beyond_file", Bytes().head(0, 3).raw(std::string(41, 'x')), "3 metadata entries"},
        {"G4_key_too_long", Bytes().head(0, 1).u64(65536).raw(std::string(70000, 'k')), "key length is 65536, at most 65535"},
        {"G4_key_empty", Bytes().head(0, 1).u64(0).u32(0).raw(std::string(16, 0)), "a metadata key is empty"},
        {"G4_key_not_ascii", Bytes().head(0, 1).string("a\xc3\xa9").u32(0).u8(0).raw(std::string(16, 0)), "the byte 195, expected printable ASCII"},
        {"G4_key_control", Bytes().head(0, 1).string("a\nb").u32(0).u8(0).raw(std::string(16, 0)), "the byte 10"},
        {"G4_string_cap", one_entry("k", [](Bytes& f) { f.u32(8).u64((16u << 20) + 1); }), "string length is 16777217, at most 16777216"},
        {"G4_string_beyond_file", one_entry("k", [](Bytes& f) { f.u32(8).u64(65); }), "string needs 65 bytes, 64 are left"},
        {"G4_string_huge", one_entry("k", [](Bytes& f) { f.u32(8).u64(huge); }), "\"k\": string length is 18446744073709551615"},
        {"G5_key_twice", Bytes().head(0, 2).entry_u32("a.b", 1).entry_u32("a.b", 2), "the key \"a.b\" twice"},
        {"G6_value_type", one_entry("k", [](Bytes& f) { f.u32(13); }), "\"k\": value type 13 is not known"},
        {"G6_item_type", one_entry("k", [](Bytes& f) { f.u32(9).u32(13).u64(0); }), "array item type 13 is not known"},
        {"G7_nested_array", one_entry("k", [](Bytes& f) { f.u32(9).u32(9).u64(1); }), "an array in an array"},
        {"G7_array_cap", one_entry("k", [](Bytes& f) { f.u32(9).u32(0).u64((1u << 30) + 1); }), "array length is 1073741825"},
        {"G7_array_huge", one_entry("k", [](Bytes& f) { f.u32(9).u32(10).u64(huge / 8 + 2); }), "array length is"},
        {"G7_array_beyond_file", one_entry("k", [](Bytes& f) { f.u32(9).u32(5).u64(17); }), "an array of 17 i32 does not fit into the 64 bytes left"},
        {"G7_strings_beyond_file", one_entry("k", [](Bytes& f) { f.u32(9).u32(8).u64(9); }), "an array of 9 string does not fit"},
        {"G8_bool", one_entry("k", [](Bytes& f) { f.u32(7).u8(2); }), "a bool is 2, expected 0 or 1"},
        {"G8_bool_item", one_entry("k", [](Bytes& f) { f.u32(9).u32(7).u64(2).u8(1).u8(7); }), "a bool in an array is 7"},
        {"G9_alignment_type", one_entry("general.alignment", [](Bytes& f) { f.u32(10).u64(32); }), "general.alignment: expected u32, found u64"},
        {"G10_alignment_not_power", Bytes().head(0, 1).entry_u32("general.alignment", 24), "general.alignment is 24, expected a power of two"},
        {"G10_alignment_zero", Bytes().head(0, 1).entry_u32("general.alignment", 0), "general.alignment is 0"},
        {"G10_alignment_small", Bytes().head(0, 1).entry_u32("general.alignment", 4), "general.alignment is 4"},
        {"G10_alignment_large", Bytes().head(0, 1).entry_u32("general.alignment", 131072), "general.alignment is 131072"},
        {"G11_name_too_long", one_tensor(std::string(64, 'n'), {1}, 0), "tensor name length is 64, at most 63"},
        {"G11_name_empty", one_tensor("", {1, 1}, 0), "a tensor name is empty"},
        {"G11_name_control", one_tensor("a\tb", {1}, 0), "control character 9"},
        {"G11_name_twice", two_tensors(64, "a"), "tensor \"a\" is there twice"},
        {"G12_rank_0", one_tensor("t", {}, 0, 0), "tensor \"t\": rank 0, expected 1 to 4"},
        {"G12_rank_5", one_tensor("t", {1, 1, 1, 1, 1}, 0), "rank 5, expected 1 to 4"},
        {"G12_rank_huge", Bytes().head(1, 0).string("t").u32(0xffffffff).raw(std::string(64, '\0')), "rank 4294967295, expected 1 to 4"},
        {"G13_zero", one_tensor("t", {4, 0}, 0), "a dimension is 0, expected at least 1"},
        {"G13_negative", one_tensor("t", {4, huge}, 0), "a dimension is -1"},
        {"G14_elements", one_tensor("t", {1ull << 32, 1ull << 31}, 0), "more than 2^63 elements"},
        {"G14_partial_product", one_tensor("t", {1ull << 32, 1ull << 32, 1ull << 32, 2}, 0), "more than 2^63 elements"},
        {"G15_removed_4", one_tensor("t", {32}, 4), "tensor type 4 was removed from GGUF"},
        {"G15_removed_31", one_tensor("t", {32}, 31), "type 31 was removed"},
        {"G15_removed_38", one_tensor("t", {32}, 38), "type 38 was removed"},
        {"G15_unknown", one_tensor("t", {32}, 43), "tensor type 43 is not known"},
        {"G15_unknown_huge", one_tensor("t", {32}, 0xffffffff), "tensor type 4294967295 is not known"},
        {"G16_rows_and_blocks", one_tensor("t", {33, 2}, 2), "rows of 33 elements do not fill Q4_0 blocks of 32"},
        {"G16_super_block", one_tensor("t", {128, 2}, 12), "rows of 128 elements do not fill Q4_K blocks of 256"},
        {"G17_bytes", one_tensor("t", {(1ull << 62)}, 28), "needs more than 2^64 bytes"},
        {"G18_padding", one_tensor("t", {(1ull << 61) - 1}, 28), "needs more than 2^64 bytes"},
        {"G19_overlap", two_tensors(32), "tensor \"b\": offset 32, expected 64"},
        {"G19_hole", two_tensors(96), "offset 96, expected 64"},
        {"G19_unaligned", two_tensors(36), "offset 36, expected 64"},
        {"G19_first_not_zero", one_tensor("t", {1}, 0, 32), "offset 32, expected 0"},
        {"G20_beyond_file", one_tensor("t", {1025}, 0), "its 4100 bytes at offset 0 of the data end beyond the file"},
        {"G20_no_data", Bytes().head(1, 0).tensor("t", {1}, 0, 0), "beyond the file"},
    };
}

class GgufViolation : public ::testing::TestWithParam<Violation> {};
TEST_P(GgufViolation, IsRefusedWithItsMessage) {
    EXPECT_NE(error_of(GetParam().file).find(GetParam().message), std::string::npos) << error_of(GetParam().file);
}
void PrintTo(const Violation& violation, std::ostream* out) { *out << violation.name; }
std::string violation_name(const ::testing::TestParamInfo<Violation>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Rules, GgufViolation, ::testing::ValuesIn(violations()), violation_name);

TEST(GgufParse, ReadsEveryTypeOfValue) {
    const Bytes file = small_file();
    auto part = parse_gguf(file.bytes());
    ASSERT_TRUE(part.ok()) << part.error().to_string();
    const GgufMetadata& metadata = part->metadata;
    EXPECT_EQ(metadata.entries().size(), 15u);
    EXPECT_EQ(metadata.text("general.architecture").value(), "llama");
    EXPECT_EQ(metadata.integer("v.u8").value(), 200);
    EXPECT_EQ(metadata.integer("v.i8").value(), -3);
    EXPECT_EQ(metadata.integer("v.u16").value(), 60000);
    EXPECT_EQ(metadata.integer("v.i16").value(), -300);
    EXPECT_EQ(metadata.integer("v.u32").value(), 4000000000);
    EXPECT_EQ(metadata.integer("v.i32").value(), -70000);
    EXPECT_EQ(metadata.number("v.f32").value(), 1.5);
    EXPECT_EQ(metadata.number("v.i64").value(), -5.0);
    EXPECT_TRUE(metadata.boolean("v.bool").value());
    EXPECT_EQ(std::get<std::uint64_t>(*metadata.find("v.u64")), 1ull << 63);
    EXPECT_EQ(metadata.number("v.f64").value(), 0.1);
    const GgufStrings& strings = **metadata.strings("a.str");
    ASSERT_EQ(strings.size(), 3u);
    EXPECT_EQ(strings[0], "");
    EXPECT_EQ(strings[1], "two");
    EXPECT_EQ(strings[2], "three");
    EXPECT_EQ(std::get<GgufBools>(std::get<GgufArray>(*metadata.find("a.bool"))).values, (std::vector<std::uint8_t>{0, 1}));
    EXPECT_EQ(metadata.integers("a.i32").value(), (std::vector<std::int64_t>{7, -8}));
    EXPECT_EQ(metadata.integers("v.i8").value(), (std::vector<std::int64_t>{-3}));
    ASSERT_EQ(part->tensors.size(), 3u);
    EXPECT_EQ(part->tensors[0].shape, (Shape{2, 3}));
    EXPECT_EQ(part->tensors[1].shape, (Shape{2, 64}));
    EXPECT_EQ(part->tensors[1].type->name, "Q4_0");
    EXPECT_EQ(part->tensors[1].data.size(), 72u);
    EXPECT_EQ(part->tensors[2].data.data() - part->tensors[0].data.data(), 128);
}

TEST(GgufParse, TypedGettersSayWhatIsThere) {
    const Bytes file = small_file();
    auto part = parse_gguf(file.bytes());
    const GgufMetadata& metadata = part->metadata;
    EXPECT_EQ(metadata.integer("none").error().code, ErrorCode::not_found);
    EXPECT_EQ(metadata.integer("v.f32").error().to_string(), corrupt("GGUF metadata \"v.f32\": expected an integer below 2^63, found f32").to_string());
    EXPECT_FALSE(metadata.integer("v.u64").ok());
    EXPECT_FALSE(metadata.integer("v.bool").ok());
    EXPECT_FALSE(metadata.boolean("v.u8").ok());
    EXPECT_FALSE(metadata.number("a.i32").ok());
    EXPECT_FALSE(metadata.text("a.str").ok());
    EXPECT_NE(metadata.strings("a.i32").error().to_string().find("expected an array of strings, found array of 2 i32"), std::string::npos);
    EXPECT_FALSE(metadata.integers("a.str").ok());
    EXPECT_FALSE(metadata.integers("a.bool").ok());
    EXPECT_FALSE(metadata.floats("a.i32").ok());
    EXPECT_FALSE(metadata.bytes("a.i32").ok());
    EXPECT_EQ(metadata.integer_or("none", 4).value(), 4);
    EXPECT_FALSE(metadata.integer_or("a.str", 4).ok());
    EXPECT_EQ(metadata.text_or("none", "x").value(), "x");
    EXPECT_TRUE(metadata.boolean_or("none", true).value());
    EXPECT_EQ(metadata.number_or("none", 0.5).value(), 0.5);
}

TEST(GgufParse, Version2ReadsTheSame) {
    std::string text = small_file().text();
    text[4] = 2;
    auto part = parse_gguf(std::as_bytes(std::span(text.data(), text.size())));
    ASSERT_TRUE(part.ok());
    EXPECT_EQ(part->version, 2u);
    EXPECT_EQ(part->tensors.size(), 3u);
}

TEST(GgufParse, LargerAlignmentMovesTheData) {
    Bytes file;
    file.head(2, 1).entry_u32("general.alignment", 256).tensor("a", {1}, 0, 0).tensor("b", {1}, 0, 256).pad_to(256).put(2.5f).pad_to(256).put(3.5f);
    auto part = parse_gguf(file.bytes());
    ASSERT_TRUE(part.ok()) << part.error().to_string();
    float value = 0;
    std::memcpy(&value, part->tensors[1].data.data(), 4);
    EXPECT_EQ(value, 3.5f);
}

TEST(GgufParse, TruncationAtEachByteIsAnError) {
    const Bytes file = small_file();
    auto whole = parse_gguf(file.bytes());
    ASSERT_TRUE(whole.ok());
    const auto end_of_data = static_cast<std::size_t>(whole->tensors.back().data.data() + whole->tensors.back().data.size() - file.bytes().data());
    for (std::size_t n = 0; n < end_of_data; ++n) {
        const std::vector<std::byte> cut(file.bytes().begin(), file.bytes().begin() + static_cast<std::ptrdiff_t>(n));  // its own end, for the sanitizer
        auto part = parse_gguf(cut);
        ASSERT_FALSE(part.ok()) << "cut to " << n << " bytes";
        EXPECT_EQ(part.error().code, ErrorCode::corrupt);
    }
    EXPECT_TRUE(parse_gguf(file.bytes().first(end_of_data)).ok()) << "the padding behind the last tensor may be missing";
}

void decode_first_rows(const GgufPart& part) {
    for (const GgufTensor& tensor : part.tensors) {
        if (!tensor.type->block) continue;
        const BlockFormat& format = block_format(*tensor.type->block);
        std::vector<float> row(static_cast<std::size_t>(tensor.shape.back()));
        format.decode(tensor.data.data(), tensor.shape.back(), row.data());
    }
}

TEST(GgufParse, FlippedBitsGiveAnErrorOrAFileThatCanBeRead) {
    const Bytes file = small_file();
    Rng rng(11);
    int n_errors = 0;
    for (int i = 0; i < 10000; ++i) {
        std::vector<std::byte> bytes(file.bytes().begin(), file.bytes().end());
        for (std::uint64_t flips = 1 + rng.below(3); flips > 0; --flips) bytes[rng.below(bytes.size())] ^= static_cast<std::byte>(1u << rng.below(8));
        auto part = parse_gguf(bytes);
        n_errors += !part.ok();
        if (!part.ok()) continue;
        decode_first_rows(*part);
        (void)read_gguf_vocab(part->metadata);
    }
    EXPECT_GT(n_errors, 3000);
}

// Resident memory that parsing needs stays in proportion to the file, even for one made of the smallest records.
TEST(GgufParse, MemoryIsBoundedByTheFile) {
    Bytes file;
    const std::uint64_t n_strings = 2'000'000;
    file.head(0, 1).string("tokens").u32(9).u32(8).u64(n_strings);
    for (std::uint64_t i = 0; i < n_strings; ++i) file.u64(0);
    auto peak_kb = [] {
        struct rusage usage {};
        getrusage(RUSAGE_SELF, &usage);
        return usage.ru_maxrss;
    };
    const long before = peak_kb();
    auto part = parse_gguf(file.bytes());
    ASSERT_TRUE(part.ok());
    EXPECT_LT((peak_kb() - before) * 1024.0, 4.0 * static_cast<double>(file.bytes().size()) + (64 << 20));
}

TEST(GgufTypes, TableAgreesWithTheBlockFormats) {
    for (const BlockFormat& format : block_format_table()) {
        const GgufType& type = gguf_type_of(format.type);
        EXPECT_EQ(type.id, format.gguf_id);
        EXPECT_EQ(type.name, format.name);
        EXPECT_EQ(type.block_size, format.block_size);
        EXPECT_EQ(type.block_bytes, format.block_bytes);
        EXPECT_EQ(gguf_type_by_name(format.name), &type);
    }
    for (const GgufType& type : gguf_type_table()) {
        EXPECT_EQ(gguf_type(type.id).value(), &type);
        if (type.dtype) {
            EXPECT_EQ(type.block_size, 1);
            EXPECT_EQ(type.block_bytes * 8, dtype_info(*type.dtype).bits);
        }
    }
    EXPECT_EQ(gguf_type_of(DType::bf16).value()->id, 30u);
    EXPECT_FALSE(gguf_type_of(DType::f8_e4m3).ok());
}

}  // namespace
}  // namespace skiff
