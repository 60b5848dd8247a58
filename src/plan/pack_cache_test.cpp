// Packed weights come back from the cache as they were, or not at all.
#include "plan/pack_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <thread>

#include "base/atomic_file.h"
#include "base/memory_pages.h"
#include "kernels/layouts.h"
#include "kernels/linear_testing.h"
#include "model/arch/arch.h"
#include "model/pruned_on_load.h"
#include "plan/pack_file_writer.h"
#include "plan/packing_fingerprint.h"
#include "plan/session.h"

namespace skiff {
namespace {

constexpr const char* config_text =
    R"({"model_type": "llama", "hidden_size": 96, "intermediate_size": 172, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 131, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": false})";

std::string fresh_folder(const std::string& name) {
    const std::string folder = ::testing::TempDir() + "skiff_pack_cache_" + name + "_" + std::to_string(::getpid());
    std::filesystem::remove_all(folder);
    return folder;
}

// Counts what is loaded, and may be without a name.
class Watched final : public WeightSource {
public:
    explicit Watched(std::shared_ptr<WeightSource> source) : source_(std::move(source)) {}
    bool contains(const std::string& key) const override { return source_->contains(key); }
    std::vector<std::string> keys() const override { return source_->keys(); }
    std::string identity() const override { return named ? source_->identity() : std::string(); }
    Result<Weight> load(const std::string& key) const override {
        auto weight = source_->load(key);
        if (weight.ok() && weight->shape.size() == 2) ++n_matrices;
        return weight;
    }
    bool named = true;
    mutable int n_matrices = 0;

private:
    std::shared_ptr<WeightSource> source_;
};

struct Model {
    ModelSpec spec = *build_spec(*Json::parse(config_text));
    std::shared_ptr<Watched> weights;
    explicit Model(const char* scheme_name, std::uint64_t seed = 5) {
        std::shared_ptr<WeightSource> source = random_weights(spec, DType::bf16, seed);
        if (scheme_name != nullptr) {
            source = quantized_on_load(
                spec, source, [spec = spec, scheme = *parse_scheme(scheme_name)](const std::string& key) { return spec.tensors.at(key).role == TensorDecl::Role::linear ? &scheme : nullptr; },
                ScaleRule::min_max);
        }
        weights = std::make_shared<Watched>(source);
    }
};

PlanOptions cached_in(const std::string& folder) {
    PlanOptions options;
    options.pack_cache.folder = folder;
    options.pack_cache.min_bytes = 0;
    options.n_load_threads = 2;
    return options;
}

std::shared_ptr<const Plan> plan_of(const Model& model, const PlanOptions& options) {
    auto plan = lower(model.spec, *model.weights, options);
    EXPECT_TRUE(plan.ok()) << plan.error().to_string();
    return *plan;
}

std::vector<float> logits_of(std::shared_ptr<const Plan> plan) {
    auto session = Session::create(std::move(plan), {.n_threads = 2, .n_context = 64});
    const std::vector<std::int32_t> tokens = {5, 77, 130, 2, 9, 9};
    EXPECT_TRUE((*session)->forward(0, tokens, BatchItem::Logits::all).ok());
    return {(*session)->logits().begin(), (*session)->logits().end()};
}

std::string only_file(const std::string& folder) {
    const auto entries = list_pack_cache(folder);
    EXPECT_EQ(entries.size(), 1u);
    return entries.empty() ? std::string() : entries[0].path;
}

std::vector<std::byte> bytes_of(const std::string& path) {
    const std::string text = *read_text_file(path, std::size_t{1} << 30);
    const auto view = std::as_bytes(std::span(text));
    return {view.begin(), view.end()};
}

void put_bytes(const std::string& path, std::span<const std::byte> bytes) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

using Outcome = PackCache::Outcome;

TEST(PackCache, the_second_start_loads_no_matrix_and_gives_the_same_bits) {
    for (Isa isa : all_isas)
        for (const char* scheme : {static_cast<const char*>(nullptr), "w4g32", "w4g64a", "w8"}) {
            if (!isa_available(isa)) continue;
            const std::string folder = fresh_folder("twice");
            const Model model(scheme);
            PlanOptions plain;
            plain.isa = isa;
            const auto expected = logits_of(plan_of(model, plain));
            PlanOptions options = cached_in(folder);
            options.isa = isa;
            auto first = plan_of(model, options);
            EXPECT_EQ(first->pack_cache, Outcome::written) << first->pack_cache_note;
            EXPECT_EQ(logits_of(first), expected);
            model.weights->n_matrices = 0;
            auto second = plan_of(model, options);
            EXPECT_EQ(second->pack_cache, Outcome::hit) << second->pack_cache_note;
            EXPECT_EQ(model.weights->n_matrices, 0);
            EXPECT_EQ(second->weight_bytes, first->weight_bytes);
            EXPECT_EQ(logits_of(second), expected);
            // What was made may be removed while it is in use.
            std::filesystem::remove_all(folder);
            EXPECT_EQ(logits_of(second), expected);
        }
}

// From the cache, packed just now and kept, packed and not kept; as_stored: the plain numbers of the second scheme.
TEST(PackCache, weights_in_huge_pages_give_the_same_bits_wherever_they_came_from) {
    if (huge_page_setting() == "never") GTEST_SKIP() << "huge pages are switched off on this machine";
    for (const char* scheme : {"w4g64a", static_cast<const char*>(nullptr)}) {
        const Model model(scheme);
        const auto expected = logits_of(plan_of(model, {}));
        PlanOptions options = cached_in(fresh_folder("huge"));
        options.weight_pages = WeightPages::huge;
        for (const Outcome outcome : {Outcome::written, Outcome::hit}) {
            const auto plan = plan_of(model, options);
            EXPECT_EQ(plan->pack_cache, outcome) << plan->pack_cache_note;
            EXPECT_GT(plan->huge_page_bytes, plan->weight_bytes / 2);
            std::filesystem::remove_all(outcome == Outcome::hit ? options.pack_cache.folder : "");
            EXPECT_EQ(logits_of(plan), expected);
        }
        options.pack_cache = {};
        const auto uncached = plan_of(model, options);
        EXPECT_EQ(uncached->pack_cache, Outcome::off);
        EXPECT_GT(uncached->huge_page_bytes, uncached->weight_bytes / 2);
        for (const auto& weight : uncached->weights) EXPECT_EQ(weight->buffer.size_bytes(), 0u) << "in memory twice";
        EXPECT_EQ(logits_of(uncached), expected);
        options.weight_pages = WeightPages::automatic;
        EXPECT_EQ(plan_of(model, options)->huge_page_bytes, 0u) << "so few weights gain nothing";
    }
}

TEST(PackCache, another_model_scheme_or_instruction_set_is_another_file) {
    const std::string folder = fresh_folder("keys");
    EXPECT_EQ(plan_of(Model("w4g32"), cached_in(folder))->pack_cache, Outcome::written);
    EXPECT_EQ(plan_of(Model("w4g32", 6), cached_in(folder))->pack_cache, Outcome::written);
    EXPECT_EQ(plan_of(Model("w8"), cached_in(folder))->pack_cache, Outcome::written);
    PlanOptions reference = cached_in(folder);
    reference.kernels = KernelChoice::reference;
    EXPECT_EQ(plan_of(Model("w4g32"), reference)->pack_cache, Outcome::written);
    EXPECT_EQ(list_pack_cache(folder).size(), 4u);
    EXPECT_EQ(plan_of(Model("w4g32"), cached_in(folder))->pack_cache, Outcome::hit);
    Model unnamed("w4g32");
    unnamed.weights->named = false;
    EXPECT_EQ(plan_of(unnamed, cached_in(folder))->pack_cache, Outcome::off);
}

TEST(PackCache, a_part_of_a_model_completes_what_another_part_wrote) {
    const std::string folder = fresh_folder("parts");
    const Model model("w4g32");
    PlanOptions part = cached_in(folder);
    part.last_block = 1;
    EXPECT_EQ(plan_of(model, part)->pack_cache, Outcome::written);
    auto whole = plan_of(model, cached_in(folder));
    EXPECT_EQ(whole->pack_cache, Outcome::written);
    EXPECT_EQ(logits_of(whole), logits_of(plan_of(model, {})));
    EXPECT_EQ(plan_of(model, cached_in(folder))->pack_cache, Outcome::hit);
    EXPECT_EQ(plan_of(model, part)->pack_cache, Outcome::hit);
}

TEST(PackCache, a_damaged_file_is_noticed_and_replaced) {
    const std::string folder = fresh_folder("damage");
    const Model model("w4g32");
    plan_of(model, cached_in(folder));
    const std::string path = only_file(folder);
    const auto good = bytes_of(path);
    const auto expected = logits_of(plan_of(model, {}));
    std::vector<std::vector<std::byte>> bad;
    for (std::size_t at : {std::size_t{0}, std::size_t{9}, std::size_t{70}, good.size() / 2, good.size() - 500, good.size() - 100, good.size() - 50, good.size() - 1}) {
        bad.push_back(good);
        bad.back()[at] ^= std::byte{16};
    }
    for (std::size_t size : {std::size_t{0}, std::size_t{63}, std::size_t{127}, good.size() / 2, good.size() - 64, good.size() - 1}) bad.emplace_back(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
    bad.push_back(good);
    bad.back().push_back(std::byte{0});
    for (const auto& bytes : bad) {
        put_bytes(path, bytes);
        auto plan = plan_of(model, cached_in(folder));
        EXPECT_EQ(plan->pack_cache, Outcome::written);
        EXPECT_NE(plan->pack_cache_note.find("packed again"), std::string::npos) << plan->pack_cache_note;
        EXPECT_EQ(logits_of(plan), expected);
        EXPECT_EQ(bytes_of(path), good);
    }
}

// A file whose checksums are right and whose fields lie.
TEST(PackCache, fields_that_do_not_fit_the_layout_are_refused) {
    const std::string folder = fresh_folder("hostile");
    const Model model("w4g32a");  // the 172 columns have six groups: enough for zeros and minimums to differ behind the padding of tiles
    plan_of(model, cached_in(folder));
    const auto good = bytes_of(only_file(folder));
    auto refused = [&](const std::function<void(PackIndex&)>& change) {
        PackIndex index = *parse_pack_file(good);
        change(index);
        std::vector<std::byte> bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(index.data_bytes));
        const auto tail = pack_index_bytes(index);
        bytes.insert(bytes.end(), tail.begin(), tail.end());
        return !parse_pack_file(bytes).ok();
    };
    auto packed = [](PackIndex& index) -> PackRecord& {
        for (PackRecord& record : index.records)
            if (record.weight.scheme.bits == 4) return record;
        return index.records[0];
    };
    EXPECT_FALSE(refused([](PackIndex&) {}));
    EXPECT_TRUE(refused([&](PackIndex& index) { packed(index).weight.n_rows += 100; }));
    EXPECT_TRUE(refused([&](PackIndex& index) { packed(index).weight.n_rows = -1; }));
    EXPECT_TRUE(refused([&](PackIndex& index) { packed(index).weight.n_columns = INT64_MAX; }));
    EXPECT_TRUE(refused([&](PackIndex& index) { packed(index).weight.n_columns = 0; }));
    EXPECT_TRUE(refused([&](PackIndex& index) { packed(index).weight.scheme.bits = 0; }));
    EXPECT_TRUE(refused([&](PackIndex& index) { packed(index).weight.scheme.bits = 8; }));
    EXPECT_TRUE(refused([&](PackIndex& index) { packed(index).weight.scheme.group_size = -32; }));
    EXPECT_TRUE(refused([&](PackIndex& index) { packed(index).weight.scheme.group_size = 1; }));
    EXPECT_TRUE(refused([&](PackIndex& index) { packed(index).weight.scheme.kind = NumberKind::floating; }));
    EXPECT_TRUE(refused([&](PackIndex& index) { packed(index).weight.scheme.kind = NumberKind::codebook; }));
    EXPECT_TRUE(refused([&](PackIndex& index) { packed(index).weight.scheme.codebook = find_codebook("n4"); }));
    EXPECT_TRUE(refused([&](PackIndex& index) { packed(index).weight.scheme.scale_dtype = DType::i8; }));
    EXPECT_TRUE(refused([&](PackIndex& index) {
        for (PackRecord& record : index.records) record.weight.scheme.minimums = record.weight.scheme.bits == 4;
    }));
    EXPECT_TRUE(refused([&](PackIndex& index) { packed(index).weight.scheme.minimums = packed(index).weight.scheme.symmetric = true; }));
    EXPECT_TRUE(refused([&](PackIndex& index) { packed(index).weight.scheme.super_size = -1; }));
    EXPECT_TRUE(refused([&](PackIndex& index) { packed(index).weight.dtype = DType::i8; }));
    EXPECT_TRUE(refused([&](PackIndex& index) { packed(index).weight.read_bytes = UINT64_MAX; }));
    EXPECT_TRUE(refused([&](PackIndex& index) { packed(index).weight.layout = &plain_rows; }));
    EXPECT_TRUE(refused([&](PackIndex& index) { packed(index).sizes.data -= 1; }));
    EXPECT_TRUE(refused([&](PackIndex& index) { packed(index).offsets[0] = index.data_bytes; }));
    EXPECT_TRUE(refused([&](PackIndex& index) { packed(index).offsets[0] = UINT64_MAX - 4095; }));
    EXPECT_TRUE(refused([&](PackIndex& index) { packed(index).offsets[0] += 1; }));
    EXPECT_TRUE(refused([&](PackIndex& index) { index.block_hashes.clear(); }));
}

TEST(PackCache, every_layout_comes_back_with_all_its_sections) {
    std::set<std::string_view> seen;
    ThreadPool pool(2);
    for (const Weight& weight : testing::weights_of_all_kinds(40, 256))
        for (const Layout* layout : layout_table()) {
            if (!layout->accepts(weight) || layout->sections == nullptr) continue;
            seen.insert(layout->name);
            PackedWeight packed = pack_weight(*layout, weight, {3, 33, 33, 1});
            PackIndex index;
            PackRecord& record = index.records.emplace_back();
            record.key = "k";
            copy_packed_fields(packed, record.weight);
            for (const PackSection& section : pack_sections) record.weight.*section.pointer = packed.*section.pointer;
            record.sizes = *layout->sections(packed);
            place_sections(index);
            const std::string path = ::testing::TempDir() + "skiff_every_layout.pack";
            auto file = write_pack_file(path, index, pool);
            ASSERT_TRUE(file.ok()) << file.error().to_string();
            auto read = parse_pack_file((*file)->bytes());
            ASSERT_TRUE(read.ok()) << layout->name << ": " << read.error().to_string();
            ASSERT_TRUE(verify_blocks((*file)->bytes(), *read, pool).ok());
            PackedWeight back;
            copy_packed_fields(read->records[0].weight, back);
            for (std::size_t i = 0; i < n_pack_sections; ++i)
                if (read->records[0].sizes.*pack_sections[i].size > 0) back.*pack_sections[i].pointer = (*file)->bytes().data() + read->records[0].offsets[i];
            EXPECT_EQ(back.read_bytes, packed.read_bytes);
            back.layout = layout;
            EXPECT_TRUE(layout->intact == nullptr || layout->intact(back, read->records[0].sizes)) << layout->name << ' ' << weight.encoding_name();
            std::vector<float> expected(256), row(256);
            for (std::int64_t r = 0; r < 33; ++r) {
                layout->row(packed, r, expected.data());
                layout->row(back, r, row.data());
                ASSERT_TRUE(testing::same_bits(row, expected)) << layout->name << ' ' << weight.encoding_name() << " row " << r;
            }
            EXPECT_NE(packing_fingerprint(packed), 0u) << layout->name << ' ' << weight.encoding_name();
        }
    for (const Layout* layout : layout_table()) EXPECT_NE(seen.count(layout->name) != 0, layout == &sparse_rows) << layout->name;
}

// A record names a layout and a scheme: only pairs that can have been packed are believed.
TEST(PackCache, layouts_have_sections_of_the_schemes_that_they_accept) {
    int n_pairs = 0;
    for (const Weight& weight : testing::weights_of_all_kinds(40, 256)) {
        if (weight.codes() == nullptr) continue;
        for (const Layout* layout : layout_table()) {
            if (layout->sections == nullptr || !layout->begin) continue;
            PackedWeight record;
            record.n_rows = 40, record.n_columns = 256;
            record.scheme = weight.codes()->scheme;
            record.layout = layout;
            if (!layout->accepts(weight)) {
                EXPECT_FALSE(layout->sections(record).has_value()) << layout->name << ' ' << weight.encoding_name();
                ++n_pairs;
            }
        }
    }
    EXPECT_GT(n_pairs, 100);
}

TEST(PackCache, schemes_of_learnt_books_that_nothing_rounds_to_have_no_fingerprint) {
    PackedWeight like;
    like.layout = nullptr;
    for (const Layout* layout : layout_table())
        if (std::string_view(layout->name) == "vectors_r16") like.layout = layout;
    ASSERT_NE(like.layout, nullptr);
    like.scheme = *parse_scheme("v4k256g32r");
    EXPECT_NE(packing_fingerprint(like), 0u);
    like.scheme.scale_dtype = DType::u8;
    EXPECT_EQ(packing_fingerprint(like), 0u);
}

TEST(PackCache, without_a_folder_that_can_be_written_weights_are_packed_as_ever) {
    const std::string folder = fresh_folder("file");
    ASSERT_TRUE(write_file_atomic(folder, "a file where the folder should be").ok());
    const Model model("w4g32");
    auto plan = plan_of(model, cached_in(folder));
    EXPECT_EQ(plan->pack_cache, Outcome::none);
    EXPECT_NE(plan->pack_cache_note.find("could not be kept"), std::string::npos) << plan->pack_cache_note;
    EXPECT_EQ(logits_of(plan), logits_of(plan_of(model, {})));
    std::filesystem::remove(folder);
    PlanOptions small = cached_in(fresh_folder("small"));
    small.pack_cache.min_bytes = 1 << 30;
    EXPECT_EQ(plan_of(model, small)->pack_cache, Outcome::none);
    EXPECT_TRUE(list_pack_cache(small.pack_cache.folder).empty());
    PlanOptions full = cached_in(fresh_folder("full"));
    full.pack_cache.max_bytes = 100;
    EXPECT_NE(plan_of(model, full)->pack_cache_note.find("larger"), std::string::npos);
}

TEST(PackCache, the_least_recently_used_file_goes_first) {
    const std::string folder = fresh_folder("lru");
    std::vector<std::string> paths;
    for (std::uint64_t seed : {1, 2, 3}) {
        EXPECT_EQ(plan_of(Model("w4g32", seed), cached_in(folder))->pack_cache, Outcome::written);
        paths.push_back(list_pack_cache(folder)[0].path);
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    EXPECT_EQ(plan_of(Model("w4g32", 1), cached_in(folder))->pack_cache, Outcome::hit);  // now the most recent
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    PlanOptions room_for_three = cached_in(folder);
    room_for_three.pack_cache.max_bytes = list_pack_cache(folder)[0].size_bytes * 7 / 2;
    EXPECT_EQ(plan_of(Model("w4g32", 4), room_for_three)->pack_cache, Outcome::written);
    EXPECT_TRUE(file_exists(paths[0]));
    EXPECT_FALSE(file_exists(paths[1]));
    EXPECT_TRUE(file_exists(paths[2]));
    ASSERT_TRUE(clear_pack_cache(folder).ok());
    EXPECT_TRUE(list_pack_cache(folder).empty());
}

TEST(PackCache, two_at_once_and_one_that_was_killed) {
    const std::string folder = fresh_folder("both");
    const Model model("w4g32");
    const auto expected = logits_of(plan_of(model, {}));
    std::vector<std::thread> threads;
    for (int i = 0; i < 2; ++i)
        threads.emplace_back([&] {
            for (int round = 0; round < 10; ++round) {
                const Model mine("w4g32");
                if (round % 3 == 0) {
                    EXPECT_TRUE(clear_pack_cache(folder).ok());
                }
                EXPECT_EQ(logits_of(plan_of(mine, cached_in(folder))), expected);
            }
        });
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(plan_of(model, cached_in(folder))->pack_cache, Outcome::hit);
    // The rest of a dead process: a temporary that nobody holds a lock on.
    const std::string path = only_file(folder), dead = path + ".tmp1.0";
    ASSERT_TRUE(write_file_atomic(dead, "half").ok());
    EXPECT_EQ(plan_of(Model("w8"), cached_in(folder))->pack_cache, Outcome::written);
    EXPECT_FALSE(file_exists(dead));
    EXPECT_EQ(plan_of(model, cached_in(folder))->pack_cache, Outcome::hit);
}

// Pruned weights hold offsets and counts among their bytes. With any of them changed, the weight is refused or reads nothing outside of itself.
TEST(PackCache, offsets_of_pruned_weights_stay_inside) {
    int n_refused = 0;
    for (const Weight& weight : testing::weights_of_all_kinds(40, 256))
        for (const Layout* layout : layout_table()) {
            if (!layout->accepts(weight) || layout->intact == nullptr) continue;
            const PackedWeight packed = pack_weight(*layout, weight, RowMap::all(40));
            const SectionBytes sizes = *layout->sections(packed);
            ASSERT_TRUE(layout->intact(packed, sizes)) << layout->name;
            SectionBytes shorter = sizes;
            (shorter.scales > 0 ? shorter.scales : shorter.data) -= 2;
            EXPECT_TRUE(sizes.scales == 0 || !layout->intact(packed, shorter)) << layout->name;
            for (std::uint64_t at = 0; at < sizes.data; at += at < 512 ? 4 : 52) {
                std::vector<std::byte> bytes(packed.data, packed.data + sizes.data);
                bytes.resize(bytes.size() + 64);
                for (std::uint64_t i = at; i < std::min(at + 4, sizes.data); ++i) bytes[i] = static_cast<std::byte>(0x7f);
                PackedWeight changed;
                copy_packed_fields(packed, changed);
                changed.data = bytes.data();
                changed.scales = packed.scales, changed.zeros = packed.zeros;
                if (!layout->intact(changed, sizes)) {
                    ++n_refused;
                    continue;
                }
                std::vector<float> row(256);
                for (std::int64_t r = 0; r < 40; ++r) layout->row(changed, r, row.data());  // the sanitizers watch
            }
        }
    EXPECT_GT(n_refused, 100);
}

TEST(PackCache, pruned_weights_come_back) {
    for (const char* target : {"50%", "4x1:50%", "block16x32:50%"})
        for (const char* scheme : {"w8g32", "w4g32r"}) {
            SCOPED_TRACE(std::string(target) + " " + scheme);
            const std::string folder = fresh_folder("pruned");
            Model model(nullptr);
            model.weights = std::make_shared<Watched>(pruned_on_load(
                model.spec, random_weights(model.spec, DType::bf16, 5), *parse_prune_target(target),
                [spec = model.spec, scheme = *parse_scheme(scheme)](const std::string& key) { return spec.tensors.at(key).role == TensorDecl::Role::linear ? &scheme : nullptr; }, ScaleRule::min_max));
            const auto first = plan_of(model, cached_in(folder));
            EXPECT_EQ(first->pack_cache, Outcome::written) << first->pack_cache_note;
            const auto expected = logits_of(first);
            model.weights->n_matrices = 0;
            const auto second = plan_of(model, cached_in(folder));
            EXPECT_EQ(second->pack_cache, Outcome::hit) << second->pack_cache_note;
            if (best_isa() != Isa::generic) {
                EXPECT_EQ(model.weights->n_matrices, 0);
            }
            EXPECT_TRUE(testing::same_bits(expected, logits_of(second)));
        }
}

// What a change of the packing code would do: the file says another fingerprint, or another version.
TEST(PackCache, weights_of_other_packing_code_are_packed_again) {
    const std::string folder = fresh_folder("code");
    const Model model("w4g32");
    plan_of(model, cached_in(folder));
    const std::string path = only_file(folder);
    const auto good = bytes_of(path);
    for (int what : {0, 1}) {
        PackIndex index = *parse_pack_file(good);
        if (what == 0) ++index.records[1].fingerprint;
        else ++index.records[1].layout_version;
        std::vector<std::byte> bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(index.data_bytes));
        const auto tail = pack_index_bytes(index);
        bytes.insert(bytes.end(), tail.begin(), tail.end());
        put_bytes(path, bytes);
        EXPECT_EQ(plan_of(model, cached_in(folder))->pack_cache, Outcome::written);
        EXPECT_EQ(bytes_of(path), good);
    }
}

}  // namespace
}  // namespace skiff
