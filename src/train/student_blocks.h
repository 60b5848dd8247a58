// A student of which one block at a time is in memory: the others are where the last round of training left them, in files of the working folder.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "train/student_maker.h"
#include "train/train_state.h"

namespace skiff::train {

class StudentBlocks {
public:
    // What is trained by itself: a decoder block, or several that share tensors.
    struct Unit {
        std::vector<std::int64_t> blocks;  // from 0
        ModelSpec spec;
        std::string state_name;            // its file
    };
    // What reading every part once has found; mistakes are better known before the work.
    struct Survey {
        std::int64_t n_trained = 0;  // parameters
        std::size_t n_hashed = 0, n_pruned = 0, n_rounded = 0;
    };

    // `maker` and `whole` must outlive it.
    StudentBlocks(const StudentMaker& maker, const ModelSpec& whole);
    Result<Survey> survey() const;
    // Where the units' states are, and whose they are.
    void set_place(std::string folder, std::string fingerprint);

    const ModelSpec& whole() const { return whole_; }
    const std::vector<Unit>& units() const { return units_; }
    std::size_t unit_of(std::int64_t block) const;

    // The steps that a unit's state has behind it; 0: there is none.
    Result<std::int64_t> steps_done(const Unit& unit) const;
    // The unit as its state has it, or as it is at first.
    Result<Student> load(const Unit& unit) const;
    // The same with the optimizer's moments, which must be those of a student that load() gave.
    Status load_moments(const Unit& unit, const Optimizer& optimizer) const;
    Status save(const Unit& unit, const Student& student, const Optimizer& optimizer, std::int64_t step) const;

    // A part that is not trained: as it is at first.
    Result<Student> frozen(const ModelSpec& part) const { return maker_.make(part); }
    // All tensors, one part after the other: those outside the blocks each by itself, then the units.
    Status for_each_part(const std::function<Status(const Student&)>& visit) const;

private:
    const StudentMaker& maker_;
    const ModelSpec& whole_;
    std::vector<Unit> units_;
    std::string folder_, fingerprint_;
};

}  // namespace skiff::train
