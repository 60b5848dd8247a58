// How units are judged, one row each: which of a layer's neurons, heads or KV groups stay.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compress/structure/cut_axes.h"
#include "compress/structure/least_squares.h"

namespace skiff {

struct UnitData {
    const ModelSpec& spec;
    const CutAxis& axis;
    const WeightSource& weights;
    const InputStatistics* inputs;       // of the reader; null where the row needs none
    std::span<const double> near_zero;   // share of the tokens at which each of the reader's inputs is about zero; only where the row counts
    const StructureStep& step;
    ThreadPool& pool;
    std::span<const double> taylor = {};  // UnitTaylorScores of the axis; only where the row asks for gradients
};

struct UnitImportance {
    std::string_view name, summary;
    StatisticsNeed needs = StatisticsNeed::none;
    enum class Counts : std::uint8_t { no, yes } counts = Counts::no;  // of values about zero: another pass over the block
    Result<std::vector<std::int64_t>> (*keep)(const UnitData& data) = nullptr;  // ascending, as many of each group as the axis says
    Result<std::vector<std::int64_t>> (*rank)(const UnitData& data) = nullptr;  // all units, group after group, in each the most important first
    enum class Gradients : std::uint8_t { no, yes } gradients = Gradients::no;  // of the loss, which training computes
};

std::span<const UnitImportance> unit_importances();
Result<const UnitImportance*> find_unit_importance(std::string_view name);  // a usage error lists the names

// The units of largest score, as many of each group as the axis says; of equal ones the first. Ascending.
std::vector<std::int64_t> keep_largest(const CutAxis& axis, std::span<const double> scores);
// All units, those of each group by falling score, of equal ones the first before.
std::vector<std::int64_t> rank_by(const CutAxis& axis, std::span<const double> scores);

}  // namespace skiff
