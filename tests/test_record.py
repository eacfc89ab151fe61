"""The recording tool on a small chapter of its own, in a repository of its own."""

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest
import torch

import d2lmini
from tools import code_hash, files, kernel_hook, notebooks, record, weights

DESCRIPTION = {"network": "NiN", "label": "NiN", "year": 2013, "idea": "1×1卷积"}
IMPORTS = "import torch\nfrom torch import nn\n\nimport d2lmini as d2l"
NET = "net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10))"
DATA = "train_iter, test_iter = d2l.load_data_fashion_mnist(8)"
TRAIN = "history = d2l.train_ch6(net, train_iter, test_iter, num_epochs=2, lr=0.1)"


def cell(cell_id, source, *tags):
    new = nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)})
    new["id"] = cell_id
    return new


def cells(**changed):
    """The small chapter's cells; `changed` gives some of them another source, by id."""
    found = [
        cell("imports", IMPORTS),
        cell("net", NET, "net"),
        cell("seen", "for p in net.parameters():\n    print(p.shape)"),
        cell("data", DATA, "setup"),
        cell("train", TRAIN, "training", "nbval-ignore-output"),
        cell("after", "print(len(history.test_acc))", "trained", "nbval-ignore-output"),
    ]
    for each in found:
        each.source = changed.get(each.id, each.source)
    return found


def git(root, *words):
    identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    subprocess.run(["git", "-C", root, *identity, *words], check=True, capture_output=True)


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    """Write and commit the chapter anew with some cells changed; returns its path."""
    for package in ("d2lmini", "tools"):
        (tmp_path / package).symlink_to(notebooks.ROOT / package)
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    (tmp_path / "chapters").mkdir()
    (tmp_path / "_toc.yml").write_text("chapters:\n- file: chapters/nin\n")
    git(tmp_path, "init", "-q")

    def write(commit=True, **changed):
        path = notebooks.path("nin")
        notebook = notebooks.read("nin") if path.exists() else None
        old = {c.id: c.outputs for c in notebook.cells} if notebook else {}
        new = nbformat.v4.new_notebook(
            cells=cells(**changed),
            metadata=notebook.metadata if notebook else {"chapter": DESCRIPTION},
        )
        for each in new.cells:
            each.outputs = old.get(each.id, [])
        nbformat.write(new, path)
        if commit:
            git(tmp_path, "add", ".")
            git(tmp_path, "commit", "-q", "--allow-empty", "-m", "chapter")
        return str(path)

    return write


def outputs(cell_id):
    (found,) = (c for c in notebooks.read("nin").cells if c.id == cell_id)
    return found.outputs


def stored():
    return json.loads(record.paths("nin")[0].read_text())


def test_cells_in_another_order_are_other_code():
    recorded = {"training": "one order", "cells": {"net": "a", "data": "b"}, "trained": {}}
    assert record.differing(recorded, recorded) == ([], [])
    now = {**recorded, "training": "another"}
    assert record.differing(recorded, now) == (["net", "data"], [])


@pytest.mark.slow
def test_full_recording_stores_what_ran(chapter, tmp_path):
    path, runs = chapter(), str(tmp_path / "runs")
    record.main([path, "--skip-training"])
    git(tmp_path, "commit", "-qam", "recorded")
    record.main([path, "--seeds", "2", "--folder", runs])
    notebook, content = notebooks.read("nin"), stored()
    assert content["record"] == notebook.metadata["d2lmini"]
    assert content["record"]["code"] == code_hash.training_code(notebook, "nin")
    assert all(seconds > 0 for seconds in content["histories"][0]["cpu_seconds"])
    assert [history["seed"] for history in content["histories"]] == [0, 1]
    assert content["histories"][0]["train_loss"] != content["histories"][1]["train_loss"]
    assert [c.execution_count for c in notebook.cells] == list(range(1, 7))
    first, figure, last = outputs("train")
    assert first.text.startswith(f"training on {content['record']['device']}\n")
    assert "<figure" in figure.data["text/html"]
    assert f"test acc {content['record']['test_acc']:.3f}\n" in last.text
    assert outputs("after")[0].text == "2\n"
    rounded = list(weights.unpack(record.paths("nin")[1].read_bytes()))
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
    with pytest.raises(SystemExit, match="other code, cell after differs"):
        record.main([path, "--skip-training"])
    record.main([path, "--from-weights", runs])
    assert outputs("after")[0].text == f"{content['record']['test_acc']}\n"
    assert outputs("train") == trained and stored()["histories"] == content["histories"]
    # Other code of the training: refused, and dropped only where that is asked for.
    chapter(net=NET.replace("0.5", "0.4"))
    for options in (["--skip-training"], ["--take", runs], ["--from-weights", runs]):
        with pytest.raises(SystemExit, match=r"cell net.* differs"):
            record.main([path, *options])
    assert outputs("train") == trained and stored()["histories"] == content["histories"]
    record.main([path, "--skip-training", "--drop"])
    assert "d2lmini" not in notebooks.read("nin").metadata and outputs("train") == []


@pytest.mark.slow
def test_what_was_recorded_elsewhere_is_taken_into_a_notebook_that_has_changed(chapter, tmp_path):
    path, runs = chapter(), tmp_path / "runs"
    record.main([path, "--folder", str(runs)])
    recorded = outputs("train")
    chapter(commit=False, seen="print('meanwhile')", net=f"# a comment\n{NET}")
    notebook = notebooks.read("nin")
    for each in notebook.cells:
        each.outputs = []
    nbformat.write(notebook, path)
    record.main([path, "--take", str(runs)])
    assert outputs("train") == recorded and outputs("after")[0].text == "2\n"
    taken = notebooks.read("nin")
    assert [c.source for c in taken.cells] == [c.source for c in notebook.cells]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["in the training", "after the training", "while it is taken"])
def test_a_killed_recording_goes_on(chapter, tmp_path, stage):
    """And a second recorder is refused while the first is at work."""
    slow = "import os, time\nfor _ in range(600):\n    os.path.exists('../go') or time.sleep(0.1)"
    changed = {
        "in the training": {"train": TRAIN.replace("num_epochs=2", "num_epochs=40")},
        "after the training": {"after": slow},
        "while it is taken": {},
    }[stage]
    path, runs = chapter(**changed), tmp_path / "runs"
    folder = runs / "nin"
    code = (
        "import time\nfrom tools import notebooks, record\n"
        f"notebooks.ROOT = notebooks.Path({str(tmp_path)!r})\n"
        + ("record.write = lambda *_: time.sleep(60)\n" if stage == "while it is taken" else "")
        + f"record.main([{path!r}, '--folder', {str(runs)!r}])"
    )
    before = notebooks.path("nin").read_bytes()
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, start_new_session=True
    )
    reached = {
        "in the training": folder / "0.pt",
        "after the training": folder / "recording.json",
        "while it is taken": record.paths("nin")[0],
    }[stage]
    try:
        deadline = time.monotonic() + 120
        while not reached.exists():
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(SystemExit, match="another process is at work"):
            record.main([path, "--folder", str(runs)])
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert notebooks.path("nin").read_bytes() == before
    done = files.read_json(folder / "recording.json")
    (tmp_path / "go").touch()
    record.main([path, "--folder", str(runs)])
    content = stored()
    assert content["record"] == notebooks.read("nin").metadata["d2lmini"]
    if stage != "in the training":  # the hours are not spent again
        assert content["histories"] == done["histories"]
    # A kernel that ends while it writes a checkpoint may leave a part of that; nothing else does.
    assert {file.name[:5] for file in tmp_path.rglob("*.part")} <= {"0.pt."}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell_id", "source", "said"),
    [
        ("train", TRAIN.replace("lr=0.1", "lr=1e38"), "not recorded"),
        ("after", "missing_name", "missing_name"),
        ("after", "import sys\nprint('oh', file=sys.stderr)", "cell after wrote to stderr: oh"),
        ("after", "import os\nprint(os.getcwd())", "cell after shows a path"),
    ],
)
def test_what_was_measured_is_kept_when_something_fails(chapter, tmp_path, cell_id, source, said):
    path = chapter(**{cell_id: source})
    before = notebooks.path("nin").read_bytes()
    with pytest.raises((SystemExit, Exception), match=said):
        record.main([path, "--folder", str(tmp_path / "runs")])
    assert notebooks.path("nin").read_bytes() == before
    assert not record.paths("nin")[0].exists()
    kept = tmp_path / "runs" / "nin" / ("stopped-0.json" if cell_id == "train" else "0.pt")
    assert kept.exists()


HISTORY = {
    "seed": 0, "precision": "tf32", "num_samples": 20, "train_loss": [2.0, 1.0],
    "train_acc": [0.1, 0.2], "test_acc": [0.1, 0.3], "train_seconds": [5.0, 3.0],
    "test_seconds": [1.0, 1.0], "cpu_seconds": [7.0, 6.0], "stopped": None,
}  # fmt: skip


MACHINE = {"device": "cpu", "device_name": "a processor", "torch": "2"}


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
        return [[HISTORY], 9.0] if function == "collected" else None

    def run(self, cell):
        self.calls.append(cell.id)
        name, text = self.prints.get(cell.id, ("stdout", f"{cell.id}\n"))
        cell.outputs = [nbformat.v4.new_output("stream", name=name, text=text)]


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setattr(record.runs, "Kernel", Kernel)
    monkeypatch.setattr(Kernel, "prints", {}, raising=False)
    return Kernel


def test_what_a_recording_hands_to_the_kernel_and_what_it_stores(chapter, kernel, tmp_path):
    path, folder = chapter(), tmp_path / "runs"
    record.main([path, "--seed", "3", "--precision", "bf16", "--folder", str(folder)])
    options = {"seed": 3, "precision": "bf16", "checkpoint": str(folder / "nin" / "3.pt")}
    rounded = str(folder / "nin" / "weights.bin")
    assert kernel.calls == [
        "imports", ("watch", 3), "net", "seen", "data", ("watch", 3, options, None, rounded),
        "train", ("collected",), ("watch", None), "after",
    ]  # fmt: skip
    found, notebook = stored()["record"], notebooks.read("nin")
    assert found == notebook.metadata["d2lmini"] and stored()["histories"] == [HISTORY]
    expected = {"training_seconds": 10.0, "cpu_seconds": 13.0, "examples_per_sec": 5.0,
                "train_loss": 1.0, "test_acc": 0.3, **MACHINE}  # fmt: skip
    assert found == {**found, **expected}
    assert [c.execution_count for c in notebook.cells] == [None, None, None, None, 1, 2]
    record.main([path, "--skip-training"])
    assert kernel.calls == ["imports", "net", "seen", "data"]
    assert [c.execution_count for c in notebooks.read("nin").cells] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("options", [["--skip-training"], ["--folder", "runs"]])
@pytest.mark.parametrize(
    ("prints", "said"),
    [
        (("stderr", "a warning"), "wrote to stderr: a warning"),
        (("stdout", "{root}/x"), "shows a path"),
    ],
)
def test_what_must_not_be_published_is_refused(
    chapter, kernel, tmp_path, monkeypatch, options, prints, said
):
    path = chapter()
    before = notebooks.path("nin").read_bytes()
    monkeypatch.chdir(tmp_path)
    cell_id = "seen" if "--skip-training" in options else "after"
    kernel.prints[cell_id] = (prints[0], prints[1].format(root=tmp_path))
    refused(path, *options, match=f"cell {cell_id} {said}")
    assert notebooks.path("nin").read_bytes() == before


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


def refused(path, *options, match):
    """The recorder refuses before it starts a kernel."""
    with pytest.raises(SystemExit, match=match):
        record.main([path, *options])


def test_what_can_be_refused_is_refused_before_hours_are_spent(chapter, tmp_path, monkeypatch):
    monkeypatch.setattr(record.runs, "Kernel", None)
    path = chapter(train=TRAIN.replace("0.1", "missing_name"))
    refused(path, match=r"^record: chapters/nin\.ipynb: the training depends on missing_name")
    path = chapter(train=f"{TRAIN}\n{TRAIN}")
    refused(path, match="calls d2l.train_ch6 2 times")
    path = chapter(data="number = 8", seen=DATA)
    refused(path, match="depends on test_iter .*which cell seen binds")
    path = chapter()
    refused(str(tmp_path / "elsewhere" / "nin.ipynb"), match="is none of")
    refused(path, "--take", str(tmp_path / "none"), match="holds no whole training")
    notebooks.path("nin").chmod(0o444)
    refused(path, match=r"nin\.ipynb cannot be written to")
    notebooks.path("nin").chmod(0o644)
    chapter(commit=False, net=NET.replace("0.5", "0.4"))
    refused(path, match="uncommitted changes")
    path = chapter()
    (tmp_path / "d2lmini").unlink()
    (tmp_path / "d2lmini").symlink_to(tmp_path)  # another helper
    refused(path, match="uncommitted changes in d2lmini")


def test_a_kernel_with_another_helper_is_refused(chapter, monkeypatch):
    path = chapter()
    machine = {"helper": "/elsewhere"}
    monkeypatch.setattr(record.runs.Kernel, "call", lambda *_: machine)
    refused(path, match="imports the d2lmini of /elsewhere")


def test_an_edit_made_meanwhile_stays(chapter, monkeypatch, capsys):
    path = chapter()
    run = record.runs.Kernel.run

    def edited(kernel, cell):
        run(kernel, cell)
        chapter(commit=False, seen="print('edited')")

    monkeypatch.setattr(record.runs.Kernel, "run", edited)
    record.main([path, "--skip-training"])
    assert [c.source for c in notebooks.read("nin").cells if c.id == "seen"] == ["print('edited')"]
    assert outputs("seen") == [] and "cell seen was edited meanwhile" in capsys.readouterr().out
