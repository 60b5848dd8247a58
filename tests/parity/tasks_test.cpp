// timeout: 900
// Every item of the task goldens, against lm-evaluation-harness: prompt and choices to the byte, tokens, log-likelihoods, acc and acc_norm.
#include <gtest/gtest.h>

#include <map>

#include "base/hash.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "eval/choice_scorer.h"
#include "eval/evaluate.h"
#include "eval/task_text.h"
#include "eval/tasks.h"

namespace skiff {
namespace {

struct Model {
    std::unique_ptr<Engine> engine;
    std::int64_t max_length = 0;
};

Result<Model> load(const std::string& name, KernelChoice kernels) {
    const std::string path = name == "pocket" ? join_path(SKIFF_SOURCE_DIR, "models/pocket") : join_path(SKIFF_SHARED_DIR, "models/" + name);
    SKIFF_TRY(auto checkpoint, Checkpoint::open(path));
    Model model;
    model.max_length = checkpoint.spec.max_positions;
    EngineOptions options;
    options.n_threads = 2;
    options.kernels = kernels;
    options.n_sequences = ChoiceScorer::n_sequences;
    options.n_context = model.max_length;
    SKIFF_TRY(model.engine, Engine::load(std::move(checkpoint), options));
    return model;
}

std::string digest(const TaskItem& item) {
    std::string bytes = item.prompt;
    for (const std::string& choice : item.choices) bytes += std::string(1, '\0') + " " + choice;
    return sha256_hex(std::as_bytes(std::span(bytes)));
}

void expect_item(const TaskItem& item, const ItemResult& result, const Json& golden) {
    ASSERT_EQ(digest(item), golden["sha256"].text()) << item.prompt;
    EXPECT_EQ(item.gold, golden["gold"].int_or(-1));
    EXPECT_EQ(result.context_tokens, golden["context_tokens"].int_or(-1));
    const auto& expected = golden["loglikelihoods"].items();
    ASSERT_EQ(result.log_likelihoods.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
        EXPECT_EQ(result.continuation_tokens[i], golden["continuation_tokens"].items()[i].int_or(-1));
        EXPECT_NEAR(result.log_likelihoods[i], expected[i].number_or(0), 1e-3 * std::abs(expected[i].number_or(0)));
    }
    EXPECT_EQ(result.right() ? 1.0 : 0.0, golden["acc"].number_or(-1));
    EXPECT_EQ(result.right_norm() ? 1.0 : 0.0, golden["acc_norm"].number_or(-1));
}

void expect_totals(const TaskReport& report, const Json& totals) {
    EXPECT_EQ(report.items, totals["items"].int_or(0));
    EXPECT_NEAR(report.acc.value, totals["acc"].number_or(-1), 1e-12);
    EXPECT_NEAR(report.acc.stderr_, totals["acc_stderr"].number_or(0), 1e-12);
    EXPECT_NEAR(report.acc_norm.value, totals["acc_norm"].number_or(-1), 1e-12);
    EXPECT_NEAR(report.acc_norm.stderr_, totals["acc_norm_stderr"].number_or(0), 1e-12);
}

// All sets of one model's run in a golden file.
void expect_run(const Json& run, const std::string& folder, KernelChoice kernels) {
    auto model = load(run["model"].text(), kernels);
    ASSERT_TRUE(model.ok()) << model.error().to_string();
    EXPECT_EQ(model->max_length, run["max_length"].int_or(0));
    std::map<std::string, std::vector<Json>> goldens;
    for (const Json& item : run["items"].items()) goldens[item["task"].text()].push_back(item);
    std::vector<TaskSet> sets;
    for (const auto& [task, items] : goldens) {
        auto loaded = load_task_sets(task, folder, static_cast<std::int64_t>(items.size()));
        ASSERT_TRUE(loaded.ok()) << loaded.error().to_string();
        ASSERT_EQ(loaded->size(), 1u);
        EXPECT_EQ((*loaded)[0].name, task);
        sets.push_back(std::move((*loaded)[0]));
    }
    auto results = run_task_sets(model->engine->session(), *model->engine->tokenizer(), sets, {model->max_length, nullptr});
    ASSERT_TRUE(results.ok()) << results.error().to_string();
    for (std::size_t s = 0; s < sets.size(); ++s) {
        const auto& expected = goldens[sets[s].name];
        ASSERT_EQ((*results)[s].items.size(), expected.size());
        for (std::size_t i = 0; i < expected.size(); ++i) {
            SCOPED_TRACE(run["model"].text() + " " + sets[s].name + " item " + std::to_string(i));
            expect_item(sets[s].items[i], (*results)[s].items[i], expected[i]);
        }
    }
    for (const TaskReport& report : report_tasks(*results, nullptr)) expect_totals(report, run["totals"][report.name]);
}

void expect_file(const std::string& golden_name, const std::string& folder, KernelChoice kernels) {
    auto json = read_json_file(join_path(SKIFF_TEST_DATA_DIR, "tasks/" + golden_name));
    ASSERT_TRUE(json.ok());
    for (const Json& run : (*json)["runs"].items()) {
        if (run["model"].text() != "pocket" && !is_directory(join_path(SKIFF_SHARED_DIR, "models/" + run["model"].text()))) continue;
        expect_run(run, folder, kernels);
    }
}

TEST(Tasks, OwnItemsWithReferenceKernels) { expect_file("golden_own.json", join_path(SKIFF_TEST_DATA_DIR, "tasks"), KernelChoice::reference); }
TEST(Tasks, OwnItemsWithTheFastestKernels) { expect_file("golden_own.json", join_path(SKIFF_TEST_DATA_DIR, "tasks"), KernelChoice::fastest); }

TEST(Tasks, PublicItems) {
    const std::string folder = join_path(SKIFF_SHARED_DIR, "data/eval");
    if (!is_directory(folder)) GTEST_SKIP() << "the public sets are not here";
    expect_file("golden_shared.json", folder, KernelChoice::fastest);
}

// Every record of every MMLU file must be read, in whichever of the two forms it is.
TEST(Tasks, AllSubjectsCanBeRead) {
    const std::string folder = join_path(SKIFF_SHARED_DIR, "data/eval");
    if (!is_directory(folder)) GTEST_SKIP() << "the public sets are not here";
    auto sets = load_task_sets("mmlu", folder, 0);
    ASSERT_TRUE(sets.ok()) << sets.error().to_string();
    EXPECT_EQ(sets->size(), 57u);
    std::size_t items = 0;
    for (const TaskSet& set : *sets) items += set.items.size();
    EXPECT_EQ(items, 9183u);  // as Python's csv module and regular expressions read this copy (tests/golden/tasks.py); the full sets have 14042
}

TEST(Tasks, AgainstAParent) {
    EvalOptions options;
    options.model = join_path(SKIFF_SOURCE_DIR, "models/pocket");
    options.against = options.model;
    options.engine.n_threads = 2;
    options.engine.scheme = *parse_scheme("w4g32");
    options.tasks = {"piqa", "mmlu"};
    options.tasks_dir = join_path(SKIFF_TEST_DATA_DIR, "tasks");
    auto report = evaluate(options);
    ASSERT_TRUE(report.ok()) << report.error().to_string();
    ASSERT_EQ(report->tasks.size(), 2u);
    EXPECT_EQ(report->tasks[1].name, "mmlu");
    EXPECT_EQ(report->tasks[1].items, 5);
    EXPECT_EQ(report->tasks[1].parts.size(), 2u);
    const Json json = report->to_json();
    for (const char* key : {"acc", "acc_stderr", "acc_norm", "acc_norm_stderr", "flips", "parent_acc"}) EXPECT_TRUE(json["tasks"]["piqa"].contains(key)) << key;
    const Flips& flips = *report->tasks[0].flips;
    const double change = report->tasks[0].acc.value - report->tasks[0].parent_acc->value;
    EXPECT_NEAR(change * 4, static_cast<double>(flips.wrong_to_right - flips.right_to_wrong), 1e-12);
    EXPECT_GE(flips.answers_changed, flips.wrong_to_right + flips.right_to_wrong);
}

TEST(TaskText, PythonsRules) {
    EXPECT_EQ(capitalize("THE girls from \u00c9lan"), "The girls from \u00e9lan");
    EXPECT_EQ(capitalize("\u01c6x"), "\u01c5x");
    EXPECT_EQ(capitalize(""), "");
    EXPECT_EQ(strip(" \u00a0\x1c a b\t\n"), "a b");
    EXPECT_EQ(strip_end("a \u2003"), "a");
    EXPECT_EQ(clean_hellaswag(" a [title] b   c [x] d] [e\n] "), "a. b  c d] [e\n]");
}

TEST(TaskText, CommaSeparatedFiles) {
    auto strict = read_six_field_csv("q,A,B,C,D,answer\r\n\"a \"\"b\"\", c\nd\",1,2,,4,0\n");
    ASSERT_TRUE(strict.ok());
    ASSERT_EQ(strict->size(), 1u);
    EXPECT_EQ((*strict)[0], (std::vector<std::string>{"a \"b\", c\nd", "1", "2", "", "4", "0"}));
    auto loose = read_six_field_csv("q,A,B,C,D,answer\n\"a \"b\", \"\"c\",\"1\",\"2\",\"3\",\"4\",2\n\"x\",\"1\",\"2\",\"3\",\"4\",0");
    ASSERT_TRUE(loose.ok()) << loose.error().to_string();
    ASSERT_EQ(loose->size(), 2u);
    EXPECT_EQ((*loose)[0], (std::vector<std::string>{"a \"b\", \"\"c", "1", "2", "3", "4", "2"}));
    EXPECT_FALSE(read_six_field_csv("h\n\"a\" b,\"c\",1\n").ok());
}

TEST(TaskSets, NameWhatIsWrong) {
    auto message = [](const std::string& task, const std::string& folder) {
        auto sets = load_task_sets(task, folder, 0);
        return sets.ok() ? std::string("loaded") : sets.error().to_string();
    };
    EXPECT_NE(message("arc", SKIFF_TEST_DATA_DIR).find("unknown task 'arc'"), std::string::npos);
    EXPECT_NE(message("piqa", SKIFF_TEST_DATA_DIR).find("--tasks-dir"), std::string::npos);
    EXPECT_NE(message("mmlu", SKIFF_TEST_DATA_DIR).find("--tasks-dir"), std::string::npos);
}

}  // namespace
}  // namespace skiff
