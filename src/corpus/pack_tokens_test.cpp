// Packing against encoding each document whole, and against inputs that are odd or broken.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "base/json.h"
#include "base/rng.h"
#include "corpus/corpus_testing.h"
#include "corpus/piece_cutter.h"
#include "corpus/token_file.h"
#include "text/byte_level.h"

namespace skiff {
namespace {

// Paragraphs whose ends and beginnings are all that a pre-tokenizer may look at there.
std::string awkward_text(std::uint64_t seed, std::size_t n_paragraphs) {
    static const char* const ends[] = {"end", "end.", "end?!", "end...\"", "it's", "12", "1234567", "\xC3\xA9", "\xE4\xB8\xAD\xE6\x96\x87\xE3\x80\x82",
                                      "x_", "--", ")", "'", "I'LL", "<|end|>", "\xF0\x9F\x98\x80"};
    static const char* const breaks[] = {"\n\n", "\n\n", "\r\n\r\n", "\n\n\n\n", " \n\n", "\n \n", "\n\n ", "\n\n   ",
                                        "\n\t\n", "\n", " ", "  ", "\t", "\r\n", "\xC2\xA0\n\n"};
    static const char* const begins[] = {"The", "a", "\"Oh", "...", "'s", "'re", "12", "3", "\xC3\x89t\xC3\xA9",
                                        "\xE4\xB8\xAD", "- x", "#", "_x_", "<|end|>", "\xCC\x81x", "\xF0\x9F\x98\x80"};
    Rng rng(seed);
    std::string text;
    for (std::size_t i = 0; i < n_paragraphs; ++i) {
        text += begins[rng.below(std::size(begins))];
        for (std::uint64_t n = rng.below(12); n > 0; --n) text += rng.below(3) ? " word" : " and, ";
        text += ends[rng.below(std::size(ends))];
        text += breaks[rng.below(std::size(breaks))];
    }
    return text;
}

std::string spelled(const std::string& bytes) {
    std::string result;
    append_byte_level(result, bytes);
    return result;
}

// All bytes, and merges of line breaks and spaces among themselves and with what may stand before them: a cut at a wrong place changes the tokens.
Tokenizer line_break_tokenizer(const std::string& pre) {
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte) tokens.push_back(spelled(std::string(1, static_cast<char>(byte))));
    std::string merges;
    for (const auto& [left, right] : std::vector<std::pair<std::string, std::string>>{
             {"\n", "\n"}, {"\r", "\n"}, {"\r\n", "\r\n"}, {"\n\n", "\n\n"}, {" ", " "}, {" ", "\n"}, {" \n", "\n"}, {"\n", " "}, {".", "\n"}, 
             {".", "\n\n"},
             {"!", "\n\n"}, {"\"", "\n\n"}, {"\n\n", " "}, {"\n", "T"}, {" ", "T"}, {"\n\n", "T"},
             {"\t", "\n"}, {"\n", "\t"}, {"-", "\r\n"}, {")", "\n"}, {"d", " "}}) {
        merges += spelled(left) + " " + spelled(right) + "\n";
        tokens.push_back(spelled(left + right));
    }
    Json vocabulary = Json::object();
    for (std::size_t i = 0; i < tokens.size(); ++i) vocabulary.set(tokens[i], static_cast<std::int64_t>(i));
    return load_vocab_and_merges(vocabulary.dump(), merges, {.pre = pre}).value();
}

std::vector<std::int32_t> whole_document(const Tokenizer& tokenizer, const std::string& text) {
    std::vector<std::int32_t> ids = tokenizer.encode(text, corpus_encoding).value();
    const auto begin = tokenizer.bos_id();
    if (begin) ids.insert(ids.begin(), *begin);
    if (!tokenizer.eos_ids().empty() && tokenizer.eos_ids().front() != begin) ids.push_back(tokenizer.eos_ids().front());
    return ids;
}

std::vector<std::int32_t> whole_documents(const Tokenizer& tokenizer, const std::vector<std::string>& texts) {
    std::vector<std::int32_t> ids;
    for (const std::string& text : texts) {
        const auto more = whole_document(tokenizer, text);
        ids.insert(ids.end(), more.begin(), more.end());
    }
    return ids;
}

std::vector<std::int32_t> ids_in(const std::string& path) {
    const auto file = TokenFile::open(path);
    EXPECT_TRUE(file.ok()) << file.error().to_string();
    if (!file.ok()) return {};
    EXPECT_TRUE(file->check_tokens().ok());
    std::vector<std::int32_t> ids(file->n_tokens());
    file->read(0, ids);
    return ids;
}

// ---- Pieces ----

TEST(PieceCutter, PiecesGiveTheTokensOfTheWhole) {
    std::vector<std::pair<std::string, Tokenizer>> tokenizers;
    for (const char* name : {"gpt2", "llama3", "qwen2", "starcoder", "deepseek_coder", "falcon"}) tokenizers.emplace_back(name, test_tokenizer(name));
    for (const char* pre : {"gpt-2", "llama-bpe", "qwen2"}) tokenizers.emplace_back(pre, line_break_tokenizer(pre));
    for (const auto& [name, tokenizer] : tokenizers) {
        for (std::size_t piece_bytes : {100, 300}) {
            const PieceCutter cutter(tokenizer, piece_bytes);
            for (std::uint64_t seed = 0; seed < 12; ++seed) {
                const std::string text = awkward_text(seed, 250);
                std::vector<std::int32_t> ids;
                std::size_t n_pieces = 0;
                for (std::string_view rest = text; !rest.empty(); ++n_pieces) {
                    const std::size_t end = cutter.end_of_piece(rest);
                    ASSERT_GT(end, 0u);
                    const auto part = tokenizer.encode(rest.substr(0, end), corpus_encoding).value();
                    ids.insert(ids.end(), part.begin(), part.end());
                    rest.remove_prefix(end);
                }
                EXPECT_EQ(ids, tokenizer.encode(text, corpus_encoding).value()) << name << " seed " << seed;
                EXPECT_GT(n_pieces, text.size() / piece_bytes / 4) << name << " hardly cuts";
            }
        }
    }
}

TEST(PieceCutter, PrefersBlankLinesAndTakesOtherWhiteSpace) {
    const Tokenizer tokenizer = test_tokenizer("llama3");
    const PieceCutter cutter(tokenizer, 100);
    std::string prose, line;
    for (int i = 0; i < 100; ++i) prose += "Some words and\n", line += "some words ";
    prose.insert(150, "a paragraph ends.\n\nAnother");
    EXPECT_EQ(cutter.end_of_piece(prose), prose.find("\n\n") + 2);
    EXPECT_LT(cutter.end_of_piece(line), 130u);
    EXPECT_EQ(cutter.end_of_piece(std::string(5000, 'x')), 5000u);
    EXPECT_EQ(cutter.end_of_piece(std::string(5000, ' ')), 5000u);
}

TEST(PieceCutter, TokenizersThatLookAcrossAreNotCut) {
    const std::string text = awkward_text(1, 300);
    for (const char* name : {"metaspace_bpe", "prefix_bpe", "unigram", "spm_bpe.model", "spm_bpe_no_prefix.model", "spm_unigram.model"}) {
        EXPECT_EQ(PieceCutter(test_tokenizer(name), 100).end_of_piece(text), text.size()) << name;
    }
    // Byte-level with a space put before each text: only a place where the text has one itself may be taken.
    const Tokenizer prefix = test_tokenizer("prefix_space");
    const std::size_t end = PieceCutter(prefix, 100).end_of_piece(text);
    EXPECT_TRUE(end == text.size() || text[end] == ' ') << text.substr(end, 10);
}

// ---- Packing ----

class Packing : public ::testing::Test {
protected:
    Result<PackReport> pack(const Tokenizer& tokenizer, std::vector<std::string> inputs, int n_threads = 2) {
        PackOptions options;
        options.inputs = std::move(inputs);
        options.n_threads = n_threads;
        return pack_tokens(tokenizer, options, folder_.path("out.bin"));
    }
    // The documents that a text is made of, by what is packed of it.
    void expect_documents(const std::string& text, const std::vector<std::string>& documents, const std::string& name = "in.txt") {
        const Tokenizer tokenizer = test_tokenizer("llama3");
        const auto report = pack(tokenizer, {folder_.write(name, text)});
        ASSERT_TRUE(report.ok()) << report.error().to_string();
        EXPECT_EQ(report->n_documents, documents.size());
        EXPECT_EQ(report->n_bytes, std::accumulate(documents.begin(), documents.end(), std::uint64_t{0}, [](auto sum, auto& d) { return sum + d.size(); }));
        const auto ids = ids_in(folder_.path("out.bin"));
        EXPECT_EQ(report->n_tokens, ids.size());
        EXPECT_EQ(ids, whole_documents(tokenizer, documents)) << text;
        EXPECT_EQ(TokenFile::open(folder_.path("out.bin"))->n_documents(), documents.size());
    }
    void expect_error(const std::string& name, const std::string& text, const std::string& words, ErrorCode code = ErrorCode::corrupt) {
        const auto report = pack(test_tokenizer("gpt2"), {folder_.write("good.txt", "good"), folder_.write(name, text)});
        ASSERT_FALSE(report.ok()) << words;
        EXPECT_EQ(report.error().code, code) << report.error().to_string();
        EXPECT_NE(report.error().to_string().find(words), std::string::npos) << report.error().to_string();
    }
    TestFolder folder_;
};

TEST_F(Packing, DocumentsOfATextAreCutAtSeparators) {
    expect_documents("one", {"one"});
    expect_documents("one\n", {"one"});
    expect_documents("one\n<|endoftext|>\ntwo\n\nlines\n<|endoftext|>\nthree\n", {"one", "two\n\nlines", "three"});
    expect_documents("one<|endoftext|>two", {"one", "two"});
    expect_documents("one\r\n<|endoftext|>\r\ntwo\r\nlines\r\n", {"one", "two\r\nlines"});
    expect_documents("<|endoftext|>\n\none\n\n<|endoftext|>", {"\none\n"});
    expect_documents("\xEF\xBB\xBFone\n<|endoftext|>\n\n  \n<|endoftext|><|endoftext|>\ntwo\n<|endoftext|>\n", {"one", "two"});
    expect_documents("<|endof\n<|endoftext|", {"<|endof\n<|endoftext|"});
    expect_documents("\n\nbegins with lines", {"\n\nbegins with lines"});
    expect_documents("invalid \xFF\xE2\x96 bytes", {"invalid \xFF\xE2\x96 bytes"});
}

TEST_F(Packing, ControlTokensInATextAreText) {
    const Tokenizer tokenizer = test_tokenizer("llama3");
    const auto control = tokenizer.find_token("<|end|>");
    ASSERT_TRUE(control && tokenizer.is_special(*control));
    ASSERT_TRUE(pack(tokenizer, {folder_.write("in.txt", "x <|end|> y")}).ok());
    const auto ids = ids_in(folder_.path("out.bin"));
    const auto& ends = tokenizer.eos_ids();
    EXPECT_EQ(std::count(ids.begin(), ids.end(), *control), (!ends.empty() && ends.front() == control) + (tokenizer.bos_id() == control));
}

TEST_F(Packing, DocumentsOfJsonLines) {
    expect_documents("{\"text\": \"one\\n\\u00e9\"}\n\n  \n"
                     "{\"id\": 5, \"text\": \"two\"}\r\n{\"text\": \"\"}\n{\"text\": \" \\n\"}\n{\"text\": \"three\\n\"}", 
                     {"one\n\xC3\xA9", "two", "three\n"}, "in.jsonl");
    PackOptions options{.inputs = {folder_.write("in.jsonl", "{\"content\": \"one\", \"text\": \"other\"}")}, .jsonl_field = "content"};
    ASSERT_TRUE(pack_tokens(test_tokenizer("llama3"), options, folder_.path("out.bin")).ok());
    EXPECT_EQ(ids_in(folder_.path("out.bin")), whole_document(test_tokenizer("llama3"), "one"));
}

TEST_F(Packing, BrokenInputsAreNamedWithTheirLine) {
    expect_error("bad.jsonl", "{\"text\": \"a\"}\n{\"content\": \"b\", \"id\": 3}\n", "bad.jsonl:2: no field \"text\"; the line has: content, id");
    expect_error("bad.jsonl", "\n\n{\"text\": \"a\"\n", "bad.jsonl:3");
    expect_error("bad.jsonl", "{\"text\": \"a\"} x\n", "bad.jsonl:1");
    expect_error("bad.jsonl", "{\"text\": 5}\n", "bad.jsonl:1: the field \"text\" is not a string but");
    expect_error("bad.jsonl", "[\"text\"]\n", "bad.jsonl:1: an object with the field \"text\" expected, found an array");
    expect_error("bad.txt.gz", "x", "compressed", ErrorCode::unsupported);
    const auto absent = pack(test_tokenizer("gpt2"), {folder_.path("absent.txt")});
    EXPECT_EQ(absent.error().code, ErrorCode::not_found);
    EXPECT_EQ(pack(test_tokenizer("gpt2"), {}).error().code, ErrorCode::usage);
}

TEST_F(Packing, TextsWithoutDocumentsAreAnError) {
    for (const char* text : {"", "\n", " \n\t ", "<|endoftext|>\n<|endoftext|>\n"}) {
        const auto report = pack(test_tokenizer("gpt2"), {folder_.write("empty.txt", text)});
        ASSERT_FALSE(report.ok());
        EXPECT_NE(report.error().message.find("no text in " + folder_.path("empty.txt")), std::string::npos) << report.error().message;
    }
    EXPECT_FALSE(file_exists(folder_.path("out.bin")));
}

TEST_F(Packing, AFailureLeavesTheOldFileAndNoOther) {
    folder_.write("out.bin", "old");
    std::string text;
    for (int i = 0; i < 1000; ++i) text += "{\"text\": \"some words\"}\n";
    EXPECT_FALSE(pack(test_tokenizer("gpt2"), {folder_.write("a.jsonl", text), folder_.write("b.jsonl", "{")}).ok());
    EXPECT_EQ(folder_.read("out.bin"), "old");
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path(""))) names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    EXPECT_EQ(names, (std::vector<std::string>{"a.jsonl", "b.jsonl", "out.bin"}));
}

// Long documents (of several pieces), short ones and lines, in several inputs.
TEST_F(Packing, SameBytesForAnyNumberOfThreads) {
    std::vector<std::string> documents, lines;
    for (std::uint64_t i = 0; i < 5; ++i) documents.push_back(awkward_text(i, i == 2 ? 6000 : 40));
    for (std::string& document : documents) document += "end";
    std::string text;
    for (const std::string& document : documents) text += document + "\n<|endoftext|>\n";
    const std::vector<std::string> inputs = {folder_.write("a.txt", text), folder_.write("b.jsonl", "{\"text\": \"a line\"}\n{\"text\": \"another\"}\n")};
    documents.insert(documents.end(), {"a line", "another"});
    for (const char* name : {"gpt2", "llama3", "spm_bpe.model"}) {
        const Tokenizer tokenizer = test_tokenizer(name);
        std::string first;
        for (int n_threads : {1, 2, 3}) {
            const auto report = pack(tokenizer, inputs, n_threads);
            ASSERT_TRUE(report.ok()) << report.error().to_string();
            const std::string bytes = folder_.read("out.bin");
            if (first.empty()) first = bytes;
            EXPECT_TRUE(bytes == first) << name << " " << n_threads << " threads";
        }
        EXPECT_EQ(ids_in(folder_.path("out.bin")), whole_documents(tokenizer, documents)) << name;
        EXPECT_EQ(TokenFile::open(folder_.path("out.bin"))->tokenizer_hash(), tokenizer_hash(tokenizer));
    }
}

TEST_F(Packing, AVocabularyAbove65536TakesFourBytes) {
    VocabData data = test_tokenizer("gpt2").to_vocab_data().value();
    while (data.tokens.size() < 0x10001) {
        data.tokens.push_back("<extra" + std::to_string(data.tokens.size()) + ">");
        if (!data.token_types.empty()) data.token_types.push_back(static_cast<std::int32_t>(GgufTokenType::normal));
        if (!data.scores.empty()) data.scores.push_back(0);
    }
    const Tokenizer tokenizer = load_vocab_data(data).value();
    ASSERT_EQ(tokenizer.n_vocab(), 0x10001);
    const auto report = pack(tokenizer, {folder_.write("in.txt", "Hello world, it's 1234")});
    ASSERT_TRUE(report.ok()) << report.error().to_string();
    EXPECT_EQ(*file_size_bytes(folder_.path("out.bin")), 64 + 4 * report->n_tokens);
    EXPECT_EQ(ids_in(folder_.path("out.bin")), whole_document(tokenizer, "Hello world, it's 1234"));
}

TEST_F(Packing, ProgressEndsAtTheSizeOfTheInputs) {
    std::vector<ProgressEvent> events;
    PackOptions options{.inputs = {folder_.write("a.txt", "one\n<|endoftext|>\n"), folder_.write("b.txt", "two\n")}};
    options.progress = [&](const ProgressEvent& event) { events.push_back(event); };
    ASSERT_TRUE(pack_tokens(test_tokenizer("gpt2"), options, folder_.path("out.bin")).ok());
    ASSERT_FALSE(events.empty());
    EXPECT_EQ(events.back().done, events.back().total);
    EXPECT_EQ(events.back().total, 22u);
}

}  // namespace
}  // namespace skiff
