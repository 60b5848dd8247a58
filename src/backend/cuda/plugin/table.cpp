// The table of libskiff_cuda.so.
#include <cuda_runtime.h>

#include <cstdio>

#include "backend/cuda/cudnn/rows.h"
#include "backend/cuda/plugin/runtime.h"
#include "kernels/cuda/state_format.h"

namespace skiff::cuda {
namespace {

const Table* make_table() {
    static Table table{};
    static char name[32];
    std::snprintf(name, sizeof name, "cuda %d.%d", CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    table.version = table_version;
    table.layout = table_layout();
    table.name = name;
    add_runtime(table);
    table.operand_bytes = operand_bytes;
    table.state_page_bytes = state_page_bytes;
    table.gemm_partial_bytes = gemm_partial_bytes;
    table.gemm_arrivals = gemm_arrivals;
    table.decode_attention_splits = decode_attention_splits;
    table.decode_partial_floats = decode_partial_floats;
    table.attention_takes = [](std::int64_t head_dim, StateForm form) { return state_takes(form, head_dim); };
    table.prefill_attention_takes = prefill_attention_takes;
    table.sample_scratch_bytes = sample_scratch_bytes;
    table.gemv = launch_gemv;
    table.gemm = launch_gemm;
    table.sparse_rows = launch_sparse_rows;
    table.dequantize = launch_dequantize;
    table.embed = launch_embed;
    table.norm = launch_norm;
    table.rope_write = launch_rope_write;
    table.decode_attention = launch_decode_attention;
    table.prefill_attention = launch_prefill_attention;
    table.elements = launch_elements;
    table.select_rows = launch_select_rows;
    table.route = launch_route;
    table.experts = launch_experts;
    table.causal_conv = launch_causal_conv;
    table.sample = launch_sample;
    table.pairs = launch_pairs;
    table.quantize_rows = launch_quantize_rows;
    table.fp8_rows = launch_fp8_rows;
    table.fp8_result = launch_fp8_result;
    table.column_sums = launch_column_sums;
    table.gram = launch_gram;
    table.patches = launch_patches;
    table.windows = launch_windows;
    table.read_all = launch_read_all;
    table.open_cublaslt = open_cublaslt;
    table.prepare_matmul = prepare_cublaslt;
    table.matmul = multiply_cublaslt;
#if defined(SKIFF_CUTLASS)
    table.cutlass = launch_cutlass_product;
#endif
    table.open_cudnn = cudnn::open;
    table.prepare_sequence_attention = cudnn::prepare;
    table.sequence_attention = cudnn::attend;
    table.widen = launch_widen;
    table.prepare_convolution = cudnn::prepare;
    table.convolution = cudnn::convolve;
    return &table;
}

}  // namespace
}  // namespace skiff::cuda

extern "C" __attribute__((visibility("default"))) const skiff::cuda::Table* skiff_cuda_table_v1() {
    static const skiff::cuda::Table* table = skiff::cuda::make_table();
    return table;
}
