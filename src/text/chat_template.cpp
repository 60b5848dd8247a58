#include "text/chat_template.h"

namespace skiff {
namespace {

constexpr std::string_view reasoning_names[] = {"reasoning_content", "thinking", "reasoning"};

// Reasoning goes by several names. As in transformers, the first that is there fills `reasoning_content`, which templates read, and
// `thinking`, which those of gpt-oss read.
Json with_reasoning_names(const Json& message) {
    const Json* reasoning = nullptr;
    for (std::string_view name : reasoning_names) {
        const Json* given = message.find(name);
        if (given && !given->is_null()) {
            reasoning = given;
            break;
        }
    }
    if (!reasoning) return message;
    Json named = Json::object({{"thinking", *reasoning}});
    for (const auto& [key, value] : message.members()) named.set(key, value);
    named.set("reasoning_content", *reasoning);
    return named;
}

}  // namespace

Result<ChatTemplate> ChatTemplate::parse(std::string_view source, const TemplateOptions& options) {
    SKIFF_TRY(auto parsed, Template::parse(source, options));
    ChatTemplate made;
    made.templates_.emplace_back("default", std::move(parsed));
    return made;
}

Result<ChatTemplate> ChatTemplate::from_json(const Json& chat_template, const TemplateOptions& options) {
    if (chat_template.is_string()) return parse(chat_template.text(), options);
    if (!chat_template.is_array() || chat_template.items().empty())
        return corrupt("chat_template: expected a string or a list of named templates, found " + std::string(chat_template.type_name()));
    ChatTemplate made;
    for (const Json& item : chat_template.items()) {
        SKIFF_TRY(auto name, item["name"].as_string("chat_template: name"));
        SKIFF_TRY(auto source, item["template"].as_string("chat_template: template"));
        if (made.contains(name)) return corrupt("chat_template: two templates are named \"" + name + "\"");
        auto parsed = Template::parse(source, options);
        if (!parsed.ok()) return parsed.take_error().with_context("chat template \"" + name + "\"");
        made.templates_.emplace_back(std::move(name), *std::move(parsed));
    }
    return made;
}

std::vector<std::string> ChatTemplate::names() const {
    std::vector<std::string> all;
    for (const auto& [name, parsed] : templates_) all.push_back(name);
    return all;
}

const Template* ChatTemplate::find(std::string_view name) const {
    for (const auto& [own_name, parsed] : templates_)
        if (own_name == name) return &parsed;
    return nullptr;
}

Result<const Template*> ChatTemplate::select(std::string_view name, const Json& tools) const {
    if (!name.empty()) {
        if (const Template* found = find(name)) return found;
        std::string known;
        for (const auto& [own_name, parsed] : templates_) known += (known.empty() ? "" : ", ") + own_name;
        return not_found("no chat template is named \"" + std::string(name) + "\"; this model has: " + known);
    }
    if (!tools.is_null() && find("tool_use")) return find("tool_use");
    if (const Template* found = find("default")) return found;
    if (templates_.size() == 1) return &templates_.front().second;
    return not_found("this model has several chat templates and none is named \"default\"; name one of them");
}

Result<std::string> render_chat(const ChatTemplate& chat_template, const Json& messages, const Json& tools, const Json& extra,
                                const TemplateOptions& options) {
    if (!messages.is_array()) return usage_error("messages: expected an array, found " + std::string(messages.type_name()));
    if (!extra.is_object() && !extra.is_null()) return usage_error("template variables: expected an object, found " + std::string(extra.type_name()));
    Json named_messages = Json::array();
    for (const Json& message : messages.items()) {
        if (!message.is_object()) return usage_error("messages: expected objects with a role and a content, found " + std::string(message.type_name()));
        named_messages.push_back(with_reasoning_names(message));
    }
    Json variables = Json::object({{"messages", std::move(named_messages)}, {"tools", tools}, {"documents", nullptr}, {"add_generation_prompt", false}});
    for (const auto& [key, value] : extra.members())
        if (key != "template_name") variables.set(key, value);
    SKIFF_TRY(const Template* selected, chat_template.select(extra["template_name"].text(), tools));
    auto rendered = selected->render(variables, options);
    if (!rendered.ok()) return rendered.take_error().with_context("chat template");
    return rendered;
}

}  // namespace skiff
