"""What tools/notebooks.py reads of the chapters, and what it says of a chapter with a fault."""

import nbformat
import pytest

from tools import notebooks, record, root_page

CELLS = {  # id: tags, source
    "install": ([], "%pip install -q git+https://github.com/someone/cnn-book"),
    "imports": ([], "from types import SimpleNamespace\n\nimport d2lmini as d2l"),
    "net": (["net"], "net = SimpleNamespace()"),
    "data": (
        ["setup"],
        "lr, num_epochs, batch_size = 0.1, 10, 128\n"
        "train_iter, test_iter = d2l.load_data_fashion_mnist(batch_size, resize=96)",
    ),
    "train": (
        ["training"],
        "history = d2l.train_ch6(net, train_iter, test_iter, num_epochs, lr, d2l.try_gpu())",
    ),
}
LOAD = "train_iter, test_iter = d2l.load_data_fashion_mnist"
TRAIN = "d2l.train_ch6(net, train_iter, test_iter"


@pytest.fixture
def book(tmp_path, monkeypatch):
    """Write a book of one chapter; cells and metadata as given, None leaves one out."""
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    (tmp_path / "chapters").mkdir()
    (tmp_path / "chapters" / "index.md").write_text("# Root\n")

    def write(cells=(), described=(), toc="chapters/residual"):
        (tmp_path / "_toc.yml").write_text(
            f"format: jb-book\nroot: chapters/index\nchapters:\n- file: {toc}\n"
        )
        notebook = nbformat.v4.new_notebook()
        for cell_id, content in {**CELLS, **dict(cells)}.items():
            if content is not None:
                tags, source = content
                cell = nbformat.v4.new_code_cell(source, metadata={"tags": tags})
                cell["id"] = cell_id
                notebook.cells.append(cell)
        if described is not None:
            notebook.metadata["chapter"] = {
                key: value
                for key, value in {**notebooks.EXAMPLE, **dict(described)}.items()
                if value is not None
            }
        nbformat.write(notebook, tmp_path / "chapters" / "residual.ipynb")
        return tmp_path

    return write


def with_source(cell_id, source):
    return {"cells": {cell_id: (CELLS[cell_id][0], source)}}


def test_the_four_chapters_as_they_were_trained():
    found = {chapter.name: chapter for chapter in notebooks.chapters()}
    for name, side, lr in [
        ("alexnet", 224, 0.01),
        ("vgg", 224, 0.05),
        ("nin", 224, 0.1),
        ("googlenet", 96, 0.1),
    ]:
        chapter = found[name]
        assert (chapter.side, chapter.lr, chapter.batch_size) == (side, lr, 128)
    labels = ["AlexNet", "VGG-11 / 4", "NiN", "GoogLeNet"]
    assert [found[name].label for name in ("alexnet", "vgg", "nin", "googlenet")] == labels


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
def test_settings_are_read_from_the_cells(book, data, train, expected):
    cells = {**with_source("data", data)["cells"], **with_source("train", train)["cells"]}
    chapter = notebooks.chapter("residual", book(cells))
    assert (chapter.side, chapter.lr, chapter.batch_size) == expected


def test_pages_in_parts_and_with_their_endings(book, tmp_path):
    book()
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: chapters/index\nparts:\n- caption: All\n  chapters:\n"
        "  - file: chapters/residual.ipynb\n    sections:\n    - file: chapters/index.md\n"
    )
    pages = [page.as_posix() for page in notebooks.pages(tmp_path)]
    assert pages == ["chapters/index.md", "chapters/residual.ipynb", "chapters/index.md"]
    assert notebooks.names(tmp_path) == ["residual"]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ({"toc": "chapters/other"}, r"_toc\.yml names chapters/other, .* no file .*; add the file"),
        ({"toc": "[unclosed"}, r"_toc\.yml cannot be read: "),
        ({"described": None}, r'metadata lacks "chapter"; add .*"year": 2014'),
        ({"described": {"year": None}}, r'"year" .* is missing; write it as for example 2014'),
        ({"described": {"year": "2014"}}, r'"year" .* is \'2014\'; write it as for example 2014'),
        ({"described": {"idea": ""}}, r'"idea" .* is \'\'; write it'),
        ({"described": {"label": "残差"}}, r'"label" .* is .*, in Latin letters'),
        ({"cells": {"train": None}}, r"no cell is tagged training; tag"),
        (with_source("train", "print(net)"), r"does not call d2l\.train_ch6; train with it"),
        ({"cells": {"data": None}}, r"cell train fails .*'train_iter'.*; tag what it needs"),
        (with_source("train", "d2l.train_ch6(net, [], [], 1, 1)"), r"is not given what"),
        (
            with_source("data", f"num_epochs = lr = 1\ndel lr\n{LOAD}(9)"),
            r"cell train fails .*'lr'.*; tag what",
        ),
        (with_source("data", f"lr = pick()\n{LOAD}(9)"), r"cell data fails .*'pick'.*; tag what"),
        (with_source("train", f"{TRAIN}, 1)"), r"cell train fails .*'lr'"),
        (
            with_source("train", f"{TRAIN}, 1, lr='0.1')"),
            r"lr is '0\.1'; give it a positive number",
        ),
        (
            with_source("data", f"num_epochs = lr = 1\n{LOAD}(9, '96')"),
            r"side is '96'; .* whole number",
        ),
        (with_source("data", f"num_epochs = lr = 1\n{LOAD}(True)"), r"batch_size is True; give it"),
        (
            with_source("data", f"num_epochs, lr = 1, -1\n{LOAD}(9)"),
            r"lr is -1; give it a positive number",
        ),
    ],
)
def test_a_fault_is_told_in_one_sentence(book, fault, sentence):
    root = book(**fault)
    with pytest.raises(notebooks.ChapterError, match=sentence) as caught:
        notebooks.chapters(root)
    text = str(caught.value)
    assert text.startswith(("chapters/residual.ipynb: ", "_toc.yml ")) and "\n" not in text
    for tool, main in (("record", record.main), ("root_page", root_page.main)):
        with pytest.raises(SystemExit, match=f"^{tool}: ") as ended:
            main([str(root / "chapters" / "residual.ipynb")])
        if "the training depends on" not in str(ended.value):  # record.py's own look at the code
            assert str(ended.value) == f"{tool}: {text}"


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        ({"imports": None}, r'no cell has the id "imports"; give it'),
        ({"net": None}, r"no cell is tagged net; tag"),
        ({"net": (["net"], "network = 1")}, r"no cell tagged net defines net; call"),
        ({"net": (["net"], "net = block(1)")}, r"cell net fails .*'block'.*; tag what it needs"),
    ],
)
def test_a_network_that_is_not_there_is_told(book, cells, sentence):
    book(cells)
    with pytest.raises(notebooks.ChapterError, match=rf"^chapters/residual\.ipynb: {sentence}"):
        notebooks.network_namespace("residual")


def test_a_notebook_that_is_none_is_told(book, tmp_path):
    book()
    (tmp_path / "chapters" / "residual.ipynb").write_text("<<<<<<< HEAD\n")
    with pytest.raises(notebooks.ChapterError, match=r"^chapters/residual\.ipynb is no notebook"):
        notebooks.chapters(tmp_path)


def test_a_notebook_elsewhere_and_a_label_used_twice_are_told(book, tmp_path):
    root = book()
    content = (root / "chapters" / "residual.ipynb").read_text("utf-8")
    (root / "chapters" / "second.ipynb").write_text(content, "utf-8")
    (root / "third.ipynb").write_text(content, "utf-8")
    toc = root / "_toc.yml"
    toc.write_text(toc.read_text() + "- file: chapters/second\n")
    with pytest.raises(notebooks.ChapterError, match=r"second\.ipynb: its label 'VGG-11 / 4' .*"):
        notebooks.chapters(root)
    toc.write_text(toc.read_text() + "- file: third\n")
    with pytest.raises(notebooks.ChapterError, match=r"^third\.ipynb is not in chapters/; move"):
        notebooks.names(root)
