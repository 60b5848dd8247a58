// skiff eval: perplexity, divergence from a parent, and tasks.
#include "eval/evaluate.h"

#include <charconv>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "cli/format.h"
#include "cli/model_options.h"
#include "cli/verbs.h"
#include "compress/manifest.h"
#include "eval/soft_labels.h"

namespace skiff {
namespace {

struct EvalVerbOptions {
    ModelOptions model;
    std::string text, protocol = "windows", against, paired_with, save_logits, tasks, tasks_dir, kd_temp = "1,4,16";
    std::int64_t window = 0, max_windows = 0, limit = 0, soft_labels = 0;
    bool dry_run = false, note = false;

    void fields(FieldVisitor& visitor) {
        model.fields_without_context(visitor);
        visitor.option("--text", text, "Text to predict; default: heldout.txt in the model's folder, or in that of --against");
        visitor.option("--window", window, "Tokens of a window; 0: 512, or the model's positions if they are fewer");
        visitor.option("--max-windows", max_windows, "Take only the first windows; 0: all. A last one that is not full is always left out");
        visitor.choice("--protocol", protocol, {"windows", "llamacpp"},
                       "windows: side by side, tokens 2 to n scored; llamacpp: each starts with the begin token, its second half scored");
        visitor.option("--against", against, "Compare with a parent: a model, or a file that --save-logits wrote");
        visitor.option("--paired-with", paired_with, "Another model, on the same windows: the difference in KL from the parent and in log-likelihood, with a 95 % interval over the windows");
        visitor.option("--save-logits", save_logits, "Keep the parent's logits in this file (without --against: the model's own)");
        visitor.option("--tasks", tasks, "Multiple-choice sets, with commas: hellaswag, piqa, boolq, mmlu, mmlu_SUBJECT");
        visitor.option("--tasks-dir", tasks_dir, "Folder of the sets, laid out as docs/guide.md says");
        visitor.option("--limit", limit, "Take only the first items of each file; 0: all");
        visitor.option("--soft-labels", soft_labels, "Show so many of the likeliest tokens at some places, and the entropy, as a student would be told them; 0: no");
        visitor.option("--kd-temp", kd_temp, "Temperatures of --soft-labels, with commas");
        visitor.flag("--note", note, "Add what was found to the evidence in the model's skiff.json; steps of a recipe do");
        visitor.flag("--dry-run", dry_run, "Say what would be done, and how large the file of logits is");
    }
};

std::vector<std::string> split_at_commas(const std::string& list) {
    std::vector<std::string> names;
    std::string name;
    for (char c : list + ",") {
        if (c != ',') name += c;
        else if (!name.empty()) names.push_back(std::exchange(name, {}));
    }
    return names;
}

Result<EvalOptions> eval_options(const EvalVerbOptions& given) {
    EvalOptions options;
    SKIFF_TRY(options.engine, given.model.engine_options());
    SKIFF_TRY(options.protocol, protocol_from_name(given.protocol));
    for (const auto& [flag, value] :
         {std::pair("--window", given.window), std::pair("--max-windows", given.max_windows), std::pair("--limit", given.limit)})
        if (value < 0) return usage_error(std::string(flag) + " " + std::to_string(value) + ": expected 0 or more");
    if (given.tasks.empty() && (!given.tasks_dir.empty() || given.limit > 0)) return usage_error(std::string(given.tasks_dir.empty() ? "--limit" : "--tasks-dir") + " is of --tasks; name the sets, or leave it out");
    if (given.soft_labels == 0 && given.kd_temp != EvalVerbOptions().kd_temp) return usage_error("--kd-temp is of --soft-labels; give that, or leave it out");
    options.model = given.model.model;
    options.text_path = given.text;
    options.window = given.window;
    options.max_windows = given.max_windows;
    options.against = given.against;
    options.paired_with = given.paired_with;
    options.save_logits = given.save_logits;
    options.tasks = split_at_commas(given.tasks);
    options.tasks_dir = given.tasks_dir;
    options.limit = given.limit;
    return options;
}

std::string with_error(const Estimate& estimate, int decimals) {
    return number_text(estimate.value, decimals) + " ± " + number_text(estimate.stderr_, decimals);
}
std::string percent_with_error(const Estimate& estimate) {
    return number_text(100 * estimate.value, 2) + " ± " + number_text(100 * estimate.stderr_, 2) + " %";
}

std::string scientific(double value) {
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, "%.3e", value);
    return buffer;
}

using Rows = std::vector<std::vector<std::string>>;

void add_text_rows(const EvalReport& report, Rows& rows) {
    const PerplexityReport& text = *report.perplexity;
    rows.push_back({"perplexity", with_error(text.perplexity, 4)});
    rows.push_back({"protocol", text.protocol + ", " + counted(text.windows, "windows") + " of " + std::to_string(text.window) + ", " +
                                    std::to_string(text.tokens) + " tokens scored (of " + std::to_string(text.tokens_in_text) +
                                    "; full windows only)"});
    rows.push_back({"text", report.text_path + "  sha256 " + report.text_sha256.substr(0, 12)});
    rows.push_back({"speed", number_text(report.tokens_per_s, 1) + " tokens/s, " + duration_text(report.text_seconds)});
}

void add_against_rows(const AgainstReport& against, Rows& rows) {
    rows.push_back({"against", against.parent_path + "  " + against.parent_hash.substr(0, 12)});
    rows.push_back({"parent perplexity", with_error(against.parent_perplexity, 4)});
    rows.push_back({"ln(ppl ratio)", with_error(against.log_perplexity_ratio, 5)});
    rows.push_back({"mean KL", scientific(against.mean_kl.value) + " ± " + scientific(against.mean_kl.stderr_)});
    rows.push_back({"median, p99, max KL", scientific(against.median_kl) + ", " + scientific(against.p99_kl) + ", " + scientific(against.max_kl)});
    rows.push_back({"top-1 agreement", percent_with_error(against.top1_agreement)});
    rows.push_back({"largest probability change", number_text(100 * against.largest_probability_change, 2) + " %"});
    rows.push_back({"right token, mean and RMS",
                    percent_with_error(against.mean_change_of_right) + ", " + number_text(100 * against.rms_change_of_right, 2) + " %"});
}

std::string paired_text(const PairedFigure& figure) {
    const double low = figure.difference.value - figure.interval, high = figure.difference.value + figure.interval;
    const std::string share = figure.second != 0 ? " (" + number_text(100 * figure.difference.value / std::abs(figure.second), 1) + " %)" : "";
    return scientific(figure.first) + " against " + scientific(figure.second) + ", difference " + scientific(figure.difference.value) + share + ", 95 % from " + scientific(low) + " to " + scientific(high) +
           " over " + counted(figure.windows, "windows") + (figure.differs() ? "" : ": none that these windows show");
}

void add_paired_rows(const PairedReport& paired, Rows& rows) {
    rows.push_back({"paired with", paired.other_path + "  " + paired.other_hash.substr(0, 12)});
    if (paired.mean_kl) rows.push_back({"mean KL", paired_text(*paired.mean_kl)});
    rows.push_back({"nats per token", paired_text(paired.mean_nll)});
}

Rows task_rows(const EvalReport& report) {
    const bool flips = report.tasks[0].flips.has_value();
    Rows rows = {{"task", "items", "acc %", "±", "acc_norm %", "±"}};
    if (flips) rows[0].insert(rows[0].end(), {"parent acc %", "right->wrong", "wrong->right", "changed"});
    for (const TaskReport& task : report.tasks) {
        rows.push_back({task.name, std::to_string(task.items), number_text(100 * task.acc.value, 2), number_text(100 * task.acc.stderr_, 2),
                        number_text(100 * task.acc_norm.value, 2), number_text(100 * task.acc_norm.stderr_, 2)});
        if (!flips) continue;
        rows.back().insert(rows.back().end(), {number_text(100 * task.parent_acc->value, 2), std::to_string(task.flips->right_to_wrong),
                                               std::to_string(task.flips->wrong_to_right), std::to_string(task.flips->answers_changed)});
    }
    return rows;
}

void print_report(const EvalReport& report, Terminal& terminal) {
    Rows rows = {{"model", report.model.path + "  " + report.model.hash.substr(0, 12)}};
    if (!report.scheme_on_load.empty()) rows[0][1] += ", quantized while loading to " + report.scheme_on_load;
    if (report.perplexity) add_text_rows(report, rows);
    if (report.against) add_against_rows(*report.against, rows);
    if (report.paired) add_paired_rows(*report.paired, rows);
    if (!report.logits_path.empty()) rows.push_back({"logits", report.logits_path});
    terminal.print(table_text(rows, TableStyle::plain));
    if (report.tasks.empty()) return;
    terminal.print(table_text(task_rows(report), TableStyle::plain) + "tasks took " + duration_text(report.task_seconds));
}

Status print_estimate(const EvalEstimate& estimate, Terminal& terminal) {
    terminal.result(estimate.to_json());
    Rows rows = {{"weights", bytes_text(estimate.weight_bytes)}};
    if (estimate.parent_weight_bytes > 0)
        rows.push_back({"parent", bytes_text(estimate.parent_weight_bytes) +
                                      (estimate.parent_logits == "beside" ? ", both in memory" : ", first the parent, then the model")});
    if (estimate.windows > 0)
        rows.push_back({"text", std::to_string(estimate.tokens_in_text) + " tokens, " + counted(estimate.windows, "windows") + " of " +
                                    std::to_string(estimate.window) + ", " + std::to_string(estimate.tokens_scored) + " scored"});
    if (!estimate.logits_path.empty())
        rows.push_back({"logits", estimate.logits_path + ": " + bytes_text(estimate.logits_file_bytes) + ", free there " +
                                      bytes_text(estimate.free_disk_bytes)});
    if (estimate.task_items > 0) rows.push_back({"task items", std::to_string(estimate.task_items)});
    terminal.print(table_text(rows, TableStyle::plain));
    if (!estimate.logits_path.empty() && estimate.free_disk_bytes < estimate.logits_file_bytes)
        return resource_error(estimate.logits_path + ": too little free space for the logits; use --max-windows or another disk");
    return {};
}

Result<SoftLabelOptions> soft_label_options(const EvalVerbOptions& given) {
    if (!given.against.empty() || !given.save_logits.empty() || !given.tasks.empty()) return usage_error("--soft-labels shows one model's distributions; leave --against, --save-logits and --tasks out");
    if (given.soft_labels < 0 || given.soft_labels > 100) return usage_error("--soft-labels " + std::to_string(given.soft_labels) + ": expected 0 to 100");
    SoftLabelOptions soft;
    soft.n_top = given.soft_labels;
    soft.temperatures.clear();
    for (const std::string& text : split_at_commas(given.kd_temp)) {
        double value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (error != std::errc() || end != text.data() + text.size() || !(value > 0 && value <= 1e6)) return usage_error("--kd-temp " + given.kd_temp + ": expected numbers above 0 with commas, such as 1,4,16");
        soft.temperatures.push_back(value);
    }
    if (soft.temperatures.empty()) return usage_error("--kd-temp names no temperature");
    return soft;
}

std::string short_number(double value, int digits = 6) {
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, "%.*g", digits, value);
    return buffer;
}

// On one line.
std::string quoted(const std::string& text) {
    std::string line = "\"";
    for (char c : text) line += c == '\n' ? ' ' : c;
    return line + "\"";
}

Status run_soft_labels(const EvalVerbOptions& given, EvalOptions options, Terminal& terminal) {
    SKIFF_TRY(const auto soft, soft_label_options(given));
    options.progress = terminal.progress("");
    auto report = soft_labels(options, soft);
    terminal.end_progress();
    if (!report.ok()) return report.take_error();
    terminal.result(report->to_json(soft));
    Rows means = {{"T", "mean entropy, nats", "mean probability of the first choice"}};
    for (std::size_t i = 0; i < soft.temperatures.size(); ++i)
        means.push_back({short_number(soft.temperatures[i]), number_text(report->mean_entropy[i], 3), number_text(report->mean_top[i], 3)});
    terminal.print(report->model.path + " over " + std::to_string(report->tokens) + " tokens of " + report->text_path + "\n" + table_text(means, TableStyle::plain));
    for (const auto& place : report->places) {
        Rows rows = {{"T", "entropy", "likeliest"}};
        for (const auto& at : place.softened) {
            std::string choices;
            for (const auto& choice : at.choices) choices += (choices.empty() ? "" : "  ") + quoted(choice.text) + " " + short_number(choice.token.probability, 2);
            rows.push_back({short_number(at.temperature), number_text(at.entropy, 3), choices});
        }
        terminal.print("\nafter " + quoted(place.context) + ", where the text has " + quoted(place.next) + "\n" + table_text(rows, TableStyle::plain));
    }
    return {};
}

// Without paths: what is measured says what was read by its hash.
Json evidence_of(const EvalReport& report) {
    const Json all = report.to_json();
    Json entry = Json::object({{"kind", "eval"}, {"model_hash", report.model.hash}});
    if (report.perplexity) {
        entry.set("text_sha256", report.text_sha256);
        entry.set("perplexity", all["perplexity"]);
    }
    if (report.against) {
        Json against = all["against"];
        against.set("parent", Json::object({{"name", report.against->parent_name}, {"hash", report.against->parent_hash}}));
        against.erase("window_kl");
        against.erase("window_log_perplexity_ratio");
        entry.set("against", std::move(against));
    }
    if (!report.tasks.empty()) entry.set("tasks", all["tasks"]);
    return entry;
}

Status run_eval(EvalVerbOptions& given, Terminal& terminal) {
    SKIFF_TRY(auto options, eval_options(given));
    if (given.note && (given.soft_labels != 0 || given.dry_run)) return usage_error("--note is for measurements; leave it out");
    if (given.note && !file_exists(join_path(options.model, manifest_file_name))) return usage_error("--note: " + options.model + " has no " + manifest_file_name + ", which compressed models have");
    if (given.soft_labels != 0) return run_soft_labels(given, options, terminal);
    if (given.dry_run) {
        SKIFF_TRY(const auto estimate, estimate_evaluation(options));
        return print_estimate(estimate, terminal);
    }
    options.progress = terminal.progress("");
    auto report = evaluate(options);
    terminal.end_progress();
    if (!report.ok()) return report.take_error();
    for (const CalibrationOverlap& overlap : report->overlaps)
        terminal.remark("warning: " + std::to_string(overlap.found) + " of " + std::to_string(overlap.stretches) + " stretches of the calibration text " + overlap.text_name + " are in this text; " + overlap.model +
                        " was made by looking at them, so its figures here are too good");
    if (given.note) SKIFF_CHECK(append_evidence(options.model, evidence_of(*report)));
    if (terminal.json()) terminal.result(report->to_json());
    else print_report(*report, terminal);
    return {};
}

}  // namespace

std::unique_ptr<Verb> eval_verb_row() {
    return make_verb<EvalVerbOptions>(
        "eval", "Measure a model: perplexity, divergence from a parent, tasks",
        {"skiff eval models/pocket --max-windows 20", "skiff eval CHILD --text FILE --against PARENT",
         "skiff eval PARENT --text FILE --save-logits parent.logits", "skiff eval CHILD --text FILE --against parent.logits --json",
         "skiff eval CHILD --text FILE --against PARENT --paired-with OTHER",
         "skiff eval TEACHER --soft-labels 5 --kd-temp 1,4,16 --max-windows 4", "skiff eval MODEL --tasks hellaswag,piqa,boolq,mmlu --tasks-dir DIR --limit 100"},
        run_eval);
}

}  // namespace skiff
