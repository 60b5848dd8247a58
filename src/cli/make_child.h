// What the verbs that make a smaller model have in common: the options of the run, what they print before and after.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cli/verb.h"
#include "compress/pipeline.h"

namespace skiff {

struct ChildOptions {
    std::string model, output, calibration, device = "cpu";
    bool force = false, dry_run = false, restart = false, verbose = false;
    std::int64_t threads = 0, max_shard_mb = 5000, calibration_samples = 32, calibration_tokens = 512;

    std::vector<std::string> typed;  // the long names of all options of the verb that stand on the command line

    void model_and_output(FieldVisitor& visitor);
    void calibration_fields(FieldVisitor& visitor);
    void device_field(FieldVisitor& visitor);  // of verbs whose steps go through the model block by block
    void run_fields(FieldVisitor& visitor);
    Status check() const;  // before the model is opened
    bool is_typed(std::string_view name) const { return std::find(typed.begin(), typed.end(), name) != typed.end(); }
    CalibrationOptions calibration_options() const { return {calibration, calibration_samples, calibration_tokens}; }
};

// Of the options that were given, those about the calibration text.
std::vector<std::string> text_options(const std::vector<std::string>& typed);
// What runs the model for a step that looks at the data; null: the processor does.
Result<std::unique_ptr<BlockRunner>> calibration_device(const std::string& device);

// Runs the recipe and prints estimate, remarks, a table of what became of the tensors, and the document of --json.
Status make_child(const ChildOptions& options, const Checkpoint& parent, const Recipe& recipe, Terminal& terminal);

}  // namespace skiff
