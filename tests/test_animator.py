"""The curves: one display updated in place in a notebook, a line an epoch elsewhere."""

import types
import warnings
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from nbclient import NotebookClient

from d2lmini import Animator, animator

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def nothing_leaks():
    """No warning, and no figure left in pyplot, whatever a test does."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # matplotlib's calls of what another library has deprecated since are not ours to mend.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="(?!d2lmini|tests)")
        yield
    assert plt.get_fignums() == []


@pytest.fixture
def shown(monkeypatch):
    """The figures as a notebook shows them, parsed: first display, then its updates."""
    pictures = []

    class Handle:
        def update(self, picture):
            pictures.append(ElementTree.fromstring(picture._repr_html_()))

    def display(picture, display_id):
        assert display_id is True and not pictures  # one display, ever
        Handle().update(picture)
        return Handle()

    shell = types.SimpleNamespace(kernel=True)
    monkeypatch.setattr(animator.IPython, "get_ipython", lambda: shell)
    monkeypatch.setattr(animator.IPython.display, "display", display)
    monkeypatch.delenv("D2LMINI_TEXT", raising=False)
    return pictures


def words(figure):
    return ["".join(text.itertext()) for text in figure.iter(f"{SVG}text")]


# --- points ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (1, (0.5, 0.25)),
        (torch.tensor(1), (torch.tensor(0.5, requires_grad=True), torch.tensor([0.25])[0])),
        (torch.tensor([1, 1]), (np.float32(0.5), 0.25)),
        (range(1, 2), {"a": 0.5, "b": 0.25}.values()),
        (1.0, torch.tensor([0.5, 0.25], dtype=torch.bfloat16)),
    ],
)
def test_numbers_tensors_and_sequences_are_points(x, y):
    curves = Animator()
    curves.add(x, y)
    assert curves.X == [[1.0], [1.0]] and curves.Y == [[0.5], [0.25]]
    assert all(type(value) is float for value in curves.X[0] + curves.Y[0])


@pytest.mark.parametrize(
    ("points", "X", "Y"),
    [
        ([(1, 2), (2, torch.tensor(3))], [[1, 2]], [[2, 3]]),  # one curve
        ([((1, 2), (3, 4))], [[1], [2]], [[3], [4]]),
        # None leaves a curve as it is.
        ([(0.5, (1, None)), (1, (None, 2)), ((None, 2), (3, 4)), (3, (None, None))],
         [[0.5], [1, 2]], [[1], [2, 4]]),
    ],
)  # fmt: skip
def test_each_curve_has_its_own_points(points, X, Y):
    curves = Animator()
    for x, y in points:
        curves.add(x, y)
    assert curves.X == X and curves.Y == Y


def test_lengths_that_do_not_fit_are_an_error_and_add_nothing():
    curves = Animator()
    for y, length in (([3, 4, 5], 3), (3, 1)):
        with pytest.raises(ValueError, match=f"x has 2 entries and y has {length}"):
            curves.add([1, 2], y)
    assert curves.X == curves.Y == []


# --- without a notebook, and where text is asked for ----------------------------------------------


@pytest.mark.parametrize("in_notebook", [False, True])
def test_a_line_is_printed_for_each_epoch(in_notebook, shown, capsys, monkeypatch):
    if in_notebook:
        monkeypatch.setenv("D2LMINI_TEXT", "1")
    else:
        monkeypatch.setattr(animator.IPython, "get_ipython", lambda: None)
    curves = Animator(xlabel="epoch", legend=["train loss", "test acc"])
    curves.add(0.5, (2.25, None))
    curves.add(1, (torch.tensor(1.5), 0.75))
    curves.add(1.5, (1, None))
    curves.add(2, (None, 0.8125), redraw=False)
    curves.add(3, (None, None))
    curves.redraw("a status is for notebooks")
    Animator().add(1, range(2))
    assert capsys.readouterr().out.splitlines() == [
        "epoch 1: train loss 1.500, test acc 0.750",
        "epoch 2: test acc 0.812",
        "x 1: series 1 0.000, series 2 1.000",
    ]
    assert not shown


# --- the figure -----------------------------------------------------------------------------------


def test_the_figure_has_the_names_given_and_a_status_until_the_next_drawing(shown):
    curves = Animator("epoch", "value", ["train loss", "a & b"], caption="图 <1>")
    curves.redraw()  # an empty figure is fine
    curves.add(1, (2, 0.5), redraw=False)
    curves.add(2, (1, 0.75))
    curves.redraw("batch 1")
    assert len(shown) == 3
    assert {"epoch", "value", "train loss", "a & b"} <= set(words(shown[-1]))
    captions = [figure.find("figcaption").text for figure in shown]
    assert captions == ["图 <1>", "图 <1>", "图 <1>  |  batch 1"]
    described = shown[-1].find(f"{SVG}svg").get("aria-label")
    assert "epoch" in described and "train loss 1" in described and "a & b 0.75" in described


def test_any_number_of_curves_is_drawn(shown):
    curves = Animator(legend=[f"curve {i}" for i in range(6)])
    curves.add(1, range(7))
    lines = curves.axes[0].lines
    assert [line.get_marker() for line in lines] == ["o"] * 7  # a lone point can be seen
    curves.add(2, (*range(6), None))
    lines = curves.axes[0].lines
    assert [line.get_marker() for line in lines] == ["None"] * 6 + ["o"]
    # The formats are used in turn; what the legend does not name has a name all the same.
    assert [line.get_linestyle() for line in lines] == ["-", "--", "-.", ":", "-", "--", "-."]
    assert {"curve 5", "series 7"} <= set(words(shown[-1]))


def test_axes_take_scales_limits_formats_and_a_grid(shown):
    grid = {"nrows": 2, "ncols": 3, "figsize": (6, 4)}
    curves = Animator(xscale="log", yscale="log", ylim=(0.1, 10), fmts=("r:",), **grid)
    curves.add(1, 1, redraw=False)
    curves.add(10, 2)
    axes = curves.axes[0]
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_ylim()) == ("log", "log", (0.1, 10))
    assert axes.lines[0].get_color() == "r" and axes.lines[0].get_linestyle() == ":"
    assert len(curves.axes) == 6 and tuple(curves.fig.get_size_inches()) == (6, 4)


def test_the_figure_can_be_saved(tmp_path):
    curves = Animator(legend=["loss"])
    curves.add(1, 2)
    for ending, start in (("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")):
        file = tmp_path / f"my curves.{ending}"
        curves.save(str(file))
        assert file.read_bytes().startswith(start)


# --- in a real notebook ---------------------------------------------------------------------------

CELL = """\
import d2lmini as d2l
print("training on cpu")
curves = d2l.Animator(xlabel="epoch", legend=["loss", "acc"], xlim=[0, 4], caption="Figure 1")
for step in range(1, 21):
    curves.add(step / 5, (1 / step, None if step % 5 else step / 20), redraw=False)
    curves.redraw(f"batch {step}/20")
    if step % 10 == 0:
        print("reached", step)
curves.redraw()
print("done")
"""


@pytest.mark.slow
def test_a_notebook_keeps_one_figure_the_last_and_every_line_in_order():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    client = NotebookClient(notebook, resources={"metadata": {"path": Path(__file__).parents[1]}})
    first, figure, *others = client.execute().cells[0].outputs
    assert (first.name, first.text) == ("stdout", "training on cpu\n")
    assert {output.get("name") for output in others} == {"stdout"}
    assert "".join(output.text for output in others) == "reached 10\nreached 20\ndone\n"
    assert figure.output_type == "display_data" and set(figure.data) == {"text/html", "text/plain"}
    picture = ElementTree.fromstring(figure.data["text/html"])
    assert "batch" not in figure.data["text/html"] and len(list(picture.iter(f"{SVG}svg"))) == 1
    assert "acc 1" in picture.find(f"{SVG}svg").get("aria-label")  # the last point
    text = figure.data["text/plain"]
    assert text.startswith("<figure: Figure 1；") and "acc 1" in text
