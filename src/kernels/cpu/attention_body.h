// Attention, written once; each attention_<isa>.cpp includes the lanes, products and operands of its instruction set first.
// A unit is a chunk of 256 positions for the queries of a tile and KV head: scores = q K, softmax of the chunk alone, part = weights V. The chunks of a
// query are merged in order of position, with their highest scores, so its bits depend on its positions alone, not on batch, tile or threads.
// Both products read panels whose lanes are results, so no sum crosses lanes and each runs in the order of the panel (Q x V sums in registers).
#pragma once

#include "kernels/cpu/scratch.h"
#include "kernels/ref/ref.h"
#include "tensor/dtype.h"

namespace skiff {
namespace {

constexpr std::int64_t at_once = 8;          // queries of a pass over a chunk
constexpr float code_limit = 16256.0f;       // 127 * 128: the largest code of 14 bits

float exp_of(float x) {
    alignas(64) float result[state_lanes];
    store_lanes(result, exp_lanes(set_lanes(x)));
    return result[0];
}

// What is known of a query over a stretch of positions: the weighted values less e^highest, and that sum of weights.
struct Partial {
    float* values;  // (width)
    float *highest, *total;
};

void merge(const Partial& sum, const Partial& part, std::int64_t width) {
    const float top = *part.highest > *sum.highest ? *part.highest : *sum.highest;
    const float keep = exp_of(*sum.highest - top), take = exp_of(*part.highest - top);
    for (std::int64_t i = 0; i < width; i += state_lanes)
        store_lanes(sum.values + i, fma(load_lanes(sum.values + i), set_lanes(keep), mul(load_lanes(part.values + i), set_lanes(take))));
    *sum.total = *sum.total * keep + *part.total * take;
    *sum.highest = top;
}

// Turns the scores of positions begin .. end - 1 of a chunk into e^(score - highest), and those around them, in from .. to (multiples of 16), into zeros.
struct Positions {
    std::int64_t begin, end;
};
void exponentiate(float* scores, Positions own, Positions all, float softcap, float* highest, float* total) {
    const Lanes nothing = set_lanes(-__builtin_inff());
    Lanes top = nothing, sum = set_lanes(0);
    const std::int64_t from = own.begin / state_lanes * state_lanes;
    for (std::int64_t p = all.begin; p < from; p += state_lanes) put_operands(scores, p, set_lanes(0));
    std::int64_t p = from;
    for (; p < own.end; p += state_lanes) {
        Lanes score = load_lanes(scores + p);
        if (softcap > 0) score = mul(set_lanes(softcap), tanh_lanes(div(score, set_lanes(softcap))));
        if (p < own.begin || own.end - p < state_lanes) score = between(score, most(own.begin - p, 0), least(own.end - p, state_lanes), nothing);
        store_lanes(scores + p, score);
        top = greater(top, score);
    }
    const std::int64_t to = p;
    *highest = highest_of(top);
    const Lanes lowered = set_lanes(-*highest);
    for (p = from; p < to; p += state_lanes) {
        Lanes weight = exp_lanes(add(load_lanes(scores + p), lowered));
        if (p < own.begin || own.end - p < state_lanes) weight = between(weight, most(own.begin - p, 0), least(own.end - p, state_lanes), set_lanes(0));
        put_operands(scores, p, weight);
        sum = add(sum, weight);
    }
    for (; p < all.end; p += state_lanes) put_operands(scores, p, set_lanes(0));
    *total = sum_of(sum);
}

// x, times factors where given, as codes of 14 bits: from multiples of 16 to multiples of 16. Returns their sum.
std::int32_t encode(const float* x, const std::uint16_t* factors, Positions all, std::byte* codes, std::int64_t length, float* worth) {
    Lanes size = set_lanes(0);
    for (std::int64_t i = all.begin; i < all.end; i += state_lanes) {
        const Lanes value = load_lanes(x + i);
        size = greater(size, magnitude(factors != nullptr ? mul(value, load_f16(factors + i)) : value));
    }
    const float largest = highest_of(size), inverse = largest > 1e-30f ? code_limit / largest : 0;
    *worth = largest / code_limit;
    CodeSum sum = no_codes();
    for (std::int64_t i = all.begin; i < all.end; i += state_lanes) {
        const Lanes value = load_lanes(x + i);
        sum = put_codes(factors != nullptr ? mul(value, load_f16(factors + i)) : value, inverse, codes, i, length, sum);
    }
    return total_of(sum);
}

// The queries of a tile and KV head, and what is known of each so far.
struct Queries {
    std::int64_t n, stride;        // stride: head_dim in whole groups
    const std::byte *keys, *values;
    std::int64_t* first;           // (n) positions that are seen
    std::int64_t* last;
    float* q;                      // (n, stride) scaled, rotated for int4, zeros behind: put_operands
    std::byte* codes;              // (n, 2 * stride) of q, where the scheme wants codes
    float* worth;                  // (n)
    std::int32_t* code_sums;       // (n, n_groups)
    float *sum, *highest, *total;  // (n, stride), (n), (n)
};

// Work space of one pass over a chunk.
struct Work {
    alignas(64) float scores[at_once * attention_chunk];                // then weights: put_operands
    alignas(64) std::byte codes[at_once * 2 * attention_chunk];         // of weights
    float worth[at_once];
    std::int32_t code_sums[at_once];
};

void score(const StateLayout& layout, const Queries& queries, std::int64_t from, std::int64_t n, const std::byte* block, std::int64_t ahead, Positions all, Work& work) {
    const std::int64_t panel = all.begin / state_lanes, n_panels = (all.end - all.begin) / state_lanes, steps = layout.key.panel_bytes / layout.key.step_bytes;
    const std::byte* panels = block + panel * layout.key.panel_bytes;
    if (!has_codes(layout.scheme)) {
        const FloatProduct product{panels, layout.key.panel_bytes, n_panels, 0, steps, queries.q + from * queries.stride, queries.stride, work.scores + all.begin, attention_chunk, ahead};
        return multiply_stored(layout.scheme, product, n);
    }
    const auto* scales = reinterpret_cast<const std::uint16_t*>(block + layout.key.scales_offset) + all.begin;
    const CodeProduct product{panels, layout.key.panel_bytes, n_panels, 0, steps, queries.codes + from * 2 * queries.stride, 2 * queries.stride, queries.stride,
                              queries.worth + from, queries.code_sums + from * layout.key.n_groups, layout.key.n_groups, scales, work.scores + all.begin, attention_chunk, ahead};
    if (layout.scheme == StateScheme::int8) multiply_int8(product, n);
    else multiply_int4_keys(product, n);
}

// part: (n, part_stride)
void weigh(const StateLayout& layout, std::int64_t n, const std::byte* block, std::int64_t ahead, Positions all, float* part, std::int64_t part_stride, Work& work) {
    const std::int64_t panel_bytes = layout.value.panel_bytes, n_panels = layout.value.n_panels;
    if (!has_codes(layout.scheme)) {
        const std::int64_t numbers = layout.scheme == StateScheme::bf16 ? 2 : 1, first = all.begin / numbers, steps = all.end / numbers - first;
        const FloatProduct product{block, panel_bytes, n_panels, first, steps, work.scores, attention_chunk, part, part_stride, ahead};
        return multiply_stored(layout.scheme, product, n);
    }
    const auto* scales = reinterpret_cast<const std::uint16_t*>(block + layout.value.scales_offset);
    for (std::int64_t group = 0; group < layout.value.n_groups; ++group) {
        for (std::int64_t k = 0; k < n; ++k)
            work.code_sums[k] = encode(work.scores + k * attention_chunk, scales + group * attention_chunk, all, work.codes + k * 2 * attention_chunk, attention_chunk, work.worth + k);
        CodeProduct product{block, panel_bytes, n_panels, all.begin / 4, (all.end - all.begin) / 4, work.codes, 2 * attention_chunk, attention_chunk,
                            work.worth, work.code_sums, 1, nullptr, part, part_stride, ahead};
        if (layout.scheme == StateScheme::int8) {
            multiply_int8(product, n);
        } else {
            product.panels = block + group * panel_bytes, product.n_panels = 1, product.out = part + group * state_group;
            multiply_int4_values(product, n);
        }
    }
}

// The processor fetches ahead along a stream that it has seen, not at the start of one: asks for the first bytes of what is read next.
inline void fetch(const std::byte* p, std::int64_t n) {
    for (std::int64_t i = 0; i < n; i += 64) __builtin_prefetch(p + i, 0, 2);
}
void fetch_values(const StateBlock& value, const std::byte* block, Positions all) {
    const std::int64_t begin = all.begin * value.panel_bytes / attention_chunk, n = least((all.end - all.begin) * value.panel_bytes / attention_chunk, 1024);
    for (std::int64_t panel = 0; panel < least(value.n_panels, 4); ++panel) fetch(block + panel * value.panel_bytes + begin, n);
    fetch(block + value.scales_offset, value.n_groups > 0 ? attention_chunk * 2 : 0);
}
void fetch_keys(const StateBlock& key, const std::byte* block) {
    fetch(block, least(2 * key.panel_bytes, 4096));
    fetch(block + key.scales_offset, key.n_groups > 0 ? attention_chunk * 2 : 0);
}

// Chunk `chunk` for queries from .. from + n - 1; part[k], highest[k], total[k] get what they see there. Returns false where none sees any of it.
// `next`: the block of keys that this thread reads after this chunk's values, or null.
bool attend_chunk(const AttentionArgs& args, const StateLayout& layout, const Queries& queries, std::int64_t kv_head, std::int64_t chunk, const std::byte* next, std::int64_t from, std::int64_t n,
                  float* part, std::int64_t part_stride, float* highest, float* total, Work& work) {
    const std::int64_t base = chunk * attention_chunk, block = chunk * layout.n_kv_heads + kv_head;
    Positions own[at_once], all{attention_chunk, 0};
    for (std::int64_t k = 0; k < n; ++k) {
        own[k] = {most(queries.first[from + k] - base, 0), least(queries.last[from + k] + 1 - base, attention_chunk)};
        if (own[k].begin >= own[k].end) continue;
        all = {least(all.begin, own[k].begin), most(all.end, own[k].end)};
    }
    if (all.begin >= all.end) return false;
    all = {all.begin / state_lanes * state_lanes, padded(all.end, state_lanes)};
    const std::byte *keys = queries.keys + block * layout.key.size_bytes, *values = queries.values + block * layout.value.size_bytes;
    score(layout, queries, from, n, keys, from == 0 ? values - keys : 0, all, work);
    fetch_values(layout.value, values, all);
    for (std::int64_t k = 0; k < n; ++k) {
        float* scores = work.scores + k * attention_chunk;
        if (own[k].begin < own[k].end) {
            exponentiate(scores, own[k], all, args.softcap, highest + k, total + k);
            continue;
        }
        for (std::int64_t p = all.begin; p < all.end; p += state_lanes) put_operands(scores, p, set_lanes(0));
        highest[k] = -__builtin_inff(), total[k] = 0;
    }
    if (next != nullptr) fetch_keys(layout.key, next);
    weigh(layout, n, values, from == 0 && next != nullptr ? next - values : 0, all, part, part_stride, work);
    return true;
}

// Queries of a tile and KV head, in this thread's scratch, with room for the parts of a pass.
struct Prepared {
    Queries queries;
    float* part;  // (at_once, stride)
};
Prepared prepare(const AttentionArgs& args, const StateLayout& layout, const AttentionTile& tile, std::int64_t kv_head) {
    const std::int64_t group = args.n_heads / args.n_kv_heads, n = tile.n_tokens * group, d = args.head_dim, stride = padded(d, state_group);
    const std::int64_t n_groups = stride / state_group;
    float* space = thread_scratch((n * 2 + at_once) * stride + n * (stride / 2 + n_groups) + padded(n, 16) * 7 + 64);
    const auto take = [&](std::int64_t floats) {
        float* result = space;
        space += padded(floats, 16);
        return result;
    };
    Prepared prepared{};
    Queries& queries = prepared.queries;
    queries.n = n, queries.stride = stride;
    queries.keys = args.keys[tile.first_token], queries.values = args.values[tile.first_token];
    queries.q = take(n * stride), queries.sum = take(n * stride), prepared.part = take(at_once * stride);
    queries.codes = reinterpret_cast<std::byte*>(take(n * stride / 2));
    queries.first = reinterpret_cast<std::int64_t*>(take(n * 2)), queries.last = reinterpret_cast<std::int64_t*>(take(n * 2));
    queries.worth = take(n), queries.highest = take(n), queries.total = take(n);
    queries.code_sums = reinterpret_cast<std::int32_t*>(take(n * n_groups));
    for (std::int64_t k = 0; k < n; ++k) {
        const std::int64_t token = tile.first_token + k / group, last = args.positions[token];
        const float* source = args.q + (token * args.n_heads + kv_head * group + k % group) * d;
        float *q = queries.q + k * stride, *sum = queries.sum + k * stride;
        for (std::int64_t i = 0; i < stride; i += state_lanes) {
            const std::int64_t left = most(least(d - i, state_lanes), 0);
            put_operands(q, i, left == 0 ? set_lanes(0) : mul(load_first(source + i, left), set_lanes(args.scale)));
            store_lanes(sum + i, set_lanes(0));
        }
        queries.first[k] = args.window > 0 ? most(last - args.window + 1, 0) : 0;
        queries.last[k] = last;
        queries.highest[k] = -__builtin_inff(), queries.total[k] = 0;
        if (args.scheme == StateScheme::int4) rotate_head(q, d);
        if (!has_codes(args.scheme)) continue;
        queries.code_sums[k * layout.key.n_groups] = encode(q, nullptr, {0, stride}, queries.codes + k * 2 * stride, stride, queries.worth + k);
        if (args.scheme != StateScheme::int4) continue;
        for (std::int64_t g = 0; g < n_groups; ++g)
            queries.code_sums[k * n_groups + g] = sum_codes(queries.codes + k * 2 * stride, g * state_group, state_group, stride);
    }
    return prepared;
}

void write_result(const AttentionArgs& args, const AttentionTile& tile, std::int64_t kv_head, std::int64_t k, float* sum, float total) {
    const std::int64_t group = args.n_heads / args.n_kv_heads, d = args.head_dim;
    float* y = args.y + ((tile.first_token + k / group) * args.n_heads + kv_head * group + k % group) * d;
    const Lanes inverse = set_lanes(1.0f / total);
    for (std::int64_t i = 0; i < d; i += state_lanes) store_lanes(sum + i, mul(load_lanes(sum + i), inverse));
    if (args.scheme == StateScheme::int4) rotate_head(sum, d);
    for (std::int64_t i = 0; i < d; i += state_lanes) store_first(y + i, least(d - i, state_lanes), load_lanes(sum + i));
}

// Chunks begin .. end - 1 of those of a tile and KV head; `unit` is the number of the first of all. `goes_on`: the thread has the next KV head of the tile too.
void attend(const AttentionArgs& args, const StateLayout& layout, const AttentionTile& tile, std::int64_t tile_number, std::int64_t kv_head, std::int64_t unit,
            std::int64_t begin, std::int64_t end, bool goes_on, Work& work) {
    const Prepared prepared = prepare(args, layout, tile, kv_head);
    const Queries& queries = prepared.queries;
    const bool whole = begin == 0 && end == tile.n_chunks;
    const std::int64_t slot_floats = attention_partial_floats(args.n_heads, args.n_kv_heads, args.head_dim), stride = queries.stride;
    const auto slot = [&](std::int64_t chunk, std::int64_t k) {  // values, then highest and total
        float* base = args.partials + (unit + chunk) * slot_floats + k * (stride + state_lanes);
        return Partial{base, base + stride, base + stride + 1};
    };
    const auto known = [&](std::int64_t k) { return Partial{queries.sum + k * stride, queries.highest + k, queries.total + k}; };
    for (std::int64_t chunk = begin; chunk < end; ++chunk) {
        const std::int64_t here = (tile.first_chunk + chunk) * layout.n_kv_heads + kv_head, there = chunk + 1 < end ? here + layout.n_kv_heads : tile.first_chunk * layout.n_kv_heads + kv_head + 1;
        const std::byte* next = chunk + 1 < end || goes_on ? queries.keys + there * layout.key.size_bytes : nullptr;
        for (std::int64_t from = 0; from < queries.n; from += at_once) {
            const std::int64_t n = least(queries.n - from, at_once);
            float highest[at_once], total[at_once];
            float* part = whole ? prepared.part : slot(chunk, from).values;
            const std::int64_t part_stride = whole ? stride : stride + state_lanes;
            const bool seen = attend_chunk(args, layout, queries, kv_head, tile.first_chunk + chunk, next, from, n, part, part_stride, highest, total, work);
            for (std::int64_t k = 0; k < n; ++k) {
                if (whole) {
                    if (seen && total[k] > 0) merge(known(from + k), {part + k * part_stride, highest + k, total + k}, stride);
                    continue;
                }
                const Partial target = slot(chunk, from + k);
                *target.highest = seen ? highest[k] : 0, *target.total = seen ? total[k] : 0;
            }
        }
    }
    if (!whole) {
        std::int32_t* arrived = args.arrivals + tile_number;
        if (__atomic_add_fetch(arrived, static_cast<std::int32_t>(end - begin), __ATOMIC_ACQ_REL) != tile.n_chunks) return;
        __atomic_store_n(arrived, 0, __ATOMIC_RELAXED);
        for (std::int64_t k = 0; k < queries.n; ++k)
            for (std::int64_t chunk = 0; chunk < tile.n_chunks; ++chunk)
                if (*slot(chunk, k).total > 0) merge(known(k), slot(chunk, k), stride);
    }
    for (std::int64_t k = 0; k < queries.n; ++k) write_result(args, tile, kv_head, k, queries.sum + k * stride, queries.total[k]);
}

void attention(const AttentionArgs& args, Range units) {
    if (has_codes(args.scheme) && args.head_dim > max_code_head) return attention_ref(args, units);
    if (units.begin >= units.end) return;
    const StateLayout layout = state_layout(args.scheme, args.n_kv_heads, args.head_dim);
    Work work;
    std::int64_t unit = 0, tile_number = 0;
    for (std::int64_t kv_head = 0; kv_head < args.n_kv_heads && unit < units.end; ++kv_head)
        for (std::int64_t token = 0; token < args.n_tokens && unit < units.end; ++tile_number) {
            const AttentionTile tile = attention_tile(args, token);
            const std::int64_t begin = most(units.begin - unit, 0), end = least(units.end - unit, tile.n_chunks);
            const bool goes_on = tile.n_tokens == args.n_tokens && kv_head + 1 < args.n_kv_heads && unit + tile.n_chunks < units.end;
            if (begin < end) attend(args, layout, tile, tile_number, kv_head, unit, begin, end, goes_on, work);
            unit += tile.n_chunks;
            token += tile.n_tokens;
        }
}

}  // namespace
}  // namespace skiff
