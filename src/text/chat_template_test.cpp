#include "text/chat_template.h"

#include <gtest/gtest.h>

namespace skiff {
namespace {

Json messages() { return Json::array({Json::object({{"role", "user"}, {"content", "Hi"}})}); }

TEST(ChatTemplate, RendersMessagesAndExtras) {
    auto parsed = ChatTemplate::parse("{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}");
    ASSERT_TRUE(parsed.ok()) << parsed.error().to_string();
    EXPECT_EQ(render_chat(*parsed, messages(), {}, Json::object({{"bos_token", "<s>"}, {"add_generation_prompt", true}})).value(), "<s><user>Hi\n<assistant>");
    EXPECT_EQ(render_chat(*parsed, messages(), {}, {}).value(), "<user>Hi\n");
}

TEST(ChatTemplate, TellsAbsentFromNone) {
    auto parsed = ChatTemplate::parse("{{ tools is none }} {{ tools is defined }} {{ documents is none }} {{ bos_token is defined }} {{ add_generation_prompt }}");
    EXPECT_EQ(render_chat(*parsed, messages(), {}, {}).value(), "True True True False False");
}

TEST(ChatTemplate, SelectsAmongSeveral) {
    Json list = Json::array({Json::object({{"name", "default"}, {"template", "plain"}}), Json::object({{"name", "tool_use"}, {"template", "tools"}})});
    auto parsed = ChatTemplate::from_json(list);
    ASSERT_TRUE(parsed.ok()) << parsed.error().to_string();
    EXPECT_EQ(parsed->names(), (std::vector<std::string>{"default", "tool_use"}));
    EXPECT_EQ(render_chat(*parsed, messages(), {}, {}).value(), "plain");
    EXPECT_EQ(render_chat(*parsed, messages(), Json::array(), {}).value(), "tools");
    EXPECT_EQ(render_chat(*parsed, messages(), {}, Json::object({{"template_name", "tool_use"}})).value(), "tools");
    auto missing = render_chat(*parsed, messages(), {}, Json::object({{"template_name", "rag"}}));
    ASSERT_FALSE(missing.ok());
    EXPECT_EQ(missing.error().code, ErrorCode::not_found);
    EXPECT_NE(missing.error().message.find("default, tool_use"), std::string::npos);
}

TEST(ChatTemplate, RefusesWhatIsNotATemplate) {
    EXPECT_FALSE(ChatTemplate::from_json(Json(3)).ok());
    EXPECT_FALSE(ChatTemplate::from_json(Json::array()).ok());
    EXPECT_FALSE(ChatTemplate::from_json(Json::array({Json::object({{"name", "a"}})})).ok());
    Json twice = Json::array({Json::object({{"name", "a"}, {"template", "x"}}), Json::object({{"name", "a"}, {"template", "y"}})});
    EXPECT_FALSE(ChatTemplate::from_json(twice).ok());
    auto broken = ChatTemplate::from_json(Json::array({Json::object({{"name", "a"}, {"template", "\n{% if %}"}})}));
    ASSERT_FALSE(broken.ok());
    EXPECT_EQ(broken.error().code, ErrorCode::corrupt);
    EXPECT_NE(broken.error().to_string().find("line 2"), std::string::npos);
}

TEST(ChatTemplate, ErrorsSayWhere) {
    auto parsed = ChatTemplate::parse("a\n{% for m in messages %}\n{{ m.content.missing.more }}\n{% endfor %}");
    auto rendered = render_chat(*parsed, messages(), {}, {});
    ASSERT_FALSE(rendered.ok());
    EXPECT_EQ(rendered.error().to_string(), "chat template: template, line 3: 'str' object has no attribute 'missing'");
    auto refusing = render_chat(*ChatTemplate::parse("{{ raise_exception('roles must alternate') }}"), messages(), {}, {});
    EXPECT_NE(refusing.error().to_string().find("roles must alternate"), std::string::npos);
    EXPECT_FALSE(render_chat(*parsed, Json::object(), {}, {}).ok());
    EXPECT_FALSE(render_chat(*parsed, Json::array({Json("hi")}), {}, {}).ok());
}

TEST(ChatTemplate, ReasoningGoesByAllItsNames) {
    auto parsed = ChatTemplate::parse("{{ messages[0]|tojson }}");
    Json message = Json::object({{"role", "assistant"}, {"reasoning", "why"}});
    EXPECT_EQ(render_chat(*parsed, Json::array({message}), {}, {}).value(),
              R"({"thinking": "why", "role": "assistant", "reasoning": "why", "reasoning_content": "why"})");
}

}  // namespace
}  // namespace skiff
