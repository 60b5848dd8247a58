// The loops around the int8 micro-kernels over tiles, for the wide units that include it, and for them alone: all is in an unnamed namespace, so
// that each unit has its own copy in its own instructions.
//
// A unit gives a struct M (its micro-kernels):
//     max_direct         up to so many tokens work from the stored codes (decode), 0: none; above, blocks are expanded once for all tokens
//     tiles_at_once      tiles whose expanded blocks a micro-kernel multiplies together, 1 or 2
//     start              how the integer sums of a unit begin
//     finds_scales       whether direct takes a group's scales for all its units (Stretch::scale_shift); else they are copied for each
//     numbers16, table16, finish_scales, copy16, write16   16 numbers of a section as floats, or by a table; what they scale; moving them
//     scale_blocks       the same for scales of consecutive units that have one each and nothing beside it
//     correct_blocks     and for what corrects such units
//     direct             sums of some tokens += blocks straight from the stored codes
//     expand             blocks to levels, one byte each
//     multiply           sums of some tokens += expanded blocks of one or two tiles
// where expanded levels and the codes that they meet have 16 bits, wide_codes, and widen for such codes;
// where it is worth while, min_pairs and max_pairs, from how many tokens to how many `pair` works from the stored codes of two tiles whose blocks
//     have one scale each, half of tokens_of_pair to tokens_of_pair of them at a time;
// and for pruned weights what tile_sparse.h names. A stretch may say which blocks of a row it holds (places); direct and multiply of one tile heed it.
//
// For one unit of columns (a block of 32, or half of one): y += float(sum of (level - offset) * code of the activation) * (scale * activation scale)
// - minimum * (activation scale * sum of its codes), units in order. Zeros of groups are subtracted in the inner sum, which is exact in integers. So an output has the same bits however
// many tokens there are and however tiles, tokens and blocks are dealt.
#pragma once


#include "kernels/cpu/fetch.h"
#include "kernels/cpu/scratch.h"
#include "kernels/kernels.h"
#include "kernels/tile_format.h"

namespace skiff {
namespace {

using Byte = std::uint8_t;

constexpr int twice = 3;  // of an instruction set's micro-kernels, beside their numbers for tables of levels: levels are twice a code of one bit
constexpr std::int64_t blocks_at_once = 16;                 // expanded: 16 x 512 bytes of a tile
constexpr std::int64_t units_at_once = 2 * blocks_at_once;  // scales of a stretch of blocks
constexpr std::int64_t bytes_in_cache = 256 << 10;          // of codes of tokens, which stay in L2 while tiles go by
constexpr std::int64_t most_tokens_at_once = 512;           // bounds their sums

// Some tokens from one block on. Numbers of neighbouring tokens lie side by side, those of the next block or unit `stride` further.
// Micro-kernels take them by reference and copy the fields: as an argument by value they are copied in whole vectors right after they were stored one by one, and wait for that.
struct Tokens {
    const std::int8_t* codes;
    const float* scales;        // of blocks
    const std::int32_t* start;  // of units, or of parts of them (Start::parts): what the integer sums begin with
    const float* sums;             // of units: activation scale * sum of codes, where the weight has minimums
    const std::int32_t* code_sums; // of units: sum of codes, where the weight has zeros
    std::int64_t code_stride;   // bytes, from one token to the next
    std::int64_t block_bytes;   // of a token's codes of a block
    std::int64_t stride;
    std::int64_t start_stride;  // from a block's starts to those of the next
};

// What a weight has beside scales. Micro-kernels for many tokens are made for each, those for few look at run time.
enum class Corrections { none, zeros, minimums, look };
inline Corrections corrections_of(const Tokens& x) { return x.sums != nullptr ? Corrections::minimums : x.code_sums != nullptr ? Corrections::zeros : Corrections::none; }

// A stretch of blocks of one tile, with what scales them.
struct Stretch {
    const TileFormat* format;
    const Byte* codes;  // stored, or expanded
    const std::uint16_t* places = nullptr;  // which blocks of the row they are; null: the first and those behind it
    const Byte* row_levels = nullptr;  // of the tile, where rows have their own
    std::int64_t n_blocks;
    std::int64_t scale_phase = 0;  // unit u has scales and corrections (u + scale_phase) >> scale_shift;
    int scale_shift = 0;           // both are 0 but for M::direct where M::finds_scales
    alignas(64) float scales[units_at_once * tile_rows];
    alignas(64) float corrections[units_at_once * tile_rows];  // minimums less offset * scale; or zeros less offset as i32, the upper half zero
};

inline Tokens from(const Tokens& x, std::int64_t token, std::int64_t block, std::int64_t units_per_block) {
    const std::int64_t unit = block * units_per_block * x.stride + token;
    return {x.codes + token * x.code_stride + block * x.block_bytes, x.scales + block * x.stride + token, x.start + block * x.start_stride + token, x.sums == nullptr ? nullptr : x.sums + unit, x.code_sums == nullptr ? nullptr : x.code_sums + unit, x.code_stride, x.block_bytes, x.stride, x.start_stride};
}

// Whether many tokens meet levels of 16 bits.
template <class M>
constexpr bool has_wide_codes() {
    if constexpr (requires { M::wide_codes; }) return M::wide_codes;
    return false;
}
template <class M>
inline constexpr std::int64_t expanded_bytes = has_wide_codes<M>() ? 2 * expanded_block_bytes : expanded_block_bytes;  // of a block as M::expand writes it

// Whether few tokens fetch a tile into the L2. Not one token and codes of 8 bits with a scale for each row: codes alone, which the processor's own prefetching follows
// while requests go to the L1, and with the L2 0.74 to 0.9 of that speed.
inline bool tile_into_l2(const TileFormat& format, std::int64_t n_tokens) { return fetch_into_l2 && (n_tokens > 1 || format.bits < 8 || format.n_groups > 1); }

// Scales and corrections of the units of blocks first .. first + n, as floats. Spread: each unit has its own copy; else as Stretch says. Does not divide where it can be helped: of two
// bits a block is 128 bytes, and two divisions for each took longer than its products.
template <class M, bool Spread = true>
void load_scales(const Byte* tile, const TileFormat& format, std::int64_t first, std::int64_t n_blocks, Stretch& stretch) {
    stretch.format = &format;
    stretch.n_blocks = n_blocks;
    stretch.row_levels = tile + format.row_levels_at;
    stretch.scale_shift = 0, stretch.scale_phase = 0;
    const std::int64_t per_block = format.units_per_block(), unit_columns = per_block == 1 ? tile_block : tile_block / 2, n_units = n_blocks * per_block, begin = first * tile_block;
    const TileNumber correction_type = format.minimums != TileNumber::none ? format.minimums : format.zeros;
    const std::int64_t scale_bytes = tile_numbers_bytes(format.scales), correction_bytes = tile_numbers_bytes(correction_type);
    if (format.n_supers <= 1 && format.scales != TileNumber::table && !format.relative_minimums) {  // the groups' numbers one after another; then, from the last on, each for all its units
        const auto group_of = [&](std::int64_t unit) { return format.n_groups == 1 ? 0 : format.group_shift >= 0 ? unit >> format.group_shift : unit * unit_columns / format.group_size; };
        const std::int64_t first_unit = first * per_block, group = group_of(first_unit), last = group_of(first_unit + n_units - 1);
        const std::int64_t n = (last < format.n_groups ? last + 1 : format.n_groups) - group;  // a short last block may have a second half without a group, which no column reads
        M::scale_blocks(format, format.relative_scales ? tile + format.super_scales_at : nullptr, tile + format.scales_at + group * scale_bytes, n, stretch.scales);
        if (format.has_corrections()) M::correct_blocks(format, tile + format.corrections_at + group * correction_bytes, n, stretch.scales, stretch.corrections);
        if (n == n_units) return;
        if (!Spread && (format.n_groups == 1 || format.group_shift > 0)) {
            stretch.scale_shift = format.n_groups == 1 ? 63 : format.group_shift;
            stretch.scale_phase = format.n_groups == 1 ? 0 : first_unit - (group << format.group_shift);
            return;
        }
        const std::int64_t group_units = format.group_shift >= 0 ? std::int64_t{1} << format.group_shift : format.group_size / unit_columns;
        const auto spread = [&](float* numbers) {
            std::int64_t unit = n_units;
            for (std::int64_t g = n - 1; g >= 0; --g)
                for (const std::int64_t from = g == 0 ? 0 : (group + g) * group_units - first_unit; unit > from; --unit) M::copy16(numbers + g * tile_rows, numbers + (unit - 1) * tile_rows);
        };
        spread(stretch.scales);
        if (format.has_corrections()) spread(stretch.corrections);
        return;
    }
    const std::int64_t super_bytes = tile_numbers_bytes(format.supers);
    const std::int64_t first_group = begin / format.group_size, first_super = format.n_supers > 0 ? begin / format.super_size : 0;
    const Byte *scales = tile + format.scales_at + first_group * scale_bytes, *corrections = tile + format.corrections_at + first_group * correction_bytes;
    std::int64_t group_left = (first_group + 1) * format.group_size - begin, super = first_super, super_left = format.n_supers > 0 ? (first_super + 1) * format.super_size - begin : INT64_MAX;
    alignas(64) float super_scale[tile_rows] = {}, super_minimum[tile_rows] = {};
    const auto load_super = [&] {
        if (format.relative_scales) M::numbers16(format.supers, tile + format.super_scales_at + super * super_bytes, super_scale);
        if (format.relative_minimums) M::numbers16(format.supers, tile + format.super_minimums_at + super * super_bytes, super_minimum);
    };
    if (format.n_supers > 0) load_super();
    std::int64_t groups_left = format.n_groups - first_group - 1;
    bool fresh = true;
    for (std::int64_t unit = 0; unit < n_units; ++unit) {
        float *scale = stretch.scales + unit * tile_rows, *correction = stretch.corrections + unit * tile_rows;
        if (fresh) {
            if (format.scales == TileNumber::table) M::table16(format.scale_levels, scales, scale);
            else M::numbers16(format.scales, scales, scale);
            if (format.has_corrections()) M::numbers16(correction_type, corrections, correction);
            M::finish_scales(format, super_scale, super_minimum, scale, correction);
        } else {
            M::copy16(scale - tile_rows, scale);
            if (format.has_corrections()) M::copy16(correction - tile_rows, correction);
        }
        group_left -= unit_columns, super_left -= unit_columns;
        if (super_left == 0) super_left = format.super_size, ++super, super < format.n_supers ? load_super() : void();
        fresh = group_left == 0 && groups_left-- > 0;
        if (fresh) group_left = format.group_size, scales += scale_bytes, corrections += correction_bytes;
    }
}

// What the integer sums of a unit begin with, out of the sums of its codes at columns 0, 1 (mod 4) and at 2, 3 (mod 4): less `offset` for every level.
struct Start {
    std::int32_t offset;
    bool in_16_bits;  // the two as 16-bit halves, else their sum
    std::int64_t parts = 0;  // starts of a block, each for as many columns; 0: one for each unit
    std::int32_t of(std::int32_t low, std::int32_t high) const {
        if (!in_16_bits) return -offset * (low + high);
        return static_cast<std::int32_t>((static_cast<std::uint32_t>(-offset * low) & 0xffff) | static_cast<std::uint32_t>(-offset * high) << 16);
    }
};

// From one block's numbers of all tokens to the next one's: for many tokens an odd number of cache lines. A power of two would put the blocks of a stretch into few sets of the
// cache, which then miss for each group of tokens.
inline std::int64_t stride_of_blocks(std::int64_t n_tokens) { return n_tokens < 64 ? n_tokens : ((n_tokens + 15) / 16 | 1) * 16; }

// Whether so few tokens work from the stored codes.
template <class M>
bool is_direct(const LinearArgs& args) {
    if constexpr (M::masked)
        if (args.weight->tiles == TileForm::mask) return args.n_tokens <= M::max_direct_masked;
    return args.n_tokens <= M::max_direct;
}

// Tokens with the starts of their sums, in this thread's space for them.
template <class M>
Tokens prepare_tokens(const LinearArgs& args, const TileFormat& format) {
    const PreparedActivation& x = args.x;
    const std::int64_t stored_blocks = x.padded_columns / tile_block, per_block = format.units_per_block(), n_tokens = args.n_tokens, n_blocks = format.n_blocks, stride = stride_of_blocks(n_tokens);
    const Start start = M::start(format);
    const bool has_minimums = format.minimums != TileNumber::none, has_zeros = format.zeros != TileNumber::none;
    const std::int64_t parts = start.parts > 0 ? start.parts : per_block;
    const bool wide = has_wide_codes<M>() && !is_direct<M>(args);
    const std::int32_t form = (start.in_16_bits ? 1 : 0) + (per_block == 2 ? 2 : 0) + (has_minimums ? 4 : 0) + (has_zeros ? 8 : 0) + (parts == 2 ? 16 : 0) + (wide ? 32 : 0);
    const std::int64_t n_numbers = stride * n_blocks * (1 + parts + 2 * per_block), n_wide = wide ? n_tokens * x.padded_columns / 2 : 0;
    const TokensSpace space = thread_tokens({args.epoch, x.codes, n_tokens, n_blocks, start.offset, form}, n_wide + n_numbers);
    const std::int64_t n_units = stride * n_blocks * per_block, n_starts = stride * n_blocks * parts;
    float* scales = space.numbers + n_wide;
    auto* starts = reinterpret_cast<std::int32_t*>(scales + stride * n_blocks);
    float* sums = has_minimums ? scales + stride * n_blocks + n_starts : nullptr;
    auto* code_sums = has_zeros ? reinterpret_cast<std::int32_t*>(scales + stride * n_blocks + n_starts + n_units) : nullptr;
    Tokens tokens = {x.codes, scales, starts, sums, code_sums, x.padded_columns, tile_block, stride, stride * parts};
    if (wide) tokens.codes = reinterpret_cast<const std::int8_t*>(space.numbers), tokens.code_stride *= 2, tokens.block_bytes *= 2;
    if (space.known) return tokens;
    if constexpr (has_wide_codes<M>())
        if (wide) M::widen(x.codes, n_tokens * x.padded_columns, reinterpret_cast<std::int16_t*>(space.numbers));
    // Sixteen tokens at a time, so that what is written lies side by side.
    for (std::int64_t first = 0; first < n_tokens; first += 16) {
        const std::int64_t end = first + 16 < n_tokens ? first + 16 : n_tokens;
        for (std::int64_t block = 0; block < n_blocks; ++block) {
            const float* scale = x.scales + block;
            const std::int16_t* lanes = x.sums + block * 4;
            for (std::int64_t t = first; t < end; ++t) scales[block * stride + t] = scale[t * stored_blocks];
            // The sums of a token's codes in a part of the block, at columns 0, 1 (mod 4) and 2, 3: write(place, token, low, high).
            const auto each = [&](std::int64_t n_parts, const auto& write) __attribute__((always_inline)) {
                for (std::int64_t part = 0; part < n_parts; ++part)
                    for (std::int64_t t = first; t < end; ++t) {
                        const std::int16_t* sum = lanes + t * stored_blocks * 4 + part * 2;
                        const bool whole = n_parts == 1;
                        write((block * n_parts + part) * stride + t, t, whole ? sum[0] + sum[2] : sum[0], whole ? sum[1] + sum[3] : sum[1]);
                    }
            };
            each(parts, [&](std::int64_t place, std::int64_t, std::int32_t low, std::int32_t high) { starts[place] = start.of(low, high); });
            if (sums != nullptr) each(per_block, [&](std::int64_t place, std::int64_t t, std::int32_t low, std::int32_t high) { sums[place] = scale[t * stored_blocks] * static_cast<float>(low + high); });
            else if (code_sums != nullptr) each(per_block, [&](std::int64_t place, std::int64_t, std::int32_t low, std::int32_t high) { code_sums[place] = low + high; });
        }
    }
    return tokens;
}

// sums (n_tokens, stride) f32, the first n_rows of each token belonging to the rows from `row` on, to y. A token's rows go together: neighbouring lines.
template <class M>
void write_rows(const LinearArgs& args, std::int64_t row, std::int64_t n_rows, std::int64_t first_token, std::int64_t n_tokens, const float* sums, std::int64_t stride) {
    for (std::int64_t t = 0; t < n_tokens; ++t, sums += stride) {
        float* y = args.y + (first_token + t) * args.y_stride + row;
        for (std::int64_t r = 0; r < n_rows; r += tile_rows)
            M::write16(sums + r, args.bias == nullptr ? nullptr : args.bias + row + r, n_rows - r < tile_rows ? n_rows - r : tile_rows, args.write == LinearArgs::Write::add, y + r);
    }
}

template <class M>
void few_tokens(const LinearArgs& args, Range rows, const TileFormat& format, const Tokens& x) {
    alignas(64) float sums[M::max_direct * tile_rows];
    Stretch stretch;
    const auto* data = reinterpret_cast<const Byte*>(args.weight->data);
    const std::int64_t n_stretches = (format.n_blocks + blocks_at_once - 1) / blocks_at_once, header_lines = (format.codes_at / tile_vector_bytes + n_stretches - 1) / n_stretches;
    for (std::int64_t row = rows.begin; row < rows.end; row += tile_rows) {
        const Byte *tile = data + row / tile_rows * format.tile_bytes, *header = tile + fetch_ahead_bytes;
        for (std::int64_t i = 0; i < args.n_tokens * tile_rows; ++i) sums[i] = 0;
        for (std::int64_t block = 0; block < format.n_blocks; block += blocks_at_once) {
            const std::int64_t n = format.n_blocks - block < blocks_at_once ? format.n_blocks - block : blocks_at_once;
            load_scales<M, !M::finds_scales>(tile, format, block, n, stretch);
            stretch.codes = tile + format.codes_at + block * format.block_bytes;
            if (tile_into_l2(format, args.n_tokens)) {  // what stands in front of the codes, a part with each stretch, so that all bytes of a tile are asked for
                fetch_lines<true>(header, header_lines);
                header += header_lines * tile_vector_bytes;
            }
            M::direct(stretch, from(x, 0, block, format.units_per_block()), args.n_tokens, sums);
        }
        write_rows<M>(args, row, rows.end - row < tile_rows ? rows.end - row : tile_rows, 0, args.n_tokens, sums, tile_rows);
    }
}

// Tokens whose codes fit the cache; all in equal parts.
inline std::int64_t tokens_per_pass(const LinearArgs& args) {
    std::int64_t most = args.tiles.tokens > 0 ? args.tiles.tokens : bytes_in_cache / args.x.padded_columns;
    most = most < 24 ? 24 : most > most_tokens_at_once ? most_tokens_at_once : most;
    const std::int64_t n_passes = (args.n_tokens + most - 1) / most;
    return (args.n_tokens + n_passes - 1) / n_passes;
}

// Dense tiles, for many_tokens().
template <class M>
struct DenseTiles {
    static constexpr bool any_stretch = true;  // may begin at any block
    const Byte* data;
    const TileFormat& format;

    const Byte* tile(std::int64_t i) const { return data + i * format.tile_bytes; }
    void expand(const Byte* tile, std::int64_t block, std::int64_t n_blocks, Byte* target) const { M::expand(format, tile + format.row_levels_at, tile + format.codes_at + block * format.block_bytes, n_blocks, target); }
};

// Rows that pass by all tokens before the next ones do: all, unless the call says otherwise.
inline std::int64_t rows_per_pass(const LinearArgs& args, Range rows, std::int64_t width) {
    const std::int64_t wanted = (args.tiles.rows + width - 1) / width * width;
    return wanted > 0 ? wanted : rows.end - rows.begin + width;
}

// Blocks that are expanded together.
inline std::int64_t blocks_per_stretch(const LinearArgs& args) {
    const std::int64_t wanted = args.tiles.columns / tile_block;
    return wanted > 0 && wanted < blocks_at_once ? wanted : blocks_at_once;
}

template <class M, class Tiles>
void many_tokens(const LinearArgs& args, Range rows, const TileFormat& format, const Tiles& tiles, const Tokens& x, float* scratch) {
    constexpr std::int64_t width = M::tiles_at_once * tile_rows;
    const std::int64_t per_block = format.units_per_block();
    alignas(64) Byte expanded[M::tiles_at_once * blocks_at_once * expanded_bytes<M>];
    Stretch stretches[M::tiles_at_once];
    float* sums = scratch;  // (tokens_at_once, width)
    const std::int64_t tokens_at_once = tokens_per_pass(args), rows_at_once = rows_per_pass(args, rows, width), stretch_blocks = Tiles::any_stretch ? blocks_per_stretch(args) : blocks_at_once;
    const auto multiply_rows = [&](std::int64_t row, std::int64_t token, std::int64_t n_tokens) {
        const std::int64_t n_tiles = rows.end - row > tile_rows ? M::tiles_at_once : 1;
        for (std::int64_t i = 0; i < n_tokens * width; ++i) sums[i] = 0;
        for (std::int64_t block = 0; block < format.n_blocks; block += stretch_blocks) {
            const std::int64_t n = format.n_blocks - block < stretch_blocks ? format.n_blocks - block : stretch_blocks;
            for (std::int64_t i = 0; i < n_tiles; ++i) {
                const Byte* tile = tiles.tile(row / tile_rows + i);
                load_scales<M>(tile, format, block, n, stretches[i]);
                Byte* target = expanded + i * blocks_at_once * expanded_bytes<M>;
                tiles.expand(tile, block, n, target);
                stretches[i].codes = target;
            }
            M::multiply(stretches, n_tiles, from(x, token, block, per_block), n_tokens, sums, width);
        }
        write_rows<M>(args, row, rows.end - row < width ? rows.end - row : width, token, n_tokens, sums, width);
    };
    for (std::int64_t first = rows.begin; first < rows.end; first += rows_at_once) {
        const std::int64_t end = rows.end - first < rows_at_once ? rows.end : first + rows_at_once;
        for (std::int64_t token = 0; token < args.n_tokens; token += tokens_at_once) {
            const std::int64_t n_tokens = args.n_tokens - token < tokens_at_once ? args.n_tokens - token : tokens_at_once;
            for (std::int64_t row = first; row < end; row += width) multiply_rows(row, token, n_tokens);
        }
    }
}

// What is fetched while a block of one of two tiles is worked on: the block blocks_at_once further on, which is one of the tile two further on behind the tile's end.
struct FetchAhead {
    std::int64_t n_near;     // blocks of the stretch for which that is in the same tile; may be negative
    std::int64_t near, far;  // bytes from the block to it, in the same tile and beyond
};

// few_tokens() for two tiles at once and as many tokens as M::pair takes, part by part while a stretch is in the cache; a tile that is left over goes alone.
template <class M>
void few_tokens_by_pairs(const LinearArgs& args, Range rows, const TileFormat& format, const Tokens& x, float* scratch) {
    constexpr std::int64_t width = 2 * tile_rows;
    alignas(64) float sums[M::max_pairs * width];
    Stretch stretches[2];
    const auto* data = reinterpret_cast<const Byte*>(args.weight->data);
    const std::int64_t n_parts = (args.n_tokens + M::tokens_of_pair - 1) / M::tokens_of_pair;
    std::int64_t row = rows.begin;
    for (; rows.end - row > tile_rows; row += width) {
        const Byte* tile = data + row / tile_rows * format.tile_bytes;
        for (std::int64_t i = 0; i < args.n_tokens * width; ++i) sums[i] = 0;
        for (std::int64_t block = 0; block < format.n_blocks; block += blocks_at_once) {
            const std::int64_t n = format.n_blocks - block < blocks_at_once ? format.n_blocks - block : blocks_at_once;
            for (std::int64_t i = 0; i < 2; ++i) {
                load_scales<M>(tile + i * format.tile_bytes, format, block, n, stretches[i]);
                stretches[i].codes = tile + i * format.tile_bytes + format.codes_at + block * format.block_bytes;
            }
            const FetchAhead fetch = {format.n_blocks - blocks_at_once - block, blocks_at_once * format.block_bytes, 2 * format.tile_bytes + (blocks_at_once - format.n_blocks) * format.block_bytes};
            for (std::int64_t part = 0; part < n_parts; ++part) {  // of sizes that differ by one at the most
                const std::int64_t token = args.n_tokens * part / n_parts, n_tokens = args.n_tokens * (part + 1) / n_parts - token;
                M::pair(stretches, fetch, from(x, token, block, 1), n_tokens, sums + token * width);
            }
        }
        write_rows<M>(args, row, rows.end - row < width ? rows.end - row : width, 0, args.n_tokens, sums, width);
    }
    if (row == rows.end) return;
    if (args.n_tokens <= M::max_direct) few_tokens<M>(args, {row, rows.end}, format, x);
    else many_tokens<M>(args, {row, rows.end}, format, DenseTiles<M>{data, format}, x, scratch);
}

}  // namespace
}  // namespace skiff

#include "kernels/cpu/tile_hashed.h"
#include "kernels/cpu/tile_sparse.h"

namespace skiff {
namespace {

template <class M>
void linear_tiles(const LinearArgs& args, Range rows) {
    const TileFormat format = tile_format(*args.weight);
    const Tokens x = prepare_tokens<M>(args, format);
    if constexpr (M::skips)
        if (args.weight->tiles == TileForm::hashed) return hashed_tokens<M>(args, rows, format, x);
    float* scratch = thread_scratch(most_tokens_at_once * M::tiles_at_once * tile_rows);
    if constexpr (M::skips)
        if (args.weight->tiles == TileForm::skip) return skip_tokens<M>(args, rows, format, x, scratch);
    if constexpr (M::masked)
        if (args.weight->tiles == TileForm::mask) return masked_tokens<M>(args, rows, format, x, scratch);
    if constexpr (requires { M::max_pairs; })
        if (args.n_tokens >= M::min_pairs && args.n_tokens <= M::max_pairs && format.units_per_block() == 1) return few_tokens_by_pairs<M>(args, rows, format, x, scratch);
    if constexpr (M::max_direct > 0)
        if (args.n_tokens <= M::max_direct) return few_tokens<M>(args, rows, format, x);
    many_tokens<M>(args, rows, format, DenseTiles<M>{reinterpret_cast<const Byte*>(args.weight->data), format}, x, scratch);
}

}  // namespace
}  // namespace skiff
