// What a teacher makes of some micro-batches, block by block: its residual streams, of which those between two blocks of a student are kept. One block of the
// teacher is in memory at a time, and is read from its checkpoint once for all micro-batches.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "train/stream_store.h"
#include "train/trainable_model.h"

namespace skiff::train {

class TeacherStreams {
public:
    // Reads every block once: what is wrong with one is better known before the work.
    static Result<std::unique_ptr<TeacherStreams>> create(Checkpoint teacher, const TrainableOptions& options);

    // The micro-batches that streams are of from now on; streams of others are forgotten.
    struct Windows {
        std::vector<std::int64_t> first_rows;                // of each micro-batch among all tokens
        std::function<at::Tensor(std::size_t)> tokens;       // of a micro-batch: (n windows, window) i64
        std::int64_t n_rows = 0;                             // tokens of all
        StreamStore::Place place = StreamStore::Place::memory;
        std::string folder;                                  // for streams in a file
        std::function<Status()> between = nullptr;           // before each micro-batch; an error ends the work
    };
    void begin(Windows windows);

    // Computes the streams `wanted` (0: before the teacher's first block, k: behind its k-th), from the nearest that is there. These stay, and those of `later` that
    // are there; others are given up.
    Status make(const std::set<std::int64_t>& wanted, const std::set<std::int64_t>& later);
    // One that was made, at a micro-batch. // (tokens, d_model) f32, not to be changed
    Result<at::Tensor> of(std::int64_t stream, std::size_t batch) const;

private:
    TeacherStreams(Checkpoint teacher, const TrainableOptions& options) : teacher_(std::move(teacher)), options_(options) {}
    Result<std::unique_ptr<TrainableModel>> load(const ModelSpec& part) const;
    Result<StreamStore> new_store() const;
    Status embed(StreamStore& store) const;
    // Block `block` from one store into another, or in place.
    Status pass(std::int64_t block, const StreamStore& from, StreamStore& to) const;
    std::int64_t rows_of(std::size_t batch) const;

    Checkpoint teacher_;
    TrainableOptions options_;
    Windows windows_;
    std::map<std::int64_t, StreamStore> stores_;  // by stream
};

}  // namespace skiff::train
