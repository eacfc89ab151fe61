"""The measurements that need no reference package: what they write, and that they go on."""

import pytest
import torch
from torch import nn

from benchmarks import against_d2l, nin_starts
from tools import files, notebooks

pytestmark = pytest.mark.slow


def test_every_chapter_is_compared():
    assert list(against_d2l.SETTINGS) == notebooks.names()


def test_starts_are_stored_a_seed_at_a_time_and_gone_on_from(tmp_path, capsys):
    target = tmp_path / "starts.json"
    for seeds in ("1", "2"):
        nin_starts.main(["--epochs", "1", "--batch-size", "3", "--seeds", seeds,
                         "--output", str(target)])  # fmt: skip
    runs = files.read_json(target)["runs"]
    assert [run["seed"] for run in runs] == [0, 1]
    assert [len(run["curve"]) for run in runs] == [4, 4], "10 images make 4 batches of 3 or fewer"
    printed = capsys.readouterr().out
    assert printed.count("seed 0:") == 1, "the first seed ran twice"
    assert "2 seeds:" in printed
    with pytest.raises(SystemExit, match="runs of other settings"):
        nin_starts.main(["--epochs", "2", "--output", str(target)])
    assert files.read_json(target)["runs"] == runs


def test_starts_are_told_from_deaths():
    runs = [
        {"seed": seed, "started": started, "died": died, "curve": [point]}
        for seed, started, died, point in (
            (0, 0.8, None, (1, 1.9, 0.3)),
            (1, 1.4, None, (2, 1.1, 0.6)),
            (2, None, "all scores are zero", (1, 2.303, 0.1)),
            (3, None, None, (2, 2.303, 0.1)),
        )
    ]
    assert nin_starts.outcomes(runs) == (1, 1, 1, 1)
    words = ("by epoch 0.8", "by epoch 1.4", "all scores are zero", "has not started")
    assert all(word in nin_starts.describe(run) for word, run in zip(words, runs, strict=True))


def test_the_start_is_the_stretch_whose_own_loss_fell():
    # Means since the epoch began; the third stretch of the second epoch has a mean loss of 2.0.
    curve = [(0.5, 2.303, 0.1), (1, 2.303, 0.1),
             (1.25, 2.3, 0.1), (1.5, 2.3, 0.1), (1.75, 2.2, 0.2), (2, 2.0, 0.3)]  # fmt: skip
    assert nin_starts.start(curve) == 1.75
    assert nin_starts.start(curve[:4]) is None
    assert nin_starts.start([(1, 2.1, 0.3)]) == 1


def test_a_network_that_died_unnoticed_is_found():
    images = [(torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64))]
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert nin_starts.dead(net, images, "cpu") is None
    nn.init.zeros_(net[1].weight)  # what is left of the scores is the bias
    assert "4 test images" in nin_starts.dead(net, images, "cpu")


def test_the_precisions_compared_are_those_recorded():
    names = {"googlenet": "GoogLeNet", "nin": "NiN", "tf32": "TF32", "fp16": "fp16", "bf16": "bf16"}
    table = "".join(
        f"| {names[run['network']]}, {names[run['precision']]} | {run['seed']} | "
        + "".join(f"{accuracy:.3f} | " for accuracy in run["test_acc"][:5]).strip() + "\n"
        for run in files.read_json(notebooks.ROOT / "recordings" / "gpu-precisions.json")["runs"]
    )  # fmt: skip
    assert table in (notebooks.ROOT / "benchmarks" / "README.md").read_text("utf-8")
