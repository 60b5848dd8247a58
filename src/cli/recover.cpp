// skiff recover: what pruning or factorization took, training on the parent's distributions gives back.
#include "cli/train_options.h"
#include "cli/verbs.h"

namespace skiff {
namespace {

struct RecoverVerb : TrainVerbOptions {
    DistillVerbFields distillation;

    void fields(FieldVisitor& visitor) {
        train.schedule.peak = 3e-4;
        train.n_steps = 300;
        visitor.positional("MODEL", model, "What is left: a pruned model, whose zeros stay; one with fewer heads, neurons or layers; low-rank factors", FieldVisitor::Need::required);
        visitor.option("--parent", train.distill.teacher, "The model that it was made of");
        data_fields(visitor);
        distillation.fields(visitor, train.distill);
        training_fields(visitor);
    }
};

Status run_recover(RecoverVerb& options, Terminal& terminal) {
    if (!train::training_available()) return become_training_program();
    if (options.train.distill.teacher.empty()) return usage_error("give the model that it was made of with --parent");
    SKIFF_CHECK(options.resolve());
    options.distillation.resolve(options.train.distill);
    SKIFF_TRY(const auto left, Checkpoint::open(options.model));
    return run_training_verb(left, options, terminal);
}

}  // namespace

std::unique_ptr<Verb> recover_verb_row() {
    return make_verb<RecoverVerb>("recover", "Train what pruning left to do what its parent did; zeros stay zero, or come while it trains",
                                  {"skiff recover PRUNED --parent PARENT --data books.txt -o OUT --steps 300", "skiff recover PRUNED --parent PARENT --data books.txt -o OUT --lora 8 --lr 1e-3",
                                   "skiff recover PARENT --parent PARENT --data books.txt -o OUT --sparsity 0.6 --prune-schedule cubic --steps 400"},
                                  run_recover);
}

}  // namespace skiff
