"""Give the book its address: the buttons of the site and the install cells of the notebooks.

    python -m tools.set_repository https://github.com/OWNER/REPO
    python -m tools.set_repository --unset
    python -m tools.set_repository           the same address, or none, again: for a new chapter

Until it has run there is no button and no link to a repository anywhere, and the install cell tells
what to do. Running it again, with the same address or another, is safe; comments in _config.yml and
outputs in the notebooks stay.
"""

import argparse
import re
from pathlib import Path

import nbformat
import yaml

from tools import files, notebooks

ROOT = notebooks.ROOT
ADDRESS = re.compile(r"https://github\.com/([A-Za-z0-9][A-Za-z0-9-]{0,38})/([A-Za-z0-9._-]{1,100})")

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


def config_values(url=""):
    """Return what _config.yml says for an address: key -> value as YAML text."""
    owner, repo = ADDRESS.fullmatch(url).groups() if url else ("", "")
    home = f"https://{owner.lower()}.github.io/"
    pages = home if f"https://{repo.lower()}/" == home else f"{home}{repo}/"
    return {
        "url": url or '""',
        "colab_url": "https://colab.research.google.com" if url else '""',
        "use_repository_button": "true" if url else "false",
        "baseurl": pages if url else '""',
    }


def clean_address(text):
    """Return the address without a closing slash or .git; refuse what is no GitHub address."""
    url = re.sub(r"(\.git)?/?$", "", text.strip())
    if not ADDRESS.fullmatch(url) or url.rsplit("/", 1)[1] in (".", ".."):
        raise notebooks.ChapterError(
            f"{text!r} is no GitHub address; give one of the form https://github.com/OWNER/REPO"
        )
    return url


def new_config(text, url):
    """Return the text of _config.yml with the address's values; the rest stays to the letter."""
    for key, value in config_values(url).items():
        text, count = re.subn(rf"(?m)^(\s+{key}:[ ]+)(\S+)", lambda m, v=value: m[1] + v, text)
        if count != 1:
            raise notebooks.ChapterError(
                f"_config.yml: the key {key!r} stands there {count} times, not once; "
                "put it back as in the repository"
            )
    return text


def new_notebook(notebook, url):
    """Return the text of a notebook with the install cell as its first code cell."""
    cells = [cell for cell in notebook.cells if cell.get("id") != "install"]
    installs = [cell for cell in notebook.cells if cell.get("id") == "install"]
    (install,) = installs or [nbformat.v4.new_code_cell(id="install")]
    install.metadata.tags = ["remove-cell", "nbval-skip"]
    install.source = install_cell(url)
    cells.insert([*(cell.cell_type for cell in cells), "code"].index("code"), install)
    return files.notebook_text(nbformat.from_dict({**notebook, "cells": cells}))


def configured_address(root=ROOT):
    """Return the address that _config.yml has, '' for none."""
    config = yaml.safe_load(Path(root, "_config.yml").read_text("utf-8"))
    url = config["repository"]["url"]
    return clean_address(url) if url else ""


def set_repository(url, root=ROOT):
    """Write the address ('' takes it away) and return the files that changed."""
    config = Path(root, "_config.yml")
    # First make every new text, so that a fault in one file leaves all as they were.
    new = {config: new_config(config.read_text("utf-8"), url)}
    for name in notebooks.names(root):
        new[notebooks.path(name, root)] = new_notebook(notebooks.read(name, root), url)
    return files.write_or_check(new)


@notebooks.exit_on_fault("set_repository")
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("address", nargs="?", help="on GitHub; default: as it is")
    group.add_argument("--unset", action="store_true", help="take the address away again")
    args = parser.parse_args(argv)
    address = configured_address() if args.address is None else clean_address(args.address)
    changed = set_repository("" if args.unset else address)
    for path in changed:
        print("wrote", path.relative_to(ROOT))
    if not changed:
        print("nothing to change")


if __name__ == "__main__":
    main()
