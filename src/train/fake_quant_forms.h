// The two ways in which a weight is rounded in training: levels that a scheme gives times scales of groups, and levels that are the weight's own.
#pragma once

#include "train/fake_quant.h"

namespace skiff::train {

// Preconditions of both: check_trainable_scheme(), and the scheme's kind.
Result<std::shared_ptr<FakeQuant>> make_group_quant(const at::Tensor& weight, bool columns, const Scheme& scheme, FakeQuant::Codes codes, Tables tables);
Result<std::shared_ptr<FakeQuant>> make_cluster_quant(const at::Tensor& weight, bool columns, const Scheme& scheme, FakeQuant::Codes codes, Tables tables);

class GroupQuant final : public FakeQuant {
public:
    GroupQuant(const at::Tensor& weight, bool columns, const Scheme& scheme, Codes codes, Tables tables) : FakeQuant(weight, columns, scheme, codes, tables), rule_(quant_rule(scheme, tables)) {}
    void begin();  // first scales, and the codes that stay
    at::Tensor forward() override;
    void backward(const at::Tensor& gradient) const override;
    Weight weight() const override;

private:
    void wake_scales();
    void store_scales();
    QuantRule rule_;
    std::vector<float> first_scales_;   // (n_rows * n_groups)
    std::vector<std::int32_t> zeros_;   // likewise
    std::vector<RowParams> params_;     // of each row, as stored
};

}  // namespace skiff::train
