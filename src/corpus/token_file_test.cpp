// Token files: what is read back, and files that lie.
#include "corpus/token_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "corpus/corpus_testing.h"
#include "corpus/token_file_header.h"

namespace skiff {
namespace {

std::string bytes_of(const TokenFileHeader& header, std::span<const std::byte> tokens) {
    return std::string(reinterpret_cast<const char*>(&header), sizeof header) + std::string(reinterpret_cast<const char*>(tokens.data()), tokens.size());
}

class TokenFiles : public ::testing::Test {
protected:
    Result<TokenFile> open(const std::string& bytes) { return TokenFile::open(folder_.write("tokens.bin", bytes)); }
    // Opening these bytes must fail and say `words` and the file's name.
    void expect_error(const std::string& bytes, const std::string& words, ErrorCode code = ErrorCode::corrupt) {
        const auto file = open(bytes);
        ASSERT_FALSE(file.ok()) << words;
        EXPECT_EQ(file.error().code, code);
        EXPECT_NE(file.error().to_string().find(words), std::string::npos) << file.error().to_string();
        EXPECT_NE(file.error().to_string().find("tokens.bin"), std::string::npos) << file.error().to_string();
    }
    static TokenFileHeader header(std::int64_t n_vocab, std::uint64_t n_tokens) {
        TokenFileHeader result(n_vocab, 77);
        result.n_tokens = n_tokens;
        result.n_documents = 1;
        return result;
    }
    TestFolder folder_;
};

TEST_F(TokenFiles, ReadsBothWidths) {
    const std::vector<std::uint16_t> narrow = {0, 1, 0xFFFF, 7};
    const std::vector<std::int32_t> wide = {0, 1, 0xFFFF, 0x10000};
    auto file = open(bytes_of(header(0x10000, 4), std::as_bytes(std::span(narrow))));
    ASSERT_TRUE(file.ok()) << file.error().to_string();
    EXPECT_EQ(file->n_tokens(), 4u);
    EXPECT_EQ(file->n_documents(), 1u);
    EXPECT_EQ(file->n_vocab(), 0x10000);
    EXPECT_EQ(file->tokenizer_hash(), 77u);
    std::vector<std::int32_t> ids(4), part(2);
    file->read(0, ids);
    EXPECT_EQ(ids, (std::vector<std::int32_t>{0, 1, 0xFFFF, 7}));
    file->read(2, part);
    EXPECT_EQ(part, (std::vector<std::int32_t>{0xFFFF, 7}));
    file->read(4, {});
    EXPECT_TRUE(file->check_tokens().ok());

    auto other = open(bytes_of(header(0x10001, 4), std::as_bytes(std::span(wide))));
    ASSERT_TRUE(other.ok()) << other.error().to_string();
    other->read(0, ids);
    EXPECT_EQ(ids, wide);
    EXPECT_TRUE(other->check_tokens().ok());
}

TEST_F(TokenFiles, RefusesHeadersThatLie) {
    const std::vector<std::uint16_t> ids = {1, 2, 3};
    const auto tokens = std::as_bytes(std::span(ids));
    const std::string good = bytes_of(header(100, 3), tokens);
    ASSERT_TRUE(open(good).ok());
    for (std::size_t n : {0, 1, 8, 63}) expect_error(good.substr(0, n), "no token file");
    auto changed = [&](auto change) {
        TokenFileHeader h = header(100, 3);
        change(h);
        return bytes_of(h, tokens);
    };
    expect_error(changed([](auto& h) { h.magic[7] = 'k'; }), "does not begin with SKIFFTOK");
    expect_error(changed([](auto& h) { h.version = 2; }), "version 2", ErrorCode::unsupported);
    for (std::uint32_t width : {0u, 1u, 3u, 8u, ~0u}) expect_error(changed([&](auto& h) { h.bytes_per_token = width; }), "bytes per token; 2 or 4 expected");
    expect_error(changed([](auto& h) { h.bytes_per_token = 4; }), "tells of 3 tokens of 4 bytes, but 6 bytes follow");
    for (std::uint64_t n : {std::uint64_t{0}, std::uint64_t{2}, std::uint64_t{4}, std::uint64_t{1} << 63, (std::uint64_t{1} << 63) + 3, ~std::uint64_t{0}}) {
        expect_error(changed([&](auto& h) { h.n_tokens = n; }), "tells of " + std::to_string(n) + " tokens");
    }
    for (std::uint64_t n : {std::uint64_t{0}, std::uint64_t{0x10001}, ~std::uint64_t{0}}) expect_error(changed([&](auto& h) { h.n_vocab = n; }), "a vocabulary of");
    expect_error(changed([](auto& h) { h.n_documents = 4; }), "4 documents in 3 tokens");
    expect_error(changed([](auto& h) { h.reserved[1] = 1; }), "not zero");
    expect_error(good + "x", "7 bytes follow");
    expect_error(good.substr(0, good.size() - 2), "4 bytes follow");
}

TEST_F(TokenFiles, TheFirstIdAboveTheVocabularyIsNamed) {
    std::vector<std::uint16_t> ids(70000, 9);  // more than one part of the pass
    ids[65536 + 5] = 10;
    ids[69999] = 11;
    auto file = open(bytes_of(header(10, ids.size()), std::as_bytes(std::span(ids))));
    ASSERT_TRUE(file.ok());
    const Status status = file->check_tokens();
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, ErrorCode::corrupt);
    EXPECT_NE(status.error().message.find("token 65541 is 10, but the vocabulary has 10"), std::string::npos) << status.error().message;

    const std::vector<std::uint32_t> wide = {1, 0xFFFFFFFF};
    auto other = open(bytes_of(header(0x20000, 2), std::as_bytes(std::span(wide))));
    ASSERT_TRUE(other.ok());
    const Status negative = other->check_tokens();
    ASSERT_FALSE(negative.ok());
    EXPECT_NE(negative.error().message.find("token 1 is 4294967295"), std::string::npos) << negative.error().message;
}

TEST_F(TokenFiles, RefusesWhatIsNoFile) {
    EXPECT_EQ(TokenFile::open(folder_.path("absent")).error().code, ErrorCode::not_found);
    EXPECT_FALSE(TokenFile::open(folder_.path("")).ok());
}

TEST(TokenizerHash, IsOfTheTexts) {
    const Tokenizer gpt2 = test_tokenizer("gpt2"), llama3 = test_tokenizer("llama3");
    EXPECT_EQ(tokenizer_hash(gpt2), tokenizer_hash(test_tokenizer("gpt2")));
    EXPECT_NE(tokenizer_hash(gpt2), tokenizer_hash(llama3));
    // The same vocabulary from GGUF metadata.
    auto data = llama3.to_vocab_data();
    ASSERT_TRUE(data.ok()) << data.error().to_string();
    auto reloaded = load_vocab_data(*data);
    ASSERT_TRUE(reloaded.ok()) << reloaded.error().to_string();
    EXPECT_EQ(tokenizer_hash(llama3), tokenizer_hash(*reloaded));
}

}  // namespace
}  // namespace skiff
