"""A small GGUF file written by the gguf package, and what is in it.

Usage: python tests/golden/gguf_files.py [tests/data/gguf]
Needs: numpy, gguf (0.19). Writes python_small.gguf, python_small.json (metadata and decoded tensors) and a split model of two parts.
"""
import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as T, GGUFReader, GGUFValueType as V, GGUFWriter
from gguf.quants import dequantize, quantize

TOKENS = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)] + ["▁a", "b", "▁ab", "轻舟"]
TYPES = [2, 3, 3] + [6] * 256 + [1] * 4


def tensors(rng):
    weights = rng.normal(0, 1, (4, 256)).astype(np.float32)
    yield "token_embd.weight", weights, T.F32
    yield "blk.0.attn_q.weight", weights[:, ::-1].copy(), T.F16
    yield "blk.0.attn_norm.weight", weights[0, :7].copy(), T.F32
    for kind in [T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.TQ1_0, T.TQ2_0, T.MXFP4]:
        yield f"blk.0.{kind.name}.weight", np.roll(weights, int(kind), axis=1), kind
    yield "experts.weight", rng.normal(0, 1, (2, 3, 32)).astype(np.float32), T.Q8_0


def write(path):
    writer = GGUFWriter(path, "llama")
    writer.add_name("small")
    writer.add_block_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_feed_forward_length([64, 96])
    writer.add_key_value("test.u8", 255, V.UINT8)
    writer.add_key_value("test.i8", -128, V.INT8)
    writer.add_key_value("test.u16", 65535, V.UINT16)
    writer.add_key_value("test.i16", -32768, V.INT16)
    writer.add_key_value("test.u64", 2**63 - 1, V.UINT64)
    writer.add_key_value("test.i64", -(2**63), V.INT64)
    writer.add_key_value("test.f64", 0.1, V.FLOAT64)
    writer.add_array("test.strings", ["", "é", "轻舟"])
    writer.add_array("test.bools", [True, False, True])
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([-float(i) for i in range(len(TOKENS))])
    writer.add_token_types(TYPES)
    writer.add_token_merges(["▁a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)
    writer.add_precompiled_charsmap(bytes([0, 1, 254, 255]))
    writer.add_chat_template("{{ messages }}")
    for name, values, kind in tensors(np.random.default_rng(3)):
        if kind in (T.F32, T.F16):
            writer.add_tensor(name, values.astype(np.float32 if kind == T.F32 else np.float16))
        else:
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def describe(path):
    reader = GGUFReader(path)
    metadata = {}
    for name, field in reader.fields.items():
        if not name.startswith("GGUF."):
            metadata[name] = {"type": [int(t) for t in field.types], "value": field.contents()}
    result = []
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        result.append({
            "name": tensor.name, "type": tensor.tensor_type.name, "shape": [int(n) for n in tensor.shape][::-1],
            "bits": [int(b) for b in values.ravel().view(np.uint32)[:300]],
            "sum": float(values.astype(np.float64).sum()),
        })
    return {"metadata": metadata, "tensors": result}


def write_split(folder):
    for number in range(2):
        writer = GGUFWriter(folder / f"split-{number + 1:05d}-of-00002.gguf", "llama")
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 2)
        writer.add_int32("split.tensors.count", 3)
        if number == 0:
            writer.add_name("split")
        for i in ([0, 1] if number == 0 else [2]):
            writer.add_tensor(f"t{i}", np.full((2, 4), i, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data/gguf")
    write(folder / "python_small.gguf")
    (folder / "python_small.json").write_text(json.dumps(describe(folder / "python_small.gguf"), ensure_ascii=False) + "\n")
    write_split(folder)


main()
