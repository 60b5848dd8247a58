// What the command line says before a verb is asked.
#include "cli/parse.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/cpu_features.h"
#include "base/json.h"
#include "base/thread_limit.h"

namespace skiff {
namespace {

struct Said {
    int code = 0;
    std::string out, err;
};
Said say(std::vector<std::string> words) {
    std::vector<char*> argv;
    words.insert(words.begin(), "skiff");
    for (std::string& word : words) argv.push_back(word.data());
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    Said said;
    said.code = run_command_line(static_cast<int>(argv.size()), argv.data());
    std::fflush(stdout);
    said.out = ::testing::internal::GetCapturedStdout();
    said.err = ::testing::internal::GetCapturedStderr();
    return said;
}

TEST(CommandLine, MistakesHaveTheFormOfAllErrors) {
    struct Case {
        std::vector<std::string> words;
        const char* error;
    };
    for (const Case& it : {Case{{"rum", "m"}, "skiff: error: \"rum\" is no verb; skiff --help"}, {{"prune", "--nope"}, "skiff prune: error: there is no option --nope; skiff prune --help"}, {{"compress", "m", "-t", "1"}, "skiff compress: error: there is no option -t"},
                           {{"inspect", "a", "b"}, "skiff inspect: error: \"b\" is one argument too many"}, {{"prune"}, "skiff prune: error: MODEL is required"}, {{"bench", "m", "--device", "gpu"}, "skiff bench: error: --device: gpu not in {cpu,cuda,auto}"}}) {
        Said said = say(it.words);
        EXPECT_EQ(said.code, 2);
        EXPECT_TRUE(said.err.starts_with(it.error)) << said.err;
        EXPECT_EQ(said.out, "");
        auto words = it.words;
        words.push_back("--json");
        said = say(words);
        EXPECT_EQ(said.code, 2);
        const auto document = Json::parse(said.out);
        ASSERT_TRUE(document.ok()) << said.out;
        EXPECT_EQ((*document)["error"]["code"].text(), "usage");
    }
}

TEST(CommandLine, ThreadsHoldForAllWork) {
    const int usual = default_thread_count();
    EXPECT_EQ(say({"calibrate", "m", "-t", "3"}).code, 2);
    EXPECT_EQ(default_thread_count(), 3);
    EXPECT_EQ(say({"calibrate", "m", "-t", "5000"}).code, 2);  // refused by the verb
    EXPECT_EQ(default_thread_count(), 3);
    set_default_thread_count(0);
    EXPECT_EQ(default_thread_count(), usual);
}

}  // namespace
}  // namespace skiff
