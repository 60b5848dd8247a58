#include "formats/onnx/messages.h"

#include <gtest/gtest.h>

#include "formats/onnx/onnx_testing.h"

namespace skiff {
namespace {

OnnxModel model_with_everything() {
    OnnxModel model;
    model.ir_version = 10;
    model.producer_name = "skiff";
    model.producer_version = "1.2";
    model.graph_name = "a graph";
    model.opsets = {{"", 21}, {"some.domain", 1}};
    model.inputs = {{"x", OnnxType::float16, {"batch", std::int64_t{300}}}, {"scalar", OnnxType::int64, {}}};
    model.outputs = {{"y", OnnxType::float32, {std::int64_t{0}}}};
    model.initializers.push_back({"near", OnnxType::int64, {2}, std::string("\0\1\2\3\4\5\6\7\x80\xff\0\0\0\0\0\0", 16), {}});
    model.initializers.push_back({"far", OnnxType::uint4, {3, 5}, "", OnnxTensor::External{"model.onnx.data", std::uint64_t{5} << 32, 8}});
    model.nodes.push_back({"Reshape", "", "a", {"x", "near", ""}, {"z"}, {}});
    model.nodes.push_back({"Quant",
                           "some.domain",
                           "b",
                           {"z", "far", "scalar"},
                           {"y", "w"},
                           {{"i", std::int64_t{-1}}, {"f", -0.5f}, {"s", std::string("ROUND")}, {"l", Shape{0, -7, std::int64_t{1} << 40}}, {"zero", std::int64_t{0}}}});
    return model;
}

TEST(Onnx, WhatIsWrittenIsReadBack) {
    const OnnxModel model = model_with_everything();
    auto bytes = serialize_onnx(model);
    ASSERT_TRUE(bytes.ok());
    const OnnxModel found = read_onnx(*bytes);
    EXPECT_EQ(found, model);
    expect_sound(found);
}

// By hand from the wire format: ir_version 8; a graph of one node, one input; opset 18.
TEST(Onnx, BytesAreThoseOfTheWireFormat) {
    OnnxModel model;
    model.producer_name = "p";
    model.graph_name = "g";
    model.opsets = {{"", 18}};
    model.nodes.push_back({"Relu", "", "n", {"x"}, {"y"}, {{"f", 1.0f}, {"i", std::int64_t{-1}}}});
    model.inputs = {{"x", OnnxType::float32, {"b", std::int64_t{200}}}};
    auto bytes = serialize_onnx(model);
    ASSERT_TRUE(bytes.ok());
    const auto text = [](std::initializer_list<int> values) {
        std::string made;
        for (const int value : values) made.push_back(static_cast<char>(value));
        return made;
    };
    const std::string real = text({0x0a, 1, 'f', 0x15, 0, 0, 0x80, 0x3f, 0xa0, 1, 1});
    const std::string integer = text({0x0a, 1, 'i', 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0xa0, 1, 2});
    const std::string node = text({0x0a, 1, 'x', 0x12, 1, 'y', 0x1a, 1, 'n', 0x22, 4, 'R', 'e', 'l', 'u', 0x2a, 11}) + real + text({0x2a, 17}) + integer;
    const std::string shape = text({0x0a, 3, 0x12, 1, 'b', 0x0a, 3, 0x08, 0xc8, 1});
    const std::string value = text({0x0a, 1, 'x', 0x12, 16, 0x0a, 14, 0x08, 1, 0x12, 10}) + shape;
    const std::string graph = text({0x0a, 47}) + node + text({0x12, 1, 'g', 0x5a, 21}) + value;
    EXPECT_EQ(node.size(), 47u);
    EXPECT_EQ(value.size(), 21u);
    const std::string expected = text({0x08, 8, 0x12, 1, 'p', 0x1a, 0, 0x3a, static_cast<int>(graph.size())}) + graph + text({0x42, 4, 0x0a, 0, 0x10, 18});
    EXPECT_EQ(*bytes, expected);
}

TEST(Onnx, FourBitTensorsHaveTwoNumbersToAByte) {
    EXPECT_EQ(onnx_tensor_bytes(OnnxType::int4, {3, 5}), 8u);
    EXPECT_EQ(onnx_tensor_bytes(OnnxType::uint8, {3, 5}), 15u);
    EXPECT_EQ(onnx_tensor_bytes(OnnxType::int64, {}), 8u);
}

}  // namespace
}  // namespace skiff
