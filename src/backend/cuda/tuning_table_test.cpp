#include "backend/cuda/tuning_table.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "backend/cuda/device.h"
#include "backend/cuda/device_session_testing.h"

namespace skiff::cuda {
namespace {

TEST(TuningTable, WhatIsWrittenIsRead) {
    Tuning tuning;
    tuning.gemv_blocks[static_cast<int>(CodeForm::linear4)] = 3;
    tuning.gemv_ring[static_cast<int>(CodeForm::table2)] = Tuning::Ring::shortest;
    const auto read = read_tuning(*Json::parse(tuning_json(tuning, "NVIDIA H200").dump()));
    ASSERT_TRUE(read.ok()) << read.error().to_string();
    for (int form = 0; form < n_code_forms; ++form) {
        EXPECT_EQ(read->gemv_blocks[form], tuning.gemv_blocks[form]) << code_form_name(static_cast<CodeForm>(form));
        EXPECT_EQ(read->gemv_ring[form], tuning.gemv_ring[form]);
    }
    EXPECT_EQ(tuning_file_name("NVIDIA H200"), "gpu-nvidia-h200-tuning.json");
}

TEST(TuningTable, WhatIsNoTableIsRefused) {
    for (const char* text : {"{}", R"({"gemv": [{"form": "linear9", "blocks_per_sm": 2, "ring": "longest"}]})", R"({"gemv": [{"form": "bf16", "blocks_per_sm": 99, "ring": "longest"}]})",
                             R"({"gemv": [{"form": "bf16", "blocks_per_sm": 2, "ring": "round"}]})", R"({"gemv": [{"form": "bf16", "blocks_per_sm": "2", "ring": "longest"}]})"})
        EXPECT_FALSE(read_tuning(*Json::parse(text)).ok()) << text;
}

// A device takes the table of its name, from the plug-in's folder or from where the suite keeps results; or the one that is named.
TEST(TuningTable, ADeviceReadsItsOwn) {
    const auto folder = std::filesystem::temp_directory_path() / ("skiff_tuning_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder / "bench" / "results");
    std::filesystem::create_directories(folder / "bin");
    Tuning tuning;
    tuning.gemv_blocks[static_cast<int>(CodeForm::bf16)] = 1;
    const auto path = (folder / "bench" / "results" / tuning_file_name("fake device")).string();
    std::ofstream(path) << tuning_json(tuning, "fake device").dump(2);
    EXPECT_NE(find_tuning((folder / "bin").string(), "fake device"), "");
    EXPECT_EQ(find_tuning((folder / "bin").string(), "another device"), "");
    ::setenv("SKIFF_CUDA_TUNING", path.c_str(), 1);
    const auto device = Device::open(fake());
    ASSERT_TRUE(device.ok());
    EXPECT_EQ((*device)->launch().tuning.gemv_blocks[static_cast<int>(CodeForm::bf16)], 1);
    std::ofstream(path) << "{}";
    EXPECT_EQ(Device::open(fake()).error().code, ErrorCode::corrupt);
    ::setenv("SKIFF_CUDA_TUNING", "", 1);
    EXPECT_TRUE(Device::open(fake()).ok());
    ::unsetenv("SKIFF_CUDA_TUNING");
    std::filesystem::remove_all(folder);
}

// A device that opens and cannot launch is found out.
TEST(DeviceOpens, AFirstKernelIsLaunched) {
    const auto device = Device::open(fake());
    ASSERT_TRUE(device.ok());
    EXPECT_TRUE((*device)->try_kernel().ok());
    ::setenv("SKIFF_FAKE_FAILS_AT", "1", 1);
    const Status failed = (*device)->try_kernel();
    ::unsetenv("SKIFF_FAKE_FAILS_AT");
    ASSERT_FALSE(failed.ok());
    EXPECT_NE(failed.error().to_string().find("launching a kernel"), std::string::npos) << failed.error().to_string();
    EXPECT_EQ((*device)->allocated_bytes(), 0u);
}

}  // namespace
}  // namespace skiff::cuda
