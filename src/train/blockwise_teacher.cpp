#include "train/blockwise_teacher.h"

#include <set>

#include "model/axes.h"

namespace skiff::train {
namespace {

// A model of three blocks, of which only `which` has its tensors: the others are never run.
ModelSpec part_of(const ModelSpec& whole, std::size_t decoder_block, const Block& which) {
    ModelSpec part = whole;
    part.blocks = {whole.blocks.front(), whole.blocks[decoder_block], whole.blocks.back()};
    std::set<std::string> keys;
    for (Op op : which.ops) for_each_tensor_ref(op, [&](const TensorRef& ref) { keys.insert(ref.key); });
    std::erase_if(part.tensors, [&](const auto& entry) { return keys.count(entry.first) == 0; });
    return part;
}

}  // namespace

Result<std::unique_ptr<BlockwiseTeacher>> BlockwiseTeacher::create(Checkpoint teacher, const TrainableOptions& options) {
    std::unique_ptr<BlockwiseTeacher> made(new BlockwiseTeacher(std::move(teacher), options));
    made->options_.recompute_blocks = false;
    const ModelSpec& spec = made->teacher_.spec;
    if (spec.blocks.size() < 3) return unsupported("a model without decoder blocks cannot be a teacher");
    made->parts_.push_back(part_of(spec, 1, spec.blocks.front()));
    for (std::size_t block = 1; block + 1 < spec.blocks.size(); ++block) made->parts_.push_back(part_of(spec, block, spec.blocks[block]));
    // What is wrong with a block is better known before the work.
    for (const ModelSpec& part : made->parts_) {
        if (auto model = made->load(part); !model.ok()) return model.take_error();
    }
    return made;
}

Result<std::unique_ptr<TrainableModel>> BlockwiseTeacher::load(const ModelSpec& part) const {
    SKIFF_TRY(auto parameters, ParameterSet::load(part, *teacher_.weights, options_.device));
    parameters.train_zeros();  // it is not trained: no mask is needed
    for (Parameter& parameter : parameters.all()) parameter.value.set_requires_grad(false);
    return TrainableModel::create(part, std::move(parameters), options_);
}

Result<at::Tensor> BlockwiseTeacher::embedded(const at::Tensor& tokens) const {
    const at::NoGradGuard no_grad;
    SKIFF_TRY(const auto model, load(parts_.front()));
    return model->observe(tokens, {}, {DroppedBlocks{true}}).hidden;
}

Result<at::Tensor> BlockwiseTeacher::through(at::Tensor stream, const at::Tensor& tokens, std::int64_t from, std::int64_t to) const {
    const at::NoGradGuard no_grad;
    for (std::int64_t block = from; block < to; ++block) {
        SKIFF_TRY(const auto model, load(parts_[static_cast<std::size_t>(block) + 1]));
        stream = model->decoder_block(0, tokens, stream);
    }
    return stream;
}

}  // namespace skiff::train
