#include "model/pruned_on_load.h"

#include <cmath>
#include <map>

#include "base/hash.h"
#include "base/topology.h"
#include "model/scheme_choice.h"

namespace skiff {
namespace {

class PrunedOnLoad final : public WeightSource {
public:
    PrunedOnLoad(const ModelSpec& spec, std::shared_ptr<WeightSource> source, const PruneTarget& target, SchemeChoice scheme_of, ScaleRule rule)
        : uses_(tensor_uses(spec)), columns_(keys_stored_as_columns(spec)), plain_(source), target_(target), scheme_of_(scheme_of), rule_(rule), others_(quantized_on_load(spec, source, std::move(scheme_of), rule)) {}
    bool contains(const std::string& key) const override { return plain_->contains(key); }
    std::vector<std::string> keys() const override { return plain_->keys(); }
    Result<Weight> load(const std::string& key) const override {
        const auto use = uses_.find(key);
        if (use == uses_.end() || use->second != TensorUse::linear) return others_->load(key);
        SKIFF_TRY(auto weight, plain_->load(key));
        if (weight.plain() == nullptr || weight.shape.size() != 2) return others_->load(key);
        if (columns_.count(key) != 0) weight = transposed(weight);
        auto pruned = prune(weight, scheme_of_(key));
        if (!pruned.ok()) return pruned.take_error().with_context(key);
        return pruned;
    }

    std::string identity() const override {
        const std::string others = others_->identity();
        return others.empty() ? others : others + ", pruned to " + target_.name() + (target_.scope == PruneTarget::Scope::layer ? " by layer" : "");
    }

private:
    Result<Weight> prune(const Weight& weight, const Scheme* scheme) const {
        const std::int64_t n_rows = weight.n_rows(), n_columns = weight.n_columns();
        ThreadPool pool(default_thread_count());
        std::vector<float> scores(static_cast<std::size_t>(n_rows * n_columns));
        pool.run([&](int thread) {
            const Range rows = share_of(n_rows, thread, pool.n_threads());
            for (std::int64_t row = rows.begin; row < rows.end; ++row) {
                float* target = scores.data() + row * n_columns;
                weight.row(row, target);
                for (std::int64_t column = 0; column < n_columns; ++column) target[column] = std::fabs(target[column]);
            }
        });
        const PruneTarget target = target_.resolved(n_rows, n_columns);
        const auto bitmask = choose_units(target, scores, n_rows, n_columns, &pool);
        SKIFF_TRY(auto kept, make_sparse(weight, target.pattern, bitmask));
        if (scheme == nullptr || !scheme->is_coded()) return kept;
        SKIFF_TRY(const auto coded, encode_nearest(densified(kept), *scheme, rule_, {}, &pool));
        return make_sparse(coded, target.pattern, bitmask);
    }

    std::map<std::string, TensorUse> uses_;
    std::set<std::string> columns_;
    std::shared_ptr<WeightSource> plain_;
    PruneTarget target_;
    SchemeChoice scheme_of_;
    ScaleRule rule_;
    std::shared_ptr<WeightSource> others_;
};

}  // namespace

std::shared_ptr<WeightSource> pruned_on_load(const ModelSpec& spec, std::shared_ptr<WeightSource> source, const PruneTarget& target, SchemeChoice scheme_of, ScaleRule rule) {
    return std::make_shared<PrunedOnLoad>(spec, std::move(source), target, std::move(scheme_of), rule);
}

}  // namespace skiff
