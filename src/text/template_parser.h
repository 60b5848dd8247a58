// Tokens to tree: template_parser.cpp reads the statements, template_expressions.cpp the expressions.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "text/template_ast.h"
#include "text/template_engine.h"
#include "text/template_lexer.h"

namespace skiff::tmpl {

class Parser {
public:
    Parser(std::vector<Token> tokens, int max_depth, TemplateTree& tree) : tokens_(std::move(tokens)), max_depth_(max_depth), tree_(tree) {}
    Status parse();

private:
    using Parsed = Result<ExpressionPtr>;
    enum class TupleEnd { tag, in, recursive };
    enum class Conditions { allowed, none };

    // tokens
    const Token& current() const { return tokens_[position_]; }
    const Token& look() const { return tokens_[std::min(position_ + 1, tokens_.size() - 1)]; }
    void skip(std::size_t n = 1) { position_ = std::min(position_ + n, tokens_.size() - 1); }
    bool skip_symbol(std::string_view symbol);
    bool skip_name(std::string_view name);
    Status expect(TokenKind kind, std::string_view what);
    Status expect_symbol(std::string_view symbol);
    Result<std::string> expect_name();
    Error unexpected(std::string_view expected) const;
    Error too_deep() const;

    // nodes
    Parsed make(ExpressionKind kind, int line, std::vector<ExpressionPtr> parts = {});
    Status check_height(Expression& node, const Expression* part) const;
    int load_symbol(const std::string& name);

    // statements
    Result<Block> parse_block(std::initializer_list<std::string_view> end_names);
    Result<Block> parse_body(std::initializer_list<std::string_view> end_names);  // from behind a tag's head
    Result<Statement> parse_statement();
    Result<Statement> parse_if();
    Result<Statement> parse_for();
    Result<Statement> parse_set();
    Result<Statement> parse_macro();
    Result<Statement> parse_call_block();
    Result<Statement> parse_filter_block();
    Result<Statement> parse_with();
    Result<Statement> parse_generation();
    Result<Statement> parse_loop_control();
    Result<std::shared_ptr<MacroNode>> parse_macro_rest(std::string name, std::string_view end_name, std::vector<Parameter> parameters);
    Result<std::vector<Parameter>> parse_parameters();

    // expressions
    Parsed parse_target(TupleEnd end);
    Parsed parse_single_target();
    Parsed parse_tuple(TupleEnd end, Conditions conditions);
    Parsed parse_expression() { return parse_condition(); }
    Parsed parse_condition();
    Parsed parse_or();
    Parsed parse_and();
    Parsed parse_not();
    Parsed parse_compare();
    Parsed parse_sum();
    Parsed parse_concat();
    Parsed parse_product();
    Parsed parse_power();
    Parsed parse_unary();
    Parsed parse_signed();
    Parsed parse_primary();
    Parsed parse_parentheses();
    Parsed parse_list();
    Parsed parse_dict();
    Parsed parse_postfix(ExpressionPtr node);
    Parsed parse_filters_and_tests(ExpressionPtr node);
    Parsed parse_subscript(ExpressionPtr node);
    Parsed parse_subscript_part();
    Parsed parse_call(ExpressionPtr node);
    Parsed parse_filter(ExpressionPtr node);
    Parsed parse_test(ExpressionPtr node);
    Result<std::unique_ptr<CallParts>> parse_arguments();
    Status attach_call(Expression& node, std::unique_ptr<CallParts> call) const;
    Parsed parse_chain(Parsed (Parser::*operand)(), std::initializer_list<std::pair<std::string_view, Operator>> operators);

    bool at_tuple_end(TupleEnd end) const;

    // Filters and tests that do not exist fail at once, as in Jinja, but inside a condition only when they are reached.
    struct Unknown {
        int line;
        std::string message;
    };

    std::vector<Token> tokens_;
    std::size_t position_ = 0;
    int max_depth_;
    int depth_ = 0;
    int loop_depth_ = 0;
    bool inside_condition_ = false;
    std::vector<Unknown> unknown_;
    std::size_t n_caller_reads_ = 0, n_kwargs_reads_ = 0, n_varargs_reads_ = 0;
    TemplateTree& tree_;
};

}  // namespace skiff::tmpl
