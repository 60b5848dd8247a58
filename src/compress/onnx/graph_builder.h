// Puts an ONNX graph together: nodes in order, small constants once each, and weights whose numbers come when the file is written.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "formats/onnx/messages.h"

namespace skiff {

// Gives the bytes of a tensor, piece by piece.
using OnnxDataSink = std::function<Status(std::span<const std::byte>)>;
using OnnxDataSource = std::function<Status(const OnnxDataSink&)>;

struct OnnxInitializer {
    OnnxTensor tensor;      // without its numbers
    OnnxDataSource source;
    std::uint64_t size_bytes = 0;
};

class OnnxGraphBuilder {
public:
    // The names of what follows begin with this.
    void set_scope(std::string scope) { scope_ = std::move(scope); }
    const std::string& scope() const { return scope_; }

    // Appends a node and gives the name of its output.
    std::string node(std::string_view op_type, std::vector<std::string> inputs, std::vector<OnnxAttribute> attributes = {}, std::string_view domain = "");
    std::vector<std::string> nodes(std::string_view op_type, std::vector<std::string> inputs, std::vector<OnnxAttribute> attributes, std::size_t n_outputs);
    // Renames the output of the last node, if it is that one, to the value's own name; else gives `output` as it is.
    std::string name_last(const std::string& output, const std::string& name);

    // Initializers of a few numbers; equal ones are one.
    std::string integers(const Shape& values);         // (n) int64
    std::string integer(std::int64_t value);           // scalar
    std::string real(float value, OnnxType type);      // scalar, float32 or float16
    // A larger one. A name that is known is left as it is.
    bool has(const std::string& name) const { return initializer_names_.count(name) != 0; }
    std::string initializer(std::string name, OnnxType type, Shape dims, OnnxDataSource source);
    std::string floats(std::string name, OnnxType type, Shape dims, std::vector<float> values);  // float32 or float16

    void input(std::string name, OnnxType type, std::vector<OnnxDimension> dims) { model_.inputs.push_back({std::move(name), type, std::move(dims)}); }
    void output(std::string name, OnnxType type, std::vector<OnnxDimension> dims) { model_.outputs.push_back({std::move(name), type, std::move(dims)}); }
    void identity(const std::string& x, const std::string& name);  // x under a name that the graph's outputs have

    // Operators that only newer versions have raise it. 18 by default.
    void require_opset(std::int64_t version);
    void use_domain(const std::string& domain) { domains_.insert(domain); }

    // Nodes, inputs and outputs; the initializers stay apart.
    OnnxModel finish();
    std::vector<OnnxInitializer> take_initializers() { return std::move(initializers_); }

private:
    std::string fresh(std::string_view word);
    std::string constant(const std::string& name, OnnxType type, Shape dims, std::string data);

    OnnxModel model_;
    std::vector<OnnxInitializer> initializers_;
    std::set<std::string> initializer_names_, domains_;
    std::map<std::string, int> used_;  // names made so far
    std::string scope_;
    std::int64_t opset_ = 18;
};

// float32 or float16 numbers as bytes; false where one does not fit float16.
bool append_onnx_floats(std::span<const float> values, OnnxType type, std::string& bytes);
inline std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

}  // namespace skiff
