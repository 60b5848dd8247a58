#include "measure/scheme_speed.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/rng.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "tensor/weight.h"

namespace skiff {
namespace {

constexpr std::int64_t n_columns = 2048, n_prefill_tokens = 512, n_prefill_rows = 1024, n_sample_rows = 64;
constexpr double as_fast = 0.97;

// Normal weights, coded; what the tests repeat as often as they need rows.
struct Sample {
    Weight exact, coded;
};

Result<Sample> make_sample(const Scheme& scheme) {
    Rng rng(1);
    std::vector<float> values(static_cast<std::size_t>(n_sample_rows * n_columns));
    for (float& value : values) value = rng.normal();
    Sample sample;
    sample.exact = make_float_weight({n_sample_rows, n_columns}, std::move(values));
    SKIFF_TRY(sample.coded, encode_nearest(sample.exact, scheme, ScaleRule::search));
    return sample;
}

double relative_error(const Sample& sample) {
    std::vector<float> exact(static_cast<std::size_t>(n_columns)), coded(exact.size());
    double error = 0, size = 0;
    for (std::int64_t row = 0; row < n_sample_rows; ++row) {
        sample.exact.row(row, exact.data());
        sample.coded.row(row, coded.data());
        for (std::size_t i = 0; i < exact.size(); ++i) {
            error += std::pow(static_cast<double>(exact[i]) - coded[i], 2);
            size += std::pow(static_cast<double>(exact[i]), 2);
        }
    }
    return std::sqrt(error / size);
}

// The sample's packed rows, again and again, until there are n_rows.
PackedWeight repeat_rows(const PackedWeight& sample, std::int64_t n_rows, AlignedBuffer& buffer) {
    const auto n_copies = static_cast<std::size_t>(n_rows / n_sample_rows);
    const SectionBytes sizes = *sample.layout->sections(sample);
    const std::pair<const std::byte* PackedWeight::*, std::uint64_t> sections[] = {{&PackedWeight::data, sizes.data},
                                                                                  {&PackedWeight::scales, sample.scheme.one_table ? 0 : sizes.scales},
                                                                                  {&PackedWeight::zeros, sizes.zeros},
                                                                                  {&PackedWeight::super_scales, sizes.super_scales}};
    buffer = AlignedBuffer((sizes.total() + 64) * n_copies);
    PackedWeight packed;
    packed.layout = sample.layout;
    packed.n_rows = n_rows;
    packed.n_columns = sample.n_columns;
    packed.scheme = sample.scheme;
    packed.dtype = sample.dtype;
    packed.scales = sample.scales;  // shared by all rows, or set below
    packed.books = sample.books;
    std::byte* target = buffer.data();
    for (const auto& [section, bytes] : sections) {
        if (bytes == 0) continue;
        packed.*section = target;
        for (std::size_t i = 0; i < n_copies; ++i, target += bytes) std::memcpy(target, sample.*section, bytes);
        target = buffer.data() + (target - buffer.data() + 63) / 64 * 64;
    }
    packed.read_bytes = sample.read_bytes * n_copies;
    return packed;
}

// Tokens of normal numbers in both forms.
struct Inputs {
    AlignedBuffer x, codes, scales, sums;
    PreparedActivation view;
    Inputs(std::int64_t n_tokens, Isa isa) {
        const std::int64_t padded = padded_for_codes(n_columns);
        const auto size = static_cast<std::size_t>(n_tokens * padded);
        x = AlignedBuffer(static_cast<std::size_t>(n_tokens * n_columns) * 4), codes = AlignedBuffer(size), scales = AlignedBuffer(size / 8), sums = AlignedBuffer(size / 4);
        Rng rng(2);
        for (std::int64_t i = 0; i < n_tokens * n_columns; ++i) x.as<float>()[i] = rng.normal();
        choose_kernel(quantize_kernels(), isa).fn({x.as<float>(), codes.as<std::int8_t>(), scales.as<float>(), sums.as<std::int16_t>(), n_columns, padded}, {0, n_tokens});
        view = {x.as<float>(), codes.as<std::int8_t>(), scales.as<float>(), sums.as<std::int16_t>(), n_columns, padded};
    }
};

// Seconds of the fastest of seven passes after one to warm up: what else the machine does can only make a pass slower.
double seconds_of(const PackedWeight& packed, const LinearKernel& kernel, const Inputs& inputs, std::int64_t n_tokens, ThreadPool& pool) {
    AlignedBuffer y(static_cast<std::size_t>(n_tokens * packed.n_rows) * 4);
    std::vector<double> seconds;
    for (int pass = 0; pass < 8; ++pass) {
        const double begin = monotonic_seconds();
        pool.run([&](int thread) {
            const Range rows = share_of(packed.n_rows, thread, pool.n_threads(), packed.layout->row_unit);
            kernel.fn({&packed, inputs.view, nullptr, y.as<float>(), packed.n_rows, n_tokens, LinearArgs::Write::replace}, rows);
        });
        if (pass > 0) seconds.push_back(monotonic_seconds() - begin);
    }
    return *std::min_element(seconds.begin(), seconds.end());
}

Result<SchemeSpeed> measure(const SchemePreset& preset, const SchemeSpeedOptions& options, std::size_t weight_bytes, ThreadPool& pool) {
    SKIFF_TRY(const Sample sample, make_sample(preset.scheme));
    const Layout* layout = choose_layout(sample.coded, options.isa, KernelChoice::fastest);
    const LinearKernel *decode = choose_linear_kernel(layout->name, options.isa, 1, KernelChoice::fastest), *prefill = choose_linear_kernel(layout->name, options.isa, n_prefill_tokens, KernelChoice::fastest);
    const PackedWeight packed = pack_weight(*layout, sample.coded, RowMap::all(n_sample_rows));
    SchemeSpeed speed;
    speed.scheme = preset.name;
    speed.bits_per_weight = static_cast<double>(packed.read_bytes) * 8 / static_cast<double>(n_sample_rows * n_columns);
    speed.relative_error = relative_error(sample);
    speed.kernel = decode->name;
    speed.instruction = decode->instruction;
    AlignedBuffer buffer;
    const auto n_rows = static_cast<std::int64_t>(weight_bytes / packed.read_bytes + 1) * n_sample_rows;
    const PackedWeight large = repeat_rows(packed, n_rows, buffer);
    const double decode_seconds = seconds_of(large, *decode, Inputs(1, options.isa), 1, pool);
    speed.read_gbps = static_cast<double>(large.read_bytes) / decode_seconds / 1e9;
    speed.decode_gmacs = static_cast<double>(n_rows * n_columns) / decode_seconds / 1e9;
    AlignedBuffer small_buffer;
    const PackedWeight small = repeat_rows(packed, n_prefill_rows, small_buffer);
    const double prefill_seconds = seconds_of(small, *prefill, Inputs(n_prefill_tokens, options.isa), n_prefill_tokens, pool);
    speed.prefill_gmacs = static_cast<double>(n_prefill_rows * n_columns * n_prefill_tokens) / prefill_seconds / 1e9;
    return speed;
}

}  // namespace

Result<std::vector<SchemeSpeed>> measure_schemes(const SchemeSpeedOptions& options) {
    std::vector<const SchemePreset*> chosen;
    for (const SchemePreset& preset : scheme_presets()) {
        const bool wanted = options.schemes.empty() ? preset.scheme.bits <= 16 : std::find(options.schemes.begin(), options.schemes.end(), preset.name) != options.schemes.end();
        if (wanted) chosen.push_back(&preset);
    }
    const std::size_t weight_bytes = options.weight_bytes > 0 ? options.weight_bytes : std::max<std::size_t>(std::size_t{64} << 20, 2 * read_cpu_info().l3_bytes);
    ThreadPool pool(options.n_threads);
    std::vector<SchemeSpeed> speeds;
    for (const SchemePreset* preset : chosen) {
        SKIFF_TRY(auto speed, measure(*preset, options, weight_bytes, pool));
        speeds.push_back(std::move(speed));
        if (options.progress) options.progress({"measure", std::string(preset->name), speeds.size(), chosen.size()});
        if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted while measuring schemes", {}};
    }
    return speeds;
}

std::vector<SchemeVerdict> judge_schemes(std::span<const SchemeSpeed> schemes) {
    std::vector<SchemeVerdict> verdicts;
    const auto floats = std::find_if(schemes.begin(), schemes.end(), [](const SchemeSpeed& scheme) { return scheme.scheme == "bf16"; });
    for (const SchemeSpeed& scheme : schemes) {
        SchemeVerdict verdict;
        const SchemeSpeed* better = nullptr;
        for (const SchemeSpeed& other : schemes) {
            const bool no_worse = other.bits_per_weight <= scheme.bits_per_weight && other.relative_error <= scheme.relative_error && other.decode_gmacs >= as_fast * scheme.decode_gmacs;
            const bool different = other.bits_per_weight < scheme.bits_per_weight || other.relative_error < scheme.relative_error;
            if (no_worse && different && (better == nullptr || other.decode_gmacs > better->decode_gmacs)) better = &other;
        }
        if (better != nullptr) {
            const bool smaller = better->bits_per_weight < scheme.bits_per_weight, more_exact = better->relative_error < scheme.relative_error;
            verdict = {false, better->scheme + " is " + (smaller && more_exact ? "smaller, more exact" : smaller ? "smaller, as exact" : "as small, more exact") +
                                  (better->decode_gmacs * as_fast > scheme.decode_gmacs ? " and faster" : " and as fast")};
        }
        if (verdict.use && floats != schemes.end() && scheme.decode_gmacs < as_fast * floats->decode_gmacs && scheme.bits_per_weight < floats->bits_per_weight)
            verdict = {false, "bf16 decodes faster: it saves bytes alone"};
        verdicts.push_back(std::move(verdict));
    }
    return verdicts;
}

const SchemeSpeed* best_scheme(std::span<const SchemeSpeed> schemes, double max_relative_error) {
    double fastest = 0;
    for (const SchemeSpeed& scheme : schemes)
        if (scheme.relative_error <= max_relative_error) fastest = std::max(fastest, scheme.decode_gmacs);
    const SchemeSpeed* best = nullptr;
    for (const SchemeSpeed& scheme : schemes)
        if (scheme.relative_error <= max_relative_error && scheme.decode_gmacs >= as_fast * fastest && (best == nullptr || scheme.relative_error < best->relative_error)) best = &scheme;
    return best;
}

}  // namespace skiff
