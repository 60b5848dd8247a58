// Rounding to nearest, row by row.
#include <atomic>
#include <cmath>
#include <limits>

#include "base/progress.h"
#include "tensor/codes_builder.h"
#include "tensor/encode_clusters.h"
#include "tensor/encode_vectors.h"

namespace skiff {
namespace {

struct EncodeJob {
    const Weight& source;
    const Grid& grid;
    Scheme scheme;
    std::span<const float> importance;
    CodesBuilder& target;
    std::atomic<bool> needs_f32_scales = false;
    std::atomic<std::int64_t> bad_row = std::numeric_limits<std::int64_t>::max();
};

struct RowScratch {
    std::vector<float> values;
    std::vector<std::uint8_t> codes;
    RowParams params;
};

void encode_row(EncodeJob& job, std::int64_t row, RowScratch& scratch) {
    const std::int64_t n_columns = job.source.n_columns();
    const std::int64_t group_size = job.scheme.group_size == 0 ? n_columns : job.scheme.group_size;
    job.source.row(row, scratch.values.data());
    if (first_non_finite(scratch.values) >= 0) {
        std::int64_t lowest = job.bad_row.load();
        while (row < lowest && !job.bad_row.compare_exchange_weak(lowest, row)) {
        }
        return;
    }
    fit_row(job.grid, job.scheme, scratch.values, job.importance, scratch.params);
    for (std::size_t group = 0; group < scratch.params.groups.size(); ++group) {
        const auto begin = static_cast<std::int64_t>(group) * group_size;
        const auto values = std::span<const float>(scratch.values).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(std::min(group_size, n_columns - begin)));
        const GroupParams& params = scratch.params.groups[group];
        if (scale_is_lost(params, job.scheme, values)) job.needs_f32_scales = true;
        job.grid.round_group(values, params, scratch.codes.data() + begin);
    }
    job.target.set_row(row, scratch.codes, scratch.params);
}

// Every thread takes an equal run of rows; rows do not know of each other.
void for_each_share(std::int64_t n_rows, ThreadPool* pool, const std::function<void(Range)>& work) {
    if (pool == nullptr) return work({0, n_rows});
    pool->run([&](int thread) { work(share_of(n_rows, thread, pool->n_threads())); });
}

Result<Weight> encode_floating(const Weight& source, const Scheme& scheme, ThreadPool* pool) {
    const DTypeInfo& info = dtype_info(scheme.dtype);
    const std::int64_t n_columns = source.n_columns();
    if (info.from_float == nullptr) return unsupported("weights cannot be rounded to " + std::string(info.name));
    auto owner = std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(source.n_rows() * n_columns * info.bits / 8));
    std::atomic<std::int64_t> bad_row = std::numeric_limits<std::int64_t>::max();
    for_each_share(source.n_rows(), pool, [&](Range rows) {
        std::vector<float> values(static_cast<std::size_t>(n_columns));
        for (std::int64_t row = rows.begin; row < rows.end; ++row) {
            source.row(row, values.data());
            if (first_non_finite(values) >= 0) {
                std::int64_t lowest = bad_row.load();
                while (row < lowest && !bad_row.compare_exchange_weak(lowest, row)) {
                }
                return;
            }
            info.from_float(values.data(), n_columns, owner->data() + row * n_columns * info.bits / 8);
        }
    });
    if (bad_row != std::numeric_limits<std::int64_t>::max()) return non_finite_error(source, bad_row);
    TensorView view{scheme.dtype, source.shape, std::span<const std::byte>(*owner)};
    return Weight{source.shape, std::move(view), std::move(owner)};
}

Status check_importance(const Weight& source, const Scheme& scheme, std::span<const float> importance) {
    const bool by_weight = scheme.kind == NumberKind::clusters && static_cast<std::int64_t>(importance.size()) == source.n_rows() * source.n_columns();
    if (!importance.empty() && !by_weight && static_cast<std::int64_t>(importance.size()) != source.n_columns())
        return usage_error("importance has " + std::to_string(importance.size()) + " values, the weight " +
                           std::to_string(source.n_columns()) + " columns");
    for (float weight : importance)
        if (!std::isfinite(weight) || weight < 0) return usage_error("importance must be finite and not negative");
    return {};
}

}  // namespace

Result<Weight> encode_nearest(const Weight& source, const Scheme& scheme, ScaleRule rule, std::span<const float> importance, ThreadPool* pool) {
    SKIFF_CHECK(check_can_encode(source, scheme));
    SKIFF_CHECK(check_importance(source, scheme, importance));
    if (scheme.kind == NumberKind::floating) return encode_floating(source, scheme, pool);
    if (scheme.kind == NumberKind::clusters) return encode_clusters(source, scheme, importance, pool);
    if (scheme.kind == NumberKind::vectors) return encode_vectors(source, scheme, importance, pool);
    const std::int64_t n_columns = source.n_columns();
    auto grid = make_grid(scheme, rule);
    CodesBuilder builder(scheme, source.n_rows(), n_columns);
    EncodeJob job{source, *grid, scheme, importance, builder};
    for_each_share(source.n_rows(), pool, [&](Range rows) {
        RowScratch scratch;
        scratch.values.resize(static_cast<std::size_t>(n_columns));
        scratch.codes.resize(static_cast<std::size_t>(n_columns));
        for (std::int64_t row = rows.begin; row < rows.end && !job.needs_f32_scales && !interrupt_requested(); ++row) encode_row(job, row, scratch);
    });
    if (interrupt_requested()) return Error{ErrorCode::interrupted, "quantization was interrupted", {}};
    if (job.needs_f32_scales) {
        Scheme wider = scheme;
        wider.scale_dtype = DType::f32;
        return encode_nearest(source, wider, rule, importance, pool);
    }
    if (job.bad_row != std::numeric_limits<std::int64_t>::max()) return non_finite_error(source, job.bad_row);
    return builder.finish();
}

}  // namespace skiff
