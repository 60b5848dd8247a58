#include "compress/export_coded.h"

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "compress/parent_files.h"

namespace skiff {
namespace {

// What the numbers in the weight files mean, beside what every child takes over.
constexpr const char* descriptions[] = {"config.json", "skiff.json", "quantize_config.json", "quant_config.json"};

}  // namespace

Result<RecodeReport> write_recoded(const Checkpoint& checkpoint, const std::string& folder, const RecodeOptions& options) {
    if (checkpoint.kind != Checkpoint::Kind::folder)
        return usage_error(checkpoint.path + ": only the weight files of a model folder are coded; `skiff convert --to hf` makes one of a GGUF file or random weights");
    SKIFF_TRY(const auto files, CheckpointFiles::open(checkpoint.path));
    SKIFF_TRY(auto report, recode(files, folder, options));
    if (folder.empty()) return report;
    for (const char* name : descriptions) {
        const std::string path = join_path(checkpoint.path, name);
        if (!file_exists(path)) continue;
        SKIFF_TRY(const auto source, MappedFile::open(path));
        SKIFF_TRY(auto target, AtomicFile::create(join_path(folder, name)));
        SKIFF_CHECK(target.write(source->bytes()));
        SKIFF_CHECK(target.commit());
    }
    SKIFF_CHECK(copy_parent_files(checkpoint, folder));
    return report;
}

}  // namespace skiff
