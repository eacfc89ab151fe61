"""A browser's tab on the built site, for all tests marked `site`.

The site is looked for in _build/html, or in $D2L_SITE. Where it has not been built, or where there
is no Chromium, the tests skip with the reason; under CI=true they fail instead.
"""

import functools
import http.server
import os
import threading
from pathlib import Path

import jinja2
import pytest

from conftest import give_up
from tools import notebooks

ROOT = notebooks.ROOT
SITE = Path(os.environ.get("D2L_SITE", ROOT / "_build/html")).resolve()
NOTEBOOKS = [f"chapters/{name}" for name in notebooks.names()]

# axe takes half a minute over thousands of like elements: three of each kind stay.
THIN = """() => {
  const seen = new Map();
  for (const e of document.querySelectorAll(".highlight span, mjx-container, svg text, svg path")) {
    const kind = e.localName + e.getAttribute("class") + !!e.closest(".cell_output");
    seen.set(kind, (seen.get(kind) ?? 0) + 1);
    if (seen.get(kind) > 3) e.replaceWith(...(e.localName == "span" ? e.childNodes : []));
  }
}"""


class Tab:
    """A page that keeps what it asked for and what it complained of."""

    def __init__(self, browser, width=1280, height=900, **options):
        options = {"color_scheme": "light", "locale": "zh-CN", **options}
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.page = self.context.new_page()
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        complain = self.complaints.append
        # an icon still on its way when the page is left is no fault
        self.page.on("requestfailed", lambda r: "favicon" in r.url or complain(f"failed: {r.url}"))
        self.page.on("pageerror", lambda error: complain(f"error: {error}"))
        self.page.on("console", lambda m: m.type in ("error", "warning") and complain(m.text))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def open(self, name, base=None, query=""):
        """The page of that name, loaded, with its formulas set."""
        self.page.goto(f"{base or SITE.as_uri()}/{name}.html{query}", wait_until="load")
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
        """What is seriously wrong with a part of the page, which is thinned for it: in light, and
        by contrast in dark."""
        import axe_playwright_python as axe

        self.page.evaluate(THIN)
        self.page.evaluate(Path(axe.__file__).with_name("axe.min.js").read_text("utf-8"))
        found = []
        options = "preload: false, resultTypes: ['violations']"  # it would fetch styles again
        for mode, rules in ("light", ""), ("dark", ", runOnly: ['color-contrast']"):
            self.page.emulate_media(color_scheme=mode)
            self.page.wait_for_function(
                "mode => (document.documentElement.dataset.theme ?? mode) === mode", arg=mode
            )
            self.page.wait_for_timeout(300)  # colours fade
            result = self.page.evaluate(f"axe.run({part}, {{{options}{rules}}})")
            found += [
                (mode, v["id"], v["nodes"][0]["html"][:160], len(v["nodes"]))
                for v in result["violations"]
                if v["impact"] in ("serious", "critical")
            ]
        return found


@pytest.fixture(scope="module")
def browser(browser):
    if not (SITE / "chapters/index.html").exists():
        give_up(f"no site in {SITE}: run jupyter-book build . --all -W -n --keep-going")
    return browser


@pytest.fixture
def tab(browser):
    """A new tab, in which nothing may go wrong."""
    with Tab(browser) as tab:
        yield tab
        assert not tab.complaints, tab.complaints


@pytest.fixture(scope="module")
def server(browser, tmp_path_factory):
    """The site below a folder, with 404.html for what is not there, as GitHub Pages serves it."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "cnn-book").symlink_to(SITE)
    template = jinja2.Template((ROOT / "tools/site/templates/404.html").read_text("utf-8"))
    # what the build hands to the template where the book has such an address
    missing = template.render(
        site_root="/cnn-book/", root_doc="chapters/index", pathto=lambda page: f"{page}.html"
    )

    class Handler(http.server.SimpleHTTPRequestHandler):
        error_message_format = missing.replace("%", "%%")
        error_content_type = "text/html; charset=utf-8"

        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as instance:
        threading.Thread(target=instance.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{instance.server_address[1]}/cnn-book"
        instance.shutdown()
