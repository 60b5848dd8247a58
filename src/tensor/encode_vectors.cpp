#include "tensor/encode_vectors.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "base/checked.h"
#include "base/progress.h"
#include "tensor/codes_builder.h"
#include "tensor/encode_clusters.h"
#include "tensor/grid_parts.h"

namespace skiff {
namespace {

constexpr std::int64_t most_sampled = 32768;  // vectors
constexpr std::uint64_t seed = 20;

// What the errors of a row's vectors cost, and the norms of all entries there. Without importance all vectors share one.
struct RowMetrics {
    std::int64_t n_vectors = 0;
    std::vector<float> weights;  // (n_vectors * vector), 0 behind the last column
    std::vector<float> metrics, norms;
    std::size_t metric_size = 0, norm_size = 0;
    bool shared = false;

    RowMetrics(const Scheme& scheme, std::int64_t n_columns, std::span<const float> importance) {
        n_vectors = scheme.n_codes(n_columns) / scheme.n_books;
        shared = importance.empty() && n_columns % scheme.vector == 0;
        metric_size = static_cast<std::size_t>(scheme.vector * scheme.vector), norm_size = static_cast<std::size_t>(scheme.n_books * scheme.n_levels);
        weights.assign(static_cast<std::size_t>(n_vectors * scheme.vector), 0.0f);
        double sum = 0;
        for (float weight : importance) sum += static_cast<double>(weight);
        const auto unit = static_cast<float>(static_cast<double>(n_columns) / sum);  // so that they are 1 on average, however small inputs are
        for (std::int64_t c = 0; c < n_columns; ++c) weights[static_cast<std::size_t>(c)] = importance.empty() ? 1.0f : importance[static_cast<std::size_t>(c)] * unit;
        const std::size_t n = shared ? 1 : static_cast<std::size_t>(n_vectors);
        metrics.assign(n * metric_size, 0.0f);
        norms.resize(n * norm_size);
        for (std::size_t at = 0; at < n; ++at)
            for (int i = 0; i < scheme.vector; ++i) metrics[at * metric_size + static_cast<std::size_t>(i * scheme.vector + i)] = weights[at * static_cast<std::size_t>(scheme.vector) + static_cast<std::size_t>(i)];
    }
    void measure(const VectorBooks& books) {
        for (std::size_t at = 0; at < metrics.size() / metric_size; ++at) entry_norms(books, metrics.data() + at * metric_size, norms.data() + at * norm_size);
    }
    const float* metric(std::int64_t at) const { return metrics.data() + (shared ? 0 : static_cast<std::size_t>(at) * metric_size); }
    const float* norm(std::int64_t at) const { return norms.data() + (shared ? 0 : static_cast<std::size_t>(at) * norm_size); }
};

struct Moments {
    double size = 0, cube = 0;
};

// Root of the (weighted) mean square, and to which side the group leans.
Moments moments_of(std::span<const float> values, std::span<const float> weights) {
    double sum = 0, squares = 0, cubes = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
        const auto x = static_cast<double>(values[i]), w = static_cast<double>(weights[i]);
        sum += w, squares += w * x * x, cubes += w * x * x * x;
    }
    if (!(sum > 0)) {
        for (float x : values) squares += static_cast<double>(x) * static_cast<double>(x);
        return {std::sqrt(squares / static_cast<double>(values.size())), 0};
    }
    return {std::sqrt(squares / sum), cubes};
}

class RowCoder {
public:
    RowCoder(const Scheme& scheme, std::int64_t n_columns, const VectorBooks& books, const RowMetrics& metrics, float factor)
        : scheme_(scheme), n_columns_(n_columns), books_(books), metrics_(metrics), factor_(factor), group_size_(scheme.group_size == 0 ? n_columns : scheme.group_size),
          wanted_(static_cast<std::size_t>(scheme.n_groups(n_columns))), padded_(static_cast<std::size_t>(metrics.n_vectors * scheme.vector)) {}

    // Scales by the sizes of the groups alone.
    void begin(std::span<const float> row, RowParams& params) {
        std::copy(row.begin(), row.end(), padded_.begin());
        for (std::size_t group = 0; group < wanted_.size(); ++group) {
            const auto [begin, n] = columns(group);
            const Moments own = moments_of(row.subspan(begin, n), std::span(metrics_.weights).subspan(begin, n));
            wanted_[group] = static_cast<float>(own.size * static_cast<double>(factor_));
            if (scheme_.relative_scales() && own.cube < 0) wanted_[group] = -wanted_[group];
        }
        store(params);
    }
    // Codes and scales that suit each other. // codes: (n_codes)
    void choose(RowParams& params, std::uint16_t* codes) {
        for (int round = 0; round < 2; ++round) {
            for (std::size_t group = 0; group < wanted_.size(); ++group) wanted_[group] = choose_group(group, params, codes);
            if (round == 1 || !scheme_.relative_scales()) break;
            store(params);
        }
    }

private:
    std::pair<std::size_t, std::size_t> columns(std::size_t group) const {
        const std::size_t begin = group * static_cast<std::size_t>(group_size_);
        return {begin, std::min(static_cast<std::size_t>(group_size_), static_cast<std::size_t>(n_columns_) - begin)};
    }

    // Super scales for what is wanted, and what groups then have.
    void store(RowParams& params) const {
        params.groups.resize(wanted_.size());
        const auto n_supers = static_cast<std::size_t>(scheme_.relative_scales() ? scheme_.n_supers(n_columns_) : 0);
        params.super_scales.assign(n_supers, 0.0f);
        const std::size_t per_super = scheme_.super_size == 0 ? wanted_.size() : static_cast<std::size_t>(scheme_.super_size / group_size_);
        for (std::size_t super = 0; super < n_supers; ++super) {
            const std::size_t begin = super * per_super, end = std::min(wanted_.size(), begin + per_super);
            params.super_scales[super] = super_scale(std::span(wanted_).subspan(begin, end - begin));
        }
        for (std::size_t group = 0; group < wanted_.size(); ++group) params.groups[group] = stored_vector_scale(scheme_, super_of(params, group), wanted_[group]);
    }
    float super_of(const RowParams& params, std::size_t group) const {
        return scheme_.relative_scales() ? params.super_scales[static_cast<std::size_t>(scheme_.super_of(static_cast<std::int64_t>(group) * group_size_))] : 0;
    }
    float super_scale(std::span<const float> wanted) const {
        float largest = 0;
        for (float scale : wanted) largest = std::max(largest, std::fabs(scale));
        if (scheme_.scale_book == nullptr) return grids::round_to(scheme_.super_dtype, largest / static_cast<float>(largest_scale_code));
        // Of a table: the one whose sizes are nearest to what is wanted.
        float best = 0;
        double least = std::numeric_limits<double>::infinity();
        for (int step = 0; step < 24; ++step) {
            const float super_scale = grids::round_to(scheme_.super_dtype, largest * 1.05f * std::pow(0.95f, static_cast<float>(step)));
            double error = 0;
            for (float scale : wanted) {
                const double e = static_cast<double>(stored_vector_scale(scheme_, super_scale, scale).scale) - static_cast<double>(scale);
                error += e * e;
            }
            if (error < least) least = error, best = super_scale;
        }
        return best;
    }

    double code_group(std::size_t group, float scale, std::uint16_t* codes, double& along, double& square) const {
        const auto [begin, n] = columns(group);
        const int d = scheme_.vector;
        double cost = 0;
        along = square = 0;
        const float inverse = scale == 0 ? 0 : 1 / scale;
        float pull[most_vector];
        for (std::size_t column = begin; column < begin + n; column += static_cast<std::size_t>(d)) {
            const auto at = static_cast<std::int64_t>(column) / d;
            ChosenVector chosen;
            for (int i = 0; i < d; ++i) pull[i] = metrics_.weights[column + static_cast<std::size_t>(i)] * padded_[column + static_cast<std::size_t>(i)] * inverse;
            choose_vector(books_, metrics_.metric(at), metrics_.norm(at), pull, chosen);
            for (int book = 0; book < scheme_.n_books; ++book) codes[at * scheme_.n_books + book] = chosen.codes[book];
            for (int i = 0; i < d; ++i) {
                const auto w = static_cast<double>(metrics_.weights[column + static_cast<std::size_t>(i)]), x = static_cast<double>(padded_[column + static_cast<std::size_t>(i)]), c = static_cast<double>(chosen.value[i]);
                const double e = x - static_cast<double>(scale) * c;
                cost += w * e * e, along += w * x * c, square += w * c * c;
            }
        }
        return cost;
    }

    // Puts the best codes and scale of a group in place; gives the scale that these codes want.
    float choose_group(std::size_t group, RowParams& params, std::uint16_t* codes) {
        const auto [begin, n] = columns(group);
        const std::int64_t first = static_cast<std::int64_t>(begin) / scheme_.vector * scheme_.n_books, n_codes = ceil_div<std::int64_t>(static_cast<std::int64_t>(n), scheme_.vector) * scheme_.n_books;
        const GroupParams start = params.groups[group];
        kept_.assign(codes + first, codes + first + n_codes);
        double least = std::numeric_limits<double>::infinity(), along = 0, square = 0;
        float wanted = start.scale;
        const auto look_at = [&](const GroupParams& candidate) {
            const double cost = code_group(group, candidate.scale, codes, along, square);
            if (!(cost < least)) return false;
            least = cost;
            params.groups[group] = candidate;
            wanted = square > 0 ? static_cast<float>(along / square) : candidate.scale;
            kept_.assign(codes + first, codes + first + n_codes);
            return true;
        };
        look_at(start);
        if (scheme_.scale_book != nullptr && start.scale != 0) {
            const int size = start.scale_code % 8;
            for (int sign = 0; sign < 2; ++sign)
                for (int near = std::max(0, size - 1); near <= std::min(7, size + 1); ++near) {
                    const GroupParams candidate{super_of(params, group) * scheme_.scale_book->levels[static_cast<std::size_t>(sign * 8 + near)], 0, sign * 8 + near};
                    if (candidate.scale_code != start.scale_code) look_at(candidate);
                }
        } else {
            for (int step = 0; step < 3; ++step) {
                const GroupParams candidate = stored_vector_scale(scheme_, super_of(params, group), wanted);
                if (candidate.scale == params.groups[group].scale || candidate.scale == 0 || !look_at(candidate)) break;
            }
        }
        std::copy(kept_.begin(), kept_.end(), codes + first);
        return wanted;
    }

    const Scheme& scheme_;
    const std::int64_t n_columns_;
    const VectorBooks& books_;
    const RowMetrics& metrics_;
    const float factor_;
    const std::int64_t group_size_;
    std::vector<float> wanted_, padded_;
    std::vector<std::uint16_t> kept_;
};

// Vectors over their scales, errors weighed as they are in the weight.
void add_to_sample(const Scheme& scheme, std::span<const float> row, const RowParams& params, const RowMetrics& metrics, float unit, VectorSample& sample) {
    const auto n_columns = static_cast<std::int64_t>(row.size());
    for (std::int64_t begin = 0; begin < n_columns; begin += scheme.vector) {
        const float scale = params.groups[static_cast<std::size_t>(scheme.group_of(begin))].scale;
        if (scale == 0) continue;
        const float relative = scale / unit;
        for (std::int64_t c = begin; c < begin + scheme.vector; ++c) {
            sample.values.push_back(c < n_columns ? row[static_cast<std::size_t>(c)] / scale : 0.0f);
            sample.weights.push_back(metrics.weights[static_cast<std::size_t>(c)] * relative * relative);
        }
    }
}

// Sums of squares in float must neither vanish nor overflow, however small or large the weights are: those of the sample have the mean 1.
void normalise(VectorSample& sample) {
    double sum = 0;
    for (float weight : sample.weights) sum += static_cast<double>(weight);
    if (!(sum > 0)) return sample.weights.assign(sample.weights.size(), 1.0f);
    for (float& weight : sample.weights) weight = static_cast<float>(static_cast<double>(weight) * static_cast<double>(sample.weights.size()) / sum);
}

void for_each_share(std::int64_t n_rows, ThreadPool* pool, const std::function<void(Range)>& work) {
    if (pool == nullptr) return work({0, n_rows});
    pool->run([&](int thread) { work(share_of(n_rows, thread, pool->n_threads())); });
}

// Every number is finite; and the type that scales need.
Status survey(const Weight& source, ThreadPool* pool, Scheme& scheme) {
    std::atomic<std::int64_t> bad_row = std::numeric_limits<std::int64_t>::max();
    std::atomic<bool> needs_f32 = false;
    const std::int64_t n_columns = source.n_columns(), group_size = scheme.group_size == 0 ? n_columns : scheme.group_size;
    for_each_share(source.n_rows(), pool, [&](Range rows) {
        std::vector<float> row(static_cast<std::size_t>(n_columns));
        for (std::int64_t r = rows.begin; r < rows.end && !interrupt_requested(); ++r) {
            source.row(r, row.data());
            if (first_non_finite(row) >= 0) {
                std::int64_t lowest = bad_row.load();
                while (r < lowest && !bad_row.compare_exchange_weak(lowest, r)) {
                }
                return;
            }
            if (scheme.scale_dtype != DType::f16) continue;
            for (std::int64_t begin = 0; begin < n_columns; begin += group_size) {
                float magnitude = 0;
                for (std::int64_t c = begin; c < std::min(n_columns, begin + group_size); ++c) magnitude = std::max(magnitude, std::fabs(row[static_cast<std::size_t>(c)]));
                if (levels_need_f32(magnitude)) needs_f32 = true;
            }
        }
    });
    if (interrupt_requested()) return Error{ErrorCode::interrupted, "quantization was interrupted", {}};
    if (bad_row != std::numeric_limits<std::int64_t>::max()) return non_finite_error(source, bad_row);
    if (needs_f32) scheme.scale_dtype = DType::f32;
    return {};
}

// Books in floats, on rows spread over the weight: k-means over vectors scaled by their groups' sizes, then once more with the scales that these books choose.
VectorBooks train_books(const Weight& source, const Scheme& scheme, RowMetrics& metrics, ThreadPool* pool) {
    const std::int64_t n_rows = source.n_rows(), n_columns = source.n_columns();
    const std::int64_t n_sampled = std::min<std::int64_t>(std::max<std::int64_t>(1, most_sampled / std::max<std::int64_t>(1, metrics.n_vectors)), n_rows);
    std::vector<std::vector<float>> rows(static_cast<std::size_t>(n_sampled), std::vector<float>(static_cast<std::size_t>(n_columns)));
    std::vector<RowParams> params(rows.size());
    VectorBooks books(scheme);
    for (int round = 0; round < 2; ++round) {
        if (round > 0) metrics.measure(books);
        for_each_share(n_sampled, pool, [&](Range share) {
            RowCoder coder(scheme, n_columns, books, metrics, 1);
            std::vector<std::uint16_t> codes(static_cast<std::size_t>(scheme.n_codes(n_columns)));
            for (std::int64_t i = share.begin; i < share.end; ++i) {
                auto& row = rows[static_cast<std::size_t>(i)];
                source.row(i * n_rows / n_sampled, row.data());
                coder.begin(row, params[static_cast<std::size_t>(i)]);
                if (round > 0) coder.choose(params[static_cast<std::size_t>(i)], codes.data());
            }
        });
        VectorSample sample;
        sample.vector = scheme.vector;
        float largest = 0;  // scale, which the others count in, since its square may be out of range
        for (const RowParams& row : params)
            for (const GroupParams& group : row.groups) largest = std::max(largest, std::fabs(group.scale));
        for (std::size_t i = 0; i < rows.size(); ++i) add_to_sample(scheme, rows[i], params[i], metrics, largest, sample);
        if (sample.n() == 0) return books;
        normalise(sample);
        if (round == 0) books = make_books(sample, scheme, seed, pool);
        for (int step = 0; round > 0 && step < 4; ++step) lloyd_step(sample, books, pool);
        if (interrupt_requested()) return books;
    }
    return books;
}

}  // namespace

GroupParams stored_vector_scale(const Scheme& scheme, float super_scale, float wanted) {
    GroupParams stored;
    if (!scheme.relative_scales()) {
        stored.scale = grids::round_to(scheme.scale_dtype, wanted);
        return stored;
    }
    stored.scale = 0;
    if (super_scale == 0) return stored;
    if (scheme.scale_book == nullptr) {
        stored.scale_code = std::clamp(static_cast<std::int32_t>(std::nearbyint(std::clamp(wanted / super_scale, -256.0f, 256.0f))), -largest_scale_code, largest_scale_code);
        stored.scale = super_scale * static_cast<float>(stored.scale_code);
        return stored;
    }
    const auto sizes = scheme.scale_book->levels;
    for (std::size_t code = 0; code < sizes.size(); ++code)
        if (code == 0 || std::fabs(super_scale * sizes[code] - wanted) < std::fabs(stored.scale - wanted)) stored.scale_code = static_cast<std::int32_t>(code), stored.scale = super_scale * sizes[code];
    return stored;
}

Result<FittedVectors> fit_vectors(const Weight& source, const Scheme& scheme, std::span<const float> importance, ThreadPool* pool) {
    SKIFF_CHECK(check_can_encode(source, scheme));
    FittedVectors fitted;
    fitted.scheme = scheme;
    SKIFF_CHECK(survey(source, pool, fitted.scheme));
    const std::int64_t n_rows = source.n_rows(), n_columns = source.n_columns(), n_codes = scheme.n_codes(n_columns);
    if (std::all_of(importance.begin(), importance.end(), [](float weight) { return weight == 0; })) importance = {};
    RowMetrics metrics(fitted.scheme, n_columns, importance);
    fitted.books = train_books(source, fitted.scheme, metrics, pool);
    const float factor = fitted.books.round_to_bytes();
    metrics.measure(fitted.books);
    fitted.params.resize(static_cast<std::size_t>(n_rows));
    fitted.codes.resize(static_cast<std::size_t>(n_rows * n_codes));
    for_each_share(n_rows, pool, [&](Range rows) {
        RowCoder coder(fitted.scheme, n_columns, fitted.books, metrics, factor);
        std::vector<float> row(static_cast<std::size_t>(n_columns));
        for (std::int64_t r = rows.begin; r < rows.end && !interrupt_requested(); ++r) {
            source.row(r, row.data());
            coder.begin(row, fitted.params[static_cast<std::size_t>(r)]);
            coder.choose(fitted.params[static_cast<std::size_t>(r)], fitted.codes.data() + r * n_codes);
        }
    });
    if (interrupt_requested()) return Error{ErrorCode::interrupted, "quantization was interrupted", {}};
    return fitted;
}

Weight pack_vectors(const FittedVectors& fitted, std::int64_t n_rows, std::int64_t n_columns) {
    CodesBuilder builder(fitted.scheme, n_rows, n_columns);
    builder.set_books(fitted.books.bytes());
    const auto n_codes = static_cast<std::size_t>(fitted.scheme.n_codes(n_columns));
    for (std::int64_t row = 0; row < n_rows; ++row)
        builder.set_row(row, std::span<const std::uint16_t>(fitted.codes).subspan(static_cast<std::size_t>(row) * n_codes, n_codes), fitted.params[static_cast<std::size_t>(row)]);
    return builder.finish();
}

Result<Weight> encode_vectors(const Weight& source, const Scheme& scheme, std::span<const float> importance, ThreadPool* pool) {
    SKIFF_TRY(const auto fitted, fit_vectors(source, scheme, importance, pool));
    return pack_vectors(fitted, source.n_rows(), source.n_columns());
}

}  // namespace skiff
