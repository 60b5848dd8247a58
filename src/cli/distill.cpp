// skiff distill: a student learns from a teacher.
#include "cli/train_options.h"
#include "cli/verbs.h"
#include "model/layer_selection.h"

namespace skiff {
namespace {

struct DistillVerb : TrainVerbOptions {
    std::string student_layers;
    DistillVerbFields distillation;

    void fields(FieldVisitor& visitor) {
        train.schedule.peak = 1e-3;
        visitor.positional("STUDENT", model, "A checkpoint (what pruning left, a small model), or random:CONFIG.json; absent with --student-layers", FieldVisitor::Need::optional);
        visitor.option("--teacher", train.distill.teacher, "The model to learn from, with the student's vocabulary");
        visitor.option("--student-layers", student_layers, "Make the student of these layers of the teacher: 0,2,4 or every-other or first-N");
        data_fields(visitor);
        distillation.fields(visitor, train.distill);
        training_fields(visitor);
    }
};

Result<Checkpoint> open_student(const DistillVerb& options) {
    if (options.student_layers.empty()) {
        if (options.model.empty()) return usage_error("give the STUDENT, or --student-layers to make one of the teacher's layers");
        return Checkpoint::open(options.model);
    }
    if (!options.model.empty()) return usage_error("--student-layers makes the student of the teacher; leave " + options.model + " out");
    SKIFF_TRY(const auto teacher, Checkpoint::open(options.train.distill.teacher));
    SKIFF_TRY(const auto layers, parse_layers(options.student_layers, teacher.spec.n_layers));
    return select_layers(teacher, layers);
}

Status run_distill(DistillVerb& options, Terminal& terminal) {
    if (!train::training_available()) return become_training_program();
    if (options.train.distill.teacher.empty()) return usage_error("give the model to learn from with --teacher");
    SKIFF_CHECK(options.resolve());
    options.distillation.resolve(options.train.distill);
    SKIFF_TRY(const auto student, open_student(options));
    return run_training_verb(student, options, terminal);
}

}  // namespace

std::unique_ptr<Verb> distill_verb_row() {
    return make_verb<DistillVerb>("distill", "Train a small model, or what pruning left, to predict what a larger one predicts",
                                  {"skiff distill STUDENT --teacher TEACHER --data books.txt -o OUT --steps 1000", "skiff distill --student-layers every-other --teacher TEACHER --data books.txt -o OUT",
                                   "skiff distill STUDENT --teacher TEACHER --data books.txt -o OUT --kd-loss reverse-kl --kd-temp 2 --kd-alpha 0.5 --teacher-cache teacher.cache"},
                                  run_distill);
}

}  // namespace skiff
