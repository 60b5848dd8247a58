// The values of the template language: what Jinja templates can hold, as immutable shared data (a namespace is the one thing that changes).
// Because lists and dicts never change, no cycle can arise through them; how deep they nest is counted when they are made.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"

namespace skiff::tmpl {

class Context;
class Value;
struct Arguments;
struct LoopState;
struct Scope;
struct Statement;

// Printing an undefined value gives nothing; reading through it is the error in `reason`.
struct Undefined {
    std::shared_ptr<const std::string> reason;
};
struct None {};

struct Text {
    std::string bytes;
    bool is_markup = false;        // made by the filters safe and escape: a plain string that is added to it gets escaped
    std::size_t n_points = 0;      // code points
    bool is_ascii() const { return n_points == bytes.size(); }
};

enum class SequenceKind { list, tuple, generator, range, keys, values, items };

struct Sequence {
    SequenceKind kind = SequenceKind::list;
    std::vector<Value> items;
    int depth = 1;
    std::size_t weight = 1;
    mutable bool is_consumed = false;  // a generator can be walked once
};

class Dict;

struct Namespace;

using Function = Result<Value> (*)(Context&, const Value& self, const Arguments&);

struct Macro;

struct Callable;

class Value {
public:
    using Storage = std::variant<Undefined, None, bool, std::int64_t, double, std::shared_ptr<const Text>, std::shared_ptr<const Sequence>,
                                 std::shared_ptr<const Dict>, std::shared_ptr<Namespace>, std::shared_ptr<const Callable>, std::shared_ptr<LoopState>>;

    Value() = default;  // undefined
    Value(None) : storage_(None{}) {}
    Value(bool value) : storage_(value) {}
    Value(std::int64_t value) : storage_(value) {}
    Value(double value) : storage_(value) {}
    Value(std::shared_ptr<const Text> value) : storage_(std::move(value)) {}
    Value(std::shared_ptr<const Sequence> value) : storage_(std::move(value)) {}
    Value(std::shared_ptr<const Dict> value) : storage_(std::move(value)) {}
    Value(std::shared_ptr<Namespace> value) : storage_(std::move(value)) {}
    Value(std::shared_ptr<const Callable> value) : storage_(std::move(value)) {}
    Value(std::shared_ptr<LoopState> value) : storage_(std::move(value)) {}
    Value(const void*) = delete;

    static Value undefined(std::string reason);
    // A string that no Context has to pay for: constants and short results.
    static Value text(std::string_view bytes);
    static Value markup(std::string_view bytes);

    bool is_undefined() const { return std::holds_alternative<Undefined>(storage_); }
    bool is_none() const { return std::holds_alternative<None>(storage_); }
    bool is_bool() const { return std::holds_alternative<bool>(storage_); }
    bool is_integer() const { return std::holds_alternative<std::int64_t>(storage_); }
    bool is_double() const { return std::holds_alternative<double>(storage_); }
    bool is_integral() const { return is_integer() || is_bool(); }   // Python's int, which includes bool
    bool is_number() const { return is_integral() || is_double(); }
    bool is_text() const { return std::holds_alternative<std::shared_ptr<const Text>>(storage_); }
    bool is_sequence() const { return std::holds_alternative<std::shared_ptr<const Sequence>>(storage_); }
    bool is_sequence(SequenceKind kind) const { return is_sequence() && sequence().kind == kind; }
    bool is_dict() const { return std::holds_alternative<std::shared_ptr<const Dict>>(storage_); }
    bool is_namespace() const { return std::holds_alternative<std::shared_ptr<Namespace>>(storage_); }
    bool is_callable() const { return std::holds_alternative<std::shared_ptr<const Callable>>(storage_); }
    bool is_loop() const { return std::holds_alternative<std::shared_ptr<LoopState>>(storage_); }

    // Unchecked views for values whose type has been looked at.
    const Undefined& as_undefined() const { return std::get<Undefined>(storage_); }
    std::int64_t integral() const { return is_bool() ? std::get<bool>(storage_) : std::get<std::int64_t>(storage_); }
    bool boolean() const { return std::get<bool>(storage_); }
    double number() const { return is_double() ? std::get<double>(storage_) : static_cast<double>(integral()); }
    const Text& text() const { return *std::get<std::shared_ptr<const Text>>(storage_); }
    std::string_view bytes() const { return text().bytes; }
    const Sequence& sequence() const { return *std::get<std::shared_ptr<const Sequence>>(storage_); }
    const Dict& dict() const { return *std::get<std::shared_ptr<const Dict>>(storage_); }
    Namespace& name_space() const { return *std::get<std::shared_ptr<Namespace>>(storage_); }
    const Callable& callable() const { return *std::get<std::shared_ptr<const Callable>>(storage_); }
    const std::shared_ptr<LoopState>& loop() const { return std::get<std::shared_ptr<LoopState>>(storage_); }

    bool truthy() const;
    int depth() const;                    // 0 for what holds nothing, otherwise one more than the deepest member
    std::size_t weight() const;           // how much a walk over everything in it costs; shared parts count every time
    std::string_view type_name() const;   // as Python calls it: "str", "int", "dict" ...
    const void* identity() const;         // for `is sameas`; nullptr for values without one
    bool is_hashable() const;
    std::size_t hash() const;             // equal values (1, 1.0, true) have equal hashes

private:
    Storage storage_;
};

// Python's ==, which never fails.
bool equals(const Value& a, const Value& b);
// Python's < for values that have an order; a TypeError otherwise.
Result<bool> less(const Value& a, const Value& b);

// A dict in insertion order; look-ups take constant time.
class Dict {
public:
    using Member = std::pair<Value, Value>;
    const std::vector<Member>& members() const { return members_; }
    const Value* find(const Value& key) const;
    const Value* find(std::string_view key) const;
    void set(Value key, Value value);  // key.is_hashable()
    int depth() const { return depth_; }
    std::size_t weight() const { return weight_; }

private:
    static constexpr std::size_t n_unindexed_ = 8;  // up to here a walk is faster than a hash
    std::vector<Member> members_;
    std::unordered_multimap<std::size_t, std::size_t> index_;  // hash -> position, once there are more members than that
    int depth_ = 1;
    std::size_t weight_ = 1;
};

// a + b, or the largest value where that overflows.
inline std::size_t saturating_add(std::size_t a, std::size_t b) { return a + b < a ? SIZE_MAX : a + b; }

struct Namespace {
    Dict attributes;
};

struct Arguments {
    std::vector<Value> positional;
    std::vector<std::pair<std::string, Value>> named;
};

// Something that can be called: a built-in function or method (with its receiver), or a macro.
struct Callable {
    std::string name;
    Function function = nullptr;
    Value self;
    std::shared_ptr<const Macro> macro;
};

// The variable `loop`. Items are filtered as they are needed: a condition may look at what the body has changed.
struct LoopState {
    std::vector<Value> items;
    std::size_t next = 0;
    std::optional<Value> after;        // looked ahead
    const Statement* node = nullptr;   // with a condition, until the loop ends
    std::shared_ptr<Scope> scope;      // where the condition is evaluated
    std::int64_t index0 = -1;
    Value current, previous;
    std::vector<Value> last_changed;
    bool has_changed = false;
    bool is_finished = false;          // what it kept for changed() is gone, so that nothing can refer in circles
    int depth = 1;
    std::size_t weight = 1;
};

}  // namespace skiff::tmpl
