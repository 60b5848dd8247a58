// Residual streams that pass from one block to the next, of more windows than are computed at a time: in memory, or in a file that goes with the process.
#pragma once

#include <memory>
#include <string>

#include <ATen/ATen.h>

#include "base/result.h"

namespace skiff::train {

class StreamStore {
public:
    enum class Place : std::uint8_t { memory, file };
    // Rows are tokens. `folder` is where a file would be, which has no name there. Error: no room for it.
    static Result<StreamStore> create(std::int64_t n_rows, std::int64_t width, Place place, const std::string& folder);

    Status write(std::int64_t first_row, const at::Tensor& rows);          // (n, width) f32, on any device
    Result<at::Tensor> read(std::int64_t first_row, std::int64_t n) const;  // (n, width) f32 on the CPU; may be the store's own memory
    std::uint64_t size_bytes() const { return static_cast<std::uint64_t>(n_rows_ * width_) * sizeof(float); }

private:
    StreamStore(std::int64_t n_rows, std::int64_t width) : n_rows_(n_rows), width_(width) {}
    std::int64_t n_rows_, width_;
    at::Tensor memory_;                // (n_rows, width) f32; undefined: in the file
    std::shared_ptr<const int> file_;  // closed by the last owner
    std::string folder_;
};

}  // namespace skiff::train
