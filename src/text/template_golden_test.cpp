// Against Jinja2, set up as transformers sets it up: tests/golden/templates.py wrote the expectations.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "base/hash.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "text/chat_template.h"

namespace skiff {
namespace {

TemplateOptions options_of_goldens() {
    TemplateOptions options;
    std::tm now{};
    now.tm_year = 124;
    now.tm_mon = 6;
    now.tm_mday = 26;
    now.tm_hour = 13;
    now.tm_min = 5;
    now.tm_sec = 9;
    now.tm_wday = 5;
    now.tm_yday = 207;
    options.now = now;
    return options;
}

Json read_golden(const std::string& name) {
    auto json = read_json_file(std::string(SKIFF_TEST_DATA_DIR) + "/templates/" + name);
    EXPECT_TRUE(json.ok()) << json.error().to_string();
    return json.ok() ? *json : Json();
}

std::string summary(const Result<std::string>& rendered) {
    if (!rendered.ok()) return "error";
    auto bytes = std::as_bytes(std::span(rendered->data(), rendered->size()));
    return std::to_string(rendered->size()) + " " + sha256_hex(bytes).substr(0, 16);
}

TEST(TemplateGolden, LanguageIsJinjas) {
    Json golden = read_golden("language.json");
    ASSERT_GT(golden.size(), 400u);
    const Json& variables = golden.items()[0]["variables"];
    for (std::size_t i = 1; i < golden.size(); ++i) {
        const Json& row = golden.items()[i];
        const std::string& source = row["template"].text();
        auto parsed = Template::parse(source, options_of_goldens());
        auto rendered = parsed.ok() ? parsed->render(variables, options_of_goldens()) : Result<std::string>(parsed.error());
        if (row.contains("error")) {
            EXPECT_FALSE(rendered.ok()) << source << "\nJinja2 raises " << row["error"].text() << ", we print: " << *rendered;
        } else {
            EXPECT_TRUE(rendered.ok()) << source << "\n" << rendered.error().to_string();
            if (rendered.ok()) {
                EXPECT_EQ(*rendered, row["text"].text()) << source;
            }
        }
    }
}

std::string shared_templates() {
    const char* environment = std::getenv("SKIFF_SHARED");
    std::string shared = environment ? environment : SKIFF_SHARED_DIR;
    return shared + "/data/chat-templates";
}

TEST(TemplateGolden, ModelsTemplates) {
    if (!std::filesystem::is_directory(shared_templates())) GTEST_SKIP() << "no folder of models' chat templates at " << shared_templates();
    Json conversations = read_golden("conversations.json"), golden = read_golden("expected.json");
    std::size_t n_checked = 0, n_right = 0;
    for (const Json& row : golden.items()) {
        std::string path = shared_templates() + "/" + row["template"].text();
        auto source = read_text_file(path, std::size_t{1} << 20);
        if (!source.ok()) continue;
        if (sha256_hex(std::as_bytes(std::span(source->data(), source->size()))).substr(0, 16) != row["sha256"].text()) continue;
        auto parsed = ChatTemplate::parse(*source);
        for (std::size_t i = 0; i < conversations.size(); ++i) {
            const Json& conversation = conversations.items()[i];
            auto rendered = parsed.ok() ? render_chat(*parsed, conversation["messages"], conversation["tools"], conversation["extra"], options_of_goldens())
                                        : Result<std::string>(parsed.error());
            ++n_checked;
            std::string found = summary(rendered), expected = row["expected"].items()[i].text();
            n_right += found == expected;
            EXPECT_EQ(found, expected) << row["template"].text() << " with " << conversation["name"].text() << ": "
                                       << (rendered.ok() ? rendered->substr(0, 200) : rendered.error().to_string());
        }
    }
    RecordProperty("checked", static_cast<int>(n_checked));
    RecordProperty("right", static_cast<int>(n_right));
    EXPECT_GT(n_checked, 1000u);
}

}  // namespace
}  // namespace skiff
