// What distillation block by block works with, beside the rest of a TrainingSetup.
#pragma once

#include <memory>
#include <vector>

#include "train/student_blocks.h"
#include "train/teacher_streams.h"

namespace skiff::train {

struct BlockwiseSetup {
    std::unique_ptr<StudentBlocks> student;
    std::unique_ptr<TeacherStreams> teacher;
    std::vector<std::int64_t> streams;   // of the teacher (0: before its first block), behind each of the student's blocks
    std::int64_t n_trained = 0;          // parameters
    std::int64_t steps_per_round = 1;    // at most
    std::uint64_t stream_bytes = 0;      // of such a round, at most
    StreamStore::Place place = StreamStore::Place::memory;

    std::int64_t stream_before(std::int64_t block) const { return block == 0 ? 0 : streams[static_cast<std::size_t>(block) - 1]; }
    std::int64_t stream_behind(std::int64_t block) const { return streams[static_cast<std::size_t>(block)]; }
    std::set<std::int64_t> streams_of(const StudentBlocks::Unit& unit) const {
        std::set<std::int64_t> all;
        for (std::int64_t block : unit.blocks) all.insert({stream_before(block), stream_behind(block)});
        return all;
    }
};

}  // namespace skiff::train
