// SparseGPT (Frantar, Alistarh 2023): columns in order; of a block of them those weights go whose loss, w^2 / [H^-1]_kk over the columns still to come, is
// least, and what each takes with it is made up for by the columns behind it, as far as their inputs go together. H = E[x x^T] with its diagonal damped.
// With H^-1 = U^T U, U upper, row k of U holds what column k needs: [H^-1]_kk is U_kk^2, the update -(w_k - q_k) / U_kk * U_k.
#include <algorithm>
#include <cmath>

#include "compress/algebra/algebra.h"
#include "compress/prune/prune_method.h"

namespace skiff {
namespace {

constexpr std::int64_t block_columns = 128, tile_rows = 64;
constexpr double most_damping = 1;

// U, or nothing where H is not positive definite even with as much damping as the mean of its diagonal. // (n, n) f32
std::vector<float> inverse_factor(const InputStatistics& inputs, std::int64_t n, double& damping) {
    double mean = 0;
    for (std::int64_t i = 0; i < n; ++i) mean += static_cast<double>(inputs.gram[static_cast<std::size_t>(i * n + i)]) / static_cast<double>(n);
    for (;; damping *= 10) {
        std::vector<double> matrix(inputs.gram.begin(), inputs.gram.end());
        for (std::int64_t i = 0; i < n; ++i) {
            double& diagonal = matrix[static_cast<std::size_t>(i * n + i)];
            if (diagonal == 0) diagonal = mean > 0 ? mean : 1;  // an input that never was: its weights cost nothing
            diagonal += damping * mean;
        }
        if (invert_positive(matrix.data(), n) && cholesky_upper(matrix.data(), n)) return {matrix.begin(), matrix.end()};
        if (damping * 10 > most_damping * 1.0001) return {};
    }
}

class Sweep {
public:
    Sweep(const PruneInput& input, std::vector<float> factor)
        : input_(input), pattern_(input.target.pattern), factor_(std::move(factor)), n_rows_(input.weight.n_rows()), n_columns_(input.weight.n_columns()), values_(static_cast<std::size_t>(n_rows_ * n_columns_)),
          row_bytes_(pattern_.mask_row_bytes(n_columns_)) {
        const std::int64_t unit = pattern_.m > 0 ? pattern_.m : pattern_.unit_columns;
        block_ = unit * std::max<std::int64_t>(1, block_columns / unit);
    }

    Pruned run() {
        std::vector<std::byte> bitmask(static_cast<std::size_t>(pattern_.n_unit_rows(n_rows_) * row_bytes_));
        const std::int64_t step = std::max<std::int64_t>(1, tile_rows / pattern_.unit_rows) * pattern_.unit_rows, n_tiles = (n_rows_ + step - 1) / step;
        input_.pool.run([&](int thread) {
            const Range tiles = share_of(n_tiles, thread, input_.pool.n_threads());
            for (std::int64_t tile = tiles.begin; tile < tiles.end; ++tile) one_tile(tile * step, std::min(n_rows_, (tile + 1) * step), bitmask);
        });
        return {make_float_weight(input_.weight.shape, std::move(values_)), std::move(bitmask)};
    }

private:
    void one_tile(std::int64_t begin, std::int64_t end, std::vector<std::byte>& bitmask) {
        const std::int64_t rows = end - begin;
        float* values = values_.data() + begin * n_columns_;
        for (std::int64_t row = 0; row < rows; ++row) input_.weight.row(begin + row, values + row * n_columns_);
        std::vector<float> errors(static_cast<std::size_t>(rows * block_));
        for (std::int64_t first = 0; first < n_columns_; first += block_) {
            const std::int64_t size = std::min(block_, n_columns_ - first);
            std::vector<std::uint8_t> keep;
            for (std::int64_t k = 0; k < size; ++k) {
                if (k % run_columns() == 0) keep = choose(begin, rows, first + k, std::min(run_columns(), size - k), bitmask);
                one_column(values, rows, first, size, k, keep, errors);
            }
            const std::int64_t rest = n_columns_ - first - size;
            if (rest > 0)
                multiply({.m = rows, .n = rest, .k = size, .a = errors.data(), .a_stride = block_, .b = factor_.data() + first * n_columns_ + first + size, .b_stride = n_columns_,
                          .c = values + first + size, .c_stride = n_columns_, .factor = -1, .keep = 1});
        }
    }

    // Columns that are chosen together: of N:M a run of M, with the weights as they are when the sweep comes to them; else a block.
    std::int64_t run_columns() const { return pattern_.m > 0 ? pattern_.m : block_; }

    // Kept units of a row that end at a column, when all columns have their share.
    std::int64_t kept_until(std::int64_t column) const {
        const std::int64_t all = pattern_.n_unit_columns(n_columns_), kept = input_.target.n_kept_units(1, n_columns_), units = pattern_.n_unit_columns(column);
        return (kept * units + all / 2) / all;
    }

    // 1 for each weight of these columns that stays. // (rows, n)
    std::vector<std::uint8_t> choose(std::int64_t row, std::int64_t rows, std::int64_t first, std::int64_t n, std::vector<std::byte>& bitmask) const {
        std::vector<float> scores(static_cast<std::size_t>(rows * n));
        for (std::int64_t r = 0; r < rows; ++r)
            for (std::int64_t c = 0; c < n; ++c) {
                const float ratio = values_[static_cast<std::size_t>((row + r) * n_columns_ + first + c)] / factor_[static_cast<std::size_t>((first + c) * n_columns_ + first + c)];
                scores[static_cast<std::size_t>(r * n + c)] = ratio * ratio;
            }
        PruneTarget target = input_.target;
        target.scope = PruneTarget::Scope::row;
        if (pattern_.m == 0) {  // as many units as bring the row's kept ones to their share
            const std::int64_t n_units = pattern_.n_unit_columns(n), n_kept = kept_until(first + n) - kept_until(first);
            target.sparsity = static_cast<double>(n_units - n_kept) / static_cast<double>(n_units);
        }
        const auto part = choose_units(target, scores, rows, n);
        std::vector<std::uint8_t> keep(scores.size());
        const std::int64_t part_bytes = pattern_.mask_row_bytes(n), first_unit = first / pattern_.unit_columns;
        for (std::int64_t ur = 0; ur < pattern_.n_unit_rows(rows); ++ur)
            for (std::int64_t u = 0; u < pattern_.n_unit_columns(n); ++u) {
                if ((std::to_integer<unsigned>(part[static_cast<std::size_t>(ur * part_bytes + u / 8)]) >> (u % 8) & 1) == 0) continue;
                const std::int64_t unit = first_unit + u, unit_row = row / pattern_.unit_rows + ur;
                bitmask[static_cast<std::size_t>(unit_row * row_bytes_ + unit / 8)] |= static_cast<std::byte>(1u << (unit % 8));
                for (std::int64_t r = ur * pattern_.unit_rows; r < std::min(rows, (ur + 1) * pattern_.unit_rows); ++r)
                    for (std::int64_t c = u * pattern_.unit_columns; c < std::min(n, (u + 1) * pattern_.unit_columns); ++c) keep[static_cast<std::size_t>(r * n + c)] = 1;
            }
        return keep;
    }

    void one_column(float* values, std::int64_t rows, std::int64_t first, std::int64_t size, std::int64_t k, const std::vector<std::uint8_t>& keep, std::vector<float>& errors) const {
        const std::int64_t column = first + k, run = static_cast<std::int64_t>(keep.size()) / rows;
        const float* factor = factor_.data() + column * n_columns_;
        for (std::int64_t r = 0; r < rows; ++r) {
            float* row = values + r * n_columns_;
            const bool kept = keep[static_cast<std::size_t>(r * run + k % run_columns())] != 0;
            const float error = kept ? 0.0f : row[column] / factor[column];
            errors[static_cast<std::size_t>(r * block_ + k)] = error;
            if (kept) continue;
            row[column] = 0;
            for (std::int64_t c = column + 1; c < first + size; ++c) row[c] -= error * factor[c];
        }
    }

    const PruneInput& input_;
    const SparsePattern pattern_;
    const std::vector<float> factor_;
    const std::int64_t n_rows_, n_columns_;
    std::vector<float> values_;
    const std::int64_t row_bytes_;
    std::int64_t block_ = block_columns;
};

}  // namespace

Status sparsegpt_defined_on(const PruneTarget& target) {
    SKIFF_CHECK(algebra_available());
    if (target.scope == PruneTarget::Scope::layer && target.pattern.m == 0)
        return unsupported("SparseGPT chooses row by row while it goes over the columns; take the scope row, or wanda or magnitude for units that compete in the whole layer (rows and columns do)");
    return {};
}

Result<Pruned> sparsegpt_prune(const PruneInput& input) {
    const std::int64_t n = input.weight.n_columns();
    const auto remark = [&](const std::string& text) {
        if (input.remarks != nullptr) input.remarks->push_back(text);
    };
    if (input.inputs == nullptr || static_cast<std::int64_t>(input.inputs->gram.size()) != n * n) {
        remark("pruned by magnitude: the second moments of its inputs were not measured");
        return magnitude_prune(input);
    }
    double damping = input.damping;
    auto factor = inverse_factor(*input.inputs, n, damping);
    if (factor.empty()) {
        remark("pruned by Wanda: the second moments of its inputs are not positive definite");
        return wanda_prune(input);
    }
    if (damping > input.damping * 1.0001) remark("SparseGPT with damping " + std::to_string(damping) + ": with less, the second moments of its inputs are not positive definite");
    return Sweep(input, std::move(factor)).run();
}

}  // namespace skiff
