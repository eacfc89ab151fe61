"""The tools that write what was measured, record.py and answers.py, on a small book of their own.

They train in earnest. All but the slow tests run the cells in this process, not in a kernel.
"""

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest
import torch
from IPython.utils.capture import capture_output

import d2lmini
from tests.test_notebooks_tool import CELLS, TRAIN, write_book
from tools import answers, code_hash, files, kernel_hook, notebooks, record, runs

NET, DATA = CELLS["net"][0], CELLS["data"][0]
CODE = """seeds = range(3)
train_iter, test_iter = d2l.load_data_fashion_mnist(8)
for seed in seeds:
    history = d2l.train_ch6(net, train_iter, test_iter, num_epochs=1, lr=0.1, seed=seed)
print(f'测试精度{history.test_acc[-1]:.3f}')
"""
EXERCISE = f"""**1.** 测一测。

<details>
<summary>参考答案</summary>

<!-- measured: first -->

```python
{CODE}```

如上。

</details>"""
WARN = "import sys\nprint('a warning', file=sys.stderr)"
TELL = "from tools import notebooks\nprint(notebooks.ROOT)"


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


class InProcess:
    """Stands for a kernel."""

    def __init__(self, notebook):
        self.namespace, self.machine = {}, kernel_hook.machine()
        InProcess.ran = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def call(self, function, *args):
        return json.loads(json.dumps(getattr(kernel_hook, function)(*args)))

    def run(self, cell):
        self.ran.append(cell.id)
        with capture_output(display=False) as captured:
            exec(cell.source, self.namespace)
        cell.outputs = [
            nbformat.v4.new_output("stream", name=name, text=text)
            for name in ("stdout", "stderr") if (text := getattr(captured, name))
        ]  # fmt: skip


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr(runs, "Kernel", InProcess)
    monkeypatch.setattr(d2lmini, "train_ch6", d2lmini.train_ch6)  # which the hook replaces


@pytest.fixture(params=["in process", pytest.param("kernel", marks=pytest.mark.slow)])
def kernels(request):
    if request.param == "in process":
        request.getfixturevalue("in_process")


def outputs(cell_id):
    (found,) = (c for c in notebooks.read("small").cells if c.id == cell_id)
    return found.outputs


def printed(cell_id):
    return "".join(output.get("text", "") for output in outputs(cell_id))


def counts():
    return [cell.execution_count for cell in notebooks.code_cells(notebooks.read("small"))]


def stored():
    return files.read_json(record.paths("small")[0])


def refused(path, *options, match):
    """It is refused, and neither notebook nor recordings are touched."""
    before = notebooks.path("small").read_bytes(), stored()
    with pytest.raises(SystemExit, match=match):
        record.main([path, *options])
    assert (notebooks.path("small").read_bytes(), stored()) == before


# --- record.py ------------------------------------------------------------------------------------


def test_a_record_is_of_what_ran_and_stays_while_its_code_does(chapter, kernels, tmp_path):
    path, folder = chapter(after="print(history.seed)"), str(tmp_path / "runs")
    record.main([path, "--skip-training"])
    assert counts() == [1, 2, 3, 4, None, None]
    git(tmp_path, "commit", "-qam", "recorded")
    record.main([path, "--seeds", "2", "--folder", folder])
    notebook, content = notebooks.read("small"), stored()
    found, histories = content["record"], content["histories"]
    assert found == notebook.metadata["d2lmini"] and counts() == [1, 2, 3, 4, 5, 6]
    assert found["code"] == code_hash.training_code(notebook, "small")
    assert found["test_acc"] == histories[0]["test_acc"][-1]
    assert all(seconds > 0 for seconds in histories[0]["cpu_seconds"])
    assert [history["seed"] for history in histories] == [0, 1]
    assert histories[0]["train_loss"] != histories[1]["train_loss"]
    assert printed("train").startswith(f"training on {found['device']}\n")
    assert f"test acc {found['test_acc']:.3f}\n" in printed("train")
    assert printed("after") == "0\n"  # the chapter shows the first seed
    assert record.paths("small")[1].stat().st_size < 10_000  # 7850 weights of a byte
    assert abs(found["rounded"]["test_acc"] - found["test_acc"]) <= 0.11

    # A comment, a renamed loop variable in an untagged cell and a broken line are no other code.
    chapter(
        net=NET.replace("nn.Flatten(),", "nn.Flatten(),  # 784\n   "),
        seen="for param in net.parameters():\n    print(param.shape, flush=True)",
        after="print(history.seed)",
    )
    trained = outputs("train")
    record.main([path, "--skip-training"])
    assert stored() == content and outputs("train") == trained
    assert len(outputs("seen")) == 1  # printed in pieces, which are joined
    # A changed cell that uses the network runs from the weights; nothing is trained.
    chapter(after="print(history.test_acc[-1])")
    refused(path, "--skip-training", match="other code, cell after differs")
    record.main([path, "--from-weights", folder])
    assert printed("after") == f"{found['test_acc']}\n"
    assert outputs("train") == trained and stored()["histories"] == histories
    # Other code of the training: refused, and dropped only where that is asked for.
    notebook = notebooks.read("small")
    notebook.cells.insert(1, notebook.cells.pop(3))  # the data before the network
    nbformat.write(notebook, path)
    refused(path, "--skip-training", match="cell imports, data, net, train.* differs")
    chapter(net=NET.replace("0.5", "0.4"))
    for options in (["--skip-training"], ["--take", folder], ["--from-weights", folder]):
        refused(path, *options, match=r"cell net.* differs")
    record.main([path, "--skip-training", "--drop"])
    assert "d2lmini" not in notebooks.read("small").metadata and outputs("train") == []
    if runs.Kernel is not InProcess:
        refused(chapter(seen="1 / 0"), "--skip-training", match="cell seen fails: [^!]*Error")


def test_what_was_recorded_elsewhere_is_taken_into_a_notebook_that_has_changed(
    chapter, in_process, tmp_path
):
    net, folder = f"x = torch.rand(2)\n{NET}", tmp_path / "runs"
    path, recording = chapter(net=net, after="print(x)"), folder / "small" / "recording.json"
    record.main([path, "--seed", "3", "--precision", "bf16", "--folder", str(folder)])
    assert InProcess.ran == ["imports", "net", "seen", "data", "train", "after"]
    assert printed("after") == f"{torch.rand(2, generator=torch.Generator().manual_seed(3))}\n"
    assert counts() == [None, None, None, None, 1, 2]
    recorded = outputs("train"), outputs("after")

    git(tmp_path, "checkout", "-q", path)
    chapter(commit=False, seen="print('meanwhile')", net=f"# a comment\n{net}", after="print(x)")
    sources = [cell.source for cell in notebooks.read("small").cells]
    assert outputs("train") == outputs("after") == []
    state = files.read_json(recording)
    (history,) = state["histories"]
    history |= {"num_samples": 20, "train_seconds": [5.0, 3.0], "test_seconds": [1.0, 1.0],
                "cpu_seconds": [7.0, 6.0]}  # fmt: skip
    files.write_json(recording, state)
    record.main([path, "--take", str(folder)])
    assert (outputs("train"), outputs("after")) == recorded and outputs("seen") == []
    assert [cell.source for cell in notebooks.read("small").cells] == sources
    numbers = {"training_seconds": 10.0, "cpu_seconds": 13.0, "examples_per_sec": 5.0,
               "train_loss": history["train_loss"][-1], "seed": 3, "precision": "bf16"}  # fmt: skip
    assert stored()["record"] == stored()["record"] | numbers


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
    assert "<figure" in str(outputs("train"))
    if stage == "in the training":
        assert "the checkpoint" in printed("train")  # which it goes on from, or holds all of it
    else:  # the hours are not spent again
        assert stored()["histories"] == done["histories"]
    # A kernel that ends while it writes a checkpoint may leave a part of that; nothing else does.
    assert {file.name[:5] for file in tmp_path.rglob("*.part")} <= {"0.pt."}


@pytest.mark.parametrize(
    ("options", "changed", "said", "kept"),
    [
        (["--skip-training"], {"seen": WARN}, "cell seen wrote to stderr: a warning", []),
        ([], {"after": TELL}, "cell after shows a path", ["recording.json", "weights.json"]),
        ([], {"data": DATA.replace("0.1", "1e38")}, "not recorded: the loss", ["stopped-0.json"]),
    ],
)
def test_what_must_not_be_published_is_refused_and_what_was_measured_kept(
    chapter, in_process, tmp_path, options, changed, said, kept
):
    folder = tmp_path / "runs"
    refused(chapter(**changed), *options, "--folder", str(folder), match=said)
    assert sorted(file.name for file in folder.rglob("*.json")) == kept


def test_what_can_be_refused_is_refused_before_hours_are_spent(chapter, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "Kernel", None)
    path = chapter()
    for changed, said in (
        ({"commit": False, "net": NET.replace("0.5", "0.4")}, "uncommitted changes"),
        ({"train": f"{TRAIN}, 2, missing_name)"}, "cell train fails .*missing_name"),
        ({"train": f"{CELLS['train'][0]}\n{CELLS['train'][0]}"}, "calls d2l.train_ch6 2 times"),
        ({"data": "lr = 1", "seen": DATA}, "depends on lr, which cell seen binds"),
    ):
        refused(chapter(**changed), match=rf"^record: (chapters/small\.ipynb: .*|){said}")
    chapter()
    with pytest.raises(SystemExit, match="is none of"):
        record.main([str(tmp_path / "elsewhere" / "small.ipynb")])
    refused(path, "--take", str(tmp_path / "none"), match="holds no whole training")
    (tmp_path / "d2lmini").unlink()
    (tmp_path / "d2lmini").symlink_to(tmp_path)  # another helper
    refused(path, match="uncommitted changes in d2lmini")


def test_an_edit_made_meanwhile_stays(chapter, in_process, monkeypatch, capsys):
    path, run = chapter(), InProcess.run

    def edited(self, cell):
        run(self, cell)
        chapter(commit=False, seen="print('edited')")

    monkeypatch.setattr(InProcess, "run", edited)
    record.main([path, "--skip-training"])
    sources = {cell.id: cell.source for cell in notebooks.read("small").cells}
    assert sources["seen"] == "print('edited')" and outputs("seen") == []
    assert counts() == [1, 2, None, 3, None, None]
    assert "cell seen was edited meanwhile" in capsys.readouterr().out


# --- answers.py -----------------------------------------------------------------------------------


def exercise():
    return notebooks.read("small").cells[-1].source


def measured():
    return files.read_json(answers.record_path("first"))


def test_an_answer_is_measured_once_and_written_under_its_code(
    chapter, kernels, tmp_path, monkeypatch
):
    chapter()
    answers.main([])
    once, found, histories = exercise(), measured()["record"], measured()["histories"]
    assert found["seeds"] == [history["seed"] for history in histories] == [0, 1, 2]
    assert found["text"].endswith(f"测试精度{histories[2]['test_acc'][0]:.3f}\n")
    text = f"```text\n{found['text']}```\n\n（实测：{answers.told(found)}）\n\n如上。"
    assert once == EXERCISE.replace(f"{CODE}```\n\n如上。", f"{CODE}```\n\n{text}")
    (answer,) = answers.measured().values()
    assert (answer.text, answer.told) == (found["text"], answers.told(found))
    with monkeypatch.context() as patch:
        patch.setattr(runs, "Kernel", None)
        answers.main([])
        assert exercise() == once
        chapter()  # as where an earlier call was cut off before it wrote
        answers.main([])
    assert exercise() == once and measured()["record"] == found

    chapter(exercise=once.replace("测试精度{", "精度{"))  # other code
    answers.main([])
    again = measured()["record"]["text"]
    assert again != found["text"] and again in exercise()
    git(tmp_path, "commit", "-qam", "measured")
    answers.record_path("first").write_text('{"record": {"text"')
    answers.main([])
    assert measured()["record"]["text"] in exercise()


def test_an_answer_is_refused_before_its_hours(chapter, monkeypatch):
    monkeypatch.setattr(runs, "Kernel", None)
    for changed, names, said in (
        ({}, ["second"], "no answer is called second"),
        ({"exercise": EXERCISE.replace("seeds = ", "numbers = ")}, [], "3 seeds or more"),
        ({"exercise": EXERCISE.replace("range(3)", "0, 0, 1, 2")}, [], "3 seeds or more"),
        ({"exercise": EXERCISE.replace("精度{", "{"), "commit": False}, [], "uncommitted changes"),
    ):
        chapter(**changed)
        with pytest.raises(SystemExit, match=said):
            answers.main(names)
