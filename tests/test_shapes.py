"""Figures that compute in the page, against the modules themselves: `pytest -m site`, as test_site.

For every side of the input from 1 to 300, what the page shows after a reader has typed it is what
the network gives on meta tensors. The number of comparisons is printed (`-rP`).
"""

import contextlib
import functools
import json
import types
from pathlib import Path

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.utils import flop_counter

import d2lmini
from d2lmini.figures.style import flops_text, shape_text, share_text
from tests.test_draw import Net, drawn, inception, residual
from tests.test_site import NOTEBOOKS, PAPER, SITE, THIN, Tab, address, browser, give_up, server
from tools import notebooks

__all__ = ["browser", "server"]  # fixtures
pytestmark = pytest.mark.site

SIDES = range(1, 301)
STATIC = notebooks.ROOT / "tools/site/static"

# --- what the modules give ------------------------------------------------------------------------


class Truth(fx.Interpreter):
    """What torch makes of an image of some side, layer by layer in the order they run.

    A Linear that gets a vector of another length than it takes gets other weights for the occasion,
    unless its weight serves another layer too.
    `fails` is the number of the layer that raises (the first is 1), None where none does.
    """

    def __init__(self, net, channels, side):
        super().__init__(graph_of(net))
        self.is_tied, self.like = getattr(net, "is_tied", False), getattr(net, "like", {})
        self.shapes, self.params, self.flops = [], [], []  # of each layer
        self.arrives, self.windows = {}, {}  # number of a layer -> features; module and size
        self.counted = set()
        # Torch's formulas are called for each layer; now and then its counter is asked, too.
        counter = flop_counter.FlopCounterMode(display=False) if side % 25 == 0 else None
        try:
            with torch.no_grad(), counter or contextlib.nullcontext():
                self.run(torch.zeros((1, channels, side, side), device="meta"))
            self.fails = None
        except (RuntimeError, ValueError):
            self.fails = len(self.shapes) + 1
        assert not counter or counter.get_total_flops() == sum(self.flops)
        self.unused = {n: unused_at_the_end(*window) for n, window in self.windows.items()}
        more = sum((new - old) * out for new, old, out in self.arrives.values())
        self.all_params = sum(p.numel() for p in net.parameters()) + more

    def run_node(self, node):
        if not node.op.startswith("call"):
            return super().run_node(node)
        (x, *others), _ = self.fetch_args_kwargs_from_env(node)
        number = len(self.shapes) + 1
        module = self.fetch_attr(node.target) if node.op == "call_module" else None
        weights = [*module.parameters()] if module else [w for w in others if is_weight(w)]
        is_linear = type(module) is nn.Linear and not self.is_tied
        if is_linear and x.dim() == 2 and x.shape[1] != module.in_features:
            self.arrives[number] = x.shape[1], module.in_features, module.out_features
            weights[0] = nn.Parameter(weights[0].new_empty(module.out_features, x.shape[1]))
            output = F.linear(x, *weights)
        else:
            output = super().run_node(node)
        if not isinstance(output, torch.Tensor):  # a size is no layer
            return output
        self.shapes.append(tuple(output.shape[1:]))
        self.params.append(sum(w.numel() for w in weights if w not in self.counted))
        self.counted.update(weights)
        self.flops.append(flops_of(module or node.target, x, weights, output))
        module = module or self.like.get(number)
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
            self.windows[number] = module, tuple(x.shape[2:])
        return output


@functools.cache
def graph_of(net):
    return fx.symbolic_trace(nn.Sequential(net).eval())


def is_weight(value):
    return isinstance(value, nn.Parameter)


def flops_of(function, x, weights, output):
    if isinstance(function, nn.Conv2d) or function is torch.conv2d:
        return flop_counter.conv_flop_count(x.shape, weights[0].shape, output.shape)
    if isinstance(function, nn.Linear) or function is F.linear:
        return flop_counter.mm_flop((x.numel() // x.shape[-1], x.shape[-1]), weights[0].shape[::-1])
    return 0


KNOWN = {}


def unused_at_the_end(module, size):
    """How many rows and columns at the end no window reaches: they have no gradient."""
    key = str(module), getattr(module, "ceil_mode", False), size  # of AvgPool2d not in its str
    if key not in KNOWN:
        rows, columns = map(torch.arange, size)
        # The largest value of each window is its last, which max pooling takes.
        x = (rows[:, None] + columns).float().view(1, 1, *size).requires_grad_()
        kernel, dilation = (torch.tensor(getattr(module, name, 1)).expand(2)
                            for name in ("kernel_size", "dilation"))  # fmt: skip
        reach = (dilation * (kernel - 1) + 1).tolist()  # what dilation skips lies within
        if isinstance(module, nn.Conv2d):
            y = F.conv2d(x, torch.ones(1, 1, *reach), None, module.stride, module.padding)
        else:  # average pooling has the same windows
            y = F.max_pool2d(x, reach, module.stride, module.padding, ceil_mode=module.ceil_mode)
        y.sum().backward()
        used = x.grad[0, 0] != 0
        KNOWN[key] = [len(line) - 1 - int(line.nonzero().max())
                      for line in (used.any(1), used.any(0))]  # fmt: skip
    return KNOWN[key]


# --- what the page shows --------------------------------------------------------------------------

READ = """([key, sides]) => {
  const figure = [...document.querySelectorAll("figure")].filter(
    f => f.querySelector("svg[data-net]"))[key];
  return JSON.stringify([...figure.querySelectorAll(".shapes-column")].map(column => {
    const input = column.querySelector("input"), svg = column.querySelector("svg");
    const boxes = [...svg.querySelectorAll("g[data-of]")];
    const own = input.value;
    const read = side => {
      input.value = side;
      input.dispatchEvent(new Event("input"));
      return {
        boxes: boxes.map(box => ({
          ...box.dataset, label: box.getAttribute("aria-label"),
          classes: box.getAttribute("class"),
          mark: box.querySelector(".shapes-mark")?.textContent ?? "",
        })),
        texts: [...svg.querySelectorAll("text[data-of]")].map(t => [t.dataset.of, t.textContent]),
        words: svg.getAttribute("aria-description"),
        status: column.querySelector("[role=status]").textContent,
      };
    };
    const answers = sides.map(read);
    read(own);
    return {net: svg.dataset.net, own: +own, answers};
  }));
}"""


@functools.cache
def truth_of(description, side):
    """What the network of a description gives; figures that show the same one share it."""
    return Truth(NETS[description], json.loads(description)["c"], side)


NETS = {}  # data-net -> a network that it describes


def compare(description, answers, sides):
    """Compare one column for all sides; return the number of comparisons."""
    count, data = 0, json.loads(description)
    for side, answer in zip(sides, answers, strict=True):
        truth = truth_of(description, side)
        fails, end = truth.fails, truth.fails or len(data["layers"]) + 1
        assert len(truth.shapes) == end - 1
        where = f"side {side}, {description}"
        for box in answer["boxes"]:
            numbers = [int(number) for number in box["of"].split()]
            if "kind" in box:
                assert ("shapes-end" in box["classes"].split()) >= (fails in numbers), where
            if numbers[-1] < end:
                lines, mark = expected_lines(truth, numbers)
                assert box["label"].endswith("；" + "；".join(lines)), (where, box["label"], lines)
                if "kind" in box:
                    assert box["shape"] == shape_text(truth.shapes[numbers[-1] - 1]), where
                    assert (box["mark"], "shapes-other" in box["classes"]) == mark, where
                count += len(lines) + 2 * ("kind" in box)
            elif fails in numbers:
                assert "到此为止：；" in box["label"] and len(box["label"].split("；")) > 2, where
                assert box["mark"] in box["label"]
                count += 1
        for of, text in answer["texts"]:
            if of == "total":
                total = f"{truth.all_params:,}个参数 · {flops_text(sum(truth.flops))}"
                assert text == (total if fails is None else "—"), where
            elif int(of) < end:
                shape = truth.shapes[int(of) - 1] if int(of) else (data["c"], side, side)
                assert text.lstrip("输入出") == shape_text(shape), where
            elif int(of) == fails:
                assert text in ("—", "输出—")
            count += 1
        words = [text for of, text in answer["texts"] if text.startswith("输") or of == "total"]
        assert words[0] in answer["words"]
        assert answer["words"].endswith(f"；{words[1]}。共{words[2]}。")
        assert fails is None or side == data["side"] or "为止" in answer["status"], where
    return count


def expected_lines(truth, numbers):
    """The last details of a box or frame, its mark, and whether other weights are needed."""
    params, flops = (sum(values[n - 1] for n in numbers) for values in (truth.params, truth.flops))
    whole = truth.fails is None
    lines = [
        f"输出{shape_text(truth.shapes[numbers[-1] - 1])}",
        f"参数{params:,}" + (f"，占{share_text(params, truth.all_params)}" if whole else ""),
        f"FLOPs {flops:,}" + (f"，占{share_text(flops, sum(truth.flops))}" if whole else ""),
    ]
    unused = [truth.unused[n] for n in numbers if any(truth.unused.get(n, ()))]
    unused = "，".join(dict.fromkeys(f"{rows}行{columns}列" for rows, columns in unused))
    mark = f"余{unused}" if unused else ""
    if unused:
        lines.append(f"最后{unused}没有用到")
    other = next((truth.arrives[n] for n in numbers if n in truth.arrives), None)
    if other:
        lines += [f"送来{other[0]:,}个特征，", f"权重接{other[1]:,}个：要换权重"]
        mark = f"送来{other[0]:,}，接{other[1]:,}"
    return lines, (mark, other is not None)


def compare_page(page, figures, sides=SIDES):
    """Compare all figures of a page; `figures` has the networks of each."""
    count = 0
    for i, nets in enumerate(figures):
        columns = json.loads(page.evaluate(READ, [i, list(sides)]))
        for net, column in zip(nets, columns, strict=True):
            NETS.setdefault(column["net"], net)
            assert column["own"] == json.loads(column["net"])["side"]
            count += compare(column["net"], column["answers"], sides)
    print(f"{count:,} comparisons on {sum(map(len, figures))} networks")


# --- the chapters ---------------------------------------------------------------------------------


def drawn_in(name):
    """The networks that each call of `draw` in a chapter gets, on the meta device."""
    figures = []
    helper = types.SimpleNamespace(**{x: getattr(d2lmini, x) for x in d2lmini.__all__})
    helper.draw = lambda *nets, **options: figures.append(nets)
    namespace = {"__name__": "chapter"}
    with torch.device("meta"):
        for cell in notebooks.read(name).cells:
            is_figure = cell.cell_type == "code" and "d2l.draw(" in cell.source
            if cell.id == "imports" or "net" in notebooks.tags(cell) or is_figure:
                exec(cell.source, namespace)
                namespace["d2l"] = helper
    return figures


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_side_in_the_chapters(browser, name):
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), name))
        compare_page(page, drawn_in(name.removeprefix("chapters/")))
        assert not tab.complaints


# --- networks made for the test -------------------------------------------------------------------

conv = nn.Conv2d


def head(channels, features=10):
    """From any size to scores."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, features)]


def tied():
    net = nn.Sequential(
        conv(1, 2, 3, stride=9), nn.Flatten(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)
    )
    net[4].weight = net[2].weight
    net.is_tied = True
    return net


def shared():
    """The convolution runs twice, the last layer too."""
    block, last = conv(4, 4, 3), nn.Linear(8, 8)
    pool = nn.AdaptiveMaxPool2d((2, 1))
    net = nn.Sequential(conv(1, 4, 1), block, nn.ReLU(), block, pool, nn.Flatten(), last, last)
    net.is_tied = True
    return net


@fx.wrap
def in_place(x, y):
    x += y
    return x


def functions():
    """Functions; `like` are modules in place of those whose windows may leave a rest."""

    def forward(net, x):
        x = F.conv2d(x, net.conv.weight, stride=2, padding=1)
        x = F.avg_pool2d(F.max_pool2d(x, 3, stride=2, ceil_mode=True), (2, 1))
        x = torch.flatten(F.adaptive_avg_pool2d(F.leaky_relu(x, 0.2), (4, 2)), 1)
        return F.linear(F.dropout(x, training=net.training) * 0.5 - 1, net.last.weight)

    net = Net(forward, conv=conv(1, 2, 3), last=nn.Linear(16, 3))
    net.like = {1: conv(1, 2, 3, 2, 1), 2: nn.MaxPool2d(3, 2, ceil_mode=True),
                3: nn.AvgPool2d((2, 1))}  # fmt: skip
    return net


with torch.device("meta"):
    MADE = {
        "plain": nn.Sequential(
            conv(1, 4, 5), nn.ReLU(), nn.MaxPool2d(2), conv(4, 8, 3, bias=False), nn.Sigmoid(),
            nn.MaxPool2d(3, 2), nn.Flatten(), nn.Dropout(), nn.Linear(8 * 25, 16), nn.Tanh(),
            nn.Linear(16, 10)),
        "dilated": nn.Sequential(
            conv(1, 4, 3, dilation=2), conv(4, 4, 3, stride=2, dilation=3, padding=1),
            nn.MaxPool2d(3, 2, dilation=2), nn.MaxPool2d(2, 3, 1, dilation=3), *head(4)),
        "grouped": nn.Sequential(
            conv(3, 12, 3, groups=3, stride=2, padding=1), nn.PReLU(12),
            conv(12, 12, 5, groups=12, padding=2, stride=3), conv(12, 8, 1, groups=4), *head(8)),
        "padded": nn.Sequential(
            conv(1, 2, 7, stride=2, padding=3), nn.MaxPool2d(3, 2, padding=1),
            conv(2, 2, 5, stride=4, padding=4), conv(2, 4, 2, stride=5, padding=1), *head(4)),
        "same": nn.Sequential(
            conv(1, 2, 4, padding="same"), conv(2, 2, (3, 2), padding="same", dilation=2),
            conv(2, 2, 3, padding="valid", stride=2), nn.Flatten(1), nn.Linear(2 * 15 * 15, 4)),
        "two directions": nn.Sequential(
            conv(1, 2, (5, 1), stride=(2, 1), padding=(1, 0)), nn.AvgPool2d((1, 3), (3, 2)),
            nn.MaxPool2d((2, 4), (2, 3), (1, 2), ceil_mode=True), nn.AdaptiveAvgPool2d((None, 3)),
            nn.Flatten(), nn.Linear(2 * 3 * 3, 4)),
        "ceil": nn.Sequential(
            nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(2, 3, ceil_mode=True),
            nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.AvgPool2d(2, 5, 1, ceil_mode=True), *head(1)),
        "ceil, wide": nn.Sequential(
            nn.AvgPool2d(4, 3, 2, ceil_mode=True), nn.AvgPool2d(3, 2, ceil_mode=True),
            nn.MaxPool2d(5, 2, 2, dilation=2, ceil_mode=True), *head(1)),
        "average": nn.Sequential(
            nn.AvgPool2d(3), nn.AvgPool2d(2, 2, 1, count_include_pad=False), nn.AvgPool2d(5, 1),
            *head(1)),
        "adaptive": nn.Sequential(
            conv(1, 2, 3, stride=3), nn.AdaptiveMaxPool2d(7), conv(2, 4, 3),
            nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(24, 5)),
        "batch norm": nn.Sequential(
            conv(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.LeakyReLU(), nn.LocalResponseNorm(3),
            nn.MaxPool2d(4), nn.Flatten(), nn.BatchNorm1d(4 * 49), nn.Linear(4 * 49, 3)),
        "paths": nn.Sequential(
            conv(1, 16, 3, stride=2), inception(), *head(20)),
        "paths that meet at even sides": Net(
            lambda net, x: torch.cat([net.floor(x), net.ceil(x), net.conv(x)], dim=1),
            floor=nn.MaxPool2d(2), ceil=nn.AvgPool2d(2, ceil_mode=True),
            conv=conv(1, 3, 2, stride=2)),
        "vectors side by side": Net(
            lambda net, x: net.last(
                torch.cat((torch.flatten(net.a(x), 1), net.b(x).flatten(1)), -1)),
            a=nn.MaxPool2d(4), b=nn.AdaptiveAvgPool2d(2), last=nn.Linear(64 + 4, 5)),
        "twice the same": Net(
            lambda net, x: torch.cat((x, net.conv(x + x), x), 1), conv=conv(2, 3, 1)),
        "residual": nn.Sequential(
            conv(1, 4, 3), residual(), conv(4, 4, 3, stride=2, padding=1), residual(), *head(4)),
        "residual, halved": Net(
            lambda net, x: F.relu(net.main(x) + net.side(x)),
            main=conv(1, 4, 3, stride=2, padding=1), side=conv(1, 4, 1, stride=2)),
        "broadcast": Net(
            lambda net, x: net.shrink(x) + net.mean(x) + 1,
            shrink=nn.MaxPool2d(5, 7), mean=nn.AdaptiveAvgPool2d(1)),
        "broadcast in place": Net(
            lambda net, x: in_place(net.a(x), net.b(x)),
            a=nn.MaxPool2d(20, 20), b=nn.MaxPool2d(3, 30)),
        "view": Net(
            lambda net, x: net.last(net.conv(x).view(x.size(0), -1)),
            conv=conv(1, 2, 3, stride=4), last=nn.Linear(128, 4)),
        "linear over columns": nn.Sequential(conv(1, 2, 3), nn.Linear(30, 4), nn.MaxPool2d((2, 1))),
        "tied": tied(),
        "shared": shared(),
        "functions": functions(),
        "parameters apart": Net(
            lambda net, x: net.conv(x), conv=conv(1, 2, 3), codes=nn.Linear(3, 5)),
    }  # fmt: skip


def page_of(folder, figures):
    """A page with figures, the site's style and its script; its address."""
    cells = "".join(f'<div class="cell_output"><div class="output text_html">{figure}</div></div>'
                    for figure in figures)  # fmt: skip
    path = folder / "page.html"
    path.write_text(
        '<!doctype html><html lang="zh-CN"><meta charset="utf-8"><title>图</title>'
        f'<link rel="stylesheet" href="{(STATIC / "site.css").as_uri()}"><body>{cells}'
        + "".join(f'<script src="{(STATIC / name).as_uri()}"></script>'
                  for name in ("site.js", "shapes.js")), encoding="utf-8"
    )  # fmt: skip
    return path.as_uri()


def test_every_side_of_networks_made_for_the_test(browser, tmp_path):
    channels = {"grouped": 3, "twice the same": 2}
    figures = [drawn(net, input_shape=(1, channels.get(name, 1), 32, 32))
               for name, net in MADE.items()]  # fmt: skip
    with Tab(browser) as tab:
        page = tab.open(page_of(tmp_path, figures))
        compare_page(page, [[net] for net in MADE.values()], range(1, 131))
        assert not tab.complaints


# --- what a reader does ---------------------------------------------------------------------------

ALEXNET = ".shapes-column >> nth=1"  # of figure 1-1


def test_without_javascript_figures_are_what_draw_made(browser):
    """Nothing of them is changed or added, and what they carry for the script shows nowhere."""
    with Tab(browser, java_script_enabled=False) as tab:
        tab.page.goto(address(SITE.as_uri(), "chapters/alexnet"))
        html = tab.page.content()
        assert "shapes-column" not in html and not tab.page.locator("article input").count()
        own = next(c for c in notebooks.read("alexnet").cells if c.id == "figure-1-1")
        canonical = "html => new DOMParser().parseFromString(html, 'text/html').body.innerHTML"
        with Tab(browser) as other:
            figure = other.page.evaluate(canonical, own.outputs[0].data["text/html"])
        assert figure.strip() in html


@pytest.mark.parametrize("width", [360, PAPER[0]])
def test_at_the_chapters_own_size_the_figure_is_as_drawn(browser, width):
    """Words, places and sizes, on paper all of it; beside it stand what no window reaches, and the
    field."""
    look = """() => [...document.querySelectorAll("svg.d2lm :is(text, g, desc, rect, path)")]
        .filter(e => !e.matches(".shapes-mark")).map(e => {
          const words = e.localName == "g" ? e.getAttribute("aria-label") : e.textContent;
          const kind = e.localName + words?.replace(/；最后\\d+行\\d+列没有用到/, "");
          if (e.localName == "g") return [kind]; // it may hold a mark
          const box = e.getBoundingClientRect();
          const {x, y} = e.closest("figure").getBoundingClientRect();
          return [kind, box.x - x, box.y - y, box.width, box.height];
        })"""
    for name in NOTEBOOKS:
        seen = []
        for script in (True, False):
            with Tab(browser, width) as tab:
                if not script:
                    tab.page.route("**/shapes.js*", lambda route: route.abort())
                page = tab.page
                page.goto(address(SITE.as_uri(), name))
                page.emulate_media(media="print" if width == PAPER[0] else "screen")
                page.add_style_tag(content=".shapes-field { position: absolute !important }")
                assert script == bool(page.locator(".shapes-field").count())
                seen.append(page.evaluate(look))
        assert len(seen[0]) == len(seen[1]) > 50
        for ours, plain in zip(*seen, strict=True):
            assert ours[0] == plain[0], name
            moved = [abs(a - b) for a, b in zip(ours[1:], plain[1:], strict=True)]
            assert max(moved, default=0) < 0.5, (name, ours, plain)


def test_keyboard_does_everything(browser):
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), "chapters/alexnet"))
        column = page.locator(ALEXNET)
        field, button = column.get_by_label("AlexNet的输入边长"), column.get_by_role("button")
        assert field.input_value() == "224" and not button.is_visible()
        field.focus()
        page.keyboard.press("ArrowDown")
        assert "输入1×223×223" in column.locator("svg").get_attribute("aria-description")
        page.keyboard.press("Control+a")
        page.keyboard.type("96")
        fc = column.locator("[data-kind=fc]").first
        params = 256 * 4096 + 4096 + 4096 * 4097
        assert (fc.get_attribute("data-shape"), fc.get_attribute("data-params")) == (
            "4096", str(params))  # fmt: skip
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "复原"
        page.keyboard.press("Enter")
        assert field.input_value() == "224" and not button.is_visible()
        assert page.evaluate("document.activeElement.type") == "number"  # focus is not lost
        column.locator(".d2lm-box").first.focus()
        page.keyboard.press("ArrowDown")
        details = page.locator(".figure-tip")
        assert details.is_visible() and "最后1行1列" in details.text_content()
        assert not tab.complaints


def test_the_result_is_told(browser):
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), "chapters/alexnet"))
        column = page.locator(ALEXNET)
        field, told = column.locator("input"), column.get_by_role("status")
        assert told.text_content() == ""  # nothing has been asked
        for side, result in ((200, "共46,764,746个参数"), (96, "FC (4096)"), (40, "3×3大于1×1")):
            field.fill(str(side))
            assert f"输入1×{side}×{side}，" in told.text_content()
            assert result in told.text_content()
        for wrong in ("", "0", "2000", "30.5"):
            field.fill(wrong)
            assert "1024" in told.text_content() and "输入" not in told.text_content()
            assert field.get_attribute("aria-invalid") == "true"
            assert "输入1×40×40" in column.locator("svg").get_attribute("aria-description")
        field.blur()
        assert field.input_value() == "40" and field.get_attribute("aria-invalid") == "false"


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_the_address_keeps_the_sides(browser, server, scheme):
    base = SITE.as_uri() if scheme == "file" else server
    with Tab(browser) as tab:
        page = tab.open(address(base, "chapters/googlenet", "?q=1#inception"))
        columns = "figure:has-text('图4-{}') .shapes-column >> nth=-1"
        whole, last = (page.locator(columns.format(i)) for i in (2, 3))
        whole.locator("input").fill("200")
        last.locator("input").fill("7")
        page.wait_for_url("**/googlenet.html?q=1&fig2=200&fig3=96,7#inception")
        page.reload()
        assert last.locator("input").input_value() == "7"
        whole.locator("button").click()
        last.locator("button").click()
        page.wait_for_url("**/googlenet.html?q=1#inception")
        for query, side in (("?fig2=<b>&fig3=,5000", "96"), ("?fig2=64", "64")):
            tab.open(address(base, "chapters/googlenet", query))
            assert whole.locator("input").input_value() == side
            assert last.locator("input").input_value() == "24"
        page.wait_for_timeout(300)
        assert whole.evaluate("e => Math.abs(e.getBoundingClientRect().top) < innerHeight / 2")
        # an icon still on its way when the page is left is no fault
        assert not [words for words in tab.complaints if "favicon" not in words]


@pytest.mark.parametrize("width", [360, 1280])
def test_fields_are_in_sight_and_the_page_stays_as_wide(browser, width):
    with Tab(browser, width) as tab:
        for name in NOTEBOOKS:
            page = tab.open(address(SITE.as_uri(), name))
            for i, field in enumerate(page.locator(".shapes-field input").all()):
                field.fill(["9", "64", "2000"][i % 3])
                box = field.bounding_box()
                assert box["x"] >= 0 and box["x"] + box["width"] <= width, name
                assert box["height"] >= 20
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name


def test_after_the_end_all_is_pale_and_the_reason_stands_beside_the_arrow(browser):
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), "chapters/vgg", "?fig1=20,1,20"))
        columns = page.locator(".shapes-changed > svg").all()
        assert len(columns) == 3
        for column in columns:
            before, after, mark, arrow = column.evaluate(
                """svg => {
                  const parts = [...svg.children];
                  const pale = parts.map(e => getComputedStyle(e).opacity === "0.4");
                  const end = parts.findIndex(e => e.matches(".shapes-end"));
                  const mark = parts[end].querySelector(".shapes-mark").getBBox();
                  const arrow = parts.slice(end).find(e => e.matches("path")).getBBox();
                  const [before, after] = [pale.slice(0, end + 1), pale.slice(end + 1)];
                  return [before, after, mark.x + mark.width, arrow.x];
                }"""
            )
            assert not any(before) and all(after) and len(after) >= 4
            assert mark < arrow


def test_paper_has_no_field(browser):
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), "chapters/alexnet"))
        mark = page.locator(f"{ALEXNET} >> .shapes-mark").first
        assert mark.is_visible()
        page.emulate_media(media="print")
        assert not page.locator(".shapes-field, .shapes-status").first.is_visible()
        assert not mark.is_visible()  # as drawn
        page.emulate_media(media="screen")
        page.locator(f"{ALEXNET} >> input").fill("96")
        page.emulate_media(media="print")
        assert mark.is_visible() and not page.locator(".shapes-field").first.is_visible()


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_axe_finds_nothing_in_changed_figures(browser, mode):
    try:
        import axe_playwright_python as axe
    except ImportError:
        give_up("no axe-playwright-python: pip install -r requirements-dev.txt")
    script = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    with Tab(browser, color_scheme=mode) as tab:
        for query in ("", "?fig1=40,1,96"):
            page = tab.open(address(SITE.as_uri(), "chapters/vgg", query))
            page.evaluate(THIN)
            page.wait_for_timeout(300)
            page.evaluate(script)
            result = page.evaluate("axe.run('figure', {resultTypes: ['violations']})")
            assert not [(v["id"], v["nodes"][0]["html"][:160]) for v in result["violations"]]
