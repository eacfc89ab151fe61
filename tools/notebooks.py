"""The chapters as data: which they are, the networks they define, the code that they hold.

Tests, benchmarks and the root page take the networks from here, so there is no second copy.
"""

import hashlib
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
CHAPTERS = ("alexnet", "vgg", "nin", "googlenet")


def path(name):
    """The notebook of a chapter."""
    return ROOT / "chapters" / f"{name}.ipynb"


def read(name):
    """The notebook of a chapter, as an nbformat node."""
    return nbformat.read(path(name), as_version=4)


def tags(cell):
    """A cell's tags, a set of str."""
    return set(cell.metadata.get("tags", ()))


def network_namespace(name):
    """Run a chapter's import cell and its cells tagged `net`; return the names they define.

    `net` is the network the chapter trains; VGG's full network is `vgg(conv_arch)`.
    """
    namespace = {"__name__": f"chapters.{name}"}
    for cell in read(name).cells:
        if cell.cell_type == "code" and (cell.id == "imports" or "net" in tags(cell)):
            exec(compile(cell.source, f"{name}.ipynb, cell {cell.id}", "exec"), namespace)
    return namespace


def code_hash(notebook):
    """SHA-256 of the code cells: a record belongs to this code and to no other."""
    code = "\n\0".join(cell.source for cell in notebook.cells
                       if cell.cell_type == "code" and cell.id != "install")  # fmt: skip
    return hashlib.sha256(code.encode()).hexdigest()
