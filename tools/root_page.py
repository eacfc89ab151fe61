"""Write the table and the chart of the root page from the notebooks' networks and records.

python tools/root_page.py            writes chapters/index.md
python tools/root_page.py --check    fails when that page is stale
"""

import hashlib
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from d2lmini.figures import costs_figure
from d2lmini.svg import figure_html, figure_svg
from d2lmini.trace import trace
from tools import notebooks

PAGE = notebooks.ROOT / "chapters" / "index.md"
CAPTION = "四个网络的参数和计算量，每一段是一层或一种层"
HEAD = ("网络", "年份", "主要想法", "参数量", "每张图像FLOPs", "输入", "测试精度", "吞吐量")
# What no notebook can tell: the year of the paper and its idea in a few words.
IDEAS = {
    "alexnet": ("AlexNet", 2012, "更深更宽，ReLU，暂退法"),
    "vgg": ("VGG-11（通道为¼）", 2014, "重复使用3×3卷积的块"),
    "nin": ("NiN", 2013, "1×1卷积，全局平均池化"),
    "googlenet": ("GoogLeNet", 2014, "并行的多尺寸路径"),
}
SIDES = {
    "alexnet": 224,
    "vgg": 224,
    "nin": 224,
    "googlenet": 96,
}  # the tests hold these to the text


def table():
    """The table as Markdown; a chapter whose training is not recorded yet says so."""
    rows = [HEAD, ("---",) * len(HEAD)]
    for name, (title, year, idea) in IDEAS.items():
        net, side = notebooks.network_namespace(name)["net"], SIDES[name]
        cost = trace(net, (1, 1, side, side))
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


def chart(written=""):
    """The cost chart as HTML; `written` comes back when it shows the same numbers.

    matplotlib's versions draw the same numbers in different bytes, so numbers are compared.
    """
    nets = [notebooks.network_namespace(name)["net"] for name in IDEAS]
    shapes = [(1, 1, side, side) for side in SIDES.values()]
    labels = ["AlexNet", "VGG-11 / 4", "NiN", "GoogLeNet"]
    costs = [[(layer.params, layer.flops) for layer in trace(net, shape).layers]
             for net, shape in zip(nets, shapes, strict=True)]  # fmt: skip
    stamp = f"<!-- {hashlib.sha256(repr((labels, costs, CAPTION)).encode()).hexdigest()[:16]} -->\n"
    if written.startswith(stamp):
        return written
    fig, alt = costs_figure(nets, shapes, labels)
    html = figure_html(figure_svg(fig, alt=alt, caption=CAPTION), CAPTION)
    return stamp + re.sub(r"\s*\n\s*", "\n", html) + "\n"  # a blank line would end the HTML block


def page():
    """The root page as it should be."""
    text = PAGE.read_text("utf-8")
    for name, write in (("networks", lambda _: table()), ("costs", chart)):
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        before, rest = text.split(begin)
        written, after = rest.split(end)
        text = before + begin + write(written) + end + after
    return text


def main(argv):
    fresh = page()
    if argv == ["--check"]:
        if fresh != PAGE.read_text("utf-8"):
            raise SystemExit(f"{PAGE} is stale: run python tools/root_page.py")
        return
    PAGE.write_text(fresh, "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
