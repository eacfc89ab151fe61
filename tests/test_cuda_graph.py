"""A training step as a CUDA graph, an ordinary call in its place: what a CPU can show of it."""

import pytest
import torch
from torch import nn

import d2lmini as d2l
from d2lmini import cuda_graph, train
from d2lmini.data import ImageIterator


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
    monkeypatch.setattr(train, "graphed_step", lambda data_iter: StandIn(data_iter.device))
    return StandIn


def iterators(num_images=38, batch_size=8):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (num_images, 8, 8), generator=generator).to(torch.uint8)
    labels = torch.randint(3, (num_images,), generator=generator)
    return [ImageIterator(images, labels, batch_size, None, shuffle) for shuffle in (True, False)]


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
                         nn.Linear(4 * 36, 3))  # fmt: skip


def run(net, num_epochs=3, data=None, **arguments):
    data = data or iterators()
    return d2l.train_ch6(net, *data, num_epochs, 0.1, "cpu", seed=2, **arguments)


def assert_same(net, history, other, expected):
    assert history.curve == expected.curve and history.test_acc == expected.test_acc
    for own, others in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(own, others)


def test_replayed_training_is_the_ordinary_one(stand_in):
    net, other = network(), network()
    expected = run(other)
    assert not stand_in.made, "nothing of it runs unless it is asked for"
    assert_same(net, run(net, cuda_graph=True), other, expected)
    # Three epochs of 4 full batches and a shorter one, but for two ordinary calls.
    (graph,) = stand_in.made
    assert (graph.num_captures, graph.num_replays, graph.num_closed) == (1, 10, 1)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_replayed_run_goes_on_from_its_checkpoint(stand_in, tmp_path, precision):
    straight, cut = network(), network()
    expected = run(straight, 4, precision=precision)
    for num_epochs in (1, 4):
        history = run(cut, num_epochs, precision=precision, checkpoint=tmp_path / "run.pt",
                      cuda_graph=True)  # fmt: skip
    assert_same(cut, history, straight, expected)


def test_a_capture_that_fails_ends_the_training_with_advice(stand_in, monkeypatch):
    def fail(self, work, indices):
        raise RuntimeError("a step of this network cannot be captured; leave cuda_graph=True out")

    monkeypatch.setattr(stand_in, "_capture", fail)
    net = network()
    with pytest.raises(RuntimeError, match="leave cuda_graph=True out") as caught:
        run(net, cuda_graph=True)
    assert caught.value.history.test_acc == [] and not net.training
    assert stand_in.made[0].num_closed == 1


def test_other_iterators_and_a_cpu_go_the_ordinary_way(monkeypatch):
    train_iter, _ = iterators()
    assert cuda_graph.graphed_step(train_iter) is None  # on a CPU
    monkeypatch.setattr(cuda_graph, "GraphedStep", lambda device: device)
    train_iter.device = torch.device("cuda:1")
    assert cuda_graph.graphed_step(train_iter) == train_iter.device
    assert cuda_graph.graphed_step(train_iter.map(torch.neg)) is None
    assert cuda_graph.graphed_step([]) is None


def test_a_capture_that_fails_puts_back_the_stream_and_the_random_numbers(monkeypatch):
    """Played through with stand-ins for torch.cuda's calls: the order, not the GPU."""
    done = []

    class Playing:
        def __init__(self, name=""):
            self.name = name

        def __getattr__(self, name):
            return Playing(f"{self.name}.{name}".strip("."))

        def __call__(self, *args, **kwargs):
            done.append(self.name)
            return self

        def __getitem__(self, index):
            return self

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return False

    monkeypatch.setattr(torch, "cuda", Playing())
    monkeypatch.setattr(torch, "Generator", Playing("Generator"))
    cuda_graph._capture_stream.cache_clear()
    graph = cuda_graph.GraphedStep(torch.device("cuda:0"))

    def work(indices):
        if graph.indices is not None:  # it is being captured
            raise ValueError("looks at a value")

    for _ in range(2):
        graph(work, torch.arange(4), 4)
    with pytest.raises(RuntimeError, match=r"leave cuda_graph=True out \(looks at a value"):
        graph(work, torch.arange(4), 4)
    cuda_graph._capture_stream.cache_clear()
    assert done[-5:] == ["set_stream", "synchronize", "Generator",
                         "graphsafe_get_state", "graphsafe_set_state"] or (
        {"set_stream", "synchronize", "set_rng_state"} <= set(done[-8:]))  # fmt: skip
    assert graph.graph is None
