"""Give the book its address: the buttons of the site and the install cells of the notebooks.

    python -m tools.set_repository https://github.com/OWNER/REPO
    python -m tools.set_repository --unset
    python -m tools.set_repository           the same address, or none, again: for a new chapter

Until it has run there is no button and no link to a repository anywhere, and the install cell tells
what to do. Running it again, with the same address or another, is safe; comments in _config.yml and
outputs in the notebooks stay.
"""

import argparse
import json
import re
import sys
from pathlib import Path

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
    """Return the address without a closing slash or .git; ValueError if it is no GitHub address."""
    url = re.sub(r"(\.git)?/?$", "", text.strip())
    if not ADDRESS.fullmatch(url) or url.rsplit("/", 1)[1] in (".", ".."):
        raise ValueError(
            f"{text!r} is no GitHub address; give one of the form https://github.com/OWNER/REPO"
        )
    return url


def new_config(text, url):
    """Return the text of _config.yml with the address's values; the rest stays to the letter."""
    for key, value in config_values(url).items():
        text, count = re.subn(rf"(?m)^(\s+{key}:[ ]+)(\S+)", lambda m, v=value: m[1] + v, text)
        if count != 1:
            raise ValueError(
                f"_config.yml: the key {key!r} stands there {count} times, not once; "
                "put it back as in the repository"
            )
    return text


def new_notebook(text, url):
    """Return the text of a notebook with the install cell as its first code cell."""
    notebook = json.loads(text)
    cells = [cell for cell in notebook["cells"] if cell.get("id") != "install"]
    install = next(
        (cell for cell in notebook["cells"] if cell.get("id") == "install"),
        {
            "cell_type": "code",
            "execution_count": None,
            "id": "install",
            "metadata": {},
            "outputs": [],
            "source": [],
        },
    )
    install["metadata"]["tags"] = ["remove-cell", "nbval-skip"]
    install["source"] = install_cell(url).splitlines(keepends=True)
    kinds = [cell["cell_type"] for cell in cells]
    first = kinds.index("code") if "code" in kinds else len(cells)
    cells.insert(first, install)
    return json.dumps({**notebook, "cells": cells}, ensure_ascii=False, indent=1) + "\n"


def configured_address(root=ROOT):
    """Return the address that _config.yml has, '' for none."""
    text = Path(root, "_config.yml").read_text(encoding="utf-8")
    url = re.search(r"(?m)^\s+url:[ ]+(\S+)", text)
    return clean_address(url[1]) if url and url[1] != '""' else ""


def set_repository(url, root=ROOT):
    """Write the address ('' takes it away) and return the files that changed."""
    make = {Path(root, "_config.yml"): new_config}
    make.update((notebooks.path(name, root), new_notebook) for name in notebooks.names(root))
    changed = []
    # First make every new text, so that a fault in one file leaves all as they were.
    for path, new_text in make.items():
        old = path.read_text(encoding="utf-8")
        try:
            new = new_text(old, url)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is no notebook: {error}") from error
        if new != old:
            changed.append((path, new))
    for path, new in changed:
        files.write_whole(path, new)
    return [path for path, _ in changed]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "address", nargs="?", help="https://github.com/OWNER/REPO; default: as it is"
    )
    group.add_argument("--unset", action="store_true", help="take the address away again")
    args = parser.parse_args(argv)
    try:
        address = configured_address() if args.address is None else clean_address(args.address)
        changed = set_repository("" if args.unset else address)
    except (ValueError, OSError) as error:
        sys.exit(f"set_repository: {error}")
    for path in changed:
        print("wrote", path.relative_to(ROOT))
    if not changed:
        print("nothing to change")


if __name__ == "__main__":
    main()
