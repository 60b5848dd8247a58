#include "net/net.h"

#include <cmath>
#include <memory>

#include "base/hash.h"
#include "base/mapped_file.h"
#include "base/rng.h"
#include "formats/checkpoint_files.h"
#include "formats/compressed_tensors.h"

namespace skiff::net {
namespace {

constexpr const char* manifest_name = "skiff.json";
constexpr std::string_view weight_end = ".weight";

std::string config_path(const std::string& path) { return path.ends_with(".json") ? path : join_path(path, "config.json"); }

std::string module_of(const std::string& tensor) { return tensor.substr(0, tensor.size() - weight_end.size()); }

Result<Weight> read_tensor(const TensorShape& tensor, const TensorLookup& lookup, const QuantizationConfig* config) {
    if (tensor.name.ends_with(weight_end)) return read_weight(module_of(tensor.name), lookup, config);
    SKIFF_TRY(const auto found, lookup(tensor.name));
    if (!found) return not_found("it is not in the checkpoint");
    Weight weight;
    weight.shape = found->view.shape;
    weight.store = found->view;
    weight.owner = found->owner;
    return weight;
}

}  // namespace

std::vector<float> Net::floats(const std::string& name) const {
    const Weight& weight = weights.at(name);
    std::vector<float> values(static_cast<std::size_t>(element_count(weight.shape)));
    for (std::int64_t row = 0; row < weight.n_rows(); ++row) weight.row(row, values.data() + row * weight.n_columns());
    return values;
}

std::uint64_t Net::stored_bytes() const {
    std::uint64_t bytes = 0;
    for (const auto& [name, weight] : weights) bytes += weight.stored_bytes();
    return bytes;
}

bool is_net(const std::string& path) {
    const std::string config = config_path(path);
    if (!file_exists(config) || is_directory(config)) return false;
    const auto json = read_json_file(config);
    return json.ok() && (*json)["model_type"].is_string() && (*json)["model_type"].text() == net_model_type;
}

Result<Net> open_net(const std::string& path, std::uint64_t fresh_seed) {
    SKIFF_TRY(const auto config, read_json_file(config_path(path)));
    auto spec = parse_net(config);
    if (!spec.ok()) return spec.take_error().with_context(config_path(path));
    if (path.ends_with(".json")) return random_net(std::move(*spec), fresh_seed);
    Net net;
    net.spec = std::move(*spec);
    SKIFF_TRY(const auto resolved, resolve(net.spec));
    SKIFF_TRY(const auto files, CheckpointFiles::open(path));
    std::optional<QuantizationConfig> quantization;
    if (config.contains("quantization_config")) {
        SKIFF_TRY(quantization, QuantizationConfig::parse(config["quantization_config"]));
    }
    const TensorLookup lookup = lookup_in(files);
    for (const TensorShape& tensor : tensors_of(net.spec, resolved)) {
        auto weight = read_tensor(tensor, lookup, quantization ? &*quantization : nullptr);
        if (!weight.ok()) return weight.take_error().with_context(path + ": tensor " + tensor.name);
        if (weight->shape != tensor.shape) return corrupt(path + ": tensor " + tensor.name + " is " + shape_text(weight->shape) + ", expected " + shape_text(tensor.shape));
        std::vector<float> numbers;
        if (const TensorView* plain = weight->plain(); plain != nullptr && !to_floats(*plain, numbers)) return corrupt(path + ": tensor " + tensor.name + " holds no numbers");
        net.weights.emplace(tensor.name, std::move(*weight));
    }
    if (const std::string manifest = join_path(path, manifest_name); file_exists(manifest)) {
        SKIFF_TRY(const auto json, read_json_file(manifest));
        for (const Json& step : json["steps"].items()) net.steps.push_back(step);
    }
    return net;
}

Net random_net(NetSpec spec, std::uint64_t seed) {
    Net net;
    net.spec = std::move(spec);
    const auto resolved = resolve(net.spec);
    for (const TensorShape& tensor : tensors_of(net.spec, *resolved)) {
        std::vector<float> values(static_cast<std::size_t>(element_count(tensor.shape)));
        std::uint64_t state = seed;
        for (const char c : tensor.name) state = splitmix64(state) ^ static_cast<unsigned char>(c);
        Rng rng(state);
        const bool is_matrix = tensor.shape.size() == 2;
        const auto deviation = static_cast<float>(is_matrix ? std::sqrt(2.0 / static_cast<double>(tensor.shape[1])) : 0);
        for (float& value : values) value = is_matrix ? rng.normal() * deviation : tensor.name.ends_with(weight_end) ? 1.0f : 0.0f;
        net.set_floats(tensor.name, tensor.shape, std::move(values));
    }
    return net;
}

Status write_net(const Net& net, const std::string& folder, AtomicDirectory::IfExists if_exists) {
    SKIFF_TRY(auto directory, AtomicDirectory::create(folder, if_exists));
    Json config = net_json(net.spec);
    std::map<std::string, QuantizedModule> quantized;
    std::vector<std::string> ignore;
    std::vector<StoredTensor> tensors;
    std::vector<TensorDeclaration> declarations;
    for (const auto& [name, weight] : net.weights) {
        if (name.ends_with(weight_end)) {
            const std::string module = module_of(name);
            if (const Codes* codes = weight.codes()) quantized[module] = {codes->scheme, weight.n_columns()};
            else ignore.push_back(module);
            SKIFF_TRY(auto parts, weight_tensors(module, weight));
            for (StoredTensor& part : parts) tensors.push_back(std::move(part));
        } else {
            tensors.push_back({name, weight.plain()->dtype, weight.shape, weight.plain()->data, weight.owner});
        }
    }
    for (const StoredTensor& tensor : tensors) declarations.push_back({tensor.name, tensor.dtype, tensor.shape});
    if (!quantized.empty()) {
        SKIFF_TRY(auto quantization, quantization_config_for(quantized, ignore));
        config.set("quantization_config", std::move(quantization));
    }
    SKIFF_TRY(auto writer, CheckpointWriter::create(directory.working_path(), declarations));
    for (const StoredTensor& tensor : tensors) SKIFF_CHECK(writer.write(tensor.name, tensor.bytes));
    SKIFF_CHECK(writer.commit());
    SKIFF_CHECK(write_file_atomic(join_path(directory.working_path(), "config.json"), config.dump(2) + "\n"));
    Json steps = Json::array();
    for (const Json& step : net.steps) steps.push_back(step);
    const Json manifest = Json::object({{"tool", "skiff " SKIFF_VERSION}, {"steps", steps}});
    SKIFF_CHECK(write_file_atomic(join_path(directory.working_path(), manifest_name), manifest.dump(2) + "\n"));
    return directory.commit();
}

}  // namespace skiff::net
