// Linear kernels over tiles with int8 activations (i8_b32) for AMX: tdpbsud multiplies up to 16 tokens by the 16 rows of a tile. An expanded block is a B operand as
// it is (its vector v holds columns 4v .. 4v + 3 of 16 rows), and the codes of the tokens are an A operand as they are. Up to eight tokens go the way of AVX-512.
//
// By counting, for nothing measured yet: two tiles and 32 tokens are four products of 16 cycles a block, and the 64 sums of 16 rows that they leave take
// some 40 cycles a quarter to become floats, since every block of 32 columns has its scale; about twice the speed of vpdpbusd, which pays the same for its floats.
#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/tile_512.h"

namespace skiff {
namespace {

constexpr std::int64_t amx_tokens = 16;  // rows of an A operand

// Integer sums of two groups of tokens and two tiles: in registers 0 to 3, then here. Tokens are in 4 and 5, levels in 6 and 7.
struct AmxSums {
    alignas(64) std::int32_t of[2][2][amx_tokens][tile_rows];
};

AmxShapes amx_shapes(const std::int64_t (&n_tokens)[2], std::int64_t n_tiles, int units) {
    AmxShapes shapes;
    for (int group = 0; group < 2 && n_tokens[group] > 0; ++group) {
        for (int tile = 0; tile < n_tiles; ++tile) shapes.set(group * 2 + tile, n_tokens[group], tile_rows * 4);
        shapes.set(4 + group, n_tokens[group], tile_block / units);
    }
    for (int tile = 0; tile < n_tiles; ++tile) shapes.set(6 + tile, 8 / units, tile_vector_bytes);
    return shapes;
}

// One unit of columns: levels[tile] times the codes of both groups.
inline void amx_unit(const Byte* const (&levels)[2], std::int64_t n_tiles, const std::int8_t* codes, std::int64_t code_stride, bool second_group, AmxSums& sums) {
    constexpr std::int64_t row = tile_rows * 4;
    amx_load<4>(codes, code_stride);
    amx_load<6>(levels[0], tile_vector_bytes);
    amx_zero<0>();
    amx_multiply<0, 4, 6>();
    amx_store<0>(sums.of[0][0], row);
    if (second_group) {
        amx_load<5>(codes + amx_tokens * code_stride, code_stride);
        amx_zero<2>();
        amx_multiply<2, 5, 6>();
        amx_store<2>(sums.of[1][0], row);
    }
    if (n_tiles < 2) return;
    amx_load<7>(levels[1], tile_vector_bytes);
    amx_zero<1>();
    amx_multiply<1, 4, 7>();
    amx_store<1>(sums.of[0][1], row);
    if (second_group) {
        amx_zero<3>();
        amx_multiply<3, 5, 7>();
        amx_store<3>(sums.of[1][1], row);
    }
}

// Those sums of one tile and group become part of the float sums, as in multiply_blocks.
inline void finish_unit(const Stretch& stretch, std::int64_t unit, const Tokens& x, std::int64_t block, std::int64_t n_tokens, const std::int32_t (&dots)[amx_tokens][tile_rows], float* sums,
                        std::int64_t stride) {
    const __m512 scale = _mm512_load_ps(stretch.scales + unit * tile_rows), correction = _mm512_load_ps(stretch.corrections + unit * tile_rows);
    for (std::int64_t t = 0; t < n_tokens; ++t) {
        const std::int64_t at = unit * x.stride + t;
        __m512i dot = _mm512_add_epi32(_mm512_load_si512(dots[t]), _mm512_set1_epi32(x.start[at]));
        if (x.code_sums != nullptr) dot = less_zero(dot, _mm512_castps_si512(correction), x.code_sums[at]);
        float* target = sums + t * stride;
        __m512 sum = add_unit(_mm512_load_ps(target), dot, scale, x.scales[block * x.stride + t]);
        if (x.sums != nullptr) sum = _mm512_fnmadd_ps(correction, _mm512_set1_ps(x.sums[at]), sum);
        _mm512_store_ps(target, sum);
    }
}

// sums (n_tokens, stride) += expanded blocks of one or two tiles times at most 32 tokens
void multiply_amx(const Stretch* tiles, std::int64_t n_tiles, const Tokens& x, std::int64_t n_tokens, float* sums, std::int64_t stride) {
    const int units = tiles[0].format->units_per_block();
    const std::int64_t in_group[2] = {n_tokens < amx_tokens ? n_tokens : amx_tokens, n_tokens < amx_tokens ? 0 : n_tokens - amx_tokens};
    AmxSums dots;
    amx_configure(amx_shapes(in_group, n_tiles, units));
    for (std::int64_t block = 0; block < tiles[0].n_blocks; ++block)
        for (int unit = 0; unit < units; ++unit) {
            const std::int64_t at = block * expanded_block_bytes + unit * expanded_block_bytes / 2, u = block * units + unit;
            const Byte* const levels[2] = {tiles[0].codes + at, tiles[n_tiles - 1].codes + at};
            amx_unit(levels, n_tiles, x.codes + block * tile_block + unit * tile_block / 2, x.code_stride, in_group[1] > 0, dots);
            for (int group = 0; group < 2 && in_group[group] > 0; ++group)
                for (std::int64_t tile = 0; tile < n_tiles; ++tile)
                    finish_unit(tiles[tile], u, from(x, group * amx_tokens, 0, units), block, in_group[group], dots.of[group][tile], sums + group * amx_tokens * stride + tile * tile_rows, stride);
        }
    amx_release();
}

template <int Bits, int Levels>
struct Amx : Avx512<Bits, Levels, false> {
    static void multiply(const Stretch* tiles, std::int64_t n_tiles, Tokens x, std::int64_t n_tokens, float* sums, std::int64_t stride) {
        for (constexpr std::int64_t most = 2 * amx_tokens; n_tokens > 0; n_tokens -= most, sums += most * stride) {
            multiply_amx(tiles, n_tiles, x, n_tokens < most ? n_tokens : most, sums, stride);
            x = from(x, most, 0, tiles[0].format->units_per_block());
        }
    }
};

// One product with extreme bytes against plain sums, before the first use: nobody has yet run this unit on the processor it is for.
bool amx_computes() {
    alignas(64) std::int8_t codes[amx_tokens][tile_block];
    alignas(64) Byte levels[8][tile_vector_bytes];
    alignas(64) std::int32_t found[amx_tokens][tile_rows];
    for (int t = 0; t < amx_tokens; ++t)
        for (int c = 0; c < tile_block; ++c) codes[t][c] = static_cast<std::int8_t>((t * 37 + c * 11) % 255 - 127);
    for (int v = 0; v < 8; ++v)
        for (int i = 0; i < tile_vector_bytes; ++i) levels[v][i] = static_cast<Byte>(v * 61 + i * 13 + 255);
    AmxShapes shapes;
    shapes.set(0, amx_tokens, tile_rows * 4), shapes.set(4, amx_tokens, tile_block), shapes.set(6, 8, tile_vector_bytes);
    amx_configure(shapes);
    amx_load<4>(codes, tile_block);
    amx_load<6>(levels, tile_vector_bytes);
    amx_zero<0>();
    amx_multiply<0, 4, 6>();
    amx_store<0>(found, tile_rows * 4);
    amx_release();
    for (int t = 0; t < amx_tokens; ++t)
        for (int row = 0; row < tile_rows; ++row) {
            std::int32_t sum = 0;
            for (int c = 0; c < tile_block; ++c) sum += codes[t][c] * levels[c / 4][row * 4 + c % 4];
            if (sum != found[t][row]) return false;
        }
    return true;
}

template <int Bits, int Levels>
void by_levels(const LinearArgs& args, Range rows) {
    static const bool computes = amx_computes();
    if (computes) linear_tiles<Amx<Bits, Levels>>(args, rows);
    else linear_tiles<Avx512<Bits, Levels, false>>(args, rows);
}

template <int Bits>
void linear_amx(const LinearArgs& args, Range rows) {
    if constexpr (Bits <= 4) {
        const TileFormat format = tile_format(*args.weight);
        if (format.row_levels) return by_levels<Bits, 2>(args, rows);
        if (format.has_levels) return by_levels<Bits, 1>(args, rows);
    }
    by_levels<Bits, 0>(args, rows);
}

}  // namespace

void linear_w1_r16_amx(const LinearArgs& args, Range rows) { linear_amx<1>(args, rows); }
void linear_w2_r16_amx(const LinearArgs& args, Range rows) { linear_amx<2>(args, rows); }
void linear_w3_r16_amx(const LinearArgs& args, Range rows) { linear_amx<3>(args, rows); }
void linear_w4_r16_amx(const LinearArgs& args, Range rows) { linear_amx<4>(args, rows); }
void linear_w5_r16_amx(const LinearArgs& args, Range rows) { linear_amx<5>(args, rows); }
void linear_w6_r16_amx(const LinearArgs& args, Range rows) { linear_amx<6>(args, rows); }
void linear_w8_r16_amx(const LinearArgs& args, Range rows) { linear_amx<8>(args, rows); }

}  // namespace skiff
