// skiff.json beside a compressed model: the steps that made it, from what, what each tensor became, and the evidence. docs/formats/manifest.md
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace skiff {

inline constexpr const char* manifest_file_name = "skiff.json";

struct ManifestTensor {
    std::string key, from, scheme;
    std::uint64_t n_elements = 0, bytes = 0;
    double relative_squared_error = 0;
    std::string remark;  // what was done otherwise than asked, and why
};
Json tensor_json(const ManifestTensor& tensor);
Result<ManifestTensor> parse_tensor_json(const Json& json);

struct ManifestParent {
    std::string name, content_hash, architecture;
    std::uint64_t n_elements = 0, bytes = 0;
    Json steps;   // that made it, the first first; null: it is an original
    Json origin;  // the model before those steps: name, content_hash
};

struct Manifest {
    std::string tool;  // "skiff 0.1.0"
    ManifestParent parent;
    std::vector<Json> steps;
    std::uint64_t seed = 0;
    std::vector<ManifestTensor> tensors;
    std::vector<Json> evidence;  // whatever eval and bench found, each with "kind"
};

// What made the parent, from the original on, out of its own manifest (null: nothing).
void describe_history(const Json& manifest, ManifestParent& parent);

// Contains no time and no path, so that the same work gives the same bytes.
Json manifest_json(const Manifest& manifest);
// Reads the manifest of a folder, adds an entry to its evidence and writes it back in one piece.
Status append_evidence(const std::string& folder, const Json& entry);

}  // namespace skiff
