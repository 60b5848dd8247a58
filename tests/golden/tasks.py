"""Writes tests/data/tasks/golden*.json: log-likelihoods and scores of lm-evaluation-harness, item by item.

    python tests/golden/tasks.py SHARED_DIR

The harness itself reads each item (its own task YAMLs and process_docs), builds the requests, scores them with its HFLM class and
decides acc and acc_norm; this script only points it at local files and writes down what it did. golden_own.json holds the items committed
beside it, with their strings; golden_shared.json the first items of the public sets, whose strings are not committed, only their hashes.
"""

import csv
import hashlib
import io
import json
import logging
import pathlib
import re
import sys

import datasets
import lm_eval
import torch
import transformers
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

OUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "tasks"
YAMLS = pathlib.Path(lm_eval.__file__).parent / "tasks"
ITEMS_PER_TASK = 20
MMLU_SUBJECTS = ["abstract_algebra", "astronomy", "high_school_us_history", "professional_law"]


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def piqa_docs(root):
    labels = [int(x) for x in (root / "piqa/valid-labels.lst").read_text().split()]
    return [{**doc, "label": label} for doc, label in zip(read_jsonl(root / "piqa/valid.jsonl"), labels, strict=True)]


def boolq_docs(root):
    """The label is true or false, as JSON's or as a string; the Hugging Face copy has it as 0 or 1."""
    docs = read_jsonl(root / "SuperGLUE/BoolQ/val.jsonl")
    return [{"question": d["question"], "passage": d["passage"], "label": int(str(d["label"]).lower() == "true")} for d in docs]


def hellaswag_docs(root):
    keys = ("activity_label", "ctx_a", "ctx_b", "endings", "label")
    return [{**{k: doc[k] for k in keys}, "label": str(doc["label"])} for doc in read_jsonl(root / "hellaswag/hellaswag_val.jsonl")]


def hellaswag_text_docs(root):
    """llama.cpp's form, six lines an item, in which activity, context and endings are already joined and cleaned."""
    lines = (root / "hellaswag/hellaswag_val_full.txt").read_text(encoding="utf-8").split("\n")
    return [{"query": lines[i], "gold": int(lines[i + 1]), "choices": lines[i + 2:i + 6], "label": lines[i + 1]} for i in range(0, len(lines) - 5, 6)]


def mmlu_rows(text):
    """Strict RFC 4180 where the file keeps to it; else the copies going round in which quotes inside a field are not doubled: there every
    field but the answer stands in quotes, the separator is quote comma quote, and nothing is unescaped."""
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))[1:]
        if all(len(row) == 6 for row in rows):
            return rows
    except csv.Error:
        pass
    rows = [m.group(1).split('","') + [m.group(2)] for m in re.finditer(r'"(.*?)",([0-3])\r?(?:\n|\Z)', text.split("\n", 1)[1], re.DOTALL)]
    assert all(len(row) == 6 for row in rows)
    return rows


def mmlu_docs(path):
    rows = mmlu_rows(path.read_bytes().decode("utf-8"))
    return [{"question": row[0], "choices": row[1:5], "answer": int(row[5])} for row in rows]


def local_task(name, yaml_path, docs, split, **changes):
    """The harness's own task, reading `docs` instead of the hub."""
    config = load_yaml(YAMLS / yaml_path)
    for key in ("dataset_path", "dataset_name", "dataset_kwargs", "training_split", "fewshot_split", "test_split", "validation_split", "tag", "task_alias",
                "fewshot_config", "include"):
        config.pop(key, None)
    config |= {"task": name, "custom_dataset": lambda **_: datasets.DatasetDict({split: datasets.Dataset.from_list(docs)}),
               ("test_split" if split == "test" else "validation_split"): split, "num_fewshot": 0, **changes}
    return ConfigurableTask(config=config)


def mmlu_task(subject, docs):
    own_yaml = YAMLS / f"mmlu/default/mmlu_{subject}.yaml"
    description = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    if own_yaml.exists():
        assert load_yaml(own_yaml)["description"] == description
    return local_task(f"mmlu_{subject}", "mmlu/default/_default_template_yaml", docs, "test", description=description)


def tasks_of(root, limit, subjects):
    """(task, docs) pairs; `limit` items of each, shared evenly among the subjects of mmlu."""
    pairs = [("piqa", "piqa/piqa.yaml", piqa_docs(root), {}), ("boolq", "super_glue/boolq/default.yaml", boolq_docs(root), {}),
             ("hellaswag_text", "hellaswag/hellaswag.yaml", hellaswag_text_docs(root), {"process_docs": None})]
    if (root / "hellaswag/hellaswag_val.jsonl").exists():
        pairs.append(("hellaswag", "hellaswag/hellaswag.yaml", hellaswag_docs(root), {}))
    for name, yaml_path, docs, changes in pairs:
        yield local_task(name, yaml_path, docs[:limit], "validation", **changes)
    for subject in subjects:
        yield mmlu_task(subject, mmlu_docs(root / f"mmlu/test/{subject}_test.csv")[:limit // len(subjects)])


def load_model(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    # Not AutoTokenizer: the truth is tokenizer.json, which transformers partly rebuilds from the class name.
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", device="cpu", batch_size=1)


def digest(prompt, continuations):
    """sha256 of the UTF-8 of the prompt and each continuation, delimiter included, joined by NUL."""
    return hashlib.sha256("\0".join([prompt, *continuations]).encode()).hexdigest()


def evaluate(lm, task, with_strings):
    task.build_all_requests(limit=None, rank=0, world_size=1)
    by_doc = {}
    for request in task.instances:
        by_doc.setdefault(request.doc_id, []).append(request)
    answers = lm.loglikelihood(task.instances, disable_tqdm=True)
    answer_of = {id(r): a for r, a in zip(task.instances, answers, strict=True)}
    items = []
    for index, requests in sorted(by_doc.items()):
        requests.sort(key=lambda r: r.idx)
        prompt, continuations = requests[0].args[0], [r.args[1] for r in requests]
        assert all(r.args[0] == prompt for r in requests)
        results = [answer_of[id(r)] for r in requests]
        doc, choices = requests[0].doc, task.doc_to_choice(requests[0].doc)
        official = task.process_results(doc, results)
        lls = [float(r[0]) for r in results]
        normed = [ll / len(choice) for ll, choice in zip(lls, choices)]
        gold = int(task.doc_to_target(doc))
        encoded = [lm._encode_pair(prompt, c) for c in continuations]
        item = {"task": task.config.task, "index": index, "sha256": digest(prompt, continuations), "gold": gold, "loglikelihoods": lls,
                "acc": float(lls.index(max(lls)) == gold), "acc_norm": float(normed.index(max(normed)) == gold), "choice_characters": [len(c) for c in choices],
                "greedy": [bool(r[1]) for r in results], "context_tokens": len(encoded[0][0]), "continuation_tokens": [len(e[1]) for e in encoded]}
        for metric, value in official.items():
            assert item[metric] == value, f"{item}: the harness says {metric} {value}"
        if with_strings:
            item |= {"prompt": prompt, "continuations": continuations}
        items.append(item)
    return items


def totals(items):
    """Mean and the harness's standard error (sample deviation over root n) for each task."""
    result = {}
    for name in dict.fromkeys(i["task"] for i in items):
        rows = [i for i in items if i["task"] == name]
        result[name] = {"items": len(rows)}
        for metric in ("acc", "acc_norm"):
            values = [r[metric] for r in rows]
            result[name][metric] = sum(values) / len(values)
            result[name][metric + "_stderr"] = lm_eval.api.metrics.mean_stderr(values) if len(values) > 1 else None
    return result


def write(path, models, root, limit, subjects, with_strings):
    parts = []
    for name, folder in models.items():
        lm = load_model(folder)
        items = [item for task in tasks_of(root, limit, subjects) for item in evaluate(lm, task, with_strings)]
        sha = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        for task, values in totals(items).items():
            print(path.name, name, task, values)
        rows = ",\n".join(json.dumps(item, ensure_ascii=True) for item in items)
        head = {"model": name, "model_sha256": sha, "max_length": lm.max_length, "totals": totals(items)}
        parts.append(json.dumps(head)[:-1] + ', "items": [\n' + rows + "\n]}")
    versions = {"lm_eval": lm_eval.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    path.write_text('{"versions": ' + json.dumps(versions) + ', "runs": [\n' + ",\n".join(parts) + "\n]}\n")
    json.loads(path.read_text())


def main(shared):
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.disable(logging.WARNING)
    models = {"stories260K": shared / "models/stories260K", "pocket": pathlib.Path(__file__).resolve().parents[2] / "models/pocket"}
    write(OUT / "golden_own.json", models, OUT, 100, ["high_school_seamanship", "household_arithmetic"], True)
    write(OUT / "golden_shared.json", models, shared / "data/eval", ITEMS_PER_TASK, MMLU_SUBJECTS, False)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
