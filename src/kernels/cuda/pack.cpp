#include "kernels/cuda/pack.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "base/checked.h"
#include "kernels/cuda/decoders.h"
#include "kernels/cuda/pack_parts.h"
#include "kernels/cuda/launch.h"

namespace skiff::cuda {
namespace {

struct Located {
    const GpuSource* source = nullptr;  // null: a row of padding
    std::int64_t row = 0;
};

// Tiles of one source, or of one pair of sources, that begins a tile of its own.
std::int64_t tiles_of_part(Interleave interleave, std::int64_t height) { return ceil_div<std::int64_t>(height, interleave == Interleave::gate_up ? tile_rows / 2 : tile_rows); }

class Packer {
public:
    Packer(const std::vector<GpuSource>& sources, Interleave interleave, PackedGpu& packed) : sources_(sources), interleave_(interleave), packed_(packed), view_(packed.at(packed.blob.data())) {}

    Located locate(std::int64_t packed_row) const {
        if (interleave_ != Interleave::none) {
            const std::int64_t tile = packed_row / tile_rows, n_tiles = tiles_of_part(interleave_, sources_[0].rows.n_rows()), part = tile / n_tiles;
            const bool pairs = interleave_ == Interleave::gate_up;
            const std::int64_t row = pairs ? tile % n_tiles * 8 + packed_row % 8 : tile % n_tiles * tile_rows + packed_row % tile_rows;
            const GpuSource& source = sources_[static_cast<std::size_t>(pairs ? 2 * part + packed_row / 8 % 2 : part)];
            return row < source.rows.n_rows() ? Located{&source, source.rows.at(row)} : Located{};
        }
        for (const GpuSource& source : sources_) {
            if (packed_row < source.rows.n_rows()) return {&source, source.rows.at(packed_row)};
            packed_row -= source.rows.n_rows();
        }
        return {};
    }

    void pack_tiles(Range tiles) {
        const int n_columns = view_.n_columns, unit = unit_columns(view_.form), padded = view_.n_units * unit;
        const bool plain = view_.form <= CodeForm::bf16, kept = view_.two_of_four;
        std::vector<std::uint8_t> codes(static_cast<std::size_t>(plain ? 0 : padded * tile_rows)), all_codes(static_cast<std::size_t>(kept && !plain ? 2 * padded : 0));
        std::vector<float> numbers(static_cast<std::size_t>(plain ? padded * tile_rows : 0)), all_numbers(static_cast<std::size_t>(kept && plain ? 2 * padded : 0));
        for (std::int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
            for (int i = 0; i < tile_rows; ++i) {
                const Located located = locate(tile * tile_rows + i);
                if (plain) {
                    float* row = numbers.data() + static_cast<std::int64_t>(i) * padded;
                    float* all = kept ? all_numbers.data() : row;
                    std::fill_n(all, kept ? 2 * padded : padded, 0.0f);
                    if (located.source != nullptr && n_columns > 0) located.source->weight->row(located.row, all);
                    if (kept) keep_two(all, 0.0f, tile, i, row);
                } else {
                    std::uint8_t* row = codes.data() + static_cast<std::int64_t>(i) * padded;
                    std::uint8_t* all = kept ? all_codes.data() : row;
                    std::fill_n(all, kept ? 2 * padded : padded, zero_code_of(view_));
                    if (located.source != nullptr) row_codes(*located.source, located.row, all);
                    if (kept) keep_two(all, zero_code_of(view_), tile, i, row);
                }
                if (located.source != nullptr) pack_row_params(*located.source, located.row, view_, tile, i);
            }
            pack_words(tile, codes, numbers, padded);
        }
    }

private:
    // Of every four numbers the two that are not zero, and which they are; where fewer are not, others, in front. // all: (2 n), target: (n)
    template <class T>
    void keep_two(const T* all, T zero, std::int64_t tile, int row, T* target) const {
        auto* positions = const_cast<std::uint32_t*>(view_.positions) + tile * view_.n_units * position_unit_words;
        for (std::int64_t group = 0; group < std::int64_t{view_.n_units} * kept_unit_groups; ++group, all += 4, target += 2) {
            int columns[2] = {}, n = 0;
            for (const bool wanted : {true, false})
                for (int c = 0; c < 4 && n < 2; ++c)
                    if ((all[c] != zero) == wanted) columns[n++] = c;
            if (columns[0] > columns[1]) std::swap(columns[0], columns[1]);
            for (int i = 0; i < 2; ++i) target[i] = all[columns[i]];
            const auto in_unit = static_cast<int>(group % kept_unit_groups);
            const PositionPlace place = position_place(row, in_unit / step_groups, in_unit % step_groups);
            positions[group / kept_unit_groups * position_unit_words + place.index()] |= static_cast<std::uint32_t>(columns[0] | columns[1] << 2) << place.bit;
        }
    }

    void pack_words(std::int64_t tile, const std::vector<std::uint8_t>& codes, const std::vector<float>& numbers, int padded) {
        const CodeForm form = view_.form;
        const int unit = unit_columns(form), n_words = unit_words(form), n_steps = unit / 16;
        auto* target = const_cast<std::uint32_t*>(static_cast<const std::uint32_t*>(view_.codes)) + tile * view_.n_units * n_words * lanes;
        std::uint32_t words[32];
        for (std::int64_t u = 0; u < view_.n_units; ++u, target += n_words * lanes)
            for (int lane = 0; lane < lanes; ++lane) {
                std::fill_n(words, n_words, 0u);
                for (int step = 0; step < n_steps; ++step) {
                    for (int e = 0; e < 8; ++e) {
                        const auto at = static_cast<std::size_t>(std::int64_t{element_row(lane, e)} * padded + u * unit + element_column(lane, step, e));
                        if (form <= CodeForm::bf16) put_number(words, step, e, numbers[at]);
                        else put_code(form, words, step, e, codes[at]);
                    }
                }
                for (int piece = 0; piece < n_words / 4; ++piece) std::memcpy(target + (piece * lanes + lane) * 4, words + piece * 4, 16);
            }
    }

    void put_number(std::uint32_t* words, int step, int e, float x) const {
        const int pair = e / 2, half = e % 2;
        if (view_.form == CodeForm::f32) words[8 * step + 2 * pair + half] = float_bits(x);
        else words[4 * step + pair] |= static_cast<std::uint32_t>(view_.form == CodeForm::f16 ? float_to_f16(x) : float_to_bf16(x)) << 16 * half;
    }

    const std::vector<GpuSource>& sources_;
    Interleave interleave_;
    PackedGpu& packed_;
    GpuWeight view_;
};

std::size_t take(std::size_t& size, std::size_t bytes) {
    const std::size_t offset = size;
    size += round_up<std::size_t>(bytes, 256);
    return offset;
}

}  // namespace

GpuWeight PackedGpu::at(const std::byte* base) const {
    GpuWeight view = shape;
    const auto address = [&](std::size_t offset) { return static_cast<const void*>(base + offset); };
    view.codes = address(offsets.codes);
    view.positions = shape.two_of_four ? static_cast<const std::uint32_t*>(address(offsets.positions)) : nullptr;
    view.group_params = shape.params != ParamForm::none ? address(offsets.group_params) : nullptr;
    view.super_scales = has_supers(shape.params) ? static_cast<const float*>(address(offsets.super_scales)) : nullptr;
    view.super_minimums = shape.params == ParamForm::r8m8 ? static_cast<const float*>(address(offsets.super_minimums)) : nullptr;
    view.row_scales = offsets.row_scales != 0 ? static_cast<const float*>(address(offsets.row_scales)) : nullptr;
    view.table = is_table(shape.form) ? static_cast<const std::uint32_t*>(address(offsets.table)) : nullptr;
    return view;
}

GpuWeight gpu_form(const Weight& weight) { return gpu_source({&weight, RowMap::all(weight.n_rows())}).shape; }

bool can_merge(std::span<const RowSource> sources) {
    if (sources.empty()) return false;
    const GpuSource first = gpu_source(sources[0]);
    return std::all_of(sources.begin() + 1, sources.end(), [&](const RowSource& source) { return merges(first, gpu_source(source)); });
}

Result<PackedGpu> pack_gpu(std::span<const RowSource> sources, Interleave interleave, ThreadPool* pool) {
    if (sources.empty() || (interleave == Interleave::gate_up && sources.size() % 2 != 0)) return runtime_error("pack_gpu: wrong number of sources");
    std::vector<GpuSource> prepared;
    for (const RowSource& source : sources) prepared.push_back(gpu_source(source));
    PackedGpu packed;
    packed.shape = prepared[0].shape;
    std::int64_t n_rows = 0;
    for (const GpuSource& source : prepared) {
        if (!merges(prepared[0], source))
            return unsupported("weights of " + prepared[0].weight->encoding_name() + " " + shape_text(prepared[0].weight->shape) + " and " + source.weight->encoding_name() + " " + shape_text(source.weight->shape) +
                         " cannot be one matrix on the GPU: pack them apart");
        if (interleave != Interleave::none && source.rows.n_rows() != prepared[0].rows.n_rows()) return runtime_error("pack_gpu: matrices that are to lie beside each other differ in height");
        n_rows += source.rows.n_rows();
    }
    GpuWeight& shape = packed.shape;
    const int unit = unit_columns(shape.form);
    const std::int64_t columns = prepared[0].weight->n_columns();
    if (n_rows > INT32_MAX - 16 || columns > INT32_MAX - 256) return unsupported("a matrix of " + std::to_string(n_rows) + " rows is too large for the GPU's kernels");
    shape.n_rows = static_cast<std::int32_t>(n_rows);
    shape.n_columns = static_cast<std::int32_t>(columns);
    const auto n_parts = static_cast<std::int64_t>(interleave == Interleave::gate_up ? prepared.size() / 2 : prepared.size());
    const std::int64_t all_tiles = interleave == Interleave::none ? ceil_div<std::int64_t>(n_rows, tile_rows) : n_parts * tiles_of_part(interleave, prepared[0].rows.n_rows());
    if (all_tiles > INT32_MAX / tile_rows) return unsupported("a matrix of " + std::to_string(n_rows) + " rows is too large for the GPU's kernels");
    shape.n_tiles = static_cast<std::int32_t>(all_tiles);
    shape.n_units = static_cast<std::int32_t>(ceil_div<std::int64_t>(columns, shape.two_of_four ? 2 * unit : unit));
    shape.n_supers = shape.super_log2 >= 31 ? 1 : static_cast<std::int32_t>(std::max<std::int64_t>(1, ceil_div<std::int64_t>(std::int64_t{shape.n_units} * unit, std::int64_t{1} << shape.super_log2)));

    const ParamLayout params = param_layout(shape, unit);
    const auto n_tiles = static_cast<std::size_t>(shape.n_tiles);
    std::size_t size = 0;
    packed.offsets.codes = take(size, n_tiles * static_cast<std::size_t>(shape.n_units) * static_cast<std::size_t>(unit_pieces(shape.form)) * 512);
    packed.offsets.positions = take(size, shape.two_of_four ? n_tiles * static_cast<std::size_t>(shape.n_units) * position_unit_bytes : 0);
    packed.offsets.group_params = take(size, n_tiles * static_cast<std::size_t>(n_param_units(shape, params)) * static_cast<std::size_t>(param_unit_bytes(shape.params, params)));
    const std::size_t super_bytes = has_supers(shape.params) ? n_tiles * static_cast<std::size_t>(shape.n_supers) * tile_rows * 4 : 0;
    packed.offsets.super_scales = take(size, super_bytes);
    packed.offsets.super_minimums = take(size, shape.params == ParamForm::r8m8 ? super_bytes : 0);
    packed.offsets.table = take(size, is_table(shape.form) ? (shape.table_per_row ? n_tiles * tile_rows : 1) * (std::size_t{4} << code_bits(shape.form)) : 0);
    packed.offsets.row_scales = prepared[0].row_scales == RowScales::yes ? take(size, n_tiles * tile_rows * 4) : 0;
    packed.blob = AlignedBuffer(std::max<std::size_t>(size, 256));
    if (is_table(shape.form) && !shape.table_per_row) std::memcpy(packed.blob.data() + packed.offsets.table, prepared[0].table.data(), prepared[0].table.size() * 4);

    Packer packer(prepared, interleave, packed);
    if (pool == nullptr) packer.pack_tiles({0, shape.n_tiles});
    else pool->run([&](int thread) { packer.pack_tiles(share_of(shape.n_tiles, thread, pool->n_threads())); });
    return packed;
}

GpuWeight part_of(const GpuWeight& weight, std::int64_t part, std::int64_t n_parts) {
    GpuWeight one = weight;
    one.n_rows = static_cast<std::int32_t>(weight.n_rows / n_parts);
    one.n_tiles = static_cast<std::int32_t>(weight.n_tiles / n_parts);
    const std::int64_t tile = part * one.n_tiles;
    const ParamLayout params = param_layout(weight, unit_columns(weight.form));
    const auto move = [](auto*& address, std::int64_t n_bytes) {
        if (address != nullptr) address = reinterpret_cast<std::remove_reference_t<decltype(address)>>(reinterpret_cast<const std::byte*>(address) + n_bytes);
    };
    move(one.codes, tile * weight.n_units * unit_pieces(weight.form) * 512);
    move(one.positions, tile * weight.n_units * position_unit_bytes);
    move(one.group_params, tile * n_param_units(weight, params) * param_unit_bytes(weight.params, params));
    move(one.super_scales, tile * weight.n_supers * tile_rows * 4);
    move(one.super_minimums, tile * weight.n_supers * tile_rows * 4);
    move(one.row_scales, tile * tile_rows * 4);
    if (weight.table_per_row) move(one.table, tile * tile_rows * (std::int64_t{4} << code_bits(weight.form)));
    return one;
}

std::vector<float> pair_bias(std::span<const float> gate, std::span<const float> up) {
    const std::size_t n_tiles = ceil_div<std::size_t>(gate.size(), 8);
    std::vector<float> paired(n_tiles * 16, 0.0f);
    for (std::size_t i = 0; i < gate.size(); ++i) paired[i / 8 * 16 + i % 8] = gate[i];
    for (std::size_t i = 0; i < up.size(); ++i) paired[i / 8 * 16 + 8 + i % 8] = up[i];
    return paired;
}

std::int64_t packed_index(std::span<const RowSource> sources, Interleave interleave, std::size_t source, std::int64_t row) {
    if (interleave != Interleave::none) {
        const bool pairs = interleave == Interleave::gate_up;
        const auto number = static_cast<std::int64_t>(source);
        const std::int64_t first = (pairs ? number / 2 : number) * tiles_of_part(interleave, sources[0].rows.n_rows()) * tile_rows;
        return first + (pairs ? row / 8 * 16 + row % 8 + 8 * (number % 2) : row);
    }
    for (std::size_t i = 0; i < source; ++i) row += sources[i].rows.n_rows();
    return row;
}

namespace {

// All steps of a unit, for one lane: each element's parts added.
template <class Decoder, int s = 0>
void decode_steps(const Decoder& decoder, const std::uint32_t* words, float* values) {  // values: (n_steps, 8)
    if constexpr (s < unit_columns(Decoder::form) / 16) {
        std::uint32_t a[Decoder::n_parts][4];
        decoder.template step<s>(words, a);
        for (int e = 0; e < 8; ++e) {
            float value = 0;
            for (int part = 0; part < Decoder::n_parts; ++part) value += bf16_float(a[part][e / 2] >> 16 * (e % 2) & 0xffffu);
            values[s * 8 + e] = value;
        }
        decode_steps<Decoder, s + 1>(decoder, words, values);
    }
}

}  // namespace

void packed_row(const GpuWeight& weight, std::int64_t row, float* target) {
    with_decoder(weight, [&]<class Decoder>(Decoder decoder) {
        constexpr int unit = unit_columns(Decoder::form), n_words = unit_words(Decoder::form);
        const std::int64_t tile = row / tile_rows;
        const int in_tile = static_cast<int>(row % tile_rows);
        if (weight.two_of_four) std::fill_n(target, weight.n_columns, 0.0f);
        const ParamLayout params = param_layout(weight, unit);
        const int param_bytes = param_unit_bytes(weight.params, params);
        std::uint32_t words[n_words];
        float values[unit / 2];
        for (int u = 0; u < weight.n_units; ++u)
            for (int t = 0; t < 4; ++t) {
                const int lane = in_tile % 8 * 4 + t;
                const auto* source = static_cast<const std::uint32_t*>(weight.codes) + (tile * weight.n_units + u) * n_words * lanes;
                for (int piece = 0; piece < n_words / 4; ++piece) std::memcpy(words + piece * 4, source + (piece * lanes + lane) * 4, 16);
                decoder.load_tables(weight, static_cast<int>(tile), lane);
                decode_steps(decoder, words, values);
                for (int step = 0; step < unit / 16; ++step)
                    for (int e = 0; e < 8; ++e) {
                        const std::int64_t column = std::int64_t{u} * unit + element_column(lane, step, e);  // of kept ones, where only those are stored
                        std::int64_t to = column;
                        if (weight.two_of_four)
                            to = 4 * (column / 2) + kept_position(weight.positions + (tile * weight.n_units + u) * position_unit_words, in_tile, step, static_cast<int>(column % 16));
                        if (element_row(lane, e) != in_tile || to >= weight.n_columns) continue;
                        GroupScale scale = {weight.row_scales != nullptr ? weight.row_scales[row] : 1.0f, 0};
                        if (weight.params != ParamForm::none) {
                            const std::int64_t super = weight.super_log2 >= 31 ? 0 : column >> weight.super_log2, at = (tile * weight.n_supers + super) * tile_rows + in_tile;
                            const Supers supers = {weight.super_scales != nullptr ? weight.super_scales[at] : 0, weight.super_minimums != nullptr ? weight.super_minimums[at] : 0};
                            const auto* unit_params = static_cast<const unsigned char*>(weight.group_params) + (tile * n_param_units(weight, params) + params.index(u)) * param_bytes;
                            scale = read_record(weight, unit_params + record_offset(weight.params, params, in_tile, params.in(static_cast<int>(column % unit))), supers);
                        }
                        target[to] = values[step * 8 + e] * scale.scale - scale.offset;
                    }
            }
    });
}

void host_operand(int operand_form, const float* x, std::int64_t n_tokens, std::int64_t n_columns, void* target) {
    const auto form = static_cast<OperandForm>(operand_form);
    const std::int64_t n_slabs = operand_columns(n_columns) / slab_columns;
    auto* bytes = static_cast<std::byte*>(target);
    const auto put = [&](std::int64_t byte, std::uint32_t half) {
        const auto bits = static_cast<std::uint16_t>(half);
        std::memcpy(bytes + byte, &bits, 2);
    };
    for (std::int64_t token = 0; token < n_tokens; ++token)
        for (std::int64_t column = 0; column < n_columns; ++column) {
            const std::uint32_t parts = split_bf16(x[token * n_columns + column]);
            if (form == OperandForm::rows) put((token * n_columns + column) * 2, parts & 0xffffu);
            if (form == OperandForm::fragments) put(fragment_byte(token / 8, static_cast<int>(token % 8), column, n_slabs), parts & 0xffffu);
            if (form == OperandForm::split)
                for (int part = 0; part < 2; ++part) put(fragment_byte(token / 4, 2 * static_cast<int>(token % 4) + part, column, n_slabs), parts >> 16 * part & 0xffffu);
        }
}

}  // namespace skiff::cuda
