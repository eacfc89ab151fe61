"""Charts: where the costs of networks sit, training runs, receptive fields."""

import itertools

from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from d2lmini.figures import style
from d2lmini.figures.inline_svg import book_style, show
from d2lmini.figures.structure import Layer
from d2lmini.figures.tracing import trace_all

MAX_ROWS = 12  # bars in a chart of costs; a net with more layers is shown by its top-level blocks
COSTS = {"params": "Parameters", "flops": "FLOPs per image"}


@book_style()
def show_costs(*nets, input_shape, labels=None, caption=None, save=None):
    """Display where the parameters and the FLOPs (of one example) of the nets sit.

    One net: a bar for each layer that has any, with its share, or, in a net with more than
    `MAX_ROWS` of them, for each of its blocks. Several nets: a bar each on a common scale, with a
    part for each layer. The numbers are `tracing.trace`'s, and the arguments are those of `draw`;
    save: a file to write as well, in the format of its ending.
    """
    fig, alt = costs_figure(nets, input_shape, labels)
    show(fig, alt=alt, caption=caption, save=save)


@book_style()
def costs_figure(nets, input_shape, labels=None):
    """Return the figure of `show_costs` and its alternative text."""
    traced = trace_all(nets, input_shape, labels)
    nets = [(label or root.class_name, root) for label, root in traced]
    (_, first), *others = nets
    rows = [(name, _layers(root)) for name, root in nets] if others else _rows(first)
    fig = Figure(figsize=(style.PHONE_WIDTH, 0.27 * len(rows) + 0.9), layout="constrained")
    axes, words = fig.subplots(1, 2, sharey=True), [name for name, _ in rows]
    for ax, (cost, title) in zip(axes, COSTS.items(), strict=True):
        whole = getattr(first, cost)
        ax.set_title(title if others else f"{title}\n{_amount(whole)}", fontsize=9)
        sums = [sum(getattr(layer, cost) for layer in layers) for _, layers in rows]
        for y, ((_, layers), part) in enumerate(zip(rows, sums, strict=True)):
            text = _amount(part) if others else style.share_text(part, whole)
            words[y] += f"，{title} {text}"
            _bar(ax, y, layers, cost)
            ax.annotate(text, (part, y), (3, 0), textcoords="offset points", va="center",
                        fontsize=9)  # fmt: skip
        ax.set_xlim(0, (1.45 if others else 1.4) * max([1, *sums]))
        ax.set_xticks([])
        ax.spines[["top", "right", "bottom"]].set_visible(False)
        ax.tick_params(length=0)
    axes[0].set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=9)
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    totals = "；".join(f"{name}共{root.params:,}个参数、{root.flops / 1e6:,.0f} MFLOPs"
                      for name, root in nets)  # fmt: skip
    if not others:
        return fig, f"{totals}。各层的参数与FLOPs占比：{'；'.join(words)}"
    handles = [Patch(label=label, **_style(kind))
               for kind, label in (("conv", "convolution"), ("fc", "fully connected"))]  # fmt: skip
    fig.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return fig, f"各网络的参数和FLOPs（按层分段）：{totals}"


def _layers(root):
    """The layers, and the parameters that no layer holds."""
    rest = Layer("", "other", "other parameters", params=root.other_params)
    return [layer for layer in [*root.layers, rest] if layer.params or layer.flops]


def _rows(root):
    """(name, layers) for each bar of one net: its layers or, where they are many, its blocks."""
    layers, rows, number = _layers(root), {}, itertools.count(1)
    for layer in layers:
        around = layer.groups if len(layers) > MAX_ROWS else ()
        rows.setdefault((*around, layer)[0], []).append(layer)
    return [(f"{first.operation} {first.settings.split(',')[0]}".strip()
             if isinstance(first, Layer) else f"Block {next(number)}", layers)
            for first, layers in rows.items()]  # fmt: skip


def _bar(ax, y, layers, cost):
    """A bar with one part for each layer, or for each kind of many layers."""
    layers, parts, left = [layer for layer in layers if getattr(layer, cost)], {}, 0
    for layer in layers:
        parts.setdefault(layer.kind if len(layers) > MAX_ROWS else layer, []).append(layer)
    for part in parts.values():
        width = sum(getattr(layer, cost) for layer in part)
        ax.barh(y, width, 0.7, left=left, **_style(part[0].kind))
        left += width


def _style(kind):
    """Colour and hatch of a bar: as in the architecture figures, and told apart in grey."""
    return {"facecolor": style.KINDS[style.drawn_kind(kind)][0], "hatch": {"fc": "////"}.get(kind),
            "edgecolor": "black", "linewidth": 0.4}  # fmt: skip


def _amount(number):
    """46764746 as 46.8 M."""
    return f"{number / 1e6:,.3g} M" if number < 1e9 else f"{number / 1e6:,.0f} M"


@book_style()
def show_histories(*histories, labels=None, caption=None, save=None):
    """Display the training loss and the test accuracy of several runs, a curve a run.

    histories: what `train_ch6` returned, one after another or in a list. labels: a text a run;
    numbers if None. save: a file to write as well, in the format of its ending. Raises ValueError
    when there is no run, when one of them has no whole epoch, or when labels are too few or many.

    >>> show_histories(history, longer, labels=['5 epochs', '10 epochs'])
    """
    if len(histories) == 1 and isinstance(histories[0], (list, tuple)):
        histories = histories[0]
    if not histories:
        raise ValueError("no history given: pass what train_ch6 returned, once for each run")
    labels = [f"run {i}" for i, _ in enumerate(histories, 1)] if labels is None else labels
    if isinstance(labels, str) or len(labels) != len(histories):
        raise ValueError(f"labels must be a list of {len(histories)} texts, got {labels!r}")
    losses, accuracies, words = [], [], []
    for label, history in zip(labels, histories, strict=True):
        accuracies.append(history.test_acc)  # the last epoch that was trained may lack it
        losses.append(history.train_loss[: len(history.test_acc)])
        if not history.test_acc:
            raise ValueError(f"nothing to draw: the history of {label!r} has no whole epoch")
        words.append(f"{label}训练{len(losses[-1])}轮，损失{losses[-1][-1]:.3f}，"
                     f"测试精度{accuracies[-1][-1]:.3f}")  # fmt: skip
    fig = Figure(figsize=(style.PAGE_WIDTH, 2.7), layout="constrained")
    fig.get_layout_engine().set(wspace=0.06)
    loss, accuracy = fig.subplots(1, 2)
    plot_curves(loss, labels, losses, "train loss")
    plot_curves(accuracy, labels, accuracies, "test accuracy")
    legend = loss.legend(loss.lines, map(str, range(len(labels))), fontsize=9)
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(str(label))  # matplotlib hides one that begins with an underscore
    alt = "训练损失（左）和测试精度（右）随训练轮数变化的曲线，最后：" + "；".join(words)
    show(fig, alt=alt, caption=caption, save=save)


def plot_curves(ax, labels, curves, ylabel):
    """Draw curves with a value an epoch, told apart in grey too."""
    for label, values, (line, marker) in zip(
        labels, curves, itertools.cycle(style.CURVES), strict=False
    ):
        marks = {"linestyle": line, "marker": marker, "markersize": 4, "linewidth": 1.2}
        ax.plot(range(1, len(values) + 1), values, label=str(label), **marks)
    ax.set(xlabel="epoch", ylabel=ylabel)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.grid(alpha=0.4)


@book_style()
def show_receptive_field(*stacks, caption=None, save=None):
    """Display which input pixels one output of stacked convolutions (stride 1) sees.

    stacks: one tuple of odd kernel sizes for each picture, first layer first, such as (3, 3) and
    (5,). The titles count the weights of equally wide layers with c channels. save: a file to write
    as well, in the format of its ending.

    >>> show_receptive_field((3, 3), (5,))
    """
    if not stacks:
        raise TypeError("no stack given: pass tuples of kernel sizes such as (3, 3)")
    for stack in stacks:
        is_stack = isinstance(stack, (tuple, list)) and len(stack)
        if not is_stack or not all(isinstance(k, int) and k > 0 and k % 2 for k in stack):
            raise ValueError(f"a stack must be a tuple of odd kernel sizes, got {stack!r}")
    levels, width, words = max(map(len, stacks)), style.PHONE_WIDTH / 2 * len(stacks), []
    fig = Figure(figsize=(width, 1 + 0.8 * levels), layout="constrained")
    for ax, stack in zip(fig.subplots(1, len(stacks), squeeze=False).flat, stacks, strict=True):
        sizes = [1 + sum(k - 1 for k in stack[i:]) for i in range(len(stack) + 1)]
        weights = sum(k * k for k in stack)
        _planes(ax, stack, sizes, levels)
        layers = " + ".join(f"{k}×{k}" for k in stack)
        ax.set_title(f"{layers}: sees {sizes[0]}×{sizes[0]}\n{weights}c² weights", fontsize=9)
        words.append(
            f"{layers}卷积的一个输出看到{sizes[0]}×{sizes[0]}个输入像素，权重{weights}c²个"
        )
    show(fig, alt="；".join(words), caption=caption, save=save)


def _planes(ax, stack, sizes, levels):
    """Grids of cells, input at the bottom, in oblique projection; one window a layer is filled."""
    seen = sizes[0]

    def project(x, y, level):
        return x + 0.55 * y, 0.45 * y + (0.55 * seen + 0.6) * level

    def square(x, y, size, level):
        corners = ((0, 0), (1, 0), (1, 1), (0, 1))
        return [project(x + dx * size, y + dy * size, level) for dx, dy in corners]

    def fill(squares, colour, alpha, edge, width):
        face = to_rgba(colour, alpha)
        ax.add_collection(PolyCollection(squares, facecolor=face, edgecolor=edge, linewidth=width))

    lefts = [(seen - size) / 2 for size in sizes]
    for level, (left, size) in enumerate(zip(lefts, sizes, strict=True)):
        grid = [square(left + x, left + y, 1, level) for x in range(size) for y in range(size)]
        fill(grid, style.BLUE, 0.22, style.GREY, 0.8)
        if level:  # the first cell here and the window it sees below
            upper = square(left, left, 1, level)
            lower = square(lefts[level - 1], lefts[level - 1], stack[level - 1], level - 1)
            fill([upper, lower], style.ORANGE, 0.4, style.ORANGE, 1.2)
            for (x1, y1), (x2, y2) in zip(upper, lower, strict=True):
                ax.plot([x1, x2], [y1, y2], color=style.ORANGE, linewidth=0.8)
        name = "input" if not level else "output" if level == len(stack) else f"layer {level}"
        y = project(0, seen / 2, level)[1]
        ax.text(1.55 * seen + 0.2, y, f"{name}\n{size}×{size}", va="center", fontsize=9)
    ax.set_xlim(-0.2, 1.55 * seen + 2.5)
    ax.set_ylim(-0.2, project(0, (seen + 1) / 2, levels)[1] + 0.4)
    ax.set_aspect("equal")
    ax.set_axis_off()
