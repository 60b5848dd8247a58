// Where each method is defined, and why not elsewhere: the table that quantize refuses by.
#pragma once

#include "cli/verb.h"

namespace skiff {

// A row for each preset, a column for each method and for the forms of output that not every scheme has; reasons below. JSON: a list of cells.
void show_method_table(Terminal& terminal);

}  // namespace skiff
