"""Architecture figures: boxes, arrows and sums against a run of the network.

The arrows are read from the SVG's geometry, as an eye does, and compared with who takes whose
output; modules' order and sources are those that `torch.fx` finds, where it can trace the network.
"""

import copy
import functools
import math
import re
import threading
import time
from xml.etree import ElementTree

import networkx  # torch's own requirement
import pytest
import torch
import torchvision
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from torch import fx, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from d2lmini import draw
from d2lmini.figures import inline_svg
from d2lmini.figures.boxes import box_of_group, boxes_in, boxes_of
from d2lmini.figures.column import Column
from d2lmini.figures.structure import IN
from d2lmini.figures.tracing import layer_outputs, trace

SVG = "{http://www.w3.org/2000/svg}"
PLACE = ("x", "y", "width", "height")
OUT, IMAGE = "output", (1, 4, 8, 8)


def drawn(*nets, **options):
    """The HTML that `draw` shows in a notebook."""
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inline_svg, "display", shown.append)
        draw(*nets, **options)
    return shown[0]._repr_html_()


def column(root, detail="paths"):
    """A drawn network and its boxes."""
    elements = boxes_of(root.items, detail) if root.items is not None else [box_of_group(root)]
    return Column(root, elements), list(boxes_in(elements))


def boxes(svg):
    """The boxes of layers in SVG, or in HTML with it, in document order."""
    return [g for g in ElementTree.fromstring(svg).iter(f"{SVG}g") if "data-kind" in g.attrib]


def words(element):
    return ["".join(text.itertext()) for text in element.iter(f"{SVG}text")]


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
        tuple(float(box.find(f"{SVG}rect").get(name)) for name in PLACE) for box in boxes(svg)
    ]
    (foot,) = (float(x.get("y")) for x in root.findall(f"{SVG}text") if x.text.startswith("输出"))
    top = min(start[1] for start, _, _ in segments)

    def touched(point, is_tip):
        x, y = point
        if not is_tip and y == top:
            return [IN]
        if is_tip and abs(y + 11 - foot) < 1:
            return [OUT]
        return [i for i, (left, top, width, height) in enumerate(places)
                if left <= x <= left + width
                and (abs(y - top) < 0.1 if is_tip else -0.1 < y - top - height < 6.1)]  # fmt: skip

    def on(point, segment):
        (x1, y1), (x2, y2), _ = segment
        return (min(x1, x2) - 0.1 <= point[0] <= max(x1, x2) + 0.1
                and min(y1, y2) - 0.1 <= point[1] <= max(y1, y2) + 0.1)  # fmt: skip

    graph, edges = networkx.Graph(), set()
    graph.add_nodes_from(segments)
    graph.add_edges_from((one, other) for one in segments for other in segments
                         if any(on(point, other) for point in one[:2]))  # fmt: skip
    for lines in networkx.connected_components(graph):
        sources = {s for start, _, _ in lines for s in touched(start, False)}
        targets = {t for _, end, is_arrow in lines if is_arrow for t in touched(end, True)}
        assert sources and targets, lines
        for _, end, is_arrow in lines:  # none ends in the air
            assert not is_arrow or touched(end, True) or sum(on(end, x) for x in lines) > 1
        edges |= {(source, target) for source in sources for target in targets}
    return edges


@functools.cache
def width_of(words, size, weight):
    """A text's width in the widest of the fonts, where a Chinese character is a square."""
    latin = re.sub("[\u2e80-\uffff]", "", words)
    font = FontProperties(family="DejaVu Sans", weight=weight, size=size)
    width, _, _ = TextToPath().get_text_width_height_descent(latin, font, ismath=False)
    return width + size * (len(words) - len(latin))


def sticking_out(svg):
    """Texts that stick out of the box or panel they stand in, or of the SVG."""
    root = ElementTree.fromstring(svg)
    _, _, *page = map(float, root.get("viewBox").split())
    for group in (root, *root.iter(f"{SVG}g")):
        rect = {} if group is root else group.find(f"{SVG}rect").attrib
        left, top, width, height = (
            float(rect.get(name, whole)) for name, whole in zip(PLACE, (0, 0, *page), strict=True)
        )
        right, bottom = min(left + width, page[0]), min(top + height, page[1])
        for text in group.findall(f"{SVG}text"):
            x, y, size = (float(text.get(name)) for name in ("x", "y", "font-size"))
            share = {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor")]
            for line in text.itertext():
                width = width_of(line.strip(), size, text.get("font-weight", "normal"))
                start = x - share * width
                is_inside = max(left, 0) <= start and start + width <= right
                if not is_inside or not top < y - 0.7 * size < y < bottom:
                    yield line


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


def check_box(g, box):
    """What a box says, and what it carries, is of its layers."""
    said = [text.replace(",", "") for text in words(g)]  # in a path, on two lines without a comma
    assert said[0] == box.label.replace(",", "")
    assert said[len(said) - len(box.strips) :] == [strip.label for strip in box.strips]
    assert (box.times > 1) == (f"×{box.times}" in said)
    count = re.search(r"\((\d+)层\)", box.label)
    assert len(box.layers) % (int(count[1]) + len(box.strips) if count else 1) == 0, box.label
    assert int(g.get("data-params")) == sum(layer.params for layer in box.layers)
    assert int(g.get("data-flops")) == sum(layer.flops for layer in box.layers)
    assert g.get("data-shape") == "×".join(map(str, box.layers[-1].shape))


def check(net, example, details=("paths",)):
    """A drawing's boxes, arrows and sums against a run; return its root."""
    root = trace(net, example)
    for detail in details:
        column_, found = column(root, detail)
        svg = column_.svg()
        layers = [layer for box in found for layer in box.layers]
        assert len(layers) == len(set(layers))
        missing = [x for x in root.layers if x not in layers and x.kind != "identity"]
        assert re.findall(r"另有(\d+)层", column_.alt) == [str(len(missing))] * bool(missing)
        for g, box in zip(boxes(svg), found, strict=True):
            check_box(g, box)
        assert painted(svg) == passed(root, found), column_.alt
        assert not list(sticking_out(svg))
    least = int(re.search(r"min-width:(\d+)px", svg)[1]) / column_.width  # on a phone
    assert least * min(map(float, re.findall(r'font-size="(\d+)"', svg))) >= 9
    params = sum(p.numel() for p in net.parameters())
    assert root.params == params and f"共{params:,}个参数" in column_.alt
    inputs = example if isinstance(example, tuple) and torch.is_tensor(example[0]) else [example]
    inputs = [(x if torch.is_tensor(x) else torch.zeros(x)).to("meta") for x in inputs]
    net = copy.deepcopy(net).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = net(*inputs)
    assert root.flops * len(inputs[0]) == counter.get_total_flops()
    if torch.is_tensor(output):
        assert [shape for _, shape in root.outputs] == [tuple(output.shape[1:])]
    return root


# --- torch.fx's opinion ---------------------------------------------------------------------------


class Tracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        return not list(module.children()) or super().is_leaf_module(module, name)


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


class First(nn.Sequential):
    """A block of another class."""


def conv(channels=4, out=4, kernel=3, **options):
    return nn.Conv2d(channels, out, kernel, padding=kernel // 2, **options)


def fc(features=4, out=4):
    return nn.Linear(features, out)


def weights(*shape):
    return nn.Parameter(torch.zeros(shape))


def inception(channels=16):
    """Four paths and a concatenation, of 20 channels, with functions between the layers."""

    def forward(net, x):
        second, third = F.relu(net.second(x)), F.relu(net.third(x))
        paths = (net.first(x), net.second3(second), net.third5(third), net.fourth(net.pool(x)))
        return torch.cat([F.relu(path) for path in paths], dim=1)

    return Net(forward, first=conv(channels, 4, 1), second=conv(channels, 4, 1),
               second3=conv(4, 8), third=conv(channels, 2, 1), third5=conv(2, 4, 5),
               pool=nn.MaxPool2d(3, 1, 1), fourth=conv(channels, 4, 1))  # fmt: skip


def inceptions(num):
    return nn.Sequential(nn.Sequential(*(inception(20) for _ in range(num))), nn.Flatten())


def residual():
    return Net(lambda n, x: F.relu(n.conv(x) + x), conv=conv())


def shortcut(skip):
    """A convolution beside a shortcut, which is called first and added last."""

    def forward(net, x):
        y = net.skip(x)
        return F.relu(net.conv(x) + y)

    return Net(forward, skip=skip, conv=conv())


def attention(net, x):
    q, k, v = net.q(x), net.k(x), net.v(x)
    return net.o(F.softmax(q @ k.transpose(1, 2) / math.sqrt(8), -1) @ v)


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


def written_in_place(net, x):
    y = net.a(x)
    net.relu(y)  # what it returns is dropped
    return net.b(y) + y


def unet(net, x):
    a = net.a(x)
    return net.c(torch.cat((a, net.up(net.b(net.pool(a)))), 1))


def inner_fork(net, x):
    h = net.b(x)
    return torch.cat((net.a(x), net.c(h), net.d(h)), 1)


def functions(net, x):
    x = F.leaky_relu(F.max_pool2d(F.conv2d(x, net.w, net.b, stride=2, padding=1), 2), 0.2)
    x = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
    return F.log_softmax(F.linear(F.dropout(x, 0.3, net.training), net.v), 1)


ACT, SAME = nn.ReLU(), conv()
TWICE = nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU())
OWN = [Net(lambda n, x: F.conv2d(x, n.w, padding=1), w=weights(4, 4, 3, 3)) for _ in range(2)]
NOTHING = [nn.Identity(), nn.Sequential(), nn.Sequential(nn.Identity(), nn.Sequential())]
SMALL = nn.Sequential(
    nn.Sequential(nn.Conv2d(1, 4, 5, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
    conv(4, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 6), nn.ReLU(), nn.Flatten(),
    fc(6 * 36, 16), nn.ReLU(), nn.Dropout(0.5), fc(16, 16), nn.ReLU(), nn.Dropout(0.5), fc(16, 10),
)  # fmt: skip
PATHS = ["1×1 Conv (4)|ReLU", "1×1 Conv (4)|ReLU", "3×3 Conv (8), pad 1|ReLU", "1×1 Conv (2)|ReLU",
         "5×5 Conv (4), pad 2|ReLU", "3×3 MaxPool, stride 1, pad 1", "1×1 Conv (4)|ReLU",
         "Concatenation"]  # fmt: skip
# name -> network, what it is given, what its boxes say in their order
FORMS = {
    "series": (
        SMALL, (2, 1, 28, 28),
        ["5×5 Conv (4), stride 2, pad 1|ReLU", "3×3 MaxPool, stride 2",
         "3×3 Conv (6), pad 1|BatchNorm|ReLU", "3×3 Conv (6), pad 1|ReLU", "Flatten",
         "FC (16)|ReLU|Dropout 0.5", "FC (10)"]),
    "a layer alone": (fc(4, 2), (1, 4), ["FC (2)"]),
    "empty": (nn.Sequential(), (1, 2), ["Sequential"]),
    "inception": (inception(), (3, 16, 8, 8), PATHS),
    "inceptions": (inceptions(9), (1, 20, 6, 6), [*PATHS, "Flatten"]),
    "residual": (
        nn.Sequential(residual(), residual()), IMAGE, ["3×3 Conv (4), pad 1", "Add|ReLU"]),
    **{f"shortcut without effect {i}": (
        nn.Sequential(conv(kernel=1), shortcut(skip)), IMAGE,
        ["1×1 Conv (4)", "3×3 Conv (4), pad 1", "Add|ReLU"]) for i, skip in enumerate(NOTHING)},
    "shortcut that hands on": (  # as stochastic depth does in evaluation mode
        shortcut(Net(lambda n, x: x)), IMAGE, ["3×3 Conv (4), pad 1", "Net", "Add|ReLU"]),
    "dropout that hands on": (
        Net(lambda n, x: n.a(x) + n.b(F.dropout(x, training=n.training)), a=fc(), b=fc()), (1, 4),
        ["FC (4)", "Dropout 0.5", "FC (4)", "Add"]),
    "written in place": (
        Net(written_in_place, a=fc(), b=fc(), relu=nn.ReLU(inplace=True)), (1, 4),
        ["FC (4)|ReLU", "FC (4)", "Add"]),
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
        Net(lambda n, x: F.scaled_dot_product_attention(*n.qkv(x).chunk(3, -1)), qkv=fc(8, 24)),
        (1, 5, 8), ["FC (24)", "Split", "Attention"]),
    "dense block": (
        Net(dense, a=conv(), b=conv(8), c=conv(12)), IMAGE,
        ["3×3 Conv (4), pad 1", "Concatenation"] * 3),
    "outputs": (
        Net(lambda n, x: (n.a(x), n.b(x)), a=fc(4, 10), b=fc()), (1, 4), ["FC (10)", "FC (4)"]),
    "LSTM": (nn.Sequential(nn.LSTM(4, 3)), (5, 1, 4), ["LSTM"]),
    "transformer": (nn.TransformerEncoderLayer(8, 2), (1, 3, 8), ["TransformerEncoderLayer"]),
    "layers in two blocks": (
        nn.Sequential(nn.Sequential(SAME, ACT), nn.Sequential(SAME, nn.Tanh(), ACT)), IMAGE,
        ["3×3 Conv (4), pad 1|ReLU", "3×3 Conv (4), pad 1|Tanh|ReLU"]),
    "assignment": (Net(assigned, c=conv(4, 2)), IMAGE, ["3×3 Conv (2), pad 1", "Assign"]),
    "functions": (
        Net(functions, w=weights(6, 4, 3, 3), b=weights(6), v=weights(10, 6)), IMAGE,
        ["3×3 Conv (6), stride 2, pad 1", "2×2 MaxPool, stride 2|LeakyReLU 0.2", "Global AvgPool",
         "Flatten|Dropout 0.3", "FC (10)|LogSoftmax"]),
    "sizes changed by functions": (
        Net(lambda n, x: n.c(F.interpolate(F.avg_pool2d(x, (2, 2)), scale_factor=2)).mean((2, 3)),
            c=conv()), IMAGE,
        ["2×2 AvgPool, stride 2", "Upsample (×2)", "3×3 Conv (4), pad 1", "Mean"]),
    "own layers": (nn.Sequential(OWN[0], nn.ReLU(), OWN[1]), IMAGE, ["Net|ReLU", "Net"]),
    "other classes": (
        nn.Sequential(*(block(conv(), nn.MaxPool2d(3, 1, 1)) for block in (First, nn.Sequential))),
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
        torch.zeros(2, 5, dtype=torch.int64), ["Embedding", "Flatten", "FC (3)"]),
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
        Net(lambda n, x: n.up(x, n.a(x)), a=conv(),
            up=Net(lambda n, x, y: n.c(x) + n.d(y), c=conv(), d=conv(kernel=1))), IMAGE,
        ["3×3 Conv (4), pad 1", "3×3 Conv (4), pad 1", "1×1 Conv (4)", "Add"]),
    "crossing paths": (
        nn.Sequential(fc(), Net(crossing, a=fc(), b=fc(), c=fc())), (1, 4),
        ["FC (4)", "Net (6层)"]),
    "not needed": (Net(lambda n, x: (n.b(x), n.a(x))[1], a=fc(), b=fc()), (1, 4), ["FC (4)"]),
    "called by forward()": (
        Net(lambda n, x: n.a.forward(x), a=conv()), IMAGE, ["3×3 Conv (4), pad 1"]),
    "inner fork": (
        Net(inner_fork, a=conv(), b=conv(), c=conv(kernel=1), d=conv(kernel=5)), IMAGE,
        ["3×3 Conv (4), pad 1"] * 2 + ["1×1 Conv (4)", "5×5 Conv (4), pad 2", "Concatenation"]),
    "transposed": (Net(lambda n, x: n.a(x.mT).mT, a=fc(5, 3)), (1, 5, 4),
                   ["Transpose", "FC (3)", "Transpose"]),
    "transposed convolution": (
        Net(lambda n, x: F.conv_transpose2d(n.a(x), n.w, stride=2), a=nn.ConvTranspose2d(4, 2, 2),
            w=weights(2, 3, 4, 4)), IMAGE,
        ["2×2 Deconv (2)", "4×4 Deconv (3), stride 2"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_boxes_arrows_and_sums_are_those_of_a_run(name):
    net, example, expected = FORMS[name]
    root = check(net, example, details=("paths", "widths", "name"))
    found = ["|".join([x.label, *(s.label for s in x.strips)]) for x in column(root)[1]]
    assert found == expected


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


# --- what else a figure shows ---------------------------------------------------------------------


def test_folded_boxes_say_what_all_their_layers_share():
    net = nn.Sequential(fc(784, 256), fc(256, 256), fc(256, 256))
    (box,) = column(trace(net, (1, 784)))[1]
    assert box.times == 3 and not box.facts
    (box,) = column(trace(net[1:], (1, 256)))[1]
    assert box.facts == (("输入特征", "256"),)
    shared = column(trace(nn.Sequential(SAME, SAME), IMAGE))[1]
    assert [("权重", "与前面的层共用") in box.facts for box in shared] == [False, True]


def test_paths_in_words():
    drawing, _ = column(trace(FORMS["outputs"][0], (1, 4)))
    assert "（第1条：FC (10)；第2条：FC (4)）；输出10、4。" in drawing.alt
    drawing, _ = column(trace(shortcut(nn.Identity()), IMAGE))
    assert "（第1条：3×3 Conv (4), pad 1；第2条：直接相连），经Add合并" in drawing.alt


def test_blocks_that_are_more_than_paths_say_how_many_layers_they_have():
    for name in ("inner fork", "dense block"):
        for detail in ("widths", "name"):
            (box,) = column(trace(nn.Sequential(FORMS[name][0]), IMAGE), detail)[1]
            assert box.paths is None and box.label == f"Net ({len(box.layers)}层)"
    net = nn.Sequential(Net(lambda n, x: x + n.c(n.b(n.a(x))), a=conv(), b=conv(), c=conv()))
    drawing, (box,) = column(trace(net, IMAGE), "widths")
    assert box.paths == [([], ""), (["conv"] * 3, "4")]
    bars = boxes(drawing.svg())[0].findall(f"{SVG}rect")[1:]
    assert len(bars) == 3 + 1  # and their join


def test_deep_nesting_takes_milliseconds():
    net = fc()
    for _ in range(40):
        net = nn.Sequential(net, nn.Sequential(fc(), nn.MaxPool1d(1)))
    root = trace(net, (1, 4, 4))
    start = time.perf_counter()
    column(root)
    assert time.perf_counter() - start < 0.5


# --- the network is left alone --------------------------------------------------------------------


def tied():
    net = nn.Sequential(fc(), nn.ReLU(), fc())
    net[2].weight = net[0].weight
    return net


def remember(net, x):
    net.seen = net.fc(x)
    return net.seen


def with_a_lock():
    """What cannot be copied."""
    net = nn.Sequential(fc())
    net.lock = threading.Lock()
    return net


def counting():
    """Its buffers change when it runs, and the meta device is not enough for it."""

    def forward(net, x):
        net.n += 1
        net.m = net.m + 1
        return x * float(x.sum() + 1)

    net = Net(forward)
    for name in "nm":
        net.register_buffer(name, torch.zeros(()))
    return nn.Sequential(net, fc())


def in_mixed_modes():
    net = copy.deepcopy(SMALL)
    net[2].eval()
    net[1].weight.requires_grad_(False)
    net[4].weight.grad = torch.ones_like(net[4].weight)
    return net


def state(net):
    """All that has to stay as it was."""
    tensors = *net.named_parameters(remove_duplicate=False), *net.named_buffers()
    values = [(name, id(x), x.device, x.requires_grad, x.grad is None,
               nn.parameter.is_lazy(x) or x.tolist()) for name, x in tensors]  # fmt: skip
    modules = [(module.training, len(module._forward_hooks), len(module._forward_pre_hooks),
                sorted(vars(module)), {key: id(x) for key, x in vars(module).items()
                                       if isinstance(x, torch.Tensor)})
               for module in net.modules()]  # fmt: skip
    return values, modules, torch.get_rng_state().tolist()


# name -> network, shape, parameters of its layers, parameters that none has
ALONE = {
    "shared": (nn.Sequential(*[fc()] * 2), (2, 4), [20, 0], 0),
    "shared buffers": (nn.Sequential(*[nn.BatchNorm1d(4)] * 2), (2, 4), [8, 0], 0),
    "not to be copied": (with_a_lock(), (2, 4), [20], 0),
    "remembering": (nn.Sequential(Net(remember, fc=fc())), (2, 4), [20], 0),
    "tied": (tied(), (2, 4), [20, 0, 4], 0),
    "counting": (counting(), (1, 4), [0, 20], 0),
    "lazy": (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), (1, 1, 6, 6), [0, 36 * 3 + 3], 0),
    "apart": (
        Net(lambda n, x: n.fc(x + n.codes), codes=weights(1, 4), unused=weights(7), fc=fc(4, 2)),
        (1, 4), [4, 10], 7),
    "mixed": (
        in_mixed_modes(), (2, 1, 28, 28),
        [104, 0, 0, 222, 12, 0, 330, 0, 0, 3472, 0, 0, 272, 0, 0, 170], 0),
}  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
def test_a_network_is_counted_and_left_alone(name):
    net, shape, params, others = ALONE[name]
    before = state(net)
    root = trace(net, shape)
    assert state(net) == before
    assert ([layer.params for layer in root.layers], root.other_params) == (params, others)
    assert root.params == sum(params) + others


def test_outputs_of_the_layers_are_those_of_the_net():
    net = nn.Sequential(fc(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Dropout(0.5))
    X, before = torch.rand(5, 4), state(net)
    layers, outputs = zip(*layer_outputs(net, X), strict=True)
    assert [layer.name for layer in layers] == ["0", "1", "2", "3"]
    assert state(net) == before
    with pytest.raises(ValueError, match=r"does not take an input of shape \(5, 3\)"):
        layer_outputs(net, X[:, :3])
    assert state(net) == before
    net.eval()
    for end, output in enumerate(outputs, start=1):
        torch.testing.assert_close(output, net[:end](X))
    with torch.inference_mode():
        X = torch.rand(1, 4)
    assert [layer.label for layer, _ in layer_outputs(counting(), X)] == ["Net", "FC (4)"]


# --- as HTML --------------------------------------------------------------------------------------


TWO = SMALL, inception()
TWO_SHAPES = [(1, 1, 28, 28), (1, 16, 8, 8)]


def test_markup():
    options = {"labels": ["A < B", 'a "block"'], "caption": "图1 <左>&右"}
    page = drawn(*TWO, input_shape=TWO_SHAPES, **options)
    root = ElementTree.fromstring(page)  # well-formed
    svgs = [svg for svg in root.iter(f"{SVG}svg") if svg.find(f"{SVG}title") is not None]
    assert [svg.find(f"{SVG}title").text for svg in svgs] == options["labels"]
    assert all(len(svg.get("aria-label")) > 50 for svg in svgs)
    assert root.find("figcaption").text == options["caption"]
    assert "id=" not in page  # so several figures on a page cannot clash
    assert "<script" not in page and "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    # Every rule of the style sheet is bound to this package's classes.
    (style,) = root.iter(f"{SVG}style")
    selectors = re.sub(r"\{[^{}]*\}", ",", style.text).split(",")
    assert all(".d2lm" in s for s in selectors if s.strip(" \n{}"))


NO_FIELD = {
    "transposed": nn.Sequential(nn.ConvTranspose2d(1, 2, 3)),
    "reflected": nn.Sequential(conv(1, 2, padding_mode="reflect")),
    "reshaped": Net(lambda n, x: n.last(x.view(-1, 1024)), last=fc(1024, 2)),
    "outputs": Net(lambda n, x: (n.conv(x), x), conv=conv(1, 1, 1)),
    "constant": Net(lambda n, x: x + n.code, code=weights(1, 1, 1, 32)),
    "scaled": Net(lambda n, x: x * torch.sigmoid(n.conv(x)), conv=conv(1, 1, 1)),
    "along rows": Net(lambda n, x: torch.cat((x, x), 2)),
    "own kind": nn.Sequential(type("OwnConv", (nn.Conv2d,), {})(1, 2, 3)),
    "unknown": nn.Sequential(Net(lambda n, x: x * n.scale.sum(), scale=weights(2))),
    "partly flat": nn.Sequential(nn.Flatten(2)),
    "no square": (nn.Sequential(conv(1, 2)), (1, 1, 32, 30)),
}


@pytest.mark.parametrize("name", NO_FIELD)
def test_a_figure_with_what_the_script_does_not_know_gets_no_field(name):
    made = NO_FIELD[name]
    net, shape = made if isinstance(made, tuple) else (made, (1, 1, 32, 32))
    page = drawn(net, input_shape=shape)
    assert "data-net" not in page and "data-of" not in page
