"""The chapters as data: which they are, what each says of itself, the networks they define.

`_toc.yml` says which chapters there are. What no code can tell of one stands in its notebook's
metadata under `chapter`; image side, learning rate and batch size are what its cells hand to the
helper. Tests, benchmarks and the other tools take all of it from here, so there is no second copy.
"""

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import nbformat
import yaml

ROOT = Path(__file__).parents[1]
# What a notebook's metadata says under `chapter`: these keys, with values like these.
EXAMPLE = {
    "network": "VGG-11（通道为¼）",
    "label": "VGG-11 / 4",
    "year": 2014,
    "idea": "重复使用3×3卷积的块",
}

LANGUAGE = {"name": "python", "file_extension": ".py"}  # nbconvert names a script by it
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


class ChapterError(ValueError):
    """One sentence: the file, what is missing in it or cannot be read, and what to do."""


@dataclass(frozen=True)
class Chapter:
    """What a chapter says of itself."""

    name: str
    network: str  # in the root page's tables
    label: str  # in charts: Latin letters
    year: int  # of the paper
    idea: str  # in a few words
    side: int  # of the images, in pixels
    lr: float
    batch_size: int


# --- which chapters there are ---------------------------------------------------------------------


def pages(root=None):
    """The book's files in the order of `_toc.yml`, the root page first, as paths from `root`."""
    root, found = Path(root or ROOT), []
    for entry in _entries(yaml.safe_load((root / "_toc.yml").read_text("utf-8"))):
        files = [Path(f"{entry}{suffix}") for suffix in ("", ".ipynb", ".md")]
        page = next((file for file in files if (root / file).is_file()), None)
        if page is None:
            raise ChapterError(
                f"_toc.yml names {entry}, but there is no file {entry}.ipynb or {entry}.md; "
                "add the file or take the entry out"
            )
        found.append(page)
    return found


def _entries(node):
    """The files that `_toc.yml` names, in its order, however its parts and sections are nested."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from [value] if key in ("root", "file") else _entries(value)
    elif isinstance(node, list):
        for item in node:
            yield from _entries(item)


def names(root=None):
    """The chapters' names: those pages of the book that are notebooks."""
    return [page.stem for page in pages(root) if page.suffix == ".ipynb"]


def path(name, root=None):
    """The notebook of a chapter."""
    return Path(root or ROOT, "chapters", f"{name}.ipynb")


def read(name, root=None):
    """The notebook of a chapter, as an nbformat node."""
    try:
        notebook = nbformat.read(path(name, root), as_version=4)
    except nbformat.reader.NotJSONError as error:
        raise ChapterError(
            f"chapters/{name}.ipynb is no notebook; save it again as Jupyter does"
        ) from error
    for cell in notebook.cells:  # as an editor on Windows may leave them
        cell.source = cell.source.replace("\r\n", "\n")
    return notebook


def prose(page):
    """The Markdown of one of `pages()`; of a notebook, that of its text cells."""
    if page.suffix != ".ipynb":
        return (ROOT / page).read_text("utf-8")
    cells = read(page.stem).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def tags(cell):
    """A cell's tags, a set of str."""
    return set(cell.metadata.get("tags", ()))


def code_cells(notebook, *tagged):
    """A notebook's code cells; where tags are given, those with one of them."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell for cell in cells if not tagged or tags(cell) & set(tagged)]


@contextlib.contextmanager
def exit_on_fault(tool):
    """End a command-line tool with the sentence of a `ChapterError`."""
    try:
        yield
    except ChapterError as error:
        raise SystemExit(f"{tool}: {error}") from error


# --- what a chapter says of itself ----------------------------------------------------------------


def chapters(root=None):
    """Every chapter, in the book's order."""
    return [chapter(name, root) for name in names(root)]


def chapter(name, root=None):
    """What a chapter's metadata and cells say."""
    file, notebook = f"chapters/{name}.ipynb", read(name, root)
    described = notebook.metadata.get("chapter", {})
    if missing := [key for key in EXAMPLE if not described.get(key)]:
        raise ChapterError(
            f"{file}: the notebook's metadata lacks {', '.join(missing)}; write as for example "
            f'"chapter": {json.dumps(EXAMPLE, ensure_ascii=False)}'
        )
    return Chapter(name, **{key: described[key] for key in EXAMPLE}, **_settings(name, notebook))


class _Trained(BaseException):
    """Raised by the stand-in of `train_ch6`: holds what the call was given."""


def _settings(name, notebook):
    """Image side, learning rate and batch size, as the cells hand them to the helper.

    The cells that a training depends on run, with stand-ins for loading and training and on the
    device "meta": nothing is loaded, computed or trained.
    """
    import torch

    def load(batch_size, resize=None, **_):
        return {"batch_size": batch_size, "side": 28 if resize is None else resize}, None

    def train(net, train_iter, test_iter, num_epochs, lr, *_, **__):
        raise _Trained(train_iter, lr)

    file = f"chapters/{name}.ipynb"
    try:
        with (
            torch.device("meta"),
            mock.patch("d2lmini.load_data_fashion_mnist", load),
            mock.patch("d2lmini.train_ch6", train),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            _run(name, network_cells(notebook, "setup", "training"))
    except _Trained as trained:
        loaded, lr = trained.args
    else:
        raise ChapterError(
            f"{file}: no cell tagged training calls d2l.train_ch6; tag the one that trains the net"
        )
    if not isinstance(loaded, dict):
        raise ChapterError(
            f"{file}: d2l.train_ch6 is not given what d2l.load_data_fashion_mnist returned; load "
            "the data with it in a cell tagged setup"
        )
    return {**loaded, "lr": lr}


# --- the networks and the code --------------------------------------------------------------------


def network_cells(notebook, *tagged):
    """The import cell, the cells tagged `net`, which define the networks, and those so tagged."""
    wanted = {"net", *tagged}
    return [c for c in code_cells(notebook) if c.id == "imports" or tags(c) & wanted]


def _run(name, cells):
    """Run cells of a chapter alone; return the names that they define."""
    namespace = {"__name__": f"chapters.{name}"}
    for cell in cells:
        try:
            exec(compile(cell.source, f"{name}.ipynb, cell {cell.id}", "exec"), namespace)
        except Exception as error:
            raise ChapterError(
                f"chapters/{name}.ipynb: cell {cell.id} fails after the cell with the id imports "
                f"and the tagged cells before it alone ({error!r}); tag what it needs net or setup"
            ) from error
    return namespace


def network_namespace(name):
    """Run a chapter's import cell and its cells tagged `net`; return the names they define.

    `net` is the network the chapter trains; VGG's full network is `vgg(conv_arch)`. Weights are
    made on torch's default device: under `torch.device("meta")` there are none.
    """
    namespace = _run(name, network_cells(read(name)))
    if "net" not in namespace:
        raise ChapterError(
            f"chapters/{name}.ipynb: no cell tagged net defines net; tag those that define "
            "networks, and call the trained one so"
        )
    return namespace
