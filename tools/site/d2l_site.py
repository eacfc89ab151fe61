"""The book's Sphinx extension: Chinese search, the last English strings, extra pages, this year.

What the pages show in Chinese comes from three places: `locale/` (message catalogs, for all that
Sphinx and the themes mark as translatable), `TEXTS` below (strings the themes do not mark), and
`static/search.js` (the search page's own words).
"""

import datetime
import html
import importlib.metadata
import itertools
import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
from docutils import nodes
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.i18n import CatalogInfo

HERE = Path(__file__).parent
THEME = "1.1.4"  # the sphinx-book-theme that TEXTS, templates/ and static/site.css are made for

# Strings written into the themes' templates in English, and what stands there instead.
TEXTS = {
    'title="Toggle primary sidebar"': 'title="全书目录" aria-label="全书目录"',
    'title="Toggle secondary sidebar"': 'title="本页目录" aria-label="本页目录"',
    'aria-label="Main"': 'aria-label="全书目录"',
    'aria-label="Page"': 'aria-label="本页目录"',
    'aria-label="Toggle hidden content"': "",
    '<nav class="bd-toc-nav page-toc">': '<nav class="bd-toc-nav page-toc" aria-label="本页目录">',
    'search-button__search-container">': 'search-button__search-container" role="search">',
    # the notebook is to be saved, not shown as JSON
    'class="btn btn-sm btn-download-source': 'download class="btn btn-sm btn-download-source',
}
# Files of the themes that no page uses: icon fonts (site.css draws the icons), source maps,
# Sphinx's own search, which has no Chinese words.
UNUSED = [
    "_static/vendor",
    "_static/searchtools.js",
    "_static/language_data.js",
    "_static/**/*.map",
    "_static/images/logo_[bdj]*",
    "_static/locales",
]
# Formulas in search results: TeX commands that do not read as their own name does (ln, max).
SYMBOLS = {
    "left": "", "right": "", "quad": " ", "text": "", "mathrm": "", "mathbf": "",
    "times": "×", "cdot": "·", "div": "÷", "pm": "±", "sqrt": "√", "sum": "∑", "prod": "∏",
    "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠", "neq": "≠", "approx": "≈",
    "to": "→", "rightarrow": "→", "infty": "∞", "partial": "∂", "dots": "…", "cdots": "…",
    "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "alpha": "α", "beta": "β",
    "gamma": "γ", "delta": "δ", "epsilon": "ε", "eta": "η", "lambda": "λ", "mu": "μ",
    "sigma": "σ",
}  # fmt: skip
RAISED = str.maketrans("0123456789+-kn", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ᵏⁿ")


def in_chinese(page):
    """Put the Chinese strings of TEXTS into a rendered page (str -> str)."""
    for english, chinese in TEXTS.items():
        page = page.replace(english, chinese)
    return page


def unique_ids(page):
    """Give the ids of an SVG a suffix, -2 and so on, where one stands in an SVG before it.

    Equal ids mean equal things, but a page may hold an id once only.
    """
    taken = set()

    def suffixed(match):
        svg = match[0]
        ids = re.findall(r'<[^<>]* id="([^"]+)"', svg)
        suffixes = itertools.chain([""], map("-{}".format, itertools.count(2)))
        suffix = next(s for s in suffixes if taken.isdisjoint(i + s for i in ids))
        taken.update(i + suffix for i in ids)
        if not suffix:
            return svg
        known = "|".join(map(re.escape, ids))
        svg = re.sub(rf'( id="|"#|\(#)({known})(?=[")])', rf"\1\2{suffix}", svg)
        return re.sub(
            r'(?<=aria-labelledby=")[^"]*',
            lambda labels: " ".join(i + suffix * (i in ids) for i in labels[0].split()),
            svg,
        )

    return re.sub(r"(?s)<svg\b.*?</svg>", suffixed, page)


def readable(node):
    """Return the text of a docutils node as a reader sees it; figures give their captions."""
    if isinstance(node, nodes.raw):
        text = re.sub(r"(?s)<(svg|style|script|title)\b.*?</\1>", "", node.astext())
        return html.unescape(re.sub(r"<[^>]*>", " ", text)) if node["format"] == "html" else ""
    if isinstance(node, nodes.math | nodes.math_block):
        return plain_formula(node.astext())
    if isinstance(node, nodes.image):
        return node.get("alt", "")
    if isinstance(node, nodes.Text):
        # a line break between two Chinese characters is no space
        return re.sub(r"(?<=[\u3000-\uffef])\s+(?=[\u3000-\uffef])", "", node.astext())
    inline = isinstance(node, (nodes.TextElement, nodes.Inline))
    return ("" if inline else " ").join(map(readable, node.children))


def plain_formula(tex):
    """Return a formula as a line of text: (n + 2p - k)/s, 18c², ln 10."""

    def fraction(match):
        above, below = (part.strip("{} ") for part in match.groups())
        return "/".join(f"({p})" if re.search(r"[-+ ]", p) else p for p in (above, below))

    def power(match):
        exponent = match[1].strip("{}")
        raised = exponent.translate(RAISED)
        return raised if not set(raised) & set(exponent) else f"^({exponent})"

    tex = re.sub(r"\\[,;:! ]", " ", tex)
    tex = re.sub(r"\\frac\s*(\{[^{}]*\}|\d)\s*(\{[^{}]*\}|\d)", fraction, tex)
    tex = re.sub(r"\^(\{[^{}]*\}|\w)", power, tex)
    tex = re.sub(r"\\([a-zA-Z]+)", lambda match: SYMBOLS.get(match[1], match[1]), tex)
    return re.sub(r"(?<=[⌊⌈(])\s+|\s+(?=[⌋⌉)])", "", re.sub(r"[\\{}$]", "", tex))


class Anchors(SphinxTransform):
    """Give every heading an address that stays; Sphinx numbers Chinese ones: id1, id2, ...

    The first heading of a notebook's cell goes by the cell's id (less `-text`), which a new wording
    leaves alone; any other, and those of plain pages, by its text, as on GitHub. Links in the
    sources name headings by their text in any case: `nin.ipynb#省了多少`.
    """

    default_priority = 800  # before MyST resolves links within the page, and Sphinx its contents

    def apply(self):
        slugs = self.env.metadata[self.env.docname].get("myst_slugs", {})
        source, cells, taken = Path(self.document["source"]), [], set()
        if source.suffix == ".ipynb":
            cells = nbformat.read(source, as_version=4).cells
        for section in self.document.findall(nodes.section):
            if (slug := section.get("slug")) is None:
                continue  # deeper than myst_heading_anchors
            line, _, text = slugs[slug]
            # MyST-NB counts ten thousand lines a cell
            anchor = cells[line // 10000 - 1].id.removesuffix("-text") if cells else slug
            section["ids"] = [slug if anchor in taken else anchor]
            taken.update(section["ids"])
            slugs[slug] = line, section["ids"][0], text


def keep_punctuation(app, doctree, docname):
    """Hold a formula and the punctuation after it together, which else may start a line."""
    for formula in list(doctree.findall(nodes.math)):
        after = formula.next_node(descend=False, siblings=True)
        if isinstance(after, nodes.Text) and after[0] in "，。；：、！？）》”’":
            after.parent.replace(after, nodes.Text(after[1:]))
            together = nodes.inline(classes=["together"])
            formula.replace_self(together)
            together += [formula, nodes.Text(after[0])]


def sections(doctree, url, title, is_chapter):
    """Yield the searchable sections of a page: address, title, whether a chapter, heading, text."""
    for section in doctree.findall(nodes.section):
        heading = next(iter(section.findall(nodes.title))).astext()
        # prose before code, so that an excerpt shows prose where both hold the word
        parts = sorted(
            (c for c in section.children if not isinstance(c, nodes.section | nodes.title)),
            key=lambda part: part.get("nb_element") == "cell_code",
        )
        text = " ".join(map(readable, parts))
        yield {
            "url": f"{url}#{section['ids'][0]}",
            "page": title,
            "chapter": is_chapter,
            "heading": heading,
            "text": " ".join(text.split()),
        }


def write_search_data(app, error):
    """Write searchdata.js: every section of the book, for search.js (no fetch: works on file://)."""
    if error or app.builder.name != "html":
        return
    found = []
    root = app.config.root_doc
    for name in [root, *app.env.toctree_includes.get(root, [])]:
        doctree = app.env.get_and_resolve_doctree(name, app.builder)
        url, title = app.builder.get_target_uri(name), app.env.titles[name].astext()
        is_chapter = str(app.env.doc2path(name)).endswith(".ipynb")
        found += sections(doctree, url, title, is_chapter)
    out = Path(app.outdir)
    data = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    (out / "_static/searchdata.js").write_text(f"const BOOK={data};\n", encoding="utf-8")
    for pattern in UNUSED:
        for path in sorted(out.glob(pattern)):
            remove(path)


def remove(path):
    """Delete a file, or a folder with all that is in it."""
    if path.is_dir():
        for child in path.iterdir():
            remove(child)
        path.rmdir()
    else:
        path.unlink()


def extra_pages(app):
    """The pages that come from no chapter: the folder's entry, search, not found."""
    yield "index", {}, "entry.html"
    yield "search", {"title": "搜索"}, "search.html"
    yield "404", {"title": "没有这个页面"}, "404.html"


def page_context(app, pagename, templatename, context, doctree):
    """Hand the templates what they need."""
    if "body" in context:
        context["body"] = unique_ids(context["body"])
    context["in_chinese"] = in_chinese
    context["site_root"] = urlsplit(app.config.html_baseurl or "/").path.rstrip("/") + "/"


def configure(app, config):
    """Set what a YAML file cannot compute, and look whether the theme is the one expected."""
    if (found := importlib.metadata.version("sphinx-book-theme")) != THEME:
        logging.getLogger(__name__).warning(
            f"tools/site is made for sphinx-book-theme {THEME}, not {found}: "
            "run pip install -r requirements.txt"
        )
    config.copyright = f"{datetime.date.today().year} {config.author}"


def setup(app):
    # Sphinx compiles only the catalog named sphinx by itself.
    CatalogInfo(str(HERE / "locale/zh_CN/LC_MESSAGES"), "booktheme", "utf-8").write_mo("zh_CN")
    app.add_message_catalog("booktheme", str(HERE / "locale"))
    # Jupyter Book sets this one for an extension that is left out.
    app.add_config_value("comments_config", {}, "html")
    app.add_transform(Anchors)
    app.connect("config-inited", configure)
    app.connect("builder-inited", lambda app: setattr(app.builder, "search", False))
    app.connect("doctree-resolved", keep_punctuation)
    app.connect("html-collect-pages", extra_pages)
    app.connect("html-page-context", page_context)
    app.connect("build-finished", write_search_data)
    app.setup_extension("live_network")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
