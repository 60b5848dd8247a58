// Conversations to prompts: a model's own chat template, applied as Hugging Face's apply_chat_template does.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/template_engine.h"

namespace skiff {

// What a model's files offer as chat templates: mostly one, sometimes several by name ("default", "tool_use", "rag").
class ChatTemplate {
public:
    // One template, named "default".
    static Result<ChatTemplate> parse(std::string_view source, const TemplateOptions& options = {});

    // The value of `chat_template` in tokenizer_config.json: a string, or a list of {"name": ..., "template": ...}.
    static Result<ChatTemplate> from_json(const Json& chat_template, const TemplateOptions& options = {});

    std::vector<std::string> names() const;
    bool contains(std::string_view name) const { return find(name) != nullptr; }

    // The named template; for an empty name "tool_use" where tools are given and there is one, then "default", then the only one.
    Result<const Template*> select(std::string_view name, const Json& tools) const;

private:
    const Template* find(std::string_view name) const;
    std::vector<std::pair<std::string, Template>> templates_;
};

// messages: an array of objects with role, content (a string or a list of parts), tool_calls, reasoning_content ...
// tools: an array of function descriptions, or null.
// extra: an object with what else the template may read: bos_token, eos_token, add_generation_prompt, enable_thinking, documents ...
//        add_generation_prompt is false and documents null unless given here. "template_name" selects among several templates.
Result<std::string> render_chat(const ChatTemplate& chat_template, const Json& messages, const Json& tools, const Json& extra,
                                const TemplateOptions& options = {});

}  // namespace skiff
