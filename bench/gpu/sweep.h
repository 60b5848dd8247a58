// What cuda_sweep measures with, and its parts, by the file that has them.
#pragma once

#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "backend/cuda/device.h"
#include "backend/cuda/table.h"
#include "base/json.h"
#include "base/thread_pool.h"
#include "kernels/cuda/pack.h"

namespace skiff::cuda {

inline constexpr std::pair<std::int64_t, std::int64_t> layer_shapes[] = {{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}, {128256, 4096}};  // of L8, rows and columns

struct Sweep {
    Device& device;
    ThreadPool& pool;
    bool small;         // shapes for a test, no figures
    std::string cudnn;  // its path; empty: not found, or it has no use for this device
    double read_gbps = 0, product_tflops = 0;

    // ---- sweep.cpp
    void say(const Json& line) const;
    // Seconds of one call, the median; call(i) is the i-th of all. Calls are one CUDA graph where they can be captured, as a session's are, so that no launch waits for the host:
    // some milliseconds of them, of short ones enough for all copies to take turns.
    Result<double> time(const std::function<int(int)>& call, const std::string& what) const;
    // How many of `size_bytes` take turns: together twice the cache, so that each is gone from it when its turn comes again.
    std::size_t copies_beyond_cache(std::size_t size_bytes) const;
    // Memory of the device: normal numbers; zeros; bits that are no pattern.
    Result<float*> floats(std::int64_t n, const std::string& what) const;
    Result<std::byte*> zeros(std::size_t size_bytes, const std::string& what) const;
    Result<std::byte*> noise(std::size_t size_bytes, const std::string& what) const;
    // An activation of normal numbers as what a product reads. // x: (n_tokens, n_columns)
    Result<std::byte*> operand(OperandForm form, const float* x, std::int64_t n_tokens, std::int64_t n_columns) const;
    void release(std::initializer_list<const void*> addresses) const;
    // A random matrix in a scheme, several times, together well beyond the L2 cache.
    Result<std::vector<GpuWeight>> matrices(const std::string& scheme, std::int64_t n_rows, std::int64_t n_columns, std::size_t& size_bytes) const;
    void release(const std::vector<GpuWeight>& weights) const;

    // ---- sweep_limits.cpp: what all others are a share of; sums of a calibration
    Status limits();
    // The rate of matrix products: by cuBLASLt, a large one, and those of a prompt of 2048 tokens.
    Status products();
    // What a calibration adds up: sums of columns, second moments.
    Status statistics(std::int64_t n_tokens, std::int64_t n_columns);

    // ---- sweep_linear.cpp: the own products
    Status linear(const std::string& part, const std::string& scheme, std::int64_t n_rows, std::int64_t n_columns, const std::vector<std::int64_t>& n_tokens);
    // The blocks of an SM and the ring that read a large and a small matrix of the scheme fastest, both counted by what they take with the kernel's own; those stay where nothing is 2 % faster.
    Status tune(const std::string& scheme, Tuning& tuning);

    // ---- sweep_library.cpp
    // A matrix of 8-bit floats by cuBLASLt: as bf16, and as it is with rounded inputs; the product alone, and with what stands around it.
    Status library(std::int64_t n_rows, std::int64_t n_columns, std::int64_t n_tokens);
    // ---- sweep_patterns.cpp
    // A product of bf16 and what follows it, as a model's layers have them: by the own kernels, cuBLASLt and CUTLASS, with the launches of each. Weights lie as each reads them.
    Status patterns(std::int64_t n_rows, std::int64_t n_columns, std::int64_t n_tokens);

    // ---- sweep_attention.cpp
    struct Heads {
        std::int64_t n_heads = 32, n_kv_heads = 8, head_dim = 128, window = 0;
        float softcap = 0;
    };
    // Prefill by cuDNN: with the queries as bf16 in front, and its result as numbers behind. Nothing where it has no plan, which a line says.
    Result<double> by_cudnn(const AttentionCommon& common, std::int64_t n_new, std::int64_t length, std::int64_t n_pages, std::string& refused);
    Status attention(StateForm form, const char* form_name, const Heads& heads, std::int64_t length, std::int64_t n_new);

    // ---- sweep_convolution.cpp
    // A convolution with its bias and ReLU, by the own kernels and by cuDNN.
    Status convolution(std::int64_t side, std::int64_t channels, std::int64_t out_channels, std::int64_t groups, std::int64_t kernel);

private:
    Result<std::string> cublaslt() const;  // opened: its path, or why it is not
};

}  // namespace skiff::cuda
