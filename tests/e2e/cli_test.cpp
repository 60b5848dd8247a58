// The command line as a user or a script meets it: help, exit codes, messages, JSON keys.
#include <gtest/gtest.h>

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <map>

#include "base/cpu_features.h"
#include "base/json.h"
#include "cli/verb.h"
#include "plan/fuse_set.h"
#include "program_testing.h"
#include "tensor/scheme.h"

namespace skiff {
namespace {

const std::string pocket = std::string(SKIFF_SOURCE_DIR) + "/models/pocket";

ProgramOutput skiff(const std::string& arguments) { return run_program("", arguments); }

Json skiff_json(const std::string& arguments) {
    ProgramOutput output = skiff(arguments + " --json 2>/dev/null");
    EXPECT_EQ(output.exit, 0) << arguments;
    auto json = Json::parse(output.text);
    EXPECT_TRUE(json.ok()) << arguments << ": " << output.text.substr(0, 500);
    return json.ok() ? *json : Json();
}

std::string scratch(const std::string& name) { return ::testing::TempDir() + "skiff_cli_" + name; }

TEST(Help, EveryVerbShowsAnExampleAndItsOptions) {
    ProgramOutput overview = skiff("--help");
    EXPECT_EQ(overview.exit, 0);
    for (const auto& verb : verb_table()) {
        EXPECT_NE(overview.text.find(verb->name), std::string::npos) << verb->name;
        ASSERT_FALSE(verb->examples.empty()) << verb->name;
        ProgramOutput help = skiff(verb->name + " --help");
        EXPECT_EQ(help.exit, 0);
        EXPECT_NE(help.text.find(verb->examples[0]), std::string::npos) << verb->name;
        EXPECT_NE(help.text.find("--json"), std::string::npos) << verb->name;
    }
}

TEST(Fusion, IsPrintedAndMeasured) {
    ProgramOutput plan = skiff("inspect " + pocket + " --plan");
    EXPECT_EQ(plan.exit, 0);
    for (const char* part : {"plain steps for 1 to 1 tokens", "fused steps for 1 to 1 tokens", "each thread: norm block0.attn_norm"})
        EXPECT_NE(plan.text.find(part), std::string::npos) << part;
    const std::string help = skiff("bench --help").text;
    const Json each = skiff_json("bench " + pocket + " -p 0 -n 2 -r 1 --fuse each");
    std::size_t n_rows = 0;
    for (const FusePassInfo& pass : fuse_passes()) {
        EXPECT_NE(help.find(pass.name), std::string::npos) << pass.name;
        for (const Json& row : each["fusions"].items())
            if (row["fusion"].text() == pass.name) n_rows += row["ratio"].number_or(0) > 0;
    }
    EXPECT_EQ(n_rows, fuse_passes().size());
    const std::string speed = "bench " + pocket + " -p 0 -n 2 -r 1 ";
    EXPECT_EQ(skiff_json(speed + "--fuse off --fold off")["logits_hash"].text(), skiff_json(speed + "--fuse head,residual")["logits_hash"].text());
    EXPECT_EQ(skiff(speed + "--fuse nonesuch 2>&1").exit, 2);
}

// What the table says is what happens: where a cell is not defined the verb refuses, by the reason that the table gives.
TEST(MethodTable, SaysWhatIsRefused) {
    const Json cells = skiff_json("quantize --methods")["cells"];
    const std::string model = "random:" + std::string(SKIFF_TEST_DATA_DIR) + "/models/llama/config.json";  // whose calibration text is random ids
    std::map<std::string, int> n_refused, n_defined;
    for (const Json& cell : cells.items()) {
        const std::string option = cell["option"].text(), scheme = cell["scheme"].text();
        const bool defined = cell["defined"].bool_or(false), first = n_defined[option] == 0;
        ++(defined ? n_defined : n_refused)[option];
        const std::string asked = option == "--activations static-..." ? "--activations static-minmax" : option;
        if (defined && !first && option != "--compat") continue;  // compress.EveryMethodOnEveryScheme makes them all
        const ProgramOutput output = skiff("quantize " + model + " --scheme " + scheme + " " + asked + " --dry-run -t 1 2>&1");
        const bool refused = option == "--compat" ? output.text.find("leave --compat out") != std::string::npos : output.exit != 0;
        if (option.starts_with("--activations") || option.starts_with("--compat")) {
            EXPECT_EQ(refused, !defined) << option << " " << scheme << ": " << output.text;
            continue;
        }
        EXPECT_EQ(refused, !defined) << option << " " << scheme << ": " << output.text;
        if (refused) { EXPECT_NE(output.text.find(cell["why"].text()), std::string::npos) << output.text; }
    }
    EXPECT_EQ(n_defined["--method nearest"], static_cast<int>(scheme_presets().size()));
    for (const char* method : {"--method kmeans", "--method gptq", "--method hqq", "--compat", "--activations static-..."}) {
        EXPECT_GT(n_refused[method], 0) << method;
        EXPECT_GT(n_defined[method], 0) << method;
    }
    const ProgramOutput text = skiff("quantize --methods 2>&1");
    EXPECT_EQ(text.exit, 0);
    for (const SchemePreset& preset : scheme_presets()) EXPECT_NE(text.text.find("| " + std::string(preset.name) + " "), std::string::npos) << preset.name;
    EXPECT_EQ(skiff("quantize 2>&1").exit, 2);
    EXPECT_EQ(skiff("quantize " + model + " --methods 2>&1").exit, 2);
}

// A row for each kernel: the reference, and every instruction set of this processor that has kernels of its own for these weights.
TEST(Kernels, AreComparedInOneTable) {
    const std::string tests = "bench " + pocket + " --scheme w4g32 -p 16 -n 4 -r 1 --sequences 1,2 -t 2 ";
    const Json document = skiff_json(tests + "--kernel all");
    std::map<std::string, std::string> hashes;
    std::map<std::string, int> n_tests;
    for (const Json& row : document["kernels"].items()) {
        hashes[row["kernels"].text()] = row["logits_hash"].text();
        ++n_tests[row["kernels"].text()];
        EXPECT_GT(row["tokens_per_s"].number_or(0), 0);
        EXPECT_GT(row["ms_per_token"].number_or(0), 0);
        EXPECT_GT(row["peak_memory_bytes"].number_or(0), 1e6);
        EXPECT_FALSE(row["kernel"].text().empty());
    }
    const std::string text = skiff(tests + "--kernel all 2>&1").text;
    for (const Isa isa : all_isas) {
        const std::string name(isa_name(isa));
        const bool has_row = hashes.count(name) != 0, same = text.find("note: " + name + " computes with the kernels of") != std::string::npos;
        EXPECT_EQ(has_row || same, isa_available(isa)) << name;
        if (has_row) { EXPECT_EQ(hashes[name], skiff_json(tests + "--isa " + name)["logits_hash"].text()) << name; }
    }
    EXPECT_EQ(hashes["reference"], skiff_json(tests + "--kernels reference")["logits_hash"].text());
    for (const auto& [name, n] : n_tests) EXPECT_EQ(n, 3) << name;
    const Json two = skiff_json(tests + "--kernel " + std::string(isa_name(best_isa())) + ",reference");
    EXPECT_EQ(two["kernels"].size(), 6u);
    for (const char* bad : {"--kernel mmx", "--kernel all --isa generic", "--kernel all --fuse each", "--kernel all --profile"})
        EXPECT_EQ(skiff(tests + bad + " 2>&1").exit, 2) << bad;
}

TEST(ExitCodes, SayWhatKindOfFailureItWas) {
    EXPECT_EQ(skiff("2>&1").exit, 2);
    EXPECT_EQ(skiff("paddle 2>&1").exit, 2);
    EXPECT_EQ(skiff("run 2>&1").exit, 2);
    EXPECT_EQ(skiff("run " + pocket + " --temp -1 -p x --raw 2>&1").exit, 2);
    EXPECT_EQ(skiff("bench " + pocket + " --isa mmx 2>&1").exit, 2);
    ProgramOutput missing = skiff("inspect /no/such/model 2>&1");
    EXPECT_EQ(missing.exit, 3);
    EXPECT_NE(missing.text.find("/no/such/model: no such folder or file"), std::string::npos) << missing.text;
    const std::string pickle = scratch("model.bin");
    std::ofstream(pickle) << "\x80\x02}q";
    ProgramOutput refused = skiff("inspect " + pickle + " 2>&1");
    EXPECT_EQ(refused.exit, 1);
    EXPECT_NE(refused.text.find("pickle"), std::string::npos) << refused.text;
    const std::string damaged = scratch("damaged.gguf");
    std::ofstream(damaged) << "GGUF\x03";
    EXPECT_EQ(skiff("inspect " + damaged + " 2>&1").exit, 5);
}

TEST(ExitCodes, ErrorsAreJsonToo) {
    ProgramOutput output = skiff("inspect /no/such/model --json 2>/dev/null");
    EXPECT_EQ(output.exit, 3);
    EXPECT_EQ((*Json::parse(output.text))["error"]["code"].text(), "not_found");
}

TEST(Inspect, JsonHasStableKeys) {
    Json document = skiff_json("inspect " + pocket + " --hash");
    EXPECT_EQ(document["architecture"].text(), "llama");
    EXPECT_EQ(document["parameters"].int_or(0), 13113856);
    EXPECT_EQ(document["weight_bytes"].int_or(0), 2 * 13113856);
    EXPECT_DOUBLE_EQ(document["bits_per_weight"].number_or(0), 16.0);
    EXPECT_EQ(document["hash"].text().size(), 64u);
}

TEST(Bench, JsonHasStableKeysAndTheHashRepeats) {
    const std::string arguments = "bench " + pocket + " -p 32 -n 8 -r 2 -t 2";
    Json document = skiff_json(arguments);
    EXPECT_GT(document["machine"]["read_gbps"].number_or(0), 0);
    ASSERT_EQ(document["results"].size(), 2u);
    for (const Json& result : document["results"].items()) {
        EXPECT_TRUE(result["test"].text() == "pp32" || result["test"].text() == "tg8");
        const Json& speed = result["tokens_per_s"];
        EXPECT_GT(speed["min"].number_or(0), 0);
        EXPECT_LE(speed["min"].number_or(0), speed["median"].number_or(0));
        EXPECT_LE(speed["median"].number_or(0), speed["max"].number_or(0));
        EXPECT_TRUE(speed["sd"].is_number());
        EXPECT_GT(result["gmac_per_s"].number_or(0), 0);
        EXPECT_TRUE(result.contains("gbps") && result.contains("share_of_bandwidth"));
    }
    EXPECT_GT(document["peak_memory_bytes"].int_or(0), 1 << 20);
    EXPECT_EQ(document["logits_hash"].text(), skiff_json("bench " + pocket + " -p 32 -n 8 -r 1 -t 1 --batch 7")["logits_hash"].text());
}

TEST(Bench, WidthsThatAreNoMultipleOf256Run) {
    const std::string config = scratch("896.json");
    std::ofstream(config) << R"({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 1,
        "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 1000, "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "hidden_act": "silu"})";
    for (const char* scheme : {"w4g32", "w8", "w4g128a"}) {
        Json document = skiff_json("bench random:" + config + " --scheme " + scheme + " -p 9 -n 3 -r 1");
        EXPECT_EQ(document["results"].size(), 2u) << scheme;
    }
}

TEST(Run, TheSameSeedGivesTheSameText) {
    const std::string arguments = "run " + pocket + " --raw -p \"Once upon a time\" -n 24 --temp 1 --seed 11";
    Json first = skiff_json(arguments), second = skiff_json(arguments + " -t 1");
    EXPECT_FALSE(first["text"].text().empty());
    EXPECT_EQ(first["text"].text(), second["text"].text());
    EXPECT_EQ(first["tokens"].size(), 24u);
    EXPECT_EQ(first["finish_reason"].text(), "length");
}

TEST(Run, StopTextsEndTheGenerationAndAreNotShown) {
    Json whole = skiff_json("run " + pocket + " --raw -p \"The king\" -n 40 --temp 0");
    const std::string text = whole["text"].text();
    ASSERT_GT(text.size(), 20u);
    const std::string stop = text.substr(10, 4);
    Json cut = skiff_json("run " + pocket + " --raw -p \"The king\" -n 40 --temp 0 --stop \"" + stop + "\"");
    EXPECT_EQ(cut["text"].text(), text.substr(0, text.find(stop)));
    EXPECT_EQ(cut["finish_reason"].text(), "stop");
}

TEST(Run, SpeculationGivesTheSameText) {
    const std::string arguments = "run " + pocket + " --raw -p \"The king\" -n 60 --temp 0 --repeat-penalty 1.05 --stop \"ship\"";
    const Json plain = skiff_json(arguments + " --speculate off");
    EXPECT_EQ(plain["speculation"]["proposed"].int_or(-1), 0);
    for (const char* how : {"", " --speculate ngram --guesses 7", " --speculate " SKIFF_SOURCE_DIR "/models/pocket-student --guesses 3"}) {
        const Json document = skiff_json(arguments + how);
        EXPECT_EQ(document["text"].text(), plain["text"].text()) << how;
        EXPECT_EQ(document["tokens"].dump(), plain["tokens"].dump()) << how;
        EXPECT_EQ(document["finish_reason"].text(), plain["finish_reason"].text()) << how;
        const Json& speculation = document["speculation"];
        EXPECT_LE(speculation["accepted"].int_or(1), speculation["proposed"].int_or(0)) << how;
    }
    ProgramOutput remark = skiff("run " + pocket + " --raw -p \"The king\" -n 60 --temp 0 --speculate ngram --guesses 2 2>&1");
    EXPECT_NE(remark.text.find("guesses right"), std::string::npos) << remark.text;
}

TEST(Run, ADraftNeedsTheSameTokenizer) {
    ProgramOutput output = skiff("run " + pocket + " --raw -p x -n 4 --speculate " SKIFF_TEST_DATA_DIR "/models/llama 2>&1");
    EXPECT_EQ(output.exit, 2) << output.text;
    EXPECT_NE(output.text.find("a draft needs the tokenizer of " + pocket), std::string::npos) << output.text;
    EXPECT_EQ(skiff("run " + pocket + " --raw -p x -n 4 --speculate /no/such/model 2>&1").exit, 3);
    EXPECT_EQ(skiff("run " + pocket + " --raw -p x -n 4 --speculate ngram --guesses 8 2>&1").exit, 2);
    EXPECT_EQ(skiff("run " + pocket + " --raw -p x -n 4 --speculate off --guesses 2 2>&1").exit, 2);
}

TEST(Bench, SequencesSpeculationAndEnergyHaveStableKeys) {
    const Json document = skiff_json("bench " + pocket + " -p 0 -n 24 -r 1 --sequences 1,3 --speculate ngram --energy");
    ASSERT_EQ(document["results"].size(), 2u);
    EXPECT_EQ(document["results"].items()[1]["test"].text(), "tg24x3");
    ASSERT_EQ(document["speculation"].size(), 4u);
    for (const Json& row : document["speculation"].items()) {
        EXPECT_GT(row["gain"].number_or(0), 0);
        EXPECT_LE(row["accepted"].int_or(1), row["proposed"].int_or(0));
    }
    const Json& energy = document["energy"];
    EXPECT_TRUE(energy["results"].size() > 0 || !energy["reason"].text().empty());
    EXPECT_EQ(skiff("bench " + pocket + " -n 4 --sequences 1,x 2>&1").exit, 2);
}

// A draft that was taught by the model guesses much of what it says. At a temperature of 100 both draw nearly evenly, so that nearly every guess stands.
TEST(Bench, ADraftOfItsOwnIsMeasured) {
    const Json document = skiff_json("bench " + pocket + " -p 0 -n 24 -r 1 --speculate " SKIFF_SOURCE_DIR "/models/pocket-student --guesses 3");
    ASSERT_EQ(document["speculation"].size(), 4u);
    std::map<std::string, double> shares;
    for (const Json& row : document["speculation"].items()) {
        const double proposed = row["proposed"].number_or(0), accepted = row["accepted"].number_or(-1);
        EXPECT_GT(proposed, 0) << row["test"].text();
        EXPECT_GE(accepted, 0);
        EXPECT_LE(accepted, proposed);
        EXPECT_GE(row["tokens_per_pass"].number_or(0), 1);
        EXPECT_GT(row["gain"].number_or(0), 0);
        shares[row["test"].text()] = accepted / proposed;
    }
    EXPECT_GT(shares["greedy24"], 0.2);
    EXPECT_GT(shares["noise24"], 0.5);
    EXPECT_EQ(skiff("bench " + pocket + " -p 0 -n 4 -r 1 --speculate " SKIFF_TEST_DATA_DIR "/models/llama 2>&1").exit, 2);
}

TEST(Completion, ScriptsAreValidShell) {
    EXPECT_EQ(skiff("completion bash | bash -n").exit, 0);
    ProgramOutput fish = skiff("completion fish");
    for (const auto& verb : verb_table()) EXPECT_NE(fish.text.find("-a " + verb->name + " "), std::string::npos) << verb->name;
    EXPECT_EQ(skiff("completion tcsh 2>/dev/null").exit, 2);
}

TEST(Doctor, JsonNamesTheMachine) {
    Json document = skiff_json("doctor --no-measure");
    EXPECT_FALSE(document["cpu"].text().empty());
    EXPECT_GE(document["threads"].int_or(0), 1);
    EXPECT_FALSE(document["isa"].text().empty());
}

// skiff-train stands beside skiff where LibTorch is installed, and nowhere else.
TEST(Doctor, TellsOfTraining) {
    Json document = skiff_json("doctor --no-measure"), training = document["training"];
    EXPECT_EQ(document["bf16_instructions"].text().empty(), document["features"].text().find("bf16") == std::string::npos);
    const std::string program = std::string(std::getenv("SKIFF")) + "-train";
    if (::access(program.c_str(), X_OK) == 0) {
        EXPECT_EQ(training["program"].text(), "found");
        EXPECT_EQ(training["library"].text().substr(0, 9), "LibTorch ");
        EXPECT_TRUE(training.contains("ranks") && training.contains("blas"));
    } else {
        EXPECT_EQ(training["program"].text(), "absent");
    }
}

// In a folder of its own; what is found there under that name is no program for training, or none at all, or this one, which must not call itself for ever.
TEST(Doctor, KnowsATrainingProgramThatDoesNotWork) {
    std::string folder = ::testing::TempDir() + "skiff_doctor_XXXXXX";
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    const std::string copy = folder + "/skiff", other = folder + "/skiff-train";
    ASSERT_EQ(std::system(("cp \"$SKIFF\" " + copy).c_str()), 0);
    auto state_with = [&](const std::string& command) {
        EXPECT_EQ(std::system(("rm -f " + other + "; " + command).c_str()), 0);
        FILE* pipe = ::popen((copy + " doctor --no-measure --json 2>/dev/null").c_str(), "r");
        std::string text;
        char buffer[4096];
        for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) text.append(buffer, n);
        ::pclose(pipe);
        auto document = Json::parse(text);
        EXPECT_TRUE(document.ok()) << text;
        return document.ok() ? (*document)["training"]["program"].text() : std::string();
    };
    EXPECT_EQ(state_with("true"), "absent");
    EXPECT_EQ(state_with("cp " + copy + " " + other), "absent");
    EXPECT_EQ(state_with("ln -s skiff " + other), "absent");
    EXPECT_EQ(state_with("printf '#!/bin/sh\\nexit 127\\n' >" + other + "; chmod +x " + other), "broken");
    EXPECT_EQ(std::system(("rm -r " + folder).c_str()), 0);
}

}  // namespace
}  // namespace skiff
