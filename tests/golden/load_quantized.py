#!/usr/bin/env python3
"""Loads folders that `skiff convert --to gptq|awq` wrote, or that another program did, in transformers with GPTQModel on the CPU, and compares the logits with
those of our reference kernels.

    SKIFF_LOGITS_OF=A,B parity_quantized_models --gtest_filter='LoadElsewhere*'
    GPTQMODEL_CPU_WORKERS=2 load_quantized.py A B

Needs torch, transformers, GPTQModel, safetensors. The package computes in 16 bits, we in 32. Exit 1 where a logit differs by more than 2e-2 of the largest.
"""
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

failed = False
for folder in sys.argv[1:]:
    ours = load_file(folder.rstrip("/") + ".logits.safetensors")
    model = AutoModelForCausalLM.from_pretrained(folder, device_map="cpu").eval()
    with torch.no_grad():
        theirs = model(input_ids=ours["input_ids"].long().unsqueeze(0)).logits[0].float()
    difference, largest = (theirs - ours["logits"]).abs(), theirs.abs().max().item()
    agreement = (theirs.argmax(-1) == ours["logits"].argmax(-1)).float().mean().item()
    kernel = type(next(m for m in model.modules() if hasattr(m, "qweight"))).__name__
    print(f"{folder}: {kernel} {model.dtype}, largest difference {difference.max().item():.3g}, mean {difference.mean().item():.3g}, largest logit {largest:.3g}, "
          f"relative {difference.max().item() / largest:.3g}, same top token {agreement:.4f}", flush=True)
    failed = failed or difference.max().item() / largest > 2e-2
sys.exit(failed)
