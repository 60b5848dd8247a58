#include <atomic>
#include <cstring>

#include "base/atomic_file.h"
#include "base/thread_pool.h"
#include "corpus/documents.h"
#include "corpus/token_file.h"
#include "corpus/token_file_header.h"

namespace skiff {
namespace {

constexpr std::size_t piece_bytes = std::size_t{1} << 16;
constexpr std::size_t batch_bytes = std::size_t{8} << 20;  // of text in memory at a time, and its tokens; the last unit may be longer

struct EncodedUnit {
    std::vector<std::int32_t> ids;
    std::uint64_t n_bytes = 0;
    Status status;
};

class Packer {
public:
    Packer(const Tokenizer& tokenizer, const PackOptions& options, AtomicFile file)
        : tokenizer_(tokenizer), options_(options), cutter_(tokenizer, piece_bytes), pool_(options.n_threads), file_(std::move(file)),
          header_(tokenizer.n_vocab(), tokenizer_hash(tokenizer)), begin_(tokenizer.bos_id()) {
        if (const auto& ends = tokenizer.eos_ids(); !ends.empty() && ends.front() != begin_) end_ = ends.front();
    }

    Status run(std::uint64_t total_bytes) {
        SKIFF_CHECK(file_.write(std::as_bytes(std::span(&header_, 1))));  // its place; the numbers come at the end
        std::uint64_t done_before = 0;
        for (const std::string& path : options_.inputs) {
            SKIFF_TRY(DocumentReader reader, DocumentReader::open(path, options_.separator, cutter_));
            while (true) {
                if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted while packing " + path, {}};
                const std::vector<TextUnit> batch = next_batch(reader);
                if (batch.empty()) break;
                SKIFF_CHECK(pack(batch));
                reader.drop_done();
                if (options_.progress) options_.progress({"pack", path, done_before + reader.bytes_done(), total_bytes});
            }
            done_before += reader.bytes_done();
        }
        if (header_.n_documents == 0) {
            return runtime_error("no text in " + (options_.inputs.size() == 1 ? options_.inputs.front() : std::to_string(options_.inputs.size()) + " inputs") +
                                 ": nothing to pack");
        }
        SKIFF_CHECK(file_.write_at(0, std::as_bytes(std::span(&header_, 1))));
        return file_.commit();
    }

    PackReport report() const { return {header_.n_tokens, header_.n_documents, n_bytes_, 0}; }

private:
    std::vector<TextUnit> next_batch(DocumentReader& reader) const {
        std::vector<TextUnit> batch;
        for (std::size_t n_bytes = 0; n_bytes < batch_bytes;) {
            auto unit = reader.next();
            if (!unit) break;
            n_bytes += unit->text.size();
            batch.push_back(std::move(*unit));
        }
        return batch;
    }

    Status pack(const std::vector<TextUnit>& batch) {
        std::vector<EncodedUnit> encoded(batch.size());
        std::atomic<std::size_t> next = 0;
        pool_.run([&](int) {
            for (std::size_t i = next++; i < batch.size(); i = next++) encoded[i].status = encode(batch[i], encoded[i]);
        });
        for (std::size_t i = 0; i < batch.size(); ++i) {
            if (!encoded[i].status.ok()) return encoded[i].status.take_error();
            n_bytes_ += encoded[i].n_bytes;
            header_.n_documents += batch[i].ends_document && !encoded[i].ids.empty();
            SKIFF_CHECK(write(encoded[i].ids));
        }
        return {};
    }

    Status encode(const TextUnit& unit, EncodedUnit& result) const {
        if (unit.line == 0) return encode_document(unit.text, unit, result);
        SKIFF_TRY(const std::string text, text_of_json_line(unit, options_.jsonl_field));
        if (text.find_first_not_of(" \t\r\n\f\v") == text.npos) return {};
        return encode_document(text, unit, result);
    }

    // A whole document or a piece of one; pieces again, so that the encoder's own memory stays small with a long line of .jsonl.
    Status encode_document(std::string_view text, const TextUnit& unit, EncodedUnit& result) const {
        result.n_bytes = text.size();
        if (unit.begins_document && begin_) result.ids.push_back(*begin_);
        while (!text.empty()) {
            const std::size_t end = cutter_.end_of_piece(text);
            auto ids = tokenizer_.encode(text.substr(0, end), corpus_encoding);
            if (!ids.ok()) return ids.take_error().with_context(unit.file->path() + (unit.line ? ":" + std::to_string(unit.line) : ""));
            result.ids.insert(result.ids.end(), ids->begin(), ids->end());
            text.remove_prefix(end);
        }
        if (unit.ends_document && end_) result.ids.push_back(*end_);
        return {};
    }

    Status write(std::span<const std::int32_t> ids) {
        header_.n_tokens += ids.size();
        if (header_.bytes_per_token == 4) return file_.write(std::as_bytes(ids));
        narrow_.assign(ids.begin(), ids.end());
        return file_.write(std::as_bytes(std::span(narrow_)));
    }

    const Tokenizer& tokenizer_;
    const PackOptions& options_;
    PieceCutter cutter_;
    ThreadPool pool_;
    AtomicFile file_;
    TokenFileHeader header_;
    std::optional<std::int32_t> begin_, end_;
    std::uint64_t n_bytes_ = 0;
    std::vector<std::uint16_t> narrow_;
};

}  // namespace

Result<PackReport> pack_tokens(const Tokenizer& tokenizer, const PackOptions& options, const std::string& path) {
    const double start = monotonic_seconds();
    if (options.inputs.empty()) return usage_error("no texts to pack: give at least one file");
    std::uint64_t total_bytes = 0;
    for (const std::string& input : options.inputs) {  // all of them, before long work begins
        SKIFF_CHECK(input_form(input));
        SKIFF_TRY(const std::uint64_t size_bytes, file_size_bytes(input));
        total_bytes += size_bytes;
    }
    SKIFF_TRY(AtomicFile file, AtomicFile::create(path));
    Packer packer(tokenizer, options, std::move(file));
    SKIFF_CHECK(packer.run(total_bytes));
    PackReport report = packer.report();
    report.seconds = monotonic_seconds() - start;
    return report;
}

}  // namespace skiff
