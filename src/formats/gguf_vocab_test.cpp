#include "formats/gguf_vocab.h"

#include <gtest/gtest.h>

#include "formats/gguf.h"

namespace skiff {
namespace {

GgufVocab small_vocab() {
    GgufVocab vocab;
    vocab.kind = "llama";
    vocab.pre = "default";
    vocab.tokens = {"<unk>", "<s>", "<0x0A>", "a", "b", "ab", " c"};
    vocab.scores = {0, 0, 0, -1, -2, -3, -4};
    vocab.token_types = {2, 3, 6, 1, 1, 1, 1};
    vocab.merges = {"a b", " c a"};
    vocab.bos_id = 1;
    vocab.eos_id = 1;
    vocab.sep_id = 6;
    vocab.add_bos = true;
    vocab.add_space_prefix = false;
    vocab.precompiled_charsmap = std::string("\x00\xff\x80", 3);
    vocab.chat_template = "{{ x }}";
    return vocab;
}

std::string error_of(const GgufVocab& vocab) {
    GgufMetadata metadata;
    auto status = write_gguf_vocab(vocab, metadata);
    EXPECT_TRUE(metadata.entries().empty() || status.ok());
    return status.ok() ? "no error" : status.error().to_string();
}

TEST(GgufVocab, BothWays) {
    GgufMetadata metadata;
    ASSERT_TRUE(write_gguf_vocab(small_vocab(), metadata).ok());
    EXPECT_EQ(std::get<std::uint32_t>(*metadata.find("tokenizer.ggml.bos_token_id")), 1u);
    EXPECT_EQ(metadata.integer("tokenizer.ggml.seperator_token_id").value(), 6);
    EXPECT_FALSE(metadata.contains("tokenizer.ggml.padding_token_id"));
    EXPECT_FALSE(metadata.contains("tokenizer.ggml.add_eos_token"));
    auto vocab = read_gguf_vocab(metadata);
    ASSERT_TRUE(vocab.ok()) << vocab.error().to_string();
    EXPECT_EQ(*vocab, small_vocab());
}

TEST(GgufVocab, ReadsTheGgufPackagesFile) {
    auto file = GgufFile::open(std::string(SKIFF_TEST_DATA_DIR) + "/gguf/python_small.gguf");
    ASSERT_TRUE(file.ok());
    auto vocab = read_gguf_vocab(file->metadata());
    ASSERT_TRUE(vocab.ok()) << vocab.error().to_string();
    EXPECT_EQ(vocab->kind, "llama");
    EXPECT_EQ(vocab->tokens.size(), 263u);
    EXPECT_EQ(vocab->tokens[262], "轻舟");
    EXPECT_EQ(vocab->scores[262], -262.0f);
    EXPECT_EQ(vocab->token_types[100], 6);
    EXPECT_EQ(vocab->merges, (std::vector<std::string>{"▁a b"}));
    EXPECT_EQ(vocab->bos_id, 1);
    EXPECT_EQ(vocab->unk_id, 0);
    EXPECT_FALSE(vocab->pad_id);
    EXPECT_EQ(vocab->add_bos, true);
    EXPECT_EQ(vocab->add_eos, false);
    EXPECT_EQ(vocab->precompiled_charsmap, std::string("\x00\x01\xfe\xff", 4));
    EXPECT_EQ(vocab->chat_template, "{{ messages }}");
}

TEST(GgufVocab, NoTokenizerIsNotFound) { EXPECT_EQ(read_gguf_vocab({}).error().code, ErrorCode::not_found); }

TEST(GgufVocab, IdsThatMeanNone) {
    GgufMetadata metadata;
    ASSERT_TRUE(write_gguf_vocab(small_vocab(), metadata).ok());
    metadata.set("tokenizer.ggml.bos_token_id", std::uint32_t{0xffffffff});
    metadata.set("tokenizer.ggml.eos_token_id", std::int32_t{-1});
    auto vocab = read_gguf_vocab(metadata);
    ASSERT_TRUE(vocab.ok());
    EXPECT_FALSE(vocab->bos_id);
    EXPECT_FALSE(vocab->eos_id);
    metadata.set("tokenizer.ggml.eos_token_id", std::uint32_t{7});
    EXPECT_NE(read_gguf_vocab(metadata).error().to_string().find("eos_token_id is 7, there are 7 tokens"), std::string::npos);
}

TEST(GgufVocab, PartsMustFitTogether) {
    GgufVocab vocab = small_vocab();
    vocab.scores.pop_back();
    EXPECT_NE(error_of(vocab).find("6 scores for 7 tokens"), std::string::npos);
    vocab = small_vocab();
    vocab.token_types.push_back(1);
    EXPECT_NE(error_of(vocab).find("8 token types for 7 tokens"), std::string::npos);
    vocab = small_vocab();
    vocab.token_types[0] = 7;
    EXPECT_NE(error_of(vocab).find("token 0 has an unknown type"), std::string::npos);
    for (const char* spelling : {"<0x0a>", "<0x0>", "<0x0AA>", "0x0A", "<0x0G>", "<0X0A>"}) {
        vocab = small_vocab();
        vocab.tokens[2] = spelling;
        EXPECT_NE(error_of(vocab).find("token 2 is of the byte type but not spelled"), std::string::npos) << spelling;
    }
    for (const char* merge : {"ab", "a x", "x a", "a ", " b", "", "a b b"}) {
        vocab = small_vocab();
        vocab.merges = {"a b", merge};
        EXPECT_NE(error_of(vocab).find("merge 1 does not join two tokens"), std::string::npos) << merge;
    }
    vocab = small_vocab();
    vocab.pad_id = 7;
    EXPECT_NE(error_of(vocab).find("padding_token_id is 7"), std::string::npos);
    vocab = small_vocab();
    vocab.chat_template.assign(max_chat_template_bytes + 1, 'x');
    EXPECT_NE(error_of(vocab).find("at most 262144"), std::string::npos);
}

}  // namespace
}  // namespace skiff
