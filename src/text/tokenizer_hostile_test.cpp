// Files that lie and texts that hurt: errors instead of crashes, and time in proportion to the text.
#include <gtest/gtest.h>

#include <chrono>

#include "base/mapped_file.h"
#include "base/rng.h"
#include "text/base64.h"
#include "text/pre_tokenizer_table.h"
#include "text/tokenizer.h"
#include "text/tokenizer_state.h"

namespace skiff {
namespace {

std::string read(const std::string& name) {
    auto text = read_text_file(std::string(SKIFF_TEST_DATA_DIR) + "/tokenizers/" + name, 1 << 24);
    EXPECT_TRUE(text.ok()) << name;
    return text.ok() ? *text : "";
}

void expect_error(const std::string& json, const std::string& part_of_message) {
    auto tokenizer = load_tokenizer_json(json);
    ASSERT_FALSE(tokenizer.ok()) << json.substr(0, 200);
    EXPECT_NE(tokenizer.error().to_string().find(part_of_message), std::string::npos) << tokenizer.error().to_string();
}

const std::string bpe = R"("model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]})";

TEST(TokenizerJson, UnknownTypesAreNamed) {
    expect_error(R"({"model":{"type":"Neural","vocab":{}}})", "model type \"Neural\"");
    expect_error("{" + bpe + R"(,"normalizer":{"type":"Rot13"}})", "normalizer type \"Rot13\"");
    expect_error("{" + bpe + R"(,"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Magic"}]}})", "pre_tokenizer type \"Magic\"");
    expect_error("{" + bpe + R"(,"post_processor":{"type":"X"}})", "post_processor type \"X\"");
    expect_error("{" + bpe + R"(,"decoder":{"type":"Y"}})", "decoder type \"Y\"");
}

TEST(TokenizerJson, BrokenPartsAreErrors) {
    expect_error("[]", "expected an object");
    expect_error(R"({"model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}})", "not in the vocabulary");
    expect_error(R"({"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":["a b"]}})", "\"ab\" is not in the vocabulary");
    expect_error(R"({"model":{"type":"BPE","vocab":{"a":-1},"merges":[]}})", "id -1");
    expect_error(R"({"model":{"type":"BPE","vocab":{"a":8000000},"merges":[]}})", "after only 0 tokens");
    expect_error(R"({"model":{"type":"BPE","vocab":{"a":99999999999},"merges":[]}})", "ids go from 0");
    expect_error(R"({"model":{"type":"BPE","vocab":{"a":0,"b":0},"merges":[]}})", "belongs to");
    expect_error(R"({"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":["ab"]}})", "not two tokens");
    expect_error(R"({"model":{"type":"BPE","vocab":{")" + std::string(5000, 'x') + R"(":0},"merges":[]}})", "at most 4096");
    expect_error(R"({"model":{"type":"Unigram","vocab":[["a",0.5]],"unk_id":7}})", "unk_id 7");
    expect_error("{" + bpe + R"(,"pre_tokenizer":{"type":"Split","pattern":{"Regex":"(("},"behavior":"Isolated"}})", "regular expression");
    expect_error("{" + bpe + R"(,"pre_tokenizer":{"type":"Split","pattern":{"Regex":"[\\p{L}&&[^\\p{Han}]]"},"behavior":"Isolated"}})", "intersection");
    expect_error("{" + bpe + R"(,"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}}],"special_tokens":{"x":{"ids":[99]}}}})",
                 "id 99 is no token");
    expect_error("{" + bpe + R"(,"normalizer":{"type":"Precompiled","precompiled_charsmap":"AAAAAAA="}})", "precompiled_charsmap");
    expect_error("{" + bpe + R"(,"normalizer":{"type":"Prepend","prepend":")" + std::string(300, 'x') + "\"}}", "at most 256");
    std::string nested = R"({"type":"NFC"})";
    for (int i = 0; i < 20; ++i) nested = R"({"type":"Sequence","normalizers":[)" + nested + "]}";
    expect_error("{" + bpe + R"(,"normalizer":)" + nested + "}", "nested deeper");
}

TEST(TokenizerJson, ReplacementsThatMultiplyTheTextAreAnError) {
    const std::string step = R"({"type":"Replace","pattern":{"String":"a"},"content":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},)";
    auto tokenizer = load_tokenizer_json("{" + bpe + R"(,"normalizer":{"type":"Sequence","normalizers":[)" + step + step + step + step + step +
                                         R"({"type":"NFC"}]}})");
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().to_string();
    EXPECT_TRUE(tokenizer->encode("b").ok());
    auto ids = tokenizer->encode("aaaa");
    ASSERT_FALSE(ids.ok());
    EXPECT_EQ(ids.error().code, ErrorCode::resource);
}

TEST(TokenizerJson, ExponentialPatternIsAnErrorNotAHang) {
    auto tokenizer = load_tokenizer_json("{" + bpe + R"(,"pre_tokenizer":{"type":"Split","pattern":{"Regex":"(a|aa)+d"},"behavior":"Isolated"}})");
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().to_string();
    auto ids = tokenizer->encode(std::string(2000, 'a') + "bd");
    ASSERT_FALSE(ids.ok());
    EXPECT_EQ(ids.error().code, ErrorCode::resource);
}

// Every byte of a small file changed in turn, and every length cut: an answer each time, right or wrong.
template <class Load>
void expect_survives_damage(const std::string& original, Load load, std::size_t step) {
    Rng rng(3);
    for (std::size_t i = 0; i < original.size(); i += step) {
        std::string damaged = original;
        damaged[i] = static_cast<char>(rng.next());
        auto tokenizer = load(damaged);
        if (tokenizer.ok()) (void)tokenizer->encode("The quick brown fox, it's 12 \xF0\x9F\x9A\x80");
        auto cut = load(original.substr(0, i));
        if (cut.ok()) (void)cut->encode("abc");
    }
}

TEST(HostileFiles, DamagedTokenizersNeverCrash) {
    expect_survives_damage(read("spm_bpe_bytes.model"), [](const std::string& text) { return load_sentencepiece(text); }, 37);
    expect_survives_damage(read("spm_unigram.model"), [](const std::string& text) { return load_sentencepiece(text); }, 4999);
    expect_survives_damage(read("metaspace_bpe.tokenizer.json"), [](const std::string& text) { return load_tokenizer_json(text); }, 151);
    expect_survives_damage("IQ== 0\nIg== 1\nIyI= 2\n", [](const std::string& text) { return load_tiktoken(text); }, 1);
}

TEST(HostileFiles, VocabDataIsChecked) {
    VocabData data;
    data.kind = "llama";
    EXPECT_FALSE(load_vocab_data(data).ok());
    data.tokens = {"<unk>", "a"};
    EXPECT_TRUE(load_vocab_data(data).ok());
    data.scores = {0.0f};
    EXPECT_FALSE(load_vocab_data(data).ok());
    data.scores.clear();
    data.token_types = {1, 1, 1};
    EXPECT_FALSE(load_vocab_data(data).ok());
    data.token_types.clear();
    data.bos_id = 2;
    EXPECT_FALSE(load_vocab_data(data).ok());
    data.bos_id = 0xFFFFFFFF;
    EXPECT_TRUE(load_vocab_data(data).ok());
    data.kind = "gpt2";
    data.pre = "no-such-pre";
    auto unknown = load_vocab_data(data);
    ASSERT_FALSE(unknown.ok());
    EXPECT_NE(unknown.error().message.find("no-such-pre"), std::string::npos);
    data.kind = "rwkv";
    EXPECT_FALSE(load_vocab_data(data).ok());
}

TEST(PreTokenizerTable, EveryRowCompilesAndFindsItself) {
    auto model = load_tokenizer_json(read("gpt2.tokenizer.json"));
    ASSERT_TRUE(model.ok());
    for (const char* name : {"gpt-2", "llama-bpe", "qwen2", "qwen35", "deepseek-llm", "deepseek-coder", "deepseek-v3", "falcon", "default", "starcoder",
                             "bloom", "viking", "tekken", "gpt-4o"}) {
        auto named = named_pre_tokenizer(name);
        ASSERT_TRUE(named.ok()) << named.error().to_string();
        auto found = name_of_pre_tokenizer(named->chain, *model->state().model);
        ASSERT_TRUE(found.ok());
        EXPECT_EQ(*found, name);
    }
    for (const char* alias : {"llama3", "mpt", "refact", "command-r", "phi-2", "stablelm2"}) EXPECT_TRUE(named_pre_tokenizer(alias).ok()) << alias;
}

TEST(Base64, KnownValues) {
    EXPECT_EQ(*decode_base64("SGVsbG8="), "Hello");
    EXPECT_EQ(*decode_base64("IQ=="), "!");
    EXPECT_FALSE(decode_base64("I").ok());
    EXPECT_FALSE(decode_base64("I!==").ok());
    for (std::size_t n = 0; n < 20; ++n) {
        const std::string bytes(n, '\xA7');
        EXPECT_EQ(*decode_base64(encode_base64(bytes)), bytes);
    }
}

std::string repeated(std::string_view unit, std::size_t n_bytes) {
    std::string text;
    while (text.size() + unit.size() <= n_bytes) text += unit;
    return text;
}

double seconds_to_encode(const Tokenizer& tokenizer, const std::string& text) {
    const auto start = std::chrono::steady_clock::now();
    auto ids = tokenizer.encode(text);
    EXPECT_TRUE(ids.ok()) << (ids.ok() ? "" : ids.error().to_string());
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

const std::string four_hundred_spaces_and_a_letter = std::string(400, ' ') + "\u0E01";
const std::string_view units[] = {"a", " ", "\n", "\u0301", "\u0301\u0316", "\U0001F600", "\U0001F469\u200D", "7", "!", "A", "'", "\u4E2D", "a ", "\r\n",
                                  four_hundred_spaces_and_a_letter};

class LinearTime : public ::testing::TestWithParam<const char*> {};

// Sixteen times the text may take at most four times sixteen times as long (a square would take 256 times); the floor is for timer noise.
TEST_P(LinearTime, SlopeOverRepeatedCharacters) {
    const std::string name = GetParam();
    auto tokenizer = name.ends_with(".model") ? load_sentencepiece(read(name)) : load_tokenizer_json(read(name));
    ASSERT_TRUE(tokenizer.ok());
    for (std::string_view unit : units) {
        const double small = seconds_to_encode(*tokenizer, repeated(unit, 1 << 15));
        const double large = seconds_to_encode(*tokenizer, repeated(unit, 1 << 19));
        EXPECT_LT(large, 64 * std::max(small, 0.01)) << "unit \"" << unit << "\"";
    }
}

INSTANTIATE_TEST_SUITE_P(Kinds, LinearTime,
                         ::testing::Values("gpt2.tokenizer.json", "llama3.tokenizer.json", "qwen2.tokenizer.json", "deepseek_coder.tokenizer.json",
                                         "falcon.tokenizer.json", "metaspace_bpe.tokenizer.json", "unigram.tokenizer.json",
                                         "wordpiece_uncased.tokenizer.json", "word_bpe.tokenizer.json", "added_tokens.tokenizer.json",
                                         "spm_unigram.model", "spm_bpe_bytes.model"),
                         [](const auto& row) {
                             const std::string name = row.param;
                             return name.substr(0, name.find('.'));
                         });

TEST(LinearTime, NamedPreTokenizersOverRepeatedCharacters) {
    for (const char* name : {"deepseek-llm", "deepseek-v3", "default", "bloom", "tekken", "gpt-4o"}) {
        auto named = named_pre_tokenizer(name);
        ASSERT_TRUE(named.ok());
        auto seconds = [&](const std::string& text) {
            const auto start = std::chrono::steady_clock::now();
            Status status = pre_tokenize(named->chain, {text, true}, [](Piece) -> Status { return {}; });
            EXPECT_TRUE(status.ok()) << status.error().to_string();
            return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        };
        for (std::string_view unit : units) {
            const double small = seconds(repeated(unit, 1 << 15)), large = seconds(repeated(unit, 1 << 19));
            EXPECT_LT(large, 64 * std::max(small, 0.01)) << name << " unit \"" << unit << "\"";
        }
    }
}

TEST(LinearTime, EightMebibytesOfOneLetter) {
    for (const char* name : {"llama3.tokenizer.json", "metaspace_bpe.tokenizer.json"}) {
        auto tokenizer = load_tokenizer_json(read(name));
        ASSERT_TRUE(tokenizer.ok());
        EXPECT_LT(seconds_to_encode(*tokenizer, std::string(std::size_t{8} << 20, 'a')), 60.0) << name;
    }
}

}  // namespace
}  // namespace skiff
