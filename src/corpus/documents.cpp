#include "corpus/documents.h"

#include "base/json.h"

namespace skiff {
namespace {

constexpr std::string_view white_space = " \t\r\n\f\v";

bool is_blank(std::string_view text) { return text.find_first_not_of(white_space) == text.npos; }

void remove_line_break_before(std::string_view& text) {
    if (text.ends_with('\n')) text.remove_suffix(1);
    if (text.ends_with('\r')) text.remove_suffix(1);
}

void remove_line_break_behind(std::string_view& text) {
    if (text.starts_with("\r\n")) {
        text.remove_prefix(2);
    } else if (text.starts_with('\n')) {
        text.remove_prefix(1);
    }
}

}  // namespace

Result<InputForm> input_form(const std::string& path) {
    for (const char* ending : {".gz", ".xz", ".zst", ".bz2", ".zip"}) {
        if (path.ends_with(ending)) return unsupported(path + ": compressed texts are not read; unpack it first");
    }
    return path.ends_with(".jsonl") || path.ends_with(".ndjson") ? InputForm::json_lines : InputForm::text;
}

Result<DocumentReader> DocumentReader::open(const std::string& path, std::string separator, const PieceCutter& cutter) {
    SKIFF_TRY(const InputForm form, input_form(path));
    SKIFF_TRY(auto file, MappedFile::open(path));
    file->advise_sequential();
    return DocumentReader(std::move(file), form, std::move(separator), cutter);
}

DocumentReader::DocumentReader(std::shared_ptr<const MappedFile> file, InputForm form, std::string separator, const PieceCutter& cutter)
    : file_(std::move(file)), text_(reinterpret_cast<const char*>(file_->bytes().data()), file_->bytes().size()), form_(form),
      separator_(std::move(separator)), cutter_(&cutter) {
    if (text_.starts_with("\xEF\xBB\xBF")) start_ = at_ = 3;  // a byte order mark
}

std::optional<TextUnit> DocumentReader::next() { return form_ == InputForm::json_lines ? next_line() : next_piece(); }

std::optional<TextUnit> DocumentReader::next_line() {
    while (at_ < text_.size()) {
        const std::size_t end = std::min(text_.find('\n', at_), text_.size());
        const std::string_view line = text_.substr(at_, end - at_);
        at_ = std::min(end + 1, text_.size());
        ++line_;
        if (!is_blank(line)) return TextUnit{file_, line, line_, true, true};
    }
    return std::nullopt;
}

// Sets document_ to the next one that is not blank.
bool DocumentReader::next_document() {
    while (at_ < text_.size()) {
        const bool behind_separator = at_ != start_;
        const std::size_t end = separator_.empty() ? text_.size() : std::min(text_.find(separator_, at_), text_.size());
        document_ = text_.substr(at_, end - at_);
        at_ = std::min(end + separator_.size(), text_.size());
        if (behind_separator) remove_line_break_behind(document_);
        remove_line_break_before(document_);
        document_is_new_ = true;
        if (!is_blank(document_)) return true;
    }
    document_ = {};
    return false;
}

std::optional<TextUnit> DocumentReader::next_piece() {
    if (document_.empty() && !next_document()) return std::nullopt;
    const std::size_t end = cutter_->end_of_piece(document_);
    TextUnit unit{file_, document_.substr(0, end), 0, document_is_new_, end == document_.size()};
    document_.remove_prefix(end);
    document_is_new_ = false;
    return unit;
}

Result<std::string> text_of_json_line(const TextUnit& unit, const std::string& field) {
    const std::string place = unit.file->path() + ":" + std::to_string(unit.line);
    auto parsed = Json::parse(unit.text);
    if (!parsed.ok()) return parsed.take_error().with_context(place);
    if (!parsed->is_object()) return corrupt(place + ": an object with the field \"" + field + "\" expected, found " + std::string(parsed->type_name()));
    const Json* text = parsed->find(field);
    if (text == nullptr) {
        std::string fields;
        for (const auto& [name, value] : parsed->members()) {
            if (fields.size() > 200) {
                fields += ", ...";
                break;
            }
            fields += (fields.empty() ? "" : ", ") + name;
        }
        return corrupt(place + ": no field \"" + field + "\"; the line has: " + (fields.empty() ? "none" : fields));
    }
    if (!text->is_string()) return corrupt(place + ": the field \"" + field + "\" is not a string but " + std::string(text->type_name()));
    return text->text();
}

}  // namespace skiff
