// Chunks of integer codes times whole numbers: what 16-bit floats take seven instructions for each eight codes, bytes take three, and half of the products.
// The numbers of a chunk's columns become 16-bit fixed point, x = scale * (256 d0 + d1) with the largest of the chunk at 127 * 256: two digits of eight bits, of four tokens the eight
// columns of a product of bytes (mma m16n8k32). Its sums are whole numbers, so exact. The error of a number is half a step, about 2^-16 of the largest
// in the chunk, which a number much larger than the others sets.
// Codes become bytes by shifting them to the top, (code - 2^(bits-1)) * 2^(8-bits), or by a table. A lane's codes of a step are columns 2t, 2t+1, 2t+8, 2t+9 of rows g and g + 8, in an order that
// costs the decoder least: both operands may have any where they have the same.
#pragma once

#include "kernels/cuda/gemv_chunk.cuh"

namespace skiff::cuda {

struct DigitParams {
    LinearParams linear;
    int n_stages = 0;                       // of a ring
    int param_bytes = 0;                    // of a chunk
    ChunkPlace place;
    int fold_pairs = 0;                     // records are of 32 columns: they end behind every two steps. Of more columns: behind each slab of a chunk
    int fold_mask = 0x3fffffff;             // whose number (from 1) has none of these bits
    int n_groups = 1;                       // tiles that a block works on at once
    int keeps_digits = 0;                   // of all columns, else of a chunk for each of the warps that share a tile
};
// And the norms of the finished rows.
struct DigitNormParams {
    DigitParams digits;
    NormParams norms;
    std::int32_t* arrivals = nullptr;
};

// Decoders that give codes as bytes.
template <class Decoder, class = void>
constexpr bool has_bytes = false;
template <class Decoder>
constexpr bool has_bytes<Decoder, std::void_t<decltype(Decoder::bytes_in_order)>> = !Decoder::two_of_four;

template <class Decoder>
constexpr int chunk_slabs = gemv_chunk_units(Decoder::form) * unit_slabs<Decoder>;
// Of a chunk and token: of each slab 64 high digits, then 64 low ones, as lanes read them (4 t, 16 bytes: steps 0 .. 3); then the sums of each 32 columns, which offsets are multiplied with;
// then the scale.
template <class Decoder>
constexpr int digit_sums_at = chunk_slabs<Decoder> * 128;
template <class Decoder>
constexpr int digit_scale_at = digit_sums_at<Decoder> + chunk_slabs<Decoder> * 8;
template <class Decoder>
constexpr int digit_bytes = digit_scale_at<Decoder> + 16;

constexpr float largest_fixed = 127 * 256;

// Four fixed-point numbers (and 128, whose lowest 16 bits count) become a word of high and one of low digits, in their order or as 0, 2, 1, 3.
template <bool in_order>
__device__ __forceinline__ void split_digits(const std::uint32_t (&fixed)[4], std::uint32_t& high, std::uint32_t& low) {
    const std::uint32_t even = permute_bytes(fixed[0], fixed[in_order ? 1 : 2], 0x5140u), odd = permute_bytes(fixed[in_order ? 2 : 1], fixed[3], 0x5140u);  // two low bytes, two high ones
    low = permute_bytes(even, odd, 0x5410u) ^ 0x80808080u;  // 128 too large
    high = permute_bytes(even, odd, 0x7632u);
}

// A warp makes digits of a chunk: of the tokens first_token, first_token + token_step ... (8-bit codes: of those and their successors). // to: (n_tokens, digit_bytes)
template <class Decoder>
constexpr int tokens_at_once = lanes / (8 * chunk_slabs<Decoder>);
template <class Decoder>
__device__ __forceinline__ void make_digits(const LinearParams& p, int chunk, int first_token, int token_step, unsigned char* to, int lane) {
    constexpr int per_token = 8 * chunk_slabs<Decoder>;  // a lane takes columns of two steps: those of t of half a slab
    static_assert(per_token == lanes || per_token == lanes / 2);
    const int of_token = lane % per_token, slab = of_token / 8, half = of_token / 4 % 2, t = of_token % 4;
    const unsigned char* x = p.x + (chunk * chunk_slabs<Decoder> + slab) * 1024 + half * 512 + t * 16;
    const auto load = [&](int token, uint4 (&parts)[2]) {
        if (token >= p.n_tokens) {
            parts[0] = parts[1] = make_uint4(0, 0, 0, 0);
            return;
        }
        const unsigned char* of = x + (token >> 2) * p.x_slabs * 1024 + (token & 3) * 128;
        parts[0] = *reinterpret_cast<const uint4*>(of);
        parts[1] = *reinterpret_cast<const uint4*>(of + 64);
    };
    uint4 next[2];
    int token = first_token + lane / per_token;
    load(token, next);
#pragma unroll 1
    for (int first = first_token; first < p.n_tokens; first += token_step) {
        const std::uint32_t large[4] = {next[0].x, next[0].y, next[0].z, next[0].w}, small[4] = {next[1].x, next[1].y, next[1].z, next[1].w};
        const int now = token;
        token += token_step;
        if (first + token_step < p.n_tokens) load(token, next);
        float v[8], most = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            v[2 * i] = bf16_float(large[i]) + bf16_float(small[i]);
            v[2 * i + 1] = bits_float(large[i] & 0xffff0000u) + bits_float(small[i] & 0xffff0000u);
            most = max_or_nan(max_or_nan(most, fabsf(v[2 * i])), fabsf(v[2 * i + 1]));
        }
        std::uint32_t bits = float_bits(most) & 0x7fffffffu;  // as integers: a NaN is the largest
        if constexpr (per_token == lanes) {
            bits = __reduce_max_sync(0xffffffffu, bits);
        } else {
#pragma unroll
            for (int distance = per_token / 2; distance > 0; distance /= 2) bits = max(bits, __shfl_xor_sync(0xffffffffu, bits, distance));
        }
        const float largest = bits_float(bits);
        const bool is_zero = largest < 1e-30f;
        const float scale = largest * (1.0f / largest_fixed), inverse = is_zero ? 0.0f : reciprocal_fast(scale);  // of the scale, whose reciprocal is no subnormal number
        constexpr float to_integer = 12583040.0f;  // 1.5 * 2^23 + 128: a sum with it rounds to an integer, whose bits are the last
        std::uint32_t fixed[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) fixed[i] = float_bits(fmaf(v[i], inverse, to_integer));
        unsigned char* place = to + now * digit_bytes<Decoder>;
        if (p.has_offsets != 0) {
            float sum = 0;
#pragma unroll
            for (int i = 0; i < 8; ++i) sum += bits_float(fixed[i]) - to_integer;
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            if (now < p.n_tokens && t == 0) *reinterpret_cast<float*>(place + digit_sums_at<Decoder> + (2 * slab + half) * 4) = sum;
        }
        if (now >= p.n_tokens) continue;
        uint2 high, low;
        split_digits<Decoder::bytes_in_order>({fixed[0], fixed[1], fixed[2], fixed[3]}, high.x, low.x);
        split_digits<Decoder::bytes_in_order>({fixed[4], fixed[5], fixed[6], fixed[7]}, high.y, low.y);
        unsigned char* digits = place + slab * 128 + t * 16 + half * 8;
        *reinterpret_cast<uint2*>(digits) = high;
        *reinterpret_cast<uint2*>(digits + 64) = low;
        if (of_token == 0) *reinterpret_cast<float*>(place + digit_scale_at<Decoder>) = is_zero ? 0.0f : scale;
    }
}

// The scales of a chunk's groups as numbers, whatever their records are: of each group rows g and g + 8 as neighbours, behind all scales the offsets likewise.
constexpr int most_chunk_groups = 8, digit_scale_bytes = 2 * most_chunk_groups * tile_rows * 4;
// A warp reads them. // here: the chunk's place in the ring, supers: of rows lane % 8 and lane % 8 + 8
template <class Decoder>
__device__ __forceinline__ void read_scales(const LinearParams& p, const Supers (&supers)[2], const unsigned char* here, float2* scales, int lane) {
    const int group_log2 = p.layout.group_log2, in_unit_log2 = max(p.layout.unit_log2 - group_log2, 0), n_groups = max((chunk_slabs<Decoder> * 64) >> group_log2, 1);
    const unsigned char* records = here + gemv_chunk_units(Decoder::form) * unit_bytes<Decoder>;
    const bool is_common = p.weight.params == ParamForm::s16 && p.weight.param_float == Float16Form::f16;
    if (is_common && p.layout.in_unit == 1) {  // records of 4 bytes for rows g and g + 8, in order
        if (lane < n_groups * 8) {  // no more than 32: groups are a unit's 64 columns and more
            const std::uint32_t both = *reinterpret_cast<const std::uint32_t*>(records + lane * 4);
            scales[lane] = {f16_float(both & 0xffffu), f16_float(both >> 16)};
        }
        __syncwarp();
        return;
    }
#pragma unroll 1
    for (int item = lane; item < n_groups * 8; item += lanes) {
        const int group = item / 8, g = item % 8, in_unit = group & ((1 << in_unit_log2) - 1);
        GroupScale scale[2];
        read_pair(p.weight, records + (group >> in_unit_log2) * p.param_bytes + ((g << in_unit_log2) + in_unit) * p.pair_bytes, supers, scale);
        scales[item] = {scale[0].scale, scale[1].scale};
        if (p.has_offsets != 0) scales[most_chunk_groups * 8 + item] = {scale[0].offset, scale[1].offset};
    }
    __syncwarp();
}

// A chunk of a tile, in shared memory at `here`, times its digits: added to the sums.
template <class Decoder, int n_blocks>
__device__ __forceinline__ void multiply_digits(const DigitParams& params, const Decoder& decoder, const unsigned char* here, const unsigned char* digits, const float2* scales, float (&sums)[n_blocks][2]) {
    constexpr int n_unit_slabs = unit_slabs<Decoder>, n_slabs = chunk_slabs<Decoder>;
    const LinearParams& p = params.linear;
    const int lane = threadIdx.x % lanes, g = lane / 4, t = lane % 4;

    float chunk_sums[n_blocks][2] = {};
    int part[n_blocks][4] = {};
    const float2* of_group = scales + g;  // groups end one behind the other
    const auto fold = [&] {
        const float2 scale = *of_group;
        of_group += 8;
#pragma unroll
        for (int block = 0; block < n_blocks; ++block) {
            chunk_sums[block][0] = fmaf(scale.x, static_cast<float>(part[block][0] * 256 + part[block][1]), chunk_sums[block][0]);
            chunk_sums[block][1] = fmaf(scale.y, static_cast<float>(part[block][2] * 256 + part[block][3]), chunk_sums[block][1]);
#pragma unroll
            for (int j = 0; j < 4; ++j) part[block][j] = 0;
        }
    };

    bool has_token[n_blocks];
    const unsigned char* mine[n_blocks];
    // What a slab reads is loaded while the one in front is multiplied. Lanes of tokens that are not there have zeros.
    std::uint32_t words[2][unit_words(Decoder::form)];
    uint4 b[2][n_blocks];
#pragma unroll
    for (int block = 0; block < n_blocks; ++block) {
        has_token[block] = 4 * block + g / 2 < p.n_tokens;
        mine[block] = digits + (4 * block + g / 2) * digit_bytes<Decoder> + g % 2 * 64 + t * 16;
        b[0][block] = b[1][block] = make_uint4(0, 0, 0, 0);
    }
    const auto load = [&](auto index) {
        constexpr int i = decltype(index)::value / n_unit_slabs, slab = decltype(index)::value % n_unit_slabs, at = decltype(index)::value % 2;
        load_slab<Decoder>(here + i * unit_bytes<Decoder>, slab, lane, words[at]);
#pragma unroll
        for (int block = 0; block < n_blocks; ++block)
            if (has_token[block]) b[at][block] = *reinterpret_cast<const uint4*>(mine[block] + decltype(index)::value * 128);
    };
    load(std::integral_constant<int, 0>{});
    for_steps<0, n_slabs>([&](auto index) {
        constexpr int now = decltype(index)::value, at = now % 2;
        if constexpr (now + 1 < n_slabs) load(std::integral_constant<int, now + 1>{});
        for_steps<0, 2>([&](auto pair) {
            constexpr int s = 2 * decltype(pair)::value;
            std::uint32_t a[4];
            decoder.template bytes<s>(words[at], a[0], a[1]);
            decoder.template bytes<s + 1>(words[at], a[2], a[3]);
#pragma unroll
            for (int block = 0; block < n_blocks; ++block) multiply_add_bytes(part[block], a, s == 0 ? b[at][block].x : b[at][block].z, s == 0 ? b[at][block].y : b[at][block].w);
            if (params.fold_pairs != 0 || (s == 2 && (now + 1 == n_slabs || ((now + 1) & params.fold_mask) == 0))) fold();
        });
    });

#pragma unroll
    for (int block = 0; block < n_blocks; ++block) {
        const int token = 4 * block + t < p.n_tokens ? 4 * block + t : 0;
        const unsigned char* of_token = digits + token * digit_bytes<Decoder>;
        if (p.has_offsets != 0) {
#pragma unroll 1
            for (int i = 0; i < 2 * n_slabs; ++i) {
                const float2 offset = scales[(most_chunk_groups + (32 * i >> p.layout.group_log2)) * 8 + g];
                const float sum = (1.0f / decoder.byte_unit()) * reinterpret_cast<const float*>(of_token + digit_sums_at<Decoder>)[i];
                chunk_sums[block][0] = fmaf(-offset.x, sum, chunk_sums[block][0]);
                chunk_sums[block][1] = fmaf(-offset.y, sum, chunk_sums[block][1]);
            }
        }
        const float scale = *reinterpret_cast<const float*>(of_token + digit_scale_at<Decoder>) * decoder.byte_unit();
#pragma unroll
        for (int row = 0; row < 2; ++row) sums[block][row] = fmaf(scale, chunk_sums[block][row], sums[block][row]);
    }
}

}  // namespace skiff::cuda
