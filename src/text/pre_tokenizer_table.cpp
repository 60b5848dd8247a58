#include "text/pre_tokenizer_table.h"

#include <algorithm>

namespace skiff {
namespace {

struct Row {
    std::vector<std::string_view> names;     // the first is the one that we write
    std::vector<std::string_view> patterns;  // applied one after the other, each isolates its matches
    bool ignore_merges = false;
    bool add_bos = false;
};

constexpr std::string_view gpt2_pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view gpt2_pattern_without_tail = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))";
constexpr std::string_view llama3_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view qwen2_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view qwen35_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view tekken_pattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view o200k_pattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view bloom_pattern = R"( ?[^(\s|.,!?\x{2026}\x{3002}\x{ff0c}\x{3001}\x{964}\x{6d4}\x{60c})]+)";
// Cased letters of the scripts that DeepSeek's pre-tokenizer lists, range by range as its tokenizer.json does.
constexpr std::string_view deepseek_letters =
    R"(\s?[A-Za-z\x{b5}\x{c0}-\x{d6}\x{d8}-\x{f6}\x{f8}-\x{1ba}\x{1bc}-\x{1bf}\x{1c4}-\x{293}\x{295}-\x{2af}\x{370}-\x{373}\x{376})"
    R"(\x{377}\x{37b}-\x{37d}\x{37f}\x{386}\x{388}-\x{38a}\x{38c}\x{38e}-\x{3a1}\x{3a3}-\x{3f5}\x{3f7}-\x{481}\x{48a}-\x{52f})"
    R"(\x{531}-\x{556}\x{10a0}-\x{10c5}\x{13a0}-\x{13f5}\x{13f8}-\x{13fd}\x{1c90}-\x{1cba}\x{1cbd}-\x{1cbf}\x{1d00}-\x{1d2b})"
    R"(\x{1d6b}-\x{1d77}\x{1d79}-\x{1d9a}\x{1e00}-\x{1f15}\x{1f18}-\x{1f1d}\x{1f20}-\x{1f45}\x{1f48}-\x{1f4d}\x{1f50}-\x{1f57})"
    R"(\x{1f59}\x{1f5b}\x{1f5d}\x{1f5f}-\x{1f7d}\x{1f80}-\x{1fb4}\x{1fb6}-\x{1fbc}\x{1fbe}\x{1fc2}-\x{1fc4}\x{1fc6}-\x{1fcc})"
    R"(\x{1fd0}-\x{1fd3}\x{1fd6}-\x{1fdb}\x{1fe0}-\x{1fec}\x{1ff2}-\x{1ff4}\x{1ff6}-\x{1ffc}\x{2102}\x{2107}\x{210a}-\x{2113})"
    R"(\x{2115}\x{2119}-\x{211d}\x{2124}\x{2126}\x{2128}\x{212a}-\x{212d}\x{212f}-\x{2134}\x{2139}\x{213c}-\x{213f}\x{2145}-\x{2149})"
    R"(\x{214e}\x{2183}\x{2184}\x{2c00}-\x{2c7b}\x{2c7e}-\x{2ce4}\x{2ceb}-\x{2cee}\x{2cf2}\x{2cf3}\x{a640}-\x{a66d}\x{a680}-\x{a69b})"
    R"(\x{a722}-\x{a76f}\x{a771}-\x{a787}\x{a78b}-\x{a78e}\x{ab70}-\x{abbf}\x{fb00}-\x{fb06}\x{fb13}-\x{fb17}\x{ff21}-\x{ff3a})"
    R"(\x{ff41}-\x{ff5a}\x{10400}-\x{1044f}\x{104b0}-\x{104d3}\x{104d8}-\x{104fb}\x{10c80}-\x{10cb2}\x{10cc0}-\x{10cf2})"
    R"(\x{118a0}-\x{118df}\x{1e900}-\x{1e943}]+)";
constexpr std::string_view deepseek_han = R"([\x{4e00}-\x{9fa5}\x{800}-\x{4e00}\x{ac00}-\x{d7ff}]+)";
constexpr std::string_view deepseek_v3_words =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

const std::vector<Row>& rows() {
    static const std::vector<Row> table = {
        {{"gpt-2", "phi-2", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-en", "a.x-4.0", "mpt", "olmo", "jais", "trillion",
          "granite-docling", "exaone4", "modern-bert"},
         {gpt2_pattern}},
        {{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"}, {llama3_pattern}, true, true},
        {{"glm4", "chatglm-bpe", "smaug-bpe", "dbrx", "megrez"}, {llama3_pattern}},
        {{"qwen2", "stablelm2", "deepseek-r1-qwen", "hunyuan", "kormo"}, {qwen2_pattern}},
        {{"qwen35"}, {qwen35_pattern}},
        {{"deepseek-llm"},
         {R"([\r\n])", deepseek_letters, R"(\s?[!-/:-~\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff5e}\x{2018}-\x{201f}\x{3000}-\x{3002}]+)", R"(\s+$)", deepseek_han, R"(\p{N}+)"}},
        {{"deepseek-coder"}, {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", deepseek_han, R"(\p{N})"}},
        {{"deepseek-v3", "hunyuan-dense"}, {R"(\p{N}{1,3})", R"([\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+)", deepseek_v3_words}},
        {{"falcon"}, {R"([\p{P}\$\+<=>\^~\|`]+)", gpt2_pattern_without_tail, "[0-9][0-9][0-9]"}},
        {{"default"}, {R"([\p{P}\$\+<=>\^~\|]+)", gpt2_pattern_without_tail, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
        {{"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"}, {R"(\p{N})", gpt2_pattern}},
        {{"bloom", "poro-chat", "gpt3-finnish"}, {bloom_pattern}},
        {{"viking"}, {bloom_pattern, R"(\p{N})"}},
        {{"tekken"}, {tekken_pattern}, true, true},
        {{"gpt-4o", "llama4"}, {o200k_pattern}},
    };
    return table;
}

std::vector<std::string> pieces_of(std::span<const PreTokenizer> chain, std::string_view text, Status& status) {
    std::vector<std::string> pieces;
    status = pre_tokenize(chain, {text, true}, [&](Piece piece) -> Status {
        pieces.emplace_back(piece.text);
        return {};
    });
    return pieces;
}

std::vector<std::int32_t> ids_of(const std::vector<std::string>& pieces, const TokenModel& model) {
    std::vector<std::int32_t> ids;
    for (const std::string& piece : pieces) model.encode(piece, ids);
    return ids;
}

// Each line tells some rows apart: contractions in both cases, digits in runs of each length, punctuation before letters and newlines,
// white space in runs with and without newlines, combining marks, scripts with and without case.
constexpr std::string_view probes[] = {
    "Hello world, it's we'Ll 'RE y'all ain't",
    "1 22 333 4444 55555 x123456y ٣٤٥٦ Ⅷ½",
    "a  b   c\n\n d \n  e\t\tf \r\n\r\n g   ",
    "!!x (y) --z \"q\"\n\n/* c */\n #$%^&+=<>|~`",
    " \n\n\t x\xC2\xA0y　z",
    "нещо на Български 我想在apple工作1314151天～ កាន់តែពិសេស ｈｅｌｌｏ",
    "e\xCC\x81te\xCC\x81 Ö camelCaseWord HTTPServer's ABCdef",
    "🚀 (normal) 😶‍🌫️ ✅ x🦙.cpp",
    "hello.\nworld,/path/to/x ।۔، foo",
    "    ",
    "x  !y  (z)  \"  .\n  ,",
    "ab 한국어 カタカナ ひらがな ไทย    ไทย",
};

Result<NamedPreTokenizer> build(const Row& row) {
    NamedPreTokenizer named;
    for (std::string_view pattern : row.patterns) {
        SKIFF_TRY(auto regex, Regex::compile(pattern));
        named.chain.push_back(split_by_regex(std::move(regex), {SplitBehavior::isolated, false}));
        named.patterns.emplace_back(pattern);
    }
    named.chain.push_back(byte_level_spelling());
    named.ignore_merges = row.ignore_merges;
    named.add_bos = row.add_bos;
    return named;
}

}  // namespace

Result<NamedPreTokenizer> named_pre_tokenizer(std::string_view name) {
    std::string known;
    for (const Row& row : rows()) {
        if (std::find(row.names.begin(), row.names.end(), name) != row.names.end()) return build(row);
        known += (known.empty() ? "" : ", ") + std::string(row.names[0]);
    }
    return unsupported("pre-tokenizer \"" + std::string(name) + "\" is not known; known are " + known + " and their aliases");
}

Result<std::string> name_of_pre_tokenizer(std::span<const PreTokenizer> chain, const TokenModel& model) {
    std::string same_ids;
    for (const Row& row : rows()) {
        SKIFF_TRY(const auto named, build(row));
        bool equal_pieces = true, equal_ids = true;
        for (std::string_view probe : probes) {
            Status ours, theirs;
            const auto expected = pieces_of(chain, probe, ours), found = pieces_of(named.chain, probe, theirs);
            SKIFF_CHECK(std::move(ours));
            SKIFF_CHECK(std::move(theirs));
            equal_pieces = equal_pieces && expected == found;
            equal_ids = equal_ids && (expected == found || ids_of(expected, model) == ids_of(found, model));
        }
        if (equal_pieces) return std::string(row.names[0]);
        if (equal_ids && same_ids.empty()) same_ids = row.names[0];
    }
    if (!same_ids.empty()) return same_ids;
    return unsupported("this pre-tokenizer has no name in GGUF");
}

}  // namespace skiff
