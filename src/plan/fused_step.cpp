#include "plan/fused_step.h"

#include <algorithm>
#include <cmath>

#include "plan/steps.h"

namespace skiff {
namespace {

void run_everything(const FusedStage& stage, const RunContext& context) {
    for (const auto& step : stage.steps) step->run_tile(context, {{0, count(*step, context)}, {0, step->width()}});
}

void run_tokens(const FusedStage& stage, const RunContext& context) {
    const Range tokens = token_share(*stage.steps[0], context).tokens;
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token)
        for (const auto& step : stage.steps) step->run_tile(context, {{token, token + 1}, {0, step->width()}});
}

void run_units(const ColumnChain& chain, const RunContext& context, Range units) {
    const std::int64_t n_tokens = count(*chain.parts[0].step, context), at_once = std::min(chain.units_at_once, units.end - units.begin);
    if (n_tokens == 0) return;
    for (std::int64_t unit = units.begin; unit < units.end; unit += at_once) {
        const std::int64_t end = std::min(unit + at_once, units.end);
        for (const ColumnChain::Part& part : chain.parts)
            part.step->run_tile(context, {{0, n_tokens}, {unit * part.unit_columns, std::min(end * part.unit_columns, part.step->width())}});
    }
}

// The chains are dealt as if they lay one behind the other, so that all threads have the same to do even where a chain has few units.
void run_columns(const FusedStage& stage, const RunContext& context) {
    double total = 0, before = 0;
    for (const ColumnChain& chain : stage.chains) total += static_cast<double>(chain.n_units) * chain.unit_cost;
    for (const ColumnChain& chain : stage.chains) {
        auto cut = [&](int thread) {
            const double units = (total * thread / context.n_threads - before) / chain.unit_cost;
            return std::clamp<std::int64_t>(std::llround(units), 0, chain.n_units);
        };
        const Range units = {cut(context.thread), cut(context.thread + 1)};
        if (units.begin < units.end) run_units(chain, context, units);
        before += static_cast<double>(chain.n_units) * chain.unit_cost;
    }
}

void join(std::string& text, const std::string& more, const char* separator) {
    if (!text.empty() && !more.empty()) text += separator;
    text += more;
}

// "norm block0.attn_norm, quantize input of block0.attn.q"
void append(const Step& step, std::string& name, std::string& kernel) {
    join(name, step.kind + " " + step.name, ", ");
    if (kernel.find(step.kernel) == std::string::npos) join(kernel, step.kernel, ", ");
}

}  // namespace

void FusedStep::run(const RunContext& context) const {
    for (const FusedStage& stage : stages) {
        switch (stage.deal) {
            case FusedStage::Deal::everything: run_everything(stage, context); break;
            case FusedStage::Deal::tokens: run_tokens(stage, context); break;
            case FusedStage::Deal::columns: run_columns(stage, context); break;
            case FusedStage::Deal::own: stage.steps[0]->run(context); break;
        }
    }
}

void FusedStep::run_tile(const RunContext&, const Tile&) const { std::abort(); }  // a fused step is no part of another

Uses FusedStep::uses() {
    Uses all;
    auto add = [&](Step& step) {
        Uses uses = step.uses();
        all.reads.insert(all.reads.end(), uses.reads.begin(), uses.reads.end());
        all.writes.insert(all.writes.end(), uses.writes.begin(), uses.writes.end());
    };
    for (FusedStage& stage : stages) {
        for (auto& step : stage.steps) add(*step);
        for (ColumnChain& chain : stage.chains)
            for (ColumnChain::Part& part : chain.parts) add(*part.step);
    }
    return all;
}

void FusedStep::describe_parts() {
    name.clear();
    kernel.clear();
    weight_bytes = 0;
    for (const FusedStage& stage : stages) {
        std::string part;
        for (const auto& step : stage.steps) {
            append(*step, part, kernel);
            weight_bytes += step->weight_bytes;
        }
        for (const ColumnChain& chain : stage.chains) {
            std::string links;
            for (const ColumnChain::Part& link : chain.parts) {
                append(*link.step, links, kernel);
                weight_bytes += link.step->weight_bytes;
            }
            join(part, links, " | ");
        }
        if (stage.deal == FusedStage::Deal::everything) part = "each thread: " + part;
        if (stage.deal == FusedStage::Deal::tokens) part = "token by token: " + part;
        join(name, part, "; ");
    }
}

}  // namespace skiff
