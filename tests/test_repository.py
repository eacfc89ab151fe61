"""The book before and after it has an address, and the way of a reader on Colab."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest
import yaml

from tests.test_record import git
from tests.test_site import extension
from tools import notebooks
from tools import set_repository as tool

ROOT = notebooks.ROOT
NOTEBOOKS = [f"chapters/{name}.ipynb" for name in notebooks.names()]
URL = "https://github.com/someone/cnn-book"


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


def split(root, name):
    """The install cell of a notebook and its other cells."""
    cells = json.loads((root / name).read_text("utf-8"))["cells"]
    (install,) = (cell for cell in cells if cell["id"] == "install")
    return install, [cell for cell in cells if cell is not install]


def test_checkout_agrees_with_the_tool(copy):
    """It is in one state or the other, never between, and unset comes back to the byte."""
    tool.set_repository(configured(ROOT), copy)
    assert contents(copy) == contents(ROOT), "run python -m tools.set_repository"


def test_set_and_unset(copy):
    before = contents(copy)
    assert configured(copy) == ""  # left out, Jupyter Book links its own repository
    for name in NOTEBOOKS:
        text = (copy / name).read_text("utf-8")
        assert "colab.research.google.com" not in text and "git+" not in text, name
    assert len(tool.set_repository(URL, copy)) == 1 + len(NOTEBOOKS)
    assert configured(copy) == URL
    for name in NOTEBOOKS:
        install, others = split(copy, name)
        assert f"    %pip install -q git+{URL}" in "".join(install["source"])
        assert others == [c for c in json.loads(before[name])["cells"] if c["id"] != "install"]
    comments = re.compile(rb"#.*")
    now = (copy / "_config.yml").read_bytes()
    assert comments.findall(now) == comments.findall(before["_config.yml"])

    assert tool.set_repository(URL, copy) == []  # again changes nothing
    tool.set_repository("https://github.com/else/where", copy)
    tool.set_repository("", copy)
    assert contents(copy) == before


@pytest.mark.parametrize("url", ["", URL])
def test_a_new_chapter_gets_the_address_that_the_book_has(copy, url):
    """What `python -m tools.set_repository` does, without an address."""
    tool.set_repository(url, copy)
    assert configured(copy) == url
    before, new = contents(copy), copy / NOTEBOOKS[-1]
    content = json.loads(new.read_text("utf-8"))
    content["cells"] = [cell for cell in content["cells"] if cell["id"] != "install"]
    new.write_text(json.dumps(content), encoding="utf-8")
    assert tool.set_repository(root=copy) == [new]
    install, _ = split(copy, NOTEBOOKS[-1])
    assert "".join(install["source"]) == tool.install_cell(url)
    assert install["metadata"]["tags"] == ["remove-cell", "nbval-skip"]
    new.write_bytes(before[NOTEBOOKS[-1]])
    assert contents(copy) == before


@pytest.mark.parametrize(
    "address",
    ["", "cnn-book", "http://github.com/a/b", "https://github.com/a", "https://github.com/a/b/c",
     "https://gitlab.com/a/b", "https://github.com/-a/b", "https://github.com/a/b c",
     "https://github.com/a/..", "https://github.com/a/b?x=1", "https://github.com/O/R\nx: y"],
)  # fmt: skip
def test_wrong_address_is_told(address):
    with pytest.raises(ValueError, match="no GitHub address"):
        tool.clean_address(address)


@pytest.mark.parametrize("address", [URL, URL + "/", URL + ".git", f"  {URL}\n"])
def test_right_address(address):
    assert tool.clean_address(address) == URL


def test_address_of_the_site():
    pages_address = extension().pages_address
    assert pages_address("https://github.com/Someone/Book") == "https://someone.github.io/Book/"
    assert pages_address("https://github.com/Me/me.github.io") == "https://me.github.io/"


def test_missing_key_is_told(copy):
    path = copy / "_config.yml"
    path.write_text(path.read_text("utf-8").replace("  url:", "  other:"), "utf-8")
    before = contents(copy)
    with pytest.raises(ValueError, match=r"_config\.yml.*needs"):
        tool.set_repository(URL, copy)
    assert contents(copy) == before


# The way of a Colab reader ---------------------------------------------------------------------


def ask(python, code, folder=None):
    """Run code in another Python, without this repository."""
    environment = {**os.environ, "PYTHONPATH": "", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run([python, *code], cwd=folder, env=environment, capture_output=True,
                          encoding="utf-8")  # fmt: skip


def test_install_cell_without_d2lmini(tmp_path):
    """Where the package is missing and the book has no address, the cell says what to do."""
    run = ask(sys.executable, ["-S", "-c", tool.install_cell()], folder=tmp_path)
    assert run.returncode == 1 and "pip install -e ." in run.stderr.splitlines()[-1]


@pytest.fixture(scope="module", params=["here", "3.12"])
def colab(request, tmp_path_factory):
    """A bare environment: what Colab has, no d2lmini, and a git address the package comes from.

    Of a Python that has torch and the rest: this one, or $D2L_PYTHON312.
    """
    python = sys.executable
    if request.param != "here":
        variable = "D2L_PYTHON" + request.param.replace(".", "")
        python = os.environ.get(variable) or shutil.which(f"python{request.param}")
        if not python or ask(python, ["-c", "import torchvision, ipykernel"]).returncode:
            pytest.skip(f"name a Python {request.param} with torchvision, ipykernel in ${variable}")
    base = tmp_path_factory.mktemp("colab")
    # the working tree as a repository of its own, so that it is tested before it is committed
    repository = base / "repository"
    repository.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, repository)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "d2lmini", repository / "d2lmini", ignore=ignored)
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "book"]):
        git(repository, *words)
    # the other packages of the environment, without d2lmini and without the reference d2l
    packages = base / "packages"
    packages.mkdir()
    purelib = ["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    for path in Path(ask(python, purelib).stdout.strip()).iterdir():
        if not re.match(r"(__editable__\W*)?_*d2l|.*\.pth$|pip\b|__pycache__", path.name):
            (packages / path.name).symlink_to(path)
    subprocess.run([python, "-m", "venv", base / "venv"], check=True)
    bare = base / "venv/bin/python"
    Path(ask(bare, purelib).stdout.strip(), "colab.pth").write_text(f"{packages}\n")
    missing = ask(bare, ["-c", "import torch, ipykernel, d2lmini"], folder=base)
    assert missing.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'd2lmini'"
    kernel = base / "jupyter/kernels/colab/kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = [str(bare), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": argv, "display_name": "Colab", "language": "python"}))
    return base


@pytest.mark.colab
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_cell_runs_as_on_colab(colab, name, monkeypatch):
    notebook = nbformat.read(ROOT / name, as_version=4)
    (install,) = [cell for cell in notebook.cells if cell.id == "install"]
    install.source = tool.install_cell(f"file://{colab}/repository")
    notebook.cells.append(nbformat.v4.new_code_cell("print(d2l.__file__)"))
    elsewhere = colab / "content"
    elsewhere.mkdir(exist_ok=True)
    monkeypatch.setenv("JUPYTER_PATH", str(colab / "jupyter"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="colab", resources={"metadata": {"path": str(elsewhere)}}
    )
    client.execute()
    last = "".join(output.text for output in notebook.cells[-1].outputs)
    assert last.startswith(str(colab / "venv")), f"d2lmini came from {last}"
