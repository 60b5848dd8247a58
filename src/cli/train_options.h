// What every verb that trains has in common: options, and the run itself.
#pragma once

#include <string>
#include <utility>

#include "cli/verb.h"
#include "train/train.h"

namespace skiff {

struct TrainVerbOptions {
    std::string model;
    train::TrainOptions train;
    std::string elastic = "off", elastic_neurons, elastic_kv_groups, elastic_layers, elastic_teach = "auto";
    std::string sparsity = "0", prune_schedule = "cubic", prune_scope = "row";
    std::string schedule = "cosine", optimizer = "adamw", precision = "auto", device = "auto", zeros = "keep", operators = "fused", lora_output = "merged";
    double min_lr = 0;
    std::int64_t threads = 0, ranks = 1, rank = -1, log_every = 10;
    bool force = false, restart = false, recompute = false;

    void data_fields(FieldVisitor& visitor);     // texts, tokenizer, output
    void training_fields(FieldVisitor& visitor); // all else that training takes
    // Into `train`. `model` is opened by the verb.
    Status resolve();

private:
    Status resolve_sparsity();
    Status resolve_elastic();
};

// The value behind a choice's name.
template <class Enum>
Enum choice_of(const std::string& text, std::initializer_list<std::pair<const char*, Enum>> values) {
    for (const auto& [name, value] : values)
        if (text == name) return value;
    return values.begin()->second;  // the parser let only these through
}

// Learning from a teacher: options that several verbs share.
struct DistillVerbFields {
    std::string loss = "forward-kl";
    bool block_wise = false;
    void fields(FieldVisitor& visitor, train::DistillOptions& distill);
    void resolve(train::DistillOptions& distill) const;
};

// In a program without LibTorch: becomes the one beside it that has it, with the same arguments. Returns only an error.
Status become_training_program();

// Trains `parent` as the options say (resolve() has run), and reports.
Status run_training_verb(const Checkpoint& parent, TrainVerbOptions& options, Terminal& terminal);

}  // namespace skiff
