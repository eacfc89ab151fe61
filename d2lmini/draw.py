"""Architecture figures as inline SVG, drawn from the modules themselves.

`draw` traces each net (`d2lmini.trace`), turns the layers into boxes (`_units`), lays them out top
down in one column a net (`_Column`) and displays the columns side by side; on a narrow screen they
wrap. What a box stands for appears on pointing and on keyboard focus, by CSS alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

from IPython.display import display

from d2lmini.svg import Picture
from d2lmini.trace import Group, Layer, Parallel, trace

__all__ = ["draw"]

# kind -> (colour, outline, name in the legend); outlines tell the kinds apart without colour.
KINDS = {
    "conv": ("#2f7fd1", "solid", "卷积层"),
    "pool": ("#e08a1e", "dashed", "池化层"),
    "fc": ("#2e9e5b", "double", "全连接层"),
    "join": ("#9a63c7", "round", "合并路径"),
    "module": ("#c9527f", "sides", "含并行路径的块"),
    "other": ("#8a8a8a", "dotted", "其他"),
}
FONT = "Arial,'Helvetica Neue',Helvetica,'Liberation Sans','DejaVu Sans',sans-serif"
TEXT, SMALL = 12, 11  # font sizes
SMALLEST, LARGEST = 0.82, 1.15  # a figure shrinks and grows with the page as far as this
ROW, LINE, STRIP, SLIM = 28, 14, 17, 21  # heights of a box, a text line, a strip, a low box
SHORT, LONG = 16, 26  # arrows, without and with an output shape beside them
PAD, COLUMN_GAP, MARGIN = 9, 10, 5
TIP_WIDTH = 190  # no column is narrower, so that the details find room
MANY_MODULES = 7  # with more blocks of parallel paths in a figure, equal ones are folded

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
        class name. Shapes, parameters and FLOPs are measured by running the net (see `trace`).
    input_shape: one shape for all nets, or a list with one shape a net; batch axis first.
    caption: text under the figure. labels: names over the columns.

    >>> draw(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), input_shape=(1, 1, 28, 28))
    """
    svgs, alts, sizes = zip(*_columns(nets, input_shape, labels), strict=True)
    kinds = [kind for kind, (colour, *_) in KINDS.items() if any(colour in svg for svg in svgs)]
    boxes = max(svg.count('class="d2lm-box') for svg in svgs)
    rules = ",".join(
        f".d2lm-b{i}:hover~.d2lm-t{i},.d2lm-b{i}:focus~.d2lm-t{i}" for i in range(boxes)
    )
    # The style stands inside the first SVG, so that it is valid in HTML's body.
    style = f"<style>{STYLE}{rules}{{visibility:visible}}</style>"
    first = svgs[0].replace("</title>", f"</title>{style}", 1)
    body = (
        f'<div style="display:flex;flex-wrap:wrap;gap:12px;justify-content:center;'
        f'align-items:flex-start">{"".join(_stacked((first, *svgs[1:]), sizes))}</div>'
        f"{_legend(kinds)}"
    )
    display(Picture(body, alt=" ".join(alts), caption=caption))


def _stacked(svgs, sizes):
    """The columns as HTML; where they are more than three, short neighbours share one."""
    tallest = max(height for _, height in sizes)
    groups, room = [], 0
    for svg, (width, height) in zip(svgs, sizes, strict=True):
        if len(svgs) > 3 and groups and height <= room:
            groups[-1].append((svg, width))
        else:
            groups.append([(svg, width)])
            room = tallest
        room -= height
    for group in groups:
        if len(group) == 1:
            yield group[0][0]
        else:
            inside = "".join(svg for svg, _ in group)
            yield f'<div style="{_flex(max(width for _, width in group))}">{inside}</div>'


def _flex(width):
    """How wide a column of `width` units is shown, in CSS."""
    return (
        f"flex:1 1 {SMALLEST * width:.0f}px;min-width:{SMALLEST * width:.0f}px;"
        f"max-width:{LARGEST * width:.0f}px"
    )


def traces(nets, input_shape, labels):
    """Check the arguments of `draw` and `show_costs`; return (label, shape, root) for each net."""
    if not nets:
        raise TypeError("no net given: pass at least one nn.Module")
    if isinstance(input_shape, (str, int)) or not len(input_shape):
        raise TypeError(
            f"input_shape must be a shape such as (1, 1, 224, 224) or a list of "
            f"shapes, got {input_shape!r}"
        )
    shapes = [input_shape] * len(nets) if isinstance(input_shape[0], int) else list(input_shape)
    labels = [""] * len(nets) if labels is None else list(labels)
    for name, values in (("input_shape", shapes), ("labels", labels)):
        if len(values) != len(nets):
            raise ValueError(
                f"{name} has {len(values)} entries for {len(nets)} nets: give one for each"
            )
    return [
        (label, tuple(shape), trace(net, shape))
        for label, shape, net in zip(labels, shapes, nets, strict=True)
    ]


def _columns(nets, input_shape, labels):
    """(SVG text, alternative text, (width, height)) for each net."""
    traced = traces(nets, input_shape, labels)
    modules = sum(_count_modules(root.items) for _, _, root in traced)
    detail = "paths" if modules <= 2 else "widths" if modules <= MANY_MODULES else "name"
    for label, shape, root in traced:
        if root.items is None:
            units = [Block("other", root.class_name, layers=root.layers)]
        else:
            units = _units(root.items, detail)
        wide = max([90, *map(_wide, _main_blocks(units))])
        yield _Column(root, wide, shape[1:]).svg(units, label)


def _count_modules(items):
    """How many groups with parallel paths there are, the net itself included."""
    items = items or ()
    return any(isinstance(item, Parallel) for item in items) + sum(
        _count_modules(item.items) for item in items if isinstance(item, Group)
    )


# --- from layers to boxes -------------------------------------------------------------------------


@dataclass
class Block:
    """A box: one layer (or a whole module) and the elementwise layers that follow it."""

    kind: str
    head: str
    tail: str = ""
    facts: tuple = ()
    layers: list = field(default_factory=list)
    strips: list = field(default_factory=list)  # names of the elementwise layers
    paths: list | None = None  # of a module: a list of kinds and a width for each path
    times: int = 1

    @property
    def label(self):
        return Layer("", self.kind, self.head, self.tail).label

    @property
    def shape(self):
        return self.layers[-1].shape if self.layers else ()

    @property
    def minor(self):
        """Whether the box may be low: it only reshapes, or applies a function to each element."""
        return bool(self.layers) and self.layers[0].kind in ("reshape", "elementwise")

    def signature(self):
        shape = self.shape[1:] if self.kind == "module" else self.shape
        return self.label, tuple(self.strips), shape, repr(self.paths)


@dataclass
class Frame:
    """A dashed frame around the boxes of one group."""

    group: Group
    units: list
    times: int = 1

    def signature(self):
        return tuple(unit.signature() for unit in self.units)


@dataclass
class Fork:
    """Paths side by side, and the box that joins them (None: each is an output of its own)."""

    paths: list
    join: Block | None = None

    def signature(self):
        return tuple(unit.signature() for path in self.paths for unit in path)


def _units(items, detail, framed=True):
    """Turn items of a trace into Blocks, Frames and Forks; fold equal neighbours."""
    units = []
    for item in items:
        last = units[-1] if units else None
        host = last.join if isinstance(last, Fork) else last if isinstance(last, Block) else None
        if isinstance(item, Parallel):
            units.append(Fork([_units(path, detail, framed=False) for path in item.paths]))
        elif isinstance(item, Group):
            units += _group(item, detail, framed)
        elif item.kind == "join" and isinstance(last, Fork) and last.join is None:
            last.join = _block(item)
        elif item.kind == "elementwise" and host:
            host.strips.append(item.label)
            host.layers.append(item)
        else:
            units.append(_block(item))
    return _fold(units)


def _block(layer):
    kind = layer.kind if layer.kind in KINDS else "other"
    return Block(kind, layer.head, layer.tail, layer.facts, [layer])


def _group(group, detail, framed):
    """Units for a group: one box, a frame, or (inside a path, or for a single box) no frame."""
    if group.items is None:
        return [Block("other", group.class_name, layers=list(group.layers))]
    parallel = next((item for item in group.items if isinstance(item, Parallel)), None)
    if parallel and detail != "paths":
        if detail == "name":
            paths, tail = [(kinds, "") for kinds, _ in map(_thumbnail, parallel.paths)], ""
        else:
            paths, tail = list(map(_thumbnail, parallel.paths)), f"({group.shape[0]})"
        return [Block("module", group.class_name, tail, layers=list(group.layers), paths=paths)]
    units = _units(group.items, detail, framed)
    return [Frame(group, units)] if framed and (parallel or len(units) > 1) else units


def _thumbnail(path):
    """The kinds of the boxes on a path and the number of channels at its end."""
    layers = Parallel([path]).layers
    kinds = [
        layer.kind if layer.kind in KINDS else "other"
        for layer in layers
        if layer.kind != "elementwise"
    ]
    return kinds, str(layers[-1].shape[0]) if layers else ""


def _fold(units):
    """Merge equal neighbours into one unit with `times`."""
    folded = []
    for unit in units:
        last = folded[-1] if folded else None
        if (
            isinstance(unit, (Block, Frame))
            and type(last) is type(unit)
            and (last.signature() == unit.signature())
        ):
            last.times += 1
            for block, other in zip(_blocks([last]), _blocks([unit]), strict=True):
                block.layers += other.layers  # a folded box stands for all of them
        else:
            folded.append(unit)
    return folded


# --- from boxes to SVG ----------------------------------------------------------------------------


class _Column:
    """The SVG of one net, drawn from the top down.

    `y` is the next free height, `tail` the height from which the next arrow starts, `shape` the
    shape of the data there and `note` what is to be written beside that arrow. `wide` is the width
    of the boxes in the main column.
    """

    def __init__(self, root, wide, shape):
        self.root, self.wide, self.shape = root, wide, shape
        self.parts, self.tips = [], []  # tips: place and lines of each box's details
        self.y = self.tail = 0
        self.note = ""
        self.entering = False  # just inside a frame, where no gap is needed

    def svg(self, units, label):
        """Return the SVG text, the alternative text and (width, height)."""
        width = max(_width(units, self.wide), _text_width(label, 14, bold=True), TIP_WIDTH)
        width += 2 * MARGIN
        middle, start = width / 2, f"输入{_shape(self.shape)}"
        self.y = MARGIN
        if label:
            self.text(middle, self.y + 13, label, 14, bold=True)
            self.y += 22
        self.text(middle, self.y + 10, start, SMALL)
        self.y = self.tail = self.y + 15
        self.series(units, middle)
        self.arrow(middle, self.tail, self.y + SHORT)
        end = f"输出{_shape(self.shape)}"
        total = f"{self.root.params:,}个参数 · {_flops(self.root.flops)}"
        self.text(middle, self.y + SHORT + 11, end, SMALL)
        self.text(middle, self.y + SHORT + 28, total, SMALL, opacity=0.75)
        height = self.y + SHORT + 28 + MARGIN
        tips = [_tip(index, *tip, width, height) for index, tip in enumerate(self.tips)]
        name = label or self.root.class_name
        alt = f"{name}的结构，数据自上而下：{start}；{_describe(units)}；{end}。共{total}。"
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="d2lm" role="group" '
            f'aria-label="{escape(alt)}" viewBox="0 0 {width:g} {height:g}" '
            f'style="{_flex(width)};height:auto" font-family="{FONT}">'
            f"<title>{escape(name)}</title><desc>{escape(alt)}</desc>"
            f"{''.join(self.parts + tips)}</svg>"
        )
        return svg, alt, (width, height)

    def series(self, units, middle, narrow=None):
        """Place units one under another. `narrow` is the width of their path inside a fork."""
        for unit in units:
            self.advance(middle, narrow)
            if isinstance(unit, Block):
                self.arrow(middle, self.tail, self.y)
                self.block(unit, middle, narrow or self.wide, narrow)
            elif isinstance(unit, Frame):
                self.frame(unit, middle)
            else:
                self.fork(unit, middle, narrow)

    def height(self, units, narrow=None, entering=False):
        """The height that `series` would use."""
        scratch = _Column(self.root, self.wide, self.shape)
        scratch.entering = entering
        scratch.series(units, 0, narrow)
        return scratch.y

    def advance(self, middle, narrow):
        """Leave room for an arrow and write the shape beside it when it has changed."""
        if not self.entering:
            beside = self.note and not narrow
            if beside:
                self.text(middle + 8, self.y + LONG / 2 + 2, self.note, SMALL, anchor="start")
            self.y += LONG if beside else SHORT
            self.note = ""
        self.entering = False

    def frame(self, frame, middle):
        """Draw a frame and the units in it."""
        group, top, width = frame.group, self.y, _width([frame], self.wide)
        title = "" if group.class_name == "Sequential" else group.class_name
        above = PAD + (12 if title else 0)
        height = above + self.height(frame.units, entering=True) + PAD
        left = middle - width / 2
        layers = [layer for block in _blocks(frame.units) for layer in block.layers]
        self.open(f"{group.class_name} {group.name}", frame.times, layers, left, top, height)
        self.parts.append(
            f'<rect class="d2lm-edge" x="{left:g}" y="{top:g}" width="{width:g}" '
            f'height="{height:g}" rx="8" fill="#888" fill-opacity=".07" stroke="#888" '
            f'stroke-width="1" stroke-dasharray="2 3"/>'
        )
        self.text(left + 8, top + 14, title, SMALL, anchor="start", bold=True)
        self.times(frame.times, left + width - 6, top + 14)
        self.parts.append("</g>")
        self.y += above
        self.entering = True
        self.series(frame.units, middle)
        self.y += PAD

    def fork(self, fork, middle, narrow):
        """Draw paths side by side, their ends in one line, and the box that joins them."""
        start, shape = self.y, self.shape
        widths = [_path_width(path, self.wide) for path in fork.paths]
        heights = [self.height(*path) for path in zip(fork.paths, widths, strict=True)]
        total = sum(widths) + COLUMN_GAP * (len(widths) - 1)
        end = start + max(heights) + SHORT
        lefts = [middle - total / 2 + sum(widths[:i]) + COLUMN_GAP * i for i in range(len(widths))]
        centres = [left + width / 2 for left, width in zip(lefts, widths, strict=True)]
        self.line(middle, self.tail, middle, start)
        self.line(centres[0], start, centres[-1], start)
        for path, width, height, centre in zip(fork.paths, widths, heights, centres, strict=True):
            self.y, self.tail, self.shape = end - SHORT - height, start, shape
            self.series(path, centre, width)
            self.arrow(centre, self.tail, end)
        self.y = self.tail = end
        self.note = ""
        if fork.join:
            self.shape = shape
            self.block(fork.join, middle, max(total, 60), narrow, joins=True)

    def block(self, block, middle, width, narrow, joins=False):
        """Draw a box at `y`; afterwards `y` and `tail` are at its bottom."""
        low = block.minor or joins
        if block.minor and not narrow:
            width = max(0.6 * width, _wide(block))
        top, left = self.y, middle - width / 2
        two_lines = narrow and not joins
        body = 2 * LINE + 8 if two_lines else SLIM if low else ROW
        if block.paths:
            body = 67 if any(channels for _, channels in block.paths) else 55
        height = body + (STRIP if block.strips else 0)
        self.open(block.label, block.times, block.layers, left, top, height, block)
        cards = min(block.times - 1, 2)  # more boxes like it, peeping out from behind
        for i in range(cards):
            self.parts.append(_card(block.kind, left, top, width, height, 3 * (i + 1)))
        self.parts.append(_rect(block.kind, left, top, width, height))
        if block.paths:
            self.text(middle, top + 17, block.label, TEXT, bold=True)
            self.thumbnail(block.paths, middle, top + 24, width)
        elif two_lines and block.tail:
            self.parts.append(
                f'<text x="{middle:g}" y="{top + 15:g}" font-size="{TEXT - 1}" '
                f'text-anchor="middle">{escape(block.head)} <tspan x="{middle:g}" dy="{LINE}">'
                f"{escape(block.tail)}</tspan></text>"
            )
        else:
            size = TEXT - 1 if narrow or low else TEXT
            self.text(middle, top + body / 2 + 0.36 * size, block.label, size)
        self.times(block.times, left + width - 8, top + body / 2 + 4)
        self.strips(block, left, top + body, width)
        self.parts.append("</g>")
        self.y = self.tail = top + height + 3 * cards
        if block.shape != self.shape:
            self.shape, self.note = block.shape, _shape(block.shape)

    def open(self, label, times, layers, left, top, height, block=None):
        """Open the group of a box, and note the details that it shows on pointing and focus."""
        params = sum(layer.params for layer in layers)
        flops = sum(layer.flops for layer in layers)
        shape = _shape(layers[-1].shape) if layers else ""
        lines = [label + (f" ×{times}（合计）" if times > 1 else "")]
        data = ""
        if block:
            names = " ".join(layer.name for layer in layers if layer.name)
            data = (
                f' data-kind="{block.kind}" data-layers="{escape(names)}" data-shape="{shape}" '
                f'data-params="{params}" data-flops="{flops}"'
            )
            if block.strips:
                lines.append("其后：" + "，".join(block.strips))
            if block.facts:
                lines.append("，".join(f"{name}{value}" for name, value in block.facts))
        lines += [
            f"输出{shape}",
            f"参数{params:,}，占{share(params, self.root.params)}",
            f"FLOPs {flops:,}，占{share(flops, self.root.flops)}",
        ]
        self.parts.append(
            f'<g class="d2lm-box d2lm-b{len(self.tips)}" tabindex="0" role="img"{data} '
            f'aria-label="{escape("；".join(lines))}"><title>{escape(label)}</title>'
        )
        self.tips.append((left, top, height, lines))

    def strips(self, block, left, top, width):
        """The elementwise layers under a box, side by side."""
        colour, step = KINDS[block.kind][0], width / max(len(block.strips), 1)
        for i, strip in enumerate(block.strips):
            x = left + i * step
            self.line(x, top, x + step, top, colour, 0.8)
            self.text(x + step / 2, top + STRIP / 2 + 3.5, strip, SMALL)
            if i:
                self.line(x, top, x, top + STRIP, colour, 0.8)

    def thumbnail(self, paths, middle, top, width):
        """A small picture of parallel paths: a bar for each layer, the channels under each path."""
        step = min(44, (width - 16) / len(paths))
        bar = step - 8
        centres = [middle + (i - (len(paths) - 1) / 2) * step for i in range(len(paths))]
        self.line(centres[0], top, centres[-1], top, width=0.8)
        for (kinds, channels), x in zip(paths, centres, strict=True):
            self.line(x, top, x, top + 22, width=0.8)
            for i, kind in enumerate(reversed(kinds[-2:])):
                self.bar(kind, x - bar / 2, top + 12 - 8 * i, bar)
            self.text(x, top + 37, channels, SMALL)
        self.bar("join", centres[0] - bar / 2, top + 21, centres[-1] - centres[0] + bar)

    def bar(self, kind, x, y, width):
        """One layer in a thumbnail."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="5" rx="1.5" '
            f'fill="{KINDS[kind][0]}"/>'
        )

    def times(self, times, x, y):
        """How often a folded box stands there, ending at x."""
        self.text(x, y, f"×{times}" if times > 1 else "", TEXT, anchor="end", bold=True)

    def text(self, *args, **options):
        self.parts.append(_text(*args, **options))

    def line(self, x1, y1, x2, y2, colour="currentColor", width=1.2):
        self.parts.append(
            f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" fill="none" stroke="{colour}" '
            f'stroke-width="{width}"/>'
        )

    def arrow(self, x, y1, y2):
        self.line(x, y1, x, y2 - 5)
        self.parts.append(
            f'<path d="M{x - 3.5:g} {y2 - 7:g}h7L{x:g} {y2:g}z" fill="currentColor"/>'
        )


def _tip(index, left, top, height, lines, page_width, page_height):
    """The panel with the details of box `index`, above it or, for lack of room, below."""
    width = max(_text_width(line, SMALL, bold=i == 0) for i, line in enumerate(lines)) + 16
    tall = 15 * len(lines) + 9
    x = max(1, min(left, page_width - width - 1))
    y = top - tall - 3 if top - tall - 3 > 0 else top + height + 3
    y = max(1, min(y, page_height - tall - 1))
    texts = [
        _text(x + 8, y + 16 + 15 * i, line, SMALL, anchor="start", bold=i == 0)
        for i, line in enumerate(lines)
    ]
    return (
        f'<g class="d2lm-tip d2lm-t{index}" visibility="hidden" pointer-events="none" '
        f'aria-hidden="true"><rect x="{x:g}" y="{y:g}" width="{width:g}" height="{tall}" '
        f'rx="5" fill="#26323f" stroke="#9aa7b4"/>{"".join(texts)}</g>'
    )


def _blocks(units):
    """All blocks in units, in their order."""
    for unit in units:
        if isinstance(unit, Block):
            yield unit
        elif isinstance(unit, Frame):
            yield from _blocks(unit.units)
        else:
            for path in unit.paths:
                yield from _blocks(path)
            if unit.join:
                yield unit.join


def _main_blocks(units):
    """Blocks placed in the main column (not on the paths of a fork)."""
    for unit in units:
        if isinstance(unit, Block):
            yield unit
        elif isinstance(unit, Frame):
            yield from _main_blocks(unit.units)


def _wide(block):
    """Width of a box with its label on one line."""
    label = _text_width(block.label, TEXT, bold=bool(block.paths)) + 20
    thumbnail = 38 * len(block.paths) + 16 if block.paths else 0
    return max(label + (44 if block.times > 1 else 0), thumbnail, _strips_width(block))


def _strips_width(block):
    return len(block.strips) * (max((_text_width(s, SMALL) for s in block.strips), default=0) + 10)


def _path_width(path, wide):
    """Width of a path in a fork, whose boxes have two lines; a skip connection is narrow."""
    widths = [20]
    for unit in path:
        if isinstance(unit, Block):
            widths += [
                _text_width(unit.head, TEXT - 1) + 12,
                _text_width(unit.tail, TEXT - 1) + 12,
                _strips_width(unit),
            ]
            if unit.paths:
                widths.append(_wide(unit))
        else:
            widths.append(_width([unit], wide))
    return max(widths)


def _width(units, wide):
    """Width of units in a column whose boxes are `wide`."""
    widths = [wide]
    for unit in units:
        if isinstance(unit, Frame):
            widths.append(_width(unit.units, wide) + 2 * PAD)
        elif isinstance(unit, Fork):
            paths = [_path_width(path, wide) for path in unit.paths]
            widths.append(sum(paths) + COLUMN_GAP * (len(paths) - 1))
    return max(widths)


def _rect(kind, x, y, width, height):
    """A box in the colour and outline of its kind."""
    colour, outline, _ = KINDS[kind]
    radius = min(height / 2, 13) if outline == "round" else min(5, height / 4)
    dash = {"dashed": ' stroke-dasharray="6 3"', "dotted": ' stroke-dasharray="1.5 2.5"'}
    rect = (
        f'<rect class="d2lm-edge" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
        f'rx="{radius:g}" fill="{colour}" stroke="{colour}" fill-opacity=".17" stroke-width="1.5"'
        f"{dash.get(outline, '')}/>"
    )
    if outline == "double":
        rect += (
            f'<rect x="{x + 3:g}" y="{y + 3:g}" width="{width - 6:g}" height="{height - 6:g}" '
            f'rx="3" fill="none" stroke="{colour}" stroke-width=".8"/>'
        )
    if outline == "sides":
        rect += (
            f'<path d="M{x + 5:g} {y:g}v{height:g}M{x + width - 5:g} {y:g}v{height:g}" '
            f'fill="none" stroke="{colour}"/>'
        )
    return rect


def _card(kind, x, y, width, height, offset):
    """What shows of an equal box that lies `offset` behind a box."""
    return (
        f'<path d="M{x + width:g} {y + offset:g}h{offset - 4:g}q4 0 4 4v{height - 8:g}q0 4-4 4'
        f'h{8 - width:g}q-4 0-4-4v{4 - offset:g}" fill="none" stroke="{KINDS[kind][0]}" '
        f'stroke-width="1.2"/>'
    )


def _legend(kinds):
    """One swatch and name a kind, as a line of HTML that wraps."""
    items = "".join(
        f'<span style="white-space:nowrap;margin:0 .6em"><svg xmlns="http://www.w3.org/2000/svg" '
        f'width="26" height="16" aria-hidden="true" style="vertical-align:-3px">'
        f"{_rect(kind, 1, 1, 24, 14)}</svg> {KINDS[kind][2]}</span>"
        for kind in kinds
    )
    return f'<div style="font-size:.85em;margin-top:.5em;text-align:center">{items}</div>'


def _text(x, y, text, size, anchor="middle", bold=False, opacity=1):
    """SVG text; nothing for an empty one."""
    weight = ' font-weight="bold"' if bold else ""
    faint = f' opacity="{opacity}"' if opacity != 1 else ""
    place = f'x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"'
    return f"<text {place}{weight}{faint}>{escape(text)}</text>" if text else ""


def _text_width(text, size, bold=False):
    """An upper estimate of a text's width in pixels, for the widest of the fonts (DejaVu Sans)."""
    em = sum(
        1.0 if ord(c) > 0x2E80 else 0.36 if c in " ,.:'()|il" else 0.88 if c in "×mwMW→·" else 0.66
        for c in text
    )
    return round(em * size * (1.1 if bold else 1), 1)


def _shape(shape):
    return "×".join(map(str, shape))


def share(part, whole):
    """A share as text: 0%, <0.1%, 3.6%."""
    percent = 100 * part / whole if whole else 0
    return "<0.1%" if 0 < percent < 0.05 else f"{percent:.1f}%" if percent else "0%"


def _flops(flops):
    digits = 0 if flops >= 1e7 else 2
    return f"{flops / 1e6:,.{digits}f} MFLOPs" if flops >= 1e5 else f"{flops:,} FLOPs"


def _describe(units):
    """Units in words, for the alternative text."""
    words = []
    for unit in units:
        if isinstance(unit, Block):
            words.append(
                "、".join([unit.label, *unit.strips])
                + (f"（×{unit.times}）" if unit.times > 1 else "")
            )
        elif isinstance(unit, Frame):
            words.append(
                f"[{_describe(unit.units)}]" + (f"（×{unit.times}）" if unit.times > 1 else "")
            )
        else:
            paths = "；".join(
                f"第{i}条：{_describe(path) or '直接相连'}" for i, path in enumerate(unit.paths, 1)
            )
            words.append(
                f"{len(unit.paths)}条并行路径（{paths}）"
                + (f"，经{unit.join.label}合并" if unit.join else "")
            )
    return "；".join(words)
