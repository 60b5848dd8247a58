// Writes a GGUF file (version 3): metadata and tensor list first, then the tensors one after the other as they come.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/atomic_file.h"
#include "base/result.h"
#include "formats/gguf_parse.h"

namespace skiff {

struct GgufTensorSpec {
    std::string name;
    const GgufType* type = nullptr;
    Shape shape;  // outermost first, as everywhere here
};

struct GgufLayout {
    GgufMetadata metadata;                // written in its order
    std::vector<GgufTensorSpec> tensors;  // written in this order
};

// What a file that was read would be written with.
GgufLayout gguf_layout_of(const GgufMetadata& metadata, const std::vector<GgufTensor>& tensors);

// For each tensor of the layout in turn: begin(name), then append until it is full. The file appears under its name on commit().
class GgufWriter {
public:
    // Checks all names, types and shapes against the rules that readers check, and writes the head of the file.
    static Result<GgufWriter> create(const std::string& path, const GgufLayout& layout);

    Status begin(std::string_view name);
    Status append_bytes(std::span<const std::byte> bytes);  // as stored
    // Whole rows, converted or quantized to the tensor's type. importance: one number per column, or empty. // values: (n, n_columns) f32
    // Quantizing refuses NaN and infinities. Types without an encoder are an unsupported error.
    Status append_floats(std::span<const float> values, std::span<const float> importance = {});
    Status commit();

    std::uint64_t size_bytes() const { return file_.size_bytes(); }

private:
    struct Pending {
        GgufTensorSpec spec;
        std::uint64_t size_bytes;
    };
    GgufWriter(AtomicFile file, std::vector<Pending> tensors, std::uint64_t alignment)
        : file_(std::move(file)), tensors_(std::move(tensors)), alignment_(alignment) {}
    bool is_open() const { return n_begun_ > 0 && written_bytes_ < tensors_[n_begun_ - 1].size_bytes; }
    const Pending& current() const { return tensors_[n_begun_ - 1]; }
    Status append_blocks(std::span<const float> values, std::span<const float> importance);

    AtomicFile file_;
    std::vector<Pending> tensors_;
    std::uint64_t alignment_;
    std::size_t n_begun_ = 0;           // tensors begun so far; the current one is the last of them
    std::uint64_t written_bytes_ = 0;   // of the current tensor
};

}  // namespace skiff
