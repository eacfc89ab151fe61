"""What a recorded training or a measured answer depends on, as hashes of its code.

A record of hours belongs to the code that ran, not to its layout: a hash is that of a syntax tree,
and covers only the statements that the training depends on. A comment, a line broken elsewhere, a
changed function that the training never calls leave the record standing.
"""

import ast
import contextlib
import dis
import hashlib
import inspect
from typing import NamedTuple

from tools import notebooks

IMPORTS = (ast.Import, ast.ImportFrom)
LOOK_UP = ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS")
DEFINITIONS = (*IMPORTS, ast.FunctionDef, ast.ClassDef)


class Statement(NamedTuple):
    """A statement of a cell's top level."""

    cell: str  # the cell's id
    tree: ast.stmt
    bound: frozenset  # names that it gives a value
    read: frozenset  # names of the notebook that it, or a function in it, looks up


def training_code(notebook, name):
    """The hashes that a chapter's record goes by: `{"training": …, "cells": …, "trained": …}`.

    `training` is one hash over all statements that the training depends on, in order; `cells` has
    one for each cell with such statements, `trained` one for each cell of that tag, by cell id.

    Raises:
        ChapterError: the training depends on code that is not hashed.
    """
    cells = notebooks.code_cells(notebook)
    hashed = notebooks.network_cells(notebook, "setup")
    training, trained = (notebooks.code_cells(notebook, tag) for tag in ("training", "trained"))
    needed = needed_statements(_statements(hashed), _statements(training))
    others = [c for c in cells if c not in [*hashed, *training, *trained]]
    _check_bound(name, needed, others)
    by_cell = {}
    for statement in needed:
        by_cell.setdefault(statement.cell, []).append(statement.tree)
    return {
        "training": tree_hash([statement.tree for statement in needed]),
        "cells": {cell: tree_hash(trees) for cell, trees in by_cell.items()},
        "trained": {cell.id: tree_hash(ast.parse(cell.source)) for cell in trained},
    }


def answer_hash(notebook, code):
    """The hash of an answer's code and of the statements of its chapter that it depends on."""
    before = _statements(notebooks.network_cells(notebook))
    return tree_hash([s.tree for s in needed_statements(before, list(parsed("answer", code)))])


def differing(recorded, now):
    """The ids of cells whose hashes differ, of two dicts; those that only one has among them."""
    return [cell for cell in {**recorded, **now} if recorded.get(cell) != now.get(cell)]


def parsed(cell, source):
    """The statements of a cell."""
    for tree in ast.parse(source).body:
        code = compile(ast.Module([tree], []), cell, "exec")
        yield Statement(cell, tree, *map(frozenset, _names(code)))


def _names(code, top=True):
    """The names that code gives a value, and those that it or code in it looks up outside.

    The compiler knows which is which, also where it inlines comprehensions (from 3.12 on).
    """
    instructions = list(dis.get_instructions(code))
    stored = {i.argval for i in instructions if i.opname in ("STORE_NAME", "STORE_GLOBAL")}
    read = {i.argval for i in instructions if i.opname in LOOK_UP}
    if not top:
        read -= stored  # a class's own
    for inner in filter(inspect.iscode, code.co_consts):
        read |= _names(inner, top=False)[1]
    return stored, read


def needed_statements(before, last):
    """Those of the statements `before` that the statements `last` depend on, and `last`, in order.

    That is what gives a value to a name they look up, and what may change such a thing in place:
    whatever reads it and is no definition, as `net.apply(init)` does.
    """
    imported = {name for s in before if isinstance(s.tree, IMPORTS) for name in s.bound}
    needed, names = [], {name for s in last for name in s.read}
    while True:
        for statement in before:
            touched = set(statement.bound)
            if not isinstance(statement.tree, DEFINITIONS):
                touched |= statement.read - imported
            if touched & names and statement not in needed:
                needed.append(statement)
                names |= statement.read
                break
        else:
            return [statement for statement in before if statement in needed] + last


def _statements(cells):
    return [statement for cell in cells for statement in parsed(cell.id, cell.source)]


def _check_bound(name, needed, others):
    """Refuse a training that depends on a name which a cell that is not hashed binds, too."""
    read = {word for statement in needed for word in statement.read}
    for cell in others:
        with contextlib.suppress(SyntaxError):  # a magic
            for statement in parsed(cell.id, cell.source):
                for word in sorted(statement.bound & read):
                    raise notebooks.ChapterError(
                        f"chapters/{name}.ipynb: the training depends on {word}, which cell "
                        f"{cell.id} binds; bind it in a cell tagged net or setup, in no other"
                    )


def tree_hash(tree):
    """SHA-256 of a syntax tree or a list of them, the same in every Python from 3.10 on."""
    return hashlib.sha256(_dump(tree).encode()).hexdigest()


def _dump(node):
    """A syntax tree as text.

    `ast.dump` has another text in every other Python, which adds fields: here what is None or an
    empty list is left out, and the empty piece that 3.12 adds to the format in an f-string.
    """
    if isinstance(node, ast.JoinedStr):
        node.values = [v for v in node.values if getattr(v, "value", None) != ""]
    if isinstance(node, list):
        return f"[{','.join(map(_dump, node))}]"
    if isinstance(node, ast.AST):
        fields = (f"{k}={_dump(v)}" for k, v in ast.iter_fields(node) if v is not None and v != [])
        return f"{type(node).__name__}({','.join(fields)})"
    return ascii(node)
