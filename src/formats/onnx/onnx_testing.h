// For tests: reads an ONNX file back, knowing nothing of the writer, and looks for what a graph must not have.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "formats/onnx/messages.h"

namespace skiff {

// The fields of one message. A malformed one is a failed test.
class WireReader {
public:
    struct Field {
        std::uint32_t number = 0, wire = 0;
        std::int64_t integer = 0;
        float real = 0;
        std::string_view bytes;
    };
    explicit WireReader(std::string_view data) : data_(data) {}
    bool next(Field& field) {
        if (data_.empty() || failed_) return false;
        const std::uint64_t tag = varint();
        field = {static_cast<std::uint32_t>(tag >> 3), static_cast<std::uint32_t>(tag & 7), 0, 0, {}};
        if (field.wire == 0) field.integer = static_cast<std::int64_t>(varint());
        else if (field.wire == 2) field.bytes = take(varint());
        else if (field.wire == 5) {
            const auto bytes = take(4);
            if (bytes.size() == 4) std::memcpy(&field.real, bytes.data(), 4);
        } else fail("wire type " + std::to_string(field.wire));
        return !failed_;
    }

private:
    void fail(const std::string& what) {
        failed_ = true;
        ADD_FAILURE() << "malformed protobuf: " << what;
    }
    std::uint64_t varint() {
        std::uint64_t value = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            if (data_.empty()) break;
            const auto byte = static_cast<unsigned char>(data_[0]);
            data_.remove_prefix(1);
            value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
            if (byte < 0x80) return value;
        }
        fail("a number that does not end");
        return 0;
    }
    std::string_view take(std::uint64_t n) {
        if (n > data_.size()) {
            fail("a field longer than its message");
            return {};
        }
        const auto part = data_.substr(0, n);
        data_.remove_prefix(n);
        return part;
    }
    std::string_view data_;
    bool failed_ = false;
};

template <class Fn>
void for_each_field(std::string_view message, Fn&& fn) {
    WireReader reader(message);
    WireReader::Field field;
    while (reader.next(field)) fn(field);
}

inline OnnxTensor read_onnx_tensor(std::string_view message) {
    OnnxTensor tensor;
    for_each_field(message, [&](const WireReader::Field& field) {
        if (field.number == 1) tensor.dims.push_back(field.integer);
        if (field.number == 2) tensor.type = static_cast<OnnxType>(field.integer);
        if (field.number == 8) tensor.name = field.bytes;
        if (field.number == 9) tensor.data = field.bytes;
        if (field.number == 13) {
            if (!tensor.external) tensor.external.emplace();
            std::string key, value;
            for_each_field(field.bytes, [&](const WireReader::Field& part) { (part.number == 1 ? key : value) = part.bytes; });
            if (key == "location") tensor.external->location = value;
            if (key == "offset") tensor.external->offset = std::stoull(value);
            if (key == "length") tensor.external->length = std::stoull(value);
        }
    });
    return tensor;
}

inline OnnxAttribute read_onnx_attribute(std::string_view message) {
    OnnxAttribute attribute;
    std::vector<std::int64_t> integers;
    for_each_field(message, [&](const WireReader::Field& field) {
        if (field.number == 1) attribute.name = field.bytes;
        if (field.number == 2) attribute.value = field.real;
        if (field.number == 3) attribute.value = field.integer;
        if (field.number == 4) attribute.value = std::string(field.bytes);
        if (field.number == 8) integers.push_back(field.integer);
        if (field.number == 20 && field.integer == 7) attribute.value = integers;
    });
    return attribute;
}

inline OnnxNode read_onnx_node(std::string_view message) {
    OnnxNode node;
    for_each_field(message, [&](const WireReader::Field& field) {
        if (field.number == 1) node.inputs.emplace_back(field.bytes);
        if (field.number == 2) node.outputs.emplace_back(field.bytes);
        if (field.number == 3) node.name = field.bytes;
        if (field.number == 4) node.op_type = field.bytes;
        if (field.number == 5) node.attributes.push_back(read_onnx_attribute(field.bytes));
        if (field.number == 7) node.domain = field.bytes;
    });
    return node;
}

inline OnnxValueInfo read_onnx_value(std::string_view message) {
    OnnxValueInfo value;
    for_each_field(message, [&](const WireReader::Field& field) {
        if (field.number == 1) value.name = field.bytes;
        if (field.number != 2) return;
        for_each_field(field.bytes, [&](const WireReader::Field& type) {
            for_each_field(type.bytes, [&](const WireReader::Field& part) {
                if (part.number == 1) value.type = static_cast<OnnxType>(part.integer);
                if (part.number != 2) return;
                for_each_field(part.bytes, [&](const WireReader::Field& dim) {
                    for_each_field(dim.bytes, [&](const WireReader::Field& size) {
                        if (size.number == 1) value.dims.emplace_back(size.integer);
                        else value.dims.emplace_back(std::string(size.bytes));
                    });
                });
            });
        });
    });
    return value;
}

inline OnnxModel read_onnx(std::string_view bytes) {
    OnnxModel model;
    for_each_field(bytes, [&](const WireReader::Field& field) {
        if (field.number == 1) model.ir_version = field.integer;
        if (field.number == 2) model.producer_name = field.bytes;
        if (field.number == 3) model.producer_version = field.bytes;
        if (field.number == 8) {
            auto& [domain, version] = model.opsets.emplace_back();
            for_each_field(field.bytes, [&](const WireReader::Field& part) {
                if (part.number == 1) domain = part.bytes;
                else version = part.integer;
            });
        }
        if (field.number != 7) return;
        for_each_field(field.bytes, [&](const WireReader::Field& part) {
            if (part.number == 1) model.nodes.push_back(read_onnx_node(part.bytes));
            if (part.number == 2) model.graph_name = part.bytes;
            if (part.number == 5) model.initializers.push_back(read_onnx_tensor(part.bytes));
            if (part.number == 11) model.inputs.push_back(read_onnx_value(part.bytes));
            if (part.number == 12) model.outputs.push_back(read_onnx_value(part.bytes));
        });
    });
    return model;
}

// Every input of a node is a graph input, an initializer or an output of a node before it; names are made once; every initializer is read; domains are
// imported; tensors have the bytes that their shapes need.
inline void expect_sound(const OnnxModel& model) {
    std::set<std::string> made, read, domains;
    for (const auto& [domain, version] : model.opsets) EXPECT_TRUE(domains.insert(domain).second && version > 0) << domain;
    for (const OnnxValueInfo& input : model.inputs) EXPECT_TRUE(made.insert(input.name).second) << input.name;
    for (const OnnxTensor& tensor : model.initializers) {
        EXPECT_TRUE(made.insert(tensor.name).second) << tensor.name;
        const std::uint64_t size = tensor.external ? tensor.external->length : tensor.data.size();
        EXPECT_EQ(size, onnx_tensor_bytes(tensor.type, tensor.dims)) << tensor.name;
    }
    for (const OnnxNode& node : model.nodes) {
        EXPECT_TRUE(domains.count(node.domain)) << node.name << " " << node.domain;
        for (const std::string& input : node.inputs) {
            EXPECT_TRUE(input.empty() || made.count(input)) << node.name << " reads " << input;
            read.insert(input);
        }
        for (const std::string& output : node.outputs) EXPECT_TRUE(made.insert(output).second) << node.name << " makes " << output << " again";
    }
    for (const OnnxValueInfo& output : model.outputs) {
        EXPECT_TRUE(made.count(output.name)) << output.name;
        read.insert(output.name);
    }
    for (const OnnxTensor& tensor : model.initializers) EXPECT_TRUE(read.count(tensor.name)) << "nothing reads " << tensor.name;
    for (const OnnxValueInfo& input : model.inputs) EXPECT_TRUE(read.count(input.name)) << "nothing reads " << input.name;
}

// All that matters of a graph but the numbers of its tensors, as text: its hash tells one graph from another. tests/golden/onnx_run.py writes the same.
inline std::string onnx_structure(const OnnxModel& model) {
    std::string text;
    const auto join = [](const auto& items, auto&& as_text) {
        std::string joined;
        for (const auto& item : items) joined += (joined.empty() ? "" : ",") + as_text(item);
        return joined;
    };
    const auto same = [](const std::string& item) { return item; };
    const auto number = [](std::int64_t item) { return std::to_string(item); };
    const auto dim = [&](const OnnxDimension& item) { return std::holds_alternative<std::string>(item) ? std::get<std::string>(item) : number(std::get<std::int64_t>(item)); };
    for (const auto& [domain, version] : model.opsets) text += "opset|" + domain + "|" + number(version) + "\n";
    for (const OnnxValueInfo& value : model.inputs) text += "input|" + value.name + "|" + number(static_cast<std::int64_t>(value.type)) + "|" + join(value.dims, dim) + "\n";
    for (const OnnxValueInfo& value : model.outputs) text += "output|" + value.name + "|" + number(static_cast<std::int64_t>(value.type)) + "|" + join(value.dims, dim) + "\n";
    for (const OnnxTensor& tensor : model.initializers)
        text += "tensor|" + tensor.name + "|" + number(static_cast<std::int64_t>(tensor.type)) + "|" + join(tensor.dims, number) + "\n";
    for (const OnnxNode& node : model.nodes) {
        text += "node|" + node.domain + "|" + node.op_type + "|" + join(node.inputs, same) + "|" + join(node.outputs, same);
        for (const OnnxAttribute& attribute : node.attributes) {
            text += "|" + attribute.name + "=";
            if (const auto* real = std::get_if<float>(&attribute.value)) text += "f" + number(std::bit_cast<std::int32_t>(*real));
            else if (const auto* integer = std::get_if<std::int64_t>(&attribute.value)) text += "i" + number(*integer);
            else if (const auto* string = std::get_if<std::string>(&attribute.value)) text += "s" + *string;
            else text += "I" + join(std::get<std::vector<std::int64_t>>(attribute.value), number);
        }
        text += "\n";
    }
    return text;
}

}  // namespace skiff
