// Networks that PyTorch has computed (tests/golden/net.py): every operator over odd shapes, every structure.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "formats/safetensors.h"
#include "net/net.h"

namespace skiff::net {

// The environment's, where the tests were taken to another machine.
inline std::string test_data_dir() {
    const char* given = std::getenv("SKIFF_TEST_DATA_DIR");
    return given != nullptr ? given : SKIFF_TEST_DATA_DIR;
}

struct Golden {
    Net net;
    std::vector<float> x, y;
    std::int64_t n_images;
};

inline std::vector<Golden> goldens(const std::string& stem) {
    const std::string base = test_data_dir() + "/net/" + stem;
    auto specs = read_json_file(base + ".json");
    auto file = SafetensorsFile::open(base + ".safetensors");
    EXPECT_TRUE(specs.ok() && file.ok());
    std::vector<Golden> all;
    for (const Json& json : specs->items()) {
        auto spec = parse_net(json);
        EXPECT_TRUE(spec.ok()) << spec.error().to_string();
        Golden golden;
        golden.net.spec = *spec;
        const auto numbers = [&](const std::string& name) {
            std::vector<float> values;
            auto view = file->view(spec->name + "/" + name);
            EXPECT_TRUE(view.ok() && to_floats(*view, values)) << spec->name << "/" << name;
            return values;
        };
        golden.x = numbers("x");
        golden.y = numbers("y");
        const auto resolved = resolve(*spec);
        for (const TensorShape& tensor : tensors_of(*spec, *resolved)) {
            auto values = numbers(tensor.name);
            EXPECT_EQ(static_cast<std::int64_t>(values.size()), element_count(tensor.shape)) << spec->name << "/" << tensor.name;
            golden.net.set_floats(tensor.name, tensor.shape, std::move(values));
        }
        golden.n_images = static_cast<std::int64_t>(golden.x.size()) / spec->input.n_elements();
        all.push_back(std::move(golden));
    }
    return all;
}

}  // namespace skiff::net
