// links: skiff_formats skiff_tensor skiff_base
// The GGUF reader on any bytes: no crash, every tensor inside the file, first rows decode, and a tokenizer that is accepted survives being written.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "formats/gguf_parse.h"
#include "formats/gguf_vocab.h"

namespace {

using namespace skiff;

void check_tensor(const GgufTensor& tensor, std::span<const std::byte> file) {
    if (tensor.data.data() < file.data() || tensor.data.data() + tensor.data.size() > file.data() + file.size()) std::abort();
    if (!tensor.type->block || tensor.shape.back() > 4096) return;
    std::vector<float> row(static_cast<std::size_t>(tensor.shape.back()));
    const BlockFormat& format = block_format(*tensor.type->block);
    format.decode(tensor.data.data(), tensor.shape.back(), row.data());
    if (format.encode == nullptr) return;
    std::vector<std::byte> blocks(row.size() / static_cast<std::size_t>(format.block_size) * static_cast<std::size_t>(format.block_bytes));
    format.encode(row.data(), nullptr, tensor.shape.back(), blocks.data());
}

void check_vocab(const GgufMetadata& metadata) {
    auto vocab = read_gguf_vocab(metadata);
    if (!vocab.ok()) return;
    for (float& score : vocab->scores) score = score == score ? score : 0.0f;  // NaN is never equal to itself
    GgufMetadata written;
    if (!write_gguf_vocab(*vocab, written).ok()) std::abort();
    auto again = read_gguf_vocab(written);
    if (!again.ok() || !(*again == *vocab)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
    auto part = parse_gguf(bytes);
    if (!part.ok()) {
        if (part.error().code != ErrorCode::corrupt || part.error().message.empty()) std::abort();
        return 0;
    }
    for (const GgufTensor& tensor : part->tensors) check_tensor(tensor, bytes);
    check_vocab(part->metadata);
    return 0;
}
