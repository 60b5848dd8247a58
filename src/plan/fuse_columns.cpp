// Passes that join a linear step with the steps on the same columns behind it: a thread that has rows of the matrix goes on with what they gave.
#include <algorithm>
#include <numeric>

#include "plan/fuse.h"
#include "plan/steps.h"

namespace skiff {
namespace {

// Columns that all steps of a chain work on before the next ones do, for many tokens.
constexpr std::int64_t slab_columns = 128;

// A step, or what is split off one, on its way into a chain.
struct Link {
    Step* step;
    std::unique_ptr<Step> own;  // a copy of a part; null: the whole step `source`
    std::size_t source;
    std::set<int> columns;  // values of which it touches only its tile's columns
    std::size_t chain = 0;
};

std::set<int> columns_of(Step& step) {
    const Uses uses = step.uses();
    std::set<int> columns;
    for (const int* value : uses.writes) columns.insert(*value);
    if (dynamic_cast<LinearStep*>(&step)) return columns;  // it reads its whole input
    for (const int* value : uses.reads) columns.insert(*value);
    if (auto* gate = dynamic_cast<GateStep*>(&step)) columns.erase(gate->weights);
    return columns;
}

// Separate columns need separate steps: one per segment of a linear step, one for keys and one for values.
void split(Step& step, std::size_t source, std::vector<Link>& links) {
    auto add = [&](std::unique_ptr<Step> own) {
        Step* part = own != nullptr ? own.get() : &step;
        links.push_back({part, std::move(own), source, columns_of(*part)});
    };
    if (auto* linear = dynamic_cast<LinearStep*>(&step)) {
        for (const LinearSegment& segment : linear->segments) {
            auto part = std::make_unique<LinearStep>();
            part->name = segment.name;
            part->kind = linear->kind;
            part->kernel = linear->kernel;
            part->tokens = linear->tokens;
            part->weight_bytes = segment.weight->read_bytes;
            part->segments = {segment};
            add(std::move(part));
        }
    } else if (auto* write = dynamic_cast<StateWriteStep*>(&step); write != nullptr && write->keys >= 0 && write->values >= 0) {
        auto keys = std::make_unique<StateWriteStep>(*write), values = std::make_unique<StateWriteStep>(*write);
        keys->values = values->keys = -1;
        add(std::move(keys));
        add(std::move(values));
    } else {
        add(nullptr);
    }
}

// Links that touch the same columns are of one chain.
std::size_t number_chains(std::vector<Link>& links) {
    std::vector<std::set<int>> chains;
    for (Link& link : links) {
        std::set<int> joined = link.columns;
        for (auto chain = chains.begin(); chain != chains.end();) {
            const bool meets = std::any_of(joined.begin(), joined.end(), [&](int value) { return chain->count(value) != 0; });
            if (meets) joined.insert(chain->begin(), chain->end());
            chain = meets ? chains.erase(chain) : chain + 1;
        }
        chains.push_back(std::move(joined));
    }
    for (Link& link : links)
        for (std::size_t chain = 0; chain < chains.size(); ++chain)
            if (chains[chain].count(*link.columns.begin())) link.chain = chain;
    return chains.size();
}

struct Units {
    std::int64_t n = 1;
    std::vector<std::int64_t> columns;  // by link, of a unit
};

// Units in which the links of a chain can be dealt. With whole groups of heads (n_groups > 0) widths differ, and a unit is some groups of each.
Units units_of(const std::vector<Link*>& links, std::int64_t n_groups) {
    Units units;
    if (n_groups == 0) {
        std::int64_t unit = 1;
        for (const Link* link : links) unit = std::lcm(unit, link->step->column_unit());
        units.n = (links[0]->step->width() + unit - 1) / unit;
        units.columns.assign(links.size(), unit);
        return units;
    }
    std::int64_t groups = 1;  // in a unit
    auto divides = [&](const Link* link) { return link->step->width() / n_groups * groups % link->step->column_unit() == 0; };
    while (groups < n_groups && !std::all_of(links.begin(), links.end(), divides)) ++groups;
    units.n = (n_groups + groups - 1) / groups;
    for (const Link* link : links) units.columns.push_back(link->step->width() / n_groups * groups);
    return units;
}

double cost_of(const Link& link, std::int64_t columns) {
    auto* linear = dynamic_cast<const LinearStep*>(link.step);
    return linear == nullptr ? 0 : static_cast<double>(columns) * static_cast<double>(linear->segments[0].weight->n_columns);
}

struct Chained {
    std::vector<ColumnChain> chains;  // their parts have no steps yet
    std::vector<std::vector<Link*>> links;
};

// Null when they cannot be dealt by columns.
std::unique_ptr<Chained> chain(std::vector<Link>& links, std::int64_t n_groups, std::int64_t columns_at_once) {
    const std::size_t n_chains = number_chains(links);
    if (n_groups > 0 && n_chains > 1)
        for (Link& link : links) link.chain = 0;
    auto chained = std::make_unique<Chained>();
    chained->links.resize(n_groups > 0 ? 1 : n_chains);
    for (Link& link : links) {
        if (link.step->column_unit() == 0 || link.step->tokens != links[0].step->tokens) return nullptr;
        chained->links[link.chain].push_back(&link);
    }
    RaceCheck races;
    for (std::size_t c = 0; c < chained->links.size(); ++c) {
        const auto& members = chained->links[c];
        for (const Link* link : members) {
            if (n_groups == 0 && link->step->width() != members[0]->step->width()) return nullptr;
            if (n_groups > 0 && link->step->width() % n_groups != 0) return nullptr;
            races.add(*link->step, FusedStage::Deal::columns, static_cast<int>(c));
        }
        const Units units = units_of(members, n_groups);
        ColumnChain result;
        result.n_units = units.n;
        result.unit_cost = 0;
        for (std::size_t i = 0; i < members.size(); ++i) {
            result.parts.push_back({nullptr, units.columns[i]});
            result.unit_cost += cost_of(*members[i], units.columns[i]);
        }
        if (result.unit_cost == 0) return nullptr;  // a chain without a linear step is no chain
        result.units_at_once = std::max<std::int64_t>(1, columns_at_once / units.columns[0]);
        chained->chains.push_back(std::move(result));
    }
    return races.is_free() ? std::move(chained) : nullptr;
}

bool touches(const std::vector<int*>& fields, int value) {
    return std::any_of(fields.begin(), fields.end(), [&](const int* field) { return *field == value; });
}

// A step on elements may write where it reads. Then what it reads needs no buffer: whoever made it writes there at once.
void work_in_place(FuseEditor& editor, std::size_t at, ColumnChain& chain) {
    for (std::size_t i = 0; i < chain.parts.size(); ++i) {
        Step& step = *chain.parts[i].step;
        if (dynamic_cast<PrepareStep*>(&step) || dynamic_cast<LinearStep*>(&step) || dynamic_cast<AttentionStep*>(&step)) continue;
        const Uses uses = step.uses();
        if (uses.writes.empty()) continue;
        const int out = *uses.writes[0];
        bool free = true;  // nobody needs what the place of `out` held before
        for (std::size_t other = 0; other < chain.parts.size(); ++other) {
            const Uses theirs = chain.parts[other].step->uses();
            free = free && (other == i || !touches(theirs.writes, out)) && (other > i || !touches(theirs.reads, out));
        }
        for (const int* field : uses.reads) {
            const int in = *field;
            std::size_t readers = 0, writers = 0;
            for (const ColumnChain::Part& part : chain.parts) {
                const Uses theirs = part.step->uses();
                readers += touches(theirs.reads, in);
                writers += touches(theirs.writes, in);
            }
            if (!free || readers != 1 || writers != 1 || !editor.only_within(in, at, at + 1)) continue;
            editor.rename(in, out);
            break;
        }
    }
}

void keep_in_cache(FuseEditor& editor, std::size_t at, const ColumnChain& chain) {
    const bool attends = std::any_of(chain.parts.begin(), chain.parts.end(), [](const auto& part) { return dynamic_cast<AttentionStep*>(part.step.get()); });
    if (attends) return;  // attention reads and writes whole tokens
    for (const ColumnChain::Part& part : chain.parts) {
        for (const int* value : part.step->uses().writes) {
            const std::int64_t units = std::min(chain.units_at_once, chain.n_units);
            if (editor.only_within(*value, at, at + 1)) editor.options().values.give_to_threads(*value, units * part.unit_columns, INT64_MAX);
        }
    }
}

std::unique_ptr<Step> take(std::unique_ptr<Step>& source, const Step* step) {
    if (source.get() == step) return std::move(source);
    for (ColumnChain& chain : static_cast<FusedStep&>(*source).stages[0].chains)
        for (ColumnChain::Part& part : chain.parts)
            if (part.step.get() == step) return std::move(part.step);
    return nullptr;
}

// Steps [first, end) become one. False, and nothing is changed, where that is impossible.
bool join_columns(FuseEditor& editor, std::size_t first, std::size_t end, std::int64_t n_groups, std::int64_t columns_at_once = 0) {
    auto& steps = editor.steps();
    std::vector<Link> links;
    for (std::size_t i = first; i < end; ++i) {
        if (auto* fused = dynamic_cast<FusedStep*>(steps[i].get())) {
            for (ColumnChain& old : fused->stages[0].chains)
                for (ColumnChain::Part& part : old.parts) split(*part.step, i, links);
        } else {
            split(*steps[i], i, links);
        }
    }
    if (columns_at_once == 0) columns_at_once = editor.few_tokens() ? INT64_MAX : slab_columns;
    auto chained = chain(links, n_groups, columns_at_once);
    if (chained == nullptr) return false;
    if (n_groups > 0) {  // else some threads would wait for others
        const std::int64_t n = chained->chains[0].n_units, threads = editor.options().n_threads;
        if (n % threads != 0 && n < 8 * threads) return false;
    }
    auto fused = std::make_unique<FusedStep>();
    fused->tokens = links[0].step->tokens;
    FusedStage stage{FusedStage::Deal::columns, {}, std::move(chained->chains)};
    for (std::size_t c = 0; c < stage.chains.size(); ++c) {
        for (std::size_t i = 0; i < stage.chains[c].parts.size(); ++i) {
            Link& link = *chained->links[c][i];
            stage.chains[c].parts[i].step = link.own != nullptr ? std::move(link.own) : take(steps[link.source], link.step);
        }
    }
    fused->stages.push_back(std::move(stage));
    editor.replace(first, end, std::move(fused));
    for (ColumnChain& chain : static_cast<FusedStep&>(*steps[first]).stages[0].chains) {
        work_in_place(editor, first, chain);
        keep_in_cache(editor, first, chain);
    }
    return true;
}

// Whether a step reads a value that one of the steps [first, step) writes; all of its values must be so with `all`.
enum class Needs : std::uint8_t { one, all };
bool continues(FuseEditor& editor, std::size_t first, std::size_t step, Needs needs) {
    auto& steps = editor.steps();
    if (steps[step]->tokens != steps[first]->tokens) return false;
    auto made_here = [&](const int* value) {
        for (std::size_t i = first; i < step; ++i)
            if (touches(steps[i]->uses().writes, *value)) return true;
        return false;
    };
    const Uses uses = steps[step]->uses();
    return needs == Needs::all ? std::all_of(uses.reads.begin(), uses.reads.end(), made_here) : std::any_of(uses.reads.begin(), uses.reads.end(), made_here);
}

bool is_linear(const Step& step) { return dynamic_cast<const LinearStep*>(&step) != nullptr; }

// y = linear(x); sum = h + y: the linear step adds to h where it lies, and h is called sum from its beginning on.
bool add_in_place(FuseEditor& editor, std::size_t at) {
    auto& steps = editor.steps();
    auto& linear = static_cast<LinearStep&>(*steps[at]);
    auto& add = static_cast<ElementStep&>(*steps[at + 1]);
    if (linear.segments.size() != 1 || linear.segments[0].write != LinearArgs::Write::replace) return false;
    const int y = linear.segments[0].out;
    if (add.a == add.b || (add.a != y && add.b != y) || !editor.only_within(y, at, at + 2)) return false;
    const int h = add.a == y ? add.b : add.a, sum = add.out;
    if (editor.kept(h) || editor.read_behind(h, at + 1) || linear.segments[0].in == h) return false;
    linear.segments[0].write = LinearArgs::Write::add;
    linear.segments[0].out = sum;
    linear.name += " + " + add.name;
    steps.erase(steps.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    editor.rename(h, sum);
    return true;
}

}  // namespace

void fuse_residual(FuseEditor& editor) {
    auto& steps = editor.steps();
    for (std::size_t i = 0; i + 1 < steps.size(); ++i)
        if (is_linear(*steps[i]) && steps[i + 1]->kind == "add" && continues(editor, i, i + 1, Needs::one) && !add_in_place(editor, i))
            join_columns(editor, i, i + 2, 0);
}

void fuse_qkv(FuseEditor& editor) {
    auto& steps = editor.steps();
    for (std::size_t i = 0; i < steps.size(); ++i) {
        if (!is_linear(*steps[i])) continue;
        auto belongs = [&](std::size_t step) {
            const Step* next = steps[step].get();
            const auto* norm = dynamic_cast<const NormStep*>(next);
            const bool norms_heads = norm != nullptr && norm->over == NormStep::Over::heads;
            return (norms_heads || dynamic_cast<const RopeStep*>(next) || dynamic_cast<const StateWriteStep*>(next)) && continues(editor, i, step, Needs::all);
        };
        std::size_t end = i + 1;
        while (end < steps.size() && belongs(end)) ++end;
        if (end > i + 1) join_columns(editor, i, end, 0);
    }
}

void fuse_attention(FuseEditor& editor) {
    auto& steps = editor.steps();
    if (!editor.few_tokens()) return;
    for (std::size_t i = 0; i + 1 < steps.size(); ++i) {
        const auto* attention = dynamic_cast<AttentionStep*>(steps[i + 1].get());
        auto* fused = dynamic_cast<FusedStep*>(steps[i].get());
        if (attention == nullptr || fused == nullptr || !continues(editor, i, i + 1, Needs::all)) continue;
        std::size_t end = i + 2;
        if (end < steps.size() && dynamic_cast<PrepareStep*>(steps[end].get()) && continues(editor, i + 1, end, Needs::all)) ++end;
        if (!join_columns(editor, i, end, attention->op.n_kv_heads) && end == i + 3) join_columns(editor, i, i + 2, attention->op.n_kv_heads);
    }
}

void fuse_head_top(FuseEditor& editor) {
    auto& steps = editor.steps();
    for (std::size_t i = 0; i < steps.size(); ++i) {
        if (!is_linear(*steps[i]) || steps[i]->tokens != StepTokens::selected) continue;
        const auto belongs = [&](std::size_t step) {
            const Step* next = steps[step].get();
            return (dynamic_cast<const ElementStep*>(next) || dynamic_cast<const ColumnScaleStep*>(next) || dynamic_cast<const TopStep*>(next)) && continues(editor, i, step, Needs::one);
        };
        std::size_t end = i + 1;
        while (end < steps.size() && belongs(end)) ++end;
        if (dynamic_cast<const TopStep*>(steps[end - 1].get())) join_columns(editor, i, end, 0, top_slab_columns);
    }
}

void fuse_elements(FuseEditor& editor, StepTokens tokens) {
    auto& steps = editor.steps();
    for (std::size_t i = 0; i < steps.size(); ++i) {
        if (!is_linear(*steps[i]) || steps[i]->tokens != tokens) continue;
        auto belongs = [&](std::size_t step) {
            const Step* next = steps[step].get();
            const bool known = dynamic_cast<const ElementStep*>(next) || dynamic_cast<const ColumnScaleStep*>(next) || dynamic_cast<const GateStep*>(next) ||
                               dynamic_cast<const PrepareStep*>(next);
            return known && !(step == i + 1 && next->kind == "add") && continues(editor, i, step, Needs::one);
        };
        std::size_t end = i + 1;
        while (end < steps.size() && belongs(end)) ++end;
        if (end > i + 1) join_columns(editor, i, end, 0);
    }
}

}  // namespace skiff
