// From a launch's arguments to the file that has its kernel, and the choices that depend on the device.
#include "kernels/cuda/attention_families.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/families.h"
#include "kernels/cuda/gemm_shape.h"
#include "kernels/cuda/norm_rows.cuh"
#include "kernels/cuda/state_format.h"
#include "kernels/cuda/tuning.h"

namespace skiff::cuda {

int launch_gemv(const GemvArgs& args, const Launch& launch) {
    if (args.n_tokens < 1 || args.n_tokens > max_gemv_tokens || args.weight.n_units <= 0) return cudaErrorInvalidValue;
    if (args.arrivals != nullptr && (args.n_tokens > max_last_norm_tokens || args.norms.width > max_last_norm_width || args.norms.width != args.weight.n_rows || args.norms.n_groups != 1 || !norms_in_fours(args.norms))) return cudaErrorInvalidValue;
    switch (family_of(args.weight)) {
        case Family::plain: return gemv_float(args, launch);
        case Family::byte: return gemv_byte(args, launch);
        case Family::linear: return gemv_linear(args, launch);
        case Family::linear_low: return gemv_linear_low(args, launch);
        case Family::table: return gemv_table(args, launch);
        case Family::table_wide: return gemv_table_wide(args, launch);
        case Family::two_of_four: return gemv_two_of_four(args, launch);
    }
    return cudaErrorInvalidValue;
}

int launch_gemm(const GemmArgs& args, const Launch& launch) {
    if (args.n_tokens < 1 || args.weight.n_units <= 0) return cudaErrorInvalidValue;
    switch (family_of(args.weight)) {
        case Family::plain: return gemm_float(args, launch);
        case Family::byte: return gemm_byte(args, launch);
        case Family::linear: return gemm_linear(args, launch);
        case Family::linear_low: return gemm_linear_low(args, launch);
        case Family::table: return gemm_table(args, launch);
        case Family::table_wide: return gemm_table_wide(args, launch);
        case Family::two_of_four: return gemm_two_of_four(args, launch);
    }
    return cudaErrorInvalidValue;
}

int launch_experts(const ExpertsArgs& args, const Launch& launch) {
    const RouteLaunchArgs& route = args.route;
    if (args.product.n_tokens < 1 || args.product.n_tokens > max_gemv_tokens || args.product.n_tokens != route.n_tokens || args.product.weight.n_units <= 0 || route.n_experts < 1 || route.n_experts > max_routed_experts ||
        route.n_used < 1 || route.n_used > max_chosen_experts || route.n_used > route.n_experts || args.product.write == GemvWrite::activate || args.product.arrivals != nullptr)
        return cudaErrorInvalidValue;
    switch (family_of(args.product.weight)) {
        case Family::plain: return experts_float(args, launch);
        case Family::byte: return experts_byte(args, launch);
        case Family::linear: return experts_linear(args, launch);
        case Family::linear_low: return experts_linear_low(args, launch);
        case Family::table: return experts_table(args, launch);
        case Family::table_wide: return experts_table_wide(args, launch);
        case Family::two_of_four: return experts_two_of_four(args, launch);
    }
    return cudaErrorInvalidValue;
}

std::size_t gemm_partial_bytes(const GpuWeight& weight, std::int64_t n_tokens, const Launch& launch) {
    const int splits = gemm_splits(weight, n_tokens, launch);
    return splits > 1 ? static_cast<std::size_t>(splits) * static_cast<std::size_t>(gemm_blocks(weight, n_tokens)) * gemm_block_rows(gemm_warp_tiles(weight)) * gemm_block_tokens * 4 : 0;
}

std::int64_t gemm_arrivals(const GpuWeight& weight, std::int64_t n_tokens) { return gemm_blocks(weight, n_tokens); }

std::int64_t decode_attention_splits(std::int64_t capacity, std::int64_t n_kv_heads, const Launch& launch) {
    const std::int64_t wanted = decode_attention_waves * launch.n_sms / n_kv_heads, useful = (capacity + decode_attention_min_positions - 1) / decode_attention_min_positions;
    const std::int64_t splits = wanted < useful ? wanted : useful;
    return splits < 1 ? 1 : splits > decode_attention_max_splits ? decode_attention_max_splits : splits;
}

std::int64_t decode_partial_floats(std::int64_t n_tokens, std::int64_t n_heads, std::int64_t head_dim, std::int64_t n_splits) { return n_tokens * n_heads * n_splits * (head_dim + 2); }

int launch_decode_attention(const DecodeAttentionArgs& args, const Launch& launch) {
    const StateView& state = args.common.state;
    if (!state_takes(state.form, state.head_dim) || state.n_kv_heads < 1 || args.common.n_heads % state.n_kv_heads != 0 || args.n_splits < 1 || args.n_splits > decode_attention_max_splits) return cudaErrorInvalidValue;
    const RopeWriteArgs& rope = args.rope;
    if (rope.qkv != nullptr && (rope.k_offset < 0 || rope.v_offset < 0 || (rope.n_heads != 0 && rope.n_heads != args.common.n_heads) || rope.rotary_dim > state.head_dim || args.common.mask != AttentionMask::causal)) return cudaErrorInvalidValue;
    return state.form == StateForm::bf16 ? decode_attention_bf16(args, launch) : decode_attention_coded(args, launch);
}

bool prefill_attention_takes(std::int64_t head_dim, StateForm form) { return state_takes(form, head_dim); }

int launch_prefill_attention(const PrefillAttentionArgs& args, const Launch& launch) {
    const StateView& state = args.common.state;
    if (!state_takes(state.form, state.head_dim) || state.n_kv_heads < 1 || args.common.n_heads % state.n_kv_heads != 0) return cudaErrorInvalidValue;
    return state.form == StateForm::bf16 ? prefill_attention_bf16(args, launch) : prefill_attention_coded(args, launch);
}

}  // namespace skiff::cuda
