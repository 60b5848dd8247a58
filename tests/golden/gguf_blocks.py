"""Golden vectors for the block decoders: for each block type a few blocks and what the gguf package decodes them to.

Usage: python tests/golden/gguf_blocks.py [tests/data/gguf]
Needs: numpy, gguf (0.19). File: all blocks, then block_size float32 values for each block.
Cases, in this order: random codes with an ordinary scale; zero scales; subnormal half-precision scales; negative scales; all bits of
the codes set with the largest finite scale; all bits of the codes clear; then three random blocks with random finite scales.
"""
import sys
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

# byte offsets of the half-precision fields of a block
F16_FIELDS = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2],
    "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": [], "TQ1_0": [52], "TQ2_0": [64],
}


def finite_f16(rng):
    while True:
        bits = int(rng.integers(0, 1 << 16))
        if bits & 0x7C00 != 0x7C00:
            return bits


def make_blocks(name, rng):
    block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]

    def block(codes, scales):
        data = np.array(codes, dtype=np.uint8)
        for offset, bits in zip(F16_FIELDS[name], scales):
            data[offset:offset + 2] = np.frombuffer(np.uint16(bits).tobytes(), dtype=np.uint8)
        return data

    def random():
        return rng.integers(0, 256, block_bytes)

    ones, zeros = np.full(block_bytes, 255), np.zeros(block_bytes, dtype=np.uint8)
    blocks = [
        block(random(), [0x2C00, 0x2E66]),
        block(random(), [0, 0]),
        block(random(), [0x0001, 0x03FF]),
        block(random(), [0xA800, 0xB123]),
        block(ones, [0x7BFF, 0x7BFF]),
        block(zeros, [0x3C00, 0x3C00]),
    ]
    blocks += [block(random(), [finite_f16(rng), finite_f16(rng)]) for _ in range(3)]
    if name == "MXFP4":  # exponents 0 and 1 are subnormal floats, 255 is the largest
        for i, exponent in enumerate([120, 0, 1, 2, 255, 127]):
            blocks[i][0] = exponent
    return np.stack(blocks)


def main():
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data/gguf")
    target.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(F16_FIELDS):
        blocks = make_blocks(name, np.random.default_rng(1000 + index))
        values = dequantize(blocks, GGMLQuantizationType[name]).astype("<f4")
        (target / f"blocks_{name}.bin").write_bytes(blocks.tobytes() + values.tobytes())


main()
