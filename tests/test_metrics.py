"""Timer, Accumulator, accuracy and evaluation."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import d2lmini as d2l
from d2lmini import metrics


def test_timer_keeps_laps(monkeypatch):
    clock = iter([10.0, 13.0, 20.0, 21.0, 30.0])  # start, stop, start, stop, stop
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(clock))
    timer = d2l.Timer()  # starts by itself, as the reference's
    assert timer.stop() == 3.0
    timer.start()
    assert timer.stop() == 1.0
    assert timer.stop() == 10.0  # from the same start
    assert timer.times == [3.0, 1.0, 10.0]
    assert timer.sum() == 14.0
    assert timer.avg() == pytest.approx(14 / 3)
    assert timer.cumsum() == [3.0, 4.0, 14.0]


def test_timer_without_laps():
    timer = d2l.Timer()
    assert timer.cumsum() == [] and timer.sum() == 0
    with pytest.raises(ZeroDivisionError):
        timer.avg()


def test_timer_is_not_set_back_with_the_system_clock(monkeypatch):
    monkeypatch.setattr(metrics.time, "time", lambda: pytest.fail("reads the system clock"))
    assert d2l.Timer().stop() >= 0


def test_accumulator_adds_numbers_and_tensors():
    sums = d2l.Accumulator(3)
    sums.add(1, 0.5, torch.tensor(2))
    sums.add(torch.tensor(3.0, requires_grad=True), torch.tensor(True), 4)
    assert [sums[i] for i in range(3)] == [4.0, 1.5, 6.0]
    assert all(isinstance(sums[i], float) for i in range(3))
    sums.reset()
    assert [sums[i] for i in range(3)] == [0.0] * 3


def test_accumulator_counts_exactly_beyond_float32():
    sums = d2l.Accumulator(1)
    sums.add(torch.tensor(2.0**24))
    for _ in range(3):
        sums.add(torch.tensor(1.0))
    assert sums[0] == 2**24 + 3


def test_accumulator_keeps_what_was_added_when_the_tensor_changes():
    sums, value = d2l.Accumulator(1), torch.tensor(1.0, dtype=torch.float64)
    sums.add(value)
    value.add_(5)
    assert sums[0] == 1.0


def test_accumulator_refuses_another_number_of_values():
    with pytest.raises(ValueError, match="argument"):
        d2l.Accumulator(2).add(1)


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
    correct = d2l.accuracy(scores, torch.tensor([1, 2, 2]))
    assert correct.shape == () and correct.dtype == torch.int64
    assert correct == 2


def test_accuracy_is_the_references():
    reference = pytest.importorskip("d2l.torch")
    scores, labels = torch.randn(50, 10), torch.randint(10, (50,))
    assert float(d2l.accuracy(scores, labels)) == reference.accuracy(scores, labels)


def images_and_labels(count=23):
    generator = torch.Generator().manual_seed(0)
    return (
        torch.rand(count, 1, 4, 4, generator=generator),
        torch.randint(3, (count,), generator=generator),
    )


def test_evaluation_is_the_exact_share():
    images, labels = images_and_labels()
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(16, 3))
    net.eval()
    expected = (net(images).argmax(dim=1) == labels).sum().item() / 23
    net.train()
    for data_iter in (
        DataLoader(TensorDataset(images, labels), batch_size=5),  # the last batch has 3
        [(images[:20], labels[:20]), (images[20:], labels[20:])],
        ((images[i : i + 1], labels[i : i + 1]) for i in range(23)),
    ):
        assert d2l.evaluate_accuracy_gpu(net, data_iter) == expected
    assert d2l.evaluate_accuracy_gpu(net, [(images, labels)], device="cpu") == expected
    assert 0 < expected < 1


def test_evaluation_puts_each_module_back_into_its_mode():
    images, labels = images_and_labels()
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Sequential(nn.Dropout()),
                        nn.Linear(16, 3))  # fmt: skip
    net.train()
    net[1].eval()  # a frozen normalisation inside a network that trains
    seen, before = [], [module.training for module in net.modules()]
    for module in net.modules():
        module.register_forward_hook(lambda module, *_: seen.append(module.training))
    statistics = net[1].running_mean.clone()
    d2l.evaluate_accuracy_gpu(net, [(images, labels)])
    assert seen and not any(seen)
    assert [module.training for module in net.modules()] == before
    assert torch.equal(net[1].running_mean, statistics)

    def broken(module, inputs):
        raise RuntimeError("stop")

    net.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="stop"):
        d2l.evaluate_accuracy_gpu(net, [(images, labels)])
    assert [module.training for module in net.modules()] == before


def test_a_network_that_keeps_what_it_saw_in_evaluation_can_be_trained():
    images, labels = images_and_labels()
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    kept = []
    net[0].register_forward_hook(lambda module, inputs, output: kept.append(output))
    d2l.evaluate_accuracy_gpu(net, [(images, labels)])
    nn.functional.cross_entropy(net[1](kept[0]), labels).backward()
    assert net[1].weight.grad is not None


@pytest.mark.parametrize(
    ("scores", "labels"), [((6, 10, 5, 5), (6,)), ((6, 3), (6, 3)), ((6, 3), (6, 1)), ((6,), (5,))]
)
def test_accuracy_refuses_what_broadcasting_would_count_wrongly(scores, labels):
    with pytest.raises(ValueError, match=r"scores of shape .* do not belong together"):
        d2l.accuracy(torch.zeros(scores), torch.zeros(labels, dtype=torch.int64))


def test_evaluation_leaves_no_gradients_and_a_trainable_network():
    images, labels = images_and_labels()
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    d2l.evaluate_accuracy_gpu(net, [(images, labels)])
    assert net[1].weight.grad is None
    nn.functional.cross_entropy(net(images), labels).backward()
    assert math.isfinite(net[1].weight.grad.sum())


def test_evaluation_of_nothing_and_of_a_network_without_parameters():
    images, labels = images_and_labels()
    with pytest.raises(ValueError, match="yields no batch"):
        d2l.evaluate_accuracy_gpu(nn.Flatten(), [])
    assert 0 <= d2l.evaluate_accuracy_gpu(nn.Flatten(), [(images, labels)]) <= 1


def test_evaluation_of_the_sample():
    _, test_iter = d2l.load_data_fashion_mnist(7)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    scores = net(torch.cat([X for X, _ in test_iter]))
    labels = torch.cat([y for _, y in test_iter])
    assert d2l.evaluate_accuracy_gpu(net, test_iter) == d2l.accuracy(scores, labels).item() / 10
