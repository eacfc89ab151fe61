"""Figures as inline SVG: no file, no JavaScript, readable on light and dark pages."""

import contextlib
import hashlib
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

__all__ = ["InlineFigure", "book_style", "figure_html", "figure_svg", "quiet",
           "save_svg", "show", "show_inline"]  # fmt: skip

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
    start from the caption, else from `alt`, so that several figures can stand on one page. `alt`
    says what the picture shows; it becomes the SVG's `<desc>`.
    """
    if not alt:
        raise ValueError(
            "alt must say in a few words what the figure shows, for readers who cannot see it"
        )
    for legend in fig.findobj(Legend):
        legend.get_frame().set_facecolor("none")
    buffer, nothing = io.StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none"}), quiet(fig):
        fig.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.05,
                    metadata=nothing)  # fmt: skip
    svg = buffer.getvalue()
    opening, body = re.search(r"<svg ([^>]*)>(.*)</svg>", svg, re.DOTALL).groups()
    viewbox = re.search(r'viewBox="([^"]*)"', opening).group(1)
    width = round(float(viewbox.split()[2]) * 4 / 3)  # matplotlib's points to CSS pixels
    # matplotlib's style sheet would apply to the whole page: it moves to the root's attributes.
    body = re.sub(r'<style type="text/css">.*?</style>', "", body, flags=re.DOTALL)
    body = re.sub(r"(stroke|fill): #000000", r"\1: currentColor", body)
    body = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", FONT, body)
    title = caption or alt
    prefix = f"f{short_hash(title)}-"
    title_id, desc_id = f"{prefix}title", f"{prefix}{short_hash(alt)}"
    body = name_by_content(body, prefix)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'role="img" aria-labelledby="{title_id} {desc_id}" viewBox="{viewbox}" '
        f'width="{width}" fill="currentColor" stroke-linejoin="round" '
        f'style="max-width:100%;min-width:{SMALLEST * width:.0f}px;height:auto">'
        f'<title id="{title_id}">{escape(title)}</title>'
        f'<desc id="{desc_id}">{escape(alt)}</desc>{body}</svg>'
    )


def name_by_content(body, prefix):
    """Name what the SVG refers to by `prefix` and a hash of its content; drop all other ids.

    matplotlib's own ids are numbers in the order of drawing and hashes with a salt. Nothing that
    it refers to holds a reference in turn.
    """
    for old in dict.fromkeys(re.findall(r'(?:href="|url\()#([^")]+)', body)):
        name = re.escape(old)
        element = re.search(
            rf'<(\w+)[^<>]* id="{name}"[^<>]*?(/>|>.*?</\1>)', body, flags=re.DOTALL
        )
        if element:  # else a link to somewhere else on the page
            content = element[0].replace(f' id="{old}"', "")
            new = prefix + short_hash(content)
            # Two collections of the same marks define it twice: one of them is enough.
            own = "" if f' id="{new}"' in body else f' id="{new}"'
            body = body.replace(f' id="{old}"', own)
            body = re.sub(rf'(href="|url\()#{name}(?=[")])', rf"\1#{new}", body)
    return re.sub(rf'(<[^<>]*) id="(?!{prefix})[^"]*"', r"\1", body)


def short_hash(text):
    """Eight hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


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
    texts = [text for text in fig.findobj(Text) if any(c > "\u2e80" for c in text.get_text())]
    if texts:
        installed = {font.name for font in font_manager.fontManager.ttflist}
        for text in texts:
            known = [font for font in CHINESE_FONTS if font in installed]
            text.set_fontfamily(list(dict.fromkeys([*text.get_fontfamily(), *known])))
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
