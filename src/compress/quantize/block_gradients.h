// A decoder block that can be differentiated by its weights, without the training library: forward over one sample, and backward by the chain rule, operator
// by operator. For methods that learn how to round; training itself is src/train.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "model/spec.h"
#include "model/weight_source.h"

namespace skiff {

class BlockGradients {
public:
    // A matrix of the block, as its operators read it.
    struct Matrix {
        std::int64_t n_rows = 0, n_columns = 0;
        std::vector<float> values;    // (n_rows, n_columns): outputs, inputs; may be changed between passes
        std::vector<float> gradient;  // of the loss, summed over backward passes until cleared; the same shape
    };

    // `longest`: tokens of the longest sample. An unsupported error names the operator that has no gradient here.
    static Result<BlockGradients> make(const ModelSpec& spec, std::size_t block, const WeightSource& weights, std::int64_t longest);
    BlockGradients(BlockGradients&&) noexcept;
    ~BlockGradients();

    std::map<std::string, Matrix>& matrices() { return matrices_; }
    void clear_gradients();

    // Positions begin at 0. // x: (n_tokens, d_model); the result: the same, valid until the next pass
    std::span<const float> forward(std::span<const float> x, ThreadPool& pool);
    // Of the sample that forward() saw last. // dy: (n_tokens, d_model), the loss by its output
    void backward(std::span<const float> dy, ThreadPool& pool);

private:
    struct Values;
    BlockGradients(const ModelSpec& spec, const Block& block);
    Status prepare(const WeightSource& weights, std::int64_t longest);
    std::span<const float> floats(const TensorRef& ref) const;

    const ModelSpec& spec_;
    const Block& block_;
    std::map<std::string, Matrix> matrices_;
    std::map<std::string, std::vector<float>> vectors_;  // norms and biases by key, as stored
    bool long_rope_ = false;
    std::unique_ptr<Values> values_;
};

}  // namespace skiff
