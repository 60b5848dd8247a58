// Keys and values of the fake device: pages, what is written into them, attention.
#include <cmath>
#include <set>
#include <string_view>
#include <vector>

#include "backend/cuda/cudnn/rows.h"
#include "backend/cuda/testing/fake_kernels.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/state_format.h"
#include "kernels/cuda/tuning.h"
#include "kernels/ref/ref.h"

namespace skiff::cuda::fake {
namespace {

// A page of the form bf16 holds f32 here: that rounding is the kernels' business, and without it the whole session can be compared to the last digits.
std::size_t fake_page_bytes(StateForm form, std::int64_t n_kv_heads, std::int64_t head_dim) {
    return form == StateForm::bf16 ? static_cast<std::size_t>(n_kv_heads * page_positions * head_dim) * sizeof(float) : state_page_bytes(form, n_kv_heads, head_dim);
}

// Numbers of one position and head of a page.
class Page {
public:
    Page(const StateView& state, void* pool, std::int64_t sequence, std::int64_t position, std::int64_t head) : form_(state.form), head_dim_(state.head_dim) {
        const std::int32_t page = state.page_table[sequence * state.max_pages + position / page_positions];
        page_ = static_cast<std::byte*>(pool) + static_cast<std::size_t>(page) * fake_page_bytes(state.form, state.n_kv_heads, state.head_dim);
        row_ = head * page_positions + position % page_positions;
        const std::int64_t numbers = state.n_kv_heads * page_positions * state.head_dim;
        scales_ = reinterpret_cast<std::uint16_t*>(page_ + (form_ == StateForm::int4 ? numbers / 2 : numbers));
    }
    bool valid() const { return here(page_, 1); }
    void store(std::vector<float> x) {
        const std::int64_t groups = (head_dim_ + 31) / 32;
        auto* codes = reinterpret_cast<std::uint8_t*>(page_);
        if (form_ == StateForm::int4) rotate_head(x.data(), head_dim_);
        float largest = 0;
        for (float value : x) largest = std::max(largest, std::abs(value));
        const StateScale scale = state_scale_int8(largest);
        if (form_ == StateForm::int8) scales_[row_] = scale.bits;
        for (std::int64_t group = 0; group < groups && form_ == StateForm::int4; ++group) {
            const auto begin = x.begin() + group * 32, end = x.begin() + std::min(head_dim_, group * 32 + 32);
            const StateScale part = state_scale_int4(*std::max_element(begin, end), *std::min_element(begin, end));
            scales_[row_ * groups + group] = part.bits;
            for (auto at = begin; at != end; ++at) {
                const std::int64_t i = row_ * head_dim_ + (at - x.begin());
                const int code = std::clamp(static_cast<int>(std::nearbyint(*at * part.inverse)), -8, 7) + 8;
                codes[i / 2] = static_cast<std::uint8_t>(i % 2 != 0 ? (codes[i / 2] & 15) | code << 4 : (codes[i / 2] & 0xf0) | code);
            }
        }
        for (std::int64_t d = 0; d < head_dim_; ++d) {
            const float value = x[static_cast<std::size_t>(d)];
            const std::int64_t i = row_ * head_dim_ + d;
            if (form_ == StateForm::bf16) reinterpret_cast<float*>(page_)[i] = value;
            if (form_ == StateForm::fp8) codes[i] = float_to_f8_e4m3(value);
            if (form_ == StateForm::int8) codes[i] = static_cast<std::uint8_t>(static_cast<std::int8_t>(std::clamp(static_cast<int>(std::nearbyint(value * scale.inverse)), -127, 127)));
        }
    }
    void load(std::vector<float>& x) const {
        const std::int64_t groups = (head_dim_ + 31) / 32;
        const auto* codes = reinterpret_cast<const std::uint8_t*>(page_);
        for (std::int64_t d = 0; d < head_dim_; ++d) {
            const std::int64_t i = row_ * head_dim_ + d;
            float& value = x[static_cast<std::size_t>(d)];
            switch (form_) {
                case StateForm::bf16: value = reinterpret_cast<const float*>(page_)[i]; break;
                case StateForm::fp8: value = f8_e4m3_to_float(codes[i]); break;
                case StateForm::int8: value = static_cast<float>(static_cast<std::int8_t>(codes[i])) * f16_to_float(scales_[row_]); break;
                case StateForm::int4: value = static_cast<float>((codes[i / 2] >> (i % 2 * 4) & 15) - 8) * f16_to_float(scales_[row_ * groups + d / 32]); break;
            }
        }
    }

private:
    StateForm form_;
    std::int64_t head_dim_, row_ = 0;
    std::byte* page_ = nullptr;
    std::uint16_t* scales_ = nullptr;
};

// What the kernels take, but for the sizes of heads in the small models, which are few bytes as bf16.
bool fake_attention_takes(std::int64_t head_dim, StateForm form) { return form == StateForm::bf16 || state_takes(form, head_dim); }
bool rope_here(const RopeWriteArgs& args) {
    const std::int64_t n = args.tokens.n_tokens, d = args.state.head_dim;
    const auto part_here = [&](std::int64_t offset, std::int64_t heads) { return offset < 0 || (offset + heads * d <= args.qkv_stride && floats(args.qkv, (n - 1) * args.qkv_stride + offset + heads * d)); };
    return args.qkv != nullptr && d >= 1 && grid(n) && ((args.state.keys == nullptr && args.state.values == nullptr) || fake_attention_takes(d, args.state.form)) && part_here(args.n_heads > 0 ? args.q_offset : -1, args.n_heads) &&
           part_here(args.k_offset, args.state.n_kv_heads) && part_here(args.v_offset, args.state.n_kv_heads) && floats(args.tokens.positions, n) && floats(args.tokens.sequences, n) && floats(args.inv_freq, args.rotary_dim / 2) &&
           floats(args.q_norm, d) && floats(args.k_norm, d) && here_or_none(args.state.keys, 1) && here_or_none(args.state.values, 1);
}
void turn_and_keep(const RopeWriteArgs& args) {
    const std::int64_t d = args.state.head_dim;
    std::vector<float> row(static_cast<std::size_t>(d));
    const auto turn = [&](const float* x, const float* weight, std::int64_t t) {
        std::copy_n(x, d, row.data());
        if (weight != nullptr) norm_ref({row.data(), weight, nullptr, row.data(), d, args.norm_eps, NormKind::rms}, {0, 1});
        if (args.inv_freq != nullptr) rope_ref({row.data(), args.tokens.positions + t, args.inv_freq, 1, d, args.rotary_dim, args.magnitude, args.style}, {0, 1});
    };
    for (std::int64_t t = 0; t < args.tokens.n_tokens; ++t) {
        const float* x = args.qkv + t * args.qkv_stride;
        const std::int64_t sequence = sequence_of(args.tokens, t), position = args.tokens.positions[t];
        for (std::int64_t head = 0; head < args.n_heads; ++head) {
            turn(x + args.q_offset + head * d, args.q_norm, t);
            std::copy_n(row.data(), d, args.q + t * args.q_stride + head * d);
        }
        for (std::int64_t head = 0; head < args.state.n_kv_heads; ++head) {
            if (args.k_offset >= 0) {
                turn(x + args.k_offset + head * d, args.k_norm, t);
                if (args.k != nullptr) std::copy_n(row.data(), d, args.k + t * args.k_stride + head * d);
                if (args.state.keys != nullptr) Page(args.state, args.state.keys, sequence, position, head).store(row);
            }
            if (args.v_offset >= 0 && args.state.values != nullptr) Page(args.state, args.state.values, sequence, position, head).store({x + args.v_offset + head * d, x + args.v_offset + (head + 1) * d});
        }
    }
}
int rope_write(const RopeWriteArgs& args, const Launch& launch) {
    if (!rope_here(args) || (args.n_heads > 0 && (args.q == nullptr || !rows(args.q, args.tokens.n_tokens, args.n_heads * args.state.head_dim, args.q_stride)))) return bad_value;
    return put(launch.stream, [args]() -> int {
        turn_and_keep(args);
        return good;
    });
}

void attend(const AttentionCommon& args, std::int64_t t, std::int64_t sequence, std::int64_t position) {
    const std::int64_t d = args.state.head_dim, group = args.n_heads / args.state.n_kv_heads;
    const std::int64_t first = args.window > 0 ? std::max<std::int64_t>(0, position - args.window + 1) : 0;
    const bool rotated = args.state.form == StateForm::int4;
    std::vector<float> row(static_cast<std::size_t>(d)), q(row.size());
    for (std::int64_t head = 0; head < args.n_heads; ++head) {
        std::copy_n(args.q + t * args.q_stride + head * d, d, q.data());
        if (rotated) rotate_head(q.data(), d);
        std::vector<double> scores, sum(row.size());
        double highest = -INFINITY, total = 0;
        for (std::int64_t p = first; p <= position; ++p) {
            Page(args.state, args.state.keys, sequence, p, head / group).load(row);
            double score = 0;
            for (std::size_t i = 0; i < row.size(); ++i) score += static_cast<double>(q[i]) * row[i];
            score *= args.scale;
            if (args.softcap > 0) score = args.softcap * std::tanh(score / args.softcap);
            highest = std::max(highest, score);
            scores.push_back(score);
        }
        for (std::int64_t p = first; p <= position; ++p) {
            const double weight = std::exp(scores[static_cast<std::size_t>(p - first)] - highest);
            total += weight;
            Page(args.state, args.state.values, sequence, p, head / group).load(row);
            for (std::size_t i = 0; i < row.size(); ++i) sum[i] += weight * row[i];
        }
        for (std::size_t i = 0; i < row.size(); ++i) row[i] = static_cast<float>(sum[i] / total);
        if (rotated) rotate_head(row.data(), d);
        for (std::int64_t i = 0; i < d; ++i) {
            if (args.y != nullptr) args.y[t * args.y_stride + head * d + i] = row[static_cast<std::size_t>(i)];
            write_operand(args.operand, t, head * d + i, row[static_cast<std::size_t>(i)]);
        }
    }
}
std::int64_t fake_partial_floats(std::int64_t n_tokens, std::int64_t n_heads, std::int64_t head_dim, std::int64_t n_splits) { return n_tokens * n_heads * n_splits * (head_dim + 2); }
bool attention_here(const AttentionCommon& args) {
    const std::int64_t n = args.tokens.n_tokens, width = args.n_heads * args.state.head_dim;
    return fake_attention_takes(args.state.head_dim, args.state.form) && args.q != nullptr && rows(args.q, n, width, args.q_stride) && here(args.state.keys, 1) && here(args.state.values, 1) && here(args.state.page_table, 4) && floats(args.tokens.positions, n) &&
           floats(args.tokens.sequences, n) && rows(args.y, n, width, args.y_stride) && operand_here(args.operand, n) && (args.operand.data == nullptr || args.operand.n_columns == width) && args.mask == AttentionMask::causal;
}
int decode_attention(const DecodeAttentionArgs& args, const Launch& launch) {
    const std::int64_t n = args.common.tokens.n_tokens;
    if (!attention_here(args.common) || !grid(n) || args.n_splits < 1 || args.n_splits > decode_attention_max_splits || !floats(args.partials, fake_partial_floats(n, args.common.n_heads, args.common.state.head_dim, args.n_splits)) || !floats(args.arrivals, n * args.common.state.n_kv_heads)) return bad_value;
    RopeWriteArgs rope = args.rope;
    rope.state = args.common.state;
    rope.tokens = args.common.tokens;
    if (rope.qkv != nullptr && (!rope_here(rope) || rope.k_offset < 0 || rope.v_offset < 0 || (rope.n_heads > 0 && (rope.n_heads != args.common.n_heads || rope.qkv + rope.q_offset != args.common.q)))) return bad_value;
    return put(launch.stream, [args, rope, n]() mutable -> int {
        for (std::int64_t i = 0; i < n * args.common.state.n_kv_heads; ++i)
            if (args.arrivals[i] != 0) return bad_value;
        AttentionCommon common = args.common;
        std::vector<float> q;
        if (rope.qkv != nullptr) {
            std::set<std::int64_t> sequences;
            for (std::int64_t t = 0; t < n; ++t) sequences.insert(sequence_of(rope.tokens, t));
            if (static_cast<std::int64_t>(sequences.size()) != n) return bad_value;
            q.resize(static_cast<std::size_t>(n * rope.n_heads * rope.state.head_dim));
            rope.q = q.data();
            rope.q_stride = rope.n_heads * rope.state.head_dim;
            turn_and_keep(rope);
            if (rope.n_heads > 0) common.q = rope.q, common.q_stride = rope.q_stride;
        }
        for (std::int64_t t = 0; t < n; ++t) attend(common, t, sequence_of(common.tokens, t), common.tokens.positions[t]);
        return good;
    });
}
int prefill_attention(const PrefillAttentionArgs& args, const Launch& launch) {
    if (!attention_here(args.common) || !floats(args.tiles, args.n_tiles)) return bad_value;
    return put(launch.stream, [args]() -> int {
        std::int64_t done = 0;
        for (std::int64_t i = 0; i < args.n_tiles; ++i) {
            const PrefillTile& tile = args.tiles[i];
            if (tile.first_token != done || tile.n_tokens < 1 || tile.n_tokens > prefill_tile_tokens) return bad_value;
            for (std::int32_t t = 0; t < tile.n_tokens; ++t) attend(args.common, tile.first_token + t, tile.sequence, tile.first_position + t);
            done += tile.n_tokens;
        }
        return done == args.common.tokens.n_tokens ? good : bad_value;
    });
}

// As cuDNN would, of operands and pages as they are here, whose numbers are f32. "plain" is no library; "picky" has plans for 64 rows and 16 pages at most.
bool picky = false;
int open_cudnn(const char* path) {
    const std::string_view name(path);
    if (name == "broken") return bad_value;
    picky = name == "picky";
    return picky || name == "plain" ? static_cast<int>(good) : cudnn::open(path);
}
int prepare_sequence_attention(const SequenceAttentionArgs& args) { return picky && (args.n_rows > 64 || args.n_pages > 16) ? static_cast<int>(not_supported) : static_cast<int>(good); }
int sequence_attention(const SequenceAttentionArgs& args, const Launch& launch) {
    const std::int64_t width = args.n_heads * args.state.head_dim;
    const std::size_t bytes = fake_operand_bytes(OperandForm::rows, args.n_rows, width);
    if (args.state.form != StateForm::bf16 || args.q == args.y || !here(args.q, bytes) || !here(args.y, bytes) || !here(args.n_tokens, 4) || !here(args.n_positions, 4) || !here(args.workspace, args.workspace_bytes) ||
        args.n_pages > args.state.max_pages || reinterpret_cast<std::uintptr_t>(args.n_tokens) % 16 != 0 || reinterpret_cast<std::uintptr_t>(args.n_positions) % 16 != 0)
        return bad_value;
    return put(launch.stream, [args, width]() -> int {
        const std::int64_t n = *args.n_tokens, first = *args.n_positions - n;
        if (n < 1 || n > args.n_rows || first < 0 || *args.n_positions > args.n_pages * page_positions) return bad_value;
        AttentionCommon common;
        common.q = static_cast<const float*>(args.q);
        common.q_stride = common.y_stride = width;
        common.n_heads = args.n_heads;
        common.state = args.state;
        common.scale = args.scale;
        common.softcap = args.softcap;
        common.window = args.window;
        common.y = static_cast<float*>(args.y);
        for (std::int64_t t = 0; t < n; ++t) attend(common, t, args.sequence, first + t);
        std::fill(common.y + n * width, common.y + args.n_rows * width, NAN);
        return good;
    });
}
int widen(const WidenArgs& args, const Launch& launch) {
    if (!here(args.x, fake_operand_bytes(OperandForm::rows, args.n_tokens, args.n_columns)) || !rows(args.y, args.n_tokens, args.n_columns, args.y_stride) || !operand_here(args.operand, args.n_tokens)) return bad_value;
    return put(launch.stream, [args]() -> int {
        for (std::int64_t t = 0; t < args.n_tokens; ++t)
            for (std::int64_t c = 0; c < args.n_columns; ++c) {
                const float value = static_cast<const float*>(args.x)[t * args.n_columns + c];
                if (args.y != nullptr) args.y[t * args.y_stride + c] = value;
                write_operand(args.operand, t, c, value);
            }
        return good;
    });
}

std::int64_t fake_splits(std::int64_t capacity, std::int64_t, const Launch&) { return std::max<std::int64_t>(1, capacity / 256); }
bool fake_prefill_takes(std::int64_t head_dim, StateForm form) { return head_dim % 16 == 0 && form == StateForm::bf16; }  // so that both ways are tested

}  // namespace

void add_state(Table& table) {
    table.state_page_bytes = fake_page_bytes;
    table.decode_attention_splits = fake_splits;
    table.decode_partial_floats = fake_partial_floats;
    table.attention_takes = fake_attention_takes;
    table.prefill_attention_takes = fake_prefill_takes;
    table.rope_write = rope_write;
    table.decode_attention = decode_attention;
    table.prefill_attention = prefill_attention;
    table.open_cudnn = open_cudnn;
    table.prepare_sequence_attention = prepare_sequence_attention;
    table.sequence_attention = sequence_attention;
    table.widen = widen;
}

}  // namespace skiff::cuda::fake
