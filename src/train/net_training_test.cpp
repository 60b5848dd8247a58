// Networks in training compute what src/net computes; and they learn, with a teacher too, and keep the zeros that pruning left.
#include <gtest/gtest.h>

#include <cmath>

#include "formats/safetensors.h"
#include "net/comparison.h"
#include "net/generated_digits.h"
#include "train/net_training.h"

namespace skiff::train {
namespace {

TEST(NetTraining, ComputesWhatTheGoldensSay) {
    for (const char* stem : {"operators", "structures"}) {
        const std::string base = std::string(SKIFF_TEST_DATA_DIR) + "/net/" + stem;
        auto specs = read_json_file(base + ".json");
        auto file = SafetensorsFile::open(base + ".safetensors");
        ASSERT_TRUE(specs.ok() && file.ok());
        for (const Json& json : specs->items()) {
            net::Net net;
            net.spec = *net::parse_net(json);
            SCOPED_TRACE(net.spec.name);
            const auto numbers = [&](const std::string& name) {
                std::vector<float> values;
                EXPECT_TRUE(to_floats(*file->view(net.spec.name + "/" + name), values));
                return values;
            };
            for (const net::TensorShape& tensor : net::tensors_of(net.spec, *net::resolve(net.spec))) net.set_floats(tensor.name, tensor.shape, numbers(tensor.name));
            const auto x = numbers("x"), y = numbers("y");
            auto found = net_outputs_in_training(net, x);
            ASSERT_TRUE(found.ok()) << found.error().to_string();
            ASSERT_EQ(found->size(), y.size());
            double largest = 1;
            for (const float value : y) largest = std::max<double>(largest, std::fabs(value));
            for (std::size_t i = 0; i < y.size(); ++i) ASSERT_NEAR((*found)[i], y[i], 1e-5 * largest);
        }
    }
}

// Windows that see padding alone give 0 here and there.
TEST(NetTraining, PoolsWhereOnlyPaddingIs) {
    for (const char* kind : {"max", "average", "average_with_padding"}) {
        auto json = Json::parse(std::string(R"({"model_type": "skiff-net", "input": {"height": 7, "width": 5, "channels": 2}, "ops": [{"name": "p", "op": "pool", "kernel": 3, "stride": 3, "padding": 6, "kind": ")") + kind + R"("}]})");
        auto spec = net::parse_net(*json);
        ASSERT_TRUE(spec.ok()) << spec.error().to_string();
        const net::Net net = net::random_net(*spec, 1);
        auto session = net::Session::create(net, {});
        const auto x = net::noise_images(spec->input, 2, 3);
        std::vector<float> y(static_cast<std::size_t>(2 * (*session)->output().n_elements()));
        (*session)->run(x.data(), 2, y.data());
        auto trained = net_outputs_in_training(net, x);
        ASSERT_TRUE(trained.ok()) << trained.error().to_string();
        ASSERT_EQ(trained->size(), y.size());
        EXPECT_EQ(y[0], 0.0f);
        for (std::size_t i = 0; i < y.size(); ++i) ASSERT_NEAR((*trained)[i], y[i], 1e-6) << kind << ' ' << i;
    }
}

net::Net small_net() {
    auto json = Json::parse(R"({"model_type": "skiff-net", "input": {"height": 28, "width": 28, "channels": 1}, "ops": [
        {"name": "a", "op": "conv", "channels": 8, "kernel": 5, "stride": 2, "padding": 2}, {"name": "ar", "op": "activation"},
        {"name": "b", "op": "conv", "channels": 8, "kernel": 3, "stride": 2, "padding": 1}, {"name": "br", "op": "activation"},
        {"name": "f", "op": "flatten"}, {"name": "out", "op": "conv", "channels": 10}]})");
    return net::random_net(*net::parse_net(*json), 1);
}

double share_right(const net::Net& net, const net::LabelledImages& images) {
    auto session = net::Session::create(net, {});
    return net::measure_accuracy(**session, images).share();
}

TEST(NetTraining, LearnsDigitsFromLabelsAndFromATeacher) {
    const auto images = net::generate_digits(1500, 1), others = net::generate_digits(300, 2);
    const net::Net fresh = small_net();
    std::vector<double> losses;
    auto trained = train_net(fresh, images, {.n_epochs = 4, .batch = 16, .learning_rate = 4e-3}, [&](const NetEpoch& epoch) { losses.push_back(epoch.loss); });
    ASSERT_TRUE(trained.ok()) << trained.error().to_string();
    ASSERT_EQ(losses.size(), 4u);
    EXPECT_LT(losses[3], losses[0] / 2);
    const double right = share_right(*trained, others);
    EXPECT_GT(right, 0.7);
    EXPECT_LT(share_right(fresh, others), 0.3);
    auto again = train_net(fresh, images, {.n_epochs = 4, .batch = 16, .learning_rate = 4e-3}, {});
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(again->floats("a.weight"), trained->floats("a.weight"));

    // From the teacher's word alone: no label is looked at.
    net::LabelledImages unlabelled = images;
    std::fill(unlabelled.labels.begin(), unlabelled.labels.end(), 0);
    auto student = train_net(fresh, unlabelled, {.n_epochs = 4, .batch = 16, .learning_rate = 4e-3, .teacher = &*trained, .alpha = 1}, {});
    ASSERT_TRUE(student.ok());
    EXPECT_GT(share_right(*student, others), 0.65);
}

TEST(NetTraining, KeepsZerosWhereAsked) {
    const auto images = net::generate_digits(200, 1);
    net::Net net = small_net();
    auto weight = net.floats("b.weight");
    for (std::size_t i = 0; i < weight.size(); i += 2) weight[i] = 0;
    net.set_floats("b.weight", net.weights.at("b.weight").shape, weight);
    for (const auto zeros : {NetTrainOptions::Zeros::keep, NetTrainOptions::Zeros::train}) {
        auto trained = train_net(net, images, {.n_epochs = 1, .zeros = zeros}, {});
        ASSERT_TRUE(trained.ok());
        const auto after = trained->floats("b.weight");
        EXPECT_EQ(after[0] == 0 && after[100] == 0, zeros == NetTrainOptions::Zeros::keep);
        EXPECT_NE(after[1], weight[1]);
    }
}

}  // namespace
}  // namespace skiff::train
