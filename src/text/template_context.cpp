#include "text/template_context.h"

#include <charconv>
#include <cmath>

#include "text/template_unicode.h"

namespace skiff::tmpl {

Error Context::out_of_fuel() const {
    return resource_error("the template needs more than " + std::to_string(options_.fuel) + " steps; it may loop without end");
}

Result<Value> Context::text(std::string bytes) {
    if (bytes.size() > 4 * options_.max_output_bytes)
        return resource_error("a string of " + std::to_string(bytes.size()) + " bytes is over the limit of " + std::to_string(4 * options_.max_output_bytes));
    SKIFF_CHECK(spend_bytes(bytes.size()));
    std::size_t n_points = count_points(bytes);
    return Value(std::make_shared<const Text>(Text{std::move(bytes), false, n_points}));
}

Result<Value> Context::text_like(const Value& origin, std::string bytes) {
    SKIFF_TRY(Value plain, text(std::move(bytes)));
    if (!origin.is_text() || !origin.text().is_markup) return plain;
    return Value::markup(plain.bytes());
}

Result<Value> Context::sequence(SequenceKind kind, std::vector<Value> items) {
    SKIFF_CHECK(spend(items.size()));
    auto made = std::make_shared<Sequence>();
    made->kind = kind;
    for (const Value& item : items) {
        made->depth = std::max(made->depth, item.depth() + 1);
        made->weight = saturating_add(made->weight, item.weight());
    }
    made->items = std::move(items);
    if (made->depth > options_.max_depth) return resource_error("a list is nested deeper than " + std::to_string(options_.max_depth) + " levels");
    if (made->weight > options_.fuel) return resource_error("a list holds more than " + std::to_string(options_.fuel) + " values");
    return Value(std::shared_ptr<const Sequence>(std::move(made)));
}

Result<Value> Context::dict(Dict members) {
    SKIFF_CHECK(spend(members.members().size()));
    if (members.depth() > options_.max_depth) return resource_error("a dict is nested deeper than " + std::to_string(options_.max_depth) + " levels");
    if (members.weight() > options_.fuel) return resource_error("a dict holds more than " + std::to_string(options_.fuel) + " values");
    return Value(std::make_shared<const Dict>(std::move(members)));
}

namespace {

Result<Value> convert_json(const Json& json, int depth_left) {
    if (json.is_null()) return Value(None{});
    if (json.is_bool()) return Value(json.bool_or(false));
    if (json.big_unsigned()) return unsupported("an integer above 2^63-1 (" + std::to_string(*json.big_unsigned()) + ") in the messages; pass it as a string");
    if (json.is_integer()) return Value(json.int_or(0));
    if (json.is_double()) return Value(json.number_or(0));
    if (json.is_string()) return Value::text(json.text());
    if (depth_left <= 0) return resource_error("the messages are nested too deeply");
    if (json.is_array()) {
        auto made = std::make_shared<Sequence>();
        made->items.reserve(json.size());
        for (const Json& item : json.items()) {
            SKIFF_TRY(Value value, convert_json(item, depth_left - 1));
            made->depth = std::max(made->depth, value.depth() + 1);
            made->weight = saturating_add(made->weight, value.weight());
            made->items.push_back(std::move(value));
        }
        return Value(std::shared_ptr<const Sequence>(std::move(made)));
    }
    Dict members;
    for (const auto& [key, member] : json.members()) {
        SKIFF_TRY(Value value, convert_json(member, depth_left - 1));
        members.set(Value::text(key), std::move(value));
    }
    return Value(std::make_shared<const Dict>(std::move(members)));
}

}  // namespace

Result<Value> Context::from_json(const Json& json) { return convert_json(json, options_.max_depth); }

Result<bool> Context::equal(const Value& a, const Value& b) {
    SKIFF_CHECK(spend(std::min(a.weight(), b.weight())));
    return equals(a, b);
}

Result<Value> Context::call(const Value& callee, const Arguments& arguments) {
    if (!callee.is_callable()) {
        if (callee.is_undefined()) return type_error("", callee);
        return runtime_error("'" + std::string(callee.type_name()) + "' object is not callable");
    }
    const Callable& callable = callee.callable();
    if (callable.macro) return call_macro(*callable.macro, arguments);
    if (!callable.function) return unsupported("the method " + callable.name + " is not part of this template engine");
    SKIFF_CHECK(spend(1));
    return callable.function(*this, callable.self, arguments);
}

bool is_iterable(const Value& value) { return value.is_undefined() || value.is_text() || value.is_sequence() || value.is_dict() || value.is_loop(); }

Result<std::vector<Value>> iterate(Context& context, const Value& value) {
    std::vector<Value> items;
    if (value.is_undefined()) {
        return items;
    } else if (value.is_sequence()) {
        const Sequence& sequence = value.sequence();
        SKIFF_CHECK(context.spend(sequence.items.size()));
        if (sequence.kind != SequenceKind::generator) return sequence.items;
        if (!sequence.is_consumed) items = sequence.items;
        sequence.is_consumed = true;
        return items;
    } else if (value.is_dict()) {
        SKIFF_CHECK(context.spend(value.dict().members().size()));
        for (const auto& [key, member] : value.dict().members()) items.push_back(key);
        return items;
    } else if (value.is_text()) {
        SKIFF_CHECK(context.spend(value.text().n_points));
        for (std::string_view point : split_points(value.bytes())) items.push_back(Value::text(point));
        return items;
    }
    return runtime_error("'" + std::string(value.type_name()) + "' object is not iterable");
}

Result<std::int64_t> length(const Value& value) {
    if (value.is_undefined()) return std::int64_t{0};
    if (value.is_text()) return static_cast<std::int64_t>(value.text().n_points);
    if (value.is_sequence() && value.sequence().kind != SequenceKind::generator) return static_cast<std::int64_t>(value.sequence().items.size());
    if (value.is_dict()) return static_cast<std::int64_t>(value.dict().members().size());
    return runtime_error("object of type '" + std::string(value.type_name()) + "' has no len()");
}

Error type_error(std::string_view what, const Value& found) {
    if (found.is_undefined()) return runtime_error(found.as_undefined().reason ? *found.as_undefined().reason : "a value is undefined");
    return runtime_error(std::string(what) + ", found '" + std::string(found.type_name()) + "'");
}

std::string float_repr(double value) {
    if (std::isnan(value)) return "nan";
    if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
    char buffer[40];
    auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
    std::string_view shortest(buffer, static_cast<std::size_t>(end - buffer));
    std::string out = shortest[0] == '-' ? "-" : "";
    if (shortest[0] == '-') shortest.remove_prefix(1);
    std::size_t e = shortest.find('e');
    int exponent = std::atoi(std::string(shortest.substr(e + 1)).c_str());
    std::string digits(1, shortest[0]);
    if (e > 2) digits += shortest.substr(2, e - 2);
    auto n_digits = static_cast<int>(digits.size());
    if (exponent < -4 || exponent >= 16) {
        out += digits[0];
        if (n_digits > 1) out += "." + digits.substr(1);
        std::string power = std::to_string(std::abs(exponent));
        return out + (exponent < 0 ? "e-" : "e+") + (power.size() < 2 ? "0" + power : power);
    }
    if (exponent < 0) return out + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
    if (n_digits <= exponent + 1) return out + digits + std::string(static_cast<std::size_t>(exponent + 1 - n_digits), '0') + ".0";
    return out + digits.substr(0, static_cast<std::size_t>(exponent + 1)) + "." + digits.substr(static_cast<std::size_t>(exponent + 1));
}

namespace {

constexpr int max_repr_depth = 128;  // namespaces can hold each other in a circle

Status append_repr(Context& context, std::string& out, const Value& value, int depth);

Status append_members(Context& context, std::string& out, const std::vector<Value>& items, int depth) {
    for (std::size_t i = 0; i < items.size(); ++i) {
        if (i) out += ", ";
        SKIFF_CHECK(append_repr(context, out, items[i], depth));
    }
    return {};
}

Status append_dict(Context& context, std::string& out, const Dict& dict, int depth) {
    out += '{';
    bool first = true;
    for (const auto& [key, member] : dict.members()) {
        if (!first) out += ", ";
        first = false;
        SKIFF_CHECK(append_repr(context, out, key, depth));
        out += ": ";
        SKIFF_CHECK(append_repr(context, out, member, depth));
    }
    out += '}';
    return {};
}

Status append_sequence(Context& context, std::string& out, const Sequence& sequence, int depth) {
    switch (sequence.kind) {
        case SequenceKind::generator: out += "<generator object>"; return {};
        case SequenceKind::range:
            if (sequence.items.empty()) {
                out += "range(0, 0)";
                return {};
            }
            out += "range(" + std::to_string(sequence.items.front().integral()) + ", " + std::to_string(sequence.items.back().integral() + 1) + ")";
            return {};
        case SequenceKind::tuple:
            out += '(';
            SKIFF_CHECK(append_members(context, out, sequence.items, depth));
            out += sequence.items.size() == 1 ? ",)" : ")";
            return {};
        default: break;
    }
    static constexpr std::string_view openings[] = {"[", "", "", "", "dict_keys([", "dict_values([", "dict_items(["};
    out += openings[static_cast<int>(sequence.kind)];
    SKIFF_CHECK(append_members(context, out, sequence.items, depth));
    out += sequence.kind == SequenceKind::list ? "]" : "])";
    return {};
}

Status append_repr(Context& context, std::string& out, const Value& value, int depth) {
    SKIFF_CHECK(context.spend(1));
    if (depth > max_repr_depth) return resource_error("a value is nested deeper than " + std::to_string(max_repr_depth) + " levels");
    if (value.is_undefined()) {
        out += "Undefined";
    } else if (value.is_none()) {
        out += "None";
    } else if (value.is_bool()) {
        out += value.boolean() ? "True" : "False";
    } else if (value.is_integer()) {
        out += std::to_string(value.integral());
    } else if (value.is_double()) {
        out += float_repr(value.number());
    } else if (value.is_text()) {
        SKIFF_CHECK(context.spend_bytes(value.bytes().size()));
        std::string quoted = python_repr(value.bytes());
        out += value.text().is_markup ? "Markup(" + quoted + ")" : quoted;
    } else if (value.is_sequence()) {
        return append_sequence(context, out, value.sequence(), depth + 1);
    } else if (value.is_dict()) {
        return append_dict(context, out, value.dict(), depth + 1);
    } else if (value.is_namespace()) {
        out += "<Namespace ";
        SKIFF_CHECK(append_dict(context, out, value.name_space().attributes, depth + 1));
        out += ">";
    } else if (value.is_callable()) {
        out += value.callable().macro ? "<Macro '" + value.callable().name + "'>" : "<function " + value.callable().name + ">";
    } else {
        out += "<LoopContext>";
    }
    return {};
}

}  // namespace

Result<std::string> to_repr(Context& context, const Value& value) {
    std::string out;
    SKIFF_CHECK(append_repr(context, out, value, 0));
    return out;
}

Result<std::string> to_text(Context& context, const Value& value) {
    if (value.is_text()) {
        SKIFF_CHECK(context.spend_bytes(value.bytes().size()));
        return std::string(value.bytes());
    }
    if (value.is_undefined()) return std::string();
    return to_repr(context, value);
}

Result<Bound> bind(const Arguments& arguments, std::string_view function, std::initializer_list<std::string_view> names, std::size_t n_required) {
    Bound bound{};
    if (arguments.positional.size() > names.size())
        return runtime_error(std::string(function) + "() takes at most " + std::to_string(names.size()) + " arguments, found " +
                             std::to_string(arguments.positional.size()));
    for (std::size_t i = 0; i < arguments.positional.size(); ++i) bound[i] = &arguments.positional[i];
    for (const auto& [name, value] : arguments.named) {
        auto found = std::find(names.begin(), names.end(), name);
        if (found == names.end()) return runtime_error(std::string(function) + "() got an unexpected keyword argument '" + name + "'");
        auto& slot = bound[static_cast<std::size_t>(found - names.begin())];
        if (slot) return runtime_error(std::string(function) + "() got two values for the argument '" + name + "'");
        slot = &value;
    }
    for (std::size_t i = 0; i < n_required; ++i)
        if (!bound[i]) return runtime_error(std::string(function) + "() misses its argument '" + std::string(names.begin()[i]) + "'");
    return bound;
}

Result<Bound> bind_places(const Arguments& arguments, std::string_view function, std::size_t n_required, std::size_t n_allowed) {
    if (!arguments.named.empty()) return runtime_error(std::string(function) + "() takes no keyword arguments");
    std::size_t n = arguments.positional.size();
    if (n < n_required || n > n_allowed)
        return runtime_error(std::string(function) + "() takes " + std::to_string(n_required) + " to " + std::to_string(n_allowed) + " arguments, found " + std::to_string(n));
    Bound bound{};
    for (std::size_t i = 0; i < n; ++i) bound[i] = &arguments.positional[i];
    return bound;
}

Result<std::int64_t> to_index(const Value& value, std::string_view what) {
    if (value.is_integral()) return value.integral();
    return type_error(std::string(what) + ": expected an integer", value);
}

Result<std::string_view> to_view(const Value& value, std::string_view what) {
    if (value.is_text()) return value.bytes();
    return type_error(std::string(what) + ": expected a string", value);
}

}  // namespace skiff::tmpl
