// Linear kernels of the table, one thread: decode on 64 MiB of weights beside a plain read of as many bytes, and prefill on 2048 x 2048.
// "roof" is one stretch of columns of two tiles, all in the cache and the tokens prepared: what the kernel attains by itself, expanding and writing included.
// bytes_per_second is what a pass reads; items_per_second are multiply-adds (of processor time, so a busy neighbour disturbs less).
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdio>
#include <ctime>
#include <numeric>
#include <string>

#include "base/rng.h"
#include "kernels/kernels.h"

namespace skiff {
namespace {

// A weight of `scheme` with normal numbers; rows repeat, as their values do not matter.
Weight make_weight(const Scheme& scheme, std::int64_t n_rows, std::int64_t n_columns) {
    Rng rng(1);
    std::vector<float> values(static_cast<std::size_t>(n_columns) * 16);
    for (auto& value : values) value = rng.normal();
    Weight few = std::move(*encode_nearest(make_float_weight({16, n_columns}, std::move(values)), scheme, ScaleRule::min_max));
    const auto repeat = [&](TensorView& view, std::vector<std::byte>& bytes) {
        if (view.shape.empty() || view.shape[0] != 16) return;  // a table for all rows
        for (std::int64_t row = 0; row < n_rows; row += 16) bytes.insert(bytes.end(), view.data.begin(), view.data.end());
        view.shape[0] = n_rows;
        view.data = bytes;
    };
    struct Owner {
        std::vector<std::byte> parts[6];
    };
    auto owner = std::make_shared<Owner>();
    if (auto* codes = std::get_if<Codes>(&few.store)) {
        TensorView* views[] = {&codes->packed, &codes->scales, &codes->zeros, &codes->minimums, &codes->super_scales, &codes->super_minimums};
        for (std::size_t i = 0; i < std::size(views); ++i) repeat(*views[i], owner->parts[i]);
    } else {
        repeat(std::get<TensorView>(few.store), owner->parts[0]);
    }
    few.shape[0] = n_rows;
    few.owner = std::move(owner);
    return few;
}

struct Work {
    std::string scheme;
    Isa isa;
    std::int64_t n_rows, n_columns, n_tokens;
    bool prepared = false;  // what is made of the tokens is kept from call to call
};

void linear(benchmark::State& state, const Work& work, double fma_per_second) {
    const auto scheme = parse_scheme(work.scheme);
    const std::int64_t n_rows = work.n_rows, n_columns = work.n_columns, n_tokens = work.n_tokens, padded = padded_for_codes(n_columns);
    const Weight weight = make_weight(*scheme, n_rows, n_columns);
    const Layout* layout = choose_layout(weight, work.isa, KernelChoice::fastest);
    const PackedWeight packed = pack_weight(*layout, weight, RowMap::all(n_rows));
    const LinearKernel* kernel = choose_linear_kernel(layout->name, work.isa, n_tokens, KernelChoice::fastest);
    Rng rng(2);
    AlignedBuffer x(static_cast<std::size_t>(n_tokens * n_columns) * 4), codes(static_cast<std::size_t>(n_tokens * padded)), y(static_cast<std::size_t>(n_tokens * n_rows) * 4);
    AlignedBuffer scales(static_cast<std::size_t>(n_tokens * padded / 32) * 4), sums(scales.size_bytes() * 2);
    for (std::int64_t i = 0; i < n_tokens * n_columns; ++i) x.as<float>()[i] = rng.normal();
    choose_kernel(quantize_kernels(), work.isa).fn({x.as<float>(), codes.as<std::int8_t>(), scales.as<float>(), sums.as<std::int16_t>(), n_columns, padded}, {0, n_tokens});
    const PreparedActivation prepared = {x.as<float>(), codes.as<std::int8_t>(), scales.as<float>(), sums.as<std::int16_t>(), n_columns, padded};
    LinearArgs args{&packed, prepared, nullptr, y.as<float>(), n_rows, n_tokens, LinearArgs::Write::replace};
    if (work.prepared) {
        static std::uint64_t epoch = 0;
        args.epoch = ++epoch;
    }
    for (auto _ : state) {
        kernel->fn(args, {0, n_rows});
        benchmark::ClobberMemory();
    }
    const double products = static_cast<double>(n_rows * n_columns * n_tokens) * static_cast<double>(state.iterations());
    state.SetBytesProcessed(static_cast<std::int64_t>(packed.read_bytes) * static_cast<std::int64_t>(state.iterations()));
    state.counters["macs"] = benchmark::Counter(products, benchmark::Counter::kIsRate);
    state.counters["macs_per_cycle"] = benchmark::Counter(products / (fma_per_second / 16), benchmark::Counter::kIsRate);
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

double thread_seconds() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// Floats that fused multiply-adds of 256 bits take in a second of processor time, best of five runs; ten chains hide the latency.
#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) double measure_fma_rate() {
    using Float8 = float __attribute__((vector_size(32)));
    double best = 0;
    for (int run = 0; run < 5; ++run) {
        Float8 s0{}, s1{}, s2{}, s3{}, s4{}, s5{}, s6{}, s7{}, s8{}, s9{};
        const Float8 factor = s0 + 0.999f, term = s0 + 0.001f;
        constexpr int n = 3000000;
        const double begin = thread_seconds();
        for (int i = 0; i < n; ++i)
            asm volatile(
                "vfmadd213ps %10, %11, %0\n\tvfmadd213ps %10, %11, %1\n\tvfmadd213ps %10, %11, %2\n\tvfmadd213ps %10, %11, %3\n\tvfmadd213ps %10, %11, %4\n\t"
                "vfmadd213ps %10, %11, %5\n\tvfmadd213ps %10, %11, %6\n\tvfmadd213ps %10, %11, %7\n\tvfmadd213ps %10, %11, %8\n\tvfmadd213ps %10, %11, %9"
                : "+x"(s0), "+x"(s1), "+x"(s2), "+x"(s3), "+x"(s4), "+x"(s5), "+x"(s6), "+x"(s7), "+x"(s8), "+x"(s9)
                : "x"(term), "x"(factor));
        best = std::max(best, 10.0 * 8 * n / (thread_seconds() - begin));
    }
    return best;
}
#else
double measure_fma_rate() { return NAN; }
#endif

}  // namespace
}  // namespace skiff

int main(int argc, char** argv) {
    using namespace skiff;
    // A cycle: two 256-bit fused multiply-adds of eight floats, as this machine does them in this run.
    const double fma_per_second = measure_fma_rate();
    std::printf("fused multiply-adds of 256 bits: %.1f G/s of floats, so %.2f GHz at two a cycle\n", fma_per_second / 1e9, fma_per_second / 16e9);
    benchmark::RegisterBenchmark("read/64MiB", plain_read);
    for (const SchemePreset& preset : scheme_presets())
        for (Isa isa : all_isas) {
            const std::string scheme(preset.name);
            if (!isa_available(isa) || isa == Isa::generic || preset.scheme.bits > 16) continue;
            const std::int64_t rows_of_64_mib = (std::int64_t{64} << 23) / preset.scheme.bits / 2048;
            const auto add = [&](const std::string& name, const Work& work) {
                benchmark::RegisterBenchmark((name + "/" + scheme + "/" + std::string(isa_name(isa))).c_str(), [=](benchmark::State& state) { linear(state, work, fma_per_second); });
            };
            add("decode", {scheme, isa, rows_of_64_mib, 2048, 1});
            for (std::int64_t n_tokens : {1, 4, 8, 12, 16, 64, 512}) add("tokens:" + std::to_string(n_tokens), {scheme, isa, 2048, 2048, n_tokens});
            add("roof", {scheme, isa, 32, 512, 504, true});
        }
    benchmark::Initialize(&argc, argv);
    benchmark::RunSpecifiedBenchmarks();
    return 0;
}
