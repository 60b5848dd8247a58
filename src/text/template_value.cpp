#include "text/template_value.h"

#include <algorithm>
#include <cmath>

#include "text/template_unicode.h"

namespace skiff::tmpl {
namespace {

template <class... Parts>
struct Overloaded : Parts... {
    using Parts::operator()...;
};
template <class... Parts>
Overloaded(Parts...) -> Overloaded<Parts...>;

bool is_list_like(const Value& value) {
    return value.is_sequence() && value.sequence().kind != SequenceKind::generator && value.sequence().kind != SequenceKind::values;
}

Error no_order(const Value& a, const Value& b) {
    return runtime_error("'<' not supported between instances of '" + std::string(a.type_name()) + "' and '" + std::string(b.type_name()) + "'");
}

}  // namespace

Value Value::undefined(std::string reason) {
    Value value;
    value.storage_ = Undefined{std::make_shared<const std::string>(std::move(reason))};
    return value;
}

Value Value::text(std::string_view bytes) { return std::make_shared<const Text>(Text{std::string(bytes), false, count_points(bytes)}); }
Value Value::markup(std::string_view bytes) { return std::make_shared<const Text>(Text{std::string(bytes), true, count_points(bytes)}); }

bool Value::truthy() const {
    if (is_undefined() || is_none()) return false;
    if (is_bool()) return boolean();
    if (is_integer()) return integral() != 0;
    if (is_double()) return number() != 0;
    if (is_text()) return !text().bytes.empty();
    if (is_sequence()) return sequence().kind == SequenceKind::generator || !sequence().items.empty();
    if (is_dict()) return !dict().members().empty();
    return true;
}

int Value::depth() const {
    if (is_sequence()) return sequence().depth;
    if (is_dict()) return dict().depth();
    if (is_loop()) return loop()->depth;
    if (is_callable()) return callable().self.depth() + 1;  // a bound method holds its receiver
    return 0;
}

std::size_t Value::weight() const {
    if (is_sequence()) return sequence().weight;
    if (is_dict()) return dict().weight();
    if (is_text()) return 1 + text().bytes.size() / 32;
    if (is_loop()) return loop()->weight;
    if (is_callable()) return saturating_add(callable().self.weight(), 1);
    return 1;
}

std::string_view Value::type_name() const {
    if (is_sequence()) {
        static constexpr std::string_view names[] = {"list", "tuple", "generator", "range", "dict_keys", "dict_values", "dict_items"};
        return names[static_cast<int>(sequence().kind)];
    }
    if (is_text()) return text().is_markup ? "Markup" : "str";
    static constexpr std::string_view names[] = {"Undefined", "NoneType", "bool", "int", "float", "str", "list", "dict", "Namespace", "function", "LoopContext"};
    return names[storage_.index()];
}

const void* Value::identity() const {
    return std::visit(Overloaded{[](const auto& pointer) -> const void* { return pointer.get(); },
                                 [](const Undefined&) -> const void* { return nullptr; },
                                 [](None) -> const void* { return nullptr; },
                                 [](bool) -> const void* { return nullptr; },
                                 [](std::int64_t) -> const void* { return nullptr; },
                                 [](double) -> const void* { return nullptr; }},
                      storage_);
}

bool Value::is_hashable() const {
    if (is_dict()) return false;
    if (!is_sequence()) return true;
    switch (sequence().kind) {
        case SequenceKind::list:
        case SequenceKind::keys:
        case SequenceKind::items: return false;
        case SequenceKind::tuple: return std::all_of(sequence().items.begin(), sequence().items.end(), [](const Value& item) { return item.is_hashable(); });
        default: return true;
    }
}

std::size_t Value::hash() const {
    if (is_text()) return std::hash<std::string_view>{}(bytes());
    if (is_integral()) return std::hash<std::int64_t>{}(integral());
    if (is_double()) {
        double value = number();
        if (value == std::floor(value) && std::fabs(value) < 9e18) return std::hash<std::int64_t>{}(static_cast<std::int64_t>(value));
        return std::hash<double>{}(value);
    }
    if (is_sequence(SequenceKind::tuple)) {
        std::size_t mixed = 0x9E3779B9u;
        for (const Value& item : sequence().items) mixed = mixed * 1000003u ^ item.hash();
        return mixed;
    }
    return std::hash<const void*>{}(identity()) + storage_.index();
}

bool equals(const Value& a, const Value& b) {
    if (a.is_number() && b.is_number()) return a.is_integral() && b.is_integral() ? a.integral() == b.integral() : a.number() == b.number();
    if (a.is_text() && b.is_text()) return a.bytes() == b.bytes();
    if (a.is_undefined() || a.is_none()) return a.is_undefined() ? b.is_undefined() : b.is_none();
    if (is_list_like(a) && is_list_like(b)) {
        const Sequence &left = a.sequence(), &right = b.sequence();
        return left.kind == right.kind && left.items.size() == right.items.size() &&
               std::equal(left.items.begin(), left.items.end(), right.items.begin(), equals);
    }
    if (a.is_dict() && b.is_dict()) {
        if (a.dict().members().size() != b.dict().members().size()) return false;
        for (const auto& [key, value] : a.dict().members()) {
            const Value* other = b.dict().find(key);
            if (!other || !equals(value, *other)) return false;
        }
        return true;
    }
    return a.identity() != nullptr && a.identity() == b.identity();
}

Result<bool> less(const Value& a, const Value& b) {
    if (a.is_number() && b.is_number()) return a.is_integral() && b.is_integral() ? a.integral() < b.integral() : a.number() < b.number();
    if (a.is_text() && b.is_text()) return a.bytes() < b.bytes();  // UTF-8 keeps the order of code points
    if (a.is_undefined() && a.as_undefined().reason) return runtime_error(*a.as_undefined().reason);
    if (b.is_undefined() && b.as_undefined().reason) return runtime_error(*b.as_undefined().reason);
    bool lists = a.is_sequence() && b.is_sequence() && a.sequence().kind == b.sequence().kind &&
                 (a.sequence().kind == SequenceKind::list || a.sequence().kind == SequenceKind::tuple);
    if (!lists) return no_order(a, b);
    const auto &left = a.sequence().items, &right = b.sequence().items;
    for (std::size_t i = 0; i < left.size() && i < right.size(); ++i)
        if (!equals(left[i], right[i])) return less(left[i], right[i]);
    return left.size() < right.size();
}

const Value* Dict::find(const Value& key) const {
    if (members_.size() <= n_unindexed_) {
        for (const Member& member : members_)
            if (equals(member.first, key)) return &member.second;
        return nullptr;
    }
    auto [begin, end] = index_.equal_range(key.hash());
    for (auto row = begin; row != end; ++row)
        if (equals(members_[row->second].first, key)) return &members_[row->second].second;
    return nullptr;
}

const Value* Dict::find(std::string_view key) const {
    if (members_.size() <= n_unindexed_) {
        for (const Member& member : members_)
            if (member.first.is_text() && member.first.bytes() == key) return &member.second;
        return nullptr;
    }
    auto [begin, end] = index_.equal_range(std::hash<std::string_view>{}(key));
    for (auto row = begin; row != end; ++row) {
        const Value& candidate = members_[row->second].first;
        if (candidate.is_text() && candidate.bytes() == key) return &members_[row->second].second;
    }
    return nullptr;
}

void Dict::set(Value key, Value value) {
    depth_ = std::max({depth_, key.depth() + 1, value.depth() + 1});
    weight_ = saturating_add(weight_, saturating_add(key.weight(), value.weight()));
    if (const Value* existing = find(key)) {
        const_cast<Value&>(*existing) = std::move(value);
        return;
    }
    members_.emplace_back(std::move(key), std::move(value));
    if (members_.size() == n_unindexed_ + 1) {
        for (std::size_t i = 0; i < members_.size(); ++i) index_.emplace(members_[i].first.hash(), i);
    } else if (members_.size() > n_unindexed_) {
        index_.emplace(members_.back().first.hash(), members_.size() - 1);
    }
}

}  // namespace skiff::tmpl
