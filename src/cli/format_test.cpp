// Numbers as people read them.
#include "cli/format.h"

#include <gtest/gtest.h>

namespace skiff {
namespace {

TEST(Format, OneIsNoPlural) {
    EXPECT_EQ(counted(1, "tokens"), "1 token");
    EXPECT_EQ(counted(0, "tokens"), "0 tokens");
    EXPECT_EQ(counted(2, "windows"), "2 windows");
}

}  // namespace
}  // namespace skiff
