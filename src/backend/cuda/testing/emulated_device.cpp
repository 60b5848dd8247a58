// A device whose kernels are those of a GPU, run thread by thread (kernels/cuda/emulation.h): slow, and all there is of a GPU but its speed.
#include "backend/cuda/testing/fake_kernels.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/state_format.h"

namespace skiff::cuda::fake {
namespace {

// The launches themselves, when their turn in the stream comes.
template <auto function, class Args>
int later(const Args& args, const Launch& launch) {
    return put(launch.stream, [args, launch]() -> int { return function(args, launch); });
}
int select_later(const float* x, const std::int32_t* index, float* y, std::int64_t n_rows, std::int64_t n_columns, const Launch& launch) {
    return put(launch.stream, [=]() -> int { return launch_select_rows(x, index, y, n_rows, n_columns, launch); });
}
int read_later(const void* data, std::size_t size_bytes, float* sink, const Launch& launch) {
    return put(launch.stream, [=]() -> int { return launch_read_all(data, size_bytes, sink, launch); });
}
int library_product(const MatmulArgs& args, const Launch& launch) {
    const auto here_rows = [](const void* address, std::int64_t n, std::int64_t width, std::int64_t stride, std::size_t size) { return here(address, static_cast<std::size_t>((n - 1) * stride + width) * size); };
    const bool bytes = args.numbers == MatmulArgs::Numbers::e4m3;
    if (!here_rows(args.weight, args.n_rows, args.n_columns, args.weight_stride, bytes ? 1 : 2) || !here_rows(args.x, args.n_tokens, args.n_columns, args.x_stride, bytes ? 1 : 2) ||
        (bytes && !fp8_product_can_be(args)) || !here_rows(args.y, args.n_tokens, args.n_rows, args.y_stride, 4) || args.workspace == nullptr)
        return bad_value;
    return put(launch.stream, [args, bytes]() -> int {
        const auto number = [&](const void* from, std::int64_t at) { return bytes ? f8_e4m3_to_float(static_cast<const std::uint8_t*>(from)[at]) : bf16_to_float(static_cast<const std::uint16_t*>(from)[at]); };
        for (std::int64_t t = 0; t < args.n_tokens; ++t)
            for (std::int64_t r = 0; r < args.n_rows; ++r) {
                double sum = 0;
                for (std::int64_t c = 0; c < args.n_columns; ++c) sum += static_cast<double>(number(args.weight, r * args.weight_stride + c)) * number(args.x, t * args.x_stride + c);
                const auto value = static_cast<float>(sum * args.factor) + (args.bias != nullptr ? args.bias[r] : 0.0f);
                float& y = args.y[t * args.y_stride + r];
                y = args.write == MatmulArgs::Write::add ? y + value : value;
            }
        return good;
    });
}

const Table* make_table() {
    static Table table{};
    table.version = table_version;
    table.layout = table_layout();
    table.name = "emulated";
    add_runtime(table);
    add_cudnn(table);
    table.operand_bytes = operand_bytes;
    table.state_page_bytes = state_page_bytes;
    table.gemm_partial_bytes = gemm_partial_bytes;
    table.gemm_arrivals = gemm_arrivals;
    table.decode_attention_splits = decode_attention_splits;
    table.decode_partial_floats = decode_partial_floats;
    table.attention_takes = [](std::int64_t head_dim, StateForm form) { return state_takes(form, head_dim); };
    table.prefill_attention_takes = prefill_attention_takes;
    table.sample_scratch_bytes = sample_scratch_bytes;
    table.gemv = later<launch_gemv, GemvArgs>;
    table.gemm = later<launch_gemm, GemmArgs>;
    table.sparse_rows = later<launch_sparse_rows, SparseRowsArgs>;
    table.dequantize = later<launch_dequantize, DequantizeArgs>;
    table.embed = later<launch_embed, EmbedArgs>;
    table.norm = later<launch_norm, NormLaunchArgs>;
    table.rope_write = later<launch_rope_write, RopeWriteArgs>;
    table.decode_attention = later<launch_decode_attention, DecodeAttentionArgs>;
    table.prefill_attention = later<launch_prefill_attention, PrefillAttentionArgs>;
    table.elements = later<launch_elements, ElementLaunchArgs>;
    table.route = later<launch_route, RouteLaunchArgs>;
    table.experts = later<launch_experts, ExpertsArgs>;
    table.causal_conv = later<launch_causal_conv, ConvLaunchArgs>;
    table.sample = later<launch_sample, SampleArgs>;
    table.pairs = later<launch_pairs, PairsArgs>;
    table.quantize_rows = later<launch_quantize_rows, QuantizeRowsArgs>;
    table.fp8_rows = later<launch_fp8_rows, Fp8RowsArgs>;
    table.fp8_result = later<launch_fp8_result, Fp8ResultArgs>;
    table.column_sums = later<launch_column_sums, ColumnSumsArgs>;
    table.gram = later<launch_gram, GramArgs>;
    table.patches = later<launch_patches, PatchesArgs>;
    table.windows = later<launch_windows, WindowsArgs>;
    table.select_rows = select_later;
    table.read_all = read_later;
    table.matmul = library_product;
    table.widen = later<launch_widen, WidenArgs>;
    return &table;
}

}  // namespace
}  // namespace skiff::cuda::fake

extern "C" const skiff::cuda::Table* skiff_cuda_table_v1() {
    static const skiff::cuda::Table* table = skiff::cuda::fake::make_table();
    return table;
}
