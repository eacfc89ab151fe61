"""Write the table and the chart of the root page from the notebooks' networks and records.

python tools/root_page.py            writes chapters/index.md
python tools/root_page.py --check    fails when that page is stale
"""

import hashlib
import re
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from d2lmini.figures import costs_figure
from d2lmini.svg import figure_html, figure_svg
from d2lmini.trace import trace
from tools import notebooks

PAGE = notebooks.ROOT / "chapters" / "index.md"
CAPTION = "四个网络的参数和计算量，每一段是一层或一种层"
HEAD = ("网络", "年份", "主要想法", "参数量", "每张图像FLOPs", "输入", "测试精度", "吞吐量")
# What no `net` cell can tell: the paper's year, its idea in a few words, and the side of the images
# (which the tests hold to the cells that load the data).
IDEAS = {
    "alexnet": ("AlexNet", 2012, "更深更宽，ReLU，暂退法", 224),
    "vgg": ("VGG-11（通道为¼）", 2014, "重复使用3×3卷积的块", 224),
    "nin": ("NiN", 2013, "1×1卷积，全局平均池化", 224),
    "googlenet": ("GoogLeNet", 2014, "并行的多尺寸路径", 96),
}
LABELS = ["AlexNet", "VGG-11 / 4", "NiN", "GoogLeNet"]  # in the chart: Latin letters


def networks():
    """The chapters' networks, without numbers, and their input shapes."""
    with torch.device("meta"):
        nets = [notebooks.network_namespace(name)["net"] for name in IDEAS]
    return nets, [(1, 1, side, side) for *_, side in IDEAS.values()]


def table(costs):
    """The table as Markdown; a chapter whose training is not recorded yet says so."""
    rows = [HEAD, ("---",) * len(HEAD)]
    for (name, (title, year, idea, side)), cost in zip(IDEAS.items(), costs, strict=True):
        rows.append(
            (
                f"[{title}]({name}.ipynb)",
                year,
                idea,
                f"{cost.params:,}",
                f"{cost.flops / 1e6:,.0f} M",
                f"1×{side}×{side}",
                *results(notebooks.read(name).metadata.get("d2lmini")),
            )
        )
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)


def results(record):
    """Test accuracy and throughput of a record, as text."""
    if record is None:
        return "尚未录制", "尚未录制"
    return (
        f"{record['test_acc']:.3f}",
        f"{record['examples_per_sec']:,.0f}张/秒（{record['device']}）",
    )


def stamp(costs):
    """A comment that stands for all the numbers in the chart."""
    layers = [[(layer.params, layer.flops) for layer in cost.layers] for cost in costs]
    digest = hashlib.sha256(repr((LABELS, layers, CAPTION)).encode()).hexdigest()
    return f"<!-- {digest[:16]} -->\n"


def chart(nets, shapes):
    """The cost chart as HTML, in which no blank line ends the HTML block."""
    fig, alt = costs_figure(nets, shapes, LABELS)
    html = figure_html(figure_svg(fig, alt=alt, caption=CAPTION), CAPTION)
    return re.sub(r"\s*\n\s*", "\n", html) + "\n"


def page():
    """The root page as it should be."""
    nets, shapes = networks()
    costs = [trace(net, shape) for net, shape in zip(nets, shapes, strict=True)]
    text = replace(PAGE.read_text("utf-8"), "networks", lambda _: table(costs))
    # matplotlib's versions draw the same numbers in different bytes: such a chart stays.
    mark = stamp(costs)
    return replace(
        text, "costs", lambda old: old if old.startswith(mark) else mark + chart(nets, shapes)
    )


def replace(text, name, write):
    """Put what `write` makes of the old text between the two markers of that name."""
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    before, rest = text.split(begin)
    old, after = rest.split(end)
    return before + begin + write(old) + end + after


def main(argv):
    fresh = page()
    if argv == ["--check"]:
        if fresh != PAGE.read_text("utf-8"):
            raise SystemExit(f"{PAGE} is stale: run python tools/root_page.py")
        return
    PAGE.write_text(fresh, "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
