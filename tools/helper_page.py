"""Run the code of the page on d2lmini and put the figure that it draws into it.

python -m tools.helper_page    writes chapters/d2lmini.md
"""

import os
import re

from tools import blocks, files, notebooks

PAGE = notebooks.ROOT / "chapters" / "d2lmini.md"


def page():
    """The page as it should be: the markers hold the figure of the block before them."""
    text = PAGE.read_text("utf-8")
    *_, last = blocks.run_all(text.split("<!-- figure:begin -->")[0])
    (figure,) = last.figures
    return files.replace(text, "figure", lambda _: re.sub(r"\s*\n\s*", "\n", figure) + "\n")


@notebooks.exit_on_fault("helper_page")
def main():
    os.environ.setdefault("D2LMINI_DATA", str(notebooks.ROOT / "tests" / "data"))
    files.write_changed({PAGE: page()})


if __name__ == "__main__":
    main()
