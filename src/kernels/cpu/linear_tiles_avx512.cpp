// Linear kernels over tiles with int8 activations (i8_b32) for AVX-512 with VNNI.
#include "kernels/cpu/tile_512_pairs.h"

namespace skiff {
namespace {

// Pairs of tiles for the widths in common use; each is some 20 functions.
template <int Bits, int Levels>
struct Few : Avx512Pairs<Bits, Levels> {};
template <int Levels>
struct Few<1, Levels> : Avx512<1, Levels> {};
template <int Levels>
struct Few<5, Levels> : Avx512<5, Levels> {};

template <int Bits>
void linear(const LinearArgs& args, Range rows) {
    if constexpr (Bits <= 4) {
        const TileFormat format = tile_format(*args.weight);
        if (format.row_levels) return linear_tiles<Avx512<Bits, 2>>(args, rows);
        if constexpr (Bits == 1)
            if (format.twice_codes()) return linear_tiles<Few<Bits, twice>>(args, rows);
        if (format.has_levels) return linear_tiles<Few<Bits, 1>>(args, rows);
    }
    linear_tiles<Few<Bits, 0>>(args, rows);
}

}  // namespace

void linear_w1_r16_avx512(const LinearArgs& args, Range rows) { linear<1>(args, rows); }
void linear_w2_r16_avx512(const LinearArgs& args, Range rows) { linear<2>(args, rows); }
void linear_w3_r16_avx512(const LinearArgs& args, Range rows) { linear<3>(args, rows); }
void linear_w4_r16_avx512(const LinearArgs& args, Range rows) { linear<4>(args, rows); }
void linear_w5_r16_avx512(const LinearArgs& args, Range rows) { linear<5>(args, rows); }
void linear_w6_r16_avx512(const LinearArgs& args, Range rows) { linear<6>(args, rows); }
void linear_w8_r16_avx512(const LinearArgs& args, Range rows) { linear<8>(args, rows); }

}  // namespace skiff
