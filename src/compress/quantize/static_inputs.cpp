#include "compress/quantize/static_inputs.h"

#include <cmath>

namespace skiff {
namespace {

using Kind = InputScaleRule::Kind;
constexpr struct {
    const char* name;
    Kind kind;
    RangeRule range;
} input_rules[] = {{"dynamic", Kind::dynamic, RangeRule::min_max},
                   {"dynamic-token", Kind::by_token, RangeRule::min_max},
                   {"static-minmax", Kind::fixed, RangeRule::min_max},
                   {"static-percentile", Kind::fixed, RangeRule::percentile},
                   {"static-mse", Kind::fixed, RangeRule::least_error}};

}  // namespace

const char* input_rule_name(const InputScaleRule& rule) {
    for (const auto& row : input_rules)
        if (row.kind == rule.kind && (row.kind != Kind::fixed || row.range == rule.range)) return row.name;
    return "dynamic";
}

std::optional<InputScaleRule> input_rule(std::string_view name, double percentile) {
    for (const auto& row : input_rules)
        if (row.name == name) return InputScaleRule{row.kind, row.range, percentile};
    return std::nullopt;
}

Result<float> input_scale_of(const RangeObserver& observer, const InputScaleRule& rule) {
    RangeOptions options;
    options.percentile = rule.percentile;
    SKIFF_TRY(const auto range, observer.range(rule.range, options));
    const float limit = std::max(std::fabs(range.low), std::fabs(range.high));
    return limit > 0 ? std::max(limit / 127.0f, 1e-30f) : 1.0f;  // all zero: any scale will do
}

Result<std::map<std::string, float>> measure_input_scales(const ModelSpec& spec, std::size_t block, BlockWork& work, const InputScaleRule& rule, const std::function<bool(const std::string& key)>& wanted) {
    std::map<std::string, float> scales;
    std::vector<ValueId> ids;
    std::map<ValueId, std::size_t> place;
    const auto readers = linear_inputs(spec.blocks.at(block));
    for (const auto& [key, id] : readers)
        if (wanted(key) && place.emplace(id, ids.size()).second) ids.push_back(id);
    if (ids.empty()) return scales;
    if (work.shares_weights(block)) return unsupported("--activations static-...: layers that use the same weights have inputs of different sizes, and such a weight has one scale for them; take dynamic, or convert --to hf first, which writes copies");
    std::vector<RangeObserver> observers(ids.size());
    SKIFF_CHECK(work.watch(block, ids, [&](std::int64_t, std::span<const std::span<const float>> values, ThreadPool& pool) -> Status {
        pool.run([&](int thread) {
            const Range own = share_of(static_cast<std::int64_t>(values.size()), thread, pool.n_threads());
            for (std::int64_t i = own.begin; i < own.end; ++i) observers[static_cast<std::size_t>(i)].add(values[static_cast<std::size_t>(i)]);
        });
        return {};
    }));
    for (const auto& [key, id] : readers) {
        if (!wanted(key)) continue;
        auto scale = input_scale_of(observers[place.at(id)], rule);
        if (!scale.ok()) return scale.take_error().with_context("inputs of " + key);
        scales[key] = *scale;
    }
    return scales;
}

}  // namespace skiff
