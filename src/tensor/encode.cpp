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

// Where each section of a quantized weight lies in one buffer.
struct CodesBuffer {
    AlignedBuffer memory;
    CodeRowBytes row_bytes;
    std::byte *packed = nullptr, *scales = nullptr, *zeros = nullptr, *super_scales = nullptr;
    Codes codes;
};

struct EncodeJob {
    const Weight& source;
    const Grid& grid;
    Scheme scheme;
    std::span<const float> importance;
    CodesBuffer& target;
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
    RowParams params;
};

// Whether a group's f16 scale lost what the weights are.
bool scale_is_lost(const GroupParams& params, const Scheme& scheme, std::span<const float> values) {
    // A codebook's search knows how scales are rounded, so that only one that f16 has not at all is lost.
    bool lost = scheme.kind == NumberKind::integer ? !scale_is_storable(params.scale, scheme.scale_dtype, scheme.bits)
                                                   : scheme.scale_dtype == DType::f16 && std::fabs(params.scale) >= 65504;
    if (params.scale == 0 && scheme.scale_dtype == DType::f16)
        for (float value : values) lost = lost || std::fabs(value) > negligible;
    return lost;
}

void store_scales(const EncodeJob& job, std::int64_t row, RowScratch& scratch) {
    const CodesBuffer& target = job.target;
    const bool relative = job.scheme.relative_scales();
    for (std::size_t group = 0; group < scratch.params.groups.size(); ++group) {
        const GroupParams& params = scratch.params.groups[group];
        scratch.scales[group] = relative ? static_cast<float>(params.scale_code) : params.scale;
        if (target.row_bytes.zeros > 0) target.zeros[row * target.row_bytes.zeros + static_cast<std::int64_t>(group)] = static_cast<std::byte>(params.zero);
    }
    const auto store = [row](DType dtype, const std::vector<float>& values, std::byte* section, std::int64_t row_bytes) {
        if (row_bytes > 0) dtype_info(dtype).from_float(values.data(), static_cast<std::int64_t>(values.size()), section + row * row_bytes);
    };
    store(job.scheme.scale_dtype, scratch.scales, target.scales, target.row_bytes.scales);
    store(job.scheme.super_dtype, scratch.params.super_scales, target.super_scales, target.row_bytes.super_scales);
}

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
    pack_codes(scratch.codes.data(), job.scheme.bits, n_columns, job.target.packed + row * job.target.row_bytes.packed);
    store_scales(job, row, scratch);
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

std::shared_ptr<CodesBuffer> allocate_codes(const Scheme& scheme, std::int64_t n_rows, std::int64_t n_columns) {
    const std::int64_t n_groups = scheme.n_groups(n_columns);
    auto buffer = std::make_shared<CodesBuffer>();
    const CodeRowBytes& bytes = buffer->row_bytes = code_row_bytes(scheme, n_columns);
    std::size_t n_bytes = 0;
    const auto place = [&](std::int64_t row_bytes) {
        const std::size_t at = n_bytes;
        n_bytes = round_up<std::size_t>(at + static_cast<std::size_t>(n_rows * row_bytes), 64);
        return at;
    };
    const std::size_t packed_at = place(bytes.packed), scales_at = place(bytes.scales), zeros_at = place(bytes.zeros), supers_at = place(bytes.super_scales);
    buffer->memory = AlignedBuffer(n_bytes);
    buffer->packed = buffer->memory.data() + packed_at;
    buffer->scales = buffer->memory.data() + scales_at;
    buffer->zeros = buffer->memory.data() + zeros_at;
    buffer->super_scales = buffer->memory.data() + supers_at;
    const auto view = [n_rows](DType dtype, std::int64_t n_items, const std::byte* section, std::int64_t row_bytes) {
        return TensorView{dtype, {n_rows, n_items}, {section, static_cast<std::size_t>(n_rows * row_bytes)}};
    };
    buffer->codes.scheme = scheme;
    buffer->codes.packed = view(DType::i32, bytes.packed / 4, buffer->packed, bytes.packed);
    buffer->codes.scales = view(scheme.scale_dtype, n_groups, buffer->scales, bytes.scales);
    if (scheme.stores_zeros()) buffer->codes.zeros = view(DType::u8, n_groups, buffer->zeros, bytes.zeros);
    if (scheme.relative_scales()) buffer->codes.super_scales = view(scheme.super_dtype, scheme.n_supers(n_columns), buffer->super_scales, bytes.super_scales);
    return buffer;
}

// Which types scales may have when they are chosen here: others are only read.
bool scales_can_be_chosen(const Scheme& scheme) {
    const DType dtype = scheme.scale_dtype;
    const bool fine = dtype == DType::f16 || dtype == DType::bf16 || dtype == DType::f32 || (dtype == DType::f8_e8m0 && scheme.kind == NumberKind::codebook);
    const bool supers = scheme.group_size > 0 && scheme.super_size % scheme.group_size == 0 && (scheme.super_dtype == DType::f32 || scheme.super_dtype == DType::f16);
    return fine || (dtype == DType::i8 && supers);
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
    if (scheme.minimums) return unsupported("weights with minimums (" + scheme.name() + ") are read from GGUF files, not made; take " +
                                            "a scheme with zeros, such as w4g32a");
    if (!scales_can_be_chosen(scheme)) return usage_error("scales of type " + std::string(dtype_info(scheme.scale_dtype).name) + " cannot be chosen for " + scheme.name());
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
    EncodeJob job{source, *grid, scheme, importance, *buffer};
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
