// skiff compress: a recipe's steps one after the other, each a run of its verb in a process of its own, so that all memory is given back between two.
#include <algorithm>
#include <optional>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "base/output_place.h"
#include "base/progress.h"
#include "cli/format.h"
#include "cli/recipe_file.h"
#include "cli/subprocess.h"
#include "cli/verbs.h"
#include "compress/manifest.h"
#include "eval/step_words.h"
#include "model/checkpoint.h"

namespace skiff {
namespace {

constexpr const char* parent_word = "$parent";

struct CompressVerbOptions {
    std::string model, recipe, output;
    bool force = false, restart = false, dry_run = false;

    void fields(FieldVisitor& visitor) {
        visitor.positional("MODEL", model, "A Hugging Face folder, a .gguf file, or random:CONFIG.json", FieldVisitor::Need::required);
        visitor.option("--recipe", recipe, "YAML file: a list \"steps\" of verbs with their options; $parent stands for MODEL");
        visitor.option("-o,--output", output, "Folder of the result; what the steps leave in between waits in OUTPUT.steps until all are done");
        visitor.flag("--force", force, "Replace the output folder if it exists");
        visitor.flag("--restart", restart, "Drop an unfinished run of the same output instead of going on with it");
        visitor.flag("--dry-run", dry_run, "Print the commands that would run, and stop");
    }
};

// A command line of each step: what it reads, what it writes.
struct Command {
    std::vector<std::string> arguments;
    StepRole role;
    int line;
    std::string model;  // that is there behind it; "": still the one that the recipe began with
};

std::string replaced(std::string text, const std::string& word, const std::string& by) {
    for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + by.size())) text.replace(at, word.size(), by);
    return text;
}

std::vector<Command> commands_of(const std::vector<RecipeLine>& lines, const CompressVerbOptions& options) {
    std::size_t last = 0;
    for (std::size_t i = 0; i < lines.size(); ++i)
        if (lines[i].role == StepRole::makes) last = i;
    std::vector<Command> commands;
    std::string model = options.model;
    for (std::size_t i = 0; i < lines.size(); ++i) {
        Command command{{lines[i].verb, model}, lines[i].role, lines[i].line, {}};
        for (const std::string& argument : lines[i].arguments) command.arguments.push_back(replaced(argument, parent_word, options.model));
        if (lines[i].role == StepRole::makes) {
            model = i == last ? options.output : join_path(options.output + ".steps", std::to_string(i + 1) + "-" + lines[i].verb);
            command.arguments.insert(command.arguments.end(), {"-o", model});
            if (i == last && options.force) command.arguments.push_back("--force");
        }
        if (model != options.model) {
            command.model = model;
            const bool notes = std::find(command.arguments.begin(), command.arguments.end(), "--note") != command.arguments.end();
            const bool measures = std::none_of(command.arguments.begin(), command.arguments.end(), [](const std::string& argument) {
                return argument == "--dry-run" || (argument.starts_with("--soft-labels") && argument != "--soft-labels=0");
            });
            if (lines[i].verb == "eval" && measures && !notes) command.arguments.push_back("--note");
        }
        commands.push_back(std::move(command));
    }
    return commands;
}

Json json_of(const std::vector<std::string>& arguments) {
    Json list = Json::array();
    for (const std::string& argument : arguments) list.push_back(argument);
    return list;
}

std::string text_of(const Command& command) {
    std::string text = "skiff";
    for (const std::string& argument : command.arguments) text += " " + argument;
    return text;
}

// What each step cost and gained, for the manifest of the result: the model that it began with, then behind each step that made one its bytes, the seconds, and
// what an eval behind it found.
class Evidence {
public:
    explicit Evidence(Json steps) : steps_(steps.is_array() ? steps.items() : Json::Array()) {}
    Json json() const { return Json(Json::Array(steps_)); }

    Status add(const Command& command, double seconds, const std::string& parent_hash) {
        if (command.model.empty() || command.role == StepRole::exports) return {};
        const std::string path = join_path(command.model, manifest_file_name);
        if (!file_exists(path)) return {};
        SKIFF_TRY(const auto manifest, read_json_file(path));
        if (command.role == StepRole::makes) return add_model(command, manifest, seconds), Status();
        const Json::Array& found = manifest["evidence"].items();
        if (command.arguments[0] != "eval" || found.empty() || found.back()["kind"].text() != "eval" || steps_.empty()) return {};
        add_figures(found.back(), parent_hash);
        return {};
    }

private:
    void add_model(const Command& command, const Json& manifest, double seconds) {
        if (steps_.empty()) steps_.push_back(Json::object({{"step", manifest["parent"]["name"].text()}, {"bytes", manifest["parent"]["bytes"].int_or(0)}}));
        const Json::Array& made = manifest["steps"].items();
        steps_.push_back(Json::object({{"step", made.empty() ? command.arguments[0] : step_words(made.back(), StepDetail::all)}, {"bytes", manifest["totals"]["bytes"].int_or(0)}, {"seconds", seconds}}));
    }

    static void set(Json& step, const char* key, const Json& figure, const Json& error) {
        if (!figure.is_number()) return;
        step.set(key, figure);
        step.set(std::string(key) + "_stderr", error);
    }
    void add_figures(const Json& eval, const std::string& parent_hash) {
        set(steps_.back(), "perplexity", eval["perplexity"]["value"], eval["perplexity"]["stderr"]);
        const Json& against = eval["against"];
        if (against["parent"]["hash"].text() != parent_hash) return;  // another model's
        set(steps_.back(), "mean_kl", against["mean_kl"], against["mean_kl_stderr"]);
        set(steps_.front(), "perplexity", against["parent_perplexity"]["value"], against["parent_perplexity"]["stderr"]);
    }

    Json::Array steps_;
};

// What is done is in OUTPUT.steps/done.json, so that a run that was stopped goes on behind it.
class Progress {
public:
    static Result<Progress> open(const std::string& folder, const std::string& parent_hash, const std::vector<Command>& commands) {
        SKIFF_CHECK(make_directories(folder));
        Progress progress(join_path(folder, "done.json"), parent_hash);
        if (!file_exists(progress.path_)) return progress;
        SKIFF_TRY(progress.done_, read_json_file(progress.path_));
        const Json::Array& steps = progress.done_["steps"].items();
        bool same = progress.done_["parent"].text() == parent_hash && steps.size() <= commands.size();
        for (std::size_t i = 0; same && i < steps.size(); ++i) same = steps[i].dump() == json_of(commands[i].arguments).dump();
        if (!same) return usage_error(folder + ": holds an unfinished run of another recipe, model or output; add --restart to drop it");
        return progress;
    }
    std::size_t n_done() const { return done_["steps"].size(); }
    Json evidence() const { return done_["evidence"]; }
    Status add(const Command& command, Json evidence) {
        Json steps = done_["steps"].is_array() ? done_["steps"] : Json::array();
        steps.push_back(json_of(command.arguments));
        done_ = Json::object({{"parent", parent_hash_}, {"steps", std::move(steps)}, {"evidence", std::move(evidence)}});
        return write_file_atomic(path_, done_.dump(1) + "\n");
    }

private:
    Progress(std::string path, std::string parent_hash) : path_(std::move(path)), parent_hash_(std::move(parent_hash)) {}
    std::string path_, parent_hash_;
    Json done_;
};

Status compress(CompressVerbOptions& options, Terminal& terminal) {
    if (options.recipe.empty()) return usage_error("give a recipe with --recipe; docs/guide.md shows one");
    if (options.output.empty()) return usage_error("give the folder to write with -o");
    SKIFF_TRY(const auto lines, read_recipe(options.recipe));
    const auto commands = commands_of(lines, options);
    if (options.dry_run) {
        Json list = Json::array();
        for (const Command& command : commands) {
            terminal.print(text_of(command));
            list.push_back(json_of(command.arguments));
        }
        terminal.result(Json::object({{"commands", list}}));
        return {};
    }
    SKIFF_CHECK(check_output_apart(options.output, options.model));
    std::string parent_hash;
    {
        SKIFF_TRY(const auto parent, Checkpoint::open(options.model));
        SKIFF_TRY(parent_hash, parent.content_hash());
    }
    const std::string folder = options.output + ".steps";
    if (options.restart) SKIFF_CHECK(remove_all(folder));
    SKIFF_TRY(auto progress, Progress::open(folder, parent_hash, commands));
    if (progress.n_done() == 0 && !options.force && is_directory(options.output)) return usage_error(options.output + ": already exists; give another -o, remove it, or add --force");
    Json documents = Json::array();
    Evidence evidence(progress.evidence());
    const double begin = monotonic_seconds();
    for (std::size_t i = 0; i < commands.size(); ++i) {
        const bool done = i < progress.n_done();
        terminal.remark("step " + std::to_string(i + 1) + " of " + std::to_string(commands.size()) + (done ? " was done: " : ": ") + text_of(commands[i]));
        if (done) continue;
        if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted; run the same command again to go on", {}};
        // Complete, but killed before done.json said so: made anew, since every verb refuses an output that exists.
        if (commands[i].role == StepRole::makes && commands[i].model != options.output && is_directory(commands[i].model)) SKIFF_CHECK(remove_all(commands[i].model));
        Status status;
        const double step_begin = monotonic_seconds();
        if (terminal.json()) {
            auto document = run_self_json(commands[i].arguments);
            if (document.ok()) documents.push_back(Json::object({{"arguments", json_of(commands[i].arguments)}, {"result", std::move(*document)}}));
            else status = document.take_error();
        } else {
            status = run_self(commands[i].arguments);
        }
        if (!status.ok()) return status.take_error().with_context("step " + std::to_string(i + 1) + " (line " + std::to_string(commands[i].line) + " of the recipe)");
        SKIFF_CHECK(evidence.add(commands[i], monotonic_seconds() - step_begin, parent_hash));
        SKIFF_CHECK(progress.add(commands[i], evidence.json()));
    }
    if (file_exists(join_path(options.output, manifest_file_name))) SKIFF_CHECK(append_evidence(options.output, Json::object({{"kind", "recipe"}, {"steps", evidence.json()}})));
    SKIFF_CHECK(remove_all(folder));
    terminal.print("the recipe is done in " + duration_text(monotonic_seconds() - begin) + ": " + options.output);
    terminal.result(Json::object({{"output", options.output}, {"seconds", monotonic_seconds() - begin}, {"steps", documents}}));
    return {};
}

}  // namespace

std::unique_ptr<Verb> compress_verb_row() {
    return make_verb<CompressVerbOptions>("compress", "Make a model smaller by a recipe of several steps", {"skiff compress MODEL --recipe recipe.yaml -o OUT", "skiff compress MODEL --recipe recipe.yaml -o OUT --dry-run"}, compress);
}

}  // namespace skiff
