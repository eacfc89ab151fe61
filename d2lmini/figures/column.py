"""From boxes to SVG: one net as a column of boxes, data flowing downwards.

Where all is known that the shapes follow from (`structure.network_data`), the SVG carries it in
`data-net`, and `data-of` says of boxes for which layers they stand, and of texts whose shape they
give ("total": they give the sums). The site's script computes with that; a figure without it is
the same picture. A box tells its facts on pointing, in its `<title>`.
"""

import json
from collections.abc import Callable
from html import escape
from typing import NamedTuple

from d2lmini.figures import svg
from d2lmini.figures.boxes import Box, Branches, Frame, alternative_text, boxes_in
from d2lmini.figures.structure import IN, network_data, number_layers
from d2lmini.figures.style import KINDS, flops_text, shape_text, share_text
from d2lmini.figures.svg import FONT, SMALL, TEXT, TEXT_LINE, arrow, line, text, text_width

BOX, SLIM_BOX, STRIP = 28, 21, 17  # heights: boxes, a strip
TITLE = 14  # font size of the label over the column
ARROW, ARROW_WITH_SHAPE = 16, 26  # lengths, without and with a shape beside the arrow
FRAME_PADDING, PATH_GAP, MARGIN = 9, 10, 5
NARROWEST_COLUMN, NARROWEST_BOX, NARROWEST_PATH = 190, 90, 20
MOST_BEHIND = 2  # equal boxes that peep out from behind a folded one
SMALLEST, LARGEST = 0.82, 1.15  # a column shrinks and grows with the page as far as this


class _Data(NamedTuple):
    """What flows from one element to the next."""

    shape: tuple
    layer: object  # that made it, or IN
    is_new: bool = False  # whether its shape is to be said


class _Block(NamedTuple):
    """An element, or a series of them, laid out: the room it takes, and how to paint it."""

    width: float
    height: float
    data: _Data  # what comes out
    # (middle, top, start of the arrow to it, width of its boxes) -> start of the next arrow
    paint: Callable


class Column:
    """A net as a column: `width`, `height`, the `kinds` of its boxes, and `alt`, it in words.

    root: its trace. elements: what `boxes.boxes_of` made of it. label: text over the column.
    """

    def __init__(self, root, elements, label=""):
        self.root, self.name, self.data = root, label or root.class_name, network_data(root)
        self.numbers = number_layers(root) if self.data else {}
        boxes, last = list(boxes_in(elements)), elements[-1] if elements else None
        shapes = [shape for _, shape in root.outputs] or [root.shape]
        start = "输入" + "、".join(map(shape_text, root.input_shapes))
        end = "输出" + "、".join(map(shape_text, shapes))
        if is_forked := len(shapes) > 1 and isinstance(last, Branches) and not last.join:
            last.is_end = True
        drawn = {layer for box in boxes for layer in box.layers}
        num_left = len({x for x in root.layers if x.kind != "identity"} - drawn)
        left_out = f"另有{num_left}层不在图中" if num_left else ""
        total = f"{root.params:,}个参数 · {flops_text(root.flops)}"
        widths = (_box_width(box) for box in boxes_in(elements, in_branches=False))
        self.own_width = max([NARROWEST_BOX, *widths])
        inside = self.series(elements, _Data(root.input_shapes[0], IN))
        words = [text_width(label, TITLE, bold=True), *(text_width(x, SMALL) for x in (start, end))]
        self.width = 2 * MARGIN + max(inside.width, NARROWEST_COLUMN, *words)
        middle, top = self.width / 2, MARGIN + 15 + 22 * bool(label)
        bottom = top + inside.height + ARROW * (not is_forked)
        self.height = bottom + 28 + 15 * bool(left_out) + MARGIN
        of = self.numbers.get(root.outputs[0][0]) if root.outputs else None
        self.parts = [text(middle, MARGIN + 13, label, TITLE, bold=True),
                      text(middle, top - 5, start, SMALL, of=self.numbers.get(IN))]  # fmt: skip
        arrow_start = inside.paint(middle, top, top, self.own_width)
        self.parts += [
            "" if is_forked else arrow(middle, arrow_start, bottom),
            text(middle, bottom + 11, end, SMALL, of=of),
            text(middle, bottom + 28, total, SMALL, opacity=0.75, of="total" * bool(self.data)),
            text(middle, bottom + 43, left_out, SMALL, opacity=0.75),
        ]
        words = alternative_text(elements) or "直接相连"
        self.alt = (f"{self.name}的结构，数据自上而下：{start}；{words}；{end}。"
                    f"共{total}{left_out and '；'}{left_out}。")  # fmt: skip
        self.kinds = {box.kind for box in boxes}
        for kinds, _ in (path for box in boxes for path in box.paths or ()):
            self.kinds |= {*kinds, "join"}

    def svg(self, style="", place=""):
        """The column as SVG; `style` is a style sheet, `place` attributes in place of CSS."""
        net = f" data-net='{json.dumps(self.data, separators=(',', ':'))}'" if self.data else ""
        place = place or f'style="{css_width(self.width)};height:auto"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="d2lm" role="group"{net} '
            f'aria-label="{escape(self.alt)}" viewBox="0 0 {self.width:g} {self.height:g}" '
            f'{place} font-family="{FONT}">'
            f"<title>{escape(self.name)}</title>{style}{''.join(self.parts)}</svg>"
        )

    def series(self, elements, data, in_path=False, enters_frame=False):
        """Lay out elements one under another, outside paths at least as wide as their boxes.

        data: what comes in. enters_frame: the first element needs no gap above it.
        """
        placed, width, height = [], 0 if in_path else self.own_width, 0
        for element in elements:
            if isinstance(element, Box):
                block = self.box(element, data, in_path)
            elif isinstance(element, Frame):
                block = self.frame(element, data)
            else:
                block = self.branches(element, data, in_path)
            says_shape = data.is_new and not in_path and not enters_frame
            gap = 0 if enters_frame else ARROW_WITH_SHAPE if says_shape else ARROW
            placed.append((gap, data if says_shape else None, block))
            width, height = max(width, block.width), height + gap + block.height
            data, enters_frame = block.data, False

        def paint(middle, y, arrow_start, own_width):
            for gap, data, block in placed:
                y += gap
                if data:
                    of, words = self.numbers.get(data.layer), shape_text(data.shape)
                    self.put(text(middle + 8, y - 11, words, SMALL, anchor="start", of=of))
                arrow_start = block.paint(middle, y, arrow_start, own_width)
                y += block.height
            return arrow_start

        return _Block(width, height, data, paint)

    def frame(self, frame, data):
        """Lay out a frame and the elements in it."""
        group, inside = frame.group, self.series(frame.elements, data, enters_frame=True)
        title = "" if group.class_name == "Sequential" else group.class_name
        above = FRAME_PADDING + 12 * bool(title)
        room = text_width(title, SMALL, bold=True) + 16 + 30 * (frame.times > 1)
        width = max(inside.width + 2 * FRAME_PADDING, room)
        height = above + inside.height + FRAME_PADDING

        def paint(middle, top, arrow_start, own_width):
            left = middle - width / 2
            layers = [layer for box in boxes_in(frame.elements) for layer in box.layers]
            self.start_group(f"{group.class_name} {group.name}", frame.times, layers)
            self.put(svg.rect(left, top, width, height, 8, svg.FRAME),
                     text(left + 8, top + 14, title, SMALL, anchor="start", bold=True),
                     _times(frame.times, left + width - 6, top + 14), "</g>")  # fmt: skip
            return inside.paint(middle, top + above, arrow_start, own_width)

        return _Block(width, height, inside.data, paint)

    def branches(self, branches, data, in_path):
        """Lay out paths side by side, their ends in one line, and the box that joins them."""
        paths = [self.series(path, data, in_path=True) for path in branches.paths]
        widths = [max(path.width, NARROWEST_PATH) for path in paths]
        total = sum(widths) + PATH_GAP * (len(paths) - 1)
        depth = max(path.height for path in paths) + ARROW
        join = self.box(branches.join, data, in_path, joins=True) if branches.join else None
        after = join.data if join else paths[-1].data._replace(is_new=False)
        width = max(total, join.width if join else 0)

        def paint(middle, top, arrow_start, own_width):
            end, left, centres = top + depth, middle - total / 2, []
            for path_width in widths:
                centres.append(left + path_width / 2)
                left += path_width + PATH_GAP
            self.put(
                line(middle, arrow_start, middle, top), line(centres[0], top, centres[-1], top)
            )
            for path, path_width, centre in zip(paths, widths, centres, strict=True):
                arrow_start = path.paint(centre, end - ARROW - path.height, top, path_width)
                self.put(arrow(centre, arrow_start, end))
            if join:
                return join.paint(middle, end, None, width)
            if not branches.is_end:
                self.put(line(centres[0], end, centres[-1], end))
            return end

        return _Block(width, depth + (join.height if join else 0), after, paint)

    def box(self, box, data, in_path=False, joins=False):
        """Lay out a box, its strips, and equal boxes that peep out from behind it."""
        is_slim, in_lines = box.is_slim or joins, in_path and not joins
        body = 2 * TEXT_LINE + 8 if in_lines else SLIM_BOX if is_slim else BOX
        if box.paths:
            body = 55 + 12 * any(words for _, words in box.paths) + svg.more_bars(box.paths)
        height, num_behind = body + STRIP * bool(box.strips), min(box.times - 1, MOST_BEHIND)
        needed = _box_width(box, in_lines)
        if box.layers:
            data = _Data(box.shape, box.layers[-1], box.shape != data.shape)

        def paint(middle, top, arrow_start, width):
            if not joins:
                self.put(arrow(middle, arrow_start, top))
            width = max(0.6 * width, needed) if box.is_slim and not in_path else width
            left = middle - width / 2
            self.start_group(box.label, box.times, box.layers, box)
            for i in range(num_behind):
                self.put(svg.box_behind(box.kind, left, top, width, height, 3 * (i + 1)))
            self.put(svg.box_outline(box.kind, left, top, width, height))
            if box.paths:
                self.put(text(middle, top + 17, box.label, TEXT, bold=True),
                         svg.path_bars(box.paths, middle, top + 24, width))  # fmt: skip
            elif in_lines and box.head.settings:
                words = {"words": box.head.operation, "below": box.head.settings}
                self.put(text(middle, top + 15, size=TEXT - 1, **words))
            else:
                size = TEXT - 1 if in_path or is_slim else TEXT
                self.put(text(middle, top + body / 2 + 0.36 * size, box.label, size))
            self.put(_times(box.times, left + width - 8, top + body / 2 + 4))
            colour, step, y = KINDS[box.kind][0], width / max(len(box.strips), 1), top + body
            for i, strip in enumerate(box.strips):  # side by side under the box
                x = left + i * step
                self.put(line(x, y, x + step, y, colour, 0.8),
                         text(x + step / 2, y + STRIP / 2 + 3.5, strip.label, SMALL),
                         line(x, y, x, y + STRIP, colour, 0.8) if i else "")  # fmt: skip
            self.put("</g>")
            return top + height + 3 * num_behind

        return _Block(needed, height + 3 * num_behind, data, paint)

    def start_group(self, label, times, layers, box=None):
        """Open the group of a box or frame, with what it tells on pointing."""
        params = sum(layer.params for layer in layers)
        flops = sum(layer.flops for layer in layers)
        shape = shape_text(layers[-1].shape) if layers else ""
        lines = [label + (f" ×{times}（合计）" if times > 1 else "")]
        stands_for = " ".join(str(self.numbers[layer]) for layer in layers if self.numbers)
        data = f' data-of="{stands_for}"' if stands_for else ""
        if box:
            data += (f' data-kind="{box.kind}" data-shape="{shape}" data-params="{params}" '
                     f'data-flops="{flops}"')  # fmt: skip
            if box.strips:
                lines.append("其后：" + "，".join(strip.label for strip in box.strips))
            if box.facts:
                lines.append("，".join(f"{name}{value}" for name, value in box.facts))
        lines += [
            f"输出{shape}",
            f"参数{params:,}，占{share_text(params, self.root.params)}",
            f"FLOPs {flops:,}，占{share_text(flops, self.root.flops)}",
        ]
        title = escape("\n".join(lines))
        self.parts.append(f'<g class="d2lm-box" role="img"{data}><title>{title}</title>')

    def put(self, *parts):
        self.parts += parts


def css_width(width):
    """How wide a column of `width` units is shown, in CSS."""
    return (
        f"flex:1 1 {SMALLEST * width:.0f}px;min-width:{SMALLEST * width:.0f}px;"
        f"max-width:{LARGEST * width:.0f}px"
    )


def _times(times, x, y):
    """How often a folded box stands there, ending at x."""
    return text(x, y, f"×{times}" if times > 1 else "", TEXT, anchor="end", bold=True)


def _box_width(box, in_lines=False):
    """Width that a box needs; in a path of branches its label has two lines."""
    if in_lines and not box.paths:
        words = (box.head.operation, box.head.settings)
        label = max(text_width(x, TEXT - 1) for x in words) + 12
    else:
        label = text_width(box.label, TEXT, bold=bool(box.paths)) + 20
    label += 44 if box.times > 1 else 0
    bars = 38 * len(box.paths) + 16 if box.paths else 0
    strips = max((text_width(strip.label, SMALL) + 10 for strip in box.strips), default=0)
    return max(label, bars, len(box.strips) * strips)
