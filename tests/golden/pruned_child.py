#!/usr/bin/env python3
"""A quarter of the neurons, of the KV groups or of the query heads gone from every layer: what transformers computes with such a child of `skiff prune`.

    pruned_child.py golden SKIFF            writes tests/data/compress/quarter/ (a tiny parent) and tests/data/compress/pruned_child.json
    pruned_child.py check SKIFF [MODEL]     cuts MODEL (models/pocket) by the default methods and compares transformers' logits with `skiff eval`'s; exit 1 above 1e-4

`golden` cuts by `--importance l2 --compensation none`, which looks at nothing but the weights, so that the child is the same everywhere; tests/golden/pruned_child_test.cpp
cuts again and expects these logits. Needs torch, transformers, tokenizers, safetensors.
"""
import json
import os
import pathlib
import subprocess
import struct
import sys
import tempfile

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DATA = ROOT / "tests" / "data" / "compress"
PLAIN = ["--importance", "l2", "--compensation", "none", "--multiple", "1"]
CASES = [
    {"parent": "tests/data/compress/quarter", "patterns": ["neurons:25%", "kv_groups:25%"], "stride": 1},
    {"parent": "models/pocket", "patterns": ["neurons:25%", "kv_groups:1"], "stride": 61},
    {"parent": "models/pocket", "patterns": ["neurons:25%", "heads:50%"], "stride": 61},
    {"parent": "models/pocket", "patterns": ["neurons:25%", "heads:25%"], "stride": 61},
]


def tiny_parent():
    """8 heads of 8 on 4 KV heads. Of 6 heads the hidden size must be a multiple too, or transformers refuses the child. Seeded by torch's own generator: the file is kept, not made anew."""
    config = AutoConfig.for_model("llama", vocab_size=97, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=4, head_dim=8,
                                  max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=None, tie_word_embeddings=True, rms_norm_eps=1e-5)
    config.architectures, config.dtype = ["LlamaForCausalLM"], "bfloat16"
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(6)
    state = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        normal = torch.randn(tensor.shape, generator=generator)
        state[name] = (1 + 0.3 * normal if "norm" in name else 0.6 * normal if "embed" in name else 1.5 * normal / tensor.shape[-1] ** 0.5).to(torch.bfloat16).contiguous()
    folder = DATA / "quarter"
    folder.mkdir(exist_ok=True)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config.to_diff_dict(), indent=1, sort_keys=True) + "\n")


def cut(skiff, parent, patterns, options, work):
    for i, pattern in enumerate(patterns):
        child = work / f"child{i}"
        subprocess.run([skiff, "prune", str(parent), "-o", str(child), "--pattern", pattern, "--force", "-t", "1", *options], check=True, stdout=subprocess.DEVNULL)
        parent = child
    return parent


def logits_of(folder, ids):
    config = json.loads((folder / "config.json").read_text())
    if config["hidden_size"] % config["num_attention_heads"] != 0:  # refused as a llama
        config.update(model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=None)
        (folder / "config.json").write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].float().numpy()


def golden(skiff):
    tiny_parent()
    rows = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as work:
            child = cut(skiff, ROOT / case["parent"], case["patterns"], PLAIN, pathlib.Path(work))
            config = json.loads((child / "config.json").read_text())
            ids = [(37 * i + 5) % config["vocab_size"] for i in range(24)]
            logits = logits_of(child, ids)
            shape = {key: config[key] for key in ("intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")}
            rows.append({**case, "config": shape, "ids": ids, "largest": float(np.abs(logits).max()), "logits": [[float(f"{x:.7g}") for x in row[:: case["stride"]]] for row in logits]})
    (DATA / "pruned_child.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def check(skiff, model):
    worst = 0
    for case in CASES[1:]:
        for options in ([], PLAIN):
            with tempfile.TemporaryDirectory() as work:
                work = pathlib.Path(work)
                calibration = [] if options else ["--calibration", f"{model}/calib.txt"]
                child = cut(skiff, model, case["patterns"], options + calibration, work)
                subprocess.run([skiff, "eval", str(child), "--text", f"{model}/heldout.txt", "--window", "128", "--max-windows", "1", "--save-logits", str(work / "logits"), "--kernels", "reference"],
                               check=True, stdout=subprocess.DEVNULL)
                raw = (work / "logits").read_bytes()
                length = struct.unpack_from("<I", raw, 12)[0]
                header = json.loads(raw[16 : 16 + length])
                begin = (16 + length + 4095) // 4096 * 4096
                ours = np.frombuffer(raw, np.float32, offset=begin).reshape(-1, header["n_vocab"])
                ids = Tokenizer.from_file(f"{model}/tokenizer.json").encode(open(f"{model}/heldout.txt").read(20000)).ids[:128]
                theirs = logits_of(child, ids)[: len(ours)]
                largest = float(np.abs(theirs).max())
                difference = float(np.abs(ours - theirs).max()) / largest
                same = float((ours.argmax(-1) == theirs.argmax(-1)).mean())
                worst = max(worst, difference)
                print(f"{' + '.join(case['patterns'])}, {'l2, none' if options else 'obs, least squares'}: {len(ours)} positions, largest logit {largest:.2f}, largest difference {difference:.2g} of it, same top token {same:.4f}")
    sys.exit(worst > 1e-4)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    if sys.argv[1] == "golden":
        golden(sys.argv[2])
    else:
        check(sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else str(ROOT / "models" / "pocket"))
