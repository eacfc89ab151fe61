"""Make the book one PDF of the built site, with the Chromium or Chrome that is installed.

    python -m tools.pdf            writes _build/html/book.pdf, and a link to it on the root page

All pages stand in one document. It is printed twice: only then are the contents' numbers known.
"""

import html
import logging
import re
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from io import BytesIO
from pathlib import Path
from string import Template
from urllib.parse import quote

import yaml
from pypdf import PdfReader, PdfWriter
from pypdf.generic import Fit

from tools import notebooks

SITE = notebooks.ROOT / "_build" / "html"
BROWSERS = ["chromium", "chromium-browser", "google-chrome",
            "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
            "C:/Program Files/Google/Chrome/Application/chrome.exe"]  # fmt: skip
OPTIONS = "--headless --no-sandbox --disable-gpu --no-pdf-header-footer --virtual-time-budget=99999"
SECTION = re.compile(r'(<section[^>]* id=")([^"]+)("[^>]*>\s*<h([1-6])>)(.*?)(?=<a class="headerl)')
LINK = re.compile(r'(<a [^>]*href=")(?:([\w-]+)\.html)?(?:#([^"]*))?(?=")')
RADICALS = str.maketrans("⺠⻅⻆⻋⻓⻔⻘⻚⻛⻜⻢⻣⻥⻩⻬⻮⻰", "民见角车长门青页风飞马骨鱼黄齐齿龙")
LINE = '<li class="l{}" data-page="{}"><a href="#{}">{}</a></li>'
DOWNLOAD = '<p class="pdf"><a href="../book.pdf">下载全书的PDF</a>（{}页，{:.0f} MB）</p>'


def browser():
    """The path of the Chromium or Chrome that is installed, None where there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def article(name, names):
    """A page with addresses that are unique in the book: section x of page.html is page.x."""
    text = (SITE / "chapters" / f"{name}.html").read_text("utf-8")
    text = re.search(r'(?s)<article class="bd-article">(.*?)</article>', text)[1]
    text = re.sub('<p class="pdf">.*?</p>', "", text).replace("<details", "<details open")
    text = re.sub(r"(<svg[^>]*)max-width:(?=\d)", r"\1--width:", text)
    own = {match[2] for match in SECTION.finditer(text)}

    def link(match):
        start, page, anchor = match.groups()
        if (page or name) not in names or not (page or anchor in own):
            return match[0]
        return f"{start}#{'.'.join(filter(None, (page or name, anchor)))}"

    text = SECTION.sub(rf"\g<1>{name}.\2\3\5", LINK.sub(link, text))
    return f'<div class="page" id="{name}">{re.sub("(?s)<pre>(.*?)</pre>", divided, text)}</div>'


def divided(match):
    """Make a long <pre> a row of short ones, between which a page may end; spans stay whole."""
    lines, parts = match[1].rstrip("\n").split("\n"), [""]
    for number, line in enumerate(lines):
        parts[-1] += line + "\n"
        whole = parts[-1].count("<span") == parts[-1].count("</span")
        if whole and parts[-1].count("\n") >= 8 and number < len(lines) - 4:
            parts.append("")
    return "".join("<pre>" + part.rstrip("\n") + "</pre>" for part in parts)


def document(numbers):
    """The book as one page of HTML, and its headings: tuples of level, address, HTML."""
    names = [page.stem for page in notebooks.pages()]
    pages = "".join(article(name, names) for name in names)
    headings = [(int(found[4]), found[2], found[5]) for found in SECTION.finditer(pages)]
    contents = "".join(LINE.format(level, numbers.get(address), address, words)
                       for level, address, words in headings if level <= 3)  # fmt: skip
    text = (SITE / "chapters" / "index.html").read_text("utf-8")
    wanted = r'<link[^>]*rel="stylesheet"[^>]*>|<script>window\.MathJax|<script[^>]*/mathjax/'
    head = "".join(re.findall(rf"(?:{wanted})[^<]*(?:</script>)?", text))
    cited = yaml.safe_load((notebooks.ROOT / "CITATION.cff").read_text("utf-8"))
    author = cited["authors"][0]["name"]
    page = Template((notebooks.ROOT / "tools" / "site" / "book.html").read_text("utf-8"))
    return page.substitute(
        cited, author=author, head=head, contents=contents, pages=pages
    ), headings


def printed(text, headings, chromium):
    """What the browser prints; where the headings stand: address -> (page from 0 on, height)."""
    page = SITE / "chapters" / "book-to-print.html"
    with tempfile.TemporaryDirectory() as folder:
        pdf = Path(folder, "book.pdf")
        options = [*OPTIONS.split(), f"--user-data-dir={folder}", f"--print-to-pdf={pdf}"]
        try:
            page.write_text(text, "utf-8")
            subprocess.run([chromium, *options, page.as_uri()], check=True, capture_output=True)
            reader = PdfReader(BytesIO(pdf.read_bytes()))
        finally:
            page.unlink()
    found = {address: reader.named_destinations[f"/{quote(address)}"] for _, address, _ in headings}
    return reader, {address: (reader.get_destination_page_number(place), float(place.top))
                    for address, place in found.items()}  # fmt: skip


def ideograph(match):
    """A line of a font's map to Unicode: 一 for the radical ⼀, which has the same glyph."""
    character = unicodedata.normalize("NFKC", chr(int(match[2], 16)).translate(RADICALS))
    return match[1] + b"<%04X>" % ord(character)


def main():
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it mends what Chromium miscounts
    root_page, chromium = SITE / "chapters" / "index.html", browser()
    if not chromium or not root_page.is_file():
        sys.exit("pdf: needs Chromium or Chrome and the built site: run jupyter-book build .")
    text, headings = document({})
    _, places = printed(text, headings, chromium)
    text, _ = document({address: page + 1 for address, (page, _) in places.items()})
    reader, again = printed(text, headings, chromium)
    assert places == again, "the numbers in the contents moved the pages"
    writer, items = PdfWriter(clone_from=reader), {0: None}
    for level, address, words in headings:
        items = {above: item for above, item in items.items() if above < level}
        words = html.unescape(re.sub(r"<[^>]*>|\\[()]", "", words))
        page, top = places[address]
        items[level] = writer.add_outline_item(
            title=words, page_number=page, parent=items[max(items)], fit=Fit.xyz(left=0, top=top)
        )
    for font in (f for page in writer.pages for f in page["/Resources"].get("/Font", {}).values()):
        if (cmap := font.get_object().get("/ToUnicode")) is not None:
            data = cmap.get_object().get_data()
            data = re.sub(rb"(?m)(^<\w+> )<(2[EF]\w\w)>", ideograph, data)
            cmap.get_object().set_data(data)
    writer.page_mode = "/UseOutlines"
    writer.write(SITE / "book.pdf")
    told = DOWNLOAD.format(len(reader.pages), (SITE / "book.pdf").stat().st_size / 1e6)
    text = re.sub('<p class="pdf">.*?</p>', "", root_page.read_text("utf-8"))
    text = re.sub(r'(?s)(<article class="bd-article">.*?</h1>)', rf"\1{told}", text, count=1)
    root_page.write_text(text, "utf-8", newline="\n")
    print(f"pdf: wrote {SITE / 'book.pdf'}, {len(reader.pages)} pages")


if __name__ == "__main__":
    main()
