#include "cli/bench_kernels.h"

#include <algorithm>
#include <map>
#include <sstream>

#include "base/hash.h"
#include "cli/format.h"

namespace skiff {
namespace {

// Of a fused step's kernels the one that reads weights: "linear_w4_r16_avx2" of "norm_avx2, linear_w4_r16_avx2, multiply_avx2".
std::string linear_of(const std::string& kernels) {
    const std::size_t begin = kernels.find("linear_");
    return begin == std::string::npos ? kernels : kernels.substr(begin, kernels.find(',', begin) - begin);
}

// The kernel that reads most of the weights in runs of so many tokens.
std::string main_kernel(const Plan& plan, std::int64_t n_tokens) {
    std::map<std::string, std::uint64_t> bytes;
    for (const auto& step : plan.programs[static_cast<std::size_t>(bucket_of(n_tokens))].steps) bytes[linear_of(step->kernel)] += step->weight_bytes;
    const auto most = std::max_element(bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    return most == bytes.end() ? "" : most->first;
}

// All that the plan computes with: equal texts, equal kernels.
std::string kernels_of(const Plan& plan) {
    std::string text;
    for (const Program& program : plan.programs)
        for (const auto& step : program.steps) text += step->name + " " + step->kernel + "\n";
    return text;
}

std::int64_t tokens_at_once(const SpeedTest& test, std::int64_t batch) { return test.kind == SpeedTest::Kind::decode ? test.n_sequences : std::min(test.n_tokens, batch); }

}  // namespace

Result<std::vector<KernelVariant>> kernel_variants(const std::string& list) {
    std::vector<KernelVariant> variants;
    if (list == "all") {
        variants.push_back({"reference", KernelChoice::reference, best_isa()});
        for (const Isa isa : all_isas)
            if (isa_available(isa)) variants.push_back({std::string(isa_name(isa)), KernelChoice::fastest, isa});
        return variants;
    }
    std::istringstream parts(list);
    for (std::string part; std::getline(parts, part, ',');) {
        if (part == "reference") {
            variants.push_back({part, KernelChoice::reference, best_isa()});
            continue;
        }
        auto isa = parse_isa(part);
        if (!isa.ok()) return isa.take_error().with_context("--kernel " + list + ": all, or a list of reference and instruction sets");
        variants.push_back({part, KernelChoice::fastest, *isa});
    }
    if (variants.empty()) return usage_error("--kernel: expected all, or a list of reference and instruction sets");
    return variants;
}

Result<Json> bench_kernels(const KernelBench& bench, const std::vector<KernelVariant>& variants, Terminal& terminal) {
    std::vector<std::vector<std::string>> rows = {{"model", "kernels", "test", "kernel", "memory", "ms/token", "t/s", "GB/s", "logits"}};
    Json list = Json::array();
    std::map<std::string, std::string> seen;  // by kernels: who had them first
    for (const KernelVariant& variant : variants) {
        EngineOptions options = bench.options;
        options.kernels = variant.kernels;
        options.isa = variant.isa;
        reset_peak_resident();
        SKIFF_TRY(auto engine, Engine::load(bench.model, options));
        const auto [first, is_new] = seen.emplace(kernels_of(engine->plan()), variant.name);
        if (!is_new) {
            terminal.remark("note: " + variant.name + " computes with the kernels of " + first->second + ": one row for both");
            continue;
        }
        const std::string name = engine->checkpoint().name + (bench.scheme.empty() ? "" : " " + bench.scheme);
        std::uint64_t hash = 0;
        SKIFF_TRY(const auto results, measure_speed(engine->session(), bench.tests, bench.repeats, hash));
        const std::size_t peak_bytes = peak_resident_bytes();
        for (const SpeedResult& result : results) {
            const bool decode = result.test.kind == SpeedTest::Kind::decode;
            const std::string kernel = main_kernel(engine->plan(), tokens_at_once(result.test, options.max_batch > 0 ? options.max_batch : cpu_max_batch));
            const double ms = 1000 * static_cast<double>(decode ? result.test.n_sequences : 1) / result.tokens_per_s.median;
            rows.push_back({name, variant.name, result.test.name(), kernel, bytes_text(peak_bytes), number_text(ms, ms < 10 ? 3 : 1),
                            number_text(result.tokens_per_s.mean, 2) + " ± " + number_text(result.tokens_per_s.sd, 2), decode ? number_text(result.gb_per_s(), 1) : "", hex64(hash)});
            list.push_back(Json::object({{"model", name},
                                         {"kernels", variant.name},
                                         {"isa", isa_name(variant.isa)},
                                         {"test", result.test.name()},
                                         {"kernel", kernel},
                                         {"peak_memory_bytes", peak_bytes},
                                         {"ms_per_token", ms},
                                         {"tokens_per_s", result.tokens_per_s.median},
                                         {"gbps", decode ? Json(result.gb_per_s()) : Json()},
                                         {"logits_hash", hex64(hash)}}));
        }
    }
    terminal.print(table_text(rows, TableStyle::markdown));
    return list;
}

}  // namespace skiff
