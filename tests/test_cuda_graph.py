"""A training step as a CUDA graph, an ordinary call in its place: what a CPU can show of it."""

from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

from d2lmini import cuda_graph
from d2lmini import train as trainer
from tests.support import assert_same_weights, images, iterator, small_net, train


class StandIn(cuda_graph.GraphedStep):
    """Captures by keeping the work, and replays it with the indices that it was captured with."""

    def __init__(self, device):
        self.num_calls, self.indices, self.graph = 0, None, None
        self.num_captures = self.num_replays = self.num_closed = 0
        StandIn.made.append(self)

    def __call__(self, work, indices, full_size):
        if self.num_calls < 2 and len(indices) == full_size:  # the stream is CUDA's
            self.num_calls += 1
            work(indices)
        else:
            super().__call__(work, indices, full_size)

    def _capture(self, work, indices):
        self.indices, self.graph, self.work = indices.clone(), self, work
        self.num_captures += 1

    def replay(self):
        self.num_replays += 1
        self.work(self.indices)

    def close(self):
        self.graph = None
        self.num_closed += 1


@pytest.fixture
def stand_in(monkeypatch):
    """Let a CPU replay."""
    StandIn.made = []
    monkeypatch.setattr(trainer, "graphed_step", lambda data_iter: StandIn(data_iter.device))
    return StandIn


def network():
    return small_net().insert(1, nn.BatchNorm2d(4))


def run(net, num_epochs=3, **options):
    data = iterator(*images(38), 8, shuffle=True), iterator(*images(38), 8)
    return train(net, *data, num_epochs, seed=2, **options)


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_replayed_training_is_the_ordinary_one_and_goes_on_from_its_checkpoint(
    stand_in, precision, tmp_path
):
    net, other = network(), network()
    expected = run(other, precision=precision)
    assert not stand_in.made, "nothing of it runs unless it is asked for"
    for num_epochs in (1, 3):
        history = run(net, num_epochs, precision=precision, checkpoint=tmp_path / "run.pt",
                      cuda_graph=True)  # fmt: skip
    assert history.curve == expected.curve
    assert_same_weights(net, other)
    # Epochs of 4 full batches and a shorter one, but for two ordinary calls of each run.
    counts = [(graph.num_captures, graph.num_replays, graph.num_closed) for graph in stand_in.made]
    assert counts == [(1, 2, 1), (1, 6, 1)]


def test_a_capture_that_fails_ends_the_training_with_its_advice(stand_in, monkeypatch):
    def fail(self, work, indices):
        raise RuntimeError("leave it out")

    monkeypatch.setattr(stand_in, "_capture", fail)
    net = network()
    with pytest.raises(RuntimeError, match="leave it out") as caught:
        run(net, cuda_graph=True)
    assert caught.value.history.test_acc == [] and not net.training
    assert stand_in.made[0].num_closed == 1


def test_a_capture_that_fails_puts_back_the_stream_and_the_random_numbers(monkeypatch):
    """Played through with stand-ins for torch.cuda's calls: that they are made, not the GPU."""
    cuda = MagicMock()
    monkeypatch.setattr(torch, "cuda", cuda)
    monkeypatch.setattr(torch, "Generator", MagicMock())
    graph = cuda_graph.GraphedStep(torch.device("cuda:7"))

    def work(indices):
        if graph.indices is not None:  # it is being captured
            raise ValueError("looks at a value")

    for _ in range(2):
        graph(work, torch.arange(4), 4)
    with pytest.raises(RuntimeError, match=r"leave cuda_graph=True out \(looks at a value"):
        graph(work, torch.arange(4), 4)
    cuda.set_stream.assert_called_once_with(cuda.current_stream.return_value)
    cuda.set_rng_state.assert_called_once()
    cuda.default_generators.__getitem__.return_value.graphsafe_set_state.assert_called_once()
    assert graph.graph is None


def test_other_iterators_and_a_cpu_go_the_ordinary_way(monkeypatch):
    train_iter = iterator(*images())
    assert cuda_graph.graphed_step(train_iter) is None  # on a CPU
    monkeypatch.setattr(cuda_graph, "GraphedStep", lambda device: device)
    train_iter.device = torch.device("cuda:1")
    assert cuda_graph.graphed_step(train_iter) == train_iter.device
    assert cuda_graph.graphed_step(train_iter.map(torch.neg)) is None
    assert cuda_graph.graphed_step([]) is None
