// A ModelSpec as steps that LibTorch can differentiate: the trainer's counterpart of plan/lower.cpp. Linear operators on one input become one
// product; rope goes into attention; activation and product become one gate.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "train/operators.h"
#include "train/parameter_view.h"

namespace skiff::train {

struct GraphOptions {
    at::ScalarType numbers = at::kFloat;  // of products and what flows between them; the residual stream is f32
    Form form = Form::automatic;
};

// The values of one pass. A merged product holds several values side by side.
struct Slice {
    at::Tensor tensor;
    std::int64_t column = 0, width = 0;
};
struct Values {
    at::Tensor tokens;         // (n_sequences * n_tokens) i64
    std::int64_t n_tokens = 0;  // of each sequence
    std::vector<Slice> slices;  // by ValueId
    at::Tensor get(ValueId value) const;
    void set(ValueId value, at::Tensor tensor);
};

class GraphStep {
public:
    virtual ~GraphStep() = default;
    virtual void run(Values& values) const = 0;
    // Queries, keys and values as the projections left them, of a step that attends; null for others.
    virtual const std::array<ValueId, 3>* attention_inputs() const { return nullptr; }
    std::string name;
};
using GraphBlock = std::vector<std::unique_ptr<GraphStep>>;

// One entry per block of the spec. The spec and the parameters must outlive the steps; adapters, and how inputs are rounded, must be there already.
Result<std::vector<GraphBlock>> build_graph(const ModelSpec& spec, const ParameterView& parameters, const GraphOptions& options);

}  // namespace skiff::train
