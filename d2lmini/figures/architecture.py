"""Architecture figures as inline SVG, drawn from the modules themselves.

`draw` traces each net (`tracing`), turns its layers into boxes (`boxes`), draws them top down in
one column a net (`column`) and displays the columns side by side; on a narrow screen they wrap.
What a box stands for appears on pointing and on keyboard focus, by CSS alone.
"""

from d2lmini.figures.boxes import box_of_group, boxes_of
from d2lmini.figures.column import column_of, css_width
from d2lmini.figures.inline_svg import show_inline
from d2lmini.figures.structure import Group, Parallel
from d2lmini.figures.style import KINDS
from d2lmini.figures.svg import FONT, box_outline
from d2lmini.figures.tracing import trace_all

__all__ = ["draw"]

MANY_MODULES = 7  # with more groups of parallel paths in a figure, equal ones are folded
SIDE_BY_SIDE = 3  # with more columns, short neighbours stand one over another

STYLE = f"""
.d2lm text{{fill:currentColor;font-family:{FONT}}}
.d2lm .d2lm-tip text{{fill:#fff}}
.d2lm-box{{outline:none}}
.d2lm-box:hover .d2lm-edge,.d2lm-box:focus .d2lm-edge{{stroke-width:3}}
@media print{{.d2lm .d2lm-tip{{display:none}}}}
"""


def draw(*nets, input_shape, caption=None, labels=None):
    """Display the architecture of one or several nets side by side, data flowing downwards.

    nets: `nn.Module`s; any layer works, one without a notation of its own gets a plain box with its
        class name. Shapes, parameters and FLOPs are measured by running the net (see `tracing`).
    input_shape: one shape for all nets, or a list with one shape a net; batch axis first.
    caption: text under the figure. labels: names over the columns.

    >>> draw(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), input_shape=(1, 1, 28, 28))
    """
    columns = _columns(nets, input_shape, labels)
    kinds = [kind for kind, (colour, *_) in KINDS.items() if any(colour in c.svg for c in columns)]
    rules = ",".join(
        f".d2lm-b{i}:hover~.d2lm-t{i},.d2lm-b{i}:focus~.d2lm-t{i}"
        for i in range(max(column.num_boxes for column in columns))
    )
    # The style stands inside the first SVG, so that it is valid in HTML's body.
    style = f"<style>{STYLE}{rules}{{visibility:visible}}</style>"
    columns[0].svg = columns[0].svg.replace("</title>", f"</title>{style}", 1)
    body = (
        f'<div style="display:flex;flex-wrap:wrap;gap:12px;justify-content:center;'
        f'align-items:flex-start">{"".join(_stacked(columns))}</div>'
        f"{_legend(kinds)}"
    )
    show_inline(body, alt=" ".join(column.alt for column in columns), caption=caption)


def _columns(nets, input_shape, labels):
    """A column for each net, all with the same amount of detail."""
    traced = trace_all(nets, input_shape, labels)
    modules = sum(_count_modules(root.items) for _, _, root in traced)
    detail = "paths" if modules <= 2 else "widths" if modules <= MANY_MODULES else "name"
    columns = []
    for label, shape, root in traced:
        whole = root.items is None
        elements = [box_of_group(root)] if whole else boxes_of(root.items, detail)
        columns.append(column_of(root, elements, shape[1:], label))
    return columns


def _count_modules(items):
    """How many groups with parallel paths there are, the net itself included."""
    items = items or ()
    return any(isinstance(item, Parallel) for item in items) + sum(
        _count_modules(item.items) for item in items if isinstance(item, Group)
    )


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
        if len(group) == 1:
            yield group[0].svg
        else:
            inside = "".join(column.svg for column in group)
            yield f'<div style="{css_width(max(column.width for column in group))}">{inside}</div>'


def _legend(kinds):
    """One swatch and name a kind, as a line of HTML that wraps."""
    items = "".join(
        f'<span style="white-space:nowrap;margin:0 .6em"><svg xmlns="http://www.w3.org/2000/svg" '
        f'width="26" height="16" aria-hidden="true" style="vertical-align:-3px">'
        f"{box_outline(kind, 1, 1, 24, 14)}</svg> {KINDS[kind][2]}</span>"
        for kind in kinds
    )
    return f'<div style="font-size:.85em;margin-top:.5em;text-align:center">{items}</div>'
