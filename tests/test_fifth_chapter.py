"""A fifth chapter: a notebook and its line in `_toc.yml` are all it takes.

In a copy of the repository a small residual network gets one, by the steps of CONTRIBUTING.md.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tools import notebooks, root_page

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = (".git", ".venv", "venv", "_build", "__pycache__", ".*cache*", ".ipynb_checkpoints")
NAME = "residual"
DESCRIPTION = {
    "network": "ResNet（小）",
    "label": "ResNet, small",
    "year": 2015,
    "idea": "残差连接，批量归一化",
}
URL = "https://github.com/someone/cnn-book"

NUMBER = len(notebooks.names()) + 1  # five, until the book has a fifth chapter of its own

TITLE = f"""\
# {NUMBER} 残差网络(ResNet)

前面几章的网络一个比一个深。可是层数再多下去，训练误差反而会上升：不是过拟合，而是深的网络更难训练。
[残差网络](https://arxiv.org/abs/1512.03385)（residual network，ResNet）的每个块只学习怎样改动输入，
很深的网络也就训练得起来。

本章目标：

- 写出残差块，说清两条路径的形状为什么必须相同；
- 搭一个小的ResNet，数一数它的参数，在Fashion-MNIST上训练它。
"""
IMPORTS = """\
import torch
from torch import nn

import d2lmini as d2l"""
BLOCK_TEXT = """\
## 残差块

设块的输入是$x$，想要的输出是$f(x)$。普通的块直接学习$f(x)$；
**残差块**（residual block）学习两者之差$g(x)=f(x)-x$，再把$x$加回去。
什么也不用做的块，只要把$g$学成零。

下面的主路径有两个3×3卷积层（convolution），各跟着一个批量归一化（batch normalization）。另一条路径
把输入原样送到加号；通道数或高和宽改变时，用1×1卷积把输入变成同样的形状。
"""
BLOCK = """\
class Residual(nn.Module):
    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        # 批量归一化会减去均值，卷积层的偏置因此没有作用，省去
        self.path = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1,
                      bias=False),
            nn.BatchNorm2d(out_channels), nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels))
        self.shortcut = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride,
                                      bias=False)

    def forward(self, X):
        return torch.relu(self.path(X) + self.shortcut(X))"""
NET_TEXT = """\
## ResNet模型

一个卷积层之后是三个残差块，后两个把高和宽减半、通道数加倍；末尾与GoogLeNet一样，是全局平均池化层和一个全连接层。
"""
NET = """\
net = nn.Sequential(
    nn.Conv2d(1, 16, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
    Residual(16, 16),
    Residual(16, 32, stride=2),
    Residual(32, 64, stride=2),
    nn.AdaptiveAvgPool2d((1, 1)),
    nn.Flatten(),
    # 有10个类别
    nn.Linear(64, 10))"""
FIGURE = "d2l.draw(net, input_shape=(1, 1, 28, 28), caption='图5-1 一个小的ResNet')"
SHAPES = """\
X = torch.randn(1, 1, 28, 28)
for layer in net:
    X = layer(X)
    print(layer.__class__.__name__, 'output shape:\\t', X.shape)"""
PARAMS = "print(f'{sum(param.numel() for param in net.parameters()):,}个参数')"
TRAINING_TEXT = """\
## 训练模型

Fashion-MNIST的图像是28×28，不必放大。批量大小128，训练10轮（epoch）。
"""
DATA = """\
lr, num_epochs, batch_size = 0.05, 10, 128
train_iter, test_iter = d2l.load_data_fashion_mnist(batch_size)"""
TRAIN = """\
history = d2l.train_ch6(net, train_iter, test_iter, num_epochs, lr, d2l.try_gpu(),
                        caption='图5-2 ResNet的训练曲线')"""
SUMMARY = """\
## 小结

- 残差块学习输出与输入之差，再把输入加回去；两条路径的形状必须相同。
- 通道数或高和宽改变时，由1×1卷积让输入的形状跟上。
"""
EXERCISES = """\
## 练习

**练习1** 第二个残差块里，1×1卷积有多少个参数？

<details>

<summary>参考答案</summary>

16个输入通道，32个输出通道，每对通道一个权重，没有偏置。

```python
print(sum(param.numel() for param in net[4].shortcut.parameters()))
```

```text
512
```

</details>

**练习2** 主路径的输出恒为零时，残差块算出什么？

<details>

<summary>参考答案</summary>

输入不是负数，所以相加之后的ReLU不改变它，块就是恒等映射。

```python
block = Residual(16, 16)
nn.init.zeros_(block.path[-1].weight)
X = torch.rand(2, 16, 7, 7)
print('输出等于输入：', torch.equal(block(X), X))
```

```text
输出等于输入： True
```

</details>

**练习3** 为什么不在加号之前再用一次ReLU？

<details>

<summary>参考答案</summary>

那样主路径的输出不会是负数，块就只能增大特征，不能减小。

</details>
"""
CELLS = [  # id, tags of a code cell or None for Markdown, source
    ("title", None, TITLE),
    ("imports", [], IMPORTS),
    ("block-text", None, BLOCK_TEXT),
    ("block", ["net"], BLOCK),
    ("net-text", None, NET_TEXT),
    ("net", ["net"], NET),
    ("figure-text", None, "图5-1由上面的模块画出，每个残差块有两条路径。"),
    ("figure-5-1", [], FIGURE),
    ("shapes-text", None, "送一个样本进去，逐层看输出的形状。"),
    ("shapes", [], SHAPES),
    ("params", [], PARAMS),
    ("training-text", None, TRAINING_TEXT),
    ("data", ["setup", "parameters"], DATA),
    ("train-text", None, "图5-2是训练过程。"),
    ("train", ["training", "nbval-ignore-output"], TRAIN),
    ("filters-text", None, "最后看第一层的16个卷积核。"),
    (
        "filters",
        ["trained", "nbval-ignore-output"],
        "d2l.show_filters(net, caption='ResNet第一层的卷积核')",
    ),
    ("summary", None, SUMMARY),
    ("exercises", None, EXERCISES),
    ("environment-text", None, "## 运行环境"),
    ("environment", ["nbval-ignore-output"], "d2l.environment()"),
]


def new_notebook():
    """The fifth chapter as its author saves it: nothing has run."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"accelerator": "GPU", "chapter": DESCRIPTION, "kernelspec": kernel}
    written = nbformat.v4.new_notebook(metadata=metadata)
    for cell_id, tags, source in CELLS:
        if tags is None:
            cell = nbformat.v4.new_markdown_cell(source)
        else:
            cell = nbformat.v4.new_code_cell(source, metadata={"tags": tags} if tags else {})
        cell["id"] = cell_id
        written.cells.append(cell)
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
    """A copy of the book, with a fifth chapter by CONTRIBUTING's steps."""
    copy = tmp_path_factory.mktemp("fifth") / "book"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
    run(copy, "-m", "tools.set_repository", "--unset")  # this checkout may have an address
    nbformat.write(new_notebook(), copy / "chapters" / f"{NAME}.ipynb")
    toc, last = copy / "_toc.yml", f"- file: chapters/{notebooks.names()[-1]}\n"
    text = toc.read_text("utf-8").replace(last, f"{last}- file: chapters/{NAME}\n")
    toc.write_text(text, "utf-8")
    before = run(copy, "-m", "tools.root_page", "--check")
    assert "stale, run python -m tools.root_page" in before.stderr, before
    for command in steps():
        step = run(copy, *command)
        assert step.returncode == 0, f"{command}\n{step.stdout}{step.stderr}"
    return copy


def test_steps_are_found():
    assert [command[:2] for command in steps()] == [
        ["-m", "tools.set_repository"],
        ["-m", "tools.record"],
        ["-m", "tools.root_page"],
    ]


@pytest.mark.slow
def test_all_but_the_training_is_recorded(book):
    found = nbformat.read(book / "chapters" / f"{NAME}.ipynb", as_version=4)
    cells = {cell.id: cell for cell in found.cells if cell.cell_type == "code"}
    assert next(iter(cells)) == "install" and "pip install -e ." in cells["install"].source
    not_run = [cell.id for cell in cells.values() if cell.execution_count is None]
    assert not_run == ["train", "filters"]
    assert cells["params"].outputs[0].text == "77,562个参数\n"


@pytest.mark.slow
def test_root_page_and_records_tell_of_it(book):
    check = run(book, "-m", "tools.root_page", "--check")
    assert check.returncode == 0, check.stderr
    page = (book / "chapters" / "index.md").read_text("utf-8")
    row = f"| [ResNet（小）]({NAME}.ipynb) | 2015 | 残差连接，批量归一化 | 77,562 |"
    assert row in page and "| 1×28×28 | 尚未录制 | 尚未录制 |" in page
    chart = page.split("<!-- costs:begin -->")[1].split("<!-- costs:end -->")[0]
    assert f"{root_page.NUMERALS[NUMBER]}个网络的参数和计算量" in chart
    assert "ResNet, small共77,562个参数" in chart  # its bar, in the alternative text
    assert f"尚未录制完整训练：[ResNet（小）]({NAME}.ipynb)。" in page
    records = (book / "CONTRIBUTING.md").read_text("utf-8")
    assert f"Not recorded yet: the full training of `{NAME}`." in records


@pytest.mark.slow
def test_tests_are_collected_for_it_and_only_the_training_is_missing(book):
    chapter = f"chapters/{NAME}.ipynb"
    files = [f"tests/test_{what}.py" for what in ("notebooks", "networks", "answers")]
    options = [
        "-n",
        "0",
        "-q",
        "-rA",
        "-p",
        "no:cacheprovider",
        "-k",
        NAME,
        "-m",
        "slow or not slow",
    ]
    result = run(book, "-m", "pytest", "--nbval", *options, chapter, *files)
    outcomes = {"PASSED": [], "FAILED": [], "ERROR": []}
    for outcome, test in re.findall(r"(?m)^([A-Z]+) (\S+::.*?)(?: - .*)?$", result.stdout):
        outcomes[outcome].append(test)
    recorded = f"tests/test_notebooks.py::test_the_training_cell_holds_the_recorded_run[{NAME}]"
    assert outcomes["FAILED"] == [recorded], result.stdout
    sentence = f"the training of this code is not recorded: run python -m tools.record {chapter}"
    assert re.search(rf"(?m)^E +AssertionError: {re.escape(sentence)}$", result.stdout)
    assert not outcomes["ERROR"]
    num_cells = sum(tags is not None for _, tags, _ in CELLS)
    compared = [test for test in outcomes["PASSED"] if test.startswith(f"{chapter}::")]
    assert len(compared) == num_cells
    for test in (
        f"notebooks.py::test_every_cell_has_run_in_order[{NAME}]",
        f"notebooks.py::test_sections_in_order[{NAME}]",
        f"notebooks.py::test_recorded_shapes_are_those_of_the_modules[{NAME}]",
        f"networks.py::test_one_step_moves_every_parameter[{NAME}]",
        f"answers.py::test_answer[{NAME}-exercises]",
    ):
        assert f"tests/test_{test}" in outcomes["PASSED"]
    total = f"1 failed, {len(outcomes['PASSED'])} passed, 1 skipped"  # the install cell
    assert total in result.stdout, result.stdout


@pytest.mark.slow
def test_benchmark_knows_it(book):
    code = f"from benchmarks.against_d2l import SETTINGS; print(SETTINGS[{NAME!r}])"
    result = run(book, "-c", code)
    assert result.stdout == "(28, 0.05)\n", result.stderr


@pytest.mark.slow
def test_the_books_address_reaches_it(book):
    chapter = book / "chapters" / f"{NAME}.ipynb"
    before = chapter.read_bytes()
    for arguments, changed in (([URL], True), ([], False)):  # without one, the address stays
        result = run(book, "-m", "tools.set_repository", *arguments)
        assert (f"chapters/{NAME}.ipynb" in result.stdout) == changed, result.stderr
        assert f"%pip install -q git+{URL}" in chapter.read_text("utf-8")
    run(book, "-m", "tools.set_repository", "--unset")
    assert chapter.read_bytes() == before


@pytest.mark.site
def test_site_has_its_page(book):
    jupyter_book = ["-c", "from jupyter_book.cli.main import main; main()"]
    build = run(book, *jupyter_book, "build", ".", "--all", "-W", "-n", "--keep-going")
    assert build.returncode == 0, build.stdout[-3000:] + build.stderr[-3000:]
    page = (book / "_build/html/chapters" / f"{NAME}.html").read_text("utf-8")
    assert "残差网络(ResNet)" in page and "图5-1 一个小的ResNet</figcaption>" in page
    root = (book / "_build/html/chapters/index.html").read_text("utf-8")
    assert re.search(rf'href="{NAME}\.html">(<span[^>]*>)?ResNet（小）<', root)
