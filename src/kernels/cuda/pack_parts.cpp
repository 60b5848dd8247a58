#include "kernels/cuda/pack_parts.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/checked.h"
#include "kernels/cuda/two_of_four.h"
#include "tensor/blocks_to_codes.h"

namespace skiff::cuda {
namespace {

bool is_bf16(float x) { return (float_bits(x) & 0xffffu) == 0; }
int log2_of(std::int64_t n) { return n > 0 && std::has_single_bit(static_cast<std::uint64_t>(n)) ? std::countr_zero(static_cast<std::uint64_t>(n)) : -1; }

CodeForm plain_form(DType dtype) {
    switch (dtype) {
        case DType::bf16: return CodeForm::bf16;
        case DType::f16: return CodeForm::f16;
        default: return CodeForm::f32;
    }
}

// Supers that a unit of any form lies within.
bool supers_fit(const Scheme& scheme) { return scheme.super_size == 0 || (log2_of(scheme.super_size) >= 8 && log2_of(scheme.super_size) < 31); }
bool keeps_relative(const Scheme& scheme) { return scheme.relative_scales() && !scheme.stores_zeros() && supers_fit(scheme); }

ParamForm param_form(const Scheme& scheme) {
    if (keeps_relative(scheme)) return scheme.minimums ? ParamForm::r8m8 : ParamForm::r8;
    const bool half = scheme.scale_dtype == DType::f16 || scheme.scale_dtype == DType::bf16 || scheme.scale_dtype == DType::f8_e8m0;
    if (scheme.minimums) return half && scheme.scale_dtype != DType::f8_e8m0 ? ParamForm::s16m16 : ParamForm::s32m32;
    if (scheme.stores_zeros()) return half ? ParamForm::s16z16 : ParamForm::s32z32;
    return half ? ParamForm::s16 : ParamForm::s32;
}

// Levels of a shared table as two parts each; whether the first part is all.
bool fill_table(std::span<const float> levels, int n_codes, std::vector<std::uint32_t>& table) {
    bool exact = true;
    for (int code = 0; code < n_codes; ++code) {
        const float level = levels[std::min<std::size_t>(static_cast<std::size_t>(code), levels.size() - 1)];
        exact = exact && is_bf16(level);
        table.push_back(split_bf16(level));
    }
    return exact;
}

// The power of two whose multiples of -128 .. 127 all levels are; 0: there is none.
float byte_step(std::span<const float> levels) {
    for (const float step : {1.0f, 0.5f, 0.25f, 0.125f})
        if (std::all_of(levels.begin(), levels.end(), [step](float level) { return level / step == std::nearbyint(level / step) && level / step >= -128 && level / step <= 127; })) return step;
    return 0;
}

std::vector<float> cluster_levels(const Codes& codes, std::int64_t row) {
    std::vector<float> levels(static_cast<std::size_t>(codes.scheme.n_levels));
    const std::int64_t bytes = std::int64_t{codes.scheme.n_levels} * dtype_info(codes.scheme.scale_dtype).bits / 8;
    dtype_info(codes.scheme.scale_dtype).to_float(codes.scales.data.data() + row * bytes, codes.scheme.n_levels, levels.data());
    return levels;
}

CodeForm table_form(int bits) { return bits == 1 ? CodeForm::table1 : bits == 2 ? CodeForm::table2 : bits == 3 ? CodeForm::table3 : bits == 4 ? CodeForm::table4 : CodeForm::table8; }

// False: the kernels do not know such codes.
bool coded_source(const Codes& codes, GpuSource& source) {
    const Scheme& scheme = codes.scheme;
    GpuWeight& shape = source.shape;
    if (!decodes(scheme)) return false;
    const int group_log2 = scheme.group_size == 0 ? 31 : log2_of(scheme.group_size);
    if (group_log2 < 4) return false;
    if (scheme.kind == NumberKind::clusters) {
        if (scheme.group_size != 0 || (!scheme.one_table && scheme.bits > 4)) return false;
        shape.form = table_form(scheme.bits);
        shape.table_per_row = !scheme.one_table;
        shape.table_exact = scheme.one_table && fill_table(cluster_levels(codes, 0), 1 << code_bits(shape.form), source.table);
        return true;
    }
    if (scheme.kind == NumberKind::vectors) {  // no kernel here looks words up: what the entries add to is a whole number of a byte
        shape.form = CodeForm::linear8;
        shape.half = 128;
    } else if (scheme.kind == NumberKind::codebook) {
        if (scheme.codebook->is_float8()) {
            shape.form = scheme.codebook->name == "e4m3" ? CodeForm::e4m3 : CodeForm::e5m2;
        } else {
            shape.form = table_form(scheme.bits);
            shape.table_exact = fill_table(scheme.codebook->levels, 1 << code_bits(shape.form), source.table);
            shape.table_step = byte_step(scheme.codebook->levels);
        }
    } else {
        constexpr CodeForm forms[] = {CodeForm::linear1, CodeForm::linear2, CodeForm::linear3, CodeForm::linear4, CodeForm::linear5, CodeForm::linear6, CodeForm::linear8, CodeForm::linear8};
        shape.form = forms[scheme.bits - 1];
        shape.half = static_cast<float>(1 << (scheme.bits - 1));
    }
    shape.group_log2 = group_log2;
    if (scheme.group_size == 0 && !scheme.relative_scales() && !scheme.minimums && !scheme.stores_zeros()) {
        source.row_scales = RowScales::yes;
        return true;
    }
    shape.params = param_form(scheme);
    shape.param_float = scheme.scale_dtype == DType::f16 ? Float16Form::f16 : Float16Form::bf16;
    shape.relative_unsigned = scheme.scale_dtype == DType::u8 && scheme.scale_book == nullptr;
    if (has_supers(shape.params) && scheme.super_size != 0) shape.super_log2 = log2_of(scheme.super_size);
    return true;
}

void vector_codes(const Codes& stored, std::int64_t row, std::int64_t n_columns, std::uint8_t* codes) {
    const Scheme& scheme = stored.scheme;
    const std::int64_t n_stored = scheme.n_codes(n_columns);
    std::vector<std::uint16_t> entries(static_cast<std::size_t>(n_stored));
    unpack_wide_codes(stored.packed.data.data() + row * packed_row_bytes(scheme.bits, n_stored), scheme.bits, n_stored, entries.data());
    const auto* books = reinterpret_cast<const std::int8_t*>(stored.books.data.data());
    for (std::int64_t c = 0; c < n_columns; ++c) {
        int sum = 0;
        for (int book = 0; book < scheme.n_books; ++book)
            sum += books[(std::int64_t{book} * scheme.n_levels + entries[static_cast<std::size_t>(c / scheme.vector * scheme.n_books + book)]) * scheme.vector + c % scheme.vector];
        codes[c] = static_cast<std::uint8_t>(sum);
    }
}

bool keeps_two_of_four(const SparsePattern& pattern) {
    if (pattern.unit_rows != 1 || pattern.unit_columns != 1 || pattern.n < 1) return false;
    return pattern.m == 4 ? pattern.n <= 2 : pattern.m == 2 && pattern.n == 1;
}

// Halves what counts columns, where the kernels know the form and no step has columns of two groups.
bool as_two_of_four(GpuWeight& shape) {
    if (!takes_two_of_four(shape.form) || has_offset(shape.params) || shape.group_log2 < 5) return false;
    shape.two_of_four = true;
    if (shape.group_log2 < 31) --shape.group_log2;
    if (shape.super_log2 < 31) --shape.super_log2;
    return true;
}

template <class T>
void put(unsigned char* record, int i, T value) {
    std::memcpy(record + i * static_cast<int>(sizeof value), &value, sizeof value);
}

}  // namespace

GpuSource gpu_source(const RowSource& from) {
    GpuSource source;
    source.weight = from.weight;
    source.rows = from.rows;
    if (from.weight->blocks() != nullptr) {
        if (auto codes = codes_of_blocks(*from.weight)) source.owned = std::make_shared<Weight>(std::move(*codes));
    } else if (from.weight->sparse() != nullptr) {
        source.owned = std::make_shared<Weight>(densified(*from.weight));
        source.two_of_four = keeps_two_of_four(from.weight->sparse()->pattern);
    } else if (from.weight->hashed() != nullptr) {
        source.owned = std::make_shared<Weight>(written_out(*from.weight));
    }
    if (source.owned != nullptr) source.weight = source.owned.get();
    if (const TensorView* view = source.weight->plain()) {
        source.shape.form = plain_form(view->dtype);
    } else if (const Codes* codes = source.weight->codes()) {
        if (!coded_source(*codes, source)) {
            const DType dtype = codes->scheme.kind == NumberKind::clusters ? codes->scheme.scale_dtype : DType::f32;
            source.shape = {};
            source.table.clear();
            source.shape.form = plain_form(dtype);
        }
    } else if (const Outliers* outliers = source.weight->outliers()) {
        source.shape.form = plain_form(outliers->values.dtype);
    } else {
        source.shape.form = CodeForm::f32;
    }
    source.two_of_four = source.two_of_four && as_two_of_four(source.shape);
    return source;
}

bool merges(const GpuSource& a, const GpuSource& b) {
    const GpuWeight &x = a.shape, &y = b.shape;
    return x.form == y.form && x.two_of_four == y.two_of_four && x.params == y.params && x.param_float == y.param_float && x.relative_unsigned == y.relative_unsigned && x.table_per_row == y.table_per_row && x.table_exact == y.table_exact && x.half == y.half &&
           x.group_log2 == y.group_log2 && x.super_log2 == y.super_log2 && a.row_scales == b.row_scales && a.table == b.table && a.weight->n_columns() == b.weight->n_columns();
}

std::uint8_t zero_code_of(const GpuWeight& shape) {
    if (!is_linear(shape.form)) return 0;
    return shape.form == CodeForm::linear8 ? 0 : static_cast<std::uint8_t>(1 << (code_bits(shape.form) - 1));
}

void row_codes(const GpuSource& source, std::int64_t row, std::uint8_t* codes) {
    const Codes& stored = *source.weight->codes();
    const std::int64_t n_columns = source.weight->n_columns();
    if (stored.scheme.kind == NumberKind::vectors) return vector_codes(stored, row, n_columns, codes);
    unpack_codes(stored.packed.data.data() + row * packed_row_bytes(stored.scheme.bits, n_columns), stored.scheme.bits, n_columns, codes);
    if (source.shape.form != CodeForm::linear8) return;
    const int half = 1 << (stored.scheme.bits - 1);  // two's complement, also of 7 bits
    for (std::int64_t c = 0; c < n_columns; ++c) codes[c] = static_cast<std::uint8_t>(codes[c] - half);
}

void pack_row_params(const GpuSource& source, std::int64_t row, const GpuWeight& view, std::int64_t tile, int i) {
    const Codes* stored = source.weight->codes();
    if (stored == nullptr || view.form <= CodeForm::bf16) return;
    const Scheme& scheme = stored->scheme;
    const std::int64_t n_columns = source.weight->n_columns(), n_groups = scheme.n_groups(n_columns);
    if (scheme.kind == NumberKind::clusters) {
        if (!view.table_per_row) return;
        const int n_codes = 1 << code_bits(view.form);
        std::vector<std::uint32_t> table;
        fill_table(cluster_levels(*stored, row), n_codes, table);
        std::copy(table.begin(), table.end(), const_cast<std::uint32_t*>(view.table) + (tile * tile_rows + i) * n_codes);
        return;
    }
    std::vector<float> scales(static_cast<std::size_t>(n_groups)), minimums(scales.size());
    const CodeSections sections = sections_of(*stored);
    if (view.row_scales != nullptr || !has_supers(view.params)) code_row_params(scheme, sections, row, n_columns, scales.data(), minimums.data());
    if (view.row_scales != nullptr) {
        const_cast<float*>(view.row_scales)[tile * tile_rows + i] = scales[0];
        return;
    }
    const CodeRowBytes bytes = code_row_bytes(scheme, n_columns);
    if (has_supers(view.params)) {
        const std::int64_t n_supers = scheme.n_supers(n_columns);
        std::vector<float> supers(static_cast<std::size_t>(n_supers));
        const auto spread = [&](const std::byte* section, const float* target, float factor) {
            dtype_info(scheme.super_dtype).to_float(section + row * bytes.super_scales, n_supers, supers.data());
            for (std::int64_t s = 0; s < n_supers; ++s) const_cast<float*>(target)[(tile * view.n_supers + s) * tile_rows + i] = supers[static_cast<std::size_t>(s)] * factor;
        };
        spread(sections.super_scales, view.super_scales, scheme.scale_book != nullptr ? 1.0f / 128 : 1.0f);  // a book's numbers are k / 128
        if (view.params == ParamForm::r8m8) spread(sections.super_minimums, view.super_minimums, 1);
    }
    const ParamLayout layout = param_layout(view, unit_columns(view.form));
    auto* params = const_cast<unsigned char*>(static_cast<const unsigned char*>(view.group_params)) + tile * n_param_units(view, layout) * param_unit_bytes(view.params, layout);
    const auto float16 = [&](float x) { return view.param_float == Float16Form::f16 ? float_to_f16(x) : float_to_bf16(x); };
    for (std::int64_t group = 0; group < n_groups; ++group) {
        const std::int64_t unit = layout.in_unit > 1 ? group / layout.in_unit : group;
        unsigned char* record = params + unit * param_unit_bytes(view.params, layout) + record_offset(view.params, layout, i, layout.in_unit > 1 ? static_cast<int>(group % layout.in_unit) : 0);
        const auto g = static_cast<std::size_t>(group);
        const float zero = scheme.stores_zeros() ? static_cast<float>(std::to_integer<int>(sections.zeros[row * n_groups + group])) - view.half : 0.0f;
        switch (view.params) {
            case ParamForm::none: break;
            case ParamForm::s16: put(record, 0, float16(scales[g])); break;
            case ParamForm::s16z16: put(record, 0, float16(scales[g])), put(record, 1, float_to_bf16(zero)); break;
            case ParamForm::s16m16: put(record, 0, float16(scales[g])), put(record, 1, float16(minimums[g])); break;
            case ParamForm::r8:
            case ParamForm::r8m8:
                if (scheme.scale_book != nullptr) {
                    const unsigned code = std::to_integer<unsigned>(sections.scales[row * bytes.scales + group / 2]) >> group % 2 * 4 & 15;
                    put(record, 0, static_cast<std::int8_t>(std::lround(scheme.scale_book->levels[code] * 128)));
                } else {
                    put(record, 0, sections.scales[row * bytes.scales + group]);
                }
                if (view.params == ParamForm::r8m8) put(record, 1, sections.minimums[row * bytes.minimums + group]);
                break;
            case ParamForm::s32: put(record, 0, scales[g]); break;
            case ParamForm::s32z32: put(record, 0, scales[g]), put(record, 1, zero); break;
            case ParamForm::s32m32: put(record, 0, scales[g]), put(record, 1, minimums[g]); break;
        }
    }
}

}  // namespace skiff::cuda
