"""Architecture figures as inline SVG, drawn from the modules themselves.

`draw` traces each net (`tracing`), turns its layers into boxes (`boxes`), draws them top down in
one column a net (`column`) and displays the columns side by side; on a narrow screen they wrap.
What a box stands for appears on pointing.
"""

from d2lmini.figures.boxes import box_of_group, boxes_of, forks_in
from d2lmini.figures.column import Column, css_width
from d2lmini.figures.inline_svg import save_svg, show_inline
from d2lmini.figures.style import KINDS
from d2lmini.figures.svg import FONT, box_outline, text, text_width
from d2lmini.figures.tracing import trace_all

MANY_FORKS = 7  # with more forks in a figure, blocks have their names alone, and equal ones fold
FEW_FORKS = 2  # with no more of them, all paths are drawn
SIDE_BY_SIDE = 3  # with more columns, short neighbours stand one over another
GAP, LEGEND = 12, 30  # between columns; height of the legend in a file

STYLE = f"""<style>
.d2lm text{{fill:currentColor;font-family:{FONT}}}
.d2lm-box{{outline:none}}
.d2lm-box:hover .d2lm-edge,.d2lm-box:focus .d2lm-edge{{stroke-width:3}}
</style>"""


def draw(*nets, input_shape, caption=None, labels=None, save=None):
    """Display the architecture of one or several nets side by side, data flowing downwards.

    Shapes, parameters and FLOPs (two for each multiply-add of convolutions and matrix products) are
    measured by running the net (see `tracing`). Where paths cross, or where a block in a large net
    is more than paths and their join, one box stands for several layers and says for how many.

    nets: `nn.Module`s; any layer works, one without a notation of its own gets a plain box with its
        class name.
    input_shape: a shape, batch axis first, or an example where a net takes other than one
        floating-point tensor: a tensor, or a tuple of tensors for what takes several. One for all
        nets, or a list with one a net.
    caption: text under the figure. labels: names over the columns. save: a file to write, .svg.
    TypeError or ValueError names the argument that does not fit.

    >>> draw(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), input_shape=(1, 1, 28, 28))
    """
    traced = trace_all(nets, input_shape, labels)
    forks = sum(forks_in(root.items or ()) for _, root in traced)
    detail = "paths" if forks <= FEW_FORKS else "widths" if forks <= MANY_FORKS else "name"
    columns = []
    for label, root in traced:
        whole = root.items is None
        elements = [box_of_group(root)] if whole else boxes_of(root.items, detail)
        columns.append(Column(root, elements, label))
    kinds = [kind for kind in KINDS if any(kind in column.kinds for column in columns)]
    if save is not None:
        save_svg(save, _file(columns, kinds))
    body = (
        f'<div style="display:flex;flex-wrap:wrap;gap:{GAP}px;justify-content:center;'
        f'align-items:flex-start">{"".join(_stacked(columns))}</div>'
        f"{_legend(kinds)}"
    )
    show_inline(body, alt=" ".join(column.alt for column in columns), caption=caption)


def _stacked(columns):
    """The columns as HTML; where they are many, short neighbours share one."""
    tallest = max(column.height for column in columns)
    groups, room = [], 0
    for column in columns:
        if len(columns) > SIDE_BY_SIDE and groups and column.height <= room:
            groups[-1].append(column)
        else:
            groups.append([column])
            room = tallest
        room -= column.height
    for group in groups:
        # The style stands inside the first SVG, so that it is valid in HTML's body.
        inside = "".join(column.svg(STYLE * (column is columns[0])) for column in group)
        width = css_width(max(column.width for column in group))
        yield inside if len(group) == 1 else f'<div style="{width}">{inside}</div>'


def _legend(kinds):
    """One swatch and name a kind, as a line of HTML that wraps."""
    items = "".join(
        f'<span style="white-space:nowrap;margin:0 .6em"><svg xmlns="http://www.w3.org/2000/svg" '
        f'width="26" height="16" aria-hidden="true" style="vertical-align:-3px">'
        f"{box_outline(kind, 1, 1, 24, 14)}</svg> {KINDS[kind][2]}</span>"
        for kind in kinds
    )
    return f'<div style="font-size:.85em;margin-top:.5em;text-align:center">{items}</div>'


def _file(columns, kinds):
    """All columns side by side, and the legend, as one SVG."""
    parts, x = [], 0
    for column in columns:
        place = f'x="{x:g}" y="0" width="{column.width:g}" height="{column.height:g}"'
        parts.append(column.svg(place=place))
        x += column.width + GAP
    height, x, end = max(column.height for column in columns), 0, x - GAP
    for kind in kinds:
        parts += [box_outline(kind, x + 1, height + 9, 24, 14),
                  text(x + 30, height + 20, KINDS[kind][2], 12, anchor="start")]  # fmt: skip
        x += 46 + text_width(KINDS[kind][2], 12)
    width, height = max(end, x), height + LEGEND
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
            f'viewBox="0 0 {width:g} {height:g}" font-family="{FONT}">{"".join(parts)}'
            f"</svg>")  # fmt: skip
