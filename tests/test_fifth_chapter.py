"""A fifth chapter: a notebook and its line in `_toc.yml` are all it takes.

In a copy of the repository a small network gets one, by the steps of CONTRIBUTING.md, and the copy
an address. What each tool writes in each case is held by the tests of that tool.
"""

import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest

from tests.test_notebooks_tool import write_book
from tools import notebooks, root_page

ROOT = notebooks.ROOT
LEFT_OUT = (".git", ".venv", "venv", "_build", "__pycache__", ".*cache*", ".ipynb_checkpoints")
NAME = "tiny"
DESCRIPTION = {"network": "小网络", "label": "Small net", "year": 2015, "idea": "一个全连接层"}
URL = "https://github.com/someone/cnn-book"
NUMBER = len(notebooks.names()) + 1  # five, until the book has a fifth chapter of its own

SEEN = f"""\
X = torch.zeros(1, 1, 28, 28)
for layer in net:
    X = layer(X)
    print(layer.__class__.__name__, 'output shape:\\t', X.shape)
d2l.draw(net, input_shape=(1, 1, 28, 28), caption='图{NUMBER}-1 小网络')"""
ANSWER = """
<details>
<summary>参考答案</summary>

```python
print(net[2].bias.numel())
```

```text
10
```

</details>
"""


def new_notebook(folder):
    """The chapter as its author saves it: nothing has run, and there is no install cell."""
    path = write_book(folder, DESCRIPTION, "chapters/small", "", install=None, seen=SEEN)
    written = nbformat.read(path, as_version=4)
    written.metadata["accelerator"] = "GPU"
    closing = (
        "## 小结\n\n- 网络可以很小。",
        f"## 练习\n\n有几个偏置？\n{ANSWER * 3}",
        "## 运行环境",
    )
    title, *closing = map(nbformat.v4.new_markdown_cell, (f"# {NUMBER} 小网络(small)", *closing))
    closing[1].id = "exercises"
    written.cells = [title, *written.cells, *closing]
    return written


def run(book, *arguments):
    """Run Python in the book's folder, with the book's own tools and helper."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=book,
        env={**os.environ, "PYTHONPATH": str(book)},
        capture_output=True,
        encoding="utf-8",
    )


def steps():
    """The commands that CONTRIBUTING.md gives for a new chapter."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    section = text.split("\n## Adding a chapter\n")[1].split("\n## ")[0]
    commands = re.findall(r"^ +python (.*?)(?: +#.*)?$", section, re.MULTILINE)
    return [command.replace("NAME", NAME).split() for command in commands]


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A copy of the book with an address and a fifth chapter, by CONTRIBUTING's steps."""
    copy = tmp_path_factory.mktemp("fifth") / "book"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
    toc, last = copy / "_toc.yml", f"- file: chapters/{notebooks.names()[-1]}\n"
    text = toc.read_text("utf-8").replace(last, f"{last}- file: chapters/{NAME}\n")
    for command in (["-m", "tools.set_repository", URL], *steps()):
        if command == steps()[0]:
            nbformat.write(new_notebook(copy.parent), copy / "chapters" / f"{NAME}.ipynb")
            toc.write_text(text, "utf-8")
        step = run(copy, *command)
        assert step.returncode == 0, f"{command}\n{step.stdout}{step.stderr}"
    return copy


@pytest.mark.slow
def test_notebook_and_pages_know_it(book):
    cells = notebooks.code_cells(notebooks.read(NAME, book))
    assert cells[0].id == "install" and f"git+{URL}" in cells[0].source
    assert [c.id for c in cells if c.execution_count is None] == ["train", "after"]
    page = (book / "chapters" / "index.md").read_text("utf-8")
    assert f"| [小网络]({NAME}.ipynb) | 2015 | 一个全连接层 | 7,850 |" in page
    chart = page.split("<!-- costs:begin -->")[1].split("<!-- costs:end -->")[0]
    assert f"{root_page.NUMERALS[NUMBER]}个网络" in chart
    assert "Small net共7,850个参数" in chart  # its bar, in the alternative text
    assert f"尚未录制完整训练：[小网络]({NAME}.ipynb)" in page


@pytest.mark.slow
def test_tests_are_collected_for_it_and_only_the_training_is_missing(book):
    chapter = f"chapters/{NAME}.ipynb"
    files = [f"tests/test_{what}.py" for what in ("notebooks", "networks", "answers")]
    options = ["-n", "0", "-q", "-rA", "-p", "no:cacheprovider", "-m", "slow or not slow"]
    found = run(book, "-m", "pytest", "--nbval", *options, "-k", NAME, chapter, *files).stdout
    outcomes = re.findall(r"(?m)^([A-Z]+) (\S+::.*?)(?: - .*)?$", found)
    passed = {test for outcome, test in outcomes if outcome == "PASSED"}
    num_cells = len(notebooks.code_cells(notebooks.read(NAME, book)))
    assert len([test for test in passed if test.startswith(f"{chapter}::")]) == num_cells - 1
    for test in (
        f"notebooks.py::test_every_cell_has_run_in_order[{NAME}]",
        f"notebooks.py::test_pages_are_found_by_heading[{NAME}]",
        f"networks.py::test_one_step_moves_every_parameter[{NAME}]",
        f"answers.py::test_answer[{NAME}-exercises]",
    ):
        assert f"tests/test_{test}" in passed
    recorded = f"tests/test_notebooks.py::test_the_training_cell_holds_the_recorded_run[{NAME}]"
    assert [test for outcome, test in outcomes if outcome in ("FAILED", "ERROR")] == [recorded]
    assert f"is not recorded: run python -m tools.record {chapter}\n" in found
    assert f"1 failed, {len(passed)} passed, 1 skipped" in found, found  # the install cell


@pytest.mark.site
def test_site_has_its_page_and_its_address(book):
    """With an address the site has a Colab button and a repository button that lead somewhere."""
    jupyter_book = ["-c", "from jupyter_book.cli.main import main; main()"]
    build = run(book, *jupyter_book, "build", ".", "--all", "-W", "-n", "--keep-going")
    assert build.returncode == 0, build.stdout[-3000:] + build.stderr[-3000:]
    html = book / "_build" / "html"
    pages = {name: (html / "chapters" / f"{name}.html").read_text("utf-8")
             for name in ("index", *notebooks.names(book))}  # fmt: skip
    assert "小网络(small)" in pages[NAME] and f"图{NUMBER}-1 小网络</figcaption>" in pages[NAME]
    assert re.search(rf'href="{NAME}\.html">(<span[^>]*>)?小网络<', pages.pop("index"))
    for name, page in pages.items():
        notebook = f"blob/main/chapters/{name}.ipynb"
        for address in (
            f"https://colab.research.google.com/github/someone/cnn-book/{notebook}",
            f"https://kaggle.com/kernels/welcome?src={URL}/{notebook}",
            URL,
        ):
            assert f'href="{address}"' in page, (name, address)
    assert '"/cnn-book/"' in (html / "404.html").read_text("utf-8")
