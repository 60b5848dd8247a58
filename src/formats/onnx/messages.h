// The messages of an ONNX file (onnx.proto of ONNX 1.16), as far as a graph with external weights needs them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"
#include "tensor/tensor.h"

namespace skiff {

// TensorProto.DataType
enum class OnnxType : std::int32_t { float32 = 1, uint8 = 2, int8 = 3, int64 = 7, boolean = 9, float16 = 10, uint4 = 21, int4 = 22 };
std::int64_t onnx_type_bits(OnnxType type);
std::uint64_t onnx_tensor_bytes(OnnxType type, const Shape& dims);  // 4-bit types: two to a byte, of a checked shape

struct OnnxTensor {
    std::string name;
    OnnxType type = OnnxType::float32;
    Shape dims;
    std::string data;  // the numbers, little-endian; empty where they lie in another file
    struct External {
        std::string location;  // beside the model
        std::uint64_t offset = 0, length = 0;
        bool operator==(const External&) const = default;
    };
    std::optional<External> external;
    bool operator==(const OnnxTensor&) const = default;
};

struct OnnxAttribute {
    std::string name;
    std::variant<std::int64_t, float, std::string, std::vector<std::int64_t>> value;
    bool operator==(const OnnxAttribute&) const = default;
};

struct OnnxNode {
    std::string op_type, domain, name;
    std::vector<std::string> inputs, outputs;  // an empty input is one that is left out
    std::vector<OnnxAttribute> attributes;
    bool operator==(const OnnxNode&) const = default;
};

using OnnxDimension = std::variant<std::int64_t, std::string>;  // a size, or the name of one that is known when the graph runs

struct OnnxValueInfo {
    std::string name;
    OnnxType type = OnnxType::float32;
    std::vector<OnnxDimension> dims;
    bool operator==(const OnnxValueInfo&) const = default;
};

struct OnnxModel {
    std::int64_t ir_version = 8;
    std::string producer_name, producer_version, graph_name;
    std::vector<std::pair<std::string, std::int64_t>> opsets;  // domain ("" is ONNX's own), version
    std::vector<OnnxNode> nodes;                               // each after those whose outputs it reads
    std::vector<OnnxTensor> initializers;
    std::vector<OnnxValueInfo> inputs, outputs;
    bool operator==(const OnnxModel&) const = default;
};

// The bytes of the file. Protobuf's readers take 2 GiB at most: above, it is an error.
Result<std::string> serialize_onnx(const OnnxModel& model);

}  // namespace skiff
