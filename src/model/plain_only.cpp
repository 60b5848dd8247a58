#include "model/plain_only.h"

#include "model/scheme_choice.h"

namespace skiff {
namespace {

class PlainLinearOnly final : public WeightSource {
public:
    PlainLinearOnly(const ModelSpec& spec, std::shared_ptr<WeightSource> source, std::string option) : uses_(tensor_uses(spec)), source_(std::move(source)), option_(std::move(option)) {}
    bool contains(const std::string& key) const override { return source_->contains(key); }
    std::vector<std::string> keys() const override { return source_->keys(); }
    std::string identity() const override { return source_->identity(); }
    Result<Weight> load(const std::string& key) const override {
        SKIFF_TRY(auto weight, source_->load(key));
        const auto use = uses_.find(key);
        if (weight.plain() == nullptr && use != uses_.end() && use->second == TensorUse::linear)
            return usage_error(option_ + " is for plain weights, and " + key + " is " + weight.encoding_name() + " already; give the model that it was made from");
        return weight;
    }

private:
    std::map<std::string, TensorUse> uses_;
    std::shared_ptr<WeightSource> source_;
    std::string option_;
};

}  // namespace

std::shared_ptr<WeightSource> plain_linear_only(const ModelSpec& spec, std::shared_ptr<WeightSource> source, std::string option) {
    return std::make_shared<PlainLinearOnly>(spec, std::move(source), std::move(option));
}

}  // namespace skiff
