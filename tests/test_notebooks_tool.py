"""What tools/notebooks.py reads of the chapters, and what it says of a chapter with a fault."""

import nbformat
import pytest

from tools import notebooks, record, root_page

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


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    return tmp_path


def test_the_four_chapters_as_they_were_trained():
    found = {chapter.name: chapter for chapter in notebooks.chapters()}
    for name, label, side, lr in [
        ("alexnet", "AlexNet", 224, 0.01),
        ("vgg", "VGG-11 / 4", 224, 0.05),
        ("nin", "NiN", 224, 0.1),
        ("googlenet", "GoogLeNet", 96, 0.1),
    ]:
        chapter = found[name]
        assert (chapter.label, chapter.side, chapter.lr) == (label, side, lr)
        assert chapter.batch_size == 128


@pytest.mark.parametrize(
    ("data", "train", "expected"),
    [
        (f"{LOAD}(64)", f"{TRAIN}, 10, 0.5)", (28, 0.5, 64)),
        (f"{LOAD}(resize=32, batch_size=2**6)", f"{TRAIN}, 10, lr=5e-1)", (32, 0.5, 64)),
        (f"side = 4 * 8\nsize = [side, 64]\n{LOAD}(size[1], size[0])", f"{TRAIN}, 1, lr=1)",
         (32, 1, 64)),
        # of what is loaded more than once, only what is trained on counts
        (f"small_iter, _ = d2l.load_data_fashion_mnist(len('abc'))\n{LOAD}(64)\n"
         "show_iter, _ = d2l.load_data_fashion_mnist(8, 300)", f"{TRAIN}, 10, 0.5)",
         (28, 0.5, 64)),
        (f"lr, device = 0.5, d2l.try_gpu()\ndef f():\n    lr = 3\n{LOAD}(64)", f"{TRAIN}, 1, lr)",
         (28, 0.5, 64)),
        ("for lr in (1, 0.5): pass\ndata = d2l.load_data_fashion_mnist(64)",
         "d2l.train_ch6(net, *data, num_epochs=1, lr=lr)", (28, 0.5, 64)),
    ],
)  # fmt: skip
def test_settings_are_read_from_the_cells(root, data, train, expected):
    write_book(root, data=data, train=train)
    chapter = notebooks.chapter("small")
    assert (chapter.side, chapter.lr, chapter.batch_size) == expected


def test_pages_in_parts_and_with_their_endings(root):
    write_book(root)
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: chapters/index\nparts:\n- caption: All\n  chapters:\n"
        "  - file: chapters/small.ipynb\n    sections:\n    - file: chapters/index.md\n"
    )
    pages = [page.as_posix() for page in notebooks.pages()]
    assert pages == ["chapters/index.md", "chapters/small.ipynb", "chapters/index.md"]
    assert notebooks.names() == ["small"]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ({"toc": "chapters/other"}, r"_toc\.yml names chapters/other, .*; add the file"),
        ({"described": None}, 'lacks network, label, year, idea; .*"year": 2014'),
        ({"described": {"year": None}}, "lacks year;"),
        ({"described": {"idea": ""}}, "lacks idea;"),
        ({"train": None}, "no cell tagged training calls"),
        ({"train": "print(net)"}, r"no cell tagged training calls d2l\.train_ch6; tag"),
        ({"data": None}, "cell train fails .*'.*'.*; tag what it needs"),
        ({"train": "d2l.train_ch6(net, [], [], 1, 1)"}, "is not given what"),
        ({"data": f"num_epochs = lr = 1\ndel lr\n{LOAD}(9)"}, "cell train fails .*'lr'.*; tag"),
        ({"data": f"lr = pick()\n{LOAD}(9)"}, "cell data fails .*'pick'.*; tag"),
        ({"train": f"{TRAIN}, 1)"}, "cell train fails .*'lr'"),
    ],
)
def test_a_fault_is_told_in_one_sentence(root, fault, sentence):
    path = write_book(root, **fault)
    with pytest.raises(notebooks.ChapterError, match=sentence) as caught:
        notebooks.chapters()
    text = str(caught.value)
    assert text.startswith(("chapters/small.ipynb: ", "_toc.yml ")) and "\n" not in text
    for tool, main in (("record", lambda: record.main([str(path)])), ("root_page", root_page.main)):
        with pytest.raises(SystemExit, match=f"^{tool}: ") as ended:
            main()
        if "the training depends on" not in str(ended.value):  # record.py's own look at the code
            assert str(ended.value) == f"{tool}: {text}"


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"imports": None}, "cell net fails after the cell with the id imports"),
        ({"net": None}, "no cell tagged net defines net; tag"),
        ({"net": "network = 1"}, "no cell tagged net defines net; tag"),
        ({"net": "net = block(1)"}, "cell net fails .*'block'.*; tag what it needs"),
    ],
)
def test_a_network_that_is_not_there_is_told(root, changed, sentence):
    write_book(root, **changed)
    with pytest.raises(notebooks.ChapterError, match=rf"^chapters/small\.ipynb: {sentence}"):
        notebooks.network_namespace("small")


def test_a_file_that_is_no_notebook_is_told(root):
    write_book(root).write_text("<<<<<<< HEAD\n")
    with pytest.raises(notebooks.ChapterError, match=r"^chapters/small\.ipynb is no notebook"):
        notebooks.chapters()
