"""The book before and after it has an address, and the way of a reader on Colab."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest
import yaml

from tests.test_record import git
from tools import notebooks
from tools import set_repository as tool

ROOT = notebooks.ROOT
NOTEBOOKS = [f"chapters/{name}.ipynb" for name in notebooks.names()]
URL, PAGES = "https://github.com/someone/cnn-book", "https://someone.github.io/cnn-book/"


@pytest.fixture
def copy(tmp_path):
    """A copy of the files that carry the address, without one, and of the table of contents."""
    (tmp_path / "chapters").mkdir()
    for name in ["_config.yml", "_toc.yml", *map(str, notebooks.pages())]:
        shutil.copy(ROOT / name, tmp_path / name)
    tool.set_repository("", tmp_path)
    return tmp_path


def contents(root):
    return {name: (root / name).read_bytes() for name in ["_config.yml", *NOTEBOOKS]}


def configured(root):
    """The address that _config.yml has."""
    return yaml.safe_load((root / "_config.yml").read_text("utf-8"))["repository"]["url"]


def test_checkout_agrees_with_the_tool(copy):
    """It is in one state or the other, never between, and unset comes back to the byte."""
    tool.set_repository(configured(ROOT), copy)
    assert contents(copy) == contents(ROOT), "run python -m tools.set_repository"


def test_set_and_unset(copy):
    before = contents(copy)
    assert configured(copy) == ""  # left out, Jupyter Book links its own repository
    assert not any(b"git+" in content for content in before.values())
    assert len(tool.set_repository(URL, copy)) == len(before)
    assert configured(copy) == URL
    now = contents(copy)
    for name in NOTEBOOKS:
        old, new = (json.loads(content)["cells"] for content in (before[name], now[name]))
        (install,) = (cell for cell in new if cell not in old)
        assert install["id"] == "install" and len(new) == len(old)
        assert f"    %pip install -q git+{URL}" in "".join(install["source"])
    comments = [re.findall(rb"#.*", content["_config.yml"]) for content in (before, now)]
    assert comments[0] == comments[1]

    assert tool.set_repository(URL, copy) == []  # again changes nothing
    tool.set_repository("https://github.com/else/where", copy)
    tool.set_repository("", copy)
    assert contents(copy) == before


@pytest.mark.parametrize(
    "address",
    ["", "http://github.com/a/b", "https://github.com/a", "https://github.com/a/b/c",
     "https://github.com/a/b c", "https://github.com/a/..", "https://github.com/O/R\nx: y"],
)  # fmt: skip
def test_wrong_address_is_told(address):
    with pytest.raises(ValueError, match="no GitHub address"):
        tool.clean_address(address)


@pytest.mark.parametrize(
    ("address", "pages"),
    [
        *[(address, PAGES) for address in (URL, URL + "/", URL + ".git", f"  {URL}\n")],
        ("https://github.com/Someone/someone.github.io", "https://someone.github.io/"),
    ],
)
def test_right_address_and_its_site(address, pages, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools/site")
    site = importlib.import_module("d2l_site")
    assert site.pages_address(tool.clean_address(address)) == pages


# The way of a Colab reader ---------------------------------------------------------------------


def ask(python, *words, folder):
    """Run another Python in a folder, without this repository."""
    environment = {**os.environ, "PYTHONPATH": "", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run([python, *words], cwd=folder, env=environment, capture_output=True,
                          encoding="utf-8")  # fmt: skip


def test_install_cell_without_d2lmini(tmp_path):
    """Where the package is missing and the book has no address, the cell says what to do."""
    run = ask(sys.executable, "-S", "-c", tool.install_cell(), folder=tmp_path)
    assert run.returncode == 1 and "pip install -e ." in run.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """A folder with a bare environment `venv`, which has what Colab has, and no d2lmini.

    In `repository` is the working tree as a repository of its own: tested before it is committed.
    """
    base = tmp_path_factory.mktemp("colab")
    shutil.copytree(ROOT / "d2lmini", base / "repository" / "d2lmini",
                    ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, base / "repository")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "book"]):
        git(base / "repository", *words)
    # the other packages of this environment, without the reference d2l
    (base / "packages").mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not re.match(r"(__editable__\W*)?_*d2l|.*\.pth$|pip\b|__pycache__", path.name):
            (base / "packages" / path.name).symlink_to(path)
    subprocess.run([sys.executable, "-m", "venv", base / "venv"], check=True)
    (site,) = base.glob("venv/lib/python*/site-packages")
    (site / "colab.pth").write_text(f"{base}/packages\n")
    missing = ask(base / "venv/bin/python", "-c", "import torch, ipykernel, d2lmini", folder=base)
    assert missing.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'd2lmini'"
    return base


@pytest.mark.colab
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_cell_runs_as_on_colab(colab, name):
    notebook = nbformat.read(ROOT / name, as_version=4)
    (install,) = [cell for cell in notebook.cells if cell.id == "install"]
    install.source = tool.install_cell(f"file://{colab}/repository")
    notebook.cells.append(nbformat.v4.new_code_cell("print(d2l.__file__)"))
    nbformat.write(notebook, colab / "copy.ipynb")
    words = ["-m", "nbconvert", "--execute", "--to", "notebook", "--inplace", "copy.ipynb"]
    run = ask(colab / "venv/bin/python", *words, folder=colab)
    assert run.returncode == 0, run.stderr
    (last,) = nbformat.read(colab / "copy.ipynb", as_version=4).cells[-1].outputs
    assert last.text.startswith(f"{colab}/venv"), f"d2lmini came from {last.text}"
