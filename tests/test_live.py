"""The trained network on its page, against torch and as readers meet it: `pytest -m site`.

Scores and maps are compared for ten of the images that the page brings and for some noise. With
D2L_LIVE_IMAGES=200 in the environment they are for so many of Fashion-MNIST's test images, and for
20 of them with each path switched off: minutes.
"""

import io
import itertools
import os
from importlib import import_module

import nbformat
import pytest
import torch
from PIL import Image, ImageOps

from d2lmini import data
from tests.browser import ROOT, SITE, Tab, browser, server
from tests.test_networks import build
from tools import notebooks, weights

__all__ = ["browser", "server"]  # fixtures
pytestmark = pytest.mark.site

WEIGHTS = (ROOT / "recordings/weights/googlenet.bin").read_bytes()
PAGE = "chapters/googlenet"
BEGINS_WITH = 9  # the number of its class, too: 短靴
NUM_IMAGES = int(os.environ.get("D2L_LIVE_IMAGES", 0))


def own_images():
    """The page's twenty images, uint8 (20, 28, 28)."""
    content = bytearray((ROOT / "tools/site/live/test-images.bin").read_bytes())
    return torch.frombuffer(content, dtype=torch.uint8).view(20, 28, 28)


def test_images_are_two_a_class_of_the_test_set():
    _, sample = data.load_data_fashion_mnist(1)  # the first of each class
    assert own_images()[:10].equal(sample.images[sample.labels.argsort()])
    if data.DEBIAN_FOLDER.exists():
        _, whole = data.load_data_fashion_mnist(1, root=data.DEBIAN_FOLDER)
        second = torch.stack([(whole.labels == label).nonzero()[1, 0] for label in range(10)])
        assert own_images()[10:].equal(whole.images[second])


def test_a_network_that_has_changed_has_no_weights(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools/site")
    find, notebook = import_module("live_network").drawn_network, notebooks.read("googlenet")
    net, ends = find(notebook, WEIGHTS)
    assert len(ends) == 5 and ends[-1] < len(net["layers"])
    changed = nbformat.writes(notebook).replace("319872", "319871")  # parameters of a layer
    assert find(nbformat.reads(changed, as_version=4), WEIGHTS) == (None, None)


# The arithmetic -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rounded():
    """The chapter's network with the rounded weights, for evaluation."""
    net = build("googlenet", "cpu")
    net.load_state_dict(dict(weights.unpack(WEIGHTS)))
    return net.eval()


@pytest.fixture(scope="module")
def images():
    if NUM_IMAGES:
        _, test_iter = data.load_data_fashion_mnist(1, root=data.DEBIAN_FOLDER)
        return test_iter.images[:NUM_IMAGES]
    noise = torch.randint(256, (5, 28, 28), generator=torch.manual_seed(0), dtype=torch.uint8)
    return torch.cat([own_images()[::2], noise])


def scores(rounded, images, off=()):
    """Torch's scores (len(images), 10) without the paths of these numbers, counted from 0 on."""
    blocks = [module for module in rounded.modules() if hasattr(module, "path1")]
    paths = [path for block in blocks for path in block.children()]
    hooks = [paths[i].register_forward_hook(lambda module, x, y: y * 0) for i in off]
    with torch.no_grad():
        found = rounded(data.resize_like_pil(images, 96)[:, None] / 255)
    for hook in hooks:
        hook.remove()
    return found


@pytest.fixture(scope="module")
def page_network(browser):
    """A page with the network: `run(pixels, off)` gives scores, image and maps as in torch."""
    with Tab(browser) as tab:
        tab.open("chapters/references")
        tab.page.evaluate("globalThis.liveData = []")
        folder = SITE / "_static/live"
        for path in [*sorted(folder.glob("data-*.js")), folder / "network.js"]:
            tab.page.add_script_tag(url=path.as_uri())
        tab.page.evaluate("""() => {
            const [{net}, ...weights] = liveData;
            const bytes = Uint8Array.from(atob(weights.join("")), c => c.charCodeAt());
            globalThis.network = new (liveNetwork().Network)(net, bytes);
        }""")
        yield tab.page


def run(page, pixels, offs, layers):
    """Scores for each of `offs`, the enlarged image, and what the layers of these numbers give."""
    found = page.evaluate(
        """([pixels, offs, layers]) => {
            network.run(Uint8Array.from(pixels));
            const maps = layers.map(n => [...network.made[n].data]), image = [...network.image];
            return [offs.map(off => [...network.run(null, off)]), image, ...maps];
        }""",
        [pixels.flatten().tolist(), offs, layers],
    )
    return [torch.tensor(numbers) for numbers in found]


def test_scores_and_maps_are_torchs(page_network, rounded, images):
    ends, joins = page_network.evaluate("""[liveData[0].ends, liveData[0].net.layers.flatMap(
        ({op}, i) => op === "cat" ? [i + 1] : [])]""")
    switches = [f"{join}.{i}" for join in joins for i in range(4)]
    worst = []
    for i, X in enumerate(images.split(1)):
        paths = range(36 if i < (20 if NUM_IMAGES else 1) else 0)
        offs = [[], *([switches[path]] for path in paths)]
        compared = ends if i % 8 == 0 else []  # to bring maps over takes longest
        found, image, *maps = run(page_network, X, offs, compared)
        enlarged = data.resize_like_pil(X, 96)[:, None]
        assert image.equal(enlarged.flatten())
        expected = [scores(rounded, X, off) for off in [(), *((path,) for path in paths)]]
        with torch.no_grad():
            made = itertools.accumulate(rounded, lambda x, f: f(x), initial=enlarged / 255)
            pairs = [(found, torch.cat(expected)), *zip(maps, list(made)[1:], strict=False)]
        worst += [float((a - b.view_as(a)).abs().max()) for a, b in pairs]
    print(f"{len(images)} images: scores and maps differ by {max(worst):.1e} at most")
    assert len(switches) == 36 and max(worst) < 1e-3


# The page -----------------------------------------------------------------------------------------


class Live(Tab):
    """The chapter with the network loaded, and what it shows; `before`: requests without."""

    def __init__(self, browser, base=None, **options):
        super().__init__(browser, **options)
        self.open(PAGE, base).wait_for_load_state("networkidle")
        self.before = [*self.requests]
        self.live = self.page.locator(".live")
        self.live.get_by_role("button").click()
        self.page.wait_for_selector(".live-maps canvas")

    def said(self):
        self.page.wait_for_function("document.querySelector('.live').ariaBusy === 'false'")
        return self.live.get_by_role("status").text_content()

    def take(self, content):
        given = {"name": "own", "mimeType": "image/png", "buffer": content}
        self.live.locator("[type=file]").first.set_input_files(given)
        self.page.wait_for_function("!document.querySelector('.live [type=file]').value")
        return self.said()

    def shows(self, scores):
        """Whether the shares of the classes are those of torch's scores (10,)."""
        shown = self.live.locator(".live-bars td:last-child").all_text_contents()
        shown = torch.tensor([float(text.rstrip("%")) / 100 for text in shown])
        return torch.allclose(shown, scores.softmax(0), atol=0.0051)


@pytest.fixture(scope="module")
def tab(browser):
    with Live(browser) as tab:
        yield tab
        assert not tab.complaints


def test_nothing_is_loaded_before_the_click_and_then_only_from_the_site(browser, server, tab):
    with Live(browser, server) as served:
        assert "短靴" in served.said() and not served.complaints
        for loaded, base in (served, server), (tab, SITE.as_uri()):
            parts = [url for url in loaded.requests if "_static/live/" in url]
            assert parts and not set(parts) & set(loaded.before)
            assert all(url.startswith((base, "blob:", "data:")) for url in loaded.requests)


@pytest.mark.parametrize("script", [True, False])
def test_the_block_is_small_and_for_screens_with_javascript(browser, script):
    with Tab(browser, java_script_enabled=script) as tab:
        tab.page.goto(f"{SITE.as_uri()}/{PAGE}.html")
        block, *more = tab.page.locator(".live, .live + script").all()
        size = sum(len(part.evaluate("e => e.outerHTML").encode()) for part in (block, *more))
        assert size < 10_000 and block.is_visible() == script
        tab.page.emulate_media(media="print")
        assert not block.is_visible()


def test_a_file_that_does_not_come_can_be_asked_for_again(browser):
    with Tab(browser) as tab:
        tab.page.route("**/live/data-3.js", lambda route: route.abort(), times=1)
        tab.open(PAGE)
        tab.page.locator(".live button").click()
        tab.page.get_by_text("没有载入").wait_for()
        tab.page.locator(".live button").click()
        tab.page.wait_for_selector(".live-maps canvas")


def test_shows_what_torch_computes(tab, rounded):
    expected = scores(rounded, own_images())
    for picture in range(0, 20, 3):
        tab.live.get_by_role("radio").nth(picture).check()
        assert ("其实" in tab.said()) == (expected[picture].argmax() != picture % 10)
        assert tab.shows(expected[picture])


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def padded(*size):
    """The boot, dark on white, in a picture of some size."""
    return ImageOps.pad(ImageOps.invert(BOOT), size, color=255)


BOOT = Image.fromarray(own_images()[BEGINS_WITH].numpy())  # light on black
SAME = encoded(BOOT)
CLEAR = Image.merge("RGBA", [Image.new("L", (700, 700))] * 3 + [BOOT.resize((700, 700))])
TURNED = Image.Exif()
TURNED[0x0112] = 6  # to be turned right by a quarter
# A file, and what it is taken for; nothing changes where it is taken for no picture.
OWN = {
    "as it is": (SAME, "认作短靴"),
    "wide": (encoded(padded(1501, 400)), "认作短靴"),
    "high": (encoded(padded(333, 1000)), "认作短靴"),
    "transparent": (encoded(CLEAR), "认作短靴"),
    "turned": (encoded(padded(800, 600).rotate(90, expand=True), "JPEG", exif=TURNED), "认作短靴"),
    "a point": (encoded(Image.new("L", (1, 1), 200)), "认作"),
    "text": (b"no picture", "读不出"),
    "cut off": (SAME[:200], "读不出"),
}


@pytest.mark.parametrize("name", OWN)
def test_own_picture(tab, name):
    tab.take(SAME)
    bars = tab.live.locator(".live-bars").inner_html()
    content, words = OWN[name]
    said = tab.take(content)
    assert words in said and "其实" not in said
    assert not tab.live.locator(":checked[type=radio]").count()
    if words == "读不出":
        assert tab.live.locator(".live-bars").inner_html() == bars
    else:
        figures = tab.live.locator("figcaption").all_text_contents()
        assert ("反色" in figures) == (content != SAME)


def test_quick_clicks_end_with_the_last(tab, rounded):
    """Pictures and switches within one turn: the page shows what was asked for last, once."""
    tab.page.evaluate("""() => {
        const all = selector => [...document.querySelectorAll(`.live ${selector}`)];
        for (const i of [0, 1, 0, 3, 11]) all("[type=radio]")[i].click();
        for (const i of [5, 6, 5, 2]) all("[role=switch]")[i].click();
    }""")
    assert "关掉2条" in tab.said() and tab.live.get_by_role("radio").nth(11).is_checked()
    assert tab.shows(scores(rounded, own_images()[11:12], [4 * 6, 4 * 2])[0])
    again = tab.live.get_by_role("button", name="复原")
    again.click()
    assert "关掉" not in tab.said() and not again.is_visible()


def test_by_keyboard(tab):
    press = tab.page.keyboard.press
    tab.live.get_by_role("radio").nth(0).focus()
    press("ArrowRight")
    assert tab.live.get_by_role("radio").nth(1).is_checked()
    tab.live.get_by_role("button", name="1×1").focus()
    for key in ["ArrowDown", "ArrowRight", "Space"]:
        press(key)
    switch = tab.live.get_by_role("switch", name="块3a的路径2")
    assert "关掉1条" in tab.said() and not switch.is_checked()
    for key in ["ArrowLeft", "Enter"]:  # the rest of the row, then all of it
        press(key)
    assert "关掉9条" in tab.said()
    press("Enter")
    assert "关掉" not in tab.said()


def test_on_a_phone(browser):
    with Live(browser, width=360, height=740, has_touch=True, is_mobile=True) as tab:
        tab.live.get_by_role("switch").nth(8).tap()
        assert "关掉1条" in tab.said()
        assert tab.page.evaluate("document.documentElement.scrollWidth") == 360
        boxes = tab.page.evaluate(
            """[".live", ".live canvas", ".live :is(button, label, [role=switch])"].map(part =>
            [...document.querySelectorAll(part)].filter(e => e.checkVisibility())
            .map(e => e.getBoundingClientRect()).map(({x, right, width, height}) =>
            [x, right, Math.min(width, height)]))"""
        )
        (left, right, _), *_ = boxes[0]
        assert all(left <= x and end <= right for part in boxes for x, end, _ in part)
        assert min(size for _, _, size in boxes[2]) >= 24
        assert tab.live.get_by_text("拍照").is_visible()
        assert not tab.axe("'.live'")
