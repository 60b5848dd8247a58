#include "eval/tasks.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "eval/choice_scorer.h"
#include "text/unicode.h"

namespace skiff {
namespace {

std::int64_t first_largest(const std::vector<double>& values) { return std::max_element(values.begin(), values.end()) - values.begin(); }

Result<ItemResult> run_item(ChoiceScorer& scorer, const TaskItem& item) {
    std::vector<std::string> continuations;
    for (const std::string& choice : item.choices) continuations.push_back(" " + choice);
    SKIFF_TRY(auto scores, scorer.score(item.prompt, continuations));
    ItemResult result;
    result.gold = item.gold;
    result.answer = first_largest(scores.log_likelihoods);
    std::vector<double> per_character;
    for (std::size_t i = 0; i < item.choices.size(); ++i)
        per_character.push_back(scores.log_likelihoods[i] / static_cast<double>(std::max<std::size_t>(1, utf8_length(make_valid_utf8(item.choices[i])))));
    result.answer_norm = first_largest(per_character);
    result.log_likelihoods = std::move(scores.log_likelihoods);
    result.context_tokens = scores.context_tokens;
    result.continuation_tokens = std::move(scores.continuation_tokens);
    return result;
}

Estimate accuracy(const std::vector<ItemResult>& items, bool (ItemResult::*right)() const) {
    std::vector<double> values;
    for (const ItemResult& item : items) values.push_back((item.*right)() ? 1 : 0);
    return mean_of(values);
}

Flips count_flips(const std::vector<ItemResult>& child, const std::vector<ItemResult>& parent) {
    Flips flips;
    for (std::size_t i = 0; i < child.size(); ++i) {
        flips.right_to_wrong += parent[i].right() && !child[i].right();
        flips.wrong_to_right += !parent[i].right() && child[i].right();
        flips.answers_changed += parent[i].answer != child[i].answer;
    }
    return flips;
}

TaskReport report_set(const SetResult& child, const SetResult* parent) {
    TaskReport report;
    report.name = child.name;
    report.source = child.source;
    report.items = static_cast<std::int64_t>(child.items.size());
    report.acc = accuracy(child.items, &ItemResult::right);
    report.acc_norm = accuracy(child.items, &ItemResult::right_norm);
    if (parent != nullptr) {
        report.parent_acc = accuracy(parent->items, &ItemResult::right);
        report.parent_acc_norm = accuracy(parent->items, &ItemResult::right_norm);
        report.flips = count_flips(child.items, parent->items);
    }
    return report;
}

// Over all items; stderr^2 = sum (n_i - 1) n_i stderr_i^2 / (N - k) / N for k sets with N items in all: the pooled error of the harness.
Estimate pooled(const std::vector<TaskReport>& parts, const std::function<Estimate(const TaskReport&)>& of) {
    double n_all = 0, sum = 0, squares = 0;
    for (const TaskReport& part : parts) {
        const auto n = static_cast<double>(part.items);
        n_all += n;
        sum += n * of(part).value;
        squares += (n - 1) * n * of(part).stderr_ * of(part).stderr_;
    }
    const double freedom = n_all - static_cast<double>(parts.size());
    return {sum / n_all, freedom > 0 ? std::sqrt(squares / freedom / n_all) : 0};
}

TaskReport report_group(const std::string& name, std::vector<TaskReport> parts) {
    TaskReport report;
    report.name = name;
    for (const TaskReport& part : parts) {
        report.items += part.items;
        if (!part.flips) continue;
        if (!report.flips) report.flips = Flips{};
        report.flips->right_to_wrong += part.flips->right_to_wrong;
        report.flips->wrong_to_right += part.flips->wrong_to_right;
        report.flips->answers_changed += part.flips->answers_changed;
    }
    report.acc = pooled(parts, [](const TaskReport& part) { return part.acc; });
    report.acc_norm = pooled(parts, [](const TaskReport& part) { return part.acc_norm; });
    if (report.flips) {
        report.parent_acc = pooled(parts, [](const TaskReport& part) { return *part.parent_acc; });
        report.parent_acc_norm = pooled(parts, [](const TaskReport& part) { return *part.parent_acc_norm; });
    }
    report.parts = std::move(parts);
    return report;
}

}  // namespace

Result<std::vector<SetResult>> run_task_sets(Session& session, const Tokenizer& tokenizer, const std::vector<TaskSet>& sets, const TaskOptions& options) {
    ChoiceScorer scorer(session, tokenizer, options.max_length);
    std::uint64_t total = 0, done = 0;
    for (const TaskSet& set : sets) total += set.items.size();
    std::vector<SetResult> results;
    for (const TaskSet& set : sets) {
        SetResult result{set.name, set.group, set.source, {}};
        for (const TaskItem& item : set.items) {
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "the evaluation was interrupted", {}};
            auto scored = run_item(scorer, item);
            if (!scored.ok()) return scored.take_error().with_context(set.name + " item " + std::to_string(result.items.size()));
            result.items.push_back(std::move(*scored));
            if (options.progress) options.progress({"tasks", set.name, ++done, total});
        }
        results.push_back(std::move(result));
    }
    return results;
}

std::vector<TaskReport> report_tasks(const std::vector<SetResult>& child, const std::vector<SetResult>* parent) {
    std::vector<TaskReport> reports;
    for (std::size_t i = 0; i < child.size();) {
        const std::string& group = child[i].group;
        std::vector<TaskReport> parts;
        do {
            parts.push_back(report_set(child[i], parent == nullptr ? nullptr : &(*parent)[i]));
            ++i;
        } while (i < child.size() && !group.empty() && child[i].group == group);
        if (group.empty()) reports.push_back(std::move(parts[0]));
        else reports.push_back(report_group(group, std::move(parts)));
    }
    return reports;
}

Json TaskReport::to_json() const {
    Json json = Json::object(
        {{"items", items}, {"acc", acc.value}, {"acc_stderr", acc.stderr_}, {"acc_norm", acc_norm.value}, {"acc_norm_stderr", acc_norm.stderr_}});
    if (!source.empty()) json.set("source", source);
    if (parent_acc) {
        json.set("parent_acc", parent_acc->value);
        json.set("parent_acc_norm", parent_acc_norm->value);
        json.set("flips", Json::object({{"right_to_wrong", flips->right_to_wrong},
                                        {"wrong_to_right", flips->wrong_to_right},
                                        {"answers_changed", flips->answers_changed}}));
    }
    if (!parts.empty()) {
        Json subjects = Json::object();
        for (const TaskReport& part : parts) subjects.set(part.name, part.to_json());
        json.set("parts", std::move(subjects));
    }
    return json;
}

}  // namespace skiff
