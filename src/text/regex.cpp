#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>

#include "text/unicode.h"

namespace skiff {
namespace {

constexpr std::size_t max_pattern_bytes = 64 * 1024;
constexpr std::size_t max_jit_stack_bytes = std::size_t{256} << 20;  // grows on demand; a long group repeat needs it
constexpr std::string_view white_space = R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
// Letters, marks, decimal and letter numbers, connectors; the few other numbers of Latin-1; circled and squared letters.
constexpr std::string_view word = R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";

// Rewrites the escapes whose sets differ: PCRE2 counts U+180E as a space and knows no marks in \w.
Result<std::string> translate(std::string_view pattern) {
    // A space run that must end at a line's end: started inside a run it can only fail again, after work in proportion to the run.
    if (pattern == R"(\s+$)") return R"((?<![)" + std::string(white_space) + R"(])[)" + std::string(white_space) + R"(]+$)";
    std::string out;
    int class_depth = 0;
    for (std::size_t i = 0; i < pattern.size(); ++i) {
        const char c = pattern[i];
        if (c == '\\' && i + 1 < pattern.size()) {
            const char next = pattern[++i];
            const bool lower = next == 's' || next == 'w';
            if ((lower || next == 'S' || next == 'W') && (lower || class_depth == 0)) {
                const auto set = next == 's' || next == 'S' ? white_space : word;
                out += class_depth > 0 ? std::string(set) : (lower ? "[" : "[^") + std::string(set) + "]";
            } else if (next == 'h' && class_depth == 0) {
                out += "[0-9a-fA-F]";
            } else {
                out += c;
                out += next;
            }
            continue;
        }
        if (class_depth > 0 && c == '&' && i + 1 < pattern.size() && pattern[i + 1] == '&') {
            return unsupported("regular expression \"" + std::string(pattern) + "\" uses a set intersection (&&)");
        }
        if (c == '[') {
            const bool posix = class_depth > 0 && i + 1 < pattern.size() && pattern[i + 1] == ':';
            if (class_depth > 0 && !posix) {  // a set within a set: its members join the outer one
                if (i + 1 < pattern.size() && pattern[i + 1] == '^') {
                    return unsupported("regular expression \"" + std::string(pattern) + "\" has a negated set within a set");
                }
                ++class_depth;
                continue;
            }
            if (posix) {
                const auto end = pattern.find(":]", i);
                if (end == std::string_view::npos) return corrupt("regular expression with an open [: class");
                out += pattern.substr(i, end + 2 - i);
                i = end + 1;
                continue;
            }
            class_depth = 1;
            out += c;
            if (i + 1 < pattern.size() && pattern[i + 1] == '^') out += pattern[++i];
            if (i + 1 < pattern.size() && pattern[i + 1] == ']') out += pattern[++i];  // a leading ] is a member
            continue;
        }
        if (c == ']' && class_depth > 0 && --class_depth > 0) continue;
        out += c;
    }
    return out;
}

// Per thread: what a match needs to write to.
struct Workspace {
    pcre2_match_data* match_data = pcre2_match_data_create(1, nullptr);
    pcre2_match_context* context = pcre2_match_context_create(nullptr);
    pcre2_jit_stack* stack = pcre2_jit_stack_create(64 * 1024, max_jit_stack_bytes, nullptr);
    Workspace() {
        if (context && stack) pcre2_jit_stack_assign(context, nullptr, stack);
    }
    ~Workspace() {
        pcre2_match_data_free(match_data);
        pcre2_match_context_free(context);
        pcre2_jit_stack_free(stack);
    }
};

std::string message_of(int code) {
    PCRE2_UCHAR buffer[256];
    if (pcre2_get_error_message(code, buffer, sizeof buffer) < 0) return "error " + std::to_string(code);
    return reinterpret_cast<const char*>(buffer);
}

}  // namespace

struct Regex::Code {
    pcre2_code* compiled = nullptr;
    ~Code() { pcre2_code_free(compiled); }
};

Result<Regex> Regex::compile(std::string_view pattern) {
    if (pattern.size() > max_pattern_bytes) {
        return resource_error("regular expression of " + std::to_string(pattern.size()) + " bytes; at most " + std::to_string(max_pattern_bytes));
    }
    SKIFF_TRY(auto translated, translate(pattern));
    auto code = std::make_shared<Code>();
    pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
    if (!context) return resource_error("no memory for a regular expression");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(context, 100);
    int error = 0;
    PCRE2_SIZE offset = 0;
    // No lookbehind escapes (\C, \K in lookaround): a match must lie on character boundaries and go forward.
    code->compiled = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, context);
    pcre2_compile_context_free(context);
    if (!code->compiled) {
        return corrupt("regular expression \"" + std::string(pattern.substr(0, 200)) + "\": " + message_of(error) + " near character " +
                       std::to_string(offset));
    }
    pcre2_jit_compile(code->compiled, PCRE2_JIT_COMPLETE);  // where it fails, the interpreter works
    return Regex(std::move(code), std::string(pattern));
}

Status Regex::for_each_match(std::string_view text, FunctionRef<void(std::size_t, std::size_t)> on_match) const {
    thread_local Workspace workspace;
    if (!workspace.match_data || !workspace.context) return resource_error("no memory for a regular expression match");
    const std::size_t limit = std::min<std::size_t>(1'000'000 + 64 * text.size(), 0xFFFFFFF0);
    pcre2_set_match_limit(workspace.context, static_cast<std::uint32_t>(limit));
    pcre2_set_heap_limit(workspace.context, 4u << 20);  // KiB
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    for (std::size_t at = 0; at <= text.size() && !text.empty();) {
        int found = pcre2_match(code_->compiled, subject, text.size(), at, PCRE2_NO_UTF_CHECK, workspace.match_data, workspace.context);
        if (found == PCRE2_ERROR_JIT_STACKLIMIT) {
            found = pcre2_match(code_->compiled, subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, workspace.match_data,
                                workspace.context);
        }
        if (found == PCRE2_ERROR_NOMATCH) break;
        if (found < 0) {
            return resource_error("regular expression \"" + pattern_.substr(0, 200) + "\" on " + std::to_string(text.size()) +
                                  " bytes: " + message_of(found));
        }
        const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(workspace.match_data);
        const std::size_t begin = ends[0], end = ends[1];
        if (begin < at || end < begin || end > text.size()) {
            return unsupported("regular expression \"" + pattern_.substr(0, 200) + "\" moves the start of its match");
        }
        on_match(begin, end);
        at = end;
        if (begin == end) {
            if (at >= text.size()) break;
            at += static_cast<std::size_t>(utf8_lead_length(static_cast<unsigned char>(text[at])));
        }
    }
    return {};
}

}  // namespace skiff
