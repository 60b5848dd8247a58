// Weights of which at most two of every four columns are kept, as the sparse tensor cores take them: the codes of the kept columns as a matrix of half the width, in the
// tiles, units and words of lane.h, and for each kept column two bits that say which of its four it is. Host and device; the CPU tests run all of it.
//
// mma.sp.m16n8k32 multiplies 32 columns of which 16 are kept: its first operand is that of m16n8k16, whose column k is kept column k % 2 of the four columns from
// 4 * (k / 2) on; the second is that of two m16n8k16, one behind the other. PTX ISA, "Matrix fragments for sparse mma.m16n8k32 with .f16 and .bf16 types": positions are a
// word of two lanes of every four, which ones the instruction says (the selector). Lane l of them has row l / 4 in the low half and row l / 4 + 8 in the
// high half, of columns 16 * (l % 2) to 16 * (l % 2) + 15; a half has a nibble for every four columns, the first kept one's position in its low bits, and the
// second's is larger. So one word of each lane serves two steps: even ones by lanes 0 and 1 of four, odd ones by lanes 2 and 3.
#pragma once

#include "kernels/cuda/lane.h"

namespace skiff::cuda {

// All forms here have units of 64 kept columns: four steps, 128 columns, two words of positions.
constexpr int kept_unit_groups = 32, step_groups = 8, position_unit_words = 2 * lanes, position_unit_bytes = 4 * position_unit_words;
constexpr std::uint32_t no_positions = 0x44444444u;  // of zeros: the first two of four; equal ones are not allowed

constexpr bool takes_two_of_four(CodeForm form) { return form == CodeForm::bf16 || form == CodeForm::linear8 || form == CodeForm::linear4; }

// Where the positions of a row of the tile and a group of four columns of a step are, in the words of a unit.
struct PositionPlace {
    int lane, word, bit;
    constexpr int index() const { return lane * 2 + word; }
};
constexpr PositionPlace position_place(int row, int step, int group) { return {4 * (row % 8) + 2 * (step % 2) + group / 4, step / 2, 16 * (row / 8) + 4 * (group % 4)}; }

// Which of four columns the kept column `kept` (0 .. 15) of a step is. // unit: (32 lanes, 2)
SKIFF_HD int kept_position(const std::uint32_t* unit, int row, int step, int kept) {
    const PositionPlace place = position_place(row, step, kept / 2);
    return static_cast<int>(unit[place.index()] >> (place.bit + 2 * (kept % 2)) & 3u);
}

// The kept columns of a weight are decoded like those of any other.
template <class Decoder>
struct TwoOfFour : Decoder {
    static constexpr bool two_of_four = true;
    static_assert(takes_two_of_four(Decoder::form) && unit_columns(Decoder::form) == slab_columns && Decoder::n_parts == 1);
};

}  // namespace skiff::cuda
