"""From boxes to SVG: one net as a column of boxes, data flowing downwards.

Where all is known that the shapes follow from (`rules.network_data`), the SVG carries it in
`data-net`, and `data-of` says of boxes for which layers they stand, and of texts whose shape they
give ("total": they give the sums). The site's script computes with that; a figure without it is
the same picture.
"""

import json
from dataclasses import dataclass
from html import escape

from d2lmini.figures import svg
from d2lmini.figures.boxes import Box, Frame, alternative_text, boxes_in
from d2lmini.figures.rules import network_data, number_layers
from d2lmini.figures.structure import IN
from d2lmini.figures.style import KINDS, flops_text, shape_text, share_text
from d2lmini.figures.svg import FONT, SMALL, TEXT, text_width

__all__ = ["Column", "column_of", "css_width"]

BOX, SLIM_BOX, TEXT_LINE, STRIP = 28, 21, 14, 17  # heights: boxes, a line of text, a strip
TITLE = 14  # font size of the label over the column
ARROW, ARROW_WITH_SHAPE = 16, 26  # lengths, without and with a shape beside the arrow
FRAME_PADDING, PATH_GAP, MARGIN = 9, 10, 5
NARROWEST_BOX = 90
DETAILS_WIDTH = 190  # no column is narrower, so that the details find room
MOST_BEHIND = 2  # equal boxes that peep out from behind a folded one
SMALLEST, LARGEST = 0.82, 1.15  # a column shrinks and grows with the page as far as this


@dataclass
class Column:
    """A drawn net: its SVG, the same in words, and sizes in the SVG's units."""

    svg: str
    alt: str
    width: float
    height: float
    num_boxes: int  # boxes and frames, which have details each


def column_of(root, elements, input_shape, label=""):
    """Draw one net.

    root: its trace. elements: what `boxes.boxes_of` made of it. input_shape: without the batch
    axis. label: text over the column.
    """
    box_width = max(
        [NARROWEST_BOX, *(_box_width(box) for box in boxes_in(elements, in_branches=False))]
    )
    width = 2 * MARGIN + max(
        _width(elements, box_width), text_width(label, TITLE, bold=True), DETAILS_WIDTH
    )
    name, middle, start = label or root.class_name, width / 2, f"输入{shape_text(input_shape)}"
    data = network_data(root, input_shape)
    pen = _Pen(root, box_width, input_shape, number_layers(root) if data else {})
    pen.y = MARGIN
    if label:
        pen.text(middle, pen.y + 13, label, TITLE, bold=True)
        pen.y += 22
    pen.text(middle, pen.y + 10, start, SMALL, of=pen.shape_of)
    pen.y = pen.arrow_start = pen.y + 15
    pen.series(elements, middle)
    pen.arrow(middle, pen.y + ARROW)
    end = f"输出{shape_text(pen.shape)}"
    total = f"{root.params:,}个参数 · {flops_text(root.flops)}"
    pen.text(middle, pen.y + ARROW + 11, end, SMALL, of=pen.shape_of)
    about = "total" if data else None
    pen.text(middle, pen.y + ARROW + 28, total, SMALL, opacity=0.75, of=about)
    height = pen.y + ARROW + 28 + MARGIN
    panels = [
        svg.details_panel(index, place, lines, (width, height))
        for index, (place, lines) in enumerate(pen.details)
    ]
    alt = f"{name}的结构，数据自上而下：{start}；{alternative_text(elements)}；{end}。共{total}。"
    net = f" data-net='{json.dumps(data, separators=(',', ':'))}'" if data else ""
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="d2lm" role="group"{net} '
        f'aria-label="{escape(alt)}" viewBox="0 0 {width:g} {height:g}" '
        f'style="{css_width(width)};height:auto" font-family="{FONT}">'
        f"<title>{escape(name)}</title><desc>{escape(alt)}</desc>"
        f"{''.join(pen.parts + panels)}</svg>"
    )
    return Column(text, alt, width, height, len(pen.details))


def css_width(width):
    """How wide a column of `width` units is shown, in CSS."""
    return (
        f"flex:1 1 {SMALLEST * width:.0f}px;min-width:{SMALLEST * width:.0f}px;"
        f"max-width:{LARGEST * width:.0f}px"
    )


class _Pen:
    """Draws elements from the top down.

    `y` is the next free height, `arrow_start` the height from which the next arrow starts, `shape`
    the shape of the data there, `shape_of` the number of the layer that made it, and `new_shape`
    what is to be written beside that arrow. `numbers` are the layers', where they are wanted.
    """

    def __init__(self, root, box_width, shape, numbers):
        self.root, self.box_width, self.shape, self.numbers = root, box_width, shape, numbers
        self.shape_of = numbers.get(IN)
        self.parts, self.details = [], []  # details: place (left, top, height) and lines of a box
        self.y = self.arrow_start = 0
        self.new_shape = ""
        self.entering_frame = False  # where the first box needs no gap above it

    def series(self, elements, middle, path_width=None):
        """Draw elements one under another; `path_width` is their path's inside branches."""
        for element in elements:
            self.advance(middle, in_path=path_width is not None)
            if isinstance(element, Box):
                self.arrow(middle, self.y)
                self.box(element, middle, path_width or self.box_width, path_width is not None)
            elif isinstance(element, Frame):
                self.frame(element, middle)
            else:
                self.branches(element, middle, path_width is not None)

    def height_of(self, elements, path_width=None, entering_frame=False):
        """The height that `series` would use."""
        scratch = _Pen(self.root, self.box_width, self.shape, self.numbers)
        scratch.entering_frame = entering_frame
        scratch.series(elements, 0, path_width)
        return scratch.y

    def advance(self, middle, in_path):
        """Leave room for an arrow, and write the shape beside it where it has changed."""
        if not self.entering_frame:
            beside = self.new_shape and not in_path
            if beside:
                y = self.y + ARROW_WITH_SHAPE / 2 + 2
                of = self.shape_of
                self.text(middle + 8, y, self.new_shape, SMALL, anchor="start", of=of)
            self.y += ARROW_WITH_SHAPE if beside else ARROW
            self.new_shape = ""
        self.entering_frame = False

    def frame(self, frame, middle):
        """Draw a frame and the elements in it."""
        group, top, width = frame.group, self.y, _width([frame], self.box_width)
        title = "" if group.class_name == "Sequential" else group.class_name
        above = FRAME_PADDING + (12 if title else 0)
        inside = self.height_of(frame.elements, entering_frame=True)
        height = above + inside + FRAME_PADDING
        left = middle - width / 2
        layers = [layer for box in boxes_in(frame.elements) for layer in box.layers]
        label = f"{group.class_name} {group.name}"
        self.start_group(label, frame.times, layers, (left, top, height))
        self.parts.append(svg.frame_outline(left, top, width, height))
        self.text(left + 8, top + 14, title, SMALL, anchor="start", bold=True)
        self.times(frame.times, left + width - 6, top + 14)
        self.parts.append("</g>")
        self.y += above
        self.entering_frame = True
        self.series(frame.elements, middle)
        self.y += FRAME_PADDING

    def branches(self, branches, middle, in_path):
        """Draw paths side by side, their ends in one line, and the box that joins them."""
        start, shape = self.y, self.shape
        widths = [_path_width(path, self.box_width) for path in branches.paths]
        heights = [self.height_of(*path) for path in zip(branches.paths, widths, strict=True)]
        total = sum(widths) + PATH_GAP * (len(widths) - 1)
        end = start + max(heights) + ARROW
        lefts = [middle - total / 2 + sum(widths[:i]) + PATH_GAP * i for i in range(len(widths))]
        centres = [left + width / 2 for left, width in zip(lefts, widths, strict=True)]
        self.line(middle, self.arrow_start, middle, start)
        self.line(centres[0], start, centres[-1], start)
        for path, width, height, centre in zip(
            branches.paths, widths, heights, centres, strict=True
        ):
            self.y, self.arrow_start, self.shape = end - ARROW - height, start, shape
            self.series(path, centre, width)
            self.arrow(centre, end)
        self.y = self.arrow_start = end
        self.new_shape = ""
        if branches.join:
            self.shape = shape
            self.box(branches.join, middle, max(total, 60), in_path, joins=True)

    def box(self, box, middle, width, in_path, joins=False):
        """Draw a box at `y`; afterwards `y` and `arrow_start` are at its bottom."""
        if box.is_slim and not in_path:
            width = max(0.6 * width, _box_width(box))
        top, left = self.y, middle - width / 2
        slim = box.is_slim or joins
        two_lines = in_path and not joins
        body = 2 * TEXT_LINE + 8 if two_lines else SLIM_BOX if slim else BOX
        if box.paths:
            body = 67 if any(channels for _, channels in box.paths) else 55
        height = body + (STRIP if box.strips else 0)
        self.start_group(box.label, box.times, box.layers, (left, top, height), box)
        num_behind = min(box.times - 1, MOST_BEHIND)
        for i in range(num_behind):
            self.parts.append(svg.box_behind(box.kind, left, top, width, height, 3 * (i + 1)))
        self.parts.append(svg.box_outline(box.kind, left, top, width, height))
        if box.paths:
            self.text(middle, top + 17, box.label, TEXT, bold=True)
            self.parts.append(svg.path_bars(box.paths, middle, top + 24, width))
        elif two_lines and box.settings:
            lines = (box.operation, box.settings)
            self.parts.append(svg.two_line_text(middle, top + 15, *lines, TEXT - 1, TEXT_LINE))
        else:
            size = TEXT - 1 if in_path or slim else TEXT
            self.text(middle, top + body / 2 + 0.36 * size, box.label, size)
        self.times(box.times, left + width - 8, top + body / 2 + 4)
        self.strips(box, left, top + body, width)
        self.parts.append("</g>")
        self.y = self.arrow_start = top + height + 3 * num_behind
        self.shape_of = self.numbers.get(box.layers[-1]) if box.layers else self.shape_of
        if box.shape != self.shape:
            self.shape, self.new_shape = box.shape, shape_text(box.shape)

    def start_group(self, label, times, layers, place, box=None):
        """Open the group of a box or frame, and keep what it shows on pointing and focus."""
        params = sum(layer.params for layer in layers)
        flops = sum(layer.flops for layer in layers)
        shape = shape_text(layers[-1].shape) if layers else ""
        lines = [label + (f" ×{times}（合计）" if times > 1 else "")]
        stands_for = " ".join(str(self.numbers[layer]) for layer in layers if self.numbers)
        data = f' data-of="{stands_for}"' if stands_for else ""
        if box:
            names = " ".join(layer.name for layer in layers if layer.name)
            data += (
                f' data-kind="{box.kind}" data-layers="{escape(names)}" data-shape="{shape}" '
                f'data-params="{params}" data-flops="{flops}"'
            )
            if box.strips:
                lines.append("其后：" + "，".join(box.strips))
            if box.facts:
                lines.append("，".join(f"{name}{value}" for name, value in box.facts))
        lines += [
            f"输出{shape}",
            f"参数{params:,}，占{share_text(params, self.root.params)}",
            f"FLOPs {flops:,}，占{share_text(flops, self.root.flops)}",
        ]
        self.parts.append(
            f'<g class="d2lm-box d2lm-b{len(self.details)}" tabindex="0" role="img"{data} '
            f'aria-label="{escape("；".join(lines))}"><title>{escape(label)}</title>'
        )
        self.details.append((place, lines))

    def strips(self, box, left, top, width):
        """The elementwise layers under a box, side by side."""
        colour, step = KINDS[box.kind][0], width / max(len(box.strips), 1)
        for i, strip in enumerate(box.strips):
            x = left + i * step
            self.line(x, top, x + step, top, colour, 0.8)
            self.text(x + step / 2, top + STRIP / 2 + 3.5, strip, SMALL)
            if i:
                self.line(x, top, x, top + STRIP, colour, 0.8)

    def times(self, times, x, y):
        """How often a folded box stands there, ending at x."""
        self.text(x, y, f"×{times}" if times > 1 else "", TEXT, anchor="end", bold=True)

    def text(self, *args, **options):
        self.parts.append(svg.text(*args, **options))

    def line(self, *args, **options):
        self.parts.append(svg.line(*args, **options))

    def arrow(self, x, y):
        self.parts.append(svg.arrow(x, self.arrow_start, y))


def _width(elements, box_width):
    """Width of elements in a column whose boxes are `box_width` wide."""
    widths = [box_width]
    for element in elements:
        if isinstance(element, Frame):
            widths.append(_width(element.elements, box_width) + 2 * FRAME_PADDING)
        elif not isinstance(element, Box):
            paths = [_path_width(path, box_width) for path in element.paths]
            widths.append(sum(paths) + PATH_GAP * (len(paths) - 1))
    return max(widths)


def _path_width(path, box_width):
    """Width of a path in branches; a skip connection is narrow."""
    return max(
        [
            20,
            *(
                _box_width(element, in_path=True)
                if isinstance(element, Box)
                else _width([element], box_width)
                for element in path
            ),
        ]
    )


def _box_width(box, in_path=False):
    """Width that a box needs; in a path of branches its label has two lines."""
    if in_path and not box.paths:
        words = (box.operation, box.settings)
        label = max(text_width(line, TEXT - 1) for line in words) + 12
    else:
        label = text_width(box.label, TEXT, bold=bool(box.paths)) + 20
        label += 44 if box.times > 1 else 0
    bars = 38 * len(box.paths) + 16 if box.paths else 0
    strips = max((text_width(strip, SMALL) + 10 for strip in box.strips), default=0)
    return max(label, bars, len(box.strips) * strips)
