// From a model on the device to the launches of one run: for a number of tokens, with every address in its place. What a program reads that changes from run to
// run (tokens, positions, pages) is read from memory, so that a CUDA graph of it can be launched again.
#pragma once

#include <map>
#include <string>
#include <variant>
#include <vector>

#include "backend/cuda/device_model.h"
#include "backend/cuda/scratch.h"

namespace skiff::cuda {

// Neighbouring tokens of a sequence, as attention by cuDNN takes them: sizes of memory, for which it has a plan.
struct Segment {
    std::int64_t sequence = 0, n_tokens = 0;
    std::int64_t n_rows = 0;   // segment_rows()
    std::int64_t n_pages = 0;  // segment_pages()
    auto operator<=>(const Segment&) const = default;
};
inline constexpr std::int64_t segment_min_tokens = 64;  // with fewer in a run, the own kernels do all of it
// Powers of two: the library compiles a kernel for each size when it is first asked for it, which takes about a second.
std::int64_t segment_rows(std::int64_t n_tokens);
std::int64_t segment_pages(std::int64_t n_positions, std::int64_t max_pages);

struct RunShape {
    std::int64_t n_tokens = 1;
    std::int64_t n_selected = 1;  // rows that go on into the head
    enum class Selection : std::uint8_t { all, some } selection = Selection::all;  // all: every token, in order
    enum class Attention : std::uint8_t { decode, prefill } attention = Attention::decode;
    std::int64_t n_tiles = 0;  // of prefill
    enum class Then : std::uint8_t { stop, choose } then = Then::stop;  // choose: a token by its logits, which becomes the next run's input (all rows selected)
    std::vector<Segment> segments = {};  // of prefill, where cuDNN may attend: all tokens, in order
    enum class Tokens : std::uint8_t { any, one_each } tokens = Tokens::any;  // one_each: no two are of the same sequence (one alone is such anyway)
    bool one_each() const { return n_tokens == 1 || tokens == Tokens::one_each; }
    auto operator<=>(const RunShape&) const = default;
};

// Where a run's inputs are on the device.
struct RunInputs {
    std::int32_t* tokens = nullptr;           // (n_tokens)
    std::int32_t* positions = nullptr;        // (n_tokens)
    const std::int32_t* sequences = nullptr;  // (n_tokens)
    const std::int32_t* selected = nullptr;   // (n_selected)
    const PrefillTile* tiles = nullptr;       // (n_tiles)
    const std::int32_t* segment_lengths = nullptr;  // (n_segments, segment_stride): tokens in the first, positions in the fifth, so that both are aligned to 16 bytes
    const float* hidden = nullptr;            // (n_tokens, input_width), of a stretch of blocks
};

inline constexpr std::int64_t segment_stride = 8;

// The state of an operator on the device.
struct StatePlace {
    StateView view;
    float* rings = nullptr;  // of a convolution
};

enum class Matmul : std::uint8_t { own, cublaslt, fp8, cutlass };  // of many tokens; fp8: cuBLASLt, and inputs of weights that are 8-bit floats become such, too
inline bool takes_cublaslt(Matmul matmul) { return matmul == Matmul::cublaslt || matmul == Matmul::fp8; }
inline const char* library_name(Matmul matmul) { return matmul == Matmul::cutlass ? "CUTLASS" : "cuBLASLt"; }  // not of own
enum class PromptAttention : std::uint8_t { own, cudnn };

// Weights as rows of bf16 for a library, written out once: by their codes. (n_tiles * 16, kept_row_stride) bf16
using KeptRows = std::map<const void*, std::byte*>;
inline std::int64_t kept_row_stride(const GpuWeight& weight) { return (weight.n_columns + 7) / 8 * 8; }
inline std::size_t kept_row_bytes(const GpuWeight& weight) { return static_cast<std::size_t>(std::int64_t{weight.n_tiles} * 16 * kept_row_stride(weight) * 2); }

struct EmitOptions {
    const Launch* launch = nullptr;
    std::int64_t capacity = 0;
    Matmul matmul = Matmul::own;
    PromptAttention attention = PromptAttention::own;
    std::int64_t n_pool_pages = 0;
    enum class Fuse : std::uint8_t { on, off } fuse = Fuse::on;  // the norm's product in the kernel in front
    std::int32_t* arrivals = nullptr;     // (n_arrivals) zeros: who is last among the blocks that share a result
    std::int64_t n_arrivals = 0;
    void* workspace = nullptr;  // of the libraries
    std::size_t workspace_bytes = 0;
    const KeptRows* kept_rows = nullptr;
    SampleArgs choose;  // of RunShape::Then::choose: all but logits and tokens
};
inline constexpr std::int64_t matmul_min_tokens = 65;  // from here on a library, where it is wanted

struct SelectArgs {
    const float* x = nullptr;
    const std::int32_t* index = nullptr;
    float* y = nullptr;
    std::int64_t n_rows = 0, n_columns = 0;
};

using LaunchArgs = std::variant<EmbedArgs, NormLaunchArgs, GemvArgs, GemmArgs, SparseRowsArgs, RopeWriteArgs, DecodeAttentionArgs, PrefillAttentionArgs, ElementLaunchArgs, SelectArgs, RouteLaunchArgs, ExpertsArgs, ConvLaunchArgs,
                                DequantizeArgs, MatmulArgs, CutlassProductArgs, PairsArgs, QuantizeRowsArgs, Fp8RowsArgs, Fp8ResultArgs, SequenceAttentionArgs, WidenArgs, SampleArgs, StreamArgs>;
struct DeviceStep {
    std::string name;    // of the operators it does
    const char* kernel;  // "gemv", "decode attention"
    LaunchArgs args;
};
struct DeviceProgram {
    struct Tap {
        std::string name;
        const float* x = nullptr;  // (n_tokens, stride)
        std::int64_t stride = 0, width = 0;
    };
    std::vector<DeviceStep> steps;
    std::vector<Tap> taps;
    float* output = nullptr;  // (n_selected or n_tokens, output_width)
};

DeviceProgram emit(const DeviceModel& model, const std::vector<StatePlace>& states, const RunShape& shape, const RunInputs& inputs, const EmitOptions& options, Scratch& scratch);
int launch_step(const Table& table, const DeviceStep& step, const Launch& launch);

}  // namespace skiff::cuda
