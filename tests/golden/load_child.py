#!/usr/bin/env python3
"""Loads `skiff quantize --compat` children in transformers and compares their logits with ours.

    SKIFF_LOAD_CHILD_DIR=DIR e2e_quantize_child --gtest_filter='*WritesChildren*'
    load_child.py DIR/w4g32 DIR/w4g32.logits.safetensors

The test program writes the children of models/pocket and the logits (n_tokens, n_vocab) f32 of our reference kernels. Needs torch, transformers,
compressed-tensors, safetensors. Prints the differences; exit 1 above 1e-2 of the largest logit.
"""
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

folder, logits_path = sys.argv[1:3]
ours = load_file(logits_path)
# float32 arithmetic on the stored codes and scales, as in our reference kernels.
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
with torch.no_grad():
    theirs = model(input_ids=ours["input_ids"].long().unsqueeze(0)).logits[0].float()
difference = (theirs - ours["logits"]).abs()
largest = theirs.abs().max().item()
agreement = (theirs.argmax(-1) == ours["logits"].argmax(-1)).float().mean().item()
print(f"{folder}: largest difference {difference.max().item():.3g}, mean {difference.mean().item():.3g}, largest logit {largest:.3g}, "
      f"relative {difference.max().item() / largest:.3g}, same top token {agreement:.4f}")
sys.exit(difference.max().item() / largest > 1e-2)
