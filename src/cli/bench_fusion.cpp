#include "cli/bench_fusion.h"

#include "cli/format.h"

namespace skiff {
namespace {

struct Variant {
    std::string name;
    FuseSet fuse = FuseSet::none();
};

std::vector<Variant> variants() {
    std::vector<Variant> list;
    for (std::size_t pass = 0; pass < fuse_passes().size(); ++pass) list.push_back({std::string(fuse_passes()[pass].name), FuseSet::all().without(pass)});
    list.push_back({"all", FuseSet::none()});
    list.push_back({"none (spread)", FuseSet::all()});  // two equal plans: what a difference must exceed to mean something
    return list;
}

}  // namespace

Result<Json> bench_fusions(Engine& fused, const FusionBench& bench, Terminal& terminal) {
    std::vector<std::vector<std::string>> rows = {{"fusion", "test", "with, t/s", "without, t/s", "gain", "of pairs"}};
    Json list = Json::array();
    for (const Variant& variant : variants()) {
        EngineOptions options = bench.options;
        options.fuse = variant.fuse;
        SKIFF_TRY(auto other, Engine::load(bench.model, options));
        std::vector<std::vector<double>> with(bench.tests.size()), without(bench.tests.size()), ratios(bench.tests.size());
        for (int repeat = 0; repeat < bench.repeats; ++repeat) {
            std::uint64_t hash = 0, other_hash = 0;
            SKIFF_TRY(auto one, measure_speed(fused.session(), bench.tests, 1, hash));
            SKIFF_TRY(auto two, measure_speed(other->session(), bench.tests, 1, other_hash));
            if (hash != other_hash) return runtime_error("the plans with and without " + variant.name + " give different logits; please report this");
            for (std::size_t i = 0; i < bench.tests.size(); ++i) {
                with[i].push_back(one[i].tokens_per_s.median);
                without[i].push_back(two[i].tokens_per_s.median);
                ratios[i].push_back(with[i].back() / without[i].back());
            }
        }
        for (std::size_t i = 0; i < bench.tests.size(); ++i) {
            const Spread gain = spread_of(ratios[i]);
            rows.push_back({variant.name, bench.tests[i].name(), number_text(spread_of(with[i]).median, 1), number_text(spread_of(without[i]).median, 1),
                            number_text(100 * (gain.median - 1), 1) + " %",
                            number_text(100 * (gain.min - 1), 1) + " to " + number_text(100 * (gain.max - 1), 1) + " %"});
            list.push_back(Json::object({{"fusion", variant.name}, {"test", bench.tests[i].name()}, {"ratio", gain.median}, {"min", gain.min}, {"max", gain.max}}));
        }
    }
    terminal.print(table_text(rows, TableStyle::markdown));
    return list;
}

}  // namespace skiff
