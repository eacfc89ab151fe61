"""The other figures: what is painted, what is said of it, and bad arguments are named."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

from d2lmini.figures import (
    draw,
    inline_svg,
    show_confusion,
    show_costs,
    show_feature_maps,
    show_filters,
    show_histories,
    show_images,
    show_receptive_field,
)
from d2lmini.figures.inline_svg import InlineFigure, figure_html, figure_svg, show
from d2lmini.figures.plots import costs_figure
from d2lmini.figures.style import KINDS
from tests.test_draw import SVG, Net, words

MAX_BYTES = 150_000


@pytest.fixture
def shown(monkeypatch):
    """The figures displayed so far, parsed; each is well-formed and small enough for a page."""
    pictures = []

    def display(picture):
        html = picture._repr_html_()
        assert len(html) < MAX_BYTES
        pictures.append(ElementTree.fromstring(html))

    monkeypatch.setattr(inline_svg, "display", display)
    return pictures


@pytest.fixture
def figs(monkeypatch, shown):
    """The same as matplotlib's figures."""
    kept, original = [], inline_svg.figure_svg

    def keep(fig, **options):
        kept.append(fig)
        return original(fig, **options)

    monkeypatch.setattr(inline_svg, "figure_svg", keep)
    return kept


def alt(figure):
    return figure.find(f"{SVG}svg").get("aria-label")


def pixels(ax):
    """What an axes' image shows, as a tensor."""
    (image,) = ax.get_images()
    return torch.as_tensor(np.ma.filled(image.get_array(), float("nan")))


# --- svg ------------------------------------------------------------------------------------------


def plot(size=(3, 2), **options):
    """A curve with a clip, marks, two equal collections and a hatch: all that has ids."""
    fig = Figure(figsize=size)
    ax = fig.subplots()
    ax.set(xlim=(0, 9), ylim=(0, 9))
    ax.plot([0, 9], [0, 9], color="black", label="a & b")
    for shift in (0, 1):
        ax.scatter(range(9), [shift] * 9, c="black")
    ax.bar(3, 4, color="none", hatch="//")
    ax.legend()
    return figure_svg(fig, **{"alt": "一条线", **options})


def definitions(svg):
    """What each id of an SVG stands for; there is one of each, and something refers to it."""
    pairs = [
        (e.attrib.pop("id"), e) for e in ElementTree.fromstring(svg).iter() if "id" in e.attrib
    ]
    referred = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    assert sorted(name for name, _ in pairs) == sorted(referred)
    return {name: ElementTree.tostring(element).strip() for name, element in pairs}


def test_svg_can_stand_in_any_page():
    svg = plot(alt="x < y", caption="图1")
    root = ElementTree.fromstring(svg)
    assert (root.get("role"), root.get("aria-label")) == ("img", "x < y")
    assert "a & b" in words(root)  # text stays text
    assert not re.search("<style|<[?]xml|DOCTYPE|date|#000000|#ffffff", svg, re.IGNORECASE)
    assert "currentColor" in svg
    assert not re.search(r"fill: (?!none|currentColor|url)", svg)  # nothing hides the page
    shrunk = int(re.search(r"min-width:(\d+)px", svg)[1]) / float(root.get("width"))
    assert 0.7 < shrunk < 1  # legible on a phone


def test_equal_ids_mean_equal_things():
    assert plot() == plot()
    one, other = definitions(plot()), definitions(plot(size=(4, 3)))
    shared = set(one) & set(other)
    assert len(shared) > 2 and len(set(other) - shared) == 1  # the clip is another
    assert all(one[name] == other[name] for name in shared)
    assert not set(one) & set(definitions(plot(caption="图2")))


def test_captions_are_escaped_and_wide_figures_get_a_keyboard_stop():
    assert "1 &lt; 2</figcaption>" in figure_html("<svg/>", "1 < 2")
    assert "figcaption" not in figure_html("<svg/>")
    assert 'tabindex="0"' in figure_html('<svg style="min-width:500px"/>')
    assert "tabindex" not in figure_html('<svg style="min-width:300px"/>')


def test_a_terminal_gets_one_line_and_pyplot_keeps_nothing(capsys):
    show(plt.figure(), alt="空白", caption="图3")
    show(Figure(), alt="空白")
    assert capsys.readouterr().out == "<figure: 图3>\n<figure: 空白>\n"
    assert repr(InlineFigure("<svg/>", alt="很长" * 90)) == f"<figure: {'很长' * 30}>"
    assert not plt.get_fignums()


# --- images ---------------------------------------------------------------------------------------


def test_images_with_titles(shown):
    titles = ["$x^$", "_bag", "$x^$"]  # no formulas
    show_images([torch.rand(3, 224, 224), torch.rand(28, 28).numpy()] * 2, 1, 3, titles=titles)
    (figure,) = shown
    assert len(list(figure.iter(f"{SVG}image"))) == 3
    assert words(figure) == titles and alt(figure) == "3幅图像：$x^$、_bag"


@pytest.mark.parametrize(
    ("values", "expected"),
    [(torch.tensor([[0, 51], [102, 204]], dtype=torch.uint8), [[0, 0.2], [0.4, 0.8]]),
     (torch.tensor([[0, 0.2], [0.4, 0.8]]), [[0, 0.2], [0.4, 0.8]]),
     (torch.tensor([[-1, 0], [1, 3.0]]), [[0, 0.25], [0.5, 1]]),
     (torch.tensor([[0, 100], [200, 50]]), [[0, 0.5], [1, 0.25]])],
    ids=["uint8", "in range", "normalised", "whole numbers"],
)  # fmt: skip
def test_images_keep_their_greys(figs, values, expected):
    show_images([values], 1, 2)
    torch.testing.assert_close(pixels(figs[0].axes[0]), torch.tensor(expected))
    assert figs[0].axes[0].get_images()[0].get_clim() == (0, 1)
    assert not figs[0].axes[1].get_images()


def test_colours_and_sides_stay_where_they_are(figs):
    image = torch.zeros(3, 2, 4)
    image[0, 0, 3] = image[2, 1, 0] = 1  # red above on the right, blue below on the left
    show_images(image[None], 1, 1)
    painted = pixels(figs[0].axes[0])
    assert painted.shape == (2, 4, 4) and painted[..., 3].min() == 1
    assert painted[0, 3, :3].tolist() == [1, 0, 0] and painted[1, 0, :3].tolist() == [0, 0, 1]
    assert painted[..., :3].sum() == 2


# --- costs ----------------------------------------------------------------------------------------


def small_net():
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(32, 3))


def test_costs_of_one_net_are_its_layers(shown):
    show_costs(small_net(), input_shape=(1, 1, 4, 4), labels=["Small"])
    (figure,) = shown
    # 20 and 99 of 119 parameters; 576 and 192 of 768 FLOPs
    assert {"3×3 Conv (2)", "FC (3)", "16.8%", "83.2%", "75.0%", "25.0%"} <= set(words(figure))
    assert "Small共119个参数" in alt(figure)


def test_costs_of_several_nets_are_side_by_side_in_the_colours_of_their_kinds():
    net = small_net().append(nn.Linear(3, 1))
    fig, text = costs_figure([net, net], [(1, 1, 4, 4)] * 2, ["A", "B"])
    assert "A共123个参数" in text and "B共123个参数" in text
    for ax, widths in zip(fig.axes, ([20, 99, 4], [576, 192, 6]), strict=True):
        assert [patch.get_width() for patch in ax.patches] == widths * 2
        assert [patch.get_x() for patch in ax.patches[3:]] == [0, widths[0], widths[0] + widths[1]]
        conv, fc, _ = ax.patches[:3]
        assert to_hex(conv.get_facecolor()) == KINDS["conv"][0] and not conv.get_hatch()
        assert to_hex(fc.get_facecolor()) == KINDS["fc"][0] and fc.get_hatch()
    assert len({colour for colour, *_ in KINDS.values()}) == len(KINDS)


def test_a_long_net_has_few_rows_and_all_its_parameters():
    block = nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(7)))
    net = nn.Sequential(block, nn.ReLU(), nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(7))))
    net.unused = nn.Parameter(torch.zeros(100))
    fig, _ = costs_figure([net], (1, 1, 4, 4))
    rows = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert rows == ["Block 1", "Block 2", "other parameters"]
    assert sum(patch.get_width() for patch in fig.axes[0].patches) == 2 * 7 * 2 + 100


# --- receptive field ------------------------------------------------------------------------------


def test_a_window_leads_to_the_cell_that_sees_it(figs, shown):
    show_receptive_field((3, 3), (5,))
    assert "layer 1" in " ".join(words(shown[0]))
    for said in ("3×3 + 3×3卷积的一个输出看到5×5个", "权重18c²个", "权重25c²个"):
        assert said in alt(shown[0])
    grids = figs[0].axes[0].collections
    windows = [grid for grid in grids if len(grid.get_paths()) == 2]
    planes = [{tuple(corner) for cell in grid.get_paths() for corner in cell.vertices.round(6)}
              for grid in grids if grid not in windows]  # fmt: skip
    sizes = []
    for level, window in enumerate(windows, start=1):
        upper, lower = (path.vertices.round(6) for path in window.get_paths())
        assert set(map(tuple, upper)) <= planes[level]
        assert set(map(tuple, lower)) <= planes[level - 1]
        sizes.append([np.ptp(upper[:2, 0]), np.ptp(lower[:2, 0])])
    np.testing.assert_allclose(sizes, [[1, 3], [1, 3]], rtol=1e-4)


# --- trained networks -----------------------------------------------------------------------------


@pytest.mark.parametrize("num, num_cols", [(1, 1), (8, 8), (9, 5), (96, 16)])
def test_filters_are_drawn_as_large_as_fits(shown, num, num_cols):
    show_filters(nn.Sequential(nn.ReLU(), nn.Conv2d(1, num, 3), nn.Conv2d(num, 1, 1)))
    assert f"{num}个3×3卷积核" in alt(shown[0])
    _, _, width, height = map(float, shown[0].find(f"{SVG}svg").get("viewBox").split())
    assert width / height == pytest.approx(num_cols / math.ceil(num / num_cols), rel=0.1)
    assert width * 4 / 3 / num_cols >= (50 if num <= 16 else 25)  # CSS pixels of a filter


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_filters_are_what_the_layer_holds_row_by_row(figs, channels):
    conv = nn.Conv2d(channels, 9, 2)
    show_filters(conv)
    painted, weight = pixels(figs[0].axes[0]), conv.weight.detach()
    tiles = weight.permute(0, 2, 3, 1) if channels == 3 else weight.mean(1)
    for i, tile in enumerate(tiles):
        top, left = 3 * (i // 5), 3 * (i % 5)
        own = painted[top : top + 2, left : left + 2]
        own = own[..., :3] if channels == 3 else own
        torch.testing.assert_close(own, (tile - tile.min()) / (tile.max() - tile.min()))
    gaps = painted[..., 3] == 0 if channels == 3 else painted.isnan()
    assert gaps[2].all() and gaps[:, 2].all() and gaps[3:, 12:].all()


def test_feature_maps_are_those_that_vary_most_in_the_order_of_the_sizes(figs, shown):
    """Five channels, of which the second and the fourth vary; the sizes of a U-Net."""
    conv = nn.Conv2d(1, 5, 1, bias=False)
    conv.weight.data = torch.tensor([0, 1, 0.1, -2, 0.2]).view(5, 1, 1, 1)
    net = nn.Sequential(conv, nn.ReLU(), nn.AvgPool2d(2), nn.Upsample(scale_factor=2),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten())  # fmt: skip
    X = torch.arange(16.0).view(1, 1, 4, 4) / 15
    show_feature_maps(nn.Sequential(conv), X, num_maps=2)
    first = pixels(figs[0].axes[1])
    assert first.shape[0] == 28 and first[0, 0] == 0  # the rising one on the left
    assert first[0, 30] == 1 and first[-1, -1] == 0
    show_feature_maps(net, X[0], num_maps=2)
    rows = [ax.texts[0].get_text() for ax in figs[1].axes]
    assert rows == ["input\n4×4", "5×4×4", "5×2×2", "5×4×4"]
    assert alt(shown[1]).endswith("5×4×4、5×2×2、5×4×4")
    torch.testing.assert_close(pixels(figs[1].axes[0])[::7, :28:7], X[0, 0])
    after, last = pixels(figs[1].axes[1]), pixels(figs[1].axes[3])
    assert after[0, 0] == 0 and after[7, 0] > 0 and last[7, 0] == 0  # in blocks of two


# Predicts the class written in the first pixel.
GUESS = Net(lambda net, X: F.one_hot((X.flatten(1)[:, 0] * 10).round().long(), 10).float())
NAMES = list("abcdefghij")


def test_confusion_counts_true_classes_in_rows(figs, shown):
    guesses, y = torch.tensor([0, 6, 6, 6, 4, 9]), torch.tensor([0, 0, 0, 6, 2, 9])
    X = torch.zeros(6, 1, 28, 28)
    X[:, 0, 0, 0] = guesses / 10
    show_confusion(GUESS, [(X[:4], y[:4]), (X[4:], y[4:])], NAMES, num_pairs=5)
    assert alt(shown[0]) == "混淆矩阵：6个样本中3个预测正确；a被认作g2次；c被认作e1次"
    assert "a taken for g: 2" in words(shown[0])
    matrix, *examples = figs[0].axes
    assert {(text.get_position(), text.get_text()) for text in matrix.texts} == {
        ((0, 0), "1"), ((6, 0), "2"), ((4, 2), "1"), ((6, 6), "1"), ((9, 9), "1")}  # fmt: skip
    filled = (pixels(matrix)[..., 3] > 0).nonzero().tolist()
    assert filled == [[0, 0], [0, 6], [2, 4], [6, 6], [9, 9]]
    first, second = map(pixels, examples)
    assert first[0, [0, 31]].tolist() == pytest.approx([0.6, 0.6])
    assert second[0, 0] == pytest.approx(0.4) and second[0, 31].isnan()
    assert GUESS.training


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3)])
def test_confusion_without_errors_and_of_vectors(figs, shown, shape):
    show_confusion(GUESS, [(torch.zeros(shape), torch.tensor([0, 0]))])
    assert alt(shown[0]) == "混淆矩阵：2个样本中2个预测正确"
    assert len(figs[0].axes) == 1


class Run:
    train_loss, test_acc = [2.0, 1.0, 0.5], [0.5, 0.75]


def test_curves_of_histories(figs):
    show_histories(Run(), Run(), labels=["_warm", "$1"], caption="图")
    loss, accuracy = figs[0].axes
    for ax, name, values in ((loss, "loss", [2.0, 1.0]), (accuracy, "accuracy", [0.5, 0.75])):
        assert name in ax.get_ylabel()
        for line in ax.lines:
            assert list(line.get_xdata()) == [1, 2] and list(line.get_ydata()) == values
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["_warm", "$1"]


# --- arguments, whatever a reader has set, and files ----------------------------------------------

BATCH, LINEAR = (torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])), nn.Linear(4, 2)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: plot(alt=""), "alt must say"),
        (lambda: show_images([], 1, 1), "imgs is empty"),
        (lambda: show_images(torch.rand(2, 4, 4), 1, 2, ["a"]), "1 entries for 2 images"),
        (lambda: show_images(torch.rand(1, 2, 4, 4), 1, 1), r"got \(2, 4, 4\)"),
        (lambda: show_filters(nn.Linear(2, 2)), "Linear has no Conv2d"),
        (lambda: show_feature_maps(nn.Conv2d(1, 2, 3), BATCH[0]), r"one image.*\(2, 1, 8, 8\)"),
        (lambda: show_feature_maps(nn.Flatten(), BATCH[0][:1]), "no feature maps"),
        (lambda: show_confusion(GUESS, []), "data_iter yields no batch"),
        (lambda: show_confusion(GUESS, [BATCH], ["a", "b"]), "2 entries for 10 classes"),
        (lambda: show_histories(Run(), Run(), labels="ab"), "labels"),
        *((lambda stack=stack: show_receptive_field(stack), "odd kernel sizes")
          for stack in ((), (2,), 3)),
        (lambda: draw(input_shape=(1, 4)), "no net given"),
        (lambda: draw("net", input_shape=(1, 4)), r"nn\.Module"),
        (lambda: draw(LINEAR, input_shape=4), "input_shape"),
        (lambda: draw(LINEAR, LINEAR, input_shape=[(1, 4)]), "1 entries for 2 nets"),
        (lambda: draw(LINEAR, input_shape=(1, 4), labels=["a", "b"]), "2 entries for 1 nets"),
        (lambda: draw(LINEAR, input_shape=(0, 4)), r"positive integers.*\(0, 4\)"),
        (lambda: draw(LINEAR, input_shape=(1, 5)), r"Linear does not take .*\(1, 5\)"),
        *((lambda x=x: draw(nn.Sequential(x), input_shape=(3, 32, 32)), r"batch.*\(1, 3, 32, 32\)")
          for x in (nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.ConvTranspose2d(3, 4, 2),
                    Net(lambda n, x: F.avg_pool2d(x, 2)))),
    ],
)  # fmt: skip
def test_errors_name_the_argument(call, told):
    with pytest.raises((TypeError, ValueError), match=told):
        call()


def show_own(**options):
    fig = Figure(figsize=(2, 2))
    fig.subplots().set_title("图")
    show(fig, alt="x", **options)


FIGURES = {
    "images": lambda **o: show_images(torch.rand(2, 4, 4), 1, 2, titles=["a", "b"], **o),
    "costs": lambda **o: show_costs(small_net(), input_shape=(1, 1, 4, 4), **o),
    "histories": lambda **o: show_histories(Run(), **o),
    "field": lambda **o: show_receptive_field((3,), **o),
    "filters": lambda **o: show_filters(nn.Conv2d(1, 2, 3), **o),
    "maps": lambda **o: show_feature_maps(nn.Conv2d(1, 2, 3), torch.rand(1, 8, 8), **o),
    "confusion": lambda **o: show_confusion(GUESS, [BATCH], **o),
    "network": lambda **o: draw(small_net(), input_shape=(1, 1, 4, 4), **o),
    "own": show_own,
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_the_same_whatever_is_set_and_says_nothing(name, shown, caplog):
    torch.manual_seed(0)
    FIGURES[name]()
    fonts = {"font.sans-serif": ["Missing"], "font.family": "Missing"}
    with plt.style.context(["dark_background", fonts]):
        torch.manual_seed(0)
        FIGURES[name]()
    if name != "own":
        assert ElementTree.tostring(shown[0]) == ElementTree.tostring(shown[1])
    assert not caplog.records


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_kept_in_a_file(name, shown, tmp_path):
    path = tmp_path / "figure.svg"
    FIGURES[name](save=str(path))
    assert len(shown) == 1
    assert float(ElementTree.parse(path).getroot().get("width")) > 0


def test_other_formats_are_for_matplotlibs_figures(shown, tmp_path):
    show_own(save=tmp_path / "figure.pdf")
    show_own(save=str(tmp_path / "figure.png"))
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
    assert plt.imread(tmp_path / "figure.png")[..., :3].min() < 0.5  # not blank
    with pytest.raises(ValueError, match="svg"):
        FIGURES["network"](save=tmp_path / "network.png")
    assert not (tmp_path / "network.png").exists() and len(shown) == 2
