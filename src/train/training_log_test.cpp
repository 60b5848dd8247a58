#include "train/training_log.h"

#include "corpus/corpus_testing.h"

namespace skiff::train {
namespace {

StepReport report_of(std::int64_t step) {
    StepReport report;
    report.step = step;
    report.loss = 5.0 / static_cast<double>(step);
    report.learning_rate = 0.001;
    report.gradient_norm = 0.5;
    report.seconds = static_cast<double>(step) / 4;
    return report;
}

void write_steps(TrainingLog& log, std::int64_t first, std::int64_t last) {
    for (std::int64_t step = first; step <= last; ++step) {
        ASSERT_TRUE(log.add_step(report_of(step), step * 100).ok());
        if (step % 2 == 0) {
            ASSERT_TRUE(log.add_validation(step, step * 100, 4.0 / static_cast<double>(step)).ok());
        }
    }
}

TEST(TrainingLog, RowsAreNumbersAsWritten) {
    TestFolder folder;
    auto log = TrainingLog::open(folder.path("."), 0);
    ASSERT_TRUE(log.ok());
    EXPECT_EQ(log->first_loss(), 0);
    write_steps(*log, 1, 3);
    EXPECT_EQ(folder.read("train.csv"), "step,tokens,loss,learning_rate,gradient_norm,seconds\n1,100,5,0.001,0.5,0.250\n2,200,2.5,0.001,0.5,0.500\n3,300,1.66666667,0.001,0.5,0.750\n");
    EXPECT_EQ(folder.read("validation.csv"), "step,tokens,loss\n2,200,2\n");
    EXPECT_EQ(log->first_loss(), 5);
}

// A killed run has written rows of steps that its state does not know; they are written again.
TEST(TrainingLog, RowsBehindTheStepAreDropped) {
    TestFolder folder, whole;
    auto before = TrainingLog::open(folder.path("."), 0), straight = TrainingLog::open(whole.path("."), 0);
    write_steps(*straight, 1, 8);
    write_steps(*before, 1, 7);
    auto after = TrainingLog::open(folder.path("."), 4);
    ASSERT_TRUE(after.ok());
    EXPECT_EQ(after->first_loss(), 5);
    write_steps(*after, 5, 8);
    for (const char* name : {"train.csv", "validation.csv"}) EXPECT_EQ(folder.read(name), whole.read(name));
}

TEST(TrainingLog, ABrokenLastLineIsDropped) {
    for (const char* broken : {"5,500,1.0", "5", "5,500,1,0.001,0.5,1.2", "garbage"}) {
        TestFolder folder;
        auto before = TrainingLog::open(folder.path("."), 0);
        write_steps(*before, 1, 4);
        const std::string intact = folder.read("train.csv");
        folder.write("train.csv", intact + broken);
        auto after = TrainingLog::open(folder.path("."), 5);
        ASSERT_TRUE(after.ok());
        EXPECT_EQ(folder.read("train.csv"), intact) << broken;
    }
}

// A run that died before its first state begins anew.
TEST(TrainingLog, WithoutAStateNothingIsTakenOver) {
    TestFolder folder;
    auto before = TrainingLog::open(folder.path("."), 0);
    write_steps(*before, 1, 4);
    auto after = TrainingLog::open(folder.path("."), 0);
    ASSERT_TRUE(after.ok());
    EXPECT_EQ(folder.read("train.csv"), "step,tokens,loss,learning_rate,gradient_norm,seconds\n");
    EXPECT_EQ(folder.read("validation.csv"), "step,tokens,loss\n");
}

TEST(TrainingLog, AFileOfSomethingElseIsAnError) {
    TestFolder folder;
    folder.write("train.csv", "header\n1,words\n");
    auto log = TrainingLog::open(folder.path("."), 3);
    ASSERT_FALSE(log.ok());
    EXPECT_NE(log.error().to_string().find("--restart"), std::string::npos);
}

TEST(TrainingLog, TheFolderMustBeThere) { EXPECT_FALSE(TrainingLog::open("/nowhere/at/all", 0).ok()); }

TEST(TrainingLog, ThePictureHasBothLines) {
    TestFolder folder;
    auto log = TrainingLog::open(folder.path("."), 0);
    write_steps(*log, 1, 250);
    ASSERT_TRUE(log->write_plot("a<b").ok());
    const std::string picture = folder.read("loss.svg");
    EXPECT_EQ(picture.find("a<b"), std::string::npos) << "not escaped";
    for (const char* word : {"<svg", "</svg>", "training", "validation", "a&lt;b"}) EXPECT_NE(picture.find(word), std::string::npos) << word;
    TestFolder empty;
    auto nothing = TrainingLog::open(empty.path("."), 0);
    EXPECT_TRUE(nothing->write_plot("nothing yet").ok());
}

}  // namespace
}  // namespace skiff::train
