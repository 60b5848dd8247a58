// Activation kernels against the functions of transformers in float64 (tests/golden/README.md); the two forms of gelu are told apart.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/json.h"
#include "kernels/kernels.h"
#include "model/arch/arch.h"

namespace skiff {
namespace {

TEST(Activations, EqualThoseOfTransformers) {
    auto golden = read_json_file(std::string(SKIFF_TEST_DATA_DIR) + "/models/activations.json");
    ASSERT_TRUE(golden.ok());
    std::vector<float> x, y;
    for (const Json& value : (*golden)["x"].items()) x.push_back(static_cast<float>(value.number_or(0)));
    ASSERT_GT(x.size(), 50u);
    y.resize(x.size());
    int n_functions = 0;
    for (const auto& [name, values] : golden->members()) {
        if (name == "x") continue;
        HfConfig config(Json::object({{"hidden_act", name}}));
        const Activation activation = parse_activation(config, "hidden_act", "silu");
        Status known = config.finish();
        if (!known.ok()) {  // one that has no kernel must be refused by its name
            EXPECT_NE(known.error().to_string().find(name), std::string::npos);
            continue;
        }
        ++n_functions;
        ASSERT_EQ(values.size(), x.size());
        for (const auto& row : activation_kernels()) {
            if (!isa_available(row.isa)) continue;
            row.fn({x.data(), nullptr, y.data(), 1, activation}, {0, static_cast<std::int64_t>(x.size())});
            for (std::size_t i = 0; i < x.size(); ++i) {
                const double expected = values.items()[i].number_or(NAN);
                EXPECT_NEAR(static_cast<double>(y[i]), expected, 2e-6 * std::max(1.0, std::abs(expected))) << name << " by " << row.name << " at " << x[i];
            }
        }
    }
    EXPECT_GE(n_functions, 9);
}

}  // namespace
}  // namespace skiff
