// GPTQ checkpoints: packed here by hand as the documents say, written and read again, and with a lie in each field.
#include "formats/gptq.h"

#include "formats/packed_inputs.h"
#include "formats/stored_tensors_testing.h"

namespace skiff {
namespace {

std::unique_ptr<QuantizedReader> reader_for(const std::string& config) {
    auto reader = make_quantized_reader(json_of(config));
    EXPECT_TRUE(reader.ok()) << reader.error().to_string();
    return reader.ok() ? std::move(*reader) : nullptr;
}

// value(i): number i of a stream of `bits` each, lowest bits first.
std::uint32_t number_at(const std::vector<std::uint32_t>& words, int bits, std::int64_t i) {
    std::uint32_t value = 0;
    for (int b = 0; b < bits; ++b) {
        const std::int64_t bit = i * bits + b;
        value |= (words[static_cast<std::size_t>(bit / 32)] >> (bit % 32) & 1) << b;
    }
    return value;
}

// Random tensors of a module, and by the words of the format what each weight is.
struct Made {
    StoredTensors tensors;
    std::vector<float> weight;  // (n_out, n_in)
};
Made make(int bits, std::int64_t n_in, std::int64_t n_out, std::int64_t group_size, GptqForm form, const std::vector<std::int32_t>& g_idx) {
    Rng rng(17);
    const std::int64_t in_words = n_in * bits / 32, out_words = n_out * bits / 32, n_groups = (n_in + group_size - 1) / group_size;
    std::vector<std::uint32_t> qweight(static_cast<std::size_t>(in_words * n_out)), qzeros(static_cast<std::size_t>(n_groups * out_words));
    for (auto& word : qweight) word = static_cast<std::uint32_t>(rng.next());
    std::vector<std::uint32_t> zeros(static_cast<std::size_t>(n_groups * n_out));
    for (std::int64_t g = 0; g < n_groups; ++g)
        for (std::int64_t out = 0; out < n_out; ++out) {
            const std::uint32_t zero = 1 + static_cast<std::uint32_t>(rng.next()) % ((1u << bits) - 1), kept = form == GptqForm::v1 ? zero - 1 : zero;
            zeros[static_cast<std::size_t>(g * n_out + out)] = zero;
            for (int b = 0; b < bits; ++b) {
                const std::int64_t bit = out * bits + b;
                qzeros[static_cast<std::size_t>(g * out_words + bit / 32)] |= (kept >> b & 1) << (bit % 32);
            }
        }
    std::vector<std::uint16_t> scales(static_cast<std::size_t>(n_groups * n_out));
    for (auto& scale : scales) scale = float_to_f16(0.01f + 0.02f * rng.uniform());
    Made made;
    made.weight.resize(static_cast<std::size_t>(n_in * n_out));
    for (std::int64_t out = 0; out < n_out; ++out) {
        std::vector<std::uint32_t> stream(static_cast<std::size_t>(in_words));
        for (std::int64_t w = 0; w < in_words; ++w) stream[static_cast<std::size_t>(w)] = qweight[static_cast<std::size_t>(w * n_out + out)];
        for (std::int64_t in = 0; in < n_in; ++in) {
            const auto group = static_cast<std::size_t>(g_idx[static_cast<std::size_t>(in)] * n_out + out);
            made.weight[static_cast<std::size_t>(out * n_in + in)] =
                (static_cast<float>(number_at(stream, bits, in)) - static_cast<float>(zeros[group])) * f16_to_float(scales[group]);
        }
    }
    made.tensors["m.qweight"] = stored(DType::i32, {in_words, n_out}, qweight);
    made.tensors["m.qzeros"] = stored(DType::i32, {n_groups, out_words}, qzeros);
    made.tensors["m.scales"] = stored(DType::f16, {n_groups, n_out}, scales);
    made.tensors["m.g_idx"] = stored(DType::i32, {n_in}, g_idx);
    return made;
}

std::vector<std::int32_t> in_order(std::int64_t n_in, std::int64_t group_size) {
    std::vector<std::int32_t> g_idx(static_cast<std::size_t>(n_in));
    for (std::int64_t i = 0; i < n_in; ++i) g_idx[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i / group_size);
    return g_idx;
}
std::vector<std::int32_t> shuffled(std::int64_t n_in, std::int64_t group_size) {
    auto g_idx = in_order(n_in, group_size);
    Rng rng(4);
    for (std::size_t i = g_idx.size() - 1; i > 0; --i) std::swap(g_idx[i], g_idx[static_cast<std::size_t>(rng.next() % (i + 1))]);
    return g_idx;
}

std::string config_text(int bits, std::int64_t group_size, GptqForm form, const std::string& more = "") {
    return R"({"quant_method":"gptq","bits":)" + std::to_string(bits) + R"(,"group_size":)" + std::to_string(group_size) + R"(,"checkpoint_format":")" +
           (form == GptqForm::v1 ? "gptq" : "gptq_v2") + "\"" + more + "}";
}

TEST(Gptq, ReadsWhatTheDocumentsSay) {
    constexpr std::int64_t n_in = 96, n_out = 64;
    for (const int bits : {2, 3, 4, 8})
        for (const GptqForm form : {GptqForm::v1, GptqForm::v2})
            for (const std::int64_t group_size : {32, 96})
                for (const bool reordered : {false, true}) {
                    SCOPED_TRACE(std::to_string(bits) + " bits, group " + std::to_string(group_size) + (reordered ? ", reordered" : ""));
                    const Made made = make(bits, n_in, n_out, group_size, form, reordered ? shuffled(n_in, group_size) : in_order(n_in, group_size));
                    const auto reader = reader_for(config_text(bits, group_size == n_in ? -1 : group_size, form));
                    auto weight = reader->read("m", lookup_in(made.tensors));
                    ASSERT_TRUE(weight.ok()) << weight.error().to_string();
                    ASSERT_TRUE(weight->has_value());
                    auto order = reader->input_order("m", lookup_in(made.tensors));
                    ASSERT_TRUE(order.ok());
                    EXPECT_EQ(order->empty(), !reordered || group_size == n_in);
                    std::vector<float> row(n_in);
                    for (std::int64_t out = 0; out < n_out; ++out) {
                        (*weight)->row(out, row.data());
                        for (std::int64_t column = 0; column < n_in; ++column) {
                            const std::int64_t in = order->empty() ? column : (*order)[static_cast<std::size_t>(column)];
                            ASSERT_EQ(row[static_cast<std::size_t>(column)], made.weight[static_cast<std::size_t>(out * n_in + in)]) << out << ", " << in;
                        }
                    }
                }
}

TEST(Gptq, WritesWhatItReads) {
    for (const char* name : {"w2g32", "w2g32a", "w3g32", "w3g96a", "w4g32", "w4g32a", "w4", "w4a", "w4g64", "w8g32", "w8", "w8a"})
        for (const bool reordered : {false, true}) {
            SCOPED_TRACE(std::string(name) + (reordered ? ", reordered" : ""));
            const Weight weight = random_codes(name, 64, 192);
            const Scheme& scheme = weight.codes()->scheme;
            std::vector<std::int32_t> order;
            if (reordered && scheme.group_size != 0) {
                const auto g_idx = shuffled(192, scheme.group_size);
                order = *order_by_group("m", {DType::i32, {192}, std::as_bytes(std::span<const std::int32_t>(g_idx))}, scheme.group_size);
            }
            GptqModel model;
            model.modules["m"] = scheme;
            auto tensors = gptq_tensors("m", weight, model.form(), order);
            ASSERT_TRUE(tensors.ok()) << tensors.error().to_string();
            StoredTensors files;
            for (const auto& tensor : *tensors) files[tensor.name] = tensor;
            const auto reader = reader_for(gptq_config(model).dump());
            auto again = reader->read("m", lookup_in(files));
            ASSERT_TRUE(again.ok()) << again.error().to_string();
            expect_same_codes(weight, **again);
            EXPECT_EQ(*reader->input_order("m", lookup_in(files)), order);
        }
}

// A zero of 0, which the first form cannot say, borrows from the words: GPTQModel writes and reads it so.
TEST(Gptq, ZerosOfTheFirstFormAreWholeWords) {
    Made made = make(4, 32, 32, 32, GptqForm::v1, in_order(32, 32));
    std::vector<std::uint32_t> words = {0x80u - 0x11111111u, 0x77777777u, 0x77777777u, 0x77777777u};  // zeros 0, 8, 0, 0, ...
    made.tensors["m.qzeros"] = stored(DType::i32, {1, 4}, words);
    auto weight = reader_for(config_text(4, 32, GptqForm::v1))->read("m", lookup_in(made.tensors));
    ASSERT_TRUE(weight.ok());
    const auto zeros = (*weight)->codes()->zeros.data;
    EXPECT_EQ(std::to_integer<int>(zeros[0]), 0);
    EXPECT_EQ(std::to_integer<int>(zeros[1]), 8);
    EXPECT_EQ(std::to_integer<int>(zeros[2]), 0);
    EXPECT_EQ(std::to_integer<int>(zeros[8]), 8);
}

TEST(Gptq, OverridesByPattern) {
    const auto reader = reader_for(config_text(4, 32, GptqForm::v2, R"(,"dynamic":{"-:^out$":{},"+:.*m$":{"bits":8,"group_size":-1},"m":{"bits":2}})"));
    const Made made = make(8, 64, 32, 64, GptqForm::v2, in_order(64, 64));
    auto weight = reader->read("m", lookup_in(made.tensors));
    ASSERT_TRUE(weight.ok()) << weight.error().to_string();
    EXPECT_EQ((*weight)->encoding_name(), "w8a");
    StoredTensors out;
    for (const auto& [name, tensor] : made.tensors) out["out" + name.substr(1)] = tensor;
    EXPECT_NE(reader->read("out", lookup_in(out)).error().message.find("says that it is not"), std::string::npos);
    EXPECT_FALSE(reader->read("absent", lookup_in(out))->has_value());
}

TEST(Gptq, ConfigSaysWhatDiffers) {
    GptqModel model;
    model.modules = {{"a.b", *parse_scheme("w4g32")}, {"a.c", *parse_scheme("w4g32")}, {"a.d", *parse_scheme("w8")}};
    model.plain = {"a.e", "lm_head"};
    const Json config = gptq_config(model);
    EXPECT_EQ(config["bits"].int_or(0), 4);
    EXPECT_EQ(config["group_size"].int_or(0), 32);
    EXPECT_EQ(config["checkpoint_format"].text(), "gptq");
    EXPECT_EQ(config["dynamic"]["+:^a\\.d$"]["bits"].int_or(0), 8);
    EXPECT_EQ(config["dynamic"]["+:^a\\.d$"]["group_size"].int_or(0), -1);
    EXPECT_TRUE(config["dynamic"].contains("-:^a\\.e$"));
    EXPECT_EQ(config["dynamic"].size(), 2u);
    EXPECT_FALSE(config.contains("damp_percent") || config.contains("true_sequential"));  // nothing says that GPTQ chose the codes
    model.made = {{"damp_percent", 0.05}, {"true_sequential", false}};
    EXPECT_EQ(gptq_config(model)["damp_percent"].number_or(0), 0.05);
    EXPECT_FALSE(gptq_config(model)["true_sequential"].bool_or(true));
    model.modules["a.c"] = *parse_scheme("w4g32a");
    EXPECT_EQ(gptq_config(model)["checkpoint_format"].text(), "gptq_v2");
}

TEST(Gptq, RefusesConfigs) {
    const std::pair<const char*, const char*> bad[] = {
        {R"({"quant_method":"gptq"})", "bits must be an integer"},
        {R"({"quant_method":"gptq","bits":4})", "group_size must be an integer"},
        {R"({"quant_method":"gptq","bits":"4","group_size":32})", "bits must be an integer"},
        {R"({"quant_method":"gptq","bits":5,"group_size":32})", "5 bits"},
        {R"({"quant_method":"gptq","bits":4,"group_size":0})", "group_size 0"},
        {R"({"quant_method":"gptq","bits":4,"group_size":-2})", "group_size -2"},
        {R"({"quant_method":"gptq","bits":4,"group_size":32,"checkpoint_format":"marlin"})", "\"marlin\" is not read"},
        {R"({"quant_method":"gptq","bits":4,"group_size":32,"is_marlin_format":true})", "Marlin"},
        {R"({"quant_method":"gptq","bits":4,"group_size":32,"pack_dtype":"int16"})", "pack_dtype int16"},
        {R"({"quant_method":"gptq","bits":4,"group_size":32,"dynamic":[]})", "dynamic must be an object"},
        {R"({"quant_method":"gptq","bits":4,"group_size":32,"dynamic":{"a(":{}}})", "quantization_config.dynamic \"a(\""},
        {R"({"quant_method":"gptq","bits":4,"group_size":32,"dynamic":{"a":4}})", "must be an object"},
        {R"({"quant_method":"gptq","bits":4,"group_size":32,"dynamic":{"a":{"bits":7}}})", "7 bits"},
        {R"({"quant_method":"hqq","bits":4})", "known: compressed-tensors, gptq, awq, bitsandbytes, fp8"},
        {R"(4)", "must be an object"},
    };
    for (const auto& [text, message] : bad) {
        auto reader = make_quantized_reader(json_of(text));
        ASSERT_FALSE(reader.ok()) << text;
        EXPECT_NE(reader.error().to_string().find(message), std::string::npos) << reader.error().to_string();
    }
}

TEST(Gptq, RefusesTensorsThatDisagree) {
    const Made made = make(4, 96, 64, 32, GptqForm::v1, in_order(96, 32));
    const auto reader = reader_for(config_text(4, 32, GptqForm::v1));
    const auto refuse = [&](const char* name, std::optional<StoredTensor> replaced, const char* message) { expect_refused(*reader, made.tensors, name, std::move(replaced), message); };
    refuse("m.qweight", zeros_of(DType::f16, {12, 64}), "qweight is F16 [12, 64]");
    refuse("m.qweight", zeros_of(DType::i32, {768}), "expected a matrix");
    refuse("m.qweight", zeros_of(DType::i32, {11, 64}), "12 rows for 96 inputs");
    refuse("m.qweight", zeros_of(DType::i32, {12, 0}), "not an empty one");
    refuse("m.qweight", zeros_of(DType::i32, {std::int64_t{1} << 60, 0}), "not an empty one");
    refuse("m.scales", std::nullopt, "there is no tensor \"m.scales\"");
    refuse("m.scales", zeros_of(DType::f16, {4, 64}), "scales is F16 [4, 64]");
    refuse("m.scales", zeros_of(DType::i8, {3, 64}), "scales is I8");
    refuse("m.scales", ending_in(made.tensors.at("m.scales"), NAN), "scales holds NaN at row 2, column 63 of [3, 64]");
    refuse("m.scales", ending_in(made.tensors.at("m.scales"), -INFINITY), "scales holds infinity");
    refuse("m.scales", ending_in(stored(DType::f32, {3, 64}, std::vector<float>(192, 0.5f)), NAN), "scales holds NaN");
    refuse("m.qzeros", std::nullopt, "there is no tensor \"m.qzeros\"");
    refuse("m.qzeros", zeros_of(DType::i32, {3, 7}), "qzeros is I32 [3, 7]");
    refuse("m.qzeros", zeros_of(DType::u8, {3, 8}), "qzeros is U8");
    refuse("m.g_idx", zeros_of(DType::i64, {96}), "g_idx is I64");
    refuse("m.g_idx", zeros_of(DType::i32, {96, 1}), "g_idx is I32 [96, 1]");
    refuse("m.g_idx", zeros_of(DType::i32, {128}), "16 rows for 128 inputs");
    refuse("m.g_idx", zeros_of(DType::i32, {96}), "has 96 inputs, not 32");
    auto beyond = in_order(96, 32);
    beyond[5] = 3;
    refuse("m.g_idx", stored(DType::i32, {96}, beyond), "holds the group 3");
    beyond[5] = -1;
    refuse("m.g_idx", stored(DType::i32, {96}, beyond), "holds the group -1");
}

TEST(Gptq, SaysWhatItCannotWrite) {
    const std::pair<const char*, Shape> bad[] = {{"w4g32r", {64, 64}}, {"w4g32m", {64, 64}}, {"nf4", {64, 64}}, {"w5g32", {64, 64}}, {"w4g32", {40, 64}}, {"w4g32", {64, 48}}, {"w4g64", {64, 96}}};
    for (const auto& [name, shape] : bad) EXPECT_EQ(check_gptq(*parse_scheme(name), shape).error().code, ErrorCode::unsupported) << name << shape_text(shape);
    EXPECT_TRUE(check_gptq(*parse_scheme("w4g32a"), {64, 64}).ok());
}

// Scales of other types are written where F16 holds each of them: BF16 ones mostly.
TEST(Gptq, ScalesOfOtherTypes) {
    const Weight half = random_codes("w4g32", 32, 64);
    std::vector<float> values;
    ASSERT_TRUE(to_floats(half.codes()->scales, values));
    for (const DType dtype : {DType::f32, DType::bf16}) {
        Weight weight = half;
        auto& codes = std::get<Codes>(weight.store);
        std::vector<float> exact = values;
        for (float& value : exact) value = bf16_to_float(float_to_bf16(value));
        auto bytes = std::make_shared<std::vector<std::byte>>(exact.size() * static_cast<std::size_t>(dtype_info(dtype).bits / 8));
        dtype_info(dtype).from_float(exact.data(), static_cast<std::int64_t>(exact.size()), bytes->data());
        codes.scheme.scale_dtype = dtype;
        codes.scales = {dtype, {32, 2}, *bytes};
        auto tensors = gptq_tensors("m", weight, GptqForm::v1, {});
        ASSERT_TRUE(tensors.ok()) << tensors.error().to_string();
        StoredTensors files;
        for (const auto& tensor : *tensors) files[tensor.name] = tensor;
        auto again = reader_for(config_text(4, 32, GptqForm::v1))->read("m", lookup_in(files));
        ASSERT_TRUE(again.ok());
        std::vector<float> a(64), b(64);
        for (std::int64_t row = 0; row < 32; ++row) {
            weight.row(row, a.data());
            (*again)->row(row, b.data());
            EXPECT_EQ(a, b);
        }
        exact[3] = 1e-9f;
        dtype_info(dtype).from_float(exact.data(), static_cast<std::int64_t>(exact.size()), bytes->data());
        EXPECT_NE(gptq_tensors("m", weight, GptqForm::v1, {}).error().to_string().find("cannot hold"), std::string::npos);
    }
}

}  // namespace
}  // namespace skiff
