// Mixtures of experts against plain sums: several kinds of weight, odd shapes, one to eight tokens, all rules of the router.
#include <algorithm>
#include <numeric>

#include "kernels/cuda/launch_testing.h"
#include "kernels/linear_testing.h"

namespace skiff::cuda {
namespace {

using namespace skiff::testing;
using namespace skiff::cuda::testing;

struct Shape {
    std::int64_t n_experts, n_used, d_model, d_ff, n_tokens;
};

Weight some_weight(const Scheme& scheme, std::int64_t n_rows, std::int64_t n_columns, unsigned seed) {
    return scheme.is_coded() ? random_codes(n_rows, n_columns, scheme, seed) : random_plain(n_rows, n_columns, scheme.dtype, seed);
}

// What the operand in form split keeps of x.
std::vector<float> as_split(const std::vector<float>& x, std::int64_t n_tokens, std::int64_t n_columns) {
    std::vector<std::byte> bytes(operand_bytes(OperandForm::split, n_tokens, n_columns));
    host_operand(static_cast<int>(OperandForm::split), x.data(), n_tokens, n_columns, bytes.data());
    return operand_floats(OperandForm::split, bytes, n_tokens, n_columns);
}

class Mixture {
public:
    Mixture(const Shape& shape, const char* scheme_name) : shape_(shape) {
        const Scheme scheme = *parse_scheme(scheme_name);
        std::vector<RowSource> firsts, seconds;
        const auto make = [&](unsigned seed) {
            weights_.clear();
            weights_.reserve(static_cast<std::size_t>(3 * shape.n_experts));
            firsts.clear(), seconds.clear();
            for (unsigned e = 0; e < shape.n_experts; ++e) {
                for (unsigned i = 0; i < 2; ++i) firsts.push_back({&weights_.emplace_back(some_weight(scheme, shape.d_ff, shape.d_model, 100 + seed * (2 * e + i))), RowMap::all(shape.d_ff)});
                seconds.push_back({&weights_.emplace_back(some_weight(scheme, shape.d_model, shape.d_ff, 200 + seed * e)), RowMap::all(shape.d_model)});
            }
        };
        make(1);
        if (!can_merge(firsts) || !can_merge(seconds)) make(0);  // levels that each tensor has learnt: all experts are one
        first_ = std::make_unique<DeviceWeight>(*pack_gpu(firsts, Interleave::gate_up));
        second_ = std::make_unique<DeviceWeight>(*pack_gpu(seconds, Interleave::tiles));
        logits = normal_values(shape.n_tokens * shape.n_experts, 5);
        x = normal_values(shape.n_tokens * shape.d_model, 6);
        old = normal_values(shape.n_tokens * shape.d_model, 7);
        // A pending norm: what the sums of squares say is all that is known of it.
        for (float v : normal_values(shape.n_tokens * pending_parts(shape.d_model), 8)) squares.push_back(v * v);
    }

    // Whom a token chooses, ascending, with weights.
    std::vector<std::pair<std::int64_t, double>> chosen(std::int64_t token, RouteLaunchArgs::Rule rule, RouteLaunchArgs::Divide divide) const {
        const float* row = logits.data() + token * shape_.n_experts;
        std::vector<std::int64_t> order(static_cast<std::size_t>(shape_.n_experts));
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return row[a] > row[b]; });
        double total = 0;
        const bool all = rule == RouteLaunchArgs::Rule::softmax_then_top && divide == RouteLaunchArgs::Divide::as_they_are;
        for (std::int64_t i = 0; i < (all ? shape_.n_experts : shape_.n_used); ++i) total += std::exp(static_cast<double>(row[order[static_cast<std::size_t>(i)]]));
        std::vector<std::pair<std::int64_t, double>> result;
        for (std::int64_t i = 0; i < shape_.n_used; ++i) result.emplace_back(order[static_cast<std::size_t>(i)], std::exp(static_cast<double>(row[order[static_cast<std::size_t>(i)]])) / total);
        std::sort(result.begin(), result.end());
        return result;
    }

    // (n_tokens, d_model): what the experts add
    std::vector<double> wanted(RouteLaunchArgs::Rule rule, RouteLaunchArgs::Divide divide) const {
        const auto kept = as_split(x, shape_.n_tokens, shape_.d_model);
        std::vector<double> sums(static_cast<std::size_t>(shape_.n_tokens * shape_.d_model));
        std::vector<float> row(static_cast<std::size_t>(std::max(shape_.d_model, shape_.d_ff)));
        for (std::int64_t token = 0; token < shape_.n_tokens; ++token) {
            double total = 0;
            for (std::int64_t i = 0; i < pending_parts(shape_.d_model); ++i) total += squares[static_cast<std::size_t>(token * pending_parts(shape_.d_model) + i)];
            const double scale = 1 / std::sqrt(total / static_cast<double>(shape_.d_model) + 1e-5);
            for (const auto& [expert, share] : chosen(token, rule, divide)) {
                std::vector<double> hidden(static_cast<std::size_t>(shape_.d_ff));
                for (std::int64_t j = 0; j < shape_.d_ff; ++j) {
                    double both[2] = {};
                    for (std::int64_t i = 0; i < 2; ++i) {
                        weight(expert, i).row(j, row.data());
                        for (std::int64_t c = 0; c < shape_.d_model; ++c) both[i] += static_cast<double>(row[static_cast<std::size_t>(c)]) * kept[static_cast<std::size_t>(token * shape_.d_model + c)];
                        both[i] *= scale;
                    }
                    hidden[static_cast<std::size_t>(j)] = both[0] / (1 + std::exp(-both[0])) * both[1];
                }
                for (std::int64_t r = 0; r < shape_.d_model; ++r) {
                    weight(expert, 2).row(r, row.data());
                    for (std::int64_t j = 0; j < shape_.d_ff; ++j) sums[static_cast<std::size_t>(token * shape_.d_model + r)] += share * static_cast<double>(row[static_cast<std::size_t>(j)]) * hidden[static_cast<std::size_t>(j)];
                }
            }
        }
        return sums;
    }

    // Both launches, for tokens [begin, end).
    std::vector<float> run(const Launch& launch, std::int64_t begin, std::int64_t end, GemvWrite write, RouteLaunchArgs::Rule rule, RouteLaunchArgs::Divide divide) const {
        const std::int64_t n = end - begin, part = operand_columns(shape_.d_ff), all = (shape_.n_used - 1) * part + shape_.d_ff;
        const auto rows = [&](const std::vector<float>& from, std::int64_t width) { return std::vector<float>(from.begin() + begin * width, from.begin() + end * width); };
        const DeviceMemory operand = device_operand(OperandForm::split, rows(x, shape_.d_model), n, shape_.d_model), hidden(operand_bytes(OperandForm::split, n, all)), next(operand_bytes(OperandForm::split, n, shape_.d_model));
        const DeviceArray<float> y(rows(old, shape_.d_model)), pending(rows(squares, pending_parts(shape_.d_model))), device_logits(rows(logits, shape_.n_experts)), sums(n * pending_parts(shape_.d_model));
        ExpertsArgs args;
        args.route.logits = device_logits.data(), args.route.n_tokens = n, args.route.n_experts = shape_.n_experts, args.route.n_used = shape_.n_used, args.route.rule = rule, args.route.divide = divide;
        args.product.weight = part_of(first_->view, 0, shape_.n_experts);
        args.product.x = operand.data(), args.product.n_tokens = n, args.product.rms = {pending.data(), pending_parts(shape_.d_model), shape_.d_model, 1e-5f};
        args.product.write = GemvWrite::gate, args.product.next.operand = {OperandForm::split, hidden.data(), all};
        EXPECT_EQ(launch_experts(args, launch), 0);
        args.product = GemvArgs();
        args.product.weight = part_of(second_->view, 0, shape_.n_experts);
        args.product.x = hidden.data(), args.product.x_columns = all, args.product.n_tokens = n, args.product.write = write, args.product.y = y.data(), args.product.y_stride = shape_.d_model;
        args.product.next.operand = {OperandForm::split, next.data(), shape_.d_model}, args.product.next.square_sums = sums.data();
        EXPECT_EQ(launch_experts(args, launch), 0);
        const auto values = y.values(), parts = sums.values();
        const auto prepared = operand_floats(OperandForm::split, operand_values(next), n, shape_.d_model);
        std::vector<double> square(parts.size());
        for (std::size_t i = 0; i < values.size(); ++i) {
            EXPECT_NEAR(prepared[i], values[i], std::fabs(values[i]) * 0x1p-15 + 1e-30);
            const auto width = static_cast<std::size_t>(shape_.d_model);
            square[i / width * static_cast<std::size_t>(pending_parts(shape_.d_model)) + i % width / 16] += static_cast<double>(values[i]) * values[i];
        }
        for (std::size_t i = 0; i < parts.size(); ++i) EXPECT_NEAR(parts[i], square[i], square[i] * 1e-5);
        return values;
    }

    std::vector<float> logits, x, old, squares;

private:
    const Weight& weight(std::int64_t expert, std::int64_t i) const { return weights_[static_cast<std::size_t>(3 * expert + i)]; }
    Shape shape_;
    std::vector<Weight> weights_;
    std::unique_ptr<DeviceWeight> first_, second_;
};

constexpr auto top_then_softmax = RouteLaunchArgs::Rule::top_then_softmax, softmax_then_top = RouteLaunchArgs::Rule::softmax_then_top;
constexpr auto as_they_are = RouteLaunchArgs::Divide::as_they_are, by_their_sum = RouteLaunchArgs::Divide::by_their_sum;

void expect_mixture(const Mixture& mixture, const Shape& shape, GemvWrite write, RouteLaunchArgs::Rule rule, RouteLaunchArgs::Divide divide) {
    const auto wanted = mixture.wanted(rule, divide);
    double largest = 0;
    for (double value : wanted) largest = std::max(largest, std::fabs(value));
    in_every_mode([&](const Launch& launch) {
        const auto found = mixture.run(launch, 0, shape.n_tokens, write, rule, divide);
        for (std::size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i] - (write == GemvWrite::add ? mixture.old[i] : 0.0f), wanted[i], largest * 1e-4 + 1e-6) << "number " << i;
    });
}

TEST(CudaExperts, are_the_weighted_sum_of_those_chosen) {
    SKIFF_NEEDS_DEVICE();
    constexpr Shape shapes[] = {{4, 2, 96, 172, 1}, {9, 3, 40, 300, 3}, {5, 5, 52, 64, 8}};
    for (const Shape& shape : shapes)
        for (const char* scheme : {"bf16", "w4g32a", "w8"}) {
            SCOPED_TRACE(std::string(scheme) + ", experts " + std::to_string(shape.n_experts) + ", tokens " + std::to_string(shape.n_tokens));
            const Mixture mixture(shape, scheme);
            ASSERT_NO_FATAL_FAILURE(expect_mixture(mixture, shape, GemvWrite::add, top_then_softmax, as_they_are));
        }
}

TEST(CudaExperts, of_every_scheme) {
    SKIFF_NEEDS_DEVICE();
    constexpr Shape shape = {3, 2, 40, 130, 2};
    for (const SchemePreset& preset : scheme_presets()) {
        SCOPED_TRACE(preset.name);
        const Mixture mixture(shape, std::string(preset.name).c_str());
        ASSERT_NO_FATAL_FAILURE(expect_mixture(mixture, shape, GemvWrite::replace, top_then_softmax, as_they_are));
    }
}

TEST(CudaExperts, every_rule_of_the_router) {
    SKIFF_NEEDS_DEVICE();
    constexpr Shape shape = {7, 3, 32, 48, 4};
    Mixture mixture(shape, "bf16");
    mixture.logits[2] = mixture.logits[4] = mixture.logits[5] = mixture.logits[6] = 2.5f;  // equal ones: the first
    for (const auto rule : {top_then_softmax, softmax_then_top})
        for (const auto divide : {as_they_are, by_their_sum}) ASSERT_NO_FATAL_FAILURE(expect_mixture(mixture, shape, GemvWrite::replace, rule, divide));
}

// As many as the kernel takes, more than a warp has lanes.
TEST(CudaExperts, many) {
    SKIFF_NEEDS_DEVICE();
    constexpr Shape shape = {max_routed_experts, max_chosen_experts, 16, 16, 2};
    ASSERT_NO_FATAL_FAILURE(expect_mixture(Mixture(shape, "bf16"), shape, GemvWrite::add, softmax_then_top, by_their_sum));
    Launch launch = test_launch();
    ExpertsArgs args;
    args.product.weight.n_units = 1, args.product.n_tokens = args.route.n_tokens = 1, args.route.n_experts = max_routed_experts + 1, args.route.n_used = 1;
    EXPECT_NE(launch_experts(args, launch), 0);
    args.route.n_experts = args.route.n_used = max_chosen_experts + 1;
    EXPECT_NE(launch_experts(args, launch), 0);
}

// A token's bits are those that it has alone, whomever the others chose.
TEST(CudaExperts, bits_do_not_depend_on_the_other_tokens) {
    SKIFF_NEEDS_DEVICE();
    constexpr Shape shape = {6, 2, 72, 200, 7};
    const Mixture mixture(shape, "w4g32a");
    in_every_mode([&](const Launch& launch) {
        const auto together = mixture.run(launch, 0, shape.n_tokens, GemvWrite::add, top_then_softmax, as_they_are);
        for (std::int64_t token = 0; token < shape.n_tokens; ++token) {
            const auto alone = mixture.run(launch, token, token + 1, GemvWrite::add, top_then_softmax, as_they_are);
            for (std::int64_t r = 0; r < shape.d_model; ++r) ASSERT_EQ(alone[static_cast<std::size_t>(r)], together[static_cast<std::size_t>(token * shape.d_model + r)]) << token << " " << r;
        }
    });
}

}  // namespace
}  // namespace skiff::cuda
