#include "train/teacher_streams.h"

#include <optional>

#include "train/model_parts.h"

namespace skiff::train {

Result<std::unique_ptr<TeacherStreams>> TeacherStreams::create(Checkpoint teacher, const TrainableOptions& options) {
    std::unique_ptr<TeacherStreams> made(new TeacherStreams(std::move(teacher), options));
    made->options_.recompute_blocks = false;
    const ModelSpec& spec = made->teacher_.spec;
    if (spec.blocks.size() < 3) return unsupported("a model without decoder blocks cannot be a teacher");
    if (auto model = made->load(embedding_part(spec)); !model.ok()) return model.take_error();
    for (std::int64_t block = 0; block + 2 < static_cast<std::int64_t>(spec.blocks.size()); ++block)
        if (auto model = made->load(decoder_part(spec, {block})); !model.ok()) return model.take_error();
    return made;
}

void TeacherStreams::begin(Windows windows) {
    stores_.clear();
    windows_ = std::move(windows);
}

Result<std::unique_ptr<TrainableModel>> TeacherStreams::load(const ModelSpec& part) const {
    SKIFF_TRY(auto parameters, ParameterSet::load(part, *teacher_.weights, options_.device));
    parameters.train_zeros();  // it is not trained: no mask is needed
    for (Parameter& parameter : parameters.all()) parameter.value.set_requires_grad(false);
    return TrainableModel::create(part, std::move(parameters), options_);
}

Result<StreamStore> TeacherStreams::new_store() const { return StreamStore::create(windows_.n_rows, teacher_.spec.d_model, windows_.place, windows_.folder); }

std::int64_t TeacherStreams::rows_of(std::size_t batch) const {
    return (batch + 1 < windows_.first_rows.size() ? windows_.first_rows[batch + 1] : windows_.n_rows) - windows_.first_rows[batch];
}

Status TeacherStreams::embed(StreamStore& store) const {
    const at::NoGradGuard no_grad;
    SKIFF_TRY(const auto model, load(embedding_part(teacher_.spec)));
    for (std::size_t batch = 0; batch < windows_.first_rows.size(); ++batch) {
        if (windows_.between) SKIFF_CHECK(windows_.between());
        SKIFF_CHECK(store.write(windows_.first_rows[batch], model->embedded(windows_.tokens(batch).to(options_.device))));
    }
    return {};
}

Status TeacherStreams::pass(std::int64_t block, const StreamStore& from, StreamStore& to) const {
    const at::NoGradGuard no_grad;
    SKIFF_TRY(const auto model, load(decoder_part(teacher_.spec, {block})));
    for (std::size_t batch = 0; batch < windows_.first_rows.size(); ++batch) {
        if (windows_.between) SKIFF_CHECK(windows_.between());
        SKIFF_TRY(const auto stream, from.read(windows_.first_rows[batch], rows_of(batch)));
        SKIFF_CHECK(to.write(windows_.first_rows[batch], model->decoder_block(0, windows_.tokens(batch).to(options_.device), stream.to(options_.device))));
    }
    return {};
}

Status TeacherStreams::make(const std::set<std::int64_t>& wanted, const std::set<std::int64_t>& later) {
    const auto asked_for = [&](std::int64_t stream) { return wanted.count(stream) != 0 || later.count(stream) != 0; };
    for (auto store = stores_.begin(); store != stores_.end();) {
        const bool highest = std::next(store) == stores_.end();  // the others are computed from it
        store = asked_for(store->first) || highest ? std::next(store) : stores_.erase(store);
    }
    for (const std::int64_t stream : wanted) {
        if (stores_.count(stream) != 0) continue;
        if (stores_.empty() || stores_.begin()->first > stream) {
            SKIFF_TRY(auto store, new_store());
            SKIFF_CHECK(embed(store));
            stores_.emplace(0, std::move(store));
        }
        const std::int64_t nearest = std::prev(stores_.upper_bound(stream))->first;
        if (nearest == stream) continue;
        std::int64_t block = nearest;
        std::optional<StreamStore> made;
        if (asked_for(nearest)) {
            SKIFF_TRY(auto store, new_store());
            made.emplace(std::move(store));
            SKIFF_CHECK(pass(block++, stores_.at(nearest), *made));
        } else {  // overwritten
            made.emplace(std::move(stores_.at(nearest)));
            stores_.erase(nearest);
        }
        for (; block < stream; ++block) SKIFF_CHECK(pass(block, *made, *made));
        stores_.emplace(stream, std::move(*made));
    }
    return {};
}

Result<at::Tensor> TeacherStreams::of(std::int64_t stream, std::size_t batch) const {
    SKIFF_TRY(const auto rows, stores_.at(stream).read(windows_.first_rows[batch], rows_of(batch)));
    return rows.to(options_.device);
}

}  // namespace skiff::train
