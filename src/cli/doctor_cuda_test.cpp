// What doctor makes of the facts of CUDA.
#include "cli/doctor_cuda.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace skiff {
namespace {

// Without a driver the plug-in's runtime says that the driver is too old.
TEST(DoctorCuda, ADriverThatIsNotThereIsNotTooOld) {
    const Json facts = Json::object({{"driver", Json()}, {"driver_problem", "no libcuda.so.1"}, {"devices", Json::array()}, {"plug_in", "/x/libskiff_cuda.so"}, {"plug_in_problem", ""}, {"plug_in_version", "cuda 13.0"},
                                     {"usable", false}, {"problem", "CUDA driver version is insufficient for CUDA runtime version"}, {"libraries", Json::array()}});
    const auto findings = cuda_findings(facts);
    const auto models = std::find_if(findings.begin(), findings.end(), [](const Finding& finding) { return finding.what == "models on the GPU"; });
    ASSERT_NE(models, findings.end());
    EXPECT_EQ(models->state, "no");
    EXPECT_EQ(models->advice, "no libcuda.so.1");
}

}  // namespace
}  // namespace skiff
