// Networks of convolutions as ONNX in every form, with weights of 1 to 8 bits. What a graph must give is what our kernels give; tests/golden/onnx_run.py lets
// onnxruntime and the qonnx package execute the files that SKIFF_KEEP_FILES=FOLDER keeps, and writes tests/data/onnx/nets.json when the results are equal.
// SKIFF_NETS=FOLDER,FOLDER,... : those networks instead, with files alone; of networks for digits also with activations of 8 bits, and the labels.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <utility>

#include "base/atomic_file.h"
#include "base/hash.h"
#include "compress/onnx/onnx_net_testing.h"
#include "formats/onnx/onnx_testing.h"
#include "net/comparison.h"
#include "net/generated_digits.h"

namespace skiff {
namespace {

struct Case {
    std::string name;
    net::Net net;
    std::vector<float> x;
    std::int64_t n_images = 0;
    std::vector<std::int32_t> labels;
};
struct Form {
    const char* name;
    OnnxForm form;
    OnnxExportOptions::Activations activations = OnnxExportOptions::Activations::real;
};
constexpr Form forms[] = {{"float", OnnxForm::floats}, {"qdq", OnnxForm::qdq}, {"qonnx", OnnxForm::qonnx}};
constexpr Form int8_forms[] = {{"qdq int8", OnnxForm::qdq, OnnxExportOptions::Activations::int8}, {"qonnx int8", OnnxForm::qonnx, OnnxExportOptions::Activations::int8}};

std::vector<Case> golden_cases(const std::string& stem) {
    std::vector<Case> cases;
    for (net::Golden& golden : net::goldens(stem)) cases.push_back({stem + "_" + golden.net.spec.name, std::move(golden.net), std::move(golden.x), golden.n_images, {}});
    return cases;
}
Case opened(const std::string& name, const std::string& path) {
    auto net = net::open_net(path);
    EXPECT_TRUE(net.ok()) << (net.ok() ? "" : net.error().to_string());
    if (!net.ok()) return {};
    constexpr std::int64_t n_digits = 200;
    const bool is_folder = !path.ends_with(".json");
    if (net->spec.input == net::ValueShape{28, 28, 1} && is_folder) {
        net::LabelledImages images = net::generate_digits(n_digits, 9);
        return {name, std::move(*net), std::move(images.pixels), n_digits, std::move(images.labels)};
    }
    constexpr std::int64_t n_images = 3;
    std::vector<float> x = net::noise_images(net->spec.input, n_images, 5);
    return {name, std::move(*net), std::move(x), n_images, {}};
}
std::vector<Case> preset_cases() {
    std::vector<Case> cases;
    for (const char* name : {"structures/residual-bottleneck", "structures/shufflenet-unit", "structures/grouped-linear", "structures/squeeze-excitation", "structures/peleenet-dense", "structures/vovnet-one-shot", "structures/transformer-layer",
                             "structures/mobilebert-layer", "structures/lite-transformer-layer", "structures/san-m-layer", "digits/digits", "digits/mlp"})
        cases.push_back(opened("preset_" + std::string(name).substr(std::string(name).find('/') + 1), std::string(SKIFF_SOURCE_DIR) + "/examples/" + name + ".json"));
    return cases;
}

bool has_matrices(const net::Net& net) {
    return std::any_of(net.weights.begin(), net.weights.end(), [](const auto& tensor) { return tensor.second.shape.size() == 2; });
}

// Graphs are told apart by their structure; of a group of them together.
class Graphs {
public:
    explicit Graphs(const char* folder) : folder_(folder == nullptr ? "" : folder) {}

    void add(const std::string& group, const Case& given, const Form& form) {
        SCOPED_TRACE(group + " " + given.name);
        OnnxExportOptions options;
        options.form = form.form;
        options.activations = form.activations;
        std::vector<net::ValueRange> ranges;
        if (!given.labels.empty() && form.activations == OnnxExportOptions::Activations::int8) {
            auto found = net::value_ranges(given.net, net::generate_digits(200, 5).pixels, {});
            ASSERT_TRUE(found.ok());
            ranges = *found;
        }
        auto plan = plan_onnx_net(given.net, options, ranges);
        ASSERT_TRUE(plan.ok()) << plan.error().to_string();
        OnnxModel model = plan->model;
        if (folder_.empty()) {
            for (const OnnxInitializer& initializer : plan->initializers) {
                model.initializers.push_back(initializer.tensor);
                model.initializers.back().external = OnnxTensor::External{"data", 0, initializer.size_bytes};
            }
        } else {
            const std::string stem = folder_ + "/" + std::to_string(n_files_++);
            Status status = write_onnx_tensors(plan->initializers, model, stem + ".onnx.data", nullptr);
            ASSERT_TRUE(status.ok()) << status.error().to_string();
            auto bytes = serialize_onnx(model);
            ASSERT_TRUE(bytes.ok());
            ASSERT_TRUE(write_file_atomic(stem + ".onnx", *bytes).ok());
            const auto resolved = net::resolve(given.net.spec);
            keep(stem + ".x", channels_first(given.x, given.net.spec.input));
            if (y_of_ != group + given.name) y_ = channels_first(outputs_of(given.net, given.x, given.n_images), resolved->shapes.back());
            y_of_ = group + given.name;
            keep(stem + ".y", y_);
            Json labels = Json::array();
            for (const std::int32_t label : given.labels) labels.push_back(label);
            files_.push_back(Json::object({{"file", stem}, {"group", group}, {"name", given.name}, {"form", form.name}, {"images", given.n_images}, {"labels", labels}}));
        }
        auto bytes = serialize_onnx(model);
        ASSERT_TRUE(bytes.ok());
        const OnnxModel found = read_onnx(*bytes);
        expect_sound(found);
        structures_[group] += onnx_structure(found);
    }

    void finish() {
        if (!folder_.empty()) {
            ASSERT_TRUE(write_file_atomic(folder_ + "/nets.json", files_.dump(1) + "\n").ok());
            return;
        }
        auto golden = read_json_file(std::string(SKIFF_TEST_DATA_DIR) + "/onnx/nets.json");
        ASSERT_TRUE(golden.ok()) << golden.error().to_string();
        EXPECT_EQ(golden->members().size(), structures_.size());
        for (const auto& [group, structure] : structures_) EXPECT_EQ(sha256_hex(bytes_of(structure)), (*golden)[group].text()) << group;
    }

private:
    static void keep(const std::string& path, const std::vector<float>& values) {
        ASSERT_TRUE(write_file_atomic(path, std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float))).ok());
    }

    std::string folder_, y_of_;
    std::vector<float> y_;  // of the network that came last: all forms are compared with it
    Json files_ = Json::array();
    std::map<std::string, std::string> structures_;
    int n_files_ = 0;
};

void add_quantized(Graphs& graphs, const std::string& stem, const std::vector<Case>& cases, std::initializer_list<const char*> schemes) {
    for (const char* name : schemes) {
        auto scheme = parse_scheme(name);
        ASSERT_TRUE(scheme.ok());
        for (const Case& given : cases) {
            if (!has_matrices(given.net)) continue;
            auto child = quantized_net(given.net, *scheme);
            ASSERT_TRUE(child.has_value());
            for (const Form& form : {forms[1], forms[2]}) graphs.add(stem + " " + name + " " + form.name, {given.name, *child, given.x, given.n_images, {}}, form);
        }
    }
}

std::vector<std::string> given_nets() {
    const char* list = std::getenv("SKIFF_NETS");
    std::vector<std::string> paths;
    std::string path;
    for (const char c : std::string(list == nullptr ? "" : list) + ",") {
        if (c != ',') path += c;
        else if (!path.empty()) paths.push_back(std::exchange(path, {}));
    }
    return paths;
}

TEST(OnnxNets, AreThoseThatOtherProgramsExecuted) {
    const char* folder = std::getenv("SKIFF_KEEP_FILES");
    Graphs graphs(folder);
    if (const auto paths = given_nets(); !paths.empty()) {
        ASSERT_NE(folder, nullptr) << "SKIFF_KEEP_FILES says where to";
        for (const std::string& path : paths) {
            const Case given = opened(path.substr(path.rfind('/') + 1), path);
            for (const Form& form : forms) graphs.add("given", given, form);
            for (const Form& form : int8_forms)
                if (!given.labels.empty()) graphs.add("given", given, form);
        }
        graphs.finish();
        return;
    }
    for (const char* stem : {"operators", "structures"}) {
        const auto cases = golden_cases(stem);
        for (const Case& given : cases) graphs.add(std::string(stem) + " float", given, forms[0]);
        add_quantized(graphs, stem, cases, {"w8", "w7g8a", "w6g8r", "w5g4", "w4", "w4g8a", "w3g8", "w2a", "w2g8r", "ternaryg8", "binary", "binaryg8", "n4g8r"});
    }
    const auto presets = preset_cases();
    for (const Case& given : presets) graphs.add("presets float", given, forms[0]);
    add_quantized(graphs, "presets", presets, {"w8", "w4g32", "w2g32r", "binary"});
    graphs.finish();
}

}  // namespace
}  // namespace skiff
