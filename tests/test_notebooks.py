"""The notebooks as files: form, outputs, records, text, and nbval's guard on them."""

import collections
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
import torch
from markdown_it import MarkdownIt

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
BOLD_LINE = re.compile(r"(?:\A|\n\n)\*\*[^*]+\*\*\s*(?:\n\n|\Z)")

chapters = pytest.mark.parametrize("name", notebooks.names())


def markdown(name):
    return [cell for cell in notebooks.read(name).cells if cell.cell_type == "markdown"]


def code(name):
    return notebooks.code_cells(notebooks.read(name))


def texts(cell):
    """Every text in a code cell's outputs."""
    for output in cell.outputs:
        yield from map(str, output.get("data", {"": output.get("text", "")}).values())


# The files ---------------------------------------------------------------------------------------


@chapters
def test_file_is_what_colab_and_jupyter_expect(name):
    notebook, file = notebooks.read(name), f"chapters/{name}.ipynb"
    nbformat.validate(notebook)
    gpu = notebook.metadata.get("accelerator")
    assert gpu == "GPU", f'{file}: put "accelerator": "GPU" into its metadata, for Colab'
    (_, most), *_ = collections.Counter(cell.id for cell in notebook.cells).most_common()
    assert most == 1, f"{file}: two cells have one id"


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
    now, recorded = code_hash.training_code(notebook, name), record.get("code", {})
    anew = f"run python -m tools.record chapters/{name}.ipynb"
    assert recorded.get("training") == now["training"], (
        f"the training of this code is not recorded: {anew}"
    )
    assert recorded["trained"] == now["trained"], "run python -m tools.record --from-weights"
    stored = files.read_json(ROOT / "recordings" / f"{name}.json")
    assert stored["record"] == record, "recordings/ and the notebook tell of two runs"
    for history in stored["histories"]:
        assert (len(history["test_acc"]), history["num_samples"]) == (10, 60000)
    (training,) = notebooks.code_cells(notebook, "training")
    printed = "".join(texts(training))
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
    precision = notebook.metadata["d2lmini"]["precision"]
    (training,) = notebooks.code_cells(notebook, "training")
    position = notebook.cells.index(training)
    text = notebook.cells[position - 1].source + notebook.cells[position + 1].source
    for other in ("bf16", "fp16"):
        assert (f"precision='{other}'" in text) == (precision == other), (
            f"chapters/{name}.ipynb was recorded with precision={precision!r}: the text before or "
            "after its training cell has to say so, and name no other"
        )


def test_nin_tells_how_its_starts_were_measured():
    """recordings/nin-starts.json, written by benchmarks/nin_starts.py, in the chapter's words."""
    runs = files.read_json(ROOT / "recordings" / "nin-starts.json")["runs"]
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
def test_outputs_are_clean_and_any_viewer_can_show_them(name):
    """JupyterLab, VS Code and GitHub each render these kinds of output, without extensions."""
    assert notebooks.path(name).stat().st_size < 1_000_000  # GitHub gives up on large ones
    for cell in code(name):
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", cell.id
            assert set(output.get("data", ())) <= {"text/html", "text/plain"}, cell.id
        for text in texts(cell):
            assert not re.search(r"<script|<iframe|\son\w+=|javascript:", text), cell.id
            assert not PRIVATE.search(text), f"cell {cell.id} shows a path: record it anew"
        assert not PRIVATE.search(cell.source), f"cell {cell.id} names a path of one machine"


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
        prose = re.sub("(?s)```.*?```", "", cell.source)
        assert not MYST_ONLY.search(prose), cell.id
        assert "![" not in prose and "<img" not in prose, cell.id
        assert not re.search(r"\n#{1,6} ", prose), (  # the site finds a heading by its cell's id
            f"chapters/{name}.ipynb, cell {cell.id}: split it, so that each heading starts a cell"
        )
        # CommonMark does not close ** between punctuation and a Chinese character.
        for token in MarkdownIt("commonmark").parse(cell.source):
            for child in token.children or ():
                assert child.type != "text" or "**" not in child.content, (cell.id, child.content)


@pytest.mark.parametrize("page", notebooks.pages(), ids=lambda page: page.stem)
def test_pages_are_found_by_heading(page):
    """A bold line instead of one is in no table of contents, and no screen reader tells of it."""
    unfolded = re.sub("(?s)<details>.*?</details>", "", notebooks.prose(page))
    found = BOLD_LINE.search(unfolded)
    assert not found, f"{page}: make it a heading: {found[0].strip()}"


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
    for cell in cells:
        tags = notebooks.tags(cell)
        assert ("nbval-skip" in tags) == (cell.id == "install"), cell.id
        assert "nbval-ignore-output" in tags or not tags & TRAINING, cell.id
        assert "nbval-ignore-output" not in tags or "d2l.draw(" not in cell.source, cell.id
    compared = [cell for cell in cells if "nbval-ignore-output" not in notebooks.tags(cell)]
    assert any("output shape" in text for cell in compared for text in texts(cell)), (
        f"chapters/{name}.ipynb: print the output shape of each layer, in a cell that is compared"
    )
    # What papermill is given goes into a cell after the one tagged `parameters`.
    (cell,) = (cell for cell in cells if "parameters" in notebooks.tags(cell))
    assert "num_epochs" in cell.source.split("=")[0] and "train_ch6" not in cell.source


@pytest.mark.slow
def test_nbval_notices_a_changed_digit_whatever_kernel_the_notebook_names(tmp_path):
    """The promise of the whole book: a recorded shape that no longer holds fails the run.

    VS Code and conda save a notebook under a kernel's name of their own.
    """
    notebook = notebooks.read("nin")
    shapes = next(cell for cell in code("nin") if "output shape" in "".join(texts(cell)))
    shapes.outputs[0].text = shapes.outputs[0].text.replace("54", "55", 1)
    where = nbformat.v4.new_code_cell("import sys\nprint(sys.executable)", execution_count=1)
    where.outputs = [nbformat.v4.new_output("stream", text=f"{sys.executable}\n")]
    notebook.cells = [*notebooks.network_cells(notebook), shapes, where]
    kernel = {"name": "conda-env-book-py", "display_name": "Python (book)", "language": "python"}
    notebook.metadata["kernelspec"] = kernel
    nbformat.write(notebook, tmp_path / "wrong.ipynb")
    shutil.copy(ROOT / "conftest.py", tmp_path)
    command = [sys.executable, "-m", "pytest", "--nbval", "-q", "-rf", "-p", "no:cacheprovider"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"1 failed, {len(notebook.cells) - 1} passed" in run.stdout, run.stdout
