// A weight as the CUDA kernels read it: what is stored, and where. Plain data with device (or host) addresses; pack.h makes it, layout.h says which
// bit is where.
#pragma once

#include <cstdint>

namespace skiff::cuda {

// What a stored code is. `linear` codes mean code - 2^(bits-1); `table` codes are looked up.
enum class CodeForm : std::uint8_t {
    f32, f16, bf16, e4m3, e5m2,
    linear8, linear6, linear5, linear4, linear3, linear2, linear1,
    table8, table4, table3, table2, table1,
};
inline constexpr int n_code_forms = 17;

// The record of a row and group. `s`: a scale of its own; `r`: an i8 or u8 that multiplies the row's super scale; `o`: and an offset.
enum class ParamForm : std::uint8_t {
    none,    // no groups: row_scales, or nothing
    s16,     // scale
    s16z16,  // scale, zero - 2^(bits-1) as bf16: value = (decoded - zero) * scale
    s16m16,  // scale, minimum: value = (decoded + 2^(bits-1)) * scale - minimum
    r8,      // i8 (or a table's integer): scale = super scale * this
    r8m8,    // u8 scale, u8 minimum, each times its super
    s32,     // scale
    s32z32,  // scale, zero - 2^(bits-1), both f32
    s32m32,  // scale, minimum
};
enum class Float16Form : std::uint8_t { f16, bf16 };  // of the 16-bit scales and minimums of a weight

struct GpuWeight {
    CodeForm form = CodeForm::bf16;
    ParamForm params = ParamForm::none;
    Float16Form param_float = Float16Form::f16;
    bool relative_unsigned = false;     // r8: the code is a u8
    bool table_per_row = false;         // table4, table2, table1: each row has its own levels
    bool table_exact = true;            // every level is a bf16: one part is enough
    float table_step = 0;               // where every level of a shared table is a whole number of a byte times this power of two; else 0
    bool two_of_four = false;           // only the kept two of every four columns of a row are stored, and which they are (two_of_four.h): units, groups and supers are of kept columns
    float half = 0;                     // of linear forms: what decoding subtracts from a code, 2^(bits-1)
    std::int32_t n_rows = 0;            // logical; of gate_up both halves
    std::int32_t n_columns = 0;         // logical, also of two_of_four
    std::int32_t n_tiles = 0;           // of 16 rows
    std::int32_t n_units = 0;           // of unit_columns(form) columns, in each tile
    std::int32_t group_log2 = 31;       // columns that share a record; 31: the whole row
    std::int32_t super_log2 = 31;       // columns that share a super scale
    std::int32_t n_supers = 1;
    const void* codes = nullptr;             // (n_tiles, n_units, pieces, 32 lanes) of 16 bytes
    const std::uint32_t* positions = nullptr;  // of two_of_four: (n_tiles, n_units, 32 lanes, 2)
    const void* group_params = nullptr;      // (n_tiles, n_param_units, 8, groups in a unit, 2 rows) records
    const float* super_scales = nullptr;     // (n_tiles, n_supers, 16)
    const float* super_minimums = nullptr;   // (n_tiles, n_supers, 16)
    const float* row_scales = nullptr;       // (n_tiles * 16), or null
    const std::uint32_t* table = nullptr;    // levels as two bf16 parts, the larger in the low half // (2^bits), or (n_tiles * 16, 2^bits)
};

}  // namespace skiff::cuda
