#include "cli/chat_loop.h"

#include <cmath>
#include <cstdlib>
#include <iostream>

#include "cli/format.h"
#include "text/chat_template.h"

namespace skiff {
namespace {

constexpr const char* help_text =
    "/clear        forget the conversation\n"
    "/set temp X   also: top_p, min_p, top_k, seed, tokens\n"
    "/show         the settings and how full the context is\n"
    "/bye          end (or Ctrl-D)\n"
    "\"\"\"           begins and ends a text of several lines";

// False at the end of the input.
bool read_message(std::string& message) {
    std::cerr << ">>> " << std::flush;
    if (!std::getline(std::cin, message)) return false;
    if (message.compare(0, 3, "\"\"\"") != 0) return true;
    message.erase(0, 3);
    std::string line;
    while (message.find("\"\"\"") == std::string::npos) {
        std::cerr << "... " << std::flush;
        if (!std::getline(std::cin, line)) break;
        message += "\n" + line;
    }
    message = message.substr(0, message.find("\"\"\""));
    return true;
}

void set_option(const std::string& text, GenerateOptions& options, Terminal& terminal) {
    const auto space = text.find(' ');
    const std::string name = text.substr(0, space);
    const double value = space == std::string::npos ? 0 : std::strtod(text.c_str() + space + 1, nullptr);
    const auto whole = static_cast<std::int64_t>(std::abs(value) < 1e15 ? value : -1);
    GenerateOptions changed = options;
    if (name == "temp") changed.sampling.temperature = value;
    else if (name == "top_p") changed.sampling.top_p = value;
    else if (name == "min_p") changed.sampling.min_p = value;
    else if (name == "top_k") changed.sampling.top_k = whole;
    else if (name == "seed") changed.sampling.seed = static_cast<std::uint64_t>(whole);
    else if (name == "tokens") changed.max_tokens = whole;
    else return terminal.remark("unknown setting " + name + "; /? lists them");
    Status status = check(changed.sampling);
    if (!status.ok()) return terminal.remark(status.error().to_string());
    options = changed;
}

}  // namespace

Result<std::vector<std::int32_t>> chat_tokens(Engine& engine, const Json& messages) {
    const Tokenizer& tokenizer = *engine.tokenizer();
    SKIFF_TRY(auto chat_template, ChatTemplate::parse(tokenizer.chat_template()));
    Json extra = Json::object({{"add_generation_prompt", true}});
    if (tokenizer.bos_id()) extra.set("bos_token", tokenizer.token_text(*tokenizer.bos_id()));
    if (!tokenizer.eos_ids().empty()) extra.set("eos_token", tokenizer.token_text(tokenizer.eos_ids()[0]));
    auto prompt = render_chat(chat_template, messages, Json(), extra);
    if (!prompt.ok()) return prompt.take_error().with_context("chat template");
    return tokenizer.encode(*prompt, {.add_special = false, .parse_special = true});
}

Status chat_loop(Engine& engine, GenerateOptions options, const std::string& system, Terminal& terminal) {
    terminal.remark("chatting with " + engine.checkpoint().name + "; /? for help");
    Json messages;
    auto reset = [&] {
        messages = Json::array();
        if (!system.empty()) messages.push_back(Json::object({{"role", "system"}, {"content", system}}));
    };
    reset();
    for (std::string message; read_message(message);) {
        if (message.empty()) continue;
        if (message == "/bye" || message == "/exit") break;
        if (message == "/?" || message == "/help") {
            terminal.remark(help_text);
        } else if (message == "/clear") {
            reset();
        } else if (message == "/show") {
            terminal.remark("temperature " + number_text(options.sampling.temperature, 2) + ", context " +
                            std::to_string(engine.session().state().length(0)) + " of " + std::to_string(engine.session().state().capacity()) +
                            " tokens");
        } else if (message.compare(0, 5, "/set ") == 0) {
            set_option(message.substr(5), options, terminal);
        } else {
            const Json before = messages;
            messages.push_back(Json::object({{"role", "user"}, {"content", message}}));
            SKIFF_TRY(auto tokens, chat_tokens(engine, messages));
            auto result = engine.generate(tokens, options, [&](std::string_view piece) {
                terminal.print_raw(piece);
                return true;
            });
            terminal.print_raw("\n");
            if (!result.ok()) {
                if (result.error().code != ErrorCode::resource) return result.take_error();
                terminal.remark(result.error().to_string() + "; /clear starts anew");
                messages = before;
                continue;
            }
            messages.push_back(Json::object({{"role", "assistant"}, {"content", result->text}}));
            if (result->finish == GenerateResult::Finish::interrupted) return Error{ErrorCode::interrupted, "interrupted", {}};
        }
    }
    return {};
}

}  // namespace skiff
