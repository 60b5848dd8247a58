// The few names of cuDNN's backend API (version 9) that skiff uses, by their numbers: the library is opened by name, and neither its headers nor CUDA's are needed to compile this.
// Where its header is at hand, a test compares the numbers (plugin/cudnn_api_test.cpp).
#pragma once

#include <cstddef>
#include <cstdint>

namespace skiff::cuda::cudnn {

using Raw = void*;     // cudnnBackendDescriptor_t
using Handle = void*;  // cudnnHandle_t
using Code = int;      // cudnnStatus_t
inline constexpr Code success = 0, bad_parameter = 2000, not_finalized = 2004, out_of_bound = 2005, wrong_type = 2010, not_supported = 3000, not_supported_pattern = 3001, no_plan = 3000;

enum class DataType : int { f32 = 0, i32 = 4, bf16 = 9, boolean = 11 };

enum class Kind : int {
    pointwise = 0,
    convolution = 1,
    engine_config = 3,
    heuristics = 4,
    plan = 5,
    operation_convolution = 10,
    operation_pointwise = 13,
    operation_graph = 15,
    variant_pack = 16,
    tensor = 17,
    matmul = 18,
    operation_matmul = 19,
    reduction = 21,
    operation_reduction = 22,
    operation_paged_load = 35,
    device = 38,
};

enum class Attribute : int {
    pointwise_mode = 0,
    pointwise_math = 1,
    pointwise_relu_lower = 3,
    pointwise_relu_upper = 4,
    pointwise_relu_slope = 5,
    pointwise_swish_beta = 8,
    pointwise_axis = 9,
    convolution_math = 100,
    convolution_mode = 101,
    convolution_dilations = 102,
    convolution_strides = 103,
    convolution_after = 104,
    convolution_before = 105,
    convolution_dims = 106,
    heuristics_mode = 200,
    heuristics_graph = 201,
    heuristics_results = 202,
    heuristics_device = 204,
    plan_handle = 400,
    plan_config = 401,
    plan_workspace = 402,
    plan_device = 407,
    convolution_alpha = 700,
    convolution_beta = 701,
    convolution_descriptor = 702,
    convolution_w = 703,
    convolution_x = 704,
    convolution_y = 705,
    pointwise_descriptor = 750,
    pointwise_x = 751,
    pointwise_b = 752,
    pointwise_y = 753,
    pointwise_alpha1 = 754,
    pointwise_alpha2 = 755,
    pointwise_t = 758,
    graph_handle = 800,
    graph_operations = 801,
    tensor_alignment = 900,
    tensor_type = 901,
    tensor_dims = 902,
    tensor_strides = 903,
    tensor_id = 906,
    tensor_virtual = 907,
    tensor_by_value = 908,
    pack_ids = 1000,
    pack_pointers = 1001,
    pack_workspace = 1003,
    matmul_math = 1500,
    matmul_a = 1520,
    matmul_b = 1521,
    matmul_c = 1522,
    matmul_descriptor = 1523,
    matmul_m_override = 1525,
    matmul_n_override = 1526,
    matmul_k_override = 1527,
    reduction_operator = 1600,
    reduction_math = 1601,
    reduction_x = 1610,
    reduction_y = 1611,
    reduction_descriptor = 1612,
    paged_container = 1950,
    paged_y = 1951,
    paged_lengths = 1952,
    paged_table = 1953,
    device_json = 2702,
};

enum class Type : int {
    handle = 0,
    data_type = 1,
    boolean = 2,
    i64 = 3,
    f32 = 4,
    f64 = 5,
    pointer = 6,
    convolution_mode = 7,
    heuristics_mode = 8,
    pointwise_mode = 14,
    descriptor = 15,
    reduction_operator = 18,
    character = 24,
};

enum class Pointwise : int {
    add = 0,
    multiply = 1,
    divide = 6,
    subtract = 9,
    exp = 13,
    log = 15,
    relu = 100,
    tanh = 101,
    sigmoid = 102,
    gelu_erf = 104,
    swish = 106,
    gelu_tanh = 107,
    greater = 302,
    greater_equal = 303,
    less = 304,
    logical_and = 400,
    index = 501,
    select = 601,
};
enum class Reduction : int { add = 0, max = 3 };
enum class ConvolutionMode : int { convolution = 0, cross_correlation = 1 };
enum class HeuristicsMode : int { fallback = 2, a = 3 };

struct Functions {
    std::size_t (*version)() = nullptr;                                        // cudnnGetVersion
    const char* (*error_string)(Code status) = nullptr;                        // cudnnGetErrorString
    void (*last_error)(char* message, std::size_t size) = nullptr;             // cudnnGetLastErrorString: of the calling thread
    Code (*create)(Handle* handle) = nullptr;                                  // cudnnCreate
    Code (*set_stream)(Handle handle, void* stream) = nullptr;                 // cudnnSetStream
    Code (*create_descriptor)(Kind kind, Raw* descriptor) = nullptr;           // cudnnBackendCreateDescriptor
    Code (*destroy_descriptor)(Raw descriptor) = nullptr;                      // cudnnBackendDestroyDescriptor
    Code (*set)(Raw descriptor, Attribute name, Type type, std::int64_t n, const void* values) = nullptr;                              // cudnnBackendSetAttribute
    Code (*get)(Raw descriptor, Attribute name, Type type, std::int64_t n_wanted, std::int64_t* n, void* values) = nullptr;            // cudnnBackendGetAttribute
    Code (*finalize)(Raw descriptor) = nullptr;                                // cudnnBackendFinalize
    Code (*execute)(Handle handle, Raw plan, Raw variant_pack) = nullptr;      // cudnnBackendExecute
};

}  // namespace skiff::cuda::cudnn
