#include "text/template_interpreter.h"

#include <algorithm>

#include "text/template_parser.h"
#include "text/template_tables.h"
#include "text/template_unicode.h"

namespace skiff::tmpl {
namespace {

constexpr std::size_t n_variables_without_index = 24;

class Counted {
public:
    explicit Counted(int& count) : count_(count) { ++count_; }
    ~Counted() { --count_; }
    Counted(const Counted&) = delete;

private:
    int& count_;
};

template <class T>
class Swapped {
public:
    Swapped(T& place, T value) : place_(place), before_(std::move(place)) { place_ = std::move(value); }
    ~Swapped() { place_ = std::move(before_); }
    Swapped(const Swapped&) = delete;

private:
    T& place_;
    T before_;
};

std::shared_ptr<Scope> inner(const std::shared_ptr<Scope>& parent) {
    auto scope = std::make_shared<Scope>();
    scope->parent = parent;
    return scope;
}

}  // namespace

const Value* Scope::find(int symbol) const {
    if (variables.size() <= n_variables_without_index) {
        for (const auto& [name, value] : variables)
            if (name == symbol) return &value;
        return nullptr;
    }
    auto row = places.find(symbol);
    return row == places.end() ? nullptr : &variables[row->second].second;
}

void Scope::set(int symbol, Value value) {
    if (const Value* existing = find(symbol)) {
        const_cast<Value&>(*existing) = std::move(value);
        return;
    }
    variables.emplace_back(symbol, std::move(value));
    if (variables.size() == n_variables_without_index + 1) {
        for (std::size_t i = 0; i < variables.size(); ++i) places.emplace(variables[i].first, i);
    } else if (variables.size() > n_variables_without_index) {
        places.emplace(symbol, variables.size() - 1);
    }
}

// Namespaces and the scopes that macros keep can refer to each other in circles and long chains. All of them are still held here while each
// is emptied, so that nothing is destroyed recursively and nothing is left.
Interpreter::~Interpreter() {
    if (scope_) captured_.push_back(std::move(scope_));
    for (auto& name_space : namespaces_) name_space->attributes = Dict();
    for (auto& scope : captured_) scope->variables.clear();
}

Value Interpreter::adopt(std::shared_ptr<Namespace> name_space) {
    namespaces_.push_back(name_space);
    return Value(std::move(name_space));
}

Result<std::string> Interpreter::run(const Json& variables) {
    globals_.resize(tree_.symbols.size());
    for (std::size_t i = 0; i < globals_.size(); ++i) {
        const std::string& name = tree_.symbols[i];
        if (const Json* given = variables.find(name)) {
            SKIFF_TRY(globals_[i], from_json(*given));
        } else if (Function function = find_global(name)) {
            globals_[i] = Value(std::make_shared<const Callable>(Callable{name, function, {}, {}}));
        }
    }
    std::string out;
    out_ = &out;
    scope_ = std::make_shared<Scope>();
    SKIFF_TRY(Flow flow, run_block(tree_.body));
    static_cast<void>(flow);
    return out;
}

Status Interpreter::emit(std::string_view text) {
    if (text.size() > options().max_output_bytes - std::min(out_->size(), options().max_output_bytes))
        return resource_error("the output is over the limit of " + std::to_string(options().max_output_bytes) + " bytes");
    SKIFF_CHECK(spend_bytes(text.size()));
    out_->append(text);
    return {};
}

Status Interpreter::emit_value(const Value& value) {
    if (value.is_text()) return emit(value.bytes());
    SKIFF_TRY(auto text, to_text(*this, value));
    return emit(text);
}

Result<Interpreter::Flow> Interpreter::run_block(const Block& block) {
    Counted frame(n_frames_);
    if (n_frames_ > max_frames_) return resource_error("evaluation is nested deeper than " + std::to_string(max_frames_) + " levels");
    for (const Statement& statement : block) {
        SKIFF_CHECK(spend(1));
        auto flow = run_statement(statement);
        if (!flow.ok()) {
            Error error = flow.take_error();
            if (error.context.empty()) error.context.push_back("template, line " + std::to_string(statement.line));
            return error;
        }
        if (*flow != Flow::normal) return *flow;
    }
    return Flow::normal;
}

Result<Interpreter::Flow> Interpreter::run_statement(const Statement& statement) {
    switch (statement.kind) {
        case StatementKind::text: SKIFF_CHECK(emit(statement.text)); break;
        case StatementKind::output: {
            SKIFF_TRY(Value value, evaluate(*statement.expressions[0]));
            SKIFF_CHECK(emit_value(value));
            break;
        }
        case StatementKind::condition: return run_condition(statement);
        case StatementKind::loop: return run_loop(statement);
        case StatementKind::set: {
            SKIFF_TRY(Value value, evaluate(*statement.expressions[0]));
            SKIFF_CHECK(assign(*statement.target, value));
            break;
        }
        case StatementKind::set_block: SKIFF_CHECK(run_set_block(statement)); break;
        case StatementKind::macro: SKIFF_CHECK(assign(*statement.target, make_macro(statement.macro))); break;
        case StatementKind::call_block: SKIFF_CHECK(run_call_block(statement)); break;
        case StatementKind::filter_block: SKIFF_CHECK(run_filter_block(statement)); break;
        case StatementKind::with: return run_with(statement);
        case StatementKind::scope: return run_scoped(statement.blocks[0]);
        case StatementKind::break_loop: return Flow::break_loop;
        case StatementKind::continue_loop: return Flow::continue_loop;
    }
    return Flow::normal;
}

Result<Interpreter::Flow> Interpreter::run_condition(const Statement& statement) {
    for (std::size_t i = 0; i < statement.expressions.size(); ++i) {
        SKIFF_TRY(Value test, evaluate(*statement.expressions[i]));
        if (test.truthy()) return run_block(statement.blocks[i]);
    }
    if (statement.blocks.size() > statement.expressions.size()) return run_block(statement.blocks.back());
    return Flow::normal;
}

Result<Interpreter::Flow> Interpreter::run_scoped(const Block& block) {
    Swapped scope(scope_, inner(scope_));
    return run_block(block);
}

Result<Interpreter::Flow> Interpreter::run_with(const Statement& statement) {
    std::vector<Value> values;
    for (std::size_t i = 1; i < statement.expressions.size(); i += 2) {
        SKIFF_TRY(Value value, evaluate(*statement.expressions[i]));
        values.push_back(std::move(value));
    }
    Swapped scope(scope_, inner(scope_));
    for (std::size_t i = 0; i < values.size(); ++i) SKIFF_CHECK(assign(*statement.expressions[2 * i], values[i]));
    return run_block(statement.blocks[0]);
}

Result<Interpreter::Flow> Interpreter::run_loop(const Statement& statement) {
    SKIFF_TRY(Value iterable, evaluate(*statement.expressions[0]));
    SKIFF_TRY(auto items, iterate(*this, iterable));
    auto loop = std::make_shared<LoopState>();
    for (const Value& item : items) {
        loop->depth = std::max(loop->depth, item.depth() + 1);
        loop->weight = saturating_add(loop->weight, item.weight());
    }
    if (loop->depth > options().max_depth) return resource_error("a list is nested deeper than " + std::to_string(options().max_depth) + " levels");
    loop->items = std::move(items);
    Value loop_value(loop);
    if (statement.expressions.size() > 1) {
        loop->node = &statement;
        loop->scope = scope_;
    }
    // A loop variable that outlives its loop must not keep scopes alive, nor itself.
    struct Finish {
        LoopState& loop;
        ~Finish() {
            loop.is_finished = true;
            loop.scope.reset();
            loop.last_changed.clear();
        }
    } finish{*loop};
    Flow flow = Flow::normal;
    while (flow != Flow::break_loop) {
        SKIFF_TRY(bool has_item, advance(*loop));
        if (!has_item) break;
        SKIFF_CHECK(spend(1));
        Swapped scope(scope_, inner(scope_));
        scope_->set(tree_.loop_symbol, loop_value);
        SKIFF_CHECK(assign(*statement.target, loop->current));
        SKIFF_TRY(flow, run_block(statement.blocks[0]));
    }
    if (loop->index0 < 0 && statement.blocks.size() > 1) return run_scoped(statement.blocks[1]);
    return Flow::normal;
}

// The next item that the loop's condition lets through.
Result<std::optional<Value>> Interpreter::pull(LoopState& loop) {
    while (loop.next < loop.items.size()) {
        Value item = loop.items[loop.next++];
        if (!loop.node) return std::optional<Value>(std::move(item));
        if (!loop.scope) break;
        SKIFF_CHECK(spend(1));
        Swapped scope(scope_, inner(loop.scope));
        SKIFF_CHECK(assign(*loop.node->target, item));
        SKIFF_TRY(Value test, evaluate(*loop.node->expressions[1]));
        if (test.truthy()) return std::optional<Value>(std::move(item));
    }
    return std::optional<Value>();
}

Result<bool> Interpreter::look_ahead(LoopState& loop) {
    if (!loop.after) {
        SKIFF_TRY(loop.after, pull(loop));
    }
    return loop.after.has_value();
}

Result<bool> Interpreter::advance(LoopState& loop) {
    SKIFF_TRY(bool has_item, look_ahead(loop));
    if (!has_item) return false;
    loop.previous = std::move(loop.current);
    loop.current = *std::move(loop.after);
    loop.after.reset();
    ++loop.index0;
    return true;
}

Status Interpreter::assign(const Expression& target, const Value& value) {
    SKIFF_CHECK(spend(1));
    if (target.kind == ExpressionKind::name) {
        scope_->set(target.symbol, value);
        return {};
    }
    if (target.kind == ExpressionKind::namespace_target) {
        const Value* holder = nullptr;
        for (const Scope* scope = scope_.get(); scope && !holder; scope = scope->parent.get()) holder = scope->find(target.symbol);
        if (!holder || !holder->is_namespace())
            return runtime_error("cannot assign to an attribute of '" + tree_.symbols[static_cast<std::size_t>(target.symbol)] + "', which is not a namespace");
        if (target.text[0] == '_') return runtime_error("a namespace cannot have the attribute '" + target.text + "': names that begin with _ are reserved");
        holder->name_space().attributes.set(Value::text(target.text), value);
        return {};
    }
    if (!is_iterable(value)) return runtime_error("cannot unpack '" + std::string(value.type_name()) + "'");
    SKIFF_TRY(auto items, iterate(*this, value));
    if (items.size() != target.parts.size())
        return runtime_error("expected " + std::to_string(target.parts.size()) + " values to unpack, found " + std::to_string(items.size()));
    for (std::size_t i = 0; i < items.size(); ++i) SKIFF_CHECK(assign(*target.parts[i], items[i]));
    return {};
}

Result<std::string> Interpreter::capture(const Block& block, std::shared_ptr<Scope> scope) {
    std::string buffer;
    Swapped out(out_, &buffer);
    Swapped inside(scope_, std::move(scope));
    SKIFF_TRY(Flow flow, run_block(block));
    static_cast<void>(flow);
    return buffer;
}

Status Interpreter::run_set_block(const Statement& statement) {
    SKIFF_TRY(auto body, capture(statement.blocks[0], inner(scope_)));
    SKIFF_TRY(Value value, text(std::move(body)));
    if (!statement.expressions.empty()) {
        SKIFF_TRY(value, evaluate_filter_over(*statement.expressions[0], value));
    }
    return assign(*statement.target, value);
}

Status Interpreter::run_filter_block(const Statement& statement) {
    SKIFF_TRY(auto body, capture(statement.blocks[0], inner(scope_)));
    SKIFF_TRY(Value value, text(std::move(body)));
    SKIFF_TRY(value, evaluate_filter_over(*statement.expressions[0], value));
    return emit_value(value);
}

Value Interpreter::make_macro(const std::shared_ptr<MacroNode>& node) {
    captured_.push_back(scope_);
    auto macro = std::make_shared<const Macro>(Macro{node.get(), scope_});
    return Value(std::make_shared<const Callable>(Callable{node->name, nullptr, {}, std::move(macro)}));
}

Status Interpreter::run_call_block(const Statement& statement) {
    const Expression& call = *statement.expressions[0];
    SKIFF_TRY(Value callee, evaluate(*call.parts[0]));
    SKIFF_TRY(auto arguments, evaluate_arguments(call.call.get()));
    arguments.named.emplace_back("caller", make_macro(statement.macro));
    SKIFF_TRY(Value value, this->call(callee, arguments));
    return emit_value(value);
}

Result<Value> Interpreter::call_macro(const Macro& macro, const Arguments& arguments) {
    Counted nested(n_macros_);
    if (n_macros_ > options().max_depth) return resource_error("macros call each other deeper than " + std::to_string(options().max_depth) + " levels");
    SKIFF_CHECK(spend(1 + macro.node->parameters.size()));
    const MacroNode& node = *macro.node;
    auto scope = inner(macro.closure);
    auto named = arguments.named;
    std::size_t n_positional = std::min(arguments.positional.size(), node.parameters.size());
    std::vector<const Parameter*> missing;
    for (std::size_t i = 0; i < node.parameters.size(); ++i) {
        const Parameter& parameter = node.parameters[i];
        if (i < n_positional) {
            scope->set(parameter.symbol, arguments.positional[i]);
            continue;
        }
        auto given = std::find_if(named.begin(), named.end(), [&](const auto& row) { return row.first == parameter.name; });
        if (given == named.end()) {
            missing.push_back(&parameter);
        } else {
            scope->set(parameter.symbol, given->second);
            named.erase(given);
        }
    }
    if (node.reads_caller) {
        auto given = std::find_if(named.begin(), named.end(), [](const auto& row) { return row.first == "caller"; });
        scope->set(tree_.caller_symbol, given == named.end() ? Value::undefined("no caller defined") : given->second);
        if (given != named.end()) named.erase(given);
    }
    if (node.reads_kwargs) {
        Dict rest;
        for (auto& [name, value] : named) rest.set(Value::text(name), value);
        SKIFF_TRY(Value kwargs, dict(std::move(rest)));
        scope->set(tree_.kwargs_symbol, kwargs);
    } else if (!named.empty()) {
        return runtime_error("the macro '" + node.name + "' takes no argument named '" + named.front().first + "'");
    }
    if (node.reads_varargs) {
        SKIFF_TRY(Value varargs, tuple({arguments.positional.begin() + static_cast<std::ptrdiff_t>(n_positional), arguments.positional.end()}));
        scope->set(tree_.varargs_symbol, varargs);
    } else if (arguments.positional.size() > node.parameters.size()) {
        return runtime_error("the macro '" + node.name + "' takes at most " + std::to_string(node.parameters.size()) + " arguments, found " +
                             std::to_string(arguments.positional.size()));
    }
    {
        Swapped inside(scope_, scope);
        for (const Parameter* parameter : missing) {
            Value value = Value::undefined("parameter '" + parameter->name + "' was not provided");
            if (parameter->fallback) {
                SKIFF_TRY(value, evaluate(*parameter->fallback));
            }
            scope->set(parameter->symbol, std::move(value));
        }
    }
    SKIFF_TRY(auto body, capture(*node.body, scope));
    return text(std::move(body));
}

namespace {

Result<Value> loop_cycle(Context&, const Value& self, const Arguments& arguments) {
    if (arguments.positional.empty()) return runtime_error("loop.cycle needs items to cycle through");
    return arguments.positional[static_cast<std::size_t>(self.loop()->index0) % arguments.positional.size()];
}

Result<Value> loop_changed(Context& context, const Value& self, const Arguments& arguments) {
    LoopState& loop = *self.loop();
    if (loop.is_finished) return unsupported("loop.changed after the end of its loop");
    bool is_same = loop.has_changed && loop.last_changed.size() == arguments.positional.size();
    for (std::size_t i = 0; is_same && i < loop.last_changed.size(); ++i) {
        SKIFF_TRY(is_same, context.equal(loop.last_changed[i], arguments.positional[i]));
    }
    loop.has_changed = true;
    loop.last_changed = arguments.positional;
    return Value(!is_same);
}

}  // namespace

Result<Value> Interpreter::loop_attribute(const Value& value, std::string_view name) {
    LoopState& loop = *value.loop();
    if (name == "index0") return Value(loop.index0);
    if (name == "index") return Value(loop.index0 + 1);
    if (name == "first") return Value(loop.index0 == 0);
    if (name == "depth0") return Value(std::int64_t{0});  // counts recursive loops only
    if (name == "depth") return Value(std::int64_t{1});
    if (name == "previtem") return loop.index0 > 0 ? loop.previous : Value::undefined("there is no previous item");
    if (name == "cycle") return Value(std::make_shared<const Callable>(Callable{"cycle", loop_cycle, value, {}}));
    if (name == "changed") return Value(std::make_shared<const Callable>(Callable{"changed", loop_changed, value, {}}));
    if (name == "last" || name == "nextitem") {
        SKIFF_TRY(bool has_next, look_ahead(loop));
        if (name == "last") return Value(!has_next);
        return has_next ? *loop.after : Value::undefined("there is no next item");
    }
    if (name == "length" || name == "revindex" || name == "revindex0") {
        if (loop.node) {  // the rest has to be filtered now
            std::vector<Value> rest;
            if (loop.after) rest.push_back(*std::move(loop.after));
            loop.after.reset();
            while (true) {
                SKIFF_TRY(auto item, pull(loop));
                if (!item) break;
                rest.push_back(*std::move(item));
            }
            loop.node = nullptr;
            loop.items = std::move(rest);
            loop.next = 0;
        }
        auto remaining = static_cast<std::int64_t>(loop.items.size() - loop.next) + (loop.after ? 1 : 0);
        if (name == "length") return Value(loop.index0 + 1 + remaining);
        return Value(name == "revindex" ? remaining + 1 : remaining);
    }
    return Value::undefined("'LoopContext' has no attribute '" + std::string(name) + "'");
}

}  // namespace skiff::tmpl

namespace skiff {

Result<Template> Template::parse(std::string_view source, const TemplateOptions& options) {
    if (source.size() > options.max_source_bytes)
        return resource_error("template of " + std::to_string(source.size()) + " bytes is over the limit of " + std::to_string(options.max_source_bytes));
    SKIFF_TRY(auto tokens, tmpl::tokenize(source));
    auto tree = std::make_shared<tmpl::TemplateTree>();
    tree->loop_symbol = tree->intern("loop");
    tree->caller_symbol = tree->intern("caller");
    tree->kwargs_symbol = tree->intern("kwargs");
    tree->varargs_symbol = tree->intern("varargs");
    SKIFF_CHECK(tmpl::Parser(std::move(tokens), options.max_depth, *tree).parse());
    Template made;
    made.tree_ = std::move(tree);
    return made;
}

Result<std::string> Template::render(const Json& variables, const TemplateOptions& options) const {
    if (!tree_) return usage_error("rendering an empty template: parse one first");
    return tmpl::Interpreter(*tree_, options).run(variables);
}

}  // namespace skiff
