// Linear kernels for the layouts w4_r16 and w8_r16 with int8 activations in blocks of 32 (i8_b32).
//
// The dot product of a block is exact in integers; then y += float(dot - zero * sum) * (weight scale * activation scale) with one fused
// multiply-add per block, block after block. Every path below keeps that order, so an output has the same bits for any number of tokens.
//
// w4: unsigned nibbles times signed bytes with vpmaddubsw; eight of its results fit 16 bits (8 * 2 * 15 * 127 = 30480), a whole block.
// w8: |w| unsigned times a with the sign of w, pairs at most 2 * 128 * 127 = 32512; widened to 32 bits at once.
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/tile_format.h"

namespace skiff {
namespace {

using Byte = std::uint8_t;

constexpr std::int64_t max_direct_tokens = 4;     // up to here the packed bytes are used as they are, above they are expanded once per tile
constexpr std::int64_t slab_blocks = 32;          // blocks expanded at a time: 32 x 640 bytes stay in L1
constexpr std::int64_t tokens_at_once = 256;      // whose 16 sums each are kept (16 KiB) while the blocks go by
constexpr std::int64_t slab_block_bytes = 640;    // 16 vectors of codes, 16 scales f32, 16 zeros i32 (upper half zero)
constexpr std::int64_t prefetch_bytes = 4096;

// Activations of some tokens from one block on.
struct Tokens {
    const std::int8_t* codes;
    const float* scales;
    const std::int32_t* sums;
    std::int64_t code_stride, block_stride;  // from one token to the next
};

inline __m256i load_vector(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
// Four activation bytes in every lane; a plain load with broadcast.
inline __m256i broadcast4(const void* p) { return _mm256_castps_si256(_mm256_broadcast_ss(static_cast<const float*>(p))); }
inline __m256i join_zeros(const Byte* zeros, __m256i offset) {
    const __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(zeros)));
    return _mm256_and_si256(_mm256_sub_epi32(wide, offset), _mm256_set1_epi32(0xffff));
}

// Scales and zeros of a group for rows 0-7 and 8-15. What is subtracted for zeros: w4 the zero itself, w8 the zero less the offset.
struct Group {
    __m256 scale[2];
    __m256i zero[2];
};
template <int Bits>
inline Group load_group(const Byte* p, const TileFormat& format) {
    Group group;
    for (int half = 0; half < 2; ++half) {
        group.scale[half] = format.half_scales ? f16_to_f32(p + half * 16) : _mm256_loadu_ps(reinterpret_cast<const float*>(p) + half * 8);
        if (format.zero_bytes > 0) group.zero[half] = join_zeros(p + format.scale_bytes + half * 8, _mm256_set1_epi32(Bits == 4 ? 0 : format.offset));
        else group.zero[half] = _mm256_set1_epi32(Bits == 4 ? format.offset : 0);
    }
    return group;
}

// sum + float(dot - zero * sum of codes) * scale
template <bool HasZero>
inline __m256 add_block(__m256 sum, __m256i dot, __m256 scale, __m256i zero, const Tokens& x, std::int64_t at) {
    if (HasZero) dot = _mm256_sub_epi32(dot, _mm256_madd_epi16(zero, broadcast4(x.sums + at)));
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_mul_ps(scale, _mm256_broadcast_ss(x.scales + at)), sum);
}

// ---- few tokens: straight from the packed bytes

template <int N>
inline void direct_block_w4(const Byte* codes, const Group& group, const Tokens& x, __m256 (&sum)[N][2]) {
    const __m256i low_bits = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256i dot[N][2];
    SKIFF_UNROLL
    for (int v = 0; v < 4; ++v) {
        const __m256i packed[2] = {load_vector(codes + v * 64), load_vector(codes + v * 64 + 32)};
        SKIFF_UNROLL
        for (int half = 0; half < 2; ++half) {
            const __m256i low = _mm256_and_si256(packed[half], low_bits), high = _mm256_and_si256(_mm256_srli_epi16(packed[half], 4), low_bits);
            SKIFF_UNROLL
            for (int t = 0; t < N; ++t) {
                const std::int8_t* a = x.codes + t * x.code_stride + v * 4;
                const __m256i both = _mm256_add_epi16(_mm256_maddubs_epi16(low, broadcast4(a)), _mm256_maddubs_epi16(high, broadcast4(a + 16)));
                dot[t][half] = v == 0 ? both : _mm256_add_epi16(dot[t][half], both);
            }
        }
    }
    SKIFF_UNROLL
    for (int t = 0; t < N; ++t) {
        SKIFF_UNROLL
        for (int half = 0; half < 2; ++half)
            sum[t][half] = add_block<true>(sum[t][half], _mm256_madd_epi16(dot[t][half], ones), group.scale[half], group.zero[half], x, t * x.block_stride);
    }
}

template <int N, bool HasZero>
inline void direct_block_w8(const Byte* codes, const Group& group, const Tokens& x, __m256 (&sum)[N][2]) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i dot[N][2];
    SKIFF_UNROLL
    for (int v = 0; v < 8; ++v) {
        SKIFF_UNROLL
        for (int half = 0; half < 2; ++half) {
            const __m256i w = load_vector(codes + v * 64 + half * 32), magnitude = _mm256_abs_epi8(w);
            SKIFF_UNROLL
            for (int t = 0; t < N; ++t) {
                const __m256i a = _mm256_sign_epi8(broadcast4(x.codes + t * x.code_stride + v * 4), w);
                const __m256i part = _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, a), ones);
                dot[t][half] = v == 0 ? part : _mm256_add_epi32(dot[t][half], part);
            }
        }
    }
    SKIFF_UNROLL
    for (int t = 0; t < N; ++t) {
        SKIFF_UNROLL
        for (int half = 0; half < 2; ++half)
            sum[t][half] = add_block<HasZero>(sum[t][half], dot[t][half], group.scale[half], group.zero[half], x, t * x.block_stride);
    }
}

// sums: (N, 16) f32
template <int Bits, int N, bool HasZero>
void direct_tile(const Byte* tile, const TileFormat& format, Tokens x, float* sums) {
    __m256 sum[N][2];
    SKIFF_UNROLL
    for (int t = 0; t < N; ++t) sum[t][0] = sum[t][1] = _mm256_setzero_ps();
    std::int64_t left = format.n_blocks;
    while (left > 0) {
        const Group group = load_group<Bits>(tile, format);
        tile += format.scale_bytes + format.zero_bytes;
        const std::int64_t n = left < format.blocks_per_group ? left : format.blocks_per_group;
        left -= n;
        for (std::int64_t block = 0; block < n; ++block, tile += format.block_bytes) {
            SKIFF_UNROLL
            for (int line = 0; line < Bits; ++line) _mm_prefetch(reinterpret_cast<const char*>(tile + prefetch_bytes + line * 64), _MM_HINT_T0);
            if constexpr (Bits == 4) direct_block_w4<N>(tile, group, x, sum);
            else direct_block_w8<N, HasZero>(tile, group, x, sum);
            x.codes += tile_block, ++x.scales, ++x.sums;
        }
    }
    SKIFF_UNROLL
    for (int t = 0; t < N; ++t) _mm256_storeu_ps(sums + t * 16, sum[t][0]), _mm256_storeu_ps(sums + t * 16 + 8, sum[t][1]);
}

// ---- many tokens: expand blocks into a slab in L1, then pass all tokens over it

// Walks the groups of a tile block by block.
struct TileReader {
    const Byte* at;
    std::int64_t left_in_group = 0;
    const Byte* group = nullptr;
};

template <int Bits>
void expand(TileReader& reader, const TileFormat& format, std::int64_t n_blocks, Byte* slab) {
    const __m256i low_bits = _mm256_set1_epi8(15);
    for (std::int64_t block = 0; block < n_blocks; ++block, slab += slab_block_bytes) {
        if (reader.left_in_group == 0) {
            reader.group = reader.at;
            reader.at += format.scale_bytes + format.zero_bytes;
            reader.left_in_group = format.blocks_per_group;
        }
        auto* target = reinterpret_cast<__m256i*>(slab);
        if constexpr (Bits == 4) {
            for (int v = 0; v < 8; ++v) {
                const __m256i packed = load_vector(reader.at + v * 32);
                _mm256_store_si256(target + v, _mm256_and_si256(packed, low_bits));
                _mm256_store_si256(target + 8 + v, _mm256_and_si256(_mm256_srli_epi16(packed, 4), low_bits));
            }
        } else {
            for (int v = 0; v < 16; ++v) _mm256_store_si256(target + v, load_vector(reader.at + v * 32));
        }
        const Group group = load_group<Bits>(reader.group, format);
        for (int half = 0; half < 2; ++half) {
            _mm256_store_ps(reinterpret_cast<float*>(slab + 512) + half * 8, group.scale[half]);
            _mm256_store_si256(reinterpret_cast<__m256i*>(slab + 576) + half, group.zero[half]);
        }
        reader.at += format.block_bytes;
        --reader.left_in_group;
    }
}

// sums (N, 16) f32 += slab of n_blocks times N tokens. Both halves of the rows share a broadcast; the sums stay in memory, as the 8 dot
// products of a block, its weights and a broadcast fill the registers.
template <int N>
void slab_w4(const Byte* slab, std::int64_t n_blocks, Tokens x, float* sums) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (std::int64_t block = 0; block < n_blocks; ++block, slab += slab_block_bytes) {
        __m256i dot[N][2];
        SKIFF_UNROLL
        for (int v = 0; v < 8; ++v) {
            const __m256i low = load_vector(slab + v * 64), high = load_vector(slab + v * 64 + 32);
            SKIFF_UNROLL
            for (int t = 0; t < N; ++t) {
                const __m256i a = broadcast4(x.codes + t * x.code_stride + v * 4);
                const __m256i part[2] = {_mm256_maddubs_epi16(low, a), _mm256_maddubs_epi16(high, a)};
                dot[t][0] = v == 0 ? part[0] : _mm256_add_epi16(dot[t][0], part[0]);
                dot[t][1] = v == 0 ? part[1] : _mm256_add_epi16(dot[t][1], part[1]);
            }
            SKIFF_UNROLL
            for (int t = 0; t < N; ++t) {
                SKIFF_KEEP(dot[t][0]);
                SKIFF_KEEP(dot[t][1]);
            }
        }
        const auto* scales = reinterpret_cast<const float*>(slab + 512);
        const auto* zeros = reinterpret_cast<const __m256i*>(slab + 576);
        SKIFF_UNROLL
        for (int t = 0; t < N; ++t) {
            SKIFF_UNROLL
            for (int half = 0; half < 2; ++half) {
                float* sum = sums + t * 16 + half * 8;
                const __m256i whole = _mm256_madd_epi16(dot[t][half], ones);
                _mm256_store_ps(sum, add_block<true>(_mm256_load_ps(sum), whole, _mm256_load_ps(scales + half * 8), _mm256_load_si256(zeros + half), x, t * x.block_stride));
            }
        }
        x.codes += tile_block, ++x.scales, ++x.sums;
    }
}

// One half of the rows (8), more tokens: the sign step costs a temporary per token, so a broadcast is not shared.
template <int N, bool HasZero>
void slab_w8(const Byte* slab, std::int64_t n_blocks, Tokens x, float* sums) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256 sum[N];
    SKIFF_UNROLL
    for (int t = 0; t < N; ++t) sum[t] = _mm256_load_ps(sums + t * 16);
    for (std::int64_t block = 0; block < n_blocks; ++block, slab += slab_block_bytes) {
        __m256i dot[N];
        SKIFF_UNROLL
        for (int v = 0; v < 8; ++v) {
            const __m256i w = load_vector(slab + v * 64), magnitude = _mm256_abs_epi8(w);
            SKIFF_UNROLL
            for (int t = 0; t < N; ++t) {
                const __m256i a = _mm256_sign_epi8(broadcast4(x.codes + t * x.code_stride + v * 4), w);
                const __m256i part = _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, a), ones);
                dot[t] = v == 0 ? part : _mm256_add_epi32(dot[t], part);
                SKIFF_KEEP(dot[t]);
            }
        }
        // the slab pointer of the upper half is 32 bytes further: scales and zeros are 32 bytes per half as well
        const __m256 scale = _mm256_load_ps(reinterpret_cast<const float*>(slab + 512));
        const __m256i zero = _mm256_load_si256(reinterpret_cast<const __m256i*>(slab + 576));
        SKIFF_UNROLL
        for (int t = 0; t < N; ++t) sum[t] = add_block<HasZero>(sum[t], dot[t], scale, zero, x, t * x.block_stride);
        x.codes += tile_block, ++x.scales, ++x.sums;
    }
    SKIFF_UNROLL
    for (int t = 0; t < N; ++t) _mm256_store_ps(sums + t * 16, sum[t]);
}

template <int Bits, int N, bool HasZero>
inline void slab_tokens(const Byte* slab, std::int64_t n_blocks, const Tokens& x, float* sums) {
    if constexpr (Bits == 4) slab_w4<N>(slab, n_blocks, x, sums);
    else slab_w8<N, HasZero>(slab, n_blocks, x, sums), slab_w8<N, HasZero>(slab + 32, n_blocks, x, sums + 8);
}

inline Tokens from(const Tokens& x, std::int64_t token, std::int64_t block) {
    return {x.codes + token * x.code_stride + block * tile_block, x.scales + token * x.block_stride + block, x.sums + token * x.block_stride + block, x.code_stride, x.block_stride};
}

// sums: (n_tokens, 16) f32, n_tokens at most tokens_at_once
template <int Bits, bool HasZero>
void slab_tile(const Byte* tile, const TileFormat& format, const Tokens& x, std::int64_t n_tokens, float* sums) {
    constexpr int n_at_once = 4;
    alignas(64) Byte slab[slab_blocks * slab_block_bytes];
    for (std::int64_t i = 0; i < n_tokens * 16; i += 8) _mm256_store_ps(sums + i, _mm256_setzero_ps());
    TileReader reader = {tile};
    for (std::int64_t block = 0; block < format.n_blocks; block += slab_blocks) {
        const std::int64_t n = format.n_blocks - block < slab_blocks ? format.n_blocks - block : slab_blocks;
        expand<Bits>(reader, format, n, slab);
        std::int64_t token = 0;
        for (; token + n_at_once <= n_tokens; token += n_at_once) slab_tokens<Bits, n_at_once, HasZero>(slab, n, from(x, token, block), sums + token * 16);
        for (; token < n_tokens; ++token) slab_tokens<Bits, 1, HasZero>(slab, n, from(x, token, block), sums + token * 16);
    }
}

// ---- both: 16 sums per token to y

void write_rows(const LinearArgs& args, std::int64_t row, std::int64_t n_rows, std::int64_t first_token, std::int64_t n_tokens, const float* sums) {
    for (std::int64_t r = 0; r < n_rows; r += 8) {
        const std::int64_t n = n_rows - r < 8 ? n_rows - r : 8;
        const __m256 bias = args.bias == nullptr ? _mm256_setzero_ps() : load_tail(args.bias + row + r, n);
        for (std::int64_t t = 0; t < n_tokens; ++t) {
            float* y = args.y + (first_token + t) * args.y_stride + row + r;
            __m256 value = _mm256_load_ps(sums + t * 16 + r);
            if (args.bias != nullptr) value = _mm256_add_ps(value, bias);
            if (args.write == LinearArgs::Write::add) value = _mm256_add_ps(load_tail(y, n), value);
            store_tail(y, n, value);
        }
    }
}

template <int Bits, bool HasZero>
void direct_tokens(const Byte* tile, const TileFormat& format, const Tokens& x, std::int64_t n_tokens, float* sums) {
    switch (n_tokens) {
        case 1: return direct_tile<Bits, 1, HasZero>(tile, format, x, sums);
        case 2: return direct_tile<Bits, 2, HasZero>(tile, format, x, sums);
        case 3: return direct_tile<Bits, 3, HasZero>(tile, format, x, sums);
        default: return direct_tile<Bits, 4, HasZero>(tile, format, x, sums);
    }
}

template <int Bits, bool HasZero>
void multiply(const LinearArgs& args, Range rows) {
    const PackedWeight& weight = *args.weight;
    const TileFormat format = tile_format(weight.scheme, weight.dtype, weight.n_columns);
    const std::int64_t padded = args.x.padded_columns;
    const Tokens x = {args.x.codes, args.x.scales, args.x.sums, padded, padded / tile_block};
    alignas(64) float sums[tokens_at_once * 16];
    for (std::int64_t row = rows.begin; row < rows.end; row += tile_rows) {
        const Byte* tile = reinterpret_cast<const Byte*>(weight.data) + row / tile_rows * format.tile_bytes;
        const std::int64_t n_rows = rows.end - row < tile_rows ? rows.end - row : tile_rows;
        for (std::int64_t token = 0; token < args.n_tokens; token += tokens_at_once) {
            const std::int64_t n = args.n_tokens - token < tokens_at_once ? args.n_tokens - token : tokens_at_once;
            if (n <= max_direct_tokens) direct_tokens<Bits, HasZero>(tile, format, from(x, token, 0), n, sums);
            else slab_tile<Bits, HasZero>(tile, format, from(x, token, 0), n, sums);
            write_rows(args, row, n_rows, token, n, sums);
        }
    }
}

}  // namespace

void linear_w4_r16_avx2(const LinearArgs& args, Range rows) { multiply<4, true>(args, rows); }

void linear_w8_r16_avx2(const LinearArgs& args, Range rows) {
    if (args.weight->scheme.symmetric) multiply<8, false>(args, rows);
    else multiply<8, true>(args, rows);
}

}  // namespace skiff
