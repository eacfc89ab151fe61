"""What tools/notebooks.py reads of the chapters, and what it says of a chapter with a fault."""

import runpy
import sys
from unittest import mock

import nbformat
import pytest

from tools import notebooks

LOAD = "train_iter, test_iter = d2l.load_data_fashion_mnist"
TRAIN = "history = d2l.train_ch6(net, train_iter, test_iter"
CELLS = {  # of a small chapter: id, source, tags
    "install": ("%pip install -q git+https://github.com/someone/cnn-book", "nbval-skip"),
    "imports": ("import torch\nfrom torch import nn\n\nimport d2lmini as d2l",),
    "net": ("net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10))", "net"),
    "seen": ("for p in net.parameters():\n    print(p.shape)",),
    "data": (f"lr, num_epochs = 0.1, 2\n{LOAD}(8)", "setup", "parameters"),
    "train": (f"{TRAIN}, num_epochs, lr)", "training", "nbval-ignore-output"),
    "after": ("print(len(history.test_acc))", "trained", "nbval-ignore-output"),
}


def write_book(root, described=(), toc="chapters/small", exercise=None, **changed):
    """Write a book of one chapter; returns its notebook's path.

    described: other values in the metadata, None leaves a key, or all, out. changed: other sources
    of cells, by id, None leaves a cell out.
    """
    (root / "chapters").mkdir(exist_ok=True)
    (root / "chapters" / "index.md").write_text("# Root\n")
    (root / "_toc.yml").write_text(
        f"format: jb-book\nroot: chapters/index\nchapters:\n- file: {toc}\n"
    )
    notebook = nbformat.v4.new_notebook()
    for cell_id, (source, *tags) in CELLS.items():
        source = changed.get(cell_id, source)
        if source is not None:
            cell = nbformat.v4.new_code_cell(source, metadata={"tags": tags}, id=cell_id)
            notebook.cells.append(cell)
    if exercise:
        notebook.cells.append(nbformat.v4.new_markdown_cell(exercise, id="exercise-1"))
    if described is not None:
        values = {**notebooks.EXAMPLE, **dict(described)}
        notebook.metadata["chapter"] = {k: v for k, v in values.items() if v is not None}
    path = root / "chapters" / "small.ipynb"
    nbformat.write(notebook, path)
    return path


def command(tool, *options):
    """Run `python -m tools.TOOL`, in this process."""
    with mock.patch.object(sys, "argv", [tool, *options]), mock.patch.dict(sys.modules):
        sys.modules.pop(f"tools.{tool}", None)
        runpy.run_module(f"tools.{tool}", run_name="__main__")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    return tmp_path


def test_settings_are_what_the_cells_hand_to_the_training(root):
    """Of what is loaded more than once, only what is trained on counts."""
    data = (
        f"small_iter, _ = d2l.load_data_fashion_mnist(len('abc'))\n{LOAD}(2**6, resize=side)\n"
        "show_iter, _ = d2l.load_data_fashion_mnist(8, 300)"
    )
    write_book(root, data=f"side = 4 * 8\n{data}", train=f"{TRAIN}, 10, lr=5e-1)")
    chapter = notebooks.chapter("small")
    assert (chapter.side, chapter.lr, chapter.batch_size) == (32, 0.5, 64)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ({"toc": "chapters/other"}, r"_toc\.yml names chapters/other, .*; add the file"),
        ({"described": None}, '"chapter".*"year": 2014'),
        ({"described": {"year": None}}, "lacks year; write"),
        ({"train": None}, "no cell .*tagged training"),
        ({"train": "print(net)"}, r"tagged training .*call.* d2l\.train_ch6"),
        ({"train": "d2l.train_ch6(net, [], [], 1, 1)"}, "is not given what"),
        ({"data": f"lr = pick()\n{LOAD}(9)"}, "cell data fails .*'pick'.*; tag what it needs"),
    ],
)
def test_a_fault_ends_a_tool_with_one_sentence(root, fault, sentence):
    write_book(root, **fault)
    start = r"^root_page: (chapters/small\.ipynb: .*|)"
    with pytest.raises(SystemExit, match=start + sentence) as ended:
        command("root_page")
    assert "\n" not in str(ended.value)


def test_a_file_that_is_no_notebook_is_told(root):
    write_book(root).write_text("<<<<<<< HEAD\n")
    with pytest.raises(notebooks.ChapterError, match=r"^chapters/small\.ipynb is no notebook"):
        notebooks.chapters()
