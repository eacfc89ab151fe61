"""The built site as readers meet it, in a real browser: `pytest -m site` after the build.

The site is looked for in _build/html, or in $D2L_SITE. Where it has not been built, or where there
is no Chromium, the tests skip with the reason; under CI=true they fail instead.
"""

import datetime
import functools
import http.server
import importlib
import itertools
import json
import os
import random
import re
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock
from urllib.parse import unquote

import pytest

from conftest import give_up
from tools import notebooks

pytestmark = pytest.mark.site

ROOT = Path(__file__).resolve().parents[1]
SITE = Path(os.environ.get("D2L_SITE", ROOT / "_build/html")).resolve()
NOTEBOOKS = [f"chapters/{name}" for name in notebooks.names()]
# Notebooks first: a page has one number in all lists, by which pytest groups the tests of a page.
CHAPTERS = NOTEBOOKS + [
    page.with_suffix("").as_posix() for page in notebooks.pages() if page.suffix == ".md"
]
PAGES = [*CHAPTERS, "search", "404"]
PAPER = (672, 986)  # px: A4 less its margins, 178 mm by 261 mm

# Pages one of which has to be among the first three results, and what a student types.
QUERIES = [
    (CHAPTERS, "卷积"),
    (NOTEBOOKS, "池化层", "过拟合", "学习率", "暂退法", "dropout", "Fashion-MNIST",
     "怎么防止过拟合", "参数 全连接层"),
    (["alexnet"], "激活函数", "读取数据集", "0.88"),  # on the way to 0.881
    (["vgg"], "VGG块", "vgg_block", "VGG11"),
    (["nin"], "NiN块"),
    (["googlenet"], "Inception块", "inception"),
    (["nin", "googlenet"], "全局平均池化", "1×1卷积", "1x1 卷积"),
    (["alexnet", "vgg"], "手工设计"),
    (["alexnet", "vgg", "googlenet"], "感受野"),
    (["nin", "googlenet", "vgg"], "AdaptiveAvgPool2d"),
    (["trouble"], "OMP: Error #15", "externally-managed-environment", "has no CUDA",
     "中文变成方框", "out of memory with a batch of shape (256, 1, 96, 96)"),
    (["d2lmini"], "train_ch6"),
    (["index", "references"], "动手学深度学习"),
    # words of zh.d2l.ai and of readers, where the book has others
    (NOTEBOOKS, "汇聚层"),
    (["nin", "googlenet", "vgg"], "批量规范化"),
    (["alexnet"], "数据增强"),
    (["trouble"], "显存不足", "内核挂了"),
]  # fmt: skip

# Latin words that may stand alone in the interface: keys and names, beside the chapters' networks.
ALLOWED = {"Ctrl", "K", "PyTorch", "LeNet", "Colab", "Kaggle"}
ALLOWED |= {word for c in notebooks.chapters() for word in re.findall("[A-Za-z]{2,}", c.network)}


class Tab:
    """A page that keeps what it asked for and what it complained of."""

    def __init__(self, browser, width=1280, height=900, **options):
        options = {"color_scheme": "light", "locale": "zh-CN", **options}
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.page = self.context.new_page()
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        complain = self.complaints.append
        self.page.on("requestfailed", lambda request: complain(f"failed: {request.url}"))
        self.page.on("pageerror", lambda error: complain(f"error: {error}"))
        self.page.on("console", lambda m: m.type in ("error", "warning") and complain(m.text))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def open(self, address):
        self.page.goto(address, wait_until="load")
        self.page.wait_for_function(
            "!window.MathJax?.startup?.promise || MathJax.startup.promise.then(() => true)"
        )
        return self.page

    def resize(self, width, height=900):
        """Return once the page has taken the new size, scripts that wait for one included."""
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.evaluate(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def axe(self, part="document"):
        """What is seriously wrong with a part of the page: in light, and by contrast in dark."""
        import axe_playwright_python as axe

        self.page.evaluate(Path(axe.__file__).with_name("axe.min.js").read_text("utf-8"))
        found = []
        for mode, rules in ("light", ""), ("dark", ", runOnly: ['color-contrast']"):
            self.page.emulate_media(color_scheme=mode)
            self.page.wait_for_function(
                "mode => (document.documentElement.dataset.theme ?? mode) === mode", arg=mode
            )
            self.page.wait_for_timeout(300)  # colours fade
            result = self.page.evaluate(f"axe.run({part}, {{resultTypes: ['violations']{rules}}})")
            found += [
                (mode, v["id"], v["nodes"][0]["html"][:160], len(v["nodes"]))
                for v in result["violations"]
                if v["impact"] in ("serious", "critical")
            ]
        return found


def address(base, name, query=""):
    return f"{base}/{name}.html{query}"


@pytest.fixture(scope="module")
def browser(browser):
    if not (SITE / "chapters/index.html").exists():
        give_up(f"no site in {SITE}: run jupyter-book build . --all -W -n --keep-going")
    return browser


@pytest.fixture(scope="module")
def server(browser):
    """A static server that shows 404.html for what is not there, as GitHub Pages does."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        error_message_format = (SITE / "404.html").read_text("utf-8").replace("%", "%%")
        error_content_type = "text/html; charset=utf-8"

        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as instance:
        threading.Thread(target=instance.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{instance.server_address[1]}"
        instance.shutdown()


@pytest.fixture(scope="module", params=PAGES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def opened(browser, name):
    """A page of the site, opened once for all tests that look at it."""
    with Tab(browser) as tab:
        tab.open(address(SITE.as_uri(), name))
        yield tab


@pytest.fixture
def tab(opened):
    """The same on a wide screen, whatever the test before has done to it, with all unfolded."""
    opened.page.emulate_media(media="screen", color_scheme="light")
    opened.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    opened.resize(1280, 1000)
    return opened


of_chapters, of_notebooks, of_alexnet = (
    pytest.mark.parametrize("name", names, indirect=True)
    for names in (CHAPTERS, NOTEBOOKS, NOTEBOOKS[:1])
)


# Nothing from elsewhere, light, quick ------------------------------------------------------------


def test_page_is_light_whole_and_asks_no_other_host(browser, opened, server, name):
    """Whether from a folder or a server; under 3 MB with all it loads, nothing compressed."""
    with Tab(browser) as served:
        loaded = {}
        served.page.on(
            "response",
            lambda r: loaded.setdefault(r.url, int(r.headers.get("content-length", 0))),
        )
        served.open(address(server, name)).wait_for_load_state("networkidle")
    opened.page.wait_for_load_state("networkidle")
    for tab, base in (served, server), (opened, SITE.as_uri()):
        assert not [url for url in tab.requests if not url.startswith((base + "/", "data:"))]
        assert not tab.complaints
    assert 0 < sum(loaded.values()) < 3e6
    assert sum(".js" in url for url in served.requests) <= 18
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
            assert "colab." not in link or has_address()
            continue
        path, _, anchor = unquote(link.removeprefix(SITE.as_uri() + "/")).partition("#")
        target = SITE / path.split("?")[0]
        assert target.is_file(), link
        if anchor and target.suffix == ".html":
            assert f'id="{anchor}"' in target.read_text("utf-8"), link


def has_address():
    return re.search(r"\burl: https", (ROOT / "_config.yml").read_text(encoding="utf-8"))


def test_first_page_and_one_that_is_missing_lead_into_the_book(browser, server):
    with Tab(browser) as tab:
        tab.open(server).wait_for_url(f"{server}/chapters/index.html")
        page = tab.open(f"{server}/chapters/some/where/else.html")
        assert "没有这个页面" in page.inner_text("h1")
        links = page.evaluate("[...document.links].map(a => a.href)")
        # with an address, links start where Pages will serve it
        assert has_address() or links == [
            f"{server}/{x}.html" for x in ("chapters/index", "search")
        ]


def test_the_dirhtml_builder_works(tmp_path):
    program = "from jupyter_book.cli.main import main; main()"
    options = ["--path-output", tmp_path, "--builder", "dirhtml", "-W", "-n", "--keep-going"]
    build = subprocess.run(
        [sys.executable, "-c", program, "build", ROOT, *options],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert build.returncode == 0, build.stdout + build.stderr
    found = search_data(tmp_path / "_build/dirhtml")
    assert any(section["url"].startswith("chapters/trouble/#") for section in found)


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
def test_every_heading_has_an_address_that_stays_and_stands_in_the_contents(tab, name):
    found = tab.page.evaluate(HEADINGS)
    ids = tab.page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    drawn = tab.page.evaluate("[...document.querySelectorAll('article svg [id]')].map(e => e.id)")
    anchors = [anchor for _, anchor, _ in found]
    assert not [anchor for anchor in anchors if re.fullmatch(r"id\d+|", anchor)]
    assert all(ids.count(anchor) == 1 for anchor in [*anchors, *drawn])
    assert name not in NOTEBOOKS or set(starts(name)) <= {(text, at) for text, at, _ in found}
    for width in 1280, 360:
        tab.resize(width, 1000)
        assert tab.page.evaluate(CONTENTS) == [heading[:2] for heading in found[1:]]
    levels = [level for *_, level in found]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels)), levels


@of_chapters
def test_contents_in_a_low_window_are_those_of_the_section(tab, name):
    page = tab.page
    tab.resize(1280, 700)
    for text, anchor, level in page.evaluate(HEADINGS)[1:]:
        page.evaluate("id => document.getElementById(id).scrollIntoView()", anchor)
        page.wait_for_timeout(100)
        entry = page.locator(f".bd-toc-nav a[href='#{anchor}']")
        entry.wait_for(timeout=2000)
        if name in NOTEBOOKS and level == 2:  # however long its section is
            entry.and_(page.locator(".active")).wait_for(timeout=2000)
        frame = page.locator(".bd-sidebar-secondary").bounding_box()
        place = entry.bounding_box()
        assert place["y"] + place["height"] <= frame["y"] + frame["height"], text


@pytest.mark.parametrize("width", [360, 1280])
def test_link_to_a_heading_shows_it(browser, width):
    """Right below the bar at the top, although formulas above it change their height meanwhile."""
    with Tab(browser, width, 700) as tab:
        for name in NOTEBOOKS:
            found = list(starts(name))
            for text, anchor in found[len(found) // 2], found[-3]:
                tab.open("about:blank")
                page = tab.open(address(SITE.as_uri(), name, f"#{anchor}"))
                page.wait_for_timeout(300)
                heading, bar = (
                    page.locator(part).first.bounding_box()
                    for part in (f"[id='{anchor}']", ".bd-header-article")
                )
                assert 0 <= heading["y"] - bar["y"] - bar["height"] < 100, (name, text)


# Search -------------------------------------------------------------------------------------------

FIELD = ".bd-search-container input[name=q]"
FOUND = "query => search(query).results.map(r => [r.section.heading, r.section.url])"


@pytest.fixture(scope="module")
def search(browser):
    """The search page."""
    with Tab(browser) as tab:
        yield tab.open(address(SITE.as_uri(), "search"))
        assert not tab.complaints


def test_search_finds_what_students_type(search):
    wrong = []
    for pages, *queries in QUERIES:
        wanted = {f"chapters/{page.removeprefix('chapters/')}.html" for page in pages}
        for query in queries:
            first = [url.split("#")[0] for _, url in search.evaluate(FOUND, query)[:3]]
            if not wanted & set(first):
                wrong.append((query, first))
    assert not wrong


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_search_leads_to_every_question(search, name):
    """Typed as it stands, it is the first thing found."""
    for text, anchor in list(starts(name))[1:]:
        found = search.evaluate(FOUND, text)
        assert found[0][0] == text and [text, f"{name}.html#{anchor}"] in found


# Sections made up for the purpose, whose words stand nowhere else, and what is found in them.
MADE_UP = """() => {
  const add = (url, heading, text, code = "", chapter = false) => sections.push({url, heading, text,
    page: "页", chapter, plainPage: "页", plainHeading: plain(heading), plainText: plain(text),
    plainCode: plain(code), plainAll: plain(`${text} ${code}`)});
  add("appendix", "附", "甲乙丙。");
  add("chapter", "章", "甲乙丙。", "", true);
  add("heading", "甲乙丙丁戊己", "");
  add("code", "码", "", "丑寅卯 丑寅卯 zi chou mao 1", true);
  add("prose", "文", "丑寅卯。 zi chou mao 2");
  add("long", "长", `${"头".repeat(30)}。辰巳午未。${"尾".repeat(200)}`);
  add("numbers", "数", "11×1 1×11 qux-11 0.8812");
  globalThis.found = query => search(query).results.map(r => r.section.url);
  globalThis.shown = (r, start = excerptStart(r)) => r.section.text.slice(start, start + 140);
  globalThis.marked = (...parts) => mark(document.createElement("p"), "卷积层", parts.map(pattern));
  globalThis.type = (value, event) => {
    field.value = value;
    field.dispatchEvent(event);
    return document.querySelectorAll("#search-results > li").length;
  };
}"""
DETAILS = {
    "found('甲乙丙')": ["heading", "chapter", "appendix"],
    "found('丑寅卯')": ["prose", "code"],
    "found('zi chou mao 3')": ["prose", "code"],
    "search('zi chou mao 3').isNear": False,
    "shown(search('巳午').results[0]).includes('巳午')": True,
    "marked('卷积', '积层').textContent": "卷积层",
    "marked('卷', '卷积').querySelector('mark').textContent": "卷积",
    "found('1×1').includes('numbers')": False,
    "found('qux11')": ["numbers"],
    "found('0.881').includes('numbers')": True,
    "type('', new InputEvent('input'))": 0,
    "type('卷积', new InputEvent('input', {isComposing: true}))": 0,
    "type('卷积', new CompositionEvent('compositionend'))": 30,
    "document.querySelector('#search-results mark').textContent": "卷积",
    "document.querySelector('.search-page').textContent.length > 3": True,
    "sections.splice(BOOK.length).length": 7,
}


def test_search_in_detail(search):
    search.evaluate(MADE_UP)
    assert {code: search.evaluate(code) for code in DETAILS} == DETAILS


def test_a_quoted_message_leads_to_its_entry_whatever_numbers_and_paths_stand_in_it(search):
    wrong = []
    for section in re.split(r"(?m)^### ", notebooks.prose(Path("chapters/trouble.md")))[1:]:
        heading = section.split("\n")[0].replace("`", "")
        for block in re.findall(r"(?s)\n```text\n(.*?)```", section):
            for line in block.strip().split("\n"):
                other = re.sub(r"\d", lambda digit: str((int(digit[0]) + 3) % 10), line)
                found = search.evaluate(FOUND, other.replace("…", "/some/where"))
                if not found or found[0][0] != heading:
                    wrong.append((line, found[:1]))
    assert not wrong


def test_search_finds_any_run_of_characters_and_headings_first(search):
    """Runs of 2 to 6 characters taken by chance from the chapters' text and all headings."""
    chance = random.Random(0)
    cells = [cell for name in NOTEBOOKS for cell in notebooks.read(Path(name).name).cells]
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    text = re.sub(r"(?s)```.*?```|\]\([^)]*\)|\$[^$]*\$", " ", text)
    headings = " ".join(search.evaluate("BOOK.map(section => section.heading)"))
    found = chance.sample(re.findall("[\u4e00-\u9fff]{2,}", text), 300)
    found += re.findall("[\u4e00-\u9fff]{2,}|[A-Za-z]{3,}", headings)
    places = [(run, chance.randrange(len(run) - 1)) for run in found]
    runs = [run[start : start + chance.randint(2, 6)] for run, start in places]
    assert not search.evaluate(
        """runs => runs.filter(run => {
          const {results, isNear} = search(run), inHeading = results.map(
            r => plain(r.section.heading).search(pattern(plain(run))) >= 0);
          return isNear || !results.length || inHeading.includes(false)
            && inHeading.lastIndexOf(true) > inHeading.indexOf(false);
        })""",
        runs,
    )


def test_search_that_finds_nothing_says_so_and_words_are_no_html(search):
    summary = search.locator("#search-summary")
    for query, words in ("量子纠缠", "没有找到"), ("", "输入"), ("卷积", "找到"):
        search.locator(FIELD).fill(query)
        assert words in summary.inner_text() and not english(search.evaluate(STRINGS))
        assert bool(search.locator("#search-results > li").count()) == (query == "卷积")
    search.locator(FIELD).fill("<img src=x onerror=alert(1)>")
    assert "<img" in summary.inner_text()
    assert search.locator("#search-summary img, #search-results img").count() == 0


@pytest.mark.parametrize(("width", "scheme"), [(360, "file"), (1280, "http")])
def test_search_from_a_chapter_with_the_keyboard_and_back(browser, server, width, scheme):
    with Tab(browser, width) as tab:
        page = tab.open(address(server if scheme == "http" else SITE.as_uri(), "chapters/vgg"))
        press, field = page.keyboard.press, page.locator(FIELD)
        press("Control+k")
        page.keyboard.type("全局平均池化")
        press("Enter")
        page.wait_for_url("**/search.html?q=*")
        assert field.input_value() == "全局平均池化"
        field.fill("1×1卷积")
        assert unquote(page.url).endswith("?q=1×1卷积")
        link = page.locator("#search-results a").first
        heading = link.inner_text()
        link.focus()
        press("Enter")
        page.wait_for_url("**/chapters/*.html#*")
        anchor = unquote(page.url.partition("#")[2])
        assert page.locator(f"[id='{anchor}'] > :is(h2, h3, h4)").inner_text().startswith(heading)
        assert page.locator("span.highlighted").first.inner_text() == "1×1卷积"
        page.go_back()
        page.wait_for_url("**/search.html*")
        assert field.input_value() == "1×1卷积"
        assert not tab.complaints


# What search finds in: no browser -----------------------------------------------------------------

FORMULAS = {
    r"\ln 10": "ln 10",
    r"-\ln 0.1=\ln 10": "-ln 0.1=ln 10",
    r"\max(x, 0)": "max(x, 0)",
    r"2\times9c^2=18c^2": "2×9c^2=18c^2",
    r"2^{20}": "2^20",
    r"\frac1{12}": "1/12",
    r"\lfloor s/2^k\rfloor": "⌊s/2^k⌋",
    r"\left\lfloor \frac{n + 2p - k}{s} \right\rfloor + 1.": "⌊(n + 2p - k)/s⌋ + 1.",
    r"x_i^{a+b}\leq\sqrt{2}": "x_i^(a+b)≤√2",
}


def extension(name="d2l_site"):
    """A Sphinx extension of the book as a module."""
    with mock.patch.object(sys, "path", [*sys.path, str(ROOT / "tools/site")]):
        return importlib.import_module(name)


def search_data(site):
    data = (site / "_static/searchdata.js").read_text("utf-8")
    return json.loads(data[len("const BOOK=") : -2])


def test_formulas_stay_readable_in_excerpts(browser):
    plain_formula = extension().plain_formula
    assert {tex: plain_formula(tex) for tex in FORMULAS} == FORMULAS
    for page in notebooks.pages():
        text = re.sub(r"(?s)```.*?```|`[^`\n]*`", "", notebooks.prose(page))
        for tex in re.findall(r"\$([^$]+)\$", text):
            plain = plain_formula(tex)
            assert not re.search(r"[\\{}]|\b(times|frac|text|left)", plain), tex
    assert any("2.303是ln 10" in section["text"] for section in search_data(SITE))


def test_code_is_told_from_prose(browser):
    (block,) = (s for s in search_data(SITE) if s["url"].startswith("chapters/vgg.html#vgg-block"))
    assert "def vgg_block(" in block["code"] and "def " not in block["text"]


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


def test_interface_is_chinese_and_the_footer_of_this_year(tab, name):
    page = tab.page
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert re.search("[\u4e00-\u9fff]", page.title())
    assert not english(page.evaluate(STRINGS))
    if name in CHAPTERS:
        footer = page.locator("footer.bd-footer-content").inner_text()
        assert f"© {datetime.date.today().year} " in footer


def test_buttons_are_chinese_copy_and_download(browser, server, tmp_path):
    with Tab(browser, permissions=["clipboard-read", "clipboard-write"]) as tab:
        page = tab.open(address(server, NOTEBOOKS[0]))
        for button in page.locator(".article-header-buttons button:visible, .primary-toggle").all():
            button.hover()
            page.wait_for_timeout(150)
            assert not english(page.evaluate(STRINGS))
        page.locator(".dropdown-download-buttons > button").click()
        menu = page.locator(".dropdown-download-buttons .dropdown-menu").inner_text()
        assert "笔记本" in menu and "PDF" in menu
        with page.expect_download() as download:
            page.locator(".btn-download-source-button").click()
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
# Figures that are nameless, read twice, or with another number of tab stops than they need.
FIGURES = """[...document.querySelectorAll("article figure")].filter(figure => {
  const all = selector => [...figure.querySelectorAll(selector)], boxes = all(".d2lm-box");
  const [label, words] = ["label", "description"].map(
    name => e => e.getAttribute(`aria-${name}`) ?? "");
  const stops = all("[tabindex='0']").length + figure.matches("[tabindex='0']");
  return all("svg[role] > :is(title, desc), .d2lm-box > title, [aria-labelledby]").length
    || stops != (boxes.length > 0 || figure.scrollWidth > figure.clientWidth)
    || !all("svg:not([aria-hidden='true'])").every(label)
    || !all("svg.d2lm").every(svg => label(svg).length < 60 && words(svg))
    || !boxes.every(box => label(box).includes("输出"));
}).map(figure => figure.textContent.slice(0, 60))"""
CUT = """[...document.querySelectorAll("article figure")].some(
  figure => figure.scrollWidth > figure.clientWidth)"""


@pytest.mark.parametrize("width", [360, 768, 1280, 1920])
def test_nothing_is_cut_and_what_scrolls_can_be_reached(tab, name, width):
    tab.resize(width)
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # the theme gives boxes their tab stops a moment later
    tab.page.wait_for_function(f"!{OUT_OF_REACH}.length", timeout=2000)
    for faults in OUTSIDE, LATE, FIGURES:
        assert not tab.page.evaluate(faults)
    assert width < 1280 or not tab.page.evaluate(LONG_CODE)
    if name in NOTEBOOKS and width in (360, 1280):
        assert tab.page.evaluate(CUT) == (width == 360)


def test_paper_shows_everything_and_cuts_nothing(tab, name):
    """Drawing, legend and caption together: no figure is cut in two by a page's end."""
    page = tab.page
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = false)")
    page.emulate_media(media="print")
    tab.resize(*PAPER)
    folded = page.locator("article details").all()
    assert all(details.locator("> :last-child").is_visible() for details in folded)
    for part in ".bd-sidebar-primary", ".bd-sidebar-secondary", ".bd-header-article", ".copybtn":
        assert not page.locator(part).first.is_visible(), part
    right = page.evaluate("""[...document.querySelectorAll("article table")]
        .map(table => table.getBoundingClientRect().right)""")
    assert max(right, default=0) <= PAPER[0]
    figures = page.evaluate("""[...document.querySelectorAll("article figure")].map(figure =>
        [figure.getBoundingClientRect().height, getComputedStyle(figure).breakInside])""")
    assert figures or name not in NOTEBOOKS
    if name in NOTEBOOKS:
        assert all(height < PAPER[1] and inside == "avoid" for height, inside in figures)


@of_alexnet
def test_typography(tab):
    style = """e => [...["fontSize", "lineHeight", "width"].map(
        key => parseFloat(getComputedStyle(e)[key])), getComputedStyle(e).lineBreak]"""
    paragraph, code = (
        tab.page.locator(part).first for part in ("article section > p", "div.cell_input pre")
    )
    size, height, width, line_break = paragraph.evaluate(style)
    assert 1.7 <= height / size <= 1.9 and 36 <= width / size <= 42 and line_break == "strict"
    search = tab.page.locator(".search-button__button:visible, form.bd-search:visible")
    assert search.count() == 1
    tab.resize(360)
    assert 12 <= code.evaluate(style)[0] <= 14


@pytest.mark.parametrize(("mode", "other"), [("light", "dark"), ("dark", "light")])
def test_theme_follows_the_system_and_can_be_changed(browser, mode, other):
    brightness = "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g)"
    looks = f"mode => ({brightness}.slice(0, 3).some(n => n > 127)) === (mode === 'light')"
    with Tab(browser, color_scheme=mode) as tab:
        page = tab.open(address(SITE.as_uri(), NOTEBOOKS[0]))
        page.wait_for_function(looks, arg=mode)
        # figures made by cells stand on the page's own ground
        assert page.evaluate("""[...document.querySelectorAll(".cell_output .text_html")].every(
            e => getComputedStyle(e).backgroundColor == "rgba(0, 0, 0, 0)")""")
        button = page.locator(".theme-switch-button:visible").first
        for _ in range(3):
            button.focus()
            page.keyboard.press("Enter")
            if page.evaluate("document.documentElement.dataset.theme") == other:
                break
        page.wait_for_function(looks, arg=other)
        page.reload()
        page.wait_for_function(looks, arg=other)


# What a reader does -------------------------------------------------------------------------------


@of_notebooks
def test_folded_answers_open_with_the_keyboard(tab):
    folded = tab.page.locator("article details")
    assert folded.count() >= 3
    tab.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = false)")
    for details in folded.all():
        details.locator("summary").first.focus()
        tab.page.keyboard.press("Enter")
        assert details.get_attribute("open") is not None
        assert details.locator("p, pre").last.is_visible()


def test_keyboard_reaches_content_and_navigation(browser):
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), "chapters/index"))
        for _ in range(40):
            page.keyboard.press("Tab")
            target, is_seen = page.evaluate("""() => {
              const element = document.activeElement, style = getComputedStyle(element);
              return [element.getAttribute("href") ?? "",
                      style.outlineStyle != "none" || style.boxShadow != "none"];
            }""")
            assert is_seen, f"focus cannot be seen on {target}"
            if target.endswith("vgg.html"):
                break
        page.keyboard.press("Enter")
        page.wait_for_url("**/chapters/vgg.html")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.innerText") == "跳到正文"
        page.keyboard.press("Enter")
        page.wait_for_function("location.hash == '#main-content'")


@of_alexnet
def test_sidebars_open_and_close_on_a_phone(tab):
    tab.resize(360, 740)
    for side in "primary", "secondary":
        link = tab.page.locator(f".bd-sidebar-{side} a.reference").first
        tab.page.locator(f".{side}-toggle:visible").focus()
        for key in "Enter", "Escape":
            tab.page.keyboard.press(key)
            tab.page.wait_for_timeout(600)
            is_seen = link.is_visible() and 0 <= link.bounding_box()["x"] < 360
            assert is_seen == (key == "Enter")


def test_boxes_are_read_with_arrow_keys_and_a_tip_that_goes(browser):
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), "chapters/googlenet"))
        figure = page.locator("figure:has(svg.d2lm)").nth(1)
        boxes, tip = figure.locator(".d2lm-box").all(), page.locator(".figure-tip")

        def tells(at, has_focus=False):
            """Whether the tip is about this box, or hidden where `at` is None."""
            if at is None:
                return not tip.is_visible()
            words = boxes[at].get_attribute("aria-label").split("；")
            is_told = tip.is_visible() and tip.inner_text().split("\n") == words
            return is_told and (not has_focus or boxes[at].evaluate("box => box.matches(':focus')"))

        boxes[0].focus()
        assert tells(0, True)
        for key, at in (("ArrowDown", 1), ("ArrowRight", 2), ("ArrowUp", 1), ("End", -1),
                        ("ArrowLeft", -2), ("Home", 0), ("ArrowUp", 0), ("End", -1),
                        ("Escape", None), ("ArrowLeft", -2), ("Tab", None)):  # fmt: skip
            page.keyboard.press(key)
            assert tells(at, True), key
        assert not page.evaluate("document.activeElement.matches('.d2lm-box')")
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


@of_alexnet
def test_the_wheel_turns_the_page_and_not_the_number(tab):
    field = tab.page.locator(".shapes-field input").first
    field.hover()
    field.focus()
    before, top = field.input_value(), tab.page.evaluate("scrollY")
    tab.page.mouse.wheel(0, 300)
    tab.page.wait_for_timeout(300)
    assert field.input_value() == before and tab.page.evaluate("scrollY") > top


# axe takes half a minute over thousands of like elements: three of each kind stay.
THIN = """() => {
  const seen = new Map();
  for (const e of document.querySelectorAll(".highlight span, mjx-container, svg text, svg path")) {
    const kind = e.localName + e.getAttribute("class") + !!e.closest(".cell_output");
    seen.set(kind, (seen.get(kind) ?? 0) + 1);
    if (seen.get(kind) > 3) e.replaceWith(...(e.localName == "span" ? e.childNodes : []));
  }
}"""


def test_axe_finds_nothing_serious(tab):
    """The last test of a page, which it thins."""
    tab.page.evaluate(THIN)
    assert not tab.axe()
