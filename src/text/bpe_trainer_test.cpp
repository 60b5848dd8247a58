// Merges by hand, against Hugging Face's trainer (tests/golden/bpe_trainer.py), and what the written files give when they are read again.
#include "text/bpe_trainer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>

#include "base/json.h"
#include "base/mapped_file.h"
#include "text/text_cutter.h"
#include "text/tokenizer.h"
#include "text/tokenizer_writer.h"

namespace skiff {
namespace {

const std::string folder = std::string(SKIFF_TEST_DATA_DIR) + "/tokenizers/";

std::string scratch(const std::string& name) { return ::testing::TempDir() + "skiff_trainer_" + name; }

Json read_json(const std::string& path) {
    auto json = read_json_file(path);
    EXPECT_TRUE(json.ok()) << path;
    return json.ok() ? *json : Json();
}

WordCounts counted(std::string_view text, WordCountOptions options = {}) {
    auto words = count_words(text, options);
    EXPECT_TRUE(words.ok()) << (words.ok() ? "" : words.error().to_string());
    return words.ok() ? *words : WordCounts();
}

// "left right" in the byte-level spelling, where a space is "Ġ".
std::vector<std::string> merges_of(const TrainedBpe& trained) {
    std::vector<std::string> merges;
    for (const auto& [left, right] : trained.merges) merges.push_back(trained.tokens[left] + " " + trained.tokens[right]);
    return merges;
}
std::vector<std::string> learned(std::string_view text, std::int64_t n_merges, std::int64_t min_frequency = 2) {
    BpeTrainerOptions options;
    options.vocab_size = 257 + n_merges;
    options.min_frequency = min_frequency;
    auto trained = train_bpe(counted(text), options);
    EXPECT_TRUE(trained.ok()) << (trained.ok() ? "" : trained.error().to_string());
    return trained.ok() ? merges_of(*trained) : std::vector<std::string>();
}
using Lines = std::vector<std::string>;

TEST(WordCounts, WordsAreThePiecesOfThePreTokenizer) {
    const WordCounts words = counted("ab cd ab. ab 1234");
    ASSERT_EQ(words.words.size(), 7u);
    EXPECT_EQ(words.words[0].bytes, " ");
    EXPECT_EQ(words.words[1].bytes, " ab");
    EXPECT_EQ(words.words[1].count, 2u);
    EXPECT_EQ(words.words[2].bytes, " cd");
    EXPECT_EQ(words.words[3].bytes, ".");
    EXPECT_EQ(words.words[4].bytes, "123");
    EXPECT_EQ(words.words[5].bytes, "4");
    EXPECT_EQ(words.words[6].bytes, "ab");
}

TEST(BpeTrainer, MergesByHand) {
    // Words: " ab" 3, " abc" 2, "x" 1. Pairs: ab 5, Ġa 5, bc 2. Of the equal ones "ab" has the smaller first id.
    EXPECT_EQ(learned("x ab ab ab abc abc", 10), (Lines{"a b", "Ġ ab", "Ġab c"}));
    EXPECT_EQ(learned("x ab ab ab abc abc", 1), (Lines{"a b"}));
    EXPECT_EQ(learned("x ab ab ab abc abc", 10, 3), (Lines{"a b", "Ġ ab"}));
    // A run: "aaaa" has three pairs aa and becomes aa aa.
    EXPECT_EQ(learned("aaaa aaaa", 10, 1), (Lines{"a a", "aa aa", "Ġ aaaa"}));
}

TEST(BpeTrainer, SpecialTokensComeFirstThenBytes) {
    BpeTrainerOptions options;
    options.special_tokens = {"<a>", "<b>"};
    options.vocab_size = 260;
    auto trained = train_bpe(counted("it it it"), options);
    ASSERT_TRUE(trained.ok());
    EXPECT_EQ(trained->n_special, 2u);
    ASSERT_EQ(trained->tokens.size(), 260u);
    EXPECT_EQ(trained->tokens[1], "<b>");
    EXPECT_EQ(trained->tokens[2], "!");
    EXPECT_EQ(trained->tokens[257], "Ń");
    EXPECT_EQ(trained->tokens[258], "it");
    EXPECT_EQ(trained->tokens[259], "Ġit");
    EXPECT_EQ(trained->n_text_tokens, 3u);
}

TEST(BpeTrainer, SeparatorsAreBoundariesAndNoText) {
    const WordCounts words = counted("ab<|endoftext|>cd<|endoftext|><|endoftext|> ab");
    EXPECT_EQ(words.n_documents, 3u);
    EXPECT_EQ(words.n_text_bytes, 7u);
    ASSERT_EQ(words.words.size(), 3u);
    EXPECT_EQ(words.words[2].bytes, "cd");
    WordCountOptions options;
    options.separator = "";
    EXPECT_EQ(counted("ab<|endoftext|>", options).n_text_bytes, 15u);
    options.separator = "cd";
    EXPECT_EQ(counted("abcdcdab", options).words.size(), 1u);
}

TEST(BpeTrainer, InvalidUtf8CountsAsTheEncoderReadsIt) {
    const WordCounts words = counted("a\xFFz");
    ASSERT_EQ(words.words.size(), 2u);
    EXPECT_EQ(words.words[1].bytes, "\xEF\xBF\xBDz");
}

TEST(BpeTrainer, WhatCannotBeIsAnError) {
    const WordCounts words = counted("some text");
    auto code = [&](const BpeTrainerOptions& options) {
        auto trained = train_bpe(words, options);
        return trained.ok() ? ErrorCode::interrupted : trained.error().code;
    };
    EXPECT_EQ(code({.vocab_size = 256}), ErrorCode::usage);
    EXPECT_EQ(code({.vocab_size = std::int64_t{1} << 40}), ErrorCode::usage);
    EXPECT_EQ(code({.special_tokens = {"<a>", "<a>"}}), ErrorCode::usage);
    EXPECT_EQ(code({.special_tokens = {""}}), ErrorCode::usage);
    EXPECT_EQ(code({.special_tokens = {"x"}}), ErrorCode::usage);
    EXPECT_EQ(code({.special_tokens = {"\xFF"}}), ErrorCode::usage);
    auto empty = train_bpe(counted("<|endoftext|>"), {});
    ASSERT_FALSE(empty.ok());
    EXPECT_EQ(empty.error().code, ErrorCode::runtime);
    EXPECT_FALSE(count_words("x", {.pre = "bloom"}).ok());
    const std::string missing[] = {scratch("missing.txt")};
    auto unread = count_words_in_files(missing, {});
    ASSERT_FALSE(unread.ok());
    EXPECT_EQ(unread.error().code, ErrorCode::not_found);
}

TEST(BpeTrainer, JsonLinesGiveOneMember) {
    const std::string path = scratch("lines.jsonl");
    std::ofstream(path) << "{\"text\": \"ab\\ncd\", \"id\": 1}\n\n{\"id\": 2, \"text\": \"ab\"}\r\n";
    const std::string paths[] = {path};
    auto words = count_words_in_files(paths, {});
    ASSERT_TRUE(words.ok()) << words.error().to_string();
    EXPECT_EQ(words->n_documents, 2u);
    ASSERT_EQ(words->words.size(), 3u);
    EXPECT_EQ(words->words[1].bytes, "ab");
    EXPECT_EQ(words->words[1].count, 2u);
    auto other = count_words_in_files(paths, {.jsonl_field = "story"});
    ASSERT_FALSE(other.ok());
    EXPECT_EQ(other.error().code, ErrorCode::corrupt);
    EXPECT_NE(other.error().to_string().find("lines.jsonl:1: no member \"story\""), std::string::npos) << other.error().to_string();
    std::ofstream(path, std::ios::app) << "{\"text\": 7}\n";
    auto wrong = count_words_in_files(paths, {});
    ASSERT_FALSE(wrong.ok());
    EXPECT_NE(wrong.error().to_string().find("lines.jsonl:4"), std::string::npos) << wrong.error().to_string();
}

// Parts put together give the pieces of the whole, wherever the cuts fall.
TEST(TextCutter, PiecesAreThoseOfTheWholeText) {
    const Json vectors = read_json(folder + "bpe_trainer.vectors.json");
    const std::string text = vectors["texts"]["awkward"].text() + "\na \nb\xC2\xA0\nc d\xE3\x80\x80\n e'\n's\n\n f  g\r\nh  ";
    for (std::string_view pre : countable_pre_tokenizers()) {
        for (std::size_t part_bytes : {1u, 3u, 50u, 400u}) {
            WordCountOptions options;
            options.pre = pre;
            const WordCounts whole = counted(text, options);
            TextCutter cutter(text, options.separator, part_bytes);
            std::map<std::string, std::uint64_t> sum;
            std::string together;
            while (const auto part = cutter.next()) {
                ASSERT_FALSE(part->empty());
                together += *part;
                for (const CountedWord& word : counted(*part, options).words) sum[word.bytes] += word.count;
            }
            EXPECT_EQ(together, text);
            ASSERT_EQ(sum.size(), whole.words.size()) << pre << " " << part_bytes;
            for (const CountedWord& word : whole.words)
                EXPECT_EQ(sum[word.bytes], word.count) << pre << " " << part_bytes << " " << word.bytes;
        }
    }
}

TEST(TextCutter, NoPartEndsWithinASeparator) {
    for (std::size_t part_bytes : {1u, 2u, 5u, 7u, 30u}) {
        TextCutter cutter("one a b two a b a b three words here a b", "a b", part_bytes);
        while (const auto part = cutter.next()) EXPECT_FALSE(part->ends_with("a") || part->starts_with(" b")) << part_bytes << *part;
    }
}

TEST(WordCounts, TheResultDoesNotDependOnTheThreads) {
    const std::string path = scratch("long.txt");
    const Json vectors = read_json(folder + "bpe_trainer.vectors.json");
    std::string text;
    while (text.size() < (std::size_t{5} << 20)) text += vectors["texts"]["awkward"].text() + "<|endoftext|>" + vectors["texts"]["few_letters"].text();
    std::ofstream(path, std::ios::binary) << text;
    const std::string paths[] = {path};
    auto one = count_words_in_files(paths, {.n_threads = 1}), four = count_words_in_files(paths, {.n_threads = 4});
    ASSERT_TRUE(one.ok() && four.ok());
    EXPECT_EQ(one->n_text_bytes, four->n_text_bytes);
    EXPECT_EQ(one->n_documents, four->n_documents);
    ASSERT_EQ(one->words.size(), four->words.size());
    for (std::size_t i = 0; i < one->words.size(); ++i) {
        EXPECT_EQ(one->words[i].bytes, four->words[i].bytes);
        EXPECT_EQ(one->words[i].count, four->words[i].count);
    }
}

struct GoldenCase {
    Json row;
    std::string text;
};
std::vector<GoldenCase> golden_cases() {
    const Json vectors = read_json(folder + "bpe_trainer.vectors.json");
    auto calib = read_text_file(std::string(SKIFF_SOURCE_DIR) + "/models/pocket/calib.txt", 1 << 24);
    EXPECT_TRUE(calib.ok());
    std::vector<GoldenCase> cases;
    for (const Json& row : vectors["cases"].items()) {
        const std::string& name = row["text"].text();
        const auto calib_bytes = static_cast<std::size_t>(vectors["calib_bytes"].int_or(0));
        cases.push_back({row, name == "calib" ? calib->substr(0, calib_bytes) : vectors["texts"][name].text()});
    }
    return cases;
}
Result<TrainedBpe> train(const GoldenCase& golden) {
    BpeTrainerOptions options;
    options.vocab_size = golden.row["vocab_size"].int_or(0);
    options.min_frequency = golden.row["min_frequency"].int_or(0);
    return train_bpe(counted(golden.text, {.pre = golden.row["pre"].text()}), options);
}
Lines lines_of(const Json& list) {
    Lines lines;
    for (const Json& item : list.items()) lines.push_back(item.text());
    return lines;
}

TEST(BpeTrainerGolden, MergesAndTokensAreThoseOfHuggingFace) {
    const auto cases = golden_cases();
    ASSERT_EQ(cases.size(), 8u);
    for (const GoldenCase& golden : cases) {
        SCOPED_TRACE(golden.row["text"].text() + " " + golden.row["pre"].text());
        auto trained = train(golden);
        ASSERT_TRUE(trained.ok()) << trained.error().to_string();
        EXPECT_EQ(Lines(trained->tokens.begin() + 257, trained->tokens.end()), lines_of(golden.row["tokens"]));
        EXPECT_EQ(merges_of(*trained), lines_of(golden.row["merges"]));
    }
}

TEST(BpeTrainerGolden, TheWrittenFolderGivesTheIdsOfHuggingFace) {
    const Json samples = read_json(folder + "texts.json");
    int n_cases = 0;
    for (const GoldenCase& golden : golden_cases()) {
        if (golden.row["sample_ids"].size() == 0) continue;
        ++n_cases;
        const std::string pre = golden.row["pre"].text(), path = scratch("folder_" + pre);
        SCOPED_TRACE(pre);
        auto trained = train(golden);
        ASSERT_TRUE(trained.ok());
        Status written = write_tokenizer_folder(path, AtomicDirectory::IfExists::replace, *trained, {.pre = pre, .model_max_length = 77});
        ASSERT_TRUE(written.ok()) << written.error().to_string();
        EXPECT_EQ(read_json(path + "/tokenizer_config.json")["model_max_length"].int_or(0), 77);
        auto tokenizer = load_tokenizer(path);
        ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().to_string();
        EXPECT_EQ(tokenizer->bos_id(), 0);
        EXPECT_EQ(tokenizer->eos_ids(), std::vector<std::int32_t>{0});
        auto vocab = tokenizer->to_vocab_data();
        ASSERT_TRUE(vocab.ok()) << vocab.error().to_string();
        EXPECT_EQ(vocab->pre, pre);
        EXPECT_EQ(vocab->add_bos, true);
        auto again = load_vocab_data(*vocab);
        ASSERT_TRUE(again.ok()) << again.error().to_string();
        ASSERT_EQ(samples.size(), golden.row["sample_ids"].size());
        for (std::size_t i = 0; i < samples.size(); ++i) {
            std::vector<std::int32_t> expected;
            for (const Json& id : golden.row["sample_ids"].items()[i].items()) expected.push_back(static_cast<std::int32_t>(id.int_or(-1)));
            EXPECT_EQ(*tokenizer->encode(samples.items()[i].text()), expected) << samples.items()[i].text();
            EXPECT_EQ(*again->encode(samples.items()[i].text()), expected);
        }
        // What the trainer says about its text is what the tokenizer makes of it.
        auto ids = tokenizer->encode(golden.text, {.add_special = false});
        ASSERT_TRUE(ids.ok());
        EXPECT_EQ(ids->size() - static_cast<std::size_t>(std::count(ids->begin(), ids->end(), 0)), trained->n_text_tokens);
    }
    EXPECT_EQ(n_cases, 2);
}

TEST(TokenizerWriter, WithoutBeginNothingStandsBeforeATextAndUnknownTokensAreRefused) {
    BpeTrainerOptions options;
    options.vocab_size = 300;
    auto trained = train_bpe(counted("it it it"), options);
    ASSERT_TRUE(trained.ok());
    auto text = tokenizer_json_text(*trained, {.bos_token = ""});
    ASSERT_TRUE(text.ok());
    auto tokenizer = load_tokenizer_json(*text);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().to_string();
    EXPECT_EQ(*tokenizer->encode("it"), std::vector<std::int32_t>{257});
    EXPECT_EQ(tokenizer_json_text(*trained, {.bos_token = "<s>"}).error().code, ErrorCode::usage);
    const std::string path = scratch("refused");
    ASSERT_TRUE(write_tokenizer_folder(path, AtomicDirectory::IfExists::replace, *trained, {}).ok());
    EXPECT_EQ(write_tokenizer_folder(path, AtomicDirectory::IfExists::refuse, *trained, {}).error().code, ErrorCode::usage);
}

}  // namespace
}  // namespace skiff
