"""Drawings of all sorts of networks: boxes, arrows and sums against a run of the network.

The arrows are read from the SVG's geometry, as an eye does, and compared with who takes whose
output; modules' order and sources are those that `torch.fx` finds, where it can trace the network.
"""

import copy
import math
import re
import time
from xml.etree import ElementTree

import pytest
import torch
import torchvision
from torch import fx, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from d2lmini.figures.boxes import box_of_group, boxes_in, boxes_of
from d2lmini.figures.column import Column
from d2lmini.figures.structure import IN
from d2lmini.figures.tracing import layer_outputs, trace

SVG = "{http://www.w3.org/2000/svg}"
OUT, IMAGE = "output", (1, 4, 8, 8)


def column(root, detail):
    """A drawn network and its boxes."""
    elements = boxes_of(root.items, detail) if root.items is not None else [box_of_group(root)]
    return Column(root, elements), list(boxes_in(elements))


def labels(root, detail="paths"):
    """What the boxes say, strips too."""
    return [[box.label, *(strip.label for strip in box.strips)] for box in column(root, detail)[1]]


# --- what is painted ------------------------------------------------------------------------------


def painted(svg):
    """Edges between boxes (their places in the document), IN and OUT, as lines and arrows show."""
    root = ElementTree.fromstring(svg)
    segments = []  # from, to, whether it ends in an arrowhead
    for path in root.findall(f"{SVG}path"):
        numbers = list(map(float, re.findall(r"-?[\d.]+(?:e-?\d+)?", path.get("d"))))
        if len(numbers) == 4:
            segments.append((tuple(numbers[:2]), tuple(numbers[2:]), False))
        else:  # the head of the line before
            segments[-1] = (segments[-1][0], tuple(numbers[-2:]), True)
    places = [
        tuple(float(g.find(f"{SVG}rect").get(name)) for name in ("x", "y", "width", "height"))
        for g in root.findall(f"{SVG}g")
        if "data-kind" in g.attrib
    ]
    ends = [text for text in root.findall(f"{SVG}text") if text.text.startswith("输出")]
    top = min(start[1] for start, _, _ in segments)

    def touched(point, is_tip):
        x, y = point
        if not is_tip and y == top:
            return [IN]
        if is_tip and any(abs(float(t.get("x")) - x) < 1 and abs(float(t.get("y")) - y - 11) < 1
                          for t in ends):  # fmt: skip
            return [OUT]
        return [i for i, (left, top, width, height) in enumerate(places)
                if left <= x <= left + width
                and (abs(y - top) < 0.1 if is_tip else -0.1 < y - top - height < 6.1)]  # fmt: skip

    def on(point, segment):
        (x1, y1), (x2, y2), _ = segment
        return (min(x1, x2) - 0.1 <= point[0] <= max(x1, x2) + 0.1
                and min(y1, y2) - 0.1 <= point[1] <= max(y1, y2) + 0.1)  # fmt: skip

    component = list(range(len(segments)))
    for i, one in enumerate(segments):
        for j, other in enumerate(segments[:i]):
            if any(on(p, other) for p in one[:2]) or any(on(p, one) for p in other[:2]):
                old, new = component[i], component[j]
                component = [new if c == old else c for c in component]
    edges = set()
    for number in set(component):
        lines = [segment for c, segment in zip(component, segments, strict=True) if c == number]
        sources = {s for start, _, _ in lines for s in touched(start, False)}
        targets = {t for _, end, is_arrow in lines if is_arrow for t in touched(end, True)}
        assert sources and targets, (number, lines)
        for _, end, is_arrow in lines:  # none ends in the air
            assert not is_arrow or touched(end, True) or sum(on(end, x) for x in lines) > 1
        edges |= {(source, target) for source in sources for target in targets}
    return edges


def passed(root, boxes):
    """The same edges, from who took whose output."""
    place = {layer: i for i, box in enumerate(boxes) for layer in box.layers} | {IN: IN}

    def sources(layer):  # a shortcut on which nothing happens is a plain line
        if layer in place:
            return {place[layer]}
        inputs = layer.inputs if layer.kind == "identity" else ()
        return {source for x in inputs for source in sources(x)}

    edges = {(s, place[x]) for x in root.layers if x in place for i in x.inputs for s in sources(i)}
    edges |= {(source, OUT) for layer, _ in root.outputs for source in sources(layer)}
    # Within a folded box or frame the next one follows: no arrow leads back.
    return {(s, t) for s, t in edges if s == IN or t == OUT or s < t}


def check(net, example, details=("paths",)):
    """A drawing's boxes, arrows and sums against a run; return its root."""
    root = trace(net, example)
    for detail in details:
        drawn, boxes = column(root, detail)
        layers = [layer for box in boxes for layer in box.layers]
        assert len(layers) == len(set(layers))
        missing = [x for x in root.layers if x not in layers and x.kind != "identity"]
        assert (f"另有{len(missing)}层" in drawn.alt) == bool(missing)
        for box in boxes:
            count = re.search(r"\((\d+)层\)", box.label)
            num = int(count[1]) + len(box.strips) if count else 1
            assert len(box.layers) % num == 0, box.label
        assert painted(drawn.svg()) == passed(root, boxes), drawn.alt
    assert root.params == sum(p.numel() for p in net.parameters())
    inputs = example if isinstance(example, tuple) and torch.is_tensor(example[0]) else [example]
    inputs = [(x if torch.is_tensor(x) else torch.zeros(x)).to("meta") for x in inputs]
    net = copy.deepcopy(net).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(*inputs)
    assert root.flops * len(inputs[0]) == counter.get_total_flops()
    return root


# --- torch.fx's opinion ---------------------------------------------------------------------------


class Tracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
        is_of_torch = type(module).__module__.startswith("torch.nn.")
        return not list(module.children()) or (is_of_torch and not isinstance(module, containers))


def modules_by_fx(net):
    """(name of a module, those from which data come to it past functions) in the order they run."""
    found, before = [], {}
    for node in Tracer().trace(net).nodes:
        sources = set().union(*(before[n] for n in node.all_input_nodes)) if node.op not in (
            "placeholder", "get_attr") else {IN} if node.op == "placeholder" else set()  # fmt: skip
        if node.op == "call_module":
            found.append((node.target, sources))
            sources = {node.target}
        # a size is no data
        is_size = node.target is getattr and node.args[1] in ("shape", "device", "dtype")
        before[node] = set() if is_size or node.target in ("size", "dim") else sources
    return found


def modules_by_trace(root):
    before, found = {IN: {IN}}, []
    for layer in root.layers:
        before[layer] = set().union(*(before[x] for x in layer.inputs))
        if layer.name:
            found.append((layer.name, before[layer]))
            before[layer] = {layer.name}
    return found


# --- networks made for each form ------------------------------------------------------------------


class Net(nn.Module):
    """A network whose `forward` is a function of itself and its inputs."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.function(self, *inputs)


class Own(nn.Module):
    """A convolution of a reader's own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 4, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.weight, padding=1)


class First(nn.Sequential):
    pass


class Second(nn.Sequential):
    pass


def conv(channels=4, out=4, kernel=3, **options):
    return nn.Conv2d(channels, out, kernel, padding=kernel // 2, **options)


def fc(features=4, out=4):
    return nn.Linear(features, out)


def attention(net, x):
    q, k, v = net.q(x), net.k(x), net.v(x)
    return net.o(F.softmax(q @ k.transpose(1, 2) / math.sqrt(8), -1) @ v)


def split_attention(net, x):
    q, k, v = net.qkv(x).chunk(3, -1)
    return F.scaled_dot_product_attention(q, k, v)


def dense(net, x):
    for layer in (net.a, net.b, net.c):
        x = torch.cat((x, layer(x)), 1)
    return x


def crossing(net, x):
    p = net.a(x)
    q = net.b(p)
    return net.c(p + q) + q * p


def assigned(net, x):
    y = torch.zeros_like(x)
    y[:, :2] = net.c(x)
    return y


def unet(net, x):
    a = net.a(x)
    return net.c(torch.cat((a, net.up(net.b(net.pool(a)))), 1))


def inner_fork(net, x):
    h = net.b(x)
    return torch.cat((net.a(x), net.c(h), net.d(h)), 1)


def with_exit(net, x):
    h = net.a(x)
    return net.b(h), h


def functions(net, x):
    x = F.leaky_relu(F.max_pool2d(F.conv2d(x, net.w, net.b, stride=2, padding=1), 2), 0.2)
    x = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
    return F.log_softmax(F.linear(F.dropout(x, 0.3, net.training), net.v), 1)


def decoder(net, x):
    a = net.a(x)
    return net.up(net.b(a), a)


ACT, SAME = nn.ReLU(), conv()
TWICE = nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU())
GATE = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(4, 2, 1), nn.ReLU(), conv(2, 4, 1), nn.Sigmoid())
# name -> network, what it is given, what its boxes say in their order
FORMS = {
    "three paths summed": (
        Net(lambda n, x: n.a(x) + n.b(x) + x, a=conv(), b=conv(kernel=1)), IMAGE,
        ["3×3 Conv (4), pad 1", "1×1 Conv (4)", "Add"]),
    "paths in sum()": (
        Net(lambda n, x: sum(path(x) for path in (n.a, n.b, n.c)), a=conv(), b=conv(kernel=1),
            c=nn.MaxPool2d(3, 1, 1)), IMAGE,
        ["3×3 Conv (4), pad 1", "1×1 Conv (4)", "3×3 MaxPool, stride 1, pad 1", "Add"]),
    "attention": (
        Net(attention, q=fc(8, 8), k=fc(8, 8), v=fc(8, 8), o=fc(8, 8)), (1, 5, 8),
        ["FC (8)", "FC (8)", "Transpose", "MatMul|Divide|Softmax", "FC (8)", "MatMul", "FC (8)"]),
    "attention of one projection": (
        Net(split_attention, qkv=fc(8, 24)), (1, 5, 8), ["FC (24)", "Split", "Attention"]),
    "squeeze and excitation": (
        Net(lambda n, x: x * n.g(x), g=GATE), IMAGE,
        ["Global AvgPool", "1×1 Conv (2)|ReLU", "1×1 Conv (4)|Sigmoid", "Multiply"]),
    "difference": (
        Net(lambda n, x: F.relu(n.a(x) - n.b(x)), a=conv(), b=conv(kernel=1)), IMAGE,
        ["3×3 Conv (4), pad 1", "1×1 Conv (4)", "Subtract|ReLU"]),
    "dense block": (
        Net(dense, a=conv(), b=conv(8), c=conv(12)), IMAGE,
        ["3×3 Conv (4), pad 1", "Concatenation"] * 3),
    "outputs": (
        Net(lambda n, x: (n.a(x), n.b(x)), a=fc(4, 10), b=fc()), (1, 4), ["FC (10)", "FC (4)"]),
    "outputs by name": (
        Net(lambda n, x: {"a": n.a(x), "b": n.b(x), "c": n.c(x)}, a=fc(), b=fc(4, 3), c=fc(4, 2)),
        (1, 4), ["FC (4)", "FC (3)", "FC (2)"]),
    "an output on the way": (
        Net(with_exit, a=fc(4, 10), b=fc(10)), (1, 4), ["FC (10)", "FC (4)"]),
    "LSTM": (nn.Sequential(nn.LSTM(4, 3)), (5, 1, 4), ["LSTM"]),
    "activation in two blocks": (
        nn.Sequential(nn.Sequential(conv(), ACT), nn.Sequential(conv(), ACT)), IMAGE,
        ["3×3 Conv (4), pad 1|ReLU"]),
    "convolution in two blocks": (
        nn.Sequential(nn.Sequential(SAME, nn.ReLU()), nn.Sequential(SAME, nn.Tanh())), IMAGE,
        ["3×3 Conv (4), pad 1|ReLU", "3×3 Conv (4), pad 1|Tanh"]),
    "assignment": (Net(assigned, c=conv(4, 2)), IMAGE, ["3×3 Conv (2), pad 1", "Assign"]),
    "functions": (
        Net(functions, w=nn.Parameter(torch.zeros(6, 4, 3, 3)), b=nn.Parameter(torch.zeros(6)),
            v=nn.Parameter(torch.zeros(10, 6))), IMAGE,
        ["3×3 Conv (6), stride 2, pad 1", "2×2 MaxPool, stride 2|LeakyReLU 0.2", "Global AvgPool",
         "Flatten|Dropout 0.3", "FC (10)|LogSoftmax"]),
    "sizes changed by functions": (
        Net(lambda n, x: n.c(F.interpolate(F.avg_pool2d(x, (2, 2)), scale_factor=2)).mean((2, 3)),
            c=conv()), IMAGE,
        ["2×2 AvgPool, stride 2", "Upsample (×2)", "3×3 Conv (4), pad 1", "Mean"]),
    "own layers": (nn.Sequential(Own(), nn.ReLU(), Own()), IMAGE, ["Own|ReLU", "Own"]),
    "other classes": (
        nn.Sequential(First(conv(), nn.MaxPool2d(3, 1, 1)), Second(conv(), nn.MaxPool2d(3, 1, 1))),
        IMAGE, ["3×3 Conv (4), pad 1", "3×3 MaxPool, stride 1, pad 1"] * 2),
    "other number of layers": (
        nn.Sequential(nn.Sequential(TWICE, nn.MaxPool2d(3, 1, 1)),
                      nn.Sequential(conv(), nn.ReLU(), nn.MaxPool2d(3, 1, 1))), IMAGE,
        ["3×3 Conv (4), pad 1|ReLU", "3×3 MaxPool, stride 1, pad 1"] * 2),
    "after a folded box": (
        nn.Sequential(TWICE, nn.BatchNorm2d(4), nn.Dropout(0.5), TWICE), IMAGE,
        ["3×3 Conv (4), pad 1|ReLU", "BatchNorm|Dropout 0.5", "3×3 Conv (4), pad 1|ReLU"]),
    "options": (
        nn.Sequential(conv(), conv(bias=False), conv(padding_mode="reflect"),
                      nn.LeakyReLU(0.1), nn.LeakyReLU()), IMAGE,
        ["3×3 Conv (4), pad 1", "3×3 Conv (4), pad 1",
         "3×3 Conv (4), pad 1, reflect|LeakyReLU 0.1|LeakyReLU"]),
    "adaptive": (
        nn.Sequential(conv(), nn.AdaptiveAvgPool2d((2, 2)), nn.AdaptiveMaxPool2d((None, 1))), IMAGE,
        ["3×3 Conv (4), pad 1", "Adaptive AvgPool, output 2×2", "Adaptive MaxPool, output H×1"]),
    "volumes": (
        nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2), nn.MaxPool3d(2)), (1, 1, 8, 8, 8),
        ["3×3×3 Conv (2)|BatchNorm", "2×2×2 MaxPool, stride 2"]),
    "words": (
        nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), fc(40, 3)),
        torch.zeros(2, 5, dtype=torch.int64), ["Embedding (8)", "Flatten", "FC (3)"]),
    "two inputs": (
        Net(lambda n, x, z: n.o(torch.cat((n.a(x).flatten(1), n.b(z)), 1)),
            a=conv(1, 2), b=fc(3), o=fc(132, 2)), (torch.zeros(1, 1, 8, 8), torch.zeros(1, 3)),
        ["输入1", "3×3 Conv (2), pad 1", "Flatten", "输入2", "FC (4)", "Concatenation", "FC (2)"]),
    "numbers": (Net(lambda n, x: 2 * n.a(x) + 1e-6, a=fc()), (1, 4), ["FC (4)|Multiply|Add"]),
    "U-Net": (
        Net(unet, a=conv(), pool=nn.MaxPool2d(2), b=conv(), up=nn.Upsample(scale_factor=2),
            c=conv(8, 2)), IMAGE,
        ["3×3 Conv (4), pad 1", "2×2 MaxPool, stride 2", "3×3 Conv (4), pad 1", "Upsample (×2)",
         "Concatenation", "3×3 Conv (2), pad 1"]),
    "a block of two inputs": (
        Net(decoder, a=conv(), b=conv(), up=Net(lambda n, x, y: n.c(x) + n.d(y), c=conv(),
                                                d=conv(kernel=1))), IMAGE,
        ["3×3 Conv (4), pad 1", "3×3 Conv (4), pad 1", "1×1 Conv (4)", "Add"]),
    "crossing paths": (
        Net(crossing, a=fc(), b=fc(), c=fc()), (1, 4), ["FC (4)", "交叉路径 (4层)", "Add"]),
    "not needed": (Net(lambda n, x: (n.b(x), n.a(x))[1], a=fc(), b=fc()), (1, 4), ["FC (4)"]),
    "called by forward()": (
        Net(lambda n, x: n.a.forward(x), a=conv()), IMAGE, ["3×3 Conv (4), pad 1"]),
    "inner fork": (
        Net(inner_fork, a=conv(), b=conv(), c=conv(kernel=1), d=conv(kernel=5)), IMAGE,
        ["3×3 Conv (4), pad 1"] * 2 + ["1×1 Conv (4)", "5×5 Conv (4), pad 2", "Concatenation"]),
    "matrices by hand": (
        Net(lambda n, x: x @ n.w + n.b, w=nn.Parameter(torch.zeros(4, 3)),
            b=nn.Parameter(torch.zeros(3))), (2, 4), ["MatMul|Add"]),
    "transposed": (Net(lambda n, x: n.a(x.mT).mT, a=fc(5, 3)), (1, 5, 4),
                   ["Transpose", "FC (3)", "Transpose"]),
    "transposed convolution": (
        Net(lambda n, x: F.conv_transpose2d(n.a(x), n.w, stride=2), a=nn.ConvTranspose2d(4, 2, 2),
            w=nn.Parameter(torch.zeros(2, 3, 4, 4))), IMAGE,
        ["2×2 Deconv (2)", "4×4 Deconv (3), stride 2"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_boxes_arrows_and_sums_are_those_of_a_run(name):
    net, example, expected = FORMS[name]
    root = check(net, example, details=("paths", "widths", "name"))
    assert ["|".join(words) for words in labels(root)] == expected
    drawn, _ = column(root, "paths")
    assert len(ElementTree.fromstring(drawn.svg()).findall(f"{SVG}g[@data-kind]")) == len(expected)


def test_folded_boxes_say_what_all_their_layers_share():
    net = nn.Sequential(fc(784, 256), fc(256, 256), fc(256, 256))
    (box,) = column(trace(net, (1, 784)), "paths")[1]
    assert box.times == 3 and not box.facts
    (box,) = column(trace(net[1:], (1, 256)), "paths")[1]
    assert box.facts == (("输入特征", "256"),)
    shared = column(trace(nn.Sequential(SAME, SAME), IMAGE), "paths")[1]
    assert [("权重", "与前面的层共用") in box.facts for box in shared] == [False, True]


def test_each_output_stands_below_its_path():
    drawn, _ = column(trace(FORMS["outputs"][0], (1, 4)), "paths")
    svg = ElementTree.fromstring(drawn.svg())
    places = {text.text: float(text.get("x")) for text in svg.findall(f"{SVG}text")}
    for box, text in zip(svg.findall(f"{SVG}g[@data-kind]"), ("输出10", "输出4"), strict=True):
        rect = box.find(f"{SVG}rect")
        middle = float(rect.get("x")) + float(rect.get("width")) / 2
        assert places[text] == pytest.approx(middle)
        assert box.get("data-shape") == text.removeprefix("输出")
    assert "FC (10)，输出10" in drawn.alt and "FC (4)，输出4" in drawn.alt


def test_blocks_that_are_more_than_paths_say_how_many_layers_they_have():
    blocks = nn.Sequential(*(FORMS["dense block"][0] for _ in range(2)))
    fire = Net(FORMS["inner fork"][0].function, **dict(FORMS["inner fork"][0].named_children()))
    for net, example in ((nn.Sequential(fire), IMAGE), (blocks[:1], IMAGE)):
        for detail in ("widths", "name"):
            (box,) = column(trace(net, example), detail)[1]
            assert box.paths is None and box.label == f"Net ({len(box.layers)}层)"
    residual = nn.Sequential(Net(lambda n, x: x + n.c(n.b(n.a(x))), a=conv(), b=conv(), c=conv()))
    ((box,), svg) = (lambda c: (c[1], c[0].svg()))(column(trace(residual, IMAGE), "widths"))
    assert box.paths == [([], ""), (["conv"] * 3, "4")]
    bars = ElementTree.fromstring(svg).find(f"{SVG}g[@data-kind]").findall(f"{SVG}rect")[1:]
    assert len(bars) == 3 + 1  # and their join


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.ConvTranspose2d(3, 4, 2),
                                   Net(lambda n, x: F.avg_pool2d(x, 2))])  # fmt: skip
def test_a_shape_without_its_batch_axis_is_refused(layer):
    with pytest.raises(ValueError, match=r"batch axis.*\(1, 3, 32, 32\)"):
        trace(nn.Sequential(layer), (3, 32, 32))
    assert trace(nn.Sequential(layer), (1, 3, 32, 32)).flops >= 0


def test_what_a_real_run_changes_is_put_back():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("n", torch.zeros(()))
            self.register_buffer("m", torch.zeros(()))

        def forward(self, x):
            self.n += 1
            self.m = self.m + 1
            return x * float(x.sum() + 1)  # not on the meta device

    net = nn.Sequential(Counts(), fc())
    trace(net, (1, 4))
    assert net[0].n == net[0].m == 0
    with torch.inference_mode():
        X = torch.rand(1, 4)
    assert [layer.label for layer, _ in layer_outputs(net, X)] == ["Counts", "FC (4)"]


def test_deep_nesting_takes_milliseconds():
    net = fc()
    for _ in range(40):
        net = nn.Sequential(net, nn.Sequential(fc(), nn.MaxPool1d(1)))
    root = trace(net, (1, 4, 4))
    start = time.perf_counter()
    column(root, "paths")
    assert time.perf_counter() - start < 0.5


# --- torchvision ----------------------------------------------------------------------------------

SOME = ["alexnet", "vgg11_bn", "googlenet", "inception_v3", "resnet18", "resnet50", "squeezenet1_1",
        "densenet121", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5",
        "efficientnet_b0", "convnext_tiny", "vit_b_16", "swin_t"]  # fmt: skip
ALL = [pytest.param(name, marks=() if name in SOME else pytest.mark.slow)
       for name in torchvision.models.list_models(module=torchvision.models)]  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_torchvisions_networks(name):
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("cpu" if "regnet" in name or "swin" in name else "meta"):
        net = torchvision.models.get_model(name, weights=None, **options).eval()
    side = 299 if name == "inception_v3" else 224
    root = check(net, (1, 3, side, side), details=("widths", "name"))
    try:
        expected = modules_by_fx(net)
    except Exception as error:  # what fx cannot trace
        assert isinstance(error, (TypeError, fx.proxy.TraceError)), error
        return
    found = modules_by_trace(root)
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert found == expected
