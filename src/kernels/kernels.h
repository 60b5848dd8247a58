// Every kernel: a pure function on views and a share of the work. One table per operator; the first row of each is the reference.
// All activations are f32 and dense: a value of width w for n tokens is (n_tokens, w). What arguments need is checked when the Plan is built.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/cpu_features.h"
#include "base/thread_pool.h"
#include "kernels/layout.h"
#include "kernels/state_layout.h"

namespace skiff {

template <class Fn>
struct KernelRow {
    std::string_view name;  // "rms_norm_ref"
    Isa isa;
    Fn fn;
};

// ---- norm: y = (x - mean) / sqrt(var + eps) * weight + bias, or without mean (RMS). Over `width`, `n_items` times.
enum class NormKind : std::uint8_t { rms, layer };
struct NormArgs {
    const float* x;       // (n_items, width) f32
    const float* weight;  // (width) f32, or null for ones
    const float* bias;    // (width) f32, or null
    float* y;             // (n_items, width) f32; may be x
    std::int64_t width;
    float eps;
    NormKind kind;
};
using NormFn = void (*)(const NormArgs& args, Range items);

// ---- rope: rotates the first `rotary_dim` of each head by position * inv_freq.
enum class RopeStyle : std::uint8_t { half, interleaved };  // pairs (i, i + rotary_dim/2) as in GPT-NeoX and Hugging Face, or (2i, 2i+1)
struct RopeArgs {
    float* x;                       // (n_tokens, n_heads * head_dim) f32, in place
    const std::int32_t* positions;  // (n_tokens)
    const float* inv_freq;          // (rotary_dim / 2) f32
    std::int64_t n_heads, head_dim, rotary_dim;
    float magnitude;                // multiplies cos and sin (attention factor of long contexts), else 1
    RopeStyle style;
};
using RopeFn = void (*)(const RopeArgs& args, Range tokens);

// ---- attention over a state (KV cache). Keys of positions 0 .. position of the token's own sequence, the newest included.
// Its work is cut into units: of one KV head, one tile (neighbouring tokens of one sequence, attention_tile) and one chunk of 256 positions. A range
// that holds all units of a tile and head writes y at once. Otherwise each chunk's result waits in `partials`, and who finishes the last one merges
// them in order of position: the same bits however the units are dealt.
struct AttentionArgs {
    const float* q;                    // (n_tokens, n_heads * head_dim) f32
    const std::byte* const* keys;      // (n_tokens) -> keys of the token's sequence, as state_layout.h says
    const std::byte* const* values;    // (n_tokens) -> its values
    const std::int32_t* positions;     // (n_tokens)
    float* y;                          // (n_tokens, n_heads * head_dim) f32
    std::int64_t n_tokens, n_heads, n_kv_heads, head_dim;
    std::int64_t window;               // 0 = all; else positions > p - window are seen
    float scale, softcap;              // softcap 0 = none; scores become softcap * tanh(score / softcap)
    StateScheme scheme;
    float* partials;                   // (n_units, attention_partial_floats) f32; null when no tile and head is split
    std::int32_t* arrivals;            // (tiles * n_kv_heads) units done; zero before and after
};
using AttentionFn = void (*)(const AttentionArgs& args, Range units);

// Neighbouring tokens that share what is read: of one sequence, eight query heads of a KV head together or the heads of one token.
struct AttentionTile {
    std::int64_t first_token, n_tokens;
    std::int64_t first_chunk, n_chunks;  // that any of its tokens sees
};
AttentionTile attention_tile(const AttentionArgs& args, std::int64_t first_token);
std::int64_t attention_n_units(const AttentionArgs& args);  // order: KV head, tile, chunk
// One thread's share, by the positions that it reads. Tiles are split only while there are less than attention_split_limit per thread.
Range attention_share(const AttentionArgs& args, int thread, int n_threads);
inline constexpr std::int64_t attention_split_limit = 16;
// What partials and arrivals must hold for attention_share's splits.
std::int64_t attention_partial_floats(std::int64_t n_heads, std::int64_t n_kv_heads, std::int64_t head_dim);
std::int64_t attention_max_split_units(std::int64_t capacity, int n_threads);
inline std::int64_t attention_max_split_tiles(int n_threads) { return attention_split_limit * n_threads; }

// ---- writes keys or values into the state
struct StateWriteArgs {
    const float* x;                 // (n_tokens, x_stride) f32: in each row the heads to write
    std::int64_t x_stride;
    std::byte* const* rows;         // (n_tokens) -> keys or values of the token's sequence
    const std::int32_t* positions;  // (n_tokens)
    std::int64_t n_kv_heads, head_dim;
    Range heads;                    // of the n_kv_heads
    StateScheme scheme;
    StatePart part;
};
using StateWriteFn = void (*)(const StateWriteArgs& args, Range tokens);

// ---- causal depthwise convolution of one token: y = bias + sum over taps of taps[j] * rows[j], column by column
struct CausalConvArgs {
    const float* const* rows;  // (kernel) -> inputs of the tokens it sees, the oldest first; null before the first token // (width) f32 each
    const float* taps;         // (kernel, stride) f32
    const float* bias;         // (width) f32, or null
    float* y;                  // (width) f32
    std::int64_t kernel, stride;
};
using CausalConvFn = void (*)(const CausalConvArgs& args, Range columns);

// ---- element by element, over a flat range
enum class Activation : std::uint8_t { silu, gelu_erf, gelu_tanh, quick_gelu, relu, sigmoid, tanh };
struct ElementArgs {
    const float* a;
    const float* b;  // second operand where there is one
    float* y;
    float factor;    // scale, softcap
    Activation activation;
};
using ElementFn = void (*)(const ElementArgs& args, Range elements);

// ---- linear: y[t, r] = sum over columns of weight[r, c] * x[t, c]  (+ what y held, with accumulate)
enum class ActivationForm : std::uint8_t {
    f32,     // as it is
    i8_b32,  // int8 in blocks of 32 with a scale each: x ~ scale * q; plus sums of q. A fixed scale is the same in all blocks
};
// Columns of the int8 form: whole blocks, and no multiple of 1024 bytes, since tokens so far apart would meet in the same few lines of the L1 cache.
inline constexpr std::int64_t padded_for_codes(std::int64_t n_columns) {
    const std::int64_t padded = (n_columns + 63) / 64 * 64;
    return padded % 1024 == 0 ? padded + 64 : padded;
}
struct PreparedActivation {
    const float* f32;          // (n_tokens, n_columns)
    const std::int8_t* codes;  // (n_tokens, padded_columns), zero behind n_columns
    const float* scales;       // (n_tokens, padded_columns / 32)
    const std::int16_t* sums;  // (n_tokens, padded_columns / 16, 2): of the codes of 16 columns, those at 0, 1 (mod 4) and those at 2, 3 (mod 4)
    std::int64_t n_columns, padded_columns;
};
// How a product of many tokens is cut. 0: by the kernel's own rule. No choice changes a bit of the result; kernels that do not work in tiles ignore it.
struct LinearTiles {
    std::int64_t tokens = 0;   // that work with a stretch of weights before the next one
    std::int64_t rows = 0;     // that pass by all tokens before the next rows do: few keep the weights in the cache, all keep the tokens there
    std::int64_t columns = 0;  // of a stretch of weights, which is expanded once for these tokens; 32 to 512
    bool operator==(const LinearTiles&) const = default;
};
struct LinearArgs {
    const PackedWeight* weight;
    PreparedActivation x;
    const float* bias;      // (n_rows) f32, or null
    float* y;               // (n_tokens, y_stride) f32, row r of the weight at y[t * y_stride + r]
    std::int64_t y_stride;
    std::int64_t n_tokens;
    enum class Write : std::uint8_t { replace, add } write;
    LinearTiles tiles = {};
    std::uint64_t epoch = 0;  // calls on one thread with the same number, which is not 0, and the same codes have the same x: what was made of it is kept
};
using LinearFn = void (*)(const LinearArgs& args, Range rows);  // rows in multiples of the layout's row_unit
struct LinearKernel {
    std::string_view name;    // "linear_w4_r8_avx2"
    std::string_view layout;  // of the weights it reads
    Isa isa;
    ActivationForm form;
    std::int64_t min_tokens, max_tokens;  // the bucket it is meant for; the reference takes all
    LinearFn fn;
    std::string_view instruction = "";    // that does its products, for people
};

// ---- prepares an activation in the form i8_b32
struct QuantizeArgs {
    const float* x;       // (n_tokens, n_columns) f32
    std::int8_t* codes;   // (n_tokens, padded_columns)
    float* scales;        // (n_tokens, padded_columns / 32)
    std::int16_t* sums;   // (n_tokens, padded_columns / 16, 2)
    std::int64_t n_columns, padded_columns;  // padded_for_codes(n_columns)
    float fixed_scale = 0;  // of every block, and what lies beyond 127 times it is clipped; 0: each block has its own. A block with a NaN or an infinity has that as its scale
};
using QuantizeFn = void (*)(const QuantizeArgs& args, Range tokens);

std::span<const KernelRow<NormFn>> norm_kernels();
std::span<const KernelRow<RopeFn>> rope_kernels();
std::span<const KernelRow<AttentionFn>> attention_kernels();
std::span<const KernelRow<StateWriteFn>> state_write_kernels();
std::span<const KernelRow<CausalConvFn>> causal_conv_kernels();
std::span<const KernelRow<ElementFn>> activation_kernels();  // y = activation(a)
std::span<const KernelRow<ElementFn>> multiply_kernels();    // y = a * b
std::span<const KernelRow<ElementFn>> add_kernels();         // y = a + b
std::span<const KernelRow<ElementFn>> scale_kernels();       // y = a * factor
std::span<const KernelRow<ElementFn>> softcap_kernels();     // y = factor * tanh(a / factor)
std::span<const KernelRow<QuantizeFn>> quantize_kernels();
std::span<const LinearKernel> linear_kernels();

// The last row that runs wherever `isa` does.
template <class Fn>
const KernelRow<Fn>& choose_kernel(std::span<const KernelRow<Fn>> rows, Isa isa) {
    const KernelRow<Fn>* best = &rows[0];
    for (const auto& row : rows)
        if (isa_includes(isa, row.isa) && row.isa >= best->isa) best = &row;
    return *best;
}

// The best linear kernel for a layout, instruction set and number of tokens, or null when no row reads that layout.
// `reference_only` asks for the float-activation reference of that layout.
enum class KernelChoice : std::uint8_t { fastest, reference };
const LinearKernel* choose_linear_kernel(std::string_view layout, Isa isa, std::int64_t n_tokens, KernelChoice choice);
// The layout to pack a weight into: the first in the table that accepts it and for which `isa` has a kernel.
const Layout* choose_layout(const Weight& weight, Isa isa, KernelChoice choice);

}  // namespace skiff
