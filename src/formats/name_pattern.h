// Patterns for names of modules in the configs of quantized checkpoints: Python's regular expressions, matched as re.match does (anchored at the
// front only), with limits, since they come from outside.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace skiff {

class NamePattern {
public:
    NamePattern() = default;  // matches nothing
    // `where` begins the messages.
    static Result<NamePattern> compile(std::string expression, std::string where);

    Result<bool> matches(std::string_view name) const;
    bool empty() const { return compiled_ == nullptr; }

private:
    std::string text_, where_;
    std::shared_ptr<const void> compiled_;
};

// An expression that matches this name alone.
std::string pattern_of_name(std::string_view name);

}  // namespace skiff
