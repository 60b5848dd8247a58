// A scheme says what numbers a weight is made of. It is data: how they are packed for a kernel is a Layout, how they are chosen is a method.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tensor/codebook.h"
#include "tensor/dtype.h"

namespace skiff {

enum class NumberKind : std::uint8_t {
    floating,  // each weight is rounded to `dtype`; no scales
    integer,   // value = (code - zero) * scale, code in [0, 2^bits); with minimums: code * scale - minimum
    codebook,  // value = codebook.levels[code] * scale
    clusters,  // value = levels[code]; the levels are the weight's own and stored with it
    vectors,   // values of `vector` columns = (entry of book 0 + entry of book 1) * scale; the books are the weight's own and stored with it
};

struct Scheme {
    NumberKind kind = NumberKind::floating;
    DType dtype = DType::bf16;       // floating: the type of the weights
    int bits = 16;                   // stored bits of a code
    bool symmetric = true;           // integer: zero is 2^(bits-1) for every group and is not stored
    std::int64_t group_size = 0;     // integer: inputs that share a scale; 0 = the whole row. The last group of a row may be shorter.
    DType scale_dtype = DType::f16;  // of clusters: the type of the levels. i8 or u8: relative, a group's scale is the super scale times this; f8_e8m0: a power of two
    const Codebook* codebook = nullptr;
    bool minimums = false;           // integer, not symmetric: code * scale - minimum instead of a zero. Relative (u8) where scales are.
    std::int64_t super_size = 0;     // relative scales: columns that share a super scale, whole groups of them; 0 = the whole row
    DType super_dtype = DType::f32;  // relative scales: type of the super scales and super minimums, f16, bf16 or f32
    int n_levels = 0;                // clusters: levels of a table, 2 to 256; vectors: entries of a book, a power of two from 16 to 4096
    bool one_table = false;          // clusters: one table for the whole weight, else one for each group
    const Codebook* scale_book = nullptr;  // relative scales (u8) of 4 bits: a group's scale is the super scale times one of this table
    int vector = 0;                  // vectors: columns that a code is for, 2, 4 or 8; the last of a row may lack some
    int n_books = 0;                 // vectors: codes for each, 1 or 2, whose entries are added

    bool operator==(const Scheme&) const = default;
    // Its content: "w4g32", "w4g32a", "w8", "n4g32r" (codebook n4, relative scales), "w4g32mrs256" (minimums, relative to super scales per 256), "n4g16t" (relative scales
    // of the table t), "k4" (four clusters per row), "k16g128" (per group), "k16tensor", "mxfp4", "bf16", "v4k256" (four columns to a code of 256),
    // "v8k256x2g16t" (the sum of two; scales as above).
    std::string name() const;
    bool is_coded() const { return kind != NumberKind::floating; }  // codes and scales, not plain numbers
    bool stores_zeros() const { return kind == NumberKind::integer && !symmetric && !minimums; }
    bool relative_scales() const { return is_coded() && (scale_dtype == DType::i8 || scale_dtype == DType::u8); }
    std::int64_t n_codes(std::int64_t n_columns) const { return kind != NumberKind::vectors ? n_columns : (n_columns + vector - 1) / vector * n_books; }
    int scale_bits() const { return scale_book != nullptr ? scale_book->bits : dtype_info(scale_dtype).bits; }
    DType minimum_dtype() const { return relative_scales() ? DType::u8 : scale_dtype; }
    std::int64_t n_supers(std::int64_t n_columns) const { return super_size == 0 ? 1 : (n_columns + super_size - 1) / super_size; }
    std::int64_t super_of(std::int64_t column) const { return super_size == 0 ? 0 : column / super_size; }
    std::int64_t n_groups(std::int64_t n_columns) const { return group_size == 0 ? 1 : (n_columns + group_size - 1) / group_size; }
    std::int64_t group_of(std::int64_t column) const { return group_size == 0 ? 0 : column / group_size; }
    // Bytes of one row: codes in whole 32-bit words, scales, minimums, super scales, packed zeros (amortised).
    double bits_per_weight(std::int64_t n_columns) const;
};

// The presets that --scheme names; an `a` behind an integer one makes it asymmetric.
struct SchemePreset {
    std::string_view name;
    Scheme scheme;
    std::string_view summary;  // one line for help
};
std::span<const SchemePreset> scheme_presets();
Result<Scheme> parse_scheme(std::string_view name);  // usage error lists the names
std::optional<Scheme> scheme_of_content(std::string_view name);  // what Scheme::name() gives for codes; presets are not looked up

// Scale and zero of one group of weights.
struct GroupParams {
    float scale = 1;
    std::int32_t zero = 0;        // integers
    std::int32_t scale_code = 0;  // relative scales: scale = super scale * this; of a table: its code there
};

// A group under a super scale, and what it loses: the weighted squared error.
struct GroupUnder {
    GroupParams params;
    double error = 0;
};

// Relative scales are found as -127..127, so that the largest scale of a row is within a unit of exact with either sign.
inline constexpr std::int32_t largest_scale_code = 127;

// The representable values of a scheme, group by group.
class Grid {
public:
    virtual ~Grid() = default;
    // Parameters for a group. `importance` weighs each squared error, or is empty. The scale returned is already rounded to the scheme's scale
    // type; where scales are relative it is not, and fit_row() goes on from there.
    virtual GroupParams fit(std::span<const float> group, std::span<const float> importance) const = 0;
    // Relative scales: the best multiple of `super_scale` for a group whose fit() was `wanted`.
    virtual GroupUnder fit_under(float super_scale, const GroupParams& wanted, std::span<const float> group, std::span<const float> importance) const = 0;
    virtual std::int32_t round(float x, const GroupParams& params) const = 0;
    virtual void round_group(std::span<const float> group, const GroupParams& params, std::uint8_t* codes) const = 0;  // round() of each, codes of 8 bits at most
    virtual float value(std::int32_t code, const GroupParams& params) const = 0;
    virtual std::int32_t n_codes() const = 0;
};

// Integer and codebook grids; clusters and vectors have none, since their levels are found and not given: null. The search minimises the (weighted) squared error over candidate scales; `min_max` takes the extremes as they are.
enum class ScaleRule { min_max, search };
std::unique_ptr<Grid> make_grid(const Scheme& scheme, ScaleRule rule);

// Parameters of all groups of a row: relative scales share super scales, so they are chosen together. `importance` (n_columns) may be empty.
struct RowParams {
    std::vector<GroupParams> groups;
    std::vector<float> super_scales;  // (n_supers) where scales are relative, already rounded to their type
};
void fit_row(const Grid& grid, const Scheme& scheme, std::span<const float> row, std::span<const float> importance, RowParams& params);

// Whether a scale keeps its meaning when rounded to `dtype`: zero, or within f16's largest value and precise enough that the largest code
// moves by at most an eighth of a step.
bool scale_is_storable(float scale, DType dtype, int bits);

}  // namespace skiff
