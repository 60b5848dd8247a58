// Every launch of the CUDA kernels: what it computes, the shape of each argument, all on the device. Plain C++ without CUDA's headers.
//
// Activations: the residual stream and everything that is added to it is f32, as on the CPU: a decode step moves few of them, and rounding the stream
// to bf16 in every layer costs accuracy that no kernel gets back. What a matrix multiplies is bf16, in one of three forms (OperandForm): up to eight
// tokens as two bf16 parts (16 significant bits, free, since the tensor core's tile has columns to spare), of which integer codes make 16-bit fixed point (digits.cuh); more tokens as one part.
// Whoever produces an activation writes it as the operand of the next matrix in the same kernel (Operand).
//
// All launches return 0, or a cudaError_t. Nothing allocates, nothing waits.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/gpu_weight.h"
#include "kernels/kernels.h"

namespace skiff::cuda {

enum class Dependence : std::uint8_t { stream, programmatic };  // programmatic: the kernel may start while the one before ends (sm_90 and later)

// Choices that change no sum, as a measurement on the device found them (backend/cuda/tuning_table.h), by the form of the codes. 0: the kernel's own.
struct Tuning {
    enum class Ring : std::uint8_t { longest, shortest };
    std::uint8_t gemv_blocks[n_code_forms] = {};  // on an SM, at most; where integer codes are multiplied as digits: tiles that a block works on at once, at most
    Ring gemv_ring[n_code_forms] = {};            // of two lengths, where a form has two
};
struct Launch {
    void* stream = nullptr;  // cudaStream_t
    int n_sms = 1;           // of the device
    int arch = 80;           // 10 * major + minor
    Dependence dependence = Dependence::stream;
    Tuning tuning;
};
const char* launch_error_text(int error);

// ---- operands
enum class OperandForm : std::uint8_t {
    rows,       // (n_tokens, n_columns) bf16: cuBLASLt
    fragments,  // (ceil(n_tokens / 8), n_slabs, 1024 bytes): launch_gemm
    split,      // (ceil(n_tokens / 4), n_slabs, 1024 bytes), each number as two bf16 parts: launch_gemv
};
// A slab is 64 columns; fragment forms are padded to operand_columns(n_columns) (a multiple of 256). The padding must be zero: clear the buffer once, producers write
// only what is there.
std::size_t operand_bytes(OperandForm form, std::int64_t n_tokens, std::int64_t n_columns);
std::int64_t operand_columns(std::int64_t n_columns);
struct Operand {
    OperandForm form = OperandForm::rows;
    void* data = nullptr;         // null: not wanted
    std::int64_t n_columns = 0;
    // What a product writes for several matrices that each read some of its rows: rows from cuts[i] on lie gaps[i] columns further, so that each part begins at a multiple of
    // operand_part_columns. 0: no cut. Only launch_gemv and launch_gemm make such.
    std::int32_t cuts[2] = {0, 0}, gaps[2] = {0, 0};
};
inline constexpr std::int64_t operand_part_columns = 256;
inline constexpr std::int64_t max_gemv_tokens = 8;
OperandForm operand_form(std::int64_t n_tokens, bool own_gemm);  // split up to 8; then fragments for launch_gemm, or rows for cuBLASLt

// The scale of an RMS norm that is still to be applied: rsqrt(mean of squares + eps) of each token, from sums of squares that a producer left.
struct PendingRms {
    const float* square_sums = nullptr;  // (n_tokens, n_parts) f32; null: nothing pending
    std::int64_t n_parts = 0;            // pending_parts(width)
    std::int64_t width = 0;
    float eps = 0;
};
inline constexpr std::int64_t pending_parts(std::int64_t width) { return (width + 15) / 16; }

// What a producer of the residual stream prepares for the norm behind it: operand = value * weight, and sums of squares. The scale follows in the
// epilogue of the matrix that reads it: (W (x * g)) * r = W (x * g * r).
struct NextNorm {
    const float* weight = nullptr;  // (width) f32, or null for ones
    Operand operand;
    float* square_sums = nullptr;   // (n_tokens, pending_parts(width)), or null: no sums (the operand is the plain value)
};

// ---- norms of rows that are there: layer norm, norms whose result is used otherwise, or over heads, and what stands between a product and the next norm. Of each row, in this order:
//     x = norm of x (behind a product), x += residual, sum = x, y = norm of x, and a second norm of the same x (halves side by side)
struct NormLaunchArgs {
    const float* x = nullptr;       // (n_tokens, x_stride): n_groups of `width` in each row
    std::int64_t x_stride = 0;
    struct Behind {
        enum class Is : std::uint8_t { absent, there } is = Is::absent;  // there: one group
        NormKind kind = NormKind::rms;
        float eps = 0;
        const float *weight = nullptr, *bias = nullptr;  // (width) or null
    } behind;
    const float* residual = nullptr;  // (n_tokens, x_stride) or null
    float* sum = nullptr;             // (n_tokens, x_stride) or null; may be x
    const float* weight = nullptr;  // (width) or null
    const float* bias = nullptr;    // (width) or null
    std::int64_t n_tokens = 0, n_groups = 1, width = 0;
    float eps = 0;
    NormKind kind = NormKind::rms;
    float* y = nullptr;             // (n_tokens, y_stride) f32, or null; may be x
    std::int64_t y_stride = 0;
    Operand operand;                // (n_tokens, n_groups * width), or none
    const float *second_weight = nullptr, *second_bias = nullptr;  // of the second norm, of the same kind and eps
    Operand second;                 // its result, or none
};
int launch_norm(const NormLaunchArgs& args, const Launch& launch);

// ---- linear, 1 to 8 tokens: y = W x, weights read once with 16-byte loads. Bits do not depend on n_tokens.
enum class GemvWrite : std::uint8_t {
    replace,  // y = value
    add,      // y = y + value: the residual
    gate,     // rows in pairs (packed with Interleave::gate_up): operand column j = activation(row j of gate) * (row j of up)
    activate, // operand column j = activation(row j)
};
struct GemvArgs {
    GpuWeight weight;
    const void* x = nullptr;            // operand in form split, (n_tokens, weight.n_columns)
    std::int64_t n_tokens = 0;          // 1 .. 8
    PendingRms rms;                     // of x
    const float* bias = nullptr;        // (n_rows) f32; of gate: in packed order (pair_bias in pack.h)
    GemvWrite write = GemvWrite::replace;
    Activation activation = Activation::silu;  // of gate and activate
    float* y = nullptr;                 // (n_tokens, y_stride) f32; not of gate and activate
    std::int64_t y_stride = 0;
    float softcap = 0;                  // of replace: y = softcap * tanh(y / softcap); 0 = none
    float factor = 1;                   // multiplies the value (behind the bias) of all but gate
    NextNorm next;                      // of replace and add: operand of y times next.weight; of gate and activate: next.operand alone
    // Norms of the finished rows, by the block that is last; for up to max_last_norm_tokens, rows of up to max_last_norm_width (a multiple of four, and so are strides; addresses are aligned to 16
    // bytes). x of `norms` is y. Null arrivals: none.
    NormLaunchArgs norms;
    std::int32_t* arrivals = nullptr;   // (1), zero before and after
    std::int64_t x_columns = 0, x_first = 0;  // x is that part of an operand of x_columns that begins at column x_first (a multiple of operand_part_columns); 0: all of one
};
int launch_gemv(const GemvArgs& args, const Launch& launch);
inline constexpr std::int64_t max_last_norm_tokens = 4, max_last_norm_width = 16384;

// ---- linear, any number of tokens: low-bit tensor-core GEMM, weights decoded in registers
struct GemmArgs {
    GpuWeight weight;
    const void* x = nullptr;      // operand in form fragments, (n_tokens, weight.n_columns)
    std::int64_t n_tokens = 0;
    PendingRms rms;
    const float* bias = nullptr;
    GemvWrite write = GemvWrite::replace;
    Activation activation = Activation::silu;
    float* y = nullptr;           // (n_tokens, y_stride) f32
    std::int64_t y_stride = 0;
    float softcap = 0, factor = 1;
    NextNorm next;
    // Few tokens leave most SMs without a block, unless the columns are cut, too. Null: they are not.
    float* partials = nullptr;         // gemm_partial_bytes(): scratch
    std::int32_t* arrivals = nullptr;  // gemm_arrivals(), zero before and after
    std::int64_t x_columns = 0, x_first = 0;  // as of GemvArgs
};
std::size_t gemm_partial_bytes(const GpuWeight& weight, std::int64_t n_tokens, const Launch& launch);  // 0: no scratch is needed
std::int64_t gemm_arrivals(const GpuWeight& weight, std::int64_t n_tokens);
int launch_gemm(const GemmArgs& args, const Launch& launch);

// ---- a few numbers of each row beside a matrix (outliers that were kept aside): y = S x, or added to y, for any number of tokens
struct SparseRowsArgs {
    const std::uint32_t* entries = nullptr;  // (begins[n_rows]): the column in the low half, the value in the high one
    const std::int32_t* begins = nullptr;    // (n_rows + 1)
    Float16Form values = Float16Form::f16;
    std::int64_t n_rows = 0, n_columns = 0;  // at most 65536 columns
    const void* x = nullptr;                 // operand in any form, (n_tokens, n_columns)
    OperandForm form = OperandForm::split;
    std::int64_t n_tokens = 0;
    PendingRms rms;                          // of x
    enum class Write : std::uint8_t { replace, add } write = Write::add;
    float* y = nullptr;                      // (n_tokens, y_stride) f32
    std::int64_t y_stride = 0;
};
int launch_sparse_rows(const SparseRowsArgs& args, const Launch& launch);

// ---- weights as bf16 for cuBLASLt: rows [first_row, first_row + n_rows) of the packed order // target: (n_rows, n_columns) bf16
struct DequantizeArgs {
    GpuWeight weight;
    std::int64_t first_row = 0, n_rows = 0;
    void* target = nullptr;
    std::int64_t target_stride = 0;  // elements
};
int launch_dequantize(const DequantizeArgs& args, const Launch& launch);

// ---- embedding: x[t] = table[index[t] + offset] * scale, and what the first norm needs
struct EmbedArgs {
    GpuWeight table;
    const std::int32_t* index = nullptr;  // (n_tokens): token ids or positions
    std::int64_t offset = 0;
    std::int64_t n_tokens = 0;
    float scale = 1;
    enum class Write : std::uint8_t { replace, add } write = Write::replace;  // add: positions behind tokens
    float* x = nullptr;                   // (n_tokens, n_columns) f32
    NextNorm next;
};
int launch_embed(const EmbedArgs& args, const Launch& launch);

// ---- state (KV cache): pages of 64 positions. A layer has one pool for keys and one for values; page p of a pool holds, for each KV head, its 64
// positions one after another (head_dim numbers each), and behind all heads the scales.
enum class StateForm : std::uint8_t { bf16, fp8, int8, int4 };  // fp8: e4m3 without scale; int8: an f16 scale per position and head; int4: f16 per 32 dimensions, of the rotated head
inline constexpr std::int64_t page_positions = 64;
std::size_t state_page_bytes(StateForm form, std::int64_t n_kv_heads, std::int64_t head_dim);
struct StateView {
    StateForm form = StateForm::bf16;
    void* keys = nullptr;                       // pool of this layer: pages of state_page_bytes
    void* values = nullptr;
    const std::int32_t* page_table = nullptr;   // (n_sequences, max_pages): page of positions 64 i .. 64 i + 63
    std::int64_t max_pages = 0;
    std::int64_t n_kv_heads = 0, head_dim = 0;  // head_dim a multiple of 8, at most 256
};
// Tokens of a run: token t is at positions[t] of sequence sequences[t] (a row of the page table).
struct TokenView {
    std::int64_t n_tokens = 0;
    const std::int32_t* positions = nullptr;  // (n_tokens)
    const std::int32_t* sequences = nullptr;  // (n_tokens), or null: token t is of sequence t
};

// ---- q/k norm, rope, and the write of keys and values into the state, from the rows of one merged q|k|v product
struct RopeWriteArgs {
    const float* qkv = nullptr;        // (n_tokens, qkv_stride): q at q_offset, k, v
    std::int64_t qkv_stride = 0, q_offset = 0, k_offset = 0, v_offset = 0;
    std::int64_t n_heads = 0;          // of q; KV heads are the state's. 0: no q. A negative k_offset or v_offset: that part is not there
    const float* q_norm = nullptr;     // (head_dim) or null: RMS norm of each head first
    const float* k_norm = nullptr;
    float norm_eps = 0;
    const float* inv_freq = nullptr;   // (rotary_dim / 2) or null: no rope
    std::int64_t rotary_dim = 0;
    float magnitude = 1;
    RopeStyle style = RopeStyle::half;
    float* q = nullptr;                // (n_tokens, n_heads * head_dim) f32; may be qkv's own place when strides agree
    std::int64_t q_stride = 0;
    float* k = nullptr;                // (n_tokens, k_stride) f32, or null: the rotated keys as well (cross-checks, taps)
    std::int64_t k_stride = 0;
    StateView state;                   // keys null: nothing is written
    TokenView tokens;
};
int launch_rope_write(const RopeWriteArgs& args, const Launch& launch);

// ---- attention
enum class AttentionMask : std::uint8_t { causal, none };  // none: every position of the sequence (bidirectional, cross)
struct AttentionCommon {
    const float* q = nullptr;             // (n_tokens, q_stride) f32
    std::int64_t q_stride = 0;
    std::int64_t n_heads = 0;
    StateView state;
    TokenView tokens;
    const std::int32_t* lengths = nullptr;  // (n_sequences), of AttentionMask::none: positions that a sequence has
    AttentionMask mask = AttentionMask::causal;
    std::int64_t window = 0;              // 0 = all; else positions > p - window
    float scale = 1, softcap = 0;
    const float* alibi_slopes = nullptr;  // (n_heads) or null: score += slope * (position of key - position of query)
    const float* sinks = nullptr;         // (n_heads) or null: a score that takes part in the softmax and has no value
    float* y = nullptr;                   // (n_tokens, y_stride) f32 or null
    std::int64_t y_stride = 0;
    Operand operand;                      // (n_tokens, n_heads * head_dim) or none
};
// Few tokens (decode): each KV head's query heads together, the keys of a token in n_splits parts, merged in order by who is last.
struct DecodeAttentionArgs {
    AttentionCommon common;           // a sequence's tokens are at positions that follow one another
    std::int64_t n_splits = 1;        // decode_attention_splits(); the grid does not depend on positions, so a graph can be replayed
    float* partials = nullptr;        // decode_partial_floats() * 4 bytes
    std::int32_t* arrivals = nullptr; // (n_tokens * n_kv_heads), zero before and after
    // With qkv, what launch_rope_write would do comes first, bit for bit: of common.q if n_heads is not 0 (only in what attention sees; q, q_offset and k are not used), of k and of v, both of which must be
    // there. State and tokens are those of `common`; each sequence has one token, and the mask is causal.
    RopeWriteArgs rope;
};
std::int64_t decode_attention_splits(std::int64_t capacity, std::int64_t n_kv_heads, const Launch& launch);  // does not depend on the batch
std::int64_t decode_partial_floats(std::int64_t n_tokens, std::int64_t n_heads, std::int64_t head_dim, std::int64_t n_splits);
int launch_decode_attention(const DecodeAttentionArgs& args, const Launch& launch);

// Many tokens of few sequences (prefill): tiles of up to prefill_tile_tokens neighbouring tokens of one sequence at consecutive positions. Keys of these
// tokens are in the state before.
inline constexpr std::int64_t prefill_tile_tokens = 64;
struct PrefillTile {
    std::int32_t first_token, n_tokens, sequence, first_position;
};
struct PrefillAttentionArgs {
    AttentionCommon common;              // operand in form rows or fragments, or y
    const PrefillTile* tiles = nullptr;  // (n_tiles) on the device
    std::int64_t n_tiles = 0;
};
int launch_prefill_attention(const PrefillAttentionArgs& args, const Launch& launch);
bool prefill_attention_takes(std::int64_t head_dim, StateForm form);  // else: launch_decode_attention token by token

// ---- element by element
enum class ElementKind : std::uint8_t {
    activation,    // y = activation(a)
    activate_mul,  // y = activation(a) * b
    multiply,      // y = a * b
    add,           // y = a + b
    scale,         // y = a * factor
    softcap,       // y = factor * tanh(a / factor)
    column_scale,  // y = a * b[column]
    gate,          // y = a * b[t * b_stride]: one number for a token
    permute,       // y[t, c] = a[t, order[c]]
    add_gated,     // y = y + a * b[t * b_stride]
};
struct ElementLaunchArgs {
    ElementKind kind = ElementKind::add;
    const float* a = nullptr;  // (n_tokens, a_stride) f32
    const float* b = nullptr;  // (n_tokens, b_stride) f32, or as the kind says
    const std::int32_t* order = nullptr;
    std::int64_t n_tokens = 0, n_columns = 0, a_stride = 0, b_stride = 0;
    float factor = 1;
    Activation activation = Activation::silu;
    float* y = nullptr;        // (n_tokens, y_stride) f32 or null
    std::int64_t y_stride = 0;
    Operand operand;           // or none
};
int launch_elements(const ElementLaunchArgs& args, const Launch& launch);

// y[t] = x[index[t]]: the rows whose logits are wanted // index: (n_rows) i32
int launch_select_rows(const float* x, const std::int32_t* index, float* y, std::int64_t n_rows, std::int64_t n_columns, const Launch& launch);

// Router of a mixture of experts: y[t, e] = the weight of an expert, zero for those not chosen. // logits, y: (n_tokens, n_experts) f32
struct RouteLaunchArgs {
    const float* logits = nullptr;
    float* y = nullptr;
    std::int64_t n_tokens = 0, n_experts = 0, n_used = 0;
    enum class Rule : std::uint8_t { softmax_then_top, top_then_softmax } rule = Rule::top_then_softmax;
    enum class Divide : std::uint8_t { as_they_are, by_their_sum } divide = Divide::as_they_are;
};
int launch_route(const RouteLaunchArgs& args, const Launch& launch);

// The chosen experts of 1 to 8 tokens, two launches: first `gate` (rows of all experts in pairs), then `replace` or `add` (their second matrices, weighted and added up). Both find out whom the router chose
// by its logits, and read no other expert's weights. A token's numbers do not depend on the other tokens.
inline constexpr std::int64_t max_routed_experts = 256, max_chosen_experts = 16;
struct ExpertsArgs {
    // weight: the first expert's; tile i of expert e is tile e * weight.n_tiles + i of what lies there. No bias, factor or soft cap.
    // Between the two launches each token has n_used operands in one: that of its i-th chosen expert, in the order of their numbers, begins at column i * operand_columns(width). The first writes
    // them to next.operand, the second reads them as x (x_columns: of all).
    GemvArgs product;
    RouteLaunchArgs route;  // y is not written
};
int launch_experts(const ExpertsArgs& args, const Launch& launch);

// Causal depthwise convolution with a ring of the last inputs: y[t, c] = bias[c] + sum over j of taps[j, c] * input at position p - n_taps + 1 + j.
// Reads this run's tokens from x and older ones from the ring, then stores this run's last ones. One sequence's tokens are neighbours. With gates (LFM2) the input is x * gate_in, and the result is
// multiplied by gate_out.
struct ConvLaunchArgs {
    const float* x = nullptr;      // (n_tokens, x_stride) f32
    const float *gate_in = nullptr, *gate_out = nullptr;  // (n_tokens, their stride) f32, or null
    std::int64_t x_stride = 0, gate_in_stride = 0, gate_out_stride = 0;
    const float* taps = nullptr;   // (n_taps, n_columns) f32
    const float* bias = nullptr;   // (n_columns) or null
    float* rings = nullptr;        // (n_sequences, n_taps - 1, n_columns) f32: input of position p in row p % (n_taps - 1)
    TokenView tokens;
    std::int64_t n_taps = 1, n_columns = 0;
    float* y = nullptr;            // (n_tokens, n_columns) f32, or null; not x
    Operand operand;               // or none
};
int launch_causal_conv(const ConvLaunchArgs& args, const Launch& launch);

// ---- sampling on the device: the largest (temperature 0), or one of the top_k (at most 64) by the sampler's own rule (runtime/sampler.h, choose.h) and random numbers that the
// host has drawn.
struct SampleArgs {
    const float* logits = nullptr;       // (n_tokens, stride) f32
    std::int64_t stride = 0, n_vocab = 0, n_tokens = 0;
    double temperature = 0, top_p = 1;
    double log_min_p = -INFINITY;        // of the choice: logits below the largest + log_min_p are left out
    std::int32_t top_k = 1;              // 1 .. 64
    const double* uniforms = nullptr;    // (n_tokens, n_uniforms), of temperature > 0: numbers in [0, 1), that of token t at position p in column p % n_uniforms
    std::int64_t n_uniforms = 0;
    std::int32_t* positions = nullptr;   // (n_tokens) in; with `feed` one more afterwards
    std::int32_t* ids = nullptr;         // (n_tokens) out: the chosen token, which the next step's embedding reads; 0 where there is no choice
    std::int32_t* history = nullptr;     // or (history_length, n_tokens): ids in the row of their position + 1; -1 where there is no choice: NaN, or no finite logit
    std::int64_t history_length = 0;
    enum class Feed : std::uint8_t { keep, advance } feed = Feed::keep;  // advance: positions[t] += 1, for a graph that feeds itself
    float* scratch = nullptr;            // sample_scratch_bytes() of the most tokens that a launch brings, zero before the first; at most 1024
    float* top_values = nullptr;         // or (n_tokens, 64) out: the top_k logits, descending, and
    std::int32_t* top_ids = nullptr;     // or (n_tokens, 64) their ids (ties: the lower id first)
};
std::size_t sample_scratch_bytes(std::int64_t n_tokens);
int launch_sample(const SampleArgs& args, const Launch& launch);

}  // namespace skiff::cuda
