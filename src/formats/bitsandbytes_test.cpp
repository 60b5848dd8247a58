// Checkpoints of bitsandbytes, and FP8 ones: decoded here by hand, and with a lie in each field. tests/parity has some that the packages wrote.
#include "formats/stored_tensors_testing.h"

namespace skiff {
namespace {

std::unique_ptr<QuantizedReader> reader_for(const std::string& config) {
    auto reader = make_quantized_reader(json_of(config));
    EXPECT_TRUE(reader.ok()) << reader.error().to_string();
    return reader.ok() ? std::move(*reader) : nullptr;
}

StoredTensor text_tensor(const std::string& text) {
    return stored(DType::u8, {static_cast<std::int64_t>(text.size())}, std::vector<std::uint8_t>(text.begin(), text.end()));
}
std::string state_text(const char* type, std::int64_t n_rows, std::int64_t n_columns, int block, const std::string& more = "") {
    return std::string(R"({"quant_type":")") + type + R"(","blocksize":)" + std::to_string(block) + R"(,"dtype":"bfloat16","shape":[)" + std::to_string(n_rows) + "," + std::to_string(n_columns) + "]" + more + "}";
}

struct Made {
    StoredTensors tensors;
    std::vector<float> weight;
};
Made make(const char* type, std::int64_t n_rows, std::int64_t n_columns, int block, bool nested) {
    Rng rng(23);
    const std::int64_t n = n_rows * n_columns, n_blocks = (n + block - 1) / block;
    const auto levels = find_codebook(type)->levels;
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>((n + 1) / 2)), scale_codes(static_cast<std::size_t>(n_blocks));
    for (auto& byte : bytes) byte = static_cast<std::uint8_t>(rng.next());
    for (auto& code : scale_codes) code = static_cast<std::uint8_t>(rng.next());
    std::vector<float> scales(static_cast<std::size_t>(n_blocks)), table(256), outer(static_cast<std::size_t>((n_blocks + 255) / 256));
    for (auto* list : {&scales, &table, &outer})
        for (float& value : *list) value = static_cast<float>(rng.uniform());
    if (nested)
        for (std::size_t i = 0; i < scales.size(); ++i) {
            const float product = table[scale_codes[i]] * outer[i / 256];
            scales[i] = product + 0.25f;
        }
    Made made;
    const std::string name = std::string("m.weight.quant_state.bitsandbytes__") + type;
    made.tensors["m.weight"] = stored(DType::u8, {(n + 1) / 2, 1}, bytes);
    made.tensors["m.weight.quant_map"] = stored(DType::f32, {16}, std::vector<float>(levels.begin(), levels.end()));
    made.tensors[name] = text_tensor(state_text(type, n_rows, n_columns, block, nested ? R"(,"nested_blocksize":256,"nested_dtype":"float32","nested_offset":0.25)" : ""));
    if (nested) {
        made.tensors["m.weight.absmax"] = stored(DType::u8, {n_blocks}, scale_codes);
        made.tensors["m.weight.nested_absmax"] = stored(DType::f32, {static_cast<std::int64_t>(outer.size())}, outer);
        made.tensors["m.weight.nested_quant_map"] = stored(DType::f32, {256}, table);
    } else {
        made.tensors["m.weight.absmax"] = stored(DType::f32, {n_blocks}, scales);
    }
    for (std::int64_t i = 0; i < n; ++i) {
        const int code = i % 2 == 0 ? bytes[static_cast<std::size_t>(i / 2)] >> 4 : bytes[static_cast<std::size_t>(i / 2)] & 15;
        made.weight.push_back(levels[static_cast<std::size_t>(code)] * scales[static_cast<std::size_t>(i / block)]);
    }
    return made;
}

TEST(Bitsandbytes, ReadsFourBits) {
    struct Case {
        const char* type;
        std::int64_t n_rows, n_columns;
        int block;
        const char* encoding;
    };
    const Case cases[] = {{"nf4", 7, 128, 64, "nf4g64"}, {"fp4", 7, 128, 64, "fp4g64"}, {"nf4", 6, 96, 64, "nf4g32"},  // a block runs over the end of a row
                          {"nf4", 5, 64, 128, "nf4g0"},  {"nf4", 3, 100, 64, "F32"},   {"nf4", 3, 33, 4096, "nf4g0"}};
    for (const Case& c : cases)
        for (const bool nested : {false, true}) {
            SCOPED_TRACE(std::string(c.encoding) + (nested ? " nested" : ""));
            const Made made = make(c.type, c.n_rows, c.n_columns, c.block, nested);
            auto weight = reader_for(R"({"quant_method":"bitsandbytes"})")->read("m", lookup_in(made.tensors));
            ASSERT_TRUE(weight.ok()) << weight.error().to_string();
            EXPECT_EQ((*weight)->encoding_name(), c.encoding);
            std::vector<float> row(static_cast<std::size_t>(c.n_columns));
            for (std::int64_t r = 0; r < c.n_rows; ++r) {
                (*weight)->row(r, row.data());
                for (std::int64_t column = 0; column < c.n_columns; ++column) ASSERT_EQ(row[static_cast<std::size_t>(column)], made.weight[static_cast<std::size_t>(r * c.n_columns + column)]);
            }
        }
}

TEST(Bitsandbytes, ReadsEightBits) {
    StoredTensors tensors;
    tensors["m.weight"] = stored(DType::i8, {2, 3}, std::vector<std::int8_t>{-127, 0, 127, 1, -2, 3});
    tensors["m.SCB"] = stored(DType::f32, {2}, std::vector<float>{127.0f, 2.54f});
    const auto reader = reader_for(R"({"quant_method":"bitsandbytes"})");
    auto weight = reader->read("m", lookup_in(tensors));
    ASSERT_TRUE(weight.ok()) << weight.error().to_string();
    float row[3];
    (*weight)->row(0, row);
    EXPECT_FLOAT_EQ(row[0], -127);
    EXPECT_FLOAT_EQ(row[2], 127);
    (*weight)->row(1, row);
    EXPECT_FLOAT_EQ(row[1], -0.04f);
    expect_refused(*reader, tensors, "m.SCB", zeros_of(DType::f32, {3}), "SCB is F32 [3]");
    expect_refused(*reader, tensors, "m.weight", zeros_of(DType::u8, {2, 3}), "weight is U8");
    expect_refused(*reader, tensors, "m.SCB", ending_in(tensors.at("m.SCB"), INFINITY), "SCB holds infinity");
    tensors.erase("m.SCB");
    EXPECT_FALSE(reader->read("m", lookup_in(tensors))->has_value());
}

TEST(Bitsandbytes, RefusesWhatDisagrees) {
    const StoredTensors tensors = make("nf4", 7, 128, 64, true).tensors;
    const auto reader = reader_for(R"({"quant_method":"bitsandbytes"})");
    const auto refuse = [&](const char* name, std::optional<StoredTensor> replaced, const char* message) { expect_refused(*reader, tensors, name, std::move(replaced), message); };
    const char* state = "m.weight.quant_state.bitsandbytes__nf4";
    const std::string nested = R"(,"nested_blocksize":256,"nested_offset":0.25)";
    refuse("m.weight", std::nullopt, "there is no tensor \"m.weight\"");
    refuse("m.weight", zeros_of(DType::u8, {447, 1}), "448 bytes for [7, 128]");
    refuse("m.weight.absmax", zeros_of(DType::f32, {14}), "absmax is F32");
    refuse("m.weight.absmax", zeros_of(DType::u8, {15}), "14 codes");
    refuse("m.weight.nested_absmax", zeros_of(DType::f32, {2}), "nested_absmax is F32 [2]");
    refuse("m.weight.nested_quant_map", zeros_of(DType::f32, {255}), "nested_quant_map is F32 [255]");
    refuse("m.weight.nested_absmax", ending_in(tensors.at("m.weight.nested_absmax"), NAN), "weight.nested_absmax holds NaN");
    refuse("m.weight.nested_absmax", ending_in(tensors.at("m.weight.nested_absmax"), INFINITY), "weight.nested_absmax holds infinity");
    refuse("m.weight.nested_quant_map", ending_in(tensors.at("m.weight.nested_quant_map"), -INFINITY), "weight.nested_quant_map holds infinity at row 0, column 255");
    const StoredTensors single = make("nf4", 7, 128, 64, false).tensors;
    expect_refused(*reader, single, "m.weight.absmax", ending_in(single.at("m.weight.absmax"), NAN), "weight.absmax holds NaN");
    StoredTensors huge = tensors;
    huge["m.weight.nested_quant_map"] = stored(DType::f32, {256}, std::vector<float>(256, 1e30f));
    expect_refused(*reader, huge, "m.weight.nested_absmax", stored(DType::f32, {1}, std::vector<float>(1, 1e30f)), "absmax times nested_absmax holds infinity");
    refuse("m.weight.quant_map", zeros_of(DType::f32, {16}), "quant_map is not the table of nf4");
    refuse("m.weight.quant_map", zeros_of(DType::f32, {17}), "quant_map is F32 [17]");
    refuse(state, text_tensor("{"), "quant_state");
    refuse(state, zeros_of(DType::u8, {70000}), "quant_state is U8");
    refuse(state, text_tensor(state_text("fp4", 7, 128, 64, nested)), "quant_type \"fp4\" under the name nf4");
    refuse(state, text_tensor(state_text("nf4", 7, 129, 64, nested)), "452 bytes for [7, 129]");
    refuse(state, text_tensor(state_text("nf4", -7, 128, 64, nested)), "shape must be two integers");
    refuse(state, text_tensor(state_text("nf4", std::int64_t{1} << 40, std::int64_t{1} << 40, 64, nested)), "shape must be two integers");
    refuse(state, text_tensor(state_text("nf4", 7, 128, 0, nested)), "blocksize must be");
    refuse(state, text_tensor(state_text("nf4", 7, 128, 64, R"(,"nested_blocksize":0)")), "nested_blocksize must be");
    refuse(state, text_tensor(state_text("nf4", 7, 128, 64, R"(,"nested_blocksize":256)")), "nested_offset");
    refuse(state, text_tensor(R"({"quant_type":"nf4","shape":7})"), "shape must be two integers");
}

// ---- FP8

TEST(Fp8, ReadsScalesOfEveryKind) {
    constexpr std::int64_t n_rows = 5;
    Rng rng(2);
    struct Case {
        const char* name;
        Shape shape;                            // of the scales
        std::int64_t n_columns, rows, columns;  // of a block
        const char* codes;                      // what it stays; null: it becomes floats
    };
    const Case cases[] = {{"m.weight_scale", {}, 7, 5, 7, "e4m3g0"},         {"m.weight_scale", {1}, 7, 5, 7, "e4m3g0"},       {"m.weight_scale", {5, 1}, 7, 1, 7, "e4m3g0"},
                          {"m.weight_scale", {5}, 7, 1, 7, "e4m3g0"},        {"m.weight_scale_inv", {3, 2}, 7, 2, 4, nullptr}, {"m.weight_scale_inv", {3, 3}, 150, 2, 64, "e4m3g64"},
                          {"m.weight_scale_inv", {2, 2}, 256, 3, 128, "e4m3g128"}, {"m.weight_scale_inv", {2, 1}, 66, 3, 128, "e4m3g0"}};
    for (const Case& c : cases)
        for (const char* kind : {"any", "narrow", "tiny"})
            for (const DType dtype : {DType::f8_e4m3, DType::f8_e5m2}) {
                SCOPED_TRACE(std::string(c.codes != nullptr ? c.codes : "floats") + " " + kind + " " + std::to_string(static_cast<int>(dtype)));
                const std::string what = kind;
                const bool e4m3 = dtype == DType::f8_e4m3, tiny = what == "tiny", narrow = what == "narrow";
                std::vector<std::uint8_t> bytes(static_cast<std::size_t>(n_rows * c.n_columns));
                for (auto& byte : bytes) byte = static_cast<std::uint8_t>(rng.next() % (e4m3 ? 0x7f : 0x7c) + (rng.next() % 2) * 0x80);  // no NaN
                std::vector<float> scales(static_cast<std::size_t>(element_count(c.shape)));
                for (float& scale : scales) scale = narrow ? 0.25f : static_cast<float>(rng.uniform()) * (tiny ? 0x1p-110f : 1.0f);
                StoredTensors tensors;
                tensors["m.weight"] = stored(dtype, {n_rows, c.n_columns}, bytes);
                tensors[c.name] = stored(DType::f32, c.shape, scales);
                auto weight = reader_for(R"({"quant_method":"fp8","weight_block_size":[)" + std::to_string(c.rows) + "," + std::to_string(c.columns) + "]}")->read("m", lookup_in(tensors));
                ASSERT_TRUE(weight.ok()) << weight.error().to_string();
                if (c.codes == nullptr || tiny) {
                    EXPECT_EQ((*weight)->encoding_name(), narrow ? "BF16" : "F32");
                } else {
                    EXPECT_EQ((*weight)->encoding_name(), (e4m3 ? "e4m3" : "e5m2") + std::string(c.codes).substr(4));
                    EXPECT_LE((*weight)->stored_bytes(), static_cast<std::uint64_t>(n_rows * (c.n_columns + 3 + 4 * (c.n_columns / c.columns + 1))));
                }
                std::vector<float> row(static_cast<std::size_t>(c.n_columns));
                const std::int64_t across = (c.n_columns + c.columns - 1) / c.columns;
                for (std::int64_t r = 0; r < n_rows; ++r) {
                    (*weight)->row(r, row.data());
                    for (std::int64_t column = 0; column < c.n_columns; ++column) {
                        const std::uint8_t code = bytes[static_cast<std::size_t>(r * c.n_columns + column)];
                        ASSERT_EQ(row[static_cast<std::size_t>(column)], (e4m3 ? f8_e4m3_to_float(code) : f8_e5m2_to_float(code)) * scales[static_cast<std::size_t>(r / c.rows * across + column / c.columns)]);
                    }
                }
            }
}

TEST(Fp8, RefusesWhatDisagrees) {
    StoredTensors tensors;
    tensors["m.weight"] = zeros_of(DType::f8_e4m3, {130, 7});
    tensors["m.weight_scale_inv"] = zeros_of(DType::f32, {2, 1});
    const auto reader = reader_for(R"({"quant_method":"fp8"})");
    ASSERT_TRUE(reader->read("m", lookup_in(tensors)).ok());
    expect_refused(*reader, tensors, "m.weight_scale_inv", zeros_of(DType::f32, {1, 2}), "blocks [2, 1]");
    expect_refused(*reader, tensors, "m.weight_scale_inv", zeros_of(DType::i32, {2, 1}), "F32, BF16, F16 or F8_E8M0");
    expect_refused(*reader, tensors, "m.weight", zeros_of(DType::f8_e4m3, {910}), "a matrix");
    expect_refused(*reader, tensors, "m.weight", zeros_of(DType::f8_e4m3, {std::int64_t{1} << 60, 0}), "a matrix");
    expect_refused(*reader, tensors, "m.weight_scale_inv", ending_in(tensors.at("m.weight_scale_inv"), NAN), "weight_scale_inv holds NaN at row 1, column 0");
    expect_refused(*reader, tensors, "m.weight_scale_inv", ending_in(tensors.at("m.weight_scale_inv"), INFINITY), "weight_scale_inv holds infinity");
    for (const std::int64_t side : {7, 4}) {  // as codes, and where it becomes floats
        std::vector<std::uint8_t> codes(static_cast<std::size_t>(130 * 7), 0x38);
        codes[3 * 7 + 5] = 0xff;
        StoredTensors of_side = tensors;
        of_side["m.weight_scale_inv"] = stored(DType::f32, {2, side == 7 ? 1 : 2}, std::vector<float>(side == 7 ? 2 : 4, 0.5f));
        expect_refused(*reader_for(R"({"quant_method":"fp8","weight_block_size":[128,)" + std::to_string(side) + "]}"), of_side, "m.weight", stored(DType::f8_e4m3, {130, 7}, codes), "weight holds NaN at row 3, column 5 of [130, 7]");
    }
    tensors.erase("m.weight_scale_inv");
    EXPECT_FALSE(reader->read("m", lookup_in(tensors))->has_value());  // plain FP8 numbers
    for (const char* size : {"[128]", "[0,128]", "[128,-1]", "128", "[1.5,2]"})
        EXPECT_FALSE(make_quantized_reader(json_of(std::string(R"({"quant_method":"fp8","weight_block_size":)") + size + "}")).ok()) << size;
}

}  // namespace
}  // namespace skiff
