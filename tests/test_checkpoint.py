"""Checkpoints: a killed run ends as an unbroken one, and only its own file is taken up."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from d2lmini import checkpoint
from tests.support import Net, assert_same_weights, images, iterator, small_net, train


def run(path, net=None, *, batch_size=3, resize=None, generator=None, data_seed=0, **options):
    """Train on a shuffled order and with dropout, from weights and biases of a seed."""
    options = {"seed": 0, **options}
    net = small_net(dropout=0.5) if net is None else net
    data = images(side=8, seed=data_seed)
    train_iter = iterator(*data, batch_size, shuffle=True, resize=resize, generator=generator)
    return train(net, train_iter, iterator(*data, resize=resize), checkpoint=path, **options)


def epochs_in(path):
    return len(torch.load(path)["state"]["history"]["test_acc"])


# --- going on -------------------------------------------------------------------------------------


def normalised_net():
    return small_net(dropout=0.5).insert(1, nn.BatchNorm2d(4))


def train_and_die(path):
    """In a process of its own: four epochs, but for a kill when the third is half saved."""
    saves, save = [], torch.save

    def die(content, file):
        saves.append(1)
        if len(saves) == 3:
            file.write(b"PK half a file" * 1000)
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        save(content, file)

    torch.save = die
    run(path, normalised_net(), num_epochs=4)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_result(tmp_path):
    path, resumed, unbroken = tmp_path / "run.pt", normalised_net(), normalised_net()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=train_and_die, args=(path,))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL and epochs_in(path) == 2
    history = run(path, resumed, num_epochs=4)
    expected = run(None, unbroken, num_epochs=4)
    assert history.curve == expected.curve and len(history.train_seconds) == 4
    assert_same_weights(resumed, unbroken)


@pytest.mark.parametrize(("has_generator", "precision"), [(False, "fp16"), (True, "tf32")])
def test_a_run_goes_on_as_if_it_had_not_been_cut_off(tmp_path, has_generator, precision):
    """Weights, dropout, order, also one of the loader's own generator, and the scale of fp16."""
    nets = [small_net(dropout=0.5) for _ in range(3)]
    for path, net, num_epochs in (("a", nets[0], 2), ("b", nets[1], 1), ("b", nets[2], 2)):
        generator = torch.Generator().manual_seed(9) if has_generator else None
        run(tmp_path / path, net, num_epochs=num_epochs, generator=generator, precision=precision)
    assert_same_weights(nets[0], nets[2])


def test_a_finished_run_is_not_repeated_and_more_epochs_go_on(tmp_path, capsys):
    path, net, again = str(tmp_path / "我的 模型" / "第1次.pt"), small_net(), small_net()
    first = run(path, net, num_epochs=2)
    out = capsys.readouterr().out
    assert "nothing is trained" not in out and "going on" not in out
    assert run(path, again, num_epochs=2) == first
    assert "nothing is trained" in capsys.readouterr().out
    assert_same_weights(net, again)
    more = run(path, again, num_epochs=3)
    assert "going on from the checkpoint, 2 epochs done" in capsys.readouterr().out
    assert len(more.test_acc) == 3 and more.train_loss[:2] == first.train_loss
    assert more.train_seconds[:2] == first.train_seconds


@pytest.mark.parametrize("formats", [("bf16", "tf32"), ("tf32", "bf16")])
def test_auto_takes_the_format_of_its_file(tmp_path, monkeypatch, formats):
    run(tmp_path / "run.pt", precision=formats[0])
    monkeypatch.setattr("d2lmini.device._fastest", lambda device: formats[1])
    assert len(run(tmp_path / "run.pt", precision="auto", num_epochs=2).test_acc) == 2


def test_a_hopeless_run_says_that_its_checkpoint_has_to_go(tmp_path):
    path, net, calls = tmp_path / "run.pt", Net(), []

    def after(scores):  # they become zero for good in the second epoch
        calls.append(net.training)
        return scores * 0 if calls.count(True) > 4 else scores

    net.after = after
    history = run(path, net, num_epochs=3)
    assert "exactly 0 in epoch 2" in history.stopped
    assert f"delete checkpoint={str(path)!r}" in history.stopped
    assert epochs_in(path) == 1 and torch.load(path)["state"]["history"]["stopped"] is None


def test_own_weights_are_never_thrown_away(tmp_path):
    path, own = tmp_path / "own.pt", small_net(dropout=0.5)
    own[6].bias.data += 1
    given = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    run(path, own, init_weights=False)
    run(path, own, init_weights=False, num_epochs=2)  # from what it has reached
    own.load_state_dict(given)
    assert len(run(path, own, init_weights=False, num_epochs=3).test_acc) == 3  # a new kernel's
    with pytest.raises(ValueError, match="init_weights is '"):
        run(path, init_weights=False, num_epochs=4)


# --- another run, another file --------------------------------------------------------------------


def frozen_net():
    net = small_net(dropout=0.5)
    net[3].requires_grad_(False)
    return net


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"net": small_net(dropout=0.5).append(nn.ReLU())}, "its network differs"),
        ({"net": frozen_net()}, "its parameters differs"),
        ({"lr": 0.2}, r"lr is 0\.1, this run's is 0\.2"),
        ({"seed": None}, "seed is 0, this run's is None"),
        ({"batch_size": 4}, "batch_size is 3, this run's is 4"),
        ({"resize": 8}, "resize is None, this run's is 8"),
        ({"data_seed": 1}, "its data is"),
        ({"precision": "bf16"}, "number format is 'fp32, channels last', .* is 'bf16'"),
        ({"precision": "fp32"}, "number format is 'fp32, channels last', .* is 'fp32'"),
        ({"init_weights": False}, r"init_weights is True, this run's is '\w+'"),
        ({"generator": torch.Generator()}, "own generator is False, this run's is True"),
    ],
)
def test_another_run_is_refused_with_the_difference_named(tmp_path, changed, difference):
    path, net = tmp_path / "run.pt", changed.get("net") or small_net(dropout=0.5)
    run(path)
    before, weight = path.read_bytes(), net[6].weight.clone()
    with pytest.raises(ValueError, match=difference) as caught:
        run(path, **{"net": net, **changed})
    assert "name another file" in str(caught.value) and path.name in str(caught.value)
    assert path.read_bytes() == before and torch.equal(net[6].weight, weight)


class Malicious:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def change_the_device(path):
    content = torch.load(path)
    content["settings"]["device"] = "cuda"
    torch.save(content, path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_bytes(b"not a checkpoint at all"), "is not a checkpoint"),
        (lambda path: path.write_bytes(path.read_bytes()[:-500]), "is not a checkpoint"),
        (lambda path: torch.save(small_net().state_dict(), path), "is not a checkpoint"),
        (lambda path: torch.save({"settings": [3], "state": 3}, path), "is not a checkpoint"),
        (lambda path: torch.save({"settings": Malicious()}, path), "is not a checkpoint"),
        (lambda path: torch.save({"settings": {}, "state": {"net": 0, "history": 0}}, path),
         "earlier d2lmini.*name another"),
        (change_the_device, "its device is 'cuda', this run's is 'cpu'"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_and_stays(tmp_path, monkeypatch, spoil, words):
    path = tmp_path / "run.pt"
    run(path)
    spoil(path)
    before = path.read_bytes()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words) as caught:
        run(path)
    assert path.name in str(caught.value) and len(str(caught.value)) < 300 + len(str(path))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# --- saving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["save", "replace", "mkdtemp"])
def test_a_failure_while_saving_is_a_warning_and_leaves_the_previous_file(
    tmp_path, monkeypatch, moment
):
    path = tmp_path / "run.pt"
    run(path)

    def fail(*args):
        if moment == "save":
            args[1].write(b"half")
        raise OSError(28, "No space left on device")

    owner = {"save": torch, "replace": os, "mkdtemp": checkpoint.tempfile}[moment]
    monkeypatch.setattr(owner, moment, fail)
    with pytest.warns(UserWarning, match=r"epoch 2 not written.*No space"):
        history = run(path, num_epochs=2)
    assert len(history.test_acc) == 2 and history.stopped is None
    assert epochs_in(path) == 1 and list(tmp_path.iterdir()) == [path]


def test_two_runs_with_one_file_leave_it_whole(tmp_path, monkeypatch):
    """The second is saved while the first is being saved."""
    path, save = tmp_path / "run.pt", torch.save

    def save_both(content, file):
        monkeypatch.setattr(torch, "save", save)
        run(path, num_epochs=2)
        save(content, file)

    monkeypatch.setattr(torch, "save", save_both)
    run(path)
    assert epochs_in(path) == 1 and list(tmp_path.iterdir()) == [path]
