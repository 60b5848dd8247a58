// Tiles that tuning found: they change no bit, come back from their file, and a file that cannot be used is as good as none.
#include "plan/tile_table.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/mapped_file.h"
#include "base/rng.h"
#include "model/arch/arch.h"
#include "plan/session.h"
#include "plan/steps.h"
#include "plan/tune_tiles.h"

namespace skiff {
namespace {

ModelSpec small_spec() {
    return *build_spec(*Json::parse(R"({"model_type": "llama", "hidden_size": 96, "intermediate_size": 300, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 16, "vocab_size": 131, "max_position_embeddings": 2048, "tie_word_embeddings": false})"));
}

std::shared_ptr<const Plan> plan_with(const ModelSpec& spec, const char* scheme_name, std::shared_ptr<const TileTable> tiles) {
    auto weights = quantized_on_load(
        spec, random_weights(spec, DType::bf16, 5), [&spec, scheme = *parse_scheme(scheme_name)](const std::string& key) { return spec.tensors.at(key).role == TensorDecl::Role::linear ? &scheme : nullptr; },
        ScaleRule::min_max);
    PlanOptions options;
    options.tiles = std::move(tiles);
    options.n_threads = 2;
    auto plan = lower(spec, *weights, options);
    EXPECT_TRUE(plan.ok()) << (plan.ok() ? "" : plan.error().to_string());
    return *plan;
}

std::vector<float> logits_of(const std::shared_ptr<const Plan>& plan) {
    Rng rng(1);
    std::vector<std::int32_t> tokens;
    for (int i = 0; i < 600; ++i) tokens.push_back(static_cast<std::int32_t>(rng.below(131)));
    auto session = Session::create(plan, {.n_threads = 2, .n_context = 600, .max_batch = 300});
    EXPECT_TRUE((*session)->forward(0, tokens, BatchItem::Logits::last).ok());
    return {(*session)->logits().begin(), (*session)->logits().end()};
}

// Every segment that works in tiles, with its rows.
std::vector<std::pair<LinearSegment*, std::int64_t>> segments_of(const Plan& plan) {
    std::vector<std::pair<LinearSegment*, std::int64_t>> found;
    for (const auto& step : plan.programs[n_buckets - 1].steps)
        for_each_tiled_segment(*step, 2, [&](LinearSegment& segment, std::int64_t rows) { found.emplace_back(&segment, rows); });
    return found;
}

std::string fresh_folder(const std::string& name) {
    const std::string folder = ::testing::TempDir() + "skiff_tiles_" + name + "_" + std::to_string(::getpid());
    std::filesystem::remove_all(folder);
    return folder;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) { return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0; }

TEST(Tiles, NoCandidateChangesABit) {
    if (best_isa() == Isa::generic) GTEST_SKIP() << "the plain kernels have no tiles";
    const ModelSpec spec = small_spec();
    for (const char* scheme : {"w4g32", "w2g16a", "w8"}) {
        const auto plain = plan_with(spec, scheme, nullptr);
        const auto expected = logits_of(plain);
        const auto segments = segments_of(*plain);
        ASSERT_GE(segments.size(), 2u * 7);
        for (const LinearTiles& tiles : tile_candidates(512, 300)) {
            auto table = std::make_shared<TileTable>();
            for (const auto& [segment, rows] : segments)
                for (std::size_t bucket = 0; bucket < n_tile_buckets; ++bucket) table->set(tile_key(*segment, rows, bucket, 2), {tiles, 1});
            const auto tuned = plan_with(spec, scheme, table);
            for (const auto& [segment, rows] : segments_of(*tuned)) EXPECT_EQ(segment->tiles[1], tiles);
            EXPECT_TRUE(same_bits(expected, logits_of(tuned))) << scheme << ": " << tiles.tokens << ", " << tiles.rows << ", " << tiles.columns;
        }
    }
}

TEST(Tiles, TuningKnowsEveryShapeAndItsFileComesBack) {
    if (best_isa() == Isa::generic) GTEST_SKIP() << "the plain kernels have no tiles";
    const ModelSpec spec = small_spec();
    const auto plan = plan_with(spec, "w4g32", nullptr);
    auto found = tune_tiles(*plan, {.n_threads = 2, .max_tokens = 256, .seconds = 0.2, .progress = {}});
    ASSERT_TRUE(found.ok()) << found.error().to_string();
    EXPECT_FALSE(found->empty());
    for (const auto& [segment, rows] : segments_of(*plan)) {
        if (segment->name.find("head") != std::string::npos) continue;
        for (std::size_t bucket = 0; bucket < 2; ++bucket) EXPECT_NE(found->find(tile_key(*segment, rows, bucket, 2)), nullptr) << segment->name;
    }
    const std::string path = join_path(fresh_folder("round"), "deep/tiles.json");
    ASSERT_TRUE(found->write(path).ok());
    const TileTable back = TileTable::read(path);
    EXPECT_TRUE(back.note().empty()) << back.note();
    ASSERT_EQ(back.entries().size(), found->entries().size());
    for (const auto& [key, entry] : found->entries()) EXPECT_EQ(back.find(key)->tiles, entry.tiles);
}

TEST(Tiles, AFileThatCannotBeUsedIsIgnoredAndReplaced) {
    const std::string path = join_path(fresh_folder("bad"), "tiles.json");
    TileTable table;
    table.set({"linear_w4_r16_avx2", 128, 256, 256, 2}, {{64, 32, 256}, 1.02});
    EXPECT_TRUE(TileTable::read(path).empty());
    EXPECT_TRUE(TileTable::read(path).note().empty()) << "no file is no reason to complain";
    ASSERT_TRUE(table.write(path).ok());
    const std::string good = *read_text_file(path, 1 << 20);
    const auto replaced = [&](const std::string& what, const std::string& with) {
        std::string text = good;
        const std::size_t at = text.find(what);
        EXPECT_NE(at, std::string::npos) << what;
        return text.replace(at, what.size(), with);
    };
    const std::string bad[] = {"",
                               good.substr(0, good.size() / 2),
                               "[1, 2]",
                               replaced("\"version\": 1", "\"version\": 2"),
                               replaced("\"skiff tiles\"", "\"others\""),
                               replaced(tile_machine(), "Another Processor, caches 1 KiB"),
                               replaced(SKIFF_VERSION, "0.0.0"),
                               replaced("\"tokens_at_once\": 64", "\"tokens_at_once\": -64"),
                               replaced("\"columns_at_once\": 256", "\"columns_at_once\": 250"),
                               replaced("\"rows_at_once\": 32", "\"rows_at_once\": \"32\""),
                               replaced("\"rows\": 128", "\"rows\": 1e99")};
    for (const std::string& text : bad) {
        std::ofstream(path, std::ios::trunc) << text;
        const TileTable read = TileTable::read(path);
        EXPECT_TRUE(read.empty()) << text;
        EXPECT_NE(read.note().find("not used"), std::string::npos) << text;
        ASSERT_TRUE(table.write(path).ok());
        EXPECT_EQ(TileTable::read(path).entries().size(), 1u);
    }
}

TEST(Tiles, WritersKeepWhatOthersFound) {
    const std::string path = join_path(fresh_folder("two"), "tiles.json");
    std::vector<std::thread> writers;
    for (int writer = 0; writer < 4; ++writer)
        writers.emplace_back([&, writer] {
            for (int i = 0; i < 5; ++i) {
                TileTable mine;
                mine.set({"kernel" + std::to_string(writer), 16 + i, 32, 256, 2}, {{64, 0, 0}, 1.1});
                EXPECT_TRUE(mine.write(path).ok());
                EXPECT_TRUE(TileTable::read(path).note().empty());
            }
        });
    for (auto& writer : writers) writer.join();
    EXPECT_EQ(TileTable::read(path).entries().size(), 20u);
}

TEST(Tiles, AFullFileGivesWayToWhatIsFoundLast) {
    const std::string path = join_path(fresh_folder("full"), "tiles.json");
    for (int part = 0; part < 2; ++part) {
        TileTable many;
        for (int i = 0; i < 2500; ++i) many.set({"kernel" + std::to_string(part), 16 + i, 32, 256, 2}, {{64, 0, 0}, 1.1});
        ASSERT_TRUE(many.write(path).ok());
        EXPECT_EQ(TileTable::read(path).entries().size(), 2500u);
    }
    TileTable too_many;
    for (int i = 0; i < 5000; ++i) too_many.set({"k", 16 + i, 32, 256, 2}, {{64, 0, 0}, 1.1});
    EXPECT_FALSE(too_many.write(path).ok());
    EXPECT_EQ(TileTable::read(path).entries().size(), 2500u);
}

TEST(Tiles, AFolderThatCannotBeMadeIsAnError) {
    TileTable table;
    table.set({"k", 1, 1, 128, 1}, {});
    EXPECT_FALSE(table.write("/proc/nowhere/tiles.json").ok());
}

}  // namespace
}  // namespace skiff
