// The conversation on a terminal.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "cli/verb.h"
#include "runtime/engine.h"

namespace skiff {

// Messages through the model's template, with the prompt for an answer at the end.
Result<std::vector<std::int32_t>> chat_tokens(Engine& engine, const Json& messages);

// Reads lines from standard input until /bye or its end. """ begins and ends a text of several lines. Ctrl-C ends it.
Status chat_loop(Engine& engine, GenerateOptions options, const std::string& system, Terminal& terminal);

}  // namespace skiff
