// cuDNN's backend API as C++ objects: a graph of operations on tensors, the plan that the library's heuristics find for it, its execution. Nothing here knows a network.
//
// Everything gives 0 or a cudnnStatus_t. A graph keeps its first error, so that it is looked at once, in make_plan().
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/cuda/cudnn/api.h"

namespace skiff::cuda::cudnn {

class Library {
public:
    // Opens it; null where it cannot be, or lacks a function. It stays open: it does not like to be closed.
    static std::unique_ptr<Library> open(const char* path);
    const Functions& call() const { return functions_; }
    std::size_t version() const { return functions_.version(); }  // 91900 is 9.19.0
    // Of the device that is chosen now; made once. Null with an error where there is no device.
    Code make_handle();
    Handle handle() const { return handle_; }
    // "3001 (CUDNN_STATUS_NOT_SUPPORTED_GRAPH_PATTERN): the reason that the library gives"
    std::string text(Code status) const;

private:
    Functions functions_;
    Handle handle_ = nullptr;
};

// A descriptor, destroyed when it goes. Its first error stays.
class Descriptor {
public:
    Descriptor(const Library& library, Kind kind);
    Descriptor(Descriptor&& other) noexcept : library_(other.library_), raw_(std::exchange(other.raw_, nullptr)), error_(other.error_) {}
    Descriptor& operator=(Descriptor&&) = delete;
    ~Descriptor();

    Descriptor& set(Attribute name, Type type, std::int64_t n, const void* values);
    Descriptor& set(Attribute name, std::int64_t value) { return set(name, Type::i64, 1, &value); }
    Descriptor& set(Attribute name, const std::vector<std::int64_t>& values) { return set(name, Type::i64, static_cast<std::int64_t>(values.size()), values.data()); }
    Descriptor& set(Attribute name, float value) { return set(name, Type::f32, 1, &value); }
    Descriptor& set(Attribute name, double value) { return set(name, Type::f64, 1, &value); }
    Descriptor& set(Attribute name, DataType value) { return set(name, Type::data_type, 1, &value); }
    Descriptor& set(Attribute name, const Descriptor& other);
    Descriptor& finalize();
    Code error() const { return error_; }
    Raw raw() const { return raw_; }

private:
    const Library* library_;
    Raw raw_ = nullptr;
    Code error_ = success;
};

// What a plan is made for: the handle's device, or one that is only described (cuDNN 9.11), of which plans can be made but not executed.
struct Target {
    Handle handle = nullptr;
    const Descriptor* device = nullptr;  // Kind::device
};

struct TensorSpec {
    std::vector<std::int64_t> dims, strides;
    DataType type = DataType::f32;
    std::int64_t alignment = 16;  // that addresses are multiples of
};

class Graph {
public:
    explicit Graph(const Library& library) : library_(&library) {}

    // A tensor by its number, which execution names it by. Of memory; of no memory, between operations; a number.
    int tensor(const TensorSpec& spec) { return add_tensor(spec, Attribute::tensor_id); }
    int inside(const std::vector<std::int64_t>& dims, DataType type);
    int inside(const TensorSpec& spec) { return add_tensor(spec, Attribute::tensor_virtual); }
    int number(float value) { return add_number(DataType::f32, &value); }
    int number(std::int32_t value) { return add_number(DataType::i32, &value); }

    struct PointwiseInputs {
        int x = -1, b = -1, t = -1;
    };
    struct PointwiseSpec {
        Pointwise mode = Pointwise::add;
        DataType math = DataType::f32;
        std::int64_t axis = -1;  // of Pointwise::index
        double beta = 1;         // of Pointwise::swish
    };
    void pointwise(const PointwiseSpec& spec, const PointwiseInputs& in, int y);
    void reduce(Reduction how, int x, int y);
    struct Overrides {
        int m = -1, n = -1, k = -1;  // tensors with the lengths that count
    };
    void matmul(int a, int b, int c, const Overrides& overrides);
    // y = the pages of container that the table names, as one
    void paged_load(int container, int table, int lengths, int y);
    struct Convolution {
        std::vector<std::int64_t> before, after, strides, dilations;
    };
    void convolution(const Convolution& how, int x, int w, int y);

    Code error() const { return error_; }

private:
    friend Code make_plan(const Library& library, Graph graph, const Target& target, std::size_t most_workspace, std::unique_ptr<class Plan>& plan);
    friend class Plan;
    int add_tensor(const TensorSpec& spec, Attribute place);
    int add_number(DataType type, const void* value);
    Descriptor& make(Kind kind);
    void keep(const Descriptor& made) {
        if (error_ == success) error_ = made.error();
    }
    Descriptor& of(int tensor) { return *tensors_[static_cast<std::size_t>(tensor - 1)]; }
    void set_tensor(Descriptor& operation, Attribute name, int tensor);

    const Library* library_;
    Code error_ = success;
    std::vector<std::unique_ptr<Descriptor>> tensors_, others_;
    std::vector<const Descriptor*> operations_;
    std::vector<std::pair<std::int64_t, std::unique_ptr<std::uint32_t>>> numbers_;  // their bits, by tensor
};

class Plan {
public:
    std::size_t workspace_bytes() const { return workspace_bytes_; }
    // tensors: every one of memory, by number and address.
    Code execute(void* stream, const std::vector<std::pair<int, void*>>& tensors, void* workspace) const;

private:
    friend Code make_plan(const Library& library, Graph graph, const Target& target, std::size_t most_workspace, std::unique_ptr<Plan>& plan);
    Plan(const Library& library, Graph graph, Descriptor operations, Descriptor config, Descriptor plan)
        : library_(&library), graph_(std::move(graph)), operations_(std::move(operations)), config_(std::move(config)), plan_(std::move(plan)) {}
    const Library* library_;
    Graph graph_;
    Descriptor operations_, config_, plan_;
    std::size_t workspace_bytes_ = 0;
};

// The first plan, in the order of the library's heuristics, that it supports within the workspace; else why there is none.
Code make_plan(const Library& library, Graph graph, const Target& target, std::size_t most_workspace, std::unique_ptr<Plan>& plan);

// Rows one after another, the last dimension densest.
std::vector<std::int64_t> packed_strides(const std::vector<std::int64_t>& dims);

}  // namespace skiff::cuda::cudnn
