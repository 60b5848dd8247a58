// One GGUF file's bytes, checked: docs/formats/gguf.md lists the rules.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "formats/gguf_types.h"
#include "formats/gguf_value.h"
#include "tensor/tensor.h"

namespace skiff {

inline constexpr std::uint32_t gguf_magic = 0x46554747;  // "GGUF" in little-endian order
inline constexpr std::uint32_t gguf_version = 3;         // what is written; 2 is read as well
inline constexpr std::uint64_t gguf_default_alignment = 32;

struct GgufLimits {
    static constexpr std::uint64_t tensors = 1u << 17;
    static constexpr std::uint64_t keys = 1u << 16;
    static constexpr std::uint64_t key_bytes = 65535;
    static constexpr std::uint64_t string_bytes = 16u << 20;
    static constexpr std::uint64_t array_items = 1u << 30;
    static constexpr std::uint64_t tensor_name_bytes = 63;
    static constexpr std::uint64_t alignment = 64u << 10;
    static constexpr std::uint32_t dimensions = 4;
};

struct GgufTensor {
    std::string name;
    const GgufType* type = nullptr;
    Shape shape;                       // outermost first: the reverse of the order in the file
    std::span<const std::byte> data;   // in the file's bytes
};

struct GgufPart {
    std::uint32_t version = gguf_version;
    std::uint64_t alignment = gguf_default_alignment;
    GgufMetadata metadata;
    std::vector<GgufTensor> tensors;   // in the order of the file
};

// Checks everything the format promises before it believes it; tensor data is not copied and must outlive the result.
Result<GgufPart> parse_gguf(std::span<const std::byte> bytes);

// The alignment that the metadata ask for: a power of two, 8 to 65536; 32 when they do not say.
Result<std::uint64_t> gguf_alignment(const GgufMetadata& metadata);

// Bytes of a tensor; an error for a rank outside 1..4, a dimension below 1, rows that do not fill blocks, or an overflow.
Result<std::uint64_t> gguf_tensor_bytes(const GgufType& type, const Shape& shape);

// Keys: printable ASCII. Tensor names: 1 to 63 bytes without control characters.
Status check_gguf_key(std::string_view key);
Status check_gguf_tensor_name(std::string_view name);

}  // namespace skiff
