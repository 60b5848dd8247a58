// Runs this program again with other arguments, so that a measurement has a process (and a peak memory) of its own.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"

namespace skiff {

// `skiff ARGUMENTS... --json`: its document. Its progress shows on our stderr. An error carries the other process's message.
Result<Json> run_self_json(const std::vector<std::string>& arguments);

// The same with the program of that name beside this one. not_found: it is not there.
Result<Json> run_sibling_json(const std::string& name, const std::vector<std::string>& arguments);

// This program as a user here would type it: relative to the current folder when it lies below it.
std::string own_program_path();

// `skiff ARGUMENTS...` with our own stdout and stderr.
Status run_self(const std::vector<std::string>& arguments);

// The arguments that this process was started with, the name it was called by first.
std::vector<std::string> own_arguments();

// Replaces this process by the program of that name beside it, with this process's arguments. Returns only an error; not_found: it is not there.
Status become_sibling(const std::string& name);

}  // namespace skiff
