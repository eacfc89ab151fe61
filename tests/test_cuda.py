"""On a CUDA GPU: the CPU's pixels, the CPU's training, and replayed steps that equal ordinary ones.

CI has no GPU: there a stand-in, which calls what a GPU replays, shows what a CPU can show, and the
rest is skipped. The glue of `cuda_graph=` has not been run on a card yet; what captures and replays
has.
"""

from unittest.mock import MagicMock

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import d2lmini as d2l
from d2lmini import cuda_graph
from d2lmini import train as trainer
from d2lmini.data import ImageIterator, resize_like_pil
from tests.support import assert_same_weights, raise_at, train

pytestmark = pytest.mark.filterwarnings("error:.*AccumulateGrad")  # streams that got mixed up
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
NUM_CLASSES, BATCH_SIZE, NUM_IMAGES = 5, 32, 9 * 32 + 7  # the last batch is shorter
NUM_REPLAYS = 25  # of three epochs of 9 full batches, but for two ordinary calls


def iterators(num_images=NUM_IMAGES, batch_size=BATCH_SIZE, resize=None):
    """Random images with a bright row that tells the class, for training and testing."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(NUM_CLASSES, (num_images,), generator=generator)
    images = torch.randint(100, (num_images, 12, 12), generator=generator).to(torch.uint8)
    for label in range(NUM_CLASSES):  # a brighter row for each class
        images[labels == label, 2 * label] += 150
    return [ImageIterator(images, labels, batch_size, resize, shuffle) for shuffle in (True, False)]


class Parallel(nn.Module):
    def __init__(self):
        super().__init__()
        self.paths = nn.ModuleList(nn.Conv2d(8, 4, k, padding=k // 2) for k in (1, 3, 5))

    def forward(self, X):
        return torch.cat([path(X).relu() for path in self.paths], dim=1)


class Layer(nn.Module):
    """Does what a function does."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


KINDS = {
    "plain": lambda: [nn.ReLU()],
    "batch norm": lambda: [nn.BatchNorm2d(8), nn.ReLU()],
    "dropout": lambda: [nn.ReLU(), nn.Dropout(0.3)],
    "parallel": lambda: [nn.ReLU(), Parallel(), nn.Conv2d(12, 8, 1), nn.ReLU()],
}


def network(kind="plain", *more):
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), *KINDS[kind](), nn.MaxPool2d(2), *more,
                         nn.Flatten(), nn.Linear(8 * 6 * 6, NUM_CLASSES))  # fmt: skip


def run(net, device, *, num_epochs=3, data=None, cuda_graph=True, **arguments):
    return train(net, *(data or iterators()), num_epochs, device=device, seed=3,
                 cuda_graph=cuda_graph, **arguments)  # fmt: skip


class StandIn(cuda_graph.GraphedStep):
    """Captures by keeping the work, and replays it with the indices that it was captured with."""

    def __init__(self):
        self.num_calls, self.indices, self.graph = 0, None, None

    def __call__(self, work, indices, full_size):
        if self.num_calls < 2 and len(indices) == full_size:  # the stream is CUDA's
            self.num_calls += 1
            work(indices)
        else:
            super().__call__(work, indices, full_size)

    def _capture(self, work, indices):
        self.indices, self.graph, self.work = indices.clone(), self, work

    def replay(self):
        self.work(self.indices)

    def close(self):
        self.graph = None


@pytest.fixture(params=["cpu", pytest.param("cuda:0", marks=needs_a_gpu)])
def device(request, monkeypatch):
    """A GPU, which replays, or a CPU, which the stand-in lets replay."""
    if request.param == "cpu":
        monkeypatch.setattr(trainer, "graphed_step", lambda data_iter: StandIn())
    return torch.device(request.param)


@pytest.fixture
def replays(monkeypatch):
    """The graph of each replay."""
    seen = []
    for kind in (torch.cuda.CUDAGraph, StandIn):

        def replay(graph, original=kind.replay):
            seen.append(graph)
            original(graph)

        monkeypatch.setattr(kind, "replay", replay)
    return seen


def assert_same_results(history, expected, tolerance):
    for name in ("train_loss", "train_acc", "test_acc"):
        curve = pytest.approx(getattr(expected, name), rel=tolerance, abs=tolerance)
        assert getattr(history, name) == curve


# --- pixels --------------------------------------------------------------------------------------


@needs_a_gpu
@pytest.mark.parametrize("side", [28, 96, 224, 227])
def test_pixels_are_the_cpus(side):
    generator = torch.Generator().manual_seed(side)
    images = torch.randint(256, (10_000, 28, 28), generator=generator).to(torch.uint8)
    on_cpu = ImageIterator(images, torch.arange(10_000), 500, None if side == 28 else side)
    for (X, y), (X_cuda, y_cuda) in zip(on_cpu, on_cpu.to(CUDA), strict=True):
        assert X_cuda.device == CUDA and torch.equal(X, X_cuda.cpu())
        assert torch.equal(y, y_cuda.cpu())
    assert torch.equal(resize_like_pil(images[:64], 20),
                       resize_like_pil(images[:64].to(CUDA), 20).cpu())  # fmt: skip


# --- training ------------------------------------------------------------------------------------


# Of the losses; fp16 leaves out the first steps, until its scale is small enough.
TOLERANCES = {"fp32": 1e-3, "tf32": 0.02, "bf16": 0.06, "fp16": 0.5}


@needs_a_gpu
@pytest.mark.parametrize("cuda_graph", [True, False])
@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("kind", KINDS)
def test_training_and_evaluation_reach_the_cpus_result(kind, precision, cuda_graph, replays):
    tolerance = TOLERANCES[precision]
    if kind == "dropout":  # it draws other numbers
        tolerance = max(tolerance, 0.15)
    net = network(kind).to(CUDA)  # it may be there already
    history = run(net, None, precision=precision, cuda_graph=cuda_graph)
    on_cpu = run(network(kind), CPU, precision="fp32")
    assert history.precision == precision and history.device == "cuda:0"
    assert history.stopped is None and len(replays) == NUM_REPLAYS * cuda_graph
    assert history.train_loss == pytest.approx(on_cpu.train_loss, rel=tolerance, abs=0.01)
    assert history.test_acc[-1] == pytest.approx(on_cpu.test_acc[-1], abs=0.1)
    _, test_iter = iterators()
    on_cuda = d2l.evaluate_accuracy_gpu(net, test_iter)
    assert on_cuda == pytest.approx(d2l.evaluate_accuracy_gpu(net.cpu(), test_iter), abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("device", "precision"),
    [("cpu", "tf32"), *(pytest.param("cuda:0", p, marks=needs_a_gpu) for p in TOLERANCES)],
    indirect=["device"],
)
def test_replayed_steps_equal_ordinary_ones(kind, precision, device, replays):
    net, other = network(kind), network(kind)
    history = run(net, device, precision=precision)
    random_states = [torch.get_rng_state()]
    if device.type == "cuda":
        random_states.append(torch.cuda.get_rng_state())
    assert len(replays) == NUM_REPLAYS
    expected = run(other, device, precision=precision, cuda_graph=False)
    assert len(replays) == NUM_REPLAYS and torch.equal(torch.get_rng_state(), random_states[0])
    assert device.type == "cpu" or torch.equal(torch.cuda.get_rng_state(), random_states[1])
    # cuDNN's TF32 gradients differ in their last bits from run to run, without graphs too.
    tolerance = 0 if device.type == "cpu" else 1e-2 if precision == "tf32" else 1e-3
    assert_same_results(history, expected, tolerance)
    assert_same_weights(net, other, rtol=min(1e-2, 10 * tolerance), atol=tolerance)


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_a_run_goes_on_from_its_checkpoint(tmp_path, precision, device, replays):
    straight, cut = network("dropout"), network("dropout")
    expected = run(straight, device, num_epochs=4, precision=precision)
    for num_epochs, place in ((2, device), (4, device.type)):  # "cuda" is cuda:0
        history = run(cut, place, num_epochs=num_epochs, precision=precision,
                      checkpoint=tmp_path / "run.pt")  # fmt: skip
    assert len(replays) == 34 + 2 * 16
    tolerance = 0 if device.type == "cpu" else 2e-3
    assert_same_results(history, expected, tolerance)
    assert_same_weights(cut, straight, rtol=5 * tolerance, atol=tolerance)


def test_training_that_cannot_help_is_noticed(device):
    history = run(network(), device, num_epochs=5, lr=1e30)
    assert "the loss became" in history.stopped and len(history.test_acc) < 5
    dead = network().append(nn.ReLU())
    nn.init.constant_(dead[-2].bias, -1e4)
    assert "exactly 0 in epoch 1" in run(dead, device).stopped


def test_labels_out_of_range_are_refused_before_the_first_step(device):
    data = iterators()
    data[0].labels[-1] = NUM_CLASSES
    with pytest.raises(ValueError, match="labels from 0 to 5, but the network has 5 scores"):
        run(network(), device, data=data)


# --- what is not captured ------------------------------------------------------------------------


def look_at_values(X):
    return X if X.mean().item() > -1e9 else -X


def make_a_mistake(X):
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError("some mistake")
    return X


def settings():
    cudnn = torch.backends.cudnn
    return (torch.get_float32_matmul_precision(), cudnn.benchmark, cudnn.allow_tf32,
            torch.cuda.get_sync_debug_mode(), torch.cuda.current_stream())  # fmt: skip


@needs_a_gpu
@pytest.mark.parametrize("function", [look_at_values, make_a_mistake])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_cannot_be_captured_says_to_leave_the_argument_out(function, precision, replays):
    before = settings()
    with pytest.raises(RuntimeError, match="leave cuda_graph=True out"):
        run(network("dropout", Layer(function)), CUDA, precision=precision)
    assert settings() == before
    ordinary = run(network("dropout", Layer(function)), CUDA, precision=precision, cuda_graph=False)
    assert ordinary.stopped is None and replays == []
    # Random numbers work as before.
    assert torch.rand(4, device=CUDA).unique().numel() == 4
    assert run(network("dropout"), CUDA, precision=precision).stopped is None
    assert len(replays) == NUM_REPLAYS and settings() == before


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


def test_ctrl_c_keeps_what_was_trained_and_gives_the_graph_back(device, replays, monkeypatch):
    net, closed = network(), []
    for kind in (cuda_graph.GraphedStep, StandIn):

        def close(step, original=kind.close):
            closed.append(step)
            original(step)

        monkeypatch.setattr(kind, "close", close)
    raise_at(2, net, KeyboardInterrupt, training=False)
    history = run(net, device)
    assert history.stopped == "interrupted" and len(history.train_loss) == 1
    assert len(replays) == 7 and len(closed) == 1
    assert next(net.parameters()).device == device and not net.training


def test_other_iterators_and_a_cpu_go_the_ordinary_way(monkeypatch):
    train_iter, _ = iterators()
    assert cuda_graph.graphed_step(train_iter) is None  # on a CPU
    monkeypatch.setattr(cuda_graph, "GraphedStep", lambda device: device)
    train_iter.device = torch.device("cuda:1")
    assert cuda_graph.graphed_step(train_iter) == train_iter.device
    assert cuda_graph.graphed_step(train_iter.map(torch.neg)) is None
    assert cuda_graph.graphed_step([]) is None


@needs_a_gpu
def test_other_iterators_train_on_a_gpu(replays):
    train_iter, test_iter = iterators()
    run(network(), CUDA, num_epochs=1, data=(train_iter.map(lambda X: X.flip(-1)), test_iter))
    images, labels = train_iter.images.unsqueeze(1) / 255, train_iter.labels
    loader = DataLoader(TensorDataset(images, labels), BATCH_SIZE, shuffle=True, num_workers=1)
    history = run(network(), CUDA, num_epochs=2, data=(loader, loader))
    assert replays == [] and history.train_loss[1] < history.train_loss[0]


# --- memory --------------------------------------------------------------------------------------


@needs_a_gpu
def test_the_graphs_memory_is_given_back():
    def held_by(**arguments):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        run(network("parallel", nn.AdaptiveMaxPool2d(6)), CUDA,
            data=iterators(2500, 512, resize=96), **arguments)  # fmt: skip
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved() - before

    held_by()  # libraries load
    assert held_by() <= held_by(cuda_graph=False) + 2**21


@needs_a_gpu
def test_memory_that_runs_out_is_explained():
    net = network("plain", nn.AdaptiveMaxPool2d(6))
    data = iterators(20_000, 8192, resize=224)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.set_per_process_memory_fraction(2 * 2**30 / total)
    try:
        with pytest.raises(RuntimeError, match=r"out of memory .*try batches of 4096"):
            run(net, CUDA, data=data)
        assert run(network(), CUDA).stopped is None
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
