// The template language of chat templates: the part of Jinja2 that models use, rendered as Hugging Face renders it (trim_blocks and
// lstrip_blocks, no automatic escaping, no access to anything outside the values that are passed in). Templates come from outside and are
// hostile: work, output, depth and sizes are limited, and every violation is an Error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/result.h"

namespace skiff {

struct TemplateOptions {
    std::size_t max_source_bytes = std::size_t{256} << 10;
    std::size_t fuel = 5'000'000;                       // evaluation steps; long strings and lists cost by their size
    std::size_t max_output_bytes = std::size_t{4} << 20;
    int max_depth = 128;                                // of brackets and blocks in the source, of macro calls, of nested values
    std::int64_t max_range = 100'000;                   // items of range()
    std::optional<std::tm> now;                         // what strftime_now shows; the machine's local time when empty
};

namespace tmpl {
struct TemplateTree;
}

// A parsed template; immutable, cheap to copy, and safe to render from several threads.
class Template {
public:
    // Limits on size and depth are those of `options`. An error names the line.
    static Result<Template> parse(std::string_view source, const TemplateOptions& options = {});

    // Renders with the members of the object `variables` as global names.
    Result<std::string> render(const Json& variables, const TemplateOptions& options = {}) const;

private:
    std::shared_ptr<const tmpl::TemplateTree> tree_;
};

}  // namespace skiff
