"""The built site as readers meet it, in a real browser: `pytest -m site` after the build."""

import datetime
import itertools
import json
import random
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.browser import NOTEBOOKS, SITE, Tab, browser, server, tab
from tools import notebooks

__all__ = ["browser", "server", "tab"]  # fixtures
pytestmark = pytest.mark.site

# Notebooks first: a page has one number in all lists, by which pytest groups the tests of a page.
CHAPTERS = NOTEBOOKS + [
    page.with_suffix("").as_posix() for page in notebooks.pages() if page.suffix == ".md"
]
PAGES = [*CHAPTERS, "search", "404"]
PAPER = (672, 986)  # px: A4 less its margins, 178 mm by 261 mm

# Latin words that may stand alone in the interface: keys and names, beside the chapters' networks.
ALLOWED = {"Ctrl", "K", "PyTorch", "LeNet", "Colab", "Kaggle"}
ALLOWED |= {word for c in notebooks.chapters() for word in re.findall("[A-Za-z]{2,}", c.network)}


@pytest.fixture(scope="module", params=PAGES)
def opened(browser, request):
    """A page of the site, opened once for all tests that look at it."""
    with Tab(browser) as tab:
        tab.name = request.param
        tab.open(tab.name)
        yield tab


@pytest.fixture
def shown(opened):
    """The same on a wide screen, whatever the test before has done to it, with all unfolded."""
    opened.page.emulate_media(media="screen", color_scheme="light")
    opened.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    opened.resize(1280, 1000)
    return opened


of_chapters = pytest.mark.parametrize("opened", CHAPTERS, indirect=True)


# Nothing from elsewhere, light, quick ------------------------------------------------------------


def test_page_is_light_whole_and_asks_no_other_host(opened, server, tab):
    """Whether from a folder or a server; under 3 MB with all it loads, nothing compressed."""
    sizes = {}
    tab.page.on(
        "response", lambda r: sizes.setdefault(r.url, int(r.headers.get("content-length", 0)))
    )
    tab.open(opened.name, server)
    for each, base in (tab, server), (opened, SITE.as_uri()):
        each.page.wait_for_load_state("networkidle")
        assert not [url for url in each.requests if not url.startswith((base + "/", "data:"))]
    assert not opened.complaints and 0 < sum(sizes.values()) < 3e6
    assert sum(".js" in url for url in tab.requests) <= 18
    formulas, rendered, wrong = (
        opened.page.locator(part).count()
        for part in (".math", "mjx-container", "[data-mjx-error], mjx-merror")
    )
    assert (formulas, 0) == (rendered, wrong)
    assert not formulas or opened.page.evaluate("""document.fonts.ready.then(() =>
        [...document.fonts].some(f => f.family.startsWith("MJX") && f.status == "loaded"))""")


def test_every_local_link_leads_somewhere(opened):
    for link in opened.page.evaluate("[...document.links].map(a => a.href)"):
        if not link.startswith("file:"):
            assert "executablebooks/jupyter-book" not in link
            continue
        path, _, anchor = unquote(link.removeprefix(SITE.as_uri() + "/")).partition("#")
        target = SITE / path.split("?")[0]
        assert target.is_file(), link
        if anchor and target.suffix == ".html":
            assert f'id="{anchor}"' in target.read_text("utf-8"), link


def test_first_page_and_one_that_is_missing_lead_into_the_book(tab, server):
    tab.page.goto(server)
    tab.page.wait_for_url(f"{server}/chapters/index.html")
    for link, target in ("首页", "chapters/index"), ("搜索", "search"):
        tab.page.goto(f"{server}/chapters/some/where/else.html")
        assert "没有这个页面" in tab.page.inner_text("h1")
        tab.page.get_by_role("link", name=link).click()
        tab.page.wait_for_url(f"{server}/{target}.html")
        assert "没有这个页面" not in tab.page.inner_text("h1")
    tab.complaints = [words for words in tab.complaints if "404" not in words]


# Headings -----------------------------------------------------------------------------------------

HEADINGS = """[...document.querySelectorAll("article section")].map(section => {
  const heading = section.querySelector(":scope > :is(h1, h2, h3, h4, h5, h6)").cloneNode(true);
  heading.querySelector(".headerlink")?.remove();
  return [heading.textContent.trim(), section.id, +heading.localName[1]];
})"""
CONTENTS = """[...document.querySelectorAll(".bd-toc-nav a")].filter(a => a.checkVisibility())
  .map(a => [a.textContent.trim(), decodeURIComponent(a.hash.slice(1))])"""


def starts(name):
    """(heading, its address) of the cells of a notebook that start with one."""
    for cell in notebooks.read(Path(name).name).cells:
        if cell.cell_type == "markdown" and cell.source.startswith("#"):
            words = cell.source.split("\n")[0].lstrip("# ").replace("`", "")
            yield words, cell.id.removesuffix("-text")


@of_chapters
def test_every_heading_has_an_address_that_stays_and_stands_in_the_contents(shown):
    page, found = shown.page, shown.page.evaluate(HEADINGS)
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    drawn = page.evaluate("[...document.querySelectorAll('article svg [id]')].map(e => e.id)")
    anchors = [anchor for _, anchor, _ in found]
    assert not [anchor for anchor in anchors if re.fullmatch(r"id\d+|", anchor)]
    assert all(ids.count(anchor) == 1 for anchor in [*anchors, *drawn])
    if shown.name in NOTEBOOKS:
        assert set(starts(shown.name)) <= {(text, at) for text, at, _ in found}
    for width in 1280, 360:
        shown.resize(width, 1000)
        assert page.evaluate(CONTENTS) == [heading[:2] for heading in found[1:]]
    levels = [level for *_, level in found]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels)), levels


@pytest.mark.parametrize("width", [360, 1280])
def test_link_to_a_heading_shows_it(tab, width):
    """Right below the bar at the top, although formulas above it change their height meanwhile."""
    tab.resize(width, 700)
    for name in NOTEBOOKS:
        text, anchor = list(starts(name))[-3]
        tab.page.goto("about:blank")
        page = tab.open(name, query=f"#{anchor}")
        page.wait_for_timeout(300)
        heading, bar = (
            page.locator(part).first.bounding_box()
            for part in (f"[id='{anchor}']", ".bd-header-article")
        )
        assert 0 <= heading["y"] - bar["y"] - bar["height"] < 100, (name, text)


# Search -------------------------------------------------------------------------------------------

# Pages one of which has to be among the first three results, and what a student types.
QUERIES = [
    (NOTEBOOKS, "卷积", "池化层", "过拟合", "学习率", "dropout", "怎么防止过拟合", "参数 全连接层"),
    (["alexnet"], "激活函数", "读取数据集", "0.88"),  # on the way to 0.881
    (["vgg"], "VGG块", "vgg_block", "VGG11"),
    (["googlenet"], "Inception块", "inception"),
    (["nin", "googlenet"], "全局平均池化", "1×1卷积", "1x1 卷积"),
    (["alexnet", "vgg", "googlenet"], "感受野"),
    (["nin", "googlenet", "vgg"], "AdaptiveAvgPool2d"),
    (["trouble"], "OMP: Error #15", "has no CUDA", "中文变成方框",
     "out of memory with a batch of shape (256, 1, 96, 96)"),
    (["index", "references"], "动手学深度学习"),
    # words of zh.d2l.ai and of readers, where the book has others
    (NOTEBOOKS, "汇聚层"),
    (["nin", "googlenet", "vgg"], "批量规范化"),
    (["alexnet"], "数据增强"),
    (["trouble"], "显存不足", "内核挂了"),
]  # fmt: skip


# What a reader sees of each query: [summary, results], the first 30 of them.
SEARCH = """([queries, isComposing]) => queries.map(query => {
  const field = document.querySelector("main input[name=q]");
  field.value = query;
  field.dispatchEvent(new InputEvent("input", {isComposing}));
  return [document.querySelector("[role=status]").textContent,
    [...document.querySelectorAll("#search-results > li")].map(item => {
      const link = item.querySelector("a");
      return {heading: link.textContent, url: link.getAttribute("href").replace("./", ""),
        text: item.textContent, inHeading: !!link.querySelector("mark"),
        marks: [...item.querySelectorAll("mark")].map(mark => mark.textContent)};
    })];
})"""


def search(page, *queries, is_composing=False):
    # a browser refuses to change its address hundreds of times within seconds
    page.evaluate("history.replaceState = () => {}")
    return page.evaluate(SEARCH, [queries, is_composing])


def test_search_finds_what_students_type(tab):
    page, wrong = tab.open("search"), []
    for pages, *queries in QUERIES:
        wanted = {f"chapters/{each.removeprefix('chapters/')}.html" for each in pages}
        for query, (_, results) in zip(queries, search(page, *queries), strict=True):
            first = [result["url"].split("#")[0] for result in results[:3]]
            if not wanted & set(first):
                wrong.append((query, first))
    assert not wrong


def test_a_quoted_message_leads_to_its_entry_whatever_numbers_and_paths_stand_in_it(tab):
    page, wrong = tab.open("search"), []
    for section in re.split(r"(?m)^### ", notebooks.prose(Path("chapters/trouble.md")))[1:]:
        heading = section.split("\n")[0].replace("`", "")
        lines = "\n".join(re.findall(r"(?s)\n```text\n(.*?)```", section)).split("\n")
        for line in filter(str.strip, lines):
            other = re.sub(r"\d", lambda digit: str((int(digit[0]) + 3) % 10), line)
            ((_, results),) = search(page, other.replace("…", "/some/where"))
            if not results or results[0]["heading"] != heading:
                wrong.append((line, results[:1]))
    assert not wrong


def test_search_finds_any_run_of_characters_and_headings_first(tab):
    """Runs of 2 to 6 characters taken by chance from the chapters' text, and headings."""
    chance = random.Random(0)
    text = "\n".join(notebooks.prose(notebooks.path(Path(name).name)) for name in NOTEBOOKS)
    text = re.sub(r"(?s)```.*?```|\]\([^)]*\)|\$[^$]*\$", " ", text)
    found = chance.sample(re.findall("[\u4e00-\u9fff]{2,}", text), 200)
    places = [(run, chance.randrange(len(run) - 1)) for run in found]
    runs = [run[start : start + chance.randint(2, 6)] for run, start in places]
    headings = [heading for name in NOTEBOOKS for heading, _ in list(starts(name))[1:]]
    page = tab.open("search")
    for run, (summary, results) in zip(runs, search(page, *runs), strict=True):
        in_heading = [result["inHeading"] for result in results]
        assert summary.startswith("找到") and in_heading == sorted(in_heading, reverse=True), run
    for heading, (_, results) in zip(headings, search(page, *headings), strict=True):
        assert results[0]["heading"] == heading


# Sections made up for the purpose, the headings found for a query, and what the first result shows
# and marks.
BOOK = [
    {"url": "", "page": "书", "chapter": heading == "章", "heading": heading, "text": text,
     "code": code}
    for heading, text, code in [
        ("附录", "甲乙丙。", ""), ("章", "甲乙丙。", ""), ("甲乙丙丁戊己", "", ""),
        ("码", "", "丑寅卯 丑寅卯 zi chou mao 1"), ("文", "丑寅卯。 zi chou mao 2", "丑寅卯()"),
        ("长", f"{'头' * 90}。辰巳午未。{'尾' * 200}", ""),
        ("数", "11×1 1×11 qux-11 0.8812", ""), ("一", "1×1", ""), ("号", "<b>子</b>", "")]
]  # fmt: skip
FOUND = {
    "甲乙丙": ["甲乙丙丁戊己", "章", "附录"],  # in a heading, in a chapter, elsewhere
    "丑寅卯": ["文", "码"],
    "zi chou mao 3": ["文", "码"],  # a message with another number
    "1×1": ["一"],
    "qux11": ["数"],
    "0.881": ["数"],
    "甲乙丙午": ["甲乙丙丁戊己", "附录", "章"],
    "量子纠缠": [],
    "": [],
}
SHOWN = {
    "午": ("辰巳午未。尾", "午"),
    "丑寅 寅卯": ("文书丑寅卯。", "丑寅"),
    "丑 丑寅": ("文书丑寅卯。", "丑寅"),
    "<b>子": ("号书<b>子</b>", "<b>子"),
}


def test_search_in_detail(tab):
    script = f"const BOOK={json.dumps(BOOK)};"
    tab.page.route("**/searchdata.js*", lambda route: route.fulfill(body=script))
    page = tab.open("search")
    answers = dict(zip(FOUND, search(page, *FOUND), strict=True))
    assert {q: [r["heading"] for r in results] for q, (_, results) in answers.items()} == FOUND
    for query, words in {"甲乙丙午": "相近", "量子纠缠": "没有找到", "": "输入"}.items():
        assert words in answers[query][0] and not english(answers[query][:1])
    for query, (text, mark) in SHOWN.items():
        ((_, (first, *_)),) = search(page, query)
        assert (
            text in first["text"] and len(first["text"]) < 160 and set(first["marks"]) == {mark}
        ), query
    search(page, "<img src=x onerror=alert(1)>")
    assert "<img" in page.inner_text("main") and not page.locator("main img").count()
    # nothing is looked for while a word is being composed
    assert search(page, "甲乙丙", is_composing=True)[0][1] == []
    page.locator("main input[name=q]").dispatch_event("compositionend")
    assert page.locator("#search-results > li").count() == 3


@pytest.mark.parametrize(("width", "scheme"), [(360, "file"), (1280, "http")])
def test_search_from_a_chapter_with_the_keyboard_and_back(tab, server, width, scheme):
    tab.resize(width)
    page = tab.open("chapters/vgg", server if scheme == "http" else None)
    field = page.locator("main input[name=q]")
    page.keyboard.press("Control+k")
    page.keyboard.type("全局平均池化")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=*")
    assert field.input_value() == "全局平均池化"
    field.fill("1×1卷积")
    assert unquote(page.url).endswith("?q=1×1卷积")
    page.locator("#search-results a").first.press("Enter")
    page.wait_for_url("**/chapters/*.html#*")
    assert page.locator("span.highlighted").first.inner_text() == "1×1卷积"
    page.go_back()
    page.wait_for_url("**/search.html*")
    assert field.input_value() == "1×1卷积"


def test_search_data_are_text_and_code_apart_with_addresses_that_are_there(browser):
    data = (SITE / "_static/searchdata.js").read_text("utf-8")
    sections = {s["url"]: s for s in json.loads(data[len("const BOOK=") : -2])}
    text = "\n".join(section["text"] for section in sections.values())
    assert not re.findall(r"\\(?:times|frac|left)", text)
    for formula in "2.303是ln 10", "⌊(n + 2p - k)/s⌋", "√((n_1+n_2)/n_1)":
        assert formula in text
    block = sections["chapters/vgg.html#vgg-block"]
    assert "def vgg_block(" in block["code"] and "def " not in block["text"]
    for url in sections:
        page, _, anchor = url.partition("#")
        assert f'id="{anchor}"' in (SITE / page).read_text("utf-8")


# Chinese throughout -------------------------------------------------------------------------------

STRINGS = """[...document.querySelectorAll("*")].flatMap(e => [
  // the text of the chapters is their authors'; what the site adds to it is looked at
  ...e.closest("script, style, noscript, svg, pre, code, .math, mjx-container, .search-page")
    || e.closest("article") && !e.closest("summary, .copybtn, .headerlink") ? []
    : [...e.childNodes].filter(node => node.nodeType == Node.TEXT_NODE).map(node => node.data),
  ...e.closest("svg") && !e.closest(".copybtn") ? []
    : ["title", "aria-label", "alt", "placeholder", "data-tooltip", "data-bs-original-title",
       "data-bs-title", "aria-description"].map(name => e.getAttribute(name) ?? ""),
  ...!e.closest("article") ? [] : ["::before", "::after"].map(
    pseudo => getComputedStyle(e, pseudo).content).filter(content => content.startsWith('"')),
])"""


def english(strings):
    """The strings with a latin word in them and no Chinese, allowed words left out."""
    strings = [text for text in strings if not re.search("[\u4e00-\u9fff]", text)]
    return [text for text in strings if set(re.findall("[A-Za-z]{2,}", text)) - ALLOWED]


def test_interface_is_chinese_and_the_footer_of_this_year(shown):
    page = shown.page
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert re.search("[\u4e00-\u9fff]", page.title())
    assert not english(page.evaluate(STRINGS))
    if shown.name in CHAPTERS:
        footer = page.locator("footer.bd-footer-content").inner_text()
        assert f"© {datetime.date.today().year} " in footer


def test_buttons_are_chinese_copy_and_download(browser, server, tmp_path):
    with Tab(browser, permissions=["clipboard-read", "clipboard-write"]) as tab:
        page = tab.open(NOTEBOOKS[0], server)
        page.locator(".dropdown-download-buttons > button").click()
        with page.expect_download() as download:
            page.get_by_role("link", name="笔记本").click()
        assert download.value.suggested_filename == Path(NOTEBOOKS[0]).name + ".ipynb"
        download.value.save_as(tmp_path / "notebook.ipynb")
        saved = json.loads((tmp_path / "notebook.ipynb").read_text(encoding="utf-8"))
        page.keyboard.press("Escape")
        page.locator("div.cell_input").nth(1).hover()
        page.locator("div.cell_input .copybtn").nth(1).click()
        page.wait_for_selector(".copybtn.success")
        assert not english(page.evaluate(STRINGS))
        copied = page.evaluate("navigator.clipboard.readText()").strip()
        assert copied in ["".join(cell["source"]).strip() for cell in saved["cells"]]


# Layout -------------------------------------------------------------------------------------------

# What sticks out of the window to the right and cannot be scrolled to in a box of its own.
OUTSIDE = """[...document.querySelectorAll("main *")].filter(element => {
  for (let e = element; e.localName != "html"; e = e.parentElement)
    if (["auto", "scroll"].includes(getComputedStyle(e).overflowX)) return false;
  const {width, right} = element.getBoundingClientRect();
  return width && right > innerWidth + 1 && getComputedStyle(element).position != "fixed"
    && !element.closest("mjx-assistive-mml, .bd-sidebar-secondary");
}).map(element => element.outerHTML.slice(0, 120))"""
# Formulas that a line's end may part from the punctuation after them.
LATE = """[...document.querySelectorAll("span.math")].filter(math =>
  /^[，。；：、！？）]/.test(math.nextSibling?.data)
  && getComputedStyle(math.parentElement).whiteSpace != "nowrap").map(math => math.textContent)"""
# Boxes that arrow keys do not scroll, as they do not take the focus.
OUT_OF_REACH = """[...document.querySelectorAll("article *")].filter(e =>
  ["auto", "scroll"].includes(getComputedStyle(e).overflowX)
  && e.clientWidth && e.scrollWidth > e.clientWidth + 1
  && e.tabIndex < 0 && !e.querySelector("a, button, [tabindex='0']"))
  .map(e => e.outerHTML.slice(0, 120))"""
# Lines of code, also of answers, that have to be scrolled to.
LONG_CODE = """[...document.querySelectorAll("article .highlight pre")]
  .filter(e => e.scrollWidth > e.clientWidth + 1)
  .map(e => `${e.scrollWidth - e.clientWidth} px: ${e.textContent.slice(0, 60)}`)"""
# Figures with a second tooltip, or with another number of tab stops than they need.
FIGURES = """[...document.querySelectorAll("article figure")].filter(figure => {
  const count = selector => figure.querySelectorAll(selector).length;
  const stops = count("[tabindex='0']") + figure.matches("[tabindex='0']");
  const needed = count("svg [role=img]") > 0 || figure.scrollWidth > figure.clientWidth;
  return count("title, desc") || stops != needed;
}).map(figure => figure.textContent.slice(0, 60))"""
CUT = """[...document.querySelectorAll("article figure")].some(
  figure => figure.scrollWidth > figure.clientWidth)"""


@pytest.mark.parametrize("width", [360, 768, 1280, 1920])
def test_nothing_is_cut_and_what_scrolls_can_be_reached(shown, width):
    shown.resize(width)
    assert shown.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # the theme gives boxes their tab stops a moment later
    shown.page.wait_for_function(f"!{OUT_OF_REACH}.length", timeout=2000)
    for faults in OUTSIDE, LATE, FIGURES:
        assert not shown.page.evaluate(faults)
    assert width < 1280 or not shown.page.evaluate(LONG_CODE)
    if shown.name in NOTEBOOKS and width in (360, 1280):
        assert shown.page.evaluate(CUT) == (width == 360)


def test_paper_shows_everything_and_cuts_nothing(shown):
    """Drawing, legend and caption together: no figure is cut in two by a page's end."""
    page = shown.page
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = false)")
    page.emulate_media(media="print")
    shown.resize(*PAPER)
    for details in page.locator("article details").all():
        assert details.locator("> :last-child").is_visible()
    for part in ".bd-sidebar-primary", ".bd-sidebar-secondary", ".bd-header-article", ".copybtn":
        assert not page.locator(part).first.is_visible(), part
    right = page.evaluate("""[...document.querySelectorAll("article table")]
        .map(table => table.getBoundingClientRect().right)""")
    assert max(right, default=0) <= PAPER[0]
    figures = page.evaluate("""[...document.querySelectorAll("article figure")].map(figure =>
        [figure.getBoundingClientRect().height, getComputedStyle(figure).breakInside])""")
    if shown.name in NOTEBOOKS:
        assert figures
        assert all(height < PAPER[1] and inside == "avoid" for height, inside in figures)


def test_lines_can_be_read_and_there_is_one_search(tab):
    page = tab.open(NOTEBOOKS[0])
    size, height, width = page.locator("article section > p").first.evaluate(
        """paragraph => ["fontSize", "lineHeight", "width"].map(
            key => parseFloat(getComputedStyle(paragraph)[key]))"""
    )
    assert 1.7 <= height / size <= 1.9 and 36 <= width / size <= 42
    assert page.locator(":is(button, form):visible", has_text="搜索").count() == 1


def test_colours_can_be_changed_and_stay_so(tab):
    page, is_dark = tab.open(NOTEBOOKS[0]), "document.documentElement.dataset.theme == 'dark'"
    for _ in range(3):  # light, dark, the system's
        page.locator(".theme-switch-button:visible").first.press("Enter")
        if page.evaluate(is_dark):
            break
    page.reload()
    page.wait_for_function(is_dark)
    page.wait_for_function("getComputedStyle(document.body).backgroundColor.startsWith('rgb(1')")
    # figures made by cells stand on the page's own ground
    assert page.evaluate("""[...document.querySelectorAll(".cell_output .text_html")].every(
        e => getComputedStyle(e).backgroundColor == "rgba(0, 0, 0, 0)")""")


# What a reader does -------------------------------------------------------------------------------


def test_boxes_are_read_with_arrow_keys_and_a_tip_that_goes(tab):
    page = tab.open("chapters/googlenet")
    figure, tip = page.locator("figure:has(svg [role=img])").nth(1), page.locator(".figure-tip")
    boxes = figure.locator("svg [role=img]").all()

    def tells(at):
        """Whether the tip is about this box, or hidden where `at` is None."""
        if at is None:
            return not tip.is_visible()
        words = boxes[at].get_attribute("aria-label").split("；")
        return tip.is_visible() and tip.inner_text().split("\n") == words

    boxes[0].focus()
    for key, at in (("ArrowDown", 1), ("ArrowRight", 2), ("ArrowUp", 1), ("End", -1),
                    ("ArrowLeft", -2), ("Home", 0), ("ArrowUp", 0), ("Escape", None),
                    ("ArrowDown", 1), ("Tab", None)):  # fmt: skip
        page.keyboard.press(key)
        assert tells(at), key
        assert key == "Tab" or boxes[at or 0].evaluate("box => box == document.activeElement")
    # With the pointer: it may enter the tip, which Esc puts away all the same.
    boxes[1].hover()
    place, edge = tip.bounding_box(), boxes[1].bounding_box()
    below = place["height"] - 4 if place["y"] < edge["y"] else 4
    page.mouse.move(place["x"] + 9, place["y"] + below, steps=5)
    page.wait_for_timeout(400)
    assert tells(1)
    page.keyboard.press("Escape")
    assert tells(None)
    boxes[2].hover()
    assert tells(2)
    page.mouse.move(2, 2)
    page.wait_for_timeout(400)
    assert tells(None)


def test_axe_finds_nothing_serious(shown):
    """The last test of a page, which it thins."""
    assert not shown.axe()
