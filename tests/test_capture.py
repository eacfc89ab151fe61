"""Replayed work, with an ordinary call in place of a CUDA graph: what a CPU can show of it."""

import contextlib
import random

import numpy as np
import pytest
import torch
from torch import nn

import d2lmini as d2l
from d2lmini import capture, train
from d2lmini.capture import Replayed, can_be_replayed
from d2lmini.data import ImageIterator


class StandIn(capture.GraphRecorder):
    """Records by keeping the work; fails at the calls in `failures`; notes what it is told to."""

    failures, notes = (), ()

    def __init__(self, net):
        self.net, self.replayed, self.why_not, self.places = net, [], None, None
        self.num_recorded = self.num_replays = self.num_closed = 0
        StandIn.last = self

    def record(self, work):
        self.num_recorded += 1
        if self.num_recorded in self.failures:
            raise RuntimeError("operation not permitted when stream is capturing")

        places = self.places_now()

        def replay():
            assert self.places_now() == places  # a graph would read what lies at the old ones
            self.num_replays += 1
            work()

        return replay

    @contextlib.contextmanager
    def rehearsal(self):
        yield list(self.notes)

    def close(self):
        self.give_up("training has ended")
        self.num_closed += 1


@pytest.fixture
def stand_in(monkeypatch):
    """Let a CPU replay."""
    monkeypatch.setattr(train, "GraphRecorder", StandIn)
    monkeypatch.setattr(train, "can_be_replayed", lambda net, it: type(it) is ImageIterator)
    monkeypatch.setattr(StandIn, "failures", ())
    monkeypatch.setattr(StandIn, "notes", ())
    StandIn.last = None
    return StandIn


def iterators(num_images=38, batch_size=8):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (num_images, 8, 8), generator=generator).to(torch.uint8)
    labels = torch.randint(3, (num_images,), generator=generator)
    return [ImageIterator(images, labels, batch_size, None, shuffle) for shuffle in (True, False)]


def network(*layers):
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), *layers, nn.Flatten(),
                         nn.Linear(4 * 36, 3))  # fmt: skip


def run(net, num_epochs=3, **arguments):
    return d2l.train_ch6(net, *iterators(), num_epochs, 0.1, "cpu", seed=2, **arguments)


def assert_same(net, history, other, expected):
    assert history.curve == expected.curve and history.test_acc == expected.test_acc
    for own, others in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(own, others)


@pytest.fixture
def expected():
    net = network()
    return net, run(net)


def test_replayed_training_is_the_ordinary_one(expected, stand_in):
    net = network()
    assert_same(net, run(net), *expected)
    # Three epochs of 4 whole batches and a shorter one for both, but for two calls each; a graph
    # for each size.
    recorder = stand_in.last
    assert (recorder.num_replays, recorder.num_recorded, recorder.num_closed) == (26, 4, 1)


@pytest.mark.parametrize("failures", [(1,), (2,), (1, 2, 3, 4), (3,)])
def test_a_capture_that_fails_leaves_the_ordinary_way(failures, expected, stand_in, monkeypatch):
    monkeypatch.setattr(stand_in, "failures", failures)
    net = network()
    assert_same(net, run(net), *expected)
    assert stand_in.last.num_replays < 26


def test_work_that_waits_for_the_gpu_is_not_captured(expected, stand_in, monkeypatch):
    monkeypatch.setattr(stand_in, "notes", ["called a synchronizing CUDA operation"])
    net = network()
    assert_same(net, run(net), *expected)
    assert stand_in.last.num_recorded == 0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_replayed_run_goes_on_from_its_checkpoint(stand_in, tmp_path, precision):
    straight, cut = network(), network()
    expected = run(straight, 4, precision=precision)
    for num_epochs in (1, 4):
        history = run(cut, num_epochs, precision=precision, checkpoint=tmp_path / "run.pt")
    assert_same(cut, history, straight, expected)


class Layer(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.act, self.calls, self.kept = act, 0, []
        self.register_buffer("average", torch.zeros(()))

    def forward(self, X):
        return X + 0 * self.act(self, X)


def count(layer, X):
    layer.calls += 1
    return 1


def keep(layer, X):
    layer.kept.append(1)
    return 1


def renew(layer, X):
    layer.average = 0.9 * layer.average + X.detach().mean()
    return 1


def same(layer, X):
    layer.calls, layer.side = 7 // 7, X.shape[-1]
    return 1


@pytest.mark.parametrize(
    ("act", "is_captured"),
    [
        (lambda layer, X: random.random(), False),
        (lambda layer, X: torch.rand(()), False),
        (lambda layer, X: np.random.rand(), False),
        (lambda layer, X: np.random.randn(), False),
        (count, False),
        (keep, False),
        (renew, False),
        (same, True),
        (lambda layer, X: 1, True),
    ],
)
def test_what_a_replay_would_leave_out_is_noticed(act, is_captured, stand_in):
    random.seed(0)
    np.random.seed(0)
    history = run(network(Layer(act)))
    assert history.stopped is None
    assert (stand_in.last.num_replays > 0) == is_captured


def renew_in(mode):
    return lambda layer, X: renew(layer, X) if layer.training == mode else 1


@pytest.mark.parametrize(("in_training", "num_replays"), [(True, 0), (False, 3)])
def test_training_and_evaluation_are_both_replayed_or_neither(
    in_training, num_replays, stand_in, monkeypatch
):
    """What one renews, the other may read; evaluation is met after an epoch of training."""
    net, other = (network(Layer(renew_in(in_training))) for _ in range(2))
    history = run(net)
    assert stand_in.last.num_replays == num_replays
    assert stand_in.last.why_not == "forward draws random numbers on the CPU, or keeps something"
    monkeypatch.setattr(train, "can_be_replayed", lambda *args: False)
    assert_same(net, history, other, run(other))


def test_a_tensor_that_has_moved_since_the_capture_ends_the_replays():
    net = network()
    recorder, done = StandIn(net), []
    replayed = Replayed(done.append, recorder)
    for indices in torch.arange(12).split(3):
        replayed(indices)
    replayed.look_again()
    assert recorder.num_replays == 2 and recorder.why_not is None
    net[1].running_mean = net[1].running_mean.clone()
    replayed.look_again()
    replayed(torch.arange(3))
    assert recorder.why_not == "forward renews parameters or buffers"
    assert recorder.num_replays == 2 and len(done) == 5


def test_it_says_why_not():
    net = network(Layer(count))
    replayed = Replayed(lambda indices: net(torch.rand(len(indices), 1, 8, 8)), StandIn(net))
    for _ in range(4):
        replayed(torch.arange(3))
    assert (
        replayed.recorder.why_not == "forward draws random numbers on the CPU, or keeps something"
    )
    assert replayed.num_ordinary == 4


def test_a_mistake_while_capturing_is_told_by_the_ordinary_call():
    net, calls = network(), []

    def work(indices):
        calls.append(len(indices))
        if len(indices) == 5:
            raise ValueError("five")

    recorder = StandIn(net)
    recorder.record = lambda work: work() or work
    replayed = Replayed(work, recorder)
    for size in (3, 3, 3):
        replayed(torch.arange(size))
    with pytest.raises(ValueError, match="five"):
        replayed(torch.arange(5))
    assert recorder.why_not == "capturing failed: ValueError: five" and not replayed.graphs


def test_the_indices_of_a_graph_are_its_own():
    net, seen = network(), []
    replayed = Replayed(lambda indices: seen.append(indices.tolist()), StandIn(net))
    batches = torch.arange(24).split(5)
    for indices in batches:
        replayed(indices)
    assert seen == [indices.tolist() for indices in batches]
    assert batches[2].tolist() == [10, 11, 12, 13, 14]


def test_on_a_cpu_nothing_is_captured():
    assert not can_be_replayed(network(), iterators()[0])


@pytest.fixture
def on_cuda(monkeypatch):
    """Networks that say they are on CUDA, at least to the question whether they can be replayed."""
    meta = torch.device("meta")
    monkeypatch.setattr(capture, "device_of", lambda net: Cuda(meta))


class Cuda:
    type = "cuda"

    def __init__(self, device):
        self.device = device

    def __eq__(self, other):
        return other == self.device


def test_what_is_known_beforehand_not_to_be_captured(on_cuda):
    train_iter, _ = iterators()
    assert can_be_replayed(network().to("meta"), train_iter)
    assert not can_be_replayed(network(), train_iter)  # elsewhere
    assert not can_be_replayed(network().to("meta"), train_iter.map(lambda X: X))
    assert not can_be_replayed(network().to("meta"), list(train_iter))
    assert not can_be_replayed(torch.compile(network().to("meta")), train_iter)
    assert not can_be_replayed(nn.DataParallel(network().to("meta")), train_iter)
    for register in (
        lambda net: net[0].register_forward_hook(print),
        lambda net: net[0].register_forward_pre_hook(print),
        lambda net: net[2].register_full_backward_hook(print),
        lambda net: net[0].weight.register_hook(print),
        lambda net: net[0].weight.register_post_accumulate_grad_hook(print),
    ):
        net = network().to("meta")
        register(net)
        assert not can_be_replayed(net, train_iter)
