// Shapes, views of numbers that live elsewhere, and buffers that own theirs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor/dtype.h"

namespace skiff {

using Shape = std::vector<std::int64_t>;  // outermost first; a linear weight is (rows = outputs, columns = inputs)

std::int64_t element_count(const Shape& shape);  // of a shape that was checked before
std::string shape_text(const Shape& shape);      // "[32000, 2048]"

// Dense row-major numbers of one type. `data` need not be aligned to the element.
struct TensorView {
    DType dtype = DType::f32;
    Shape shape;
    std::span<const std::byte> data;

    std::int64_t n_elements() const { return element_count(shape); }
    std::int64_t n_rows() const { return shape.empty() ? 1 : shape[0]; }
    std::int64_t row_elements() const { return n_rows() == 0 ? 0 : n_elements() / n_rows(); }
};

// Converts all elements to float; false where the type has no float meaning.
bool to_floats(const TensorView& view, std::vector<float>& out);

// Memory aligned to 64 bytes, zeroed; large ones ask for huge pages.
class AlignedBuffer {
public:
    AlignedBuffer() = default;
    explicit AlignedBuffer(std::size_t size_bytes);
    std::byte* data() { return data_.get(); }
    const std::byte* data() const { return data_.get(); }
    std::size_t size_bytes() const { return size_bytes_; }
    template <class T>
    T* as() {
        return reinterpret_cast<T*>(data_.get());
    }
    template <class T>
    const T* as() const {
        return reinterpret_cast<const T*>(data_.get());
    }

private:
    struct Free {
        void operator()(std::byte* data) const;
    };
    std::unique_ptr<std::byte, Free> data_;
    std::size_t size_bytes_ = 0;
};

}  // namespace skiff
