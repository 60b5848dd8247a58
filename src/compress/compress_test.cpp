// Journal, manifest, survey, and every cell of the (method x scheme) table.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "base/rng.h"
#include "compress/journal.h"
#include "compress/manifest.h"
#include "compress/method.h"
#include "compress/survey.h"

namespace skiff {
namespace {

class Compress : public ::testing::Test {
protected:
    void SetUp() override {
        folder_ = (std::filesystem::temp_directory_path() / ("skiff_compress_" + std::to_string(::getpid()))).string();
        ASSERT_TRUE(make_directories(folder_).ok());
    }
    void TearDown() override { (void)remove_all(folder_); }
    std::string path(const std::string& name) const { return join_path(folder_, name); }
    static void write(const std::string& file, std::string_view text) { std::ofstream(file, std::ios::binary | std::ios::trunc) << text; }
    static std::string read(const std::string& file) { return *read_text_file(file, 1 << 20); }
    std::string folder_;
};

TEST_F(Compress, JournalKeepsWhatWasAppended) {
    {
        auto journal = Journal::open(path("journal"));
        ASSERT_TRUE(journal.ok());
        for (int i = 0; i < 5; ++i) ASSERT_TRUE(journal->append(Json::object({{"n", i}})).ok());
    }
    auto journal = Journal::open(path("journal"));
    ASSERT_TRUE(journal.ok());
    ASSERT_EQ(journal->entries().size(), 5u);
    EXPECT_EQ(journal->entries()[4]["n"].int_or(-1), 4);
    ASSERT_TRUE(journal->clear().ok());
    EXPECT_TRUE(journal->entries().empty());
    EXPECT_EQ(read(path("journal")), "");
}

TEST_F(Compress, JournalCutAtEveryByteKeepsWholeLines) {
    std::string text;
    std::vector<std::size_t> ends = {0};
    for (int i = 0; i < 3; ++i) {
        text += journal_line(Json::object({{"key", "tensor" + std::to_string(i)}}));
        ends.push_back(text.size());
    }
    for (std::size_t size = 0; size <= text.size(); ++size) {
        write(path("journal"), text.substr(0, size));
        std::size_t whole = 0;
        while (whole + 1 < ends.size() && ends[whole + 1] <= size) ++whole;
        {
            auto journal = Journal::open(path("journal"));
            ASSERT_TRUE(journal.ok());
            EXPECT_EQ(journal->entries().size(), whole) << size;
            ASSERT_TRUE(journal->append(Json("next")).ok());  // behind the last whole line, not behind the torn one
        }
        auto again = Journal::open(path("journal"));
        ASSERT_TRUE(again.ok());
        EXPECT_EQ(again->entries().size(), whole + 1) << size;
    }
}

TEST_F(Compress, JournalLineWithAnyFlippedBitIsRefused) {
    const std::string line = journal_line(Json::object({{"key", "model.layers.0.weight"}, {"bytes", 12}}));
    ASSERT_TRUE(parse_journal_line(std::string_view(line).substr(0, line.size() - 1)).has_value());
    for (std::size_t i = 0; i + 1 < line.size(); ++i)
        for (int bit = 0; bit < 8; ++bit) {
            std::string changed = line.substr(0, line.size() - 1);
            changed[i] = static_cast<char>(changed[i] ^ (1 << bit));
            EXPECT_FALSE(parse_journal_line(changed).has_value()) << i << " " << bit;
        }
}

TEST_F(Compress, ManifestSumsUpAndTakesEvidence) {
    Manifest manifest;
    manifest.tool = "skiff test";
    manifest.parent = {"parent", std::string(64, 'a'), "llama", 96, 192, {}};
    manifest.steps = {Json::object({{"kind", "quantize"}})};
    manifest.tensors = {{"a.weight", "BF16", "w4g32", 64, 36, 0.005}, {"b.weight", "BF16", "BF16", 32, 64, 0}};
    const Json json = manifest_json(manifest);
    EXPECT_EQ(json["totals"]["bytes"].int_or(0), 100);
    EXPECT_EQ(json["totals"]["elements"].int_or(0), 96);
    EXPECT_DOUBLE_EQ(json["totals"]["bits_per_weight"].number_or(0), 800.0 / 96);
    EXPECT_TRUE(json["evidence"].is_array());
    EXPECT_EQ(json["evidence"].size(), 0u);
    auto tensor = parse_tensor_json(json["tensors"].items()[0]);
    ASSERT_TRUE(tensor.ok());
    EXPECT_EQ(tensor_json(*tensor).dump(), json["tensors"].items()[0].dump());
    EXPECT_FALSE(parse_tensor_json(Json::object({{"key", "a"}})).ok());

    write(path(manifest_file_name), json.dump());
    ASSERT_TRUE(append_evidence(folder_, Json::object({{"kind", "perplexity"}})).ok());
    ASSERT_TRUE(append_evidence(folder_, Json::object({{"kind", "speed"}})).ok());
    auto read_back = read_json_file(path(manifest_file_name));
    ASSERT_TRUE(read_back.ok());
    EXPECT_EQ((*read_back)["evidence"].items()[1]["kind"].text(), "speed");
    EXPECT_EQ((*read_back)["tensors"].dump(), json["tensors"].dump());
    write(path(manifest_file_name), "{}");
    EXPECT_EQ(append_evidence(folder_, Json()).error().code, ErrorCode::corrupt);
}

Weight random_matrix(std::int64_t n_rows, std::int64_t n_columns, float deviation, std::uint64_t seed) {
    Rng rng(seed);
    std::vector<float> values(static_cast<std::size_t>(n_rows * n_columns));
    for (float& value : values) value = deviation * rng.normal();
    return make_float_weight({n_rows, n_columns}, std::move(values));
}

// Relative squared error that rounding a normal variable allows, by the uniform noise of a step over the range of a group, twice over.
double allowed_error(const Scheme& scheme, std::int64_t n_columns) {
    if (scheme.kind == NumberKind::floating) return scheme.dtype == DType::f32 ? 0 : scheme.dtype == DType::f16 ? 1e-6 : 1e-4;
    if (scheme.codebook != nullptr && scheme.codebook->is_float8()) return std::pow(2.0, scheme.codebook->name == "e4m3" ? -6 : -4) / 12;  // a step of the mantissa, of numbers of 1
    if (scheme.kind == NumberKind::vectors) return 2.5 * std::pow(4.0, -static_cast<double>(scheme.bits * scheme.n_books) / scheme.vector);
    const double group = static_cast<double>(scheme.group_size == 0 ? n_columns : std::min(n_columns, scheme.group_size));
    const double step = 2 * std::sqrt(2 * std::log(2 * group)) / (std::pow(2.0, scheme.bits) - 1);
    return 2 * step * step / 12;
}

TEST_F(Compress, EveryMethodOnEveryScheme) {
    ThreadPool one(1), three(3);
    for (const WeightMethod& method : weight_methods())
        for (const SchemePreset& preset : scheme_presets()) {
            SCOPED_TRACE(std::string(method.name) + " " + std::string(preset.name));
            Status defined = method.defined_on(preset.scheme);
            if (!defined.ok()) {
                EXPECT_FALSE(defined.error().message.empty());
                continue;
            }
            for (std::int64_t n_columns : {172, 256})  // 172: a last group of 12 or 44
                for (ScaleRule rule : {ScaleRule::search, ScaleRule::min_max}) {
                    const Weight source = random_matrix(17, n_columns, 0.05f, 3);
                    auto a = method.encode({source, preset.scheme, rule, one}), b = method.encode({source, preset.scheme, rule, three});
                    ASSERT_TRUE(a.ok() && b.ok());
                    const double error = relative_squared_error(source, *a, one);
                    EXPECT_LE(error, allowed_error(preset.scheme, n_columns));
                    EXPECT_EQ(error, relative_squared_error(source, *b, three));
                    EXPECT_EQ(error == 0, preset.name == "fp32");
                    if (const Codes* codes = a->codes()) {
                        EXPECT_EQ(codes->scheme, preset.scheme);
                        EXPECT_TRUE(std::equal(codes->packed.data.begin(), codes->packed.data.end(), b->codes()->packed.data.begin()));
                    } else {
                        EXPECT_EQ(a->plain()->dtype, preset.scheme.dtype);
                    }
                }
        }
    EXPECT_TRUE(find_weight_method("nearest").ok());
    EXPECT_EQ(find_weight_method("furthest").error().code, ErrorCode::usage);
}

TEST_F(Compress, SurveyFindsWhatIsNotFinite) {
    ThreadPool pool(2);
    for (float bad : {std::nanf(""), INFINITY, -INFINITY}) {
        std::vector<float> values(40 * 33, 0.5f);
        values[27 * 33 + 31] = bad;
        values[30 * 33 + 2] = bad;
        auto survey = survey_weight(make_float_weight({40, 33}, values), nullptr, pool);
        ASSERT_FALSE(survey.ok());
        EXPECT_NE(survey.error().message.find("row 27, column 31"), std::string::npos) << survey.error().message;
    }
    auto survey = survey_weight(make_float_weight({2, 2}, {1, -3, 3e38f, 0}), nullptr, pool);
    ASSERT_TRUE(survey.ok());
    EXPECT_EQ(survey->largest, 3e38f);
}

// The file is laid out by the survey's word, so where encoding needs f32 scales the survey must have said so.
TEST_F(Compress, SurveyForeseesWideScales) {
    ThreadPool pool(1);
    int n_wide = 0, n_foreseen = 0, n_tried = 0;
    Rng rng(11);
    for (const SchemePreset& preset : scheme_presets()) {
        if (!preset.scheme.is_coded() || preset.scheme.scale_dtype != DType::f16) continue;
        for (int i = 0; i < 200; ++i) {
            ++n_tried;
            const float deviation = std::exp2(static_cast<float>(rng.uniform() * 44 - 26));
            Weight weight = random_matrix(3, 40, deviation, rng.next());
            if (i % 4 == 0) weight = make_float_weight({1, 40}, std::vector<float>(40, deviation));
            auto survey = survey_weight(weight, &preset.scheme, pool);
            auto coded = encode_nearest(weight, preset.scheme, i % 2 == 0 ? ScaleRule::search : ScaleRule::min_max);
            ASSERT_TRUE(survey.ok() && coded.ok());
            const bool wide = coded->codes()->scheme.scale_dtype == DType::f32;
            EXPECT_LE(wide, survey->needs_wide_scales) << preset.name << " " << deviation;
            n_wide += wide;
            n_foreseen += survey->needs_wide_scales;
        }
    }
    EXPECT_GT(n_wide, 100);
    EXPECT_LT(n_foreseen, n_tried * 3 / 4);  // not everything
}

TEST_F(Compress, TransposedTwiceIsTheSame) {
    const Weight weight = random_matrix(70, 33, 1, 5);
    const Weight turned = transposed(weight), back = transposed(turned);
    EXPECT_EQ(turned.shape, (Shape{33, 70}));
    float row[70];
    turned.row(7, row);
    std::vector<float> original;
    ASSERT_TRUE(to_floats(*weight.plain(), original));
    for (int i = 0; i < 70; ++i) EXPECT_EQ(row[i], original[static_cast<std::size_t>(i * 33 + 7)]);
    EXPECT_TRUE(std::equal(back.plain()->data.begin(), back.plain()->data.end(), weight.plain()->data.begin()));
}

}  // namespace
}  // namespace skiff
