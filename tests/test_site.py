"""The built site as readers meet it, in a real browser: `pytest -m site` after the build.

The site is looked for in _build/html, or in $D2L_SITE. Where it has not been built, or where there
is no Chromium, the tests skip with the reason; under CI=true they fail instead.
"""

import contextlib
import datetime
import functools
import http.server
import importlib.util
import itertools
import json
import os
import random
import re
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote

import pytest

from conftest import give_up
from tools import notebooks

pytestmark = pytest.mark.site

ROOT = Path(__file__).resolve().parents[1]
SITE = Path(os.environ.get("D2L_SITE", ROOT / "_build/html")).resolve()
NOTEBOOKS = [f"chapters/{name}" for name in notebooks.names()]
CHAPTERS = [page.with_suffix("").as_posix() for page in notebooks.pages()]
PAGES = [*CHAPTERS, "search", "404", "index"]
WIDTHS = [360, 768, 1280, 1920]
PAPER = (672, 986)  # px: A4 less its margins, 178 mm by 261 mm

# What a student types, and the pages one of which has to be among the first three results.
QUERIES = {
    "卷积": CHAPTERS,
    "池化层": NOTEBOOKS,
    "全局平均池化": ["chapters/nin", "chapters/googlenet"],
    "手工设计": ["chapters/alexnet", "chapters/vgg"],
    "过拟合": NOTEBOOKS,
    "1×1卷积": ["chapters/nin", "chapters/googlenet"],
    "1x1 卷积": ["chapters/nin", "chapters/googlenet"],
    "Inception块": ["chapters/googlenet"],
    "inception": ["chapters/googlenet"],
    "学习率": NOTEBOOKS,
    "暂退法": NOTEBOOKS,
    "dropout": NOTEBOOKS,
    "激活函数": ["chapters/alexnet"],
    "VGG块": ["chapters/vgg"],
    "NiN块": ["chapters/nin"],
    "vgg_block": ["chapters/vgg"],
    "感受野": ["chapters/vgg", "chapters/alexnet", "chapters/googlenet"],
    "Fashion-MNIST": NOTEBOOKS,
    "AdaptiveAvgPool2d": ["chapters/nin", "chapters/googlenet", "chapters/vgg"],
    "读取数据集": ["chapters/alexnet"],
    "怎么防止过拟合": NOTEBOOKS,
    "参数 全连接层": NOTEBOOKS,
    "OMP: Error #15": ["chapters/trouble"],
    "externally-managed-environment": ["chapters/trouble"],
    "has no CUDA": ["chapters/trouble"],
    "中文变成方框": ["chapters/trouble"],
    "train_ch6": ["chapters/d2lmini"],
    "动手学深度学习": ["chapters/index", "chapters/references"],
    # words of zh.d2l.ai and of readers, where the book has others
    "汇聚层": NOTEBOOKS,
    "批量规范化": ["chapters/googlenet", "chapters/nin", "chapters/vgg"],
    "数据增强": ["chapters/alexnet"],
    "VGG11": ["chapters/vgg"],
    "0.88": ["chapters/alexnet"],  # on the way to 0.881
    "显存不足": ["chapters/trouble"],
    "内核挂了": ["chapters/trouble"],
    "out of memory with a batch of shape (256, 1, 96, 96)": ["chapters/trouble"],
}

# Latin words that may stand alone in the interface: keys and names, beside the chapters' networks.
ALLOWED = {"Ctrl", "K", "PyTorch", "LeNet", "Colab", "Kaggle"}


@pytest.fixture(scope="module")
def browser(browser):
    if not (SITE / "chapters/index.html").exists():
        give_up(f"no site in {SITE}: run jupyter-book build . --all -W -n --keep-going")
    return browser


class Handler(http.server.SimpleHTTPRequestHandler):
    """A static server that shows 404.html for what is not there, as GitHub Pages does."""

    def log_message(self, *args):
        pass

    def send_error(self, code, message=None, explain=None):
        body = (SITE / "404.html").read_bytes()
        self.send_response(code)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def server():
    handler = functools.partial(Handler, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as instance:
        threading.Thread(target=instance.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{instance.server_address[1]}"
        instance.shutdown()


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
        self.page.on(
            "console",
            lambda message: (
                message.type in ("error", "warning") and complain(f"{message.type}: {message.text}")
            ),
        )

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


def address(base, name, query=""):
    return f"{base}/{name}.html{query}"


# Nothing from elsewhere, light, quick ------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_no_request_to_another_host_and_no_complaint(browser, server, scheme):
    base = SITE.as_uri() if scheme == "file" else server
    with Tab(browser) as tab:
        for name in PAGES:
            page = tab.open(address(base, name))
            page.wait_for_load_state("networkidle")
            formulas, rendered, wrong = (
                page.locator(part).count()
                for part in (".math", "mjx-container", "[data-mjx-error], mjx-merror")
            )
            assert (formulas, 0) == (rendered, wrong), name
            if formulas:  # rendered with MathJax's own fonts, not with what the machine has
                assert page.evaluate("""document.fonts.ready.then(() => [...document.fonts].filter(
                    f => f.family.startsWith("MJX") && f.status == "loaded").length)""")
        elsewhere = [url for url in tab.requests if not url.startswith((base + "/", "data:"))]
        assert not elsewhere, f"asked other hosts: {elsewhere}"
        assert not tab.complaints


@pytest.mark.parametrize("name", PAGES)
def test_page_is_light(browser, server, name):
    """Under 3 MB with all it loads, nothing compressed.

    How soon it is usable is printed for the report (`pytest -m site -rP`) and not asserted: a clock
    says more about what else the machine is doing than about the page.
    """
    with Tab(browser) as tab:
        loaded = {}
        tab.page.on(
            "response",
            lambda r: loaded.setdefault(r.url, int(r.headers.get("content-length", 0))),
        )
        page = tab.open(address(server, name))
        page.wait_for_load_state("networkidle")
        usable = page.evaluate(
            "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
        )
    size = sum(loaded.values())
    print(f"{name}: {size / 1e6:.2f} MB, usable after {usable / 1000:.2f} s")
    assert 0 < size < 3e6


def test_only_scripts_that_are_used(browser):
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), "chapters/alexnet"))
        scripts = page.evaluate("[...document.scripts].map(s => s.src).filter(Boolean)")
    names = {re.sub(r"\?.*", "", url).rsplit("/", 1)[1] for url in scripts}
    assert names <= {
        "documentation_options.js",
        "doctools.js",
        "sphinx_highlight.js",
        "translations.js",
        "clipboard.min.js",
        "copybutton.js",
        "sphinx-book-theme.js",
        "site.js",
        "shapes.js",
        "bootstrap.js",
        "pydata-sphinx-theme.js",
        "startup.js",
        "core.js",
        "tex.js",
        "chtml.js",
        "assistive-mml.js",
    }


def test_files_that_no_page_uses_are_gone_and_code_is_told_from_prose():
    assert not [path for pattern in extension().UNUSED for path in SITE.glob(pattern)]
    data = (SITE / "_static/searchdata.js").read_text("utf-8")[len("const BOOK=") : -2]
    (block,) = (s for s in json.loads(data) if s["url"].startswith("chapters/vgg.html#vgg-block"))
    assert "def vgg_block(" in block["code"] and "def " not in block["text"]


def test_every_local_link_leads_somewhere(browser):
    with Tab(browser) as tab:
        missing = []
        for name in PAGES:
            page = tab.open(address(SITE.as_uri(), name))
            for link in page.evaluate("[...document.links].map(a => a.href)"):
                if not link.startswith("file:"):
                    assert "executablebooks/jupyter-book" not in link, name
                    assert "colab." not in link or repository_state() == "set", name
                    continue
                path, _, anchor = unquote(link.removeprefix(SITE.as_uri() + "/")).partition("#")
                target = SITE / path.split("?")[0]
                if not target.is_file() or (
                    anchor
                    and target.suffix == ".html"
                    and f'id="{anchor}"' not in target.read_text("utf-8")
                ):
                    missing.append((name, link))
        assert not missing


def repository_state():
    config = (ROOT / "_config.yml").read_text(encoding="utf-8")
    return "set" if re.search(r"\burl: https", config) else "unset"


# Headings -----------------------------------------------------------------------------------------

HEADINGS = """[...document.querySelectorAll("article section")].map(section => {
  const heading = section.querySelector(":scope > :is(h1, h2, h3, h4, h5, h6)").cloneNode(true);
  heading.querySelector(".headerlink")?.remove();
  return [heading.textContent.trim(), section.id, +heading.localName[1]];
})"""


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_heading_has_an_address_that_stays(browser, name):
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), name))
        found = page.evaluate(HEADINGS)
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        drawn = page.evaluate("[...document.querySelectorAll('article svg [id]')].map(e => e.id)")
    anchors = [anchor for _, anchor, _ in found]
    assert not [anchor for anchor in anchors if re.fullmatch(r"id\d+|", anchor)]
    assert all(ids.count(anchor) == 1 for anchor in [*anchors, *drawn])
    if name in NOTEBOOKS:
        starts = {
            (
                cell.source.split("\n")[0].lstrip("# ").replace("`", ""),
                cell.id.removesuffix("-text"),
            )
            for cell in notebooks.read(Path(name).name).cells
            if cell.cell_type == "markdown" and cell.source.startswith("#")
        }
        assert starts <= {(text, anchor) for text, anchor, _ in found}


CONTENTS = """[...document.querySelectorAll(".bd-toc-nav a")].filter(a => a.checkVisibility())
  .map(a => [a.textContent.trim(), decodeURIComponent(a.hash.slice(1))])"""


@pytest.mark.parametrize("size", [(360, 740), (1280, 1000), (1280, 700)])
@pytest.mark.parametrize("name", CHAPTERS)
def test_contents_of_the_page_list_every_heading(browser, name, size):
    """All of them where there is room; else, once a reader is on the way, those of the section."""
    with Tab(browser, *size) as tab:
        page = tab.open(address(SITE.as_uri(), name))
        headings = page.evaluate(HEADINGS)
        if size[1] > 700:
            assert page.evaluate(CONTENTS) == [heading[:2] for heading in headings[1:]]
            return
        for text, anchor, level in headings[1:]:
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
            page = tab.open(address(SITE.as_uri(), name))
            for text, anchor, _ in page.evaluate(HEADINGS)[2:-3:3]:
                tab.open("about:blank")
                page = tab.open(address(SITE.as_uri(), name, f"#{anchor}"))
                page.wait_for_timeout(300)
                heading, bar = page.evaluate(
                    """id => [document.getElementById(id), document.querySelector(
                    ".bd-header-article")].map(e => e.getBoundingClientRect())""",
                    anchor,
                )
                assert bar["bottom"] <= heading["top"] < bar["bottom"] + 100, (name, text)


# Search -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_search_finds_what_students_type(browser, server, scheme):
    base = SITE.as_uri() if scheme == "file" else server
    wrong = []
    with Tab(browser) as tab:
        page = tab.open(address(base, "search"))
        field = page.locator(".bd-search-container input[name=q]")
        for query, expected in QUERIES.items():
            field.fill(query)
            links = page.locator("#search-results > li > a")
            first = [links.nth(i).get_attribute("href") for i in range(min(3, links.count()))]
            if not any(name + ".html" in href for name in expected for href in first):
                wrong.append((query, first))
            elif re.search("[\u4e00-\u9fff]", query):
                excerpt = page.locator("#search-results > li").first.inner_text()
                assert 10 < len(excerpt) < 400, excerpt
        assert not wrong
        assert not tab.complaints


def test_search_puts_headings_first(browser):
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), "search", "?q=激活函数"))
        assert page.locator("#search-results > li > a").first.inner_text() == "激活函数"
        assert page.locator("#search-results mark").first.inner_text() == "激活函数"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_search_leads_to_every_question(browser, name):
    """Typed as it stands, it is the first thing found, and the link leads to it."""
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), "search"))
        starts = [
            cell.source.split("\n")[0]
            for cell in notebooks.read(Path(name).name).cells
            if cell.cell_type == "markdown" and re.match("####? ", cell.source)
        ]
        for start in starts:
            text = start.lstrip("# ").replace("`", "")
            found = page.evaluate(
                """text => search(text).results.map(r => [r.section.heading, r.section.url])""",
                text,
            )
            same = [url for heading, url in found if heading == text]
            assert found[0][0] == text
            assert [url for url in same if url.startswith(f"{name}.html#")], text
        if not starts:
            return
        page.locator(".bd-search-container input[name=q]").fill(text)
        page.locator("#search-results a", has_text=text).first.click()
        page.wait_for_url("**/chapters/*.html#*")
        anchor = unquote(page.url.partition("#")[2])
        assert (
            page.locator(f"[id='{anchor}'] > :is(h2, h3, h4)").first.inner_text().startswith(text)
        )


# Sections made up for the purpose: their words stand nowhere else.
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
  const found = query => search(query).results.map(r => r.section.url);
  const shown = (query, length = 1) => search(query).results.slice(0, length).map(r =>
    r.section.text.slice(excerpt(r).start, excerpt(r).end));
  const marked = (text, ...parts) => mark(document.createElement("p"), text, parts.map(pattern));
  field.value = "卷积";
  field.dispatchEvent(new InputEvent("input", {isComposing: true}));
  const waits = document.querySelectorAll("#search-results > li").length;
  field.dispatchEvent(new CompositionEvent("compositionend"));
  const item = document.querySelector("#search-results > li");
  return {
    order: found("甲乙丙"), code: found("丑寅卯"), message: found("zi chou mao 3"),
    near: search("zi chou mao 3").isNear,
    sentence: shown("巳午")[0].startsWith("辰巳午未"),
    overlap: marked("卷积层", "卷积", "积层").textContent,
    longest: marked("卷积层", "卷", "卷积").querySelector("mark").textContent,
    inside: found("1×1").includes("numbers"), hyphen: found("qux11"),
    decimal: found("0.881").includes("numbers"),
    waits, page: item.querySelector(".search-page").textContent.length > 3,
  };
}"""


def test_search_in_detail(browser):
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), "search"))
        assert page.evaluate(MADE_UP) == {
            "order": ["heading", "chapter", "appendix"],
            "code": ["prose", "code"],
            "message": ["prose", "code"],
            "near": False,
            "sentence": True,
            "overlap": "卷积层",
            "longest": "卷积",
            "inside": False,
            "hyphen": ["numbers"],
            "decimal": True,
            "waits": 0,
            "page": True,
        }


def test_a_quoted_message_leads_to_its_entry_whatever_numbers_and_paths_stand_in_it(browser):
    wrong = []
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), "search"))
        for section in re.split(r"(?m)^### ", notebooks.prose(Path("chapters/trouble.md")))[1:]:
            heading = section.split("\n")[0].replace("`", "")
            for block in re.findall(r"(?s)\n```text\n(.*?)```", section):
                for line in block.strip().split("\n"):
                    query = re.sub(r"\d", lambda digit: str((int(digit[0]) + 3) % 10), line)
                    found = page.evaluate(
                        "query => search(query).results[0]?.section.heading",
                        query.replace("…", "/some/where"),
                    )
                    if found != heading:
                        wrong.append((line, found))
    assert not wrong


def test_what_is_typed_stays_in_the_address_and_is_marked_in_the_page_found(browser, server):
    with Tab(browser) as tab:
        page = tab.open(address(server, "search", "?q=池化"))
        page.locator(".bd-search-container input[name=q]").fill("1×1卷积")
        assert unquote(page.url).endswith("?q=1×1卷积")
        page.mouse.wheel(0, 2000)
        page.locator("#search-results a").first.click()
        page.wait_for_url("**/chapters/*.html#*")
        assert page.locator("span.highlighted").first.inner_text() == "1×1卷积"
        page.go_back()
        page.wait_for_url("**/search.html*")
        assert page.locator(".bd-search-container input[name=q]").input_value() == "1×1卷积"
        assert not tab.complaints


def test_search_ranks_a_word_in_a_heading_before_the_same_word_in_the_text(browser):
    chance = random.Random(0)
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), "search"))
        headings = page.evaluate("BOOK.map(section => section.heading)")
        words = set(QUERIES)
        for run in re.findall("[\u4e00-\u9fff]{2,}|[A-Za-z]{3,}", " ".join(headings)):
            start = chance.randrange(len(run) - 1)
            words |= {run, run[start : start + chance.randint(2, 6)]} - {""}
        wrong = page.evaluate(
            """words => words.filter(word => {
              const inHeading = search(word).results.map(
                r => plain(r.section.heading).search(pattern(plain(word))) >= 0);
              return inHeading.lastIndexOf(true) > inHeading.indexOf(false)
                && inHeading.includes(false);
            })""",
            sorted(word for word in words if len(word) > 1),
        )
        assert not wrong


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


def extension():
    spec = importlib.util.spec_from_file_location("d2l_site", ROOT / "tools/site/d2l_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_formulas_stay_readable_in_excerpts(browser):
    d2l_site = extension()
    assert {tex: d2l_site.plain_formula(tex) for tex in FORMULAS} == FORMULAS
    for page in notebooks.pages():
        text = re.sub(r"(?s)```.*?```|`[^`\n]*`", "", notebooks.prose(page))
        for tex in re.findall(r"\$([^$]+)\$", text):
            assert not re.search(r"[\\{}]|\b(times|frac|text|left)", d2l_site.plain_formula(tex)), (
                tex
            )
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), "search", "?q=个得分全都相等"))
        assert "2.303是ln 10" in page.locator("#search-results p").first.inner_text()


def test_search_finds_any_run_of_two_characters_or_more(browser):
    """Runs of 2 to 6 characters taken by chance from the chapters' text are found as they stand."""
    chance = random.Random(0)
    runs = set()
    for name in NOTEBOOKS:
        source = (SITE / "_sources" / name).with_suffix(".ipynb").read_text(encoding="utf-8")
        text = "\n".join(
            "".join(cell["source"])
            for cell in json.loads(source)["cells"]
            if cell["cell_type"] == "markdown"
        )
        text = re.sub(r"\]\([^)]*\)|\$[^$]*\$", " ", text)
        for run in re.findall("[\u4e00-\u9fff]{2,}", text):
            start = chance.randrange(len(run) - 1)
            runs.add(run[start : start + chance.randint(2, 6)])
    runs = chance.sample(sorted(run for run in runs if len(run) > 1), 300)
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), "search"))
        lost = page.evaluate(
            "runs => runs.filter(run => { const found = search(run);"
            "return found.isNear || !found.results.length; })",
            runs,
        )
        assert not lost


@pytest.mark.parametrize("builder", ["dirhtml", "singlehtml"])
def test_other_builders_work_or_are_refused(tmp_path, builder):
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    options = ["--path-output", tmp_path, "--builder", builder, "-W", "-n", "--keep-going"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    build = subprocess.run(
        [*command, "build", ROOT, *options], capture_output=True, env=environment
    )
    if builder == "singlehtml":  # whose page would lack style and formulas
        assert build.returncode and b"not built as one page" in build.stdout + build.stderr
        return
    assert build.returncode == 0, build.stdout + build.stderr
    data = (tmp_path / "_build/dirhtml/_static/searchdata.js").read_text("utf-8")
    addresses = {section["url"] for section in json.loads(data[len("const BOOK=") : -2])}
    assert any(url.startswith("chapters/trouble/#") for url in addresses)


def test_search_that_finds_nothing_says_so(browser):
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), "search", "?q=量子纠缠"))
        assert "没有找到" in page.locator("#search-summary").inner_text()
        assert page.locator("#search-results > li").count() == 0
        page = tab.open(address(SITE.as_uri(), "search", "?q=<img src=x onerror=alert(1)>"))
        assert page.locator("#search-summary img, #search-results img").count() == 0
        assert not tab.complaints


@pytest.mark.parametrize("width", [360, 1280])
def test_search_from_a_chapter_with_the_keyboard(browser, width):
    with Tab(browser, width) as tab:
        page = tab.open(address(SITE.as_uri(), "chapters/vgg"))
        page.keyboard.press("Control+k")
        page.keyboard.type("全局平均池化")
        page.keyboard.press("Enter")
        page.wait_for_url("**/search.html?q=*")
        assert page.locator("#search-results > li").count()
        page.locator("#search-results a").first.focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/chapters/*.html#*")
        assert page.locator("span.highlighted").count()  # the words stand out on the page found
        assert not tab.complaints


# Chinese throughout -------------------------------------------------------------------------------

STRINGS = """() => {
  const found = [];
  const walk = document.createTreeWalker(document.documentElement, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (element.closest("script, style, noscript, svg, pre, code, .math, mjx-container")) continue;
    // the text of the chapters is their authors'; what the site adds to it is looked at
    if (element.closest("article") && !element.closest("summary, .copybtn, .headerlink")) continue;
    if (element.closest(".search-page")) continue;
    found.push(walk.currentNode.textContent.trim());
  }
  for (const element of document.querySelectorAll("*")) {
    if (element.closest("svg") && !element.closest(".copybtn")) continue;
    for (const name of ["title", "aria-label", "alt", "placeholder", "data-tooltip",
                        "data-bs-original-title", "data-bs-title", "aria-description"])
      if (element.hasAttribute(name)) found.push(element.getAttribute(name));
    if (element.localName == "title") found.push(element.textContent);
  }
  for (const element of document.querySelectorAll("article *"))
    for (const pseudo of ["::before", "::after"]) {
      const content = getComputedStyle(element, pseudo).content;
      if (content.startsWith('"')) found.push(content.slice(1, -1));
    }
  return [...new Set(found)].filter(Boolean);
}"""


def english(strings):
    """The strings with a latin word in them and no Chinese, allowed words left out."""
    networks = " ".join(chapter.network for chapter in notebooks.chapters())
    allowed = ALLOWED | set(re.findall("[A-Za-z]{2,}", networks))
    return [
        text
        for text in strings
        if not re.search("[\u4e00-\u9fff]", text)
        and set(re.findall("[A-Za-z]{2,}", text)) - allowed
    ]


def test_interface_is_chinese(browser, server):
    with Tab(browser) as tab:
        for name in PAGES:
            page = tab.open(address(server, name))
            assert page.evaluate("document.documentElement.lang") == "zh-CN", name
            assert re.search("[\u4e00-\u9fff]", page.title()), name
            assert not english(page.evaluate(STRINGS)), name
        for query in ["卷积", "量子纠缠", ""]:
            page = tab.open(address(server, "search", f"?q={query}"))
            assert not english(page.evaluate(STRINGS))


def test_tooltips_and_menus_are_chinese(browser, server):
    with Tab(browser, permissions=["clipboard-read", "clipboard-write"]) as tab:
        page = tab.open(address(server, "chapters/alexnet"))
        for button in page.locator(".article-header-buttons button:visible, .primary-toggle").all():
            button.hover()
            page.wait_for_timeout(150)
            assert not english(page.evaluate(STRINGS))
        page.locator(".dropdown-download-buttons > button").click()
        menu = page.locator(".dropdown-download-buttons .dropdown-menu").inner_text()
        assert "笔记本" in menu and "PDF" in menu
        page.keyboard.press("Escape")
        page.locator(".copybtn").first.click()
        assert not english(page.evaluate(STRINGS))


def test_footer_has_this_year(browser):
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), "chapters/index"))
        footer = page.locator("footer.bd-footer-content").inner_text()
        assert f"© {datetime.date.today().year} " in footer


# Layout -------------------------------------------------------------------------------------------

OUTSIDE = """() => {
  // what sticks out of the window to the right and cannot be scrolled to in a box of its own
  const scrolls = element => {
    for (let e = element; e; e = e.parentElement)
      if (["auto", "scroll"].includes(getComputedStyle(e).overflowX) && e.localName != "html")
        return true;
    return false;
  };
  return [...document.querySelectorAll("main *")].filter(element => {
    const box = element.getBoundingClientRect();
    return box.width && box.right > innerWidth + 1 && !scrolls(element)
      && getComputedStyle(element).position != "fixed"
      && !element.closest("mjx-assistive-mml, .bd-sidebar-secondary");
  }).map(element => element.outerHTML.slice(0, 120));
}"""


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_and_no_page_scrolls_sideways(browser, width):
    with Tab(browser, width) as tab:
        for name in PAGES:
            page = tab.open(address(SITE.as_uri(), name))
            page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
            assert not page.evaluate(OUTSIDE), name


@pytest.mark.parametrize("name", PAGES)
def test_code_fits_its_box(browser, name):
    """On a screen of 1280 pixels no line of code has to be scrolled to, in answers neither."""
    with Tab(browser, 1280) as tab:
        page = tab.open(address(SITE.as_uri(), name))
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert not page.evaluate("""[...document.querySelectorAll("article .highlight pre")]
            .filter(e => e.scrollWidth > e.clientWidth + 1)
            .map(e => `${e.scrollWidth - e.clientWidth} px: ${e.textContent.slice(0, 60)}`)""")


def test_typography(browser):
    with Tab(browser, 1280) as tab:
        page = tab.open(address(SITE.as_uri(), "chapters/alexnet"))
        size, height, width, line_break = page.evaluate("""() => {
          const p = [...document.querySelectorAll("article section > p")].find(
            p => p.textContent.length > 80);
          const style = getComputedStyle(p);
          return [parseFloat(style.fontSize), parseFloat(style.lineHeight), p.clientWidth,
                  style.lineBreak];
        }""")
        assert 1.7 <= height / size <= 1.9
        assert 36 <= width / size <= 42
        assert line_break == "strict"
    with Tab(browser, 360) as tab:
        page = tab.open(address(SITE.as_uri(), "chapters/alexnet"))
        code = page.locator("div.cell_input pre").first
        size = code.evaluate("e => parseFloat(getComputedStyle(e).fontSize)")
        assert 12 <= size <= 14


@pytest.mark.parametrize("width", [360, 768])
def test_no_line_starts_with_punctuation_after_a_formula(browser, width):
    with Tab(browser, width) as tab:
        for name in NOTEBOOKS:
            page = tab.open(address(SITE.as_uri(), name))
            assert not page.evaluate("""[...document.querySelectorAll("span.math")].filter(math => {
              const text = math.nextSibling;
              if (text?.nodeType != 3 || !/^[，。；：、！？）]/.test(text.data)) return false;
              const mark = document.createRange();
              mark.setStart(text, 0);
              mark.setEnd(text, 1);
              return mark.getBoundingClientRect().left < math.getBoundingClientRect().right - 2;
            }).map(math => math.textContent)"""), name


def test_one_search_field(browser):
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), "chapters/alexnet"))
        assert page.locator(".search-button__button:visible, form.bd-search:visible").count() == 1


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_theme_follows_the_system_and_can_be_changed(browser, mode):
    brightness = (
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    with Tab(browser, color_scheme=mode) as tab:
        page = tab.open(address(SITE.as_uri(), "chapters/alexnet"))
        page.wait_for_timeout(300)
        assert (sum(page.evaluate(brightness)) > 380) == (mode == "light")
        # figures made by cells stand on the page's own ground
        assert page.evaluate(
            "[...document.querySelectorAll('.cell_output .text_html')].every("
            "e => getComputedStyle(e).backgroundColor == 'rgba(0, 0, 0, 0)')"
        )
        button = page.locator(".theme-switch-button:visible").first
        for _ in range(3):
            button.focus()
            page.keyboard.press("Enter")
            if page.evaluate("document.documentElement.dataset.theme") != mode:
                break
        page.wait_for_timeout(300)
        assert (sum(page.evaluate(brightness)) > 380) != (mode == "light")
        page.reload()
        assert page.evaluate("document.documentElement.dataset.theme") != mode  # and stays


def test_paper_shows_everything(browser):
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), "chapters/vgg"))
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        folded = page.locator("article details").all()
        assert all(details.locator("> :last-child").is_visible() for details in folded)
        for part in [
            ".bd-sidebar-primary",
            ".bd-sidebar-secondary",
            ".bd-header-article",
            ".copybtn",
        ]:
            assert not page.locator(part).first.is_visible(), part
        assert page.pdf().startswith(b"%PDF")
        page.emulate_media(media="screen")
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator("article details[open]").count() == 0


@contextlib.contextmanager
def paper(browser):
    with Tab(browser, *PAPER) as tab:
        tab.page.emulate_media(media="print")
        yield tab


def test_no_table_is_wider_than_the_paper(browser):
    with paper(browser) as tab:
        for name in PAGES:
            page = tab.open(address(SITE.as_uri(), name))
            too_wide = page.evaluate(
                "[...document.querySelectorAll('article table')].filter(table => "
                "table.getBoundingClientRect().right > innerWidth).map(table => table.innerText)"
            )
            assert not too_wide, f"{name}: {too_wide}"


def test_figures_fit_a_sheet_of_paper(browser):
    """Drawing, legend and caption together: none is cut in two by a page's end."""
    with paper(browser) as tab:
        for name in NOTEBOOKS:
            page = tab.open(address(SITE.as_uri(), name))
            figures = page.evaluate(
                "[...document.querySelectorAll('article figure')].map(figure => "
                "[figure.getBoundingClientRect().height, getComputedStyle(figure).breakInside])"
            )
            assert figures
            for height, break_inside in figures:
                assert break_inside == "avoid"
                assert height < PAPER[1], f"{name}: a figure is {height:.0f} px high on paper"


# What a reader does -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_folded_answers_open_with_the_keyboard(browser, name):
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), name))
        folded = page.locator("article details")
        assert folded.count() >= 3
        for details in folded.all():
            details.locator("summary").first.focus()
            page.keyboard.press("Enter")
            assert details.get_attribute("open") is not None
            assert details.locator("p, pre").last.is_visible()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_code_can_be_copied(browser, server, name):
    with Tab(browser, permissions=["clipboard-read", "clipboard-write"]) as tab:
        page = tab.open(address(server, name))
        cell = page.locator("div.cell_input").nth(1)
        cell.hover()
        cell.locator(".copybtn").click()
        page.wait_for_selector(".copybtn.success")
        copied = page.evaluate("navigator.clipboard.readText()")
        sources = [
            "".join(c["source"]).strip()
            for c in json.loads((ROOT / name).with_suffix(".ipynb").read_text(encoding="utf-8"))[
                "cells"
            ]
        ]
        assert copied.strip() in sources


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_can_be_downloaded(browser, server, name, tmp_path):
    with Tab(browser) as tab:
        page = tab.open(address(server, name))
        page.locator(".dropdown-download-buttons > button").click()
        with page.expect_download() as download:
            page.locator(".btn-download-source-button").click()
        download.value.save_as(tmp_path / "notebook.ipynb")
        assert download.value.suggested_filename == Path(name).name + ".ipynb"
        assert json.loads((tmp_path / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]


def test_address_without_a_page(browser, server):
    with Tab(browser) as tab:
        page = tab.open(f"{server}/chapters/some/where/else.html")
        assert "没有这个页面" in page.inner_text("h1")
        if repository_state() == "unset":  # with an address, links start where Pages will serve it
            page.locator("a", has_text="首页").click()
            page.wait_for_url(f"{server}/chapters/index.html")
            assert "卷积神经网络" in page.inner_text("h1")


# For everyone -------------------------------------------------------------------------------------


def test_keyboard_reaches_content_and_navigation(browser):
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), "chapters/index"))
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.innerText") == "跳到正文"
        page.keyboard.press("Enter")
        page.wait_for_function("location.hash == '#main-content'")
        page = tab.open(address(SITE.as_uri(), "chapters/index"))
        for _ in range(40):
            page.keyboard.press("Tab")
            style = page.evaluate("""() => {
              const element = document.activeElement, style = getComputedStyle(element);
              return [element.getAttribute("href") ?? "",
                      style.outlineStyle != "none" || style.boxShadow != "none"];
            }""")
            assert style[1], f"focus cannot be seen on {style[0]}"
            if style[0].endswith("vgg.html"):
                break
        page.keyboard.press("Enter")
        page.wait_for_url("**/chapters/vgg.html")


def test_sidebars_open_and_close_on_a_phone(browser):
    with Tab(browser, 360, 740) as tab:
        page = tab.open(address(SITE.as_uri(), "chapters/alexnet"))
        for toggle, link in [
            (".primary-toggle", ".bd-sidebar-primary a.reference"),
            (".secondary-toggle", ".bd-sidebar-secondary a.reference"),
        ]:
            page.locator(f"{toggle}:visible").focus()
            page.keyboard.press("Enter")
            page.wait_for_timeout(600)
            assert page.locator(link).first.is_visible()
            page.keyboard.press("Escape")
            page.wait_for_timeout(600)
            box = page.locator(link).first.bounding_box()
            assert not page.locator(link).first.is_visible() or box["x"] < 0 or box["x"] >= 360


def test_boxes_that_scroll_can_be_reached(browser):
    """Boxes too wide for a phone take the focus, so that arrow keys scroll them."""
    with Tab(browser, 360, 740) as tab:
        page = tab.open(address(SITE.as_uri(), "chapters/googlenet"))
        page.wait_for_timeout(500)
        assert not page.evaluate("""[...document.querySelectorAll("article *")].filter(e =>
            ["auto", "scroll"].includes(getComputedStyle(e).overflowX)
            && e.clientWidth && e.scrollWidth > e.clientWidth + 1
            && e.tabIndex < 0 && !e.querySelector("a, button, [tabindex='0']"))
            .map(e => e.outerHTML.slice(0, 120))""")


FIGURES = """[...document.querySelectorAll("article figure")].map(figure => {
  const all = selector => [...figure.querySelectorAll(selector)];
  return {
    words: all("svg[role] > :is(title, desc), .d2lm-box > title, [aria-labelledby]").length,
    names: all("svg[role]").map(svg => svg.getAttribute("aria-label")),
    told: all("svg[role]").map(svg => svg.getAttribute("aria-description")),
    boxes: all(".d2lm-box").map(box => box.getAttribute("aria-label")),
    stops: all("[tabindex='0']").length + figure.matches("[tabindex='0']"),
    cut: figure.scrollWidth > figure.clientWidth,
    drawn: all("svg.d2lm").length,
  };
})"""


@pytest.mark.parametrize("width", [360, 1280])
def test_a_figure_has_one_name_and_at_most_one_tab_stop(browser, width):
    found = []
    with Tab(browser, width) as tab:
        for name in CHAPTERS:
            page = tab.open(address(SITE.as_uri(), name))
            page.wait_for_timeout(400)
            found += page.evaluate(FIGURES)
    assert any(figure["drawn"] for figure in found) and any(not f["drawn"] for f in found)
    assert any(figure["cut"] for figure in found) == (width == 360)
    for figure in found:
        assert not figure["words"] and all(figure["names"])
        assert figure["stops"] == bool(figure["boxes"] or figure["cut"])
        if figure["drawn"]:
            assert all(len(name) < 60 for name in figure["names"]) and all(figure["told"])
            assert all("输出" in words for words in figure["boxes"])


def test_boxes_are_read_with_arrow_keys_and_a_tip_that_goes(browser):
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), "chapters/googlenet"))
        figure = page.locator("figure:has(svg.d2lm)").nth(1)
        boxes, tip = figure.locator(".d2lm-box"), page.locator(".figure-tip")

        def about(box):
            words = box.get_attribute("aria-label").split("；")
            return tip.is_visible() and tip.inner_text().split("\n") == words

        boxes.first.focus()
        assert about(boxes.first)
        for key, at in (("ArrowDown", 1), ("ArrowRight", 2), ("ArrowUp", 1), ("End", -1),
                        ("ArrowLeft", -2), ("Home", 0), ("ArrowUp", 0)):  # fmt: skip
            page.keyboard.press(key)
            box = boxes.nth(at if at >= 0 else boxes.count() + at)
            assert box.evaluate("box => box === document.activeElement") and about(box), key
        page.keyboard.press("End")
        page.keyboard.press("Escape")
        assert not tip.is_visible()
        page.keyboard.press("ArrowLeft")
        assert tip.is_visible()
        page.keyboard.press("Tab")
        assert not page.evaluate("document.activeElement.matches('.d2lm-box')")
        assert not tip.is_visible()
        # With the pointer: it may enter the tip, which Esc puts away all the same.
        boxes.nth(1).hover()
        assert about(boxes.nth(1))
        place = tip.bounding_box()
        edge = boxes.nth(1).bounding_box()
        above = place["y"] < edge["y"]
        page.mouse.move(place["x"] + 9, place["y"] + (place["height"] - 4 if above else 4), steps=5)
        page.wait_for_timeout(400)
        assert about(boxes.nth(1))
        page.keyboard.press("Escape")
        assert not tip.is_visible()
        boxes.nth(2).hover()
        assert about(boxes.nth(2))
        page.mouse.move(2, 2)
        page.wait_for_timeout(400)
        assert not tip.is_visible()


def test_the_wheel_turns_the_page_and_not_the_number(browser):
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), "chapters/alexnet"))
        field = page.locator(".shapes-field input").first
        field.hover()
        field.focus()
        before, top = field.input_value(), page.evaluate("scrollY")
        page.mouse.wheel(0, 300)
        page.wait_for_timeout(300)
        assert field.input_value() == before and page.evaluate("scrollY") > top


# axe takes half a minute over thousands of like elements: three of each kind stay.
THIN = """() => {
  const seen = new Map();
  for (const e of document.querySelectorAll(".highlight span, mjx-container, svg text, svg path")) {
    const kind = e.localName + e.getAttribute("class") + !!e.closest(".cell_output");
    seen.set(kind, (seen.get(kind) ?? 0) + 1);
    if (seen.get(kind) > 3) e.replaceWith(...(e.localName == "span" ? e.childNodes : []));
  }
}"""


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_serious(browser, name, mode):
    try:
        import axe_playwright_python as axe
    except ImportError:
        give_up("no axe-playwright-python: pip install -r requirements-dev.txt")
    script = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    with Tab(browser, color_scheme=mode) as tab:
        page = tab.open((SITE / f"{name}.html").as_uri())
        if name == "index":
            page.wait_for_url("**/chapters/index.html")  # it leads there at once
            return
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.evaluate(THIN)
        page.wait_for_timeout(300)
        page.evaluate(script)
        result = page.evaluate("axe.run({resultTypes: ['violations']})")
        found = [
            (v["id"], v["impact"], v["nodes"][0]["html"][:160], len(v["nodes"]))
            for v in result["violations"]
            if v["impact"] in ("serious", "critical")
        ]
        assert not found


@pytest.mark.parametrize("name", CHAPTERS)
def test_headings_in_order_and_pictures_described(browser, name):
    with Tab(browser) as tab:
        page = tab.open(address(SITE.as_uri(), name))
        levels = page.evaluate("""[...document.querySelectorAll(
            "article :is(h1, h2, h3, h4, h5, h6)")].map(h => +h.localName[1])""")
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(b - a <= 1 for a, b in itertools.pairwise(levels)), levels
        assert not page.evaluate("""
            [...document.querySelectorAll("article img, article .cell_output figure svg")]
            .filter(e => e.getAttribute("aria-hidden") != "true" && !e.getAttribute("alt")
              && !e.getAttribute("aria-label") && !e.querySelector("title, desc"))
            .map(e => e.outerHTML.slice(0, 120))""")
