// links: skiff_formats
// A coded tensor of any bytes: no crash, no memory beyond what the bytes may ask for, no write outside of the target.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "formats/coded_tensor.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    auto tensor = skiff::parse_coded_tensor({reinterpret_cast<const std::byte*>(data), size});
    if (!tensor.ok()) {
        if (tensor.error().message.empty()) std::abort();
        return 0;
    }
    if (tensor->plain_bytes > size * skiff::max_expansion) std::abort();
    std::vector<std::byte> target(static_cast<std::size_t>(tensor->plain_bytes));
    (void)skiff::decode_tensor(*tensor, target, 1);
    return 0;
}
