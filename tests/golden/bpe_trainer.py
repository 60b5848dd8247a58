#!/usr/bin/env python3
"""The merges that Hugging Face's BpeTrainer learns from small texts, for each pre-tokenizer that words can be counted with.

Writes tests/data/tokenizers/bpe_trainer.vectors.json. Needs the package `tokenizers`. Usage: bpe_trainer.py
"""
import json
import random
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests/data/tokenizers"
END = "<|endoftext|>"
CALIB_BYTES = 60_000
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {"llama-bpe": LLAMA3, "qwen2": LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"), "gpt-2": None}


def awkward():
    """Ties, scripts, emoji, line ends of three kinds, digits, documents without an end."""
    rng = random.Random(11)
    pieces = ["the ", "then ", "there's ", "they'LL ", "Über", "naïve ", "e\u0301 ", "中国 ", "中文。", "日本語\n", "한국어 ", "🚀🚀 ", "👩‍👩‍👧 ", "1234567 ", "12 ", "٣٤٥ ",
              "\r\n", "\n\n", "\n", "  ", "   \t", "\u00a0", "\u3000", "...", "!?\n", "x=(y)\r\n", "_a_b ", "aaaa ", "aaaaaaaa", "abab ", "ababab", "— ", "нещо ", END, END]
    return "".join(rng.choice(pieces) for _ in range(1500)) + "the end"


def few_letters():
    """Words over three letters: many ties, and tokens that come from two different pairs, one after the other."""
    rng = random.Random(5)
    words = ["".join(rng.choice("abc") for _ in range(rng.randrange(1, 14))) for _ in range(400)]
    return " ".join(rng.choice(words) for _ in range(3000))


def learn(text, pre, vocab_size, min_frequency):
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    if PATTERNS[pre]:
        split = pre_tokenizers.Split(Regex(PATTERNS[pre]), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=[END],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([document for document in text.split(END) if document], trainer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    return tokenizer


def main():
    calib = (ROOT / "models/pocket/calib.txt").read_bytes()[:CALIB_BYTES].decode("utf-8")
    texts = {"calib": calib, "awkward": awkward(), "few_letters": few_letters()}
    samples = json.loads((FOLDER / "texts.json").read_text())
    cases = []
    for name, pre, vocab_size, min_frequency in [("calib", "llama-bpe", 512, 2), ("calib", "gpt-2", 512, 2), ("calib", "qwen2", 512, 40),
                                                 ("awkward", "llama-bpe", 512, 2), ("awkward", "gpt-2", 512, 2), ("awkward", "qwen2", 600, 1),
                                                 ("few_letters", "gpt-2", 1200, 1), ("few_letters", "llama-bpe", 700, 3)]:
        tokenizer = learn(texts[name], pre, vocab_size, min_frequency)
        model = json.loads(tokenizer.to_str())["model"]
        made = len(set(left + right for left, right in model["merges"]))
        print(f"{name} {pre}: {len(model['vocab'])} tokens, {len(model['merges'])} merges of {made} tokens")
        cases.append({"text": name, "pre": pre, "vocab_size": vocab_size, "min_frequency": min_frequency,
                      "tokens": sorted(model["vocab"], key=model["vocab"].get)[257:], "merges": [" ".join(pair) for pair in model["merges"]],
                      "sample_ids": [tokenizer.encode(text).ids for text in samples] if name == "awkward" and pre != "qwen2" else []})
    out = {"calib_bytes": CALIB_BYTES, "texts": {name: text for name, text in texts.items() if name != "calib"}, "cases": cases}
    (FOLDER / "bpe_trainer.vectors.json").write_text(json.dumps(out, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
