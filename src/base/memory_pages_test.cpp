#include "base/memory_pages.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/cpu_features.h"

namespace skiff {
namespace {

TEST(HugeMemory, begins_at_a_large_page_is_empty_and_takes_no_memory_before_it_is_used) {
    constexpr std::size_t size = (std::size_t{1} << 30) + 5;
    const std::size_t before = resident_bytes();
    const auto memory = HugeMemory::reserve(size);
    ASSERT_TRUE(memory.ok()) << memory.error().to_string();
    std::byte* data = (*memory)->data();
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(data) % huge_page_bytes, 0u);
    EXPECT_LT(resident_bytes(), before + (std::size_t{64} << 20));
    EXPECT_EQ(data[0], std::byte{0});
    EXPECT_EQ(data[size - 1], std::byte{0});
    std::memset(data + size - 4096, 7, 4096);
    EXPECT_EQ(data[size - 4096], std::byte{7});
}

TEST(HugeMemory, what_cannot_be_had_is_an_error) { EXPECT_EQ(HugeMemory::reserve(std::size_t{1} << 60).error().code, ErrorCode::resource); }

TEST(HugeMemory, available_memory_is_some_and_no_more_than_the_machine_has) {
    EXPECT_GT(available_memory_bytes(), std::uint64_t{1} << 20);
    EXPECT_LE(available_memory_bytes(), read_cpu_info().memory_bytes);
}

}  // namespace
}  // namespace skiff
