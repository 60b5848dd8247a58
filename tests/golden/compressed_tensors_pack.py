#!/usr/bin/env python3
"""Writes tests/data/compressed_tensors/: small tensors quantized and packed by the compressed-tensors package, what it decodes them to,
and a quantization_config it dumps. Needs: torch, safetensors, compressed-tensors (0.20.0 made the committed files).

    python tests/golden/compressed_tensors_pack.py
"""
import json
import pathlib

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from safetensors.torch import save_file

out = pathlib.Path(__file__).resolve().parents[1] / "data" / "compressed_tensors"

# module name: (rows, columns, format, type of the scales, arguments)
CASES = {
    "w8": (6, 44, "pack-quantized", torch.bfloat16, dict(num_bits=8, strategy="channel")),
    "w8a": (6, 44, "pack-quantized", torch.float16, dict(num_bits=8, strategy="channel", symmetric=False)),
    "w4g32": (5, 64, "pack-quantized", torch.float16, dict(num_bits=4, strategy="group", group_size=32)),
    "w4g32a": (37, 96, "pack-quantized", torch.float16, dict(num_bits=4, strategy="group", group_size=32, symmetric=False)),
    "w4g128": (4, 256, "pack-quantized", torch.bfloat16, dict(num_bits=4, strategy="group", group_size=128)),
    "w4g128a": (9, 256, "pack-quantized", torch.float32, dict(num_bits=4, strategy="group", group_size=128, symmetric=False)),
    "w3g32": (5, 96, "pack-quantized", torch.float32, dict(num_bits=3, strategy="group", group_size=32)),
    "w5a": (7, 33, "pack-quantized", torch.bfloat16, dict(num_bits=5, strategy="channel", symmetric=False)),
    "w2g16": (3, 48, "pack-quantized", torch.float16, dict(num_bits=2, strategy="group", group_size=16)),
    "w4tensor": (3, 40, "pack-quantized", torch.float16, dict(num_bits=4, strategy="tensor")),
    "int8": (6, 44, "int-quantized", torch.bfloat16, dict(num_bits=8, strategy="channel")),
    "int8a": (6, 44, "int-quantized", torch.float16, dict(num_bits=8, strategy="channel", symmetric=False)),
}


def scales_and_zeros(weight, args, scale_dtype):
    bits = args.num_bits
    group = {"tensor": weight.numel(), "channel": weight.shape[1], "group": args.group_size}[args.strategy]
    rows = 1 if args.strategy == "tensor" else weight.shape[0]
    groups = weight.float().reshape(rows, -1, group)
    if args.symmetric:
        scale = groups.abs().amax(-1) / ((2**bits - 1) / 2)
        zero = torch.zeros(scale.shape, dtype=torch.int8)
    else:
        low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
        scale = (high - low) / (2**bits - 1)
        zero = torch.round(-(2 ** (bits - 1)) - low / scale).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).to(torch.int8)
    if args.strategy == "tensor":
        scale, zero = scale.reshape(1), zero.reshape(1)
    return scale.to(scale_dtype), zero


def main():
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    tensors, schemes = {}, {}
    for name, (rows, columns, form, scale_dtype, arguments) in CASES.items():
        args = QuantizationArgs(type="int", **arguments)
        scheme = QuantizationScheme(targets=[name], weights=args, format=form)
        weight = (torch.randn(rows, columns) * 0.05 + (0.02 if not args.symmetric else 0)).to(scale_dtype)
        scale, zero = scales_and_zeros(weight, args, scale_dtype)
        state = {"weight": weight, "weight_scale": scale}
        if not args.symmetric:
            state["weight_zero_point"] = zero
        compressor = BaseCompressor.get_value_from_registry(form)
        packed = compressor.compress(dict(state), scheme)
        decoded = compressor.decompress({key: value.clone() for key, value in packed.items()}, scheme)
        for key, value in packed.items():
            tensors[f"{name}.{key}"] = value.contiguous()
        tensors[f"expected.{name}"] = decoded["weight"].contiguous()
        schemes[f"group_{len(schemes)}"] = scheme
    tensors["plain.weight"] = torch.randn(3, 8).to(torch.bfloat16)
    tensors["half.weight"] = torch.randn(3, 8).to(torch.float16)
    save_file(tensors, out / "tensors.safetensors", metadata={"format": "pt"})
    config = QuantizationConfig(config_groups=schemes, format="mixed-precision", quantization_status="compressed", ignore=["lm_head", "re:.*router$"])
    (out / "quantization_config.json").write_text(json.dumps(json.loads(config.model_dump_json()), indent=1) + "\n")


main()
