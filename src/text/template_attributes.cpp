// x.name, x[key], slices, and the methods of dicts and lists.
#include <algorithm>

#include "text/template_tables.h"
#include "text/template_unicode.h"

namespace skiff::tmpl {
namespace {

Result<Value> dict_get(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind_places(arguments, "get", 1, 2));
    if (!bound[0]->is_hashable()) return type_error("a key of a dict must be hashable", *bound[0]);
    SKIFF_CHECK(context.spend(bound[0]->weight()));
    if (const Value* found = self.dict().find(*bound[0])) return *found;
    return bound[1] ? *bound[1] : Value(None{});
}

Result<Value> dict_view(Context& context, const Value& self, SequenceKind kind) {
    std::vector<Value> items;
    for (const auto& [key, value] : self.dict().members()) {
        if (kind == SequenceKind::items) {
            SKIFF_TRY(Value pair, context.tuple({key, value}));
            items.push_back(std::move(pair));
        } else {
            items.push_back(kind == SequenceKind::keys ? key : value);
        }
    }
    return context.sequence(kind, std::move(items));
}

Result<Value> dict_items(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "items", {}, 0));
    static_cast<void>(bound);
    return dict_view(context, self, SequenceKind::items);
}

Result<Value> dict_keys(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "keys", {}, 0));
    static_cast<void>(bound);
    return dict_view(context, self, SequenceKind::keys);
}

Result<Value> dict_values(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "values", {}, 0));
    static_cast<void>(bound);
    return dict_view(context, self, SequenceKind::values);
}

Result<Value> copy_self(Context&, const Value& self, const Arguments&) { return self; }  // values do not change, so they are their copies

Result<Value> list_count(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind_places(arguments, "count", 1, 1));
    std::int64_t count = 0;
    for (const Value& item : self.sequence().items) {
        SKIFF_TRY(bool same, context.equal(item, *bound[0]));
        count += same;
    }
    return Value(count);
}

Result<Value> list_index(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind_places(arguments, "index", 1, 3));
    const auto& items = self.sequence().items;
    auto size = static_cast<std::int64_t>(items.size());
    std::int64_t begin = 0, end = size;
    if (bound[1]) {
        SKIFF_TRY(begin, to_index(*bound[1], "index"));
    }
    if (bound[2]) {
        SKIFF_TRY(end, to_index(*bound[2], "index"));
    }
    begin = std::clamp<std::int64_t>(begin < 0 ? begin + size : begin, 0, size);
    end = std::clamp<std::int64_t>(end < 0 ? end + size : end, 0, size);
    for (std::int64_t i = begin; i < end; ++i) {
        SKIFF_TRY(bool same, context.equal(items[static_cast<std::size_t>(i)], *bound[0]));
        if (same) return Value(i);
    }
    return runtime_error("the value is not in the list");
}

struct MethodRow {
    std::string_view name;
    bool is_allowed;
    Function function;
};

// What changes a list or a dict is out of reach for templates, as in Hugging Face's immutable sandbox.
constexpr MethodRow dict_methods[] = {
    {"get", true, dict_get},     {"items", true, dict_items},    {"keys", true, dict_keys}, {"values", true, dict_values}, {"copy", true, copy_self},
    {"fromkeys", true, nullptr}, {"clear", false, nullptr},      {"pop", false, nullptr},   {"popitem", false, nullptr},   {"setdefault", false, nullptr},
    {"update", false, nullptr},
};
constexpr MethodRow list_methods[] = {
    {"copy", true, copy_self},   {"count", true, list_count},  {"index", true, list_index}, {"append", false, nullptr},  {"clear", false, nullptr},
    {"extend", false, nullptr},  {"insert", false, nullptr},   {"pop", false, nullptr},     {"remove", false, nullptr},  {"reverse", false, nullptr},
    {"sort", false, nullptr},
};
constexpr MethodRow tuple_methods[] = {{"count", true, list_count}, {"index", true, list_index}};

template <std::size_t N>
Method find_in(const MethodRow (&rows)[N], std::string_view name) {
    for (const MethodRow& row : rows)
        if (row.name == name) return {true, row.is_allowed, row.function};
    return {};
}

// A method, an undefined value whose use is an error where the method is forbidden, or nothing.
std::optional<Value> bound_method(const Value& value, std::string_view name) {
    Method method = find_method(value, name);
    std::string type(value.type_name());
    if (name.starts_with("__") && name.ends_with("__")) return Value::undefined("access to attribute '" + std::string(name) + "' of '" + type + "' object is unsafe");
    if (!method.exists) return std::nullopt;
    if (!method.is_allowed)
        return Value::undefined("the method '" + std::string(name) + "' of '" + type + "' objects changes them, which templates may not do");
    return Value(std::make_shared<const Callable>(Callable{std::string(name), method.function, value, {}}));
}

// obj[key] as Python has it; nothing where it raises.
Result<std::optional<Value>> subscript(Context& context, const Value& value, const Value& key) {
    if (value.is_dict()) {
        if (!key.is_hashable()) return std::optional<Value>();
        SKIFF_CHECK(context.spend(key.weight()));
        const Value* found = value.dict().find(key);
        return found ? std::optional<Value>(*found) : std::optional<Value>();
    }
    if (!key.is_integral() || !(value.is_text() || value.is_sequence())) return std::optional<Value>();
    if (value.is_sequence()) {
        SequenceKind kind = value.sequence().kind;
        if (kind != SequenceKind::list && kind != SequenceKind::tuple && kind != SequenceKind::range) return std::optional<Value>();
    }
    SKIFF_TRY(std::int64_t size, length(value));
    std::int64_t index = key.integral() < 0 ? key.integral() + size : key.integral();
    if (index < 0 || index >= size) return std::optional<Value>();
    if (value.is_sequence()) return std::optional<Value>(value.sequence().items[static_cast<std::size_t>(index)]);
    std::string_view bytes = value.bytes();
    std::size_t begin = static_cast<std::size_t>(index);
    if (!value.text().is_ascii()) {
        SKIFF_CHECK(context.spend_bytes(bytes.size()));
        begin = byte_offset(bytes, begin);
    }
    std::size_t end = begin;
    next_point(bytes, end);
    SKIFF_TRY(Value point, context.text_like(value, std::string(bytes.substr(begin, end - begin))));
    return std::optional<Value>(std::move(point));
}

Value missing(const Value& value, const std::string& name) {
    return Value::undefined("'" + std::string(value.is_dict() ? "dict" : value.type_name()) + "' object has no attribute '" + name + "'");
}

std::string short_name(const Value& key) { return key.is_text() ? std::string(key.bytes().substr(0, 80)) : key.is_integral() ? std::to_string(key.integral()) : std::string(key.type_name()); }

}  // namespace

Method find_method(const Value& receiver, std::string_view name) {
    if (receiver.is_text()) return find_text_method(name);
    if (receiver.is_dict()) return find_in(dict_methods, name);
    if (receiver.is_sequence(SequenceKind::list)) return find_in(list_methods, name);
    if (receiver.is_sequence(SequenceKind::tuple)) return find_in(tuple_methods, name);
    return {};
}

Result<Value> get_attribute(Context& context, const Value& value, std::string_view name) {
    if (value.is_undefined()) return type_error("", value);
    if (value.is_namespace()) {
        const Value* found = value.name_space().attributes.find(name);
        return found ? *found : missing(value, std::string(name));
    }
    if (value.is_loop()) return context.loop_attribute(value, name);
    if (auto method = bound_method(value, name)) return *std::move(method);
    if (value.is_dict()) {
        if (const Value* found = value.dict().find(name)) return *found;
    }
    return missing(value, std::string(name));
}

Result<Value> get_item(Context& context, const Value& value, const Value& key) {
    if (value.is_undefined()) return type_error("", value);
    SKIFF_TRY(auto found, subscript(context, value, key));
    if (found) return *std::move(found);
    if (key.is_text()) {
        if (value.is_namespace() || value.is_loop()) return get_attribute(context, value, key.bytes());
        if (auto method = bound_method(value, key.bytes())) return *std::move(method);
    }
    return missing(value, short_name(key));
}

Result<Value> get_slice(Context& context, const Value& value, const Value* start, const Value* stop, const Value* step) {
    if (value.is_undefined()) return type_error("", value);
    bool is_sliceable = value.is_text() || value.is_sequence(SequenceKind::list) || value.is_sequence(SequenceKind::tuple) || value.is_sequence(SequenceKind::range);
    if (!is_sliceable) return runtime_error("'" + std::string(value.type_name()) + "' object cannot be sliced");
    auto bound = [](const Value* given, std::int64_t fallback) -> Result<std::int64_t> {
        if (!given || given->is_none()) return fallback;
        return to_index(*given, "a slice");
    };
    SKIFF_TRY(std::int64_t stride, bound(step, 1));
    if (stride == 0) return runtime_error("the step of a slice cannot be zero");
    SKIFF_TRY(std::int64_t size, length(value));
    SKIFF_TRY(std::int64_t begin, bound(start, stride > 0 ? 0 : INT64_MAX));
    SKIFF_TRY(std::int64_t end, bound(stop, stride > 0 ? INT64_MAX : INT64_MIN));
    std::int64_t low = stride > 0 ? 0 : -1, high = stride > 0 ? size : size - 1;
    begin = std::clamp(begin < 0 && begin != INT64_MIN ? begin + size : begin, low, high);
    bool open_end = !stop || stop->is_none();
    end = open_end && stride < 0 ? -1 : std::clamp(end < 0 && end != INT64_MIN ? end + size : end, low, high);
    stride = std::clamp<std::int64_t>(stride, -size - 1, size + 1);  // a longer step ends the walk as well
    auto in_range = [&](std::int64_t i) { return stride > 0 ? i < end : i > end; };
    if (value.is_sequence()) {
        std::vector<Value> items;
        for (std::int64_t i = begin; in_range(i); i += stride) items.push_back(value.sequence().items[static_cast<std::size_t>(i)]);
        return context.sequence(value.sequence().kind == SequenceKind::tuple ? SequenceKind::tuple : SequenceKind::list, std::move(items));
    }
    std::string_view bytes = value.bytes();
    if (stride == 1 && value.text().is_ascii())
        return context.text_like(value, begin < end ? std::string(bytes.substr(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin))) : "");
    SKIFF_CHECK(context.spend(static_cast<std::size_t>(size) / 8));
    auto points = split_points(bytes);
    std::string out;
    for (std::int64_t i = begin; in_range(i); i += stride) out += points[static_cast<std::size_t>(i)];
    return context.text_like(value, std::move(out));
}

}  // namespace skiff::tmpl
