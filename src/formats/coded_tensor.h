// A tensor stored entropy coded, without loss: planes of bytes (byte_planes.h) in blocks that are decoded independently of each other, each with a check
// sum of what it decodes to. docs/formats/coded.md is the format.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "formats/byte_planes.h"
#include "tensor/tensor.h"

namespace skiff {

// The tensor `x` is stored as the U8 tensor `x.coded` in a safetensors file whose metadata say so.
inline constexpr std::string_view coded_end = ".coded", coded_metadata_key = "skiff.coded", coded_metadata_value = "1";

struct CodedTensor {
    DType dtype = DType::f32;
    Shape shape;
    const PlaneForm* form = nullptr;
    std::uint64_t plain_bytes = 0;
    std::uint64_t n_blocks = 0;
    std::span<const std::byte> blocks;   // (n_blocks) of a check sum and the length of each plane, u32 each
    std::span<const std::byte> payload;  // planes, block after block
};

// A tensor may decode to this many times the bytes that it takes in the file, no more: a small file cannot ask for all memory.
inline constexpr std::uint64_t max_expansion = 64;

// Reads and checks the head of a coded tensor. What comes out refers to `bytes`; nothing is allocated on their word.
Result<CodedTensor> parse_coded_tensor(std::span<const std::byte> bytes);

// Nothing where coding would not save a hundredth; such a tensor stays as it is. The bytes do not depend on the pool.
std::optional<std::vector<std::byte>> encode_tensor(const TensorView& tensor, ThreadPool& pool);

// target: tensor.plain_bytes bytes. An error names the block that is damaged; what `target` then holds is not to be used.
Status decode_tensor(const CodedTensor& tensor, std::span<std::byte> target, int n_threads);

}  // namespace skiff
