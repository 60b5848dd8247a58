// The instructions of AMX that linear_tiles_amx.cpp is written with: eight tiles of up to 16 rows of 64 bytes. Where SKIFF_EMULATED_AMX is defined
// they are plain loops over an array, so that the unit is tested on machines without them (tests/simde).
#pragma once

#include <cstdint>

namespace skiff {
namespace {

// The shapes of the eight tiles, as ldtilecfg reads them.
struct AmxShapes {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    std::uint8_t rows[16] = {};
    void set(int tile, std::int64_t n_rows, std::int64_t n_bytes) {
        rows[tile] = static_cast<std::uint8_t>(n_rows);
        row_bytes[tile] = static_cast<std::uint16_t>(n_bytes);
    }
};
static_assert(sizeof(AmxShapes) == 64);

#if defined(SKIFF_EMULATED_AMX)

struct AmxRegisters {
    AmxShapes shapes;
    std::uint8_t tiles[8][16][64];
};
inline AmxRegisters& amx_registers() {
    static thread_local AmxRegisters registers;
    return registers;
}
inline void amx_configure(const AmxShapes& shapes) { amx_registers() = {shapes, {}}; }
inline void amx_release() { amx_registers() = {}; }
template <int T>
void amx_zero() {
    __builtin_memset(amx_registers().tiles[T], 0, sizeof amx_registers().tiles[T]);
}
template <int T>
void amx_load(const void* source, std::int64_t stride) {
    AmxRegisters& amx = amx_registers();
    amx_zero<T>();
    for (int row = 0; row < amx.shapes.rows[T]; ++row) __builtin_memcpy(amx.tiles[T][row], static_cast<const char*>(source) + row * stride, amx.shapes.row_bytes[T]);
}
template <int T>
void amx_store(void* target, std::int64_t stride) {
    AmxRegisters& amx = amx_registers();
    for (int row = 0; row < amx.shapes.rows[T]; ++row) __builtin_memcpy(static_cast<char*>(target) + row * stride, amx.tiles[T][row], amx.shapes.row_bytes[T]);
}
template <int C, int A, int B>
void amx_multiply() {
    AmxRegisters& amx = amx_registers();
    for (int m = 0; m < amx.shapes.rows[C]; ++m)
        for (int n = 0; n < amx.shapes.row_bytes[C] / 4; ++n) {
            std::int32_t sum;
            __builtin_memcpy(&sum, amx.tiles[C][m] + n * 4, 4);
            for (int k = 0; k < amx.shapes.row_bytes[A] / 4; ++k)
                for (int i = 0; i < 4; ++i) sum += static_cast<std::int8_t>(amx.tiles[A][m][k * 4 + i]) * amx.tiles[B][k][n * 4 + i];
            __builtin_memcpy(amx.tiles[C][m] + n * 4, &sum, 4);
        }
}

#else

// Written out, with memory clobbers: the intrinsics of g++ 12 tell the compiler too little of what they read.
inline void amx_configure(const AmxShapes& shapes) { asm volatile("ldtilecfg %0" ::"m"(shapes) : "memory"); }
inline void amx_release() { asm volatile("tilerelease" ::: "memory"); }
template <int T>
inline void amx_zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(T));
}
template <int T>
inline void amx_load(const void* source, std::int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(source), "r"(stride), "i"(T) : "memory");
}
template <int T>
inline void amx_store(void* target, std::int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(target), "r"(stride), "i"(T) : "memory");
}
// C += A (signed bytes) times B (unsigned bytes): row m of A with four neighbours of column n of B, for each row of B.
template <int C, int A, int B>
inline void amx_multiply() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

#endif

}  // namespace
}  // namespace skiff
