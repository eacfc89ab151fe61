"""Timer, Accumulator, accuracy and evaluation."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import d2lmini as d2l
from d2lmini import metrics
from tests.support import images, small_net


def test_timer_keeps_laps(monkeypatch):
    clock = iter([10.0, 13.0, 20.0, 21.0, 30.0])  # start, stop, start, stop, stop
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(clock))
    timer = d2l.Timer()  # starts by itself, as the reference's
    assert timer.cumsum() == [] and timer.sum() == 0
    with pytest.raises(ZeroDivisionError):
        timer.avg()
    assert timer.stop() == 3.0
    timer.start()
    assert timer.stop() == 1.0
    assert timer.stop() == 10.0  # from the same start
    assert timer.times == [3.0, 1.0, 10.0]
    assert timer.sum() == 14.0 and timer.avg() == pytest.approx(14 / 3)
    assert timer.cumsum() == [3.0, 4.0, 14.0]


def test_accumulator_adds_numbers_and_tensors():
    sums, own = d2l.Accumulator(4), torch.tensor(2.0**24, dtype=torch.float64)
    sums.add(1, 0.5, torch.tensor(2), own)
    sums.add(torch.tensor(3.0, requires_grad=True), torch.tensor(True), 4, torch.tensor(1.0))
    own.add_(5)  # which is the caller's
    assert [sums[i] for i in range(4)] == [4.0, 1.5, 6.0, 2**24 + 1]  # more than float32 holds
    assert all(isinstance(sums[i], float) for i in range(4))
    sums.reset()
    assert [sums[i] for i in range(4)] == [0.0] * 4
    with pytest.raises(ValueError, match="argument"):
        sums.add(1)


def test_accumulator_does_not_read_tensors_until_asked(monkeypatch):
    def refuse(tensor):
        pytest.fail("reading a tensor waits for the GPU")

    sums, value = d2l.Accumulator(1), torch.tensor(1.0)
    with monkeypatch.context() as patch:
        for name in ("__float__", "item", "tolist", "__bool__"):
            patch.setattr(torch.Tensor, name, refuse)
        sums.add(value)
        sums.add(value)
    assert sums[0] == 2.0


@pytest.mark.parametrize(
    "scores",
    [
        torch.tensor([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [0.0, 0.4, 0.6]]),
        torch.tensor([1, 0, 2]),
        torch.tensor([1.0, 0.0, 2.0]),
    ],
)
def test_accuracy_counts_the_correct(scores):
    labels = torch.tensor([1, 2, 2])
    correct = d2l.accuracy(scores, labels)
    assert correct.shape == () and correct.dtype == torch.int64
    assert (
        correct == 2 == pytest.importorskip("d2l.torch").accuracy(scores, torch.tensor([1, 2, 2]))
    )


@pytest.mark.parametrize(
    ("scores", "labels"), [((6, 10, 5, 5), (6,)), ((6, 3), (6, 3)), ((6, 3), (6, 1)), ((6,), (5,))]
)
def test_accuracy_refuses_what_broadcasting_would_count_wrongly(scores, labels):
    with pytest.raises(ValueError, match="do not belong together"):
        d2l.accuracy(torch.zeros(scores), torch.zeros(labels, dtype=torch.int64))


def test_evaluation_is_the_exact_share():
    X, y = images(23)
    net = small_net(dropout=0.9).eval()
    expected = (net(X).argmax(dim=1) == y).sum().item() / 23
    net.train()
    for data_iter in (
        DataLoader(TensorDataset(X, y), batch_size=5),  # the last batch has 3
        [(X[:20], y[:20]), (X[20:], y[20:])],
        ((X[i : i + 1], y[i : i + 1]) for i in range(23)),
    ):
        assert d2l.evaluate_accuracy_gpu(net, data_iter) == expected
    assert d2l.evaluate_accuracy_gpu(net, [(X, y)], device="cpu") == expected
    assert 0 < expected < 1
    of_nothing = nn.Sequential(nn.Flatten(), nn.Dropout())  # a network without parameters
    assert 0 <= d2l.evaluate_accuracy_gpu(of_nothing, [(X, y)]) <= 1


def test_evaluation_puts_each_module_back_and_keeps_no_gradients():
    net, seen, kept = small_net(dropout=0.5).insert(3, nn.BatchNorm2d(4)).train(), [], []
    net[3].eval()  # a frozen normalisation inside a network that trains
    before = [module.training for module in net.modules()]
    for module in net.modules():
        module.register_forward_hook(lambda module, *_: seen.append(module.training))
    net[5].register_forward_hook(lambda module, inputs, output: kept.append(output))
    statistics = net[3].running_mean.clone()
    d2l.evaluate_accuracy_gpu(net, [images()])
    assert seen and not any(seen)
    assert [module.training for module in net.modules()] == before
    assert torch.equal(net[3].running_mean, statistics) and net[0].weight.grad is None
    # What was kept of an evaluation can be trained on.
    nn.functional.cross_entropy(net[7](kept[0]), images()[1]).backward()
    assert net[7].weight.grad is not None

    def broken(module, inputs):
        raise RuntimeError("stop")

    net.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="stop"):
        d2l.evaluate_accuracy_gpu(net, [images()])
    assert [module.training for module in net.modules()] == before
