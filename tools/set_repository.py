"""Give the book its address: the buttons of the site and the install cells of the notebooks.

    python -m tools.set_repository https://github.com/OWNER/REPO
    python -m tools.set_repository --unset
    python -m tools.set_repository           the same address, or none, again: for a new chapter

Until it has run there is no button and no link to a repository anywhere, and the install cell tells
what to do. Running it again, with the same address or another, is safe.
"""

import argparse
import re
from pathlib import Path

import nbformat

from tools import files, notebooks

ROOT = notebooks.ROOT
ADDRESS = re.compile(r"(?a)https://github\.com/[A-Za-z0-9][A-Za-z0-9-]{0,38}/(?!\.)[\w.-]{1,100}")
CONFIGURED = re.compile(r"(?m)^(repository:\n +url: +)(\S+)")  # in _config.yml, "" for none

# The install cell, before and after the book has an address.
CHECK = """\
import importlib.util

if importlib.util.find_spec('d2lmini') is None:
"""
UNSET = f"""\
# 没有d2lmini时说明怎样安装；已经装好时什么也不做
{CHECK}    raise ModuleNotFoundError(
        '没有安装d2lmini：在本书的根目录运行pip install -e .；'
        '在Colab上先上传仓库的zip，再运行%pip install 它的文件名')"""
SET = f"""\
# 在没有d2lmini的环境（如Colab）里先安装它；已经装好时什么也不做
{CHECK}    %pip install -q git+"""


def install_cell(url=""):
    """Return the source of the install cell for an address pip can clone, '' for none yet."""
    return SET + url if url else UNSET


def clean_address(text):
    """Return the address without a closing slash or .git; refuse what is no GitHub address."""
    url = re.sub(r"(\.git)?/?$", "", text.strip())
    if not ADDRESS.fullmatch(url):
        raise notebooks.ChapterError(
            f"{text!r} is no GitHub address; give one of the form https://github.com/OWNER/REPO"
        )
    return url


def new_notebook(notebook, url):
    """Return the text of a notebook with the install cell as its first code cell."""
    cells = [cell for cell in notebook.cells if cell.get("id") != "install"]
    installs = [cell for cell in notebook.cells if cell.get("id") == "install"]
    (install,) = installs or [nbformat.v4.new_code_cell(id="install")]
    install.metadata.tags = ["remove-cell", "nbval-skip"]
    install.source = install_cell(url)
    cells.insert([*(cell.cell_type for cell in cells), "code"].index("code"), install)
    return files.notebook_text(nbformat.from_dict({**notebook, "cells": cells}))


def set_repository(url=None, root=ROOT):
    """Write an address, '' for none, None for the one that is there; return the changed files."""
    config = Path(root, "_config.yml")
    text = config.read_text("utf-8")
    found = CONFIGURED.search(text)
    if not found:
        raise notebooks.ChapterError(
            '_config.yml: it needs a line "repository:" and after that "  url: ..."; put them back'
        )
    url = found[2].strip('"') if url is None else url
    url = clean_address(url) if url else ""
    # First make every new text, so that a fault in one file leaves all as they were.
    texts = {config: text.replace(found[0], found[1] + (url or '""'))}
    for name in notebooks.names(root):
        texts[notebooks.path(name, root)] = new_notebook(notebooks.read(name, root), url)
    return files.write_changed(texts)


@notebooks.exit_on_fault("set_repository")
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("address", nargs="?", help="on GitHub; default: as it is")
    group.add_argument("--unset", action="store_true", help="take the address away again")
    args = parser.parse_args(argv)
    for path in set_repository("" if args.unset else args.address):
        print("wrote", path.relative_to(ROOT))


if __name__ == "__main__":
    main()
