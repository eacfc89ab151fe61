"""The blocks of Python in Markdown: on pages, and in the folded answers to exercises."""

import contextlib
import io
import re
from types import SimpleNamespace
from unittest import mock

# A block: the comment that names a measured answer, the code, the text that it prints, and the line
# that tells when and where it was measured; all but the code may be missing.
BLOCK = re.compile(
    r"(?:<!-- measured: (?P<name>[\w-]+) -->\s*)?"
    r"^```python\n(?P<code>.*?)^```"
    r"(?P<printed>\s*^```text\n(?P<text>.*?)^```)?"
    r"(?P<placed>\s*（实测：(?P<told>[^\n]*)）$)?",
    re.DOTALL | re.MULTILINE,
)


def run(code, namespace, text=None):
    """Run code among the names of a namespace, which it adds to, as a cell of a notebook does.

    Returns its `code`, the `text` that the page says it prints, what it `printed`, and the
    `figures` that it drew, as HTML.
    """
    shown = []
    with (
        mock.patch("d2lmini.figures.inline_svg.display", shown.append),
        contextlib.redirect_stdout(io.StringIO()) as printed,
    ):
        exec(compile(code, f"block {code[:40]!r}", "exec"), namespace)
    figures = [figure.html for figure in shown]
    return SimpleNamespace(code=code, text=text, printed=printed.getvalue(), figures=figures)


def run_all(page):
    """Run a page's blocks one after another, as cells of one notebook."""
    namespace = {}
    for found in BLOCK.finditer(page):
        yield run(found["code"], namespace, found["text"])
