// What a verb of the command line is: options described once by fields(), a function, a row in the table (table.cpp).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/progress.h"
#include "base/result.h"

namespace skiff {

// Visits every option of a verb; parsing, help, completion and the docs come from the same description.
// `flags` as users type them: "-p,--prompt". A positional has a plain name: "MODEL".
class FieldVisitor {
public:
    virtual ~FieldVisitor() = default;
    enum class Need : std::uint8_t { required, optional };
    virtual void positional(const char* name, std::string& value, const char* help, Need need) = 0;
    virtual void positional(const char* name, std::vector<std::string>& value, const char* help, Need need) = 0;
    virtual void option(const char* flags, std::string& value, const char* help) = 0;
    virtual void option(const char* flags, std::vector<std::string>& value, const char* help) = 0;  // may be repeated
    virtual void option(const char* flags, std::int64_t& value, const char* help) = 0;
    virtual void option(const char* flags, std::uint64_t& value, const char* help) = 0;
    virtual void option(const char* flags, double& value, const char* help) = 0;
    virtual void flag(const char* flags, bool& value, const char* help) = 0;
    virtual void choice(const char* flags, std::string& value, std::vector<std::string> choices, const char* help) = 0;
    // Gets, once the command line is parsed, the long names of the options that stand on it: for verbs of which some options concern some models alone.
    virtual void typed(std::vector<std::string>&) {}
};

// Where a verb prints. Results go to stdout (text, or one JSON document with --json), progress and remarks to stderr.
class Terminal {
public:
    explicit Terminal(bool json) : json_(json) {}
    bool json() const { return json_; }
    void print(std::string_view text);             // stdout; nothing with --json
    void print_raw(std::string_view text);         // stdout, flushed, also with --json: streamed text
    void remark(std::string_view text);            // stderr
    void result(const Json& document);             // stdout, only with --json
    ProgressSink progress(std::string_view unit);  // a bar with rate and ETA on stderr if that is a terminal; else nothing
    void end_progress();

private:
    bool json_;
    double progress_begin_ = 0, progress_last_ = 0;
    bool progress_shown_ = false;
};

struct Verb {
    std::string name, summary;
    std::vector<std::string> examples;  // full command lines; the first is shown in the overview
    std::function<void(FieldVisitor&)> fields;
    std::function<Status(Terminal&)> run;
    bool json = false;  // set by --json, which every verb has
};

// Makes a verb of an options struct with `void fields(FieldVisitor&)` and a function `Status(Options&, Terminal&)`.
template <class Options>
std::unique_ptr<Verb> make_verb(std::string name, std::string summary, std::vector<std::string> examples, Status (*run)(Options&, Terminal&)) {
    auto options = std::make_shared<Options>();
    auto verb = std::make_unique<Verb>();
    verb->name = std::move(name);
    verb->summary = std::move(summary);
    verb->examples = std::move(examples);
    verb->fields = [options](FieldVisitor& visitor) { options->fields(visitor); };
    verb->run = [options, run](Terminal& terminal) { return run(*options, terminal); };
    return verb;
}

// The table of verbs (table.cpp), made anew at each call.
std::vector<std::unique_ptr<Verb>> verb_table();

}  // namespace skiff
