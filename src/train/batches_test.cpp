#include "train/batches.h"

#include <set>

#include "train/train_testing.h"

namespace skiff::train {
namespace {

std::vector<std::uint16_t> numbers_from(std::uint16_t first, std::size_t n) {
    std::vector<std::uint16_t> ids(n);
    for (std::size_t i = 0; i < n; ++i) ids[i] = static_cast<std::uint16_t>(first + i);
    return ids;
}

Result<Batches> open_files(const std::vector<std::string>& files, std::int64_t window, std::int64_t n_vocab = 300) {
    Batches::Settings settings;
    settings.files = files;
    settings.window = window;
    settings.n_vocab = n_vocab;
    return Batches::open(settings, nullptr, {}, {}, 1);
}

TEST(Batches, SeveralFilesAreOneRow) {
    TestFolder folder;
    const auto batches = open_files({write_tokens(folder, "a.tokens", numbers_from(0, 10)), write_tokens(folder, "b.tokens", numbers_from(10, 1)),
                                     write_tokens(folder, "d.tokens", numbers_from(11, 20))}, 4);
    ASSERT_TRUE(batches.ok()) << batches.error().to_string();
    EXPECT_EQ(batches->n_tokens(), 31u);
    std::vector<std::int64_t> all(31);
    batches->read(0, all.data(), 31);
    for (std::int64_t i = 0; i < 31; ++i) EXPECT_EQ(all[static_cast<std::size_t>(i)], i);
    // Windows side by side share a token: the last target is the next first input.
    EXPECT_EQ(batches->n_in_order(), 7u);
    const at::Tensor some = batches->in_order(5, 10);
    ASSERT_EQ(some.sizes(), (std::vector<std::int64_t>{2, 5}));
    for (std::int64_t row = 0; row < 2; ++row)
        for (std::int64_t i = 0; i < 5; ++i) EXPECT_EQ(some[row][i].item<std::int64_t>(), 4 * (5 + row) + i);
    EXPECT_EQ(batches->in_order(7, 3).size(0), 0);
    EXPECT_EQ(batches->in_order(100, 3).size(0), 0);
}

TEST(Batches, AShuffledWindowIsARunOfTheRow) {
    TestFolder folder;
    const std::vector<std::string> files = {write_tokens(folder, "a.tokens", numbers_from(0, 77)), write_tokens(folder, "b.tokens", numbers_from(77, 140))};
    auto batches = open_files(files, 6), again = open_files(files, 6);
    ASSERT_TRUE(batches.ok() && again.ok());
    std::set<std::int64_t> firsts;
    for (std::uint64_t window = 0; window < 40; window += 4) {
        const at::Tensor tokens = batches->shuffled(window, 4);
        for (std::int64_t row = 0; row < 4; ++row) {
            const auto first = tokens[row][0].item<std::int64_t>();
            EXPECT_EQ(static_cast<std::uint64_t>(first), batches->first_token(window + static_cast<std::uint64_t>(row)));
            for (std::int64_t i = 0; i < 7; ++i) EXPECT_EQ(tokens[row][i].item<std::int64_t>(), first + i);
            firsts.insert(first);
        }
    }
    EXPECT_GT(firsts.size(), 30u);
    // Any window at any time: what a run that goes on depends on.
    EXPECT_TRUE(at::equal(again->shuffled(33, 2), batches->shuffled(33, 2)));
}

TEST(Batches, NameTheTokensThatTheyHold) {
    TestFolder folder;
    const auto one = open_files({write_tokens(folder, "a.tokens", numbers_from(0, 30))}, 4), same = open_files({write_tokens(folder, "b.tokens", numbers_from(0, 30))}, 4);
    const auto split = open_files({write_tokens(folder, "c.tokens", numbers_from(0, 12)), write_tokens(folder, "d.tokens", numbers_from(12, 18))}, 4);
    const auto other = open_files({write_tokens(folder, "e.tokens", numbers_from(1, 30))}, 4);
    EXPECT_EQ(hash_of_tokens(*one), hash_of_tokens(*same));
    EXPECT_EQ(hash_of_tokens(*one), hash_of_tokens(*split));
    EXPECT_NE(hash_of_tokens(*one), hash_of_tokens(*other));
    // Also what lies behind the first million of them.
    std::vector<std::uint16_t> many(2'300'000);
    for (std::size_t i = 0; i < many.size(); ++i) many[i] = static_cast<std::uint16_t>(i % 251);
    const auto large = open_files({write_tokens(folder, "f.tokens", many)}, 4), large_again = open_files({write_tokens(folder, "g.tokens", many)}, 4);
    many[2'200'000] = 252;
    const auto changed = open_files({write_tokens(folder, "h.tokens", many)}, 4);
    EXPECT_EQ(hash_of_tokens(*large), hash_of_tokens(*large_again));
    EXPECT_NE(hash_of_tokens(*large), hash_of_tokens(*changed));
}

TEST(Batches, RefuseWhatDoesNotFit) {
    TestFolder folder;
    const std::string good = write_tokens(folder, "a.tokens", numbers_from(0, 30));
    auto message = [](const Result<Batches>& result) { return result.ok() ? std::string() : result.error().to_string(); };
    EXPECT_NE(message(open_files({good}, 4, 299)).find("vocabulary of 300, the model knows 299"), std::string::npos);
    EXPECT_TRUE(open_files({good}, 4, 5000).ok());  // a model's table may have more rows than the tokenizer has tokens
    EXPECT_NE(message(open_files({good}, 30)).find("fewer than one window"), std::string::npos);
    EXPECT_TRUE(open_files({good}, 29).ok());
    EXPECT_NE(message(open_files({write_tokens(folder, "b.tokens", {1, 2, 3, 300, 4, 5}, 300)}, 2)).find("300"), std::string::npos);  // an id beyond its own vocabulary
    EXPECT_FALSE(open_files({folder.path("none.tokens")}, 2).ok());
    EXPECT_NE(message(open_files({folder.write("c.txt", "text")}, 2)).find("--tokenizer"), std::string::npos);
    EXPECT_FALSE(open_files({folder.write("d.tokens", "not a token file")}, 2).ok());
}

TEST(Batches, RefuseTokensOfAnotherTokenizer) {
    TestFolder folder;
    const Tokenizer tokenizer = test_tokenizer("llama3");
    Batches::Settings settings;
    settings.files = {write_tokens(folder, "a.tokens", numbers_from(0, 30))};
    settings.window = 4;
    settings.n_vocab = 1'000'000;
    const auto other = Batches::open(settings, &tokenizer, {}, {}, 1);
    ASSERT_FALSE(other.ok());
    EXPECT_NE(other.error().to_string().find("another tokenizer"), std::string::npos);
    settings.files = {write_tokens(folder, "b.tokens", numbers_from(0, 30), 300, tokenizer_hash(tokenizer))};
    EXPECT_TRUE(Batches::open(settings, &tokenizer, {}, {}, 1).ok());
}

TEST(Batches, TextsArePackedOnce) {
    TestFolder folder;
    const Tokenizer tokenizer = test_tokenizer("llama3");
    Batches::Settings settings;
    settings.files = {folder.write("a.txt", "One text is here.<|endoftext|>And here is another one, of more words than the first.")};
    settings.packed_path = folder.path("train.tokens");
    settings.window = 4;
    settings.n_vocab = tokenizer.n_vocab();
    std::vector<std::string> remarks;
    TrainObserver observer;
    observer.on_remark = [&](const std::string& text) { remarks.push_back(text); };
    const auto first = Batches::open(settings, &tokenizer, {}, observer, 1);
    ASSERT_TRUE(first.ok()) << first.error().to_string();
    ASSERT_EQ(remarks.size(), 1u);
    EXPECT_NE(remarks[0].find("packed 2 documents"), std::string::npos) << remarks[0];
    const auto second = Batches::open(settings, &tokenizer, {}, observer, 1);
    ASSERT_TRUE(second.ok());
    EXPECT_EQ(remarks.size(), 1u);
    EXPECT_EQ(hash_of_tokens(*first), hash_of_tokens(*second));
}

}  // namespace
}  // namespace skiff::train
