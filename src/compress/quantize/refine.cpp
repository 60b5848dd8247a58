#include "compress/quantize/refine.h"

#include <cmath>

#include "compress/algebra/algebra.h"
#include "tensor/codes_builder.h"

namespace skiff {
namespace {

// Columns whose changes are collected before the other columns hear of them. A group is a whole number of chunks, or one.
constexpr std::int64_t longest_chunk = 128;

// d = W - Q of all rows. // (n_rows, n_columns)
std::vector<float> differences(const Grid& grid, const Scheme& scheme, RowTile& tile) {
    std::vector<float> d(tile.values);
    for (std::int64_t row = 0; row < tile.n_rows; ++row) {
        const RowChoice& choice = tile.choices[static_cast<std::size_t>(row)];
        float* own = d.data() + row * tile.n_columns;
        for (std::int64_t column = 0; column < tile.n_columns; ++column)
            own[column] -= grid.value(choice.codes[static_cast<std::size_t>(column)], choice.params.groups[static_cast<std::size_t>(scheme.group_of(column))]);
    }
    return d;
}

// d * H // (n_rows, n_columns)
std::vector<float> gradients(const SecondMoments& moments, const RowTile& tile, const std::vector<float>& d) {
    std::vector<float> g(d);
    const std::int64_t n = tile.n_columns;
    multiply({.m = tile.n_rows, .n = n, .k = n, .a = d.data(), .a_stride = n, .b = moments.gram, .b_stride = n, .c = g.data(), .c_stride = n, .factor = 1, .keep = moments.added});
    return g;
}

class Descent {
public:
    Descent(const Refinement& refinement, RowTile& tile)
        : r_(refinement), tile_(tile), n_(tile.n_columns), d_(differences(r_.grid, r_.scheme, tile)), g_(gradients(r_.moments, tile, d_)) {
        const std::int64_t group = r_.scheme.group_size == 0 ? n_ : r_.scheme.group_size;
        chunk_ = std::min(group, longest_chunk);
        local_.resize(static_cast<std::size_t>(chunk_ * chunk_));
        level_.resize(static_cast<std::size_t>(chunk_));
        level_h_.resize(static_cast<std::size_t>(chunk_));
        own_g_.resize(static_cast<std::size_t>(chunk_));
        target_.resize(static_cast<std::size_t>(chunk_));
        change_.resize(static_cast<std::size_t>(tile.n_rows * chunk_));
    }

    // Whether anything changed.
    bool pass() {
        bool changed = false;
        for (std::int64_t group = 0; group < r_.scheme.n_groups(n_); ++group) {
            const Range columns = columns_of_group(r_.scheme, group, n_);
            for (std::int64_t begin = columns.begin; begin < columns.end; begin += chunk_) changed = one_chunk(group, {begin, std::min(columns.end, begin + chunk_)}, columns) || changed;
        }
        return changed;
    }

private:
    bool one_chunk(std::int64_t group, Range chunk, Range columns) {
        const std::int64_t size = chunk.end - chunk.begin;
        for (std::int64_t i = 0; i < size; ++i) {
            std::copy_n(r_.moments.gram + (chunk.begin + i) * n_ + chunk.begin, size, local_.data() + i * size);
            local_[static_cast<std::size_t>(i * size + i)] = r_.moments.diagonal[static_cast<std::size_t>(chunk.begin + i)];
        }
        const bool whole_group = chunk.begin == columns.begin && chunk.end == columns.end;
        bool changed = false;
        for (std::int64_t row = 0; row < tile_.n_rows; ++row) {
            RowChoice& choice = tile_.choices[static_cast<std::size_t>(row)];
            GroupParams& params = choice.params.groups[static_cast<std::size_t>(group)];
            float* change = change_.data() + row * size;
            std::copy_n(d_.data() + row * n_ + chunk.begin, size, change);
            std::copy_n(g_.data() + row * n_ + chunk.begin, size, own_g_.data());
            std::uint8_t* codes = choice.codes.data() + chunk.begin;
            bool moved = false;
            if (whole_group && params.scale != 0) moved = move_scale(super_scale_of(r_.scheme, choice.params, chunk.begin), params, codes, d_.data() + row * n_ + chunk.begin, size);
            if (params.scale != 0) moved = move_codes(params, codes, tile_.row(row).data() + chunk.begin, row, chunk.begin, size) || moved;
            const float* now = d_.data() + row * n_ + chunk.begin;
            for (std::int64_t i = 0; i < size; ++i) change[i] = now[i] - change[i];
            changed = changed || moved;
        }
        if (!changed) return false;
        multiply({.m = tile_.n_rows, .n = n_, .k = size, .a = change_.data(), .a_stride = size, .b = r_.moments.gram + chunk.begin * n_, .b_stride = n_, .c = g_.data(), .c_stride = n_, .factor = 1, .keep = 1});
        for (std::int64_t row = 0; row < tile_.n_rows; ++row)
            for (std::int64_t i = 0; i < size; ++i) g_[static_cast<std::size_t>(row * n_ + chunk.begin + i)] += r_.moments.added * change_[static_cast<std::size_t>(row * size + i)];
        return true;
    }

    // Levels l at scale s + t lose t^2 l H l - 2 t l g more than now, with g of the whole row: least at t = l g / l H l.
    bool move_scale(float super_scale, GroupParams& params, const std::uint8_t* codes, float* d, std::int64_t size) {
        double lg = 0, lhl = 0;
        for (std::int64_t i = 0; i < size; ++i) level_[static_cast<std::size_t>(i)] = r_.grid.value(codes[i], {1, params.zero, 1});
        std::fill_n(level_h_.data(), size, 0.0f);
        for (std::int64_t i = 0; i < size; ++i) {
            const float level = level_[static_cast<std::size_t>(i)];
            const float* h = local_.data() + i * size;
            for (std::int64_t j = 0; j < size; ++j) level_h_[static_cast<std::size_t>(j)] += level * h[j];
        }
        for (std::int64_t i = 0; i < size; ++i) {
            lg += static_cast<double>(level_[static_cast<std::size_t>(i)]) * static_cast<double>(own_g_[static_cast<std::size_t>(i)]);
            lhl += static_cast<double>(level_[static_cast<std::size_t>(i)]) * static_cast<double>(level_h_[static_cast<std::size_t>(i)]);
        }
        if (!(lhl > 0)) return false;
        GroupParams wanted = params;
        wanted.scale = static_cast<float>(static_cast<double>(params.scale) + lg / lhl);
        if (!(wanted.scale * params.scale > 0)) return false;  // the sign is the grid's own choice
        for (std::int64_t i = 0; i < size; ++i) target_[static_cast<std::size_t>(i)] = level_[static_cast<std::size_t>(i)] * wanted.scale;
        const GroupParams stored = stored_scale(r_.grid, r_.scheme, super_scale, wanted, {target_.data(), static_cast<std::size_t>(size)});
        const double t = static_cast<double>(stored.scale) - static_cast<double>(params.scale);
        if (stored.scale == 0 || scale_is_lost(stored, r_.scheme, {}) || t == 0 || !(t * t * lhl - 2 * t * lg < 0)) return false;
        for (std::int64_t i = 0; i < size; ++i) {
            d[i] -= static_cast<float>(t) * level_[static_cast<std::size_t>(i)];
            own_g_[static_cast<std::size_t>(i)] -= static_cast<float>(t) * level_h_[static_cast<std::size_t>(i)];
        }
        params = stored;
        return true;
    }

    // A code that moves its value by t loses t^2 H_jj - 2 t g_j more than now.
    bool move_codes(const GroupParams& params, std::uint8_t* codes, const float* values, std::int64_t row, std::int64_t first, std::int64_t size) {
        bool moved = false;
        float* d = d_.data() + row * n_ + first;
        for (std::int64_t j = 0; j < size; ++j) {
            if (tile_.stays(values[j])) continue;
            const float* h = local_.data() + j * size;
            const float g = own_g_[static_cast<std::size_t>(j)], now = r_.grid.value(codes[j], params);
            const std::int32_t code = r_.grid.round(now + g / h[j], params);
            if (code == codes[j]) continue;
            const float value = r_.grid.value(code, params), t = value - now;
            if (!(t * h[j] * t < 2 * t * g)) continue;
            codes[j] = static_cast<std::uint8_t>(code);
            d[j] = values[j] - value;
            for (std::int64_t i = 0; i < size; ++i) own_g_[static_cast<std::size_t>(i)] -= t * h[i];
            moved = true;
        }
        return moved;
    }

    const Refinement& r_;
    RowTile& tile_;
    const std::int64_t n_;
    std::vector<float> d_, g_;  // W - Q, and (W - Q) H // (n_rows, n_columns)
    std::int64_t chunk_ = 0;
    std::vector<float> local_, level_, level_h_, own_g_, target_, change_;
};

}  // namespace

void refine(const Refinement& refinement, RowTile& tile) {
    if (refinement.n_passes <= 0) return;
    Descent descent(refinement, tile);
    for (std::int64_t pass = 0; pass < refinement.n_passes; ++pass)
        if (!descent.pass()) return;
}

std::vector<double> output_losses(const Grid& grid, const Scheme& scheme, const SecondMoments& moments, RowTile& tile) {
    const auto d = differences(grid, scheme, tile), g = gradients(moments, tile, d);
    std::vector<double> losses;
    for (std::int64_t row = 0; row < tile.n_rows; ++row) {
        double sum = 0;
        for (std::int64_t i = row * tile.n_columns; i < (row + 1) * tile.n_columns; ++i) sum += static_cast<double>(d[static_cast<std::size_t>(i)]) * static_cast<double>(g[static_cast<std::size_t>(i)]);
        losses.push_back(sum);
    }
    return losses;
}

}  // namespace skiff
