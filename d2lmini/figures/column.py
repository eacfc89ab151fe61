"""From boxes to SVG: one net as a column of boxes, data flowing downwards.

Where all is known that the shapes follow from (`structure.network_data`), the SVG carries it in
`data-net`, and `data-of` says of boxes for which layers they stand, and of texts whose shape they
give ("total": they give the sums). The site's script computes with that; a figure without it is
the same picture.
"""

import json
from html import escape

from d2lmini.figures import svg
from d2lmini.figures.boxes import Box, Branches, Frame, alternative_text, boxes_in
from d2lmini.figures.structure import IN, layers_of, network_data, number_layers
from d2lmini.figures.style import KINDS, flops_text, shape_text, share_text
from d2lmini.figures.svg import FONT, SMALL, TEXT, text_width

__all__ = ["Column", "css_width"]

BOX, SLIM_BOX, TEXT_LINE, STRIP = 28, 21, 14, 17  # heights: boxes, a line of text, a strip
TITLE = 14  # font size of the label over the column
ARROW, ARROW_WITH_SHAPE = 16, 26  # lengths, without and with a shape beside the arrow
FRAME_PADDING, PATH_GAP, MARGIN = 9, 10, 5
NARROWEST_BOX, NARROWEST_PATH = 90, 20
DETAILS_WIDTH = 190  # no column is narrower, so that the details find room
MOST_BEHIND = 2  # equal boxes that peep out from behind a folded one
SMALLEST, LARGEST = 0.82, 1.15  # a column shrinks and grows with the page as far as this


class Column:
    """A net as a column: `width`, `height` and `kinds` of its boxes, `num_boxes` with details.

    root: its trace. elements: what `boxes.boxes_of` made of it. label: text over the column.
    """

    def __init__(self, root, elements, label=""):
        self.root, self.name, self.data = root, label or root.class_name, network_data(root)
        self.numbers = number_layers(root) if self.data else {}
        self.parts, self.details = [], []  # details: place (left, top, height) and lines of a box
        shape = root.input_shapes[0]
        start = "输入" + "、".join(map(shape_text, root.input_shapes))
        end = self.ends(elements)
        own = [NARROWEST_BOX, *(_box_width(box) for box in boxes_in(elements, in_branches=False))]
        self.own_width = max(own)
        size = _measure(elements, shape, self.own_width)
        num_left = len({x for x in root.layers if x.kind != "identity"} - self.drawn(elements))
        left_out = f"另有{num_left}层不在图中" if num_left else ""
        total = f"{root.params:,}个参数 · {flops_text(root.flops)}"
        words = [text_width(label, TITLE, bold=True), *(text_width(x, SMALL) for x in (start, end))]
        self.width = 2 * MARGIN + max(size.width, DETAILS_WIDTH, *words)
        middle, y = self.width / 2, MARGIN + 22 * bool(label)
        self.text(middle, MARGIN + 13, label, TITLE, bold=True)
        self.text(middle, y + 10, start, SMALL, of=self.numbers.get(IN))
        y, arrow_start = self.series(elements, middle, y + 15, y + 15)
        if end:
            self.arrow(middle, arrow_start, y + ARROW)
            of = self.numbers.get(root.outputs[0][0]) if root.outputs else None
            self.text(middle, y + ARROW + 11, end, SMALL, of=of)
            y += ARROW
        about = "total" if self.data else None
        self.text(middle, y + 28, total, SMALL, opacity=0.75, of=about)
        self.text(middle, y + 43, left_out, SMALL, opacity=0.75)
        self.height = y + 28 + 15 * bool(left_out) + MARGIN
        end, left_out = (f"；{end}" if end else ""), (f"；{left_out}" if left_out else "")
        inside = alternative_text(elements) or "直接相连"
        self.alt = (f"{self.name}的结构，数据自上而下：{start}；{inside}{end}。"
                    f"共{total}{left_out}。")  # fmt: skip
        boxes = list(boxes_in(elements))
        self.kinds = {box.kind for box in boxes}
        for kinds, _ in (path for box in boxes for path in box.paths or ()):
            self.kinds |= {*kinds, "join"}
        self.num_boxes = len(self.details)

    def ends(self, elements):
        """What the net gives, in words; '' where each of several paths has its own below it."""
        outputs = self.root.outputs
        last, items = elements[-1] if elements else None, self.root.items or [None]
        if len(outputs) > 1 and isinstance(last, Branches) and not last.join:
            inside = [set(layers_of(path)) for path in items[-1].paths]
            for layers in inside:
                others = set().union(*(other for other in inside if other is not layers))
                shapes = [s for x, s in outputs if x in layers or (not layers and x not in others)]
                last.ends.append("输出" + "、".join(map(shape_text, shapes)))
            return ""
        shapes = [shape for _, shape in outputs] or [self.root.shape]
        return "输出" + "、".join(map(shape_text, shapes))

    def drawn(self, elements):
        """All layers that boxes stand for."""
        return {layer for box in boxes_in(elements) for layer in box.layers}

    def svg(self, style="", place=""):
        """The column as SVG; `style` is a style sheet, `place` attributes in place of CSS."""
        page = (self.width, self.height)
        panels = [svg.details_panel(i, *details, page) for i, details in enumerate(self.details)]
        net = f" data-net='{json.dumps(self.data, separators=(',', ':'))}'" if self.data else ""
        place = place or f'style="{css_width(self.width)};height:auto"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="d2lm" role="group"{net} '
            f'aria-label="{escape(self.alt)}" viewBox="0 0 {self.width:g} {self.height:g}" '
            f'{place} font-family="{FONT}">'
            f"<title>{escape(self.name)}</title>{style}<desc>{escape(self.alt)}</desc>"
            f"{''.join(self.parts + panels)}</svg>"
        )

    def series(self, elements, middle, y, arrow_start, path_width=None):
        """Paint elements one under another from `y`; return their end, and the next arrow's start.

        `path_width` is that of their path inside branches.
        """
        in_path = path_width is not None
        for element in elements:
            size = element.size
            y += size.gap
            if size.gap == ARROW_WITH_SHAPE:
                of, words = self.numbers.get(size.shape_of), shape_text(size.shape)
                self.text(middle + 8, y - 11, words, SMALL, anchor="start", of=of)
            if isinstance(element, Box):
                self.arrow(middle, arrow_start, y)
                arrow_start = self.box(element, middle, y, path_width or self.own_width, in_path)
            elif isinstance(element, Frame):
                arrow_start = self.frame(element, middle, y, arrow_start)
            else:
                arrow_start = self.branches(element, middle, y, arrow_start, in_path)
            y += size.height
        return y, arrow_start

    def frame(self, frame, middle, top, arrow_start):
        """Paint a frame and the elements in it."""
        group, size = frame.group, frame.size
        left, title = middle - size.width / 2, _frame_title(frame)
        layers = [layer for box in boxes_in(frame.elements) for layer in box.layers]
        label = f"{group.class_name} {group.name}"
        self.start_group(label, frame.times, layers, (left, top, size.height))
        self.parts.append(svg.frame_outline(left, top, size.width, size.height))
        self.text(left + 8, top + 14, title, SMALL, anchor="start", bold=True)
        self.times(frame.times, left + size.width - 6, top + 14)
        self.parts.append("</g>")
        inside = top + FRAME_PADDING + (12 if title else 0)
        return self.series(frame.elements, middle, inside, arrow_start)[1]

    def branches(self, branches, middle, top, arrow_start, in_path):
        """Paint paths side by side, their ends in one line, and the box that joins them."""
        sizes = branches.size.paths
        total = sum(size.width for size in sizes) + PATH_GAP * (len(sizes) - 1)
        end = top + max(size.height for size in sizes) + ARROW
        left, centres = middle - total / 2, []
        for size in sizes:
            centres.append(left + size.width / 2)
            left += size.width + PATH_GAP
        self.line(middle, arrow_start, middle, top)
        self.line(centres[0], top, centres[-1], top)
        for path, size, centre in zip(branches.paths, sizes, centres, strict=True):
            y = end - ARROW - size.height
            self.arrow(centre, self.series(path, centre, y, top, size.width)[1], end)
        for words, centre in zip(branches.ends, centres, strict=False):
            self.text(centre, end + 11, words, SMALL)
        if branches.join:
            width = max(total, _box_width(branches.join))
            return self.box(branches.join, middle, end, width, in_path, joins=True)
        if not branches.ends:
            self.line(centres[0], end, centres[-1], end)
        return end

    def box(self, box, middle, top, width, in_path, joins=False):
        """Paint a box; return its bottom."""
        if box.is_slim and not in_path:
            width = max(0.6 * width, _box_width(box))
        left, body = middle - width / 2, _body_height(box, in_path, joins)
        height = body + (STRIP if box.strips else 0)
        self.start_group(box.label, box.times, box.layers, (left, top, height), box)
        num_behind = min(box.times - 1, MOST_BEHIND)
        for i in range(num_behind):
            self.parts.append(svg.box_behind(box.kind, left, top, width, height, 3 * (i + 1)))
        self.parts.append(svg.box_outline(box.kind, left, top, width, height))
        if box.paths:
            self.text(middle, top + 17, box.label, TEXT, bold=True)
            self.parts.append(svg.path_bars(box.paths, middle, top + 24, width))
        elif in_path and not joins and box.settings:
            lines = (box.operation, box.settings)
            self.parts.append(svg.two_line_text(middle, top + 15, *lines, TEXT - 1, TEXT_LINE))
        else:
            size = TEXT - 1 if in_path or box.is_slim or joins else TEXT
            self.text(middle, top + body / 2 + 0.36 * size, box.label, size)
        self.times(box.times, left + width - 8, top + body / 2 + 4)
        self.strips(box, left, top + body, width)
        self.parts.append("</g>")
        return top + height + 3 * num_behind

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
                lines.append("其后：" + "，".join(strip.label for strip in box.strips))
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
            self.text(x + step / 2, top + STRIP / 2 + 3.5, strip.label, SMALL)
            if i:
                self.line(x, top, x, top + STRIP, colour, 0.8)

    def times(self, times, x, y):
        """How often a folded box stands there, ending at x."""
        self.text(x, y, f"×{times}" if times > 1 else "", TEXT, anchor="end", bold=True)

    def text(self, *args, **options):
        self.parts.append(svg.text(*args, **options))

    def line(self, *args, **options):
        self.parts.append(svg.line(*args, **options))

    def arrow(self, x, start, end):
        self.parts.append(svg.arrow(x, start, end))


def css_width(width):
    """How wide a column of `width` units is shown, in CSS."""
    return (
        f"flex:1 1 {SMALLEST * width:.0f}px;min-width:{SMALLEST * width:.0f}px;"
        f"max-width:{LARGEST * width:.0f}px"
    )


class _Size:
    """What room an element, or a series of them, takes; of a series, what comes out of it."""

    def __init__(self, width=0, height=0, paths=()):
        self.width, self.height, self.paths = width, height, paths
        self.gap = 0  # of an element: the length of the arrow before it
        self.shape, self.shape_of, self.is_new = (), IN, False  # the data before an element


def _measure(elements, shape, own_width, in_path=False, shape_of=IN, enters_frame=False):
    """Give each element its `size`, once, and return that of the series.

    shape: of the data that come in, made by the layer `shape_of`. own_width: of boxes outside
    paths. enters_frame: the first element needs no gap above it.
    """
    series = _Size(0 if in_path else own_width)
    series.shape, series.shape_of = shape, shape_of
    for element in elements:
        shape, shape_of, is_new = series.shape, series.shape_of, series.is_new
        if isinstance(element, Box):
            box, size = element, _Size(_box_width(element, in_path), _box_height(element, in_path))
        elif isinstance(element, Frame):
            inside = _measure(element.elements, shape, own_width, False, shape_of, True)
            title = _frame_title(element)
            room = text_width(title, SMALL, bold=True) + 16 + 30 * (element.times > 1)
            size = _Size(max(inside.width + 2 * FRAME_PADDING, room),
                         inside.height + 2 * FRAME_PADDING + (12 if title else 0))  # fmt: skip
            box = None
        else:
            paths = [_measure(path, shape, own_width, True, shape_of) for path in element.paths]
            ends = element.ends or [""] * len(paths)
            for path, words in zip(paths, ends, strict=True):
                path.width = max(path.width, NARROWEST_PATH, text_width(words, SMALL))
            size = _Size(sum(path.width for path in paths) + PATH_GAP * (len(paths) - 1),
                         max(path.height for path in paths) + ARROW, paths)  # fmt: skip
            box, inside = element.join, paths[-1]
            inside.is_new = False
            if box:
                size.width = max(size.width, _box_width(box))
                size.height += _box_height(box, in_path, joins=True)
        size.gap = 0 if enters_frame else ARROW_WITH_SHAPE if is_new and not in_path else ARROW
        size.shape, size.shape_of, enters_frame = shape, shape_of, False
        element.size = size
        if box and box.layers:
            series.shape, series.shape_of = box.shape, box.layers[-1]
            series.is_new = box.shape != shape
        elif not box:
            series.shape, series.shape_of = inside.shape, inside.shape_of
            series.is_new = inside.is_new
        series.width = max(series.width, size.width)
        series.height += size.gap + size.height
    return series


def _frame_title(frame):
    return "" if frame.group.class_name == "Sequential" else frame.group.class_name


def _body_height(box, in_path, joins=False):
    """Height of a box without strips; in a path its label has two lines."""
    if box.paths:
        return (67 if any(words for _, words in box.paths) else 55) + svg.more_bars(box.paths)
    if in_path and not joins:
        return 2 * TEXT_LINE + 8
    return SLIM_BOX if box.is_slim or joins else BOX


def _box_height(box, in_path, joins=False):
    """Height of a box with its strips and those that peep out from behind it."""
    behind = 3 * min(box.times - 1, MOST_BEHIND)
    return _body_height(box, in_path, joins) + (STRIP if box.strips else 0) + behind


def _box_width(box, in_path=False):
    """Width that a box needs; in a path of branches its label has two lines."""
    if in_path and not box.paths:
        words = (box.operation, box.settings)
        label = max(text_width(line, TEXT - 1) for line in words) + 12
    else:
        label = text_width(box.label, TEXT, bold=bool(box.paths)) + 20
    label += 44 if box.times > 1 else 0
    bars = 38 * len(box.paths) + 16 if box.paths else 0
    strips = max((text_width(strip.label, SMALL) + 10 for strip in box.strips), default=0)
    return max(label, bars, len(box.strips) * strips)
