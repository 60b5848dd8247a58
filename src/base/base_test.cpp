#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>

#include "base/atomic_file.h"
#include "base/checked.h"
#include "base/cpu_features.h"
#include "base/glob.h"
#include "base/hash.h"
#include "base/mapped_file.h"
#include "base/rng.h"
#include "base/span_reader.h"
#include "base/thread_pool.h"

namespace skiff {
namespace {

std::string scratch(const std::string& name) { return ::testing::TempDir() + "skiff_base_" + name; }

TEST(Checked, ProductTestsEachPartialProduct) {
    const std::int64_t hidden_by_zero[] = {INT64_MAX, 2, 0};
    EXPECT_FALSE(checked_product(hidden_by_zero));
    const std::int64_t fine[] = {3, 0, 7};
    EXPECT_EQ(checked_product(fine), 0);
    const std::int64_t negative[] = {-1, 4};
    EXPECT_FALSE(checked_product(negative));
}

TEST(SpanReader, TruncationNamesPositionAndNeed) {
    std::byte bytes[6] = {};
    SpanReader reader(bytes);
    EXPECT_TRUE(reader.read<std::uint32_t>("a").ok());
    auto error = reader.read<std::uint64_t>("length").error();
    EXPECT_EQ(error.code, ErrorCode::corrupt);
    EXPECT_EQ(error.message, "truncated at byte 4: length needs 8 bytes, 2 are left");
    EXPECT_FALSE(reader.take(UINT64_MAX, "blob").ok());
}

TEST(AtomicFile, AppearsOnlyOnCommit) {
    std::string path = scratch("atomic");
    std::filesystem::remove(path);
    {
        auto file = AtomicFile::create(path);
        ASSERT_TRUE(file->write("half").ok());
    }
    EXPECT_FALSE(file_exists(path));
    ASSERT_TRUE(write_file_atomic(path, "whole").ok());
    EXPECT_EQ(*read_text_file(path, 100), "whole");
    EXPECT_FALSE(read_text_file(path, 3).ok());
}

TEST(AtomicDirectory, RefusesExistingAndReplacesWhenAsked) {
    std::string path = scratch("dir");
    std::filesystem::remove_all(path);
    std::filesystem::remove_all(path + ".partial");
    auto first = AtomicDirectory::create(path, AtomicDirectory::IfExists::refuse);
    ASSERT_TRUE(first.ok());
    ASSERT_TRUE(write_file_atomic(join_path(first->working_path(), "a"), "1").ok());
    EXPECT_FALSE(is_directory(path));
    ASSERT_TRUE(first->commit().ok());
    EXPECT_EQ(AtomicDirectory::create(path, AtomicDirectory::IfExists::refuse).error().code, ErrorCode::usage);
    auto second = AtomicDirectory::create(path, AtomicDirectory::IfExists::replace);
    ASSERT_TRUE(write_file_atomic(join_path(second->working_path(), "b"), "2").ok());
    ASSERT_TRUE(second->commit().ok());
    EXPECT_FALSE(file_exists(join_path(path, "a")));
    EXPECT_TRUE(file_exists(join_path(path, "b")));
}

TEST(AtomicDirectory, OneAtATimeWorksInIt) {
    const std::string path = scratch("dir_locked");
    std::filesystem::remove_all(path + ".partial");
    {
        auto first = AtomicDirectory::create(path, AtomicDirectory::IfExists::refuse);
        ASSERT_TRUE(first.ok());
        auto second = AtomicDirectory::create(path, AtomicDirectory::IfExists::refuse);
        ASSERT_FALSE(second.ok());
        EXPECT_EQ(second.error().code, ErrorCode::resource);
        EXPECT_NE(second.error().message.find("another process"), std::string::npos);
        auto moved = std::move(*first);
        EXPECT_FALSE(AtomicDirectory::create(path, AtomicDirectory::IfExists::refuse).ok());
    }
    auto third = AtomicDirectory::create(path, AtomicDirectory::IfExists::refuse);
    ASSERT_TRUE(third.ok());
    EXPECT_TRUE(third->resumed());
    EXPECT_TRUE(third->discard().ok());
}

TEST(MappedFile, MissingAndFolderAreErrors) {
    EXPECT_EQ(MappedFile::open(scratch("absent")).error().code, ErrorCode::not_found);
    EXPECT_EQ(MappedFile::open("/tmp").error().code, ErrorCode::corrupt);
}

TEST(Hash, Sha256OfKnownText) {
    EXPECT_EQ(sha256_hex(std::as_bytes(std::span("abc", 3))), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT_EQ(hex64(0x1234), "0000000000001234");
}

TEST(ThreadPool, BarrierSeparatesPhases) {
    for (int n : {1, 2, 3, 7}) {
        ThreadPool pool(n);
        for (int repeat = 0; repeat < 50; ++repeat) {
            std::atomic<int> first{0};
            std::atomic<bool> wrong{false};
            pool.run([&](int) {
                ++first;
                pool.barrier();
                if (first != n) wrong = true;
                pool.barrier();
            });
            EXPECT_EQ(first, n);
            EXPECT_FALSE(wrong);
        }
    }
}

TEST(ThreadPool, SharesCoverTheRangeInUnits) {
    for (std::int64_t n : {0, 1, 15, 16, 17, 100}) {
        std::int64_t next = 0;
        for (int thread = 0; thread < 3; ++thread) {
            Range range = share_of(n, thread, 3, 16);
            EXPECT_EQ(range.begin, next);
            EXPECT_TRUE(range.begin % 16 == 0 || range.begin == n);
            next = range.end;
        }
        EXPECT_EQ(next, n);
    }
}

TEST(CpuFeatures, NamesParseAndUnknownIsUsage) {
    EXPECT_EQ(*parse_isa("generic"), Isa::generic);
    for (Isa isa : all_isas)
        if (isa_available(isa)) EXPECT_EQ(*parse_isa(isa_name(isa)), isa);
        else EXPECT_EQ(parse_isa(isa_name(isa)).error().code, ErrorCode::unsupported);
    const Isa elsewhere = isa_of_this_build(Isa::neon) ? Isa::avx2 : Isa::neon;  // of the other family: says so, and is not offered
    EXPECT_NE(parse_isa(isa_name(elsewhere)).error().to_string().find("another family"), std::string::npos);
    EXPECT_EQ(parse_isa("mmx").error().to_string().find(isa_name(elsewhere)), std::string::npos);
    EXPECT_EQ(parse_isa("mmx").error().code, ErrorCode::usage);
    EXPECT_GE(default_thread_count(), 1);
    EXPECT_GT(peak_resident_bytes(), 0u);
}

// AVX-VNNI is the one that a later instruction set need not have: Cascade Lake and Zen 4 have AVX-512 without it.
TEST(CpuFeatures, ALaterInstructionSetIncludesTheEarlierOnesButForAvxVnni) {
    for (Isa isa : all_isas) {
        EXPECT_TRUE(isa_includes(isa, isa) && isa_includes(isa, Isa::generic));
        if (isa != Isa::generic) EXPECT_FALSE(isa_includes(Isa::generic, isa));
    }
    EXPECT_TRUE(isa_includes(Isa::avx2vnni, Isa::avx2));
    EXPECT_TRUE(isa_includes(Isa::amx, Isa::avx512bf16) && isa_includes(Isa::avx512bf16, Isa::avx512vbmi) && isa_includes(Isa::avx512vbmi, Isa::avx512) && isa_includes(Isa::avx512, Isa::avx2));
    for (Isa isa : {Isa::avx512, Isa::avx512vbmi, Isa::avx512bf16, Isa::amx}) EXPECT_FALSE(isa_includes(isa, Isa::avx2vnni));
    EXPECT_FALSE(isa_includes(Isa::avx512, Isa::avx512vbmi));
    for (Isa isa : all_isas)  // whatever this processor has includes what it says it includes
        for (Isa other : all_isas)
            if (isa_available(isa) && isa_of_this_build(other) && isa_includes(isa, other)) EXPECT_TRUE(isa_available(other)) << isa_name(isa) << ' ' << isa_name(other);
}

TEST(Glob, StarsAndQuestionMarks) {
    for (const auto& [pattern, text] : {std::pair("*", ""), {"*", "a.b"}, {"", ""}, {"a?c", "abc"}, {"*.down_proj*", "model.layers.0.mlp.down_proj.weight"}, {"*a*b*c", "xxaxbxbxc"}, {"a*", "a"}, {"**a", "bba"}})
        EXPECT_TRUE(glob_matches(pattern, text)) << pattern << " " << text;
    for (const auto& [pattern, text] : {std::pair("", "a"), {"?", ""}, {"a?c", "ac"}, {"*.down_proj", "model.down_proj.weight"}, {"*a*b*c", "xxaxcxb"}, {"a", "A"}, {"*a", "ab"}})
        EXPECT_FALSE(glob_matches(pattern, text)) << pattern << " " << text;
    const std::string many(2000, 'a');  // no pattern takes more than its length times the text's
    EXPECT_FALSE(glob_matches("*a*a*a*a*a*a*a*a*a*a*b", many));
}

TEST(Rng, SameSeedSameNumbers) {
    Rng a(7), b(7);
    for (int i = 0; i < 100; ++i) EXPECT_EQ(a.next(), b.next());
    EXPECT_LT(Rng(1).below(10), 10u);
}

}  // namespace
}  // namespace skiff
