// Checkpoints that other programs quantized (tests/golden/quantized_models.py): their numbers to the bit, their logits, and what we write of them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "compress/export_quantized.h"
#include "formats/safetensors.h"
#include "model/checkpoint.h"
#include "model/input_order.h"
#include "plan/session.h"

namespace skiff {
namespace {

const std::string data_dir = std::string(SKIFF_TEST_DATA_DIR) + "/quantized";

std::vector<std::string> case_names() {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(data_dir)) names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
}

struct Golden {
    std::vector<std::int32_t> ids;
    std::vector<float> logits;
    std::map<std::string, std::vector<float>> weights;  // of some modules, as the package decodes them
    float largest = 0;
};
Golden read_golden(const std::string& name) {
    Golden golden;
    auto file = SafetensorsFile::open(data_dir + "/" + name + "/golden.safetensors");
    EXPECT_TRUE(file.ok());
    for (const TensorEntry& entry : file->entries()) {
        std::vector<float> values;
        if (entry.name == "input_ids") {
            std::vector<std::int64_t> ids(static_cast<std::size_t>(entry.shape[0]));
            std::memcpy(ids.data(), file->view(entry).data.data(), ids.size() * 8);
            golden.ids.assign(ids.begin(), ids.end());
            continue;
        }
        EXPECT_TRUE(to_floats(file->view(entry), values));
        if (entry.name == "logits") golden.logits = values;
        else golden.weights[entry.name.substr(std::string("weight.").size())] = values;
    }
    for (const float value : golden.logits) golden.largest = std::max(golden.largest, std::abs(value));
    return golden;
}

Result<std::vector<float>> logits_of(const Checkpoint& checkpoint, KernelChoice kernels, const std::vector<std::int32_t>& ids, std::size_t chunk) {
    PlanOptions options;
    options.kernels = kernels;
    SKIFF_TRY(auto plan, lower(checkpoint.spec, *checkpoint.weights, options));
    SKIFF_TRY(auto session, Session::create(std::move(plan), {.n_threads = 2, .n_context = static_cast<std::int64_t>(ids.size())}));
    std::vector<float> logits;
    for (std::size_t begin = 0; begin < ids.size(); begin += chunk) {
        SKIFF_CHECK(session->forward(0, std::span(ids).subspan(begin, std::min(chunk, ids.size() - begin)), BatchItem::Logits::all));
        logits.insert(logits.end(), session->logits().begin(), session->logits().end());
    }
    return logits;
}

class QuantizedModels : public ::testing::TestWithParam<std::string> {
protected:
    void TearDown() override { std::filesystem::remove_all(folder_); }
    const std::string folder_ = (std::filesystem::temp_directory_path() / ("skiff_quantized_" + std::to_string(::getpid()))).string();
};

TEST_P(QuantizedModels, HoldTheNumbersOfThePackage) {
    const Golden golden = read_golden(GetParam());
    auto opened = Checkpoint::open(data_dir + "/" + GetParam());
    ASSERT_TRUE(opened.ok()) << opened.error().to_string();
    const Checkpoint checkpoint = with_inputs_in_order(*opened);
    ASSERT_FALSE(golden.weights.empty());
    for (const auto& [key, expected] : golden.weights) {
        auto weight = checkpoint.weights->load(key);
        ASSERT_TRUE(weight.ok()) << weight.error().to_string();
        ASSERT_EQ(static_cast<std::int64_t>(expected.size()), element_count(weight->shape));
        std::vector<float> row(static_cast<std::size_t>(weight->n_columns()));
        for (std::int64_t r = 0; r < weight->n_rows(); ++r) {
            weight->row(r, row.data());
            for (std::size_t c = 0; c < row.size(); ++c) ASSERT_EQ(row[c], expected[static_cast<std::size_t>(r) * row.size() + c]) << key << " row " << r << " column " << c;
        }
    }
}

TEST_P(QuantizedModels, LogitsEqualThoseOfThePackagesNumbers) {
    const Golden golden = read_golden(GetParam());
    auto checkpoint = Checkpoint::open(data_dir + "/" + GetParam());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().to_string();
    for (const auto& [kernels, tolerance] : {std::pair{KernelChoice::reference, 1e-4f}, {KernelChoice::fastest, 0.05f}}) {
        auto whole = logits_of(*checkpoint, kernels, golden.ids, golden.ids.size());
        ASSERT_TRUE(whole.ok()) << whole.error().to_string();
        ASSERT_EQ(whole->size(), golden.logits.size());
        float worst = 0;
        for (std::size_t i = 0; i < whole->size(); ++i) worst = std::max(worst, std::abs((*whole)[i] - golden.logits[i]) / golden.largest);
        EXPECT_LE(worst, tolerance) << (kernels == KernelChoice::reference ? "reference" : "fastest");
        for (const std::size_t chunk : {std::size_t{1}, std::size_t{5}}) EXPECT_TRUE(*logits_of(*checkpoint, kernels, golden.ids, chunk) == *whole) << "chunks of " << chunk;
    }
}

// The package wrote scales in the model's type; the forms say F16, and hold the same numbers in it.
void expect_same_rows(const Checkpoint& a, const Checkpoint& b) {
    for (const auto& [key, declared] : a.spec.tensors) {
        if (!a.weights->contains(key)) continue;
        const auto one = a.weights->load(key), other = b.weights->load(key);
        ASSERT_TRUE(one.ok() && other.ok()) << key;
        ASSERT_EQ(one->shape, other->shape) << key;
        std::vector<float> x(static_cast<std::size_t>(one->n_columns())), y = x;
        for (std::int64_t row = 0; row < one->n_rows(); ++row) {
            one->row(row, x.data());
            other->row(row, y.data());
            ASSERT_EQ(x, y) << key << " row " << row;
        }
    }
}

// Without loss from a form to itself and to the others that can say it; reordered columns come back where they were.
TEST_P(QuantizedModels, WrittenAgainTheyHoldTheSame) {
    auto checkpoint = Checkpoint::open(data_dir + "/" + GetParam());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().to_string();
    int n_written = 0;
    for (const char* form : {"gptq", "awq"}) {
        auto plan = plan_quantized_export(*checkpoint, form);
        if (!plan.ok()) {
            EXPECT_EQ(plan.error().code == ErrorCode::unsupported || plan.error().code == ErrorCode::usage, true) << plan.error().to_string();
            continue;
        }
        ++n_written;
        std::filesystem::remove_all(folder_);
        std::filesystem::create_directory(folder_);
        ASSERT_TRUE(write_quantized_export(*checkpoint, *plan, folder_, {}).ok());
        auto again = Checkpoint::open(folder_);
        ASSERT_TRUE(again.ok()) << again.error().to_string();
        if ((GetParam() == "awq_gemm_w4g32a")) expect_same_rows(*checkpoint, *again);
        else EXPECT_EQ(*again->content_hash(), *checkpoint->content_hash()) << form;
        if (!GetParam().starts_with(form)) continue;
        auto before = SafetensorsFile::open(data_dir + "/" + GetParam() + "/model.safetensors"), after = SafetensorsFile::open(folder_ + "/model.safetensors");
        ASSERT_TRUE(before.ok() && after.ok());
        for (const TensorEntry& entry : before->entries()) {
            if (entry.name.ends_with("scales") && (GetParam() == "awq_gemm_w4g32a")) continue;
            if (entry.name.ends_with("qzeros") && GetParam() == "gptq_w3g32a") continue;  // an asymmetric first form becomes the second
            auto view = after->view(entry.name);
            ASSERT_TRUE(view.ok()) << entry.name;
            EXPECT_EQ(view->shape, entry.shape) << entry.name;
            EXPECT_TRUE(std::ranges::equal(view->data, before->view(entry).data)) << entry.name;
        }
    }
    const bool writable = GetParam().starts_with("gptq") || GetParam().starts_with("awq");
    EXPECT_EQ(n_written > 0, writable);
}

INSTANTIATE_TEST_SUITE_P(Cases, QuantizedModels, ::testing::ValuesIn(case_names()), [](const auto& named) { return named.param; });

// For tests/golden/load_quantized.py, which loads the same folders elsewhere: SKIFF_LOGITS_OF names folders, with commas.
TEST(LoadElsewhere, WritesLogits) {
    const char* list = std::getenv("SKIFF_LOGITS_OF");
    if (list == nullptr) GTEST_SKIP() << "SKIFF_LOGITS_OF names no folders";
    const std::string folders = list;
    for (std::size_t begin = 0; begin < folders.size();) {
        const std::size_t end = std::min(folders.find(',', begin), folders.size());
        const std::string folder = folders.substr(begin, end - begin);
        begin = end + 1;
        auto checkpoint = Checkpoint::open(folder);
        ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().to_string();
        std::vector<std::int32_t> ids = {1};
        for (std::int64_t i = 1; i < 128; ++i) ids.push_back(static_cast<std::int32_t>((i * 2654435761LL >> 8) % checkpoint->spec.n_vocab));
        auto logits = logits_of(*checkpoint, KernelChoice::reference, ids, ids.size());
        ASSERT_TRUE(logits.ok()) << logits.error().to_string();
        auto writer = SafetensorsWriter::create(folder + ".logits.safetensors", {{"input_ids", DType::i32, {128}}, {"logits", DType::f32, {128, checkpoint->spec.n_vocab}}});
        ASSERT_TRUE(writer.ok());
        EXPECT_TRUE(writer->write("input_ids", std::as_bytes(std::span<const std::int32_t>(ids))).ok());
        EXPECT_TRUE(writer->write("logits", std::as_bytes(std::span<const float>(*logits))).ok());
        EXPECT_TRUE(writer->commit().ok());
    }
}

}  // namespace
}  // namespace skiff
