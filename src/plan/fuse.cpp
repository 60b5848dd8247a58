#include "plan/fuse.h"

#include <algorithm>
#include <map>

#include "plan/steps.h"

namespace skiff {

// ---- the editor

bool FuseEditor::only_within(int value, std::size_t first, std::size_t end) {
    if (kept(value)) return false;
    for (std::size_t i = 0; i < steps_.size(); ++i) {
        if (i >= first && i < end) continue;
        const Uses uses = steps_[i]->uses();
        for (const auto* list : {&uses.reads, &uses.writes})
            for (const int* used : *list)
                if (*used == value) return false;
    }
    return true;
}

bool FuseEditor::read_behind(int value, std::size_t step) {
    for (std::size_t i = step + 1; i < steps_.size(); ++i)
        for (const int* used : steps_[i]->uses().reads)
            if (*used == value) return true;
    return false;
}

void FuseEditor::rename(int from, int to) {
    for (auto& step : steps_) {
        const Uses uses = step->uses();
        std::set<int*> fields(uses.reads.begin(), uses.reads.end());  // one that is read and written is listed twice
        fields.insert(uses.writes.begin(), uses.writes.end());
        for (int* field : fields)
            if (*field == from) *field = to;
    }
}

void FuseEditor::replace(std::size_t first, std::size_t end, std::unique_ptr<FusedStep> fused) {
    fused->kind = "fused";
    fused->describe_parts();
    steps_[first] = std::move(fused);
    steps_.erase(steps_.begin() + static_cast<std::ptrdiff_t>(first) + 1, steps_.begin() + static_cast<std::ptrdiff_t>(end));
}

// ---- what makes a fused step right

void RaceCheck::add(Step& step, FusedStage::Deal deal, int place) {
    const Uses uses = step.uses();
    for (const int* value : uses.reads) touches_[*value].places.insert(place);
    for (const int* value : uses.writes) {
        touches_[*value].places.insert(place);
        touches_[*value].written = true;
        if (deal == FusedStage::Deal::everything) touches_[*value].by_everyone = true;
    }
    if (auto* linear = dynamic_cast<LinearStep*>(&step)) {
        for (const LinearSegment& segment : linear->segments)
            for (int value : {segment.in, segment.prepared})
                if (value >= 0) touches_[value].across = true;
    }
    if (auto* gate = dynamic_cast<GateStep*>(&step); gate != nullptr && deal == FusedStage::Deal::columns) touches_[gate->weights].across = true;
}

void RaceCheck::add(FusedStep& fused, int first_place) {
    for (FusedStage& stage : fused.stages) {
        for (auto& step : stage.steps) add(*step, stage.deal, first_place);
        for (ColumnChain& chain : stage.chains) {
            for (ColumnChain::Part& part : chain.parts) add(*part.step, stage.deal, first_place);
            ++first_place;
        }
        ++first_place;
    }
}

bool RaceCheck::is_free() const {
    for (const auto& [value, touch] : touches_)
        if (touch.written && !touch.by_everyone && (touch.places.size() > 1 || touch.across)) return false;
    return true;
}

// ---- runs of steps that work token by token

namespace {

using Eligible = bool (*)(FuseEditor& editor, std::size_t step);

bool takes_prologue(const Step& step) {
    const auto* fused = dynamic_cast<const FusedStep*>(&step);
    if (fused == nullptr) return dynamic_cast<const LinearStep*>(&step) != nullptr;
    return fused->stages[0].deal == FusedStage::Deal::columns;
}

// For few tokens: the steps [first, at) before a linear step become its first stage, which every thread does for itself.
bool fuse_prologue(FuseEditor& editor, std::size_t first, std::size_t at) {
    auto& steps = editor.steps();
    auto* next = dynamic_cast<FusedStep*>(steps[at].get());
    RaceCheck races;
    for (std::size_t i = first; i < at; ++i) races.add(*steps[i], FusedStage::Deal::everything, 0);
    if (next != nullptr) races.add(*next, 1);
    else races.add(*steps[at], FusedStage::Deal::own, 1);
    if (!races.is_free()) return false;
    auto fused = std::make_unique<FusedStep>();
    fused->tokens = steps[at]->tokens;
    FusedStage prologue{FusedStage::Deal::everything, {}, {}};
    for (std::size_t i = first; i < at; ++i) {
        for (int* value : steps[i]->uses().writes) editor.options().values.give_to_threads(*value, INT64_MAX, editor.options().max_tokens);
        prologue.steps.push_back(std::move(steps[i]));
    }
    fused->stages.push_back(std::move(prologue));
    if (next != nullptr) {
        for (FusedStage& stage : next->stages) fused->stages.push_back(std::move(stage));
    } else {
        fused->stages.emplace_back();
        fused->stages.back().steps.push_back(std::move(steps[at]));
    }
    editor.replace(first, at + 1, std::move(fused));
    return true;
}

// The steps [first, end) become one, in which a token passes through all of them before the next one does.
void fuse_token_run(FuseEditor& editor, std::size_t first, std::size_t end) {
    auto& steps = editor.steps();
    std::vector<int> inside;
    for (std::size_t i = first; i < end; ++i)
        for (const int* value : steps[i]->uses().writes)
            if (editor.only_within(*value, first, end)) inside.push_back(*value);
    auto fused = std::make_unique<FusedStep>();
    fused->tokens = steps[first]->tokens;
    FusedStage stage{FusedStage::Deal::tokens, {}, {}};
    for (std::size_t i = first; i < end; ++i) stage.steps.push_back(std::move(steps[i]));
    fused->stages.push_back(std::move(stage));
    for (int value : inside) editor.options().values.give_to_threads(value, INT64_MAX, 1);
    editor.replace(first, end, std::move(fused));
}

void fuse_token_runs(FuseEditor& editor, Eligible eligible) {
    auto& steps = editor.steps();
    for (std::size_t first = 0; first < steps.size(); ++first) {
        const StepTokens tokens = steps[first]->tokens;
        std::size_t end = first;
        while (end < steps.size() && steps[end]->token_by_token() && steps[end]->tokens == tokens && eligible(editor, end)) ++end;
        if (end == first) continue;
        std::size_t prologue = end;
        if (editor.few_tokens() && end < steps.size() && takes_prologue(*steps[end]) && steps[end]->tokens == tokens) {
            auto hidden = [&](std::size_t step) {
                const Uses uses = steps[step]->uses();
                return std::all_of(uses.writes.begin(), uses.writes.end(), [&](const int* value) { return editor.only_within(*value, first, end + 1); });
            };
            while (prologue > first && hidden(prologue - 1)) --prologue;
            if (prologue < end && !fuse_prologue(editor, prologue, end)) prologue = end;
        }
        if (prologue - first >= 2) fuse_token_run(editor, first, prologue);
        else first = prologue > first ? prologue - 1 : first;
    }
}

// Quantized forms of what attention gave.
bool is_attention_quantize(FuseEditor& editor, std::size_t step) {
    auto* prepare = dynamic_cast<PrepareStep*>(editor.steps()[step].get());
    if (prepare == nullptr) return false;
    for (std::size_t i = step; i-- > 0;)
        if (auto* attention = dynamic_cast<AttentionStep*>(editor.steps()[i].get()); attention != nullptr && attention->out == prepare->in) return true;
    return false;
}

bool of_head(FuseEditor& editor, std::size_t step) { return editor.steps()[step]->tokens == StepTokens::selected; }

void fuse_norm_quantize(FuseEditor& editor) {
    fuse_token_runs(editor, [](FuseEditor& e, std::size_t step) { return !of_head(e, step) && !is_attention_quantize(e, step); });
}
void fuse_attention_output(FuseEditor& editor) { fuse_token_runs(editor, is_attention_quantize); }
void fuse_gate_up(FuseEditor& editor) { fuse_elements(editor, StepTokens::all); }
void fuse_head(FuseEditor& editor) {
    fuse_elements(editor, StepTokens::selected);
    fuse_token_runs(editor, of_head);
}

// ---- the table

struct FusePass {
    FusePassInfo info;
    void (*apply)(FuseEditor& editor);
};

constexpr FusePass passes[] = {
    {{"residual", "a linear operator with the addition of its output to the residual stream"}, fuse_residual},
    {{"qkv_rope_state", "q, k and v with norms of heads, rope and the state write, head by head"}, fuse_qkv},
    {{"attention", "those with attention and the quantization of its output, for few tokens, where every thread has whole groups of heads"}, fuse_attention},
    {{"gate_up", "gate and up with activation, product and the quantization for down"}, fuse_gate_up},
    {{"norm_quantize", "norm, quantization and other steps on a token; for few tokens with the linear operator behind them"}, fuse_norm_quantize},
    {{"attention_output", "the quantization of what attention gave with the output operator, for few tokens"}, fuse_attention_output},
    {{"head_top", "logits with the choice of the largest, a slab of the vocabulary after another, which need not be written out where no more is wanted"}, fuse_head_top},
    {{"head", "selection, final norm, quantization and logits"}, fuse_head},
};

}  // namespace

std::span<const FusePassInfo> fuse_passes() {
    static const std::vector<FusePassInfo> infos = [] {
        std::vector<FusePassInfo> list;
        for (const FusePass& pass : passes) list.push_back(pass.info);
        return list;
    }();
    return infos;
}

Result<FuseSet> FuseSet::parse(const std::string& list) {
    if (list == "on") return all();
    if (list == "off") return none();
    FuseSet set = none();
    std::string known;
    for (const FusePassInfo& pass : fuse_passes()) known += (known.empty() ? "" : ", ") + std::string(pass.name);
    for (std::size_t begin = 0; begin <= list.size();) {
        const std::size_t end = std::min(list.find(',', begin), list.size());
        const std::string name = list.substr(begin, end - begin);
        std::size_t pass = 0;
        while (pass < fuse_passes().size() && fuse_passes()[pass].name != name) ++pass;
        if (pass == fuse_passes().size()) return usage_error("there is no fusion named \"" + name + "\"; known: on, off, " + known);
        set = set.with(pass);
        begin = end + 1;
    }
    return set;
}

void fuse(std::vector<std::unique_ptr<Step>>& steps, const FuseOptions& options) {
    FuseEditor editor(steps, options);
    for (std::size_t pass = 0; pass < std::size(passes); ++pass)
        if (options.set.has(pass)) passes[pass].apply(editor);
}

}  // namespace skiff
