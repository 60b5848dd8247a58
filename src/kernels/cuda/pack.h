// From a checkpoint's weight to the bytes that the CUDA kernels read: one blob to upload, and where its parts are. Runs on the CPU, by threads.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "kernels/cuda/gpu_weight.h"
#include "kernels/layout.h"

namespace skiff::cuda {

struct RowSource {
    const Weight* weight = nullptr;
    RowMap rows;
};

enum class Interleave : std::uint8_t {
    none,     // the rows of the sources one after another: q|k|v, or one matrix
    gate_up,  // two sources of the same height: eight rows of the first, eight of the second, and so on, so that one lane has both of a pair. More pairs (experts): one behind the other, each from a tile of its own on
    tiles,    // sources of the same height (experts) one behind the other, each from a tile of its own on
};

// A packed weight on the host. `view` has offsets from the blob's begin in the place of addresses (null stays null; the first part has offset 0).
struct PackedGpu {
    AlignedBuffer blob;
    GpuWeight at(const std::byte* base) const;  // base: where the blob is, on the device or here
    GpuWeight shape;                            // without addresses
    struct Offsets {
        std::size_t codes = 0, positions = 0, group_params = 0, super_scales = 0, super_minimums = 0, row_scales = 0, table = 0;
    } offsets;
    std::size_t size_bytes() const { return blob.size_bytes(); }
};

// What a weight becomes: its own codes where the kernels know the scheme, half of them where it keeps two of every four; else (other sparse weights, blocks of GGUF that are no codes, groups of odd sizes, outliers) the
// numbers themselves, as bf16 where that is exact, as f16 where that is, else f32.
GpuWeight gpu_form(const Weight& weight);
// Whether several weights can be packed as one: same form, same columns, same tables.
bool can_merge(std::span<const RowSource> sources);
// All sources in one weight. Sources that cannot be merged are an error that names them.
Result<PackedGpu> pack_gpu(std::span<const RowSource> sources, Interleave interleave = Interleave::none, ThreadPool* pool = nullptr);
// Outliers of several weights, one below the other, as launch_sparse_rows() reads them. A source without a weight has rows without any.
struct SparseRows {
    std::vector<std::uint32_t> entries;
    std::vector<std::int32_t> begins;  // (n_rows + 1)
    Float16Form values = Float16Form::f16;
    std::int64_t n_rows = 0, n_columns = 0;
    std::size_t size_bytes() const { return entries.size() * 4 + begins.size() * 4; }
};
// Nothing where the kernel has no such form: values of 32 bits or of different types, more than 65536 columns.
std::optional<SparseRows> pack_sparse_rows(std::span<const RowSource> sources);

// Of a weight packed from `n_parts` sources (pairs of them) that each begin a tile: part `part` as a weight of its own.
GpuWeight part_of(const GpuWeight& weight, std::int64_t part, std::int64_t n_parts);

// A bias in the order of the packed rows. // (n_rows of all sources) f32
std::vector<float> pair_bias(std::span<const float> gate, std::span<const float> up);

// Row r of the packed order as floats, by the arithmetic that the kernels use (their parts added): what tests compare. // target: (n_columns) f32
void packed_row(const GpuWeight& host_view, std::int64_t row, float* target);
// The packed row of row r of source s.
std::int64_t packed_index(std::span<const RowSource> sources, Interleave interleave, std::size_t source, std::int64_t row);

// The operand forms on the host, for tests and for uploading: x (n_tokens, n_columns) f32 to operand_bytes() of zeroed memory.
void host_operand(int operand_form, const float* x, std::int64_t n_tokens, std::int64_t n_columns, void* target);

}  // namespace skiff::cuda
