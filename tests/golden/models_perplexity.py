"""Writes tests/data/models/perplexity.json: perplexities of real checkpoints, computed by transformers in float32.

    python tests/golden/models_perplexity.py SHARED_DIR

Protocol `windows`: the whole file is tokenized once with tokenizer.json, one BOS stands in front, windows of n tokens lie side by side from
position 0, and in each the tokens 2 to n are predicted from those before them in the window. A last short window is left out;
`windows_and_rest` scores it too.
Protocol `second_half`: the one of llama.cpp's perplexity tool. The same windows, but each begins with the BOS in place of its first token, and
only its second half is scored (logits of positions n/2 to n-2 predict tokens n/2+1 to n-1, counted from 0).
"""

import hashlib
import json
import math
import pathlib
import sys

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
OUT = ROOT / "tests" / "data" / "models" / "perplexity.json"
# name, folder, text (SHARED_DIR's; pocket's are the repository's), window, windows at most
CASES = [("stories260K", "models/stories260K", "data/wikitext2/wiki.test.raw", 512, 100),
         ("pocket", ROOT / "models/pocket", ROOT / "models/pocket/heldout.txt", 512, None)]


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tokenize(folder, text):
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    return [json.loads((folder / "config.json").read_text())["bos_token_id"]] + ids


def window_losses(model, window, first):
    """Negative log-likelihoods of tokens first, first+1, ... of one window, in float64 from float32 logits."""
    with torch.no_grad():
        logits = model(torch.tensor([window]), use_cache=False).logits[0]
    log_probs = torch.log_softmax(logits[:-1].double(), dim=-1)
    targets = torch.tensor(window[1:])
    return -log_probs.gather(1, targets[:, None])[first - 1:, 0]


def summary(losses):
    """The standard error is that of the mean loss, carried to the perplexity: exp(mean) * sd / sqrt(n)."""
    mean, n = losses.mean().item(), losses.numel()
    stderr = losses.std().item() / math.sqrt(n)
    return {"perplexity": math.exp(mean), "stderr": math.exp(mean) * stderr, "mean_nll": mean, "tokens": n}


def measure(shared, name, model_dir, text_file, n, max_windows):
    folder, text_path = shared / model_dir, shared / text_file
    ids = tokenize(folder, text_path.read_bytes().decode("utf-8"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    count = min(len(ids) // n, max_windows or len(ids))
    windows = [ids[i * n:(i + 1) * n] for i in range(count)]
    plain = torch.cat([window_losses(model, w, 1) for w in windows])
    half = torch.cat([window_losses(model, ids[:1] + w[1:], n // 2 + 1) for w in windows])
    protocols = {"windows": summary(plain), "second_half": summary(half)}
    rest = ids[count * n:] if max_windows is None else []
    if len(rest) > 1:
        protocols["windows_and_rest"] = summary(torch.cat([plain, window_losses(model, rest, 1)]))
    return {"model": name, "model_sha256": sha256(folder / "model.safetensors"), "text": pathlib.Path(text_file).name, "text_sha256": sha256(text_path),
            "tokens_in_file_with_bos": len(ids), "window": n, "windows": count, "protocols": protocols,
            "first_window_mean_nll": plain[:n - 1].mean().item(), "first_tokens": ids[:16]}


def main(shared):
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows = [measure(shared, *case) for case in CASES]
    OUT.write_text(json.dumps({"transformers": transformers.__version__, "torch": torch.__version__, "rows": rows}, indent=1) + "\n")
    for row in rows:
        print(row["model"], json.dumps(row["protocols"]), row["tokens_in_file_with_bos"], row["windows"])


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
