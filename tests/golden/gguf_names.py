"""Compares the tables of docs/formats/gguf.md with the gguf package: type sizes, tensor names, metadata keys.

Usage: python tests/golden/gguf_names.py [docs/formats/gguf.md]
Needs: gguf (0.19).
"""
import re
import sys

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, MODEL_ARCH, MODEL_TENSORS, TENSOR_NAMES, get_tensor_name_map
from gguf import constants

LLAMA_LIKE = {"qwen2": "llama", "qwen3": "llama", "gemma3": "gemma2"}  # "As llama ..."


def known_keys(group, found):
    for name in vars(group):
        value = getattr(group, name)
        if isinstance(value, str):
            found.add(value)
        elif isinstance(value, type) and not name.startswith("_"):
            known_keys(value, found)
    return found


def main():
    text = open(sys.argv[1] if len(sys.argv) > 1 else "docs/formats/gguf.md", encoding="utf-8").read()
    types = re.findall(r"^\| (\d+) \| (\S+) \| (\d+) \| (\d+) \|", text, re.M)
    for number, name, weights, size in types:
        kind = GGMLQuantizationType[name]
        assert (int(kind), *GGML_QUANT_SIZES[kind]) == (int(number), int(weights), int(size)), name
    keys = known_keys(constants.Keys, set())
    n_keys = 0
    for row in re.findall(r"^\| ((?:general|\{arch\})\.[^|]*) \|", text, re.M):
        parts = [part.strip() for part in row.split(",")]
        prefix = parts[0].rsplit(".", 1)[0]
        for part in parts:
            key = part if "." in part else f"{prefix}.{part}"
            assert key in keys, key
            n_keys += 1
    n_names = 0
    tables = {}
    for section in text.split("\n### ")[1:]:
        arch, body = section.split("\n", 1)
        tables[arch] = re.findall(r"^\| ([\w.]+) \| ([\w.]+) \|", body, re.M)
    for arch, rows in tables.items():
        model = MODEL_ARCH[arch.upper()]
        mapping = get_tensor_name_map(model, 8)
        for source, target in rows + tables.get(LLAMA_LIKE.get(arch), []):
            if source in ("Hugging", "model.N"):
                continue
            found = mapping.get_name(source.replace(".N.", ".5."))
            assert found == target.replace(".N.", ".5."), (arch, source, target, found)
            n_names += 1
    print(f"{len(types)} types, {n_keys} keys, {n_names} names agree")


main()
