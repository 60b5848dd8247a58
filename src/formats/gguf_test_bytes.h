// For tests: GGUF files byte by byte, so that each rule can be broken alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace skiff::gguf_testing {

class Bytes {
public:
    template <class T>
    Bytes& put(T value) {
        char bytes[sizeof(T)];
        std::memcpy(bytes, &value, sizeof(T));
        text_.append(bytes, sizeof(T));
        return *this;
    }
    Bytes& u8(std::uint8_t value) { return put(value); }
    Bytes& u32(std::uint32_t value) { return put(value); }
    Bytes& u64(std::uint64_t value) { return put(value); }
    Bytes& raw(std::string_view text) {
        text_.append(text);
        return *this;
    }
    Bytes& string(std::string_view text) { return u64(text.size()).raw(text); }
    Bytes& pad_to(std::size_t alignment) {
        while (text_.size() % alignment != 0) text_.push_back('\0');
        return *this;
    }
    Bytes& head(std::uint64_t n_tensors, std::uint64_t n_keys, std::uint32_t version = 3) { return raw("GGUF").u32(version).u64(n_tensors).u64(n_keys); }
    Bytes& entry_u32(std::string_view key, std::uint32_t value) { return string(key).u32(4).u32(value); }
    // One tensor of the list; dimensions in the file's order, innermost first.
    Bytes& tensor(std::string_view name, const std::vector<std::uint64_t>& dimensions, std::uint32_t type, std::uint64_t offset) {
        string(name).u32(static_cast<std::uint32_t>(dimensions.size()));
        for (std::uint64_t n : dimensions) u64(n);
        return u32(type).u64(offset);
    }
    const std::string& text() const { return text_; }
    std::span<const std::byte> bytes() const { return std::as_bytes(std::span(text_.data(), text_.size())); }

private:
    std::string text_;
};

// A valid file with every value type, three tensors (F32, Q4_0, F16) and 352 bytes of data.
inline Bytes small_file() {
    Bytes file;
    file.head(3, 15);
    file.string("general.architecture").u32(8).string("llama");
    file.string("v.u8").u32(0).u8(200);
    file.string("v.i8").u32(1).put<std::int8_t>(-3);
    file.string("v.u16").u32(2).put<std::uint16_t>(60000);
    file.string("v.i16").u32(3).put<std::int16_t>(-300);
    file.entry_u32("v.u32", 4000000000u);
    file.string("v.i32").u32(5).put<std::int32_t>(-70000);
    file.string("v.f32").u32(6).put(1.5f);
    file.string("v.bool").u32(7).u8(1);
    file.string("v.u64").u32(10).u64(1ull << 63);
    file.string("v.i64").u32(11).put<std::int64_t>(-5);
    file.string("v.f64").u32(12).put(0.1);
    file.string("a.str").u32(9).u32(8).u64(3).string("").string("two").string("three");
    file.string("a.bool").u32(9).u32(7).u64(2).u8(0).u8(1);
    file.string("a.i32").u32(9).u32(5).u64(2).put<std::int32_t>(7).put<std::int32_t>(-8);
    file.tensor("plain", {3, 2}, 0, 0).tensor("packed", {64, 2}, 2, 32).tensor("half", {5}, 1, 128).pad_to(32);
    for (int i = 0; i < 6; ++i) file.put(static_cast<float>(i));
    file.pad_to(32);
    for (int block = 0; block < 4; ++block) {
        file.put<std::uint16_t>(0x3c00);
        for (int i = 0; i < 16; ++i) file.u8(static_cast<std::uint8_t>(i * 16 + block));
    }
    file.pad_to(32);
    for (int i = 0; i < 5; ++i) file.put<std::uint16_t>(static_cast<std::uint16_t>(0x3c00 + i));
    return file.pad_to(32);
}

}  // namespace skiff::gguf_testing
