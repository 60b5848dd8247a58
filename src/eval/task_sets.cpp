#include "eval/task_sets.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "base/json.h"
#include "base/mapped_file.h"
#include "eval/task_text.h"

namespace skiff {
namespace {

constexpr std::size_t max_file_bytes = std::size_t{1} << 30;

Result<std::string> read_set_file(const std::string& folder, const std::string& source) {
    const std::string path = join_path(folder, source);
    if (!file_exists(path))
        return not_found(path + ": is not there; give the folder of the task sets with --tasks-dir (docs/guide.md says how it is laid out)");
    return read_text_file(path, max_file_bytes);
}

// One item from each line that is not blank; `convert(json, index)`. Errors name file and line.
template <class Convert>
Result<std::vector<TaskItem>> items_of_lines(const std::string& folder, const std::string& source, std::int64_t limit, Convert convert) {
    SKIFF_TRY(const std::string text, read_set_file(folder, source));
    std::vector<TaskItem> items;
    std::size_t line_number = 0;
    for (std::string_view line : split_lines(text)) {
        ++line_number;
        if (strip(line).empty()) continue;
        if (limit > 0 && static_cast<std::int64_t>(items.size()) == limit) break;
        auto where = [&](Error error) { return std::move(error).with_context(join_path(folder, source) + " line " + std::to_string(line_number)); };
        auto json = Json::parse(line);
        if (!json.ok()) return where(json.take_error());
        Result<TaskItem> item = convert(*json, items.size());
        if (!item.ok()) return where(item.take_error());
        items.push_back(std::move(*item));
    }
    return items;
}

Result<std::string> text_of(const Json& json, const char* key) { return json[key].as_string(key); }

Status check_gold(const TaskItem& item) {
    if (item.gold < 0 || item.gold >= static_cast<std::int64_t>(item.choices.size()))
        return corrupt("the right answer is number " + std::to_string(item.gold) + ", the item has " + std::to_string(item.choices.size()) + " choices");
    return {};
}

// The labels of a set come as numbers or as text.
Result<std::int64_t> label_of(const Json& label) {
    if (label.is_integer()) return label.as_int("label");
    SKIFF_TRY(const std::string text, label.as_string("label"));
    if (text.size() != 1 || text[0] < '0' || text[0] > '9') return corrupt("the label is '" + text + "', expected a digit");
    return std::int64_t{text[0] - '0'};
}

Result<TaskItem> hellaswag_item(const Json& json, std::size_t) {
    TaskItem item;
    SKIFF_TRY(const std::string activity, text_of(json, "activity_label"));
    SKIFF_TRY(const std::string first, text_of(json, "ctx_a"));
    SKIFF_TRY(const std::string second, text_of(json, "ctx_b"));
    item.prompt = clean_hellaswag(activity + ": " + first + " " + capitalize(second));
    for (const Json& ending : json["endings"].items()) {
        SKIFF_TRY(const std::string text, ending.as_string("endings"));
        item.choices.push_back(clean_hellaswag(text));
    }
    SKIFF_TRY(item.gold, label_of(json["label"]));
    SKIFF_CHECK(check_gold(item));
    return item;
}

// Six lines an item: context, number of the right ending, four endings; already joined and cleaned.
Result<std::vector<TaskItem>> hellaswag_text_items(const std::string& folder, const std::string& source, std::int64_t limit) {
    SKIFF_TRY(const std::string text, read_set_file(folder, source));
    const auto lines = split_lines(text);
    std::vector<TaskItem> items;
    for (std::size_t i = 0; i + 5 < lines.size() && (limit <= 0 || static_cast<std::int64_t>(items.size()) < limit); i += 6) {
        TaskItem item{std::string(lines[i]), {lines.begin() + static_cast<std::ptrdiff_t>(i) + 2, lines.begin() + static_cast<std::ptrdiff_t>(i) + 6}, 0};
        const std::string_view gold = strip(lines[i + 1]);
        if (gold.size() != 1 || gold[0] < '0' || gold[0] > '3')
            return corrupt(join_path(folder, source) + " line " + std::to_string(i + 2) + ": found '" + std::string(gold.substr(0, 40)) +
                           "', expected the number of the right ending, 0 to 3");
        item.gold = gold[0] - '0';
        items.push_back(std::move(item));
    }
    return items;
}

Result<std::vector<TaskItem>> piqa_items(const std::string& folder, const std::string& source, std::int64_t limit) {
    SKIFF_TRY(const std::string labels_text, read_set_file(folder, "piqa/valid-labels.lst"));
    std::vector<std::int64_t> labels;
    for (std::string_view line : split_lines(labels_text)) {
        line = strip(line);
        if (line.empty()) continue;
        if (line != "0" && line != "1")
            return corrupt(join_path(folder, "piqa/valid-labels.lst") + " line " + std::to_string(labels.size() + 1) + ": expected 0 or 1");
        labels.push_back(line[0] - '0');
    }
    return items_of_lines(folder, source, limit, [&](const Json& json, std::size_t index) -> Result<TaskItem> {
        if (index >= labels.size()) return corrupt("there are only " + std::to_string(labels.size()) + " labels in piqa/valid-labels.lst");
        TaskItem item;
        SKIFF_TRY(const std::string goal, text_of(json, "goal"));
        item.prompt = "Question: " + goal + "\nAnswer:";
        for (const char* key : {"sol1", "sol2"}) {
            SKIFF_TRY(std::string solution, text_of(json, key));
            item.choices.push_back(std::move(solution));
        }
        item.gold = labels[index];
        return item;
    });
}

Result<TaskItem> boolq_item(const Json& json, std::size_t) {
    SKIFF_TRY(const std::string passage, text_of(json, "passage"));
    SKIFF_TRY(const std::string question, text_of(json, "question"));
    const Json& label = json["label"];
    const bool is_true = label.bool_or(label.int_or(0) == 1) || label.text() == "true" || label.text() == "True";
    return TaskItem{passage + "\nQuestion: " + question + "?\nAnswer:", {"no", "yes"}, is_true ? 1 : 0};
}

Result<std::vector<TaskItem>> mmlu_items(const std::string& folder, const std::string& source, const std::string& subject, std::int64_t limit) {
    SKIFF_TRY(const std::string text, read_set_file(folder, source));
    auto records = read_six_field_csv(text);
    if (!records.ok()) return records.take_error().with_context(join_path(folder, source));
    std::string subject_words = subject;
    std::replace(subject_words.begin(), subject_words.end(), '_', ' ');
    const std::string head = "The following are multiple choice questions (with answers) about " + subject_words + ".\n\n";
    std::vector<TaskItem> items;
    for (const auto& record : *records) {
        if (limit > 0 && static_cast<std::int64_t>(items.size()) == limit) break;
        const std::string& answer = record[5];
        if (answer.size() != 1 || answer[0] < '0' || answer[0] > '3')
            return corrupt(join_path(folder, source) + " record " + std::to_string(items.size() + 1) + ": the answer is '" + answer.substr(0, 40) +
                           "', expected 0 to 3");
        TaskItem item{head + std::string(strip(record[0])), {"A", "B", "C", "D"}, answer[0] - '0'};
        for (std::size_t choice = 0; choice < 4; ++choice) item.prompt += "\n" + item.choices[choice] + ". " + record[choice + 1];
        item.prompt += "\nAnswer:";
        items.push_back(std::move(item));
    }
    return items;
}

constexpr std::string_view mmlu_suffix = "_test.csv";
constexpr std::size_t max_subjects = 1000;

Result<std::vector<std::string>> mmlu_subjects(const std::string& folder) {
    const std::string path = join_path(folder, "mmlu/test");
    if (!is_directory(path))
        return not_found(path + ": is not there; give the folder of the task sets with --tasks-dir (docs/guide.md says how it is laid out)");
    std::vector<std::string> subjects;
    std::error_code failure;
    for (std::filesystem::directory_iterator entry(path, failure), end; !failure && entry != end; entry.increment(failure)) {
        const std::string name = entry->path().filename().string();
        if (name.size() > mmlu_suffix.size() && name.ends_with(mmlu_suffix)) subjects.push_back(name.substr(0, name.size() - mmlu_suffix.size()));
        if (subjects.size() > max_subjects) return resource_error(path + ": holds more than " + std::to_string(max_subjects) + " subjects");
    }
    if (failure) return runtime_error(path + ": " + failure.message());
    if (subjects.empty()) return not_found(path + ": holds no SUBJECT_test.csv");
    std::sort(subjects.begin(), subjects.end());
    return subjects;
}

Result<TaskSet> load_one(const std::string& name, const std::string& folder, std::int64_t limit) {
    TaskSet set{name, "", "", {}};
    if (name == "hellaswag") {
        set.source = "hellaswag/hellaswag_val.jsonl";
        SKIFF_TRY(set.items, items_of_lines(folder, set.source, limit, hellaswag_item));
    } else if (name == "hellaswag_text") {
        set.source = "hellaswag/hellaswag_val_full.txt";
        SKIFF_TRY(set.items, hellaswag_text_items(folder, set.source, limit));
    } else if (name == "piqa") {
        set.source = "piqa/valid.jsonl";
        SKIFF_TRY(set.items, piqa_items(folder, set.source, limit));
    } else if (name == "boolq") {
        set.source = "SuperGLUE/BoolQ/val.jsonl";
        SKIFF_TRY(set.items, items_of_lines(folder, set.source, limit, boolq_item));
    } else if (name.starts_with("mmlu_") && name.find('/') == std::string::npos) {
        const std::string subject = name.substr(5);
        set.source = "mmlu/test/" + subject + std::string(mmlu_suffix);
        SKIFF_TRY(set.items, mmlu_items(folder, set.source, subject, limit));
    } else {
        return usage_error("unknown task '" + name + "'; known: hellaswag, hellaswag_text, piqa, boolq, mmlu, mmlu_SUBJECT");
    }
    if (set.items.empty()) return corrupt(join_path(folder, set.source) + ": holds no items");
    return set;
}

}  // namespace

Result<std::vector<TaskSet>> load_task_sets(const std::string& name, const std::string& folder, std::int64_t limit) {
    std::vector<std::string> names = {name};
    if (name == "mmlu") {
        SKIFF_TRY(names, mmlu_subjects(folder));
        for (std::string& subject : names) subject.insert(0, "mmlu_");
    } else if (name == "hellaswag" && !file_exists(join_path(folder, "hellaswag/hellaswag_val.jsonl")) &&
               file_exists(join_path(folder, "hellaswag/hellaswag_val_full.txt"))) {
        names = {"hellaswag_text"};
    }
    std::vector<TaskSet> sets;
    for (const std::string& one : names) {
        SKIFF_TRY(auto set, load_one(one, folder, limit));
        if (name == "mmlu") set.group = name;
        sets.push_back(std::move(set));
    }
    return sets;
}

}  // namespace skiff
