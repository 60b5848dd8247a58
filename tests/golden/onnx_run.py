"""Runs models that skiff wrote as ONNX in onnxruntime, and compares with what skiff says.

Usage: onnx_run.py SKIFF WORK greedy MODEL[:form,...]...   64 greedy tokens against `skiff run --kernels reference`
       onnx_run.py SKIFF WORK logits [CASE...]     the cases of tests/data/models: logits against those of transformers, whole, token by token and padded left
       onnx_run.py SKIFF WORK forms [CASE:SCHEME...]  the cases quantized, head and embedding too: logits of each form against those of the same weights
                                                   as floats (`convert --to hf --type F32`, then onnx); QONNX executed by the qonnx package
       onnx_run.py SKIFF WORK mlp                  the MLP of parity_onnx_mlp, which must be built beside SKIFF, in the qonnx package
       onnx_run.py SKIFF WORK nets [NET...]        networks of convolutions: those of parity_onnx_nets, or the given ones; float and QDQ in onnxruntime, QONNX in the
                                                   qonnx package, against our kernels with float activations
       onnx_run.py SKIFF WORK digits               networks for digits, trained for an epoch, pruned, factorized and quantized: nets() of them, and the files of
                                                   `skiff convert`; needs skiff-train
       onnx_run.py SKIFF WORK terms                low-rank terms and scaled inputs of linear operators
       onnx_run.py SKIFF WORK golden               these, digits apart; where they are right, the files of tests/data/onnx
       onnx_run.py SKIFF WORK teacher MODEL[:int8]...  64 greedy tokens in the qonnx package
       onnx_run.py SKIFF WORK children MODEL       greedy and teacher for MODEL, a random qwen2 and what they are quantized to
Needs: numpy, onnx, onnxruntime, qonnx, safetensors, tokenizers. WORK is a folder for outputs.
"""
import hashlib
import json
import os
import shutil
import subprocess
import sys
import warnings

import numpy as np
import onnx
import onnxruntime

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
PROMPT = "Once upon a time"


class Decoder:
    """A graph with its state, fed as Optimum feeds them."""

    def __init__(self, folder):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Otherwise it rounds the inputs of matrices in DequantizeLinear to 8 bits, on its own account.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        self.session = onnxruntime.InferenceSession(os.path.join(folder, "model.onnx"), options, providers=["CPUExecutionProvider"])
        self.inputs = {i.name: i for i in self.session.get_inputs()}
        self.outputs = [o.name for o in self.session.get_outputs()]
        self.reset()

    def reset(self, batch=1):
        self.mask = np.zeros((batch, 0), np.int64)
        self.state = {name: np.zeros((batch, i.shape[1], 0, i.shape[3]), TYPES[i.type]) for name, i in self.inputs.items() if name.startswith("past_")}

    def forward(self, ids, mask=None):
        ids = np.asarray(ids, np.int64)
        self.mask = np.concatenate([self.mask, np.ones_like(ids) if mask is None else np.asarray(mask, np.int64)], 1)
        positions = np.maximum(np.cumsum(self.mask, 1) - 1, 0)[:, -ids.shape[1]:]
        feed = {"input_ids": ids, "attention_mask": self.mask, "position_ids": positions, **self.state}
        values = dict(zip(self.outputs, self.session.run(None, {name: x for name, x in feed.items() if name in self.inputs})))
        self.state = {name: values["present" + name[len("past_key_values"):]] for name in self.state}
        return values["logits"]


def convert(skiff, model, folder, *options):
    shutil.rmtree(folder, ignore_errors=True)
    return subprocess.run([skiff, "convert", model, "--to", "onnx", "-o", folder, *options], capture_output=True, text=True)


def size_mb(folder):
    return sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder) if f.startswith("model.onnx")) / 1e6


FORMS = {"nbits": [], "qdq": ["--form", "qdq"], "f16": ["--type", "F16"], "densify": ["--densify"]}


def structure_text(path):
    """As onnx_structure() in src/formats/onnx/onnx_testing.h writes it."""
    model = onnx.load(path, load_external_data=False)
    graph, lines = model.graph, []
    text = lambda items: ",".join(str(item) for item in items)
    for opset in model.opset_import:
        lines.append(f"opset|{opset.domain}|{opset.version}")
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            lines.append(f"{kind}|{value.name}|{tensor.elem_type}|{text(d.dim_param or d.dim_value for d in tensor.shape.dim)}")
    for tensor in graph.initializer:
        lines.append(f"tensor|{tensor.name}|{tensor.data_type}|{text(tensor.dims)}")
    for node in graph.node:
        line = f"node|{node.domain}|{node.op_type}|{text(node.input)}|{text(node.output)}"
        for a in node.attribute:
            value = {1: lambda: f"f{np.float32(a.f).view(np.int32)}", 2: lambda: f"i{a.i}", 3: lambda: f"s{a.s.decode()}", 7: lambda: "I" + text(a.ints)}[a.type]()
            line += f"|{a.name}={value}"
        lines.append(line)
    return "".join(line + "\n" for line in lines)


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def structure(path):
    return sha256(structure_text(path))


def said_by_skiff(skiff, model, kernels):
    said = subprocess.run([skiff, "run", model, "--raw", "-p", PROMPT, "-n", "64", "--temp", "0", "-q", "--kernels", kernels, "--speculate", "off", "--json"],
                          capture_output=True, text=True, check=True).stdout
    return json.loads(said)["tokens"]


def greedy(skiff, work, models):
    """MODEL or MODEL:form,form"""
    from tokenizers import Tokenizer
    failures = 0
    for argument in models:
        model, _, forms = argument.partition(":")
        tokenizer = Tokenizer.from_file(os.path.join(model, "tokenizer.json"))
        said = said_by_skiff(skiff, model, "reference")
        for form in forms.split(",") if forms else ["nbits", "qdq"]:
            folder = os.path.join(work, "onnx")
            made = convert(skiff, model, folder, *FORMS[form])
            if made.returncode != 0:
                print(f"{model} {form}: {made.stderr.strip()}")
                failures += 1
                continue
            onnx.checker.check_model(os.path.join(folder, "model.onnx"), full_check=form != "nbits")  # com.microsoft has no schema there
            decoder = Decoder(folder)
            logits = decoder.forward([tokenizer.encode(PROMPT).ids])
            tokens = []
            for _ in said:
                tokens.append(int(logits[0, -1].argmax()))
                logits = decoder.forward([[tokens[-1]]])
            n = next((i for i, (a, b) in enumerate(zip(tokens, said)) if a != b), len(tokens))
            failures += n < len(tokens)
            print(f"{model} {form}: {n} of {len(tokens)} greedy tokens equal, {size_mb(folder):.1f} MB")
    return failures


def logits_of_cases(skiff, work, names, graphs=None):
    from safetensors.numpy import load_file
    data = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "models")
    failures = 0
    for name in names or json.load(open(os.path.join(data, "index.json"))):
        folder = os.path.join(work, "onnx")
        made = convert(skiff, os.path.join(data, name), folder)
        if made.returncode != 0:
            print(f"{name}: {made.stderr.strip()}")
            failures += 1
            continue
        onnx.checker.check_model(os.path.join(folder, "model.onnx"), full_check=True)
        if graphs is not None:
            graphs[name] = structure(os.path.join(folder, "model.onnx"))
        golden = load_file(os.path.join(data, name, "golden.safetensors"))
        ids, expected = golden["input_ids"].reshape(1, -1), golden["logits"].reshape(golden["input_ids"].size, -1)
        decoder = Decoder(folder)
        whole = decoder.forward(ids)[0]
        decoder.reset()
        stepped = np.concatenate([decoder.forward(ids[:, i:i + 1])[0] for i in range(ids.shape[1])])
        decoder.reset(2)  # a batch: the text, and its last half behind as much padding
        half, n = ids.shape[1] // 2, ids.shape[1]
        padded = np.concatenate([ids, np.concatenate([np.zeros_like(ids[:, :n - half]), ids[:, :half]], 1)])
        mask = np.ones_like(padded)
        mask[1, :n - half] = 0
        batch = np.concatenate([decoder.forward(padded[:, :n - 2], mask[:, :n - 2]), decoder.forward(padded[:, n - 2:], mask[:, n - 2:])], 1)
        scale = np.abs(expected).max()
        errors = [np.abs(found - wanted).max() / scale for found, wanted in
                  ((whole, expected), (stepped, expected), (batch[0], expected), (batch[1, n - half:], expected[:half]))]
        good = max(errors) < 1e-4 and all(np.isfinite(x).all() for x in (whole, stepped, batch))
        failures += not good
        print(f"{name}: {'ok' if good else 'WRONG'}, largest difference / largest logit: whole {errors[0]:.1e}, by token {errors[1]:.1e}, "
              f"in a batch {errors[2]:.1e}, behind padding {errors[3]:.1e}")
    return failures


def run_qonnx(folder, ids):
    """The whole text at once, in a model of fixed shapes with one position of state, which the mask hides: the package takes no empty tensors."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes
    proto = onnx.load(os.path.join(folder, "model.onnx"))
    sizes = {"batch_size": 1, "sequence_length": ids.shape[1], "past_sequence_length": 1, "total_sequence_length": ids.shape[1] + 1}
    for value in [*proto.graph.input, *proto.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = sizes[dim.dim_param]
    warnings.filterwarnings("ignore", "Output shapes disagree")  # its shape inference does not follow sizes that are computed
    model = ModelWrapper(proto).transform(InferShapes())
    feed = {"input_ids": ids, "attention_mask": np.array([[0] + [1] * ids.shape[1]], np.int64), "position_ids": np.arange(ids.shape[1])[None]}
    for value in proto.graph.input:
        if value.name.startswith("past_"):
            feed[value.name] = np.zeros([dim.dim_value for dim in value.type.tensor_type.shape.dim], np.float32)
    return execute_onnx(model, {name: x for name, x in feed.items() if name in [value.name for value in proto.graph.input]})["logits"]


def forms(skiff, work, arguments, graphs=None):
    data = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "models")
    cases = [a.split(":") for a in arguments] or [(case, scheme) for case in ("qwen2", "llama_pruned", "phi3", "gpt2", "mixtral") for scheme in
                                                  ("w8", "w8a", "w8g32a", "w5g32r", "w4g32", "w4g32a", "w4g16a", "w3g32r", "w2g32r", "ternary", "binary", "mxfp4")]
    failures = 0
    for case, scheme in cases:
        child, floats, folder = (os.path.join(work, name) for name in ("child", "floats", "onnx"))
        for made in (child, floats):
            shutil.rmtree(made, ignore_errors=True)
        subprocess.run([skiff, "quantize", os.path.join(data, case), "--scheme", scheme, "--head", scheme, "--embedding", scheme, "-o", child],
                       capture_output=True, check=True)
        subprocess.run([skiff, "convert", child, "--to", "hf", "--type", "F32", "-o", floats], capture_output=True, check=True)
        ids = np.array([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]], np.int64)
        assert convert(skiff, floats, folder).returncode == 0
        expected = Decoder(folder).forward(ids)
        errors = {}
        for form in ("nbits", "qdq", "qonnx"):
            made = convert(skiff, child, folder, "--form", form)
            assert made.returncode == 0, made.stderr
            if form == "qdq":
                onnx.checker.check_model(os.path.join(folder, "model.onnx"), full_check=True)
            found = run_qonnx(folder, ids) if form == "qonnx" else Decoder(folder).forward(ids)
            if graphs is not None and case != "mixtral":
                graphs[f"{case} {scheme} {form}"] = structure(os.path.join(folder, "model.onnx"))
            errors[form] = np.abs(found - expected).max() / np.abs(expected).max()
        good = all(error < 1e-5 for error in errors.values())
        failures += not good
        print(f"{case} {scheme}: {'ok' if good else 'WRONG'}, " + ", ".join(f"{form} {error:.1e}" for form, error in errors.items()), flush=True)
    return failures


def teacher(skiff, work, models):
    """QONNX is executed node by node: one run over prompt and continuation tells whether each of its tokens is the likeliest there."""
    from tokenizers import Tokenizer
    failures = 0
    for argument in models:
        model, _, activations = argument.partition(":")
        kernels = "fastest" if activations == "int8" else "reference"
        said = said_by_skiff(skiff, model, kernels)
        folder = os.path.join(work, "onnx")
        made = convert(skiff, model, folder, "--form", "qonnx", "--activations", activations or "real")
        assert made.returncode == 0, made.stderr
        prompt = Tokenizer.from_file(os.path.join(model, "tokenizer.json")).encode(PROMPT).ids
        logits = run_qonnx(folder, np.array([prompt + said[:-1]], np.int64))[0, len(prompt) - 1:]
        n = int((logits.argmax(1) == np.array(said)).sum())
        # How much likelier the graph finds another token, in parts of the span of its logits: int8 activations turn near ties around.
        gap = ((logits.max(1) - logits[np.arange(len(said)), said]) / (logits.max(1) - logits.min(1))).max()
        failures += gap > (1e-2 if activations == "int8" else 0)
        print(f"{model} qonnx, activations {activations or 'real'}: {n} of {len(said)} greedy tokens equal those of the {kernels} kernels"
              + (f", the others within {gap:.1e} of the span of logits" if n < len(said) else ""), flush=True)
    return failures


def mlp(skiff, work, _, graphs=None):
    """The MLP of tests/parity/onnx_mlp_test.cpp."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes
    program = os.path.join(os.path.dirname(os.path.abspath(skiff)), "..", "tests", "parity_onnx_mlp")
    subprocess.run([program], env={**os.environ, "SKIFF_KEEP_FILES": work}, check=True, capture_output=True)
    failures = 0
    for activations, tolerance in (("real", 1e-6), ("int8", 1e-3)):
        path = os.path.join(work, f"mlp_{activations}.onnx")
        x, y = (np.fromfile(path[:-4] + part, np.float32).reshape(6, -1) for part in "xy")
        model = ModelWrapper(onnx.load(path)).transform(InferShapes())
        found = execute_onnx(model, {"x": x})[model.graph.output[0].name]
        error = np.abs(found - y).max() / np.abs(y).max()
        failures += not error < tolerance
        print(f"MLP, activations {activations}: largest difference / largest output {error:.1e}", flush=True)
        if graphs is not None:
            graphs[activations] = structure(path)
    return failures


def run_net(path, form, x):
    """A network's graph: QONNX in the qonnx package, which takes fixed shapes; the others in onnxruntime."""
    proto = onnx.load(path)
    images = len(x) // int(np.prod([d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim][1:]))
    x = x.reshape([images] + [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim][1:])
    if not form.startswith("qonnx"):
        onnx.checker.check_model(path, full_check=True)
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        if "int8" in form:  # else it rounds float weights and biases beside them, on its own account
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, {"input": x})[0]
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes
    for value in [*proto.graph.input, *proto.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = images
    warnings.filterwarnings("ignore", "Output shapes disagree")
    return execute_onnx(ModelWrapper(proto).transform(InferShapes()), {"input": x})["output"]


def nets(skiff, work, given, graphs=None):
    folder = os.path.join(work, "nets")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    program = os.path.join(os.path.dirname(os.path.abspath(skiff)), "..", "tests", "parity_onnx_nets")
    made = subprocess.run([program], env={**os.environ, "SKIFF_KEEP_FILES": folder, "SKIFF_NETS": ",".join(given)}, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout
    failures, texts, worst, int8 = 0, {}, {}, {}
    for case in json.load(open(os.path.join(folder, "nets.json"))):
        stem, group = case["file"], case["group"] if not given else case["name"] + " " + case["form"]
        x, y = (np.fromfile(stem + part, np.float32) for part in (".x", ".y"))
        found = run_net(stem + ".onnx", case["form"], x)
        assert found.shape[0] == case["images"] and found.size == y.size, (case, found.shape)
        error = np.abs(found.reshape(-1) - y).max() / np.abs(y).max()
        labels = np.array(case["labels"])
        if case["form"].endswith("int8"):  # not what floats give: how many answers are right, and that both programs give the same
            ours, answers = y.reshape(found.shape).argmax(1), found.argmax(1)
            other = int8.setdefault(case["name"], found)
            apart = np.abs(found - other).max() / np.abs(y).max()
            failures += not apart < 1e-4
            print(f"{group}: {100 * (answers == labels).mean():.1f} % right, with float activations {100 * (ours == labels).mean():.1f} %; {int((answers != ours).sum())} answers of "
                  f"{len(labels)} differ, the outputs by {error:.1e} of the largest; onnxruntime and qonnx by {apart:.1e}", flush=True)
            continue
        if not error < 1e-5:  # it may be no more than what the last bits of the images change: two levels of weight make attention a choice between near ties
            other = run_net(stem + ".onnx", case["form"], np.nextafter(x, np.float32(9)))
            last_bits = np.abs(found - other).max() / np.abs(y).max()
            print(f"{group} {case['name']}: {error:.1e}; the last bits of the images change {last_bits:.1e}", flush=True)
            if error < 2 * last_bits:
                error = 0
        if not error < 1e-5:
            failures += 1
            print(f"{group} {case['name']}: WRONG, {error:.1e}", flush=True)
        texts[group] = texts.get(group, "") + structure_text(stem + ".onnx")
        worst[group] = max(worst.get(group, (0, "")), (error, case["name"]))
    for group, (error, name) in worst.items():
        print(f"{group}: largest difference / largest output {error:.1e} ({name})", flush=True)
    if graphs is not None:
        graphs.update({group: sha256(text) for group, text in sorted(texts.items())})
    return failures


def digits(skiff, work, _):
    made = []

    def step(verb, parent, name, *options):
        path = os.path.join(work, name)
        shutil.rmtree(path, ignore_errors=True)
        done = subprocess.run([skiff, verb, parent, "-o", path, *options], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        made.append(path)
        return path

    examples = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "examples", "digits")
    data = ["--data", "digits:2000", "--epochs", "1"]
    for name in ("digits", "mlp"):
        trained = step("train-net", os.path.join(examples, name + ".json"), name, *data)
        children = [trained]
        if name == "digits":
            children.append(step("prune", trained, "half", "--pattern", "filters:50%"))
            children.append(step("prune", trained, "taps", "--pattern", "taps:5"))
            children.append(step("factorize", trained, "depthwise", "--method", "depthwise", "--layers", "conv2,conv3,conv4"))
            children.append(step("factorize", trained, "kronecker", "--method", "kronecker", "--rank", "2", "--layers", "answer"))
        for child in children:
            for scheme in ("w8", "w8g32", "w4", "w4g32a", "w3g32", "w2g32r", "ternary", "binary"):
                step("quantize", child, os.path.basename(child) + "-" + scheme, "--scheme", scheme)
    failures = nets(skiff, work, made)
    kept = {(case["name"], case["form"]): case["file"] + ".onnx" for case in json.load(open(os.path.join(work, "nets", "nets.json")))}
    for path in made:
        for form in ("float", "qdq", "qonnx", "qdq int8", "qonnx int8"):
            folder = os.path.join(work, "onnx")
            done = convert(skiff, path, folder, "--form", form.split()[0], *(["--activations", "int8", "--data", "digits:200:5"] if "int8" in form else []))
            assert done.returncode == 0, done.stderr
            same = structure(os.path.join(folder, "model.onnx")) == structure(kept[os.path.basename(path), form])
            x = np.fromfile(kept[os.path.basename(path), form][:-5] + ".x", np.float32)
            failures += not (same and np.array_equal(run_net(os.path.join(folder, "model.onnx"), form, x), run_net(kept[os.path.basename(path), form], form, x)))
    print(f"{len(made)} networks for digits, 5 forms each, {failures} wrong")
    return failures


def terms(skiff, work, _):
    """A llama with low-rank terms and scaled inputs, against the plain one that computes the same."""
    from safetensors.numpy import load_file, save_file
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "models", "llama")
    weights, random = load_file(os.path.join(source, "model.safetensors")), np.random.default_rng(3)
    with_terms, plain = dict(weights), dict(weights)
    for key in [key for key in weights if key.endswith("_proj.weight")]:
        base, (rows, columns) = key[:-len(".weight")], weights[key].shape
        scale = random.uniform(0.5, 2, columns).astype(np.float32)
        up, down = (random.normal(0, 0.2, shape).astype(np.float32) for shape in ((rows, 3), (3, columns)))
        with_terms.update({base + ".input_scale": scale, base + ".low_rank_up": up, base + ".low_rank_down": down})
        plain[key] = ((weights[key].astype(np.float64) + up.astype(np.float64) @ down) * scale).astype(np.float32)
    logits = []
    for tensors in (with_terms, plain):
        model, folder = os.path.join(work, "terms"), os.path.join(work, "onnx")
        os.makedirs(model, exist_ok=True)
        shutil.copy(os.path.join(source, "config.json"), model)
        save_file(tensors, os.path.join(model, "model.safetensors"))
        made = convert(skiff, model, folder)
        assert made.returncode == 0, made.stderr
        logits.append(Decoder(folder).forward([[3, 1, 4, 1, 5, 9, 2, 6]]))
    error = np.abs(logits[0] - logits[1]).max() / np.abs(logits[1]).max()
    print(f"low-rank terms and input scales: {error:.1e}")
    return int(not error < 1e-5)


def golden(skiff, work, _):
    """The cases, the forms and the MLP, and where all is right the hashes of the graphs, for the tests."""
    data = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "onnx")
    failures = 0
    for name, run in (("mlp", mlp), ("nets", nets), ("graphs", lambda *arguments: terms(*arguments[:3]) + logits_of_cases(*arguments) + forms(*arguments))):
        graphs = {}
        wrong = run(skiff, work, [], graphs)
        failures += wrong
        if wrong == 0:
            with open(os.path.join(data, name + ".json"), "w") as file:
                file.write(json.dumps(graphs, indent=1) + "\n")
    return failures


def random_qwen2(skiff, work, model):
    """A random qwen2 of three blocks with MODEL's tokenizer: biases, two KV heads, widths that no block divides."""
    folder, config = os.path.join(work, "random_qwen2"), os.path.join(work, "random_qwen2.json")
    with open(config, "w") as file:
        json.dump({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 120, "intermediate_size": 200, "num_hidden_layers": 3,
                   "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 4096, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
                   "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False}, file)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([skiff, "convert", "random:" + config, "--to", "hf", "--type", "F32", "-o", folder], check=True, capture_output=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(os.path.join(model, name), folder)
    return folder


def shuffled_gptq(skiff, work, child):
    """A GPTQ checkpoint whose inputs are in groups at random, as act-order leaves them."""
    from safetensors.numpy import load_file, save_file
    folder = os.path.join(work, "gptq")
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([skiff, "convert", child, "--to", "gptq", "-o", folder], check=True, capture_output=True)
    tensors, random = load_file(os.path.join(folder, "model.safetensors")), np.random.default_rng(5)
    for name in tensors:
        if name.endswith("g_idx"):
            tensors[name] = random.permutation(tensors[name])
    save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    for name in ("config.json", "quantize_config.json"):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            text = open(path).read().replace('"desc_act": false', '"desc_act": true')
            open(path, "w").write(text)
    return folder


def children(skiff, work, models):
    """Each model and a random qwen2, plain, and quantized to each scheme: greedy() of all."""
    failures = 0
    child = os.path.join(work, "gptq_child")
    shutil.rmtree(child, ignore_errors=True)
    subprocess.run([skiff, "quantize", models[0], "--scheme", "w4g64", "--head", "keep", "--embedding", "keep", "-o", child], check=True, capture_output=True)
    failures += greedy(skiff, work, [shuffled_gptq(skiff, work, child)])
    for model in [*models, random_qwen2(skiff, work, models[0])]:
        failures += greedy(skiff, work, [model + ":nbits,f16"])
        for scheme in ("w8", "w4g32", "w4g128", "w4g32a", "w8a", "w8g32a", "w6g32r", "w5g32r", "w4g32r", "w3g32r", "w2g32r", "ternary", "binary", "mxfp4", "n4g32r", "iq4nl"):
            child = os.path.join(work, os.path.basename(model) + "-" + scheme)
            shutil.rmtree(child, ignore_errors=True)
            subprocess.run([skiff, "quantize", model, "--scheme", scheme, "-o", child], check=True, capture_output=True)
            failures += greedy(skiff, work, [child])
            failures += teacher(skiff, work, [child]) if scheme in ("w8", "w4g32", "ternary", "binary", "w2g32r") else 0
            failures += teacher(skiff, work, [child + ":int8"]) if scheme in ("w8", "w4g32") else 0
    return failures


if __name__ == "__main__":
    program, place, what, *rest = sys.argv[1:]
    os.makedirs(place, exist_ok=True)
    sys.exit(1 if {"greedy": greedy, "logits": logits_of_cases, "forms": forms, "golden": golden, "mlp": mlp, "terms": terms, "nets": nets, "digits": digits, "teacher": teacher, "children": children}[what](program, place, rest) else 0)
