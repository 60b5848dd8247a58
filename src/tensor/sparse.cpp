#include "tensor/sparse.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/checked.h"
#include "tensor/weight.h"

namespace skiff {
namespace {

constexpr std::int64_t max_unit = 1 << 16;

// A code out of one stream of `bits`-wide codes.
int code_at(const std::byte* stream, std::int64_t size_bytes, int bits, std::int64_t index) {
    const std::int64_t bit = index * bits, byte = bit / 8;
    unsigned pair = std::to_integer<unsigned>(stream[byte]);
    if (bit % 8 + bits > 8 && byte + 1 < size_bytes) pair |= std::to_integer<unsigned>(stream[byte + 1]) << 8;
    return static_cast<int>(pair >> (bit % 8) & ((1u << bits) - 1));
}

void put_code(std::byte* stream, int bits, std::int64_t index, int code) {
    const std::int64_t bit = index * bits, byte = bit / 8;
    const unsigned moved = static_cast<unsigned>(code) << (bit % 8);
    stream[byte] |= static_cast<std::byte>(moved & 255);
    if (moved > 255) stream[byte + 1] |= static_cast<std::byte>(moved >> 8);
}

// Calls f(column, index of its value) for what a row keeps, in order of columns.
template <class F>
void for_each_kept(const Sparse& sparse, std::int64_t row, std::int64_t n_columns, F f) {
    const SparsePattern& pattern = sparse.pattern;
    const std::int64_t unit_row = row / pattern.unit_rows, n_units = pattern.n_unit_columns(n_columns), in_unit = row % pattern.unit_rows * pattern.unit_columns;
    std::int64_t index = sparse.begins[static_cast<std::size_t>(unit_row)] + in_unit;
    for (std::int64_t unit = 0; unit < n_units; ++unit) {
        if (!sparse.keeps(unit_row, unit)) continue;
        const std::int64_t first = unit * pattern.unit_columns, n = std::min(pattern.unit_columns, n_columns - first);
        for (std::int64_t i = 0; i < n; ++i) f(first + i, index + i);
        index += pattern.unit_values();
    }
}

struct SparseOwner {
    std::vector<std::byte> bitmask, values;
    std::vector<std::int64_t> begins;
    std::shared_ptr<const void> source;  // of the scales
};

}  // namespace

std::string SparsePattern::name() const {
    if (m > 0) return std::to_string(n) + ":" + std::to_string(m);
    if (unit_rows == 1 && unit_columns == 1) return "single weights";
    return (unit_columns > 1 ? "block" : "") + std::to_string(unit_rows) + "x" + std::to_string(unit_columns);
}

std::optional<int> zero_code(const Scheme& scheme) {
    if (scheme.kind == NumberKind::integer && scheme.symmetric && !scheme.minimums) return 1 << (scheme.bits - 1);
    if (scheme.kind != NumberKind::codebook || scheme.codebook == nullptr) return std::nullopt;
    for (std::size_t code = 0; code < scheme.codebook->levels.size(); ++code)
        if (scheme.codebook->levels[code] == 0) return static_cast<int>(code);
    return std::nullopt;
}

Status sparse_defined_on(const Scheme& scheme) {
    if (!scheme.is_coded()) {
        if (scheme.dtype == DType::f32 || scheme.dtype == DType::f16 || scheme.dtype == DType::bf16) return {};
        return unsupported("weights of type " + scheme.name() + " cannot be stored sparse; take fp32, fp16, bf16 or codes");
    }
    if (scheme.scale_book != nullptr) return unsupported("weights whose scales come out of a table (" + scheme.name() + ") are not stored sparse; take w4g32r");
    if (scheme.scale_dtype == DType::f8_e8m0) return unsupported("weights with power-of-two scales (" + scheme.name() + ") are not stored sparse; take w4g32r");
    if (!decodes(scheme) || !zero_code(scheme))
        return unsupported("the scheme " + scheme.name() + " has no code for zero that all its groups share, which pruned weights need; take a symmetric integer one, such as w8g32 or w4g32r");
    return {};
}

std::int64_t sparse_value_bytes(const Scheme& scheme, std::int64_t n_values) {
    return scheme.is_coded() ? ceil_div<std::int64_t>(n_values * scheme.bits, 8) : n_values * dtype_info(scheme.dtype).bits / 8;
}

Status check_pattern(const SparsePattern& pattern) {
    const bool units = pattern.unit_rows >= 1 && pattern.unit_rows <= max_unit && pattern.unit_columns >= 1 && pattern.unit_columns <= max_unit;
    const bool share = pattern.m == 0 ? pattern.n == 0 : pattern.n >= 1 && pattern.n <= pattern.m && pattern.m <= max_unit;
    if (units && share) return {};
    return corrupt("a sparse pattern of units of " + std::to_string(pattern.unit_rows) + " x " + std::to_string(pattern.unit_columns) + ", " + std::to_string(pattern.n) + " of every " +
                   std::to_string(pattern.m) + " kept, is none");
}

Result<std::vector<std::int64_t>> sparse_begins(const SparsePattern& pattern, const TensorView& bitmask, std::int64_t n_rows, std::int64_t n_columns) {
    SKIFF_CHECK(check_pattern(pattern));
    const std::int64_t n_unit_rows = pattern.n_unit_rows(n_rows), n_units = pattern.n_unit_columns(n_columns), row_bytes = pattern.mask_row_bytes(n_columns);
    if (bitmask.dtype != DType::u8 || bitmask.shape != Shape{n_unit_rows, row_bytes})
        return corrupt("the bitmask is " + std::string(dtype_info(bitmask.dtype).name) + " " + shape_text(bitmask.shape) + ", expected U8 " + shape_text({n_unit_rows, row_bytes}));
    std::vector<std::int64_t> begins = {0};
    begins.reserve(static_cast<std::size_t>(n_unit_rows) + 1);
    for (std::int64_t row = 0; row < n_unit_rows; ++row) {
        const std::byte* bits = bitmask.data.data() + row * row_bytes;
        const auto bit = [bits](std::int64_t unit) { return std::to_integer<unsigned>(bits[unit / 8]) >> (unit % 8) & 1; };
        std::int64_t n_kept = 0;
        for (std::int64_t byte = 0; byte < row_bytes; ++byte) n_kept += std::popcount(std::to_integer<unsigned>(bits[byte]));
        if (n_units % 8 != 0 && std::to_integer<unsigned>(bits[row_bytes - 1]) >> (n_units % 8) != 0)
            return corrupt("row " + std::to_string(row) + " of the bitmask keeps units behind the last, number " + std::to_string(n_units));
        for (std::int64_t first = 0; pattern.m > 0 && first < n_units; first += pattern.m) {
            std::int64_t in_group = 0;
            for (std::int64_t unit = first; unit < std::min(n_units, first + pattern.m); ++unit) in_group += bit(unit);
            if (in_group > pattern.n)
                return corrupt("row " + std::to_string(row) + " of the bitmask keeps " + std::to_string(in_group) + " of the " + std::to_string(pattern.m) + " weights from " + std::to_string(first) +
                               " on, but the pattern is " + pattern.name());
        }
        const auto values = checked_mul(n_kept, pattern.unit_values());
        const auto end = values ? checked_add(begins.back(), *values) : std::nullopt;
        if (!end) return corrupt("the bitmask keeps more values than can be counted");
        begins.push_back(*end);
    }
    return begins;
}

Status check_outliers(const Outliers& outliers, std::int64_t n_rows, std::int64_t n_columns) {
    const std::int64_t n = outliers.values.n_elements();
    const bool types = dtype_info(outliers.values.dtype).is_float && dtype_info(outliers.values.dtype).to_float != nullptr && outliers.columns.dtype == DType::i32 && outliers.rows.dtype == DType::i64;
    if (!types || outliers.columns.shape != Shape{n} || outliers.values.shape != Shape{n} || outliers.rows.shape != Shape{n_rows + 1})
        return corrupt("outliers need values of a float type, as many columns in I32, and " + std::to_string(n_rows + 1) + " row begins in I64; found " + shape_text(outliers.values.shape) + ", " +
                       shape_text(outliers.columns.shape) + " and " + shape_text(outliers.rows.shape));
    std::int64_t begin = 0;
    std::memcpy(&begin, outliers.rows.data.data(), 8);
    if (begin != 0) return corrupt("the first row of outliers begins at " + std::to_string(begin));
    for (std::int64_t row = 0; row < n_rows; ++row) {
        std::int64_t end;
        std::memcpy(&end, outliers.rows.data.data() + (row + 1) * 8, 8);
        if (end < begin || end > n) return corrupt("row " + std::to_string(row) + " of outliers ends at " + std::to_string(end) + " of " + std::to_string(n));
        std::int64_t last = -1;
        for (std::int64_t i = begin; i < end; ++i) {
            std::int32_t column;
            std::memcpy(&column, outliers.columns.data.data() + i * 4, 4);
            if (column <= last || column >= n_columns)
                return corrupt("row " + std::to_string(row) + " of outliers has column " + std::to_string(column) + " behind " + std::to_string(last) + ", of " + std::to_string(n_columns));
            last = column;
        }
        begin = end;
    }
    if (begin != n) return corrupt("the last row of outliers ends at " + std::to_string(begin) + " of " + std::to_string(n));
    return {};
}

void sparse_row_codes(const Sparse& sparse, std::int64_t row, std::int64_t n_columns, std::uint8_t* codes, std::uint8_t* kept) {
    std::fill_n(codes, n_columns, static_cast<std::uint8_t>(*zero_code(sparse.scheme)));
    if (kept != nullptr) std::fill_n(kept, n_columns, std::uint8_t{0});
    const std::byte* stream = sparse.values.data.data();
    const auto size = static_cast<std::int64_t>(sparse.values.data.size());
    for_each_kept(sparse, row, n_columns, [&](std::int64_t column, std::int64_t index) {
        codes[column] = static_cast<std::uint8_t>(code_at(stream, size, sparse.scheme.bits, index));
        if (kept != nullptr) kept[column] = 1;
    });
}

void decode_sparse_row(const Sparse& sparse, std::int64_t row, std::int64_t n_columns, float* target) {
    const Scheme& scheme = sparse.scheme;
    if (!scheme.is_coded()) {
        std::fill_n(target, n_columns, 0.0f);
        const DTypeInfo& info = dtype_info(scheme.dtype);
        const std::int64_t size = info.bits / 8;
        for_each_kept(sparse, row, n_columns, [&](std::int64_t column, std::int64_t index) { info.to_float(sparse.values.data.data() + index * size, 1, target + column); });
        return;
    }
    // Through the dense form of the row, so that both decode to the same bits.
    thread_local std::vector<std::uint8_t> codes;
    thread_local std::vector<std::byte> packed;
    codes.resize(static_cast<std::size_t>(n_columns));
    const CodeRowBytes bytes = code_row_bytes(scheme, n_columns);
    packed.assign(static_cast<std::size_t>(bytes.packed), std::byte{0});
    sparse_row_codes(sparse, row, n_columns, codes.data(), nullptr);
    pack_codes(codes.data(), scheme.bits, n_columns, packed.data());
    CodeSections sections;
    sections.packed = packed.data();
    sections.scales = sparse.scales.data.data() + row * bytes.scales;
    if (scheme.relative_scales()) sections.super_scales = sparse.super_scales.data.data() + row * bytes.super_scales;
    decode_codes_row(scheme, sections, 0, n_columns, target);
    for (std::int64_t column = 0; column < n_columns; ++column) target[column] += 0.0f;  // under a negative scale zeros would be negative
}

void decode_outlier_row(const Outliers& outliers, std::int64_t row, std::int64_t n_columns, float* target) {
    std::fill_n(target, n_columns, 0.0f);
    std::int64_t ends[2];
    std::memcpy(ends, outliers.rows.data.data() + row * 8, sizeof ends);
    const DTypeInfo& info = dtype_info(outliers.values.dtype);
    for (std::int64_t i = ends[0]; i < ends[1]; ++i) {
        std::int32_t column;
        std::memcpy(&column, outliers.columns.data.data() + i * 4, 4);
        info.to_float(outliers.values.data.data() + i * info.bits / 8, 1, target + column);
    }
}

std::vector<std::byte> full_bitmask(const SparsePattern& pattern, std::int64_t n_rows, std::int64_t n_columns) {
    const std::int64_t n_units = pattern.n_unit_columns(n_columns), row_bytes = pattern.mask_row_bytes(n_columns);
    std::vector<std::byte> bits(static_cast<std::size_t>(pattern.n_unit_rows(n_rows) * row_bytes), std::byte{255});
    for (std::int64_t row = 0; n_units % 8 != 0 && row < pattern.n_unit_rows(n_rows); ++row)
        bits[static_cast<std::size_t>((row + 1) * row_bytes - 1)] = static_cast<std::byte>((1u << (n_units % 8)) - 1);
    return bits;
}

Result<Weight> make_sparse(const Weight& dense, const SparsePattern& pattern, std::vector<std::byte> bitmask) {
    if (dense.shape.size() != 2) return usage_error("only a matrix can be stored sparse; this weight is " + shape_text(dense.shape));
    const std::int64_t n_rows = dense.n_rows(), n_columns = dense.n_columns();
    auto owner = std::make_shared<SparseOwner>();
    owner->bitmask = std::move(bitmask);
    owner->source = dense.owner;
    Sparse sparse;
    sparse.pattern = pattern;
    sparse.bitmask = {DType::u8, {pattern.n_unit_rows(n_rows), pattern.mask_row_bytes(n_columns)}, owner->bitmask};
    SKIFF_TRY(owner->begins, sparse_begins(pattern, sparse.bitmask, n_rows, n_columns));
    sparse.begins = owner->begins;
    const Codes* codes = dense.codes();
    if (codes == nullptr && dense.plain() == nullptr) return unsupported("a weight of " + dense.encoding_name() + " cannot be stored sparse; quantize it to a scheme of codes");
    if (codes != nullptr) sparse.scheme = codes->scheme, sparse.scales = codes->scales, sparse.super_scales = codes->super_scales;
    else sparse.scheme = {NumberKind::floating, dense.plain()->dtype, dtype_info(dense.plain()->dtype).bits};
    SKIFF_CHECK(sparse_defined_on(sparse.scheme));
    const std::int64_t n_values = sparse.n_values(), n_bytes = sparse_value_bytes(sparse.scheme, n_values);
    owner->values.resize(static_cast<std::size_t>(n_bytes));
    // Units at the edge are whole in the file: what lies beyond the matrix is zero there.
    const std::int64_t all_rows = pattern.n_unit_rows(n_rows) * pattern.unit_rows, all_columns = pattern.n_unit_columns(n_columns) * pattern.unit_columns;
    if (codes != nullptr) {
        const auto zero = static_cast<std::uint8_t>(*zero_code(sparse.scheme));
        std::vector<std::uint8_t> row_codes(static_cast<std::size_t>(all_columns));
        const std::int64_t row_bytes = packed_row_bytes(codes->scheme.bits, n_columns);
        for (std::int64_t row = 0; row < all_rows; ++row) {
            std::fill(row_codes.begin(), row_codes.end(), zero);
            if (row < n_rows) unpack_codes(codes->packed.data.data() + row * row_bytes, codes->scheme.bits, n_columns, row_codes.data());
            for_each_kept(sparse, row, all_columns,
                          [&](std::int64_t column, std::int64_t index) { put_code(owner->values.data(), codes->scheme.bits, index, row_codes[static_cast<std::size_t>(column)]); });
        }
    } else {
        const std::int64_t size = dtype_info(sparse.scheme.dtype).bits / 8;
        for (std::int64_t row = 0; row < n_rows; ++row) {
            const std::byte* from = dense.plain()->data.data() + row * n_columns * size;
            for_each_kept(sparse, row, n_columns,
                          [&](std::int64_t column, std::int64_t index) { std::memcpy(owner->values.data() + index * size, from + column * size, static_cast<std::size_t>(size)); });
        }
    }
    const bool coded = codes != nullptr;
    sparse.values = {coded ? DType::u8 : sparse.scheme.dtype, {coded ? n_bytes : n_values}, owner->values};
    return Weight{dense.shape, std::move(sparse), std::move(owner)};
}

Weight densified(const Weight& weight) {
    const Sparse& sparse = *weight.sparse();
    const std::int64_t n_rows = weight.n_rows(), n_columns = weight.n_columns();
    if (!sparse.scheme.is_coded()) {
        const DTypeInfo& info = dtype_info(sparse.scheme.dtype);
        std::vector<std::byte> bytes(static_cast<std::size_t>(n_rows * n_columns * info.bits / 8));
        const std::int64_t size = info.bits / 8;
        for (std::int64_t row = 0; row < n_rows; ++row)
            for_each_kept(sparse, row, n_columns, [&](std::int64_t column, std::int64_t index) {
                std::memcpy(bytes.data() + (row * n_columns + column) * size, sparse.values.data.data() + index * size, static_cast<std::size_t>(size));
            });
        return make_plain_weight(weight.shape, sparse.scheme.dtype, std::move(bytes));
    }
    auto owner = std::make_shared<SparseOwner>();
    owner->source = weight.owner;
    const std::int64_t row_bytes = packed_row_bytes(sparse.scheme.bits, n_columns);
    owner->values.resize(static_cast<std::size_t>(n_rows * row_bytes));
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(n_columns));
    for (std::int64_t row = 0; row < n_rows; ++row) {
        sparse_row_codes(sparse, row, n_columns, codes.data(), nullptr);
        pack_codes(codes.data(), sparse.scheme.bits, n_columns, owner->values.data() + row * row_bytes);
    }
    Codes dense{sparse.scheme, {DType::i32, {n_rows, row_bytes / 4}, owner->values}, sparse.scales};
    dense.super_scales = sparse.super_scales;
    return Weight{weight.shape, std::move(dense), std::move(owner)};
}

Weight make_outliers(Shape shape, DType dtype, const std::vector<float>& values, std::vector<std::int32_t> columns, std::vector<std::int64_t> rows) {
    struct Owner {
        std::vector<std::byte> values;
        std::vector<std::int32_t> columns;
        std::vector<std::int64_t> rows;
    };
    auto owner = std::make_shared<Owner>();
    const auto n = static_cast<std::int64_t>(values.size());
    owner->values.resize(values.size() * static_cast<std::size_t>(dtype_info(dtype).bits) / 8);
    dtype_info(dtype).from_float(values.data(), n, owner->values.data());
    owner->columns = std::move(columns);
    owner->rows = std::move(rows);
    Outliers outliers{{dtype, {n}, owner->values},
                      {DType::i32, {n}, std::as_bytes(std::span<const std::int32_t>(owner->columns))},
                      {DType::i64, {static_cast<std::int64_t>(owner->rows.size())}, std::as_bytes(std::span<const std::int64_t>(owner->rows))}};
    return Weight{std::move(shape), std::move(outliers), std::move(owner)};
}

}  // namespace skiff
