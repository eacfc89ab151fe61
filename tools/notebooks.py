"""The chapters as data: which they are, what each says of itself, the networks they define.

`_toc.yml` says which chapters there are. What no code can tell of one stands in its notebook's
metadata under `chapter`; image side, learning rate and batch size are read from its cells. Tests,
benchmarks and the other tools take all of it from here, so there is no second copy.
"""

import ast
import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import nbformat
import yaml

ROOT = Path(__file__).parents[1]
# What a notebook's metadata says under `chapter`: these keys, with values of these types.
EXAMPLE = {
    "network": "VGG-11（通道为¼）",
    "label": "VGG-11 / 4",
    "year": 2014,
    "idea": "重复使用3×3卷积的块",
}
# The parameters, in order, of the two calls that hold a chapter's settings.
LOAD = ("batch_size", "resize")
TRAIN = ("net", "train_iter", "test_iter", "num_epochs", "lr")


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
    root = Path(root or ROOT)
    try:
        toc = yaml.safe_load((root / "_toc.yml").read_text("utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ChapterError(f"_toc.yml cannot be read: {' '.join(str(error).split())}") from error
    found = []
    for entry in _entries(toc):
        files = [Path(f"{entry}{suffix}") for suffix in ("", ".ipynb", ".md")]
        page = next((file for file in files if (root / file).is_file()), None)
        if page is None:
            raise ChapterError(
                f"_toc.yml names {entry}, but there is no file {entry}.ipynb or {entry}.md; "
                "add the file or take the entry out"
            )
        if page.suffix == ".ipynb" and page.parent != Path("chapters"):
            raise ChapterError(f"{page.as_posix()} is not in chapters/; move it there")
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
    found = [chapter(name, root) for name in names(root)]
    for i, one in enumerate(found):
        for other in found[:i]:
            if one.label == other.label:  # charts would show one of the two
                raise ChapterError(
                    f"chapters/{one.name}.ipynb: its label {one.label!r} is that of "
                    f"chapters/{other.name}.ipynb too; give it one of its own"
                )
    return found


def chapter(name, root=None):
    """What a chapter's metadata and cells say."""
    file, notebook = f"chapters/{name}.ipynb", read(name, root)
    described = notebook.metadata.get("chapter")
    if not isinstance(described, dict):
        raise ChapterError(
            f'{file}: the notebook\'s metadata lacks "chapter"; add it, as for example '
            f'"chapter": {json.dumps(EXAMPLE, ensure_ascii=False)}'
        )
    for key, example in EXAMPLE.items():
        value = described.get(key)
        latin = key != "label" or str(value).isascii()  # the charts' font knows no Chinese
        if type(value) is not type(example) or not value or not latin:
            raise ChapterError(
                f'{file}: "{key}" in the metadata "chapter" is '
                f"{repr(value) if key in described else 'missing'}; write it as for example "
                f"{json.dumps(example, ensure_ascii=False)}"
                + (", in Latin letters" if key == "label" else "")
            )
    return Chapter(name, **{key: described[key] for key in EXAMPLE}, **_settings(notebook, file))


class _Loaded(NamedTuple):
    """What stands for `load_data_fashion_mnist`'s training iterator: the call's arguments."""

    batch_size: object = None
    resize: object = None


def _settings(notebook, file):
    """Image side, learning rate and batch size, from the cells, without running them."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if not any("training" in tags(cell) for cell in cells):
        raise ChapterError(f"{file}: no cell is tagged training; tag the one that trains the net")
    known = {}
    for cell in cells:
        try:
            statements = ast.parse(cell.source).body
        except SyntaxError:
            continue  # a magic, such as %pip in the install cell
        for statement in statements:
            if "training" in tags(cell):
                arguments = _arguments(statement, "train_ch6", TRAIN)
                if arguments is not None:
                    return _checked_settings(arguments, known, file)
            _note(statement, known)
    raise ChapterError(
        f"{file}: the cell tagged training does not call d2l.train_ch6; train with it there"
    )


def _checked_settings(arguments, known, file):
    """The settings of a call of `train_ch6`, given the constants known there."""
    loaded = _value(arguments.get("train_iter"), known)
    if not isinstance(loaded, _Loaded):
        raise ChapterError(
            f"{file}: d2l.train_ch6 is not given what d2l.load_data_fashion_mnist returned; "
            "write train_iter, test_iter = d2l.load_data_fashion_mnist(...) in a cell before it"
        )
    side = 28 if loaded.resize is None else loaded.resize
    lr = _value(arguments.get("lr"), known)
    for argument, value, kind, wanted in (
        ("batch_size of d2l.load_data_fashion_mnist", loaded.batch_size, int, "whole number"),
        ("resize of d2l.load_data_fashion_mnist", side, int, "whole number"),
        ("lr of d2l.train_ch6", lr, (int, float), "number"),
    ):
        if isinstance(value, bool) or not isinstance(value, kind) or value <= 0:
            given = f"`{ast.unparse(value)}`" if isinstance(value, ast.AST) else repr(value)
            raise ChapterError(
                f"{file}: {argument} is {given}; give it a positive {wanted}, as a constant or as "
                "a name that a cell before it sets to one"
            )
    return {"side": side, "lr": lr, "batch_size": loaded.batch_size}


def _arguments(node, function, parameters):
    """The arguments of a call of `function` inside a node, parameter -> expression; or None."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and function in (
            getattr(call.func, "attr", None),
            getattr(call.func, "id", None),
        ):
            by_name = {keyword.arg: keyword.value for keyword in call.keywords}
            return {**dict(zip(parameters, call.args, strict=False)), **by_name}
    return None


def _value(node, known):
    """The value of an expression over known constants, or the expression where it has none."""
    if isinstance(node, ast.Tuple):
        return tuple(_value(part, known) for part in node.elts)
    try:
        code = compile(ast.Expression(node), "cell", "eval")
        return eval(code, {"__builtins__": {}, **known})
    except Exception:
        return node


def _note(statement, known):
    """Add the constants that a statement assigns to `known`; forget what else it binds."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        known.pop(statement.name, None)  # the names inside are its own
        return
    bound = {}
    if isinstance(statement, ast.Assign):
        load = _arguments(statement.value, "load_data_fashion_mnist", LOAD)
        if load is None:
            value = _value(statement.value, known)
        else:
            given = {key: _value(load[key], known) for key in LOAD if key in load}
            value = (_Loaded(**given), statement.value)
        for target in statement.targets:
            bound.update(_unpacked(target, value))
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            known.pop(node.id, None)
    known.update((name, part) for name, part in bound.items() if not isinstance(part, ast.AST))


def _unpacked(target, value):
    """The names that an assignment binds, each with its value."""
    if isinstance(target, ast.Name):
        yield target.id, value
    parts = getattr(target, "elts", ())
    if isinstance(value, (tuple, list)) and len(parts) == len(value):
        for part, part_value in zip(parts, value, strict=True):
            yield from _unpacked(part, part_value)


# --- the networks and the code --------------------------------------------------------------------


def network_cells(notebook):
    """The import cell and the cells tagged `net`, which define the networks."""
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and (cell.id == "imports" or "net" in tags(cell))
    ]


def network_namespace(name):
    """Run a chapter's import cell and its cells tagged `net`; return the names they define.

    `net` is the network the chapter trains; VGG's full network is `vgg(conv_arch)`.
    """
    file, namespace = f"chapters/{name}.ipynb", {"__name__": f"chapters.{name}"}
    cells = network_cells(read(name))
    if not any(cell.id == "imports" for cell in cells):
        raise ChapterError(f'{file}: no cell has the id "imports"; give it to the import cell')
    if not any("net" in tags(cell) for cell in cells):
        raise ChapterError(f"{file}: no cell is tagged net; tag those that define networks")
    for cell in cells:
        try:
            exec(compile(cell.source, f"{name}.ipynb, cell {cell.id}", "exec"), namespace)
        except Exception as error:
            raise ChapterError(
                f"{file}: cell {cell.id} fails after the import cell and the cells tagged net "
                f"before it alone ({error!r}); tag what it needs net too"
            ) from error
    if "net" not in namespace:
        raise ChapterError(f"{file}: no cell tagged net defines net; call the trained network so")
    return namespace
