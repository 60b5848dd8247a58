// The measuring itself, and what is measured on.
#include "sweep.h"

#include <algorithm>
#include <cstdio>

#include "base/rng.h"
#include "tensor/prune_target.h"

namespace skiff::cuda {

void Sweep::say(const Json& line) const {
    std::printf("%s\n", line.dump().c_str());
    std::fflush(stdout);
}

Result<double> Sweep::time(const std::function<int(int)>& call, const std::string& what) const {
    const Table& table = device.table();
    Event begin = nullptr, end = nullptr;
    SKIFF_CHECK(device.check(table.make_event(&begin), "making an event"));
    SKIFF_CHECK(device.check(table.make_event(&end), "making an event"));
    int n_calls = small ? 1 : 10, turn = 0;
    Graph graph = nullptr;
    const auto seconds_of_run = [&]() -> Result<double> {
        SKIFF_CHECK(device.check(table.record(begin, device.stream()), what));
        if (graph != nullptr) {
            SKIFF_CHECK(device.check(table.launch_graph(graph, device.stream()), what));
        } else {
            for (int i = 0; i < n_calls; ++i) SKIFF_CHECK(device.check(call(turn++), what));
        }
        SKIFF_CHECK(device.check(table.record(end, device.stream()), what));
        SKIFF_CHECK(device.check(table.wait_event(end), what));
        float ms = 0;
        SKIFF_CHECK(device.check(table.elapsed_ms(begin, end, &ms), what));
        return ms * 1e-3 / n_calls;
    };
    SKIFF_CHECK(seconds_of_run());
    SKIFF_TRY(const double first, seconds_of_run());
    if (!small) {
        const int plain_calls = n_calls;
        n_calls = static_cast<int>(std::clamp(2e-3 / std::max(first, 1e-7), 10.0, 128.0));
        int error = table.begin_capture(device.stream());
        for (int i = 0; i < n_calls && error == 0; ++i) error = call(turn++);
        if (table.end_capture(device.stream(), &graph) != 0 || error != 0) {
            if (graph != nullptr) table.destroy_graph(graph);
            graph = nullptr;
            n_calls = plain_calls;
        }
    }
    std::vector<double> seconds;
    for (int run = -1; run < (small ? 2 : 15); ++run) {
        SKIFF_TRY(const double one, seconds_of_run());
        if (run >= 0) seconds.push_back(one);
    }
    if (graph != nullptr) table.destroy_graph(graph);
    table.destroy_event(begin);
    table.destroy_event(end);
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
}

std::size_t Sweep::copies_beyond_cache(std::size_t size_bytes) const {
    return std::clamp<std::size_t>(2 * device.facts().l2_bytes / std::max<std::size_t>(1, size_bytes) + 1, 2, 1024);
}

Result<float*> Sweep::floats(std::int64_t n, const std::string& what) const {
    Rng rng(7);
    std::vector<float> values(static_cast<std::size_t>(n));
    for (float& value : values) value = rng.normal();
    SKIFF_TRY(const float* address, device.upload_new(values, what));
    return const_cast<float*>(address);
}

Result<std::byte*> Sweep::zeros(std::size_t size_bytes, const std::string& what) const {
    SKIFF_TRY(std::byte * address, device.allocate(size_bytes, what));
    SKIFF_CHECK(device.check(device.table().fill(address, 0, size_bytes, device.stream()), what));
    return address;
}

Result<std::byte*> Sweep::noise(std::size_t size_bytes, const std::string& what) const {
    SKIFF_TRY(std::byte * address, device.allocate(size_bytes, what));
    SKIFF_CHECK(device.fill_with_noise(address, size_bytes));
    return address;
}

Result<std::byte*> Sweep::operand(OperandForm form, const float* x, std::int64_t n_tokens, std::int64_t n_columns) const {
    SKIFF_TRY(std::byte * address, zeros(device.table().operand_bytes(form, n_tokens, n_columns), "an operand"));
    ElementLaunchArgs convert;
    convert.kind = ElementKind::scale;
    convert.a = x;
    convert.a_stride = convert.n_columns = n_columns;
    convert.n_tokens = n_tokens;
    convert.operand = {form, address, n_columns};
    SKIFF_CHECK(device.check(device.table().elements(convert, device.launch()), "making an operand"));
    return address;
}

void Sweep::release(std::initializer_list<const void*> addresses) const {
    for (const void* address : addresses) device.release(static_cast<std::byte*>(const_cast<void*>(address)));
}

void Sweep::release(const std::vector<GpuWeight>& weights) const {
    for (const GpuWeight& weight : weights) release({weight.codes});
}

Result<std::vector<GpuWeight>> Sweep::matrices(const std::string& scheme, std::int64_t n_rows, std::int64_t n_columns, std::size_t& size_bytes) const {
    Rng rng(3);
    std::vector<float> numbers(static_cast<std::size_t>(n_rows * n_columns));
    for (float& number : numbers) number = static_cast<float>(rng.uniform()) - 0.5f;
    const std::size_t plus = scheme.find('+');  // of a scheme and what stays
    const std::vector<float> scores = plus != std::string::npos ? numbers : std::vector<float>();
    Weight weight = make_float_weight({n_rows, n_columns}, std::move(numbers));
    SKIFF_TRY(const Scheme wanted, parse_scheme(scheme.substr(0, plus)));
    SKIFF_TRY(weight, encode_nearest(weight, wanted, ScaleRule::min_max, {}, &pool));
    if (plus != std::string::npos) {
        SKIFF_TRY(const PruneTarget target, parse_prune_target(scheme.substr(plus + 1)));
        const PruneTarget resolved = target.resolved(n_rows, n_columns);
        SKIFF_TRY(weight, make_sparse(weight, resolved.pattern, choose_units(resolved, scores, n_rows, n_columns, &pool)));
    }
    const RowSource source{&weight, RowMap::all(n_rows)};
    SKIFF_TRY(const auto packed, pack_gpu({&source, 1}, Interleave::none, &pool));
    size_bytes = packed.size_bytes();
    const std::size_t n = copies_beyond_cache(size_bytes);
    std::vector<GpuWeight> copies;
    for (std::size_t i = 0; i < n; ++i) {
        SKIFF_TRY(std::byte * address, device.allocate(size_bytes, "a matrix"));
        SKIFF_CHECK(device.upload(address, packed.blob.data(), size_bytes, &pool));
        copies.push_back(packed.at(address));
    }
    return copies;
}

}  // namespace skiff::cuda
