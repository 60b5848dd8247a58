#include "text/template_operators.h"

#include <cmath>

#include "text/template_tables.h"
#include "text/template_unicode.h"

namespace skiff::tmpl {
namespace {

constexpr std::string_view operator_names[] = {"+", "-", "*", "/", "//", "%", "**", "==", "!=", "<", "<=", ">", ">=", "in", "not in"};

Error unsupported_operands(Operator op, const Value& a, const Value& b) {
    if (a.is_undefined()) return type_error("", a);
    if (b.is_undefined()) return type_error("", b);
    return runtime_error("unsupported operand types for " + std::string(operator_names[static_cast<int>(op)]) + ": '" + std::string(a.type_name()) +
                         "' and '" + std::string(b.type_name()) + "'");
}

Error overflow() { return unsupported("an integer leaves the range of 64 bits"); }

// Markup that meets a plain string escapes it, as Python's markupsafe does.
std::string escaped_part(const Value& value) {
    if (value.text().is_markup) return std::string(value.bytes());
    std::string out;
    for (char c : value.bytes()) {
        switch (c) {
            case '&': out += "&amp;"; break;
            case '<': out += "&lt;"; break;
            case '>': out += "&gt;"; break;
            case '\'': out += "&#39;"; break;
            case '"': out += "&#34;"; break;
            default: out += c;
        }
    }
    return out;
}

Result<Value> add_text(Context& context, const Value& a, const Value& b) {
    if (!a.text().is_markup && !b.text().is_markup) {
        std::string sum;
        sum.reserve(a.bytes().size() + b.bytes().size());
        sum.append(a.bytes()).append(b.bytes());
        return context.text(std::move(sum));
    }
    return context.text_like(a.text().is_markup ? a : b, escaped_part(a) + escaped_part(b));
}

Result<Value> repeat(Context& context, const Value& value, std::int64_t count) {
    if (count < 0) count = 0;
    auto times = static_cast<std::size_t>(count);
    if (value.is_text()) {
        std::size_t size = value.bytes().size();
        if (size > 0 && times > context.options().max_output_bytes / size + 1) return resource_error("a repeated string is over the limit for strings");
        SKIFF_CHECK(context.spend(times));
        std::string out;
        for (std::size_t i = 0; i < (size ? times : 0); ++i) out += value.bytes();
        return context.text_like(value, std::move(out));
    }
    const Sequence& sequence = value.sequence();
    if (!sequence.items.empty() && times > context.options().fuel / sequence.items.size()) return resource_error("a repeated list is over the limit for lists");
    SKIFF_CHECK(context.spend(times * sequence.items.size()));
    std::vector<Value> items;
    for (std::size_t i = 0; i < (sequence.items.empty() ? 0 : times); ++i) items.insert(items.end(), sequence.items.begin(), sequence.items.end());
    return context.sequence(sequence.kind, std::move(items));
}

bool is_list_or_tuple(const Value& value) { return value.is_sequence(SequenceKind::list) || value.is_sequence(SequenceKind::tuple); }

std::int64_t floor_div(std::int64_t a, std::int64_t b) {
    std::int64_t quotient = a / b;
    return quotient * b != a && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

Result<Value> integer_power(std::int64_t base, std::int64_t exponent) {
    std::int64_t result = 1;
    while (exponent > 0) {
        if (exponent & 1 && __builtin_mul_overflow(result, base, &result)) return overflow();
        exponent >>= 1;
        if (exponent && __builtin_mul_overflow(base, base, &base)) return overflow();
    }
    return Value(result);
}

Result<Value> integer_sum_or_product(Operator op, std::int64_t a, std::int64_t b) {
    std::int64_t result = 0;
    bool overflows = op == Operator::add        ? __builtin_add_overflow(a, b, &result)
                     : op == Operator::subtract ? __builtin_sub_overflow(a, b, &result)
                                                : __builtin_mul_overflow(a, b, &result);
    if (overflows) return overflow();
    return Value(result);
}

Result<Value> integer_arithmetic(Operator op, std::int64_t a, std::int64_t b) {
    if (op == Operator::add || op == Operator::subtract || op == Operator::multiply) return integer_sum_or_product(op, a, b);
    if (op == Operator::power && b >= 0) return integer_power(a, b);
    if (op == Operator::power) {
        if (a == 0) return runtime_error("0 cannot be raised to a negative power");
        return Value(std::pow(static_cast<double>(a), static_cast<double>(b)));
    }
    if (b == 0) return runtime_error("division by zero");
    if (op == Operator::divide) return Value(static_cast<double>(a) / static_cast<double>(b));
    bool is_modulo = op == Operator::modulo;
    if (a == INT64_MIN && b == -1) {
        if (!is_modulo) return overflow();
        return Value(std::int64_t{0});
    }
    std::int64_t quotient = floor_div(a, b);
    return Value(is_modulo ? a - quotient * b : quotient);
}

Result<Value> real_arithmetic(Operator op, double a, double b) {
    switch (op) {
        case Operator::add: return Value(a + b);
        case Operator::subtract: return Value(a - b);
        case Operator::multiply: return Value(a * b);
        case Operator::power:
            if (a == 0 && b < 0) return runtime_error("0.0 cannot be raised to a negative power");
            if (a < 0 && b != std::floor(b)) return unsupported("a complex number");
            return Value(std::pow(a, b));
        default: break;
    }
    if (b == 0) return runtime_error("float division by zero");
    if (op == Operator::divide) return Value(a / b);
    double remainder = std::fmod(a, b);
    if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
    if (op == Operator::modulo) return Value(remainder == 0 ? std::copysign(0.0, b) : remainder);
    double quotient = (a - remainder) / b;
    double whole = std::floor(quotient);
    return Value(quotient - whole > 0.5 ? whole + 1 : whole);
}

}  // namespace

Result<Value> arithmetic(Context& context, Operator op, const Value& a, const Value& b) {
    if (a.is_integral() && b.is_integral()) return integer_arithmetic(op, a.integral(), b.integral());
    if (a.is_number() && b.is_number()) return real_arithmetic(op, a.number(), b.number());
    if (op == Operator::add && a.is_text() && b.is_text()) return add_text(context, a, b);
    if (op == Operator::add && is_list_or_tuple(a) && b.is_sequence(a.sequence().kind)) {
        SKIFF_CHECK(context.spend(a.sequence().items.size() + b.sequence().items.size()));
        std::vector<Value> items = a.sequence().items;
        items.insert(items.end(), b.sequence().items.begin(), b.sequence().items.end());
        return context.sequence(a.sequence().kind, std::move(items));
    }
    if (op == Operator::multiply && (a.is_text() || is_list_or_tuple(a)) && b.is_integral()) return repeat(context, a, b.integral());
    if (op == Operator::multiply && (b.is_text() || is_list_or_tuple(b)) && a.is_integral()) return repeat(context, b, a.integral());
    if (op == Operator::modulo && a.is_text()) return percent_format(context, a, b);
    return unsupported_operands(op, a, b);
}

Result<Value> negate(const Value& value) {
    if (value.is_double()) return Value(-value.number());
    if (!value.is_integral()) return type_error("bad operand for unary -", value);
    if (value.integral() == INT64_MIN) return overflow();
    return Value(-value.integral());
}

Result<bool> contains(Context& context, const Value& container, const Value& item) {
    if (container.is_text()) {
        if (!item.is_text()) return type_error("'in <string>' requires a string on the left", item.is_undefined() ? Value(None{}) : item);
        SKIFF_CHECK(context.spend_bytes(container.bytes().size()));
        return container.bytes().find(item.bytes()) != std::string_view::npos;
    }
    if (container.is_dict()) {
        if (!item.is_hashable()) return type_error("a key of a dict must be hashable", item);
        SKIFF_CHECK(context.spend(item.weight()));
        return container.dict().find(item) != nullptr;
    }
    if (!is_iterable(container)) return runtime_error("argument of type '" + std::string(container.type_name()) + "' is not iterable");
    SKIFF_TRY(auto items, iterate(context, container));
    for (const Value& candidate : items) {
        SKIFF_TRY(bool same, context.equal(candidate, item));
        if (same) return true;
    }
    return false;
}

Result<bool> compare(Context& context, Operator op, const Value& a, const Value& b) {
    switch (op) {
        case Operator::in: return contains(context, b, a);
        case Operator::not_in: {
            SKIFF_TRY(bool found, contains(context, b, a));
            return !found;
        }
        case Operator::equal: return context.equal(a, b);
        case Operator::not_equal: {
            SKIFF_TRY(bool same, context.equal(a, b));
            return !same;
        }
        default: break;
    }
    SKIFF_CHECK(context.spend(std::min(a.weight(), b.weight())));
    bool is_nan = (a.is_double() && std::isnan(a.number())) || (b.is_double() && std::isnan(b.number()));
    if (is_nan && a.is_number() && b.is_number()) return false;
    if (op == Operator::less) return less(a, b);
    if (op == Operator::greater) return less(b, a);
    SKIFF_TRY(bool reversed, op == Operator::less_equal ? less(b, a) : less(a, b));
    return !reversed;
}

}  // namespace skiff::tmpl
