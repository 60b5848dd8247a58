// y = x weight^T by cuBLASLt, which is opened by name: its heuristics are asked once per shape.
#include "backend/cuda/plugin/runtime.h"

#if __has_include(<cublasLt.h>)
#include <cublasLt.h>
#include <dlfcn.h>

#include <array>
#include <map>
#include <mutex>
#include <tuple>

namespace skiff::cuda {
namespace {

struct Library {
    decltype(&cublasLtCreate) create = nullptr;
    decltype(&cublasLtMatmul) matmul = nullptr;
    decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
    decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
    decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
    decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
    decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
    decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
    decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
    decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
    decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
    bool complete = false;
    std::map<int, cublasLtHandle_t> handles;  // by device: a handle is of the one that was chosen when it was made
};
Library library;
std::mutex lock;

template <class Fn>
bool bind(void* opened, const char* symbol, Fn& function) {
    function = reinterpret_cast<Fn>(dlsym(opened, symbol));
    return function != nullptr;
}

// What a product of one shape needs, made once.
struct Product {
    cublasLtMatmulDesc_t desc = nullptr;
    cublasLtMatrixLayout_t weight = nullptr, x = nullptr, y = nullptr;
    cublasLtMatmulAlgo_t algorithm{};
};
using Alignments = std::array<std::uint32_t, 3>;  // of weight, x and y, in bytes
using Key = std::tuple<int, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, bool, MatmulArgs::Numbers, Alignments>;
std::map<Key, Product> products;
constexpr std::size_t most_products = 4096;  // prompts come in many lengths

void destroy(Product& product) {
    if (product.desc != nullptr) library.desc_destroy(product.desc);
    for (cublasLtMatrixLayout_t layout : {product.weight, product.x, product.y})
        if (layout != nullptr) library.layout_destroy(layout);
    product = {};
}

// What the addresses of a product are multiples of; the heuristics take it for granted that all are of 256. Columns of a wider product are not.
Alignments alignments_of(const MatmulArgs& args) {
    const auto of = [](const void* address) {
        const auto bits = reinterpret_cast<std::uintptr_t>(address) | 256;
        return static_cast<std::uint32_t>(bits & (~bits + 1));
    };
    return {of(args.weight), of(args.x), of(args.y)};
}

int failed(cublasStatus_t status) { return status == CUBLAS_STATUS_SUCCESS ? 0 : cublaslt_errors + static_cast<int>(status); }

// The handle of the calling thread's device.
int handle_here(int& device, cublasLtHandle_t& handle) {
    if (!library.complete) return cublaslt_not_opened;
    if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return static_cast<int>(error);
    if (const auto found = library.handles.find(device); found != library.handles.end()) {
        handle = found->second;
        return 0;
    }
    if (const int error = failed(library.create(&handle)); error != 0) return error;
    library.handles.emplace(device, handle);
    return 0;
}

// In columns: y is (n_rows, n_tokens), weight (n_columns, n_rows) turned, x (n_columns, n_tokens).
int make_product(const MatmulArgs& args, cublasLtHandle_t handle, const Alignments& alignments, Product& product) {
    const cublasOperation_t turned = CUBLAS_OP_T;
    if (const int error = failed(library.desc_create(&product.desc, CUBLAS_COMPUTE_32F, CUDA_R_32F)); error != 0) return error;
    if (const int error = failed(library.desc_set(product.desc, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned)); error != 0) return error;
    if (args.bias != nullptr) {
        const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        if (const int error = failed(library.desc_set(product.desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue)); error != 0) return error;
        if (const int error = failed(library.desc_set(product.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &args.bias, sizeof args.bias)); error != 0) return error;
    }
    const auto rows = static_cast<std::uint64_t>(args.n_rows), columns = static_cast<std::uint64_t>(args.n_columns), tokens = static_cast<std::uint64_t>(args.n_tokens);
    // 8-bit floats are multiplied as weight (turned) and x lie here, the only order that the library has for them; without "fast accumulation", whose sums have some 14 bits, and without scales.
    const cudaDataType_t numbers = args.numbers == MatmulArgs::Numbers::e4m3 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
    if (args.numbers == MatmulArgs::Numbers::e4m3) {
        const std::int8_t fast = 0;
        if (const int error = failed(library.desc_set(product.desc, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast)); error != 0) return error;
    }
    if (const int error = failed(library.layout_create(&product.weight, numbers, columns, rows, args.weight_stride)); error != 0) return error;
    if (const int error = failed(library.layout_create(&product.x, numbers, columns, tokens, args.x_stride)); error != 0) return error;
    if (const int error = failed(library.layout_create(&product.y, CUDA_R_32F, rows, tokens, args.y_stride)); error != 0) return error;
    cublasLtMatmulPreference_t preference = nullptr;
    if (const int error = failed(library.preference_create(&preference)); error != 0) return error;
    cublasStatus_t status = library.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &args.workspace_bytes, sizeof args.workspace_bytes);
    const std::pair<cublasLtMatmulPreferenceAttributes_t, std::uint32_t> least[] = {{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignments[0]},
                                                                                    {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignments[1]},
                                                                                    {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignments[2]},
                                                                                    {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignments[2]}};
    for (const auto& [attribute, bytes] : least)
        if (status == CUBLAS_STATUS_SUCCESS) status = library.preference_set(preference, attribute, &bytes, sizeof bytes);
    cublasLtMatmulHeuristicResult_t result{};
    int n_found = 0;
    if (status == CUBLAS_STATUS_SUCCESS) status = library.heuristic(handle, product.desc, product.weight, product.x, product.y, product.y, preference, 1, &result, &n_found);
    library.preference_destroy(preference);
    if (status != CUBLAS_STATUS_SUCCESS) return failed(status);
    if (n_found == 0) return cublaslt_errors + static_cast<int>(CUBLAS_STATUS_NOT_SUPPORTED);
    product.algorithm = result.algo;
    return 0;
}

int find_product(const MatmulArgs& args, cublasLtHandle_t& handle, Product*& product) {
    int device = 0;
    if (const int error = handle_here(device, handle); error != 0) return error;
    const Alignments alignments = alignments_of(args);
    const Key key = {device, args.n_tokens, args.n_rows, args.n_columns, args.weight_stride, args.x_stride, args.y_stride, args.bias != nullptr, args.numbers, alignments};
    auto found = products.find(key);
    if (found == products.end()) {
        if (products.size() >= most_products) {
            for (auto& [other, old] : products) destroy(old);
            products.clear();
        }
        Product made;
        if (const int error = make_product(args, handle, alignments, made); error != 0) {
            destroy(made);
            return error;
        }
        found = products.emplace(key, made).first;
    }
    product = &found->second;
    return 0;
}

}  // namespace

int open_cublaslt(const char* path) {
    const std::lock_guard held(lock);
    int device = 0;
    cublasLtHandle_t handle = nullptr;
    if (library.complete) return handle_here(device, handle);
    void* opened = path == nullptr ? nullptr : dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (opened == nullptr) return cublaslt_not_opened;
    library.complete = bind(opened, "cublasLtCreate", library.create) && bind(opened, "cublasLtMatmul", library.matmul) && bind(opened, "cublasLtMatmulDescCreate", library.desc_create) &&
                          bind(opened, "cublasLtMatmulDescDestroy", library.desc_destroy) && bind(opened, "cublasLtMatrixLayoutDestroy", library.layout_destroy) &&
                          bind(opened, "cublasLtMatmulDescSetAttribute", library.desc_set) && bind(opened, "cublasLtMatrixLayoutCreate", library.layout_create) &&
                          bind(opened, "cublasLtMatmulPreferenceCreate", library.preference_create) && bind(opened, "cublasLtMatmulPreferenceSetAttribute", library.preference_set) &&
                          bind(opened, "cublasLtMatmulPreferenceDestroy", library.preference_destroy) && bind(opened, "cublasLtMatmulAlgoGetHeuristic", library.heuristic);
    return library.complete ? handle_here(device, handle) : cublaslt_not_opened;
}

int prepare_cublaslt(const MatmulArgs& args) {
    const std::lock_guard held(lock);
    Product* product = nullptr;
    cublasLtHandle_t handle = nullptr;
    return find_product(args, handle, product);
}

int multiply_cublaslt(const MatmulArgs& args, const Launch& launch) {
    const std::lock_guard held(lock);
    Product* found = nullptr;
    cublasLtHandle_t handle = nullptr;
    if (const int error = find_product(args, handle, found); error != 0) return error;
    const Product& product = *found;
    if (args.bias != nullptr)
        if (const int error = failed(library.desc_set(product.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &args.bias, sizeof args.bias)); error != 0) return error;
    const float alpha = args.factor, beta = args.write == MatmulArgs::Write::add ? 1.0f : 0.0f;
    return failed(library.matmul(handle, product.desc, &alpha, args.weight, product.weight, args.x, product.x, &beta, args.y, product.y, args.y, product.y, &product.algorithm, args.workspace,
                                 args.workspace_bytes, static_cast<cudaStream_t>(launch.stream)));
}

}  // namespace skiff::cuda

#else
namespace skiff::cuda {
int open_cublaslt(const char*) { return cublaslt_not_opened; }  // compiled without its header
int prepare_cublaslt(const MatmulArgs&) { return cublaslt_not_opened; }
int multiply_cublaslt(const MatmulArgs&, const Launch&) { return cublaslt_not_opened; }
}  // namespace skiff::cuda
#endif
