// The files of a model folder that a compressed child takes over unchanged: tokenizer, generation settings, licence.
#pragma once

#include <string>

#include "base/result.h"
#include "model/checkpoint.h"

namespace skiff {

Status copy_parent_files(const Checkpoint& parent, const std::string& folder);

// Removes what writers of single files left behind when they were killed ("config.json.tmp1234").
Status remove_temporaries(const std::string& folder);

// Empties a working folder but for one file. Refuses, without removing anything, where it holds what no unfinished run leaves.
Status remove_other_files(const std::string& folder, const std::string& keep);

}  // namespace skiff
