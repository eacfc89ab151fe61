"""Figures as inline SVG: no file, no JavaScript, readable on light and dark pages."""

import contextlib
import io
import logging
import re
import warnings
from html import escape

import matplotlib
from IPython.display import display
from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.legend import Legend
from matplotlib.text import Text

FONT = "'DejaVu Sans', Verdana, Arial, sans-serif"
PHONE_PIXELS = 320  # between the margins of a narrow screen
# Of common systems, each with simplified Chinese; Debian's Noto calls itself by its first face, JP.
CHINESE_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC",
                 "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB", "Heiti TC",
                 "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Arial Unicode MS")  # fmt: skip
SMALLEST = 0.75  # a figure shrinks to this share of its size, so that its text stays legible


class InlineFigure:
    """A finished `<figure>`: rich displays show `html`, a terminal prints one short line."""

    def __init__(self, svg, *, alt, caption=None):
        self.html = figure_html(svg, caption)
        self.text = f"<figure: {caption or alt[:60]}>"

    def _repr_html_(self):
        return self.html

    def __repr__(self):
        return self.text


def figure_html(svg, caption=None):
    """Wrap SVG text in `<figure>` with an optional caption (plain text, escaped here)."""
    note = (f'<figcaption style="margin-top:.4em;font-size:.9em">{escape(caption)}</figcaption>'
            if caption else "")  # fmt: skip
    # What is wider than a phone scrolls in its own box, for which the keyboard needs a stop.
    widths = map(int, re.findall(r"min-width:(\d+)px", svg))
    stop = ' tabindex="0"' if max(widths, default=0) > PHONE_PIXELS else ""
    style = "margin:1em 0;text-align:center;overflow-x:auto"
    return f'<figure{stop} style="{style}">{svg}{note}</figure>'


def figure_svg(fig, *, alt, caption=None):
    """Return a matplotlib figure as inline SVG text, the same bytes for the same figure.

    Text stays text, the background is transparent, black follows the page's text colour, and ids
    hang on the caption, else on `alt`, so that several figures can stand on one page. `alt` says
    what the picture shows, to those who cannot see it.
    """
    if not alt:
        raise ValueError("alt must say in words what the figure shows, for those who cannot see it")
    for legend in fig.findobj(Legend):
        legend.get_frame().set_facecolor("none")
    buffer, nothing = io.StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
    salt = {"svg.hashsalt": caption or alt}
    with matplotlib.rc_context({"svg.fonttype": "none", **salt}), quiet(fig):
        fig.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.05,
                    metadata=nothing)  # fmt: skip
    page = re.search(r'<svg [^>]*viewBox="([^"]*)"[^>]*>(.*)</svg>', buffer.getvalue(), re.DOTALL)
    viewbox, body = page.groups()
    width = round(float(viewbox.split()[2]) * 4 / 3)  # matplotlib's points to CSS pixels
    # matplotlib's style sheet would apply to the whole page: it moves to the root's attributes.
    body = re.sub(r'<style type="text/css">.*?</style>', "", body, flags=re.DOTALL)
    body = re.sub(r"(stroke|fill): #000000", r"\1: currentColor", body)
    body = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", FONT, body)
    # Of matplotlib's ids, those that are referred to are hashes; others are numbers in a row.
    used = re.findall(r'(?:href="|url\()#([^")]+)', body)
    body = re.sub(r'(<[^<>]*) id="([^"]*)"', lambda tag: tag[tag[2] not in used], body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'role="img" aria-label="{escape(alt)}" viewBox="{viewbox}" width="{width}" '
        f'fill="currentColor" stroke-linejoin="round" '
        f'style="max-width:100%;min-width:{SMALLEST * width:.0f}px;height:auto">{body}</svg>'
    )


@contextlib.contextmanager
def book_style():
    """Meanwhile figures are made as the book's, whatever a reader has set: fonts, style, formulas.

    As a decorator: `@book_style()`. A `$` in a text is a dollar, not the start of a formula.
    """
    with plt.style.context(["default", {"text.parse_math": False}]):
        yield


@contextlib.contextmanager
def quiet(fig):
    """Meanwhile nothing is said of fonts, and the figure's Chinese texts are laid out with an
    installed font that has them; where there is none, a browser shows them with its own."""
    installed = font_manager.get_font_names()
    for text in fig.findobj(Text):
        if any(c > "\u2e80" for c in text.get_text()):
            fonts = [*text.get_fontfamily(), *filter(installed.__contains__, CHINESE_FONTS)]
            text.set_fontfamily(list(dict.fromkeys(fonts)))
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from")
            yield
    finally:
        logger.setLevel(level)


def show(fig, *, alt, caption=None, save=None):
    """Display a matplotlib figure as inline SVG with alternative text and caption; close it.

    save: a file to write it to as well, .svg or another format of matplotlib, such as .png, .pdf.

    >>> show(fig, alt='ReLU和sigmoid的曲线', caption='图1-3 两种激活函数')
    """
    svg = figure_svg(fig, alt=alt, caption=caption)
    if save is not None and str(save).lower().endswith(".svg"):
        save_svg(save, svg)
    elif save is not None:
        with quiet(fig):
            fig.savefig(save, bbox_inches="tight", dpi=200)
    plt.close(fig)
    show_inline(svg, alt=alt, caption=caption)


def save_svg(path, svg):
    """Write SVG text to a file; ValueError where `path` has another ending."""
    if not str(path).lower().endswith(".svg"):
        raise ValueError(f"save must name an .svg file, got {str(path)!r}")
    with open(path, "w", encoding="utf-8") as file:
        file.write(svg)


def show_inline(svg, *, alt, caption=None):
    """Display SVG text as a figure."""
    display(InlineFigure(svg, alt=alt, caption=caption))
