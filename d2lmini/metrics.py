"""Counting and timing: the small tools that the trainer and the exercises share.

The names follow the reference, d2l 0.17.0; values stay on their device until they are read.
"""

import contextlib
import itertools
import time

import torch

from d2lmini.device import device_of

__all__ = ["Accumulator", "Timer", "accuracy", "evaluate_accuracy_gpu"]


class Timer:
    """A stopwatch that keeps each lap; times in seconds, from a clock that is never set back."""

    def __init__(self):
        self.times = []
        self.start()

    def start(self):
        """Start a lap."""
        self._started = time.perf_counter()

    def stop(self):
        """End the lap, keep it in `times` and return it."""
        self.times.append(time.perf_counter() - self._started)
        return self.times[-1]

    def avg(self):
        """Mean lap; ZeroDivisionError before the first `stop()`."""
        return sum(self.times) / len(self.times)

    def sum(self):
        """All laps together."""
        return sum(self.times)

    def cumsum(self):
        """Sum of the laps so far, after each lap, as a list."""
        return list(itertools.accumulate(self.times))


class Accumulator:
    """`n` running sums of numbers or 0-d tensors; reading one, `sums[i]`, gives a float.

    Tensors are added on their own device, so that adding does not wait for a GPU; reading does.
    """

    def __init__(self, n):
        self.data = [0.0] * n

    def add(self, *values):
        """Add one value to each sum; ValueError when their number is not `n`."""
        if len(values) != len(self.data):
            raise ValueError(
                f"this Accumulator has {len(self.data)} sums, got {len(values)} values"
            )
        self.data = [total + _widen(value) for total, value in zip(self.data, values, strict=True)]

    def reset(self):
        """Set every sum to zero."""
        self.data = [0.0] * len(self.data)

    def __getitem__(self, index):
        return float(self.data[index])


def _widen(value):
    """A detached float64 copy of a tensor (float32 on mps, which has no float64), else a float."""
    if not isinstance(value, torch.Tensor):
        return float(value)
    return value.detach().to(torch.float32 if value.device.type == "mps" else torch.float64)


def accuracy(y_hat, y):
    """Number of correct predictions, a 0-d int64 tensor on the device of its arguments.

    Args:
        y_hat: scores (B, num_classes), or already predicted labels (B,).
        y: labels (B,).

    Raises:
        ValueError: other shapes, which broadcasting would turn into a wrong number.
    """
    predicted = y_hat.argmax(dim=1) if y_hat.dim() > 1 else y_hat
    if predicted.shape != y.shape:
        raise ValueError(
            f"scores of shape {tuple(y_hat.shape)} and labels of shape {tuple(y.shape)} do not "
            "belong together: (B, num_classes) and (B,) do; does the network lack nn.Flatten()?"
        )
    return (predicted.to(y.dtype) == y).sum()


def evaluate_accuracy_gpu(net, data_iter, device=None):
    """Share of correct predictions of `net` over all of `data_iter`, a float in [0, 1].

    Dropout is off meanwhile; every module is put back into the mode it was found in. The results
    on a GPU are waited for once, at the end.

    Args:
        net: a module from X to scores (B, num_classes).
        data_iter: any iterable of `(X, y)`, a DataLoader or an `ImageIterator`.
        device: where to evaluate; None takes the device of the network's first parameter.

    Raises:
        ValueError: `data_iter` yields nothing.
    """
    if device is None:
        device = device_of(net)
    num_correct, num_samples = Accumulator(1), 0
    with evaluation_mode(net), torch.no_grad():
        for X, y in batches_on(data_iter, device):
            num_correct.add(accuracy(net(X), y))
            num_samples += len(y)
    if num_samples == 0:
        raise ValueError("data_iter yields no batch: there is nothing to evaluate")
    return num_correct[0] / num_samples


def batches_on(data_iter, device):
    """Yield the batches of any iterable of `(X, y)` on `device`."""
    if hasattr(data_iter, "on"):  # an ImageIterator makes its batches there
        yield from data_iter.on(device)
        return
    for X, y in data_iter:
        yield to_device(X, device), to_device(y, device)


def to_device(tensor, device):
    """The tensor on `device`. Only CUDA may copy while the program goes on; others mix data up."""
    return tensor.to(device, non_blocking=torch.device(device).type == "cuda")


@contextlib.contextmanager
def evaluation_mode(net):
    """Put `net` into evaluation mode, and afterwards each of its modules back as it was."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield net
    finally:
        for module, mode in modes:
            module.training = mode
