// A model's operators as nodes of an ONNX graph. Walks the spec and knows no architecture.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "compress/onnx/onnx_forms.h"
#include "model/spec.h"
#include "model/weight_source.h"

namespace skiff {

class OnnxOperators {
public:
    OnnxOperators(OnnxGraphBuilder& graph, const OnnxExportOptions& options, const ModelSpec& spec, std::shared_ptr<const WeightSource> weights);

    // All blocks: graph inputs, nodes, graph outputs.
    Status add_model();
    // One operator whose input values are known by name.
    Status add(const Op& op);
    void bind(ValueId value, std::string name) { names_[value] = std::move(name); }
    const std::string& name_of(ValueId value) const { return names_.at(value); }

    const OnnxForms& forms() const { return forms_; }

private:
    using Named = Result<std::string>;
    Named emit(const Op& op, const EmbedOp& detail);
    Named emit(const Op& op, const NormOp& detail);
    Named emit(const Op& op, const LinearOp& detail);
    Named emit(const Op& op, const RopeOp& detail);
    Named emit(const Op& op, const AttentionOp& detail);
    Named emit(const Op& op, const ActivationOp& detail);
    Named emit(const Op& op, const MultiplyOp& detail);
    Named emit(const Op& op, const AddOp& detail);
    Named emit(const Op& op, const ScaleOp& detail);
    Named emit(const Op& op, const SoftcapOp& detail);
    Named emit(const Op& op, const RouteOp& detail);
    Named emit(const Op& op, const GateOp& detail);
    template <class Other>
    Named emit(const Op& op, const Other& detail) {
        return unsupported(std::string("an operator of kind ") + op_kind_name(OpDetail(detail)) + " (" + op.name + ") has no form in ONNX here");
    }

    const std::string& in(const Op& op, std::size_t i) const { return names_.at(op.in[i]); }
    std::int64_t width(ValueId value) const { return spec_.width(value); }
    std::string real(float value) { return graph_.real(value, options_.real); }
    std::string cast(const std::string& x, OnnxType from, OnnxType to);
    Result<OnnxMatrix> matrix(const TensorRef& ref, std::int64_t n_rows, std::int64_t n_columns) const { return OnnxMatrix::open(spec_, weights_, ref, n_rows, n_columns); }
    Result<std::string> vector(const std::string& op, const TensorRef& ref, std::int64_t size, float offset, OnnxType type);
    Named transformed(const Op& op, const InputTransform& transform);
    Named rope_table(const RopeOp& detail, const char* part);
    std::vector<std::string> split(const std::string& x, const Shape& sizes);  // along the last axis
    std::string rotated(const RopeOp& detail, const std::string& x, const std::string& cosine, const std::string& sine);

    // Values that the whole graph shares, made when first asked for.
    template <class Make>
    std::string shared(const std::string& key, Make&& make) {
        std::string& name = shared_[key];
        if (!name.empty()) return name;
        const std::string scope = graph_.scope();
        graph_.set_scope("shared");
        name = make();
        graph_.set_scope(scope);
        return name;
    }
    void declare_inputs();
    std::string token_ids();
    std::string positions();             // (batch * sequence)
    std::string sequence_shape();        // [batch, sequence]
    std::string split_shape(const Shape& tail);      // [batch, sequence, tail...]
    std::string mask(std::int64_t window);           // what is added to scores: 0, or far below all of them. (batch, 1, sequence, total) f32
    std::string seen_positions(std::int64_t window);

    OnnxGraphBuilder& graph_;
    const OnnxExportOptions& options_;
    const ModelSpec& spec_;
    std::shared_ptr<const WeightSource> weights_;
    OnnxForms forms_;
    std::map<ValueId, std::string> names_;
    std::map<std::string, std::string> shared_;
    std::int64_t n_states_ = 0;
};

}  // namespace skiff
