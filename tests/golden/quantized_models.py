#!/usr/bin/env python3
"""Writes tests/data/quantized: one tiny random llama as other programs quantize it, with the logits of their numbers.

    GPTQMODEL_CPU_WORKERS=2 python tests/golden/quantized_models.py [case ...]

The checkpoints are written by the packages themselves (GPTQModel for GPTQ and AWQ, transformers with bitsandbytes), those of FP8 by the formulas of
transformers. The logits are computed in float32 by transformers from weights that the package unpacked: its integers and zeros, times its scales in float32.
Versions: torch 2.15.0, transformers 5.23.0, GPTQModel 7.7.0, bitsandbytes 0.50.2, safetensors 0.8.0, tokenizers 0.23.3.
"""
import json
import pathlib
import shutil
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

OUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "quantized"
CONFIG = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=32, vocab_size=96, max_position_embeddings=64,
              tie_word_embeddings=True, bos_token_id=0, eos_token_id=1)
IDS = [3, 17, 80, 5, 5, 61, 33, 90, 12, 44, 71, 9]

# name: what to do with which arguments
CASES = {
    "gptq_w4g32_act_order": ("gptq", dict(bits=4, group_size=32, desc_act=True, sym=True, format="gptq")),
    "gptq_w4g32a_v2": ("gptq", dict(bits=4, group_size=32, desc_act=False, sym=False, format="gptq_v2")),
    "gptq_w3g32a": ("gptq", dict(bits=3, group_size=32, desc_act=False, sym=False, format="gptq")),
    "gptq_w2g32": ("gptq", dict(bits=2, group_size=32, desc_act=False, sym=True, format="gptq")),
    "gptq_w8": ("gptq", dict(bits=8, group_size=-1, desc_act=True, sym=True, format="gptq")),
    "gptq_dynamic": ("gptq", dict(bits=4, group_size=32, desc_act=False, act_group_aware=False, sym=True, format="gptq",
                                  dynamic={r"+:.*\.down_proj$": {"bits": 8, "group_size": -1}, r"-:.*\.o_proj$": {}})),
    "awq_gemm_w4g32a": ("gptq", dict(bits=4, group_size=32, method="awq", format="gemm", sym=False)),
    "bnb_nf4": ("bnb", dict(bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=False)),
    "bnb_nf4_nested": ("bnb", dict(bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)),
    "bnb_fp4": ("bnb", dict(bnb_4bit_quant_type="fp4", bnb_4bit_use_double_quant=False)),
    "fp8_blocks": ("fp8", dict(block=[32, 48])),
    "fp8_rows": ("fp8", dict(block=None)),
}


def base_model(folder, name):
    torch.manual_seed(11)
    wider = dict(num_key_value_heads=2, intermediate_size=128) if name.startswith("awq") else {}  # GPTQModel's AWQ takes multiples of 64
    model = AutoModelForCausalLM.from_config(LlamaConfig(**{**CONFIG, **wider}), dtype=torch.float32)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "norm" in name:
                tensor.copy_(1 + 0.3 * torch.randn(tensor.shape))
            else:
                tensor.copy_(torch.randn(tensor.shape) * (0.6 if "embed" in name else 1.5 / tensor.shape[-1] ** 0.5))
    model.half().save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(CONFIG["vocab_size"])}, unk_token="w2"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w1", unk_token="w2", pad_token="w1").save_pretrained(folder)


def gptq(base, out, arguments):
    from gptqmodel import GPTQModel, QuantizeConfig
    generator = torch.Generator().manual_seed(5)
    texts = [" ".join(f"w{i}" for i in torch.randint(3, 96, (48,), generator=generator).tolist()) for _ in range(64)]
    model = GPTQModel.load(str(base), QuantizeConfig(**arguments), device="cpu")
    model.quantize(texts, batch_size=1)
    model.save(str(out))


def integers_times_scales(module):
    """(code - zero) from the package's own unpacking, with scales of one; then its scales in float32."""
    scales, g_idx = module.scales.float(), getattr(module, "g_idx", None)
    groups = g_idx.long() if g_idx is not None else torch.arange(module.in_features) // (module.group_size if module.group_size > 0 else module.in_features)
    module.scales.data = torch.ones_like(module.scales)
    if hasattr(module, "dequantize_weight"):
        whole = module.dequantize_weight().float()  # (inputs, outputs)
    else:
        from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm
        whole = dequantize_gemm(module.qweight, module.qzeros, module.scales, 4, module.group_size).float()
    return (whole * scales[groups]).T


def gptq_weights(folder):
    from gptqmodel import BACKEND, GPTQModel
    config = json.loads((folder / "config.json").read_text())
    backend = BACKEND.AWQ_TORCH if config["quantization_config"]["quant_method"] == "awq" else BACKEND.GPTQ_TORCH
    loaded = GPTQModel.load(str(folder), device="cpu", backend=backend, dtype=torch.float16)
    return {name + ".weight": integers_times_scales(module) for name, module in loaded.model.named_modules() if hasattr(module, "qweight")}


def bnb(base, out, arguments):
    from transformers import BitsAndBytesConfig
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32, **arguments)
    AutoModelForCausalLM.from_pretrained(base, quantization_config=config, device_map="cpu", dtype=torch.float16).save_pretrained(out)


def bnb_weights(folder):
    import bitsandbytes
    from bitsandbytes.backends.default.ops import _dequantize_4bit_compute  # that of the CPU (0.50.2) cuts blocks by rows where they run over the ends of rows
    from bitsandbytes.functional import dequantize_blockwise, get_4bit_type
    model = AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", dtype=torch.float32)
    weights = {}
    for name, module in model.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            state = module.weight.quant_state
            absmax = dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
            table = get_4bit_type(state.quant_type, "cpu")
            weights[name + ".weight"] = _dequantize_4bit_compute(module.weight.data.reshape(-1), absmax.float(), table, state.blocksize, state.shape, torch.float32)
    return weights


def fp8(base, out, arguments):
    """As transformers' FineGrainedFP8 and fbgemm: scale = largest / 448, the code of weight / scale; both keep the factor that multiplies."""
    shutil.copytree(base, out)
    tensors, block = load_file(out / "model.safetensors"), arguments["block"]
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        weight = tensors[name].float()
        rows, columns = block or (1, weight.shape[1])
        scale = torch.stack([torch.stack([weight[r:r + rows, c:c + columns].abs().max() / 448 for c in range(0, weight.shape[1], columns)])
                             for r in range(0, weight.shape[0], rows)])
        spread = scale.repeat_interleave(rows, 0)[:weight.shape[0]].repeat_interleave(columns, 1)[:, :weight.shape[1]]
        tensors[name] = (weight / spread).to(torch.float8_e4m3fn)
        tensors[name + ("_scale_inv" if block else "_scale")] = scale
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((out / "config.json").read_text())
    config["quantization_config"] = ({"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": block} if block
                                     else {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200})
    (out / "config.json").write_text(json.dumps(config, indent=1))


def fp8_weights(folder):
    tensors, weights = load_file(folder / "model.safetensors"), {}
    block = json.loads((folder / "config.json").read_text())["quantization_config"].get("weight_block_size")
    for name, tensor in tensors.items():
        if tensor.dtype == torch.float8_e4m3fn:
            scale = tensors[name + ("_scale_inv" if block else "_scale")]
            rows, columns = block or (1, tensor.shape[1])
            weights[name] = tensor.float() * scale.repeat_interleave(rows, 0)[:tensor.shape[0]].repeat_interleave(columns, 1)[:, :tensor.shape[1]]
    return weights


MAKERS = {"gptq": (gptq, gptq_weights), "bnb": (bnb, bnb_weights), "fp8": (fp8, fp8_weights)}


def main():
    for name in sys.argv[1:] or CASES:
        kind, arguments = CASES[name]
        make, weights_of = MAKERS[kind]
        with tempfile.TemporaryDirectory() as temporary:
            base, made = pathlib.Path(temporary) / "base", pathlib.Path(temporary) / "made"
            base_model(base, name)
            make(base, made, dict(arguments))
            weights = weights_of(made)
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()
            state = model.state_dict()
            for key, tensor in load_file(made / "model.safetensors").items():  # norms, embeddings, what was left out
                if key in state and tensor.is_floating_point() and tensor.shape == state[key].shape and tensor.dtype != torch.float8_e4m3fn:
                    state[key].copy_(tensor)
            for key, tensor in weights.items():
                state[key].copy_(tensor)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([IDS])).logits[0]
            target = OUT / name
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            shutil.copy(made / "model.safetensors", target)
            config = json.loads((made / "config.json").read_text())
            for key in ("meta", "offload_to_disk_path"):  # of the machine that made it
                config.get("quantization_config", {}).pop(key, None)
            (target / "config.json").write_text(json.dumps(config, indent=1) + "\n")
            save_file({"input_ids": torch.tensor(IDS), "logits": logits.contiguous(), **{f"weight.{key}": value.contiguous() for key, value in list(weights.items())[:1]}},
                      target / "golden.safetensors")
            print(name, "weights", len(weights), "largest logit", logits.abs().max().item(), flush=True)


if __name__ == "__main__":
    main()
