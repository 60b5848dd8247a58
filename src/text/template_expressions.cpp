#include <algorithm>

#include "text/template_parser.h"
#include "text/template_tables.h"

namespace skiff::tmpl {
namespace {

class Deeper {
public:
    explicit Deeper(int& depth) : depth_(depth) { ++depth_; }
    ~Deeper() { --depth_; }
    Deeper(const Deeper&) = delete;

private:
    int& depth_;
};

bool is_constant_name(std::string_view name) {
    return name == "true" || name == "false" || name == "none" || name == "True" || name == "False" || name == "None";
}

}  // namespace

Status Parser::check_height(Expression& node, const Expression* part) const {
    if (!part) return {};
    node.height = std::max(node.height, part->height + 1);
    if (node.height > max_depth_) return syntax_error(node.line, "an expression nested deeper than " + std::to_string(max_depth_) + " levels");
    return {};
}

Parser::Parsed Parser::make(ExpressionKind kind, int line, std::vector<ExpressionPtr> parts) {
    auto node = std::make_unique<Expression>();
    node->kind = kind;
    node->line = line;
    for (const auto& part : parts) SKIFF_CHECK(check_height(*node, part.get()));
    node->parts = std::move(parts);
    return node;
}

Status Parser::attach_call(Expression& node, std::unique_ptr<CallParts> call) const {
    for (const auto& argument : call->positional) SKIFF_CHECK(check_height(node, argument.get()));
    for (const auto& [name, argument] : call->named) SKIFF_CHECK(check_height(node, argument.get()));
    SKIFF_CHECK(check_height(node, call->unpacked_list.get()));
    SKIFF_CHECK(check_height(node, call->unpacked_dict.get()));
    node.call = std::move(call);
    return {};
}

int Parser::load_symbol(const std::string& name) {
    n_caller_reads_ += name == "caller";
    n_kwargs_reads_ += name == "kwargs";
    n_varargs_reads_ += name == "varargs";
    return tree_.intern(name);
}

namespace {

template <class... Parts>
std::vector<ExpressionPtr> parts_of(Parts... parts) {
    std::vector<ExpressionPtr> list;
    (list.push_back(std::move(parts)), ...);
    return list;
}

}  // namespace

bool Parser::at_tuple_end(TupleEnd end) const {
    const Token& token = current();
    if (token.kind == TokenKind::variable_end || token.kind == TokenKind::block_end || token.is_symbol(")")) return true;
    return (end == TupleEnd::in && token.is_name("in")) || (end == TupleEnd::recursive && token.is_name("recursive"));
}

Parser::Parsed Parser::parse_single_target() {
    const Token& token = current();
    if (token.kind == TokenKind::name && look().is_symbol(".")) {
        std::string name = token.text;
        int line = token.line;
        skip(2);
        SKIFF_TRY(auto attribute, expect_name());
        SKIFF_TRY(auto node, make(ExpressionKind::namespace_target, line));
        node->symbol = tree_.intern(name);
        node->text = std::move(attribute);
        return node;
    }
    if (token.is_symbol("(")) {
        if (depth_ >= max_depth_) return too_deep();
        Deeper deeper(depth_);
        skip();
        SKIFF_TRY(auto node, parse_target(TupleEnd::tag));
        SKIFF_CHECK(expect_symbol(")"));
        return node;
    }
    if (token.kind != TokenKind::name || is_constant_name(token.text)) return unexpected("a name to assign to");
    SKIFF_TRY(auto node, make(ExpressionKind::name, token.line));
    node->text = token.text;
    node->symbol = tree_.intern(token.text);
    skip();
    return node;
}

Parser::Parsed Parser::parse_target(TupleEnd end) {
    int line = current().line;
    SKIFF_TRY(auto first, parse_single_target());
    if (!current().is_symbol(",")) return first;
    std::vector<ExpressionPtr> parts = parts_of(std::move(first));
    while (skip_symbol(",")) {
        if (at_tuple_end(end) || current().is_symbol("=")) break;
        SKIFF_TRY(auto next, parse_single_target());
        parts.push_back(std::move(next));
    }
    return make(ExpressionKind::tuple, line, std::move(parts));
}

Parser::Parsed Parser::parse_tuple(TupleEnd end, Conditions conditions) {
    int line = current().line;
    std::vector<ExpressionPtr> parts;
    bool is_tuple = false;
    do {
        if (at_tuple_end(end)) break;
        SKIFF_TRY(auto part, conditions == Conditions::allowed ? parse_expression() : parse_or());
        parts.push_back(std::move(part));
        is_tuple = is_tuple || current().is_symbol(",");
    } while (skip_symbol(","));
    if (parts.empty()) return unexpected("an expression");
    if (!is_tuple) return std::move(parts.front());
    return make(ExpressionKind::tuple, line, std::move(parts));
}

Parser::Parsed Parser::parse_condition() {
    if (depth_ >= max_depth_) return too_deep();
    Deeper deeper(depth_);
    std::size_t n_unknown = unknown_.size();
    SKIFF_TRY(auto node, parse_or());
    while (current().is_name("if")) {
        int line = current().line;
        skip();
        SKIFF_TRY(auto test, parse_or());
        ExpressionPtr otherwise;
        if (skip_name("else")) {
            SKIFF_TRY(otherwise, parse_condition());
        }
        SKIFF_TRY(node, make(ExpressionKind::condition, line, parts_of(std::move(test), std::move(node), std::move(otherwise))));
        unknown_.resize(n_unknown);  // what is unknown inside a condition fails only when it is reached
    }
    return node;
}

Parser::Parsed Parser::parse_or() {
    SKIFF_TRY(auto node, parse_and());
    if (!current().is_name("or")) return node;
    int line = current().line;
    std::vector<ExpressionPtr> parts = parts_of(std::move(node));
    while (skip_name("or")) {
        SKIFF_TRY(auto next, parse_and());
        parts.push_back(std::move(next));
    }
    return make(ExpressionKind::logical_or, line, std::move(parts));
}

Parser::Parsed Parser::parse_and() {
    SKIFF_TRY(auto node, parse_not());
    if (!current().is_name("and")) return node;
    int line = current().line;
    std::vector<ExpressionPtr> parts = parts_of(std::move(node));
    while (skip_name("and")) {
        SKIFF_TRY(auto next, parse_not());
        parts.push_back(std::move(next));
    }
    return make(ExpressionKind::logical_and, line, std::move(parts));
}

Parser::Parsed Parser::parse_not() {
    if (!current().is_name("not")) return parse_compare();
    if (depth_ >= max_depth_) return too_deep();
    Deeper deeper(depth_);
    int line = current().line;
    skip();
    SKIFF_TRY(auto operand, parse_not());
    return make(ExpressionKind::logical_not, line, parts_of(std::move(operand)));
}

Parser::Parsed Parser::parse_compare() {
    static constexpr std::pair<std::string_view, Operator> symbols[] = {{"==", Operator::equal},      {"!=", Operator::not_equal}, {"<", Operator::less},
                                                                        {"<=", Operator::less_equal}, {">", Operator::greater},    {">=", Operator::greater_equal}};
    int line = current().line;
    SKIFF_TRY(auto node, parse_sum());
    std::vector<ExpressionPtr> parts = parts_of(std::move(node));
    std::vector<Operator> operators;
    while (true) {
        auto symbol = std::find_if(std::begin(symbols), std::end(symbols), [&](const auto& row) { return current().is_symbol(row.first); });
        if (symbol != std::end(symbols)) {
            skip();
            operators.push_back(symbol->second);
        } else if (skip_name("in")) {
            operators.push_back(Operator::in);
        } else if (current().is_name("not") && look().is_name("in")) {
            skip(2);
            operators.push_back(Operator::not_in);
        } else {
            break;
        }
        SKIFF_TRY(auto next, parse_sum());
        parts.push_back(std::move(next));
    }
    if (operators.empty()) return std::move(parts.front());
    SKIFF_TRY(auto compare, make(ExpressionKind::compare, line, std::move(parts)));
    compare->operators = std::move(operators);
    return compare;
}

Parser::Parsed Parser::parse_chain(Parsed (Parser::*operand)(), std::initializer_list<std::pair<std::string_view, Operator>> operators) {
    int line = current().line;
    SKIFF_TRY(auto node, (this->*operand)());
    std::vector<ExpressionPtr> parts = parts_of(std::move(node));
    std::vector<Operator> between;
    while (true) {
        auto found = std::find_if(operators.begin(), operators.end(), [&](const auto& row) { return current().is_symbol(row.first); });
        if (found == operators.end()) break;
        skip();
        between.push_back(found->second);
        SKIFF_TRY(auto next, (this->*operand)());
        parts.push_back(std::move(next));
    }
    if (between.empty()) return std::move(parts.front());
    SKIFF_TRY(auto chain, make(ExpressionKind::chain, line, std::move(parts)));
    chain->operators = std::move(between);
    return chain;
}

Parser::Parsed Parser::parse_sum() { return parse_chain(&Parser::parse_concat, {{"+", Operator::add}, {"-", Operator::subtract}}); }

Parser::Parsed Parser::parse_concat() {
    int line = current().line;
    SKIFF_TRY(auto node, parse_product());
    if (!current().is_symbol("~")) return node;
    std::vector<ExpressionPtr> parts = parts_of(std::move(node));
    while (skip_symbol("~")) {
        SKIFF_TRY(auto next, parse_product());
        parts.push_back(std::move(next));
    }
    return make(ExpressionKind::concat, line, std::move(parts));
}

Parser::Parsed Parser::parse_product() {
    return parse_chain(&Parser::parse_power,
                       {{"*", Operator::multiply}, {"/", Operator::divide}, {"//", Operator::floor_divide}, {"%", Operator::modulo}});
}

Parser::Parsed Parser::parse_power() { return parse_chain(&Parser::parse_unary, {{"**", Operator::power}}); }

Parser::Parsed Parser::parse_unary() {
    SKIFF_TRY(auto node, parse_signed());
    return parse_filters_and_tests(std::move(node));
}

Parser::Parsed Parser::parse_signed() {
    bool minus = current().is_symbol("-");
    if (!minus && !current().is_symbol("+")) {
        SKIFF_TRY(auto node, parse_primary());
        return parse_postfix(std::move(node));
    }
    if (depth_ >= max_depth_) return too_deep();
    Deeper deeper(depth_);
    int line = current().line;
    skip();
    SKIFF_TRY(auto operand, parse_signed());
    return make(minus ? ExpressionKind::negate : ExpressionKind::positive, line, parts_of(std::move(operand)));
}

Parser::Parsed Parser::parse_primary() {
    const Token& token = current();
    SKIFF_TRY(auto node, make(ExpressionKind::constant, token.line));
    if (token.kind == TokenKind::name) {
        const std::string& name = token.text;
        if (name == "true" || name == "True" || name == "false" || name == "False") {
            node->constant = Value(name[0] == 't' || name[0] == 'T');
        } else if (name == "none" || name == "None") {
            node->constant = Value(None{});
        } else {
            node->kind = ExpressionKind::name;
            node->text = name;
            node->symbol = load_symbol(name);
        }
        skip();
    } else if (token.kind == TokenKind::string) {
        std::string text;
        for (; current().kind == TokenKind::string; skip()) text += current().text;
        node->constant = Value::text(text);
    } else if (token.kind == TokenKind::integer) {
        node->constant = Value(token.integer);
        skip();
    } else if (token.kind == TokenKind::real) {
        node->constant = Value(token.real);
        skip();
    } else if (token.is_symbol("(")) {
        return parse_parentheses();
    } else if (token.is_symbol("[")) {
        return parse_list();
    } else if (token.is_symbol("{")) {
        return parse_dict();
    } else {
        return unexpected("an expression");
    }
    return node;
}

Parser::Parsed Parser::parse_parentheses() {
    int line = current().line;
    skip();
    if (skip_symbol(")")) return make(ExpressionKind::tuple, line);
    SKIFF_TRY(auto node, parse_tuple(TupleEnd::tag, Conditions::allowed));
    SKIFF_CHECK(expect_symbol(")"));
    return node;
}

Parser::Parsed Parser::parse_list() {
    int line = current().line;
    skip();
    std::vector<ExpressionPtr> parts;
    while (!current().is_symbol("]")) {
        if (!parts.empty()) SKIFF_CHECK(expect_symbol(","));
        if (current().is_symbol("]")) break;
        SKIFF_TRY(auto part, parse_expression());
        parts.push_back(std::move(part));
    }
    skip();
    return make(ExpressionKind::list, line, std::move(parts));
}

Parser::Parsed Parser::parse_dict() {
    int line = current().line;
    skip();
    std::vector<ExpressionPtr> parts;
    while (!current().is_symbol("}")) {
        if (!parts.empty()) SKIFF_CHECK(expect_symbol(","));
        if (current().is_symbol("}")) break;
        SKIFF_TRY(auto key, parse_expression());
        SKIFF_CHECK(expect_symbol(":"));
        SKIFF_TRY(auto value, parse_expression());
        parts.push_back(std::move(key));
        parts.push_back(std::move(value));
    }
    skip();
    return make(ExpressionKind::dict, line, std::move(parts));
}

Parser::Parsed Parser::parse_postfix(ExpressionPtr node) {
    while (true) {
        if (current().is_symbol(".") || current().is_symbol("[")) {
            SKIFF_TRY(node, parse_subscript(std::move(node)));
        } else if (current().is_symbol("(")) {
            SKIFF_TRY(node, parse_call(std::move(node)));
        } else {
            return node;
        }
    }
}

Parser::Parsed Parser::parse_filters_and_tests(ExpressionPtr node) {
    while (true) {
        if (current().is_symbol("|")) {
            SKIFF_TRY(node, parse_filter(std::move(node)));
        } else if (current().is_name("is")) {
            SKIFF_TRY(node, parse_test(std::move(node)));
        } else if (current().is_symbol("(")) {
            SKIFF_TRY(node, parse_call(std::move(node)));
        } else {
            return node;
        }
    }
}

Parser::Parsed Parser::parse_subscript(ExpressionPtr node) {
    int line = current().line;
    if (skip_symbol(".")) {
        if (current().kind == TokenKind::integer) {
            SKIFF_TRY(auto index, parse_primary());
            return make(ExpressionKind::subscript, line, parts_of(std::move(node), std::move(index)));
        }
        SKIFF_TRY(auto name, expect_name());
        SKIFF_TRY(auto attribute, make(ExpressionKind::attribute, line, parts_of(std::move(node))));
        attribute->text = std::move(name);
        return attribute;
    }
    skip();  // [
    SKIFF_TRY(auto key, parse_subscript_part());
    if (current().is_symbol(",")) {
        std::vector<ExpressionPtr> keys = parts_of(std::move(key));
        while (skip_symbol(",")) {
            SKIFF_TRY(auto next, parse_subscript_part());
            keys.push_back(std::move(next));
        }
        SKIFF_TRY(key, make(ExpressionKind::tuple, line, std::move(keys)));
    }
    SKIFF_CHECK(expect_symbol("]"));
    return make(ExpressionKind::subscript, line, parts_of(std::move(node), std::move(key)));
}

Parser::Parsed Parser::parse_subscript_part() {
    int line = current().line;
    ExpressionPtr start, stop, step;
    auto at_end = [&] { return current().is_symbol("]") || current().is_symbol(","); };
    if (!current().is_symbol(":")) {
        SKIFF_TRY(start, parse_expression());
        if (!current().is_symbol(":")) return start;
    }
    skip();  // :
    if (!current().is_symbol(":") && !at_end()) {
        SKIFF_TRY(stop, parse_expression());
    }
    if (skip_symbol(":") && !at_end()) {
        SKIFF_TRY(step, parse_expression());
    }
    return make(ExpressionKind::slice, line, parts_of(std::move(start), std::move(stop), std::move(step)));
}

Parser::Parsed Parser::parse_call(ExpressionPtr node) {
    int line = current().line;
    SKIFF_TRY(auto arguments, parse_arguments());
    SKIFF_TRY(auto call, make(ExpressionKind::call, line, parts_of(std::move(node))));
    SKIFF_CHECK(attach_call(*call, std::move(arguments)));
    return call;
}

Result<std::unique_ptr<CallParts>> Parser::parse_arguments() {
    auto call = std::make_unique<CallParts>();
    SKIFF_CHECK(expect_symbol("("));
    bool is_first = true;
    while (!current().is_symbol(")")) {
        if (!is_first) SKIFF_CHECK(expect_symbol(","));
        is_first = false;
        if (current().is_symbol(")")) break;
        int line = current().line;
        if (skip_symbol("*")) {
            if (call->unpacked_list || call->unpacked_dict) return syntax_error(line, "arguments in an order that Python does not allow");
            SKIFF_TRY(call->unpacked_list, parse_expression());
        } else if (skip_symbol("**")) {
            if (call->unpacked_dict) return syntax_error(line, "arguments in an order that Python does not allow");
            SKIFF_TRY(call->unpacked_dict, parse_expression());
        } else if (current().kind == TokenKind::name && look().is_symbol("=")) {
            std::string name = current().text;
            bool repeated = std::any_of(call->named.begin(), call->named.end(), [&](const auto& row) { return row.first == name; });
            if (call->unpacked_dict || repeated) return syntax_error(line, "the argument '" + name + "' is repeated or out of order");
            skip(2);
            SKIFF_TRY(auto value, parse_expression());
            call->named.emplace_back(std::move(name), std::move(value));
        } else {
            if (call->unpacked_list || call->unpacked_dict || !call->named.empty())
                return syntax_error(line, "an argument by position follows one by name");
            SKIFF_TRY(auto value, parse_expression());
            call->positional.push_back(std::move(value));
        }
    }
    skip();
    return call;
}

Parser::Parsed Parser::parse_filter(ExpressionPtr node) {
    int line = current().line;
    skip();  // |
    SKIFF_TRY(auto name, expect_name());
    while (skip_symbol(".")) {
        SKIFF_TRY(auto more, expect_name());
        name += "." + more;
    }
    SKIFF_TRY(auto filter, make(ExpressionKind::filter, line, parts_of(std::move(node))));
    filter->function = find_filter(name);
    if (!filter->function && !inside_condition_) unknown_.push_back({line, "no filter named '" + name + "'"});
    filter->text = std::move(name);
    if (current().is_symbol("(")) {
        SKIFF_TRY(auto arguments, parse_arguments());
        SKIFF_CHECK(attach_call(*filter, std::move(arguments)));
    }
    return filter;
}

Parser::Parsed Parser::parse_test(ExpressionPtr node) {
    int line = current().line;
    skip();  // is
    bool is_negated = skip_name("not");
    SKIFF_TRY(auto name, expect_name());
    while (skip_symbol(".")) {
        SKIFF_TRY(auto more, expect_name());
        name += "." + more;
    }
    SKIFF_TRY(auto test, make(ExpressionKind::test, line, parts_of(std::move(node))));
    test->function = find_test(name);
    if (!test->function && !inside_condition_) unknown_.push_back({line, "no test named '" + name + "'"});
    test->text = std::move(name);
    const Token& next = current();
    bool is_operand = next.kind == TokenKind::name || next.kind == TokenKind::string || next.kind == TokenKind::integer ||
                      next.kind == TokenKind::real || next.is_symbol("[") || next.is_symbol("{");
    if (next.is_symbol("(")) {
        SKIFF_TRY(auto arguments, parse_arguments());
        SKIFF_CHECK(attach_call(*test, std::move(arguments)));
    } else if (is_operand && !next.is_name("else") && !next.is_name("or") && !next.is_name("and")) {
        if (next.is_name("is")) return syntax_error(line, "tests cannot follow each other; use 'and'");
        SKIFF_TRY(auto operand, parse_primary());
        SKIFF_TRY(operand, parse_postfix(std::move(operand)));
        auto arguments = std::make_unique<CallParts>();
        arguments->positional.push_back(std::move(operand));
        SKIFF_CHECK(attach_call(*test, std::move(arguments)));
    }
    if (!is_negated) return test;
    return make(ExpressionKind::logical_not, line, parts_of(std::move(test)));
}

}  // namespace skiff::tmpl
