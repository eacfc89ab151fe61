"""Where the parameters and the computing of networks sit, as bars."""

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from d2lmini.figures.inline_svg import book_style, show
from d2lmini.figures.structure import Layer
from d2lmini.figures.style import KINDS, PHONE_WIDTH, drawn_kind, share_text
from d2lmini.figures.tracing import trace_all

__all__ = ["costs_figure", "show_costs"]

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
    names, roots = (
        [label or root.class_name for label, root in traced],
        [root for _, root in traced],
    )
    totals = "；".join(f"{name}共{root.params:,}个参数、{root.flops / 1e6:,.0f} MFLOPs"
                      for name, root in zip(names, roots, strict=True))  # fmt: skip
    if len(roots) == 1:
        fig, words = _layer_costs(roots[0])
        return fig, f"{totals}。各层的参数与FLOPs占比：{words}"
    return _net_costs(names, roots), f"各网络的参数和FLOPs（按层分段）：{totals}"


def _layers(root):
    """The layers, and the parameters that no layer holds."""
    rest = Layer("", "other", "other parameters", params=root.other_params)
    return [layer for layer in [*root.layers, rest] if layer.params or layer.flops]


def _layer_costs(root):
    """Bars of the shares of one net's layers or blocks, and the shares in words."""
    rows = {layer: [layer] for layer in _layers(root)}
    if len(rows) > MAX_ROWS and any(layer.groups for layer in rows):
        layers, rows = list(rows), {}
        for layer in layers:
            rows.setdefault((*layer.groups, layer)[0], []).append(layer)
    num_blocks, words = 0, []
    for first in rows:
        num_blocks += not isinstance(first, Layer)
        words.append(_short(first) if isinstance(first, Layer) else f"Block {num_blocks}")
    fig, axes = _bars(words)
    for ax, (cost, title) in zip(axes, COSTS.items(), strict=True):
        total = getattr(root, cost)
        ax.set_title(f"{title}\n{_amount(total)}", fontsize=9)
        for y, layers in enumerate(rows.values()):
            text = share_text(_cost(layers, cost), total)
            _bar(ax, y, layers, cost, text)
            words[y] += f"，{title} {text}"
        ax.set_xlim(0, 1.4 * max([1, *(_cost(layers, cost) for layers in rows.values())]))
    return fig, "；".join(words)


def _net_costs(names, roots):
    """Bars of the parameters and FLOPs of several nets, on one scale each."""
    fig, axes = _bars(names)
    for ax, (cost, title) in zip(axes, COSTS.items(), strict=True):
        ax.set_title(title, fontsize=9)
        for y, root in enumerate(roots):
            _bar(ax, y, _layers(root), cost, _amount(getattr(root, cost)))
        ax.set_xlim(0, 1.45 * max([1, *(getattr(root, cost) for root in roots)]))
    handles = [Patch(label=label, **_style(kind))
               for kind, label in (("conv", "convolution"), ("fc", "fully connected"))]  # fmt: skip
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
    layers, parts = [layer for layer in layers if getattr(layer, cost)], {}
    for layer in layers:
        parts.setdefault(layer.kind if len(layers) > MAX_ROWS else layer, []).append(layer)
    left = 0
    for part in parts.values():
        ax.barh(y, _cost(part, cost), 0.7, left=left, **_style(part[0].kind))
        left += _cost(part, cost)
    ax.annotate(text, (left, y), (3, 0), textcoords="offset points", va="center", fontsize=9)


def _cost(layers, cost):
    return sum(getattr(layer, cost) for layer in layers)


def _style(kind):
    """Colour and hatch of a bar: as in the architecture figures, and told apart in grey."""
    return {"facecolor": KINDS[drawn_kind(kind)][0], "hatch": {"fc": "////"}.get(kind),
            "edgecolor": "black", "linewidth": 0.4}  # fmt: skip


def _short(layer):
    """A layer's label without stride and padding."""
    return f"{layer.operation} {layer.settings.split(',')[0]}".strip()


def _amount(number):
    """46764746 as 46.8 M."""
    return f"{number / 1e6:,.3g} M" if number < 1e9 else f"{number / 1e6:,.0f} M"
