// Codes bytes by how often each occurs, and by nothing else: a Huffman code per stretch, as zstd frames whose sequences are switched off. Weights hold
// no repeated strings that would be worth looking for; looking makes the result larger and slower to read (docs/formats/coded.md has the measurements).
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

namespace skiff {

class ByteEncoder {
public:
    ByteEncoder();
    // Empty where the code would not be smaller than the bytes.
    std::vector<std::byte> encode(std::span<const std::byte> bytes);

private:
    struct State;
    std::shared_ptr<State> state_;
};

class ByteDecoder {
public:
    ByteDecoder();
    // Whether `code` is well formed and gives exactly target.size() bytes. Any bytes may come in; nothing is written outside of `target`.
    bool decode(std::span<const std::byte> code, std::span<std::byte> target);

private:
    struct State;
    std::shared_ptr<State> state_;
};

}  // namespace skiff
