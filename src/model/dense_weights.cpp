#include "model/dense_weights.h"

#include <algorithm>
#include <map>
#include <set>

#include "model/arch/arch.h"

namespace skiff {
namespace {

constexpr std::string_view weight_end = ".weight", up_end = ".low_rank_up", outliers_end = ".outliers";

// What is added up to one stored weight: keys, "" where there is none.
struct Terms {
    std::string packed, up, down, outliers;
};

std::string module_of(const LinearTerm& term) {
    const std::string& key = term.weight.key;
    const std::string_view end = term.kind == LinearTerm::Kind::low_rank ? up_end : term.kind == LinearTerm::Kind::sparse ? outliers_end : weight_end;
    return key.substr(0, key.size() - end.size());
}

// By the key of the dense weight.
std::map<std::string, Terms> terms_of(const ModelSpec& spec) {
    std::map<std::string, Terms> all;
    for (const Block& block : spec.blocks)
        for (const Op& op : block.ops) {
            const auto* linear = std::get_if<LinearOp>(&op.detail);
            if (linear == nullptr || !why_not_one_matrix(op)) continue;
            for (const LinearTerm& term : linear->terms) {
                Terms& terms = all[module_of(term) + std::string(weight_end)];
                if (term.kind == LinearTerm::Kind::packed) terms.packed = term.weight.key;
                if (term.kind == LinearTerm::Kind::sparse) terms.outliers = term.weight.key;
                if (term.kind == LinearTerm::Kind::low_rank) terms.up = term.weight.key, terms.down = term.down.key;
            }
        }
    return all;
}

class DenseWeights final : public WeightSource {
public:
    DenseWeights(std::shared_ptr<WeightSource> source, std::map<std::string, Terms> terms, std::set<std::string> columns) : source_(std::move(source)), terms_(std::move(terms)), columns_(std::move(columns)) {}
    bool contains(const std::string& key) const override { return terms_.count(key) != 0 || source_->contains(key); }
    std::vector<std::string> keys() const override {
        std::vector<std::string> keys = source_->keys();
        std::erase_if(keys, [&](const std::string& key) {
            return std::any_of(terms_.begin(), terms_.end(), [&](const auto& each) { return key == each.second.packed || key == each.second.up || key == each.second.down || key == each.second.outliers; });
        });
        for (const auto& [key, terms] : terms_) keys.push_back(key);
        return keys;
    }
    std::string identity() const override {
        const std::string source = source_->identity();
        return source.empty() ? source : source + ", dense";
    }

    Result<Weight> load(const std::string& key) const override {
        if (const auto found = terms_.find(key); found != terms_.end()) return sum(key, found->second);
        SKIFF_TRY(auto weight, source_->load(key));
        return weight.sparse() != nullptr ? densified(weight) : std::move(weight);
    }

private:
    Result<Weight> sum(const std::string& key, const Terms& terms) const {
        std::vector<Weight> parts;
        DType dtype = DType::f32;
        const auto take = [&](const std::string& part) -> Status {
            SKIFF_TRY(auto weight, source_->load(part));
            const TensorView* plain = weight.plain();
            const DType own = plain != nullptr ? plain->dtype : weight.sparse() != nullptr && !weight.sparse()->scheme.is_coded() ? weight.sparse()->scheme.dtype : DType::f16;
            if (own == DType::f16 || own == DType::bf16) dtype = own;
            if (part == terms.packed && plain != nullptr && columns_.count(key) != 0) weight = transposed(weight);
            parts.push_back(std::move(weight));
            return {};
        };
        std::int64_t n_columns = 0;
        for (const std::string& part : {terms.outliers, terms.packed, terms.up, terms.down})
            if (!part.empty()) SKIFF_CHECK(take(part));
        const bool thin = !terms.up.empty();
        n_columns = parts.back().n_columns();
        const std::int64_t n_rows = parts[parts.size() - (thin ? 2 : 1)].n_rows();
        std::vector<float> values(static_cast<std::size_t>(n_rows * n_columns)), row(static_cast<std::size_t>(n_columns)), up;
        for (std::size_t p = 0; p < parts.size() - (thin ? 2 : 0); ++p) {
            if (parts[p].shape != Shape{n_rows, n_columns}) return corrupt("tensor " + key + ": its parts are " + shape_text(parts[p].shape) + " and " + shape_text({n_rows, n_columns}));
            for (std::int64_t r = 0; r < n_rows; ++r) {
                parts[p].row(r, row.data());
                for (std::size_t c = 0; c < row.size(); ++c) values[static_cast<std::size_t>(r) * row.size() + c] += row[c];
            }
        }
        if (thin) {
            const Weight &b = parts[parts.size() - 2], &a = parts.back();
            if (b.n_columns() != a.n_rows()) return corrupt("tensor " + key + ": its factors are " + shape_text(b.shape) + " and " + shape_text(a.shape));
            up.resize(static_cast<std::size_t>(n_rows * b.n_columns()));
            for (std::int64_t r = 0; r < n_rows; ++r) b.row(r, up.data() + r * b.n_columns());
            for (std::int64_t k = 0; k < a.n_rows(); ++k) {
                a.row(k, row.data());
                for (std::int64_t r = 0; r < n_rows; ++r) {
                    const float factor = up[static_cast<std::size_t>(r * a.n_rows() + k)];
                    float* target = values.data() + r * n_columns;
                    for (std::size_t c = 0; c < row.size(); ++c) target[c] += factor * row[c];
                }
            }
        }
        SKIFF_TRY(const auto made, encode_nearest(make_float_weight({n_rows, n_columns}, std::move(values)), {NumberKind::floating, dtype, dtype_info(dtype).bits}, ScaleRule::min_max));
        return columns_.count(key) != 0 ? transposed(made) : made;
    }

    std::shared_ptr<WeightSource> source_;
    std::map<std::string, Terms> terms_;
    std::set<std::string> columns_;
};

}  // namespace

std::optional<std::string> why_not_one_matrix(const Op& op) {
    const auto* linear = std::get_if<LinearOp>(&op.detail);
    if (linear == nullptr) return std::nullopt;
    const auto has = [&](LinearTerm::Kind kind) { return std::any_of(linear->terms.begin(), linear->terms.end(), [&](const LinearTerm& term) { return term.kind == kind; }); };
    if (has(LinearTerm::Kind::low_rank)) return "operator " + op.name + (linear->terms.size() > 1 ? " is the sum of a matrix and of a product of two thin ones (factors)" : " is a product of two thin matrices (factors)");
    if (has(LinearTerm::Kind::sparse)) return "operator " + op.name + " has outliers beside its weight";
    return std::nullopt;
}

Result<Checkpoint> with_dense_weights(Checkpoint checkpoint, std::vector<std::string>& notes) {
    auto terms = terms_of(checkpoint.spec);
    std::size_t n_pruned = 0;
    for (const auto& [key, declared] : checkpoint.spec.tensors) {
        if (!checkpoint.weights->contains(key)) continue;
        SKIFF_TRY(const auto weight, checkpoint.weights->load(key));
        n_pruned += weight.sparse() != nullptr && std::none_of(terms.begin(), terms.end(), [&name = key](const auto& each) { return each.second.packed == name; });
    }
    if (terms.empty() && n_pruned == 0) return checkpoint;
    for (const Block& block : checkpoint.spec.blocks)
        for (const Op& op : block.ops)
            if (const auto* linear = std::get_if<LinearOp>(&op.detail); linear != nullptr && why_not_one_matrix(op) && linear->transform.kind != InputTransform::Kind::none)
                return unsupported("operator " + op.name + " has an input transform, which no dense weight stands for");
    if (n_pruned > 0) notes.push_back("the zeros of " + std::to_string(n_pruned) + " pruned weights are written out");
    if (!terms.empty()) {
        notes.push_back(std::to_string(terms.size()) + (terms.size() == 1 ? " sum or product of matrices is" : " sums or products of matrices are") + " written out as one matrix, rounded to the type of the parts");
        SKIFF_TRY(checkpoint.spec, build_spec(checkpoint.config));  // as config.json alone says it
    }
    auto columns = keys_stored_as_columns(checkpoint.spec);
    checkpoint.weights = std::make_shared<DenseWeights>(checkpoint.weights, std::move(terms), std::move(columns));
    return checkpoint;
}

}  // namespace skiff
