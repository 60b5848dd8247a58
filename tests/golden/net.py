"""Writes tests/data/net/: small networks, their weights, an input and what PyTorch makes of it; and examples/structures/*.json, the same structures at the sizes
of their papers. Oracle: torch.nn modules in PyTorch's own order of axes (MobileBERT: transformers). Usage: python3 tests/golden/net.py"""

import json
import pathlib

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Spec:
    """Operators by name, and the torch tensors that they are to have."""

    def __init__(self, name, height, width, channels):
        self.config = {"model_type": "skiff-net", "name": name, "input": {"height": height, "width": width, "channels": channels}, "ops": []}
        self.tensors = {}

    def op(self, name, operator, inputs=None, module=None, **fields):
        entry = {"name": name, "op": operator}
        if inputs is not None:
            entry["in"] = [inputs] if isinstance(inputs, str) else inputs
        entry.update(fields)
        self.config["ops"].append(entry)
        if module is not None:
            self.take(name, module)
        return name

    def take(self, name, module):
        weight = module.weight.detach()
        if weight.dim() == 4:  # (out, in, y, x) -> rows of (y, x, in)
            weight = weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)
        elif weight.dim() == 3:
            weight = weight.permute(0, 2, 1).reshape(weight.shape[0], -1)
        self.tensors[name + ".weight"] = weight.contiguous()
        if getattr(module, "bias", None) is not None:
            self.tensors[name + ".bias"] = module.bias.detach().contiguous()

    def conv(self, name, module, inputs=None):
        fields = {"channels": module.out_channels}
        two = isinstance(module, nn.Conv2d)
        for key, values, usual in (("kernel", module.kernel_size, 1), ("stride", module.stride, 1), ("padding", module.padding, 0), ("dilation", module.dilation, 1)):
            values = list(values) if two else [usual, values[0]]
            if values != [usual, usual]:
                fields[key] = values
        if module.groups != 1:
            fields["groups"] = module.groups
        if module.bias is None:
            fields["bias"] = False
        return self.op(name, "conv", inputs, module, **fields)

    def linear(self, name, module, inputs=None):
        fields = {"channels": module.out_features}
        if module.bias is None:
            fields["bias"] = False
        return self.op(name, "conv", inputs, module, **fields)

    def scale(self, name, module, inputs=None):  # MobileBERT's NoNorm: a depthwise convolution that looks at one position
        n = module.weight.numel()
        self.tensors[name + ".weight"] = module.weight.detach().reshape(n, 1)
        self.tensors[name + ".bias"] = module.bias.detach()
        return self.op(name, "conv", inputs, None, channels=n, groups=n)


def image(x):  # (n, channels, height, width) -> ours
    return x.permute(0, 2, 3, 1).contiguous()


# ---- single operators over odd shapes


def operators():
    torch.manual_seed(1)
    cases = []

    def add(name, x, module, build):
        spec = Spec(name, x.shape[2], x.shape[3], x.shape[1])
        build(spec)
        with torch.no_grad():
            y = module(x)
        cases.append((spec, image(x), image(y) if y.dim() == 4 else y))

    convs = [  # channels in, out, kernel, stride, padding, dilation, groups, size, bias
        (1, 1, 1, 1, 0, 1, 1, (1, 1), True), (2, 4, 3, 1, 0, 1, 1, (6, 6), False), (3, 17, 3, 2, 1, 1, 1, (7, 9), True), (8, 6, 5, 1, 2, 1, 2, (5, 5), True),
        (16, 48, 1, 1, 0, 1, 1, (9, 7), True), (16, 20, 1, 2, 0, 1, 4, (6, 5), True), (12, 12, 3, 1, 1, 1, 12, (8, 5), True), (33, 33, 3, 2, 2, 2, 33, (9, 9), False),
        (6, 18, 3, 1, 1, 1, 6, (4, 6), True), (4, 7, (3, 1), (1, 2), (1, 0), 1, 1, (5, 6), True), (5, 10, (2, 4), 1, (0, 3), (2, 1), 5, (6, 8), True), (64, 80, 3, 1, 1, 1, 1, (13, 11), True),
    ]
    for i, (n_in, n_out, kernel, stride, padding, dilation, groups, size, bias) in enumerate(convs):
        module = nn.Conv2d(n_in, n_out, kernel, stride, padding, dilation, groups, bias)
        add(f"conv2d_{i}", torch.randn(2, n_in, *size), module, lambda spec: spec.conv("c", module))
    for i, (n_in, n_out, kernel, stride, padding, dilation, groups, size) in enumerate([(3, 5, 3, 1, 1, 1, 1, 11), (8, 8, 5, 2, 0, 2, 8, 23), (6, 9, 2, 1, 4, 1, 3, 7)]):
        module = nn.Conv1d(n_in, n_out, kernel, stride, padding, dilation, groups)
        x = torch.randn(3, n_in, size)
        spec = Spec(f"conv1d_{i}", 1, size, n_in)
        spec.conv("c", module)
        cases.append((spec, x.permute(0, 2, 1).contiguous(), module(x).detach().permute(0, 2, 1).contiguous()))
    module = nn.Conv1d(7, 7, 4, groups=7)  # causal
    x = torch.randn(2, 7, 9)
    spec = Spec("conv1d_causal", 1, 9, 7)
    spec.op("c", "conv", None, module, channels=7, groups=7, kernel=[1, 4], padding=[0, 3], padding_after=[0, 0])
    cases.append((spec, x.permute(0, 2, 1).contiguous(), module(F.pad(x, (3, 0))).detach().permute(0, 2, 1).contiguous()))
    # Kernel positions that pruning kept: 0, 4, 5 of 3x3.
    module = nn.Conv2d(5, 9, 3, padding=1)
    with torch.no_grad():
        module.weight *= torch.tensor([1.0, 0, 0, 0, 1, 1, 0, 0, 0]).reshape(3, 3)
    add("conv2d_taps", torch.randn(2, 5, 6, 7), module, lambda spec: spec.op("c", "conv", None, module, channels=9, kernel=3, padding=1, taps=[0, 4, 5]))
    cases[-1][0].tensors["c.weight"] = cases[-1][0].tensors["c.weight"].reshape(9, 9, 5)[:, [0, 4, 5]].reshape(9, 15).contiguous()

    for kind, make in (("max", lambda **k: nn.MaxPool2d(**k)), ("average", lambda **k: nn.AvgPool2d(count_include_pad=False, **k)), ("average_with_padding", lambda **k: nn.AvgPool2d(**k))):
        for kernel, stride, padding in ((2, 2, 0), (3, 2, 1), (3, 1, 1)):
            module = make(kernel_size=kernel, stride=stride, padding=padding)
            add(f"pool_{kind}_{kernel}{stride}{padding}", torch.randn(2, 19, 9, 7), module, lambda spec: spec.op("p", "pool", kind=kind, kernel=kernel, stride=stride, padding=padding))
    add("pool_whole_average", torch.randn(2, 5, 20, 17), nn.AdaptiveAvgPool2d(1), lambda spec: spec.op("p", "pool", kind="average"))
    add("pool_whole_max", torch.randn(2, 5, 3, 4), nn.AdaptiveMaxPool2d(1), lambda spec: spec.op("p", "pool", kind="max"))
    for groups in (2, 3, 6):
        add(f"shuffle_{groups}", torch.randn(1, 12, 3, 2), nn.ChannelShuffle(groups), lambda spec: spec.op("s", "shuffle", groups=groups))
    for name, module in (("relu", nn.ReLU()), ("silu", nn.SiLU()), ("gelu", nn.GELU()), ("gelu_tanh", nn.GELU(approximate="tanh")), ("sigmoid", nn.Sigmoid()), ("tanh", nn.Tanh())):
        add(f"activation_{name}", torch.randn(1, 11, 3, 3) * 3, module, lambda spec: spec.op("a", "activation", kind=name))
    norm = nn.LayerNorm(13, eps=1e-3)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    add("layer_norm", torch.randn(2, 13, 2, 5), lambda x: norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), lambda spec: spec.op("n", "layer_norm", None, norm, eps=1e-3))
    rms = torch.randn(13)

    def rms_norm(x):
        y = x.permute(0, 2, 3, 1)
        return (y / torch.sqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) * rms).permute(0, 3, 1, 2)

    add("rms_norm", torch.randn(2, 13, 2, 5), rms_norm, lambda spec: spec.op("n", "rms_norm", eps=1e-6))
    cases[-1][0].tensors["n.weight"] = rms
    for heads, length in ((2, 5), (1, 1), (3, 270)):
        x = torch.randn(2, 1, length, 24)  # (n, 1, length, channels)
        q, k, v = nn.Linear(24, 24), nn.Linear(24, 24), nn.Linear(24, 24)
        spec = Spec(f"attention_{heads}_{length}", 1, length, 24)
        attended = spec.op("a", "attention", [spec.linear("q", q, "input"), spec.linear("k", k, "input"), spec.linear("v", v, "input")], heads=heads)
        assert attended == "a"
        with torch.no_grad():
            cut = lambda y: y.reshape(2, length, heads, 24 // heads).transpose(1, 2)
            y = F.scaled_dot_product_attention(cut(q(x[:, 0])), cut(k(x[:, 0])), cut(v(x[:, 0]))).transpose(1, 2).reshape(2, length, 24)
        cases.append((spec, x.contiguous(), y.contiguous()))
    x = torch.randn(2, 12, 3, 5)
    add("fold", x, lambda x: x.permute(0, 2, 3, 1).unflatten(3, (4, 3)).flatten(2, 3).permute(0, 3, 1, 2), lambda spec: spec.op("f", "fold", parts=4))
    x = torch.randn(2, 5, 3, 6)
    add("unfold", x, lambda x: x.permute(0, 2, 3, 1).unflatten(2, (3, 2)).flatten(3, 4).permute(0, 3, 1, 2), lambda spec: spec.op("f", "unfold", parts=2))
    x = torch.randn(2, 6, 3, 5)
    spec = Spec("parts", 3, 5, 6)
    spec.op("left", "slice", "input", begin=0, end=2)
    spec.op("right", "slice", "input", begin=1, end=6)
    spec.op("both", "concat", ["right", "left", "input"])
    spec.op("twice", "add", ["both", "both"])
    spec.op("square", "multiply", ["twice", "both"])
    spec.op("mean", "pool", "square", kind="average")
    spec.op("gated", "multiply", ["square", "mean"])
    spec.op("flat", "flatten")
    both = torch.cat([x[:, 1:6], x[:, 0:2], x], 1)
    square = 2 * both * both
    cases.append((spec, image(x), image(square * square.mean((2, 3), keepdim=True)).reshape(2, -1)))
    return cases


# ---- structures


def residual_block(name, size, channels, inner):
    """A plain bottleneck of ResNet, to compare with."""
    a, b, c = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, inner, 3, padding=1), nn.Conv2d(inner, channels, 1)
    spec = Spec(name, size, size, channels)
    spec.conv("reduce", a, "input"), spec.op("reduced", "activation", kind="relu")
    spec.conv("spatial", b), spec.op("seen", "activation", kind="relu")
    spec.conv("expand", c), spec.op("sum", "add", ["expand", "input"]), spec.op("out", "activation", kind="relu")
    return spec, lambda x: F.relu(c(F.relu(b(F.relu(a(x))))) + x), (channels, size, size)


def shufflenet_unit(name, size, channels, groups):
    """Zhang et al. 2018, figure 2b: grouped pointwise, shuffle, depthwise, grouped pointwise, identity."""
    inner = channels // 4
    a, b, c = nn.Conv2d(channels, inner, 1, groups=groups), nn.Conv2d(inner, inner, 3, padding=1, groups=inner), nn.Conv2d(inner, channels, 1, groups=groups)
    spec = Spec(name, size, size, channels)
    spec.conv("reduce", a, "input"), spec.op("reduced", "activation", kind="relu"), spec.op("shuffle", "shuffle", groups=groups)
    spec.conv("spatial", b), spec.conv("expand", c)
    spec.op("sum", "add", ["expand", "input"]), spec.op("out", "activation", kind="relu")
    shuffle = nn.ChannelShuffle(groups)
    return spec, lambda x: F.relu(c(b(shuffle(F.relu(a(x))))) + x), (channels, size, size)


def grouped_linear(name, length, width, inner, groups):
    """A feed-forward whose matrices are cut into groups, with a shuffle between them (ShuffleNet on tokens)."""
    up, down, norm = nn.Conv1d(width, inner, 1, groups=groups), nn.Conv1d(inner, width, 1, groups=groups), nn.LayerNorm(width)
    spec = Spec(name, 1, length, width)
    spec.op("norm", "layer_norm", "input", norm)
    spec.conv("up", up), spec.op("active", "activation", kind="gelu"), spec.op("shuffle", "shuffle", groups=groups), spec.conv("down", down), spec.op("out", "add", ["down", "input"])

    def shuffle(x):  # (n, inner, length)
        return x.reshape(x.shape[0], groups, -1, x.shape[2]).transpose(1, 2).reshape(x.shape)

    return spec, lambda x: x + down(shuffle(F.gelu(up(norm(x.transpose(1, 2)).transpose(1, 2))))), (width, length)


def squeeze_excitation(name, size, channels, ratio):
    """Hu et al. 2018, behind a 3x3 convolution with an identity."""
    conv, squeeze, excite = nn.Conv2d(channels, channels, 3, padding=1), nn.Linear(channels, channels // ratio), nn.Linear(channels // ratio, channels)
    spec = Spec(name, size, size, channels)
    spec.conv("spatial", conv, "input"), spec.op("mean", "pool", kind="average")
    spec.linear("squeeze", squeeze), spec.op("active", "activation", kind="relu"), spec.linear("excite", excite), spec.op("gate", "activation", kind="sigmoid")
    spec.op("gated", "multiply", ["spatial", "gate"]), spec.op("sum", "add", ["gated", "input"]), spec.op("out", "activation", kind="relu")

    def forward(x):
        y = conv(x)
        gate = torch.sigmoid(excite(F.relu(squeeze(y.mean((2, 3))))))
        return F.relu(y * gate[:, :, None, None] + x)

    return spec, forward, (channels, size, size)


def dense_layer(name, size, channels, growth, bottleneck):
    """PeleeNet's two-way dense layer (Wang et al. 2018, figure 1): one and two 3x3 windows, beside the input."""
    half = growth // 2
    a1, a2 = nn.Conv2d(channels, bottleneck, 1), nn.Conv2d(bottleneck, half, 3, padding=1)
    b1, b2, b3 = nn.Conv2d(channels, bottleneck, 1), nn.Conv2d(bottleneck, half, 3, padding=1), nn.Conv2d(half, half, 3, padding=1)
    spec = Spec(name, size, size, channels)

    def step(label, module, source):
        spec.conv(label, module, source)
        return spec.op(label + "_relu", "activation", kind="relu")

    left = step("left2", a2, step("left1", a1, "input"))
    right = step("right3", b3, step("right2", b2, step("right1", b1, "input")))
    spec.op("out", "concat", ["input", left, right])
    return spec, lambda x: torch.cat([x, F.relu(a2(F.relu(a1(x)))), F.relu(b3(F.relu(b2(F.relu(b1(x))))))], 1), (channels, size, size)


def one_shot(name, size, channels, inner, layers, out):
    """VoVNet's one-shot aggregation (Lee et al. 2019): a chain of 3x3 convolutions, joined once at the end."""
    convs = [nn.Conv2d(channels if i == 0 else inner, inner, 3, padding=1) for i in range(layers)]
    join = nn.Conv2d(channels + layers * inner, out, 1)
    spec = Spec(name, size, size, channels)
    parts, source = ["input"], "input"
    for i, conv in enumerate(convs):
        spec.conv(f"conv{i}", conv, source)
        source = spec.op(f"relu{i}", "activation", kind="relu")
        parts.append(source)
    spec.op("all", "concat", parts), spec.conv("join", join), spec.op("out", "activation", kind="relu")

    def forward(x):
        seen = [x]
        for conv in convs:
            seen.append(F.relu(conv(seen[-1])))
        return F.relu(join(torch.cat(seen, 1)))

    return spec, forward, (channels, size, size)


def attention_into(spec, attention, source, value=None):
    """nn.MultiheadAttention's matrices as operators."""
    width = attention.embed_dim
    for i, part in enumerate("qkv"):
        spec.op(part, "conv", source, channels=width)
        spec.tensors[part + ".weight"] = attention.in_proj_weight.detach()[i * width:(i + 1) * width].contiguous()
        spec.tensors[part + ".bias"] = attention.in_proj_bias.detach()[i * width:(i + 1) * width].contiguous()
    spec.op("attended", "attention", ["q", "k", "v"], heads=attention.num_heads)
    return spec.linear("o", attention.out_proj)


def attention_module(width, heads):
    module = nn.MultiheadAttention(width, heads, batch_first=True)
    nn.init.normal_(module.in_proj_bias)
    return module


def feed_forward(spec, source, norm, up, down, kind):
    spec.op("ff_norm", "layer_norm", source, norm), spec.linear("ff_up", up), spec.op("ff_active", "activation", kind=kind), spec.linear("ff_down", down)
    spec.op("out", "add", ["ff_down", source])


def transformer_layer(name, length, width, heads, inner):
    """A plain pre-norm encoder layer, to compare with."""
    attention, norms, up, down = attention_module(width, heads), nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)]), nn.Linear(width, inner), nn.Linear(inner, width)
    spec = Spec(name, 1, length, width)
    attention_into(spec, attention, spec.op("norm", "layer_norm", "input", norms[0]))
    spec.op("mixed", "add", ["o", "input"])
    feed_forward(spec, "mixed", norms[1], up, down, "gelu")

    def forward(x):
        y = norms[0](x)
        x = x + attention(y, y, y)[0]
        return x + down(F.gelu(up(norms[1](x))))

    return spec, forward, (length, width)


def mobilebert_layer(name, length, width, bottleneck, heads, feed_forwards):
    """Sun et al. 2020: a bottleneck, attention whose values come from the wide state, stacked feed-forwards, NoNorm."""
    from transformers import MobileBertConfig
    from transformers.models.mobilebert.modeling_mobilebert import MobileBertLayer

    layer = MobileBertLayer(MobileBertConfig(hidden_size=width, embedding_size=width, intra_bottleneck_size=bottleneck, true_hidden_size=bottleneck, num_attention_heads=heads, intermediate_size=4 * bottleneck,
                                             num_feedforward_networks=feed_forwards, attn_implementation="eager", use_bottleneck=True, key_query_shared_bottleneck=True)).eval()
    for module in layer.modules():
        if type(module).__name__ == "NoNorm":
            nn.init.normal_(module.weight, 1, 0.2), nn.init.normal_(module.bias, 0, 0.2)
    spec = Spec(name, 1, length, width)

    def dense_norm(label, module, source):
        spec.linear(label + "_dense", module.dense, source)
        return spec.scale(label, module.LayerNorm)

    narrow = dense_norm("narrow", layer.bottleneck.input, "input")
    shared = dense_norm("shared", layer.bottleneck.attention, "input")
    attention = getattr(layer.attention, "self")
    spec.op("attended", "attention", [spec.linear("q", attention.query, shared), spec.linear("k", attention.key, shared), spec.linear("v", attention.value, "input")], heads=heads)

    def add_norm(label, dense, norm, source, residual):
        spec.linear(label + "_dense", dense, source), spec.op(label + "_sum", "add", [label + "_dense", residual])
        return spec.scale(label, norm)

    state = add_norm("mixed", layer.attention.output.dense, layer.attention.output.LayerNorm, "attended", narrow)

    def feed(label, up, down, norm, source):
        spec.linear(label + "_up", up, source)
        return add_norm(label, down, norm, spec.op(label + "_active", "activation", kind="relu"), source)

    for i, ffn in enumerate(layer.ffn):
        state = feed(f"ff{i}", ffn.intermediate.dense, ffn.output.dense, ffn.output.LayerNorm, state)
    state = feed("ff", layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm, state)
    add_norm("out", layer.output.bottleneck.dense, layer.output.bottleneck.LayerNorm, state, "input")
    return spec, lambda x: layer(x) if isinstance(layer(x), torch.Tensor) else layer(x)[0], (length, width)


def lite_transformer_layer(name, length, width, heads, kernel, inner):
    """Wu et al. 2020 (long-short range attention): half of the channels to attention, half to a gated depthwise convolution."""
    half = width // 2
    attention, gate, depthwise, leave = attention_module(half, heads), nn.Linear(half, 2 * half), nn.Conv1d(half, half, kernel, padding=kernel // 2, groups=half), nn.Linear(half, half)
    norms, up, down = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)]), nn.Linear(width, inner), nn.Linear(inner, width)
    spec = Spec(name, 1, length, width)
    spec.op("norm", "layer_norm", "input", norms[0])
    attention_into(spec, attention, spec.op("far", "slice", "norm", begin=0, end=half))
    spec.op("near", "slice", "norm", begin=half, end=width), spec.linear("gate_in", gate)
    spec.op("content", "slice", "gate_in", begin=0, end=half), spec.op("gate_logits", "slice", "gate_in", begin=half, end=2 * half), spec.op("gate", "activation", kind="sigmoid")
    spec.op("gated", "multiply", ["content", "gate"]), spec.conv("local", depthwise), spec.linear("leave", leave)
    spec.op("beside", "concat", ["o", "leave"]), spec.op("mixed", "add", ["beside", "input"])
    feed_forward(spec, "mixed", norms[1], up, down, "relu")

    def forward(x):
        y = norms[0](x)
        far, near = y[..., :half], y[..., half:]
        near = F.glu(gate(near), -1)
        near = leave(depthwise(near.transpose(1, 2)).transpose(1, 2))
        x = x + torch.cat([attention(far, far, far)[0], near], -1)
        return x + down(F.relu(up(norms[1](x))))

    return spec, forward, (length, width)


def san_m_layer(name, length, width, heads, kernel, inner):
    """Gao et al. 2020: attention plus a memory, a depthwise convolution on the values with an identity."""
    attention, memory = attention_module(width, heads), nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
    norms, up, down = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)]), nn.Linear(width, inner), nn.Linear(inner, width)
    spec = Spec(name, 1, length, width)
    attention_into(spec, attention, spec.op("norm", "layer_norm", "input", norms[0]))
    spec.conv("memory", memory, "v"), spec.op("remembered", "add", ["memory", "v"])
    spec.op("both", "add", ["o", "remembered"]), spec.op("mixed", "add", ["both", "input"])
    feed_forward(spec, "mixed", norms[1], up, down, "relu")

    def forward(x):
        y = norms[0](x)
        v = F.linear(y, attention.in_proj_weight[2 * width:], attention.in_proj_bias[2 * width:])
        x = x + attention(y, y, y)[0] + memory(v.transpose(1, 2)).transpose(1, 2) + v
        return x + down(F.relu(up(norms[1](x))))

    return spec, forward, (length, width)


STRUCTURES = [  # name, function, small sizes for the test, the papers' sizes
    ("residual-bottleneck", residual_block, (5, 8, 3), (28, 240, 60)),
    ("shufflenet-unit", shufflenet_unit, (5, 24, 3), (28, 240, 3)),
    ("grouped-linear", grouped_linear, (6, 12, 24, 3), (128, 512, 2048, 4)),
    ("squeeze-excitation", squeeze_excitation, (5, 16, 4), (28, 64, 16)),
    ("peleenet-dense", dense_layer, (5, 9, 6, 4), (28, 128, 32, 64)),
    ("vovnet-one-shot", one_shot, (4, 6, 5, 3, 11), (28, 128, 64, 5, 128)),
    ("transformer-layer", transformer_layer, (7, 16, 2, 24), (128, 512, 8, 2048)),
    ("mobilebert-layer", mobilebert_layer, (7, 24, 8, 2, 3), (128, 512, 128, 4, 4)),
    ("lite-transformer-layer", lite_transformer_layer, (7, 16, 2, 3, 20), (128, 512, 4, 15, 512)),
    ("san-m-layer", san_m_layer, (7, 16, 2, 5, 24), (128, 512, 8, 11, 2048)),
]


def structures():
    torch.manual_seed(2)
    cases = []
    for name, function, small, large in STRUCTURES:
        spec, forward, shape = function(name, *small)
        x = torch.randn(2, *shape)
        with torch.no_grad():
            y = forward(x)
        if function is grouped_linear:
            x, y = x.transpose(1, 2), y.transpose(1, 2)
        elif x.dim() == 4:
            x, y = image(x), image(y)
        cases.append((spec, x.contiguous(), y.contiguous()))
        preset = function(name, *large)[0].config
        lines = ",\n".join("    " + json.dumps(op) for op in preset["ops"])
        head = {key: value for key, value in preset.items() if key != "ops"}
        (ROOT / "examples/structures").mkdir(parents=True, exist_ok=True)
        (ROOT / f"examples/structures/{name}.json").write_text(json.dumps(head)[:-1] + ',\n  "ops": [\n' + lines + "\n  ]}\n")
    return cases


def write(stem, cases):
    folder = ROOT / "tests/data/net"
    folder.mkdir(parents=True, exist_ok=True)
    tensors, specs = {}, []
    for spec, x, y in cases:
        name = spec.config["name"]
        specs.append(spec.config)
        tensors[f"{name}/x"], tensors[f"{name}/y"] = x, y.detach().contiguous()
        for key, value in spec.tensors.items():
            tensors[f"{name}/{key}"] = value.clone()
    save_file(tensors, folder / f"{stem}.safetensors")
    (folder / f"{stem}.json").write_text("[\n" + ",\n".join(json.dumps(spec) for spec in specs) + "\n]\n")


write("operators", operators())
write("structures", structures())
