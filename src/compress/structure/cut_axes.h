// The axes of a model that a structured cut goes along, and the operator behind each: the one that reads the units' values, and that can make up for
// those that go.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "compress/structure/structure_step.h"
#include "model/spec.h"
#include "model/weight_source.h"

namespace skiff {

struct CutAxis {
    std::string axis;       // "block3.ff", "block3.kv_head"
    std::size_t block = 0;  // of the spec
    std::int64_t n_units = 0, n_kept = 0;
    std::int64_t n_groups = 1;  // units come in so many groups one after the other, of which each keeps equally many (query heads of a KV head)
    std::string reader, bias;   // keys of the linear weight that reads the values, and of its bias ("": none)
    bool transposed = false;    // that weight is stored as (inputs, outputs)
    ValueId value = no_value;   // that it reads
    std::int64_t unit_columns = 1;  // of the reader, for each unit
    Activation activation = Activation::silu;  // of neurons
};

// One for each layer (each expert) that has such units, all of them kept. Errors where an operator is not what the cut needs.
Result<std::vector<CutAxis>> find_cut_axes(const ModelSpec& spec, UnitKind units);

// The reader's weight, turned to (outputs, inputs). // (n_outputs, n_units * unit_columns) f32
Result<std::vector<float>> reader_matrix(const CutAxis& axis, const WeightSource& weights, ThreadPool& pool);

// The first units of each group: a stand-in where only their number matters.
std::vector<std::int64_t> first_units(const CutAxis& axis);
// Columns of the reader that belong to units, ascending as those are.
std::vector<std::int64_t> columns_of(const CutAxis& axis, const std::vector<std::int64_t>& units);

}  // namespace skiff
