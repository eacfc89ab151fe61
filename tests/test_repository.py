"""The book before and after it has an address, and the way of a reader on Colab."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tools import notebooks
from tools import set_repository as tool

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = [f"chapters/{name}.ipynb" for name in notebooks.names()]
URL = "https://github.com/someone/cnn-book"


@pytest.fixture
def copy(tmp_path):
    """A copy of the files that carry the address, without one, and of the table of contents."""
    pages = [page.as_posix() for page in notebooks.pages()]
    for name in ["_config.yml", "_toc.yml", *pages]:
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, target)
    tool.set_repository("", tmp_path)
    return tmp_path


def contents(root):
    return {name: (root / name).read_bytes() for name in ["_config.yml", *NOTEBOOKS]}


def cells(root, name):
    return json.loads((root / name).read_text(encoding="utf-8"))["cells"]


def test_checkout_agrees_with_the_tool():
    """The checkout is in one state or the other, never between."""
    url = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    assert tool.new_config((ROOT / "_config.yml").read_text(encoding="utf-8"), url) == (
        ROOT / "_config.yml"
    ).read_text(encoding="utf-8")
    for name in NOTEBOOKS:
        code = [cell for cell in cells(ROOT, name) if cell["cell_type"] == "code"]
        assert code[0]["id"] == "install", f"{name}: run python -m tools.set_repository"
        assert "".join(code[0]["source"]) == tool.install_cell(url), name
        assert code[0]["metadata"]["tags"] == ["remove-cell", "nbval-skip"], name


def test_unset_has_no_address(copy):
    config = yaml.safe_load((copy / "_config.yml").read_text(encoding="utf-8"))
    assert config["repository"]["url"] == ""  # left out, Jupyter Book links its own repository
    assert config["launch_buttons"]["colab_url"] == ""
    assert config["html"]["use_repository_button"] is False
    assert config["html"]["baseurl"] == ""
    for name in NOTEBOOKS:
        text = (copy / name).read_text(encoding="utf-8")
        assert "colab.research.google.com" not in text and "git+" not in text, name


def test_set_and_unset(copy):
    before = contents(copy)
    assert len(tool.set_repository(URL, copy)) == 1 + len(NOTEBOOKS)
    config = yaml.safe_load((copy / "_config.yml").read_text(encoding="utf-8"))
    assert config["repository"]["url"] == URL
    assert config["launch_buttons"]["colab_url"] == "https://colab.research.google.com"
    assert config["html"]["use_repository_button"] is True
    assert config["html"]["baseurl"] == "https://someone.github.io/cnn-book/"
    for name in NOTEBOOKS:
        (install,) = [cell for cell in cells(copy, name) if cell["id"] == "install"]
        assert f"    %pip install -q git+{URL}" in "".join(install["source"])
        old = json.loads(before[name])["cells"]
        assert [c for c in cells(copy, name) if c["id"] != "install"] == [
            c for c in old if c["id"] != "install"
        ], f"{name}: another cell changed"
    comments = re.compile(rb"#.*")
    assert comments.findall((copy / "_config.yml").read_bytes()) == comments.findall(
        before["_config.yml"]
    )

    assert tool.set_repository(URL, copy) == []  # again changes nothing
    tool.set_repository("https://github.com/else/where", copy)
    tool.set_repository("", copy)
    assert contents(copy) == before


@pytest.mark.parametrize("url", ["", URL])
def test_a_new_chapter_gets_the_address_that_the_book_has(copy, url):
    """What `python -m tools.set_repository` does, without an address."""
    tool.set_repository(url, copy)
    assert tool.configured_address(copy) == url
    before = contents(copy)
    new = copy / NOTEBOOKS[-1]
    notebook = json.loads(new.read_text(encoding="utf-8"))
    notebook["cells"] = [cell for cell in notebook["cells"] if cell["id"] != "install"]
    new.write_text(json.dumps(notebook), encoding="utf-8")
    assert tool.set_repository(tool.configured_address(copy), copy) == [new]
    (install,) = [cell for cell in cells(copy, NOTEBOOKS[-1]) if cell["id"] == "install"]
    assert "".join(install["source"]) == tool.install_cell(url)
    new.write_bytes(before[NOTEBOOKS[-1]])
    assert contents(copy) == before


def test_set_then_unset_on_the_checkouts_bytes(copy):
    """An unset checkout comes back to the byte."""
    if yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]:
        pytest.skip("this checkout has an address")
    assert contents(copy) == contents(ROOT)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "cnn-book",
        "http://github.com/a/b",
        "https://github.com/a",
        "https://github.com/a/b/c",
        "https://gitlab.com/a/b",
        "https://github.com/-a/b",
        "https://github.com/a/b c",
        "https://github.com/a/..",
        "https://github.com/a/b?x=1",
        "https://github.com/OWNER/REPO\nx: y",
    ],
)
def test_wrong_address_is_told(address):
    with pytest.raises(ValueError, match="no GitHub address"):
        tool.clean_address(address)


@pytest.mark.parametrize("address", [URL, URL + "/", URL + ".git", f"  {URL}\n"])
def test_right_address(address):
    assert tool.clean_address(address) == URL


def test_own_pages_site():
    values = tool.config_values("https://github.com/Someone/someone.github.io")
    assert values["baseurl"] == "https://someone.github.io/"


def test_missing_key_is_told(copy):
    config = copy / "_config.yml"
    config.write_text(config.read_text(encoding="utf-8").replace("colab_url", "other"), "utf-8")
    before = contents(copy)
    with pytest.raises(ValueError, match=r"_config\.yml.*'colab_url'.*0 times"):
        tool.set_repository(URL, copy)
    assert contents(copy) == before


def test_install_cell_without_d2lmini(tmp_path):
    """Where the package is missing and the book has no address, the cell says what to do."""
    run = subprocess.run(
        [sys.executable, "-S", "-c", tool.install_cell()],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": "", "PYTHONIOENCODING": "utf-8"},
    )
    assert run.returncode == 1 and "pip install -e ." in run.stderr.splitlines()[-1]


@pytest.mark.site
def test_site_with_an_address(copy):
    """With an address the site has a Colab button and a repository button that lead somewhere."""
    shutil.copytree(ROOT / "tools", copy / "tools")
    tool.set_repository(URL, copy)
    jupyter_book = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    build = subprocess.run(
        [*jupyter_book, "build", ".", "--all", "-W", "-n", "--keep-going"],
        cwd=copy,
        capture_output=True,
        encoding="utf-8",
    )
    assert build.returncode == 0, build.stdout[-3000:] + build.stderr[-3000:]
    for name in NOTEBOOKS:
        page = (copy / "_build/html" / name).with_suffix(".html").read_text(encoding="utf-8")
        links = set(re.findall(r'href="(https://(?:github|colab|kaggle)[^"]*)"', page)) - set(
            re.findall(
                r'href="(https://(?:github|colab|kaggle)[^"]*)"',
                "".join(map("".join, (c["source"] for c in cells(copy, name)))),
            )
        )
        colab = "https://colab.research.google.com/github/someone/cnn-book/blob/main/"
        kaggle = f"https://kaggle.com/kernels/welcome?src={URL}/blob/main/"
        assert {colab + name, kaggle + name, URL} <= links
    assert '"/cnn-book/"' in (copy / "_build/html/404.html").read_text(encoding="utf-8")


# The way of a Colab reader ---------------------------------------------------------------------


def interpreter(version):
    """The Python of an environment with torch and the rest: this one, or $D2L_PYTHON<version>."""
    if version == "here":
        return sys.executable
    variable = "D2L_PYTHON" + version.replace(".", "")
    python = os.environ.get(variable) or shutil.which("python" + version)
    if not python:
        pytest.skip(f"no Python {version} here; name one in ${variable}")
    needed = "torch, torchvision, matplotlib, ipykernel"
    if subprocess.run([python, "-c", f"import {needed}"], capture_output=True).returncode:
        pytest.skip(f"{python} lacks one of {needed}; name one that has them in ${variable}")
    return python


def ask(python, code):
    """Return what a piece of code prints in another Python."""
    return subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture(scope="module", params=["here", "3.12"])
def colab(request, tmp_path_factory):
    """A bare environment: what Colab has, no d2lmini, and a git address the package comes from."""
    python = interpreter(request.param)
    base = tmp_path_factory.mktemp("colab")
    # the working tree as a repository of its own, so that it is tested before it is committed
    repository = base / "repository"
    names = subprocess.run(
        [
            "git",
            "ls-files",
            "-co",
            "--exclude-standard",
            "d2lmini",
            "pyproject.toml",
            "README.md",
            "LICENSE",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    for name in names:
        target = repository / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "book"]):
        subprocess.run(["git", *command], cwd=repository, check=True)
    # the other packages of the environment, without d2lmini and without the reference d2l
    packages = base / "packages"
    packages.mkdir()
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    for path in Path(ask(python, purelib)).iterdir():
        if not re.match(r"(__editable__\W*)?_*d2l|.*\.pth$|pip\b|__pycache__", path.name):
            (packages / path.name).symlink_to(path)
    subprocess.run([python, "-m", "venv", base / "venv"], check=True)
    bare = base / "venv/bin/python"
    Path(ask(bare, purelib), "colab.pth").write_text(f"{packages}\n")
    missing = subprocess.run(
        [bare, "-c", "import torch, ipykernel, d2lmini"],
        cwd=base,
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert missing.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'd2lmini'"
    kernel = base / "jupyter/kernels/colab"
    kernel.mkdir(parents=True)
    kernel.joinpath("kernel.json").write_text(
        json.dumps(
            {
                "argv": [str(bare), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                "display_name": "Colab",
                "language": "python",
            }
        )
    )
    return base


def clean_environment():
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


@pytest.mark.colab
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_cell_runs_as_on_colab(colab, name, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    import nbformat

    notebook = nbformat.reads((ROOT / name).read_text(encoding="utf-8"), 4)
    (install,) = [cell for cell in notebook.cells if cell.id == "install"]
    install.source = tool.install_cell(f"file://{colab}/repository")
    notebook.cells.append(nbformat.v4.new_code_cell("print(d2l.__file__)"))
    elsewhere = colab / "content"
    elsewhere.mkdir(exist_ok=True)
    monkeypatch.setenv("JUPYTER_PATH", str(colab / "jupyter"))
    monkeypatch.setenv("D2LMINI_DATA", str(ROOT / "tests/data"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="colab", resources={"metadata": {"path": str(elsewhere)}}
    )
    client.execute()
    last = "".join(output.text for output in notebook.cells[-1].outputs)
    assert last.startswith(str(colab / "venv")), f"d2lmini came from {last}"
