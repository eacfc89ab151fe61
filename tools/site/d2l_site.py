"""The book's Sphinx extension: Chinese search, addresses of headings, the last English strings.

What the pages show in Chinese comes from three places: `locale/` (message catalogs, for all that
Sphinx and the themes mark as translatable), `TEXTS` below (strings the themes do not mark), and
`static/search.js` (the search page's own words).
"""

import datetime
import html
import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
from docutils import nodes
from sphinx.transforms import SphinxTransform
from sphinx.util.i18n import CatalogInfo

HERE = Path(__file__).parent

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
# Formulas in search results: TeX commands that do not read as their own name does (ln, max).
SYMBOLS = {
    "times": "×", "cdot": "·", "div": "÷", "pm": "±", "sqrt": "√", "sum": "∑", "leq": "≤",
    "geq": "≥", "neq": "≠", "approx": "≈", "to": "→", "infty": "∞", "lfloor": "⌊", "rfloor": "⌋",
    "left": "", "right": "", "text": "", "mathrm": "", "quad": " ", "eta": "η", "sigma": "σ",
}  # fmt: skip


def in_chinese(page):
    """Put the Chinese strings of TEXTS into a rendered page (str -> str)."""
    for english, chinese in TEXTS.items():
        page = page.replace(english, chinese)
    return page


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
    """Return a formula as a line of text: (n + 2p - k)/s, 18c^2, ln 10."""
    tex = re.sub(r"\\frac\s*(\{[^{}]*\}|\d)\s*(\{[^{}]*\}|\d)", r"\1/\2", tex)
    tex = re.sub(r"(?<!text)\{([^{}]*[-+ ][^{}]*)\}", r"(\1)", tex)
    tex = re.sub(r"\\([a-zA-Z]+)|\\[,;:! ]", lambda tex: SYMBOLS.get(tex[1], tex[1] or " "), tex)
    return re.sub(r"(?<=[⌊(])\s+|\s+(?=[⌋)])|[\\{}$]", "", tex)


def cell_at(line, cells):
    """The cell of a notebook that a line of its document is in: MyST-NB counts 10,000 a cell."""
    return cells[line // 10_000 - 1]


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
            anchor = cell_at(line, cells).id.removesuffix("-text") if cells else slug
            anchor = slug if anchor in taken else anchor
            # the theme's script looks headings up by `#anchor`, which must not begin with a digit
            section["ids"] = [f"s-{anchor}" if anchor[0].isdigit() else anchor]
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
    """Yield the searchable sections of a page: address, titles, whether a chapter, prose, code."""
    for section in doctree.findall(nodes.section):
        heading = next(iter(section.findall(nodes.title))).astext()
        texts = {False: [], True: []}
        for part in section.children:
            if not isinstance(part, nodes.section | nodes.title):
                is_code = part.get("nb_element") == "cell_code" or part.get("language") == "python"
                texts[is_code] += readable(part).split()
        yield {
            "url": f"{url}#{section['ids'][0]}",
            "page": title,
            "chapter": is_chapter,
            "heading": heading,
            "text": " ".join(texts[False]),
            "code": " ".join(texts[True]),
        }


def write_search_data(app, error):
    """Write searchdata.js: every section of the book, for search.js (no fetch: works on file://)."""
    if error or app.builder.format != "html":
        return
    found = []
    for name in app.env.collect_relations():  # in the order of the contents, however nested
        doctree = app.env.get_and_resolve_doctree(name, app.builder)
        url, title = app.builder.get_target_uri(name), app.env.titles[name].astext()
        is_chapter = str(app.env.doc2path(name)).endswith(".ipynb")
        found += sections(doctree, url, title, is_chapter)
    data = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    Path(app.outdir, "_static/searchdata.js").write_text(f"const BOOK={data};\n", encoding="utf-8")


def page_context(app, pagename, templatename, context, doctree):
    """Hand the templates what they need."""
    context["in_chinese"] = in_chinese
    context["site_root"] = urlsplit(app.config.html_baseurl or "/").path.rstrip("/") + "/"


def add_kaggle(app, pagename, templatename, context, doctree):
    """Beside the theme's button for Colab one for Kaggle, which takes a notebook's address too."""
    for group in context.get("header_buttons", []):
        for link in [link for link in group.get("buttons", []) if link.get("text") == "Colab"]:
            source = link["url"].replace("//colab.research.google.com/github/", "//github.com/")
            kaggle = {"text": "Kaggle", "tooltip": link["tooltip"].replace("Colab", "Kaggle"),
                      "icon": "fas fa-rocket",
                      "url": f"https://kaggle.com/kernels/welcome?src={source}"}  # fmt: skip
            group["buttons"].append(link | kaggle)


def configure(app, config):
    """Set what is computed: this year and, from the book's address, what shows it."""
    config.copyright = f"{datetime.date.today().year} {config.author}"
    if address := config.html_theme_options["repository_url"]:
        config.html_baseurl = pages_address(address)
        config.html_theme_options["use_repository_button"] = True
        colab = {"colab_url": "https://colab.research.google.com"}
        config.html_theme_options["launch_buttons"] = colab


def pages_address(repository):
    """Where GitHub publishes the site of https://github.com/OWNER/REPO."""
    *_, owner, name = repository.split("/")
    home = f"https://{owner.lower()}.github.io/"
    return home if home == f"https://{name.lower()}/" else f"{home}{name}/"


def own_search(app):
    """Leave out Sphinx's search, which knows no Chinese words."""
    app.builder.search = False


def setup(app):
    # Sphinx compiles only the catalog named sphinx by itself.
    CatalogInfo(str(HERE / "locale/zh_CN/LC_MESSAGES"), "booktheme", "utf-8").write_mo("zh_CN")
    app.add_message_catalog("booktheme", str(HERE / "locale"))
    # Jupyter Book sets this one for an extension that is left out.
    app.add_config_value("comments_config", {}, "html")
    app.add_transform(Anchors)
    app.connect("config-inited", configure)
    app.connect("builder-inited", own_search)
    app.connect("doctree-resolved", keep_punctuation)
    app.connect("html-page-context", page_context)
    app.connect("html-page-context", add_kaggle, priority=600)  # after the theme's buttons
    app.connect("build-finished", write_search_data)
    app.setup_extension("live_network")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
