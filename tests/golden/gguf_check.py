"""Reads GGUF files that skiff wrote with the gguf package: every metadata value and every tensor.

Usage: SKIFF_KEEP_FILES=1 build/src/formats/formats_tests --gtest_filter='GgufWriting.*'; python tests/golden/gguf_check.py /tmp/skiff_gguf_writer_*.gguf
Needs: numpy, gguf (0.19). Where a file has a tensor F32, the others of its shape are compared with it (relative squared error).
"""
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize


def check(path):
    reader = GGUFReader(path)
    n_values = sum(1 for field in reader.fields.values() if field.contents() is not None)
    values = {tensor.name: dequantize(tensor.data, tensor.tensor_type).astype(np.float64) if tensor.tensor_type.name != "F64"
              else np.array(tensor.data, dtype=np.float64) for tensor in reader.tensors}
    print(f"{path}: {n_values} values, {len(reader.tensors)} tensors")
    reference = values.get("F32")
    for name, found in values.items():
        if reference is not None and found.shape == reference.shape:
            error = ((found - reference) ** 2).sum() / (reference ** 2).sum()
            print(f"  {name:8} relative squared error {error:.3g}")
            assert error < 0.01, name


for argument in sys.argv[1:]:
    check(argument)
