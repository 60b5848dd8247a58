// Miniature tokenizers of every kind against the reference packages (tests/golden/tokenizers_golden.py).
#include <gtest/gtest.h>

#include <algorithm>

#include "base/json.h"
#include "base/mapped_file.h"
#include "text/tokenizer.h"
#include "text/tokenizer_state.h"

namespace skiff {
namespace {

const std::string folder = std::string(SKIFF_TEST_DATA_DIR) + "/tokenizers/";

std::string read(const std::string& name) {
    auto text = read_text_file(folder + name, 1 << 24);
    EXPECT_TRUE(text.ok()) << (text.ok() ? "" : text.error().to_string());
    return text.ok() ? *text : "";
}

Json read_json(const std::string& name) {
    auto json = Json::parse(read(name));
    EXPECT_TRUE(json.ok()) << name;
    return json.ok() ? *json : Json();
}

std::vector<std::int32_t> ids_of(const Json& json) {
    std::vector<std::int32_t> ids;
    for (const Json& id : json.items()) ids.push_back(static_cast<std::int32_t>(id.int_or(-1)));
    return ids;
}

std::string stream(const Tokenizer& tokenizer, const std::vector<std::int32_t>& ids, const DecodeOptions& options = {}) {
    StreamDecoder decoder(tokenizer, options);
    std::string text;
    for (std::int32_t id : ids) {
        const std::string part = decoder.push(id);
        EXPECT_TRUE(is_valid_utf8(part));
        text += part;
    }
    return text + decoder.finish();
}

class HuggingFaceGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(HuggingFaceGolden, EncodesAndDecodesLikeThePackage) {
    const std::string name = GetParam();
    auto tokenizer = load_tokenizer_json(read(name + ".tokenizer.json"));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().to_string();
    const Json texts = read_json("texts.json"), vectors = read_json(name + ".vectors.json");
    ASSERT_GT(texts.size(), 60u);
    ASSERT_EQ(texts.size(), vectors.size());
    for (std::size_t i = 0; i < texts.size(); ++i) {
        SCOPED_TRACE("text " + std::to_string(i) + ": " + texts.items()[i].text());
        const auto& row = vectors.items()[i].items();
        auto ids = tokenizer->encode(texts.items()[i].text());
        auto bare = tokenizer->encode(texts.items()[i].text(), {.add_special = false});
        ASSERT_TRUE(ids.ok() && bare.ok());
        EXPECT_EQ(*ids, ids_of(row[0]));
        EXPECT_EQ(*bare, ids_of(row[2]));
        EXPECT_EQ(tokenizer->decode(*ids), row[1].text());
        EXPECT_EQ(stream(*tokenizer, *ids), row[1].text());
    }
}

INSTANTIATE_TEST_SUITE_P(Kinds, HuggingFaceGolden,
                         ::testing::Values("gpt2", "llama3", "qwen2", "deepseek_coder", "falcon", "starcoder", "prefix_space", "metaspace_bpe", "unigram",
                                         "unigram_first", "unigram_never", "wordpiece_uncased", "wordpiece_cased", "word_bpe", "prefix_bpe",
                                         "added_tokens", "split_removed", "split_previous", "split_next", "split_contiguous", "split_invert"),
                         [](const auto& row) { return std::string(row.param); });

class SentencePieceGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(SentencePieceGolden, EncodesAndDecodesLikeThePackage) {
    const std::string name = GetParam();
    auto tokenizer = load_sentencepiece(read(name + ".model"));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().to_string();
    const Json texts = read_json("texts.json"), vectors = read_json(name + ".vectors.json");
    ASSERT_EQ(texts.size(), vectors.size());
    for (std::size_t i = 0; i < texts.size(); ++i) {
        SCOPED_TRACE("text " + std::to_string(i) + ": " + texts.items()[i].text());
        const auto& row = vectors.items()[i].items();
        auto ids = tokenizer->encode(texts.items()[i].text(), {.add_special = false, .parse_special = false});
        ASSERT_TRUE(ids.ok());
        EXPECT_EQ(*ids, ids_of(row[0]));
        if (!row[1].is_string()) continue;  // unknown tokens decode to a sign of that program's own
        EXPECT_EQ(tokenizer->decode(*ids, {.skip_special = false}), row[1].text());
        EXPECT_EQ(stream(*tokenizer, *ids, {.skip_special = false}), row[1].text());
    }
}

INSTANTIATE_TEST_SUITE_P(Kinds, SentencePieceGolden,
                         ::testing::Values("spm_unigram", "spm_unigram_bytes", "spm_bpe", "spm_bpe_bytes", "spm_bpe_no_prefix", "spm_char"),
                         [](const auto& row) { return std::string(row.param); });

// Written as GGUF metadata and read back, a tokenizer gives the same ids. Texts with white space or letters that GGUF's rules treat
// otherwise (no normalizer but what the kind has) are left out by the callers' choice of tokenizers.
void expect_same_through_gguf(const Tokenizer& tokenizer, const std::string& kind, const std::string& pre, bool compare_all) {
    auto data = tokenizer.to_vocab_data();
    ASSERT_TRUE(data.ok()) << data.error().to_string();
    EXPECT_EQ(data->kind, kind);
    EXPECT_EQ(data->pre, pre);
    auto again = load_vocab_data(*data);
    ASSERT_TRUE(again.ok()) << again.error().to_string();
    EXPECT_EQ(again->n_vocab(), tokenizer.n_vocab());
    int n_different = 0;
    const Json texts = read_json("texts.json");
    for (const Json& text : texts.items()) {
        auto expected = tokenizer.encode(text.text()), found = again->encode(text.text());
        ASSERT_TRUE(expected.ok() && found.ok());
        if (compare_all) {
            EXPECT_EQ(*found, *expected) << text.text();
        }
        n_different += *found != *expected;
    }
    EXPECT_LE(n_different, compare_all ? 0 : static_cast<int>(texts.size()) / 10);
}

TEST(GgufRoundTrip, ByteLevelVocabulariesFindTheNameOfTheirPreTokenizer) {
    for (auto [file, pre] : {std::pair{"gpt2", "gpt-2"}, {"llama3", "llama-bpe"}, {"deepseek_coder", "deepseek-coder"}, {"falcon", "falcon"}, {"starcoder", "starcoder"}}) {
        SCOPED_TRACE(file);
        auto tokenizer = load_tokenizer_json(read(std::string(file) + ".tokenizer.json"));
        ASSERT_TRUE(tokenizer.ok());
        expect_same_through_gguf(*tokenizer, "gpt2", pre, true);
    }
}

TEST(GgufRoundTrip, SentencePieceKinds) {
    auto bpe = load_tokenizer_json(read("metaspace_bpe.tokenizer.json"));
    ASSERT_TRUE(bpe.ok());
    expect_same_through_gguf(*bpe, "llama", "default", false);  // ties between merges of one token are not ordered in scores
    auto unigram = load_sentencepiece(read("spm_unigram.model"));
    ASSERT_TRUE(unigram.ok());
    expect_same_through_gguf(*unigram, "t5", "default", true);
}

TEST(GgufRoundTrip, WordPiece) {
    auto tokenizer = load_tokenizer_json(read("wordpiece_uncased.tokenizer.json"));
    ASSERT_TRUE(tokenizer.ok());
    expect_same_through_gguf(*tokenizer, "bert", "default", false);  // a U+2581 in the text is a word start there
}

TEST(GgufRoundTrip, WhatGgufCannotSayIsAnError) {
    for (const char* name : {"prefix_space", "word_bpe", "split_removed"}) {
        auto tokenizer = load_tokenizer_json(read(std::string(name) + ".tokenizer.json"));
        ASSERT_TRUE(tokenizer.ok());
        auto data = tokenizer->to_vocab_data();
        ASSERT_FALSE(data.ok()) << name;
        EXPECT_EQ(data.error().code, ErrorCode::unsupported);
    }
}

TEST(Tokenizer, SpecialTokensInTextAreFoundOnlyOnRequest) {
    auto tokenizer = load_tokenizer_json(read("llama3.tokenizer.json"));
    ASSERT_TRUE(tokenizer.ok());
    const auto id = tokenizer->find_token("<|end|>");
    ASSERT_TRUE(id.has_value());
    EXPECT_TRUE(tokenizer->is_special(*id));
    auto found = tokenizer->encode("a<|end|>", {.add_special = false, .parse_special = true});
    auto plain = tokenizer->encode("a<|end|>", {.add_special = false, .parse_special = false});
    ASSERT_TRUE(found.ok() && plain.ok());
    EXPECT_EQ(found->back(), *id);
    EXPECT_EQ(std::count(plain->begin(), plain->end(), *id), 0);
    EXPECT_EQ(tokenizer->decode(*plain), "a<|end|>");
    EXPECT_EQ(tokenizer->decode(*found), "a");
}

TEST(StreamDecoder, HoldsBackPartsOfCharacters) {
    auto tokenizer = load_tokenizer_json(read("gpt2.tokenizer.json"));
    ASSERT_TRUE(tokenizer.ok());
    auto ids = tokenizer->encode("\xF0\x9F\x9A\x80!");
    ASSERT_TRUE(ids.ok());
    ASSERT_EQ(ids->size(), 5u);  // a token for each byte
    StreamDecoder decoder(*tokenizer);
    EXPECT_EQ(decoder.push((*ids)[0]), "");
    EXPECT_EQ(decoder.push((*ids)[1]), "");
    EXPECT_EQ(decoder.push((*ids)[2]), "");
    EXPECT_EQ(decoder.push((*ids)[3]), "\xF0\x9F\x9A\x80");
    EXPECT_EQ(decoder.push((*ids)[4]), "!");
    EXPECT_EQ(decoder.push((*ids)[0]), "");
    EXPECT_EQ(decoder.finish(), "\xEF\xBF\xBD");
}

TEST(Tokenizer, InvalidUtf8CountsAsReplacementCharacters) {
    auto tokenizer = load_tokenizer_json(read("gpt2.tokenizer.json"));
    ASSERT_TRUE(tokenizer.ok());
    auto ids = tokenizer->encode("a\xFF\xC3z");
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ(tokenizer->decode(*ids), "a\xEF\xBF\xBD\xEF\xBF\xBDz");
}

}  // namespace
}  // namespace skiff
