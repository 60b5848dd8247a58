// links: skiff_formats skiff_tensor skiff_base
// The reader of importance matrices on any bytes: no crash, and what it accepts is finite and of the length that it says.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "formats/imatrix.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace skiff;
    auto imatrix = Imatrix::parse({reinterpret_cast<const std::byte*>(data), size});
    if (!imatrix.ok()) {
        if (imatrix.error().message.empty()) std::abort();
        return 0;
    }
    for (const auto& [name, entry] : imatrix->entries) {
        if (entry.n_matrices < 1 || entry.n_inputs() * entry.n_matrices != static_cast<std::int64_t>(entry.importance.size())) std::abort();
        auto importance = imatrix->importance(name, entry.n_inputs(), entry.n_matrices - 1);
        if (!importance.ok()) std::abort();
        for (const float value : *importance)
            if (std::isnan(value) || value < 0) std::abort();
    }
    return 0;
}
