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

// Which version of a library was found, or where to get it.
TEST(DoctorCuda, LibrariesSayTheirVersionOrTheirSource) {
    const auto library = [](const char* name, Json path, const char* version, const char* source) { return Json::object({{"name", name}, {"use", "what it does"}, {"path", path}, {"version", version}, {"source", source}}); };
    Json libraries = Json::array();
    libraries.push_back(library("cuDNN", "/x/libcudnn.so.9", "9.19.0", "a shop"));
    libraries.push_back(library("NCCL", "/x/libnccl.so.2", "", ""));
    libraries.push_back(library("other", Json(), "", "a shop"));
    const Json facts = Json::object({{"driver", "13.0"}, {"driver_problem", ""}, {"devices", Json::array()}, {"plug_in", "/x/libskiff_cuda.so"}, {"plug_in_problem", ""}, {"plug_in_version", "cuda 13.0"},
                                     {"usable", true}, {"problem", ""}, {"libraries", libraries}});
    const auto findings = cuda_findings(facts);
    ASSERT_GE(findings.size(), 3u);
    const Finding *cudnn = &findings[findings.size() - 3], *nccl = cudnn + 1, *other = nccl + 1;
    EXPECT_EQ(cudnn->state, "9.19.0, /x/libcudnn.so.9");
    EXPECT_EQ(cudnn->advice, "");
    EXPECT_EQ(nccl->state, "/x/libnccl.so.2");
    EXPECT_EQ(other->state, "not found");
    EXPECT_EQ(other->advice, "what it does; get it from a shop; its folder can be named in SKIFF_CUDA_LIBRARIES");
}

}  // namespace
}  // namespace skiff
