#include "backend/cuda/tuning_table.h"

#include <cstdlib>

#include "base/mapped_file.h"

namespace skiff::cuda {
namespace {

constexpr std::string_view names[n_code_forms] = {"f32", "f16", "bf16", "e4m3", "e5m2", "linear8", "linear6", "linear5", "linear4", "linear3", "linear2", "linear1", "table8", "table4", "table3", "table2", "table1"};
constexpr std::int64_t most_blocks = 32;  // that an SM of any device holds

}  // namespace

std::string_view code_form_name(CodeForm form) { return names[static_cast<int>(form)]; }

Json tuning_json(const Tuning& tuning, const std::string& device) {
    Json gemv = Json::array();
    for (int form = 0; form < n_code_forms; ++form)
        if (tuning.gemv_blocks[form] != 0 || tuning.gemv_ring[form] != Tuning::Ring::longest)
            gemv.push_back(Json::object({{"form", names[form]}, {"blocks_per_sm", static_cast<int>(tuning.gemv_blocks[form])}, {"ring", tuning.gemv_ring[form] == Tuning::Ring::longest ? "longest" : "shortest"}}));
    return Json::object({{"version", SKIFF_VERSION}, {"device", device}, {"gemv", gemv}});
}

Result<Tuning> read_tuning(const Json& json) {
    Tuning tuning;
    if (!json["gemv"].is_array()) return corrupt("a tuning table has a list \"gemv\"");
    for (const Json& entry : json["gemv"].items()) {
        int form = 0;
        while (form < n_code_forms && names[form] != entry["form"].text()) ++form;
        if (form == n_code_forms) return corrupt("a tuning table names the form \"" + entry["form"].text() + "\", which there is not");
        SKIFF_TRY(const std::int64_t blocks, entry["blocks_per_sm"].as_int("blocks_per_sm"));
        SKIFF_TRY(const std::string ring, entry["ring"].as_string("ring"));
        if (blocks < 0 || blocks > most_blocks || (ring != "longest" && ring != "shortest")) return corrupt("a tuning table has " + std::to_string(blocks) + " blocks of an SM and the ring \"" + ring + "\" for " + std::string(names[form]));
        tuning.gemv_blocks[form] = static_cast<std::uint8_t>(blocks);
        tuning.gemv_ring[form] = ring == "longest" ? Tuning::Ring::longest : Tuning::Ring::shortest;
    }
    return tuning;
}

std::string tuning_file_name(const std::string& device) {
    std::string name = "gpu-";
    for (const char character : device) {
        const bool letter = (character >= 'a' && character <= 'z') || (character >= '0' && character <= '9') || character == '-';
        if (character >= 'A' && character <= 'Z') name += static_cast<char>(character - 'A' + 'a');
        else if (character == ' ') name += '-';
        else if (letter) name += character;
    }
    return name + "-tuning.json";
}

std::string find_tuning(const std::string& plug_in_folder, const std::string& device) {
    if (const char* given = std::getenv("SKIFF_CUDA_TUNING"); given != nullptr) return given;
    const std::string name = tuning_file_name(device);
    for (const char* below : {"/", "/../bench/results/", "/../../bench/results/"})
        if (const std::string path = plug_in_folder + below + name; !plug_in_folder.empty() && file_exists(path)) return path;
    return {};
}

Result<Tuning> load_tuning(const std::string& path) {
    const auto json = read_json_file(path);
    if (!json.ok()) return Error(json.error()).with_context("the tuning table (SKIFF_CUDA_TUNING= goes without)");
    auto tuning = read_tuning(*json);
    if (!tuning.ok()) return tuning.take_error().with_context(path + " (made by bench/gpu_suite tune; SKIFF_CUDA_TUNING= goes without)");
    return tuning;
}

}  // namespace skiff::cuda
