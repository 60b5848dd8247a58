#include "compress/manifest.h"

#include "base/atomic_file.h"
#include "base/mapped_file.h"

namespace skiff {
namespace {

Json count(std::uint64_t value) { return Json(static_cast<std::int64_t>(value)); }

}  // namespace

Json tensor_json(const ManifestTensor& tensor) {
    Json json = Json::object({{"key", tensor.key},
                         {"from", tensor.from},
                         {"scheme", tensor.scheme},
                         {"elements", count(tensor.n_elements)},
                         {"bytes", count(tensor.bytes)},
                         {"relative_squared_error", tensor.relative_squared_error}});
    if (!tensor.remark.empty()) json.set("remark", tensor.remark);
    return json;
}

Result<ManifestTensor> parse_tensor_json(const Json& json) {
    ManifestTensor tensor;
    SKIFF_TRY(tensor.key, json["key"].as_string("key"));
    SKIFF_TRY(tensor.from, json["from"].as_string("from"));
    SKIFF_TRY(tensor.scheme, json["scheme"].as_string("scheme"));
    SKIFF_TRY(const auto elements, json["elements"].as_int("elements"));
    SKIFF_TRY(const auto bytes, json["bytes"].as_int("bytes"));
    SKIFF_TRY(tensor.relative_squared_error, json["relative_squared_error"].as_double("relative_squared_error"));
    tensor.remark = json["remark"].text();
    tensor.n_elements = static_cast<std::uint64_t>(elements);
    tensor.bytes = static_cast<std::uint64_t>(bytes);
    return tensor;
}

Json manifest_json(const Manifest& manifest) {
    const ManifestParent& parent = manifest.parent;
    Json parent_json = Json::object({{"name", parent.name},
                                     {"content_hash", parent.content_hash},
                                     {"architecture", parent.architecture},
                                     {"elements", count(parent.n_elements)},
                                     {"bytes", count(parent.bytes)}});
    if (!parent.steps.is_null()) parent_json.set("steps", parent.steps);
    if (!parent.origin.is_null()) parent_json.set("origin", parent.origin);
    std::uint64_t n_elements = 0, bytes = 0;
    Json::Array tensors;
    for (const ManifestTensor& tensor : manifest.tensors) {
        n_elements += tensor.n_elements;
        bytes += tensor.bytes;
        tensors.push_back(tensor_json(tensor));
    }
    const double bits_per_weight = n_elements > 0 ? static_cast<double>(bytes) * 8 / static_cast<double>(n_elements) : 0;
    return Json::object({{"format", "skiff.manifest"},
                         {"version", 1},
                         {"tool", manifest.tool},
                         {"parent", std::move(parent_json)},
                         {"steps", Json(Json::Array(manifest.steps))},
                         {"seed", manifest.seed},
                         {"totals", Json::object({{"elements", count(n_elements)}, {"bytes", count(bytes)}, {"bits_per_weight", bits_per_weight}})},
                         {"tensors", std::move(tensors)},
                         {"evidence", Json(Json::Array(manifest.evidence))}});
}

void describe_history(const Json& manifest, ManifestParent& parent) {
    const Json& before = manifest["parent"];
    Json::Array steps = before["steps"].is_array() ? before["steps"].items() : Json::Array();
    for (const Json& step : manifest["steps"].items()) steps.push_back(step);
    if (steps.empty()) return;
    parent.steps = Json(std::move(steps));
    parent.origin = before["origin"].is_object() ? before["origin"] : Json::object({{"name", before["name"]}, {"content_hash", before["content_hash"]}});
}

Status append_evidence(const std::string& folder, const Json& entry) {
    const std::string path = join_path(folder, manifest_file_name);
    SKIFF_TRY(auto manifest, read_json_file(path));
    if (manifest["format"].text() != "skiff.manifest") return corrupt(path + ": is no manifest: \"format\" must be \"skiff.manifest\"");
    Json::Array evidence = manifest["evidence"].items();
    evidence.push_back(entry);
    manifest.set("evidence", std::move(evidence));
    return write_file_atomic(path, manifest.dump(1) + "\n");
}

}  // namespace skiff
