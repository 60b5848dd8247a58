#include "tensor/encode_clusters.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "base/progress.h"
#include "tensor/clusters.h"
#include "tensor/codes_builder.h"

namespace skiff {
namespace {

constexpr std::size_t most_points = 4096, most_points_of_many_tables = 2048;

float largest_magnitude(std::span<const float> values) {
    float largest = 0;
    for (float value : values) largest = std::max(largest, std::fabs(value));
    return largest;
}

// Levels as they will be read back.
void round_levels(DType dtype, std::span<float> levels) {
    if (dtype == DType::f32) return;
    std::vector<std::byte> stored(levels.size() * 2);
    dtype_info(dtype).from_float(levels.data(), static_cast<std::int64_t>(levels.size()), stored.data());
    dtype_info(dtype).to_float(stored.data(), static_cast<std::int64_t>(levels.size()), levels.data());
}

// The nearest level of each value, the lower one of two equally near. // levels rise
void nearest_codes(std::span<const float> values, std::span<const float> levels, std::uint8_t* codes) {
    float borders[256];
    const std::size_t n_borders = levels.size() - 1;
    for (std::size_t i = 0; i < n_borders; ++i) borders[i] = levels[i] + (levels[i + 1] - levels[i]) / 2;
    for (std::size_t i = 0; i < values.size(); ++i) codes[i] = static_cast<std::uint8_t>(std::lower_bound(borders, borders + n_borders, values[i]) - borders);
}

struct Job {
    const Weight& source;
    const Scheme& scheme;
    std::span<const float> importance;
    CodesBuilder& target;
    std::vector<float> levels_of_all;  // of a table for the whole tensor
    std::atomic<bool> needs_f32 = false;
    std::atomic<std::int64_t> bad_row = std::numeric_limits<std::int64_t>::max();

    // Of a column, or of every weight by itself.
    std::span<const float> importance_of(std::int64_t row, std::int64_t begin, std::int64_t n) const {
        if (importance.empty()) return importance;
        const bool by_weight = static_cast<std::int64_t>(importance.size()) != source.n_columns();
        return importance.subspan(static_cast<std::size_t>((by_weight ? row * source.n_columns() : 0) + begin), static_cast<std::size_t>(n));
    }
};

void note_bad_row(Job& job, std::int64_t row) {
    std::int64_t lowest = job.bad_row.load();
    while (row < lowest && !job.bad_row.compare_exchange_weak(lowest, row)) {
    }
}

// Levels and codes of one row whose tables are its own.
void encode_row(Job& job, std::int64_t row, std::vector<float>& values, std::vector<std::uint8_t>& codes, std::vector<float>& levels) {
    const Scheme& scheme = job.scheme;
    const std::int64_t n_columns = job.source.n_columns(), n_groups = scheme.n_groups(n_columns), group_size = scheme.group_size == 0 ? n_columns : scheme.group_size;
    job.source.row(row, values.data());
    if (first_non_finite(values) >= 0) return note_bad_row(job, row);
    levels.clear();
    for (std::int64_t group = 0; group < n_groups; ++group) {
        const std::int64_t begin = group * group_size, n = std::min(group_size, n_columns - begin);
        const auto part = std::span<const float>(values).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(n));
        if (scheme.scale_dtype == DType::f16 && levels_need_f32(largest_magnitude(part))) job.needs_f32 = true;
        auto means = cluster_means(cluster_points(part, job.importance_of(row, begin, n), scheme.n_levels > 16 ? most_points_of_many_tables : most_points), scheme.n_levels);
        round_levels(scheme.scale_dtype, means);
        nearest_codes(part, means, codes.data() + begin);
        levels.insert(levels.end(), means.begin(), means.end());
    }
    job.target.set_row(row, codes, levels);
}

// Points of all rows together: every different number where they are few, else stretches of equal width, filled row by row.
Result<std::vector<ClusterPoint>> points_of_all(Job& job) {
    const std::int64_t n_rows = job.source.n_rows(), n_columns = job.source.n_columns();
    std::vector<float> row(static_cast<std::size_t>(n_columns)), all, weights;
    const bool few = n_rows * n_columns <= static_cast<std::int64_t>(most_points);
    float low = std::numeric_limits<float>::infinity(), high = -low;
    bool weighted = false;
    for (float weight : job.importance) weighted = weighted || weight > 0;
    for (std::int64_t r = 0; r < n_rows; ++r) {
        job.source.row(r, row.data());
        if (first_non_finite(row) >= 0) return non_finite_error(job.source, r);
        for (float x : row) low = std::min(low, x), high = std::max(high, x);
        if (!few) continue;
        all.insert(all.end(), row.begin(), row.end());
        const auto of_row = job.importance_of(r, 0, n_columns);
        weights.insert(weights.end(), of_row.begin(), of_row.end());
    }
    if (job.scheme.scale_dtype == DType::f16 && levels_need_f32(std::max(-low, high))) job.needs_f32 = true;
    if (few) return cluster_points(all, weights, most_points);
    std::vector<ClusterPoint> bins(most_points);
    const double width = (static_cast<double>(high) - static_cast<double>(low)) / static_cast<double>(most_points);
    for (std::int64_t r = 0; r < n_rows && !interrupt_requested(); ++r) {
        job.source.row(r, row.data());
        const auto of_row = job.importance_of(r, 0, n_columns);
        for (std::size_t c = 0; c < row.size(); ++c) {
            const double x = static_cast<double>(row[c]), weight = weighted ? static_cast<double>(of_row[c]) : 1;
            ClusterPoint& bin = bins[width > 0 ? std::min(most_points - 1, static_cast<std::size_t>((x - static_cast<double>(low)) / width)) : 0];
            bin.weight += weight, bin.sum += weight * x, bin.squares += weight * x * x;
        }
    }
    std::erase_if(bins, [](const ClusterPoint& bin) { return !(bin.weight > 0); });
    return bins;
}

void for_each_share(std::int64_t n_rows, ThreadPool* pool, const std::function<void(Range)>& work) {
    if (pool == nullptr) return work({0, n_rows});
    pool->run([&](int thread) { work(share_of(n_rows, thread, pool->n_threads())); });
}

}  // namespace

// Of numbers that are as good as zero nothing is lost (flushed_to_zero in grid_parts.h).
bool levels_need_f32(float largest_magnitude) { return largest_magnitude > 0x1p-100f && (largest_magnitude < 0x1p-10f || largest_magnitude > 65504); }

Result<Weight> encode_clusters(const Weight& source, const Scheme& scheme, std::span<const float> importance, ThreadPool* pool) {
    const std::int64_t n_columns = source.n_columns();
    CodesBuilder builder(scheme, source.n_rows(), n_columns);
    Job job{source, scheme, importance, builder};
    if (scheme.one_table) {
        SKIFF_TRY(const auto points, points_of_all(job));
        job.levels_of_all = cluster_means(points, scheme.n_levels);
        round_levels(scheme.scale_dtype, job.levels_of_all);
        builder.set_levels_of_all(job.levels_of_all);
    }
    for_each_share(source.n_rows(), pool, [&](Range rows) {
        std::vector<float> values(static_cast<std::size_t>(n_columns)), levels;
        std::vector<std::uint8_t> codes(static_cast<std::size_t>(n_columns));
        for (std::int64_t row = rows.begin; row < rows.end && !job.needs_f32 && !interrupt_requested(); ++row) {
            if (!scheme.one_table) {
                encode_row(job, row, values, codes, levels);
                continue;
            }
            source.row(row, values.data());
            nearest_codes(values, job.levels_of_all, codes.data());
            builder.set_row(row, codes, std::span<const float>());
        }
    });
    if (interrupt_requested()) return Error{ErrorCode::interrupted, "quantization was interrupted", {}};
    if (job.bad_row != std::numeric_limits<std::int64_t>::max()) return non_finite_error(source, job.bad_row);
    if (job.needs_f32) {
        Scheme wider = scheme;
        wider.scale_dtype = DType::f32;
        return encode_clusters(source, wider, importance, pool);
    }
    return builder.finish();
}

}  // namespace skiff
