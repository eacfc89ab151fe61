"""Run the code of the page on d2lmini and put the figure that it draws into it.

python -m tools.helper_page            writes chapters/d2lmini.md
python -m tools.helper_page --check    fails when it is stale
"""

import contextlib
import io
import os
import re
import sys
from typing import NamedTuple
from unittest import mock

from d2lmini.figures import inline_svg
from tools import files, notebooks
from tools.root_page import replace

PAGE = notebooks.ROOT / "chapters" / "d2lmini.md"
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


class Ran(NamedTuple):
    """What a block of a page's code did."""

    source: str
    promised: str  # what the page says it prints, '' where it says nothing
    printed: str
    figures: list  # of HTML


def run(text, namespace=None):
    """Run a page's blocks of Python one after another, as cells of one notebook."""
    namespace = {} if namespace is None else namespace
    for source, promised in BLOCK.findall(text):
        shown, printed = [], io.StringIO()
        with (
            mock.patch.object(inline_svg, "display", shown.append),
            contextlib.redirect_stdout(printed),
        ):
            exec(compile(source, f"{PAGE.name}: {source[:40]!r}", "exec"), namespace)
        yield Ran(source, promised, printed.getvalue(), [figure.html for figure in shown])


def page():
    """The page as it should be: under a block that is followed by markers, its figure."""
    text = PAGE.read_text("utf-8")
    before = text.split("<!-- figure:begin -->")[0]
    *_, last = run(before)
    (figure,) = last.figures
    return replace(text, "figure", lambda _: re.sub(r"\s*\n\s*", "\n", figure) + "\n")


@notebooks.exit_on_fault("helper_page")
def main(argv):
    os.environ.setdefault("D2LMINI_DATA", str(notebooks.ROOT / "tests" / "data"))
    fresh = page()
    if argv != ["--check"]:
        files.write_whole(PAGE, fresh)
    elif fresh != PAGE.read_text("utf-8"):
        raise SystemExit(f"{PAGE}: stale, run python -m tools.helper_page")


if __name__ == "__main__":
    main(sys.argv[1:])
