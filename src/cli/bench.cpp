// skiff bench: prefill and decode speed, against what this machine's memory can give.
#include <algorithm>
#include <sstream>

#include "base/hash.h"
#include "cli/format.h"
#include "cli/model_options.h"
#include "cli/verbs.h"
#include "measure/bandwidth.h"
#include "measure/speed.h"

namespace skiff {
namespace {

struct BenchOptions {
    ModelOptions model;
    std::string n_prompt = "512", n_generate = "128", merge = "on";
    std::int64_t repeats = 5;
    bool profile = false;

    void fields(FieldVisitor& visitor) {
        model.state = "f16";
        model.fields(visitor);
        visitor.option("-p,--prompt-tokens", n_prompt, "Lengths of the prompts to prefill, as a list: 512,2048; 0: none");
        visitor.option("-n,--gen-tokens", n_generate, "Numbers of tokens to decode one by one, as a list; 0: none");
        visitor.option("-r,--repeats", repeats, "Runs of each test, after one to warm up");
        visitor.choice("--merge", merge, {"on", "off"}, "off: one step per linear operator, to see what merging q, k, v and gate, up is worth");
        visitor.flag("--profile", profile, "Also print where the time of decoding goes, step by step");
    }
};

Status add_tests(const std::string& list, const char* flag, SpeedTest::Kind kind, std::vector<SpeedTest>& tests) {
    std::istringstream parts(list);
    for (std::string part; std::getline(parts, part, ',');) {
        char* end = nullptr;
        const long value = std::strtol(part.c_str(), &end, 10);
        if (part.empty() || *end != '\0' || value < 0 || value > (1 << 20))
            return usage_error(std::string(flag) + " " + list + ": expected numbers from 0 to 1048576, separated by commas");
        if (value > 0) tests.push_back({kind, value});
    }
    return {};
}

std::string weights_name(const ModelOptions& options, const Checkpoint& checkpoint) {
    if (!options.scheme.empty()) return checkpoint.name + " " + options.scheme;
    return checkpoint.name;
}

Json spread_json(const Spread& spread) {
    return Json::object({{"median", spread.median}, {"min", spread.min}, {"max", spread.max}, {"sd", spread.sd}, {"mean", spread.mean}});
}

void print_profile(const Plan& plan, const std::vector<double>& seconds, Terminal& terminal) {
    double total = 0;
    for (double value : seconds) total += value;
    std::vector<std::vector<std::string>> rows = {{"step", "kernel", "share", "µs"}};
    const auto& steps = plan.programs[0].steps;
    for (std::size_t i = 0; i < steps.size() && i < seconds.size(); ++i)
        rows.push_back({steps[i]->kind + " " + steps[i]->name, steps[i]->kernel, number_text(100 * seconds[i] / total, 1) + " %",
                        number_text(seconds[i] * 1e6, 0)});
    terminal.print(table_text(rows, TableStyle::plain));
}

Status run_bench(BenchOptions& options, Terminal& terminal) {
    std::vector<SpeedTest> tests;
    SKIFF_CHECK(add_tests(options.n_prompt, "-p", SpeedTest::Kind::prefill, tests));
    SKIFF_CHECK(add_tests(options.n_generate, "-n", SpeedTest::Kind::decode, tests));
    if (tests.empty()) return usage_error("nothing to measure: give -p or -n a number above 0");
    if (options.repeats < 1 || options.repeats > 1000) return usage_error("-r: expected 1 to 1000");
    std::int64_t longest = 1;
    for (const SpeedTest& test : tests) longest = std::max(longest, test.n_tokens);
    if (options.model.context == 0) options.model.context = longest;
    SKIFF_TRY(auto engine_options, options.model.engine_options());
    engine_options.merge = options.merge == "off" ? PlanOptions::Merge::off : PlanOptions::Merge::on;
    engine_options.progress = terminal.progress("blocks");
    SKIFF_TRY(auto engine, Engine::load(options.model.model, engine_options));
    terminal.end_progress();

    // Before and after, since other work on the machine changes it; the higher one is the limit.
    const std::size_t load_peak = peak_resident_bytes();
    const ReadBandwidth before = measure_read_bandwidth(engine_options.n_threads);
    reset_peak_resident();  // of the measurement's own buffer
    std::uint64_t hash = 0;
    std::vector<double> seconds;
    if (options.profile) engine->session().set_profiling(&seconds);
    SKIFF_TRY(auto results, measure_speed(engine->session(), tests, static_cast<int>(options.repeats), hash));
    const std::size_t peak_bytes = std::max(load_peak, peak_resident_bytes());
    const ReadBandwidth after = measure_read_bandwidth(engine_options.n_threads);
    const double read_gbps = std::max(before.gb_per_s, after.gb_per_s);

    const Plan& plan = engine->plan();
    const CpuInfo cpu = read_cpu_info();
    const bool in_cache = plan.decode_read_bytes <= cpu.l3_bytes;
    const std::string name = weights_name(options.model, engine->checkpoint());
    const double parameters = static_cast<double>(plan.spec.n_parameters());
    std::vector<std::vector<std::string>> rows = {{"model", "size", "params", "backend", "threads", "test", "t/s", "GB/s", "of memory", "GMAC/s"}};
    Json list = Json::array();
    for (const SpeedResult& result : results) {
        const bool decode = result.test.kind == SpeedTest::Kind::decode;
        const double share = result.gb_per_s() / read_gbps;
        rows.push_back({name, bytes_text(plan.weight_bytes), count_text(parameters), "cpu " + std::string(isa_name(plan.isa)),
                        std::to_string(engine_options.n_threads), result.test.name(),
                        number_text(result.tokens_per_s.mean, 2) + " ± " + number_text(result.tokens_per_s.sd, 2),
                        decode ? number_text(result.gb_per_s(), 1) : "",
                        !decode    ? ""
                        : in_cache ? "in cache"
                                   : number_text(100 * share, 0) + " %",
                        number_text(result.gmac_per_s(), 1)});
        list.push_back(Json::object({{"test", result.test.name()},
                                     {"tokens_per_s", spread_json(result.tokens_per_s)},
                                     {"gbps", decode ? Json(result.gb_per_s()) : Json()},
                                     {"share_of_bandwidth", decode && !in_cache ? Json(share) : Json()},
                                     {"in_cache", in_cache},
                                     {"gmac_per_s", result.gmac_per_s()}}));
    }
    terminal.print(table_text(rows, TableStyle::markdown));
    terminal.print("read bandwidth " + number_text(before.gb_per_s, 1) + " GB/s before, " + number_text(after.gb_per_s, 1) + " after, " +
                   std::to_string(engine_options.n_threads) + " threads · peak memory " + bytes_text(peak_bytes) + " · logits " + hex64(hash));
    if (options.profile) print_profile(plan, seconds, terminal);
    terminal.result(Json::object(
        {{"model",
          Json::object(
              {{"path", options.model.model}, {"name", name}, {"weight_bytes", plan.weight_bytes}, {"parameters", plan.spec.n_parameters()}})},
         {"machine", Json::object({{"cpu", cpu.model_name},
                                   {"isa", isa_name(plan.isa)},
                                   {"threads", engine_options.n_threads},
                                   {"read_gbps", read_gbps},
                                   {"read_gbps_before", before.gb_per_s},
                                   {"read_gbps_after", after.gb_per_s},
                                   {"l3_bytes", cpu.l3_bytes}})},
         {"results", list},
         {"peak_memory_bytes", peak_bytes},
         {"logits_hash", hex64(hash)}}));
    return {};
}

}  // namespace

std::unique_ptr<Verb> bench_verb_row() {
    return make_verb<BenchOptions>(
        "bench", "Measure prefill and decode speed against the machine's memory bandwidth",
        {"skiff bench models/pocket -p 128 -n 64 -r 3", "skiff bench random:bench/shapes/S.json --scheme w4g32 -p 512 -n 128 -r 5"}, run_bench);
}

}  // namespace skiff
