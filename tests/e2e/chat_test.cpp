// skiff run through a chat template: the pocket model with a template that needs no special tokens.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/json.h"
#include "base/mapped_file.h"
#include "program_testing.h"

namespace skiff {
namespace {

constexpr const char* chat_markup =
    "{{ bos_token }}{% for message in messages %}{% if message.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('no such role') }}"
    "{% endif %}[{{ message.role }}]\n{{ message.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]\n{% endif %}";

// The pocket model in a folder of its own, with `chat_template` in its tokenizer_config.json.
std::string folder_with(const std::string& chat_template) {
    const std::filesystem::path source = std::string(SKIFF_SOURCE_DIR) + "/models/pocket";
    const std::string folder = ::testing::TempDir() + "skiff_chat_" + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(folder);
    for (const char* name : {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"})
        std::filesystem::copy_file(source / name, folder + "/" + name, std::filesystem::copy_options::overwrite_existing);
    auto config = Json::parse(*read_text_file((source / "tokenizer_config.json").string(), 1 << 20));
    config->set("chat_template", chat_template);
    std::ofstream(folder + "/tokenizer_config.json") << config->dump(1);
    return folder;
}

constexpr const char* short_and_greedy = " -n 12 --temp 0 --ignore-eos --json 2>/dev/null";

Json run_json(const std::string& before, const std::string& arguments) {
    ProgramOutput output = run_program(before, "run " + arguments + short_and_greedy);
    EXPECT_EQ(output.exit, 0) << arguments << output.text;
    auto json = Json::parse(output.text);
    EXPECT_TRUE(json.ok()) << output.text;
    return json.ok() ? *json : Json();
}

// The text as it is, written to a file, so that no shell takes its newlines.
Json raw(const std::string& folder, const std::string& text) {
    std::ofstream(folder + "/prompt.txt") << text;
    return run_json("", folder + " --raw -f " + folder + "/prompt.txt");
}

void expect_same_run(const Json& a, const Json& b) {
    EXPECT_GT(a["prompt_tokens"].int_or(0), 1);
    EXPECT_EQ(a["prompt_tokens"].int_or(0), b["prompt_tokens"].int_or(-1));
    EXPECT_EQ(a["text"].text(), b["text"].text());
    EXPECT_EQ(a["tokens"].dump(), b["tokens"].dump());
}

TEST(Chat, APromptGoesThroughTheTemplate) {
    const std::string folder = folder_with(chat_markup);
    const Json chat = run_json("", folder + " -p hi");
    expect_same_run(chat, raw(folder, "[user]\nhi\n[assistant]\n"));
    EXPECT_NE(chat["prompt_tokens"].int_or(0), run_json("", folder + " -p hi --raw")["prompt_tokens"].int_or(0));
}

TEST(Chat, ASystemMessageComesFirst) {
    const std::string folder = folder_with(chat_markup);
    expect_same_run(run_json("", folder + " -p hi --system 'Be brief.'"), raw(folder, "[system]\nBe brief.\n[user]\nhi\n[assistant]\n"));
}

TEST(Chat, StandardInputIsThePromptWithoutEchosNewline) {
    const std::string folder = folder_with(chat_markup);
    expect_same_run(run_json("echo hi | ", folder), run_json("", folder + " -p hi"));
    expect_same_run(run_json("echo Once upon a time | ", folder + " --raw"), run_json("", folder + " --raw -p 'Once upon a time'"));
    const std::string pocket = std::string(SKIFF_SOURCE_DIR) + "/models/pocket";  // has no template: continues the text
    expect_same_run(run_json("echo Once upon a time | ", pocket), run_json("", pocket + " --raw -p 'Once upon a time'"));
}

TEST(Chat, TheSecondTurnSeesTheFirst) {
    if (std::system("command -v script >/dev/null") != 0) GTEST_SKIP() << "no script(1) to make a terminal";
    const std::string folder = folder_with(chat_markup);
    const std::string first = run_json("", folder + " -p hi")["text"].text();
    const std::string second = raw(folder, "[user]\nhi\n[assistant]\n" + first + "\n[user]\nagain\n[assistant]\n")["text"].text();
    ASSERT_FALSE(first.empty());
    ASSERT_FALSE(second.empty());
    ProgramOutput output = run_program("printf 'hi\\nagain\\n/bye\\n' | script -qec '", "run " + folder + " -n 12 --temp 0 --ignore-eos' /dev/null");
    EXPECT_EQ(output.exit, 0) << output.text;
    std::string shown;
    for (char c : output.text)
        if (c != '\r') shown += c;
    EXPECT_NE(shown.find(first), std::string::npos) << shown;
    EXPECT_NE(shown.find(second), std::string::npos) << shown << "\nexpected: " << second;
}

TEST(Chat, TemplateErrorsSayWhatIsWrong) {
    struct Case {
        const char* source;
        const char* mention;
    };
    for (const Case& one : {Case{"{% if %}", "template"}, Case{"{{ raise_exception('roles must alternate') }}", "roles must alternate"},
                            Case{"{% for i in range(99999999) %}{% for j in range(99999999) %}x{% endfor %}{% endfor %}", "template"},
                            Case{"{{ messages[0].content.nothing.at_all }}", "template"}, Case{"{% include 'x' %}", "template"}}) {
        const std::string folder = folder_with(one.source);
        ProgramOutput output = run_program("", "run " + folder + " -p hi -n 2 2>&1");
        EXPECT_TRUE(output.exit >= 1 && output.exit <= 5) << one.source << " exit " << output.exit;
        EXPECT_NE(output.text.find(one.mention), std::string::npos) << one.source << "\n" << output.text;
    }
}

}  // namespace
}  // namespace skiff
