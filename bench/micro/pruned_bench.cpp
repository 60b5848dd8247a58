// What leaving out zeros is worth, and what sharing blocks: a pruned or hashed weight against the dense one of the same scheme, in turns, on two threads, with
// copies that no cache holds.
//
//     pruned_bench [TOKENS] [ISA] [pruned|hashed]      alone on the machine
//     pruned_bench [TOKENS] [ISA] SCHEME TARGET...            the same, for some patterns of one scheme
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "base/rng.h"
#include "kernels/kernels.h"
#include "tensor/prune_target.h"

namespace skiff {
namespace {

constexpr std::int64_t n_rows = 2048, n_columns = 5632;
constexpr int n_copies = 12, n_threads = 2;

struct PreparedInput {
    std::int64_t n_tokens, padded = padded_for_codes(n_columns);
    std::vector<float> x, scales, y;
    std::vector<std::int8_t> codes;
    std::vector<std::int16_t> sums;

    explicit PreparedInput(std::int64_t n) : n_tokens(n), x(static_cast<std::size_t>(n * n_columns)), y(static_cast<std::size_t>(n * n_rows)) {
        Rng rng(2);
        for (float& value : x) value = rng.normal();
        const auto size = static_cast<std::size_t>(n * padded);
        codes.resize(size), scales.resize(size / 32), sums.resize(size / 8);
        quantize_kernels()[0].fn({x.data(), codes.data(), scales.data(), sums.data(), n_columns, padded}, {0, n});
    }
};

double seconds_of(const std::vector<PackedWeight>& weights, Isa isa, PreparedInput& a, ThreadPool& pool) {
    const LinearKernel* kernel = choose_linear_kernel(weights[0].layout->name, isa, a.n_tokens, KernelChoice::fastest);
    const auto begin = std::chrono::steady_clock::now();
    for (const PackedWeight& weight : weights)
        pool.run([&](int thread) {
            kernel->fn({&weight, {a.x.data(), a.codes.data(), a.scales.data(), a.sums.data(), n_columns, a.padded}, nullptr, a.y.data(), n_rows, a.n_tokens, LinearArgs::Write::replace}, share_of(n_rows, thread, n_threads, 16));
        });
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
    std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
    return values[values.size() / 2];
}

void take_turns(const char* scheme_name, const char* form, const Weight& dense, const Weight& less, Isa isa, PreparedInput& activation, ThreadPool& pool) {
    const Layout *dense_layout = choose_layout(dense, isa, KernelChoice::fastest), *layout = choose_layout(less, isa, KernelChoice::fastest);
    std::vector<PackedWeight> all, kept;
    for (int i = 0; i < n_copies; ++i) all.push_back(pack_weight(*dense_layout, dense, RowMap::all(n_rows))), kept.push_back(pack_weight(*layout, less, RowMap::all(n_rows)));
    std::vector<double> ratios, seconds;
    for (int i = 0; i < (activation.n_tokens > 8 ? 5 : 21); ++i) {
        const double before = seconds_of(all, isa, activation, pool), after = seconds_of(kept, isa, activation, pool);
        if (i > 0) ratios.push_back(before / after), seconds.push_back(after);
    }
    const double bound = static_cast<double>(all[0].read_bytes) / static_cast<double>(kept[0].read_bytes), gain = median(ratios);
    std::printf("%-8s %-16s %-12s bytes %5.3f of dense, bound %.2fx, %.2fx, %.2f of the bound, %.1f GB/s\n", scheme_name, form, std::string(layout->name).c_str(), 1 / bound, bound, gain, gain / bound,
                static_cast<double>(kept[0].read_bytes) * n_copies / median(seconds) / 1e9);
    std::fflush(stdout);
}

void compare(const char* scheme_name, const char* target_text, Isa isa, PreparedInput& activation, ThreadPool& pool) {
    Rng rng(1);
    std::vector<float> values(static_cast<std::size_t>(n_rows * n_columns)), scores;
    for (float& value : values) value = 0.02f * rng.normal();
    for (float value : values) scores.push_back(std::fabs(value));
    const PruneTarget target = parse_prune_target(target_text)->resolved(n_rows, n_columns);
    const Weight dense = *encode_nearest(make_float_weight({n_rows, n_columns}, values), *parse_scheme(scheme_name), ScaleRule::min_max, {}, &pool);
    const Weight sparse = *make_sparse(dense, target.pattern, choose_units(target, scores, n_rows, n_columns, &pool));
    if (choose_layout(sparse, isa, KernelChoice::fastest)->name == "sparse_rows") {
        std::printf("%-8s %-16s its zeros are written out\n", scheme_name, target_text);
        return;
    }
    take_turns(scheme_name, target_text, dense, sparse, isa, activation, pool);
}

// The bank has random numbers, the dense weight its own.
void compare_hashed(const char* scheme_name, std::int64_t shared, Isa isa, PreparedInput& activation, ThreadPool& pool) {
    Rng rng(1);
    const Scheme scheme = *parse_scheme(scheme_name);
    const auto random_weight = [&](const Shape& shape) {
        std::vector<float> values(static_cast<std::size_t>(element_count(shape)));
        for (float& value : values) value = 0.02f * rng.normal();
        return *encode_nearest(make_float_weight(shape, std::move(values)), scheme, ScaleRule::min_max, {}, &pool);
    };
    const BlockHash hash = {n_rows, n_columns, shared, 1};
    const Weight dense = random_weight({n_rows, n_columns}), hashed = *make_hashed(hash, random_weight(hash.bank_shape()));
    take_turns(scheme_name, ("hashed 1:" + std::to_string(shared)).c_str(), dense, hashed, isa, activation, pool);
}

}  // namespace
}  // namespace skiff

int main(int argc, char** argv) {
    using namespace skiff;
    const std::int64_t n_tokens = argc > 1 ? std::max(1, std::atoi(argv[1])) : 1;
    const auto isa = argc > 2 ? parse_isa(argv[2]) : Result<Isa>(best_isa());
    if (!isa.ok()) return std::fprintf(stderr, "%s\n", isa.error().to_string().c_str()), 2;
    ThreadPool pool(n_threads);
    PreparedInput activation(n_tokens);
    if (argc > 4) {
        for (int i = 4; i < argc; ++i) compare(argv[3], argv[i], *isa, activation, pool);
        return 0;
    }
    const std::string which = argc > 3 ? argv[3] : "";
    for (const char* scheme : {"w8g32", "w4g32", "w4g32r", "bf16"})
        for (const std::int64_t shared : {1, 2, 4, 8})
            if (which != "pruned") compare_hashed(scheme, shared, *isa, activation, pool);
    if (which == "hashed") return 0;
    for (const char* scheme : {"w8g32", "w4g32r"})
        for (const char* target : {"block16x32:50%", "25%", "50%", "75%", "2:4", "4x1:25%", "4x1:50%", "4x1:75%", "16x1:50%"}) compare(scheme, target, *isa, activation, pool);
    return 0;
}
