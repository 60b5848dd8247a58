// A library in cuDNN's place: its backend API with plain loops behind it. What it is for is the graphs: every attribute's name, type and number, the order in which descriptors are finished,
// what a plan is executed with, and what the graph computes. Whether the real library has a plan for them is asked in cudnn_plans_test.cpp.
//
// SKIFF_FAKE_CUDNN=unsupported: no graph has a plan. =no_device: there is no handle. =failure: nothing can be executed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <vector>

#include "backend/cuda/cudnn/api.h"

namespace skiff::cuda::cudnn::fake {

struct Value {
    Type type = Type::i64;
    std::int64_t n = 0;
    std::vector<std::byte> bytes;
};
struct Record {
    Kind kind = Kind::tensor;
    bool final = false;
    std::map<Attribute, Value> values;

    bool has(Attribute name) const { return values.count(name) != 0; }
    template <class T>
    std::vector<T> list(Attribute name) const {
        const auto found = values.find(name);
        std::vector<T> all(found != values.end() ? static_cast<std::size_t>(found->second.n) : 0);
        if (!all.empty()) std::memcpy(all.data(), found->second.bytes.data(), all.size() * sizeof(T));
        return all;
    }
    template <class T>
    T one(Attribute name, T otherwise = {}) const {
        const auto found = values.find(name);
        if (found != values.end()) std::memcpy(&otherwise, found->second.bytes.data(), sizeof(T));
        return otherwise;
    }
    const Record* record(Attribute name) const { return static_cast<const Record*>(one<Raw>(name, nullptr)); }
};

// The tensors that an operation reads and the one that it writes.
std::vector<const Record*> inputs_of(const Record& operation);
const Record* output_of(const Record& operation);
// Runs the operations of a graph one after another; pack: addresses by the tensors' numbers. A status.
Code run(const std::vector<const Record*>& operations, const std::map<std::int64_t, void*>& pack);

}  // namespace skiff::cuda::cudnn::fake
