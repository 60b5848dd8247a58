// The only file that includes CLI11.
#include "cli/parse.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <new>
#include <stdexcept>

#include "base/thread_limit.h"
#include "cli/verb.h"

namespace skiff {
namespace {

class Cli11Visitor final : public FieldVisitor {
public:
    explicit Cli11Visitor(CLI::App& app) : app_(app) {}
    void positional(const char* name, std::string& value, const char* help, Need need) override { require(app_.add_option(name, value, help), need); }
    void positional(const char* name, std::vector<std::string>& value, const char* help, Need need) override {
        require(app_.add_option(name, value, help), need);
    }
    void option(const char* flags, std::string& value, const char* help) override { app_.add_option(flags, value, help)->capture_default_str(); }
    void option(const char* flags, std::vector<std::string>& value, const char* help) override {
        app_.add_option(flags, value, help)->allow_extra_args(false)->take_all();
    }
    void option(const char* flags, std::int64_t& value, const char* help) override { app_.add_option(flags, value, help)->capture_default_str(); }
    void option(const char* flags, std::uint64_t& value, const char* help) override { app_.add_option(flags, value, help)->capture_default_str(); }
    void option(const char* flags, double& value, const char* help) override { app_.add_option(flags, value, help)->capture_default_str(); }
    void flag(const char* flags, bool& value, const char* help) override { app_.add_flag(flags, value, help); }
    void choice(const char* flags, std::string& value, std::vector<std::string> choices, const char* help) override {
        app_.add_option(flags, value, help)->capture_default_str()->check(CLI::IsMember(std::move(choices)));
    }

    void typed(std::vector<std::string>& names) override { typed_ = &names; }
    // After parsing.
    void tell_typed() const {
        if (typed_ == nullptr) return;
        for (const CLI::Option* option : app_.get_options())
            if (option->count() > 0 && !option->get_lnames().empty()) typed_->push_back("--" + option->get_lnames().front());
    }

private:
    static void require(CLI::Option* option, Need need) {
        if (need == Need::required) option->required();
    }
    CLI::App& app_;
    std::vector<std::string>* typed_ = nullptr;
};

std::string footer(const Verb& verb) {
    std::string text = "Examples:";
    for (const std::string& example : verb.examples) text += "\n  " + example;
    return text;
}

int report(const Error& error, const Verb* verb, bool json) {
    std::fprintf(stderr, "skiff%s%s: error: %s\n", verb ? " " : "", verb ? verb->name.c_str() : "", error.to_string().c_str());
    if (json) {
        Json document = Json::object({{"error", Json::object({{"code", Json(error_code_name(error.code))}, {"message", Json(error.to_string())}})}});
        std::printf("%s\n", document.dump(2).c_str());
    }
    return exit_code(error.code);
}

int run_verb(Verb& verb) {
    Terminal terminal(verb.json);
    try {
        Status status = verb.run(terminal);
        terminal.end_progress();
        std::fflush(stdout);
        return status.ok() ? 0 : report(status.error(), &verb, verb.json);
    } catch (const std::bad_alloc&) {
        return report(resource_error("out of memory; close other programs, or take a smaller model, context or batch"), &verb, verb.json);
    } catch (const std::length_error&) {  // of a standard container, asked for more than an address space holds
        return report(resource_error("out of memory: a size is beyond what this machine can address"), &verb, verb.json);
    }
}

// An option that there is not, before what its being there hides.
std::string what_is_wrong(const CLI::App& app, const CLI::ParseError& error) {
    for (const std::string& rest : app.remaining(true))
        if (rest.size() > 1 && rest[0] == '-') return "there is no option " + rest.substr(0, rest.find('=')).substr(0, 60);
    if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr)
        if (const auto rest = app.remaining(true); !rest.empty()) return "\"" + rest.front().substr(0, 60) + "\" is one argument too many";
    return error.what();
}

// --threads holds for all work, also where nobody hands the number on. What is out of range, the verb refuses.
void limit_threads(const CLI::App& app) {
    const CLI::Option* option = app.get_option_no_throw("--threads");
    if (option == nullptr || option->count() == 0) return;
    const auto n = option->as<std::int64_t>();
    if (n > 0 && n <= 1024) set_default_thread_count(static_cast<int>(n));
}

}  // namespace

int run_command_line(int argc, char** argv) {
    CLI::App app{"skiff: make a trained language model smaller and faster, prove it, run it", "skiff"};
    app.set_version_flag("-V,--version", std::string("skiff ") + SKIFF_VERSION);
    app.require_subcommand(1);
    app.set_help_all_flag("--help-all", "Help for all verbs");
    auto verbs = verb_table();
    std::vector<CLI::App*> subcommands;
    std::vector<Cli11Visitor> visitors;
    for (auto& verb : verbs) {
        CLI::App* sub = app.add_subcommand(verb->name, verb->summary);
        sub->footer(footer(*verb));
        verb->fields(visitors.emplace_back(*sub));
        sub->add_flag("--json", verb->json, "Print one JSON document with stable keys instead of text");
        subcommands.push_back(sub);
    }
    const Verb* verb = nullptr;
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        if (error.get_exit_code() == 0) return app.exit(error);
        for (std::size_t i = 0; i < verbs.size(); ++i)
            if (subcommands[i]->parsed()) verb = verbs[i].get();
        const bool json = std::any_of(argv, argv + argc, [](const char* argument) { return std::string_view(argument) == "--json"; });
        const std::string first = argc > 1 ? std::string(argv[1]).substr(0, 60) : "";
        const std::string wrong = verb == nullptr && !first.empty() && first[0] != '-' ? "\"" + first + "\" is no verb" : what_is_wrong(app, error);
        return report(usage_error(wrong + "; skiff" + (verb != nullptr ? " " + verb->name : "") + " --help lists what there is"), verb, json);
    }
    for (std::size_t i = 0; i < verbs.size(); ++i)
        if (subcommands[i]->parsed()) {
            visitors[i].tell_typed();
            limit_threads(*subcommands[i]);
            return run_verb(*verbs[i]);
        }
    return 2;
}

}  // namespace skiff
