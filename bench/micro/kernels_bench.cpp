// Linear kernels of the table, one thread: decode on 64 MiB of weights beside a plain read of as many bytes, and prefill on 2048 x 2048.
// bytes_per_second is what a pass reads; items_per_second are multiply-adds (of processor time, so a busy neighbour disturbs less).
#include <benchmark/benchmark.h>

#include <numeric>
#include <string>

#include "base/rng.h"
#include "kernels/kernels.h"

namespace skiff {
namespace {

constexpr std::int64_t n_columns = 2048;

// A weight of `scheme` with n_rows of n_columns normal numbers; rows repeat, as their values do not matter.
Weight make_weight(const Scheme& scheme, std::int64_t n_rows) {
    Rng rng(1);
    std::vector<float> values(static_cast<std::size_t>(n_columns) * 16);
    for (auto& value : values) value = rng.normal();
    Weight few = std::move(*encode_nearest(make_float_weight({16, n_columns}, std::move(values)), scheme, ScaleRule::min_max));
    const auto repeat = [&](TensorView& view, std::vector<std::byte>& bytes) {
        for (std::int64_t row = 0; row < n_rows; row += 16) bytes.insert(bytes.end(), view.data.begin(), view.data.end());
        if (!view.shape.empty()) view.shape[0] = n_rows;
        view.data = bytes;
    };
    struct Owner {
        std::vector<std::byte> parts[3];
    };
    auto owner = std::make_shared<Owner>();
    if (auto* codes = std::get_if<Codes>(&few.store)) repeat(codes->packed, owner->parts[0]), repeat(codes->scales, owner->parts[1]), repeat(codes->zeros, owner->parts[2]);
    else repeat(std::get<TensorView>(few.store), owner->parts[0]);
    few.shape[0] = n_rows;
    few.owner = std::move(owner);
    return few;
}

void linear(benchmark::State& state, const std::string& scheme_name, std::int64_t n_rows, std::int64_t n_tokens) {
    const auto scheme = parse_scheme(scheme_name);
    const Weight weight = make_weight(*scheme, n_rows);
    const Layout* layout = choose_layout(weight, best_isa(), KernelChoice::fastest);
    const PackedWeight packed = pack_weight(*layout, weight, RowMap::all(n_rows));
    const LinearKernel* kernel = choose_linear_kernel(layout->name, best_isa(), n_tokens, KernelChoice::fastest);
    Rng rng(2);
    AlignedBuffer x(static_cast<std::size_t>(n_tokens * n_columns) * 4), codes(static_cast<std::size_t>(n_tokens * n_columns)), y(static_cast<std::size_t>(n_tokens * n_rows) * 4);
    AlignedBuffer scales(static_cast<std::size_t>(n_tokens * n_columns / 32) * 4), sums(scales.size_bytes());
    for (std::int64_t i = 0; i < n_tokens * n_columns; ++i) x.as<float>()[i] = rng.normal();
    choose_kernel(quantize_kernels(), best_isa()).fn({x.as<float>(), codes.as<std::int8_t>(), scales.as<float>(), sums.as<std::int32_t>(), n_columns, n_columns}, {0, n_tokens});
    const PreparedActivation prepared = {x.as<float>(), codes.as<std::int8_t>(), scales.as<float>(), sums.as<std::int32_t>(), n_columns, n_columns};
    for (auto _ : state) {
        kernel->fn({&packed, prepared, nullptr, y.as<float>(), n_rows, n_tokens, LinearArgs::Write::replace}, {0, n_rows});
        benchmark::ClobberMemory();
    }
    state.SetBytesProcessed(static_cast<std::int64_t>(packed.read_bytes) * static_cast<std::int64_t>(state.iterations()));
    state.SetItemsProcessed(n_rows * n_columns * n_tokens * static_cast<std::int64_t>(state.iterations()));
    state.SetLabel(std::string(kernel->name));
}

void plain_read(benchmark::State& state) {
    AlignedBuffer memory(std::size_t{64} << 20);
    const auto* words = memory.as<std::uint64_t>();
    for (auto _ : state) {
        std::uint64_t sum[8] = {};
        for (std::size_t i = 0; i < memory.size_bytes() / 8; i += 8)
            for (std::size_t k = 0; k < 8; ++k) sum[k] += words[i + k];
        benchmark::DoNotOptimize(std::accumulate(sum, sum + 8, std::uint64_t{0}));
    }
    state.SetBytesProcessed(static_cast<std::int64_t>(memory.size_bytes()) * static_cast<std::int64_t>(state.iterations()));
}

}  // namespace
}  // namespace skiff

int main(int argc, char** argv) {
    using namespace skiff;
    benchmark::RegisterBenchmark("read/64MiB", plain_read);
    for (const char* scheme : {"w4g32", "w4g32a", "w4g128", "w8", "bf16"}) {
        const std::int64_t bits = scheme[0] == 'b' ? 16 : scheme[1] - '0', rows_of_64_mib = (std::int64_t{64} << 23) / bits / n_columns;
        benchmark::RegisterBenchmark(("decode/" + std::string(scheme)).c_str(), [=](benchmark::State& state) { linear(state, scheme, rows_of_64_mib, 1); });
        for (std::int64_t n_tokens : {1, 8, 64, 512})
            benchmark::RegisterBenchmark(("prefill/" + std::string(scheme) + "/" + std::to_string(n_tokens)).c_str(),
                                         [=](benchmark::State& state) { linear(state, scheme, 2048, n_tokens); })->Unit(benchmark::kMillisecond);
    }
    benchmark::Initialize(&argc, argv);
    benchmark::RunSpecifiedBenchmarks();
    return 0;
}
