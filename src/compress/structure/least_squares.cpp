#include "compress/structure/least_squares.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/progress.h"
#include "compress/algebra/algebra.h"

namespace skiff {
namespace {

constexpr double most_damping = 1;

// The moments of the chosen columns with damping on the diagonal. // (n, n) f64
std::vector<double> moments_of(const LeastSquares& problem, std::span<const std::int64_t> columns, double damping) {
    const std::size_t n = problem.inputs.mean_square.size(), k = columns.size();
    const bool centred = problem.intercept == LeastSquares::Intercept::yes;
    const float* gram = problem.inputs.gram.data();
    const float* mean = problem.inputs.mean.data();
    double diagonal = 0;
    for (std::size_t i = 0; i < n; ++i) diagonal += static_cast<double>(gram[i * n + i]) - (centred ? static_cast<double>(mean[i]) * static_cast<double>(mean[i]) : 0);
    std::vector<double> moments(k * k);
    for (std::size_t a = 0; a < k; ++a) {
        const auto i = static_cast<std::size_t>(columns[a]);
        for (std::size_t b = 0; b < k; ++b) {
            const auto j = static_cast<std::size_t>(columns[b]);
            moments[a * k + b] = static_cast<double>(gram[i * n + j]) - (centred ? static_cast<double>(mean[i]) * static_cast<double>(mean[j]) : 0);
        }
        moments[a * k + a] += damping * diagonal / static_cast<double>(n);
    }
    return moments;
}

Error singular() { return runtime_error("the second moments of its inputs cannot be inverted; give more calibration text, or another importance without compensation"); }

}  // namespace

Result<KeptColumns> solve_kept(const LeastSquares& problem, std::span<const std::int64_t> kept, ThreadPool& pool) {
    const auto n = static_cast<std::int64_t>(problem.inputs.mean_square.size()), k = static_cast<std::int64_t>(kept.size());
    const std::int64_t n_outputs = static_cast<std::int64_t>(problem.weight.size()) / n;
    const bool centred = problem.intercept == LeastSquares::Intercept::yes;
    KeptColumns result{{problem.weight.begin(), problem.weight.end()}, std::vector<float>(centred ? static_cast<std::size_t>(n_outputs) : 0)};
    if (k == n) return result;
    std::vector<std::int64_t> gone;
    for (std::int64_t column = 0, next = 0; column < n; ++column) {
        if (next < k && kept[static_cast<std::size_t>(next)] == column) ++next;
        else gone.push_back(column);
    }
    const auto n_gone = static_cast<std::int64_t>(gone.size());
    std::vector<double> factor;
    for (double damping = problem.damping;; damping *= 10) {
        factor = moments_of(problem, kept, damping);
        if (cholesky_upper(factor.data(), k)) break;
        if (damping * 10 > most_damping * 1.0001) return singular();
    }
    // W' - W on the kept columns is W[:, gone] H[gone, kept] H[kept, kept]^-1: shares of outputs, solved one beside the other.
    std::vector<float> moved(static_cast<std::size_t>(n_gone * k)), weight_gone(static_cast<std::size_t>(n_outputs * n_gone)), right(static_cast<std::size_t>(n_outputs * k));
    for (std::int64_t a = 0; a < n_gone; ++a)
        for (std::int64_t b = 0; b < k; ++b) {
            const auto i = static_cast<std::size_t>(gone[static_cast<std::size_t>(a)]), j = static_cast<std::size_t>(kept[static_cast<std::size_t>(b)]);
            moved[static_cast<std::size_t>(a * k + b)] = problem.inputs.gram[i * static_cast<std::size_t>(n) + j] - (centred ? problem.inputs.mean[i] * problem.inputs.mean[j] : 0);
        }
    for (std::int64_t row = 0; row < n_outputs; ++row)
        for (std::int64_t a = 0; a < n_gone; ++a)
            weight_gone[static_cast<std::size_t>(row * n_gone + a)] = problem.weight[static_cast<std::size_t>(row * n + gone[static_cast<std::size_t>(a)])];
    multiply({.m = n_outputs, .n = k, .k = n_gone, .a = weight_gone.data(), .a_stride = n_gone, .b = moved.data(), .b_stride = k, .c = right.data(), .c_stride = k}, pool);
    constexpr std::int64_t share = 64;
    const std::int64_t n_shares = (n_outputs + share - 1) / share;
    pool.run([&](int thread) {
        std::vector<double> x;
        for (std::int64_t s = thread; s < n_shares; s += pool.n_threads()) {
            const std::int64_t begin = s * share, size = std::min(share, n_outputs - begin);
            x.assign(static_cast<std::size_t>(k * size), 0);
            for (std::int64_t b = 0; b < k; ++b)
                for (std::int64_t row = 0; row < size; ++row) x[static_cast<std::size_t>(b * size + row)] = static_cast<double>(right[static_cast<std::size_t>((begin + row) * k + b)]);
            solve_upper_transposed(factor.data(), k, x.data(), size);
            solve_upper(factor.data(), k, x.data(), size);
            for (std::int64_t row = 0; row < size; ++row) {
                float* target = result.weight.data() + (begin + row) * n;
                double shift = 0;
                for (const std::int64_t column : gone) {
                    if (centred) shift += static_cast<double>(target[column]) * static_cast<double>(problem.inputs.mean[static_cast<std::size_t>(column)]);
                    target[column] = 0;
                }
                for (std::int64_t b = 0; b < k; ++b) {
                    const std::int64_t column = kept[static_cast<std::size_t>(b)];
                    const double change = x[static_cast<std::size_t>(b * size + row)];
                    if (centred) shift -= change * static_cast<double>(problem.inputs.mean[static_cast<std::size_t>(column)]);
                    target[column] += static_cast<float>(change);
                }
                if (centred) result.bias[static_cast<std::size_t>(begin + row)] = static_cast<float>(shift);
            }
        }
    });
    return result;
}

Result<std::vector<std::int64_t>> keep_by_least_squares(const LeastSquares& problem, const UnitLayout& layout, ThreadPool& pool, std::vector<std::int64_t>* gone_in_order) {
    const std::size_t n = problem.inputs.mean_square.size(), s = static_cast<std::size_t>(layout.unit_columns), n_units = static_cast<std::size_t>(layout.n_units);
    const std::size_t n_outputs = problem.weight.size() / n;
    std::vector<std::int64_t> all(n);
    std::iota(all.begin(), all.end(), 0);
    std::vector<double> inverse;
    for (double damping = problem.damping;; damping *= 10) {
        inverse = moments_of(problem, all, damping);
        if (invert_positive(inverse.data(), static_cast<std::int64_t>(n))) break;
        if (damping * 10 > most_damping * 1.0001) return singular();
    }
    std::vector<double> columns(n * n_outputs);  // of W, each in one piece
    for (std::size_t row = 0; row < n_outputs; ++row)
        for (std::size_t column = 0; column < n; ++column) columns[column * n_outputs + row] = static_cast<double>(problem.weight[row * n + column]);

    const std::size_t per_group = n_units / static_cast<std::size_t>(layout.n_groups);
    std::vector<std::int64_t> to_go(static_cast<std::size_t>(layout.n_groups), (layout.n_units - layout.n_kept) / layout.n_groups);
    std::vector<std::uint8_t> gone(n_units, 0);
    std::vector<double> loss(n_units);
    // What goes with unit u: tr(W_u P W_u^T), P the inverse of the unit's block of H^-1. Filled in: P and P W_u^T.
    auto weigh = [&](std::size_t u, std::vector<double>& block, std::vector<double>& answer) {
        block.resize(s * s);
        for (std::size_t a = 0; a < s; ++a)
            for (std::size_t b = 0; b < s; ++b) block[a * s + b] = inverse[(u * s + a) * n + u * s + b];
        if (s == 1) block[0] = 1 / block[0];
        else if (!invert_positive(block.data(), static_cast<std::int64_t>(s))) std::fill(block.begin(), block.end(), 0.0);
        answer.assign(s * n_outputs, 0);
        double sum = 0;
        for (std::size_t a = 0; a < s; ++a) {
            double* mine = answer.data() + a * n_outputs;
            for (std::size_t b = 0; b < s; ++b) {
                const double p = block[a * s + b];
                const double* column = columns.data() + (u * s + b) * n_outputs;
                for (std::size_t row = 0; row < n_outputs; ++row) mine[row] += p * column[row];
            }
            const double* column = columns.data() + (u * s + a) * n_outputs;
            for (std::size_t row = 0; row < n_outputs; ++row) sum += mine[row] * column[row];
        }
        return sum;
    };
    pool.run([&](int thread) {
        std::vector<double> block, answer;
        const Range units = share_of(layout.n_units, thread, pool.n_threads());
        for (std::int64_t u = units.begin; u < units.end; ++u) loss[static_cast<std::size_t>(u)] = weigh(static_cast<std::size_t>(u), block, answer);
    });
    std::vector<double> block, answer, coupling(s * n);
    for (std::int64_t round = 0; round < layout.n_units - layout.n_kept; ++round) {
        if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
        std::size_t least = n_units;
        for (std::size_t u = 0; u < n_units; ++u)
            if (gone[u] == 0 && to_go[u / per_group] > 0 && (least == n_units || loss[u] < loss[least])) least = u;
        gone[least] = 1;
        if (gone_in_order != nullptr) gone_in_order->push_back(static_cast<std::int64_t>(least));
        --to_go[least / per_group];
        weigh(least, block, answer);
        for (std::size_t a = 0; a < s; ++a) {  // P [H^-1]_u,:
            double* mine = coupling.data() + a * n;
            std::fill_n(mine, n, 0.0);
            for (std::size_t b = 0; b < s; ++b) {
                const double p = block[a * s + b];
                const double* row = inverse.data() + (least * s + b) * n;
                for (std::size_t j = 0; j < n; ++j) mine[j] += p * row[j];
            }
        }
        pool.run([&](int thread) {
            std::vector<double> own_block, own_answer;
            const Range units = share_of(layout.n_units, thread, pool.n_threads());
            for (std::int64_t i = units.begin; i < units.end; ++i) {
                const auto u = static_cast<std::size_t>(i);
                if (gone[u] != 0) continue;
                for (std::size_t column = u * s; column < (u + 1) * s; ++column) {
                    double* values = columns.data() + column * n_outputs;
                    double* row = inverse.data() + column * n;
                    for (std::size_t a = 0; a < s; ++a) {
                        const double factor = row[least * s + a];
                        const double* with = answer.data() + a * n_outputs;
                        for (std::size_t r = 0; r < n_outputs; ++r) values[r] -= factor * with[r];
                    }
                    for (std::size_t a = 0; a < s; ++a) {
                        // The row's own entries of the unit that goes are read by the next a: they are left for last.
                        const double factor = row[least * s + a];
                        const double* with = coupling.data() + a * n;
                        for (std::size_t j = 0; j < least * s; ++j) row[j] -= factor * with[j];
                        for (std::size_t j = (least + 1) * s; j < n; ++j) row[j] -= factor * with[j];
                    }
                    std::fill_n(row + least * s, s, 0.0);
                }
                loss[u] = weigh(u, own_block, own_answer);
            }
        });
    }
    std::vector<std::int64_t> kept;
    for (std::size_t u = 0; u < n_units; ++u)
        if (gone[u] == 0) kept.push_back(static_cast<std::int64_t>(u));
    return kept;
}

}  // namespace skiff
