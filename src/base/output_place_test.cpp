#include "base/output_place.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/mapped_file.h"

namespace skiff {
namespace {

TEST(OutputPlace, IsApartFromWhatIsRead) {
    const std::string root = ::testing::TempDir() + "skiff_output_place";
    ASSERT_TRUE(remove_all(root).ok());
    ASSERT_TRUE(make_directories(join_path(root, "models/m/inner")).ok());
    ASSERT_TRUE(write_file_atomic(join_path(root, "models/m/weights"), "x").ok());
    ASSERT_EQ(::symlink("models/m", join_path(root, "link").c_str()), 0);
    const std::string model = join_path(root, "models/m");
    struct Case {
        const char *output, *source, *words;  // "": allowed
    };
    for (const Case& it : {Case{"models/m", "models/m", "is the model that is read"}, {"models/m/", "models/m", "is the model"}, {"models/../models/m", "models/m", "is the model"}, {"link", "models/m", "is the model"}, {"models/m", "link", "is the model"},
                           {"models", "models/m", "holds"}, {"models", "models/m/weights", "holds"}, {"models/m/weights", "models/m/weights", "is the model"}, {"models/m/inner", "models/m", ""}, {"models/mm", "models/m", ""}, {"models/m", "models/mm", ""},
                           {"models/m", "random:c.json", ""}}) {
        const Status status = check_output_apart(join_path(root, it.output), join_path(root, it.source));
        EXPECT_EQ(status.ok(), *it.words == '\0') << it.output << " " << it.source;
        if (!status.ok()) {
            EXPECT_NE(status.error().to_string().find(it.words), std::string::npos) << status.error().to_string();
        }
    }
    ASSERT_TRUE(remove_all(root).ok());
}

}  // namespace
}  // namespace skiff
