"""The tool that measures answers, on a chapter of its own."""

import json

import nbformat
import pytest

from tests.test_record import git
from tools import answers, notebooks

IMPORTS = "import torch\nfrom torch import nn\n\nimport d2lmini as d2l"
NET = "net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))"
CODE = """seeds = range(3)
train_iter, test_iter = d2l.load_data_fashion_mnist(8)
for seed in seeds:
    history = d2l.train_ch6(net, train_iter, test_iter, num_epochs=1, lr=0.1, seed=seed)
print(f'测试精度{history.test_acc[-1]:.3f}')
"""
EXERCISE = f"""**1.** 测一测。

<details>
<summary>参考答案</summary>

先数一数。

```python
print(1)
```

```text
1
```

<!-- measured: first -->

```python
{CODE}```

如上。

</details>"""


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    """A book of one chapter with one measured answer; returns the text of its exercise, anew."""
    for package in ("d2lmini", "tools"):
        (tmp_path / package).symlink_to(notebooks.ROOT / package)
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    (tmp_path / "chapters").mkdir()
    (tmp_path / "_toc.yml").write_text("chapters:\n- file: chapters/nin\n")
    imports, net = nbformat.v4.new_code_cell(IMPORTS), nbformat.v4.new_code_cell(NET)
    imports["id"], net["id"], net.metadata.tags = "imports", "net", ["net"]
    exercise = nbformat.v4.new_markdown_cell(EXERCISE)
    exercise["id"] = "exercise-1"
    cells = [imports, net, exercise]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), notebooks.path("nin"))
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "chapter")
    return lambda: notebooks.read("nin").cells[-1].source


def test_what_is_measured_is_written_under_its_code_and_into_a_record(chapter):
    answers.main([])
    content = json.loads(answers.record_path("first").read_text("utf-8"))
    record, histories = content["record"], content["histories"]
    assert record["seeds"] == [0, 1, 2] and record["cpu_seconds"] > 0
    assert [run["seed"] for run in histories] == [0, 1, 2]
    assert record["text"].endswith(f"测试精度{histories[2]['test_acc'][0]:.3f}\n")
    printed = f"```text\n{record['text']}```\n\n（实测：{answers.told(record)}）\n\n如上。"
    assert chapter() == EXERCISE.replace(f"{CODE}```\n\n如上。", f"{CODE}```\n\n{printed}")
    (answer,) = answers.measured().values()
    assert (answer.text, answer.told) == (record["text"], answers.told(record))
    assert answers.answers()[0].text == "1\n"


def test_what_is_measured_is_not_measured_again(chapter, monkeypatch):
    answers.main([])
    once = chapter()
    monkeypatch.setattr(answers, "measure", None)
    answers.main([])
    assert chapter() == once


def test_an_interrupted_call_goes_on_from_what_it_kept(chapter, tmp_path, monkeypatch):
    answers.main(["--keep", str(tmp_path / "kept")])
    once = chapter()
    answers.record_path("first").unlink()  # as where the checkout is another one
    monkeypatch.setattr(answers, "measure", None)
    answers.main(["--keep", str(tmp_path / "kept")])
    assert chapter() == once and answers.record_path("first").is_file()


def test_other_code_is_measured_anew(chapter, tmp_path):
    answers.main(["--keep", str(tmp_path / "kept")])
    path = notebooks.path("nin")
    path.write_text(path.read_text("utf-8").replace("测试精度{", "精度{"), "utf-8")
    answers.main(["--dry", "--keep", str(tmp_path / "kept")])
    assert "\n测试精度" in chapter()  # nothing is written
    git(tmp_path, "commit", "-qam", "changed")
    answers.main(["--keep", str(tmp_path / "kept")])
    assert "\n精度" in chapter() and "\n测试精度" not in chapter()


def test_a_name_that_no_answer_has_is_refused(chapter):
    with pytest.raises(SystemExit, match="no answer is called second"):
        answers.main(["second"])


def test_an_answer_without_seeds_is_refused_before_its_hours(chapter, monkeypatch):
    monkeypatch.setattr(answers.runs, "Kernel", None)
    path = notebooks.path("nin")
    path.write_text(path.read_text("utf-8").replace("seeds = ", "numbers = "), "utf-8")
    with pytest.raises(SystemExit, match="no line `seeds ="):
        answers.main([])
    path.write_text(path.read_text("utf-8").replace("numbers = ", "seeds = "), "utf-8")
    path.write_text(path.read_text("utf-8").replace("测试精度{", "精度{"), "utf-8")
    with pytest.raises(SystemExit, match="uncommitted changes"):
        answers.main([])


def test_a_record_that_was_cut_off_is_none(chapter):
    answers.record_path("first").parent.mkdir(parents=True)
    answers.record_path("first").write_text('{"record": {"text"')
    answers.main([])
    assert json.loads(answers.record_path("first").read_text("utf-8"))["record"]["text"]
