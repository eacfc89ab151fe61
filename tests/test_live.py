"""The trained network on its page, against torch and as readers meet it: `pytest -m site`.

Scores and maps are compared for ten of the images that the page brings and for some noise. With
D2L_LIVE_IMAGES=200 in the environment they are for so many of Fashion-MNIST's test images, and for
20 of them with each path switched off: minutes.
"""

import importlib.util
import io
import os
from pathlib import Path

import nbformat
import pytest
import torch
from PIL import Image

from d2lmini import data
from tests.test_networks import build
from tests.test_site import SITE, Tab, address, browser, server
from tools import notebooks, weights

__all__ = ["browser", "server"]  # fixtures

LIVE = notebooks.ROOT / "tools/site/live"
PAGE = "chapters/googlenet"
BOOT = 9  # the class, and the picture that the page begins with
NUM_IMAGES = int(os.environ.get("D2L_LIVE_IMAGES", 0))
site = pytest.mark.site


def extension():
    path = LIVE.with_name("live_network.py")
    spec = importlib.util.spec_from_file_location("live_network", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def own_images():
    """The page's twenty images, uint8 (20, 28, 28)."""
    content = bytearray((LIVE / "test-images.bin").read_bytes())
    return torch.frombuffer(content, dtype=torch.uint8).view(20, 28, 28)


def test_images_are_two_a_class_of_the_test_set():
    _, sample = data.load_data_fashion_mnist(1)  # the first of each class
    assert own_images()[:10].equal(sample.images[sample.labels.argsort()])
    if not data.DEBIAN_FOLDER.exists():
        pytest.skip("the other ten need the whole data set: apt-get install dataset-fashion-mnist")
    _, whole = data.load_data_fashion_mnist(1, root=data.DEBIAN_FOLDER)
    two = torch.stack([(whole.labels == label).nonzero()[:2, 0] for label in range(10)], dim=1)
    assert own_images().equal(whole.images[two.flatten()])


def test_a_network_that_has_changed_has_no_weights():
    find, notebook = extension().drawn_network, notebooks.read("googlenet")
    content = (notebooks.ROOT / "recordings/weights/googlenet.bin").read_bytes()
    net, ends = find(notebook, content)
    assert len(ends) == 5 and ends[-1] < len(net["layers"])
    changed = nbformat.writes(notebook).replace("319872", "319871")  # parameters of a layer
    assert find(nbformat.reads(changed, as_version=4), content) == (None, None)


# The arithmetic -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rounded():
    """The chapter's network with the rounded weights, for evaluation."""
    net = build("googlenet", "cpu")
    content = (notebooks.ROOT / "recordings/weights/googlenet.bin").read_bytes()
    net.load_state_dict(dict(weights.unpack(content)))
    return net.eval()


@pytest.fixture(scope="module")
def images():
    if NUM_IMAGES:
        _, test_iter = data.load_data_fashion_mnist(1, root=data.DEBIAN_FOLDER)
        return test_iter.images[:NUM_IMAGES]
    noise = torch.randint(256, (5, 28, 28), generator=torch.manual_seed(0), dtype=torch.uint8)
    return torch.cat([own_images()[::2], noise])


@pytest.fixture(scope="module")
def page_network(browser):
    """A page with the network: `run(pixels, off)` gives scores, image and maps as in torch."""
    with Tab(browser) as tab:
        tab.open(address(SITE.as_uri(), "chapters/references"))
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


@site
def test_scores_and_maps_are_torchs(page_network, rounded, images):
    ends = page_network.evaluate("liveData[0].ends")
    X = data.resize_like_pil(images, 96)
    worst = torch.zeros(2)
    for i, (pixels, enlarged) in enumerate(zip(images, X, strict=True)):
        compared = ends if i % 8 == 0 else []  # to bring maps over takes longest
        scores, image, *maps = run(page_network, pixels, [[]], compared)
        assert image.equal(enlarged.flatten())
        with torch.no_grad():
            out, expected = enlarged[None, None] / 255, []
            for module in rounded:
                expected.append(out := module(out))
        differences = [(a - b.flatten()).abs().max() for a, b in zip(maps, expected, strict=False)]
        in_scores = (scores[0] - out[0]).abs().max()
        worst = worst.max(torch.stack([in_scores, max(differences, default=in_scores)]))
    print(f"{len(images)} images: scores differ by {worst[0]:.1e} at most, maps by {worst[1]:.1e}")
    assert worst.max() < 1e-3


@site
def test_without_a_path_the_scores_are_torchs(page_network, rounded, images):
    chosen = images[: 20 if NUM_IMAGES else 1]
    blocks = [module for module in rounded.modules() if hasattr(module, "path1")]
    joins = page_network.evaluate("""liveData[0].net.layers.flatMap(
        ({op}, i) => op === "cat" ? [i + 1] : [])""")
    switches = [f"{n}.{i}" for n in joins for i in range(4)]
    found = torch.stack(
        [run(page_network, pixels, [[s] for s in switches], [])[0] for pixels in chosen], dim=1
    )
    X = data.resize_like_pil(chosen, 96)[:, None] / 255
    expected = []
    for path in [path for block in blocks for path in block.children()]:
        hook = path.register_forward_hook(lambda module, inputs, output: output * 0)
        with torch.no_grad():
            expected.append(rounded(X))
        hook.remove()
    worst = (found - torch.stack(expected)).abs().max()
    print(f"{len(chosen)} images, {len(switches)} paths: scores differ by {worst:.1e} at most")
    assert len(switches) == 36 and worst < 1e-3


# The page -----------------------------------------------------------------------------------------


SETTLED = "document.querySelector('.live').ariaBusy === 'false'"


class Live(Tab):
    """The chapter with the network loaded, and what it shows."""

    def __init__(self, browser, base=None, **options):
        super().__init__(browser, **options)
        self.open(address(base or SITE.as_uri(), PAGE))
        self.live = self.page.locator(".live")
        self.live.get_by_role("button").click()
        self.page.wait_for_selector(".live-maps canvas")

    def said(self):
        self.page.wait_for_function(SETTLED)
        return self.live.get_by_role("status").text_content()

    def take(self, content, kind="image/png"):
        given = {"name": "own", "mimeType": kind, "buffer": content}
        self.live.locator("[type=file]").first.set_input_files(given)
        self.page.wait_for_function("!document.querySelector('.live [type=file]').value")
        return self.said()

    def axe(self):
        axe = pytest.importorskip("axe_playwright_python")
        self.page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text("utf-8"))
        found = self.page.evaluate("axe.run('.live', {resultTypes: ['violations']})")["violations"]
        return [v["id"] for v in found if v["impact"] in ("serious", "critical")]


@pytest.fixture(scope="module")
def tab(browser):
    with Live(browser) as tab:
        yield tab
        assert not tab.complaints


@site
@pytest.mark.parametrize("scheme", ["file", "http"])
def test_nothing_is_loaded_before_the_click(browser, server, scheme):
    base = SITE.as_uri() if scheme == "file" else server
    with Tab(browser) as tab:
        page = tab.open(address(base, PAGE))
        page.wait_for_load_state("networkidle")
        assert not [url for url in tab.requests if "_static/live/" in url]
        live = page.locator(".live, .live + script")
        assert sum(len(part.evaluate("e => e.outerHTML").encode()) for part in live.all()) < 10_000
        assert live.first.is_visible()
        page.emulate_media(media="print")
        assert not live.first.is_visible()
    with Live(browser, base) as tab:
        assert "短靴" in tab.said()
        assert not [url for url in tab.requests if not url.startswith((base, "blob:", "data:"))]
        assert not tab.complaints


@site
def test_without_javascript_there_is_nothing(browser):
    with Tab(browser, java_script_enabled=False) as tab:
        tab.page.goto(address(SITE.as_uri(), PAGE))
        assert tab.page.locator(".live").count() == 1
        assert not tab.page.locator(".live").is_visible()


@site
def test_a_file_that_does_not_come_can_be_asked_for_again(browser):
    with Tab(browser) as tab:
        fail = ["**/live/data-3.js", lambda route: route.abort()]
        tab.page.route(*fail)
        tab.open(address(SITE.as_uri(), PAGE))
        tab.page.locator(".live button").click()
        tab.page.get_by_text("没有载入").wait_for()
        tab.page.unroute(*fail)
        tab.page.locator(".live button").click()
        tab.page.wait_for_selector(".live-maps canvas")


@site
def test_shows_what_torch_computes(tab, rounded):
    X = data.resize_like_pil(own_images(), 96)[:, None] / 255
    with torch.no_grad():
        shares = rounded(X).softmax(1)
    radios, bars = tab.live.get_by_role("radio"), tab.live.locator(".live-bars td:last-child")
    for picture in range(0, 20, 3):
        radios.nth(picture).check()
        tab.said()
        shown = [float(text.rstrip("%")) / 100 for text in bars.all_text_contents()]
        assert torch.allclose(torch.tensor(shown), shares[picture], atol=0.0051)
        assert ("其实" in tab.said()) == (shares[picture].argmax() != picture % 10)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def boot(size, mode="L"):
    """The boot in a picture of some size: dark on white (L), or on nothing at all (RGBA)."""
    grey = Image.fromarray(own_images()[BOOT].numpy())
    side = min(size) * 3 // 4
    place = ((size[0] - side) // 2, (size[1] - side) // 3)
    seen = Image.new("L", size)
    seen.paste(grey.resize((side, side), Image.Resampling.BICUBIC), place)
    if mode == "L":
        return Image.eval(seen, lambda value: 255 - value)
    return Image.merge("RGBA", [Image.new("L", size)] * 3 + [seen])


TURNED = Image.Exif()
TURNED[0x0112] = 6  # to be turned right by a quarter
OWN = {
    "as it is": encoded(Image.fromarray(own_images()[BOOT].numpy())),
    "wide": encoded(boot((1501, 400))),
    "high": encoded(boot((333, 1000))),
    "transparent": encoded(boot((700, 500), "RGBA")),
    "turned": encoded(boot((800, 600)).rotate(90, expand=True), "JPEG", exif=TURNED),
}


@site
@pytest.mark.parametrize("name", OWN)
def test_own_picture(tab, name):
    said = tab.take(OWN[name])
    assert said.startswith("认作短靴") and "其实" not in said
    figures = tab.live.locator("figcaption").all_text_contents()
    assert ("反色" in figures) == (name != "as it is")
    assert not tab.live.locator(":checked[type=radio]").count()


@site
@pytest.mark.parametrize(
    "content",
    [b"no picture", b"", OWN["wide"][:200], b"<svg/>"],
    ids=["text", "empty", "cut off", "nothing"],
)
def test_what_is_no_picture_changes_nothing(tab, content):
    tab.take(OWN["as it is"])
    before = tab.live.locator(".live-bars").inner_html()
    assert "读不出" in tab.take(content)
    assert tab.live.locator(".live-bars").inner_html() == before
    assert "认作短靴" in tab.take(OWN["as it is"])


@site
@pytest.mark.parametrize("size", [(1, 1), (1, 900), (5000, 3)])
def test_own_picture_without_anything_in_it(tab, size):
    assert tab.take(encoded(Image.new("L", size, 200))).startswith("认作")


@site
def test_quick_clicks_end_with_the_last(tab, rounded):
    """Pictures and switches within one turn: the page shows what was asked for last, once."""
    tab.page.evaluate("""() => {
        const all = selector => [...document.querySelectorAll(`.live ${selector}`)];
        for (const i of [0, 1, 0, 3, 11]) all("[type=radio]")[i].click();
        for (const i of [5, 6, 5, 2]) all("[role=switch]")[i].click();
    }""")
    said = tab.said()
    assert "关掉2条" in said and tab.live.get_by_role("radio").nth(11).is_checked()
    blocks = [module for module in rounded.modules() if hasattr(module, "path1")]
    hooks = [blocks[i].path1.register_forward_hook(lambda m, x, y: y * 0) for i in (6, 2)]
    with torch.no_grad():
        shares = rounded(data.resize_like_pil(own_images()[11:12], 96)[None] / 255).softmax(1)[0]
    for hook in hooks:
        hook.remove()
    bars = tab.live.locator(".live-bars td:last-child").all_text_contents()
    shown = torch.tensor([float(text.rstrip("%")) / 100 for text in bars])
    assert torch.allclose(shown, shares, atol=0.0051)
    tab.live.get_by_role("button", name="复原").click()
    assert "关掉" not in tab.said() and not tab.live.get_by_role("button", name="复原").is_visible()


@site
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


@site
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_on_a_phone(browser, mode):
    phone = {"width": 360, "height": 740, "has_touch": True, "is_mobile": True}
    with Live(browser, color_scheme=mode, **phone) as tab:
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
        assert not tab.axe()
