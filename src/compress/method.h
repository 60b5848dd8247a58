// The methods that choose a weight's codes, one row each in table.cpp, with the schemes that each is defined on.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "compress/calibrate/statistics.h"
#include "compress/method_options.h"
#include "tensor/weight.h"

namespace skiff {

// One weight and what it shall become. The result has exactly this scheme, but for scales in F32 where F16 does not hold those that were found; its bits do
// not depend on the pool.
struct MethodInput {
    const Weight& weight;
    const Scheme& scheme;
    ScaleRule scale_rule = ScaleRule::search;
    ThreadPool& pool;
    const InputStatistics* inputs = nullptr;  // of the operators that read this weight; null: the method needs none, or nothing was measured (an embedding)
    const MethodOptions& options = default_method_options;
    std::vector<std::string>* remarks = nullptr;  // what was done otherwise than asked, and why; may be null
    std::span<const float> squared_gradients = {};  // of each weight by itself, for `kmeans` and clusters; empty: not measured // (n_rows, n_columns)
    bool* scales_lost = nullptr;  // set where the error is that F16 does not hold a scale; may be null
};

struct WeightMethod {
    std::string_view name, summary;
    Status (*defined_on)(const Scheme& scheme);        // an error that says why not
    Result<Weight> (*encode)(const MethodInput& input);
    StatisticsNeed needs = StatisticsNeed::none;       // of the calibration text; without inputs it does what `nearest` does
};

std::span<const WeightMethod> weight_methods();
Result<const WeightMethod*> find_weight_method(std::string_view name);  // a usage error lists the names

// What the method makes of it, with scales in F32 where it gives up because F16 does not hold them. The survey of the parent's weights foresees those, but
// not what a transform, or errors that are made up for, do to weights afterwards.
Result<Weight> encode_by(const WeightMethod& method, const MethodInput& input);

// ---- the methods, one file each
Status nearest_defined_on(const Scheme& scheme);
Status codes_defined_on(const Scheme& scheme);  // nearest's, where codes are left to choose: no floating schemes
Result<Weight> nearest_encode(const MethodInput& input);
Result<Weight> weighted_encode(const MethodInput& input);
Status kmeans_defined_on(const Scheme& scheme);
Result<Weight> kmeans_encode(const MethodInput& input);
Result<Weight> hqq_encode(const MethodInput& input);
Status gptq_defined_on(const Scheme& scheme);
Result<Weight> gptq_encode(const MethodInput& input);
Result<Weight> gptq_vectors_encode(const MethodInput& input);  // what gptq does with schemes of vectors
Status autoround_defined_on(const Scheme& scheme);
Result<Weight> autoround_encode(const MethodInput& input);

}  // namespace skiff
