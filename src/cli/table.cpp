#include "cli/verbs.h"

namespace skiff {

std::vector<std::unique_ptr<Verb>> verb_table() {
    std::vector<std::unique_ptr<Verb>> verbs;
    verbs.push_back(run_verb_row());
    verbs.push_back(quantize_verb_row());
    verbs.push_back(rotate_verb_row());
    verbs.push_back(calibrate_verb_row());
    verbs.push_back(prune_verb_row());
    verbs.push_back(compress_verb_row());
    verbs.push_back(factorize_verb_row());
    verbs.push_back(share_verb_row());
    verbs.push_back(convert_verb_row());
    verbs.push_back(eval_verb_row());
    verbs.push_back(bench_verb_row());
    verbs.push_back(inspect_verb_row());
    verbs.push_back(report_verb_row());
    verbs.push_back(train_verb_row());
    verbs.push_back(distill_verb_row());
    verbs.push_back(qat_verb_row());
    verbs.push_back(recover_verb_row());
    verbs.push_back(curves_verb_row());
    verbs.push_back(train_tokenizer_verb_row());
    verbs.push_back(train_net_verb_row());
    verbs.push_back(classify_verb_row());
    verbs.push_back(demo_verb_row());
    verbs.push_back(doctor_verb_row());
    verbs.push_back(completion_verb_row());
    return verbs;
}

}  // namespace skiff
