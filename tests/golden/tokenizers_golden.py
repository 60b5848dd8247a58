#!/usr/bin/env python3
"""Miniature tokenizers of every kind and what the reference packages make of a set of texts.

Writes tests/data/tokenizers/*.tokenizer.json, *.model and *.vectors.json. Needs the packages `tokenizers` and `sentencepiece`.
Usage: tokenizers_golden.py OUTPUT_FOLDER
"""
import io
import json
import random
import sys
import unicodedata
from pathlib import Path

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It wasn't the fox's first jump, and it won't be its last!",
    "She sells sea shells by the sea shore; the shells she sells are surely seashells (1234567 of them).",
    "Peter Piper picked 42 pecks of pickled peppers, didn't he? They're HERE: \"where's the peck\" he'd asked.",
    "нещо на Български език, ещё немного по-русски. Ελληνικά γράμματα. Café, naïve, Zürich, ½ price, ﬁne.",
    "我想在苹果公司工作。天地玄黄，宇宙洪荒。日本語のテキスト、カタカナ。한국어 텍스트입니다.",
    "def main(argc, argv):\n    for i in range(10):\n\tprint(i, 'done')  # comment\n    return {'a': [1, 2, 3]}\n",
    "walking walked walker talks talking talked talker runs running runner   spaces    here",
] * 3


def texts():
    """Texts that tell implementations apart; the same on every machine."""
    rng = random.Random(7)
    out = [
        "", " ", "   ", "\n", "\t \n", "a", "Hello world", "  Hello   world  ", "it's we'LL 'RE don't 'tis", "1234567 12 3 ٣٤٥ Ⅷ½",
        "<s> hi </s>  there<s>", "x <|end|> y<|end|>z", "ABC def, ghi. \"q\"!? (x) [y] {z} $1 ^a `b` c_d", "İstanbul Σίσυφος ΑΣ ẞ",
        "cafe\u0301 café e\u0301\u0323 ﬁ ﬂ ① ｆｕｌｌ　ｗｉｄｔｈ ㎏", "한국어 かな カナ 漢字 我想在apple工作1314151天～", "🚀👩‍👩‍👧‍👦 😶‍🌫️ ✅ 🇩🇪",
        "\u200b\u200d\ufeff zero\u00ad", "a\x00b\x01c\x7f\x9f", "tab\there\r\nand\rthere\x0b\x0c", "▁▁ under ▁x", "[UNK] [CLS] [MASK] <unk> <0x41>",
        "\u00a0nbsp\u3000ideo\u2028ls\u180e", "हिन्दी ภาษาไทย العربية עברית", "a" * 70, " " * 40 + "x", "\n\n\n  \n x", "w" * 101 + " y",
        "the lazy dog walks word wordy sword word", "in  the  middle", "trailing ", "don't n't 'm , . do not",
    ]
    pieces = ["the", " the", "ing", " ", "  ", "\n", "é", "e\u0301", "中", "国", "🚀", "'s", "12", "!", ".", ",", "</s>", "<|end|>", "word", "Ж", "ﬁ", "\t", "▁", "한", "X"]
    for _ in range(24):
        out.append("".join(rng.choice(pieces) for _ in range(rng.randrange(1, 40))))
    ranges = [(0x20, 0x7F), (0xA1, 0x250), (0x300, 0x340), (0x390, 0x430), (0x4E00, 0x4E40), (0x2000, 0x2030), (0x1F600, 0x1F620), (0xFF01, 0xFF40)]
    for _ in range(24):
        soup = [chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(1, 40))]
        out.append("".join(c for c in soup if unicodedata.category(c) != "Cn"))
    return out


def trained(model, trainer, **parts):
    tokenizer = Tokenizer(model)
    for name, part in parts.items():
        if part is not None and name not in ("post_processor", "decoder"):
            setattr(tokenizer, name, part)
    tokenizer.train_from_iterator(CORPUS, trainer)
    for name in ("post_processor", "decoder"):
        if parts.get(name) is not None:
            setattr(tokenizer, name, parts[name])
    return tokenizer


SPECIALS = ["<unk>", "<s>", "</s>"]
BYTE_ALPHABET = pre_tokenizers.ByteLevel.alphabet()
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_level(patterns, **more):
    steps = [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
    return trained(
        models.BPE(**more.pop("model", {})), trainers.BpeTrainer(vocab_size=500, special_tokens=["<|end|>"], initial_alphabet=BYTE_ALPHABET, show_progress=False),
        pre_tokenizer=pre_tokenizers.Sequence(steps + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not patterns)]),
        decoder=decoders.ByteLevel(), **more)


def metaspace_bpe():
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    t = trained(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True),
                trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIALS + bytes_, show_progress=False),
                normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
                decoder=decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]))
    spec = json.loads(t.to_str())
    spec["added_tokens"] = [a for a in spec["added_tokens"] if not a["content"].startswith("<0x")]
    t = Tokenizer.from_str(json.dumps(spec))
    t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return t


def unigram(**parts):
    return trained(models.Unigram(), trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False), **parts)


def wordpiece(lowercase):
    t = trained(models.WordPiece(unk_token="[UNK]"),
                trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False),
                normalizer=normalizers.BertNormalizer(lowercase=lowercase), pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
                decoder=decoders.WordPiece())
    t.post_processor = processors.BertProcessing(("[SEP]", t.token_to_id("[SEP]")), ("[CLS]", t.token_to_id("[CLS]")))
    return t


def word_bpe():
    """Old style: end-of-word suffix, whitespace words, unknown token not fused."""
    return trained(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"),
                   trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIALS, end_of_word_suffix="</w>", show_progress=False),
                   normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()]),
                   pre_tokenizer=pre_tokenizers.Whitespace(), decoder=decoders.BPEDecoder("</w>"))


def prefix_bpe():
    return trained(models.BPE(unk_token="<unk>", continuing_subword_prefix="##"),
                   trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIALS, continuing_subword_prefix="##", show_progress=False),
                   normalizer=normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Nmt()]),
                   pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("contiguous"),
                                                          pre_tokenizers.Digits(individual_digits=True)]),
                   decoder=decoders.WordPiece("##", cleanup=False))


def added_tokens():
    t = byte_level([])
    t.add_tokens([AddedToken("word", single_word=True, normalized=False), AddedToken("lazy dog", lstrip=True, normalized=True),
                  AddedToken("!!", rstrip=True, normalized=False), AddedToken("  ", normalized=True)])
    t.add_special_tokens([AddedToken("</s>", lstrip=True, rstrip=True), AddedToken("<s>")])
    t.normalizer = normalizers.Lowercase()
    t.post_processor = processors.RobertaProcessing(("</s>", t.token_to_id("</s>")), ("<s>", t.token_to_id("<s>")))
    return t


def splits(pattern, behavior, invert=False):
    return trained(models.BPE(unk_token="<unk>", fuse_unk=True), trainers.BpeTrainer(vocab_size=250, special_tokens=SPECIALS, show_progress=False),
                   normalizer=normalizers.NFKD(), pre_tokenizer=pre_tokenizers.Split(pattern, behavior, invert), decoder=decoders.Fuse())


def hugging_face():
    deepseek_coder = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"]
    template = processors.TemplateProcessing(single="<|end|> $A", special_tokens=[("<|end|>", 0)])
    falcon = trained(models.BPE(), trainers.BpeTrainer(vocab_size=450, special_tokens=["<|end|>"], initial_alphabet=BYTE_ALPHABET, show_progress=False),
                     pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False),
                                                            pre_tokenizers.Digits(individual_digits=False),
                                                            pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")]),
                     decoder=decoders.ByteLevel())
    meta = lambda scheme: dict(pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme=scheme), decoder=decoders.Metaspace(prepend_scheme=scheme))
    t5ish = unigram(**{**meta("always"), "pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])})
    return {
        "gpt2": byte_level([]),
        "llama3": byte_level([LLAMA3], model=dict(ignore_merges=True), post_processor=template),
        "qwen2": byte_level([QWEN2], normalizer=normalizers.NFC()),
        "deepseek_coder": byte_level(deepseek_coder),
        "falcon": falcon,
        "starcoder": trained(models.BPE(), trainers.BpeTrainer(vocab_size=450, special_tokens=["<|end|>"], initial_alphabet=BYTE_ALPHABET, show_progress=False),
                             pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
                             decoder=decoders.ByteLevel()),
        "prefix_space": trained(models.BPE(), trainers.BpeTrainer(vocab_size=400, special_tokens=["<|end|>"], initial_alphabet=BYTE_ALPHABET, show_progress=False),
                                pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True), decoder=decoders.ByteLevel()),
        "metaspace_bpe": metaspace_bpe(),
        "unigram": t5ish,
        "unigram_first": unigram(**meta("first")),
        "unigram_never": unigram(**meta("never")),
        "wordpiece_uncased": wordpiece(True),
        "wordpiece_cased": wordpiece(False),
        "word_bpe": word_bpe(),
        "prefix_bpe": prefix_bpe(),
        "added_tokens": added_tokens(),
        "split_removed": splits(",", "removed"),
        "split_previous": splits(Regex(r"\s"), "merged_with_previous"),
        "split_next": splits(Regex(r"\s+"), "merged_with_next"),
        "split_contiguous": splits(Regex(r"[aeiou\s]"), "contiguous"),
        "split_invert": splits(Regex(r"\w+|[^\w\s]"), "removed", True),
    }


def sentencepiece_models():
    def train(**options):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(line for text in CORPUS for line in text.split("\n")), model_writer=model,
                                                 minloglevel=2, hard_vocab_limit=False, **options)
        return model.getvalue()
    return {
        "spm_unigram": train(model_type="unigram", vocab_size=300),
        "spm_unigram_bytes": train(model_type="unigram", vocab_size=560, byte_fallback=True, normalization_rule_name="identity",
                                   remove_extra_whitespaces=False, user_defined_symbols=["<|end|>", "word"]),
        "spm_bpe": train(model_type="bpe", vocab_size=400, bos_id=-1, normalization_rule_name="identity"),
        "spm_bpe_bytes": train(model_type="bpe", vocab_size=620, byte_fallback=True, normalization_rule_name="identity",
                               remove_extra_whitespaces=False, user_defined_symbols=["<|end|>", "word"], pad_id=3),
        "spm_bpe_no_prefix": train(model_type="bpe", vocab_size=300, add_dummy_prefix=False, normalization_rule_name="identity"),
        "spm_char": train(model_type="char", vocab_size=200, normalization_rule_name="identity"),
    }


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    cases = texts()
    write(folder / "texts.json", cases)
    for name, tokenizer in hugging_face().items():
        (folder / f"{name}.tokenizer.json").write_text(tokenizer.to_str(pretty=False) + "\n")
        vectors = []
        for text in cases:
            ids = tokenizer.encode(text).ids
            vectors.append([ids, tokenizer.decode(ids), tokenizer.encode(text, add_special_tokens=False).ids])
        write(folder / f"{name}.vectors.json", vectors)
    for name, model in sentencepiece_models().items():
        (folder / f"{name}.model").write_bytes(model)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        vectors = []
        for text in cases:
            ids = processor.encode(text)
            vectors.append([ids, None if processor.unk_id() in ids else processor.decode(ids)])
        write(folder / f"{name}.vectors.json", vectors)


if __name__ == "__main__":
    main()
