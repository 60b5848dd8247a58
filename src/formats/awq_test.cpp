// AWQ checkpoints: packed here by hand as the documents say, written and read again, and with a lie in each field.
#include "formats/awq.h"

#include "formats/stored_tensors_testing.h"

namespace skiff {
namespace {

std::unique_ptr<QuantizedReader> reader_for(const std::string& config) {
    auto reader = make_quantized_reader(json_of(config));
    EXPECT_TRUE(reader.ok()) << reader.error().to_string();
    return reader.ok() ? std::move(*reader) : nullptr;
}
const char* gemm = R"({"quant_method":"awq","bits":4,"group_size":32,"zero_point":true,"version":"gemm"})";

// Four bits number i of word c are output c * 8 + order[i] (AutoAWQ packs so, with this very list).
constexpr int order[8] = {0, 2, 4, 6, 1, 3, 5, 7};

struct Made {
    StoredTensors tensors;
    std::vector<float> weight;  // (n_out, n_in)
};
Made make(std::int64_t n_in, std::int64_t n_out, std::int64_t group_size, bool gemv) {
    Rng rng(9);
    const std::int64_t n_groups = n_in / group_size;
    std::vector<std::uint32_t> codes(static_cast<std::size_t>(n_in * n_out)), zeros(static_cast<std::size_t>(n_groups * n_out));
    std::vector<float> scales(zeros.size());
    for (auto* list : {&codes, &zeros})
        for (auto& value : *list) value = static_cast<std::uint32_t>(rng.next()) & 15;
    for (float& scale : scales) scale = f16_to_float(float_to_f16(0.01f + 0.02f * rng.uniform()));
    Made made;
    for (std::int64_t out = 0; out < n_out; ++out)
        for (std::int64_t in = 0; in < n_in; ++in) {
            const auto group = static_cast<std::size_t>(in / group_size * n_out + out);
            made.weight.push_back((static_cast<float>(codes[static_cast<std::size_t>(in * n_out + out)]) - static_cast<float>(zeros[group])) * scales[group]);
        }
    if (!gemv) {
        const auto pack = [&](const std::vector<std::uint32_t>& values) {
            std::vector<std::uint32_t> words(values.size() / 8);
            for (std::size_t w = 0; w < words.size(); ++w)
                for (std::size_t i = 0; i < 8; ++i) words[w] |= values[w * 8 + static_cast<std::size_t>(order[i])] << (4 * i);
            return words;
        };
        std::vector<std::uint16_t> halves;
        for (const float scale : scales) halves.push_back(float_to_f16(scale));
        made.tensors["m.qweight"] = stored(DType::i32, {n_in, n_out / 8}, pack(codes));
        made.tensors["m.qzeros"] = stored(DType::i32, {n_groups, n_out / 8}, pack(zeros));
        made.tensors["m.scales"] = stored(DType::f16, {n_groups, n_out}, halves);
        return made;
    }
    const std::int64_t width = (n_groups + 7) / 8;
    std::vector<std::uint32_t> words(static_cast<std::size_t>(n_out * n_in / 8)), zero_words(static_cast<std::size_t>(n_out * width));
    std::vector<std::uint16_t> halves(static_cast<std::size_t>(n_out * width * 8));
    for (std::int64_t out = 0; out < n_out; ++out) {
        for (std::int64_t in = 0; in < n_in; ++in)
            words[static_cast<std::size_t>((out * n_in + in) / 8)] |= codes[static_cast<std::size_t>(in * n_out + out)] << (4 * (in % 8));
        for (std::int64_t g = 0; g < n_groups; ++g) {
            zero_words[static_cast<std::size_t>(out * width + g / 8)] |= zeros[static_cast<std::size_t>(g * n_out + out)] << (4 * (g % 8));
            halves[static_cast<std::size_t>(out * width * 8 + g)] = float_to_f16(scales[static_cast<std::size_t>(g * n_out + out)]);
        }
    }
    made.tensors["m.qweight"] = stored(DType::i32, {n_out, n_in / 8}, words);
    made.tensors["m.qzeros"] = stored(DType::i32, {n_out, width}, zero_words);
    made.tensors["m.scales"] = stored(DType::f16, {n_out, width * 8}, halves);
    return made;
}

TEST(Awq, ReadsWhatTheDocumentsSay) {
    constexpr std::int64_t n_in = 96, n_out = 40;
    for (const bool gemv : {false, true})
        for (const std::int64_t group_size : {32, 96}) {
            const Made made = make(n_in, n_out, group_size, gemv);
            const std::string config = R"({"quant_method":"awq","bits":4,"group_size":)" + std::to_string(group_size == n_in ? -1 : group_size) + R"(,"version":")" + (gemv ? "GEMV" : "GEMM") + "\"}";
            auto weight = reader_for(config)->read("m", lookup_in(made.tensors));
            ASSERT_TRUE(weight.ok()) << weight.error().to_string();
            std::vector<float> row(n_in);
            for (std::int64_t out = 0; out < n_out; ++out) {
                (*weight)->row(out, row.data());
                for (std::int64_t in = 0; in < n_in; ++in) ASSERT_EQ(row[static_cast<std::size_t>(in)], made.weight[static_cast<std::size_t>(out * n_in + in)]) << out << ", " << in;
            }
        }
    // as AutoAWQ named them before transformers knew them
    EXPECT_TRUE(reader_for(R"({"quant_method":"awq","w_bit":4,"q_group_size":32,"version":"GEMM"})")->read("m", lookup_in(make(64, 16, 32, false).tensors)).ok());
}

TEST(Awq, WritesWhatItReads) {
    for (const char* name : {"w4g32", "w4g32a", "w4", "w4a", "w4g64a"}) {
        const Weight weight = random_codes(name, 40, 192);
        auto tensors = awq_tensors("m", weight);
        ASSERT_TRUE(tensors.ok()) << tensors.error().to_string();
        StoredTensors files;
        for (const auto& tensor : *tensors) files[tensor.name] = tensor;
        auto again = reader_for(awq_config(weight.codes()->scheme.group_size, {}).dump())->read("m", lookup_in(files));
        ASSERT_TRUE(again.ok()) << again.error().to_string();
        expect_same_codes(weight, **again);
    }
}

TEST(Awq, RefusesWhatDisagrees) {
    const std::pair<const char*, const char*> bad[] = {
        {R"({"quant_method":"awq"})", "must be integers"},
        {R"({"quant_method":"awq","bits":3,"group_size":32})", "3 bits"},
        {R"({"quant_method":"awq","bits":4,"group_size":0})", "group_size 0"},
        {R"({"quant_method":"awq","bits":4,"group_size":32,"version":"gemv_fast"})", "\"gemv_fast\" is not read"},
        {R"({"quant_method":"awq","bits":4,"group_size":32,"version":"marlin"})", "\"marlin\" is not read"},
    };
    for (const auto& [text, message] : bad) {
        auto reader = make_quantized_reader(json_of(text));
        ASSERT_FALSE(reader.ok()) << text;
        EXPECT_NE(reader.error().to_string().find(message), std::string::npos) << reader.error().to_string();
    }
    const StoredTensors tensors = make(96, 40, 32, false).tensors;
    const auto reader = reader_for(gemm);
    const auto refuse = [&](const char* name, std::optional<StoredTensor> replaced, const char* message) { expect_refused(*reader, tensors, name, std::move(replaced), message); };
    refuse("m.qweight", zeros_of(DType::u8, {96, 5}), "qweight is U8");
    refuse("m.qweight", zeros_of(DType::i32, {480}), "a matrix");
    refuse("m.qweight", zeros_of(DType::i32, {95, 5}), "no multiple of the group size");
    refuse("m.qweight", zeros_of(DType::i32, {0, std::int64_t{1} << 60}), "not an empty one");
    refuse("m.qweight", zeros_of(DType::i32, {96, 6}), "scales is F16 [3, 40], expected");
    refuse("m.scales", std::nullopt, "there is no tensor \"m.scales\"");
    refuse("m.scales", zeros_of(DType::i32, {3, 40}), "scales is I32");
    refuse("m.qzeros", std::nullopt, "there is no tensor \"m.qzeros\"");
    refuse("m.qzeros", zeros_of(DType::i32, {3, 4}), "qzeros is I32 [3, 4]");
    refuse("m.scales", ending_in(tensors.at("m.scales"), NAN), "scales holds NaN at row 2, column 39 of [3, 40]");
    refuse("m.scales", ending_in(tensors.at("m.scales"), INFINITY), "scales holds infinity");
    const StoredTensors vectors = make(96, 40, 32, true).tensors;
    const auto gemv = reader_for(R"({"quant_method":"awq","bits":4,"group_size":32,"version":"gemv"})");
    expect_refused(*gemv, vectors, "m.qzeros", zeros_of(DType::i32, {39, 1}), "qzeros is I32 [39, 1]");
    expect_refused(*gemv, vectors, "m.scales", zeros_of(DType::f16, {40, 9}), "scales is F16 [40, 9]");
    StoredTensor scales = vectors.at("m.scales");
    ASSERT_TRUE(gemv->read("m", lookup_in(vectors)).ok());
    StoredTensors padding = vectors;
    padding["m.scales"] = ending_in(scales, NAN);  // behind the last group, where nothing reads it
    EXPECT_TRUE(gemv->read("m", lookup_in(padding)).ok());
    const std::int64_t n_padded = scales.shape[1];
    auto halves = std::vector<std::uint16_t>(static_cast<std::size_t>(40 * n_padded), 0x3c00);
    halves[static_cast<std::size_t>(7 * n_padded + 2)] = 0xfc00;
    expect_refused(*gemv, vectors, "m.scales", stored(DType::f16, {40, n_padded}, halves), "scales holds infinity at row 7, column 2 of [40, 3]");
}

TEST(Awq, SaysWhatItCannotWrite) {
    const std::pair<const char*, Shape> bad[] = {{"w8g32", {64, 64}}, {"w4g32r", {64, 64}}, {"nf4", {64, 64}}, {"w3g32", {64, 64}}, {"w4g32", {36, 64}}, {"w4g64", {64, 96}}};
    for (const auto& [name, shape] : bad) EXPECT_EQ(check_awq(*parse_scheme(name), shape).error().code, ErrorCode::unsupported) << name << shape_text(shape);
    EXPECT_TRUE(check_awq(*parse_scheme("w4g32a"), {64, 64}).ok());
}

}  // namespace
}  // namespace skiff
