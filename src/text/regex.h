// Regular expressions of tokenizers: PCRE2 in UTF mode with just-in-time compilation, behind one file.
// Patterns follow Oniguruma as Hugging Face uses it: \s, \w and \d by Unicode property, ^ and $ at every line.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "text/function_ref.h"

namespace skiff {

class Regex {
public:
    // An invalid pattern, or one with a construct whose meaning differs between the two engines, is an error.
    static Result<Regex> compile(std::string_view pattern);

    // Calls on_match(begin, end) for every match from left to right; `text` must be valid UTF-8. The work of one match is limited
    // to a multiple of the text's length: no legal pattern comes near, a pattern with exponential backtracking gets an error.
    Status for_each_match(std::string_view text, FunctionRef<void(std::size_t, std::size_t)> on_match) const;

    const std::string& pattern() const { return pattern_; }

private:
    struct Code;
    Regex(std::shared_ptr<const Code> code, std::string pattern) : code_(std::move(code)), pattern_(std::move(pattern)) {}
    std::shared_ptr<const Code> code_;
    std::string pattern_;
};

}  // namespace skiff
