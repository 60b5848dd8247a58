#include "plan/place_buffers.h"

#include <algorithm>
#include <map>
#include <set>

#include "plan/steps.h"

namespace skiff {
namespace {

bool fits(const BufferNeed& buffer, const BufferNeed& need) {
    return (buffer.prepared_bytes > 0) == (need.prepared_bytes > 0) && buffer.tokens == need.tokens && buffer.owner == need.owner;
}

// Element by element steps may write where they read: all their operands have one width.
bool may_work_in_place(const Step& step) { return dynamic_cast<const ElementStep*>(&step) || dynamic_cast<const RopeStep*>(&step); }

// Places the values of one program. Buffers of earlier programs are reused, and grown where needed.
class ProgramPlacer {
public:
    ProgramPlacer(Plan& plan, const std::vector<BufferNeed>& needs, const std::map<int, int>& kept)
        : plan_(plan), needs_(needs), kept_(kept), placed_(kept), free_(plan.buffers.size(), true) {
        for (const auto& [value, buffer] : kept) free_[static_cast<std::size_t>(buffer)] = false;
    }

    void place(std::vector<std::unique_ptr<Step>>& steps) {
        std::map<int, std::size_t> last_use;
        for (std::size_t s = 0; s < steps.size(); ++s) {
            Uses uses = steps[s]->uses();
            for (int* value : uses.reads) last_use[*value] = s;
            for (int* value : uses.writes) last_use[*value] = std::max(last_use[*value], s);
        }
        for (std::size_t s = 0; s < steps.size(); ++s) {
            Uses uses = steps[s]->uses();
            auto release_dead = [&](const std::vector<int*>& values) {
                for (int* value : values)
                    if (last_use[*value] == s && !kept_.count(*value)) free_[static_cast<std::size_t>(placed_.at(*value))] = true;
            };
            if (may_work_in_place(*steps[s])) release_dead(uses.reads);
            for (int* value : uses.writes)
                if (!placed_.count(*value)) placed_[*value] = take(needs_[static_cast<std::size_t>(*value)]);
            if (!may_work_in_place(*steps[s])) release_dead(uses.reads);
            release_dead(uses.writes);
            rename(uses);
        }
    }

private:
    // A free buffer of the same kind, the largest, or a new one.
    int take(const BufferNeed& need) {
        std::size_t best = plan_.buffers.size();
        for (std::size_t b = 0; b < plan_.buffers.size(); ++b)
            if (free_[b] && fits(plan_.buffers[b], need) && (best == plan_.buffers.size() || plan_.buffers[b].floats > plan_.buffers[best].floats))
                best = b;
        if (best == plan_.buffers.size()) {
            plan_.buffers.push_back(need);
            free_.push_back(true);
        }
        BufferNeed& buffer = plan_.buffers[best];
        buffer.floats = std::max(buffer.floats, need.floats);
        buffer.prepared_bytes = std::max(buffer.prepared_bytes, need.prepared_bytes);
        buffer.most_tokens = std::max(buffer.most_tokens, need.most_tokens);
        free_[best] = false;
        return static_cast<int>(best);
    }

    void rename(const Uses& uses) {
        for (int* value : uses.reads) *value = placed_.at(*value);
        // A value that is read and written (accumulation) was just rewritten through the same pointer.
        for (int* value : uses.writes)
            if (std::find(uses.reads.begin(), uses.reads.end(), value) == uses.reads.end()) *value = placed_.at(*value);
    }

    Plan& plan_;
    const std::vector<BufferNeed>& needs_;
    const std::map<int, int>& kept_;
    std::map<int, int> placed_;  // value -> buffer
    std::vector<bool> free_;
};

}  // namespace

ValueTable::ValueTable(const ModelSpec& spec) {
    for (std::size_t i = 0; i < spec.values.size(); ++i) needs_.push_back({spec.width(static_cast<ValueId>(i)), 0, StepTokens::all});
}

int ValueTable::add_temporary(std::int64_t floats, std::int64_t prepared_bytes, StepTokens tokens) {
    needs_.push_back({floats, prepared_bytes, tokens});
    return static_cast<int>(needs_.size()) - 1;
}

void ValueTable::give_to_threads(int value, std::int64_t n_columns, std::int64_t most_tokens) {
    BufferNeed& need = needs_[static_cast<std::size_t>(value)];
    if (need.floats > 0) need.floats = std::min(need.floats, n_columns);
    need.owner = BufferNeed::Owner::thread;
    need.most_tokens = most_tokens;
}

namespace {

Result<std::map<std::string, ValueId>> tapped_values(const ModelSpec& spec, const std::vector<std::string>& taps) {
    std::map<std::string, ValueId> tapped;
    for (const std::string& name : taps) {
        auto found = std::find_if(spec.values.begin(), spec.values.end(), [&](const Value& value) { return value.name == name; });
        if (found == spec.values.end()) return usage_error("tap " + name + ": the model has no such value");
        tapped[name] = static_cast<ValueId>(found - spec.values.begin());
    }
    return tapped;
}

}  // namespace

Result<std::set<int>> kept_values(const ModelSpec& spec, const KeptValues& keep) {
    SKIFF_TRY(auto tapped, tapped_values(spec, keep.taps));
    std::set<int> kept = {keep.output};
    if (keep.input != no_value) kept.insert(keep.input);
    for (const auto& [name, id] : tapped) kept.insert(id);
    return kept;
}

Status place_buffers(Plan& plan, const std::vector<ValueTable>& tables, const KeptValues& keep) {
    SKIFF_TRY(auto tapped_names, tapped_values(plan.spec, keep.taps));
    SKIFF_TRY(auto kept, kept_values(plan.spec, keep));
    std::map<int, int> kept_buffer;  // the same in all programs
    for (int value : kept) {
        kept_buffer[value] = static_cast<int>(plan.buffers.size());
        plan.buffers.push_back(tables[0].needs()[static_cast<std::size_t>(value)]);
    }
    for (std::size_t p = 0; p < plan.programs.size(); ++p) ProgramPlacer(plan, tables[p].needs(), kept_buffer).place(plan.programs[p].steps);
    plan.output_buffer = kept_buffer.at(keep.output);
    plan.output_width = plan.spec.width(keep.output);
    if (keep.input != no_value) {
        plan.input_buffer = kept_buffer.at(keep.input);
        plan.input_width = plan.spec.width(keep.input);
    }
    for (const auto& [name, id] : tapped_names)
        plan.taps.push_back({name, kept_buffer.at(id), plan.spec.width(id), plan.buffers[static_cast<std::size_t>(kept_buffer.at(id))].tokens});
    return {};
}

}  // namespace skiff
