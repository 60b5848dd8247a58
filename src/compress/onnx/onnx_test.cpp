// Graphs of the small models of tests/data, read back from their files by a reader of the tests' own: sound, of the structure that was run in onnxruntime,
// and with weights that mean what the checkpoint's mean, bit for bit.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/atomic_file.h"
#include "base/hash.h"
#include "base/mapped_file.h"
#include "compress/onnx/onnx_export.h"
#include "compress/onnx/onnx_operators.h"
#include "formats/onnx/onnx_testing.h"
#include "model/spec_builder.h"

namespace skiff {
namespace {

const std::string models_dir = std::string(SKIFF_TEST_DATA_DIR) + "/models";

Checkpoint open_case(const std::string& name) {
    auto checkpoint = Checkpoint::open(models_dir + "/" + name);
    EXPECT_TRUE(checkpoint.ok()) << name;
    return checkpoint.ok() ? std::move(*checkpoint) : Checkpoint();
}

// Matrices and tables of tokens in a scheme, as `quantize --head SCHEME --embedding SCHEME` makes them.
Checkpoint quantized(const std::string& name, const std::string& scheme_name) {
    Checkpoint checkpoint = open_case(name);
    static std::map<std::string, Scheme> schemes;
    const Scheme* scheme = &(schemes[scheme_name] = *parse_scheme(scheme_name));
    const ModelSpec spec = checkpoint.spec;
    checkpoint.weights = quantized_on_load(
        spec, checkpoint.weights,
        [spec, scheme](const std::string& key) {
            const TensorDecl& tensor = spec.tensors.at(key);
            const bool positions = key.find("wpe") != std::string::npos || key.find("embed_positions") != std::string::npos;
            return tensor.dimensions.size() == 2 && !positions ? scheme : nullptr;
        },
        ScaleRule::min_max);
    return checkpoint;
}

// A graph that was written and read back, and the numbers beside it.
struct Written {
    OnnxModel model;
    std::string data;

    const OnnxTensor* find(const std::string& name) const {
        for (const OnnxTensor& tensor : model.initializers)
            if (tensor.name == name) return &tensor;
        return nullptr;
    }
    const OnnxNode* reader(const std::string& name) const {
        for (const OnnxNode& node : model.nodes)
            if (std::find(node.inputs.begin(), node.inputs.end(), name) != node.inputs.end()) return &node;
        return nullptr;
    }
    std::string bytes(const OnnxTensor& tensor) const { return tensor.external ? data.substr(tensor.external->offset, tensor.external->length) : tensor.data; }
    std::vector<float> floats(const OnnxTensor& tensor) const {
        const std::string raw = bytes(tensor);
        const DTypeInfo& info = dtype_info(tensor.type == OnnxType::float16 ? DType::f16 : DType::f32);
        std::vector<float> values(static_cast<std::size_t>(element_count(tensor.dims)));
        EXPECT_EQ(raw.size(), values.size() * static_cast<std::size_t>(info.bits) / 8);
        info.to_float(raw.data(), static_cast<std::int64_t>(values.size()), values.data());
        return values;
    }
    // `bits`: of numbers that a tensor of bytes packs.
    std::vector<int> integers(const OnnxTensor& tensor, int bits = 8) const {
        const std::string raw = bytes(tensor);
        const bool packed = tensor.type == OnnxType::int4 || tensor.type == OnnxType::uint4 || bits == 4;
        std::vector<int> values;
        for (const char byte : raw) {
            const auto code = static_cast<unsigned char>(byte);
            if (tensor.type == OnnxType::int8) values.push_back(static_cast<signed char>(code));
            else if (!packed) values.push_back(code);
            else
                for (const int nibble : {code & 15, code >> 4}) values.push_back(tensor.type == OnnxType::int4 && nibble > 7 ? nibble - 16 : nibble);
        }
        return values;
    }
};

std::int64_t attribute(const OnnxNode& node, const std::string& name, std::int64_t fallback) {
    for (const OnnxAttribute& found : node.attributes)
        if (found.name == name) return std::get<std::int64_t>(found.value);
    return fallback;
}

// Through the bytes of the message, all numbers in one string.
Written write(const Checkpoint& checkpoint, const OnnxExportOptions& options) {
    Written written;
    auto plan = plan_onnx_export(checkpoint, options);
    EXPECT_TRUE(plan.ok()) << (plan.ok() ? "" : plan.error().to_string());
    if (!plan.ok()) return written;
    OnnxModel model = plan->model;
    for (const OnnxInitializer& initializer : plan->initializers) {
        OnnxTensor tensor = initializer.tensor;
        tensor.external = OnnxTensor::External{"data", written.data.size(), initializer.size_bytes};
        Status status = initializer.source([&](std::span<const std::byte> bytes) -> Status {
            written.data.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
            return {};
        });
        EXPECT_TRUE(status.ok()) << (status.ok() ? "" : status.error().to_string());
        EXPECT_EQ(written.data.size() - tensor.external->offset, initializer.size_bytes) << tensor.name;
        model.initializers.push_back(std::move(tensor));
    }
    auto bytes = serialize_onnx(model);
    EXPECT_TRUE(bytes.ok());
    if (bytes.ok()) written.model = read_onnx(*bytes);
    return written;
}

// ---- what the matrix `key` is in the graph, by the definitions of the operators that read it
std::vector<float> nbits_values(const Written& written, const OnnxNode& node, const OnnxTensor& codes) {
    const std::int64_t n = attribute(node, "N", 0), k = attribute(node, "K", 0), bits = attribute(node, "bits", 4), block = attribute(node, "block_size", 0);
    const std::int64_t n_blocks = (k + block - 1) / block, zero_row = n_blocks * bits % 8 == 0 ? n_blocks : (n_blocks + 1) / 2 * 2;
    EXPECT_EQ(codes.dims, (Shape{n, n_blocks, block * bits / 8}));
    const auto q = written.integers(codes, static_cast<int>(bits));
    const auto scales = written.floats(*written.find(node.inputs[2]));
    std::vector<int> zeros;
    if (node.inputs.size() > 3) zeros = written.integers(*written.find(node.inputs[3]), static_cast<int>(bits));
    std::vector<float> values;
    for (std::int64_t row = 0; row < n; ++row)
        for (std::int64_t column = 0; column < k; ++column) {
            const auto at = [](std::int64_t index) { return static_cast<std::size_t>(index); };
            const int zero = zeros.empty() ? 1 << (bits - 1) : zeros[at(row * (bits == 8 ? n_blocks : zero_row) + column / block)];
            values.push_back(static_cast<float>(q[at(row * n_blocks * block + column)] - zero) * scales[at(row * n_blocks + column / block)]);
        }
    return values;
}

std::vector<float> dequantized_values(const Written& written, const OnnxNode& node, const OnnxTensor& codes) {
    const std::int64_t axis = attribute(node, "axis", 1), block = attribute(node, "block_size", 0);
    const OnnxTensor& scale_tensor = *written.find(node.inputs[1]);
    const auto q = written.integers(codes), zeros = node.inputs.size() > 2 ? written.integers(*written.find(node.inputs[2])) : std::vector<int>();
    const auto scales = written.floats(scale_tensor);
    std::vector<float> values;
    for (std::int64_t i = 0; i < codes.dims[0]; ++i)
        for (std::int64_t j = 0; j < codes.dims[1]; ++j) {
            std::int64_t at = axis == 0 ? i : j;
            if (block > 0) at = axis == 0 ? i / block * scale_tensor.dims[1] + j : i * scale_tensor.dims[1] + j / block;
            const auto index = static_cast<std::size_t>(at);
            values.push_back(static_cast<float>(q[static_cast<std::size_t>(i * codes.dims[1] + j)] - (zeros.empty() ? 0 : zeros[index])) * scales[index]);
        }
    return values;
}

std::vector<float> quant_values(const Written& written, const OnnxNode& node, const OnnxTensor& weight) {
    const auto x = written.floats(weight), scales = written.floats(*written.find(node.inputs[1]));
    const std::size_t per_scale = x.size() / scales.size();
    std::vector<float> values;
    const bool bipolar = node.op_type == "BipolarQuant", is_signed = !bipolar && attribute(node, "signed", 1) == 1;
    std::vector<float> zeros, bits;
    if (!bipolar) zeros = written.floats(*written.find(node.inputs[2])), bits = written.floats(*written.find(node.inputs[3]));
    for (std::size_t i = 0; i < x.size(); ++i) {
        const float scale = scales[i / per_scale];
        if (bipolar) {
            values.push_back(x[i] >= 0 ? scale : -scale);
            continue;
        }
        const float zero = zeros.size() == 1 ? zeros[0] : zeros[i / per_scale], span = std::exp2(bits[0]);
        const float low = is_signed ? -span / 2 : 0, high = is_signed ? span / 2 - 1 : span - 1;
        values.push_back((std::clamp(std::nearbyint(x[i] / scale + zero), low, high) - zero) * scale);
    }
    return values;
}

// (outputs, inputs), perhaps with columns behind the inputs; empty where the key is in no matrix of its own.
std::vector<float> values_of(const Written& written, const std::string& key, std::int64_t n_rows) {
    if (const OnnxTensor* codes = written.find(key + "_quantized")) {
        for (const OnnxNode& node : written.model.nodes)
            if (node.op_type == "MatMulNBits" && node.inputs[1] == codes->name) return nbits_values(written, node, *codes);
        const OnnxNode* node = nullptr;
        for (const OnnxNode& candidate : written.model.nodes)
            if (candidate.op_type == "DequantizeLinear" && candidate.inputs[0] == codes->name) node = &candidate;
        if (node == nullptr) return {};
        const auto values = dequantized_values(written, *node, *codes);
        if (written.reader(node->outputs[0])->op_type != "MatMul") return values;
        std::vector<float> turned(values.size());
        const auto n = static_cast<std::size_t>(codes->dims[1]), k = static_cast<std::size_t>(codes->dims[0]);
        for (std::size_t i = 0; i < k; ++i)
            for (std::size_t j = 0; j < n; ++j) turned[j * k + i] = values[i * n + j];
        EXPECT_EQ(static_cast<std::int64_t>(n), n_rows);
        return turned;
    }
    const OnnxTensor* tensor = written.find(key);
    if (tensor == nullptr) return {};
    const OnnxNode* node = written.reader(key);
    return node->op_type.ends_with("Quant") ? quant_values(written, *node, *tensor) : written.floats(*tensor);
}

void expect_weights(const Written& written, const Checkpoint& checkpoint) {
    const std::set<std::string> columns = keys_stored_as_columns(checkpoint.spec);
    std::size_t n_found = 0;
    for (const auto& [key, tensor] : checkpoint.spec.tensors) {
        if (tensor.dimensions.size() != 2 || !checkpoint.weights->contains(key)) continue;
        auto weight = checkpoint.weights->load(key);
        ASSERT_TRUE(weight.ok());
        if (weight->plain() != nullptr && columns.count(key) != 0) weight = transposed(*weight);
        const auto found = values_of(written, key, weight->n_rows());
        if (found.empty()) continue;
        ++n_found;
        const std::size_t stride = found.size() / static_cast<std::size_t>(weight->n_rows());
        std::vector<float> row(static_cast<std::size_t>(weight->n_columns()));
        ASSERT_GE(stride, row.size()) << key;
        for (std::int64_t r = 0; r < weight->n_rows(); ++r) {
            weight->row(r, row.data());
            for (std::size_t c = 0; c < row.size(); ++c) ASSERT_EQ(found[static_cast<std::size_t>(r) * stride + c], row[c]) << key << " " << r << " " << c;
        }
    }
    EXPECT_GE(n_found, 3u);
}

constexpr std::pair<const char*, OnnxForm> forms[] = {{"nbits", OnnxForm::nbits}, {"qdq", OnnxForm::qdq}, {"qonnx", OnnxForm::qonnx}};

// tests/golden/onnx_run.py writes the file, of graphs that gave the right logits in onnxruntime (QONNX: in the qonnx package).
TEST(OnnxGraphs, AreSoundAndThoseThatWereRun) {
    auto golden = read_json_file(std::string(SKIFF_TEST_DATA_DIR) + "/onnx/graphs.json");
    ASSERT_TRUE(golden.ok());
    ASSERT_GE(golden->members().size(), 21u);
    for (const auto& [name, hash] : golden->members()) {
        SCOPED_TRACE(name);
        const std::size_t space = name.find(' ');
        const std::string model = name.substr(0, space);
        Checkpoint checkpoint;
        OnnxExportOptions options;
        if (space == std::string::npos) {
            checkpoint = open_case(model);
        } else {
            const std::size_t second = name.find(' ', space + 1);
            checkpoint = quantized(model, name.substr(space + 1, second - space - 1));
            for (const auto& [form, value] : forms)
                if (name.substr(second + 1) == form) options.form = value;
        }
        const Written written = write(checkpoint, options);
        expect_sound(written.model);
        expect_weights(written, checkpoint);
        const std::string structure = onnx_structure(written.model);
        EXPECT_EQ(sha256_hex(bytes_of(structure)), hash.text());
    }
}

TEST(OnnxFiles, HoldThePlanWithLargeTensorsBesideIt) {
    const Checkpoint checkpoint = open_case("qwen2");
    const Written expected = write(checkpoint, {});
    auto plan = plan_onnx_export(checkpoint, {});
    ASSERT_TRUE(plan.ok());
    const std::string folder = ::testing::TempDir() + "skiff_onnx_" + std::to_string(::getpid());
    ASSERT_TRUE(make_directories(folder).ok());
    Status status = write_onnx_export(checkpoint, *plan, folder, nullptr);
    ASSERT_TRUE(status.ok()) << status.error().to_string();
    auto model = read_text_file(folder + "/model.onnx", 1 << 24), data = read_text_file(folder + "/model.onnx.data", 1 << 28);
    ASSERT_TRUE(model.ok() && data.ok());
    const Written written{read_onnx(*model), *data};
    EXPECT_EQ(onnx_structure(written.model), onnx_structure(expected.model));
    expect_sound(written.model);
    std::size_t n_beside = 0;
    for (std::size_t i = 0; i < written.model.initializers.size(); ++i) {
        const OnnxTensor& tensor = written.model.initializers[i];
        EXPECT_EQ(written.bytes(tensor), expected.bytes(expected.model.initializers[i])) << tensor.name;
        EXPECT_EQ(tensor.external.has_value(), onnx_tensor_bytes(tensor.type, tensor.dims) >= 1024) << tensor.name;
        if (!tensor.external) continue;
        ++n_beside;
        EXPECT_EQ(tensor.external->offset % 4096, 0u);
        EXPECT_EQ(tensor.external->location, "model.onnx.data");
    }
    EXPECT_GE(n_beside, 10u);
    EXPECT_TRUE(file_exists(folder + "/config.json"));
    (void)remove_all(folder);
}

TEST(OnnxGraphs, EverySchemeIsSaidWithoutLossOrRefusedByName) {
    for (const SchemePreset& preset : scheme_presets())
        for (const auto& [form, value] : forms) {
            SCOPED_TRACE(std::string(preset.name) + " " + form);
            const Checkpoint checkpoint = quantized("llama", std::string(preset.name));
            OnnxExportOptions options;
            options.form = value;
            auto plan = plan_onnx_export(checkpoint, options);
            const Scheme& scheme = preset.scheme;
            const bool sayable = !scheme.is_coded() || (scheme.kind == NumberKind::clusters || scheme.kind == NumberKind::vectors ? false : scheme.kind == NumberKind::codebook ? scheme.codebook->integral() : !scheme.minimums);
            ASSERT_EQ(plan.ok(), sayable);
            if (!sayable) {
                EXPECT_NE(plan.error().to_string().find("--densify"), std::string::npos) << plan.error().to_string();
                options.densify = OnnxExportOptions::Densify::yes;
            }
            const Written written = write(checkpoint, options);
            expect_sound(written.model);
            expect_weights(written, checkpoint);
        }
}

TEST(OnnxGraphs, TiedTablesAreOneTensor) {
    for (const auto& [form, value] : forms) {
        const Checkpoint checkpoint = quantized("qwen2", "w8g32a");
        OnnxExportOptions options;
        options.form = value;
        const Written written = write(checkpoint, options);
        std::int64_t n_large = 0;
        for (const OnnxTensor& tensor : written.model.initializers)
            n_large += !tensor.dims.empty() && tensor.dims[0] == 97 && element_count(tensor.dims) >= 97 * 28;
        EXPECT_EQ(n_large, 1) << form;
    }
}

TEST(OnnxGraphs, F16IsTheTypeOfWeightsAndState) {
    OnnxExportOptions options;
    options.real = OnnxType::float16;
    const Checkpoint checkpoint = open_case("llama");
    const Written written = write(checkpoint, options);
    expect_sound(written.model);
    for (const OnnxValueInfo& input : written.model.inputs)
        EXPECT_EQ(input.type, input.name.starts_with("past_") ? OnnxType::float16 : OnnxType::int64);
    EXPECT_EQ(written.model.outputs[0].name, "logits");
    EXPECT_EQ(written.model.outputs[0].type, OnnxType::float32);
    EXPECT_EQ(written.find("model.layers.0.mlp.up_proj.weight")->type, OnnxType::float16);
}

TEST(OnnxGraphs, LongRopeIsChosenByTheContext) {
    const Checkpoint checkpoint = open_case("phi3_longrope");
    const auto table = [&](std::int64_t context) {
        OnnxExportOptions options;
        options.context = context;
        const Written written = write(checkpoint, options);
        for (const OnnxTensor& tensor : written.model.initializers)
            if (tensor.name.starts_with("rope_cos")) {
                EXPECT_EQ(tensor.dims[0], context);
                const auto all = written.floats(tensor);
                return std::vector<float>(all.begin() + tensor.dims[1], all.begin() + 2 * tensor.dims[1]);  // of position 1
            }
        return std::vector<float>();
    };
    std::int64_t above = 0;
    for (const Block& block : checkpoint.spec.blocks)
        for (const Op& op : block.ops)
            if (const auto* rope = std::get_if<RopeOp>(&op.detail)) above = rope->long_above;
    ASSERT_GT(above, 0);
    EXPECT_EQ(table(above - 1), table(above));
    EXPECT_NE(table(above + 1), table(above));
}

void expect_refused(Checkpoint checkpoint, const OnnxExportOptions& options, const std::string& mention) {
    auto plan = plan_onnx_export(checkpoint, options);
    ASSERT_FALSE(plan.ok()) << mention;
    EXPECT_NE(plan.error().to_string().find(mention), std::string::npos) << plan.error().to_string();
}

LinearOp& first_linear(ModelSpec& spec) {
    for (Op& op : spec.blocks[1].ops)
        if (auto* linear = std::get_if<LinearOp>(&op.detail)) return *linear;
    std::abort();
}

TEST(OnnxGraphs, WhatCannotBeSaidIsRefusedByName) {
    Checkpoint checkpoint = open_case("llama");
    checkpoint.spec.n_vocab = 0;
    expect_refused(checkpoint, {}, "vocabulary of 0");
    checkpoint = open_case("llama");
    OnnxExportOptions options;
    options.context = std::int64_t{1} << 31;
    expect_refused(checkpoint, options, "--context");
    first_linear(checkpoint.spec).terms[0].kind = LinearTerm::Kind::sparse;
    expect_refused(checkpoint, {}, "block0.attn.q: a sparse term");
    checkpoint = open_case("llama");
    first_linear(checkpoint.spec).transform.kind = InputTransform::Kind::hadamard;
    expect_refused(checkpoint, {}, "block0.attn.q: a Hadamard");
    checkpoint = open_case("llama");
    for (Op& op : checkpoint.spec.blocks[1].ops)
        if (auto* attention = std::get_if<AttentionOp>(&op.detail)) attention->state.kind = StateSpec::Kind::recurrent;
    expect_refused(checkpoint, {}, "block0.attn.mix: a recurrent state");
    checkpoint = open_case("llama");
    for (Axis& axis : checkpoint.spec.axes)
        if (axis.name == "block0.ff") axis.size = 0;
    expect_refused(checkpoint, {}, "block0.ff.gate");
}

// Shapes that lie are found before anything is written.
TEST(OnnxGraphs, TensorsOfOtherShapesAreCorrupt) {
    Checkpoint checkpoint = open_case("llama");
    for (Axis& axis : checkpoint.spec.axes)
        if (axis.name == "block1.ff") axis.size += 1;
    expect_refused(checkpoint, {}, "the config implies");
}

// An embedding and one linear operator, 16 wide, of the weights `values`.
struct Tiny final : WeightSource {
    std::map<std::string, Weight> tensors;
    bool contains(const std::string& key) const override { return tensors.count(key) != 0; }
    std::vector<std::string> keys() const override { return {}; }
    Result<Weight> load(const std::string& key) const override { return tensors.at(key); }
};
Checkpoint tiny(float value) {
    const std::vector<Dimension> square = {{{"out", 1}}, {{"in", 1}}};
    SpecBuilder builder("tiny");
    builder.add_axis("in", 16);
    builder.add_axis("out", 16);
    builder.add_axis("rank", 2);
    builder.tensor("order", {square[1]}, TensorDecl::Role::other);
    builder.tensor("up", {square[0], {{"rank", 1}}}, TensorDecl::Role::linear);
    builder.tensor("down", {{{"rank", 1}}, square[1]}, TensorDecl::Role::linear);
    builder.begin_block("block", no_value);
    const ValueId x = builder.embed("e", {builder.tensor("table", square, TensorDecl::Role::embedding)}, square[1]);
    const ValueId y = builder.linear("l", x, builder.tensor("weight", square, TensorDecl::Role::linear), {}, square[0]);
    builder.end_block(y);
    Checkpoint checkpoint;
    checkpoint.spec = builder.finish(y);
    checkpoint.spec.n_vocab = 16;
    auto weights = std::make_shared<Tiny>();
    for (const char* key : {"weight", "table"}) weights->tensors[key] = make_float_weight({16, 16}, std::vector<float>(256, value));
    weights->tensors["up"] = make_float_weight({16, 2}, std::vector<float>(32, value));
    weights->tensors["down"] = make_float_weight({2, 16}, std::vector<float>(32, value));
    std::vector<float> order(16);
    for (std::size_t i = 0; i < 16; ++i) order[i] = static_cast<float>(i * 5 % 16);
    weights->tensors["order"] = make_float_weight({16}, order);
    checkpoint.weights = weights;
    return checkpoint;
}

TEST(OnnxGraphs, NumbersBeyondF16AreRefused) {
    const Checkpoint checkpoint = tiny(1e6f);
    OnnxExportOptions options;
    options.real = OnnxType::float16;
    auto plan = plan_onnx_export(checkpoint, options);
    ASSERT_TRUE(plan.ok()) << plan.error().to_string();
    OnnxModel model = plan->model;
    const std::string path = ::testing::TempDir() + "skiff_onnx_large_" + std::to_string(::getpid());
    Status status = write_onnx_tensors(plan->initializers, model, path, nullptr);
    ASSERT_FALSE(status.ok());
    EXPECT_NE(status.error().to_string().find("does not fit F16"), std::string::npos) << status.error().to_string();
    EXPECT_FALSE(file_exists(path));
}

TEST(OnnxGraphs, ReorderedInputsAreGathered) {
    Checkpoint checkpoint = tiny(1);
    auto& linear = std::get<LinearOp>(checkpoint.spec.blocks[0].ops[1].detail);
    linear.transform.kind = InputTransform::Kind::permutation;
    linear.transform.data.key = "order";
    const Written written = write(checkpoint, {});
    expect_sound(written.model);
    const OnnxTensor* order = written.find("order");
    ASSERT_TRUE(order != nullptr && order->type == OnnxType::int64);
    const std::string bytes = written.bytes(*order);
    for (std::size_t i = 0; i < 16; ++i) {
        std::int64_t index = -1;
        std::memcpy(&index, bytes.data() + i * 8, 8);
        EXPECT_EQ(index, static_cast<std::int64_t>(i * 5 % 16));
    }
    const OnnxNode* gather = written.reader("order");
    ASSERT_NE(gather, nullptr);
    EXPECT_EQ(gather->op_type, "Gather");
    EXPECT_EQ(attribute(*gather, "axis", 0), 1);
    EXPECT_EQ(written.reader(gather->outputs[0])->op_type, "Gemm");
    std::static_pointer_cast<Tiny>(checkpoint.weights)->tensors["order"] = make_float_weight({16}, std::vector<float>(16, 16.0f));
    expect_refused(checkpoint, {}, "out of range");
}

TEST(OnnxGraphs, TermsAreAddedUp) {
    Checkpoint checkpoint = tiny(1);
    LinearTerm term{LinearTerm::Kind::low_rank, {}, {}};
    term.weight.key = "up";
    term.down.key = "down";
    std::get<LinearOp>(checkpoint.spec.blocks[0].ops[1].detail).terms.push_back(term);
    const Written written = write(checkpoint, {});
    expect_sound(written.model);
    std::int64_t n_products = 0;
    for (const OnnxNode& node : written.model.nodes) n_products += node.op_type == "Gemm";
    EXPECT_EQ(n_products, 3);
    EXPECT_EQ(written.reader(written.reader("up")->outputs[0])->op_type, "Add");
}

}  // namespace
}  // namespace skiff
