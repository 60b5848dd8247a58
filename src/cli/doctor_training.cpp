#include "cli/doctor_training.h"

#include <link.h>
#include <stdlib.h>

#include <algorithm>
#include <array>

#include "cli/subprocess.h"
#include "train/train.h"

namespace skiff {
namespace {

// The BLAS that this process loaded, with its links followed: distributions choose it by a link (Debian: update-alternatives). Empty: none, as in
// LibTorch of pytorch.org, which has one inside.
std::string loaded_blas() {
    std::string path;
    ::dl_iterate_phdr(
        [](dl_phdr_info* library, std::size_t, void* result) {
            const std::string_view name = library->dlpi_name;
            if (name.substr(name.rfind('/') + 1).starts_with("libblas.so")) *static_cast<std::string*>(result) = name;
            return 0;
        },
        &path);
    if (char* resolved = ::realpath(path.c_str(), nullptr); !path.empty() && resolved != nullptr) {
        path = resolved;
        ::free(resolved);
    }
    return path;
}

// The reference implementation of netlib, plain Fortran loops, is called libblas like those that replace it, but lies in a folder of no other name.
bool is_reference_blas(const std::string& path) {
    constexpr std::array fast = {"openblas", "blis", "atlas", "mkl", "flexiblas"};
    return !path.empty() && std::none_of(fast.begin(), fast.end(), [&](const char* name) { return path.find(name) != std::string::npos; });
}

// What is wrong with it, and what to do.
std::string blas_advice(const std::string& path) {
    if (is_reference_blas(path)) return "the reference BLAS, some thirty times slower: install libopenblas0-openmp and build again";
    if (path.find("openblas-pthread") != std::string::npos)
        return "its threads are in the way of LibTorch's, f32 training is two to three times slower: install libopenblas0-openmp and build again";
    return "";
}

}  // namespace

Json training_facts() {
    if (train::training_available())
        return Json::object({{"program", "found"}, {"library", train::training_library()}, {"ranks", train::training_ranks()}, {"blas", loaded_blas()}});
    auto other = run_sibling_json("skiff-train", {"doctor", "--no-measure"});
    if (other.ok() && (*other)["training"].is_object()) return (*other)["training"];
    const bool absent = !other.ok() && other.error().code == ErrorCode::not_found;
    return Json::object({{"program", absent ? "absent" : "broken"}, {"library", ""}, {"ranks", ""}, {"blas", ""}});
}

std::string bf16_instructions(const std::string& cpu_features) {
    std::string found;
    for (const char* feature : {"avx512_bf16", "amx_bf16"})
        if (cpu_features.find(feature) != std::string::npos) found += (found.empty() ? "" : " ") + std::string(feature);
    return found;
}

std::vector<Finding> training_findings(const Json& facts, const std::string& cpu_features) {
    const std::string program = facts["program"].text();
    if (program == "absent") return {{"training", "not built", "make test installs LibTorch and builds skiff-train"}};
    if (program == "broken") return {{"training", "skiff-train does not start", "ldd on it names the libraries that are missing; or build again"}};
    std::vector<Finding> list = {{"training", facts["library"].text(), ""}};
    const std::string ranks = facts["ranks"].text(), blas = facts["blas"].text();
    list.push_back({"several ranks", ranks.empty() ? "not built in" : ranks, ranks.empty() ? "install libgloo-dev and build again" : ""});
    list.push_back({"BLAS of LibTorch", blas.empty() ? "its own" : blas, blas_advice(blas)});
    const std::string bf16 = bf16_instructions(cpu_features);
    list.push_back({"bf16 instructions", bf16.empty() ? "none" : bf16, bf16.empty() ? "training computes in f32 here" : ""});
    return list;
}

}  // namespace skiff
