// Mixtures of experts on the fake device.
#include <cmath>
#include <numeric>
#include <vector>

#include "backend/cuda/testing/fake_kernels.h"
#include "kernels/cuda/pack.h"

namespace skiff::cuda::fake {
namespace {

struct Chosen {
    std::int64_t expert;
    double share;
};
// Ascending by their numbers, as the operands between the two launches lie.
std::vector<Chosen> chosen_by(const RouteLaunchArgs& route, const float* logits) {
    std::vector<std::int64_t> order(static_cast<std::size_t>(route.n_experts));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return logits[a] > logits[b]; });
    const bool of_all = route.rule == RouteLaunchArgs::Rule::softmax_then_top && route.divide == RouteLaunchArgs::Divide::as_they_are;
    double total = 0;
    for (std::int64_t i = 0; i < (of_all ? route.n_experts : route.n_used); ++i) total += std::exp(static_cast<double>(logits[order[static_cast<std::size_t>(i)]] - logits[order[0]]));
    std::vector<Chosen> chosen;
    for (std::int64_t i = 0; i < route.n_used; ++i) chosen.push_back({order[static_cast<std::size_t>(i)], std::exp(static_cast<double>(logits[order[static_cast<std::size_t>(i)]] - logits[order[0]])) / total});
    std::sort(chosen.begin(), chosen.end(), [](const Chosen& a, const Chosen& b) { return a.expert < b.expert; });
    return chosen;
}

double product(const GpuWeight& weight, std::int64_t row, const float* x, std::vector<float>& numbers) {
    numbers.resize(static_cast<std::size_t>(weight.n_columns));
    packed_row(weight, row, numbers.data());
    double sum = 0;
    for (std::int64_t c = 0; c < weight.n_columns; ++c) sum += static_cast<double>(numbers[static_cast<std::size_t>(c)]) * x[c];
    return sum;
}

int experts(const ExpertsArgs& args, const Launch& launch) {
    const GemvArgs& p = args.product;
    const RouteLaunchArgs& route = args.route;
    const std::int64_t n = p.n_tokens, n_rows = p.weight.n_rows, n_columns = p.weight.n_columns;
    const bool first = p.write == GemvWrite::gate;
    const std::int64_t x_columns = p.x_columns > 0 ? p.x_columns : n_columns, part = operand_columns(first ? n_rows / 2 : n_columns);
    if (n < 1 || n > max_gemv_tokens || route.n_tokens != n || route.n_experts > max_routed_experts || route.n_used < 1 || route.n_used > std::min(route.n_experts, max_chosen_experts) || route.logits == nullptr ||
        !floats(route.logits, n * route.n_experts) || !here(p.weight.codes, 1) || !here(p.x, fake_operand_bytes({}, n, x_columns)) || p.next.operand.data == p.x || p.bias != nullptr ||
        (p.rms.square_sums != nullptr && (!first || !floats(p.rms.square_sums, n * p.rms.n_parts) || p.rms.width != n_columns)))
        return bad_value;
    const std::int64_t between = (route.n_used - 1) * part + (first ? n_rows / 2 : n_columns);
    if (first ? p.next.operand.n_columns != between || !operand_here(p.next.operand, n) : x_columns != between || p.y == nullptr || !rows(p.y, n, n_rows, p.y_stride) || !next_here(p.next, n, n_rows)) return bad_value;
    return put(launch.stream, [args, x_columns, part, first]() -> int {
        const GemvArgs& p = args.product;
        std::vector<float> numbers;
        for (std::int64_t t = 0; t < p.n_tokens; ++t) {
            const auto chosen = chosen_by(args.route, args.route.logits + t * args.route.n_experts);
            const float* x = static_cast<const float*>(p.x) + t * x_columns;
            if (first) {
                double squares = 0;
                for (std::int64_t i = 0; p.rms.square_sums != nullptr && i < p.rms.n_parts; ++i) squares += p.rms.square_sums[t * p.rms.n_parts + i];
                const double scale = p.rms.square_sums != nullptr ? 1.0 / std::sqrt(squares / static_cast<double>(p.rms.width) + p.rms.eps) : 1.0;
                for (std::size_t i = 0; i < chosen.size(); ++i)
                    for (std::int64_t j = 0; j < p.weight.n_rows / 2; ++j) {
                        const std::int64_t row = chosen[i].expert * p.weight.n_tiles * 16 + j / 8 * 16 + j % 8;
                        const auto gate = static_cast<float>(product(p.weight, row, x, numbers) * scale), up = static_cast<float>(product(p.weight, row + 8, x, numbers) * scale);
                        write_operand(p.next.operand, t, static_cast<std::int64_t>(i) * part + j, activated(p.activation, gate) * up);
                    }
                continue;
            }
            float* y = p.y + t * p.y_stride;
            for (std::int64_t r = 0; r < p.weight.n_rows; ++r) {
                double sum = 0;
                for (std::size_t i = 0; i < chosen.size(); ++i)
                    sum += chosen[i].share * product(p.weight, chosen[i].expert * p.weight.n_tiles * 16 + r, x + static_cast<std::int64_t>(i) * part, numbers);
                y[r] = static_cast<float>(sum) + (p.write == GemvWrite::add ? y[r] : 0.0f);
            }
            write_next(p.next, t, y, p.weight.n_rows);
        }
        return good;
    });
}

}  // namespace

void add_experts(Table& table) { table.experts = experts; }

}  // namespace skiff::cuda::fake
