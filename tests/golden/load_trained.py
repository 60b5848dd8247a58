#!/usr/bin/env python3
"""Loads a model that `skiff train` wrote in transformers, to be compared with `skiff eval FOLDER --text TEXT` and `skiff run FOLDER --raw --temp 0 -n 64`.

    load_trained.py FOLDER TEXT [--window 512] [--max-windows 0] [--prompt "Once"]
    load_trained.py MERGED TEXT --base FOLDER --adapter FOLDER      # also: is MERGED what peft makes of the base and the adapter?

Needs torch, transformers, tokenizers (and peft for --adapter). Prints the mean loss and perplexity over the windows (protocol `windows` of models_perplexity.py)
and 64 greedy tokens; exit 1 where AutoTokenizer finds other tokens than tokenizer.json, or the merged weights differ from peft's.
"""
import argparse
import math
import pathlib
import sys

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder")
parser.add_argument("text")
for name, value in (("window", 512), ("max_windows", 0)):
    parser.add_argument("--" + name.replace("_", "-"), type=int, default=value)
for name, value in (("prompt", "Once upon a time"), ("base", None), ("adapter", None)):
    parser.add_argument("--" + name, default=value)
o = parser.parse_args()
failed = False

model = AutoModelForCausalLM.from_pretrained(o.folder, dtype=torch.float32).eval()
text = pathlib.Path(o.text).read_bytes().decode("utf-8")
exact, auto = Tokenizer.from_file(f"{o.folder}/tokenizer.json"), AutoTokenizer.from_pretrained(o.folder)
ids = exact.encode(text).ids        # with the begin token, if the tokenizer puts one
if auto(text, verbose=False).input_ids != ids:
    print("AutoTokenizer finds other tokens than tokenizer.json, whose tokens are used here")
    failed = True

n = min(o.window, model.config.max_position_embeddings)
windows = torch.tensor(ids[:len(ids) // n * n]).view(-1, n)[:o.max_windows or None]
with torch.no_grad():
    losses = [torch.nn.functional.cross_entropy(model(w[None]).logits[0, :-1].double(), w[1:]).item() for w in windows]
loss = sum(losses) / len(losses)
print(f"{len(losses)} windows of {n}: loss {loss:.6f}, perplexity {math.exp(loss):.4f}")

prompt = torch.tensor([exact.encode(o.prompt).ids])
sample = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=64, do_sample=False)
print(repr(exact.decode(sample[0].tolist())))

if o.adapter:
    from peft import PeftModel
    base = AutoModelForCausalLM.from_pretrained(o.base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, o.adapter).merge_and_unload().state_dict()
    # Ours may be rounded to 16 bits when it is stored; anything else is an error.
    bits = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}[AutoModelForCausalLM.from_pretrained(o.folder, dtype="auto").dtype]
    worst, key = max((((p - merged[k]).abs().max() / merged[k].abs().max().clamp(min=1e-30)).item(), k) for k, p in model.state_dict().items())
    print(f"merged weights: largest relative difference {worst:.2g} in {key}, {bits:.0e} allowed")
    failed |= worst > bits
sys.exit(failed)
