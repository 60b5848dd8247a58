// skiff bench: prefill and decode speed, against what this machine's memory can give.
#include <algorithm>
#include <sstream>

#include "base/hash.h"
#include "cli/bench_fusion.h"
#include "cli/bench_kernels.h"
#include "cli/bench_speculation.h"
#include "cli/format.h"
#include "cli/model_options.h"
#include "cli/net_child.h"
#include "cli/verbs.h"
#include "measure/bandwidth.h"
#include "measure/energy.h"
#include "measure/speed.h"
#include "plan/tune_tiles.h"

namespace skiff {
namespace {

struct BenchOptions {
    ModelOptions model;
    SpeculateOptions speculate;
    std::string n_prompt = "512", n_generate = "128", n_sequences = "1", depth = "0", merge = "on", fuse = "on", fold = "on", text, graphs = "on", overlap = "on", feed = "device";
    std::int64_t repeats = 5;
    std::string tiles = "on", kernel;
    bool profile = false, energy = false, tune = false;
    std::vector<std::string> typed;

    void fields(FieldVisitor& visitor) {
        visitor.typed(typed);
        model.state = "f16";
        model.fields(visitor);
        visitor.option("--kernel", kernel, "all: a row for each kernel that can run the weights, from the plain reference to the best instruction set that this processor has; or a list: reference,avx2");
        visitor.option("-p,--prompt-tokens", n_prompt, "Lengths of the prompts to prefill, as a list: 512,2048; 0: none");
        visitor.option("-n,--gen-tokens", n_generate, "Numbers of tokens to decode one by one, as a list; 0: none");
        visitor.option("--sequences", n_sequences, "Numbers of sequences to decode together, a token of each in one pass, as a list: 1,2,4,8");
        visitor.option("-d,--depth", depth, "Tokens in the state of each sequence before a test begins, as a list: 0,4096");
        visitor.option("-r,--repeats", repeats, "Runs of each test, after one to warm up");
        visitor.choice("--merge", merge, {"on", "off"}, "off: one step per linear operator, to see what merging q, k, v and gate, up is worth");
        speculate.fields(visitor);
        visitor.option("--text", text, "With --speculate: a text to begin from; default: heldout.txt in the model's folder");
        visitor.flag("--energy", energy, "Also print joules per token, where this machine counts them (RAPL, NVML)");
        visitor.choice("--fold", fold, {"on", "off"}, "off: scales of inputs stay steps of their own, instead of being folded into the norm in front");
        visitor.option("--fuse", fuse,
                       "on, off, each (what every fusion is worth), or the fusions to make, as a list of residual, qkv_rope_state, attention, gate_up, norm_quantize, attention_output, head_top, head");
        visitor.choice("--graphs", graphs, {"on", "off"}, "off: on a GPU, launch every kernel by itself instead of the whole token as a CUDA graph");
        visitor.choice("--overlap", overlap, {"on", "off"}, "on: on a GPU (Hopper and later), kernels begin while the one before them ends (programmatic dependent launch); never with --offload stream");
        visitor.choice("--feed", feed, {"device", "host"}, "host: on a GPU, each chosen token goes through the host instead of being fed where it was chosen");
        visitor.flag("--tune", tune, "First find the fastest tiles for long prompts on this machine (some ten seconds), print them, and keep them beside the packed weights for all later runs");
        visitor.choice("--tiles", tiles, {"on", "off"}, "off: tiles by the kernels' own rule, whatever --tune found");
        visitor.flag("--profile", profile, "Also print where the time of decoding goes, step by step");
    }
};

Result<std::vector<std::int64_t>> number_list(const std::string& list, const char* flag, std::int64_t most) {
    std::vector<std::int64_t> numbers;
    std::istringstream parts(list);
    for (std::string part; std::getline(parts, part, ',');) {
        char* end = nullptr;
        const long value = std::strtol(part.c_str(), &end, 10);
        if (part.empty() || *end != '\0' || value < 0 || value > most)
            return usage_error(std::string(flag) + " " + list + ": expected numbers from 0 to " + std::to_string(most) + ", separated by commas");
        numbers.push_back(value);
    }
    return numbers;
}

Result<std::vector<SpeedTest>> wanted_tests(const BenchOptions& options) {
    constexpr std::int64_t most_tokens = 1 << 20, most_sequences = 1024;
    SKIFF_TRY(const auto prompts, number_list(options.n_prompt, "-p", most_tokens));
    SKIFF_TRY(const auto lengths, number_list(options.n_generate, "-n", most_tokens));
    SKIFF_TRY(const auto sequences, number_list(options.n_sequences, "--sequences", most_sequences));
    SKIFF_TRY(const auto depths, number_list(options.depth, "-d", most_tokens));
    std::vector<SpeedTest> tests;
    for (std::int64_t depth : depths) {
        for (std::int64_t n : prompts)
            if (n > 0) tests.push_back({SpeedTest::Kind::prefill, n, 1, depth});
        for (std::int64_t n : lengths)
            for (std::int64_t together : sequences)
                if (n > 0 && together > 0) tests.push_back({SpeedTest::Kind::decode, n, together, depth});
    }
    if (tests.empty()) return usage_error("nothing to measure: give -p or -n a number above 0");
    return tests;
}

// Joules per token of each test, by counter; and the power before, of which nothing is subtracted.
Json energy_report(const EnergyMeter& meter, const std::vector<double>& idle_watts, const std::vector<SpeedResult>& results, Terminal& terminal) {
    if (!meter.readable()) {
        terminal.print("energy: not readable here: " + meter.unreadable());
        return Json::object({{"readable", false}, {"reason", meter.unreadable()}});
    }
    std::vector<std::vector<std::string>> rows = {{"energy", "test", "J/token", "W", "W idle before"}};
    Json list = Json::array();
    const auto names = meter.names();
    for (std::size_t source = 0; source < names.size(); ++source) {
        for (const SpeedResult& result : results) {
            const double joules = result.joules_per_token[source], watts = joules * result.tokens_per_s.mean;
            rows.push_back({names[source], result.test.name(), number_text(joules, 4), number_text(watts, 1), number_text(idle_watts[source], 1)});
            list.push_back(Json::object({{"counter", names[source]}, {"test", result.test.name()}, {"joules_per_token", joules}, {"watts", watts}, {"idle_watts", idle_watts[source]}}));
        }
    }
    terminal.print(table_text(rows, TableStyle::markdown));
    return Json::object({{"readable", true}, {"results", list}});
}

std::string weights_name(const ModelOptions& options, const Checkpoint& checkpoint) {
    if (!options.scheme.empty()) return checkpoint.name + " " + options.scheme;
    return checkpoint.name;
}

Json spread_json(const Spread& spread) {
    return Json::object({{"median", spread.median}, {"min", spread.min}, {"max", spread.max}, {"sd", spread.sd}, {"mean", spread.mean}});
}

void print_profile(const std::vector<Session::StepName>& steps, const std::vector<double>& seconds, Terminal& terminal) {
    double total = 0;
    for (double value : seconds) total += value;
    std::vector<std::vector<std::string>> rows = {{"step", "kernel", "share", "µs"}};
    for (std::size_t i = 0; i < steps.size() && i < seconds.size(); ++i)
        rows.push_back({steps[i].name, steps[i].kernel, number_text(100 * seconds[i] / total, 1) + " %",
                        number_text(seconds[i] * 1e6, 0)});
    terminal.print(table_text(rows, TableStyle::plain));
}

// Tries tiles on the weights of the model, keeps what was found, and loads the model again, with it.
Result<Json> tune(std::unique_ptr<Engine>& engine, const ModelOptions& model, EngineOptions& options, Terminal& terminal) {
    const std::string path = model.tile_file();
    if (path.empty()) return usage_error("--tune keeps what it finds in the cache's folder; --pack-cache off leaves it none");
    TuneOptions wanted;
    wanted.n_threads = options.n_threads;
    wanted.max_tokens = options.max_batch > 0 ? options.max_batch : cpu_max_batch;
    wanted.progress = terminal.progress("shapes");
    SKIFF_CHECK(TileTable().write(path));  // changes nothing: a folder that cannot be written is better known before
    SKIFF_TRY(const TileTable table, tune_tiles(engine->plan(), wanted));
    terminal.end_progress();
    const auto of = [](std::int64_t number) { return number > 0 ? std::to_string(number) : std::string("rule"); };
    std::vector<std::vector<std::string>> rows = {{"kernel", "rows", "columns", "tokens", "tokens at once", "rows at once", "columns at once", "gain"}};
    Json list = Json::array();
    for (const auto& [key, entry] : table.entries()) {
        rows.push_back({key.kernel, std::to_string(key.rows), std::to_string(key.columns), std::to_string(key.tokens), of(entry.tiles.tokens), of(entry.tiles.rows), of(entry.tiles.columns),
                        number_text(100 * (entry.gain - 1), 1) + " %"});
        list.push_back(Json::object({{"kernel", key.kernel}, {"rows", key.rows}, {"columns", key.columns}, {"tokens", key.tokens}, {"tokens_at_once", entry.tiles.tokens},
                                     {"rows_at_once", entry.tiles.rows}, {"columns_at_once", entry.tiles.columns}, {"gain", entry.gain}}));
    }
    terminal.print(table_text(rows, TableStyle::markdown));
    SKIFF_CHECK(table.write(path));
    terminal.print("kept in " + path);
    options.tiles = std::make_shared<const TileTable>(TileTable::read(path));
    engine.reset();
    SKIFF_TRY(engine, Engine::load(model.model, options));
    return list;
}

// --kernel: a table of its own, of the processor's kernels.
Status compare_kernels(const BenchOptions& options, const EngineOptions& engine_options, const std::vector<SpeedTest>& tests, Terminal& terminal) {
    SKIFF_TRY(const auto variants, kernel_variants(options.kernel));
    if (engine_options.device.kind != DeviceChoice::Kind::cpu) return usage_error("--kernel compares the processor's kernels; on a GPU there is --gemm own|cublaslt|cutlass");
    for (const char* other : {"--isa", "--kernels", "--tune", "--profile", "--energy", "--speculate"})
        if (std::find(options.typed.begin(), options.typed.end(), other) != options.typed.end()) return usage_error("--kernel chooses the kernels, one after the other, and measures their speed alone; leave " + std::string(other) + " out");
    if (options.fuse == "each") return usage_error("--kernel and --fuse each are two tables; ask for one after the other");
    SKIFF_TRY(const Json table, bench_kernels({options.model.model, options.model.scheme, engine_options, tests, static_cast<int>(options.repeats)}, variants, terminal));
    const CpuInfo cpu = read_cpu_info();
    terminal.result(Json::object({{"model", Json::object({{"path", options.model.model}})},
                                  {"machine", Json::object({{"cpu", cpu.model_name}, {"threads", engine_options.n_threads}})},
                                  {"kernels", table}}));
    return {};
}

Status run_bench(BenchOptions& options, Terminal& terminal) {
    SKIFF_TRY(const auto tests, wanted_tests(options));
    if (options.repeats < 1 || options.repeats > 1000) return usage_error("-r: expected 1 to 1000");
    if (net::is_net(options.model.model)) {
        SKIFF_CHECK(only_for_nets(options.typed, {"--repeats", "--threads", "--batch", "--isa", "--kernels"}));
        return bench_net(options.model, options.repeats, terminal);
    }
    std::int64_t longest = 1, most_together = 1, longest_decode = 0;
    SpeculationBench speculation{{}, options.text, static_cast<int>(options.repeats)};
    for (const SpeedTest& test : tests) {
        longest = std::max(longest, test.depth + test.n_tokens);
        most_together = std::max(most_together, test.n_sequences);
        if (test.kind != SpeedTest::Kind::decode) continue;
        longest_decode = std::max(longest_decode, test.n_tokens);
        if (std::find(speculation.n_tokens.begin(), speculation.n_tokens.end(), test.n_tokens) == speculation.n_tokens.end()) speculation.n_tokens.push_back(test.n_tokens);
    }
    const bool speculate = options.speculate.source != "off";
    if (speculate) longest = std::max(longest, speculation_prompt_tokens + longest_decode + max_proposed), most_together = std::max<std::int64_t>(most_together, 2);
    if (options.model.context == 0) options.model.context = longest;
    SKIFF_TRY(auto engine_options, options.model.engine_options());
    SKIFF_CHECK(options.speculate.apply(engine_options));
    engine_options.n_sequences = most_together;
    engine_options.merge = options.merge == "off" ? PlanOptions::Merge::off : PlanOptions::Merge::on;
    engine_options.fold = options.fold == "off" ? PlanOptions::Fold::off : PlanOptions::Fold::on;
    if (options.fuse != "each") {
        SKIFF_TRY(engine_options.fuse, FuseSet::parse(options.fuse));
    }
    const bool on_processor = engine_options.device.kind == DeviceChoice::Kind::cpu;
    const auto is_typed = [&](std::string_view name) { return std::find(options.typed.begin(), options.typed.end(), name) != options.typed.end(); };
    if (on_processor && (is_typed("--graphs") || is_typed("--overlap") || is_typed("--feed"))) return usage_error("--graphs, --overlap and --feed are a GPU's; they need --device cuda");
    if (is_typed("--overlap") && options.overlap == "on" && options.model.offload == "stream")
        return usage_error("--overlap on: a kernel that begins early would read weights that --offload stream has not copied yet; leave one of the two out");
    if (!on_processor && (options.merge != "on" || options.fold != "on" || options.fuse == "each")) return usage_error("--merge off, --fold off and --fuse each are the processor's; on a GPU there is --fuse off");
    engine_options.device.graphs = options.graphs == "off" ? DeviceChoice::Graphs::off : DeviceChoice::Graphs::on;
    engine_options.device.overlap = options.overlap == "on" ? DeviceChoice::Overlap::on : DeviceChoice::Overlap::off;
    engine_options.device.feed = options.feed == "host" ? DeviceChoice::Feed::host : DeviceChoice::Feed::device;
    if (options.tiles == "off") engine_options.tiles = nullptr;
    if (options.tune && (options.tiles == "off" || !on_processor)) return usage_error("--tune finds tiles for the processor's kernels: without --tiles off, and not on a GPU");
    if (engine_options.tiles != nullptr && !engine_options.tiles->note().empty() && !options.tune) terminal.remark(engine_options.tiles->note());
    if (!options.kernel.empty()) return compare_kernels(options, engine_options, tests, terminal);
    engine_options.progress = terminal.progress("blocks");
    SKIFF_TRY(auto engine, Engine::load(options.model.model, engine_options));
    terminal.end_progress();
    remark_on_cache(*engine, options.model, terminal);
    Json tuned;
    if (options.tune) {
        SKIFF_TRY(tuned, tune(engine, options.model, engine_options, terminal));
    }

    // Before and after, since other work on the machine changes it; the higher one is the limit.
    const std::size_t load_peak = peak_resident_bytes();
    Session& session = engine->session();
    const bool on_cpu = session.where().starts_with("cpu");
    const auto bandwidth = [&]() -> double {
        const auto of_device = session.read_gb_per_s();
        const double share = of_device ? session.share_read_there() : 0;
        if (share == 1) return *of_device;
        const double of_processor = measure_read_bandwidth(engine_options.n_threads).gb_per_s;
        return share == 0 ? of_processor : 1 / (share / *of_device + (1 - share) / of_processor);  // one behind the other
    };
    const double before = bandwidth();
    reset_peak_resident();  // of the measurement's own buffer
    std::uint64_t hash = 0;
    std::vector<double> seconds;
    EnergyMeter meter = options.energy ? EnergyMeter::open() : EnergyMeter();
    std::vector<double> idle_watts;
    if (meter.readable()) {
        SKIFF_TRY(idle_watts, meter.idle_watts(1.0));
    }
    if (options.profile) engine->session().set_profiling(&seconds);
    SKIFF_TRY(auto results, measure_speed(engine->session(), tests, static_cast<int>(options.repeats), hash, meter.readable() ? &meter : nullptr));
    const std::size_t peak_bytes = std::max(load_peak, peak_resident_bytes());
    const double after = bandwidth();
    const double read_gbps = std::max(before, after);
    const bool has_prefill = std::any_of(tests.begin(), tests.end(), [](const SpeedTest& test) { return test.kind == SpeedTest::Kind::prefill; });
    const std::optional<double> gemm_tflops = has_prefill ? session.gemm_tflops() : std::nullopt;

    const Plan& plan = engine->plan();
    const CpuInfo cpu = read_cpu_info();
    const bool in_cache = on_cpu && plan.decode_read_bytes <= cpu.l3_bytes;
    const std::string name = weights_name(options.model, engine->checkpoint());
    const double parameters = static_cast<double>(plan.spec.n_parameters());
    std::vector<std::vector<std::string>> rows = {{"model", "size", "params", "backend", "threads", "test", "t/s", "GB/s", "of memory", "GMAC/s"}};
    Json list = Json::array();
    for (const SpeedResult& result : results) {
        const bool decode = result.test.kind == SpeedTest::Kind::decode;
        const double share = result.gb_per_s() / read_gbps;
        rows.push_back({name, bytes_text(plan.weight_bytes), count_text(parameters), session.where(),
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
                                     {"share_of_gemm_rate", !decode && gemm_tflops ? Json(2e-3 * result.gmac_per_s() / *gemm_tflops) : Json()},
                                     {"in_cache", in_cache},
                                     {"gmac_per_s", result.gmac_per_s()}}));
    }
    terminal.print(table_text(rows, TableStyle::markdown));
    terminal.print("read bandwidth " + number_text(before, 1) + " GB/s before, " + number_text(after, 1) + " after, " +
                   counted(engine_options.n_threads, "threads") + (gemm_tflops ? " · matrix products " + number_text(*gemm_tflops, 1) + " TFLOP/s" : "") + " · peak memory " + bytes_text(peak_bytes) +
                   (plan.huge_page_bytes > 0 ? " · weights in huge pages" : "") + " · logits " + hex64(hash));
    const Json energy = options.energy ? energy_report(meter, idle_watts, results, terminal) : Json();
    if (options.profile) print_profile(engine->session().decode_steps(), seconds, terminal);
    engine->session().set_profiling(nullptr);
    Json speculated;
    if (speculate) {
        SKIFF_TRY(speculated, bench_speculation(*engine, speculation, terminal));
    }
    Json fusions;
    if (options.fuse == "each") {
        SKIFF_TRY(fusions, bench_fusions(*engine, {options.model.model, engine_options, tests, static_cast<int>(options.repeats)}, terminal));
    }
    terminal.result(Json::object(
        {{"model",
          Json::object(
              {{"path", options.model.model}, {"name", name}, {"weight_bytes", plan.weight_bytes}, {"huge_page_bytes", plan.huge_page_bytes}, {"parameters", plan.spec.n_parameters()}})},
         {"machine", Json::object({{"cpu", cpu.model_name},
                                   {"isa", isa_name(plan.isa)},
                                   {"threads", engine_options.n_threads},
                                   {"read_gbps", read_gbps},
                                   {"read_gbps_before", before},
                                   {"read_gbps_after", after},
                                   {"device", session.where()},
                                   {"gemm_tflops", gemm_tflops ? Json(*gemm_tflops) : Json()},
                                   {"l3_bytes", cpu.l3_bytes}})},
         {"results", list},
         {"speculation", speculated},
         {"energy", energy},
         {"fusions", fusions},
         {"tuned", tuned},
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
