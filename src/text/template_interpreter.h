// Walks a tree and renders it: template_interpreter.cpp runs statements, template_evaluate.cpp evaluates expressions.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "text/template_ast.h"
#include "text/template_context.h"

namespace skiff::tmpl {

struct Scope {
    std::shared_ptr<Scope> parent;
    std::vector<std::pair<int, Value>> variables;
    std::unordered_map<int, std::size_t> places;  // symbol -> place in variables, once there are many

    const Value* find(int symbol) const;
    void set(int symbol, Value value);
};

struct Macro {
    const MacroNode* node;
    std::shared_ptr<Scope> closure;
};

class Interpreter final : public Context {
public:
    Interpreter(const TemplateTree& tree, const TemplateOptions& options) : Context(options), tree_(tree) {}
    ~Interpreter() override;

    Result<std::string> run(const Json& variables);

    Result<Value> call_macro(const Macro& macro, const Arguments& arguments) override;
    Result<Value> loop_attribute(const Value& loop, std::string_view name) override;
    Value adopt(std::shared_ptr<Namespace> name_space) override;

private:
    enum class Flow { normal, break_loop, continue_loop };

    // statements
    Result<Flow> run_block(const Block& block);
    Result<Flow> run_statement(const Statement& statement);
    Result<Flow> run_condition(const Statement& statement);
    Result<Flow> run_loop(const Statement& statement);
    Result<Flow> run_scoped(const Block& block);
    Result<Flow> run_with(const Statement& statement);
    Status run_set_block(const Statement& statement);
    Status run_call_block(const Statement& statement);
    Status run_filter_block(const Statement& statement);
    Result<std::string> capture(const Block& block, std::shared_ptr<Scope> scope);
    Status emit(std::string_view text);
    Status emit_value(const Value& value);
    Status assign(const Expression& target, const Value& value);
    Value make_macro(const std::shared_ptr<MacroNode>& node);
    Result<bool> advance(LoopState& loop);
    Result<std::optional<Value>> pull(LoopState& loop);
    Result<bool> look_ahead(LoopState& loop);

    // expressions
    Result<Value> evaluate(const Expression& node);
    Result<Value> evaluate_node(const Expression& node);
    Result<Value> evaluate_name(const Expression& node);
    Result<Value> evaluate_collection(const Expression& node);
    Result<Value> evaluate_subscript(const Expression& node);
    Result<Value> evaluate_call(const Expression& node);
    Result<Value> evaluate_applied(const Expression& node, Value subject);
    Result<Value> evaluate_filter_over(const Expression& node, const Value& innermost);
    Result<Value> evaluate_logical(const Expression& node);
    Result<Value> evaluate_chain(const Expression& node);
    Result<Value> evaluate_compare(const Expression& node);
    Result<Value> evaluate_concat(const Expression& node);
    Result<Value> evaluate_condition(const Expression& node);
    Result<Arguments> evaluate_arguments(const CallParts* call);

    // How many evaluations may be under way inside each other; keeps the machine's stack below two megabytes.
    static constexpr int max_frames_ = 700;

    const TemplateTree& tree_;
    std::vector<std::optional<Value>> globals_;  // by symbol
    std::shared_ptr<Scope> scope_;
    std::string* out_ = nullptr;
    int n_frames_ = 0;
    int n_macros_ = 0;
    std::vector<std::shared_ptr<Namespace>> namespaces_;  // what can hold itself, emptied at the end
    std::vector<std::shared_ptr<Scope>> captured_;
};

}  // namespace skiff::tmpl
