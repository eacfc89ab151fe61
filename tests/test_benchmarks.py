"""The measurements that need no reference package: what they write, and that they go on."""

import json

import pytest
import torch
from torch import nn

from benchmarks import nin_starts
from tools.notebooks import ROOT

pytestmark = pytest.mark.slow
ARGUMENTS = ["--epochs", "1", "--batch-size", "3"]


def test_starts_are_stored_a_seed_at_a_time_and_gone_on_from(tmp_path, capsys):
    target = tmp_path / "starts.json"
    for seeds in ("1", "2"):
        nin_starts.main([*ARGUMENTS, "--seeds", seeds, "--output", str(target)])
    runs = json.loads(target.read_text())["runs"]
    assert [run["seed"] for run in runs] == [0, 1]
    assert [len(run["curve"]) for run in runs] == [4, 4], "10 images make 4 batches of 3 or fewer"
    printed = capsys.readouterr().out
    assert printed.count("seed 0:") == 1, "the first seed ran twice"
    assert "2 seeds:" in printed

    with pytest.raises(SystemExit, match="runs of other settings"):
        nin_starts.main(["--epochs", "2", "--output", str(target)])
    assert json.loads(target.read_text())["runs"] == runs


def test_starts_are_told_from_deaths():
    alive = {"seed": 0, "started": 0.8, "died": None, "curve": [(1, 1.9, 0.3)]}
    late = {"seed": 1, "started": 1.4, "died": None, "curve": [(2, 1.1, 0.6)]}
    dead = {"seed": 2, "started": None, "died": "all scores are zero", "curve": [(1, 2.303, 0.1)]}
    flat = {"seed": 3, "started": None, "died": None, "curve": [(2, 2.303, 0.1)]}
    told = nin_starts.summary([alive, late, dead, flat])
    assert told == "4 seeds: 1 started in the first epoch, 1 later, 1 died, 1 neither"
    assert nin_starts.describe(dead) == "seed 2: all scores are zero"
    assert "has not started" in nin_starts.describe(flat)
    assert "started by epoch 1.4" in nin_starts.describe(late)


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
    assert "4 test images are all the same" in nin_starts.dead(net, images, "cpu")


def test_the_precisions_compared_are_those_recorded():
    record = json.loads((ROOT / "recordings" / "gpu-precisions.json").read_text("utf-8"))
    names = {"googlenet": "GoogLeNet", "nin": "NiN", "tf32": "TF32", "fp16": "fp16", "bf16": "bf16"}
    rows = [
        f"| {names[run['network']]}, {names[run['precision']]} | {run['seed']} | "
        + " | ".join(f"{accuracy:.3f}" for accuracy in run["test_acc"][:5])
        for run in record["runs"]
    ]
    table = "\n".join(f"{row} |" for row in rows)
    assert table in (ROOT / "benchmarks" / "README.md").read_text("utf-8")
