// skiff doctor: this machine, and what this build can and cannot use of it.
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/memory_pages.h"
#include "base/mapped_file.h"
#include "cli/doctor_cuda.h"
#include "cli/doctor_training.h"
#include "cli/format.h"
#include "cli/verbs.h"
#include "kernels/kernels.h"
#include "measure/bandwidth.h"
#include "measure/energy.h"
#include "measure/scheme_speed.h"
#include "plan/pack_cache.h"

namespace skiff {
namespace {

struct DoctorOptions {
    bool no_measure = false, schemes = false, clear_cache = false;
    void fields(FieldVisitor& visitor) {
        visitor.flag("--no-measure", no_measure, "Skip the bandwidth measurement (about two seconds)");
        visitor.flag("--schemes", schemes, "Measure every scheme on this machine and say which to use (about half a minute)");
        visitor.flag("--clear-cache", clear_cache, "Remove the packed weights that earlier runs have kept for a faster start");
    }
};

// What earlier runs have kept for a faster start, and whether this one could.
Finding pack_cache_finding() {
    const PackCacheOptions cache = default_pack_cache();
    if (cache.folder.empty()) return {"packed weights", "not kept", "set SKIFF_CACHE_DIR or HOME, so that the next start need not pack them again"};
    std::uint64_t total = 0;
    const auto entries = list_pack_cache(cache.folder);
    for (const PackCacheEntry& entry : entries) total += entry.size_bytes;
    std::string state = counted(static_cast<std::int64_t>(entries.size()), "models") + ", " + bytes_text(total) + " of at most " + bytes_text(cache.max_bytes) + ", in " + cache.folder;
    if (Status status = make_directories(cache.folder); !status.ok() || ::access(cache.folder.c_str(), W_OK) != 0)
        return {"packed weights", state, "the folder cannot be written, so every start packs them again; set SKIFF_CACHE_DIR to another"};
    return {"packed weights", state, entries.empty() ? "" : "skiff doctor --clear-cache removes them"};
}

std::vector<Finding> findings(const CpuInfo& cpu, const Json& training, const Json& cuda) {
    std::vector<Finding> list;
    const bool fast = best_isa() != Isa::generic;
    list.push_back({"fast kernels", fast ? std::string(isa_name(best_isa())) : "none for this processor", fast ? "" : "the generic kernels run instead, several times slower"});
    const std::string pages = huge_page_setting();
    list.push_back({"transparent huge pages", pages, pages == "never" ? "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled" : ""});
    if (cpu.cgroup_cpus > 0 && cpu.cgroup_cpus < cpu.n_physical)
        list.push_back({"CPU quota", number_text(cpu.cgroup_cpus, 1) + " of " + std::to_string(cpu.n_physical) + " cores",
                        "threads follow the quota; raise it in the container's settings"});
    list.push_back(pack_cache_finding());
    for (Finding& finding : cuda_findings(cuda)) list.push_back(std::move(finding));
    const EnergyMeter meter = EnergyMeter::open();
    std::string counters;
    for (const std::string& name : meter.names()) counters += (counters.empty() ? "" : ", ") + name;
    list.push_back({"energy", meter.readable() ? "readable: " + counters : "not readable here", meter.readable() ? "" : meter.unreadable()});
    for (Finding& finding : training_findings(training, cpu.feature_list)) list.push_back(std::move(finding));
    return list;
}

// Every preset's speed and error, and whether another is better in all.
Status add_schemes(Json& document, Terminal& terminal) {
    SchemeSpeedOptions options;
    options.n_threads = default_thread_count();
    options.progress = terminal.progress(" schemes");
    SKIFF_TRY(const auto speeds, measure_schemes(options));
    const auto verdicts = judge_schemes(speeds);
    std::vector<std::vector<std::string>> rows = {{"scheme", "bits/weight", "error", "kernel", "instruction", "GB/s", "decode GMAC/s", "prefill GMAC/s", "here"}};
    Json list = Json::array();
    for (std::size_t i = 0; i < speeds.size(); ++i) {
        const SchemeSpeed& speed = speeds[i];
        const std::string verdict = verdicts[i].use ? "use" : "avoid, because " + verdicts[i].reason;
        rows.push_back({speed.scheme, number_text(speed.bits_per_weight, 2), number_text(speed.relative_error * 100, 2) + " %", speed.kernel, speed.instruction, number_text(speed.read_gbps, 1),
                        number_text(speed.decode_gmacs, 1), number_text(speed.prefill_gmacs, 1), verdict});
        list.push_back(Json::object({{"scheme", speed.scheme}, {"bits_per_weight", speed.bits_per_weight}, {"relative_error", speed.relative_error}, {"kernel", speed.kernel},
                                     {"instruction", speed.instruction}, {"gbps", speed.read_gbps}, {"decode_gmacs", speed.decode_gmacs}, {"prefill_gmacs", speed.prefill_gmacs},
                                     {"use", verdicts[i].use}, {"reason", verdicts[i].reason}}));
    }
    terminal.print(table_text(rows, TableStyle::plain));
    document.set("schemes", list);
    return {};
}

Status run_doctor(DoctorOptions& options, Terminal& terminal) {
    if (options.clear_cache) {
        const std::string folder = default_pack_cache_folder();
        if (!folder.empty()) SKIFF_CHECK(clear_pack_cache(folder));
    }
    const CpuInfo cpu = read_cpu_info();
    Json document = Json::object({{"version", SKIFF_VERSION},
                                  {"cpu", cpu.model_name},
                                  {"features", cpu.feature_list},
                                  {"physical_cores", cpu.n_physical},
                                  {"logical_cores", cpu.n_logical},
                                  {"threads", default_thread_count()},
                                  {"l1d_bytes", cpu.l1d_bytes},
                                  {"l2_bytes", cpu.l2_bytes},
                                  {"l3_bytes", cpu.l3_bytes},
                                  {"memory_bytes", cpu.memory_bytes},
                                  {"available_memory_bytes", cpu.available_memory_bytes},
                                  {"isa", isa_name(best_isa())}});
    terminal.print("skiff " SKIFF_VERSION);
    terminal.print("processor   " + cpu.model_name + ", " + std::to_string(cpu.n_physical) + " cores (" + std::to_string(cpu.n_logical) +
                   " logical), " + cpu.feature_list);
    terminal.print("caches      L1 " + bytes_text(cpu.l1d_bytes) + ", L2 " + bytes_text(cpu.l2_bytes) + ", L3 " + bytes_text(cpu.l3_bytes));
    terminal.print("memory      " + bytes_text(cpu.memory_bytes) + ", " + bytes_text(cpu.available_memory_bytes) + " free for use");
    terminal.print("kernels     " + std::string(isa_name(best_isa())) + ", " + counted(default_thread_count(), "threads"));
    if (!options.no_measure) {
        const ReadBandwidth one = measure_read_bandwidth(1), all = measure_read_bandwidth(default_thread_count());
        terminal.print("bandwidth   " + number_text(one.gb_per_s, 1) + " GB/s with one thread, " + number_text(all.gb_per_s, 1) + " with " +
                       std::to_string(all.n_threads));
        document.set("read_gbps_one_thread", one.gb_per_s);
        document.set("read_gbps", all.gb_per_s);
    }
    const Json training = training_facts();
    document.set("training", training);
    const Json cuda = cuda_facts();
    document.set("cuda", cuda);
    document.set("bf16_instructions", bf16_instructions(cpu.feature_list));
    Json list = Json::array();
    std::vector<std::vector<std::string>> rows = {{"what", "state", "what to do"}};
    for (const Finding& finding : findings(cpu, training, cuda)) {
        rows.push_back({finding.what, finding.state, finding.advice});
        list.push_back(Json::object({{"what", finding.what}, {"state", finding.state}, {"advice", finding.advice}}));
    }
    document.set("findings", list);
    terminal.print("");
    terminal.print(table_text(rows, TableStyle::plain));
    std::vector<std::vector<std::string>> kernels = {{"linear kernel", "reads", "from tokens", "here"}};
    for (const LinearKernel& kernel : linear_kernels())
        kernels.push_back(
            {std::string(kernel.name), std::string(kernel.layout), std::to_string(kernel.min_tokens), isa_available(kernel.isa) ? "yes" : "no"});
    terminal.print(table_text(kernels, TableStyle::plain));
    if (options.schemes) SKIFF_CHECK(add_schemes(document, terminal));
    terminal.result(document);
    return {};
}

}  // namespace

std::unique_ptr<Verb> doctor_verb_row() {
    return make_verb<DoctorOptions>("doctor", "Show this machine and what this build can use of it", {"skiff doctor", "skiff doctor --schemes"}, run_doctor);
}

}  // namespace skiff
