#include "base/output_place.h"

#include <cstdlib>
#include <memory>

namespace skiff {
namespace {

// Without links, dots and repeated slashes; empty where there is no such file or folder.
std::string resolved(const std::string& path) {
    const std::unique_ptr<char, void (*)(void*)> real(::realpath(path.c_str(), nullptr), std::free);
    return real ? real.get() : "";
}

}  // namespace

Status check_output_apart(const std::string& output, const std::string& source) {
    const std::string there = resolved(output), model = resolved(source);
    if (there.empty() || model.empty()) return {};
    const char* advice = "; write beside it, and put the result in its place when it is what you want";
    if (there == model) return usage_error(output + ": is the model that is read, which would be replaced, with all other files in it" + advice);
    if (there == "/" || model.starts_with(there + "/")) return usage_error(output + ": holds " + source + ", the model that is read, which would be replaced with it" + advice);
    return {};
}

}  // namespace skiff
