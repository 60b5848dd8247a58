// One rendering: its limits, what is left of them, and the makers of values, which charge for what they make.
#pragma once

#include <array>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "text/template_engine.h"
#include "text/template_value.h"

namespace skiff::tmpl {

// A string costs one step for every this many bytes.
inline constexpr std::size_t bytes_per_step = 32;

class Context {
public:
    explicit Context(const TemplateOptions& options) : options_(options), fuel_(options.fuel) {}
    virtual ~Context() = default;
    Context(const Context&) = delete;
    Context& operator=(const Context&) = delete;

    const TemplateOptions& options() const { return options_; }

    Status spend(std::size_t steps) {
        if (steps > fuel_) return out_of_fuel();
        fuel_ -= steps;
        return {};
    }
    Status spend_bytes(std::size_t n_bytes) { return spend(n_bytes / bytes_per_step); }

    Result<Value> text(std::string bytes);
    Result<Value> text_like(const Value& origin, std::string bytes);  // markup stays markup
    Result<Value> sequence(SequenceKind kind, std::vector<Value> items);
    Result<Value> list(std::vector<Value> items) { return sequence(SequenceKind::list, std::move(items)); }
    Result<Value> tuple(std::vector<Value> items) { return sequence(SequenceKind::tuple, std::move(items)); }
    Result<Value> dict(Dict members);
    Result<Value> from_json(const Json& json);

    // Python's == with the price of the walk.
    Result<bool> equal(const Value& a, const Value& b);

    // Calls a function, method or macro value.
    Result<Value> call(const Value& callee, const Arguments& arguments);

    virtual Result<Value> call_macro(const Macro& macro, const Arguments& arguments) = 0;
    // What a `loop` variable answers (loop.index and so on); undefined for other names.
    virtual Result<Value> loop_attribute(const Value& loop, std::string_view name) = 0;
    // Keeps a namespace until the rendering ends, when all are emptied: they are what can form a cycle.
    virtual Value adopt(std::shared_ptr<Namespace> name_space) = 0;

private:
    Error out_of_fuel() const;

    TemplateOptions options_;
    std::size_t fuel_;
};

// The members of an iterable in order, as Python's iter() gives them; a generator is used up by it.
Result<std::vector<Value>> iterate(Context& context, const Value& value);
bool is_iterable(const Value& value);
Result<std::int64_t> length(const Value& value);

// The error of reading through an undefined value, or "expected and found" for another one.
Error type_error(std::string_view what, const Value& found);

// str(value) as Jinja prints it; repr(value).
Result<std::string> to_text(Context& context, const Value& value);
Result<std::string> to_repr(Context& context, const Value& value);
std::string float_repr(double value);

// Arguments by name or position, as Python binds them; nullptr where one was left out.
using Bound = std::array<const Value*, 6>;
Result<Bound> bind(const Arguments& arguments, std::string_view function, std::initializer_list<std::string_view> names, std::size_t n_required);
// The same for functions whose arguments go by position only.
Result<Bound> bind_places(const Arguments& arguments, std::string_view function, std::size_t n_required, std::size_t n_allowed);

Result<std::int64_t> to_index(const Value& value, std::string_view what);
Result<std::string_view> to_view(const Value& value, std::string_view what);

}  // namespace skiff::tmpl
