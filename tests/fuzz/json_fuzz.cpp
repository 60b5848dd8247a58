// links: skiff_base
// The JSON reader on any bytes: no crash; and what it accepts, it writes so that it reads back to the same text.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/json.h"

namespace {

void check_round_trip(const skiff::Json& value, int indent, const skiff::JsonLimits& limits) {
    const std::string first = value.dump(indent);
    auto again = skiff::Json::parse(first, limits);
    if (!again.ok()) std::abort();
    if (again->dump(indent) != first) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    skiff::JsonLimits limits;
    limits.max_values = 1 << 16;
    if (size != 0) {  // the last byte chooses the limits, so that the seeds stay readable
        limits.allow_duplicate_keys = (data[size - 1] & 1) != 0;
        limits.allow_trailing_spaces = (data[size - 1] & 2) != 0;
        limits.max_depth = 1 + data[size - 1] % 70;
    }
    auto value = skiff::Json::parse(text, limits);
    if (!value.ok()) {
        if (value.error().message.empty()) std::abort();
        return 0;
    }
    check_round_trip(*value, -1, limits);
    check_round_trip(*value, 2, limits);
    return 0;
}
