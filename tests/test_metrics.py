"""Timer, Accumulator, accuracy and evaluation."""

import pytest
import torch
from torch import nn

import d2lmini as d2l
from d2lmini import metrics
from tests.support import images, small_net


def test_timer_keeps_laps(monkeypatch):
    clock = iter([10.0, 13.0, 20.0, 21.0, 30.0])  # start, stop, start, stop, stop
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(clock))
    timer = d2l.Timer()  # starts by itself, as the reference's
    assert timer.cumsum() == [] and timer.stop() == 3.0
    timer.start()
    assert timer.stop() == 1.0
    assert timer.stop() == 10.0  # from the same start
    assert timer.sum() == 14.0 and timer.avg() == pytest.approx(14 / 3)
    assert timer.cumsum() == [3.0, 4.0, 14.0]


def test_accumulator_adds_numbers_and_tensors(monkeypatch):
    def refuse(tensor):
        pytest.fail("reading a tensor waits for the GPU")

    sums, own = d2l.Accumulator(4), torch.tensor(2.0**24, dtype=torch.float64)
    with monkeypatch.context() as patch:
        for name in ("__float__", "item", "tolist", "__bool__"):
            patch.setattr(torch.Tensor, name, refuse)
        sums.add(1, 0.5, torch.tensor(2), own)
        sums.add(torch.tensor(3.0, requires_grad=True), torch.tensor(True), 4, torch.tensor(1.0))
        own.add_(5)  # which is the caller's
    assert [sums[i] for i in range(4)] == [4.0, 1.5, 6.0, 2**24 + 1]  # more than float32 holds
    assert all(isinstance(sums[i], float) for i in range(4))
    sums.reset()
    assert [sums[i] for i in range(4)] == [0.0] * 4
    with pytest.raises(ValueError, match="argument"):
        sums.add(1)


@pytest.mark.parametrize(
    "predicted", [[[0.1, 0.9], [0.8, 0.2], [1.0, 0.0]], [1, 0, 0], [1.0, 0, 0]]
)
def test_accuracy_counts_the_correct(predicted):
    correct = d2l.accuracy(torch.tensor(predicted), torch.tensor([1, 0, 1]))
    assert correct == 2 and correct.shape == () and correct.dtype == torch.int64


def test_evaluation_is_the_exact_share():
    X, y = images(23)
    net = small_net(dropout=0.9).eval()
    expected = (net(X).argmax(dim=1) == y).sum().item() / 23
    net.train()
    batches = zip(X.split(5), y.split(5), strict=True)  # the last has 3
    assert d2l.evaluate_accuracy_gpu(net, batches) == expected
    assert d2l.evaluate_accuracy_gpu(net, [(X, y)], device="cpu") == expected
    assert 0 < expected < 1
    of_nothing = nn.Sequential(nn.Flatten(), nn.Dropout())  # a network without parameters
    assert 0 <= d2l.evaluate_accuracy_gpu(of_nothing, [(X, y)]) <= 1


def test_evaluation_puts_each_module_back_and_keeps_no_gradients():
    net, kept = small_net(dropout=0.5).insert(3, nn.BatchNorm2d(4)).train(), []
    net[3].eval()  # a frozen normalisation inside a network that trains
    before = [module.training for module in net.modules()]

    def keep(net, inputs, output):
        kept.append(output)
        raise KeyboardInterrupt

    net.register_forward_hook(keep)
    with pytest.raises(KeyboardInterrupt):
        d2l.evaluate_accuracy_gpu(net, [images()])
    assert [module.training for module in net.modules()] == before
    assert not kept[0].requires_grad and not kept[0].is_inference()  # it can be trained on
