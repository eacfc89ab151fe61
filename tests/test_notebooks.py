"""The notebooks as files: form, outputs, records, text, and nbval's guard on them."""

import itertools
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from unittest import mock

import nbformat
import pytest
import torch
from markdown_it import MarkdownIt
from nbconvert import HTMLExporter

import conftest
from benchmarks import nin_starts
from tools import code_hash, files, notebooks

ROOT = notebooks.ROOT
TRAINING = {"training", "trained"}
HEADINGS = {  # of the chapters that follow the source
    "alexnet": "# 1 深度卷积神经网络(AlexNet)|## AlexNet|### 模型设计|### 激活函数"
    "|### 容量控制和预处理|## 读取数据集|## 训练AlexNet",
    "vgg": "# 2 使用块的网络(VGG)|## VGG块|## VGG网络|## 训练模型",
    "nin": "# 3 网络中的网络(NiN)|## NiN块|## NiN模型|## 训练模型",
    "googlenet": "# 4 含并行连结的网络(GoogLeNet)|## Inception块|## GoogLeNet模型|## 训练模型",
}
PRIVATE = re.compile(r"/(work|home|root|tmp|Users)/|\b[A-Z]:[\\/]")
MYST_ONLY = re.compile(r"^\s*(```\{|:::|\{[a-z:]+\}`|\([\w-]+\)=\s*$)|\{[a-z:]+\}`", re.MULTILINE)

chapters = pytest.mark.parametrize("name", notebooks.names())


def markdown(name):
    return [cell for cell in notebooks.read(name).cells if cell.cell_type == "markdown"]


def code(name):
    return notebooks.code_cells(notebooks.read(name))


def texts(cell):
    """Every text in a code cell's outputs."""
    for output in cell.outputs:
        yield from (
            [output.text] if "text" in output else map(str, output.get("data", {}).values())
        )


def without(pattern, text):
    return re.sub(pattern, "", text, flags=re.DOTALL)


CODE, FOLDED = r"```.*?```", r"<details>.*?</details>"

# The files ---------------------------------------------------------------------------------------


@chapters
def test_file_is_what_colab_and_jupyter_expect(name):
    notebook = notebooks.read(name)
    nbformat.validate(notebook)
    file = f"chapters/{name}.ipynb"
    version = (notebook.nbformat, notebook.nbformat_minor)
    assert version == (4, 5), f"{file} has format {version}: save it in JupyterLab, or as 4.5"
    gpu = notebook.metadata.get("accelerator")
    assert gpu == "GPU", f'{file}: put "accelerator": "GPU" into its metadata, for Colab'
    assert "widgets" not in notebook.metadata, f"{file}: take widgets out of its metadata"
    ids = [cell.id for cell in notebook.cells]
    twice = sorted({cell_id for cell_id in ids if ids.count(cell_id) > 1})
    assert not twice, f"{file}: two cells have the id {', '.join(twice)}; give one another"


def test_every_notebook_is_a_chapter():
    """One that `_toc.yml` leaves out would be in no table, no test and not on the site."""
    found = {path.relative_to(ROOT) for path in ROOT.glob("chapters/*.ipynb")}
    assert found == {page for page in notebooks.pages() if page.suffix == ".ipynb"}


# Outputs and records -----------------------------------------------------------------------------


@chapters
def test_every_cell_has_run_in_order(name):
    """Without counts nbval compares nothing and passes.

    Only training that is not recorded yet has none, and what needs the trained network.
    """
    recorded = "d2lmini" in notebooks.read(name).metadata
    counts = [cell.execution_count for cell in code(name) if cell.execution_count is not None]
    record = f"run python -m tools.record --skip-training chapters/{name}.ipynb"
    assert counts == list(range(1, len(counts) + 1)), record
    for cell in code(name):
        may_wait = notebooks.tags(cell) & TRAINING and not recorded
        assert cell.execution_count is not None or may_wait, f"cell {cell.id}: {record}"


@chapters
def test_the_training_cell_holds_the_recorded_run(name):
    notebook = notebooks.read(name)
    record = notebook.metadata.get("d2lmini", {})
    code_now = code_hash.training_code(notebook, name)
    assert record.get("code", {}).get("training") == code_now["training"], (
        f"the training of this code is not recorded: run python -m tools.record "
        f"chapters/{name}.ipynb"
    )
    assert record["code"]["trained"] == code_now["trained"], (
        "run python -m tools.record --from-weights"
    )
    stored = files.read_json(ROOT / "recordings" / f"{name}.json")
    assert stored["record"] == record, "recordings/ and the notebook tell of two runs"
    assert all(len(history["test_acc"]) == 10 for history in stored["histories"])
    assert all(history["num_samples"] == 60000 for history in stored["histories"])
    (training,) = notebooks.code_cells(notebook, "training")
    printed = "".join(texts(training))
    assert re.search(r"^training on \w+", printed, re.MULTILINE)
    result = f"loss {record['train_loss']:.3f}, train acc {record['train_acc']:.3f}, "
    assert f"{result}test acc {record['test_acc']:.3f}" in printed
    assert printed.count("</figure>") == 1


@chapters
def test_text_tells_of_a_precision_that_the_training_cell_does_not_show(name):
    """tools/record.py hands it to the trainer; a reader who runs the cell gets the default.

    The text right before or after the cell says so, and says so only then.
    """
    notebook = notebooks.read(name)
    if "d2lmini" not in notebook.metadata:
        return  # not recorded yet
    (training,) = notebooks.code_cells(notebook, "training")
    position = notebook.cells.index(training)
    around = (notebook.cells[position - 1], notebook.cells[position + 1])
    text = "".join(cell.source for cell in around if cell.cell_type == "markdown")
    precision = notebook.metadata["d2lmini"]["precision"]
    for other in ("bf16", "fp16"):
        assert (f"precision='{other}'" in text) == (precision == other), (
            f"chapters/{name}.ipynb was recorded with precision={precision!r}: the text before or "
            "after its training cell has to say so, and name no other"
        )


def test_nin_tells_how_its_starts_were_measured():
    """recordings/nin-starts.json, written by benchmarks/nin_starts.py, in the chapter's words."""
    measured = files.read_json(ROOT / "recordings" / "nin-starts.json")
    runs = measured["runs"]
    assert measured["epochs"] == 2
    assert [run["seed"] for run in runs] == list(range(len(runs)))
    first, later, died, neither = nin_starts.outcomes(runs)
    starts = [run["started"] for run in runs if run["died"] is None and run["started"] is not None]
    (text,) = (cell.source for cell in markdown("nin") if cell.id == "first-epoch-text")
    for told in (
        f"{len(runs)}个随机种子",
        f"{first}个在第一轮",
        f"{later}个在第二轮",
        f"{neither}个两轮" if neither else "",
        f"{died}个死了" if died else "没有一个死掉",
        f"低于{nin_starts.STARTED}”",
        f"最早在第{min(starts):.1f}轮，最晚在第{max(starts):.1f}轮",
    ):
        assert told in text, f"chapters/nin.ipynb, cell first-epoch-text has to say: {told}"


@chapters
def test_outputs_are_clean(name):
    for cell in code(name):
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            assert output.get("name") != "stderr", cell.id
        for text in texts(cell):
            assert not PRIVATE.search(text), f"cell {cell.id} shows a path: record it anew"
            assert "application/vnd.jupyter.widget" not in text
        assert not PRIVATE.search(cell.source), f"cell {cell.id} names a path of one machine"


@pytest.mark.slow
@chapters
def test_any_viewer_can_show_it(name):
    """JupyterLab, VS Code and GitHub each render these two kinds of output, without extensions."""
    for cell in code(name):
        for output in cell.outputs:
            if "data" in output:
                assert set(output.data) <= {"text/html", "text/plain"}, cell.id
                assert output.data["text/plain"], cell.id
        for text in texts(cell):
            assert not re.search(r"<script|<iframe|\son\w+=|javascript:", text), cell.id
    # GitHub shows what nbconvert makes of the file, and gives up on large ones.
    body, _ = HTMLExporter().from_filename(str(notebooks.path(name)))
    num_captions = notebooks.path(name).read_text("utf-8").count("</figcaption>")
    assert num_captions and body.count("</figcaption>") == num_captions
    assert notebooks.path(name).stat().st_size < 1_000_000


@pytest.mark.slow
@chapters
def test_cells_can_be_run_again_from_last_to_first(name):
    """All but the training: a reader changes a cell and runs it again, wherever it stands."""
    cells = [cell for cell in code(name) if cell.id != "install"]
    again = [cell for cell in reversed(cells) if "training" not in notebooks.tags(cell)]
    namespace = {"__name__": "__main__"}
    with torch.random.fork_rng():
        for cell in [*cells, *again]:
            exec(compile(cell.source, f"{name}, cell {cell.id}", "exec"), namespace)


# Text --------------------------------------------------------------------------------------------


@chapters
def test_text_is_plain_commonmark(name):
    for cell in markdown(name):
        prose = without(CODE, cell.source)
        assert not MYST_ONLY.search(prose), cell.id
        assert "![" not in prose and "<img" not in prose, cell.id
        assert not re.search(r"\n#{1,6} ", prose), (  # the site finds a heading by its cell's id
            f"chapters/{name}.ipynb, cell {cell.id}: split it, so that each heading starts a cell"
        )
        # CommonMark does not close ** between punctuation and a Chinese character.
        for token in MarkdownIt("commonmark").parse(cell.source):
            for child in token.children or ():
                assert child.type != "text" or "**" not in child.content, (cell.id, child.content)


@chapters
def test_sections_in_order(name):
    found = [
        line for cell in markdown(name) for line in cell.source.splitlines()
        if re.match(r"#{1,6} ", line)
    ]  # fmt: skip
    given = HEADINGS[name].split("|") if name in HEADINGS else found[:1]
    closing = ["## 小结", "## 练习", "## 运行环境"]
    told = f"HEADINGS in tests/test_notebooks.py against chapters/{name}.ipynb"
    assert [heading for heading in found if heading in given + closing] == given + closing, told
    assert [heading for heading in found if heading.startswith("## ")][-3:] == closing
    assert found[0].startswith(f"# {notebooks.names().index(name) + 1} ")
    levels = [len(line.split()[0]) for line in found]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


@pytest.mark.parametrize("page", notebooks.pages(), ids=lambda page: page.stem)
def test_pages_are_found_by_heading(page):
    """A bold line instead of one is in no table of contents, and no screen reader tells of it.

    Whether a heading that is linked is there is for the build to say. Links from the appendix on
    errors in the source lead to headings always, links to it wherever a section is meant.
    """
    text = without(FOLDED, notebooks.prose(page))
    for token in MarkdownIt("commonmark").parse(text):
        if token.type == "inline" and token.level == 1:  # in a paragraph, not in a list
            children = [
                c for c in token.children if c.content or c.type not in ("text", "softbreak")
            ]
            kinds = [child.type for child in children]
            bold = kinds[:1] == ["strong_open"] and kinds.index("strong_close")
            assert not bold or bold + 1 < len(kinds), token.content
    for link in re.finditer(r"\[[^]\n]*\]\((\w+\.(?:ipynb|md))\)", text):
        before = text[max(link.start() - 20, 0) : link.start()]
        assert page.stem != "errata" and (link[1] != "errata.md" or "列在" in before), link[0]


@chapters
def test_exercises_have_folded_answers(name):
    text = "\n".join(cell.source for cell in markdown(name))
    assert text.count("<details>") == text.count("</details>")
    exercises = text.split("\n## 练习")[1]
    assert exercises.count("<summary>参考答案</summary>") == exercises.count("<details>") >= 3


# nbval and papermill -----------------------------------------------------------------------------


@chapters
def test_tags(name):
    """Only the install cell is skipped; training and what follows from it is not compared."""
    cells = code(name)
    assert cells[0].id == "install" and "remove-cell" in notebooks.tags(cells[0])
    for cell in cells:
        tags = notebooks.tags(cell)
        assert ("nbval-skip" in tags) == (cell.id == "install"), cell.id
        if tags & TRAINING:
            assert "nbval-ignore-output" in tags, cell.id
        if "d2l.draw(" in cell.source:
            assert "nbval-ignore-output" not in tags, cell.id
    compared = [cell for cell in cells if "nbval-ignore-output" not in notebooks.tags(cell)]
    assert any("output shape" in text for cell in compared for text in texts(cell)), (
        f"chapters/{name}.ipynb: print the output shape of each layer, in a cell that is compared"
    )
    # What papermill is given goes into a cell after the one tagged `parameters`.
    (cell,) = (cell for cell in cells if "parameters" in notebooks.tags(cell))
    assert "num_epochs" in cell.source.split("=")[0] and "train_ch6" not in cell.source


def test_cells_run_in_the_environment_of_pytest(pytestconfig):
    """And not in whatever kernel is called python3 on this machine."""
    assert pytestconfig.option.nbval_current_env


@pytest.mark.slow
def test_nbval_notices_a_changed_digit_whatever_kernel_the_notebook_names(tmp_path):
    """The promise of the whole book: a recorded shape that no longer holds fails the run.

    VS Code and conda save a notebook under a kernel's name of their own.
    """
    notebook = notebooks.read("nin")
    shapes = next(cell for cell in code("nin") if "output shape" in "".join(texts(cell)))
    notebook.cells = [cell for cell in notebook.cells if cell.id == shapes.id]
    notebook.cells[:0] = notebooks.network_cells(notebooks.read("nin"))
    notebook.cells[-1].outputs[0].text = shapes.outputs[0].text.replace("54", "55", 1)
    where = nbformat.v4.new_code_cell("import sys\nprint(sys.executable)", execution_count=1)
    where.outputs = [nbformat.v4.new_output("stream", text=f"{sys.executable}\n")]
    notebook.cells.append(where)
    kernel = {"name": "conda-env-book-py", "display_name": "Python (book)", "language": "python"}
    notebook.metadata["kernelspec"] = kernel
    nbformat.write(notebook, tmp_path / "wrong.ipynb")
    shutil.copy(ROOT / "conftest.py", tmp_path)
    command = [sys.executable, "-m", "pytest", "--nbval", "-q", "-rf", "-p", "no:cacheprovider"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"1 failed, {len(notebook.cells) - 1} passed" in run.stdout, run.stdout


@pytest.mark.parametrize("failures", [0, 2, 3])
def test_a_kernel_that_dies_at_once_is_started_again(failures):
    """Two test processes look for free ports at the same time."""
    start = mock.Mock(side_effect=[RuntimeError("Kernel died")] * failures + ["kernel"])
    refused = pytest.raises(RuntimeError, match="died") if failures == 3 else nullcontext()
    with refused:
        assert conftest.tried_again(start)("python3") == "kernel"
    assert start.call_count == min(failures + 1, 3)
