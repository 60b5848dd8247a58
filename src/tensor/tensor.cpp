#include "tensor/tensor.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

#include "base/checked.h"

namespace skiff {

std::int64_t element_count(const Shape& shape) {
    std::int64_t count = 1;
    for (std::int64_t size : shape) count *= size;
    return count;
}

std::string shape_text(const Shape& shape) {
    std::string text = "[";
    for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + "]";
}

bool to_floats(const TensorView& view, std::vector<float>& out) {
    auto convert = dtype_info(view.dtype).to_float;
    if (convert == nullptr) return false;
    out.resize(static_cast<std::size_t>(view.n_elements()));
    convert(view.data.data(), view.n_elements(), out.data());
    return true;
}

AlignedBuffer::AlignedBuffer(std::size_t size_bytes) : size_bytes_(size_bytes) {
    if (size_bytes == 0) return;
    constexpr std::size_t huge_page = std::size_t{2} << 20;
    std::size_t alignment = size_bytes >= 2 * huge_page ? huge_page : 64;
    void* memory = std::aligned_alloc(alignment, round_up(size_bytes, alignment));
    if (memory == nullptr) throw std::bad_alloc();
    if (alignment == huge_page) ::madvise(memory, round_up(size_bytes, alignment), MADV_HUGEPAGE);
    std::memset(memory, 0, size_bytes);
    data_.reset(static_cast<std::byte*>(memory));
}

void AlignedBuffer::Free::operator()(std::byte* data) const { std::free(data); }

}  // namespace skiff
