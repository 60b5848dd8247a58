// links: skiff_text
// Chat templates on any bytes: parsing and rendering end in a text or an Error within the limits.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "text/chat_template.h"

namespace {

const skiff::Json& conversation() {
    static const skiff::Json messages = skiff::Json::parse(R"([
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Grüße"}]},
        {"role": "assistant", "content": null, "reasoning_content": "r", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {"x": [1, 2.5, true, null]}}}]},
        {"role": "tool", "content": "<b>"}])").value();
    return messages;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    skiff::TemplateOptions options;
    options.fuel = 20'000;
    options.max_output_bytes = 64 << 10;
    options.max_range = 1000;
    options.now = std::tm{};
    auto parsed = skiff::ChatTemplate::parse(std::string_view(reinterpret_cast<const char*>(data), size), options);
    if (!parsed.ok()) {
        if (parsed.error().message.empty()) std::abort();
        return 0;
    }
    auto rendered = skiff::render_chat(*parsed, conversation(), conversation(), skiff::Json::object({{"bos_token", "<s>"}, {"enable_thinking", true}}), options);
    if (rendered.ok() ? rendered->size() > options.max_output_bytes : rendered.error().message.empty()) std::abort();
    return 0;
}
