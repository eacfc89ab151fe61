"""The recording tool on a small chapter of its own, in a repository of its own."""

import json
import subprocess

import nbformat
import pytest

from tools import notebooks, record

DESCRIPTION = {"network": "NiN", "label": "NiN", "year": 2013, "idea": "1×1卷积"}
IMPORTS = "import torch\nfrom torch import nn\n\nimport d2lmini as d2l"
NET = "net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10))"
TRAIN = """train_iter, test_iter = d2l.load_data_fashion_mnist(8)
history = d2l.train_ch6(net, train_iter, test_iter, EPOCHS, LR)"""


def cell(cell_id, source, *tags):
    new = nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)})
    new["id"] = cell_id
    return new


def git(root, *words):
    identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    subprocess.run(["git", "-C", root, *identity, *words], check=True, capture_output=True)


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    """Write and commit a chapter with the given last cells; returns its path."""
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(record, "RECORDINGS", tmp_path / "recordings")
    (tmp_path / "chapters").mkdir()
    (tmp_path / "_toc.yml").write_text("chapters:\n- file: chapters/nin\n")
    git(tmp_path, "init", "-q")

    def write(*cells):
        path = tmp_path / "chapters" / "nin.ipynb"
        cells = [cell("imports", IMPORTS), *cells]
        metadata = {"chapter": DESCRIPTION}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "-q", "--allow-empty", "-m", "chapter")
        return path

    return write


def training_chapter(chapter, lr, epochs=2):
    train = TRAIN.replace("LR", str(lr)).replace("EPOCHS", str(epochs))
    return chapter(
        cell("net", NET, "net"),
        cell("train", train, "training", "nbval-ignore-output"),
        cell("after", "print(len(history.test_acc))", "trained", "nbval-ignore-output"),
    )


@pytest.mark.slow
def test_full_recording_stores_what_ran(chapter, tmp_path):
    path = training_chapter(chapter, 0.1)
    arguments = [str(path), "--seeds", "2", "--checkpoint-dir", str(tmp_path / "runs")]
    record.main(arguments)
    notebook = nbformat.read(path, 4)
    stored = json.loads((tmp_path / "recordings" / "nin.json").read_text())
    assert stored["record"] == notebook.metadata["d2lmini"]
    assert [history["seed"] for history in stored["histories"]] == [0, 1]
    assert stored["histories"][0]["train_loss"] != stored["histories"][1]["train_loss"]
    assert stored["record"]["code_hash"] == notebooks.code_hash(notebook)
    assert [c.execution_count for c in notebook.cells] == [1, 2, 3, 4]
    first, figure, last = notebook.cells[2].outputs
    assert first.text.startswith(f"training on {stored['record']['device']}\n")
    assert "<figure" in figure.data["text/html"]
    assert f"test acc {stored['record']['test_acc']:.3f}\n" in last.text
    assert notebook.cells[3].outputs[0].text == "2\n"

    # Recorded again from the checkpoints: no training is left to do, the result is the same.
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "recorded")
    record.main(arguments)
    again = json.loads((tmp_path / "recordings" / "nin.json").read_text())
    assert again["histories"] == stored["histories"]
    recorded = nbformat.read(path, 4).cells[2].outputs
    assert (
        "nothing is trained" in recorded[0].text and recorded[1:] == notebook.cells[2].outputs[1:]
    )

    # Without training, what belongs to this code stays; a record of other code goes.
    record.main([str(path), "--skip-training"])
    assert nbformat.read(path, 4).cells[2].outputs == recorded
    notebook.cells[1].source += "  # changed"
    nbformat.write(notebook, path)
    record.main([str(path), "--skip-training"])
    changed = nbformat.read(path, 4)
    assert "d2lmini" not in changed.metadata and changed.cells[2].outputs == []


@pytest.mark.slow
@pytest.mark.parametrize(("lr", "epochs"), [("1e38", 2), ("0.1", "missing_name")])
def test_nothing_is_saved_when_training_fails(chapter, lr, epochs):
    path = training_chapter(chapter, lr, epochs)
    before = path.read_bytes()
    with pytest.raises((SystemExit, Exception), match=r"nothing is saved|missing_name"):
        record.main([str(path)])
    assert path.read_bytes() == before
    assert not record.RECORDINGS.exists()


def test_uncommitted_code_is_refused(chapter):
    path = training_chapter(chapter, 0.1)
    notebook = nbformat.read(path, 4)
    notebook.cells[1].source += "  # not committed"
    nbformat.write(notebook, path)
    with pytest.raises(SystemExit, match="uncommitted changes"):
        record.main([str(path)])


def test_a_fault_is_told_before_hours_of_training(chapter):
    path = training_chapter(chapter, "missing_name")
    with pytest.raises(SystemExit, match=r"^record: chapters/nin\.ipynb: lr .* is `missing_name`;"):
        record.main([str(path)])


def test_unknown_notebook_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="none of the chapters"):
        record.main([str(tmp_path / "other.ipynb")])


def test_output_on_stderr_is_refused():
    notebook = nbformat.v4.new_notebook(cells=[cell("loud", "")])
    notebook.cells[0].outputs = [nbformat.v4.new_output("stream", name="stderr", text="oh")]
    with pytest.raises(SystemExit, match="cell loud wrote to stderr: oh"):
        record.check(notebook, "nin")
