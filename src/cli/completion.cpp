// skiff completion: scripts for bash, zsh and fish, made from the same descriptions as the help.
#include "cli/verbs.h"

namespace skiff {
namespace {

struct CompletionOptions {
    std::string shell = "bash";
    void fields(FieldVisitor& visitor) { visitor.positional("SHELL", shell, "bash, zsh or fish", FieldVisitor::Need::required); }
};

class FlagCollector final : public FieldVisitor {
public:
    struct Flag {
        std::string name, help;
        std::vector<std::string> choices;
    };
    void positional(const char*, std::string&, const char*, Need) override {}
    void positional(const char*, std::vector<std::string>&, const char*, Need) override {}
    void option(const char* names, std::string&, const char* help) override { add(names, help, {}); }
    void option(const char* names, std::vector<std::string>&, const char* help) override { add(names, help, {}); }
    void option(const char* names, std::int64_t&, const char* help) override { add(names, help, {}); }
    void option(const char* names, std::uint64_t&, const char* help) override { add(names, help, {}); }
    void option(const char* names, double&, const char* help) override { add(names, help, {}); }
    void flag(const char* names, bool&, const char* help) override { add(names, help, {}); }
    void choice(const char* names, std::string&, std::vector<std::string> choices, const char* help) override {
        add(names, help, std::move(choices));
    }
    std::vector<Flag> flags;

private:
    void add(const std::string& names, const char* help, std::vector<std::string> choices) {
        const auto comma = names.rfind(',');  // the long name stands last
        flags.push_back({comma == std::string::npos ? names : names.substr(comma + 1), help, std::move(choices)});
    }
};

std::vector<FlagCollector::Flag> flags_of(const Verb& verb) {
    FlagCollector collector;
    verb.fields(collector);
    collector.flags.push_back({"--json", "Print JSON", {}});
    collector.flags.push_back({"--help", "Print help", {}});
    return collector.flags;
}

std::string bash_script(const std::vector<std::unique_ptr<Verb>>& verbs) {
    std::string names, cases;
    for (const auto& verb : verbs) {
        names += (names.empty() ? "" : " ") + verb->name;
        std::string flags;
        for (const auto& flag : flags_of(*verb)) flags += (flags.empty() ? "" : " ") + flag.name;
        cases += "        " + verb->name + ") flags=\"" + flags + "\" ;;\n";
    }
    return "_skiff() {\n    local word=${COMP_WORDS[COMP_CWORD]} flags=\n    if [ \"$COMP_CWORD\" -eq 1 ]; then COMPREPLY=($(compgen -W \"" + names +
           "\" -- \"$word\")); return; fi\n    case ${COMP_WORDS[1]} in\n" + cases +
           "    esac\n    if [[ $word == -* ]]; then COMPREPLY=($(compgen -W \"$flags\" -- \"$word\")); else COMPREPLY=($(compgen -f -- \"$word\")); "
           "fi\n}\ncomplete -o filenames -F _skiff skiff\n";
}

std::string quoted(std::string text) {
    for (std::size_t i = 0; (i = text.find('\'', i)) != std::string::npos; i += 4) text.replace(i, 1, "'\\''");
    return "'" + text + "'";
}

std::string zsh_script(const std::vector<std::unique_ptr<Verb>>& verbs) {
    std::string script = "#compdef skiff\n_skiff() {\n    if (( CURRENT == 2 )); then\n        local -a verbs=(";
    for (const auto& verb : verbs) script += "\n            " + quoted(verb->name + ":" + verb->summary);
    script += ")\n        _describe verb verbs\n        return\n    fi\n    case $words[2] in\n";
    for (const auto& verb : verbs) {
        script += "        " + verb->name + ") _values -w option";
        for (const auto& flag : flags_of(*verb)) script += " " + flag.name;
        script += "; _files ;;\n";
    }
    return script + "    esac\n}\ncompdef _skiff skiff\n";
}

std::string fish_script(const std::vector<std::unique_ptr<Verb>>& verbs) {
    std::string script;
    for (const auto& verb : verbs) {
        script += "complete -c skiff -n __fish_use_subcommand -f -a " + verb->name + " -d " + quoted(verb->summary) + "\n";
        for (const auto& flag : flags_of(*verb)) {
            script += "complete -c skiff -n '__fish_seen_subcommand_from " + verb->name + "' -l " +
                      flag.name.substr(flag.name.find_first_not_of('-')) + " -d " + quoted(flag.help);
            for (std::size_t i = 0; i < flag.choices.size(); ++i) script += i == 0 ? " -xa '" + flag.choices[i] : " " + flag.choices[i];
            script += flag.choices.empty() ? "\n" : "'\n";
        }
    }
    return script;
}

Status run_completion(CompletionOptions& options, Terminal& terminal) {
    auto verbs = verb_table();
    std::string script;
    if (options.shell == "bash") script = bash_script(verbs);
    else if (options.shell == "zsh") script = zsh_script(verbs);
    else if (options.shell == "fish") script = fish_script(verbs);
    else return usage_error(options.shell + ": no such shell here; choose bash, zsh or fish");
    if (!terminal.json()) terminal.print_raw(script);
    terminal.result(Json::object({{"shell", options.shell}, {"script", script}}));
    return {};
}

}  // namespace

std::unique_ptr<Verb> completion_verb_row() {
    return make_verb<CompletionOptions>("completion", "Print a completion script for a shell",
                                        {"skiff completion bash > /etc/bash_completion.d/skiff"}, run_completion);
}

}  // namespace skiff
