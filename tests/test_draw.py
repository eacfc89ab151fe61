"""Architecture figures: what they show equals the networks, and they stand on any page."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from d2lmini import draw
from d2lmini.figures import inline_svg
from d2lmini.figures.structure import Group, Layer, Parallel
from d2lmini.figures.tracing import layer_outputs, trace

SVG = "{http://www.w3.org/2000/svg}"


class Inception(nn.Module):
    """Four paths and a concatenation; functions between the layers."""

    def __init__(self, in_channels, c1, c2, c3, c4):
        super().__init__()
        self.p1_1 = nn.Conv2d(in_channels, c1, 1)
        self.p2_1 = nn.Conv2d(in_channels, c2[0], 1)
        self.p2_2 = nn.Conv2d(c2[0], c2[1], 3, padding=1)
        self.p3_1 = nn.Conv2d(in_channels, c3[0], 1)
        self.p3_2 = nn.Conv2d(c3[0], c3[1], 5, padding=2)
        self.p4_1 = nn.MaxPool2d(3, 1, 1)
        self.p4_2 = nn.Conv2d(in_channels, c4, 1)

    def forward(self, x):
        p1 = F.relu(self.p1_1(x))
        p2 = F.relu(self.p2_2(F.relu(self.p2_1(x))))
        p3 = F.relu(self.p3_2(F.relu(self.p3_1(x))))
        p4 = F.relu(self.p4_2(self.p4_1(x)))
        return torch.cat((p1, p2, p3, p4), dim=1)


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return F.relu(self.conv(x) + x)


class Shortcut(nn.Module):
    """A convolution beside a shortcut; `before` may stand in front of the two."""

    def __init__(self, skip, before=None):
        super().__init__()
        self.before, self.skip, self.conv = before, skip, nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        x = self.before(x) if self.before else x
        y = self.skip(x)
        return F.relu(self.conv(x) + y)


class HandsOn(nn.Module):
    """Returns what it is given, as stochastic depth does in evaluation mode."""

    def forward(self, x):
        return x


class Crossing(nn.Module):
    """Paths that cross: not drawable as columns."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        p = self.a(x)
        q = self.b(p)
        return self.c(p + q) + q * p


class Unknown(nn.Module):
    """A layer without children whose weight is its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return x * self.scale.sum()


def small_net():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 5, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 36, 16),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(16, 16),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(16, 10),
    )


def vgg11():
    """The largest network of the book, on the meta device: shapes without numbers."""
    layers, channels = [], 1
    with torch.device("meta"):
        for num_convs, out_channels in ((1, 64), (1, 128), (2, 256), (2, 512), (2, 512)):
            block = []
            for _ in range(num_convs):
                block += [nn.Conv2d(channels, out_channels, 3, padding=1), nn.ReLU()]
                channels = out_channels
            layers.append(nn.Sequential(*block, nn.MaxPool2d(2, 2)))
        head = [nn.Flatten(), nn.Linear(25088, 4096), nn.ReLU(), nn.Dropout(0.5),
                nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4096, 10)]  # fmt: skip
        return nn.Sequential(*layers, *head)


SHAPE = (2, 1, 28, 28)
INCEPTION = Inception(16, 4, (4, 8), (2, 4), 4)
MANY = nn.Sequential(
    nn.Sequential(*(Inception(20, 4, (4, 8), (2, 4), 4) for _ in range(9))), nn.Flatten()
)


@pytest.fixture
def html(monkeypatch):
    """Draw and return the HTML that a notebook would show."""

    def run(*nets, **options):
        shown = []
        monkeypatch.setattr(inline_svg, "display", shown.append)
        draw(*nets, **options)
        (picture,) = shown
        return picture._repr_html_()

    return run


def boxes(html):
    """The boxes of layers, in document order."""
    return [g for g in ElementTree.fromstring(html).iter(f"{SVG}g") if "data-layers" in g.attrib]


def layer_names(html):
    return [name for box in boxes(html) for name in box.get("data-layers").split()]


def leaves(net):
    return [name for name, module in net.named_modules() if name and not list(module.children())]


def texts(element):
    return ["".join(text.itertext()) for text in element.iter(f"{SVG}text")]


def test_every_layer_appears_in_order(html):
    net = small_net()
    names = layer_names(html(net, input_shape=SHAPE))
    # A folded box (the two Linear with ReLU and Dropout) holds the layers of both in order.
    assert names == leaves(net)
    vgg = vgg11()
    assert layer_names(html(vgg, input_shape=(1, 1, 224, 224))) == [
        *("0.0", "0.1", "0.2", "1.0", "1.1", "1.2"),
        *(f"{block}.{i}" for block in (2, 3, 4) for i in range(5)),
        *map(str, range(5, 13)),
    ]  # fmt: skip


def test_paths_are_found_from_the_data_flow(html):
    page = html(INCEPTION, input_shape=(1, 16, 8, 8))
    assert layer_names(page) == ["p1_1", "p2_1", "p2_2", "p3_1", "p3_2", "p4_1", "p4_2"]
    assert boxes(page)[-1].get("data-kind") == "join"
    assert "Concatenation" in texts(ElementTree.fromstring(page))
    fork = trace(INCEPTION, (1, 16, 8, 8)).items[0]
    assert isinstance(fork, Parallel)
    assert [len([x for x in path if x.name]) for path in fork.paths] == [1, 2, 2, 2]


def test_many_modules_become_one_box_each_and_fold(html):
    page = html(MANY, input_shape=(1, 20, 6, 6))
    assert layer_names(page) == leaves(MANY)
    assert [box.get("data-kind") for box in boxes(page)] == ["module", "other"]
    assert "×9" in texts(ElementTree.fromstring(page))


def test_skip_connections(html):
    page = html(nn.Sequential(Residual(4), Residual(4)), input_shape=(1, 4, 8, 8))
    assert "Add" in texts(ElementTree.fromstring(page))
    assert layer_names(page) == ["0.conv", "1.conv"]


@pytest.mark.parametrize(
    "skip",
    [nn.Identity(), nn.Sequential(), nn.Sequential(nn.Identity(), nn.Sequential()), None],
    ids=["identity", "empty", "nested", "none"],
)
@pytest.mark.parametrize("before", [None, nn.Conv2d(4, 4, 1)], ids=["input", "conv"])
def test_a_shortcut_that_does_nothing_is_a_plain_line(html, skip, before):
    net = Shortcut(skip or (lambda x: x), before)
    *_, branches, join, relu = trace(net, (1, 4, 8, 8)).items
    assert [layer.label for layer in (join, relu)] == ["Add", "ReLU"]
    assert [[layer.name for layer in path] for path in branches.paths] == [["conv"], []]
    page = html(net, input_shape=(1, 4, 8, 8))
    assert "（第1条：3×3 Conv (4), pad 1；第2条：直接相连），经Add合并" in page
    assert "Identity" not in page


@pytest.mark.parametrize(
    ("skip", "label"), [(nn.Dropout(0.2), "Dropout 0.2"), (HandsOn(), "HandsOn")]
)
def test_what_hands_its_input_on_stands_beside_the_others(skip, label):
    """In training it may do something: it has its box, on its own path."""
    branches = trace(Shortcut(skip), (1, 4, 8, 8)).items[0]
    assert [[layer.label for layer in path] for path in branches.paths] == [
        ["3×3 Conv (4), pad 1"],
        [label],
    ]


def test_a_layer_that_hands_its_input_on_keeps_its_place_in_a_series():
    net = nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.Dropout(0.5), nn.Linear(4, 2))
    labels = ["FC (4)", "Identity", "Dropout 0.5", "FC (2)"]
    assert [item.label for item in trace(net, (1, 4)).items] == labels


@pytest.mark.parametrize("function", [F.dropout, nn.Flatten()])
def test_a_function_that_hands_its_input_on_leads_nobody_astray(function):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            options = {"training": self.training} if function is F.dropout else {}
            y = function(x, **options)
            return self.a(x) + self.b(y)

    first, second = trace(Net(), (1, 4)).items[0].paths
    assert [layer.label for layer in first] == ["FC (4)"]
    assert len(second) == 2 and second[1].label == "FC (4)"


def test_what_is_written_in_place_is_taken_by_all_who_come_later():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.relu = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(inplace=True)

        def forward(self, x):
            y = self.a(x)
            self.relu(y)  # what it returns is dropped
            return self.b(y) + y

    linear, relu, branches, join = trace(Net(), (1, 4)).items
    assert [layer.label for layer in (linear, relu, join)] == ["FC (4)", "ReLU", "Add"]
    assert [[layer.name for layer in path] for path in branches.paths] == [["b"], []]


def test_parameters_outside_layers_are_counted_where_they_are_used():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.codes, self.fc = nn.Parameter(torch.zeros(1, 4)), nn.Linear(4, 2)
            self.unused = nn.Parameter(torch.zeros(7))

        def forward(self, x):
            return self.fc(x + self.codes)

    root = trace(Net(), (1, 4))
    assert [layer.params for layer in root.layers] == [4, 10]
    assert (root.params, root.other_params) == (4 + 10 + 7, 7)


def test_outputs_of_the_layers_are_those_of_the_net():
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Dropout(0.5))
    X = torch.rand(5, 4)
    layers, outputs = zip(*layer_outputs(net, X), strict=True)
    assert [layer.name for layer in layers] == ["0", "1", "2", "3"]
    assert net.training and net[1].num_batches_tracked == 0
    net.eval()
    for end, output in enumerate(outputs, start=1):
        torch.testing.assert_close(output, net[:end](X))
    with pytest.raises(ValueError, match=r"does not take an input of shape \(5, 3\)"):
        layer_outputs(net, X[:, :3])


def test_notation(html):
    words = texts(ElementTree.fromstring(html(small_net(), input_shape=SHAPE)))
    for text in (
        "输入1×28×28", "5×5 Conv (4), stride 2, pad 1", "3×3 MaxPool, stride 2", "ReLU", "×2",
        "3×3 Conv (6), pad 1", "BatchNorm", "4×6×6", "FC (16)", "Dropout 0.5", "FC (10)", "输出10",
    ):  # fmt: skip
        assert text in words
    words = texts(ElementTree.fromstring(html(INCEPTION, input_shape=(1, 16, 8, 8))))
    assert "3×3 Conv (8), pad 1" in words  # on two lines, but one text


@pytest.mark.parametrize(
    ("net", "shape"),
    [(small_net(), SHAPE), (INCEPTION, (3, 16, 8, 8)), (MANY, (1, 20, 6, 6)),
     (vgg11(), (1, 1, 224, 224))],
    ids=["small", "inception", "many", "vgg11"],
)  # fmt: skip
def test_numbers_are_those_measured(html, net, shape):
    net.eval()
    device = next(net.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = net(torch.zeros(shape, device=device))
    found = boxes(html(net, input_shape=shape))
    params = sum(p.numel() for p in net.parameters())
    assert sum(int(box.get("data-params")) for box in found) == params
    flops = counter.get_total_flops()
    assert sum(int(box.get("data-flops")) for box in found) * shape[0] == flops
    assert found[-1].get("data-shape") == "×".join(map(str, output.shape[1:]))
    assert f"共{params:,}个参数" in html(net, input_shape=shape)


def test_each_box_tells_its_own_numbers(html):
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(32, 3))
    conv, _, fc = boxes(html(net, input_shape=(1, 1, 4, 4)))
    # 2·1·3·3 + 2 = 20 parameters, 2·(2·9)·16 = 576 FLOPs; 32·3 + 3 = 99 and 2·96 = 192
    assert (conv.get("data-params"), conv.get("data-flops")) == ("20", "576")
    assert (fc.get("data-params"), fc.get("data-flops")) == ("99", "192")
    assert conv.find(f"{SVG}title").text.split("\n") == [
        "3×3 Conv (2), pad 1", "卷积核3×3，步幅1，填充1", "输出2×4×4", "参数20，占16.8%",
        "FLOPs 576，占75.0%"]  # fmt: skip


def test_shared_layers_count_once():
    layer = nn.Linear(4, 4)
    root = trace(nn.Sequential(layer, layer), (1, 4))
    assert [item.params for item in root.items] == [20, 0]
    assert root.params == 20


@pytest.mark.parametrize("layer", [nn.Linear(4, 4), nn.BatchNorm1d(4), nn.PReLU()])
def test_a_layer_used_twice_keeps_its_weights(layer):
    net = nn.Sequential(layer, layer)
    before = copy.deepcopy(net.state_dict())
    trace(net, (2, 4))
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_tied_weights_are_traced_and_stay_tied():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    assert [layer.params for layer in trace(net, (2, 4)).layers] == [20, 0, 4]
    assert net[2].weight is net[0].weight and net[0].weight.device.type == "cpu"


def test_unknown_layers_get_a_plain_box(html):
    page = html(nn.Sequential(nn.Linear(4, 4), Unknown(), nn.LSTM(4, 3)), input_shape=(5, 1, 4))
    assert [box.get("data-kind") for box in boxes(page)] == ["fc", "other", "other"]
    assert {"Unknown", "LSTM"} <= set(texts(ElementTree.fromstring(page)))


@pytest.mark.parametrize(
    ("net", "shape"),
    [(Crossing(), (1, 4)), (nn.Sequential(), (1, 2)), (nn.Linear(4, 2), (1, 4)),
     (nn.Sequential(nn.LazyConv2d(2, 3), nn.Flatten(), nn.LazyLinear(3)), (1, 1, 6, 6)),
     (nn.TransformerEncoderLayer(8, 2), (1, 3, 8)),
     (nn.Sequential(nn.LPPool2d(2, 2)), (1, 1, 4, 4))],
    ids=["crossing", "empty", "leaf", "lazy", "transformer", "pool"],
)  # fmt: skip
def test_any_module_can_be_drawn(html, net, shape):
    assert boxes(html(net, input_shape=shape))


def test_lazy_layers_stay_lazy(html):
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    page = html(net, input_shape=(1, 1, 6, 6))
    assert isinstance(net[1], nn.LazyLinear)
    assert boxes(page)[-1].get("data-params") == str(36 * 3 + 3)


def test_a_module_that_reads_values_runs_for_real(html):
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(x) if x.sum().item() == 0 else x

    assert layer_names(html(Reads(), input_shape=(1, 4))) == ["fc"]


def test_the_net_is_left_alone(html):
    net = small_net()
    net.train()
    net[2].eval()  # one module in another mode
    net[1].weight.requires_grad_(False)
    net[4].weight.grad = torch.ones_like(net[4].weight)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    identities = [id(p) for p in net.parameters()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    html(net, input_shape=SHAPE)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in net.modules()] == [m is not net[2] for m in net.modules()]
    assert identities == [id(p) for p in net.parameters()]
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not net[1].weight.requires_grad
    assert net[7].weight.grad is None
    assert torch.equal(net[4].weight.grad, torch.ones_like(net[4].weight))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_markup(html):
    page = html(
        small_net(), INCEPTION, input_shape=[SHAPE, (1, 16, 8, 8)],
        labels=["A < B", 'a "block"'], caption="图1 <左>&右",
    )  # fmt: skip
    root = ElementTree.fromstring(page)  # well-formed
    svgs = [svg for svg in root.iter(f"{SVG}svg") if svg.find(f"{SVG}title") is not None]
    assert [svg.find(f"{SVG}title").text for svg in svgs] == ["A < B", 'a "block"']
    assert all(len(svg.get("aria-label")) > 50 for svg in svgs)
    assert root.find("figcaption").text == "图1 <左>&右"
    assert "id=" not in page  # so several figures on a page cannot clash
    assert "<script" not in page and "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    # Every rule of the style sheet is bound to this package's classes.
    (style,) = root.iter(f"{SVG}style")
    selectors = re.sub(r"\{[^{}]*\}", ",", style.text).split(",")
    assert all(".d2lm" in s for s in selectors if s.strip(" \n{}"))


@pytest.mark.slow
def test_the_same_bytes_in_every_process(html):
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import test_draw\n"
        "test_draw.inline_svg.display = lambda p: print(p._repr_html_(), end='')\n"
        "test_draw.draw(test_draw.small_net(), test_draw.INCEPTION,"
        " input_shape=[test_draw.SHAPE, (1, 16, 8, 8)])\n"
    )
    root = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, check=True,
        env={"PYTHONHASHSEED": "7", "PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert run.stdout.decode() == html(small_net(), INCEPTION, input_shape=[SHAPE, (1, 16, 8, 8)])


def test_errors_name_the_argument():
    net = nn.Linear(4, 2)
    with pytest.raises(TypeError, match="no net given"):
        draw(input_shape=(1, 4))
    with pytest.raises(TypeError, match=r"nn\.Module"):
        draw("net", input_shape=(1, 4))
    with pytest.raises(TypeError, match="input_shape"):
        draw(net, input_shape=4)
    with pytest.raises(ValueError, match="input_shape has 1 entries for 2 nets"):
        draw(net, net, input_shape=[(1, 4)])
    with pytest.raises(ValueError, match="labels has 2 entries for 1 nets"):
        draw(net, input_shape=(1, 4), labels=["a", "b"])
    with pytest.raises(ValueError, match=r"input_shape must be positive integers.*\(0, 4\)"):
        draw(net, input_shape=(0, 4))
    with pytest.raises(ValueError, match=r"Linear does not take an input of shape \(1, 5\)"):
        draw(net, input_shape=(1, 5))
    assert not net._forward_hooks and not net._forward_pre_hooks and net.training


def test_a_terminal_gets_one_line(capsys):
    draw(nn.Linear(4, 2), input_shape=(1, 4), caption="图1")
    assert capsys.readouterr().out == "<figure: 图1>\n"


def test_rules_of_the_layers_travel_with_the_figure(html):
    """What the site's script computes with (test_shapes.py holds it against torch)."""
    net = nn.Sequential(Residual(4), nn.MaxPool2d((3, 2), 2, ceil_mode=True), nn.BatchNorm2d(4))
    net.append(nn.Flatten()).append(nn.Linear(4 * 16, 10))
    page = ElementTree.fromstring(html(net, input_shape=(1, 4, 8, 8)))
    (svg,) = (svg for svg in page.iter(f"{SVG}svg") if svg.get("data-net"))
    assert json.loads(svg.get("data-net")) == {
        "c": 4, "side": 8,
        "layers": [
            {"op": "conv", "k": 3, "p": 1, "o": 4, "w": 148}, {"op": "add", "from": [1, 0]},
            {"op": "same"}, {"op": "pool", "k": [3, 2], "s": 2, "ceil": 1}, {"op": "same", "w": 8},
            {"op": "flat"}, {"op": "fc", "i": 64, "o": 10, "w": 650}],
    }  # fmt: skip
    shapes = [(text.get("data-of"), text.text) for text in svg.iter(f"{SVG}text")
              if text.get("data-of")]  # fmt: skip
    assert shapes[:2] == [("0", "输入4×8×8"), ("5", "4×4×4")]
    assert shapes[-2:] == [("7", "输出10"), ("total", "806个参数 · 19,712 FLOPs")]
    assert [box.get("data-of") for box in boxes(html(net, input_shape=(1, 4, 8, 8)))] == [
        "1", "2 3", "4 5", "6", "7",
    ]  # fmt: skip
    net.append(Unknown())
    assert "data-net" not in html(net, input_shape=(1, 4, 8, 8))


def test_structure_of_a_trace():
    root = trace(nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2)), (1, 4))
    block, last = root.items
    assert isinstance(block, Group) and isinstance(last, Layer)
    assert [layer.name for layer in root.layers] == ["0.0", "0.1", "1"]
    assert (block.params, last.params, root.flops) == (20, 10, 2 * 16 + 2 * 8)


@pytest.mark.slow
def test_text_stays_inside_its_box(html, browser):
    page_html = "".join(
        [
            html(small_net(), vgg11(), INCEPTION, labels=["Small", "VGG-11", "Inception"],
                 input_shape=[SHAPE, (1, 1, 224, 224), (1, 16, 8, 8)]),
            html(MANY, input_shape=(1, 20, 6, 6), labels=["Many"]),
            html(nn.Sequential(*MANY[0][:3]), input_shape=(1, 20, 6, 6)),
        ]
    )  # fmt: skip
    page = browser.new_page()
    page.set_content(f'<body style="margin:0 16px">{page_html}</body>')
    for width in (360, 800):
        page.set_viewport_size({"width": width, "height": 800})
        outside, smallest, page_width = page.evaluate(MEASURE)
        assert outside == []
        assert smallest >= 9
        assert page_width <= width
    page.close()


# Texts that stick out of the rectangle drawn before them in their group, or out of the SVG; the
# smallest text in pixels; the width of the page.
MEASURE = """() => {
    const out = [];
    let smallest = 100;
    const sticks = (inner, outer) => inner.left < outer.left || inner.right > outer.right + 0.5
        || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
    for (const svg of document.querySelectorAll('svg.d2lm')) {
        const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
        for (const text of svg.querySelectorAll('text')) {
            smallest = Math.min(smallest, scale * parseFloat(text.getAttribute('font-size')));
            const rect = text.getBoundingClientRect();
            const group = text.closest('g');
            const box = group && group.querySelector('rect');
            if (sticks(rect, svg.getBoundingClientRect())
                || box && sticks(rect, box.getBoundingClientRect())) out.push(text.textContent);
        }
    }
    return [out, smallest, document.documentElement.scrollWidth];
}"""


def test_a_module_in_two_parents_is_drawn_and_run_as_often_as_it_is_called():
    """`act = nn.ReLU()` used in two blocks."""
    act = nn.ReLU()
    blocks = [nn.Sequential(nn.Conv2d(1, 1, 3), act) for _ in range(2)]
    net = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(16, 3))
    own = nn.Sequential(*(nn.Sequential(block[0], nn.ReLU()) for block in blocks), *net[2:])
    shared, expected = (trace(n, (1, 1, 8, 8)) for n in (net, own))
    assert [layer.operation for layer in shared.layers] == [
        layer.operation for layer in expected.layers
    ]
    assert shared.params == expected.params and shared.flops == expected.flops
