#include "compress/parent_files.h"

#include <dirent.h>

#include <algorithm>
#include <iterator>
#include <vector>

#include "base/atomic_file.h"
#include "base/mapped_file.h"

namespace skiff {
namespace {

constexpr std::string_view copied[] = {
    "generation_config.json", "tokenizer.json",          "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json",             "merges.txt",              "vocab.txt",       "spiece.model",          "sentencepiece.bpe.model", "chat_template.jinja",
    "chat_template.json",     "tiktoken.model",          "LICENSE",         "LICENSE.txt",           "LICENSE.md",              "NOTICE",
};

std::vector<std::string> file_names(const std::string& folder) {
    std::vector<std::string> names;
    if (DIR* entries = ::opendir(folder.c_str())) {
        while (const dirent* entry = ::readdir(entries)) {
            const std::string name = entry->d_name;
            if (name != "." && name != "..") names.push_back(name);
        }
        ::closedir(entries);
    }
    std::sort(names.begin(), names.end());
    return names;
}

bool is_ours(const std::string& name) {
    const bool weights = name.starts_with("model") && (name.ends_with(".safetensors") || name.ends_with(".part") || name.find(".safetensors.index.json") != std::string::npos);
    const bool other = name.starts_with("config.json") || name.starts_with("skiff.json") || name.starts_with("journal");
    return weights || other || std::any_of(std::begin(copied), std::end(copied), [&](std::string_view file) { return name.starts_with(file); });
}

}  // namespace

Status copy_parent_files(const Checkpoint& parent, const std::string& folder) {
    if (parent.kind != Checkpoint::Kind::folder) {
        if (!parent.generation.is_null()) return write_file_atomic(join_path(folder, "generation_config.json"), parent.generation.dump(2) + "\n");
        return {};
    }
    for (const std::string& name : file_names(parent.path)) {
        if (std::find(std::begin(copied), std::end(copied), name) == std::end(copied) && !name.ends_with(".tiktoken")) continue;
        SKIFF_TRY(const auto source, MappedFile::open(join_path(parent.path, name)));
        SKIFF_TRY(auto target, AtomicFile::create(join_path(folder, name)));
        SKIFF_CHECK(target.write(source->bytes()));
        SKIFF_CHECK(target.commit());
    }
    return {};
}

Status remove_temporaries(const std::string& folder) {
    for (const std::string& name : file_names(folder)) {
        const std::size_t at = name.rfind(".tmp");
        if (at == std::string::npos || name.find_first_not_of("0123456789", at + 4) != std::string::npos) continue;
        SKIFF_CHECK(remove_all(join_path(folder, name)));
    }
    return {};
}

Status remove_other_files(const std::string& folder, const std::string& keep) {
    const auto names = file_names(folder);
    for (const std::string& name : names)
        if (!is_ours(name)) return usage_error(folder + ": holds \"" + name + "\", which is not from an unfinished run; move that folder away or give another -o");
    for (const std::string& name : names)
        if (name != keep) SKIFF_CHECK(remove_all(join_path(folder, name)));
    return {};
}

}  // namespace skiff
