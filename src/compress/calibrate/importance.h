// Importance matrices of llama.cpp as what a method knows of inputs, and ours in their form.
#pragma once

#include <map>
#include <string>

#include "base/json.h"
#include "base/progress.h"
#include "compress/calibrate/walk.h"
#include "formats/imatrix.h"

namespace skiff {

// Statistics that hold the mean squares of columns and nothing else: what weighted, hqq and kmeans look at.
class ImportanceFile {
public:
    // Of a model whose architecture GGUF has names for. An error where the file has nothing for this model, or entries of another size.
    static Result<ImportanceFile> open(const std::string& path, const Checkpoint& model);
    const InputStatistics* find(const std::string& key) const;  // null: the file says nothing of this weight
    Json json() const;                                          // {"name", "sha256", "datasets", "chunks", "tensors"}

private:
    std::map<std::string, InputStatistics> statistics_;
    Json json_;
};

// What the weights of the model's decoder blocks are multiplied with over the text, as the float model gives it.
Result<Imatrix> measure_importance(const Checkpoint& model, const CalibrationText& text, int n_threads, const ProgressSink& progress);

}  // namespace skiff
