// The filters, tests, global functions and methods that templates can name. Each file below holds one table.
#pragma once

#include <string_view>

#include "text/template_context.h"

namespace skiff::tmpl {

struct FunctionRow {
    std::string_view name;
    Function function;  // self is the filtered or tested value, or the receiver of the method
};

// nullptr where there is none of that name.
Function find_filter(std::string_view name);
Function find_test(std::string_view name);
Function find_global(std::string_view name);

// Methods of a value's type: whether Python has one of that name, whether templates may use it (they may not change lists and dicts),
// and our function for it (empty where it is not offered).
struct Method {
    bool exists = false;
    bool is_allowed = true;
    Function function = nullptr;
};
Method find_method(const Value& receiver, std::string_view name);

// Parts of the filter table, joined by find_filter.
Function find_text_filter(std::string_view name);
Function find_sequence_filter(std::string_view name);
Method find_text_method(std::string_view name);

// x.name and x[key] with Jinja's rules: attributes fall back to members and the other way round; a miss is undefined, not an error.
Result<Value> get_attribute(Context& context, const Value& value, std::string_view name);
Result<Value> get_item(Context& context, const Value& value, const Value& key);

// Python's slice; absent bounds are nullptr.
Result<Value> get_slice(Context& context, const Value& value, const Value* start, const Value* stop, const Value* step);

// str.replace; a negative limit replaces all.
Result<std::string> replace_text(Context& context, std::string_view text, std::string_view old_part, std::string_view new_part, std::int64_t limit);
bool is_upper_text(std::string_view text);
bool is_lower_text(std::string_view text);

// json.dumps as Hugging Face calls it.
Result<Value> to_json_filter(Context& context, const Value& self, const Arguments& arguments);
// format % values.
Result<Value> percent_format(Context& context, const Value& format, const Value& values);
// str.format.
Result<Value> brace_format(Context& context, const Value& self, const Arguments& arguments);

}  // namespace skiff::tmpl
