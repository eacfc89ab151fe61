"""Receptive fields: which input pixels one output of stacked convolutions sees."""

from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from d2lmini.figures.inline_svg import book_style, show
from d2lmini.figures.style import BLUE, GREY, ORANGE, PHONE_WIDTH

__all__ = ["show_receptive_field"]


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
            raise ValueError(
                f"a stack must be a tuple of odd kernel sizes such as (3, 3), got {stack!r}"
            )
    levels, words = max(map(len, stacks)), []
    size = (PHONE_WIDTH / 2 * len(stacks), 1 + 0.8 * levels)
    fig = Figure(figsize=size, layout="constrained")
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
        fill(grid, BLUE, 0.22, GREY, 0.8)
        if level:  # the first cell here and the window it sees below
            upper = square(left, left, 1, level)
            lower = square(lefts[level - 1], lefts[level - 1], stack[level - 1], level - 1)
            fill([upper, lower], ORANGE, 0.4, ORANGE, 1.2)
            for (x1, y1), (x2, y2) in zip(upper, lower, strict=True):
                ax.plot([x1, x2], [y1, y2], color=ORANGE, linewidth=0.8)
        name = "input" if not level else "output" if level == len(stack) else f"layer {level}"
        y = project(0, seen / 2, level)[1]
        ax.text(1.55 * seen + 0.2, y, f"{name}\n{size}×{size}", va="center", fontsize=9)
    ax.set_xlim(-0.2, 1.55 * seen + 2.5)
    ax.set_ylim(-0.2, project(0, (seen + 1) / 2, levels)[1] + 0.4)
    ax.set_aspect("equal")
    ax.set_axis_off()
