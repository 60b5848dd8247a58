#include "base/result.h"

namespace skiff {

int exit_code(ErrorCode code) {
    switch (code) {
        case ErrorCode::runtime: return 1;
        case ErrorCode::usage: return 2;
        case ErrorCode::not_found: return 3;
        case ErrorCode::resource: return 4;
        case ErrorCode::corrupt: return 5;
        case ErrorCode::unsupported: return 1;
        case ErrorCode::interrupted: return 130;
    }
    return 1;
}

std::string_view error_code_name(ErrorCode code) {
    switch (code) {
        case ErrorCode::runtime: return "runtime";
        case ErrorCode::usage: return "usage";
        case ErrorCode::not_found: return "not_found";
        case ErrorCode::resource: return "resource";
        case ErrorCode::corrupt: return "corrupt";
        case ErrorCode::unsupported: return "unsupported";
        case ErrorCode::interrupted: return "interrupted";
    }
    return "runtime";
}

std::string Error::to_string() const {
    std::string text;
    for (auto frame = context.rbegin(); frame != context.rend(); ++frame) text += *frame + ": ";
    return text + message;
}

}  // namespace skiff
