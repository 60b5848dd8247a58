// Where a result may go.
#pragma once

#include <string>

#include "base/result.h"

namespace skiff {

// Refuses an output that is the model it is made from, or a folder in which that lies: replacing it would take the source away, with whatever else is there.
Status check_output_apart(const std::string& output, const std::string& source);

}  // namespace skiff
