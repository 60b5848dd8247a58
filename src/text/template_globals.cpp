// The functions that every template can call.
#include <ctime>

#include "text/template_tables.h"

namespace skiff::tmpl {
namespace {

Result<Value> raise_exception(Context& context, const Value&, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "raise_exception", {"message"}, 1));
    SKIFF_TRY(auto message, to_text(context, *bound[0]));
    return runtime_error("the template refuses these messages: " + message);
}

// The directives of strftime that mean the same on every system in the C locale.
Result<Value> strftime_now(Context& context, const Value&, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "strftime_now", {"format"}, 1));
    SKIFF_TRY(auto format, to_view(*bound[0], "strftime_now"));
    std::tm now{};
    if (context.options().now) {
        now = *context.options().now;
    } else {
        std::time_t seconds = std::time(nullptr);
        localtime_r(&seconds, &now);
    }
    std::string out;
    for (std::size_t i = 0; i < format.size(); ++i) {
        if (format[i] != '%') {
            out += format[i];
            continue;
        }
        std::string directive = "%";
        if (++i < format.size() && (format[i] == '-' || format[i] == '_')) directive += format[i++];
        char letter = i < format.size() ? format[i] : '\0';
        if (letter == '\0' || std::string_view("aAbBcdeDFHIjklmMnpPrRStTuUVwWxXyYGgC%zZ").find(letter) == std::string_view::npos)
            return unsupported("strftime_now: a directive in '" + std::string(format.substr(0, 80)) + "' is not supported");
        if (letter == 'z' || letter == 'Z') continue;  // empty for a time without a zone
        directive += letter;
        char buffer[128];
        out.append(buffer, std::strftime(buffer, sizeof buffer, directive.c_str(), &now));
    }
    return context.text(std::move(out));
}

Result<Value> range(Context& context, const Value&, const Arguments& arguments) {
    if (!arguments.named.empty() || arguments.positional.empty() || arguments.positional.size() > 3) return runtime_error("range takes one to three integers");
    std::int64_t values[3] = {};
    for (std::size_t i = 0; i < arguments.positional.size(); ++i) {
        SKIFF_TRY(values[i], to_index(arguments.positional[i], "range"));
    }
    bool has_start = arguments.positional.size() > 1;
    std::int64_t start = has_start ? values[0] : 0, stop = has_start ? values[1] : values[0];
    std::int64_t step = arguments.positional.size() > 2 ? values[2] : 1;
    if (step == 0) return runtime_error("the step of range must not be zero");
    std::vector<Value> items;
    for (std::int64_t i = start; step > 0 ? i < stop : i > stop;) {
        if (static_cast<std::int64_t>(items.size()) >= context.options().max_range)
            return resource_error("range is over the limit of " + std::to_string(context.options().max_range) + " items");
        items.push_back(Value(i));
        if (__builtin_add_overflow(i, step, &i)) break;
    }
    return context.sequence(SequenceKind::range, std::move(items));
}

// dict(mapping or pairs, name=value ...)
Result<Dict> collect_members(Context& context, const Arguments& arguments) {
    Dict members;
    if (arguments.positional.size() > 1) return runtime_error("dict and namespace take at most one argument by position");
    if (!arguments.positional.empty()) {
        const Value& source = arguments.positional[0];
        if (source.is_dict()) {
            SKIFF_CHECK(context.spend(source.dict().members().size()));
            members = source.dict();
        } else {
            SKIFF_TRY(auto pairs, iterate(context, source));
            for (const Value& pair : pairs) {
                SKIFF_TRY(auto parts, iterate(context, pair));
                if (parts.size() != 2 || !parts[0].is_hashable()) return runtime_error("dict: expected pairs of a key and a value");
                members.set(parts[0], parts[1]);
            }
        }
    }
    for (const auto& [name, value] : arguments.named) members.set(Value::text(name), value);
    return members;
}

Result<Value> dict(Context& context, const Value&, const Arguments& arguments) {
    SKIFF_TRY(auto members, collect_members(context, arguments));
    return context.dict(std::move(members));
}

Result<Value> name_space(Context& context, const Value&, const Arguments& arguments) {
    SKIFF_TRY(auto members, collect_members(context, arguments));
    SKIFF_CHECK(context.spend(4 + members.members().size()));
    if (members.depth() > context.options().max_depth) return resource_error("a namespace is nested too deeply");
    for (const auto& [key, value] : members.members())
        if (key.is_text() && key.bytes().starts_with('_')) return runtime_error("a namespace cannot have names that begin with _");
    auto made = std::make_shared<Namespace>();
    made->attributes = std::move(members);
    return context.adopt(std::move(made));
}

constexpr FunctionRow rows[] = {
    {"dict", dict}, {"namespace", name_space}, {"raise_exception", raise_exception}, {"range", range}, {"strftime_now", strftime_now},
};

}  // namespace

Function find_global(std::string_view name) {
    for (const FunctionRow& row : rows)
        if (row.name == name) return row.function;
    return nullptr;
}

}  // namespace skiff::tmpl
