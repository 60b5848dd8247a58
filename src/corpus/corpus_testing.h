// For the tests of this folder: a folder that goes away, and the small tokenizers of tests/data.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>
#include <string>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "text/tokenizer.h"

namespace skiff {

class TestFolder {
public:
    TestFolder() {
        std::string pattern = ::testing::TempDir() + "skiff_corpus_XXXXXX";
        const char* made = mkdtemp(pattern.data());
        folder_ = made ? made : "";
    }
    ~TestFolder() {
        if (!folder_.empty()) (void)remove_all(folder_);
    }
    TestFolder(const TestFolder&) = delete;
    std::string path(const std::string& name) const { return folder_ + "/" + name; }
    std::string write(const std::string& name, const std::string& bytes) const {
        std::ofstream(path(name), std::ios::binary) << bytes;
        return path(name);
    }
    std::string read(const std::string& name) const { return read_text_file(path(name), std::size_t{1} << 30).value(); }

private:
    std::string folder_;
};

inline Tokenizer test_tokenizer(const std::string& name) {
    const std::string path = std::string(SKIFF_TEST_DATA_DIR) + "/tokenizers/" + name;
    if (name.ends_with(".model")) return load_sentencepiece(read_text_file(path, 1 << 24).value()).value();
    return load_tokenizer_json(read_text_file(path + ".tokenizer.json", 1 << 24).value()).value();
}

}  // namespace skiff
