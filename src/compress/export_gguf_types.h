// Which GGUF type a tensor is written in.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "compress/export_gguf.h"
#include "tensor/weight.h"

namespace skiff {

// What the choice for one tensor needs to know.
struct ExportTensor {
    std::string name;      // in the file
    Shape shape;           // in the file
    const Weight* weight;  // the first of them where experts are put together; null: BF16 numbers that are not made yet
    enum class Part : std::uint8_t { linear, head, embedding, float_only } part = Part::linear;
};

class GgufTypeChooser {
public:
    static Result<GgufTypeChooser> create(const GgufExportOptions& options);
    // Never a type that this row width does not fill. Remembers what has to be said about it.
    const GgufType& choose(const ExportTensor& tensor);
    std::vector<std::string> notes() const;
    std::uint32_t file_type() const;  // general.file_type: the type of most weights of the linear operators

private:
    const GgufType* wanted(const ExportTensor& tensor) const;
    const GgufType& keep(const ExportTensor& tensor);
    void note(const std::string& text, const std::string& tensor);

    const GgufType* type_ = nullptr;  // null: auto
    const GgufType* head_ = nullptr;
    const GgufType* embedding_ = nullptr;
    std::map<std::string, std::vector<std::string>> notes_;  // tensors by what is said of them
    std::map<std::uint32_t, std::int64_t> weights_by_type_;
};

}  // namespace skiff
