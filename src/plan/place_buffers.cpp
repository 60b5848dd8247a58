#include "plan/place_buffers.h"

#include <algorithm>
#include <map>
#include <set>

#include "plan/steps.h"

namespace skiff {
namespace {

// The value numbers that a step holds: reads first, then writes.
struct Uses {
    std::vector<int*> reads, writes;
};

Uses uses_of(Step& step) {
    if (auto* s = dynamic_cast<EmbedStep*>(&step)) return {{}, {&s->out}};
    if (auto* s = dynamic_cast<SelectStep*>(&step)) return {{&s->in}, {&s->out}};
    if (auto* s = dynamic_cast<NormStep*>(&step)) return {{&s->in}, {&s->out}};
    if (auto* s = dynamic_cast<PrepareStep*>(&step)) return {{&s->in}, {&s->out}};
    if (auto* s = dynamic_cast<RopeStep*>(&step)) return {{&s->in}, {&s->out}};
    if (auto* s = dynamic_cast<StateWriteStep*>(&step)) return {{&s->keys, &s->values}, {}};
    if (auto* s = dynamic_cast<AttentionStep*>(&step)) return {{&s->q}, {&s->out}};
    if (auto* s = dynamic_cast<ElementStep*>(&step)) return {s->b >= 0 ? std::vector<int*>{&s->a, &s->b} : std::vector<int*>{&s->a}, {&s->out}};
    if (auto* s = dynamic_cast<ColumnScaleStep*>(&step)) return {{&s->in}, {&s->out}};
    if (auto* s = dynamic_cast<PermuteStep*>(&step)) return {{&s->in}, {&s->out}};
    if (auto* s = dynamic_cast<RouteStep*>(&step)) return {{&s->in}, {&s->out}};
    if (auto* s = dynamic_cast<GateStep*>(&step)) return {{&s->in, &s->weights}, {&s->out}};
    Uses uses;
    if (auto* s = dynamic_cast<LinearStep*>(&step)) {
        for (LinearSegment& segment : s->segments) {
            uses.reads.push_back(&segment.in);
            if (segment.prepared >= 0) uses.reads.push_back(&segment.prepared);
            if (segment.write == LinearArgs::Write::add) uses.reads.push_back(&segment.out);
            uses.writes.push_back(&segment.out);
        }
    }
    return uses;
}

bool fits(const BufferNeed& buffer, const BufferNeed& need) {
    return (buffer.prepared_bytes > 0) == (need.prepared_bytes > 0) && buffer.tokens == need.tokens;
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
            Uses uses = uses_of(*steps[s]);
            for (int* value : uses.reads) last_use[*value] = s;
            for (int* value : uses.writes) last_use[*value] = std::max(last_use[*value], s);
        }
        for (std::size_t s = 0; s < steps.size(); ++s) {
            Uses uses = uses_of(*steps[s]);
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

Status place_buffers(Plan& plan, const std::vector<ValueTable>& tables, const KeptValues& keep) {
    std::map<std::string, ValueId> tapped_names;
    std::set<int> kept = {keep.output};
    if (keep.input != no_value) kept.insert(keep.input);
    for (const std::string& name : keep.taps) {
        auto found = std::find_if(plan.spec.values.begin(), plan.spec.values.end(), [&](const Value& value) { return value.name == name; });
        if (found == plan.spec.values.end()) return usage_error("tap " + name + ": the model has no such value");
        const auto id = static_cast<ValueId>(found - plan.spec.values.begin());
        tapped_names[name] = id;
        kept.insert(id);
    }
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
