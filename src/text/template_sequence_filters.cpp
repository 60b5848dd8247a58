// Filters over lists, dicts and other iterables.
#include <algorithm>

#include "text/template_operators.h"
#include "text/template_tables.h"
#include "text/template_unicode.h"

namespace skiff::tmpl {
namespace {

Result<Value> length_filter(Context&, const Value& self, const Arguments&) {
    SKIFF_TRY(auto size, length(self));
    return Value(size);
}

Result<Value> default_filter(Context&, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "default", {"default_value", "boolean"}, 0));
    bool replaces = self.is_undefined() || (bound[1] && bound[1]->truthy() && !self.truthy());
    if (!replaces) return self;
    return bound[0] ? *bound[0] : Value::text("");
}

Result<Value> first(Context& context, const Value& self, const Arguments&) {
    if (self.is_sequence() && self.sequence().kind != SequenceKind::generator && !self.sequence().items.empty()) return self.sequence().items.front();
    SKIFF_TRY(auto items, iterate(context, self));
    return items.empty() ? Value::undefined("no first item, the sequence is empty") : items.front();
}

Result<Value> last(Context& context, const Value& self, const Arguments&) {
    if (self.is_sequence(SequenceKind::generator)) return type_error("last: expected a list", self);
    SKIFF_TRY(auto items, iterate(context, self));
    return items.empty() ? Value::undefined("no last item, the sequence is empty") : items.back();
}

Result<Value> list_filter(Context& context, const Value& self, const Arguments&) {
    SKIFF_TRY(auto items, iterate(context, self));
    return context.list(std::move(items));
}

// "a.b.0": members of members; numbers are places in lists.
Result<std::vector<Value>> attribute_path(const Value* attribute) {
    std::vector<Value> path;
    if (!attribute || attribute->is_none()) return path;
    if (!attribute->is_text()) return std::vector<Value>{*attribute};
    std::string_view rest = attribute->bytes();
    while (true) {
        std::size_t dot = rest.find('.');
        std::string_view part = rest.substr(0, dot);
        bool is_number = !part.empty() && part.size() < 10 && std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
        path.push_back(is_number ? Value(static_cast<std::int64_t>(std::stoll(std::string(part)))) : Value::text(part));
        if (dot == std::string_view::npos) return path;
        rest = rest.substr(dot + 1);
    }
}

Result<Value> follow(Context& context, Value item, const std::vector<Value>& path, const Value* fallback = nullptr) {
    for (const Value& part : path) {
        SKIFF_CHECK(context.spend(1));
        SKIFF_TRY(item, get_item(context, item, part));
        if (fallback && !fallback->is_none() && item.is_undefined()) item = *fallback;
    }
    return item;
}

Result<Value> fold_case(Context& context, Value value) {
    if (!value.is_text()) return value;
    SKIFF_CHECK(context.spend_bytes(value.bytes().size()));
    return Value::text(lower(value.bytes()));
}

// What an item is sorted or compared by: its attribute if one is named, without regard to case unless asked for.
struct KeyRule {
    std::vector<std::vector<Value>> paths;
    bool folds = true;

    Result<Value> operator()(Context& context, const Value& item) const {
        std::vector<Value> keys;
        for (const auto& path : paths) {
            SKIFF_TRY(Value key, follow(context, item, path));
            if (folds) {
                SKIFF_TRY(key, fold_case(context, std::move(key)));
            }
            keys.push_back(std::move(key));
        }
        if (keys.size() == 1) return keys.front();
        return context.list(std::move(keys));
    }
};

Result<KeyRule> key_rule(const Value* attribute, const Value* case_sensitive) {
    KeyRule rule;
    rule.folds = !(case_sensitive && case_sensitive->truthy());
    SKIFF_TRY(auto path, attribute_path(attribute));
    rule.paths.push_back(std::move(path));
    return rule;
}

enum class Order { ascending, descending };

// Stable, like Python's sorted; a comparison that Python refuses is an error.
Result<std::vector<Value>> sort_by_keys(Context& context, std::vector<Value> items, const std::vector<Value>& keys, Order order) {
    std::vector<std::size_t> places(items.size());
    for (std::size_t i = 0; i < places.size(); ++i) places[i] = i;
    std::optional<Error> failure;
    std::stable_sort(places.begin(), places.end(), [&](std::size_t a, std::size_t b) {
        if (failure) return false;
        if (order == Order::descending) std::swap(a, b);
        auto smaller = compare(context, Operator::less, keys[a], keys[b]);
        if (!smaller.ok()) failure = smaller.take_error();
        auto paid = context.spend(1);
        if (!paid.ok() && !failure) failure = paid.take_error();
        return !failure && *smaller;
    });
    if (failure) return *std::move(failure);
    std::vector<Value> sorted;
    for (std::size_t place : places) sorted.push_back(std::move(items[place]));
    return sorted;
}

Result<Value> sort(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "sort", {"reverse", "case_sensitive", "attribute"}, 0));
    KeyRule rule;
    rule.folds = !(bound[1] && bound[1]->truthy());
    if (bound[2] && bound[2]->is_text()) {  // several attributes, with commas between
        std::string_view rest = bound[2]->bytes();
        while (true) {
            std::size_t comma = rest.find(',');
            Value name = Value::text(rest.substr(0, comma));
            SKIFF_TRY(auto path, attribute_path(&name));
            rule.paths.push_back(std::move(path));
            if (comma == std::string_view::npos) break;
            rest = rest.substr(comma + 1);
        }
    } else {
        SKIFF_TRY(auto path, attribute_path(bound[2]));
        rule.paths.push_back(std::move(path));
    }
    SKIFF_TRY(auto items, iterate(context, self));
    std::vector<Value> keys;
    for (const Value& item : items) {
        SKIFF_TRY(Value key, rule(context, item));
        keys.push_back(std::move(key));
    }
    SKIFF_TRY(auto sorted, sort_by_keys(context, std::move(items), keys, bound[0] && bound[0]->truthy() ? Order::descending : Order::ascending));
    return context.list(std::move(sorted));
}

Result<Value> dict_sort(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "dictsort", {"case_sensitive", "by", "reverse"}, 0));
    if (!self.is_dict()) return type_error("dictsort: expected a dict", self);
    std::string_view by = "key";
    if (bound[1]) {
        SKIFF_TRY(by, to_view(*bound[1], "dictsort"));
    }
    if (by != "key" && by != "value") return runtime_error("dictsort sorts by \"key\" or \"value\"");
    std::vector<Value> items, keys;
    for (const auto& [key, value] : self.dict().members()) {
        SKIFF_TRY(Value pair, context.tuple({key, value}));
        items.push_back(std::move(pair));
        Value sort_key = by == "key" ? key : value;
        if (!(bound[0] && bound[0]->truthy())) {
            SKIFF_TRY(sort_key, fold_case(context, std::move(sort_key)));
        }
        keys.push_back(std::move(sort_key));
    }
    SKIFF_TRY(auto sorted, sort_by_keys(context, std::move(items), keys, bound[2] && bound[2]->truthy() ? Order::descending : Order::ascending));
    return context.list(std::move(sorted));
}

Result<Value> unique(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "unique", {"case_sensitive", "attribute"}, 0));
    SKIFF_TRY(auto rule, key_rule(bound[1], bound[0]));
    SKIFF_TRY(auto items, iterate(context, self));
    Dict seen;
    std::vector<Value> kept;
    for (Value& item : items) {
        SKIFF_TRY(Value key, rule(context, item));
        if (!key.is_hashable()) return type_error("unique: expected values that can be hashed", key);
        SKIFF_CHECK(context.spend(key.weight()));
        if (seen.find(key)) continue;
        seen.set(std::move(key), Value(true));
        kept.push_back(std::move(item));
    }
    return context.sequence(SequenceKind::generator, std::move(kept));
}

template <Order order>
Result<Value> extreme(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "min and max", {"case_sensitive", "attribute"}, 0));
    SKIFF_TRY(auto rule, key_rule(bound[1], bound[0]));
    SKIFF_TRY(auto items, iterate(context, self));
    if (items.empty()) return Value::undefined("no aggregated item, the sequence is empty");
    std::size_t best = 0;
    Value best_key;
    for (std::size_t i = 0; i < items.size(); ++i) {
        SKIFF_TRY(Value key, rule(context, items[i]));
        bool better = i == 0;
        if (!better) {
            SKIFF_TRY(better, order == Order::ascending ? compare(context, Operator::less, key, best_key) : compare(context, Operator::less, best_key, key));
        }
        if (!better) continue;
        best = i;
        best_key = std::move(key);
    }
    return items[best];
}

Result<Value> sum(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "sum", {"attribute", "start"}, 0));
    SKIFF_TRY(auto path, attribute_path(bound[0]));
    SKIFF_TRY(auto items, iterate(context, self));
    Value total = bound[1] ? *bound[1] : Value(std::int64_t{0});
    for (Value& item : items) {
        SKIFF_TRY(Value part, follow(context, std::move(item), path));
        if (total.is_text() || part.is_text()) return runtime_error("sum adds numbers and lists; use join for strings");
        SKIFF_TRY(total, arithmetic(context, Operator::add, total, part));
    }
    return total;
}

Result<Value> join(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "join", {"d", "attribute"}, 0));
    SKIFF_TRY(auto path, attribute_path(bound[1]));
    std::string separator;
    if (bound[0]) {
        SKIFF_TRY(separator, to_text(context, *bound[0]));
    }
    SKIFF_TRY(auto items, iterate(context, self));
    std::string out;
    bool is_first = true;
    for (Value& item : items) {
        SKIFF_TRY(Value value, follow(context, std::move(item), path));
        SKIFF_TRY(auto piece, to_text(context, value));
        SKIFF_CHECK(context.spend_bytes(piece.size() + separator.size()));
        if (!is_first) out += separator;
        is_first = false;
        out += piece;
    }
    return context.text(std::move(out));
}

Result<Value> items_filter(Context& context, const Value& self, const Arguments&) {
    if (self.is_undefined()) return context.sequence(SequenceKind::generator, {});
    if (!self.is_dict()) return type_error("items: expected a dict", self);
    std::vector<Value> pairs;
    for (const auto& [key, value] : self.dict().members()) {
        SKIFF_TRY(Value pair, context.tuple({key, value}));
        pairs.push_back(std::move(pair));
    }
    return context.sequence(SequenceKind::generator, std::move(pairs));
}

Result<Value> reverse(Context& context, const Value& self, const Arguments&) {
    if (self.is_text()) {
        Value step(std::int64_t{-1});
        return get_slice(context, self, nullptr, nullptr, &step);
    }
    if (self.is_undefined()) return type_error("", self);
    SKIFF_TRY(auto items, iterate(context, self));
    std::reverse(items.begin(), items.end());
    return context.sequence(SequenceKind::generator, std::move(items));
}

Arguments without_first(const Arguments& arguments, std::size_t count) {
    Arguments rest = arguments;
    rest.positional.erase(rest.positional.begin(), rest.positional.begin() + static_cast<std::ptrdiff_t>(count));
    return rest;
}

Result<Value> map(Context& context, const Value& self, const Arguments& arguments) {
    if (!self.truthy()) return context.sequence(SequenceKind::generator, {});
    SKIFF_TRY(auto items, iterate(context, self));
    std::vector<Value> mapped;
    auto named = [&](std::string_view name) -> const Value* {
        for (const auto& [key, value] : arguments.named)
            if (key == name) return &value;
        return nullptr;
    };
    if (arguments.positional.empty() && named("attribute")) {
        for (const auto& [key, value] : arguments.named)
            if (key != "attribute" && key != "default") return runtime_error("map takes no argument '" + key + "'");
        SKIFF_TRY(auto path, attribute_path(named("attribute")));
        for (Value& item : items) {
            SKIFF_TRY(Value value, follow(context, std::move(item), path, named("default")));
            mapped.push_back(std::move(value));
        }
        return context.sequence(SequenceKind::generator, std::move(mapped));
    }
    if (arguments.positional.empty()) return runtime_error("map needs the name of a filter or an attribute");
    SKIFF_TRY(auto name, to_view(arguments.positional[0], "map"));
    Function filter = find_filter(name);
    if (!filter) return runtime_error("no filter named '" + std::string(name) + "'");
    Arguments rest = without_first(arguments, 1);
    for (const Value& item : items) {
        SKIFF_CHECK(context.spend(1));
        SKIFF_TRY(Value value, filter(context, item, rest));
        mapped.push_back(std::move(value));
    }
    return context.sequence(SequenceKind::generator, std::move(mapped));
}

enum class Looks { at_item, at_attribute };
enum class Keeps { passing, failing };

template <Looks looks, Keeps keeps>
Result<Value> select(Context& context, const Value& self, const Arguments& arguments) {
    if (!self.truthy()) return context.sequence(SequenceKind::generator, {});
    SKIFF_TRY(auto items, iterate(context, self));
    std::vector<Value> path;
    std::size_t n_used = 0;
    if (looks == Looks::at_attribute) {
        if (arguments.positional.empty()) return runtime_error("selectattr and rejectattr need the name of an attribute");
        SKIFF_TRY(path, attribute_path(&arguments.positional[0]));
        n_used = 1;
    }
    Function test = nullptr;
    if (arguments.positional.size() > n_used) {
        SKIFF_TRY(auto name, to_view(arguments.positional[n_used], "the name of a test"));
        test = find_test(name);
        if (!test && !items.empty()) return runtime_error("no test named '" + std::string(name) + "'");
        ++n_used;
    }
    Arguments rest = without_first(arguments, n_used);
    std::vector<Value> kept;
    for (Value& item : items) {
        SKIFF_CHECK(context.spend(1));
        SKIFF_TRY(Value subject, follow(context, item, path));
        if (test) {
            SKIFF_TRY(subject, test(context, subject, rest));
        }
        if (subject.truthy() == (keeps == Keeps::passing)) kept.push_back(std::move(item));
    }
    return context.sequence(SequenceKind::generator, std::move(kept));
}

Result<Value> batch(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "batch", {"linecount", "fill_with"}, 1));
    SKIFF_TRY(auto size, to_index(*bound[0], "batch"));
    if (size < 1) return runtime_error("batch: expected a positive number");
    SKIFF_TRY(auto items, iterate(context, self));
    std::vector<Value> lines, line;
    auto flush = [&]() -> Status {
        SKIFF_TRY(Value made, context.list(std::move(line)));
        lines.push_back(std::move(made));
        line.clear();
        return {};
    };
    for (Value& item : items) {
        if (static_cast<std::int64_t>(line.size()) == size) SKIFF_CHECK(flush());
        line.push_back(std::move(item));
    }
    if (!line.empty()) {
        bool fills = bound[1] && !bound[1]->is_none();
        if (fills && size > context.options().max_range) return resource_error("batch: the size is over the limit for lists");
        while (fills && static_cast<std::int64_t>(line.size()) < size) line.push_back(*bound[1]);
        SKIFF_CHECK(flush());
    }
    return context.sequence(SequenceKind::generator, std::move(lines));
}

Result<Value> slice(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "slice", {"slices", "fill_with"}, 1));
    SKIFF_TRY(auto n_slices, to_index(*bound[0], "slice"));
    if (n_slices < 1 || n_slices > context.options().max_range) return runtime_error("slice: expected a positive number of slices");
    SKIFF_TRY(auto items, iterate(context, self));
    auto n = static_cast<std::size_t>(n_slices);
    std::size_t size = items.size() / n, n_longer = items.size() % n, begin = 0;
    std::vector<Value> slices;
    for (std::size_t i = 0; i < n; ++i) {
        std::size_t end = begin + size + (i < n_longer ? 1 : 0);
        std::vector<Value> part(items.begin() + static_cast<std::ptrdiff_t>(begin), items.begin() + static_cast<std::ptrdiff_t>(end));
        if (bound[1] && !bound[1]->is_none() && i >= n_longer) part.push_back(*bound[1]);
        SKIFF_TRY(Value made, context.list(std::move(part)));
        slices.push_back(std::move(made));
        begin = end;
    }
    return context.sequence(SequenceKind::generator, std::move(slices));
}

Result<Value> group_by(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "groupby", {"attribute", "default", "case_sensitive"}, 1));
    SKIFF_TRY(auto path, attribute_path(bound[0]));
    bool folds = !(bound[2] && bound[2]->truthy());
    SKIFF_TRY(auto items, iterate(context, self));
    std::vector<Value> keys;
    for (const Value& item : items) {
        SKIFF_TRY(Value key, follow(context, item, path, bound[1]));
        if (folds) {
            SKIFF_TRY(key, fold_case(context, std::move(key)));
        }
        keys.push_back(std::move(key));
    }
    SKIFF_TRY(auto sorted, sort_by_keys(context, items, keys, Order::ascending));
    std::vector<Value> groups, members;
    Value group_key;
    auto flush = [&]() -> Status {
        SKIFF_TRY(Value shown, follow(context, members.front(), path, bound[1]));
        SKIFF_TRY(Value made, context.list(std::move(members)));
        SKIFF_TRY(Value group, context.tuple({std::move(shown), std::move(made)}));
        groups.push_back(std::move(group));
        members.clear();
        return {};
    };
    for (Value& item : sorted) {
        SKIFF_TRY(Value key, follow(context, item, path, bound[1]));
        if (folds) {
            SKIFF_TRY(key, fold_case(context, std::move(key)));
        }
        if (!members.empty()) {
            SKIFF_TRY(bool same, context.equal(key, group_key));
            if (!same) SKIFF_CHECK(flush());
        }
        group_key = std::move(key);
        members.push_back(std::move(item));
    }
    if (!members.empty()) SKIFF_CHECK(flush());
    return context.list(std::move(groups));
}

Result<Value> attribute(Context& context, const Value& self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "attr", {"name"}, 1));
    SKIFF_TRY(auto name, to_view(*bound[0], "attr"));
    if (self.is_dict() && !find_method(self, name).exists) return Value::undefined("'dict' object has no attribute '" + std::string(name) + "'");
    return get_attribute(context, self, name);
}

constexpr FunctionRow sequence_filters[] = {
    {"attr", attribute},
    {"batch", batch},
    {"count", length_filter},
    {"d", default_filter},
    {"default", default_filter},
    {"dictsort", dict_sort},
    {"first", first},
    {"groupby", group_by},
    {"items", items_filter},
    {"join", join},
    {"last", last},
    {"length", length_filter},
    {"list", list_filter},
    {"map", map},
    {"max", extreme<Order::descending>},
    {"min", extreme<Order::ascending>},
    {"reject", select<Looks::at_item, Keeps::failing>},
    {"rejectattr", select<Looks::at_attribute, Keeps::failing>},
    {"reverse", reverse},
    {"select", select<Looks::at_item, Keeps::passing>},
    {"selectattr", select<Looks::at_attribute, Keeps::passing>},
    {"slice", slice},
    {"sort", sort},
    {"sum", sum},
    {"unique", unique},
};

}  // namespace

Function find_sequence_filter(std::string_view name) {
    for (const FunctionRow& row : sequence_filters)
        if (row.name == name) return row.function;
    return nullptr;
}

}  // namespace skiff::tmpl
