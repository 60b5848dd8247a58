#include "formats/onnx/messages.h"

#include "formats/onnx/wire_writer.h"

namespace skiff {
namespace {

// The numbers of the fields are those of onnx.proto. Repeated integers are not packed there (it is proto2).
std::string tensor_bytes(const OnnxTensor& tensor) {
    WireWriter out;
    for (const std::int64_t dim : tensor.dims) out.integer(1, dim);
    out.integer(2, static_cast<std::int64_t>(tensor.type));
    out.bytes(8, tensor.name);
    if (!tensor.external) {
        out.bytes(9, tensor.data);
        return out.take();
    }
    const auto entry = [&](const char* key, const std::string& value) {
        WireWriter pair;
        pair.bytes(1, key);
        pair.bytes(2, value);
        out.bytes(13, pair.take());
    };
    entry("location", tensor.external->location);
    entry("offset", std::to_string(tensor.external->offset));
    entry("length", std::to_string(tensor.external->length));
    out.integer(14, 1);  // EXTERNAL
    return out.take();
}

std::string attribute_bytes(const OnnxAttribute& attribute) {
    WireWriter out;
    out.bytes(1, attribute.name);
    if (const auto* real = std::get_if<float>(&attribute.value)) {
        out.real(2, *real);
        out.integer(20, 1);
    } else if (const auto* integer = std::get_if<std::int64_t>(&attribute.value)) {
        out.integer(3, *integer);
        out.integer(20, 2);
    } else if (const auto* text = std::get_if<std::string>(&attribute.value)) {
        out.bytes(4, *text);
        out.integer(20, 3);
    } else {
        for (const std::int64_t item : std::get<std::vector<std::int64_t>>(attribute.value)) out.integer(8, item);
        out.integer(20, 7);
    }
    return out.take();
}

std::string node_bytes(const OnnxNode& node) {
    WireWriter out;
    for (const std::string& input : node.inputs) out.bytes(1, input);
    for (const std::string& output : node.outputs) out.bytes(2, output);
    out.bytes(3, node.name);
    out.bytes(4, node.op_type);
    for (const OnnxAttribute& attribute : node.attributes) out.bytes(5, attribute_bytes(attribute));
    if (!node.domain.empty()) out.bytes(7, node.domain);
    return out.take();
}

std::string value_bytes(const OnnxValueInfo& value) {
    WireWriter shape, tensor, type, out;
    for (const OnnxDimension& dim : value.dims) {
        WireWriter dimension;
        if (const auto* size = std::get_if<std::int64_t>(&dim)) dimension.integer(1, *size);
        else dimension.bytes(2, std::get<std::string>(dim));
        shape.bytes(1, dimension.take());
    }
    tensor.integer(1, static_cast<std::int64_t>(value.type));
    tensor.bytes(2, shape.take());
    type.bytes(1, tensor.take());
    out.bytes(1, value.name);
    out.bytes(2, type.take());
    return out.take();
}

std::string graph_bytes(const OnnxModel& model) {
    WireWriter out;
    for (const OnnxNode& node : model.nodes) out.bytes(1, node_bytes(node));
    out.bytes(2, model.graph_name);
    for (const OnnxTensor& tensor : model.initializers) out.bytes(5, tensor_bytes(tensor));
    for (const OnnxValueInfo& value : model.inputs) out.bytes(11, value_bytes(value));
    for (const OnnxValueInfo& value : model.outputs) out.bytes(12, value_bytes(value));
    return out.take();
}

}  // namespace

std::int64_t onnx_type_bits(OnnxType type) {
    switch (type) {
        case OnnxType::float32: return 32;
        case OnnxType::int64: return 64;
        case OnnxType::float16: return 16;
        case OnnxType::uint8:
        case OnnxType::int8:
        case OnnxType::boolean: return 8;
        case OnnxType::uint4:
        case OnnxType::int4: return 4;
    }
    return 0;
}

std::uint64_t onnx_tensor_bytes(OnnxType type, const Shape& dims) {
    return (static_cast<std::uint64_t>(element_count(dims)) * static_cast<std::uint64_t>(onnx_type_bits(type)) + 7) / 8;
}

Result<std::string> serialize_onnx(const OnnxModel& model) {
    WireWriter out;
    out.integer(1, model.ir_version);
    out.bytes(2, model.producer_name);
    out.bytes(3, model.producer_version);
    out.bytes(7, graph_bytes(model));
    for (const auto& [domain, version] : model.opsets) {
        WireWriter opset;
        opset.bytes(1, domain);
        opset.integer(2, version);
        out.bytes(8, opset.take());
    }
    std::string bytes = out.take();
    if (bytes.size() > 0x7fffffff)
        return unsupported("the ONNX graph has " + std::to_string(bytes.size()) + " bytes without its weights; its readers take 2147483647 at most");
    return bytes;
}

}  // namespace skiff
