"""The measurements that need no reference package: what they write, and that they go on."""

import pytest

from benchmarks import nin_starts
from tools import files, notebooks

pytestmark = pytest.mark.slow


def test_starts_are_stored_a_seed_at_a_time_and_gone_on_from(tmp_path, capsys):
    target = tmp_path / "starts.json"
    options = ["--batch-size", "3", "--output", str(target)]
    for seeds in ("1", "2"):
        nin_starts.main(["--epochs", "1", "--seeds", seeds, *options])
    runs = files.read_json(target)["runs"]
    assert [(run["seed"], len(run["curve"])) for run in runs] == [(0, 4), (1, 4)]  # of 10 images
    assert capsys.readouterr().out.count("seed 0:") == 1, "the first seed ran twice"
    with pytest.raises(SystemExit, match="runs of other settings"):
        nin_starts.main(["--epochs", "2", *options])
    assert files.read_json(target)["runs"] == runs


def test_the_start_is_the_stretch_whose_own_loss_fell():
    # Means since the epoch began; the third stretch of the second epoch has a mean loss of 2.0.
    curve = [(0.5, 2.303, 0.1), (1, 2.303, 0.1),
             (1.25, 2.3, 0.1), (1.5, 2.3, 0.1), (1.75, 2.2, 0.2), (2, 2.0, 0.3)]  # fmt: skip
    assert nin_starts.start(curve) == 1.75
    assert nin_starts.start(curve[:4]) is None
    assert nin_starts.start([(1, 2.1, 0.3)]) == 1


def test_the_precisions_compared_are_those_recorded():
    names = {"googlenet": "GoogLeNet", "nin": "NiN", "tf32": "TF32"}
    rows = []
    for run in files.read_json(notebooks.ROOT / "recordings" / "gpu-precisions.json")["runs"]:
        precision = names.get(run["precision"], run["precision"])
        accuracies = " | ".join(f"{accuracy:.3f}" for accuracy in run["test_acc"][:5])
        rows.append(f"| {names[run['network']]}, {precision} | {run['seed']} | {accuracies} |\n")
    assert "".join(rows) in (notebooks.ROOT / "benchmarks" / "README.md").read_text("utf-8")
