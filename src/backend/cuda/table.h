// The boundary between the program and libskiff_cuda.so: one table of functions, opened by name (library.h). The program is compiled without CUDA's headers and
// runs without the plug-in; the plug-in links cudart statically and knows nothing of models. Everything that decides (device_*.h) stands on this side, so
// that it is tested on the CPU against a table whose functions compute on the host (testing/fake_device.cpp).
//
// The table is found by skiff_cuda_table_v1(). `layout` notices another version of skiff and most changes of the structures here and in kernels/cuda/launch.h:
// of their sizes, not of the order of fields or enumerators. A change of meaning within a version takes a new table_version, and a new name of that function.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/cuda/cutlass_product.h"
#include "kernels/cuda/fp8_rows.h"
#include "kernels/cuda/image_windows.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/product_rows.h"
#include "kernels/cuda/statistics.h"

namespace skiff::cuda {

struct DeviceFacts {
    char name[96];
    int arch;               // 10 * major + minor
    int n_multiprocessors;
    std::uint64_t memory_bytes, l2_bytes;
    int memory_clock_khz, memory_bus_bits;  // 0: not told
};

// y = factor * x weight^T + bias (+ y): by cuBLASLt, for many tokens. The factor does not reach the bias; that of the own kernels does (GemmArgs), so that a session
// never has both here.
struct MatmulArgs {
    enum class Numbers : std::uint8_t { bf16, e4m3 } numbers = Numbers::bf16;  // of weight and x; e4m3 from sm_89 on, whole 16 rows and columns
    const void* weight = nullptr;  // (n_rows, n_columns), rows weight_stride elements apart
    const void* x = nullptr;       // (n_tokens, n_columns)
    const float* bias = nullptr;   // (n_rows) or null
    float* y = nullptr;            // (n_tokens, y_stride) f32
    std::int64_t n_tokens = 0, n_rows = 0, n_columns = 0, weight_stride = 0, x_stride = 0, y_stride = 0;
    float factor = 1;
    enum class Write : std::uint8_t { replace, add } write = Write::replace;
    void* workspace = nullptr;
    std::size_t workspace_bytes = 0;
};

// Causal attention of neighbouring tokens of one sequence over its pages, which are of the form bf16: by cuDNN. They are the last n_tokens of n_positions positions.
struct SequenceAttentionArgs {
    const void* q = nullptr;     // (n_rows, n_heads * head_dim) bf16: a size of memory, for which there is a plan; the rows behind the tokens may hold anything
    void* y = nullptr;           // (n_rows, n_heads * head_dim) bf16, and anything behind the tokens
    std::int64_t n_rows = 0, n_heads = 0;
    StateView state;
    std::int64_t sequence = 0;   // the row of the page table
    std::int64_t n_pages = 0;    // of that row; at least those of the positions
    std::int64_t n_pool_pages = 0;
    const std::int32_t *n_tokens = nullptr, *n_positions = nullptr;  // (1) each, on the device
    float scale = 1, softcap = 0;
    std::int64_t window = 0;     // 0 = all
    void* workspace = nullptr;
    std::size_t workspace_bytes = 0;
};

// y = activation(convolution of x + bias): by cuDNN. Images with channels innermost.
struct ConvolutionArgs {
    const float* x = nullptr;       // (n_images, height, width, channels)
    const float* weight = nullptr;  // (out_channels, kernel, kernel, channels / groups)
    const float* bias = nullptr;    // (out_channels) or null
    float* y = nullptr;             // (n_images, out_height, out_width, out_channels)
    std::int64_t n_images = 0, height = 1, width = 1, channels = 1, out_height = 1, out_width = 1, out_channels = 1, groups = 1;
    std::int64_t kernel[2] = {1, 1}, stride[2] = {1, 1}, dilation[2] = {1, 1}, before[2] = {0, 0}, after[2] = {0, 0};  // [0] is down, [1] is across
    enum class Then : std::uint8_t { nothing, activation } then = Then::nothing;
    Activation activation = Activation::relu;
    void* workspace = nullptr;
    std::size_t workspace_bytes = 0;
};

using Stream = void*;
using Event = void*;
using Graph = void*;

// Functions give 0 or an error for error_text(). None but wait_*, copy_out_now and allocations wait for the device.
struct Table {
    std::uint32_t version;      // table_version
    std::uint32_t layout;       // table_layout() where it was compiled
    const char* name;           // "cuda 13.0", "fake"

    // ---- devices and memory
    int (*n_devices)(int* n);
    int (*describe)(int device, DeviceFacts* facts);
    int (*select)(int device);  // for the calling thread, before anything below
    int (*memory)(std::uint64_t* free_bytes, std::uint64_t* total_bytes);
    int (*allocate)(std::size_t size_bytes, void** address);          // aligned to 256
    int (*release)(void* address);
    int (*allocate_pinned)(std::size_t size_bytes, void** address);   // of the host, that copies can run from
    int (*release_pinned)(void* address);
    int (*copy_in)(void* device, const void* pinned, std::size_t size_bytes, Stream stream);
    int (*copy_out)(void* pinned, const void* device, std::size_t size_bytes, Stream stream);
    int (*copy_within)(void* to, const void* from, std::size_t size_bytes, Stream stream);
    int (*fill)(void* device, int byte, std::size_t size_bytes, Stream stream);
    const char* (*error_text)(int error);

    // ---- order
    int (*make_stream)(Stream* stream);
    int (*destroy_stream)(Stream stream);
    int (*wait_stream)(Stream stream);
    int (*make_event)(Event* event);
    int (*destroy_event)(Event event);
    int (*record)(Event event, Stream stream);
    int (*wait_event)(Event event);                       // the host waits
    int (*stream_waits)(Stream stream, Event event);      // what follows on the stream waits
    int (*elapsed_ms)(Event begin, Event end, float* ms);
    int (*begin_capture)(Stream stream);
    int (*end_capture)(Stream stream, Graph* graph);      // ready to be launched
    int (*launch_graph)(Graph graph, Stream stream);
    int (*destroy_graph)(Graph graph);

    // ---- sizes
    std::size_t (*operand_bytes)(OperandForm form, std::int64_t n_tokens, std::int64_t n_columns);
    std::size_t (*state_page_bytes)(StateForm form, std::int64_t n_kv_heads, std::int64_t head_dim);
    std::size_t (*gemm_partial_bytes)(const GpuWeight& weight, std::int64_t n_tokens, const Launch& launch);
    std::int64_t (*gemm_arrivals)(const GpuWeight& weight, std::int64_t n_tokens);
    std::int64_t (*decode_attention_splits)(std::int64_t capacity, std::int64_t n_kv_heads, const Launch& launch);
    std::int64_t (*decode_partial_floats)(std::int64_t n_tokens, std::int64_t n_heads, std::int64_t head_dim, std::int64_t n_splits);
    bool (*attention_takes)(std::int64_t head_dim, StateForm form);  // of few tokens
    bool (*prefill_attention_takes)(std::int64_t head_dim, StateForm form);
    std::size_t (*sample_scratch_bytes)(std::int64_t n_tokens);

    // ---- kernels (kernels/cuda/launch.h)
    int (*gemv)(const GemvArgs& args, const Launch& launch);
    int (*gemm)(const GemmArgs& args, const Launch& launch);
    int (*sparse_rows)(const SparseRowsArgs& args, const Launch& launch);
    int (*dequantize)(const DequantizeArgs& args, const Launch& launch);
    int (*embed)(const EmbedArgs& args, const Launch& launch);
    int (*norm)(const NormLaunchArgs& args, const Launch& launch);
    int (*rope_write)(const RopeWriteArgs& args, const Launch& launch);
    int (*decode_attention)(const DecodeAttentionArgs& args, const Launch& launch);
    int (*prefill_attention)(const PrefillAttentionArgs& args, const Launch& launch);
    int (*elements)(const ElementLaunchArgs& args, const Launch& launch);
    int (*select_rows)(const float* x, const std::int32_t* index, float* y, std::int64_t n_rows, std::int64_t n_columns, const Launch& launch);
    int (*route)(const RouteLaunchArgs& args, const Launch& launch);
    int (*experts)(const ExpertsArgs& args, const Launch& launch);
    int (*causal_conv)(const ConvLaunchArgs& args, const Launch& launch);
    int (*sample)(const SampleArgs& args, const Launch& launch);
    int (*pairs)(const PairsArgs& args, const Launch& launch);
    int (*quantize_rows)(const QuantizeRowsArgs& args, const Launch& launch);
    int (*fp8_rows)(const Fp8RowsArgs& args, const Launch& launch);
    int (*fp8_result)(const Fp8ResultArgs& args, const Launch& launch);
    int (*column_sums)(const ColumnSumsArgs& args, const Launch& launch);
    int (*gram)(const GramArgs& args, const Launch& launch);
    int (*patches)(const PatchesArgs& args, const Launch& launch);
    int (*windows)(const WindowsArgs& args, const Launch& launch);
    int (*read_all)(const void* data, std::size_t size_bytes, float* sink, const Launch& launch);  // reads it and keeps nothing: the bandwidth // sink: (1) f32

    // ---- cuBLASLt, where the program has found it. Opened once; each call is for the device that the thread has chosen.
    int (*open_cublaslt)(const char* path);
    int (*prepare_matmul)(const MatmulArgs& args);  // finds its algorithm and launches nothing; an error where there is none
    int (*matmul)(const MatmulArgs& args, const Launch& launch);

    // ---- CUTLASS, where the plug-in was built with it
    int (*cutlass)(const CutlassProductArgs& args, const Launch& launch);  // or null

    // ---- cuDNN, where the program has found it and was asked for it. Opened for the device that is chosen then. Where there is no plan for a shape, preparing it is an error that says why.
    int (*open_cudnn)(const char* path);
    int (*prepare_sequence_attention)(const SequenceAttentionArgs& args);
    int (*sequence_attention)(const SequenceAttentionArgs& args, const Launch& launch);
    int (*widen)(const WidenArgs& args, const Launch& launch);
    int (*prepare_convolution)(const ConvolutionArgs& args);
    int (*convolution)(const ConvolutionArgs& args, const Launch& launch);
};

inline constexpr std::uint32_t table_version = 1;
constexpr std::uint32_t table_layout() {
    std::uint32_t hash = 2166136261u;
    for (std::size_t size : {sizeof(Table), sizeof(DeviceFacts), sizeof(MatmulArgs), sizeof(PairsArgs), sizeof(Launch), sizeof(GpuWeight), sizeof(GemvArgs), sizeof(GemmArgs), sizeof(SparseRowsArgs),
                             sizeof(DequantizeArgs), sizeof(EmbedArgs), sizeof(NormLaunchArgs), sizeof(RopeWriteArgs), sizeof(DecodeAttentionArgs), sizeof(PrefillAttentionArgs),
                             sizeof(ElementLaunchArgs), sizeof(RouteLaunchArgs), sizeof(ExpertsArgs), sizeof(ConvLaunchArgs), sizeof(SampleArgs), sizeof(ColumnSumsArgs), sizeof(GramArgs), sizeof(PatchesArgs), sizeof(WindowsArgs),
                             sizeof(SequenceAttentionArgs), sizeof(ConvolutionArgs), sizeof(WidenArgs), sizeof(QuantizeRowsArgs), sizeof(Fp8RowsArgs), sizeof(Fp8ResultArgs), sizeof(CutlassProductArgs)})
        hash = (hash ^ static_cast<std::uint32_t>(size)) * 16777619u;
    for (const char character : std::string_view(SKIFF_VERSION)) hash = (hash ^ static_cast<unsigned char>(character)) * 16777619u;
    return hash;
}

using TableFunction = const Table* (*)();
inline constexpr const char* table_symbol = "skiff_cuda_table_v1";

}  // namespace skiff::cuda
