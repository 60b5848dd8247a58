// Arithmetic and comparison with Python's rules; integers that leave 64 bits are an Error.
#pragma once

#include "text/template_ast.h"
#include "text/template_context.h"

namespace skiff::tmpl {

Result<Value> arithmetic(Context& context, Operator op, const Value& a, const Value& b);
Result<bool> compare(Context& context, Operator op, const Value& a, const Value& b);
Result<bool> contains(Context& context, const Value& container, const Value& item);
Result<Value> negate(const Value& value);

}  // namespace skiff::tmpl
