// A name for a file's contents that costs milliseconds whatever its size, for caches of what was made from it.
#pragma once

#include <string>

#include "base/mapped_file.h"

namespace skiff {

// Size, time of the last change and inode, with a hash over the first MiB and 64 pages spread evenly over the rest. The path is not part of it, so a
// file that was moved keeps its name. A file that was changed in place, with its time set back and outside of the sampled pages, keeps it too.
std::string file_identity(const MappedFile& file);

}  // namespace skiff
