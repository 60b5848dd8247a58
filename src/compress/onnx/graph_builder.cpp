#include "compress/onnx/graph_builder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>

namespace skiff {
namespace {

std::string little_endian(std::span<const std::int64_t> values) {
    std::string bytes;
    for (const std::int64_t value : values)
        for (int shift = 0; shift < 64; shift += 8) bytes.push_back(static_cast<char>(static_cast<std::uint64_t>(value) >> shift & 0xff));
    return bytes;
}

}  // namespace

bool append_onnx_floats(std::span<const float> values, OnnxType type, std::string& bytes) {
    const DTypeInfo& info = dtype_info(type == OnnxType::float16 ? DType::f16 : DType::f32);
    if (type == OnnxType::float16 && !std::all_of(values.begin(), values.end(), [](float x) { return std::abs(x) <= 65504; })) return false;
    const std::size_t begin = bytes.size();
    bytes.resize(begin + values.size() * static_cast<std::size_t>(info.bits) / 8);
    info.from_float(values.data(), static_cast<std::int64_t>(values.size()), bytes.data() + begin);
    return true;
}

std::string OnnxGraphBuilder::fresh(std::string_view word) {
    std::string name = scope_ + "/" + std::string(word);
    const int count = used_[name]++;
    return count == 0 ? name : name + "_" + std::to_string(count);
}

std::string OnnxGraphBuilder::node(std::string_view op_type, std::vector<std::string> inputs, std::vector<OnnxAttribute> attributes,
                                   std::string_view domain) {
    const std::string name = fresh(op_type);
    if (!domain.empty()) use_domain(std::string(domain));
    model_.nodes.push_back({std::string(op_type), std::string(domain), name, std::move(inputs), {name}, std::move(attributes)});
    return name;
}

std::vector<std::string> OnnxGraphBuilder::nodes(std::string_view op_type, std::vector<std::string> inputs, std::vector<OnnxAttribute> attributes,
                                                std::size_t n_outputs) {
    const std::string name = node(op_type, std::move(inputs), std::move(attributes));
    std::vector<std::string>& outputs = model_.nodes.back().outputs;
    outputs.clear();
    for (std::size_t i = 0; i < n_outputs; ++i) outputs.push_back(name + "." + std::to_string(i));
    return outputs;
}

std::string OnnxGraphBuilder::name_last(const std::string& output, const std::string& name) {
    if (model_.nodes.empty() || model_.nodes.back().outputs != std::vector{output}) return output;
    model_.nodes.back().outputs = {name};
    return name;
}

std::string OnnxGraphBuilder::constant(const std::string& name, OnnxType type, Shape dims, std::string data) {
    return initializer(name, type, std::move(dims), [data = std::move(data)](const OnnxDataSink& sink) { return sink(bytes_of(data)); });
}

std::string OnnxGraphBuilder::integers(const Shape& values) {
    std::string name = "i64";
    for (const std::int64_t value : values) name += "_" + std::to_string(value);
    return constant(name, OnnxType::int64, {static_cast<std::int64_t>(values.size())}, little_endian(values));
}

std::string OnnxGraphBuilder::integer(std::int64_t value) { return constant("i64s_" + std::to_string(value), OnnxType::int64, {}, little_endian({&value, 1})); }

std::string OnnxGraphBuilder::real(float value, OnnxType type) {
    std::string bytes;
    append_onnx_floats({&value, 1}, type, bytes);
    return constant(fmt::format("{}_{}", type == OnnxType::float16 ? "f16" : "f32", value), type, {}, std::move(bytes));
}

std::string OnnxGraphBuilder::initializer(std::string name, OnnxType type, Shape dims, OnnxDataSource source) {
    if (!initializer_names_.insert(name).second) return name;
    OnnxInitializer made;
    made.size_bytes = onnx_tensor_bytes(type, dims);
    made.tensor = {name, type, std::move(dims), {}, {}};
    made.source = std::move(source);
    initializers_.push_back(std::move(made));
    return name;
}

std::string OnnxGraphBuilder::floats(std::string name, OnnxType type, Shape dims, std::vector<float> values) {
    const std::string label = name;
    return initializer(std::move(name), type, std::move(dims), [values = std::move(values), type, label](const OnnxDataSink& sink) -> Status {
        std::string bytes;
        if (!append_onnx_floats(values, type, bytes)) return corrupt(label + ": a number does not fit F16; choose --type F32");
        return sink(bytes_of(bytes));
    });
}

void OnnxGraphBuilder::identity(const std::string& x, const std::string& name) {
    if (name_last(x, name) != name) {
        node("Identity", {x});
        model_.nodes.back().outputs = {name};
    }
}

void OnnxGraphBuilder::require_opset(std::int64_t version) { opset_ = std::max(opset_, version); }

// The version of the file's form goes with ONNX's own: 8 came with opset 15 to 18, 10 with opset 21 and its 4-bit integers.
OnnxModel OnnxGraphBuilder::finish() {
    model_.ir_version = opset_ > 20 ? 10 : 8;
    model_.producer_name = "skiff";
    model_.producer_version = SKIFF_VERSION;
    model_.opsets = {{"", opset_}};
    for (const std::string& domain : domains_) model_.opsets.emplace_back(domain, 1);
    return std::move(model_);
}

}  // namespace skiff
