"""The book as one PDF, made from a copy of the built site: `pytest -m site` after the build."""

import re
import shutil
import types
import unicodedata

import pypdf
import pytest

from conftest import give_up
from tests.test_site import SITE
from tools import notebooks, pdf

pytestmark = pytest.mark.site


def plain(text):
    """A text without the spaces that lines and scripts put between characters."""
    return re.sub(r"\s", "", unicodedata.normalize("NFC", text))


def bookmarks(reader, outline, level=1):
    """(level, title, page from 0 on) of each bookmark."""
    for item in outline:
        if isinstance(item, list):
            yield from bookmarks(reader, item, level + 1)
        else:
            yield level, item.title, reader.get_destination_page_number(item)


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """The PDF, the text of its pages, its bookmarks, and the site that it stands in."""
    if not (SITE / "chapters/index.html").exists() or not pdf.browser():
        give_up("needs the built site and Chromium: apt-get install chromium fonts-noto-cjk")
    site = tmp_path_factory.mktemp("site") / "html"
    shutil.copytree(SITE, site)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pdf, "SITE", site)
        pdf.main()
    reader = pypdf.PdfReader(site / "book.pdf")
    texts = [plain(page.extract_text()) for page in reader.pages]
    marks = list(bookmarks(reader, reader.outline))
    return types.SimpleNamespace(reader=reader, texts=texts, marks=marks, site=site)


def test_bookmarks_and_contents_lead_to_every_heading(book):
    marks, texts = book.marks, book.texts
    pages = "".join(
        (book.site / page).with_suffix(".html").read_text("utf-8") for page in notebooks.pages()
    )
    headings = [int(match[4]) for match in pdf.SECTION.finditer(pages)]
    assert [level for level, *_ in marks] == headings
    assert [number for *_, number in marks] == sorted(number for *_, number in marks)
    contents = "".join(texts[: marks[0][2]])
    for level, title, number in marks:
        assert plain(title) in texts[number], (title, number + 1)
        assert level > 3 or f"{plain(title)}{number + 1}" in contents, title


def test_nothing_is_missing(book):
    """Answers are unfolded, formulas set, figures drawn; Chinese text is Chinese when copied."""
    whole = "".join(book.texts)
    assert len(book.texts) > 20 * len(notebooks.names())
    assert r"\(" not in whole and r"\frac" not in whole
    assert not re.search(r"[\u2e80-\u2fdf]", whole)
    for name in notebooks.names():
        for cell in notebooks.read(name).cells:
            for line in re.findall(r"(?m)^```python\n(?:.*\n){3}(\w.*)$", cell.source):
                assert plain(line) in whole, (name, cell.id, line)
            for svg in re.findall(r"(?s)<svg.*?</svg>", str(cell.get("outputs", ""))):
                for words in re.findall(r"<text[^>]*>([A-Z][a-z]{5,})</text>", svg):
                    assert words in whole, (name, cell.id, words)


def test_links_stay_in_the_book_or_go_to_the_web(book):
    reader = book.reader
    links = [link.get_object() for page in reader.pages for link in page.get("/Annots", [])]
    assert sum("/Dest" in link for link in links) > 200
    for link in links:
        if "/Dest" in link:
            assert str(link["/Dest"]) in reader.named_destinations
        else:
            assert link["/A"]["/URI"].startswith("http"), link["/A"]


def test_root_page_links_to_it(book):
    page = (book.site / "chapters/index.html").read_text("utf-8")
    assert page.count('href="../book.pdf"') == 1 and f"{len(book.texts)}页" in page
