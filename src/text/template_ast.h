// The tree of a parsed template. Chains of one precedence (a + b + c, a and b, x ~ y) are flat lists, so that the depth of the tree is the
// nesting that was written.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/template_value.h"

namespace skiff::tmpl {

enum class ExpressionKind {
    constant, name, list, tuple, dict,   // dict: key, value, key, value ...
    attribute, subscript, slice,         // slice: start, stop, step, each possibly empty
    call, filter, test,
    negate, positive, logical_not, logical_and, logical_or,
    chain,                               // operands and the operators between them, from the left
    concat, compare,
    condition,                           // test, then, else (possibly empty)
    namespace_target                     // only as a target: name and attribute
};

enum class Operator { add, subtract, multiply, divide, floor_divide, modulo, power, equal, not_equal, less, less_equal, greater, greater_equal, in, not_in };

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct CallParts {
    std::vector<ExpressionPtr> positional;
    std::vector<std::pair<std::string, ExpressionPtr>> named;
    ExpressionPtr unpacked_list;  // *args
    ExpressionPtr unpacked_dict;  // **kwargs
};

struct Expression {
    ExpressionKind kind;
    int line;
    int height = 1;
    int symbol = -1;                     // of a name
    std::string text;                    // name of an attribute, filter, test
    Value constant;
    std::vector<ExpressionPtr> parts;
    std::vector<Operator> operators;     // one fewer than parts
    std::unique_ptr<CallParts> call;
    Function function = nullptr;         // of a filter or test; empty when there is none of that name
};

enum class StatementKind { text, output, condition, loop, set, set_block, macro, call_block, filter_block, with, scope, break_loop, continue_loop };

struct Statement;
using Block = std::vector<Statement>;

struct Parameter {
    int symbol;
    std::string name;
    ExpressionPtr fallback;
};

struct MacroNode {
    std::string name;
    std::vector<Parameter> parameters;
    std::shared_ptr<Block> body;
    bool reads_caller = false, reads_kwargs = false, reads_varargs = false;
};

// condition: one expression and block per branch, a last block without expression is the else.
// loop: target; expressions[0] the iterable, [1] the filter condition if any; blocks[0] the body, [1] the else.
// set: target, expressions[0]. set_block: target, blocks[0], expressions[0] a filter over it if any. filter_block: expressions[0], blocks[0].
// with: targets in expressions at even places, values at odd ones. macro: macro, target. call_block: macro (the caller), expressions[0] the call.
struct Statement {
    StatementKind kind;
    int line;
    std::string text;
    ExpressionPtr target;
    std::vector<ExpressionPtr> expressions;
    std::vector<Block> blocks;
    std::shared_ptr<MacroNode> macro;
};

struct TemplateTree {
    Block body;
    std::vector<std::string> symbols;                   // names, by number
    std::unordered_map<std::string, int> symbol_numbers;
    int loop_symbol, caller_symbol, kwargs_symbol, varargs_symbol;

    int intern(const std::string& name) {
        auto [row, is_new] = symbol_numbers.emplace(name, static_cast<int>(symbols.size()));
        if (is_new) symbols.push_back(name);
        return row->second;
    }
};

}  // namespace skiff::tmpl
