// What can be chosen: one row per kernel, the reference first. Tests enumerate these tables, so an untested row cannot exist.
#include <cstring>

#include "kernels/cpu/cpu.h"
#include "kernels/kernels.h"
#include "kernels/layouts.h"
#include "kernels/ref/ref.h"

namespace skiff {
namespace {

constexpr std::int64_t any_tokens = INT64_MAX;

// A row for x86-64 processors with AVX2, FMA and F16C; no row elsewhere.
#if defined(__x86_64__)
#define SKIFF_AVX2(name, fn) , {name, Isa::avx2, fn}
#define SKIFF_AVX512(name, fn) , {name, Isa::avx512, fn}
#define SKIFF_AVX512BF16(name, fn) , {name, Isa::avx512bf16, fn}
#else
#define SKIFF_AVX2(name, fn)
#define SKIFF_AVX512(name, fn)
#define SKIFF_AVX512BF16(name, fn)
#endif
// A row for arm64 processors, all of which have NEON.
#if defined(__aarch64__)
#define SKIFF_NEON(name, fn) , {name, Isa::neon, fn}
#else
#define SKIFF_NEON(name, fn)
#endif

const Layout* const layouts[] = {&w1_r16, &w2_r16, &w3_r16, &w4_r16, &w5_r16, &w6_r16, &w8_r16, &w1_r16_skip, &w2_r16_skip, &w3_r16_skip, &w4_r16_skip, &w5_r16_skip, &w6_r16_skip, &w8_r16_skip,
                                 &w4_r16_2of4, &w8_r16_2of4, &w4_r16_mask, &w8_r16_mask, &w1_r16_hash, &w2_r16_hash, &w3_r16_hash, &w4_r16_hash, &w5_r16_hash, &w6_r16_hash, &w8_r16_hash, &bank_rows, &vectors_r16, &lut_rows, &plain_rows, &codes_rows, &blocks_rows, &outlier_rows, &sparse_rows};

constexpr KernelRow<NormFn> norm_rows[] = {{"norm_ref", Isa::generic, norm_ref} SKIFF_AVX2("norm_avx2", norm_avx2) SKIFF_NEON("norm_neon", norm_neon)};
constexpr KernelRow<RopeFn> rope_rows[] = {{"rope_ref", Isa::generic, rope_ref} SKIFF_AVX2("rope_avx2", rope_avx2) SKIFF_NEON("rope_neon", rope_neon)};
constexpr KernelRow<AttentionFn> attention_rows[] = {{"attention_ref", Isa::generic, attention_ref} SKIFF_AVX2("attention_avx2", attention_avx2) SKIFF_AVX512("attention_avx512", attention_avx512) SKIFF_AVX512BF16("attention_avx512bf16", attention_avx512bf16) SKIFF_NEON("attention_neon", attention_neon)};
constexpr KernelRow<StateWriteFn> state_write_rows[] = {{"state_write_ref", Isa::generic, state_write_ref} SKIFF_AVX2("state_write_avx2", state_write_avx2) SKIFF_AVX512("state_write_avx512", state_write_avx512) SKIFF_NEON("state_write_neon", state_write_neon)};
constexpr KernelRow<ElementFn> activation_rows[] = {{"activation_ref", Isa::generic, activation_ref} SKIFF_AVX2("activation_avx2", activation_avx2) SKIFF_NEON("activation_neon", activation_neon)};
constexpr KernelRow<ElementFn> multiply_rows[] = {{"multiply_ref", Isa::generic, multiply_ref} SKIFF_AVX2("multiply_avx2", multiply_avx2) SKIFF_NEON("multiply_neon", multiply_neon)};
constexpr KernelRow<ElementFn> add_rows[] = {{"add_ref", Isa::generic, add_ref} SKIFF_AVX2("add_avx2", add_avx2) SKIFF_NEON("add_neon", add_neon)};
constexpr KernelRow<ElementFn> scale_rows[] = {{"scale_ref", Isa::generic, scale_ref} SKIFF_AVX2("scale_avx2", scale_avx2) SKIFF_NEON("scale_neon", scale_neon)};
constexpr KernelRow<CausalConvFn> causal_conv_rows[] = {{"causal_conv_ref", Isa::generic, causal_conv_ref} SKIFF_AVX2("causal_conv_avx2", causal_conv_avx2)};
constexpr KernelRow<ElementFn> softcap_rows[] = {{"softcap_ref", Isa::generic, softcap_ref} SKIFF_AVX2("softcap_avx2", softcap_avx2) SKIFF_NEON("softcap_neon", softcap_neon)};
constexpr KernelRow<QuantizeFn> quantize_rows[] = {{"quantize_ref", Isa::generic, quantize_ref} SKIFF_AVX2("quantize_avx2", quantize_avx2) SKIFF_NEON("quantize_neon", quantize_neon)};

// The rows of one instruction set for all tile layouts.
#define SKIFF_TILE_ROW(bits, isa_name, isa, suffix, instruction) {"linear_w" #bits "_r16_" isa_name, "w" #bits "_r16", isa, ActivationForm::i8_b32, 1, any_tokens, linear_w##bits##_r16_##suffix, instruction},
#define SKIFF_TILE_ROWS(isa_name, isa, suffix, instruction)                                                                                                          \
    SKIFF_TILE_ROW(1, isa_name, isa, suffix, instruction) SKIFF_TILE_ROW(2, isa_name, isa, suffix, instruction) SKIFF_TILE_ROW(3, isa_name, isa, suffix, instruction) SKIFF_TILE_ROW(4, isa_name, isa, suffix, instruction) \
    SKIFF_TILE_ROW(5, isa_name, isa, suffix, instruction) SKIFF_TILE_ROW(6, isa_name, isa, suffix, instruction) SKIFF_TILE_ROW(8, isa_name, isa, suffix, instruction)

// Of pruned and hashed weights: the kernels of the dense tiles see by the weight what it leaves out, or where its blocks are.
#define SKIFF_PRUNED_ROW(bits, form, isa_name, isa, suffix, instruction) {"linear_w" #bits "_r16_" #form "_" isa_name, "w" #bits "_r16_" #form, isa, ActivationForm::i8_b32, 1, any_tokens, linear_w##bits##_r16_##suffix, instruction},
#define SKIFF_PRUNED_ROWS(isa_name, isa, suffix, instruction)                                                                                                                                                    \
    SKIFF_PRUNED_ROW(1, skip, isa_name, isa, suffix, instruction) SKIFF_PRUNED_ROW(2, skip, isa_name, isa, suffix, instruction) SKIFF_PRUNED_ROW(3, skip, isa_name, isa, suffix, instruction) SKIFF_PRUNED_ROW(4, skip, isa_name, isa, suffix, instruction) \
    SKIFF_PRUNED_ROW(5, skip, isa_name, isa, suffix, instruction) SKIFF_PRUNED_ROW(6, skip, isa_name, isa, suffix, instruction) SKIFF_PRUNED_ROW(8, skip, isa_name, isa, suffix, instruction) \
    SKIFF_PRUNED_ROW(1, hash, isa_name, isa, suffix, instruction) SKIFF_PRUNED_ROW(2, hash, isa_name, isa, suffix, instruction) SKIFF_PRUNED_ROW(3, hash, isa_name, isa, suffix, instruction) SKIFF_PRUNED_ROW(4, hash, isa_name, isa, suffix, instruction) \
    SKIFF_PRUNED_ROW(5, hash, isa_name, isa, suffix, instruction) SKIFF_PRUNED_ROW(6, hash, isa_name, isa, suffix, instruction) SKIFF_PRUNED_ROW(8, hash, isa_name, isa, suffix, instruction)
#define SKIFF_MASK_ROWS(isa_name, isa, suffix, instruction) SKIFF_PRUNED_ROW(4, mask, isa_name, isa, suffix, instruction) SKIFF_PRUNED_ROW(8, mask, isa_name, isa, suffix, instruction)

constexpr LinearKernel linear_rows[] = {
    {"linear_plain_ref", "plain_rows", Isa::generic, ActivationForm::f32, 1, any_tokens, linear_ref, "plain code"},
    {"linear_codes_ref", "codes_rows", Isa::generic, ActivationForm::f32, 1, any_tokens, linear_ref, "plain code"},
    {"linear_luts_ref", "lut_rows", Isa::generic, ActivationForm::f32, 1, any_tokens, linear_ref, "plain code"},
    {"linear_blocks_ref", "blocks_rows", Isa::generic, ActivationForm::f32, 1, any_tokens, linear_ref, "plain code"},
    {"linear_outliers_ref", "outlier_rows", Isa::generic, ActivationForm::f32, 1, any_tokens, linear_ref, "plain code"},
    {"linear_outliers", "outlier_rows", Isa::generic, ActivationForm::f32, 1, any_tokens, linear_outliers, "plain code"},
    {"linear_sparse_ref", "sparse_rows", Isa::generic, ActivationForm::f32, 1, any_tokens, linear_ref, "plain code"},
#if defined(__x86_64__)
    {"linear_plain_avx2", "plain_rows", Isa::avx2, ActivationForm::f32, 1, any_tokens, linear_rows_avx2, "vfmadd"},
    {"linear_codes_avx2", "codes_rows", Isa::avx2, ActivationForm::f32, 1, any_tokens, linear_rows_avx2, "vfmadd"},
    {"linear_luts_avx2", "lut_rows", Isa::avx2, ActivationForm::f32, 1, any_tokens, linear_luts_avx2, "vfmadd"},
    {"linear_luts_avx512vbmi", "lut_rows", Isa::avx512vbmi, ActivationForm::f32, 1, any_tokens, linear_luts_avx512vbmi, "vfmadd"},
    {"linear_blocks_avx2", "blocks_rows", Isa::avx2, ActivationForm::f32, 1, any_tokens, linear_rows_avx2, "vfmadd"},
    {"linear_bank_avx2", "bank_rows", Isa::avx2, ActivationForm::f32, 1, any_tokens, linear_bank_avx2, "vfmadd"},
    {"linear_sparse_avx2", "sparse_rows", Isa::avx2, ActivationForm::f32, 1, any_tokens, linear_rows_avx2, "vfmadd"},
    SKIFF_TILE_ROWS("avx2", Isa::avx2, avx2, "vpmaddubsw")
    SKIFF_PRUNED_ROWS("avx2", Isa::avx2, avx2, "vpmaddubsw")
    SKIFF_MASK_ROWS("avx2", Isa::avx2, avx2, "vpmaddubsw")
    SKIFF_TILE_ROWS("avx2vnni", Isa::avx2vnni, avx2vnni, "vpdpbusd 256")
    SKIFF_PRUNED_ROWS("avx2vnni", Isa::avx2vnni, avx2vnni, "vpdpbusd 256")
    SKIFF_MASK_ROWS("avx2vnni", Isa::avx2vnni, avx2vnni, "vpdpbusd 256")
    SKIFF_TILE_ROWS("avx512", Isa::avx512, avx512, "vpdpbusd 512")
    SKIFF_PRUNED_ROWS("avx512", Isa::avx512, avx512, "vpdpbusd 512")
    {"linear_w4_r16_2of4_avx512", "w4_r16_2of4", Isa::avx512, ActivationForm::i8_b32, 1, any_tokens, linear_w4_r16_2of4_avx512, "vpshufb, vpdpbusd 512"},
    {"linear_w8_r16_2of4_avx512", "w8_r16_2of4", Isa::avx512, ActivationForm::i8_b32, 1, any_tokens, linear_w8_r16_2of4_avx512, "vpshufb, vpdpbusd 512"},
    {"linear_w4_r16_mask_avx512vbmi", "w4_r16_mask", Isa::avx512vbmi, ActivationForm::i8_b32, 1, any_tokens, linear_w4_r16_mask_avx512vbmi, "vpexpandb, vpdpbusd 512"},
    {"linear_w8_r16_mask_avx512vbmi", "w8_r16_mask", Isa::avx512vbmi, ActivationForm::i8_b32, 1, any_tokens, linear_w8_r16_mask_avx512vbmi, "vpexpandb, vpdpbusd 512"},
    SKIFF_TILE_ROWS("amx", Isa::amx, amx, "tdpbsud")
    {"linear_vectors_r16_avx2", "vectors_r16", Isa::avx2, ActivationForm::i8_b32, 1, any_tokens, linear_vectors_r16_avx2, "vpgatherdd, vpmaddubsw"},
    {"linear_vectors_r16_avx2vnni", "vectors_r16", Isa::avx2vnni, ActivationForm::i8_b32, 1, any_tokens, linear_vectors_r16_avx2vnni, "vpgatherdd, vpdpbusd 256"},
    {"linear_vectors_r16_avx512vbmi", "vectors_r16", Isa::avx512vbmi, ActivationForm::i8_b32, 1, any_tokens, linear_vectors_r16_avx512vbmi, "vpermi2b, vpdpbusd 512"},
#endif
#if defined(__aarch64__)
    {"linear_plain_neon", "plain_rows", Isa::neon, ActivationForm::f32, 1, any_tokens, linear_rows_neon, "fmla"},
    {"linear_codes_neon", "codes_rows", Isa::neon, ActivationForm::f32, 1, any_tokens, linear_rows_neon, "fmla"},
    {"linear_luts_neon", "lut_rows", Isa::neon, ActivationForm::f32, 1, any_tokens, linear_rows_neon, "fmla"},
    {"linear_blocks_neon", "blocks_rows", Isa::neon, ActivationForm::f32, 1, any_tokens, linear_rows_neon, "fmla"},
    {"linear_sparse_neon", "sparse_rows", Isa::neon, ActivationForm::f32, 1, any_tokens, linear_rows_neon, "fmla"},
    SKIFF_TILE_ROWS("neon", Isa::neon, neon, "smlal")
    SKIFF_PRUNED_ROWS("neon", Isa::neon, neon, "smlal")
    SKIFF_MASK_ROWS("neon", Isa::neon, neon, "smlal")
    SKIFF_TILE_ROWS("neon_dot", Isa::neon_dot, neon_dot, "sdot")
    SKIFF_PRUNED_ROWS("neon_dot", Isa::neon_dot, neon_dot, "sdot")
    SKIFF_MASK_ROWS("neon_dot", Isa::neon_dot, neon_dot, "sdot")
    SKIFF_TILE_ROWS("neon_i8mm", Isa::neon_i8mm, neon_i8mm, "smmla")
#endif
};

}  // namespace

std::span<const Layout* const> layout_table() { return layouts; }
std::span<const KernelRow<NormFn>> norm_kernels() { return norm_rows; }
std::span<const KernelRow<RopeFn>> rope_kernels() { return rope_rows; }
std::span<const KernelRow<AttentionFn>> attention_kernels() { return attention_rows; }
std::span<const KernelRow<StateWriteFn>> state_write_kernels() { return state_write_rows; }
std::span<const KernelRow<ElementFn>> activation_kernels() { return activation_rows; }
std::span<const KernelRow<ElementFn>> multiply_kernels() { return multiply_rows; }
std::span<const KernelRow<ElementFn>> add_kernels() { return add_rows; }
std::span<const KernelRow<ElementFn>> scale_kernels() { return scale_rows; }
std::span<const KernelRow<CausalConvFn>> causal_conv_kernels() { return causal_conv_rows; }
std::span<const KernelRow<ElementFn>> softcap_kernels() { return softcap_rows; }
std::span<const KernelRow<QuantizeFn>> quantize_kernels() { return quantize_rows; }
std::span<const LinearKernel> linear_kernels() { return linear_rows; }

PackedWeight pack_weight(const Layout& layout, const Weight& weight, const RowMap& rows, ThreadPool* pool) {
    PackedWeight packed;
    packed.layout = &layout;
    packed.n_rows = rows.n_rows();
    packed.n_columns = weight.n_columns();
    if (layout.fill == nullptr || pool == nullptr || pool->n_threads() == 1) {
        layout.pack(weight, rows, packed);
        return packed;
    }
    layout.begin(weight, rows, packed);
    pool->run([&](int thread) {
        const Range mine = share_of(packed.n_rows, thread, pool->n_threads(), layout.row_unit);
        layout.fill(weight, rows, mine.begin, mine.end, packed);
    });
    return packed;
}

const LinearKernel* choose_linear_kernel(std::string_view layout, Isa isa, std::int64_t n_tokens, KernelChoice choice) {
    const LinearKernel* best = nullptr;
    for (const auto& row : linear_kernels()) {
        if (row.layout != layout || !isa_includes(isa, row.isa) || n_tokens < row.min_tokens || n_tokens > row.max_tokens) continue;
        if (choice == KernelChoice::reference && row.fn != linear_ref) continue;
        if (best == nullptr || row.isa >= best->isa) best = &row;
    }
    return best;
}

const Layout* choose_layout(const Weight& weight, Isa isa, KernelChoice choice) {
    for (const Layout* layout : layout_table())
        if (layout->accepts(weight) && choose_linear_kernel(layout->name, isa, 1, choice) != nullptr) return layout;
    return nullptr;
}

}  // namespace skiff
