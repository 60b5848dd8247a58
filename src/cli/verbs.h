// One function per verb, each in a file of its name; table.cpp lists them.
#pragma once

#include "cli/verb.h"

namespace skiff {

std::unique_ptr<Verb> run_verb_row();

}  // namespace skiff
