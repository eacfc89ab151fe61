"""The tools that write what was measured, record.py and answers.py, on a small book of their own.

The slow tests start kernels and train; the others have a stand-in for the kernel.
"""

import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest
import torch

import d2lmini
from tests.test_notebooks_tool import CELLS, TRAIN, write_book
from tools import answers, code_hash, files, kernel_hook, notebooks, record, runs, weights

NET = CELLS["net"][0]
CODE = """seeds = range(3)
train_iter, test_iter = d2l.load_data_fashion_mnist(8)
for seed in seeds:
    history = d2l.train_ch6(net, train_iter, test_iter, num_epochs=1, lr=0.1, seed=seed)
print(f'测试精度{history.test_acc[-1]:.3f}')
"""
EXERCISE = f"""**1.** 测一测。

<details>
<summary>参考答案</summary>

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


def git(root, *words):
    identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    subprocess.run(["git", "-C", root, *identity, *words], check=True, capture_output=True)


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    """Write and commit the chapter, some cells changed, its outputs kept; returns its path."""
    for package in ("d2lmini", "tools"):
        (tmp_path / package).symlink_to(notebooks.ROOT / package)
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    git(tmp_path, "init", "-q")

    def write(commit=True, exercise=EXERCISE, **changed):
        old = notebooks.read("small") if notebooks.path("small").exists() else None
        path = write_book(tmp_path, exercise=exercise, install=None, **changed)
        if old:
            new = notebooks.read("small")
            new.metadata = old.metadata
            for cell, before in zip(new.cells[:-1], old.cells, strict=False):
                cell.outputs = before.outputs
            nbformat.write(new, path)
        if commit:
            git(tmp_path, "add", ".")
            git(tmp_path, "commit", "-q", "--allow-empty", "-m", "chapter")
        return str(path)

    return write


def outputs(cell_id):
    (found,) = (c for c in notebooks.read("small").cells if c.id == cell_id)
    return found.outputs


def counts():
    return [cell.execution_count for cell in notebooks.code_cells(notebooks.read("small"))]


def stored():
    return files.read_json(record.paths("small")[0])


def refused(path, *options, match):
    with pytest.raises(SystemExit, match=match):
        record.main([path, *options])


# --- record.py, with kernels ----------------------------------------------------------------------


def test_cells_in_another_order_are_other_code():
    recorded = {"training": "one order", "cells": {"net": "a", "data": "b"}, "trained": {}}
    assert record.differing(recorded, recorded) == ([], [])
    now = {**recorded, "training": "another"}
    assert record.differing(recorded, now) == (["net", "data"], [])


@pytest.mark.slow
def test_full_recording_stores_what_ran(chapter, tmp_path):
    path, folder = chapter(), str(tmp_path / "runs")
    record.main([path, "--skip-training"])
    git(tmp_path, "commit", "-qam", "recorded")
    record.main([path, "--seeds", "2", "--folder", folder])
    notebook, content = notebooks.read("small"), stored()
    assert content["record"] == notebook.metadata["d2lmini"]
    assert content["record"]["code"] == code_hash.training_code(notebook, "small")
    assert all(seconds > 0 for seconds in content["histories"][0]["cpu_seconds"])
    assert [history["seed"] for history in content["histories"]] == [0, 1]
    assert content["histories"][0]["train_loss"] != content["histories"][1]["train_loss"]
    assert counts() == list(range(1, 7))
    first, figure, last = outputs("train")
    assert first.text.startswith(f"training on {content['record']['device']}\n")
    assert "<figure" in figure.data["text/html"]
    assert f"test acc {content['record']['test_acc']:.3f}\n" in last.text
    assert outputs("after")[0].text == "2\n"
    rounded = list(weights.unpack(record.paths("small")[1].read_bytes()))
    assert [name for name, *_ in rounded] == ["2.weight", "2.bias"]
    assert abs(content["record"]["rounded"]["test_acc"] - content["record"]["test_acc"]) <= 0.11

    # A comment, a renamed loop variable in an untagged cell and a broken line are no other code.
    chapter(
        net=NET.replace("nn.Flatten(),", "nn.Flatten(),  # 784\n   "),
        seen="for param in net.parameters():\n    print(param.shape)",
    )
    trained = outputs("train")
    record.main([path, "--skip-training"])
    assert stored() == content and outputs("train") == trained
    # A changed cell that uses the network runs from the weights; nothing is trained.
    chapter(after="print(history.test_acc[-1])")
    refused(path, "--skip-training", match="other code, cell after differs")
    record.main([path, "--from-weights", folder])
    assert outputs("after")[0].text == f"{content['record']['test_acc']}\n"
    assert outputs("train") == trained and stored()["histories"] == content["histories"]
    # Other code of the training: refused, and dropped only where that is asked for.
    chapter(net=NET.replace("0.5", "0.4"))
    for options in (["--skip-training"], ["--take", folder], ["--from-weights", folder]):
        refused(path, *options, match=r"cell net.* differs")
    assert outputs("train") == trained and stored()["histories"] == content["histories"]
    record.main([path, "--skip-training", "--drop"])
    assert "d2lmini" not in notebooks.read("small").metadata and outputs("train") == []


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["in the training", "after the training", "while it is taken"])
def test_a_killed_recording_goes_on(chapter, tmp_path, stage):
    """And a second recorder is refused while the first is at work."""
    folder, taken = tmp_path / "runs" / "small", record.paths("small")[0]
    slow = "import os, time\nfor _ in range(600):\n    os.path.exists('../go') or time.sleep(0.1)"
    changed, reached = {
        "in the training": ({"train": f"{TRAIN}, 40, lr)"}, folder / "0.pt"),
        "after the training": ({"after": slow}, folder / "recording.json"),
        "while it is taken": ({}, taken),
    }[stage]
    path, options = chapter(**changed), ["--folder", str(folder.parent)]
    code = (
        "import time\nfrom tools import notebooks, record\n"
        f"notebooks.ROOT = notebooks.Path({str(tmp_path)!r})\n"
        + ("record.write = lambda *_: time.sleep(60)\n" if reached == taken else "")
        + f"record.main({[path, *options]!r})"
    )
    before = notebooks.path("small").read_bytes()
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while not reached.exists():
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(child.pid, signal.SIGSTOP)  # it holds the lock, however slow this machine is
        refused(path, *options, match="another process is at work")
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert notebooks.path("small").read_bytes() == before
    done = files.read_json(folder / "recording.json")
    (tmp_path / "go").touch()
    record.main([path, *options])
    assert stored()["record"] == notebooks.read("small").metadata["d2lmini"]
    if stage != "in the training":  # the hours are not spent again
        assert stored()["histories"] == done["histories"]
    # A kernel that ends while it writes a checkpoint may leave a part of that; nothing else does.
    assert {file.name[:5] for file in tmp_path.rglob("*.part")} <= {"0.pt."}


def test_what_runs_in_the_kernel(monkeypatch, tmp_path):
    """The hook hands on what the recorder says, for one call, and takes itself away."""
    given = []

    def train_ch6(net, *args, **options):
        given.append(options)
        return d2lmini.History("cpu", "fp32", stopped="dead")

    monkeypatch.setattr(kernel_hook, "trainer", train_ch6)
    monkeypatch.setattr(d2lmini, "train_ch6", train_ch6)
    kernel_hook.watch(7, {"precision": "bf16"}, None, str(tmp_path / "weights.bin"))
    drawn = torch.rand(3)
    d2lmini.train_ch6(torch.nn.Linear(2, 2), None, None, caption="c")
    assert given == [{"caption": "c", "precision": "bf16"}]
    assert kernel_hook.collected()[0][0]["stopped"] == "dead"
    assert not (tmp_path / "weights.bin").exists()
    with pytest.raises(RuntimeError, match="one call"):
        d2lmini.train_ch6(torch.nn.Linear(2, 2), None, None)
    kernel_hook.watch(7)
    assert torch.equal(torch.rand(3), drawn) and kernel_hook.collected()[0] == []
    for _ in range(2):  # an answer may train as often as it likes
        d2lmini.train_ch6(torch.nn.Linear(2, 2), None, None)
    assert given[1:] == [{}, {}] and len(kernel_hook.collected()[0]) == 2


# --- record.py, with a stand-in -------------------------------------------------------------------

HISTORY = {
    "seed": 0, "precision": "tf32", "num_samples": 20, "train_loss": [2.0, 1.0],
    "train_acc": [0.1, 0.2], "test_acc": [0.1, 0.3], "train_seconds": [5.0, 3.0],
    "test_seconds": [1.0, 1.0], "cpu_seconds": [7.0, 6.0], "stopped": None, "curve": [],
}  # fmt: skip
MACHINE = {"device": "cpu", "device_name": "a processor", "torch": "2", "python": "3"}


class Kernel:
    """Stands for a kernel: cells print what `prints` says, the training gives `HISTORY`."""

    def __init__(self, notebook):
        self.machine = dict(MACHINE)
        Kernel.calls = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def call(self, function, *args):
        self.calls.append((function, *args))
        return [[dict(HISTORY)], 9.0] if function == "collected" else None

    def run(self, cell):
        self.calls.append(cell.id)
        name, text = self.prints.get(cell.id, ("stdout", f"{cell.id}\n"))
        cell.outputs = [nbformat.v4.new_output("stream", name=name, text=text)]


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setattr(runs, "Kernel", Kernel)
    monkeypatch.setattr(Kernel, "prints", {}, raising=False)
    return Kernel


def test_what_a_recording_hands_to_the_kernel_and_what_it_stores(chapter, kernel, tmp_path):
    path, folder = chapter(), tmp_path / "runs"
    record.main([path, "--seed", "3", "--precision", "bf16", "--folder", str(folder)])
    options = {"seed": 3, "precision": "bf16", "checkpoint": str(folder / "small" / "3.pt")}
    rounded = str(folder / "small" / "weights.bin")
    assert kernel.calls == [
        "imports", ("watch", 3), "net", "seen", "data", ("watch", 3, options, None, rounded),
        "train", ("collected",), ("watch", None), "after",
    ]  # fmt: skip
    found = stored()["record"]
    assert found == notebooks.read("small").metadata["d2lmini"] and stored()["histories"] == [
        HISTORY
    ]
    expected = {"training_seconds": 10.0, "cpu_seconds": 13.0, "examples_per_sec": 5.0,
                "train_loss": 1.0, "test_acc": 0.3, **MACHINE}  # fmt: skip
    assert found == {**found, **expected}
    assert counts() == [None, None, None, None, 1, 2]
    record.main([path, "--skip-training"])
    assert kernel.calls == ["imports", "net", "seen", "data"]
    assert counts() == [1, 2, 3, 4, 5, 6]


def test_what_was_recorded_elsewhere_is_taken_into_a_notebook_that_has_changed(
    chapter, kernel, tmp_path
):
    path, folder = chapter(), str(tmp_path / "runs")
    record.main([path, "--folder", folder])
    before, recorded = outputs("after"), outputs("train")
    git(tmp_path, "checkout", "-q", path)
    chapter(commit=False, seen="print('meanwhile')", net=f"# a comment\n{NET}")
    sources = [cell.source for cell in notebooks.read("small").cells]
    assert outputs("train") == outputs("after") == []
    record.main([path, "--take", folder])
    assert (outputs("train"), outputs("after"), outputs("seen")) == (recorded, before, [])
    assert [cell.source for cell in notebooks.read("small").cells] == sources


@pytest.mark.parametrize(
    ("options", "cell_id", "printed", "said"),
    [
        (["--skip-training"], "seen", ("stderr", "a warning"), "wrote to stderr: a warning"),
        (["--skip-training"], "seen", ("stdout", "{root}/x"), "shows a path"),
        ([], "after", ("stderr", "a warning"), "wrote to stderr: a warning"),
        ([], "after", ("stdout", "{root}/x"), "shows a path"),
        ([], "train", None, "not recorded: all scores are NaN"),
    ],
)
def test_what_must_not_be_published_is_refused_and_what_was_measured_kept(
    chapter, kernel, tmp_path, monkeypatch, options, cell_id, printed, said
):
    path, folder = chapter(), tmp_path / "runs"
    before = notebooks.path("small").read_bytes()
    if printed:
        kernel.prints[cell_id] = (printed[0], printed[1].format(root=tmp_path))
    else:
        monkeypatch.setitem(HISTORY, "stopped", "all scores are NaN")
    refused(path, *options, "--folder", str(folder), match=said)
    assert notebooks.path("small").read_bytes() == before and stored() is None
    kept = {"seen": [], "after": ["recording.json"], "train": ["stopped-0.json"]}[cell_id]
    assert [file.name for file in folder.rglob("*.json")] == kept


def test_what_can_be_refused_is_refused_before_hours_are_spent(chapter, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "Kernel", None)
    path = chapter(train=f"{TRAIN}, 2, missing_name)")
    refused(path, match=r"^record: chapters/small\.ipynb: cell train fails .*missing_name")
    path = chapter(train=f"{CELLS['train'][0]}\n{CELLS['train'][0]}")
    refused(path, match="calls d2l.train_ch6 2 times")
    path = chapter(data="lr, num_epochs = 1, 1", seen=CELLS["data"][0])
    refused(path, match="depends on lr, which cell seen binds")
    path = chapter()
    refused(str(tmp_path / "elsewhere" / "small.ipynb"), match="is none of")
    refused(path, "--take", str(tmp_path / "none"), match="holds no whole training")
    chapter(commit=False, net=NET.replace("0.5", "0.4"))
    refused(path, match="uncommitted changes")
    path = chapter()
    (tmp_path / "d2lmini").unlink()
    (tmp_path / "d2lmini").symlink_to(tmp_path)  # another helper
    refused(path, match="uncommitted changes in d2lmini")


def test_an_edit_made_meanwhile_stays(chapter, kernel, monkeypatch, capsys):
    path, run = chapter(), kernel.run

    def edited(self, cell):
        run(self, cell)
        chapter(commit=False, seen="print('edited')")

    monkeypatch.setattr(kernel, "run", edited)
    record.main([path, "--skip-training"])
    sources = {cell.id: cell.source for cell in notebooks.read("small").cells}
    assert sources["seen"] == "print('edited')" and outputs("seen") == []
    assert outputs("net")[0].text == "net\n"
    assert "cell seen was edited meanwhile" in capsys.readouterr().out


# --- answers.py -----------------------------------------------------------------------------------


def exercise():
    return notebooks.read("small").cells[-1].source


def measured():
    return files.read_json(answers.record_path("first"))


@pytest.mark.slow
def test_an_answer_is_measured_with_all_its_seeds(chapter):
    chapter()
    answers.main([])
    found, histories = measured()["record"], measured()["histories"]
    assert found["seeds"] == [0, 1, 2] and found["cpu_seconds"] > 0
    assert [run["seed"] for run in histories] == [0, 1, 2]
    assert found["text"].endswith(f"测试精度{histories[2]['test_acc'][0]:.3f}\n")


def test_an_answer_is_measured_once_and_written_under_its_code(
    chapter, kernel, tmp_path, monkeypatch
):
    chapter()
    answers.main([])
    once, found = exercise(), measured()["record"]
    assert [call for call in kernel.calls if isinstance(call, str)][:2] == ["imports", "net"]
    printed = f"```text\n{found['text']}```\n\n（实测：{answers.told(found)}）\n\n如上。"
    assert once == EXERCISE.replace(f"{CODE}```\n\n如上。", f"{CODE}```\n\n{printed}")
    (answer,) = answers.measured().values()
    assert (answer.text, answer.told) == (found["text"], answers.told(found))
    assert answers.answers()[0].text == "1\n"
    monkeypatch.setattr(answers, "measure", None)
    chapter()  # as where an earlier call was cut off before it wrote this
    answers.main([])
    assert exercise() == once and measured()["record"] == found


def test_other_code_is_measured_anew_and_so_is_what_was_cut_off(chapter, kernel, tmp_path):
    chapter()
    answers.main([])
    text = measured()["record"]["text"]
    chapter(exercise=exercise().replace("测试精度{", "精度{"))
    answers.main([])
    assert text not in exercise() and measured()["record"]["text"] in exercise()
    git(tmp_path, "commit", "-qam", "measured")
    answers.record_path("first").write_text('{"record": {"text"')
    answers.main([])
    assert measured()["record"]["text"] in exercise()


def test_an_answer_is_refused_before_its_hours(chapter, monkeypatch):
    monkeypatch.setattr(runs, "Kernel", None)
    for changed, names, said in (
        ({}, ["second"], "no answer is called second"),
        ({"exercise": EXERCISE.replace("seeds = ", "numbers = ")}, [], "no line `seeds ="),
        ({"exercise": EXERCISE.replace("精度{", "{"), "commit": False}, [], "uncommitted changes"),
    ):
        chapter(**changed)
        with pytest.raises(SystemExit, match=said):
            answers.main(names)
