#include "cli/model_options.h"

#include "base/mapped_file.h"
#include "plan/tile_table.h"

namespace skiff {

void ModelOptions::fields(FieldVisitor& visitor) {
    fields_without_context(visitor);
    visitor.option("-c,--ctx", context, "Tokens of context; 0: what the model was trained for, at most 4096");
}

void ModelOptions::fields_without_context(FieldVisitor& visitor) {
    visitor.positional("MODEL", model, "A Hugging Face folder, a .gguf file, or random:CONFIG.json", FieldVisitor::Need::required);
    visitor.option("-t,--threads", threads, "Threads; 0: the physical cores that this process may use");
    visitor.choice("--device", device, {"cpu", "cuda", "auto"}, "Where the model runs: cuda needs the plug-in and an NVIDIA GPU (skiff doctor); auto takes it where there is one that the model fits");
    visitor.flag("--fit", fit, "On a GPU: as many layers as fit in its free memory; for the others see --offload");
    visitor.option("--device-layers", device_layers, "On a GPU: so many layers; for the others see --offload. -1: all");
    visitor.choice("--offload", offload, {"auto", "processor", "stream"},
                   "With --fit or --device-layers, the other layers: run on the processor, or their weights are streamed to the GPU when they are used; auto: with --fit what a measurement finds faster, else the processor");
    visitor.choice("--gemm", gemm, {"auto", "own", "cublaslt", "fp8", "cutlass"},
                   "On a GPU, what multiplies the matrices of long prompts; auto: cuBLASLt where it is found. fp8: it, and inputs of e4m3 weights are rounded to e4m3, a scale for each token (compute capability 8.9 on). cutlass: in a plug-in that was built with it");
    visitor.choice("--attention", attention, {"own", "cudnn"}, "On a GPU, what attends to long prompts; cudnn: that library, where it is found and has a plan for them (bf16 state)");
    visitor.option("--batch", batch, "Tokens worked on at a time in a prompt; changes speed and memory, never the result; 0: 256, on a GPU 1024");
    visitor.option("--state", state, "How keys and values are kept: f32, f16, bf16, int8, int4, on a GPU also fp8; int8 and int4 halve and quarter what a long context reads. Single layers behind: int8,0-1=bf16");
    visitor.option("--isa", isa, "Instruction set of the kernels (generic; on x86-64 avx2, avx2vnni, avx512, avx512vbmi, avx512bf16, amx; on arm64 neon, neon_dot, neon_i8mm); default: the best that this processor has");
    visitor.choice("--kernels", kernels, {"fastest", "reference"}, "reference: float activations and plain loops, for comparison");
    visitor.option("--pack-cache", pack_cache, "Where packed weights are kept for the next start: on (the user's cache folder), off, or a folder");
    visitor.choice("--weight-pages", weight_pages, {"auto", "mapped", "huge"},
                   "Where weights lie: huge: copied into pages of 2 MiB, which decodes faster; mapped: in the file, which processes share and which memory that is short gets back; auto: huge where there is memory for twice the weights");
    visitor.option("--scheme", scheme, "Quantize plain weights while loading (w8, w4g32 ...), without writing anything");
    visitor.option("--prune", prune, "Prune linear weights by magnitude while loading, without writing anything: 50% (single weights), 2:4, 4x1:50%, block16x32:50% ...");
}

Result<EngineOptions> ModelOptions::engine_options() const {
    EngineOptions options;
    if (threads < 0 || threads > 1024) return usage_error("--threads " + std::to_string(threads) + ": expected 0 to 1024");
    if (context < 0 || context > (1 << 24)) return usage_error("--ctx " + std::to_string(context) + ": expected 0 to 2^24");
    if (batch < 0 || batch > 65536) return usage_error("--batch " + std::to_string(batch) + ": expected 0 to 65536");
    if (threads > 0) options.n_threads = static_cast<int>(threads);
    options.n_context = context;
    options.max_batch = batch;
    options.device.kind = device == "cuda" ? DeviceChoice::Kind::cuda : device == "auto" ? DeviceChoice::Kind::automatic : DeviceChoice::Kind::cpu;
    options.device.state_fp8 = state == "fp8";
    if (options.device.kind == DeviceChoice::Kind::cuda && !isa.empty()) return usage_error("--isa names instructions of the processor; with --device cuda it would do nothing");
    if (options.device.state_fp8 && options.device.kind != DeviceChoice::Kind::cuda) return usage_error("--state fp8 is a form of the GPU's: it needs --device cuda");
    if (options.device.kind == DeviceChoice::Kind::cpu && (fit || device_layers != -1)) return usage_error("--fit and --device-layers say what a GPU takes; they need --device cuda");
    if (options.device.kind == DeviceChoice::Kind::cpu && attention != "own") return usage_error("--attention cudnn is a GPU's; it needs --device cuda");
    if (attention == "cudnn") options.device.attention = DeviceChoice::Attention::cudnn;
    if (options.device.kind == DeviceChoice::Kind::cpu && gemm != "auto") return usage_error("--gemm is of a GPU's products; it needs --device cuda");
    options.device.gemm = gemm == "own" ? DeviceChoice::Gemm::own : gemm == "cublaslt" ? DeviceChoice::Gemm::cublaslt : gemm == "fp8" ? DeviceChoice::Gemm::fp8 : gemm == "cutlass" ? DeviceChoice::Gemm::cutlass : DeviceChoice::Gemm::automatic;
    if (weight_pages != "auto" && options.device.kind == DeviceChoice::Kind::cuda && !fit && device_layers == -1)
        return usage_error("--weight-pages is of the weights that the processor reads; with --device cuda it needs --fit or --device-layers");
    if (fit && device_layers != -1) return usage_error("--fit chooses the number of layers, --device-layers names it; give one of them");
    if (device_layers < -1) return usage_error("--device-layers " + std::to_string(device_layers) + ": expected a number of layers, or -1 for all");
    if (offload != "auto" && !fit && device_layers == -1) return usage_error("--offload is of the layers that a GPU does not keep; it needs --fit or --device-layers");
    options.device.offload = offload == "stream" ? DeviceChoice::Offload::stream : offload == "processor" ? DeviceChoice::Offload::processor : DeviceChoice::Offload::automatic;
    if (fit) options.device.fit = DeviceChoice::Fit::what_fits;
    if (device_layers >= 0) options.device.n_layers = device_layers;
    auto choice = parse_state_choice(options.device.state_fp8 ? "bf16" : state);
    if (!choice.ok()) return choice.take_error().with_context("--state " + state);
    options.state_scheme = choice->scheme;
    options.state_rules = std::move(choice->rules);
    options.kernels = kernels == "reference" ? KernelChoice::reference : KernelChoice::fastest;
    if (!isa.empty()) {
        SKIFF_TRY(options.isa, parse_isa(isa));
    }
    if (pack_cache != "off") options.pack_cache = default_pack_cache();
    if (pack_cache != "off" && pack_cache != "on") options.pack_cache.folder = pack_cache;
    options.weight_pages = weight_pages == "mapped" ? WeightPages::mapped : weight_pages == "huge" ? WeightPages::huge : WeightPages::automatic;
    options.tiles = std::make_shared<const TileTable>(TileTable::read(tile_file()));
    if (!scheme.empty()) {
        SKIFF_TRY(options.scheme, parse_scheme(scheme));
    }
    if (!prune.empty()) {
        SKIFF_TRY(options.prune, parse_prune_target(prune));
        if (options.scheme) SKIFF_CHECK(sparse_defined_on(*options.scheme));
    }
    return options;
}

std::string ModelOptions::tile_file() const {
    if (pack_cache == "off") return {};
    return pack_cache == "on" ? TileTable::default_path() : join_path(pack_cache, "tiles.json");
}

void SpeculateOptions::fields(FieldVisitor& visitor) {
    visitor.option("--speculate", source,
                   "Guess tokens and check several in one pass, where that is faster; never changes the text's law. off; ngram: what followed the last words before; "
                   "or a smaller model with the same tokenizer");
    visitor.option("--guesses", guesses, "With --speculate: tokens to guess in every pass, 1 to 7; 0: as many as pay, by what is measured on the way");
}

Status SpeculateOptions::apply(EngineOptions& options) const {
    if (guesses < 0 || guesses > max_proposed)
        return usage_error("--guesses " + std::to_string(guesses) + ": expected 0 (as many as pay) to " + std::to_string(max_proposed));
    if (guesses > 0 && source == "off") return usage_error("--guesses needs --speculate ngram or --speculate MODEL");
    options.speculation.always = static_cast<int>(guesses);
    options.speculation.source = source == "off"     ? SpeculationOptions::Source::off
                                 : source == "ngram" ? SpeculationOptions::Source::ngram
                                                     : SpeculationOptions::Source::draft;
    if (options.speculation.source == SpeculationOptions::Source::draft) options.speculation.draft_model = source;
    return {};
}

void remark_on_cache(const Engine& engine, const ModelOptions& options, Terminal& terminal) {
    const Plan& plan = engine.plan();
    const bool asked_for = options.pack_cache != "on" && options.pack_cache != "off";
    for (const std::string& remark : engine.remarks()) terminal.remark("note: " + remark);
    if (!plan.pack_cache_note.empty() && (asked_for || plan.pack_cache == PackCache::Outcome::written)) terminal.remark(plan.pack_cache_note);
}

}  // namespace skiff
