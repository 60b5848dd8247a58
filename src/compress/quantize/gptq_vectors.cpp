// GPTQ for vectors (GPTVQ, van Baalen et al. 2024): as in gptq.cpp, but the columns of a vector are chosen together, by what their errors cost once later columns have made
// up for them, which is a quadratic form of the vector's columns. Then, in turns: the books move to the least squares of the operator's output with all codes held (as
// AQLM does, Egiazarian et al. 2024), and each scale and code takes its best value with all others held.
#include <algorithm>
#include <atomic>
#include <cmath>

#include "base/progress.h"
#include "compress/algebra/algebra.h"
#include "compress/quantize/second_moments.h"
#include "compress/quantize/weighted.h"
#include "tensor/encode_vectors.h"

namespace skiff {
namespace {

constexpr std::int64_t tile_rows = 64, block_columns = 128;
constexpr int n_conjugate_steps = 8;

struct VectorTile {
    std::int64_t first, n;  // rows
};

// The weight, its coded form, and what the two differ by.
struct State {
    std::int64_t n_rows, n;
    int d, n_books, n_levels;
    std::vector<float> values, away, gradient;  // W; W - Q; (W - Q) H // (n_rows, n)
    FittedVectors fit;

    std::int64_t n_codes() const { return fit.scheme.n_codes(n); }
    std::uint16_t* codes(std::int64_t row, std::int64_t column) { return fit.codes.data() + row * n_codes() + column / d * n_books; }
    GroupParams& group(std::int64_t row, std::int64_t column) { return fit.params[static_cast<std::size_t>(row)].groups[static_cast<std::size_t>(fit.scheme.group_of(column))]; }
    std::int64_t width(std::int64_t column) const { return std::min<std::int64_t>(d, n - column); }
    // The sum of the entries of a vector, not scaled. // (d)
    void entry(std::int64_t row, std::int64_t column, float* value) {
        const std::uint16_t* code = codes(row, column);
        for (int i = 0; i < d; ++i) value[i] = fit.books.at(0, code[0], i) + (n_books > 1 ? fit.books.at(1, code[1], i) : 0.0f);
    }
};

void for_each_tile(const State& state, ThreadPool& pool, const std::function<void(const VectorTile&, std::size_t)>& work) {
    std::atomic<std::int64_t> next = 0;
    const std::int64_t n_tiles = (state.n_rows + tile_rows - 1) / tile_rows;
    pool.run([&](int) {
        for (std::int64_t i = next++; i < n_tiles && !interrupt_requested(); i = next++) work({i * tile_rows, std::min(tile_rows, state.n_rows - i * tile_rows)}, static_cast<std::size_t>(i));
    });
}

// ---- the sweep over columns

class Sweep {
public:
    Sweep(State& state, const Feedback& feedback)
        : s_(state), feedback_(feedback), group_size_(state.fit.scheme.group_size), block_(group_size_ == 0 ? block_columns : group_size_ * std::max<std::int64_t>(1, block_columns / group_size_)),
          norm_size_(static_cast<std::size_t>(state.n_books * state.n_levels)) {}

    void run(const VectorTile& tile) {
        const std::int64_t n = s_.n;
        std::vector<float> moved(static_cast<std::size_t>(tile.n * block_));
        float* error = s_.away.data() + tile.first * n;
        for (std::int64_t begin = 0; begin < n; begin += block_) {
            const std::int64_t size = std::min(block_, n - begin);
            for (std::int64_t row = 0; row < tile.n; ++row) std::copy_n(s_.values.data() + (tile.first + row) * n + begin, size, moved.data() + row * size);
            if (begin > 0)
                multiply({.m = tile.n, .n = size, .k = begin, .a = error, .a_stride = n, .b = feedback_.factor.data() + begin, .b_stride = n, .c = moved.data(), .c_stride = size, .factor = 1, .keep = 1});
            one_block(tile, begin, size, moved.data());
        }
    }

private:
    const float* factor(std::int64_t row, std::int64_t column) const { return feedback_.factor.data() + row * s_.n + column; }

    // What errors of a vector's columns cost: U D U^T.
    void metric_of(std::int64_t column, float* metric) const {
        const std::int64_t width = s_.width(column);
        std::fill_n(metric, s_.d * s_.d, 0.0f);
        for (std::int64_t i = 0; i < width; ++i)
            for (std::int64_t j = 0; j < width; ++j)
                for (std::int64_t a = std::max(i, j); a < width; ++a) metric[i * s_.d + j] += *factor(column + i, column + a) * feedback_.own[static_cast<std::size_t>(column + a)] * *factor(column + j, column + a);
    }
    // The columns as they would be if none of them were rounded: each moves by what those before it moved.
    void free_columns(std::int64_t column, std::int64_t size, const float* original, float* moved) const {
        for (std::int64_t k = 0; k < size; ++k) {
            const float own = original[k] - moved[k];
            for (std::int64_t i = k + 1; i < size; ++i) moved[i] += own * *factor(column + k, column + i);
        }
    }

    void one_block(const VectorTile& tile, std::int64_t begin, std::int64_t size, float* moved) {
        std::vector<float> metric(static_cast<std::size_t>(s_.d * s_.d)), norms(norm_size_);
        for (std::int64_t at = 0; at < size; at += s_.d) {
            const std::int64_t column = begin + at, width = s_.width(column);
            if (group_size_ != 0 && column % group_size_ == 0) fit_scales(tile, column, std::min(group_size_, size - at), moved + at, size);
            metric_of(column, metric.data());
            entry_norms(s_.fit.books, metric.data(), norms.data());
            for (std::int64_t row = 0; row < tile.n; ++row) {
                const std::int64_t r = tile.first + row;
                const float *original = s_.values.data() + r * s_.n + column, scale = s_.group(r, column).scale;
                float* m = moved + row * size + at;
                float free[most_vector] = {}, pull[most_vector];
                std::copy_n(m, width, free);
                free_columns(column, width, original, free);
                for (float& x : free) x = scale == 0 ? 0 : x / scale;
                times_metric(s_.d, metric.data(), free, pull);
                ChosenVector chosen;
                choose_vector(s_.fit.books, metric.data(), norms.data(), pull, chosen);
                std::copy_n(chosen.codes, s_.n_books, s_.codes(r, column));
                float* error = s_.away.data() + r * s_.n + column;
                for (std::int64_t i = 0; i < width; ++i) {
                    error[i] = original[i] - scale * chosen.value[i];
                    const float* f = factor(column + i, column);
                    for (std::int64_t k = width; k < size - at; ++k) m[k] += error[i] * f[k];
                }
            }
        }
    }

    // A group's scale for the columns as the groups before have left them.
    void fit_scales(const VectorTile& tile, std::int64_t column, std::int64_t size, const float* moved, std::int64_t stride) {
        const std::int64_t n_vectors = (size + s_.d - 1) / s_.d, metric_size = s_.d * s_.d;
        std::vector<float> metrics(static_cast<std::size_t>(n_vectors * metric_size)), norms(static_cast<std::size_t>(n_vectors) * norm_size_), free(static_cast<std::size_t>(n_vectors * s_.d));
        for (std::int64_t v = 0; v < n_vectors; ++v) {
            metric_of(column + v * s_.d, metrics.data() + v * metric_size);
            entry_norms(s_.fit.books, metrics.data() + v * metric_size, norms.data() + v * static_cast<std::int64_t>(norm_size_));
        }
        for (std::int64_t row = 0; row < tile.n; ++row) {
            const std::int64_t r = tile.first + row;
            std::fill(free.begin(), free.end(), 0.0f);
            std::copy_n(moved + row * stride, size, free.data());
            free_columns(column, size, s_.values.data() + r * s_.n + column, free.data());
            GroupParams& params = s_.group(r, column);
            const RowParams& own = s_.fit.params[static_cast<std::size_t>(r)];
            const float super_scale = own.super_scales.empty() ? 0 : own.super_scales[static_cast<std::size_t>(s_.fit.scheme.super_of(column))];
            float wanted = params.scale;
            GroupParams best = params;
            double least = cost_under(params.scale, n_vectors, free.data(), metrics.data(), norms.data(), wanted);
            const auto look_at = [&](const GroupParams& candidate) {
                float then = candidate.scale;
                const double cost = cost_under(candidate.scale, n_vectors, free.data(), metrics.data(), norms.data(), then);
                if (cost < least) least = cost, best = candidate, wanted = then;
            };
            if (const Codebook* sizes = s_.fit.scheme.scale_book; sizes != nullptr && super_scale != 0) {
                const int size_code = params.scale_code % 8;
                for (int code = 0; code < 16; ++code)
                    if (std::abs(code % 8 - size_code) <= 1 && code != params.scale_code) look_at({super_scale * sizes->levels[static_cast<std::size_t>(code)], 0, code});
            } else if (sizes == nullptr) {
                for (int step = 0; step < 2; ++step) {
                    const GroupParams candidate = stored_vector_scale(s_.fit.scheme, super_scale, wanted);
                    if (candidate.scale != best.scale && candidate.scale != 0) look_at(candidate);
                }
            }
            params = best;
        }
    }
    // What the group loses under a scale, and the scale that its codes would then want.
    double cost_under(float scale, std::int64_t n_vectors, const float* free, const float* metrics, const float* norms, float& wanted) const {
        if (scale == 0) return std::numeric_limits<double>::infinity();
        double cost = 0, along = 0, square = 0;
        for (std::int64_t v = 0; v < n_vectors; ++v, metrics += s_.d * s_.d, norms += norm_size_, free += s_.d) {
            float pull[most_vector], error[most_vector], heavy[most_vector];
            times_metric(s_.d, metrics, free, pull);
            for (int i = 0; i < s_.d; ++i) heavy[i] = pull[i] / scale;
            ChosenVector chosen;
            choose_vector(s_.fit.books, metrics, norms, heavy, chosen);
            for (int i = 0; i < s_.d; ++i) {
                error[i] = free[i] - scale * chosen.value[i];
                along += static_cast<double>(chosen.value[i]) * static_cast<double>(pull[i]);
            }
            cost += vector_cost(s_.d, metrics, error);
            square += vector_cost(s_.d, metrics, chosen.value);
        }
        if (square > 0) wanted = static_cast<float>(along / square);
        return cost;
    }

    State& s_;
    const Feedback& feedback_;
    const std::int64_t group_size_, block_;
    const std::size_t norm_size_;
};

// ---- after the sweep

// gradient = away * H, tile by tile; what is lost.
double measure(State& s, const SecondMoments& moments, ThreadPool& pool) {
    std::vector<double> losses(static_cast<std::size_t>((s.n_rows + tile_rows - 1) / tile_rows));
    for_each_tile(s, pool, [&](const VectorTile& tile, std::size_t index) {
        const float* d = s.away.data() + tile.first * s.n;
        float* g = s.gradient.data() + tile.first * s.n;
        std::copy_n(d, tile.n * s.n, g);
        multiply({.m = tile.n, .n = s.n, .k = s.n, .a = d, .a_stride = s.n, .b = moments.gram, .b_stride = s.n, .c = g, .c_stride = s.n, .factor = 1, .keep = moments.added});
        for (std::int64_t i = 0; i < tile.n * s.n; ++i) losses[index] += static_cast<double>(d[i]) * static_cast<double>(g[i]);
    });
    double sum = 0;
    for (double loss : losses) sum += loss;
    return sum;
}

void find_away(State& s, ThreadPool& pool) {
    for_each_tile(s, pool, [&](const VectorTile& tile, std::size_t) {
        float value[most_vector];
        for (std::int64_t r = tile.first; r < tile.first + tile.n; ++r)
            for (std::int64_t column = 0; column < s.n; column += s.d) {
                s.entry(r, column, value);
                const float scale = s.group(r, column).scale;
                for (std::int64_t i = 0; i < s.width(column); ++i) s.away[static_cast<std::size_t>(r * s.n + column + i)] = s.values[static_cast<std::size_t>(r * s.n + column + i)] - scale * value[i];
            }
    });
}

// The books that lose least with codes and scales held: conjugate gradients on their normal equations, whose operator is one product with H.
class BookSolver {
public:
    BookSolver(State& state, const SecondMoments& moments, ThreadPool& pool) : s_(state), moments_(moments), pool_(pool), size_(state.fit.books.entries.size()) {}

    std::vector<double> solve() {
        std::vector<double> x(size_), residual = project(nullptr), diagonal = curvature();
        std::vector<double> step(size_), z(size_);
        double rz = 0;
        for (int k = 0; k < n_conjugate_steps && !interrupt_requested(); ++k) {
            double next = 0;
            for (std::size_t i = 0; i < size_; ++i) z[i] = diagonal[i] > 0 ? residual[i] / diagonal[i] : 0, next += z[i] * residual[i];
            if (!(next > 0)) break;
            for (std::size_t i = 0; i < size_; ++i) step[i] = z[i] + (k > 0 ? next / rz * step[i] : 0);
            rz = next;
            const auto image = project(&step);
            double along = 0;
            for (std::size_t i = 0; i < size_; ++i) along += step[i] * image[i];
            if (!(along > 0)) break;
            for (std::size_t i = 0; i < size_; ++i) x[i] += rz / along * step[i], residual[i] -= rz / along * image[i];
        }
        return x;
    }

private:
    std::size_t place(int book, int level, std::int64_t i) const { return static_cast<std::size_t>((book * s_.d + i) * s_.n_levels + level); }

    // For each entry: the sum over the vectors that have it of scale * m, with m the gradient, or the entries `x` put in place times H. Tiles are added in their order.
    std::vector<double> project(const std::vector<double>* x) {
        std::vector<std::vector<double>> parts(static_cast<std::size_t>((s_.n_rows + tile_rows - 1) / tile_rows));
        for_each_tile(s_, pool_, [&](const VectorTile& tile, std::size_t index) {
            auto& sums = parts[index];
            sums.assign(size_, 0.0);
            std::vector<float> placed, image;
            const float* m = s_.gradient.data() + tile.first * s_.n;
            if (x != nullptr) {
                placed.resize(static_cast<std::size_t>(tile.n * s_.n));
                for_each_entry(tile, [&](std::int64_t row, std::int64_t column, int book, int level, float scale) {
                    for (std::int64_t i = 0; i < s_.width(column); ++i) placed[static_cast<std::size_t>(row * s_.n + column + i)] += scale * static_cast<float>((*x)[place(book, level, i)]);
                });
                image = placed;
                multiply({.m = tile.n, .n = s_.n, .k = s_.n, .a = placed.data(), .a_stride = s_.n, .b = moments_.gram, .b_stride = s_.n, .c = image.data(), .c_stride = s_.n, .factor = 1, .keep = moments_.added});
                m = image.data();
            }
            for_each_entry(tile, [&](std::int64_t row, std::int64_t column, int book, int level, float scale) {
                for (std::int64_t i = 0; i < s_.width(column); ++i) sums[place(book, level, i)] += static_cast<double>(scale) * static_cast<double>(m[row * s_.n + column + i]);
            });
        });
        return sum_of(parts);
    }
    // The diagonal of the normal equations, but for vectors of a row that share an entry.
    std::vector<double> curvature() {
        std::vector<std::vector<double>> parts(static_cast<std::size_t>((s_.n_rows + tile_rows - 1) / tile_rows));
        for_each_tile(s_, pool_, [&](const VectorTile& tile, std::size_t index) {
            parts[index].assign(size_, 0.0);
            for_each_entry(tile, [&](std::int64_t, std::int64_t column, int book, int level, float scale) {
                for (std::int64_t i = 0; i < s_.width(column); ++i) parts[index][place(book, level, i)] += static_cast<double>(scale) * static_cast<double>(scale) * static_cast<double>(moments_.diagonal[static_cast<std::size_t>(column + i)]);
            });
        });
        return sum_of(parts);
    }
    std::vector<double> sum_of(const std::vector<std::vector<double>>& parts) const {
        std::vector<double> sum(size_);
        for (const auto& part : parts)
            for (std::size_t i = 0; i < part.size(); ++i) sum[i] += part[i];
        return sum;
    }
    template <class Work>
    void for_each_entry(const VectorTile& tile, Work work) {
        for (std::int64_t row = 0; row < tile.n; ++row)
            for (std::int64_t column = 0; column < s_.n; column += s_.d) {
                const float scale = s_.group(tile.first + row, column).scale;
                for (int book = 0; book < s_.n_books; ++book) work(row, column, book, s_.codes(tile.first + row, column)[book], scale);
            }
    }

    State& s_;
    const SecondMoments& moments_;
    ThreadPool& pool_;
    const std::size_t size_;
};

// Whole numbers, and sums of an entry of each book within a byte.
VectorBooks moved_books(const VectorBooks& before, const std::vector<double>& step) {
    VectorBooks books = before;
    const float most = books.n_books > 1 ? 63 : 127;
    for (std::size_t i = 0; i < step.size(); ++i) {
        const float limit = books.n_books > 1 ? std::max(most, std::fabs(before.entries[i])) : most;
        books.entries[i] = std::clamp(static_cast<float>(std::nearbyint(static_cast<double>(before.entries[i]) + step[i])), -limit, limit);
    }
    if (books.n_books == 1) return books;
    for (int i = 0; i < books.vector; ++i) {
        float low = 0, high = 0;
        for (int book = 0; book < books.n_books; ++book) {
            const auto begin = books.entries.begin() + (book * books.vector + i) * books.n_levels;
            const auto [least, largest] = std::minmax_element(begin, begin + books.n_levels);
            low += *least, high += *largest;
        }
        if (low < -128 || high > 127)
            for (int book = 0; book < books.n_books; ++book)
                for (int level = 0; level < books.n_levels; ++level) books.at(book, level, i) = before.at(book, level, i);
    }
    return books;
}

// Coordinate descent: each scale of a group that a block holds, or of a row, and each vector's codes take their best value while all others hold.
class Descent {
public:
    Descent(State& state, const SecondMoments& moments)
        : s_(state), moments_(moments), chunk_(state.fit.scheme.group_size > 0 && state.fit.scheme.group_size <= block_columns ? block_columns / state.fit.scheme.group_size * state.fit.scheme.group_size : block_columns) {}

    void pass(const VectorTile& tile) const {
        if (s_.fit.scheme.group_size == 0) move_row_scales(tile);
        for (std::int64_t begin = 0; begin < s_.n; begin += chunk_) one_chunk(tile, begin, std::min(chunk_, s_.n - begin));
    }

private:
    float h(std::int64_t i, std::int64_t j) const { return moments_.gram[i * s_.n + j] + (i == j ? moments_.added : 0); }

    // Scaled by 1 + t / scale, entries l lose t^2 l H l - 2 t l g more than now.
    void move_row_scales(const VectorTile& tile) const {
        const std::int64_t n = s_.n;
        std::vector<float> entries(static_cast<std::size_t>(tile.n * n)), image(entries.size());
        float value[most_vector];
        for (std::int64_t row = 0; row < tile.n; ++row)
            for (std::int64_t column = 0; column < n; column += s_.d) {
                s_.entry(tile.first + row, column, value);
                std::copy_n(value, s_.width(column), entries.data() + row * n + column);
            }
        image = entries;
        multiply({.m = tile.n, .n = n, .k = n, .a = entries.data(), .a_stride = n, .b = moments_.gram, .b_stride = n, .c = image.data(), .c_stride = n, .factor = 1, .keep = moments_.added});
        for (std::int64_t row = 0; row < tile.n; ++row) {
            const float *l = entries.data() + row * n, *lh = image.data() + row * n;
            float *away = s_.away.data() + (tile.first + row) * n, *g = s_.gradient.data() + (tile.first + row) * n;
            double lg = 0, lhl = 0;
            for (std::int64_t i = 0; i < n; ++i) lg += static_cast<double>(l[i]) * static_cast<double>(g[i]), lhl += static_cast<double>(l[i]) * static_cast<double>(lh[i]);
            GroupParams& params = s_.group(tile.first + row, 0);
            if (!(lhl > 0) || params.scale == 0) continue;
            const GroupParams stored = stored_vector_scale(s_.fit.scheme, 0, static_cast<float>(static_cast<double>(params.scale) + lg / lhl));
            const double t = static_cast<double>(stored.scale) - static_cast<double>(params.scale);
            if (!(stored.scale > 0) || !(t * t * lhl - 2 * t * lg < 0)) continue;
            params = stored;
            for (std::int64_t i = 0; i < n; ++i) away[i] -= static_cast<float>(t) * l[i], g[i] -= static_cast<float>(t) * lh[i];
        }
    }

    void one_chunk(const VectorTile& tile, std::int64_t begin, std::int64_t size) const {
        const std::int64_t n = s_.n;
        std::vector<float> change(static_cast<std::size_t>(tile.n * size)), metric(static_cast<std::size_t>(s_.d * s_.d)), norms(static_cast<std::size_t>(s_.n_books * s_.n_levels));
        for (std::int64_t row = 0; row < tile.n; ++row) std::copy_n(s_.away.data() + (tile.first + row) * n + begin, size, change.data() + row * size);
        std::vector<float> gradient(change.size());  // within the chunk, always as things are
        for (std::int64_t row = 0; row < tile.n; ++row) std::copy_n(s_.gradient.data() + (tile.first + row) * n + begin, size, gradient.data() + row * size);
        const std::int64_t group_size = s_.fit.scheme.group_size;
        for (std::int64_t column = begin; column < begin + size; column += s_.d) {
            if (group_size > 0 && column % group_size == 0 && column + std::min(group_size, n - column) <= begin + size)
                for (std::int64_t row = 0; row < tile.n; ++row) move_scale(tile.first + row, column, std::min(group_size, n - column), begin, size, gradient.data() + row * size);
            const std::int64_t width = s_.width(column);
            std::fill(metric.begin(), metric.end(), 0.0f);
            for (std::int64_t i = 0; i < width; ++i)
                for (std::int64_t j = 0; j < width; ++j) metric[static_cast<std::size_t>(i * s_.d + j)] = h(column + i, column + j);
            entry_norms(s_.fit.books, metric.data(), norms.data());
            for (std::int64_t row = 0; row < tile.n; ++row) move_codes(tile.first + row, column, metric.data(), norms.data(), begin, size, gradient.data() + row * size);
        }
        for (std::int64_t row = 0; row < tile.n; ++row) {
            const float* now = s_.away.data() + (tile.first + row) * n + begin;
            for (std::int64_t i = 0; i < size; ++i) change[static_cast<std::size_t>(row * size + i)] = now[i] - change[static_cast<std::size_t>(row * size + i)];
        }
        float* g = s_.gradient.data() + tile.first * n;
        multiply({.m = tile.n, .n = n, .k = size, .a = change.data(), .a_stride = size, .b = moments_.gram + begin * n, .b_stride = n, .c = g, .c_stride = n, .factor = 1, .keep = 1});
        for (std::int64_t row = 0; row < tile.n; ++row)
            for (std::int64_t i = 0; i < size; ++i) g[row * n + begin + i] += moments_.added * change[static_cast<std::size_t>(row * size + i)];
    }

    // The columns from `column` on change by `by`; the gradient of the chunk hears of it.
    void apply(std::int64_t row, std::int64_t column, std::int64_t width, const float* by, std::int64_t begin, std::int64_t size, float* gradient) const {
        for (std::int64_t i = 0; i < width; ++i) {
            if (by[i] == 0) continue;
            s_.away[static_cast<std::size_t>(row * s_.n + column + i)] -= by[i];
            const float* gram = moments_.gram + (column + i) * s_.n + begin;
            for (std::int64_t k = 0; k < size; ++k) gradient[k] -= by[i] * gram[k];
            gradient[column + i - begin] -= by[i] * moments_.added;
        }
    }

    void move_codes(std::int64_t row, std::int64_t column, const float* metric, const float* norms, std::int64_t begin, std::int64_t size, float* gradient) const {
        const float scale = s_.group(row, column).scale;
        if (scale == 0) return;
        const std::int64_t width = s_.width(column);
        float now[most_vector], pull[most_vector], by[most_vector] = {};
        s_.entry(row, column, now);
        times_metric(s_.d, metric, now, pull);
        for (std::int64_t i = 0; i < width; ++i) pull[i] += gradient[column - begin + i] / scale;
        ChosenVector chosen;
        choose_vector(s_.fit.books, metric, norms, pull, chosen);
        if (std::equal(chosen.codes, chosen.codes + s_.n_books, s_.codes(row, column))) return;
        double gain = 0;
        for (std::int64_t i = 0; i < width; ++i) {
            by[i] = scale * (chosen.value[i] - now[i]);
            gain += 2 * static_cast<double>(by[i]) * static_cast<double>(gradient[column - begin + i]);
        }
        if (!(vector_cost(s_.d, metric, by) < gain)) return;
        std::copy_n(chosen.codes, s_.n_books, s_.codes(row, column));
        apply(row, column, width, by, begin, size, gradient);
    }

    void move_scale(std::int64_t row, std::int64_t column, std::int64_t width, std::int64_t begin, std::int64_t size, float* gradient) const {
        GroupParams& params = s_.group(row, column);
        if (params.scale == 0) return;
        float entries[block_columns], by[block_columns];
        for (std::int64_t at = 0; at < width; at += s_.d) {
            float value[most_vector];
            s_.entry(row, column + at, value);
            std::copy_n(value, std::min<std::int64_t>(s_.d, width - at), entries + at);
        }
        double lg = 0, lhl = 0;
        for (std::int64_t i = 0; i < width; ++i) {
            lg += static_cast<double>(entries[i]) * static_cast<double>(gradient[column - begin + i]);
            float sum = 0;
            for (std::int64_t j = 0; j < width; ++j) sum += h(column + i, column + j) * entries[j];
            lhl += static_cast<double>(entries[i]) * static_cast<double>(sum);
        }
        if (!(lhl > 0)) return;
        const RowParams& own = s_.fit.params[static_cast<std::size_t>(row)];
        const float super_scale = own.super_scales.empty() ? 0 : own.super_scales[static_cast<std::size_t>(s_.fit.scheme.super_of(column))];
        const GroupParams stored = stored_vector_scale(s_.fit.scheme, super_scale, static_cast<float>(static_cast<double>(params.scale) + lg / lhl));
        const double t = static_cast<double>(stored.scale) - static_cast<double>(params.scale);
        if (stored.scale == 0 || !(t * t * lhl - 2 * t * lg < 0)) return;
        for (std::int64_t i = 0; i < width; ++i) by[i] = static_cast<float>(t) * entries[i];
        params = stored;
        apply(row, column, width, by, begin, size, gradient);
    }

    State& s_;
    const SecondMoments& moments_;
    const std::int64_t chunk_;
};

void refine_vectors(State& s, const SecondMoments& moments, std::int64_t n_passes, ThreadPool& pool) {
    double loss = n_passes > 0 ? measure(s, moments, pool) : 0;
    for (std::int64_t pass = 0; pass < n_passes && !interrupt_requested(); ++pass) {
        const double before = loss;
        VectorBooks moved = moved_books(s.fit.books, BookSolver(s, moments, pool).solve());
        std::swap(moved, s.fit.books);
        find_away(s, pool);
        loss = measure(s, moments, pool);
        if (!(loss <= before)) {  // by rounding, or because a system had no finite solution
            std::swap(moved, s.fit.books);
            find_away(s, pool);
            loss = measure(s, moments, pool);
        }
        const Descent descent(s, moments);
        for_each_tile(s, pool, [&](const VectorTile& tile, std::size_t) { descent.pass(tile); });
        loss = measure(s, moments, pool);
        if (!(loss < before * (1 - 1e-4))) break;
    }
}

}  // namespace

Result<Weight> gptq_vectors_encode(const MethodInput& input) {
    if (const std::string why = why_not_calibrated(input, StatisticsNeed::gram); !why.empty()) {
        remark(input, "no GPTQ: " + why);
        return kmeans_encode(input);
    }
    SKIFF_CHECK(check_statistics(input));
    MethodOptions options = input.options;
    options.order = MethodOptions::Order::as_stored;  // columns of a vector lie together
    const auto feedback = make_feedback(*input.inputs, input.scheme, options);
    if (!feedback) {
        remark(input, "no GPTQ: the second moments of its inputs are not positive definite; k-means with weights instead");
        return kmeans_encode(input);
    }
    if (feedback->damping > input.options.damping * 1.0001) remark(input, "GPTQ with damping " + std::to_string(feedback->damping) + ": with less, the second moments of its inputs are not positive definite");
    State state{input.weight.n_rows(), input.weight.n_columns(), input.scheme.vector, input.scheme.n_books, input.scheme.n_levels, {}, {}, {}, {}};
    SKIFF_TRY(state.fit, fit_vectors(input.weight, input.scheme, feedback->own, &input.pool));
    if (state.fit.scheme.scale_dtype != input.scheme.scale_dtype)
        return lost_scales_error(input);
    for (auto* matrix : {&state.values, &state.away, &state.gradient}) matrix->resize(static_cast<std::size_t>(state.n_rows * state.n));
    for (std::int64_t row = 0; row < state.n_rows; ++row) input.weight.row(row, state.values.data() + row * state.n);
    Sweep sweep(state, *feedback);
    for_each_tile(state, input.pool, [&](const VectorTile& tile, std::size_t) { sweep.run(tile); });
    refine_vectors(state, second_moments(*input.inputs, feedback->damping), input.options.refine_passes, input.pool);
    if (interrupt_requested()) return Error{ErrorCode::interrupted, "quantization was interrupted", {}};
    return pack_vectors(state.fit, state.n_rows, state.n);
}

}  // namespace skiff
