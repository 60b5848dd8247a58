"""Writes tests/data/models: tiny random models with the logits that Hugging Face transformers computes for them.

    python tests/golden/models.py [case ...]

See README.md beside this file for the versions used and for the form of what is written.
"""

import hashlib
import json
import pathlib
import re
import sys

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from models_cases import CASES, Case
from models_configs import BAD_CONFIGS, HARMLESS_CONFIGS

OUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "models"
EXACT = dict(dtype=torch.float32, attn_implementation="eager", experts_implementation="eager")
MIN_CHANGE = 1e-3       # what a feature must move the logits by, relative to the largest logit, unless its variant says otherwise
MAX_F64_ERROR = 2e-5    # what float32 may differ from float64 by, so that a tolerance of 1e-4 is fair
MIN_ROUTER_GAP = 2e-3   # between the last expert chosen and the first not chosen


def rng_for(case_name, tensor_name):
    digest = hashlib.sha256(f"{case_name}/{tensor_name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def random_tensor(case: Case, name, shape, transposed):
    """Values at which every part of the network matters: norms away from 1, biases away from 0, peaked attention."""
    normal = torch.from_numpy(rng_for(case.name, name).standard_normal(tuple(shape)).astype(np.float32))
    one_plus_w = case.model_type.startswith("gemma")
    # The exact gelu and its tanh form differ most, relative to their value, around -2.3: most inputs are put there.
    if re.search(r"c_fc\.bias|h_to_4h\.bias", name) and case.model_type.startswith("gpt"):
        return 0.6 * normal - 2.2
    if re.search(r"mlp\.c_proj\.weight|4h_to_h\.weight", name):
        return 8 / np.sqrt(shape[0] if transposed else shape[-1]) * normal
    if name.endswith("bias"):
        return (0.2 if re.search(r"norm|out_proj|fc2", name) else 0.4) * normal
    if re.search(r"norm|ln_", name):
        return 0.3 * normal + (0.0 if one_plus_w else 1.0)
    if re.search(r"embed_tokens|wte|embed_in|lm_head|embed_out|embed_positions|wpe", name):
        return (0.4 if re.search(r"lm_head|embed_out", name) else 0.25 if one_plus_w else 1.2 if case.model_type == "opt" else 0.6) * normal
    if name.endswith("fc2.weight"):     # relu's outputs share a mean, which would drown the differences between tokens
        normal = normal - normal.mean(1, keepdim=True)
    fan_in = shape[0] if transposed else shape[-1]
    gain = 1.7 if re.search(r"q_proj|k_proj|qkv|query_key_value|c_attn|gate", name) else 1.3
    if case.model_type == "gemma3_text" and "gate" in name:
        gain = 1.0
    return gain / np.sqrt(fan_in) * normal


def make_config(case: Case, changes=None):
    return AutoConfig.for_model(case.model_type, **{**case.config, **(changes or {})})


def make_model(case: Case, config):
    model = AutoModelForCausalLM.from_config(config, **EXACT)
    for index, overrides in case.per_layer.items():
        # transformers writes such configs but cannot build the llama they describe; a decoder layer made from the block's own settings
        # is exactly what it would compute.
        layer_config = make_config(case, overrides | {"hidden_size": case.config["hidden_size"]}) if _divides(case, overrides) else None
        layer_config = layer_config or _unchecked_config(case, overrides)
        layer_config._attn_implementation = "eager"
        model.model.layers[int(index)] = type(model.model.layers[0])(layer_config, int(index))
    return model.eval()


def _divides(case, overrides):
    return case.config["hidden_size"] % overrides["num_attention_heads"] == 0


def _unchecked_config(case, overrides):
    """The config of one block whose heads do not divide the width, which the constructor refuses although head_dim is given."""
    config = make_config(case)
    for key, value in overrides.items():
        setattr(config, key, value)
    return config


def fill_random(case, model):
    conv1d = {f"{n}.weight" for n, m in model.named_modules() if type(m).__name__ == "Conv1D"}
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            value = random_tensor(case, name, tensor.shape, name in conv1d)
            tensor.copy_(value.to(getattr(torch, case.dtype)))


def logits_of(model, input_ids):
    with torch.no_grad():
        return model(torch.tensor([input_ids]), use_cache=False).logits[0].clone()


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def variant_change(case, state, change, input_ids, expected):
    """How far the logits move, relative to the largest, when one feature is done wrongly."""
    model = make_model(case, make_config(case, change.get("config")))
    state = dict(state)
    if "fill" in change:
        regex, value = change["fill"]
        hits = [n for n in state if re.search(regex, n)]
        assert hits, regex
        state |= {n: torch.full_like(state[n], value) for n in hits}
    if "rolled" in change:
        regex, rows = change["rolled"]
        hits = [n for n in state if re.search(regex, n) and n.endswith("weight")]
        assert hits, regex
        state |= {n: torch.roll(state[n], rows, 0) for n in hits}
    missing, unexpected = model.load_state_dict(state, strict=False)
    return relative(logits_of(model, input_ids), expected)


def classic_config(config):
    """The same settings in the keys that checkpoints on the hub mostly still carry (transformers before 5)."""
    old = dict(config)
    old["torch_dtype"] = old.pop("dtype")
    old["transformers_version"] = "4.50.0"
    rope = old.pop("rope_parameters", None)
    if rope is None:
        return old
    if config["model_type"] == "gemma3_text":
        full, local = rope["full_attention"], rope["sliding_attention"]
        old |= {"rope_theta": full["rope_theta"], "rope_local_base_freq": local["rope_theta"], "rope_scaling": None}
        if full["rope_type"] != "default":
            old["rope_scaling"] = {k: v for k, v in full.items() if k != "rope_theta"}
        old.pop("layer_types", None)
        return old
    theta, partial = rope.get("rope_theta"), rope.get("partial_rotary_factor")
    rest = {k: v for k, v in rope.items() if k not in ("rope_theta", "partial_rotary_factor", "rope_type")}
    if config["model_type"] == "gpt_neox":
        old |= {"rotary_emb_base": theta, "rotary_pct": partial}
    else:
        old["rope_theta"] = theta
        if partial is not None:
            old["partial_rotary_factor"] = partial
    if config["model_type"] == "phi3":
        old["original_max_position_embeddings"] = config["original_max_position_embeddings"]
        rest.pop("original_max_position_embeddings", None)
        old["rope_scaling"] = {"type": rope["rope_type"], **rest} if rope["rope_type"] != "default" else None
    else:
        old["rope_scaling"] = {"rope_type": rope["rope_type"], **rest} if rope["rope_type"] != "default" else None
    types = old.pop("layer_types", None)
    if config["model_type"] == "lfm2":
        old["full_attn_idxs"] = [i for i, kind in enumerate(types) if kind == "full_attention"]
    return old


def write_json(path, value):
    """One line for each entry of the outer object or list."""
    if isinstance(value, dict):
        text = "{\n" + ",\n".join(f" {json.dumps(k)}: {json.dumps(value[k], sort_keys=True)}" for k in sorted(value)) + "\n}\n"
    else:
        text = "[\n" + ",\n".join(f" {json.dumps(v)}" for v in value) + "\n]\n"
    path.write_text(text)


def write_checkpoint(case, model, folder):
    """The folder as save_pretrained writes it, less the generation config; returns the config as written."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    if case.per_layer:
        model.config.save_pretrained(folder)
        state = {k: v for k, v in model.state_dict().items() if not (case.config.get("tie_word_embeddings") and k == "lm_head.weight")}
        save_file({k: v.to(getattr(torch, case.dtype)).contiguous() for k, v in state.items()}, folder / "model.safetensors", {"format": "pt"})
    else:
        stored = make_model(case, make_config(case))
        stored.load_state_dict(model.state_dict())
        stored.to(getattr(torch, case.dtype)).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if case.strip_prefix:
        state = load_file(folder / "model.safetensors")
        state = {k.removeprefix(case.strip_prefix): v for k, v in state.items()}
        # The mask that old GPT-2 checkpoints carry as a buffer; it is no weight.
        n = case.config["n_positions"]
        state["h.0.attn.bias"] = torch.tril(torch.ones(n, n)).view(1, 1, n, n)
        save_file(state, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = [type(model).__name__]
    config["dtype"] = case.dtype
    if case.per_layer:
        config["per_layer_config"] = case.per_layer
    write_json(folder / "config.json", config)
    write_json(folder / "config_classic.json", classic_config(config))


def check_reload(case, folder, input_ids, expected):
    """Both forms of the config, read by transformers from disk, must give the logits that are written beside them."""
    if case.per_layer:
        return
    model = AutoModelForCausalLM.from_pretrained(folder, **EXACT).eval()
    assert relative(logits_of(model, input_ids), expected) < 1e-6, f"{case.name}: reloaded model differs"
    classic = json.loads((folder / "config_classic.json").read_text())
    config = AutoConfig.for_model(**classic)
    again = AutoModelForCausalLM.from_config(config, **EXACT).eval()
    again.load_state_dict(model.state_dict())
    assert relative(logits_of(again, input_ids), expected) < 1e-6, f"{case.name}: the classic config means something else"


def check_router(case, model, input_ids):
    """Chosen and rejected experts must be far enough apart that rounding cannot swap them."""
    gaps = []
    for layer in model.model.layers:
        layer.mlp.gate.register_forward_hook(lambda m, i, out: gaps.append(
            torch.topk(out[0].float().softmax(-1), m.top_k + 1).values[:, -2:].diff().abs().min().item()))
    logits_of(model, input_ids)
    assert min(gaps) > MIN_ROUTER_GAP, f"{case.name}: router gap {min(gaps)}"
    return min(gaps)


def build(case: Case):
    torch.manual_seed(0)
    model = make_model(case, make_config(case))
    fill_random(case, model)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    vocab = case.config["vocab_size"]
    input_ids = rng_for(case.name, "input_ids").integers(3, vocab, case.n_tokens).tolist()
    input_ids[0] = 1
    expected = logits_of(model, input_ids)

    features = {label: variant_change(case, state, change, input_ids, expected) for label, change in case.variants.items()}
    weak = {k: v for k, v in features.items() if not v > case.variants[k].get("min_change", MIN_CHANGE)}
    assert not weak, f"{case.name}: features that do not matter: {weak}"
    distinct = len(set(expected.argmax(-1).tolist()))
    assert expected.std() > 0.3 and distinct >= 5, f"{case.name}: degenerate logits, {distinct} different next tokens"
    golden = {"case": case.name, "input_ids": input_ids, "transformers": transformers.__version__, "torch": torch.__version__,
              "attn_implementation": "eager", "change_of_logits_without_feature": {k: float(f"{v:.3g}") for k, v in features.items()},
              "next_token": expected.argmax(-1).tolist(), "largest_logit": expected.abs().max().item()}
    if case.model_type == "mixtral":
        golden["smallest_router_gap"] = check_router(case, model, input_ids)

    folder = OUT / case.name
    write_checkpoint(case, model, folder)
    tensors = {"input_ids": torch.tensor(input_ids), "logits": expected.contiguous()}
    if case.n_tokens_short:
        tensors["input_ids_short"] = tensors["input_ids"][:case.n_tokens_short].clone()
        tensors["logits_short"] = logits_of(model, input_ids[:case.n_tokens_short])
        golden["n_tokens_short"] = case.n_tokens_short
    save_file(tensors, folder / "golden.safetensors")
    check_reload(case, folder, input_ids, expected)

    error = relative(logits_of(model.double(), input_ids).float(), expected)
    assert error < MAX_F64_ERROR, f"{case.name}: float32 is {error} from float64"
    golden["relative_difference_to_float64"] = float(f"{error:.3g}")
    write_json(folder / "golden.json", golden)
    size = sum(f.stat().st_size for f in folder.iterdir())
    weakest = min(features.items(), key=lambda kv: kv[1]) if features else ("-", 0)
    print(f"{case.name:22} {size / 1024:6.1f} KiB  f64 {error:.1e}  logits sd {expected.std():.2f}  weakest: {weakest[0]} {weakest[1]:.2g}")
    return size


def activations():
    """Values of the activation functions, in float64: the two forms of gelu differ by less than many logits would show."""
    x = torch.cat([torch.linspace(-6, 6, 97, dtype=torch.float64), torch.tensor([-30.0, 30.0, 1e-8, -1e-8, 0.0], dtype=torch.float64)])
    names = ["silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "quick_gelu", "relu", "relu2", "sigmoid", "tanh"]
    return {"x": x.tolist(), **{name: transformers.activations.ACT2FN[name](x).tolist() for name in names}}


def main(names):
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    known = {case.name for case in CASES}
    assert not set(names) - known, f"unknown cases {set(names) - known}; known: {sorted(known)}"
    total = sum(build(case) for case in CASES if not names or case.name in names)
    write_json(OUT / "bad_configs.json", BAD_CONFIGS)
    write_json(OUT / "harmless_configs.json", HARMLESS_CONFIGS)
    write_json(OUT / "activations.json", activations())
    write_json(OUT / "index.json", sorted(known))
    print(f"total {total / 1024:.0f} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
