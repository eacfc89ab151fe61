"""The curves: one display updated in place in a notebook, a line an epoch elsewhere."""

import re
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

ROOT = Path(__file__).parent.parent
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

    monkeypatch.setattr(animator, "_in_notebook", lambda: True)
    monkeypatch.setattr(animator.IPython.display, "display", display)
    return pictures


def words(figure):
    return ["".join(text.itertext()) for text in figure.iter(f"{SVG}text")]


# --- points ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (1, (0.5, 0.25)),
        (1, [0.5, 0.25]),
        (1.0, torch.tensor([0.5, 0.25])),
        (torch.tensor(1), (torch.tensor(0.5, requires_grad=True), torch.tensor([0.25])[0])),
        ([1, 1], np.array([0.5, 0.25])),
        (torch.tensor([1, 1]), (np.float32(0.5), 0.25)),
        ([1], (0.5, 0.25)),
        (range(1, 2), {"a": 0.5, "b": 0.25}.values()),
        (1, torch.tensor([0.5, 0.25], dtype=torch.bfloat16)),
    ],
)
def test_numbers_tensors_and_sequences_are_points(x, y):
    curves = Animator()
    curves.add(x, y)
    assert curves.X == [[1.0], [1.0]] and curves.Y == [[0.5], [0.25]]
    assert all(type(value) is float for value in curves.X[0] + curves.Y[0])


def test_one_curve_needs_no_sequence():
    curves = Animator()
    curves.add(1, 2)
    curves.add(2, torch.tensor(3))
    assert curves.X == [[1.0, 2.0]] and curves.Y == [[2.0, 3.0]]


def test_each_curve_may_have_its_own_x():
    curves = Animator()
    curves.add((1, 2), (3, 4))
    assert curves.X == [[1.0], [2.0]] and curves.Y == [[3.0], [4.0]]


def test_none_leaves_a_curve_as_it_is():
    curves = Animator(legend=["train", "test"])
    curves.add(0.5, (1, None))
    curves.add(1, (None, 2))
    curves.add((None, 2), (3, 4))
    curves.add(3, (None, None))
    assert curves.X == [[0.5], [1.0, 2.0]] and curves.Y == [[1.0], [2.0, 4.0]]


def test_lengths_that_do_not_fit_are_an_error_and_add_nothing():
    curves = Animator()
    with pytest.raises(ValueError, match="x has 2 entries and y has 3"):
        curves.add([1, 2], [3, 4, 5])
    with pytest.raises(ValueError, match="x has 2 entries and y has 1"):
        curves.add([1, 2], 3)
    assert curves.X == curves.Y == []


# --- without a notebook ---------------------------------------------------------------------------


def test_a_line_is_printed_for_each_epoch(capsys):
    curves = Animator(xlabel="epoch", legend=["train loss", "test acc"])
    curves.add(0.5, (2.25, None))
    curves.add(1, (torch.tensor(1.5), 0.75))
    curves.add(1.5, (1, None))
    curves.add(2, (None, 0.8125), redraw=False)
    curves.add(3, (None, None))
    curves.redraw("a status is for notebooks")
    assert capsys.readouterr().out.splitlines() == [
        "epoch 1: train loss 1.500, test acc 0.750",
        "epoch 2: test acc 0.812",
    ]


def test_lines_do_without_names(capsys):
    Animator().add(1, range(6))
    assert capsys.readouterr().out.startswith("x 1: series 1 0.000, series 2 1.000, ")


# A whole script without a display is run in test_package.py.


# --- the figure -----------------------------------------------------------------------------------


def test_the_figure_has_the_names_given(shown):
    curves = Animator(
        xlabel="epoch", ylabel="value", legend=["train loss", "a & b"], caption="图 <1>"
    )
    curves.add(1, (2, 0.5))
    curves.add(2, (1, 0.75))
    assert len(shown) == 2
    assert {"epoch", "value", "train loss", "a & b"} <= set(words(shown[-1]))
    assert shown[-1].find("figcaption").text == "图 <1>"
    described = shown[-1].find(f".//{SVG}desc").text
    assert "epoch" in described and "train loss 1" in described and "a & b 0.75" in described


def test_a_status_stands_under_the_figure_until_the_next_drawing(shown):
    curves = Animator(caption="Fig. 1")
    curves.add(1, 2, redraw=False)
    assert shown == []
    curves.redraw("epoch 1/2, about 3 s left")
    curves.redraw()
    captions = [figure.find("figcaption").text for figure in shown]
    assert captions == ["Fig. 1  |  epoch 1/2, about 3 s left", "Fig. 1"]


def test_any_number_of_curves_is_drawn(shown):
    curves = Animator(legend=[f"curve {i}" for i in range(6)])
    curves.add(1, range(7))
    curves.add(2, range(7))
    assert len(curves.axes[0].lines) == 7
    # The formats are used in turn; what the legend does not name has a name all the same.
    assert [line.get_linestyle() for line in curves.axes[0].lines] == [
        "-",
        "--",
        "-.",
        ":",
        "-",
        "--",
        "-.",
    ]
    assert {"curve 5", "series 7"} <= set(words(shown[-1]))


def test_a_lone_point_can_be_seen(shown):
    curves = Animator()
    curves.add(1, (0.5, 0.25))
    assert [line.get_marker() for line in curves.axes[0].lines] == ["o", "o"]
    curves.add(2, (0.5, None))
    assert [line.get_marker() for line in curves.axes[0].lines] == ["None", "o"]


@pytest.mark.parametrize(
    ("xlim", "expected"), [([0, 10], (0, 10)), (None, None), ([1, 1], None), ((1, 1), None)]
)
def test_epoch_1_is_in_sight(shown, xlim, expected):
    curves = Animator(xlabel="epoch", xlim=xlim)
    for step in range(1, 6):
        curves.add(step / 5, step)
    low, high = curves.axes[0].get_xlim()
    assert low <= 0.2 and high >= 1
    assert expected is None or (low, high) == expected


def test_axes_take_scales_limits_formats_and_a_grid(shown):
    curves = Animator(
        xscale="log", yscale="log", ylim=(0.1, 10), fmts=("r:",), nrows=2, ncols=3, figsize=(6, 4)
    )
    curves.add(1, 1)
    curves.add(10, 2)
    axes = curves.axes[0]
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_ylim()) == ("log", "log", (0.1, 10))
    assert axes.lines[0].get_color() == "r" and axes.lines[0].get_linestyle() == ":"
    assert len(curves.axes) == 6 and tuple(curves.fig.get_size_inches()) == (6, 4)


def test_nan_is_drawn_as_a_gap(shown):
    curves = Animator()
    for x, y in ((1, 1), (2, float("nan")), (3, torch.inf)):
        curves.add(x, y)
    assert len(shown) == 3


def test_a_changed_number_changes_few_lines(shown):
    curves = Animator("epoch", legend=["loss"], xlim=(1, 2), ylim=(0, 1), caption="图1")
    curves.add(1, 0.9, redraw=False)
    curves.add(2, 0.5)
    curves.Y[0][-1] = 0.4
    curves.redraw()
    before, after = (ElementTree.tostring(picture).splitlines() for picture in shown)
    assert len(before) == len(after)
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 2  # alternative text, curve


def test_an_empty_figure_is_fine(shown):
    Animator(legend=["loss"]).redraw()
    assert len(shown) == 1 and words(shown[0])


@pytest.mark.parametrize(
    ("ending", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")]
)
def test_the_figure_can_be_saved(tmp_path, ending, start):
    curves = Animator(legend=["loss"])
    curves.add(1, 2)
    file = tmp_path / f"my curves.{ending}"
    curves.save(file)
    curves.save(str(file))
    assert file.read_bytes().startswith(start)


# --- in a real notebook ---------------------------------------------------------------------------

CELL = """\
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


class Recorder(NotebookClient):
    """Keeps the messages that a front end gets, such as VS Code's or Colab's."""

    messages = ()

    def process_message(self, msg, cell, cell_index):
        self.messages = [*self.messages, msg]
        return super().process_message(msg, cell, cell_index)


@pytest.fixture(scope="module")
def run():
    cells = [nbformat.v4.new_code_cell("import d2lmini as d2l"), nbformat.v4.new_code_cell(CELL)]
    client = Recorder(
        nbformat.v4.new_notebook(cells=cells), resources={"metadata": {"path": str(ROOT)}}
    )
    return client.execute(), client.messages


@pytest.mark.slow
def test_a_notebook_keeps_one_figure_and_every_line_in_order(run):
    notebook, _ = run
    outputs = notebook.cells[1].outputs
    figures = [output for output in outputs if output.output_type == "display_data"]
    lines = [output for output in outputs if output.output_type == "stream"]
    assert len(figures) == 1 and len(figures) + len(lines) == len(outputs)
    assert outputs[0].text == "training on cpu\n" and outputs[1] is figures[0]
    assert {output.name for output in lines} == {"stdout"}
    text = "".join(output.text for output in lines)
    assert text == "training on cpu\nreached 10\nreached 20\ndone\n"
    html = figures[0].data["text/html"]
    assert html.count("<figure") == html.count("<svg") == 1
    assert "Figure(" not in str(notebook)


@pytest.mark.slow
def test_what_stays_is_the_last_drawing_without_the_status(run):
    notebook, _ = run
    data = notebook.cells[1].outputs[1].data
    figure = ElementTree.fromstring(data["text/html"])
    assert "batch" not in data["text/html"] and figure.find("figcaption").text == "Figure 1"
    assert "acc 1" in figure.find(f".//{SVG}desc").text  # the last point
    assert data["text/plain"].startswith("<figure: Figure 1；") and "acc 1" in data["text/plain"]
    assert set(data) == {"text/html", "text/plain"}


@pytest.mark.slow
def test_front_ends_are_told_to_update_one_display(run):
    """VS Code and Colab find the display by its id, in messages of two types, and nothing more."""
    _, messages = run
    shows = [m for m in messages if m["msg_type"] in ("display_data", "update_display_data")]
    assert [m["msg_type"] for m in shows] == ["display_data"] + ["update_display_data"] * 20
    ids = {m["content"]["transient"]["display_id"] for m in shows}
    assert len(ids) == 1 and None not in ids
    assert not any(m["msg_type"] in ("clear_output", "error") for m in messages)
    statuses = [re.findall(r"batch \d+/20", m["content"]["data"]["text/plain"]) for m in shows]
    assert statuses == [[f"batch {step}/20"] for step in range(1, 21)] + [[]]
