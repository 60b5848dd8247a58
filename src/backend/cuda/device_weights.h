// Weights on the device: loaded, packed and uploaded once each, however many operators use them.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "backend/cuda/weight_stream.h"
#include "kernels/cuda/pack.h"
#include "model/spec.h"
#include "model/weight_source.h"

namespace skiff::cuda {

struct WeightRows {  // an operator's matrix: its tensor, and the shape that it must have
    TensorRef ref;
    std::int64_t n_rows = 0, n_columns = 0;
};

class DeviceWeights {
public:
    DeviceWeights(const ModelSpec& spec, const WeightSource& source, Device& device, ThreadPool* pool) : spec_(spec), source_(source), device_(device), pool_(pool) {}

    // From now on matrices that are not there yet go into the block that the stream began last; null: into memory of their own. Their addresses count from 0 until relocate().
    void stream_to(WeightStream* stream) { stream_ = stream; }

    // One weight of all these rows, or several where their schemes differ: then each with its rows, in order. Interleaved ones that differ are refused (empty).
    Result<std::vector<GpuWeight>> matrices(const std::vector<WeightRows>& parts, Interleave interleave = Interleave::none);
    // Whether matrices() would give one weight of all these.
    Result<bool> can_be_one(const std::vector<WeightRows>& parts) const;
    // Numbers kept aside from matrices, one below the other (an empty reference: none of that one); nothing where the kernel has no form for them. They stay on the device.
    struct Aside {
        const std::uint32_t* entries = nullptr;
        const std::int32_t* begins = nullptr;
        Float16Form values = Float16Form::f16;
        std::uint64_t size_bytes = 0;
    };
    Result<std::optional<Aside>> sparse(const std::vector<WeightRows>& parts);
    Result<std::optional<SparseRows>> pack_sparse(const std::vector<WeightRows>& parts) const;
    // Plain numbers plus an offset, on the host; empty for an empty reference.
    Result<std::vector<float>> numbers(const TensorRef& ref, std::int64_t size, float offset = 0);
    // Those on the device; null for none. Equal vectors are kept once.
    Result<const float*> vector(const std::vector<float>& values);
    std::uint64_t weight_bytes() const { return weight_bytes_; }
    std::int64_t n_written_out() const { return n_written_out_; }  // pruned matrices whose zeros are there
    std::uint64_t bytes_of(const GpuWeight& weight) const;  // that reading all of it takes

private:
    Result<Weight> load(const WeightRows& part) const;
    struct Sources {
        std::vector<Weight> weights;  // of the parts that have one
        std::vector<RowSource> rows;  // of all parts, in `weights`
    };
    Result<Sources> load_all(const std::vector<WeightRows>& parts) const;
    const ModelSpec& spec_;
    const WeightSource& source_;
    Device& device_;
    ThreadPool* pool_;
    std::map<std::string, std::vector<GpuWeight>> packed_;
    std::map<std::string, Aside> sparse_;
    WeightStream* stream_ = nullptr;
    std::map<const void*, std::uint64_t> bytes_;  // by address of the codes
    std::map<std::string, const float*> vectors_;  // by their bytes: NaN is equal to nothing
    std::uint64_t weight_bytes_ = 0;
    std::int64_t n_written_out_ = 0;
};

// Addresses that were counted from 0.
bool is_imaginary(const GpuWeight& weight);
void relocate(GpuWeight& weight, const std::byte* base);

}  // namespace skiff::cuda
