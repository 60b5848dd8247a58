#include "model/input_order.h"

namespace skiff {
namespace {

class OrderedWeights final : public WeightSource {
public:
    OrderedWeights(std::shared_ptr<WeightSource> source, std::map<std::string, std::string> order_of) : source_(std::move(source)), order_of_(std::move(order_of)) {}
    bool contains(const std::string& key) const override { return source_->contains(key); }
    std::vector<std::string> keys() const override { return source_->keys(); }
    std::string identity() const override {
        const std::string source = source_->identity();
        return source.empty() ? source : source + ", inputs in order";
    }

    Result<Weight> load(const std::string& key) const override {
        SKIFF_TRY(auto weight, source_->load(key));
        const auto found = order_of_.find(key);
        if (found == order_of_.end()) return weight;
        SKIFF_TRY(const auto stored, source_->load(found->second));
        std::vector<float> order;
        const std::int64_t n_rows = weight.n_rows(), n_columns = weight.n_columns();
        if (stored.plain() == nullptr || !to_floats(*stored.plain(), order) || static_cast<std::int64_t>(order.size()) != n_columns)
            return corrupt("tensor " + found->second + " does not order the " + std::to_string(n_columns) + " inputs of " + key);
        std::vector<float> values(static_cast<std::size_t>(n_rows * n_columns)), row(static_cast<std::size_t>(n_columns));
        for (std::int64_t r = 0; r < n_rows; ++r) {
            weight.row(r, row.data());
            for (std::size_t column = 0; column < row.size(); ++column) {
                const float input = order[column];
                if (!(input >= 0 && input < static_cast<float>(n_columns))) return corrupt("tensor " + found->second + " holds an entry out of range");
                values[static_cast<std::size_t>(r * n_columns + static_cast<std::int64_t>(input))] = row[column];
            }
        }
        release_pages(weight);
        return make_float_weight({n_rows, n_columns}, std::move(values));
    }

private:
    std::shared_ptr<WeightSource> source_;
    std::map<std::string, std::string> order_of_;
};

}  // namespace

std::map<std::string, std::string> reordered_weights(const ModelSpec& spec) {
    std::map<std::string, std::string> keys;
    for (const Block& block : spec.blocks)
        for (const Op& op : block.ops)
            if (const auto* linear = std::get_if<LinearOp>(&op.detail); linear != nullptr && linear->transform.kind == InputTransform::Kind::permutation)
                for (const LinearTerm& term : linear->terms) keys[term.kind == LinearTerm::Kind::low_rank ? term.down.key : term.weight.key] = linear->transform.data.key;
    return keys;
}

Checkpoint with_inputs_in_order(Checkpoint checkpoint) {
    auto orders = reordered_weights(checkpoint.spec);
    if (orders.empty()) return checkpoint;
    for (Block& block : checkpoint.spec.blocks)
        for (Op& op : block.ops)
            if (auto* linear = std::get_if<LinearOp>(&op.detail); linear != nullptr && linear->transform.kind == InputTransform::Kind::permutation) linear->transform = {};
    for (const auto& [weight, order] : orders) checkpoint.spec.tensors.erase(order);
    checkpoint.weights = std::make_shared<OrderedWeights>(checkpoint.weights, std::move(orders));
    return checkpoint;
}

}  // namespace skiff
