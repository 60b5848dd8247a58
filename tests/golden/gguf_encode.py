"""What ggml's own quantizers reach on fixed weights: the errors that the block encoders must not exceed.

Usage: python tests/golden/gguf_encode.py PATH/libggml-base.so [tests/data/gguf]
Needs: numpy, gguf (0.19), and a built ggml (0.25), called through ctypes. Writes encode_weights.bin (float32: 32 rows of 512 weights, the first 16
Gaussian, the next 8 Laplace, the last 8 Gaussian with an outlier in each 64; then 512 importances), encode_errors.json
(relative squared error by type, for the Gaussian rows, for all rows, and importance-weighted for all rows) and encode_Q8_0.bin (the bytes).
"""
import ctypes
import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL"]


def main():
    ggml = ctypes.CDLL(sys.argv[1])
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    target = Path(sys.argv[2] if len(sys.argv) > 2 else "tests/data/gguf")

    rng = np.random.default_rng(7)
    gaussian = rng.normal(0, 0.02, (16, 512))
    laplace = rng.laplace(0, 0.02, (8, 512))
    outliers = rng.normal(0, 0.02, (8, 512))
    outliers[:, ::64] *= 8
    weights = np.concatenate([gaussian, laplace, outliers]).astype(np.float32)
    importance = np.exp(rng.normal(0, 1, 512)).astype(np.float32)

    def quantize(type_name, importance_row):
        kind = GGMLQuantizationType[type_name]
        block, size = GGML_QUANT_SIZES[kind]
        out = np.zeros((32, 512 // block * size), dtype=np.uint8)
        pointer = None if importance_row is None else importance_row.ctypes.data
        ggml.ggml_quantize_chunk(int(kind), weights.ctypes.data, out.ctypes.data, 0, 32, 512, pointer)
        return out, dequantize(out, kind)

    def error(values, rows, weigh):
        difference = (values.astype(np.float64) - weights) ** 2 * weigh
        return float(difference[rows].sum() / (weights.astype(np.float64) ** 2 * weigh)[rows].sum())

    errors = {}
    for name in TYPES:
        out, plain = quantize(name, None)
        _, weighed = quantize(name, importance)
        errors[name] = {
            "gaussian": error(plain, slice(0, 16), 1.0),
            "all": error(plain, slice(0, 32), 1.0),
            "importance": error(weighed, slice(0, 32), importance.astype(np.float64)),
        }
        if name == "Q8_0":
            (target / "encode_Q8_0.bin").write_bytes(out.tobytes())
    (target / "encode_weights.bin").write_bytes(weights.tobytes() + importance.tobytes())
    (target / "encode_errors.json").write_text(json.dumps(errors, indent=1) + "\n")


main()
