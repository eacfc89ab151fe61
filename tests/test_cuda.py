"""On a CUDA GPU: the CPU's pixels, the CPU's training, and replayed steps that equal ordinary ones.

Skipped where there is none: CI has no GPU. What a CPU can show is in test_cuda_graph.py.
The glue of `cuda_graph=` has not been run on a card yet; what captures and replays has.
"""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import d2lmini as d2l
from d2lmini import animator, cuda_graph
from d2lmini.data import ImageIterator, resize_like_pil

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here"),
    pytest.mark.filterwarnings("error:.*AccumulateGrad"),  # streams that got mixed up
]
CUDA = torch.device("cuda:0")
NUM_CLASSES, BATCH_SIZE, NUM_IMAGES = 5, 32, 9 * 32 + 7  # the last batch is shorter


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


def run(net, *, num_epochs=3, device=CUDA, data=None, cuda_graph=True, **arguments):
    return d2l.train_ch6(net, *(data or iterators()), num_epochs, 0.1, device, seed=3,
                         cuda_graph=cuda_graph, **arguments)  # fmt: skip


def ordinarily(net, **arguments):
    return run(net, cuda_graph=False, **arguments)


@pytest.fixture
def replays(monkeypatch):
    """The graphs of the runs that have one, and the number of replays."""
    seen = types.SimpleNamespace(made=[], count=0)
    init, capture = cuda_graph.GraphedStep.__init__, cuda_graph.GraphedStep._capture

    def init_noted(self, *args):
        init(self, *args)
        seen.made.append(self)

    def capture_counted(self, *args):
        capture(self, *args)
        replay = self.graph.replay

        def replay_counted():
            seen.count += 1
            replay()

        self.graph = types.SimpleNamespace(replay=replay_counted)

    monkeypatch.setattr(cuda_graph.GraphedStep, "__init__", init_noted)
    monkeypatch.setattr(cuda_graph.GraphedStep, "_capture", capture_counted)
    return seen


def curves(history):
    return history.train_loss, history.train_acc, history.test_acc


def assert_same_weights(net, other, **tolerance):
    for (name, own), (_, others) in zip(
        net.state_dict().items(), other.state_dict().items(), strict=True
    ):
        torch.testing.assert_close(own.cpu(), others.cpu(), msg=lambda m, n=name: f"{n}: {m}",
                                   **tolerance)  # fmt: skip


# --- pixels --------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("cuda_graph", [True, False])
@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("kind", KINDS)
def test_training_reaches_the_cpus_result(kind, precision, cuda_graph, replays):
    tolerance = TOLERANCES[precision]
    if kind == "dropout":  # it draws other numbers
        tolerance = max(tolerance, 0.15)
    history = run(network(kind), precision=precision, cuda_graph=cuda_graph)
    on_cpu = run(network(kind), device="cpu", precision="fp32")
    assert history.precision == precision and history.device == "cuda:0"
    assert history.stopped is None
    assert history.train_loss == pytest.approx(on_cpu.train_loss, rel=tolerance, abs=0.01)
    assert history.test_acc[-1] == pytest.approx(on_cpu.test_acc[-1], abs=0.1)
    assert (replays.count > 0) == cuda_graph


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("kind", KINDS)
def test_replayed_steps_equal_ordinary_ones(kind, precision, replays):
    net, other = network(kind), network(kind)
    history = run(net, precision=precision)
    assert replays.count == 25  # 3 epochs of 9 full batches, but for two ordinary calls
    expected = ordinarily(other, precision=precision)
    random_state = torch.cuda.get_rng_state()
    run(network(kind), precision=precision)
    assert torch.equal(torch.cuda.get_rng_state(), random_state)
    # cuDNN's TF32 gradients differ in their last bits from run to run, without graphs too.
    tolerance = 1e-2 if precision == "tf32" else 1e-3
    for measured, curve in zip(curves(history), curves(expected), strict=True):
        assert measured == pytest.approx(curve, rel=tolerance, abs=tolerance)
    assert_same_weights(net, other, rtol=1e-2, atol=tolerance)


def test_dropout_draws_anew_in_each_replay_and_a_seed_repeats_the_run():
    class Noise(nn.Module):
        """Adds up what dropout leaves, in place, batch by batch."""

        def __init__(self):
            super().__init__()
            self.dropout = nn.Dropout(0.5)
            self.register_buffer("masks", torch.zeros(30, 8, dtype=torch.float64))
            self.register_buffer("count", torch.zeros((), dtype=torch.long))

        def forward(self, X):
            Y = self.dropout(torch.ones_like(X))
            if self.training:
                self.masks.index_copy_(0, self.count.view(1), Y.sum((0, 2, 3)).double().view(1, 8))
                self.count += 1
            return X * Y

    masks = []
    for _ in range(2):
        net = network("plain", Noise())
        run(net)
        noise = next(module for module in net if isinstance(module, Noise))
        assert noise.count == 30
        masks.append(noise.masks.cpu())
    assert len(masks[0].unique(dim=0)) == 30
    assert torch.equal(*masks)


def test_batch_norms_statistics_move_as_without_graphs():
    net, other = network("batch norm"), network("batch norm")
    run(net)
    ordinarily(other)
    assert net[1].num_batches_tracked == other[1].num_batches_tracked == 30
    torch.testing.assert_close(net[1].running_mean, other[1].running_mean, rtol=1e-3, atol=1e-4)
    assert net[1].running_mean.abs().max() > 0.01


def test_a_learning_rate_that_is_too_large_is_noticed():
    history = d2l.train_ch6(network(), *iterators(), 5, 1e30, CUDA, seed=0)
    assert "the loss became" in history.stopped and len(history.test_acc) < 5


def test_scores_that_are_dead_are_noticed():
    history = d2l.train_ch6(
        network().append(nn.Linear(NUM_CLASSES, NUM_CLASSES)).append(nn.ReLU()), *iterators(),
        5, 30, CUDA, seed=0)  # fmt: skip
    assert history.stopped is not None and len(history.test_acc) < 5


def test_labels_out_of_range_are_refused_before_the_first_step():
    data = iterators()
    data[0].labels[-1] = NUM_CLASSES
    with pytest.raises(ValueError, match="labels from 0 to 5, but the network has 5 scores"):
        run(network(), data=data)


# --- what is not captured ------------------------------------------------------------------------


class LooksAtValues(nn.Module):
    def forward(self, X):
        return X if X.mean().item() > -1e9 else -X


class FailsWhileCapturing(nn.Module):
    """Nothing tells beforehand: dropout first, then what capturing does not allow."""

    def forward(self, X):
        X = nn.functional.dropout(X, 0.2, self.training)
        if torch.cuda.is_current_stream_capturing():
            X.sum().item()
        return X


class RaisesWhileCapturing(nn.Module):
    def forward(self, X):
        X = nn.functional.dropout(X, 0.2, self.training)
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError("some mistake")
        return X


@pytest.mark.parametrize("layer", [LooksAtValues, FailsWhileCapturing, RaisesWhileCapturing])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_cannot_be_captured_says_to_leave_the_argument_out(layer, precision, replays):
    with pytest.raises(RuntimeError, match="leave cuda_graph=True out"):
        run(network("dropout", layer()), precision=precision)
    assert ordinarily(network("dropout", layer()), precision=precision).stopped is None
    # Random numbers work as before.
    assert torch.rand(4, device=CUDA).unique().numel() == 4
    assert run(network("dropout"), precision=precision).stopped is None and replays.count


def test_without_the_argument_forward_may_do_what_it_likes():
    class Drops(nn.Module):
        """Stochastic depth, with a generator of its own and a counter in a dict."""

        def __init__(self):
            super().__init__()
            self.rng, self.kept = random.Random(0), {"calls": 0, "dropped": 0}

        def forward(self, X):
            self.kept["calls"] += self.training
            drop = self.training and self.rng.random() < 0.5
            self.kept["dropped"] += drop
            return X if drop else 2 * X

    net = network("plain", Drops())
    ordinarily(net)
    assert net[3].kept["calls"] == 30 and 5 < net[3].kept["dropped"] < 25


def test_other_iterators_go_the_ordinary_way(replays):
    train_iter, test_iter = iterators()
    run(network(), num_epochs=1, data=(train_iter.map(lambda X: X.flip(-1)), test_iter))
    images, labels = train_iter.images.unsqueeze(1) / 255, train_iter.labels
    loader = DataLoader(TensorDataset(images, labels), BATCH_SIZE, shuffle=True, num_workers=1)
    history = run(network(), num_epochs=2, data=(loader, loader))
    assert not replays.made and history.train_loss[1] < history.train_loss[0]


def test_a_network_that_is_on_the_device_already(replays):
    on_cpu, on_cuda = network(), network().to(CUDA)
    histories = [run(net, device=device) for net, device in ((on_cpu, "cuda"), (on_cuda, None))]
    for measured, expected in zip(*map(curves, histories), strict=True):
        assert measured == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert len(replays.made) == 2 and replays.count == 2 * 25


# --- evaluation, settings, memory ----------------------------------------------------------------


def test_evaluation_is_the_cpus():
    net, (_, test_iter) = network("batch norm"), iterators()
    run(net)
    on_cuda = d2l.evaluate_accuracy_gpu(net, test_iter)
    assert on_cuda == pytest.approx(d2l.evaluate_accuracy_gpu(net.cpu(), test_iter), abs=0.01)


def test_settings_are_put_back():
    cudnn = torch.backends.cudnn
    before = (torch.get_float32_matmul_precision(), cudnn.benchmark, cudnn.allow_tf32,
              torch.cuda.get_sync_debug_mode(), torch.cuda.current_stream())  # fmt: skip
    for layer in (nn.Identity, FailsWhileCapturing):
        with contextlib.suppress(RuntimeError):
            run(network("plain", layer()))
        after = (torch.get_float32_matmul_precision(), cudnn.benchmark, cudnn.allow_tf32,
                 torch.cuda.get_sync_debug_mode(), torch.cuda.current_stream())  # fmt: skip
        assert after == before


def test_the_graphs_memory_is_given_back():
    def held_by(runner):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        runner(network("parallel", nn.AdaptiveMaxPool2d(6)), data=iterators(2500, 512, resize=96))
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved() - before

    held_by(run)  # libraries load
    assert held_by(run) <= held_by(ordinarily) + 2**21


def test_memory_that_runs_out_is_explained():
    net = network("plain", nn.AdaptiveMaxPool2d(6))
    data = iterators(20_000, 8192, resize=224)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.set_per_process_memory_fraction(2 * 2**30 / total)
    try:
        with pytest.raises(RuntimeError, match=r"out of memory .*try batches of 4096"):
            run(net, data=data)
        assert run(network()).stopped is None
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


# --- a run that is cut off -----------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_a_run_goes_on_from_its_checkpoint(tmp_path, precision):
    straight, cut = network("dropout"), network("dropout")
    expected = run(straight, num_epochs=4, precision=precision)
    for num_epochs in (2, 4):
        history = run(cut, num_epochs=num_epochs, precision=precision,
                      checkpoint=tmp_path / "run.pt")  # fmt: skip
    for measured, curve in zip(curves(history), curves(expected), strict=True):
        assert measured == pytest.approx(curve, rel=2e-3, abs=2e-3)
    assert_same_weights(cut, straight, rtol=1e-2, atol=1e-3)


PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from tests import test_cuda
test_cuda.run(test_cuda.network("dropout"), num_epochs=200, checkpoint={path!r})
"""


def test_a_killed_run_goes_on(tmp_path):
    path = tmp_path / "run.pt"
    program = PROGRAM.format(root=str(Path(__file__).parents[1]), path=str(path))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL,
                               env={**os.environ, "PYTHONUNBUFFERED": "1"})  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not path.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = len(torch.load(path)["state"]["history"]["test_acc"])
    straight, cut = network("dropout"), network("dropout")
    expected = run(straight, num_epochs=done + 2)
    history = run(cut, num_epochs=done + 2, checkpoint=path)
    assert history.test_acc == pytest.approx(expected.test_acc, abs=0.02)
    assert_same_weights(cut, straight, rtol=2e-2, atol=2e-3)


def test_ctrl_c_between_replays_keeps_the_run(monkeypatch):
    due = animator.Progress.is_due

    def interrupted(self, done, *args):
        if len(self.history.test_acc) == 1 and done == 5:
            raise KeyboardInterrupt
        return due(self, done, *args)

    monkeypatch.setattr(animator.Progress, "is_due", interrupted)
    net = network()
    history = run(net)
    assert history.stopped == "interrupted" and len(history.test_acc) == 1
    assert re.match("cuda", str(next(net.parameters()).device)) and not net.training
    assert 0 <= d2l.evaluate_accuracy_gpu(net, iterators()[1]) <= 1
