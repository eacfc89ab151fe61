"""Where the parameters and the computing of networks sit, as bars."""

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from d2lmini.figures.inline_svg import show
from d2lmini.figures.structure import Group, Parallel
from d2lmini.figures.style import KINDS, PHONE_WIDTH, drawn_kind, share_text
from d2lmini.figures.tracing import trace_all

__all__ = ["costs_figure", "show_costs"]

MAX_ROWS = 12  # bars in a chart of costs; a net with more layers is shown by its top-level blocks
COSTS = {"params": "Parameters", "flops": "FLOPs per image"}


def show_costs(*nets, input_shape, labels=None, caption=None):
    """Display where the parameters and the FLOPs (of one example) of the nets sit.

    One net: a bar for each layer that has any, with its share, or, in a net with more than
    `MAX_ROWS` of them, for each of its blocks. Several nets: a bar each on a common scale, with a
    part for each layer. The numbers are `tracing.trace`'s, and the arguments are those of `draw`.
    """
    fig, alt = costs_figure(nets, input_shape, labels)
    show(fig, alt=alt, caption=caption)


def costs_figure(nets, input_shape, labels=None):
    """Return the figure of `show_costs` and its alternative text."""
    traced = trace_all(nets, input_shape, labels)
    names = [label or root.class_name for label, root in traced]
    roots = [root for _, root in traced]
    totals = "；".join(
        f"{name}共{root.params:,}个参数、{root.flops / 1e6:,.0f} MFLOPs"
        for name, root in zip(names, roots, strict=True)
    )
    if len(roots) == 1:
        fig, words = _layer_costs(roots[0])
        return fig, f"{totals}。各层的参数与FLOPs占比：{words}"
    return _net_costs(names, roots), f"各网络的参数和FLOPs（按层分段）：{totals}"


def _layer_costs(root):
    """Bars of the shares of one net's layers, and the shares in words."""
    rows = [(_short(layer), [layer]) for layer in root.layers if layer.params or layer.flops]
    groups = [item for item in root.items or () if isinstance(item, Group)]
    if len(rows) > MAX_ROWS and groups:
        rows = []
        for item in root.items:
            if isinstance(item, Group):
                rows.append((f"Block {groups.index(item) + 1}", item.layers))
            else:
                layers = item.layers if isinstance(item, Parallel) else [item]
                rows += [(_short(x), [x]) for x in layers if x.params or x.flops]
    fig, axes = _bars([name for name, _ in rows])
    words = [name for name, _ in rows]
    for ax, (cost, title) in zip(axes, COSTS.items(), strict=True):
        total = getattr(root, cost)
        ax.set_title(f"{title}\n{_amount(total)}", fontsize=9)
        for y, (_, layers) in enumerate(rows):
            text = share_text(_cost(layers, cost), total)
            _bar(ax, y, layers, cost, text)
            words[y] += f"，{title} {text}"
        ax.set_xlim(0, 1.4 * max([1, *(_cost(layers, cost) for _, layers in rows)]))
    return fig, "；".join(words)


def _net_costs(names, roots):
    """Bars of the parameters and FLOPs of several nets, on one scale each."""
    fig, axes = _bars(names)
    for ax, (cost, title) in zip(axes, COSTS.items(), strict=True):
        ax.set_title(title, fontsize=9)
        for y, root in enumerate(roots):
            _bar(ax, y, root.layers, cost, _amount(getattr(root, cost)))
        ax.set_xlim(0, 1.45 * max([1, *(getattr(root, cost) for root in roots)]))
    handles = [
        Patch(label=label, **_style(kind))
        for kind, label in (("conv", "convolution"), ("fc", "fully connected"))
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return fig


def _bars(names):
    """A figure with two axes for horizontal bars, one row a name."""
    fig = Figure(figsize=(PHONE_WIDTH, 0.27 * len(names) + 0.9), layout="constrained")
    axes = fig.subplots(1, 2, sharey=True)
    for ax in axes:
        ax.set_xticks([])
        ax.spines[["top", "right", "bottom"]].set_visible(False)
        ax.tick_params(length=0)
    axes[0].set_yticks(range(len(names)), names, fontsize=9)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    return fig, axes


def _bar(ax, y, layers, cost, text):
    """A bar with one part for each layer, or for each kind of many layers, and a text behind it."""
    layers = [layer for layer in layers if getattr(layer, cost)]
    parts = {}
    for layer in layers:
        part = layer.kind if len(layers) > MAX_ROWS else layer
        parts.setdefault(part, []).append(layer)
    left = 0
    for part in parts.values():
        ax.barh(y, _cost(part, cost), 0.7, left=left, **_style(part[0].kind))
        left += _cost(part, cost)
    ax.annotate(text, (left, y), (3, 0), textcoords="offset points", va="center", fontsize=9)


def _cost(layers, cost):
    return sum(getattr(layer, cost) for layer in layers)


def _style(kind):
    """Colour and hatch of a bar: as in the architecture figures, and told apart in grey."""
    return {
        "facecolor": KINDS[drawn_kind(kind)][0],
        "hatch": {"fc": "////"}.get(kind),
        "edgecolor": "black",
        "linewidth": 0.4,
    }


def _short(layer):
    """A layer's label without stride and padding."""
    return f"{layer.operation} {layer.settings.split(',')[0]}".strip()


def _amount(number):
    """46764746 as 46.8 M."""
    return f"{number / 1e6:,.3g} M" if number < 1e9 else f"{number / 1e6:,.0f} M"
