// Writes a file of packed weights (pack_file.h) so that it appears whole or not at all.
#pragma once

#include <memory>
#include <string>

#include "plan/pack_file.h"

namespace skiff {

// Writes the sections that the records' weights point to, beside `path`, and renames. Gives the mapping of the new file; its sections lie where the
// index says. Several processes may write the same path, the last one stays. Nothing is synced to the disk: what a power cut spoils, the checksums show.
Result<std::shared_ptr<const MappedFile>> write_pack_file(const std::string& path, PackIndex& index, ThreadPool& pool);

// Removes what killed processes left half written.
void remove_dead_pack_files(const std::string& folder);

}  // namespace skiff
