// What the exports to Hugging Face folders share: plain tensors in a wanted type, and the files beside the weights.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "base/json.h"
#include "formats/checkpoint_files.h"
#include "model/checkpoint.h"

namespace skiff {

bool is_float_type(DType dtype);  // F32, F16 or BF16: what folders hold as plain weights

// Blocks and codes of a matrix that is declared the other way round are held as (outputs, inputs). (A square one does not show it.)
// columns: keys_stored_as_columns
bool is_turned(const Weight& weight, const std::string& key, const std::set<std::string>& columns);

// What rounding to another type changes: sums of squares.
struct RoundingLoss {
    double error = 0, square = 0;
    double relative() const { return square > 0 ? error / square : 0; }
};

// Decodes, turns back where it is turned, and rounds as the declaration says; gives what that loses. Its shape is checked here. An F16 that a number does not fit is an error.
Result<RoundingLoss> write_plain_tensor(CheckpointWriter& writer, const TensorDeclaration& declared, Weight weight, const std::set<std::string>& columns);

// Tokenizer and generation files of a source folder, by name; none for other sources.
std::vector<std::string> files_to_copy(const Checkpoint& checkpoint);
// config.json and these files; for a GGUF source what it says about the end of a text and how to chat.
Status write_folder_files(const Checkpoint& checkpoint, const Json& config, const std::vector<std::string>& files, const std::string& folder);

}  // namespace skiff
