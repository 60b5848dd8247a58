#include "text/template_parser.h"

#include <algorithm>

#include "text/template_tables.h"

namespace skiff::tmpl {
namespace {

// Sets a member for the time of a scope.
template <class T>
class Restored {
public:
    Restored(T& place, T value) : place_(place), before_(place) { place = value; }
    ~Restored() { place_ = before_; }
    Restored(const Restored&) = delete;

private:
    T& place_;
    T before_;
};

Statement statement(StatementKind kind, int line) { return {kind, line, {}, {}, {}, {}, {}}; }

}  // namespace

bool Parser::skip_symbol(std::string_view symbol) {
    if (!current().is_symbol(symbol)) return false;
    skip();
    return true;
}

bool Parser::skip_name(std::string_view name) {
    if (!current().is_name(name)) return false;
    skip();
    return true;
}

Error Parser::unexpected(std::string_view expected) const {
    const Token& token = current();
    std::string found = token.kind == TokenKind::block_end || token.kind == TokenKind::variable_end ? "the end of the tag" : "'" + token.text + "'";
    return syntax_error(token.line, "expected " + std::string(expected) + ", found " + found);
}

Error Parser::too_deep() const {
    return syntax_error(current().line, "nested deeper than " + std::to_string(max_depth_) + " levels");
}

Status Parser::expect(TokenKind kind, std::string_view what) {
    if (current().kind != kind) return unexpected(what);
    skip();
    return {};
}

Status Parser::expect_symbol(std::string_view symbol) {
    if (!skip_symbol(symbol)) return unexpected("'" + std::string(symbol) + "'");
    return {};
}

Result<std::string> Parser::expect_name() {
    if (current().kind != TokenKind::name) return unexpected("a name");
    std::string name = current().text;
    skip();
    return name;
}

Status Parser::parse() {
    SKIFF_TRY(tree_.body, parse_block({}));
    if (!unknown_.empty()) return syntax_error(unknown_.front().line, unknown_.front().message);
    return {};
}

// Stops in front of one of the end names (behind the `{%`), or at the end of the template where there are none.
Result<Block> Parser::parse_block(std::initializer_list<std::string_view> end_names) {
    if (depth_ >= max_depth_) return too_deep();
    Restored deeper(depth_, depth_ + 1);
    Block block;
    while (current().kind != TokenKind::end) {
        const Token& token = current();
        if (token.kind == TokenKind::data) {
            block.push_back(statement(StatementKind::text, token.line));
            block.back().text = token.text;
            skip();
        } else if (token.kind == TokenKind::variable_begin) {
            block.push_back(statement(StatementKind::output, token.line));
            skip();
            SKIFF_TRY(auto expression, parse_tuple(TupleEnd::tag, Conditions::allowed));
            block.back().expressions.push_back(std::move(expression));
            SKIFF_CHECK(expect(TokenKind::variable_end, "}}"));
        } else {
            skip();  // a block tag begins
            for (std::string_view name : end_names)
                if (current().is_name(name)) return block;
            SKIFF_TRY(auto next, parse_statement());
            block.push_back(std::move(next));
            SKIFF_CHECK(expect(TokenKind::block_end, "%}"));
        }
    }
    if (end_names.size() > 0) return syntax_error(current().line, "the template ends before {% " + std::string(*(end_names.end() - 1)) + " %}");
    return block;
}

Result<Block> Parser::parse_body(std::initializer_list<std::string_view> end_names) {
    skip_symbol(":");
    SKIFF_CHECK(expect(TokenKind::block_end, "%}"));
    return parse_block(end_names);
}

Result<Statement> Parser::parse_statement() {
    static constexpr std::pair<std::string_view, Result<Statement> (Parser::*)()> table[] = {
        {"if", &Parser::parse_if},           {"for", &Parser::parse_for},
        {"set", &Parser::parse_set},         {"macro", &Parser::parse_macro},
        {"call", &Parser::parse_call_block}, {"filter", &Parser::parse_filter_block},
        {"with", &Parser::parse_with},       {"generation", &Parser::parse_generation},
        {"break", &Parser::parse_loop_control}, {"continue", &Parser::parse_loop_control},
    };
    if (current().kind != TokenKind::name) return unexpected("the name of a tag");
    for (const auto& [name, parse_it] : table)
        if (current().is_name(name)) return (this->*parse_it)();
    return syntax_error(current().line, "the tag '" + current().text + "' is unknown, out of place or not part of this template engine");
}

Result<Statement> Parser::parse_if() {
    Restored soft(inside_condition_, true);
    Statement node = statement(StatementKind::condition, current().line);
    do {
        skip();  // if, elif
        SKIFF_TRY(auto test, parse_tuple(TupleEnd::tag, Conditions::none));
        node.expressions.push_back(std::move(test));
        SKIFF_TRY(auto body, parse_body({"elif", "else", "endif"}));
        node.blocks.push_back(std::move(body));
    } while (current().is_name("elif"));
    if (skip_name("else")) {
        SKIFF_TRY(auto body, parse_body({"endif"}));
        node.blocks.push_back(std::move(body));
    }
    skip();  // endif
    return node;
}

Result<Statement> Parser::parse_for() {
    Statement node = statement(StatementKind::loop, current().line);
    skip();
    SKIFF_TRY(node.target, parse_target(TupleEnd::in));
    if (!skip_name("in")) return unexpected("'in'");
    SKIFF_TRY(auto iterable, parse_tuple(TupleEnd::recursive, Conditions::none));
    node.expressions.push_back(std::move(iterable));
    Restored hard(inside_condition_, false);
    if (skip_name("if")) {
        SKIFF_TRY(auto test, parse_expression());
        node.expressions.push_back(std::move(test));
    }
    if (current().is_name("recursive")) return syntax_error(current().line, "recursive loops are not part of this template engine");
    {
        Restored deeper(loop_depth_, loop_depth_ + 1);
        SKIFF_TRY(auto body, parse_body({"else", "endfor"}));
        node.blocks.push_back(std::move(body));
    }
    if (skip_name("else")) {
        SKIFF_TRY(auto body, parse_body({"endfor"}));
        node.blocks.push_back(std::move(body));
    }
    skip();  // endfor
    return node;
}

Result<Statement> Parser::parse_set() {
    int line = current().line;
    skip();
    SKIFF_TRY(auto target, parse_target(TupleEnd::tag));
    if (skip_symbol("=")) {
        Statement node = statement(StatementKind::set, line);
        node.target = std::move(target);
        SKIFF_TRY(auto value, parse_tuple(TupleEnd::tag, Conditions::allowed));
        node.expressions.push_back(std::move(value));
        return node;
    }
    Statement node = statement(StatementKind::set_block, line);
    node.target = std::move(target);
    ExpressionPtr filter;
    while (current().is_symbol("|")) {
        SKIFF_TRY(filter, parse_filter(std::move(filter)));
    }
    if (filter) node.expressions.push_back(std::move(filter));
    Restored hard(inside_condition_, false);
    SKIFF_TRY(auto body, parse_body({"endset"}));
    node.blocks.push_back(std::move(body));
    skip();
    return node;
}

Result<std::vector<Parameter>> Parser::parse_parameters() {
    std::vector<Parameter> parameters;
    SKIFF_CHECK(expect_symbol("("));
    while (!current().is_symbol(")")) {
        if (!parameters.empty()) SKIFF_CHECK(expect_symbol(","));
        SKIFF_TRY(auto name, expect_name());
        int symbol = tree_.intern(name);
        ExpressionPtr fallback;
        if (skip_symbol("=")) {
            SKIFF_TRY(fallback, parse_expression());
        } else if (!parameters.empty() && parameters.back().fallback) {
            return syntax_error(current().line, "a parameter without a default follows one that has a default");
        }
        parameters.push_back({symbol, std::move(name), std::move(fallback)});
    }
    skip();
    return parameters;
}

Result<std::shared_ptr<MacroNode>> Parser::parse_macro_rest(std::string name, std::string_view end_name, std::vector<Parameter> parameters) {
    auto macro = std::make_shared<MacroNode>();
    macro->name = std::move(name);
    macro->parameters = std::move(parameters);
    std::size_t caller_before = n_caller_reads_, kwargs_before = n_kwargs_reads_, varargs_before = n_varargs_reads_;
    Restored hard(inside_condition_, false);
    Restored outside(loop_depth_, 0);
    SKIFF_TRY(auto body, parse_body({end_name}));
    skip();
    macro->body = std::make_shared<Block>(std::move(body));
    auto declares = [&](std::string_view wanted) {
        return std::any_of(macro->parameters.begin(), macro->parameters.end(), [&](const Parameter& parameter) { return parameter.name == wanted; });
    };
    macro->reads_caller = n_caller_reads_ > caller_before && !declares("caller");
    macro->reads_kwargs = n_kwargs_reads_ > kwargs_before && !declares("kwargs");
    macro->reads_varargs = n_varargs_reads_ > varargs_before && !declares("varargs");
    return macro;
}

Result<Statement> Parser::parse_macro() {
    Statement node = statement(StatementKind::macro, current().line);
    skip();
    SKIFF_TRY(node.target, parse_single_target());
    if (node.target->kind != ExpressionKind::name) return unexpected("the name of the macro");
    SKIFF_TRY(auto parameters, parse_parameters());
    SKIFF_TRY(node.macro, parse_macro_rest(node.target->text, "endmacro", std::move(parameters)));
    return node;
}

Result<Statement> Parser::parse_call_block() {
    Statement node = statement(StatementKind::call_block, current().line);
    skip();
    std::vector<Parameter> parameters;
    if (current().is_symbol("(")) {
        SKIFF_TRY(parameters, parse_parameters());
    }
    SKIFF_TRY(auto call, parse_expression());
    if (call->kind != ExpressionKind::call) return syntax_error(node.line, "a call block needs a call of a macro");
    node.expressions.push_back(std::move(call));
    SKIFF_TRY(node.macro, parse_macro_rest("caller", "endcall", std::move(parameters)));
    return node;
}

Result<Statement> Parser::parse_filter_block() {
    Statement node = statement(StatementKind::filter_block, current().line);
    // The grammar of `{% filter a|b %}` is that of `|a|b`; the word filter stands where the first bar would.
    ExpressionPtr filter;
    do {
        SKIFF_TRY(filter, parse_filter(std::move(filter)));
    } while (current().is_symbol("|"));
    node.expressions.push_back(std::move(filter));
    Restored hard(inside_condition_, false);
    SKIFF_TRY(auto body, parse_body({"endfilter"}));
    node.blocks.push_back(std::move(body));
    skip();
    return node;
}

Result<Statement> Parser::parse_with() {
    Statement node = statement(StatementKind::with, current().line);
    skip();
    while (current().kind != TokenKind::block_end) {
        if (!node.expressions.empty()) SKIFF_CHECK(expect_symbol(","));
        SKIFF_TRY(auto target, parse_single_target());
        SKIFF_CHECK(expect_symbol("="));
        SKIFF_TRY(auto value, parse_expression());
        node.expressions.push_back(std::move(target));
        node.expressions.push_back(std::move(value));
    }
    Restored hard(inside_condition_, false);
    SKIFF_TRY(auto body, parse_body({"endwith"}));
    node.blocks.push_back(std::move(body));
    skip();
    return node;
}

// Hugging Face's tag around what the assistant wrote: a scope of its own, printed as it is.
Result<Statement> Parser::parse_generation() {
    Statement node = statement(StatementKind::scope, current().line);
    skip();
    Restored hard(inside_condition_, false);
    Restored outside(loop_depth_, 0);
    SKIFF_TRY(auto body, parse_body({"endgeneration"}));
    node.blocks.push_back(std::move(body));
    skip();
    return node;
}

Result<Statement> Parser::parse_loop_control() {
    if (loop_depth_ == 0) return syntax_error(current().line, "'" + current().text + "' outside of a loop");
    Statement node = statement(current().is_name("break") ? StatementKind::break_loop : StatementKind::continue_loop, current().line);
    skip();
    return node;
}

}  // namespace skiff::tmpl
