// The only file that includes yaml-cpp.
#include "cli/recipe_file.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <map>

#include "base/mapped_file.h"
#include "cli/verb.h"

namespace skiff {
namespace {

constexpr std::size_t max_recipe_bytes = std::size_t{1} << 20;

constexpr StepVerb verbs_of_steps[] = {
    {"quantize", StepRole::makes},
    {"rotate", StepRole::makes},
    {"prune", StepRole::makes},
    {"factorize", StepRole::makes},
    {"share", StepRole::makes},
    {"train", StepRole::makes},
    {"distill", StepRole::makes},
    {"recover", StepRole::makes},
    {"qat", StepRole::makes},
    {"convert", StepRole::exports},
    {"eval", StepRole::looks},
    {"bench", StepRole::looks},
};

// The options of a verb by their long names.
class OptionTable final : public FieldVisitor {
public:
    enum class Kind : std::uint8_t { text, list, integer, real, flag, choice };
    struct Option {
        Kind kind;
        std::vector<std::string> choices;
    };
    void positional(const char*, std::string&, const char*, Need) override {}
    void positional(const char*, std::vector<std::string>&, const char*, Need) override {}
    void option(const char* flags, std::string&, const char*) override { add(flags, {Kind::text, {}}); }
    void option(const char* flags, std::vector<std::string>&, const char*) override { add(flags, {Kind::list, {}}); }
    void option(const char* flags, std::int64_t&, const char*) override { add(flags, {Kind::integer, {}}); }
    void option(const char* flags, std::uint64_t&, const char*) override { add(flags, {Kind::integer, {}}); }
    void option(const char* flags, double&, const char*) override { add(flags, {Kind::real, {}}); }
    void flag(const char* flags, bool&, const char*) override { add(flags, {Kind::flag, {}}); }
    void choice(const char* flags, std::string&, std::vector<std::string> choices, const char*) override { add(flags, {Kind::choice, std::move(choices)}); }

    const Option* find(const std::string& name) const {
        const auto found = options_.find(name);
        return found == options_.end() ? nullptr : &found->second;
    }
    std::string names() const {
        std::string all;
        for (const auto& [name, option] : options_) all += (all.empty() ? "" : ", ") + name;
        return all;
    }

private:
    void add(const std::string& flags, Option option) {
        const std::size_t at = flags.rfind("--");
        if (at != std::string::npos) options_.emplace(flags.substr(at + 2), std::move(option));
    }
    std::map<std::string, Option> options_;
};

class Reader {
public:
    explicit Reader(std::string name) : name_(std::move(name)) {}

    Result<std::vector<RecipeLine>> read(const YAML::Node& root) {
        if (!root.IsMap()) return at(root, "a recipe is a mapping with the key \"steps\"");
        for (const auto& entry : root)
            if (entry.first.Scalar() != "steps") return at(entry.first, "unknown key \"" + entry.first.Scalar() + "\"; a recipe has: steps");
        const YAML::Node steps = root["steps"];
        if (!steps.IsDefined() || !steps.IsSequence() || steps.size() == 0) return at(steps.IsDefined() ? steps : root, "\"steps\" must be a list of at least one verb");
        std::vector<RecipeLine> lines;
        for (const YAML::Node& step : steps) {
            SKIFF_TRY(auto line, read_step(step));
            lines.push_back(std::move(line));
        }
        if (std::none_of(lines.begin(), lines.end(), [](const RecipeLine& line) { return line.role == StepRole::makes; }))
            return at(steps, "no step makes a model; there are: " + verb_names());
        return lines;
    }

private:
    Error at(const YAML::Node& node, const std::string& text) const { return usage_error(name_ + ", line " + std::to_string(node.Mark().line + 1) + ": " + text); }

    static std::string verb_names() {
        std::string names;
        for (const StepVerb& row : verbs_of_steps) names += (names.empty() ? "" : ", ") + std::string(row.verb);
        return names;
    }

    Result<RecipeLine> read_step(const YAML::Node& step) const {
        RecipeLine line;
        line.line = step.Mark().line + 1;
        YAML::Node options;
        if (step.IsScalar()) {
            line.verb = step.Scalar();
        } else if (step.IsMap() && step.size() == 1) {
            line.verb = step.begin()->first.Scalar();
            options = step.begin()->second;
        } else {
            return at(step, "a step is a verb, or a verb with a mapping of its options: \"- quantize: {scheme: w4g32}\"");
        }
        const auto* row = std::find_if(std::begin(verbs_of_steps), std::end(verbs_of_steps), [&](const StepVerb& each) { return each.verb == line.verb; });
        if (row == std::end(verbs_of_steps)) return at(step, "\"" + line.verb.substr(0, 64) + "\" is no step; there are: " + verb_names());
        line.role = row->role;
        OptionTable table;
        for (const auto& verb : verb_table())
            if (verb->name == line.verb) verb->fields(table);
        if (options.IsDefined() && !options.IsNull() && !options.IsMap()) return at(options, "the options of " + line.verb + " must be a mapping");
        bool has_output = false;
        for (const auto& entry : options) {
            const std::string name = entry.first.Scalar();
            const OptionTable::Option* option = table.find(name);
            const bool given_by_runner = line.role == StepRole::makes && (name == "output" || name == "force" || name == "restart" || name == "dry-run");
            if (given_by_runner) return at(entry.first, "\"" + name + "\" is for the command line of compress, not for a step");
            if (option == nullptr) return at(entry.first, line.verb + " has no option \"" + name.substr(0, 64) + "\"; it has: " + table.names());
            has_output = has_output || name == "output";
            SKIFF_CHECK(add_option(name, *option, entry.second, line));
        }
        if (line.role == StepRole::exports && !has_output) {
            const bool goes_on = std::find(line.arguments.begin(), line.arguments.end(), "--to=hf") != line.arguments.end();
            if (!goes_on) return at(step, line.verb + " needs \"output\": it writes beside the result, which is the model of the step before; without one only plain numbers (to: hf) are what the next step begins with");
            line.role = StepRole::makes;
        }
        return line;
    }

    Status add_option(const std::string& name, const OptionTable::Option& option, const YAML::Node& value, RecipeLine& line) const {
        using Kind = OptionTable::Kind;
        if (option.kind == Kind::flag) {
            bool on = false;
            if (!value.IsScalar() || !YAML::convert<bool>::decode(value, on)) return at(value, name + ": expected true or false");
            if (on) line.arguments.push_back("--" + name);
            return {};
        }
        if (option.kind == Kind::list && value.IsSequence()) {
            for (const YAML::Node& item : value) SKIFF_CHECK(add_text(name, item, line));
            return {};
        }
        std::int64_t integer = 0;
        double real = 0;
        if (!value.IsScalar()) return at(value, name + ": expected one value");
        if (option.kind == Kind::integer && !YAML::convert<std::int64_t>::decode(value, integer)) return at(value, name + ": expected a whole number, found \"" + value.Scalar().substr(0, 64) + "\"");
        if (option.kind == Kind::real && !YAML::convert<double>::decode(value, real)) return at(value, name + ": expected a number, found \"" + value.Scalar().substr(0, 64) + "\"");
        if (option.kind == Kind::choice && std::find(option.choices.begin(), option.choices.end(), value.Scalar()) == option.choices.end()) {
            std::string known;
            for (const std::string& choice : option.choices) known += (known.empty() ? "" : ", ") + choice;
            return at(value, name + ": \"" + value.Scalar().substr(0, 64) + "\" is not among " + known);
        }
        return add_text(name, value, line);
    }

    Status add_text(const std::string& name, const YAML::Node& value, RecipeLine& line) const {
        if (!value.IsScalar()) return at(value, name + ": expected text");
        line.arguments.push_back("--" + name + "=" + value.Scalar());  // with "=", so that a value may begin with a dash
        return {};
    }

    std::string name_;
};

}  // namespace

std::span<const StepVerb> step_verbs() { return verbs_of_steps; }

Result<std::vector<RecipeLine>> parse_recipe(const std::string& yaml, const std::string& name) {
    try {
        const YAML::Node root = YAML::Load(yaml);
        return Reader(name).read(root);
    } catch (const YAML::Exception& error) {
        return usage_error(name + ", line " + std::to_string(error.mark.line + 1) + ": not YAML: " + error.msg);
    }
}

Result<std::vector<RecipeLine>> read_recipe(const std::string& path) {
    SKIFF_TRY(const auto text, read_text_file(path, max_recipe_bytes));
    return parse_recipe(text, path);
}

}  // namespace skiff
