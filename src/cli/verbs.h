// One function per verb, each in a file of its name; table.cpp lists them.
#pragma once

#include "cli/verb.h"

namespace skiff {

std::unique_ptr<Verb> bench_verb_row();
std::unique_ptr<Verb> calibrate_verb_row();
std::unique_ptr<Verb> classify_verb_row();
std::unique_ptr<Verb> completion_verb_row();
std::unique_ptr<Verb> compress_verb_row();
std::unique_ptr<Verb> convert_verb_row();
std::unique_ptr<Verb> curves_verb_row();
std::unique_ptr<Verb> demo_verb_row();
std::unique_ptr<Verb> distill_verb_row();
std::unique_ptr<Verb> doctor_verb_row();
std::unique_ptr<Verb> eval_verb_row();
std::unique_ptr<Verb> factorize_verb_row();
std::unique_ptr<Verb> inspect_verb_row();
std::unique_ptr<Verb> prune_verb_row();
std::unique_ptr<Verb> qat_verb_row();
std::unique_ptr<Verb> quantize_verb_row();
std::unique_ptr<Verb> recover_verb_row();
std::unique_ptr<Verb> report_verb_row();
std::unique_ptr<Verb> rotate_verb_row();
std::unique_ptr<Verb> run_verb_row();
std::unique_ptr<Verb> share_verb_row();
std::unique_ptr<Verb> train_net_verb_row();
std::unique_ptr<Verb> train_tokenizer_verb_row();
std::unique_ptr<Verb> train_verb_row();

}  // namespace skiff
