// The tensor types that GGUF files name.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "base/result.h"
#include "tensor/block_format.h"
#include "tensor/dtype.h"

namespace skiff {

// Plain types have a dtype, block types that we decode a BlockType; the rest is known by size only, so that files holding it can be listed.
struct GgufType {
    std::uint32_t id;
    std::string_view name;
    std::int64_t block_size;   // elements
    std::int64_t block_bytes;
    std::optional<DType> dtype;
    std::optional<BlockType> block;
};

std::span<const GgufType> gguf_type_table();
Result<const GgufType*> gguf_type(std::uint32_t id);              // an error for numbers that are unknown or were removed from the format
const GgufType* gguf_type_by_name(std::string_view name);
Result<const GgufType*> gguf_type_of(DType dtype);                // an error for types that GGUF has not
const GgufType& gguf_type_of(BlockType type);

}  // namespace skiff
