"""The pieces of an architecture figure as SVG text: words, lines, arrows, boxes.

All lengths are in the figure's own units, which are CSS pixels where it is shown at its full size.
"""

from html import escape

from d2lmini.figures.style import KINDS

FONT = "Arial,'Helvetica Neue',Helvetica,'Liberation Sans','DejaVu Sans',sans-serif"
TEXT, SMALL, TEXT_LINE = 12, 11, 14  # font sizes, height of a line
FRAME = ('class="d2lm-edge" fill="#888" fill-opacity=".07" stroke="#888" stroke-width="1" '
         'stroke-dasharray="2 3"')  # fmt: skip
DASHES = {"dashed": ' stroke-dasharray="6 3"', "dotted": ' stroke-dasharray="1.5 2.5"'}


def text(x, y, words, size, anchor="middle", bold=False, opacity=1, of=None, below=""):
    """A text; nothing for an empty one. `of` tells a script what it is about, `below` is a second
    line."""
    weight = ' font-weight="bold"' if bold else ""
    faint = f' opacity="{opacity}"' if opacity != 1 else ""
    place = f'x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"'
    about = f' data-of="{of}"' if of not in (None, "") else ""
    more = f' <tspan x="{x:g}" dy="{TEXT_LINE}">{escape(below)}</tspan>' if below else ""
    return f"<text {place}{weight}{faint}{about}>{escape(words)}{more}</text>" if words else ""


def text_width(words, size, bold=False):
    """An upper estimate of a text's width, for the widest of the fonts (DejaVu Sans)."""
    em = sum(
        1.0 if ord(c) > 0x2E80 else 0.36 if c in " ,.:'()|il" else 0.88 if c in "×mwMW→·" else 0.66
        for c in words
    )
    return round(em * size * (1.1 if bold else 1), 1)


def path(d, colour="currentColor", width=1.2):
    """A line without a fill."""
    return f'<path d="{d}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def line(x1, y1, x2, y2, colour="currentColor", width=1.2):
    """A straight line."""
    return path(f"M{x1:g} {y1:g}L{x2:g} {y2:g}", colour, width)


def arrow(x, y1, y2):
    """An arrow that points down, from y1 to y2."""
    head = f'<path d="M{x - 3.5:g} {y2 - 7:g}h7L{x:g} {y2:g}z" fill="currentColor"/>'
    return line(x, y1, x, y2 - 5) + head


def rect(x, y, width, height, radius, style):
    """A rectangle; `style` is the rest of its attributes."""
    return (f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" '
            f'{style}/>')  # fmt: skip


def box_outline(kind, x, y, width, height):
    """A box in the colour and outline of its kind."""
    colour, outline, _ = KINDS[kind]
    radius = min(height / 2, 13) if outline == "round" else min(5, height / 4)
    box = rect(x, y, width, height, radius,
               f'class="d2lm-edge" fill="{colour}" stroke="{colour}" fill-opacity=".17" '
               f'stroke-width="1.5"{DASHES.get(outline, "")}')  # fmt: skip
    if outline == "double":
        inner = f'fill="none" stroke="{colour}" stroke-width=".8"'
        box += rect(x + 3, y + 3, width - 6, height - 6, 3, inner)
    if outline == "sides":
        box += path(f"M{x + 5:g} {y:g}v{height:g}M{x + width - 5:g} {y:g}v{height:g}", colour, 1)
    return box


def box_behind(kind, x, y, width, height, offset):
    """What shows of an equal box that lies `offset` behind a box."""
    return path(f"M{x + width:g} {y + offset:g}h{offset - 4:g}q4 0 4 4v{height - 8:g}q0 4-4 4"
                f"h{8 - width:g}q-4 0-4-4v{4 - offset:g}", KINDS[kind][0])  # fmt: skip


def path_bars(paths, middle, y, width):
    """Parallel paths in small: a bar for each layer, the channels under each path.

    paths: (kinds of its layers, channels as text) for each path.
    """
    step, end = min(44, (width - 16) / len(paths)), y + 22 + more_bars(paths)
    bar_width = step - 8
    centres = [middle + (i - (len(paths) - 1) / 2) * step for i in range(len(paths))]

    def bar(kind, x, y, width):
        return rect(x, y, width, 5, 1.5, f'fill="{KINDS[kind][0]}"')

    parts = [line(centres[0], y, centres[-1], y, width=0.8)]
    for (kinds, channels), x in zip(paths, centres, strict=True):
        parts.append(line(x, y, x, end, width=0.8))
        for i, kind in enumerate(reversed(kinds)):
            parts.append(bar(kind, x - bar_width / 2, end - 10 - 8 * i, bar_width))
        parts.append(text(x, end + 15, channels, SMALL))
    whole = centres[-1] - centres[0] + bar_width
    return "".join([*parts, bar("join", centres[0] - bar_width / 2, end - 1, whole)])


def more_bars(paths):
    """The height that `path_bars` takes beyond that of two layers on a path."""
    return 8 * max(0, max(len(kinds) for kinds, _ in paths) - 2)
