#include "measure/bandwidth.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/cpu_features.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "tensor/tensor.h"

namespace skiff {
namespace {

using Words = std::uint64_t __attribute__((vector_size(32)));

// Sums into eight registers, so that loads and not additions are what it waits for.
std::uint64_t read_all(const std::byte* data, std::int64_t begin, std::int64_t end) {
    Words sums[8] = {};
    for (std::int64_t i = begin; i + 256 <= end; i += 256) {
        Words loaded[8];
        std::memcpy(loaded, data + i, sizeof loaded);
        for (int k = 0; k < 8; ++k) sums[k] += loaded[k];
    }
    std::uint64_t total = 0;
    for (const Words& sum : sums) total += sum[0] + sum[1] + sum[2] + sum[3];
    return total;
}

}  // namespace

ReadBandwidth measure_read_bandwidth(int n_threads, int n_passes) {
    ReadBandwidth result;
    result.n_threads = n_threads;
    result.buffer_bytes = std::max<std::size_t>(std::size_t{256} << 20, 4 * read_cpu_info().l3_bytes) / 4096 * 4096;
    AlignedBuffer buffer(result.buffer_bytes);
    ThreadPool pool(n_threads);
    const auto size = static_cast<std::int64_t>(result.buffer_bytes);
    std::vector<double> speeds;
    volatile std::uint64_t sink = 0;
    for (int pass = 0; pass <= n_passes; ++pass) {
        std::vector<std::uint64_t> sums(static_cast<std::size_t>(n_threads) * 8);
        const double begin = monotonic_seconds();
        pool.run([&](int thread) {
            Range share = share_of(size, thread, n_threads, 4096);
            sums[static_cast<std::size_t>(thread) * 8] = read_all(buffer.data(), share.begin, share.end);
        });
        const double seconds = monotonic_seconds() - begin;
        sink = sink + sums[0];
        if (pass > 0) speeds.push_back(static_cast<double>(size) / seconds / 1e9);
    }
    std::sort(speeds.begin(), speeds.end());
    result.gb_per_s = speeds[speeds.size() / 2];
    result.lowest = speeds.front();
    result.highest = speeds.back();
    return result;
}

}  // namespace skiff
