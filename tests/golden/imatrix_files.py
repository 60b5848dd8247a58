#!/usr/bin/env python3
"""Writes tests/data/imatrix: the same sums in both forms of llama.cpp's importance matrix. The GGUF one by the gguf package (0.19.0), the older one as
llama.cpp's save_imatrix_legacy() lays it out.

    python tests/golden/imatrix_files.py
"""
import pathlib
import struct

import gguf
import numpy as np

out = pathlib.Path(__file__).resolve().parents[1] / "data" / "imatrix"
out.mkdir(parents=True, exist_ok=True)
random = np.random.default_rng(3)
# name -> (sums of squares (n_matrices, n_inputs), tokens of each matrix); an expert that no token took has sums of 0
sums = {"blk.0.attn_q.weight": (random.random((1, 32)).astype(np.float32) * 512, [512]),
        "blk.0.ffn_down_exps.weight": (random.random((3, 16)).astype(np.float32) * 100, [300, 0, 212])}
sums["blk.0.ffn_down_exps.weight"][0][1] = 0

writer = gguf.GGUFWriter(out / "small.gguf", arch="")
writer.add_type("imatrix")
writer.add_array("imatrix.datasets", ["calib.txt"])
writer.add_uint32("imatrix.chunk_count", 4)
writer.add_uint32("imatrix.chunk_size", 128)
for name, (values, counts) in sums.items():
    writer.add_tensor(name + ".in_sum2", values)
    writer.add_tensor(name + ".counts", np.array(counts, dtype=np.float32).reshape(-1, 1))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

runs = 4
with open(out / "small.dat", "wb") as file:
    file.write(struct.pack("<i", len(sums)))
    for name, (values, counts) in sums.items():
        means = values / np.maximum(np.array(counts, dtype=np.float32).reshape(-1, 1), 1) * np.float32(runs)
        file.write(struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", runs, values.size) + means.astype(np.float32).tobytes())
    file.write(struct.pack("<ii", runs, len("calib.txt")) + b"calib.txt")

with open(out / "expected.txt", "w") as file:
    for name, (values, counts) in sums.items():
        means = values / np.maximum(np.array(counts, dtype=np.float32).reshape(-1, 1), 1)
        file.write(name + " " + " ".join(f"{value:.9g}" for value in means.ravel()) + "\n")
