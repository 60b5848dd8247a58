// Published vocabularies against published vectors. They lie outside the project; where they are absent the tests skip.
#include <gtest/gtest.h>

#include <cstring>

#include "base/json.h"
#include "base/mapped_file.h"
#include "base/span_reader.h"
#include "text/tokenizer.h"

namespace skiff {
namespace {

std::string shared(const std::string& name) {
    const char* environment = std::getenv("SKIFF_SHARED_DIR");
    return std::string(environment ? environment : SKIFF_SHARED_DIR) + "/" + name;
}

std::string read(const std::string& name) {
    auto text = read_text_file(shared(name), std::size_t{1} << 30);
    EXPECT_TRUE(text.ok()) << name;
    return text.ok() ? *text : "";
}

#define SKIP_WITHOUT(name) \
    if (!file_exists(shared(name))) GTEST_SKIP() << shared(name) << " is not there"

// The metadata of a GGUF file that a tokenizer needs; a test's reader, which trusts its file but for the bounds.
class GgufVocabulary {
public:
    static Result<VocabData> read_file(const std::string& path) {
        SKIFF_TRY(auto file, MappedFile::open(path));
        SpanReader reader(file->bytes());
        SKIFF_TRY(auto magic, reader.take_string(4, "magic"));
        if (magic != "GGUF") return corrupt("no GGUF file");
        SKIFF_TRY(auto version, reader.read<std::uint32_t>("version"));
        SKIFF_TRY(auto n_tensors, reader.read<std::uint64_t>("tensors"));
        SKIFF_TRY(auto n_keys, reader.read<std::uint64_t>("keys"));
        (void)version, (void)n_tensors;
        GgufVocabulary vocabulary;
        for (std::uint64_t i = 0; i < n_keys; ++i) {
            SKIFF_TRY(auto key, string(reader));
            SKIFF_TRY(auto type, reader.read<std::uint32_t>("type"));
            SKIFF_CHECK(vocabulary.value(reader, key, type));
        }
        return vocabulary.data_;
    }

private:
    static Result<std::string> string(SpanReader& reader) {
        SKIFF_TRY(auto n, reader.read<std::uint64_t>("length"));
        SKIFF_TRY(auto text, reader.take_string(n, "string"));
        return std::string(text);
    }
    Status value(SpanReader& reader, const std::string& key, std::uint32_t type) {
        if (type == 8) {
            SKIFF_TRY(auto text, string(reader));
            on_string(key, std::move(text));
            return {};
        }
        if (type == 9) {
            SKIFF_TRY(auto item, reader.read<std::uint32_t>("item type"));
            SKIFF_TRY(auto n, reader.read<std::uint64_t>("items"));
            for (std::uint64_t i = 0; i < n; ++i) SKIFF_CHECK(value(reader, key + "[]", item));
            return {};
        }
        static constexpr std::size_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
        if (type > 12) return corrupt("type");
        SKIFF_TRY(auto bytes, reader.take(sizes[type], "value"));
        std::uint64_t bits = 0;
        std::memcpy(&bits, bytes.data(), bytes.size());
        on_number(key, bits, type);
        return {};
    }
    void on_string(const std::string& key, std::string text) {
        if (key == "tokenizer.ggml.model") data_.kind = text;
        if (key == "tokenizer.ggml.pre") data_.pre = text;
        if (key == "tokenizer.ggml.tokens[]") data_.tokens.push_back(text);
        if (key == "tokenizer.ggml.merges[]") data_.merges.push_back(text);
        if (key == "tokenizer.chat_template") data_.chat_template = text;
    }
    void on_number(const std::string& key, std::uint64_t bits, std::uint32_t type) {
        float real = 0;
        std::memcpy(&real, &bits, 4);
        if (key == "tokenizer.ggml.scores[]" && type == 6) data_.scores.push_back(real);
        if (key == "tokenizer.ggml.token_type[]") data_.token_types.push_back(static_cast<std::int32_t>(bits));
        if (key == "tokenizer.ggml.bos_token_id") data_.bos_id = static_cast<std::int64_t>(bits);
        if (key == "tokenizer.ggml.eos_token_id") data_.eos_id = static_cast<std::int64_t>(bits);
        if (key == "tokenizer.ggml.unknown_token_id") data_.unk_id = static_cast<std::int64_t>(bits);
        if (key == "tokenizer.ggml.padding_token_id") data_.pad_id = static_cast<std::int64_t>(bits);
        if (key == "tokenizer.ggml.add_bos_token") data_.add_bos = bits != 0;
        if (key == "tokenizer.ggml.add_eos_token") data_.add_eos = bits != 0;
    }
    VocabData data_;
};

std::vector<std::string> split(const std::string& text, const std::string& separator) {
    std::vector<std::string> parts;
    std::size_t at = 0;
    for (std::size_t next; (next = text.find(separator, at)) != std::string::npos; at = next + separator.size()) parts.push_back(text.substr(at, next - at));
    parts.push_back(text.substr(at));
    return parts;
}

std::vector<std::int32_t> numbers(const std::string& line) {
    std::vector<std::int32_t> ids;
    for (const std::string& word : split(line, " "))
        if (!word.empty()) ids.push_back(std::stoi(word));
    return ids;
}

// `stem`.inp and .out: texts and their ids without special tokens.
void expect_vectors(const Tokenizer& tokenizer, const std::string& stem) {
    const auto texts = split(read(stem + ".inp"), "\n__ggml_vocab_test__\n");
    const auto lines = split(read(stem + ".out"), "\n");
    ASSERT_GE(lines.size(), texts.size());
    ASSERT_GT(texts.size(), 40u);
    for (std::size_t i = 0; i < texts.size(); ++i) {
        auto ids = tokenizer.encode(texts[i], {.add_special = false, .parse_special = false});
        ASSERT_TRUE(ids.ok());
        EXPECT_EQ(*ids, numbers(lines[i])) << stem << " text " << i << ": " << texts[i];
    }
}

class GgufVectors : public ::testing::TestWithParam<const char*> {};

TEST_P(GgufVectors, GiveThePublishedIds) {
    const std::string stem = std::string("data/tokenizers/gguf-vocab/ggml-vocab-") + GetParam() + ".gguf";
    SKIP_WITHOUT(stem);
    auto data = GgufVocabulary::read_file(shared(stem));
    ASSERT_TRUE(data.ok()) << data.error().to_string();
    auto tokenizer = load_vocab_data(*data);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().to_string();
    expect_vectors(*tokenizer, stem);
    // Written and read again, the vocabulary is the same.
    auto again = tokenizer->to_vocab_data();
    ASSERT_TRUE(again.ok()) << again.error().to_string();
    EXPECT_EQ(again->tokens, data->tokens);
    EXPECT_EQ(again->token_types, data->token_types);
    EXPECT_EQ(again->merges, data->merges);
    EXPECT_EQ(again->scores, data->scores);
    EXPECT_EQ(again->kind, data->kind);
    EXPECT_EQ(again->pre, data->pre);
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, GgufVectors, ::testing::Values("gpt-2", "llama-spm", "phi-3", "deepseek-llm"), [](const auto& row) {
    std::string name = row.param;
    for (char& c : name)
        if (c == '-') c = '_';
    return name;
});

TEST(SharedVectors, Llama3RanksGiveThePublishedIds) {
    SKIP_WITHOUT("data/tokenizers/llama3/tokenizer.model");
    auto tokenizer = load_tokenizer(shared("data/tokenizers/llama3"));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().to_string();
    EXPECT_EQ(tokenizer->n_vocab(), 128256);
    EXPECT_EQ(tokenizer->find_token("<|eot_id|>"), 128009);
    expect_vectors(*tokenizer, "data/tokenizers/gguf-vocab/ggml-vocab-llama-bpe.gguf");
}

TEST(SharedVectors, Qwen2VocabularyAndMergesGiveThePublishedIds) {
    SKIP_WITHOUT("data/tokenizers/qwen2/vocab.json");
    auto tokenizer = load_tokenizer(shared("data/tokenizers/qwen2"));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().to_string();
    EXPECT_EQ(tokenizer->find_token("<|im_end|>"), 151645);
    EXPECT_TRUE(tokenizer->is_special(151644));
    EXPECT_FALSE(tokenizer->chat_template().empty());
    EXPECT_EQ(tokenizer->eos_ids().at(0), 151643);
    expect_vectors(*tokenizer, "data/tokenizers/gguf-vocab/ggml-vocab-qwen2.gguf");
    auto data = tokenizer->to_vocab_data();
    ASSERT_TRUE(data.ok());
    EXPECT_EQ(data->pre, "qwen2");
}

// The encodings that Hugging Face's Python package gave, per model: input_ids, and the text decoded from them.
void expect_encodings(const Tokenizer& tokenizer, const std::string& model, const std::string& file) {
    auto all = Json::parse(read("data/tokenizers/expected-encodings/tokenizer_tests.json"));
    ASSERT_TRUE(all.ok());
    int n_cases = 0;
    auto expect_ids = [&](const std::string& text, const Json& expected) {
        std::vector<std::int32_t> ids;
        for (const Json& id : expected.items()) ids.push_back(static_cast<std::int32_t>(id.int_or(-1)));
        auto found = tokenizer.encode(text);
        ASSERT_TRUE(found.ok());
        EXPECT_EQ(*found, ids) << model << ": " << text;
        ++n_cases;
    };
    for (const Json& item : (*all)[model].items()) expect_ids(item["input"].text(), item["encoded"]["input_ids"]);
    auto one = Json::parse(read("data/tokenizers/expected-encodings/" + file));
    ASSERT_TRUE(one.ok());
    expect_ids((*one)["text"].text(), (*one)["token_ids"]);
    EXPECT_GE(n_cases, 19);
}

TEST(SharedVectors, ExpectedEncodings) {
    SKIP_WITHOUT("data/tokenizers/expected-encodings/tokenizer_tests.json");
    auto gpt2 = load_vocab_and_merges(read("data/tokenizers/gpt2/vocab.json"), read("data/tokenizers/gpt2/merges.txt"));
    ASSERT_TRUE(gpt2.ok()) << gpt2.error().to_string();
    expect_encodings(*gpt2, "distilgpt2", "gpt2_encoded_tokens.json");
    auto llama2 = load_tokenizer(shared("data/tokenizers/llama2"));
    ASSERT_TRUE(llama2.ok()) << llama2.error().to_string();
    expect_encodings(*llama2, "coreml-projects/Llama-2-7b-chat-coreml", "llama_encoded.json");
    auto llama3 = load_tokenizer(shared("data/tokenizers/llama3"));
    ASSERT_TRUE(llama3.ok()) << llama3.error().to_string();
    expect_encodings(*llama3, "pcuenq/Llama-3.2-1B-Instruct-tokenizer", "llama_3.2_encoded.json");
}

TEST(SharedVectors, Gpt2AndPhi3TokenizerJsonAgreeWithTheirOtherForms) {
    SKIP_WITHOUT("data/tokenizers/gpt2/tokenizer.json");
    auto json = load_tokenizer(shared("data/tokenizers/gpt2"));
    ASSERT_TRUE(json.ok()) << json.error().to_string();
    expect_vectors(*load_tokenizer_json(read("data/tokenizers/phi3/tokenizer.json")), "data/tokenizers/gguf-vocab/ggml-vocab-phi-3.gguf");
    auto pair = load_vocab_and_merges(read("data/tokenizers/gpt2/vocab.json"), read("data/tokenizers/gpt2/merges.txt"));
    ASSERT_TRUE(pair.ok());
    const std::string text = read("data/wikitext2/wiki.test.raw").substr(0, 200000);  // no runs of spaces, which the json has tokens for
    EXPECT_EQ(*json->encode(text), *pair->encode(text));
}

TEST(SharedVectors, WikitextWithTheStoriesTokenizerHasTheKnownLength) {
    SKIP_WITHOUT("data/wikitext2/wiki.test.raw");
    auto tokenizer = load_tokenizer(shared("models/stories260K"));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().to_string();
    auto ids = tokenizer->encode(read("data/wikitext2/wiki.test.raw"));
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ(ids->size(), 809290u);
    EXPECT_EQ(ids->front(), 1);
}

TEST(SharedVectors, StoriesGgufAgreesWithItsTokenizerJson) {
    SKIP_WITHOUT("models/stories260K.gguf");
    auto data = GgufVocabulary::read_file(shared("models/stories260K.gguf"));
    ASSERT_TRUE(data.ok());
    auto gguf = load_vocab_data(*data);
    auto json = load_tokenizer(shared("models/stories260K"));
    ASSERT_TRUE(gguf.ok() && json.ok());
    EXPECT_FALSE(gguf->pad_id().has_value());  // 4294967295 in the file
    const std::string text = read("models/pocket/heldout.txt");
    auto from_gguf = gguf->encode(text), from_json = json->encode(text);
    ASSERT_TRUE(from_gguf.ok() && from_json.ok());
    EXPECT_EQ(*from_gguf, *from_json);
}

}  // namespace
}  // namespace skiff
