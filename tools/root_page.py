"""Write what the root page, chapters/index.md, says about the networks and recorded trainings.

    python -m tools.root_page

The figures come from the notebooks' networks and from recordings/NAME.json; which chapters there
are and what they say of themselves, from tools/notebooks.py.
"""

import ast
import functools
import hashlib
import re
import statistics
from pathlib import Path

import torch
from matplotlib.figure import Figure

from d2lmini.figures.inline_svg import figure_html, figure_svg
from d2lmini.figures.plots import costs_figure, plot_curves
from d2lmini.figures.tracing import trace
from tools import code_hash, files, notebooks

PAGE = notebooks.ROOT / "chapters" / "index.md"
NUMERALS = dict(enumerate("零一二三四五六七八九十"))
# What the charts' pictures depend on besides their numbers.
DRAWN_BY = [Path(__file__), *sorted((notebooks.ROOT / "d2lmini" / "figures").glob("*.py"))]
COSTS_CAPTION = "{}个网络的参数和计算量，每一段是一层或一种层"
CURVES_CAPTION = "各网络每一轮之后的测试精度"
NETWORKS = ("网络", "年份", "主要想法", "参数量", "每张图像FLOPs", "输入", "测试精度", "吞吐量")
TRAININGS = ("网络", "种子个数", "测试精度", "训练用时", "设备", "软件与数值格式", "日期")


def recordings(chapters):
    """What tools/record.py stored of each chapter whose training, as it is now, is recorded."""
    found = {}
    for name in (chapter.name for chapter in chapters):
        content = files.read_json(notebooks.ROOT / "recordings" / f"{name}.json")
        now = code_hash.training_code(notebooks.read(name), name)["training"]
        if content and content["record"]["code"]["training"] == now:
            found[name] = content
    return found


def markdown_table(head, rows):
    rows = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)


def network_table(chapters, costs, recorded):
    """The networks; a chapter whose training is not recorded yet says so."""
    rows = []
    for chapter, cost in zip(chapters, costs, strict=True):
        result = ("尚未录制", "尚未录制")
        if chapter.name in recorded:
            record = recorded[chapter.name]["record"]
            rate = f"{record['examples_per_sec']:,.0f}张/秒（{record['device']}）"
            result = (f"{record['test_acc']:.3f}", rate)
        shape = f"1×{chapter.side}×{chapter.side}"
        size = (f"{cost.params:,}", f"{cost.flops / 1e6:,.0f} M", shape)
        rows.append((link(chapter), chapter.year, chapter.idea, *size, *result))
    return markdown_table(NETWORKS, rows)


def link(chapter):
    return f"[{chapter.network}]({chapter.name}.ipynb)"


def accuracy(histories):
    """The final test accuracy; of several seeds their mean and standard deviation."""
    finals = [history["test_acc"][-1] for history in histories]
    deviation = f" ± {statistics.stdev(finals):.3f}" if len(finals) > 1 else ""
    return f"{statistics.mean(finals):.3f}{deviation}"


def results(chapters, recorded):
    """The recorded trainings as a table, what came out, on what, when; and which are missing."""
    rows = []
    for chapter, content in [(c, recorded[c.name]) for c in chapters if c.name in recorded]:
        record, histories = content["record"], content["histories"]
        hours, minutes = divmod(round(record["training_seconds"] / 60), 60)
        software = f"torch {record['torch'].partition('+')[0]}"  # without the build's CUDA
        if record["device"].startswith("cuda"):
            software += f", CUDA {record['cuda']}"
        rows.append((
            link(chapter), len(histories), accuracy(histories), f"{hours}小时{minutes}分",
            f"{record['device']} ({record['device_name']})", f"{software}, {record['precision']}",
            record["started"][:10],
        ))  # fmt: skip
    missing = "、".join(link(chapter) for chapter in chapters if chapter.name not in recorded)
    note = f"\n尚未录制完整训练：{missing}。\n" if missing else ""
    return (f"\n{markdown_table(TRAININGS, rows)}" if rows else "") + note


def curves_chart(chapters, recorded, old):
    """The chart of the recorded trainings, '' where there is none."""
    curves = [(chapter.label, recorded[chapter.name]["histories"][0]["test_acc"])
              for chapter in chapters if chapter.name in recorded]  # fmt: skip
    return stamped(lambda: curves_figure(curves), CURVES_CAPTION, curves, old) if curves else ""


def curves_figure(curves):
    """Test accuracy after each epoch, a line a network: [(label, values)]; and it in words."""
    fig = Figure(figsize=(4.4, 2.6), layout="constrained")
    ax = fig.subplots()
    plot_curves(ax, *zip(*curves, strict=True), "test accuracy")
    ax.legend(fontsize=9)
    finals = "、".join(f"{label} {accuracies[-1]:.3f}" for label, accuracies in curves)
    return fig, f"测试精度随训练轮数变化的曲线，最后一轮之后：{finals}"


def stamped(draw, caption, numbers, old):
    """The figure that `draw` makes, as HTML after a comment that stands for its numbers and code.

    matplotlib's versions draw the same in different bytes: a chart of the same in `old` stays, and
    is not drawn.
    """
    drawing = [code_hash.tree_hash(ast.parse(path.read_text("utf-8"))) for path in DRAWN_BY]
    digest = hashlib.sha256(repr((caption, numbers, drawing)).encode()).hexdigest()
    mark = f"<!-- {digest[:16]} -->\n"
    if mark in old:
        return mark + old.split(mark)[1].split("</figure>\n")[0] + "</figure>\n"
    fig, alt = draw()
    html = figure_html(figure_svg(fig, alt=alt, caption=caption), caption)
    return mark + re.sub(r"\s*\n\s*", "\n", html) + "\n"  # a blank line would end the HTML block


def page():
    """The root page as it should be."""
    chapters = notebooks.chapters()
    recorded = recordings(chapters)
    with torch.device("meta"):  # without numbers
        nets = [notebooks.network_namespace(chapter.name)["net"] for chapter in chapters]
    shapes = [(1, 1, chapter.side, chapter.side) for chapter in chapters]
    labels = [chapter.label for chapter in chapters]
    costs = [trace(net, shape) for net, shape in zip(nets, shapes, strict=True)]
    layers = [[(layer.params, layer.flops) for layer in cost.layers] for cost in costs]
    caption = COSTS_CAPTION.format(NUMERALS.get(len(nets), len(nets)))
    draw = functools.partial(costs_figure, nets, shapes, labels)
    text = PAGE.read_text("utf-8")
    for name, write in (
        ("networks", lambda _: network_table(chapters, costs, recorded)),
        ("costs", lambda old: stamped(draw, caption, (labels, layers), old)),
        ("results", lambda old: curves_chart(chapters, recorded, old)
                                + results(chapters, recorded)),
    ):  # fmt: skip
        text = files.replace(text, name, write)
    return text


@notebooks.exit_on_fault("root_page")
def main():
    files.write_changed({PAGE: page()})


if __name__ == "__main__":
    main()
