// A teacher of whose weights one block at a time is in memory: for students that learn block by block, on machines that do not hold both.
#pragma once

#include <memory>
#include <vector>

#include "model/checkpoint.h"
#include "train/trainable_model.h"

namespace skiff::train {

class BlockwiseTeacher {
public:
    static Result<std::unique_ptr<BlockwiseTeacher>> create(Checkpoint teacher, const TrainableOptions& options);

    // The residual stream before the first decoder block. // tokens: (n_sequences, n_tokens) i64; result: (n_sequences * n_tokens, d_model)
    Result<at::Tensor> embedded(const at::Tensor& tokens) const;
    // Behind decoder block `to`, of a stream before block `from`; the same where both are one. Blocks are read from the checkpoint each time.
    Result<at::Tensor> through(at::Tensor stream, const at::Tensor& tokens, std::int64_t from, std::int64_t to) const;

private:
    BlockwiseTeacher(Checkpoint teacher, const TrainableOptions& options) : teacher_(std::move(teacher)), options_(options) {}
    Result<std::unique_ptr<TrainableModel>> load(const ModelSpec& part) const;

    Checkpoint teacher_;
    TrainableOptions options_;
    std::vector<ModelSpec> parts_;  // the first embeds, the others have a decoder block each; a part's tensors are those that it reads
};

}  // namespace skiff::train
