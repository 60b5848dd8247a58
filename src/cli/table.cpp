#include "cli/verbs.h"

namespace skiff {

std::vector<std::unique_ptr<Verb>> verb_table() {
    std::vector<std::unique_ptr<Verb>> verbs;
    verbs.push_back(run_verb_row());
    return verbs;
}

}  // namespace skiff
