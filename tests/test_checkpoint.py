"""Checkpoints: a killed run ends as an unbroken one, and only its own file is taken up."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import d2lmini as d2l
from d2lmini import checkpoint

ROOT = Path(__file__).parents[1]

# Runs each line of its input, `path num_epochs kill result`, in a process of its own that trains on
# the sample, in a shuffled order and with dropout; prints how each ended. Forked, for importing
# torch anew each time would take most of the time.
PROGRAM = """
import os, signal, sys
import torch
from torch import nn
import d2lmini as d2l
from d2lmini.checkpoint import Checkpoint

torch.set_num_threads(1)
original_save, original_torch_save = Checkpoint.save, torch.save
saves = 0

def save_and_die(*args):
    global saves
    original_save(*args)
    saves += 1
    if saves == 2:
        os.kill(os.getpid(), signal.SIGKILL)

def die_in_the_middle(content, file):
    global saves
    saves += 1
    if saves == 2:
        file.write(b"PK half a file" * 1000)
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    original_torch_save(content, file)

def train(path, num_epochs, kill, result):
    if kill == "after_saving":
        Checkpoint.save = save_and_die
    if kill == "while_saving":
        torch.save = die_in_the_middle
    train_iter, test_iter = d2l.load_data_fashion_mnist(3)
    torch.manual_seed(5)  # the biases
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(),
        nn.Linear(4 * 13 * 13, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 10))
    history = d2l.train_ch6(net, train_iter, test_iter, int(num_epochs), 0.1, "cpu", seed=3,
                            checkpoint=None if path == "-" else path)
    original_torch_save({
        "net": net.state_dict(), "loss": history.train_loss, "acc": history.test_acc,
        "curve": history.curve, "seconds": history.train_seconds}, result)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        train(*line.split())
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    path = line.split()[0]
    content = torch.load(path, weights_only=True) if os.path.exists(path) else None
    epochs = len(content["state"]["history"]["test_acc"]) if content else 0
    print("ended", os.waitstatus_to_exitcode(status), epochs, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.slow
def test_killed_runs_go_on_to_the_same_result(tmp_path):
    """Killed after the second epoch was saved, and while the second epoch was being saved."""
    runs = [  # (checkpoint, num_epochs, kill, result), (exit code, epochs in the checkpoint)
        (("after_saving", 4, "after_saving", "never"), (-signal.SIGKILL, 2)),
        (("while_saving", 4, "while_saving", "never"), (-signal.SIGKILL, 1)),
        (("after_saving", 4, "-", "after_saving.result"), (0, 4)),
        (("while_saving", 3, "-", "three"), (0, 3)),
        (("while_saving", 4, "-", "while_saving.result"), (0, 4)),
        (("-", 4, "-", "unbroken"), (0, 0)),
    ]
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, timeout=600,
        input="".join(" ".join(map(str, arguments)) + "\n" for arguments, _ in runs),
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    ends = [line.split()[1:] for line in finished.stdout.splitlines() if line.startswith("ended")]
    assert [tuple(map(int, end)) for end in ends] == [end for _, end in runs]

    expected = torch.load(tmp_path / "unbroken", weights_only=True)
    for kill in ("after_saving", "while_saving"):
        found = torch.load(tmp_path / f"{kill}.result", weights_only=True)
        assert found["net"].keys() == expected["net"].keys()
        for name, tensor in expected["net"].items():
            assert torch.equal(found["net"][name], tensor), (kill, name)
        for name in ("loss", "acc", "curve"):
            assert found[name] == expected[name], (kill, name)
        assert len(found["seconds"]) == 4
    assert len(list(tmp_path.glob("*.part"))) == 1  # what was being written


def net(width=4):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Dropout(), nn.Linear(width, 10)
    )


def run(path, network=None, *, num_epochs=1, lr=0.1, batch_size=3, resize=None, generator=None,
        **arguments):  # fmt: skip
    train_iter, test_iter = d2l.load_data_fashion_mnist(batch_size, resize, generator=generator)
    network = network if network is not None else net()
    return d2l.train_ch6(network, train_iter, test_iter, num_epochs, lr, "cpu",
                         **{"seed": 0, **arguments}, checkpoint=path)  # fmt: skip


def test_a_finished_run_is_not_repeated_and_more_epochs_go_on(tmp_path, capsys):
    path = tmp_path / "new folder" / "run.pt"
    first = run(path, num_epochs=2)
    again = net()
    repeated = run(path, again, num_epochs=2)
    assert repeated == first
    saved = torch.load(path, weights_only=True)["state"]["net"]
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, saved[name])
    more = run(path, num_epochs=3)
    assert len(more.test_acc) == 3
    assert more.train_loss[:2] == first.train_loss
    assert more.train_seconds[:2] == first.train_seconds
    assert capsys.readouterr().out.count("training on cpu") == 3


def test_the_loaders_own_generator_goes_on_too(tmp_path):
    class Remembering(nn.Linear):
        """Notes which images it is shown."""

        seen = None

        def forward(self, X):
            if self.training:
                self.seen.append(X.detach().sum(dim=1))
            return super().forward(X)

    def orders(parts):
        network = nn.Sequential(nn.Flatten(), Remembering(784, 10))
        network[1].seen = []
        for path, num_epochs in parts:
            run(path, network, num_epochs=num_epochs, generator=torch.Generator().manual_seed(9))
        return torch.cat(network[1].seen)

    in_one = orders([(tmp_path / "a", 3)])
    in_two = orders([(tmp_path / "b", 1), (tmp_path / "b", 3)])
    assert torch.equal(in_one, in_two)
    assert not torch.equal(in_one[:10], in_one[10:20])


@pytest.mark.parametrize(
    "changed, difference",
    [
        ({"network": net(5)}, "its network differs"),
        ({"network": nn.Sequential(*net(), nn.ReLU())}, "its network differs"),
        ({"lr": 0.2}, r"lr is 0\.1, this run's is 0\.2"),
        ({"seed": 1}, r"seed is 0, this run's is 1"),
        ({"seed": None}, r"seed is 0, this run's is None"),
        ({"batch_size": 4}, r"batch_size is 3, this run's is 4"),
        ({"precision": "bf16"}, r"number format is 'fp32, channels last', .* is 'bf16'"),
        ({"precision": "fp32"}, r"number format is 'fp32, channels last', .* is 'fp32'"),
        ({"init_weights": False}, r"init_weights is True, this run's is '\w+'"),
        ({"generator": torch.Generator()}, r"own generator is False, this run's is True"),
    ],
)
def test_another_run_is_refused_with_the_difference_named(tmp_path, changed, difference):
    path = tmp_path / "run.pt"
    run(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=difference) as caught:
        run(path, **changed)
    assert "name another file" in str(caught.value) and path.name in str(caught.value)
    assert path.read_bytes() == before


def test_another_image_size_is_refused(tmp_path):
    def any_size():
        return nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(49, 10))

    run(tmp_path / "run.pt", any_size())
    with pytest.raises(ValueError, match=r"resize is None, this run's is 32"):
        run(tmp_path / "run.pt", any_size(), resize=32)


@pytest.mark.parametrize("kind", ["text", "empty", "truncated", "weights", "tensor", "foreign"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, kind):
    path = tmp_path / "run.pt"
    if kind == "truncated":
        run(path)
        path.write_bytes(path.read_bytes()[:-500])
    elif kind in ("text", "empty"):
        path.write_bytes(b"not a checkpoint at all" if kind == "text" else b"")
    else:
        content = {"weights": net().state_dict(), "tensor": torch.zeros(3), "foreign": {
            "settings": ["lr"], "state": 3}}[kind]  # fmt: skip
        torch.save(content, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"is not a checkpoint of train_ch6") as caught:
        run(path)
    assert path.name in str(caught.value) and len(str(caught.value)) < 300 + len(str(path))
    assert path.read_bytes() == before


def test_a_file_that_cannot_be_read_just_now_is_not_called_bad(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    run(path)

    def lost(*args, **kwargs):
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr(Path, "read_bytes", lost)
    with pytest.raises(OSError, match="not connected"):
        run(path)


def test_seeds_of_numpy_are_numbers_too(tmp_path):
    first = run(tmp_path / "run.pt", seed=np.int64(3))
    again = run(tmp_path / "run.pt", seed=np.int64(3))
    assert first.seed == 3 and again.test_acc == first.test_acc


def test_a_checkpoint_runs_no_code(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"settings": {}, "state": Malicious()}, tmp_path / "run.pt")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        run(tmp_path / "run.pt")
    assert not (tmp_path / "executed").exists()


def test_a_folder_is_refused_before_training(tmp_path, capsys):
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        run(tmp_path)
    assert "training on" not in capsys.readouterr().out


class Run:
    """What a file keeps of a run, without one."""

    def __init__(self, path, num_epochs=1):
        self.file, self.history = checkpoint.Checkpoint(path), d2l.History("cpu", "fp32")
        self.file.settings, self.history.test_acc = {"init_weights": True}, [0.5] * num_epochs

    def save(self):
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.file.save(net(), scaler, [], torch.device("cpu"), self.history)


def epochs_in(path):
    return len(torch.load(path)["state"]["history"]["test_acc"])


@pytest.mark.parametrize("moment", ["save", "replace", "mkdtemp"])
def test_a_failure_while_saving_is_a_warning_and_leaves_the_previous_file(
    tmp_path, monkeypatch, moment
):
    path = tmp_path / "run.pt"
    Run(path).save()

    def fail(*args):
        if moment == "save":
            args[1].write(b"half")
        raise OSError(28, "No space left on device")

    owner = {"save": torch, "replace": os, "mkdtemp": checkpoint.tempfile}[moment]
    monkeypatch.setattr(owner, moment, fail)
    with pytest.warns(UserWarning, match=r"epoch 2 not written.*No space"):
        Run(path, 2).save()
    assert epochs_in(path) == 1 and list(tmp_path.iterdir()) == [path]


def test_a_path_with_spaces_and_chinese_letters(tmp_path):
    path = tmp_path / "我的 模型" / "第1次.pt"
    run(str(path))
    assert path.is_file()
    assert len(run(str(path), num_epochs=2).test_acc) == 2


def test_a_hopeless_run_says_that_its_checkpoint_has_to_go(tmp_path):
    class Dying(nn.Module):
        """Scores that become zero for good in the second epoch."""

        calls = 0

        def forward(self, X):
            self.calls += self.training
            return X * 0 if self.calls > 4 else X

    path = tmp_path / "run.pt"
    history = run(path, nn.Sequential(*net(), Dying()), num_epochs=3)
    assert "exactly 0 in epoch 2" in history.stopped
    assert f"delete checkpoint={str(path)!r}" in history.stopped
    saved = torch.load(path, weights_only=True)["state"]["history"]
    assert len(saved["test_acc"]) == 1 and saved["stopped"] is None


def test_after_ctrl_c_the_last_whole_epoch_is_kept(tmp_path):
    class Interrupting(nn.Module):
        calls, armed = 0, True

        def forward(self, X):
            self.calls += self.training
            if self.armed and self.calls == 6:  # the second of the second epoch
                raise KeyboardInterrupt
            return X

    def network(armed):
        torch.manual_seed(1)
        made = nn.Sequential(*net(), Interrupting())
        made[-1].armed = armed
        return made

    assert run(tmp_path / "a", network(True), num_epochs=2).stopped == "interrupted"
    resumed, unbroken = network(False), network(False)
    history = run(tmp_path / "a", resumed, num_epochs=2)
    assert history.stopped is None
    expected = run(tmp_path / "b", unbroken, num_epochs=2)
    assert history.train_loss == expected.train_loss
    for own, other in zip(resumed.parameters(), unbroken.parameters(), strict=True):
        assert torch.equal(own, other)


# --- what a checkpoint knows ----------------------------------------------------------------------


def test_frozen_layers_make_another_run(tmp_path):
    path = tmp_path / "run.pt"
    run(path)
    frozen = net()
    frozen[1].requires_grad_(False)
    before = frozen[1].weight.clone()
    with pytest.raises(ValueError, match=r"parameters is .*frozen"):
        run(path, frozen)
    assert torch.equal(frozen[1].weight, before) and frozen.training


def test_own_weights_are_never_thrown_away(tmp_path, capsys):
    path, own = tmp_path / "run.pt", net()
    given = [p.detach().clone() for p in own.parameters()]
    run(path)
    with pytest.raises(ValueError, match="its init_weights is True"):
        run(path, own, init_weights=False)
    assert all(map(torch.equal, own.parameters(), given))
    run(tmp_path / "own.pt", own, init_weights=False)
    run(tmp_path / "own.pt", own, init_weights=False, num_epochs=2)  # what it has reached
    for parameter, value in zip(own.parameters(), given, strict=True):
        parameter.data.copy_(value)
    capsys.readouterr()
    run(tmp_path / "own.pt", own, init_weights=False, num_epochs=3)  # a new kernel's
    assert "going on from the checkpoint, 2 epochs done" in capsys.readouterr().out
    with pytest.raises(ValueError, match="its init_weights is '"):
        run(tmp_path / "own.pt", net(), init_weights=False, num_epochs=4)


def test_the_data_of_the_packages_iterators_is_known(tmp_path):
    path, (train_iter, test_iter) = tmp_path / "run.pt", d2l.load_data_fashion_mnist(3)
    d2l.train_ch6(net(), train_iter, test_iter, 1, 0.1, "cpu", seed=0, checkpoint=path)
    train_iter.labels = train_iter.labels.flip(0)
    with pytest.raises(ValueError, match="another run: its data is"):
        d2l.train_ch6(net(), train_iter, test_iter, 1, 0.1, "cpu", seed=0, checkpoint=path)


def test_an_edited_docstring_does_not_make_another_run(tmp_path):
    def network(text):
        class Documented(nn.Flatten):
            pass

        namespace = {}
        exec(f"def forward(self, X):\n    {text!r}\n    return X.flatten(1)", namespace)
        Documented.forward = namespace["forward"]
        return nn.Sequential(Documented(), nn.Linear(784, 10))

    run(tmp_path / "run.pt", network("one"))
    assert len(run(tmp_path / "run.pt", network("other"), num_epochs=2).test_acc) == 2


def test_auto_takes_the_format_of_its_file(tmp_path, monkeypatch):
    for first, other in (("bf16", "tf32"), ("tf32", "bf16")):
        path = tmp_path / f"{first}.pt"
        run(path, precision=first)
        monkeypatch.setattr("d2lmini.device._fastest", lambda device, other=other: other)
        assert len(run(path, precision="auto", num_epochs=2).test_acc) == 2


def test_a_file_of_the_earlier_form_says_so(tmp_path):
    path = tmp_path / "run.pt"
    run(path)
    content = torch.load(path)
    del content["settings"]["init_weights"]
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"written by an earlier d2lmini.*name another"):
        run(path)
    net().load_state_dict(torch.load(path)["state"]["net"])


def test_a_checkpoint_of_another_kind_of_device_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    run(path)
    content = torch.load(path)
    content["settings"]["device"] = "cuda"
    torch.save(content, path)
    with pytest.raises(ValueError, match="its device is 'cuda', this run's is 'cpu'"):
        run(path)


def test_two_runs_with_one_file_leave_it_whole(tmp_path, monkeypatch):
    """The second is saved while the first is being saved."""
    path, save = tmp_path / "run.pt", torch.save

    def save_both(content, file):
        monkeypatch.setattr(torch, "save", save)
        Run(path, 2).save()
        save(content, file)

    monkeypatch.setattr(torch, "save", save_both)
    Run(path).save()
    assert epochs_in(path) == 1 and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_a_warning_and_training_goes_on(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.warns(UserWarning, match="checkpoint of epoch . not written.*No space"):
        history = run(tmp_path / "run.pt", num_epochs=2)
    assert len(history.test_acc) == 2 and history.stopped is None
    assert not list(tmp_path.iterdir())


def test_a_run_that_trains_nothing_says_so(tmp_path, capsys):
    path = tmp_path / "run.pt"
    run(path, num_epochs=2)
    out = capsys.readouterr().out
    assert "nothing is trained" not in out and "going on" not in out
    run(path, num_epochs=2)
    assert "nothing is trained: the checkpoint holds 2 epochs already" in capsys.readouterr().out


def test_the_trained_weights_leave_a_checkpoint_as_the_docstring_says(tmp_path):
    path, trained = tmp_path / "c.pt", net()
    run(path, trained)
    line = 'net.load_state_dict(torch.load(checkpoint)["state"]["net"])'
    assert line in " ".join(d2l.train_ch6.__doc__.split())
    names = {"net": net(), "torch": torch, "checkpoint": path}
    exec(line, names)
    assert all(map(torch.equal, trained.parameters(), names["net"].parameters()))
