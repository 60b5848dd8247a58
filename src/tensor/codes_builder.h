// Coded weights, row by row: whoever has chosen codes and parameters of groups puts them here and gets the weight as a checkpoint holds it.
#pragma once

#include <memory>
#include <span>

#include "tensor/weight.h"

namespace skiff {

class CodesBuilder {
public:
    // A scheme and shape that check_can_encode() accepts.
    CodesBuilder(const Scheme& scheme, std::int64_t n_rows, std::int64_t n_columns);
    // Threads may set different rows at once. // codes: (n_columns) u8
    void set_row(std::int64_t row, std::span<const std::uint8_t> codes, const RowParams& params);
    // Of clusters: the levels of its groups, or none where one table is for all. // levels: (n_groups * n_levels), rising in each group
    void set_row(std::int64_t row, std::span<const std::uint8_t> codes, std::span<const float> levels);
    void set_levels_of_all(std::span<const float> levels);
    // Of vectors. // codes: (n_codes) u16; books: (n_books * n_levels, vector) i8
    void set_row(std::int64_t row, std::span<const std::uint16_t> codes, const RowParams& params);
    void set_books(std::span<const std::int8_t> books);
    // When every row is set. The builder is of no use afterwards.
    Weight finish();

private:
    void set_params(std::int64_t row, const RowParams& params);
    struct Buffer;
    Scheme scheme_;
    std::int64_t n_rows_, n_columns_;
    CodeRowBytes row_bytes_;
    std::shared_ptr<Buffer> buffer_;
};

// Whether a weight can become this scheme by choosing codes here: its shape, its numbers, the type of the scales.
Status check_can_encode(const Weight& source, const Scheme& scheme);

std::int64_t first_non_finite(std::span<const float> values);  // -1: all are finite
// Names the row and the column of its first number that is not finite.
Error non_finite_error(const Weight& source, std::int64_t row);

// Whether a group's scale, rounded to the scheme's type, lost what the weights are.
bool scale_is_lost(const GroupParams& params, const Scheme& scheme, std::span<const float> values);

}  // namespace skiff
