"""Figures that compute in the page, against torch: `pytest -m site`, as test_site.

What a figure shows after a reader has typed a side is what torch makes of it, layer by layer, and
where torch refuses it, the figure ends at the same layer. The number of comparisons is printed
(`-rP`).
"""

import functools
import re

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import d2lmini
from d2lmini.figures.style import flops_text, shape_text, share_text
from tests.browser import NOTEBOOKS, ROOT, SITE, Tab, browser, server, tab
from tests.test_draw import Net, drawn
from tools import notebooks

__all__ = ["browser", "server", "tab"]  # fixtures
pytestmark = pytest.mark.site

STATIC = ROOT / "tools/site/static"

# --- what torch makes of a side -------------------------------------------------------------------


class Run(fx.Interpreter):
    """An image of some side on its way through a network, on meta tensors.

    A Linear that gets a vector of another length gets other weights, unless another layer has them
    too. `shapes`, `params` and `flops` are those of the layers that ran, in their order; `ends` is
    the number of the layer that raised, the first being 1, or None. By such a number go `unused`,
    rows and columns left over, and `refitted`, the features that arrive and that it takes.
    """

    def __init__(self, net, channels, side):
        super().__init__(traced(net))
        self.is_tied, self.counter = getattr(net, "is_tied", False), FlopCounterMode(display=False)
        self.shapes, self.params, self.flops, self.counted = [], [], [], set()
        self.unused, self.refitted = {}, {}
        self.all_params = sum(weight.numel() for weight in net.parameters())
        try:
            with torch.no_grad(), self.counter:
                self.run(torch.zeros((1, channels, side, side), device="meta"))
            self.ends = None
        except (RuntimeError, ValueError):
            self.ends = len(self.shapes) + 1

    def run_node(self, node):
        if not node.op.startswith("call"):
            return super().run_node(node)
        number, before = len(self.shapes) + 1, self.counter.get_total_flops()
        (x, *others), _ = self.fetch_args_kwargs_from_env(node)
        layer = self.fetch_attr(node.target) if node.op == "call_module" else None
        weights = [*(layer.parameters() if layer else others)]
        is_linear = isinstance(layer, nn.Linear) and x.dim() == 2 and not self.is_tied
        if is_linear and x.shape[1] != layer.in_features:
            self.refitted[number] = x.shape[1], layer.in_features
            self.all_params += (x.shape[1] - layer.in_features) * layer.out_features
            weights[0] = nn.Parameter(weights[0].new_empty(layer.out_features, x.shape[1]))
            output = F.linear(x, *weights)
        else:
            output = super().run_node(node)
        if isinstance(output, torch.Tensor):  # a size is no layer
            new = {w for w in weights if isinstance(w, nn.Parameter)} - self.counted
            self.counted |= new
            self.shapes.append(tuple(output.shape[1:]))
            self.params.append(sum(weight.numel() for weight in new))
            self.flops.append(self.counter.get_total_flops() - before)
            if isinstance(layer, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
                self.unused[number] = unused(layer, x.shape[2:])
        return output


@functools.cache
def traced(net):
    return fx.symbolic_trace(nn.Sequential(net).eval())


def unused(module, size):
    """The rows and the columns at the end that no window of a layer reaches."""
    if isinstance(module.padding, str):
        return 0, 0  # no padding, or so much that the size stays, and stride 1
    sizes = [
        torch.tensor(getattr(module, name, 1)).expand(2).tolist()
        for name in ("kernel_size", "stride", "padding", "dilation")
    ]
    found = []
    for length, kernel, stride, padding, dilation in zip(size, *sizes, strict=True):
        line = torch.arange(1.0, length + 1).view(1, length)
        reach = dilation * (kernel - 1) + 1  # what dilation skips lies within
        is_ceil = getattr(module, "ceil_mode", False)
        ends = F.max_pool1d(line, reach, stride, padding, ceil_mode=is_ceil)
        found.append(length - int(ends.max()))
    return found


# --- what the page shows --------------------------------------------------------------------------

# Of each column of the page's figures, for each side that is typed.
READ = """sides => [...document.querySelectorAll("svg[data-net]")].map(svg => {
  const [input, status] = ["input", "[role=status]"].map(
    part => svg.parentElement.querySelector(part));
  return {...JSON.parse(svg.dataset.net), answers: sides.map(side => {
    input.value = side;
    input.dispatchEvent(new Event("input"));
    return {
      boxes: [...svg.querySelectorAll("g[data-of]")].map(box => ({
        numbers: box.dataset.of.split(" ").map(Number), label: box.getAttribute("aria-label"),
        mark: box.dataset.kind && (box.querySelector(".shapes-mark")?.textContent ?? ""),
      })),
      texts: [...svg.querySelectorAll("text[data-of]")].map(t => [t.dataset.of, t.textContent]),
      words: svg.getAttribute("aria-description"), status: status.textContent,
    };
  })};
})"""


def compare(column, net, sides):
    """Compare a column of the page for all sides; return the number of comparisons."""
    for side, shown in zip(sides, column["answers"], strict=True):
        run, where = Run(net, column["c"], side), f"side {side}, {net}"
        shapes, total = [(column["c"], side, side), *run.shapes], "—"
        if not run.ends:
            total = f"{run.all_params:,}个参数 · {flops_text(sum(run.flops))}"
        for of, text in shown["texts"]:
            if of == "total":
                assert text == total and text in shown["words"], where
            elif int(of) < len(shapes):
                assert text.lstrip("输入出") == shape_text(shapes[int(of)]), where
        for box in shown["boxes"]:
            compare_box(box, run, where)
        assert not run.ends or "为止" in shown["status"], where
    return len(sides) * (len(shown["texts"]) + len(shown["boxes"]))


def compare_box(box, run, where):
    """What a box puts out, or where data end; rows that are left over; whether weights are new."""
    numbers, label, mark = (box[key] for key in ("numbers", "label", "mark"))
    if numbers[-1] > len(run.shapes):
        assert run.ends not in numbers or ("到此为止" in label and (mark or "") in label), where
        return
    lines = [f"输出{shape_text(run.shapes[numbers[-1] - 1])}"]
    parts = ("参数", run.params, run.all_params), ("FLOPs ", run.flops, sum(run.flops))
    for name, of_layers, whole in parts:
        part = sum(of_layers[number - 1] for number in numbers)
        lines.append(f"{name}{part:,}" + ("" if run.ends else f"，占{share_text(part, whole)}"))
    left = ["{}行{}列".format(*run.unused[n]) for n in numbers if any(run.unused.get(n, ()))]
    new = [f"{features:,}" for n in numbers for features in run.refitted.get(n, ())]
    assert all(words in label for words in ["；".join(lines), *left, *new]), (where, label, lines)
    assert ("没有用到" in label, "换权重" in label) == (bool(left), bool(new)), where
    assert mark is None or bool(mark) == bool(left or new), where


# --- the chapters ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_sides_in_the_chapters(tab, monkeypatch, name):
    nets, namespace = [], {"__name__": "chapter"}
    monkeypatch.setattr(d2lmini, "draw", lambda *drawn, **options: nets.extend(drawn))
    with torch.device("meta"):
        for cell in notebooks.code_cells(notebooks.read(name.removeprefix("chapters/"))):
            if cell.id == "imports" or "net" in notebooks.tags(cell) or "d2l.draw(" in cell.source:
                exec(cell.source, namespace)
    sides = [*range(1, 66), *range(66, 240, 7), 224, 1024]
    columns = tab.open(name).evaluate(READ, sides)
    count = sum(compare(c, net, sides) for c, net in zip(columns, nets, strict=True))
    print(f"{count:,} boxes and shapes of {len(nets)} networks")


# --- networks made for the test -------------------------------------------------------------------

conv = nn.Conv2d


def head(channels, features=10):
    """From any size to scores."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, features)]


def tied():
    """A convolution runs twice, and a Linear has the weight of another."""
    block, fc = conv(4, 4, 3), [nn.Linear(8, 8), nn.Linear(8, 8)]
    fc[1].weight = fc[0].weight
    pool = nn.AdaptiveMaxPool2d((2, 1))
    net = nn.Sequential(conv(1, 4, 1), block, nn.ReLU(), block, pool, nn.Flatten(), *fc)
    net.is_tied = True
    return net


def functions(net, x):
    x = F.conv2d(x, net.conv.weight, stride=2, padding=1)
    x = F.avg_pool2d(F.max_pool2d(x, 3, stride=2, ceil_mode=True), (2, 1), stride=1)
    x = F.adaptive_avg_pool2d(F.leaky_relu(x, 0.2), (4, 2)).view(x.size(0), -1)
    return F.linear(F.dropout(x, training=net.training) * 0.5 - 1, net.last.weight)


with torch.device("meta"):
    MADE = {
        "dilated": nn.Sequential(
            conv(1, 4, 3, dilation=2), nn.BatchNorm2d(4), nn.LeakyReLU(), nn.LocalResponseNorm(3),
            conv(4, 4, 3, stride=2, dilation=3, padding=1),
            nn.MaxPool2d(3, 2, dilation=2), nn.MaxPool2d(2, 3, 1, dilation=3), *head(4)),
        "grouped": nn.Sequential(
            conv(1, 12, 3, stride=2, padding=1), nn.PReLU(12),
            conv(12, 12, 5, groups=12, padding=2, stride=3), conv(12, 8, 1, groups=4), *head(8)),
        "padded": nn.Sequential(
            conv(1, 2, 7, stride=2, padding=3), nn.AvgPool2d(3, 2, 1, count_include_pad=False),
            conv(2, 2, 5, stride=4, padding=2), conv(2, 4, 2, stride=5, padding=1), *head(4)),
        "same": nn.Sequential(
            conv(1, 2, 4, padding="same"), conv(2, 2, (3, 2), padding="same", dilation=2),
            conv(2, 2, 3, padding="valid"), nn.Flatten(1), nn.Linear(2 * 30 * 30, 4)),
        "two directions": nn.Sequential(
            conv(1, 2, (5, 1), stride=(2, 1), padding=(1, 0)), nn.AvgPool2d((1, 3), (3, 2)),
            nn.MaxPool2d((2, 4), (2, 3), (1, 2), ceil_mode=True), nn.AdaptiveAvgPool2d((None, 3)),
            nn.Flatten(), nn.Linear(2 * 3 * 3, 4)),
        "ceil": nn.Sequential(
            nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(4, 3, 2, ceil_mode=True),
            nn.MaxPool2d(5, 2, 2, dilation=2, ceil_mode=True), nn.AvgPool2d(2, 5, ceil_mode=True),
            *head(1)),
        "paths that meet at even sides": Net(
            lambda net, x: torch.cat([net.floor(x), net.ceil(x), net.conv(x)], dim=1),
            floor=nn.MaxPool2d(2), ceil=nn.AvgPool2d(2, ceil_mode=True),
            conv=conv(1, 3, 2, stride=2)),
        "vectors side by side": Net(
            lambda net, x: net.last(
                torch.cat((torch.flatten(net.a(x), 1), net.b(x).flatten(1)), -1)),
            a=nn.MaxPool2d(4), b=nn.AdaptiveAvgPool2d((1, 4)),
            last=nn.Sequential(nn.BatchNorm1d(64 + 4), nn.Linear(64 + 4, 5))),
        "twice the same": Net(
            lambda net, x: torch.cat((x, net.conv(x + x), x), 1), conv=conv(1, 3, 1)),
        "residual, halved": Net(
            lambda net, x: F.relu(net.main(x) + net.side(x)),
            main=conv(1, 4, 3, stride=2, padding=1), side=conv(1, 4, 1, stride=2),
            not_used=nn.Linear(3, 5)),
        "broadcast": Net(
            lambda net, x: net.shrink(x) + net.mean(x) + 1,
            shrink=nn.MaxPool2d(5, 7), mean=nn.AdaptiveAvgPool2d(1)),
        "broadcast in place": Net(
            lambda net, x: net.a(x).add_(net.b(x)),
            a=nn.MaxPool2d(20, 20), b=nn.MaxPool2d(3, 30)),
        "linear over columns": nn.Sequential(conv(1, 2, 3), nn.Linear(30, 4), nn.MaxPool2d((2, 1))),
        "tied": tied(),
        "functions": Net(functions, conv=conv(1, 2, 3), last=nn.Linear(16, 3)),
    }  # fmt: skip


def test_sides_of_networks_made_for_the_test(tab, tmp_path):
    """On a page with the site's style and scripts."""
    figures = [drawn(net, input_shape=(1, 1, 32, 32)) for net in MADE.values()]
    files = [f"{STATIC.as_uri()}/{name}" for name in ("site.css", "site.js", "shapes.js")]
    page = '<!doctype html><html lang="zh-CN"><meta charset="utf-8"><title>图</title>'
    page += f'<link rel="stylesheet" href="{files[0]}"><body>{"".join(figures)}'
    page += "".join(f'<script src="{file}"></script>' for file in files[1:])
    (tmp_path / "page.html").write_text(page, "utf-8")
    sides = range(1, 66)
    columns = tab.open("page", tmp_path.as_uri()).evaluate(READ, [*sides])
    count = sum(compare(c, net, sides) for c, net in zip(columns, MADE.values(), strict=True))
    print(f"{count:,} boxes and shapes of {len(MADE)} networks")


# --- what a reader does ---------------------------------------------------------------------------


@pytest.fixture
def alexnet(tab):
    """AlexNet's column of figure 1-1."""
    return tab.open("chapters/alexnet").locator("figure div:has(> svg[data-net])").nth(1)


def test_a_side_is_typed_and_put_back(alexnet):
    page, told = alexnet.page, alexnet.get_by_role("status")
    field, button = alexnet.get_by_label("AlexNet的输入边长"), alexnet.get_by_role("button")
    assert told.text_content() == ""  # nothing has been asked
    field.focus()
    page.keyboard.press("ArrowDown")
    assert "输入1×223×223" in alexnet.locator("svg").get_attribute("aria-description")
    for side, result in ("200", "共46,764,746个参数"), ("96", "FC (4096)"), ("40", "3×3大于1×1"):
        page.keyboard.press("Control+a")
        page.keyboard.type(side)
        assert f"输入1×{side}×{side}，" in told.text_content() and result in told.text_content()
    for wrong in "", "0", "2000", "30.5":
        field.fill(wrong)
        assert "1024" in told.text_content() and "输入" not in told.text_content()
        assert field.get_attribute("aria-invalid") == "true"
        assert "输入1×40×40" in alexnet.locator("svg").get_attribute("aria-description")
    page.keyboard.press("Tab")
    assert field.input_value() == "40" and field.get_attribute("aria-invalid") == "false"
    assert page.evaluate("document.activeElement.textContent") == "复原"
    page.keyboard.press("Enter")
    assert field.input_value() == "224" and not button.is_visible()
    assert field.evaluate("field => field == document.activeElement")  # focus is not lost


def test_the_wheel_turns_the_page_and_not_the_number(alexnet):
    field = alexnet.locator("input")
    field.hover()
    field.focus()
    top = alexnet.page.evaluate("scrollY")
    alexnet.page.mouse.wheel(0, 300)
    alexnet.page.wait_for_function("top => scrollY > top", arg=top)
    assert field.input_value() == "224"


def test_paper_shows_no_field_and_the_marks_of_a_changed_figure(alexnet):
    field, mark = alexnet.locator("input"), alexnet.locator("svg").get_by_text("余").first
    assert field.is_visible() and mark.is_visible()
    alexnet.page.emulate_media(media="print")
    assert not field.is_visible() and not mark.is_visible()  # as drawn
    alexnet.page.emulate_media(media="screen")
    field.fill("225")
    alexnet.page.emulate_media(media="print")
    assert not field.is_visible() and mark.is_visible()


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_the_address_keeps_the_sides(tab, server, scheme):
    base = SITE.as_uri() if scheme == "file" else server
    page = tab.open("chapters/googlenet", base, "?q=1#inception")
    figures = [page.locator("figure", has_text=f"图4-{number}") for number in (2, 3)]
    whole, last = (figure.locator("input").last for figure in figures)
    whole.fill("200")
    last.fill("7")
    page.wait_for_url(re.compile(r"/googlenet\.html\?q=1&.*=200&.*=96,7#inception$"))
    one, two = re.findall("&(.*?)=", page.url)
    page.reload()
    assert last.input_value() == "7"
    for figure in figures:
        figure.get_by_role("button").last.click()
    page.wait_for_url("**/googlenet.html?q=1#inception")
    for query, side in (f"?{one}=<b>&{two}=,5000", "96"), (f"?{one}=64", "64"):
        tab.open("chapters/googlenet", base, query)
        assert (whole.input_value(), last.input_value()) == (side, "24")
    page.wait_for_timeout(300)
    top = whole.evaluate("field => field.getBoundingClientRect().top")
    assert 0 <= top < 450  # the figure has been scrolled to


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_fields_are_in_sight_and_leave_the_figures_as_large(browser, name):
    sizes = """() => [...document.querySelectorAll("figure svg")].map(svg => {
        const {width, height} = svg.getBoundingClientRect();
        return [width, height].map(Math.round); })"""
    with Tab(browser) as tab, Tab(browser) as plain:
        plain.page.route("**/shapes.js*", lambda route: route.abort())
        page = tab.open(name)
        plain.open(name)
        for width in 1280, 360:
            tab.resize(width)
            plain.resize(width)
            assert page.evaluate(sizes) == plain.page.evaluate(sizes)
        for i, field in enumerate(page.locator("figure input").all()):
            field.fill(["9", "64", "2000"][i % 3])
            box = field.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["height"] >= 20
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_axe_finds_nothing_serious_in_changed_figures(tab):
    page = tab.open("chapters/vgg")
    for field, side in zip(page.locator("figure input").all(), ("40", "1", "96"), strict=False):
        field.fill(side)
    assert not tab.axe("'figure'")
