#include "text/template_interpreter.h"
#include "text/template_operators.h"
#include "text/template_tables.h"

namespace skiff::tmpl {

Result<Value> Interpreter::evaluate(const Expression& node) {
    if (node.kind == ExpressionKind::constant) return node.constant;
    SKIFF_CHECK(spend(1));
    if (++n_frames_ > max_frames_) {
        --n_frames_;
        return resource_error("evaluation is nested deeper than " + std::to_string(max_frames_) + " levels");
    }
    auto value = evaluate_node(node);
    --n_frames_;
    return value;
}

Result<Value> Interpreter::evaluate_node(const Expression& node) {
    switch (node.kind) {
        case ExpressionKind::constant: return node.constant;
        case ExpressionKind::name: return evaluate_name(node);
        case ExpressionKind::list:
        case ExpressionKind::tuple:
        case ExpressionKind::dict: return evaluate_collection(node);
        case ExpressionKind::attribute: {
            SKIFF_TRY(Value object, evaluate(*node.parts[0]));
            return get_attribute(*this, object, node.text);
        }
        case ExpressionKind::subscript: return evaluate_subscript(node);
        case ExpressionKind::call: return evaluate_call(node);
        case ExpressionKind::filter:
        case ExpressionKind::test: {
            SKIFF_TRY(Value subject, evaluate(*node.parts[0]));
            return evaluate_applied(node, std::move(subject));
        }
        case ExpressionKind::negate:
        case ExpressionKind::positive: {
            SKIFF_TRY(Value operand, evaluate(*node.parts[0]));
            if (node.kind == ExpressionKind::negate) return negate(operand);
            if (!operand.is_number()) return type_error("bad operand for unary +", operand);
            return operand.is_bool() ? Value(operand.integral()) : operand;
        }
        case ExpressionKind::logical_not: {
            SKIFF_TRY(Value operand, evaluate(*node.parts[0]));
            return Value(!operand.truthy());
        }
        case ExpressionKind::logical_and:
        case ExpressionKind::logical_or: return evaluate_logical(node);
        case ExpressionKind::chain: return evaluate_chain(node);
        case ExpressionKind::concat: return evaluate_concat(node);
        case ExpressionKind::compare: return evaluate_compare(node);
        case ExpressionKind::condition: return evaluate_condition(node);
        case ExpressionKind::slice: return unsupported("a slice among other subscripts");
        case ExpressionKind::namespace_target: break;
    }
    return runtime_error("an assignment target stands where a value is needed");
}

Result<Value> Interpreter::evaluate_name(const Expression& node) {
    for (const Scope* scope = scope_.get(); scope; scope = scope->parent.get())
        if (const Value* found = scope->find(node.symbol)) return *found;
    const auto& global = globals_[static_cast<std::size_t>(node.symbol)];
    return global ? *global : Value::undefined("'" + node.text + "' is undefined");
}

Result<Value> Interpreter::evaluate_collection(const Expression& node) {
    std::vector<Value> items;
    for (const auto& part : node.parts) {
        SKIFF_TRY(Value item, evaluate(*part));
        items.push_back(std::move(item));
    }
    if (node.kind != ExpressionKind::dict) return sequence(node.kind == ExpressionKind::list ? SequenceKind::list : SequenceKind::tuple, std::move(items));
    Dict members;
    for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
        if (!items[i].is_hashable()) return type_error("a key of a dict must be hashable", items[i].is_undefined() ? Value(None{}) : items[i]);
        members.set(std::move(items[i]), std::move(items[i + 1]));
    }
    return dict(std::move(members));
}

Result<Value> Interpreter::evaluate_subscript(const Expression& node) {
    SKIFF_TRY(Value object, evaluate(*node.parts[0]));
    const Expression& key = *node.parts[1];
    if (key.kind != ExpressionKind::slice) {
        SKIFF_TRY(Value index, evaluate(key));
        return get_item(*this, object, index);
    }
    Value bounds[3];
    const Value* given[3] = {};
    for (std::size_t i = 0; i < 3; ++i) {
        if (!key.parts[i]) continue;
        SKIFF_TRY(bounds[i], evaluate(*key.parts[i]));
        given[i] = &bounds[i];
    }
    return get_slice(*this, object, given[0], given[1], given[2]);
}

Result<Arguments> Interpreter::evaluate_arguments(const CallParts* call) {
    Arguments arguments;
    if (!call) return arguments;
    for (const auto& part : call->positional) {
        SKIFF_TRY(Value value, evaluate(*part));
        arguments.positional.push_back(std::move(value));
    }
    if (call->unpacked_list) {
        SKIFF_TRY(Value list_value, evaluate(*call->unpacked_list));
        SKIFF_TRY(auto items, iterate(*this, list_value));
        arguments.positional.insert(arguments.positional.end(), items.begin(), items.end());
    }
    for (const auto& [name, part] : call->named) {
        SKIFF_TRY(Value value, evaluate(*part));
        arguments.named.emplace_back(name, std::move(value));
    }
    if (call->unpacked_dict) {
        SKIFF_TRY(Value members, evaluate(*call->unpacked_dict));
        if (!members.is_dict()) return type_error("the argument behind ** must be a dict", members);
        SKIFF_CHECK(spend(members.dict().members().size()));
        for (const auto& [key, value] : members.dict().members()) {
            SKIFF_TRY(auto name, to_view(key, "the names of arguments"));
            for (const auto& [other, ignored] : call->named)
                if (other == name) return runtime_error("two values for the argument '" + other + "'");
            arguments.named.emplace_back(std::string(name), value);
        }
    }
    return arguments;
}

Result<Value> Interpreter::evaluate_call(const Expression& node) {
    SKIFF_TRY(Value callee, evaluate(*node.parts[0]));
    SKIFF_TRY(auto arguments, evaluate_arguments(node.call.get()));
    return call(callee, arguments);
}

Result<Value> Interpreter::evaluate_applied(const Expression& node, Value subject) {
    SKIFF_TRY(auto arguments, evaluate_arguments(node.call.get()));
    if (!node.function) return runtime_error(std::string("no ") + (node.kind == ExpressionKind::filter ? "filter" : "test") + " named '" + node.text + "'");
    return node.function(*this, subject, arguments);
}

// A chain of filters that begins with a value instead of an expression.
Result<Value> Interpreter::evaluate_filter_over(const Expression& node, const Value& innermost) {
    if (!node.parts[0]) return evaluate_applied(node, innermost);
    SKIFF_TRY(Value subject, evaluate_filter_over(*node.parts[0], innermost));
    return evaluate_applied(node, std::move(subject));
}

Result<Value> Interpreter::evaluate_logical(const Expression& node) {
    bool stops_at = node.kind == ExpressionKind::logical_or;
    for (std::size_t i = 0;; ++i) {
        SKIFF_TRY(Value value, evaluate(*node.parts[i]));
        if (i + 1 == node.parts.size() || value.truthy() == stops_at) return value;
    }
}

Result<Value> Interpreter::evaluate_chain(const Expression& node) {
    SKIFF_TRY(Value left, evaluate(*node.parts[0]));
    for (std::size_t i = 0; i < node.operators.size(); ++i) {
        SKIFF_TRY(Value right, evaluate(*node.parts[i + 1]));
        SKIFF_TRY(left, arithmetic(*this, node.operators[i], left, right));
    }
    return left;
}

Result<Value> Interpreter::evaluate_compare(const Expression& node) {
    SKIFF_TRY(Value left, evaluate(*node.parts[0]));
    for (std::size_t i = 0; i < node.operators.size(); ++i) {
        SKIFF_TRY(Value right, evaluate(*node.parts[i + 1]));
        SKIFF_TRY(bool holds, compare(*this, node.operators[i], left, right));
        if (!holds) return Value(false);
        left = std::move(right);
    }
    return Value(true);
}

Result<Value> Interpreter::evaluate_concat(const Expression& node) {
    std::string joined;
    for (const auto& part : node.parts) {
        SKIFF_TRY(Value value, evaluate(*part));
        SKIFF_TRY(auto piece, to_text(*this, value));
        joined += piece;
    }
    return text(std::move(joined));
}

Result<Value> Interpreter::evaluate_condition(const Expression& node) {
    SKIFF_TRY(Value test, evaluate(*node.parts[0]));
    if (test.truthy()) return evaluate(*node.parts[1]);
    if (node.parts[2]) return evaluate(*node.parts[2]);
    return Value::undefined("an inline if without else was false");
}

}  // namespace skiff::tmpl
