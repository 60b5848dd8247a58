// What may stand behind `is`.
#include "text/template_operators.h"
#include "text/template_tables.h"
#include "text/template_unicode.h"

namespace skiff::tmpl {
namespace {

using Self = const Value&;

template <bool (*Holds)(Self)>
Result<Value> simple(Context&, Self self, const Arguments& arguments) {
    if (!arguments.positional.empty() || !arguments.named.empty()) return runtime_error("this test takes no arguments");
    return Value(Holds(self));
}

bool is_defined(Self self) { return !self.is_undefined(); }
bool is_undefined(Self self) { return self.is_undefined(); }
bool is_none(Self self) { return self.is_none(); }
bool is_boolean(Self self) { return self.is_bool(); }
bool is_false(Self self) { return self.is_bool() && !self.boolean(); }
bool is_true(Self self) { return self.is_bool() && self.boolean(); }
bool is_integer(Self self) { return self.is_integer(); }
bool is_float(Self self) { return self.is_double(); }
bool is_number(Self self) { return self.is_number(); }
bool is_string(Self self) { return self.is_text(); }
bool is_mapping(Self self) { return self.is_dict(); }
bool is_callable(Self self) { return self.is_callable(); }
bool is_escaped(Self self) { return self.is_text() && self.text().is_markup; }

// Jinja asks for a length and a subscript, which dicts and undefined values have too.
bool is_sequence(Self self) {
    return self.is_text() || self.is_dict() || self.is_undefined() || self.is_sequence(SequenceKind::list) || self.is_sequence(SequenceKind::tuple) ||
           self.is_sequence(SequenceKind::range);
}

template <Operator op>
Result<Value> comparison(Context& context, Self self, const Arguments& arguments) {
    if (arguments.positional.size() != 1 || !arguments.named.empty()) return runtime_error("this test takes one argument");
    SKIFF_TRY(bool holds, compare(context, op, self, arguments.positional[0]));
    return Value(holds);
}

Result<Value> remainder_is(Context& context, Self self, const Value& divisor, std::int64_t wanted) {
    SKIFF_TRY(Value remainder, arithmetic(context, Operator::modulo, self, divisor));
    return Value(equals(remainder, Value(wanted)));
}

Result<Value> odd(Context& context, Self self, const Arguments&) { return remainder_is(context, self, Value(std::int64_t{2}), 1); }
Result<Value> even(Context& context, Self self, const Arguments&) { return remainder_is(context, self, Value(std::int64_t{2}), 0); }

Result<Value> divisible_by(Context& context, Self self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "divisibleby", {"num"}, 1));
    return remainder_is(context, self, *bound[0], 0);
}

Result<Value> same_as(Context&, Self self, const Arguments& arguments) {
    SKIFF_TRY(auto bound, bind(arguments, "sameas", {"other"}, 1));
    const Value& other = *bound[0];
    if (self.identity() || other.identity()) return Value(self.identity() == other.identity());
    bool same_type = self.type_name() == other.type_name();
    return Value(same_type && equals(self, other));
}

Result<Value> upper_case(Context& context, Self self, const Arguments&) {
    SKIFF_TRY(auto text, to_text(context, self));
    return Value(is_upper_text(text));
}

Result<Value> lower_case(Context& context, Self self, const Arguments&) {
    SKIFF_TRY(auto text, to_text(context, self));
    return Value(is_lower_text(text));
}

Result<Value> filter_exists(Context&, Self self, const Arguments&) { return Value(self.is_text() && find_filter(self.bytes()) != nullptr); }
Result<Value> test_exists(Context&, Self self, const Arguments&) { return Value(self.is_text() && find_test(self.bytes()) != nullptr); }

constexpr FunctionRow rows[] = {
    {"!=", comparison<Operator::not_equal>},
    {"<", comparison<Operator::less>},
    {"<=", comparison<Operator::less_equal>},
    {"==", comparison<Operator::equal>},
    {">", comparison<Operator::greater>},
    {">=", comparison<Operator::greater_equal>},
    {"boolean", simple<is_boolean>},
    {"callable", simple<is_callable>},
    {"defined", simple<is_defined>},
    {"divisibleby", divisible_by},
    {"eq", comparison<Operator::equal>},
    {"equalto", comparison<Operator::equal>},
    {"escaped", simple<is_escaped>},
    {"even", even},
    {"false", simple<is_false>},
    {"filter", filter_exists},
    {"float", simple<is_float>},
    {"ge", comparison<Operator::greater_equal>},
    {"greaterthan", comparison<Operator::greater>},
    {"gt", comparison<Operator::greater>},
    {"in", comparison<Operator::in>},
    {"integer", simple<is_integer>},
    {"iterable", simple<is_iterable>},
    {"le", comparison<Operator::less_equal>},
    {"lessthan", comparison<Operator::less>},
    {"lower", lower_case},
    {"lt", comparison<Operator::less>},
    {"mapping", simple<is_mapping>},
    {"ne", comparison<Operator::not_equal>},
    {"none", simple<is_none>},
    {"number", simple<is_number>},
    {"odd", odd},
    {"sameas", same_as},
    {"sequence", simple<is_sequence>},
    {"string", simple<is_string>},
    {"test", test_exists},
    {"true", simple<is_true>},
    {"undefined", simple<is_undefined>},
    {"upper", upper_case},
};

}  // namespace

Function find_test(std::string_view name) {
    for (const FunctionRow& row : rows)
        if (row.name == name) return row.function;
    return nullptr;
}

}  // namespace skiff::tmpl
