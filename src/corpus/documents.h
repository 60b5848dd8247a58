// Cuts input files into units of work for several threads, in order, a bounded number of bytes ahead.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/mapped_file.h"
#include "base/result.h"
#include "corpus/piece_cutter.h"

namespace skiff {

// A piece of a document of a text, or a line of .jsonl that holds a whole document.
struct TextUnit {
    std::shared_ptr<const MappedFile> file;  // keeps `text` in memory
    std::string_view text;
    std::uint64_t line = 0;                  // in a .jsonl, from 1; 0: a text
    bool begins_document = true, ends_document = true;
};

enum class InputForm { text, json_lines };
Result<InputForm> input_form(const std::string& path);  // by the name; refuses compressed files

// The units of one file.
class DocumentReader {
public:
    // The cutter must outlive the reader. Maps the file.
    static Result<DocumentReader> open(const std::string& path, std::string separator, const PieceCutter& cutter);
    std::optional<TextUnit> next();                       // nothing at the end
    std::uint64_t bytes_done() const { return at_; }
    void drop_done() const { file_->drop(0, at_); }       // what has been read is not needed in memory any more

private:
    DocumentReader(std::shared_ptr<const MappedFile> file, InputForm form, std::string separator, const PieceCutter& cutter);
    std::optional<TextUnit> next_line();
    std::optional<TextUnit> next_piece();
    bool next_document();

    std::shared_ptr<const MappedFile> file_;
    std::string_view text_;
    InputForm form_;
    std::string separator_;
    const PieceCutter* cutter_;
    std::size_t start_ = 0, at_ = 0;  // of text_: the first byte; where what follows the present document begins
    std::uint64_t line_ = 0;
    std::string_view document_;       // what is left of the present one
    bool document_is_new_ = true;
};

// The text of a document in a line of .jsonl; an error names the file and the line.
Result<std::string> text_of_json_line(const TextUnit& unit, const std::string& field);

}  // namespace skiff
