// Errors as values. What a user, a file, a socket or another rank can cause is a Result; a check that aborts is for our own bugs.
#pragma once

#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace skiff {

// The kinds of failure a caller may want to tell apart. Each maps to one exit code of the command line (docs/errors.md).
enum class ErrorCode {
    runtime,      // exit 1: something failed while working (I/O, a bug in an input's logic)
    usage,        // exit 2: the command, an option or a combination of options is wrong
    not_found,    // exit 3: a file, folder, tensor or model is not there
    resource,     // exit 4: memory, disk or another limit
    corrupt,      // exit 5: a file from outside violates its format
    unsupported,  // exit 1: valid, but not something this build or machine can do
    interrupted,  // exit 130: the user stopped it
};

int exit_code(ErrorCode code);
std::string_view error_code_name(ErrorCode code);  // "corrupt", "usage" ...

// A message says what, where, what was expected and found, and what to do. Context frames are added outermost last.
struct Error {
    ErrorCode code = ErrorCode::runtime;
    std::string message;
    std::vector<std::string> context;

    Error with_context(std::string frame) && {
        context.push_back(std::move(frame));
        return std::move(*this);
    }
    std::string to_string() const;  // "frame: frame: message", outermost first
};

inline Error corrupt(std::string message) { return {ErrorCode::corrupt, std::move(message), {}}; }
inline Error usage_error(std::string message) { return {ErrorCode::usage, std::move(message), {}}; }
inline Error not_found(std::string message) { return {ErrorCode::not_found, std::move(message), {}}; }
inline Error resource_error(std::string message) { return {ErrorCode::resource, std::move(message), {}}; }
inline Error unsupported(std::string message) { return {ErrorCode::unsupported, std::move(message), {}}; }
inline Error runtime_error(std::string message) { return {ErrorCode::runtime, std::move(message), {}}; }

// Either a value or an Error. `Result<void>` is a success or an Error.
template <class T>
class [[nodiscard]] Result {
public:
    Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

    bool ok() const { return state_.index() == 0; }
    explicit operator bool() const { return ok(); }

    T& value() & { return *check(); }
    const T& value() const& { return *const_cast<Result*>(this)->check(); }
    T&& value() && { return std::move(*check()); }
    T& operator*() & { return value(); }
    const T& operator*() const& { return value(); }
    T&& operator*() && { return std::move(*this).value(); }
    T* operator->() { return check(); }
    const T* operator->() const { return const_cast<Result*>(this)->check(); }

    const Error& error() const { return std::get<1>(state_); }
    Error take_error() { return std::move(std::get<1>(state_)); }

private:
    T* check() {
        if (!ok()) std::abort();  // our bug: the caller did not look at ok()
        return &std::get<0>(state_);
    }
    std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
public:
    Result() = default;
    Result(Error error) : error_(std::move(error)) {}
    bool ok() const { return !error_.has_value(); }
    explicit operator bool() const { return ok(); }
    const Error& error() const { return *error_; }
    Error take_error() { return std::move(*error_); }

private:
    std::optional<Error> error_;
};

using Status = Result<void>;

}  // namespace skiff

#define SKIFF_CONCAT_INNER(a, b) a##b
#define SKIFF_CONCAT(a, b) SKIFF_CONCAT_INNER(a, b)

// SKIFF_TRY(auto x, may_fail());  returns the error to the caller, or binds the value.
#define SKIFF_TRY(declaration, expression)                                                                      \
    auto SKIFF_CONCAT(skiff_result_, __LINE__) = (expression);                                                  \
    if (!SKIFF_CONCAT(skiff_result_, __LINE__).ok()) return SKIFF_CONCAT(skiff_result_, __LINE__).take_error(); \
    declaration = std::move(SKIFF_CONCAT(skiff_result_, __LINE__)).value()

// SKIFF_CHECK(status_expression);  returns the error to the caller.
#define SKIFF_CHECK(expression)                                   \
    do {                                                          \
        auto skiff_status = (expression);                         \
        if (!skiff_status.ok()) return skiff_status.take_error(); \
    } while (0)
