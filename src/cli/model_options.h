// Options that every verb that runs a model has.
#pragma once

#include <memory>
#include <string>

#include "cli/verb.h"
#include "runtime/engine.h"

namespace skiff {

struct ModelOptions {
    std::string model;
    std::string isa, kernels = "fastest", state = "f32", scheme, pack_cache = "on", weight_pages = "auto", prune, device = "cpu", offload = "auto", attention = "own", gemm = "auto";
    std::int64_t threads = 0, context = 0, batch = 0, device_layers = -1;
    bool fit = false;

    void fields(FieldVisitor& visitor);
    void fields_without_context(FieldVisitor& visitor);  // for verbs that know how long their texts are
    Result<EngineOptions> engine_options() const;  // checks names and ranges
    std::string tile_file() const;                 // beside the packed weights; empty: nowhere
};

// Of verbs that generate.
struct SpeculateOptions {
    std::string source = "off";
    std::int64_t guesses = 0;

    void fields(FieldVisitor& visitor);
    Status apply(EngineOptions& options) const;
};

// Tells of a cache file that was damaged, and where a folder was named that cannot be used. A default folder that cannot be written is doctor's to tell.
void remark_on_cache(const Engine& engine, const ModelOptions& options, Terminal& terminal);

}  // namespace skiff
