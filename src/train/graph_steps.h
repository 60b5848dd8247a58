// The steps of a training graph: one per operator kind, or per group that is computed as one.
#pragma once

#include "train/graph.h"

namespace skiff::train {

struct EmbedGraphStep final : GraphStep {
    const ParameterView* parameters;
    EmbedOp op;
    ValueId out;
    void run(Values& values) const override;
};

struct NormGraphStep final : GraphStep {
    const ParameterView* parameters;
    NormOp op;
    NormSettings settings;
    Form form;
    ValueId in, out;
    void run(Values& values) const override;
};

// Plain linear operators with one input in common.
struct LinearGraphStep final : GraphStep {
    struct Part {
        TensorRef weight, bias;
        ValueId out;
        std::int64_t width;
    };
    const ParameterView* parameters;
    std::vector<Part> parts;
    at::ScalarType numbers;
    Form form;
    ValueId in;
    void run(Values& values) const override;
};

// One linear operator with whatever terms, input transform and adapter it has.
struct TermsGraphStep final : GraphStep {
    const ParameterView* parameters;
    LinearOp op;
    at::ScalarType numbers;
    Form form;
    ValueId in, out;
    void run(Values& values) const override;
};

struct RopeGraphStep final : GraphStep {
    RopeOp op;
    ValueId in, out;
    void run(Values& values) const override;
};

struct AttentionGraphStep final : GraphStep {
    AttentionOp op;
    const RopeOp* q_rope = nullptr;  // of the spec; null: q comes turned or is never turned
    const RopeOp* k_rope = nullptr;
    std::array<ValueId, 3> qkv;
    ValueId out;
    Form form;
    void run(Values& values) const override;
    const std::array<ValueId, 3>* attention_inputs() const override { return &qkv; }
};

struct CausalConvGraphStep final : GraphStep {
    const ParameterView* parameters;
    CausalConvOp op;
    ValueId in, out;
    void run(Values& values) const override;
};

struct GatedGraphStep final : GraphStep {
    Activation activation;
    ValueId gate, up, out;
    Form form;
    void run(Values& values) const override;
};

struct ElementGraphStep final : GraphStep {
    OpDetail op;  // activation, multiply, add, scale, softcap, gate
    std::vector<ValueId> in;
    ValueId out;
    void run(Values& values) const override;
};

struct RouteGraphStep final : GraphStep {
    RouteOp op;
    ValueId in, out;
    void run(Values& values) const override;
};

}  // namespace skiff::train
