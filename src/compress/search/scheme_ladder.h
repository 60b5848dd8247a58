// The schemes that units may choose from, and what each unit would be in each of them: tensors, bytes, codes.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "compress/search/assignment.h"
#include "compress/search/scheme_units.h"
#include "compress/step_work.h"

namespace skiff {

class SchemeLadder {
public:
    // Plans the whole model in each scheme, smallest first, to be made by this method. Tensors for which the step has rules are no unit's: they stay what the rule says.
    static Result<SchemeLadder> create(const Checkpoint& parent, const QuantizeStep& step, const std::string& method, ThreadPool& pool, const ProgressSink& progress);

    std::size_t n_levels() const { return levels_.size(); }
    const std::string& scheme(std::size_t level) const { return levels_[level].name; }
    const std::vector<SchemeUnit>& units() const { return units_; }
    const QuantizeStep& step(std::size_t level) const { return std::get<QuantizeStep>(*levels_[level].step); }  // the whole model in one scheme
    StatisticsNeed needs() const { return levels_[0].work->needs(); }
    std::uint64_t bytes(std::size_t unit, std::size_t level) const;
    std::uint64_t n_elements() const { return levels_[0].plan.n_elements; }
    std::uint64_t n_elements(std::size_t unit) const;
    std::uint64_t fixed_bytes() const;  // of what is no unit's

    // Bytes of the weight files that such a model has, headers included.
    Result<std::uint64_t> file_bytes(std::span<const std::size_t> chosen, std::uint64_t max_shard_bytes) const;

    // A tensor as a level makes it: what the model computes with.
    Result<Weight> make(const std::string& key, std::size_t level, const WeightSource& weights, const InputStatistics* inputs, ThreadPool& pool) const;

private:
    struct Level {
        std::string name;
        Scheme scheme;
        std::unique_ptr<RecipeStep> step;  // where the work finds it
        std::unique_ptr<StepWork> work;
        TensorPlan plan;
        std::map<std::string, const PlannedTensor*> tensors;
    };
    std::vector<Level> levels_;
    std::vector<SchemeUnit> units_;
};

}  // namespace skiff
