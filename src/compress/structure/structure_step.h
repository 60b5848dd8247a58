// What whole units of a model are to go: feed-forward neurons, query heads, KV groups, layers, directions of the hidden state. The result is an
// ordinary smaller model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "compress/calibrate/calibration_text.h"

namespace skiff {

enum class UnitKind : std::uint8_t { neurons, heads, kv_groups, layers, hidden };
const char* unit_kind_name(UnitKind kind);  // "kv_groups"

// How much goes: of each layer's units, of the layers, of the hidden width.
struct Removal {
    enum class By : std::uint8_t { share, count } by = By::share;
    double amount = 0;  // 0.25, or 2
    std::string text() const;  // "25%", "2"
    bool operator==(const Removal&) const = default;
};

struct StructureStep {
    UnitKind units = UnitKind::neurons;
    Removal removal;
    std::string importance;  // a row of unit_importance.h or, for layers, of layer_choice.h
    // What the operator that reads the units does to make up for those that go.
    enum class Compensation : std::uint8_t { none, least_squares } compensation = Compensation::least_squares;
    // Of the units that go, over the layers: equally many of each, or fewer where removing them was measured to hurt.
    enum class Spread : std::uint8_t { uniform, sensitivity } spread = Spread::uniform;
    // by_importance: nothing goes; the units of each layer change places, the most important first, and the model computes what it did (DynaBERT, Hou et al. 2020).
    enum class Order : std::uint8_t { kept, by_importance } order = Order::kept;
    std::int64_t multiple_of = 32;  // of the widths that stay
    double damping = 0.01;          // added to the diagonal of the second moments, times its mean
    double zero_epsilon = 0.01;     // values up to this share of their layer's root mean square count as zero (apoz)
    CalibrationOptions calibration;
};

// "neurons:25%", "kv_groups:1", "layers:2"; importance and compensation are left to the caller.
Result<StructureStep> parse_structure_pattern(const std::string& text);
bool is_structure_pattern(const std::string& text);  // begins with the name of a kind of units and a colon

// Units that stay of `n`; a multiple of `multiple_of` where n is one itself. Zero strength keeps all. An error where none would stay.
Result<std::int64_t> units_kept(const Removal& removal, std::int64_t n, std::int64_t multiple_of);

// A remark where that is another number than was asked for, and some go all the same.
void note_rounding(const StructureStep& step, std::int64_t n, std::int64_t n_kept, std::int64_t multiple_of, std::vector<std::string>& remarks);

Json structure_step_json(const StructureStep& step);

}  // namespace skiff
