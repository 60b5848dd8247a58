#include "text/word_counts.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <unordered_map>

#include "base/json.h"
#include "base/mapped_file.h"
#include "base/thread_pool.h"
#include "text/pre_tokenizer_table.h"
#include "text/text_cutter.h"
#include "text/unicode.h"

namespace skiff {
namespace {

constexpr std::size_t part_bytes = std::size_t{1} << 20;
constexpr std::size_t max_separator_bytes = 256;
constexpr std::string_view countable[] = {"llama-bpe", "gpt-2", "qwen2"};  // those that safe_cut() is argued for

struct HashOfText {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
using CountMap = std::unordered_map<std::string, std::uint64_t, HashOfText, std::equal_to<>>;

// One text, whole in memory or mapped.
struct Source {
    std::string name;
    std::string_view text;
    bool is_jsonl = false;
    std::shared_ptr<const MappedFile> file;  // nothing for a text in memory
};

// Gives parts of the sources to whichever thread asks next.
class PartQueue {
public:
    struct Part {
        const Source* source;
        std::string_view text;
    };
    PartQueue(std::span<const Source> sources, const WordCountOptions& options) : sources_(sources), options_(options) {
        for (const Source& source : sources) total_bytes_ += source.text.size();
    }
    std::optional<Part> next() {
        const std::lock_guard lock(mutex_);
        if (!status_.ok()) return std::nullopt;
        if (interrupt_requested()) {
            status_ = Error{ErrorCode::interrupted, "interrupted", {}};
            return std::nullopt;
        }
        for (; at_ < sources_.size(); ++at_, text_cutter_.reset(), line_cutter_.reset()) {
            const Source& source = sources_[at_];
            if (source.is_jsonl && !line_cutter_) line_cutter_.emplace(source.text, part_bytes);
            if (!source.is_jsonl && !text_cutter_) text_cutter_.emplace(source.text, options_.separator, part_bytes);
            if (const auto part = source.is_jsonl ? line_cutter_->next() : text_cutter_->next()) return Part{&source, *part};
        }
        return std::nullopt;
    }
    void finish(const Part& part, Status status) {
        // What was counted is not needed again: without this the pages of a long file stay with the process.
        if (part.source->file) part.source->file->drop(static_cast<std::size_t>(part.text.data() - part.source->text.data()), part.text.size());
        const std::lock_guard lock(mutex_);
        if (!status.ok() && status_.ok()) status_ = std::move(status);
        done_bytes_ += part.text.size();
        if (options_.progress) options_.progress({"count words", base_name(part.source->name), done_bytes_, total_bytes_});
    }
    Status take_status() { return std::move(status_); }

private:
    std::span<const Source> sources_;
    const WordCountOptions& options_;
    std::mutex mutex_;
    std::size_t at_ = 0;
    std::optional<TextCutter> text_cutter_;
    std::optional<LineCutter> line_cutter_;
    std::uint64_t done_bytes_ = 0, total_bytes_ = 0;
    Status status_;
};

// What one thread counts.
class Counter {
public:
    Counter(std::span<const PreTokenizer> chain, const WordCountOptions& options) : chain_(chain), options_(options) {}

    Status add(const PartQueue::Part& part) {
        try {
            if (part.source->is_jsonl) return add_lines(part);
            if (continues_document(part)) --n_documents;  // which the part before counted; the sum over all threads is right
            return add_text(part.text);
        } catch (const std::bad_alloc&) {
            return resource_error("out of memory while counting words");
        }
    }
    CountMap counts;
    std::uint64_t n_text_bytes = 0, n_documents = 0;

private:
    bool continues_document(const PartQueue::Part& part) const {
        const std::string_view separator = options_.separator;
        const auto before = part.source->text.substr(0, static_cast<std::size_t>(part.text.data() - part.source->text.data()));
        if (before.empty() || separator.empty()) return !before.empty();
        return !before.ends_with(separator) && !part.text.starts_with(separator);
    }
    Status add_text(std::string_view text) {
        const std::string_view separator = options_.separator;
        while (!text.empty()) {
            const std::size_t end = separator.empty() ? text.size() : std::min(text.find(separator), text.size());
            SKIFF_CHECK(add_document(text.substr(0, end)));
            text.remove_prefix(std::min(end + separator.size(), text.size()));
        }
        return {};
    }
    Status add_document(std::string_view text) {
        if (text.empty()) return {};
        std::string repaired;
        if (!is_valid_utf8(text)) text = repaired = make_valid_utf8(text);
        ++n_documents;
        n_text_bytes += text.size();
        return pre_tokenize(chain_, {text, true}, [&](Piece piece) -> Status {
            const auto known = counts.find(piece.text);
            if (known != counts.end()) ++known->second;
            else counts.emplace(piece.text, 1);
            return {};
        });
    }
    Status add_lines(const PartQueue::Part& part) {
        for (std::size_t at = 0; at < part.text.size();) {
            const std::size_t end = std::min(part.text.find('\n', at), part.text.size());
            const std::string_view line = part.text.substr(at, end - at);
            if (line.find_first_not_of(" \t\r") != std::string_view::npos) {
                Status status = add_line(line);
                if (!status.ok()) return status.take_error().with_context(place_of(*part.source, line));
            }
            at = end + 1;
        }
        return {};
    }
    Status add_line(std::string_view line) {
        SKIFF_TRY(const auto json, Json::parse(line));
        if (!json.is_object()) return corrupt("the line holds " + std::string(json.type_name()) + ", expected an object");
        const Json* text = json.find(options_.jsonl_field);
        if (!text) return corrupt("no member \"" + options_.jsonl_field + "\" in the line; say which member holds the text (--jsonl-field)");
        SKIFF_TRY(const auto value, text->as_string("\"" + options_.jsonl_field + "\""));
        return add_text(value);
    }
    static std::string place_of(const Source& source, std::string_view line) {
        const auto before = source.text.substr(0, static_cast<std::size_t>(line.data() - source.text.data()));
        return source.name + ":" + std::to_string(std::count(before.begin(), before.end(), '\n') + 1);
    }

    std::span<const PreTokenizer> chain_;
    const WordCountOptions& options_;
};

WordCounts joined(std::vector<Counter>& counters) {
    WordCounts all;
    CountMap sum = std::move(counters[0].counts);
    for (std::size_t i = 0; i < counters.size(); ++i) {
        all.n_text_bytes += counters[i].n_text_bytes;
        all.n_documents += counters[i].n_documents;
        if (i == 0) continue;
        for (const auto& [bytes, count] : counters[i].counts) sum[bytes] += count;
        CountMap().swap(counters[i].counts);
    }
    all.words.reserve(sum.size());
    while (!sum.empty()) {
        auto node = sum.extract(sum.begin());
        all.words.push_back({std::move(node.key()), node.mapped()});
    }
    // The order of a hash map, and which thread met a word first, must not show.
    std::sort(all.words.begin(), all.words.end(), [](const CountedWord& a, const CountedWord& b) { return a.bytes < b.bytes; });
    return all;
}

Result<WordCounts> count_sources(std::span<const Source> sources, const WordCountOptions& options) {
    if (std::find(std::begin(countable), std::end(countable), options.pre) == std::end(countable)) {
        std::string known;
        for (std::string_view name : countable) known += (known.empty() ? "" : ", ") + std::string(name);
        return unsupported("words cannot be counted with the pre-tokenizer \"" + options.pre + "\"; known are " + known);
    }
    if (options.separator.size() > max_separator_bytes) {
        return usage_error("a separator of " + std::to_string(options.separator.size()) + " bytes; at most " + std::to_string(max_separator_bytes));
    }
    SKIFF_TRY(const auto named, named_pre_tokenizer(options.pre));
    // Without the last step: words stay bytes, which are shorter than their spelling.
    const auto chain = std::span<const PreTokenizer>(named.chain).first(named.chain.size() - 1);
    PartQueue queue(sources, options);
    ThreadPool pool(std::max(options.n_threads, 1));
    std::vector<Counter> counters(static_cast<std::size_t>(pool.n_threads()), Counter(chain, options));
    pool.run([&](int thread) {
        while (const auto part = queue.next()) queue.finish(*part, counters[static_cast<std::size_t>(thread)].add(*part));
    });
    SKIFF_CHECK(queue.take_status());
    return joined(counters);
}

}  // namespace

std::span<const std::string_view> countable_pre_tokenizers() { return countable; }

Result<WordCounts> count_words(std::string_view text, const WordCountOptions& options) {
    const Source source{"text", text, false, nullptr};
    return count_sources(std::span(&source, 1), options);
}

Result<WordCounts> count_words_in_files(std::span<const std::string> paths, const WordCountOptions& options) {
    std::vector<Source> sources;
    for (const std::string& path : paths) {
        SKIFF_TRY(auto file, MappedFile::open(path));
        file->advise_sequential();
        const auto bytes = file->bytes();
        sources.push_back({path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path.ends_with(".jsonl"), std::move(file)});
    }
    return count_sources(sources, options);
}

}  // namespace skiff
