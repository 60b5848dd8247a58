// The fake device's operators of rows: embedding, norms, elements, selection, routing, convolution, sampling.
#include <cmath>
#include <cstring>
#include <vector>

#include "backend/cuda/testing/fake_kernels.h"
#include "kernels/cuda/choose.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/tuning.h"
#include "kernels/ref/ref.h"

namespace skiff::cuda::fake {
int norm(const NormLaunchArgs& args, const Launch& launch) {
    const std::int64_t all = args.n_groups * args.width;
    const bool behind = args.behind.is == NormLaunchArgs::Behind::Is::there;
    if (args.x == nullptr || !rows(args.x, args.n_tokens, all, args.x_stride) || !rows(args.residual, args.n_tokens, all, args.x_stride) || !rows(args.sum, args.n_tokens, all, args.x_stride) ||
        !floats(args.weight, args.width) || !floats(args.bias, args.width) || !rows(args.y, args.n_tokens, all, args.y_stride) || !operand_here(args.operand, args.n_tokens) || !operand_here(args.second, args.n_tokens) ||
        !floats(args.second_weight, args.width) || !floats(args.second_bias, args.width) || ((behind || args.second.data != nullptr) && args.n_groups != 1) || (args.second.data != nullptr && args.second.data == args.operand.data) ||
        (behind && (!floats(args.behind.weight, args.width) || !floats(args.behind.bias, args.width))))
        return bad_value;
    return put(launch.stream, [args, all, behind]() -> int {
        std::vector<float> row(static_cast<std::size_t>(all)), other(static_cast<std::size_t>(all));
        for (std::int64_t t = 0; t < args.n_tokens; ++t) {
            std::copy_n(args.x + t * args.x_stride, all, row.begin());
            if (behind) norm_ref({row.data(), args.behind.weight, args.behind.bias, row.data(), args.width, args.behind.eps, args.behind.kind}, {0, 1});
            for (std::int64_t c = 0; c < all; ++c) {
                float& value = row[static_cast<std::size_t>(c)];
                if (args.residual != nullptr) value += args.residual[t * args.x_stride + c];
                if (args.sum != nullptr) args.sum[t * args.x_stride + c] = value;
            }
            if (args.second.data != nullptr) norm_ref({row.data(), args.second_weight, args.second_bias, other.data(), args.width, args.eps, args.kind}, {0, 1});
            norm_ref({row.data(), args.weight, args.bias, row.data(), args.width, args.eps, args.kind}, {0, args.n_groups});
            for (std::int64_t c = 0; c < all; ++c) {
                if (args.y != nullptr) args.y[t * args.y_stride + c] = row[static_cast<std::size_t>(c)];
                write_operand(args.operand, t, c, row[static_cast<std::size_t>(c)]);
                write_operand(args.second, t, c, other[static_cast<std::size_t>(c)]);
            }
        }
        return good;
    });
}

namespace {

int embed(const EmbedArgs& args, const Launch& launch) {
    const std::int64_t width = args.table.n_columns;
    if (!here(args.table.codes, 1) || !floats(args.index, args.n_tokens) || args.x == nullptr || !floats(args.x, args.n_tokens * width) || !next_here(args.next, args.n_tokens, width)) return bad_value;
    return put(launch.stream, [args, width]() -> int {
        std::vector<float> row(static_cast<std::size_t>(width));
        for (std::int64_t t = 0; t < args.n_tokens; ++t) {
            const std::int64_t index = args.index[t] + args.offset;
            if (index < 0 || index >= args.table.n_rows) return bad_value;
            packed_row(args.table, index, row.data());
            float* x = args.x + t * width;
            for (std::int64_t c = 0; c < width; ++c) {
                const float value = row[static_cast<std::size_t>(c)] * args.scale;
                x[c] = args.write == EmbedArgs::Write::add ? x[c] + value : value;
            }
            write_next(args.next, t, x, width);
        }
        return good;
    });
}

int elements(const ElementLaunchArgs& args, const Launch& launch) {
    const std::int64_t n = args.n_tokens, width = args.n_columns;
    const bool two = args.kind == ElementKind::activate_mul || args.kind == ElementKind::multiply || args.kind == ElementKind::add;
    if (args.a == nullptr || !grid(n) || !rows(args.a, n, width, args.a_stride) || (two && (args.b == nullptr || !rows(args.b, n, width, args.b_stride))) || !rows(args.y, n, width, args.y_stride) || !operand_here(args.operand, n) ||
        ((args.kind == ElementKind::gate || args.kind == ElementKind::add_gated) && (args.b == nullptr || !rows(args.b, n, 1, args.b_stride))) || (args.kind == ElementKind::add_gated && args.y == nullptr) || (args.kind == ElementKind::permute && !floats(args.order, width)) || (args.kind == ElementKind::column_scale && !floats(args.b, width)))
        return bad_value;
    return put(launch.stream, [args, n, width]() -> int {
        for (std::int64_t t = 0; t < n; ++t) {
            std::vector<float> row(static_cast<std::size_t>(width));
            for (std::int64_t c = 0; c < width; ++c) {
                const float a = args.a[t * args.a_stride + c];
                float& y = row[static_cast<std::size_t>(c)];
                switch (args.kind) {
                    case ElementKind::activation: y = activated(args.activation, a); break;
                    case ElementKind::activate_mul: y = activated(args.activation, a) * args.b[t * args.b_stride + c]; break;
                    case ElementKind::multiply: y = a * args.b[t * args.b_stride + c]; break;
                    case ElementKind::add: y = a + args.b[t * args.b_stride + c]; break;
                    case ElementKind::scale: y = a * args.factor; break;
                    case ElementKind::softcap: y = args.factor * std::tanh(a / args.factor); break;
                    case ElementKind::column_scale: y = a * args.b[c]; break;
                    case ElementKind::add_gated: y = args.y[t * args.y_stride + c] + a * args.b[t * args.b_stride]; break;
                    case ElementKind::gate: y = a * args.b[t * args.b_stride]; break;
                    case ElementKind::permute: y = args.a[t * args.a_stride + args.order[c]]; break;
                }
            }
            for (std::int64_t c = 0; c < width; ++c) {
                if (args.y != nullptr) args.y[t * args.y_stride + c] = row[static_cast<std::size_t>(c)];
                write_operand(args.operand, t, c, row[static_cast<std::size_t>(c)]);
            }
        }
        return good;
    });
}

int select_rows(const float* x, const std::int32_t* index, float* y, std::int64_t n_rows, std::int64_t n_columns, const Launch& launch) {
    if (x == nullptr || y == nullptr || !grid(n_rows) || !floats(index, n_rows) || !floats(y, n_rows * n_columns)) return bad_value;
    return put(launch.stream, [=]() -> int {
        for (std::int64_t r = 0; r < n_rows; ++r) {
            if (!here(x + index[r] * n_columns, static_cast<std::size_t>(n_columns) * 4)) return bad_value;
            std::copy_n(x + index[r] * n_columns, n_columns, y + r * n_columns);
        }
        return good;
    });
}

int route(const RouteLaunchArgs& args, const Launch& launch) {
    if (!floats(args.logits, args.n_tokens * args.n_experts) || !floats(args.y, args.n_tokens * args.n_experts)) return bad_value;
    return put(launch.stream, [args]() -> int {
        for (std::int64_t t = 0; t < args.n_tokens; ++t) {
            const float* logits = args.logits + t * args.n_experts;
            float* y = args.y + t * args.n_experts;
            std::vector<std::int64_t> order(static_cast<std::size_t>(args.n_experts));
            for (std::int64_t e = 0; e < args.n_experts; ++e) order[static_cast<std::size_t>(e)] = e, y[e] = 0;
            std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return logits[a] > logits[b]; });
            const std::int64_t counted = args.rule == RouteLaunchArgs::Rule::softmax_then_top ? args.n_experts : args.n_used;
            double total = 0, chosen = 0;
            for (std::int64_t i = 0; i < counted; ++i) total += std::exp(static_cast<double>(logits[order[static_cast<std::size_t>(i)]] - logits[order[0]]));
            for (std::int64_t i = 0; i < args.n_used; ++i) {
                const std::int64_t e = order[static_cast<std::size_t>(i)];
                y[e] = static_cast<float>(std::exp(static_cast<double>(logits[e] - logits[order[0]])) / total);
                chosen += y[e];
            }
            if (args.divide == RouteLaunchArgs::Divide::by_their_sum)
                for (std::int64_t e = 0; e < args.n_experts; ++e) y[e] = static_cast<float>(y[e] / chosen);
        }
        return good;
    });
}

int causal_conv(const ConvLaunchArgs& args, const Launch& launch) {
    const std::int64_t n = args.tokens.n_tokens, width = args.n_columns;
    if (!grid(n) || args.x == nullptr || !rows(args.x, n, width, args.x_stride) || !rows(args.gate_in, n, width, args.gate_in_stride) || !rows(args.gate_out, n, width, args.gate_out_stride) || !floats(args.y, n * width) || !operand_here(args.operand, n) || !floats(args.taps, args.n_taps * width) || !floats(args.bias, width) || !here(args.rings, 4)) return bad_value;
    return put(launch.stream, [args, n, width]() -> int {
        std::vector<std::int64_t> seen;  // a sequence's tokens are neighbours
        for (std::int64_t t = 0; t < n; ++t) {
            const std::int64_t sequence = sequence_of(args.tokens, t);
            if (!seen.empty() && seen.back() == sequence) continue;
            if (std::find(seen.begin(), seen.end(), sequence) != seen.end()) return bad_value;
            seen.push_back(sequence);
        }
        const std::int64_t ring = args.n_taps - 1;
        std::vector<float> input(static_cast<std::size_t>(n * width));
        for (std::int64_t t = 0; t < n; ++t)
            for (std::int64_t c = 0; c < width; ++c) input[static_cast<std::size_t>(t * width + c)] = args.x[t * args.x_stride + c] * (args.gate_in != nullptr ? args.gate_in[t * args.gate_in_stride + c] : 1.0f);
        const auto ring_row = [&](std::int64_t sequence, std::int64_t position) { return args.rings + (sequence * ring + position % ring) * width; };
        for (std::int64_t t = 0; t < n; ++t) {
            const std::int64_t sequence = sequence_of(args.tokens, t), position = args.tokens.positions[t];
            for (std::int64_t c = 0; c < width; ++c) {
                double sum = args.bias != nullptr ? args.bias[c] : 0;
                for (std::int64_t j = 0; j < args.n_taps; ++j) {
                    const std::int64_t back = ring - j, at = position - back;
                    if (at < 0) continue;
                    const bool mine = t - back >= 0 && sequence_of(args.tokens, t - back) == sequence && args.tokens.positions[t - back] == at;
                    sum += static_cast<double>(args.taps[j * width + c]) * (mine ? input[static_cast<std::size_t>((t - back) * width + c)] : ring_row(sequence, at)[c]);
                }
                const auto y = static_cast<float>(args.gate_out != nullptr ? sum * args.gate_out[t * args.gate_out_stride + c] : sum);
                if (args.y != nullptr) args.y[t * width + c] = y;
                write_operand(args.operand, t, c, y);
            }
        }
        for (std::int64_t t = 0; t < n && ring > 0; ++t) std::copy_n(input.data() + t * width, width, ring_row(sequence_of(args.tokens, t), args.tokens.positions[t]));
        return good;
    });
}

int sample(const SampleArgs& args, const Launch& launch) {
    if (!floats(args.logits, (args.n_tokens - 1) * args.stride + args.n_vocab) || !floats(args.ids, args.n_tokens) || !floats(args.positions, args.n_tokens) || args.top_k < 1 || args.top_k > 64 ||
        !floats(args.top_values, args.n_tokens * 64) || !floats(args.top_ids, args.n_tokens * 64) || !here(args.scratch, 4) ||
        !floats(args.history, args.n_tokens * args.history_length) || (args.temperature > 0 && (args.uniforms == nullptr || !floats(args.uniforms, args.n_tokens * args.n_uniforms))))
        return bad_value;
    return put(launch.stream, [args]() -> int {
        for (std::int64_t t = 0; t < args.n_tokens; ++t) {
            const float* logits = args.logits + t * args.stride;
            std::vector<std::int32_t> order;  // NaN is no logit
            for (std::int32_t i = 0; i < args.n_vocab; ++i)
                if (!std::isnan(logits[i])) order.push_back(i);
            const auto n_found = static_cast<std::int32_t>(order.size());
            std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return logits[a] > logits[b]; });
            for (std::int32_t i = 0; i < 64 && args.top_values != nullptr; ++i) {
                const bool is_there = i < args.top_k && i < n_found;
                args.top_values[t * 64 + i] = is_there ? logits[order[static_cast<std::size_t>(i)]] : -INFINITY;
                args.top_ids[t * 64 + i] = is_there ? order[static_cast<std::size_t>(i)] : -1;
            }
            if (args.ids == nullptr) continue;
            const float highest = order.empty() ? INFINITY : logits[order[0]];
            const int n_wanted = args.temperature > 0 ? args.top_k : 1;
            const bool has_choice = highest - highest == 0 && (n_found >= n_wanted || n_found == args.n_vocab);
            if (order.empty()) order.push_back(0);
            int chosen = 0;
            if (has_choice && args.temperature > 0) {
                float scores[64];
                double weights[64], chances[64];
                const int n = static_cast<int>(std::min<std::int64_t>(args.top_k, args.n_vocab));
                for (int i = 0; i < n; ++i) {
                    scores[i] = logits[order[static_cast<std::size_t>(i)]];
                    weights[i] = std::exp(static_cast<double>(scores[i]) - highest);
                    chances[i] = std::exp((static_cast<double>(scores[i]) - highest) / args.temperature);
                }
                chosen = choose_token({args.top_p, args.log_min_p}, scores, weights, chances, n, args.uniforms[t * args.n_uniforms + args.positions[t] % args.n_uniforms]);
            }
            args.ids[t] = order[static_cast<std::size_t>(chosen)];
            if (args.history != nullptr && args.positions[t] + 1 < args.history_length) args.history[(args.positions[t] + 1) * args.n_tokens + t] = has_choice ? args.ids[t] : -1;
            if (args.feed == SampleArgs::Feed::advance) ++args.positions[t];
        }
        return good;
    });
}

std::size_t fake_sample_bytes(std::int64_t n_tokens) { return static_cast<std::size_t>(n_tokens) * 1024; }

int column_sums(const ColumnSumsArgs& args, const Launch& launch) {
    const std::int64_t n = args.n_columns;
    if (args.x == nullptr || !rows(args.x, args.n_tokens, n, args.x_stride) || args.sums == nullptr || !floats(args.sums, 3 * n) || args.largest == nullptr || !floats(args.largest, n)) return bad_value;
    return put(launch.stream, [args, n]() -> int {
        for (std::int64_t t = 0; t < args.n_tokens; ++t)
            for (std::int64_t c = 0; c < n; ++c) {
                const float x = args.x[t * args.x_stride + c];
                args.sums[c] += static_cast<double>(x);
                args.sums[n + c] += static_cast<double>(std::fabs(x));
                args.sums[2 * n + c] += static_cast<double>(x) * static_cast<double>(x);
                args.largest[c] = std::max(args.largest[c], std::fabs(x));
            }
        return good;
    });
}

int gram(const GramArgs& args, const Launch& launch) {
    const std::int64_t n = args.n_columns;
    if (args.x == nullptr || !rows(args.x, args.n_tokens, n, args.x_stride) || args.gram == nullptr || !floats(args.gram, n * n)) return bad_value;
    return put(launch.stream, [args, n]() -> int {
        for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t j = i; j < n; ++j) {
                double sum = 0;
                for (std::int64_t t = 0; t < args.n_tokens; ++t) sum += static_cast<double>(args.x[t * args.x_stride + i]) * static_cast<double>(args.x[t * args.x_stride + j]);
                args.gram[i * n + j] += static_cast<float>(sum);
            }
        return good;
    });
}

int read_all(const void* data, std::size_t size, float* sink, const Launch& launch) {
    if (!here(data, size) || !here(sink, 4)) return bad_value;
    return put(launch.stream, [data, size, sink]() -> int {
        unsigned sum = 0;
        for (std::size_t i = 0; i < size; i += 64) sum += static_cast<const unsigned char*>(data)[i];
        if (sum == 1) *sink = 1;
        return good;
    });
}

}  // namespace

void add_rows(Table& table) {
    table.sample_scratch_bytes = fake_sample_bytes;
    table.embed = embed;
    table.norm = norm;
    table.elements = elements;
    table.select_rows = select_rows;
    table.route = route;
    table.causal_conv = causal_conv;
    table.sample = sample;
    table.column_sums = column_sums;
    table.gram = gram;
    table.read_all = read_all;
}

}  // namespace skiff::cuda::fake
