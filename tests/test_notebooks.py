"""The notebooks as files: hygiene, the recorded shapes to the letter, and nbval's guard on them."""

import itertools
import json
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
import torch
from nbconvert import HTMLExporter

import conftest
from benchmarks import nin_starts
from tests.test_networks import NETWORKS, build, layer_shapes
from tools import code_hash, notebooks

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


def markdown(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell):
    """Every text in a code cell's outputs."""
    for output in cell.outputs:
        yield from (
            [output.text] if "text" in output else map(str, output.get("data", {}).values())
        )


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


def test_cells_run_in_the_environment_of_pytest(pytestconfig):
    """And not in whatever kernel is called python3 on this machine."""
    assert pytestconfig.option.nbval_current_env


def test_every_notebook_is_a_chapter():
    """One that `_toc.yml` leaves out would be in no table, no test and not on the site."""
    files = {path.relative_to(ROOT) for path in ROOT.glob("chapters/*.ipynb")}
    assert files == {page for page in notebooks.pages() if page.suffix == ".ipynb"}


@chapters
def test_every_cell_has_run_in_order(name):
    """Without counts nbval compares nothing and passes.

    Only training that is not recorded yet has none, and what needs the trained network.
    """
    notebook = notebooks.read(name)
    ran = [cell for cell in code(notebook) if cell.execution_count is not None]
    record = f"run python -m tools.record --skip-training chapters/{name}.ipynb"
    assert [cell.execution_count for cell in ran] == list(range(1, len(ran) + 1)), record
    for cell in code(notebook):
        if cell.execution_count is None:
            assert notebooks.tags(cell) & TRAINING and "d2lmini" not in notebook.metadata, (
                f"cell {cell.id}: {record}"
            )


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
    (training,) = (cell for cell in code(notebook) if "training" in notebooks.tags(cell))
    stored = json.loads((ROOT / "recordings" / f"{name}.json").read_text("utf-8"))
    assert stored["record"] == record, "recordings/ and the notebook tell of two runs"
    assert all(len(history["test_acc"]) == 10 for history in stored["histories"])
    assert all(history["num_samples"] == 60000 for history in stored["histories"])
    printed = "".join(texts(training))
    assert re.search(r"^training on \w+", printed, re.MULTILINE)
    result = f"loss {record['train_loss']:.3f}, train acc {record['train_acc']:.3f}, "
    assert f"{result}test acc {record['test_acc']:.3f}" in printed
    assert sum("image" in str(o.get("data", "")) or "<figure" in str(o.get("data", ""))
               for o in training.outputs) == 1  # fmt: skip


@chapters
def test_papermill_can_set_the_number_of_epochs(name):
    """What it is given goes into a cell after the one tagged `parameters`."""
    (cell,) = notebooks.code_cells(notebooks.read(name), "parameters")
    assert "num_epochs" in cell.source.split("=")[0] and "train_ch6" not in cell.source


@chapters
def test_text_tells_of_a_precision_that_the_training_cell_does_not_show(name):
    """tools/record.py hands it to the trainer; a reader who runs the cell gets the default.

    The text right before or after the cell says so, and says so only then.
    """
    notebook = notebooks.read(name)
    if "d2lmini" not in notebook.metadata:
        return  # not recorded yet
    cells = notebook.cells
    (training,) = (i for i, cell in enumerate(cells) if "training" in notebooks.tags(cell))
    around = (cells[training - 1], cells[training + 1])
    text = "".join(cell.source for cell in around if cell.cell_type == "markdown")
    precision = notebook.metadata["d2lmini"]["precision"]
    for other in ("bf16", "fp16"):
        assert (f"precision='{other}'" in text) == (precision == other), (
            f"chapters/{name}.ipynb was recorded with precision={precision!r}: the text before or "
            "after its training cell has to say so, and name no other"
        )


def test_nin_tells_how_its_starts_were_measured():
    """recordings/nin-starts.json, written by benchmarks/nin_starts.py, in the chapter's words."""
    measured = json.loads((ROOT / "recordings" / "nin-starts.json").read_text("utf-8"))
    runs = measured["runs"]
    assert measured["epochs"] == 2
    assert [run["seed"] for run in runs] == list(range(len(runs)))
    first, later, died, neither = nin_starts.outcomes(runs)
    outcomes = [f"{first}个在第一轮起步", f"{later}个在第二轮起步"]
    if neither:
        outcomes.append(f"{neither}个两轮都没有起步")
    outcomes.append(f"{died}个死了" if died else "没有一个死掉")
    starts = [run["started"] for run in runs if run["died"] is None and run["started"] is not None]
    told = (
        f"用{len(runs)}个随机种子各训练了一次，到起步的那一轮结束为止，最多两轮："
        + "，".join(outcomes)
        + f"。把一轮分成五段，以“一段之内的平均损失第一次低于{nin_starts.STARTED}”算起步，最早在"
        f"第{min(starts):.1f}轮，最晚在第{max(starts):.1f}轮；本章录制的这一次更晚"
    )
    (text,) = (
        cell.source for cell in markdown(notebooks.read("nin")) if cell.id == "first-epoch-text"
    )
    assert told in text, f"chapters/nin.ipynb, cell first-epoch-text has to say: {told}"


@pytest.mark.slow
@chapters
def test_cells_can_be_run_again_from_last_to_first(name):
    """All but the training: a reader changes a cell and runs it again, wherever it stands."""
    cells = [cell for cell in code(notebooks.read(name)) if cell.id != "install"]
    again = [cell for cell in reversed(cells) if "training" not in notebooks.tags(cell)]
    namespace = {"__name__": "__main__"}
    with torch.random.fork_rng():
        for cell in [*cells, *again]:
            exec(compile(cell.source, f"{name}, cell {cell.id}", "exec"), namespace)


@chapters
def test_outputs_are_clean(name):
    for cell in code(notebooks.read(name)):
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
    for cell in code(notebooks.read(name)):
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


@chapters
def test_nbval_tags(name):
    """Only the install cell is skipped; training and what follows from it is not compared."""
    for cell in code(notebooks.read(name)):
        tags = notebooks.tags(cell)
        assert ("nbval-skip" in tags) == (cell.id == "install"), cell.id
        if tags & TRAINING:
            assert "nbval-ignore-output" in tags, cell.id
        if "d2l.draw(" in cell.source:
            assert "nbval-ignore-output" not in tags, cell.id
    first = code(notebooks.read(name))[0]
    assert first.id == "install" and "remove-cell" in notebooks.tags(first)


@chapters
def test_text_is_plain_commonmark(name):
    for cell in markdown(notebooks.read(name)):
        prose = re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL)
        assert not MYST_ONLY.search(prose), cell.id
        assert "![" not in prose and "<img" not in prose, cell.id
        assert prose.count("<details>") == prose.count("</details>"), cell.id


@chapters
def test_emphasis_renders(name):
    """CommonMark does not close ** between punctuation and a Chinese character."""
    from markdown_it import MarkdownIt

    for cell in markdown(notebooks.read(name)):
        for token in MarkdownIt("commonmark").parse(cell.source):
            for child in token.children or ():
                assert not (child.type == "text" and "**" in child.content), (
                    cell.id,
                    child.content,
                )


@chapters
def test_sections_in_order(name):
    found = [
        line for cell in markdown(notebooks.read(name)) for line in cell.source.splitlines()
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


def without_answers(text):
    return re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)


@chapters
def test_headings_start_a_cell(name):
    """Such a heading is found on the site under the cell's id, whatever its words are."""
    for cell in markdown(notebooks.read(name)):
        text = re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL)
        assert not re.search(r"\n#{1,6} ", text), (
            f"chapters/{name}.ipynb, cell {cell.id}: split it, so that each heading starts a cell"
        )


def pages_as_text():
    """Every page of the book with its Markdown, folded answers left out."""
    for page in notebooks.pages():
        yield page, without_answers(notebooks.prose(page))


def test_no_bold_line_takes_the_place_of_a_heading():
    """It would be in no table of contents, found by no link, and no screen reader would tell."""
    from markdown_it import MarkdownIt

    for page, text in pages_as_text():
        for token in MarkdownIt("commonmark").parse(text):
            if token.type == "inline" and token.level == 1:  # in a paragraph, not in a list
                kinds = [child.type for child in token.children if child.type != "softbreak"]
                bold = kinds[:1] == ["strong_open"] and kinds.index("strong_close")
                assert not bold or bold + 1 < len(kinds), (page, token.content)


def test_links_between_pages_lead_to_headings():
    """Whether the heading is there is for the build to say, which names every link that fails.

    From the appendix always; to it wherever one of its sections is meant.
    """
    for page, text in pages_as_text():
        for link in re.finditer(r"\[[^]\n]*\]\((\w+\.(?:ipynb|md))\)", text):
            assert page.stem != "errata", (page, link[0])
            before = text[max(link.start() - 20, 0) : link.start()]
            assert link[1] != "errata.md" or "列在" in before, (page, before)


@chapters
def test_exercises_have_folded_answers(name):
    notebook = notebooks.read(name)
    sources = [cell.source for cell in markdown(notebook)]
    start = next(i for i, source in enumerate(sources) if source.startswith("## 练习"))
    text = "\n".join(sources[start:])
    assert text.count("<details>") >= 3
    assert text.count("<summary>参考答案</summary>") == text.count("<details>")


def shape_lines(layers):
    """What a chapter prints of its layers, given their classes and output shapes."""
    return "".join(
        f"{kind} output shape:\t torch.Size([{', '.join(map(str, [1, *size]))}])\n"
        for kind, *size in layers
    )


@pytest.mark.parametrize("network", ["alexnet", "vgg11", "nin", "googlenet"])
def test_recorded_shapes_to_the_letter(network):
    name, _, shapes, _, _ = NETWORKS[network]
    expected = shape_lines(line.split() for line in shapes.replace("\n", " ").split(","))
    printed = ["".join(texts(cell)) for cell in code(notebooks.read(name))]
    assert expected in printed, f"NETWORKS in tests/test_networks.py against chapters/{name}.ipynb"


@chapters
def test_recorded_shapes_are_those_of_the_modules(name):
    """In every chapter a cell prints them, layer by layer; VGG's chapter, of the full network."""
    net = build("vgg11" if name == "vgg" else name)
    expected = shape_lines(layer_shapes(net, notebooks.chapter(name).side))
    printed = ["".join(texts(cell)) for cell in code(notebooks.read(name))]
    assert expected in printed, f"run python -m tools.record --skip-training chapters/{name}.ipynb"


def test_readme_and_pages_link_to_nothing_that_is_missing():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("chapters/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), (page, target)


@pytest.mark.slow
def test_nbval_notices_a_changed_digit(tmp_path):
    """The promise of the whole book: a recorded shape that no longer holds fails the run."""
    notebook = notebooks.read("nin")
    shapes = next(cell for cell in code(notebook) if "output shape" in "".join(texts(cell)))
    notebook.cells = [
        cell
        for cell in notebook.cells
        if cell.id in ("imports", shapes.id) or "net" in notebooks.tags(cell)
    ]
    shapes.outputs[0].text = shapes.outputs[0].text.replace("54", "55", 1)
    nbformat.write(notebook, tmp_path / "wrong.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval", "-q", "-rf", "-p", "no:cacheprovider"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"1 failed, {len(notebook.cells) - 1} passed" in run.stdout


@pytest.mark.slow
def test_cells_run_where_pytest_runs_whatever_kernel_the_notebook_names(tmp_path):
    """VS Code and conda save a notebook under a kernel's name of their own."""
    cell = nbformat.v4.new_code_cell("import sys\nprint(sys.executable)", execution_count=1)
    cell.outputs = [nbformat.v4.new_output("stream", text=f"{sys.executable}\n")]
    kernel = {"name": "conda-env-book-py", "display_name": "Python (book)", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    nbformat.write(notebook, tmp_path / "saved.ipynb")
    shutil.copy(ROOT / "conftest.py", tmp_path)
    command = [sys.executable, "-m", "pytest", "--nbval", "-q", "-p", "no:cacheprovider"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 passed" in run.stdout, run.stdout


@pytest.mark.parametrize("failures", [0, 2, 3])
def test_a_kernel_that_dies_at_once_is_started_again(failures):
    """Two test processes look for free ports at the same time."""
    tries = []

    def start(name):
        tries.append(name)
        if len(tries) <= failures:
            raise RuntimeError("Kernel died before replying to kernel_info")
        return "kernel"

    if failures < 3:
        assert conftest.tried_again(start)("python3") == "kernel"
    else:
        with pytest.raises(RuntimeError, match="Kernel died"):
            conftest.tried_again(start)("python3")
    assert len(tries) == min(failures + 1, 3)
