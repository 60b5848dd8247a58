// Rounding to nearest, row by row.
#include <atomic>
#include <cmath>
#include <limits>

#include "base/checked.h"
#include "base/progress.h"
#include "tensor/weight.h"

namespace skiff {
namespace {

constexpr float negligible = 0x1p-100f;  // as in grid.cpp: such a group has scale 0 on purpose

struct EncodeJob {
    const Weight& source;
    const Grid& grid;
    Scheme scheme;
    std::span<const float> importance;
    std::byte* packed;
    std::byte* scales;
    std::uint8_t* zeros;  // null when symmetric
    std::atomic<bool> needs_f32_scales = false;
    std::atomic<std::int64_t> bad_row = std::numeric_limits<std::int64_t>::max();
};

std::int64_t first_non_finite(std::span<const float> values) {
    // The exponent bits of NaN and infinity are all ones: an integer test, which the compiler can take several at a time.
    std::uint32_t any = 0;
    for (float value : values) any |= (std::bit_cast<std::uint32_t>(value) & 0x7f800000u) == 0x7f800000u;
    if (!any) return -1;
    for (std::size_t i = 0; i < values.size(); ++i)
        if (!std::isfinite(values[i])) return static_cast<std::int64_t>(i);
    return -1;
}

struct RowScratch {
    std::vector<float> values, scales;
    std::vector<std::uint8_t> codes;
};

void round_group(std::span<const float> group, const GroupParams& params, int bits, std::uint8_t* codes) {
    // Grid::round in a loop the compiler can vectorise; weight_test.cpp compares the two.
    const float zero = static_cast<float>(params.zero), low = -zero, high = static_cast<float>((1 << bits) - 1) - zero;
    constexpr float magic = 0x1.8p23f;
    if (params.scale == 0) {
        std::fill_n(codes, group.size(), static_cast<std::uint8_t>(params.zero));
        return;
    }
    for (std::size_t i = 0; i < group.size(); ++i) {
        float level = group[i] / params.scale;
        level = level < low ? low : level;
        level = level > high ? high : level;
        codes[i] = static_cast<std::uint8_t>(static_cast<std::int32_t>(((level + magic) - magic) + zero));
    }
}

void encode_row(EncodeJob& job, std::int64_t row, RowScratch& scratch) {
    const std::int64_t n_columns = job.source.n_columns();
    const std::int64_t n_groups = job.scheme.n_groups(n_columns);
    const std::int64_t group_size = job.scheme.group_size == 0 ? n_columns : job.scheme.group_size;
    job.source.row(row, scratch.values.data());
    if (first_non_finite(scratch.values) >= 0) {
        std::int64_t lowest = job.bad_row.load();
        while (row < lowest && !job.bad_row.compare_exchange_weak(lowest, row)) {
        }
        return;
    }
    for (std::int64_t group = 0; group < n_groups; ++group) {
        const auto begin = static_cast<std::size_t>(group * group_size);
        const auto size = static_cast<std::size_t>(std::min(n_columns, (group + 1) * group_size)) - begin;
        const auto values = std::span<const float>(scratch.values).subspan(begin, size);
        const auto importance = job.importance.empty() ? job.importance : job.importance.subspan(begin, size);
        const GroupParams params = job.grid.fit(values, importance);
        scratch.scales[static_cast<std::size_t>(group)] = params.scale;
        if (job.zeros != nullptr) job.zeros[row * n_groups + group] = static_cast<std::uint8_t>(params.zero);
        bool lost = !scale_is_storable(params.scale, job.scheme.scale_dtype, job.scheme.bits);
        if (params.scale == 0 && job.scheme.scale_dtype == DType::f16)
            for (float value : values) lost = lost || std::fabs(value) > negligible;
        if (lost) job.needs_f32_scales = true;
        round_group(values, params, job.scheme.bits, scratch.codes.data() + begin);
    }
    pack_codes(scratch.codes.data(), job.scheme.bits, n_columns, job.packed + row * packed_row_bytes(job.scheme.bits, n_columns));
    const DTypeInfo& scale_type = dtype_info(job.scheme.scale_dtype);
    scale_type.from_float(scratch.scales.data(), n_groups, job.scales + row * n_groups * scale_type.bits / 8);
}

// Every thread takes an equal run of rows; rows do not know of each other.
void for_each_share(std::int64_t n_rows, ThreadPool* pool, const std::function<void(Range)>& work) {
    if (pool == nullptr) return work({0, n_rows});
    pool->run([&](int thread) { work(share_of(n_rows, thread, pool->n_threads())); });
}

Error non_finite_error(const Weight& source, std::int64_t row) {
    std::vector<float> values(static_cast<std::size_t>(source.n_columns()));
    source.row(row, values.data());
    const std::int64_t column = std::max<std::int64_t>(0, first_non_finite(values));
    const char* what = std::isnan(values[static_cast<std::size_t>(column)]) ? "NaN" : "infinity";
    return corrupt("the weight " + shape_text(source.shape) + " holds " + what + " at row " + std::to_string(row) + ", column " +
                   std::to_string(column) + "; only finite weights can be quantized");
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

// Where each part of a quantized weight lies in one buffer.
struct CodesBuffer {
    AlignedBuffer memory;
    Codes codes;
};

std::shared_ptr<CodesBuffer> allocate_codes(const Scheme& scheme, std::int64_t n_rows, std::int64_t n_columns) {
    const std::int64_t n_groups = scheme.n_groups(n_columns);
    const std::int64_t row_bytes = packed_row_bytes(scheme.bits, n_columns);
    const auto packed_bytes = static_cast<std::size_t>(n_rows * row_bytes);
    const auto scale_bytes = static_cast<std::size_t>(n_rows * n_groups * dtype_info(scheme.scale_dtype).bits / 8);
    const auto zero_bytes = scheme.symmetric ? 0 : static_cast<std::size_t>(n_rows * n_groups);
    const std::size_t scales_at = round_up<std::size_t>(packed_bytes, 64), zeros_at = round_up<std::size_t>(scales_at + scale_bytes, 64);
    auto buffer = std::make_shared<CodesBuffer>();
    buffer->memory = AlignedBuffer(zeros_at + zero_bytes);
    const std::span<const std::byte> bytes(buffer->memory.data(), zeros_at + zero_bytes);
    buffer->codes.scheme = scheme;
    buffer->codes.packed = {DType::i32, {n_rows, row_bytes / 4}, bytes.subspan(0, packed_bytes)};
    buffer->codes.scales = {scheme.scale_dtype, {n_rows, n_groups}, bytes.subspan(scales_at, scale_bytes)};
    if (!scheme.symmetric) buffer->codes.zeros = {DType::u8, {n_rows, n_groups}, bytes.subspan(zeros_at, zero_bytes)};
    return buffer;
}

Status check_request(const Weight& source, const Scheme& scheme, std::span<const float> importance) {
    if (const auto* view = source.plain(); view != nullptr && dtype_info(view->dtype).to_float == nullptr)
        return unsupported("a weight of type " + std::string(dtype_info(view->dtype).name) + " has no float values to quantize");
    if (scheme.kind == NumberKind::floating) return {};
    if (source.shape.size() != 2)
        return usage_error("only a matrix can be quantized to " + scheme.name() + "; this weight is " + shape_text(source.shape));
    if (scheme.bits < 1 || scheme.bits > 8 || scheme.group_size < 0)
        return usage_error("a scheme has 1 to 8 bits and a group size of 0 or more, not " + std::to_string(scheme.bits) + " and " +
                           std::to_string(scheme.group_size));
    if (scheme.scale_dtype != DType::f16 && scheme.scale_dtype != DType::bf16 && scheme.scale_dtype != DType::f32)
        return usage_error("scales are F16, BF16 or F32, not " + std::string(dtype_info(scheme.scale_dtype).name));
    if (scheme.kind == NumberKind::codebook || scheme.minimums) return unsupported("weights cannot be quantized to " + scheme.name() + " yet");
    if (!importance.empty() && static_cast<std::int64_t>(importance.size()) != source.n_columns())
        return usage_error("importance has " + std::to_string(importance.size()) + " values, the weight " +
                           std::to_string(source.n_columns()) + " columns");
    for (float weight : importance)
        if (!std::isfinite(weight) || weight < 0) return usage_error("importance must be finite and not negative");
    return {};
}

}  // namespace

Result<Weight> encode_nearest(const Weight& source, const Scheme& scheme, ScaleRule rule, std::span<const float> importance, ThreadPool* pool) {
    SKIFF_CHECK(check_request(source, scheme, importance));
    if (scheme.kind == NumberKind::floating) return encode_floating(source, scheme, pool);
    const std::int64_t n_columns = source.n_columns();
    auto grid = make_grid(scheme, rule);
    auto buffer = allocate_codes(scheme, source.n_rows(), n_columns);
    EncodeJob job{source, *grid, scheme, importance, buffer->memory.data(), nullptr, nullptr};
    job.scales = job.packed + (buffer->codes.scales.data.data() - buffer->memory.data());
    if (!scheme.symmetric) job.zeros = reinterpret_cast<std::uint8_t*>(job.packed + (buffer->codes.zeros.data.data() - buffer->memory.data()));
    for_each_share(source.n_rows(), pool, [&](Range rows) {
        RowScratch scratch;
        scratch.values.resize(static_cast<std::size_t>(n_columns));
        scratch.codes.resize(static_cast<std::size_t>(n_columns));
        scratch.scales.resize(static_cast<std::size_t>(scheme.n_groups(n_columns)));
        for (std::int64_t row = rows.begin; row < rows.end && !job.needs_f32_scales && !interrupt_requested(); ++row) encode_row(job, row, scratch);
    });
    if (interrupt_requested()) return Error{ErrorCode::interrupted, "quantization was interrupted", {}};
    if (job.needs_f32_scales) {
        Scheme wider = scheme;
        wider.scale_dtype = DType::f32;
        return encode_nearest(source, wider, rule, importance, pool);
    }
    if (job.bad_row != std::numeric_limits<std::int64_t>::max()) return non_finite_error(source, job.bad_row);
    Codes codes = buffer->codes;
    return Weight{source.shape, std::move(codes), std::move(buffer)};
}

}  // namespace skiff
