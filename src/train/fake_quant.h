// A weight as its scheme would store it, in the forward pass of training: rounded values forward, straight-through gradients backward (Bengio et al.
// 2013) for the weight behind them, and a gradient for each group's scale.
//
//   3 bits and more  learnt step size (LSQ, Esser et al. 2020): d/dw = g inside the grid; d/ds = sum g (level - x inside, level outside), x = w/s
//   2 bits, ternary  the same with the window stretched to 0.99 of where the outermost levels would end (ParetoQ, Liu et al. 2025, SEQ)
//   1 bit            s = mean |w|, level = sign(w), d/dw = g (BitNet, Wang et al. 2023)
//   clusters         level = the nearest of the table; d/dw = g; d/dlevel = sum of g over its members (Han et al. 2016, Deep Compression, section 3)
//
// Codes and scales of the forward pass are those that weight() gives to a checkpoint: scales are rounded as they will be stored. With Tables::bytes its levels
// are the kernels' bytes, which differ from the checkpoint's by a 254th of the table at most.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include <ATen/ATen.h>

#include "tensor/weight.h"

namespace skiff::train {

// The levels of a scheme and how gradients pass. Value = level * scale.
struct QuantRule {
    enum class Kind : std::uint8_t { integer, levels, sign } kind = Kind::integer;
    std::vector<float> levels;             // ascending
    std::vector<std::uint8_t> codes;       // of each level
    std::vector<float> of_code;            // the level of each code
    std::vector<float> bounds;             // halfway between neighbours, one fewer than levels
    float last = 0;                        // integer: the largest code
    bool stretched = false;                // gradients pass up to 0.99 of where the outermost levels end, instead of up to these
    float gradient_scale(std::int64_t group_size) const;  // LSQ's 1 / sqrt(n Qp)
};
// Tables of levels in training: as the checkpoint has them, or as the int8 kernels hold them.
enum class Tables : std::uint8_t { exact, bytes };
QuantRule quant_rule(const Scheme& scheme, Tables tables = Tables::exact);
// Levels of a table of up to 16 as tiles hold them (kernels/tile_format.h): integers as they are where the table is one for all rows, else in steps of the largest
// magnitude / 127. Larger tables, and those of groups, are no bytes there: they are left alone.
enum class TableOf : std::uint8_t { all, row };
void round_to_bytes(std::span<float> levels, TableOf table);

// Whether training can round to it: coded, and not with minimums.
Status check_trainable_scheme(const Scheme& scheme);
// Whether what was pruned stays zero in it: every group has a level for zero.
Status check_zero_level(const Scheme& scheme);

class FakeQuant {
public:
    enum class Codes : std::uint8_t {
        follow,  // rounded anew from the weight at each forward()
        stay,    // as they were at first: only scales (levels of clusters) are trained (EfficientQAT's second phase)
    };
    // `weight` is the trained tensor itself, (outputs, inputs) f32 on the CPU, or (inputs, outputs) with `columns`. Scales and levels begin where rounding to nearest has them.
    static Result<std::shared_ptr<FakeQuant>> create(const at::Tensor& weight, bool columns, const Scheme& scheme, Codes codes, Tables tables = Tables::exact);
    virtual ~FakeQuant() = default;

    const Scheme& scheme() const { return scheme_; }
    // What multiplies each group's first scale: the trained number. // (n_rows * n_groups) f32, one at first; undefined for signs and clusters
    const at::Tensor& ratio() const { return ratio_; }
    // The trained levels of clusters, table after table. // (n_tables * n_levels) f32; undefined for all else
    const at::Tensor& levels() const { return levels_; }
    // The weight as stored now. // the weight's shape
    virtual at::Tensor forward() = 0;
    // Adds to the gradients of weight, ratio and levels what `gradient` of the last forward()'s result means for them. Those that want none get none.
    virtual void backward(const at::Tensor& gradient) const = 0;
    // Codes and scales of the last forward().
    virtual Weight weight() const = 0;

protected:
    FakeQuant(const at::Tensor& weight, bool columns, const Scheme& scheme, Codes codes, Tables tables);
    at::Tensor rows() const;  // (n_rows, n_columns) contiguous, without gradient
    void make_gradients() const;  // of the leaves that want some: zeros, where there are none yet
    std::int64_t group_size() const { return scheme_.group_size == 0 ? n_columns_ : scheme_.group_size; }

    at::Tensor trained_;
    bool columns_;
    Scheme scheme_;
    Codes codes_;
    Tables tables_;
    std::int64_t n_rows_, n_columns_, n_groups_;
    at::Tensor ratio_, levels_;
    std::vector<std::uint8_t> kept_codes_;  // where they stay: (n_rows * n_columns)
};

}  // namespace skiff::train
