// Loads and packs weights for a plan, each once, however many operators refer to it.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "plan/plan.h"

namespace skiff {

// A tensor as its operator declares it: checked against the spec, and turned where it is stored as (inputs, outputs).
Result<Weight> load_declared(const ModelSpec& spec, const WeightSource& source, const TensorRef& ref);
// Its numbers plus `offset`; size: that the operator needs.
Result<std::vector<float>> vector_of(const Weight& weight, const TensorRef& ref, std::int64_t size, float offset);
std::string tensor_ref_key(const TensorRef& ref);  // equal for references to the same rows of the same tensor

class WeightPool {
public:
    WeightPool(const ModelSpec& spec, const WeightSource& source, const PlanOptions& options)
        : spec_(spec), source_(source), options_(options), cache_(open_cache()) {}

    // The packed weight of a reference; its shape must be (n_rows, n_columns). Tied references give the same one.
    Result<std::shared_ptr<const PackedWeight>> packed(const TensorRef& ref, std::int64_t n_rows, std::int64_t n_columns);
    // A vector as floats plus `offset` (norm weights, biases), or an empty one for an empty reference.
    Result<std::shared_ptr<const std::vector<float>>> vector(const TensorRef& ref, std::int64_t size, float offset);

    std::vector<std::shared_ptr<const PackedWeight>> all() const;
    std::vector<std::string> remarks() const;
    // When all weights were asked for: keeps what was packed for the next start.
    const PackCache& finish_cache();
    // After that: puts them where the options say. Returns the bytes in huge pages.
    Result<std::uint64_t> place();

private:
    Result<Weight> load(const TensorRef& ref) const { return load_declared(spec_, source_, ref); }
    const Layout* layout_for(Weight& weight);
    PackCache open_cache() const;
    ThreadPool& threads();
    std::shared_ptr<const PackedWeight> keep(const std::string& key, LoadedWeight loaded);
    const ModelSpec& spec_;
    const WeightSource& source_;
    const PlanOptions& options_;
    PackCache cache_;
    std::map<std::string, std::shared_ptr<const PackedWeight>> packed_;
    std::map<std::string, std::shared_ptr<const std::vector<float>>> vectors_;
    std::vector<LoadedWeight> all_;
    std::optional<ThreadPool> threads_;  // that share the rows of a weight while it is packed
    std::map<std::string, int> written_out_;  // sparse weights that run dense: encodings, and why
};

}  // namespace skiff
