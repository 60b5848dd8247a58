// A model folder whose weight files are entropy coded, or no longer: the same model, to the bit, in fewer bytes on disk (formats/coded_tensor.h).
#pragma once

#include <string>

#include "base/result.h"
#include "formats/recode.h"
#include "model/checkpoint.h"

namespace skiff {

// Into a folder that exists; where `folder` is empty, only the report. The manifest is copied as it is: what it says stays true.
Result<RecodeReport> write_recoded(const Checkpoint& checkpoint, const std::string& folder, const RecodeOptions& options);

}  // namespace skiff
