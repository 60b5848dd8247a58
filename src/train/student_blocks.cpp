#include "train/student_blocks.h"

#include <algorithm>

#include <fmt/format.h>

#include "train/model_parts.h"

namespace skiff::train {
namespace {

StateTensors values_of(const Student& student) {
    StateTensors state;
    for (const auto& parameter : student.model->parameters().trained(student.model->spec())) state.tensors.emplace_back(parameter.name, parameter.value.detach());
    // Which weights are out is not told by their values alone: one that is trained may be zero for a moment.
    if (student.masks)
        for (const Parameter& parameter : student.model->parameters().all())
            if (parameter.mask.defined()) state.tensors.emplace_back(parameter.key + ".mask", parameter.mask);
    return state;
}

}  // namespace

StudentBlocks::StudentBlocks(const StudentMaker& maker, const ModelSpec& whole) : maker_(maker), whole_(whole) {
    for (const auto& blocks : blocks_by_shared_tensors(whole)) units_.push_back({blocks, decoder_part(whole, blocks), fmt::format("state-block{:05}.safetensors", blocks.front())});
}

void StudentBlocks::set_place(std::string folder, std::string fingerprint) {
    folder_ = std::move(folder);
    fingerprint_ = std::move(fingerprint);
}

Result<StudentBlocks::Survey> StudentBlocks::survey() const {
    Survey survey;
    const auto count = [&](const Student& student) {
        survey.n_hashed += student.n_hashed;
        survey.n_pruned += student.n_pruned;
        survey.n_rounded += student.n_rounded;
    };
    for (const std::string& key : keys_outside_blocks(whole_)) {
        SKIFF_TRY(const auto student, frozen(part_of(whole_, {0}, {key})));
        count(student);
    }
    for (const Unit& unit : units_) {
        SKIFF_TRY(const auto student, maker_.make(unit.spec));
        count(student);
        for (const auto& parameter : student.model->parameters().trained(unit.spec)) survey.n_trained += parameter.value.numel();
    }
    return survey;
}

std::size_t StudentBlocks::unit_of(std::int64_t block) const {
    const auto found = std::find_if(units_.begin(), units_.end(), [&](const Unit& unit) { return std::find(unit.blocks.begin(), unit.blocks.end(), block) != unit.blocks.end(); });
    return static_cast<std::size_t>(found - units_.begin());
}

Result<std::int64_t> StudentBlocks::steps_done(const Unit& unit) const {
    SKIFF_TRY(const auto step, load_state(folder_, {}, fingerprint_, unit.state_name));
    return step.value_or(0);
}

Result<Student> StudentBlocks::load(const Unit& unit) const {
    SKIFF_TRY(auto student, maker_.make(unit.spec));
    SKIFF_TRY(const auto step, load_state(folder_, values_of(student), fingerprint_, unit.state_name));
    if (step) student.model->parameters().refresh();
    return student;
}

Status StudentBlocks::load_moments(const Unit& unit, const Optimizer& optimizer) const {
    SKIFF_CHECK(load_state(folder_, {optimizer.state()}, fingerprint_, unit.state_name));
    return {};
}

Status StudentBlocks::save(const Unit& unit, const Student& student, const Optimizer& optimizer, std::int64_t step) const {
    StateTensors state = values_of(student);
    for (auto& moment : optimizer.state()) state.tensors.push_back(std::move(moment));
    return save_state(folder_, state, step, fingerprint_, unit.state_name);
}

Status StudentBlocks::for_each_part(const std::function<Status(const Student&)>& visit) const {
    for (const std::string& key : keys_outside_blocks(whole_)) {
        SKIFF_TRY(const auto student, frozen(part_of(whole_, {0}, {key})));
        SKIFF_CHECK(visit(student));
    }
    for (const Unit& unit : units_) {
        SKIFF_TRY(const auto student, load(unit));
        SKIFF_CHECK(visit(student));
    }
    return {};
}

}  // namespace skiff::train
