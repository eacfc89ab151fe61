"""Counting, timing and evaluation: the small tools that the trainer and the exercises share."""

import contextlib
import itertools
import time

import torch

from d2lmini import checks
from d2lmini.data import ImageIterator
from d2lmini.network import device_of, dtype_of, evaluation_mode


class Timer:
    """A stopwatch that keeps each lap; times in seconds, from a clock that is never set back."""

    def __init__(self):
        self.times, self._started = [], time.perf_counter()

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
    """`n` running sums of numbers or 0-d tensors; only reading one, `sums[i]`, waits for a GPU."""

    def __init__(self, n):
        self.data = [0.0] * n

    def add(self, *values):
        """Add one value to each sum; ValueError when their number is not `n`."""
        for index, (total, value) in enumerate(zip(self.data, values, strict=True)):
            if isinstance(value, torch.Tensor):  # mps has no float64
                exact = torch.float32 if value.device.type == "mps" else torch.float64
                value = value.detach().to(exact)
            if isinstance(total, torch.Tensor) and total.device == getattr(value, "device", None):
                total += value  # in place: a CUDA graph may have its address
            else:  # a first tensor is copied, as `value` may be the caller's own
                self.data[index] = total + value

    def reset(self):
        """Set every sum to zero."""
        for index, total in enumerate(self.data):
            self.data[index] = total.zero_() if isinstance(total, torch.Tensor) else 0.0

    def __getitem__(self, index):
        return float(self.data[index])


def accuracy(y_hat, y):
    """Number of correct predictions, a 0-d int64 tensor on the device of its arguments.

    `y_hat` are scores (B, num_classes) or predicted labels (B,), `y` labels (B,); else ValueError.
    """
    predicted = y_hat.argmax(dim=1) if y_hat.dim() > 1 else y_hat
    if predicted.shape != y.shape:
        shapes = f"scores of shape {tuple(y_hat.shape)} and labels of shape {tuple(y.shape)}"
        raise ValueError(f"{shapes} do not belong together: (B, num_classes) and (B,) do")
    return (predicted.to(y.dtype) == y).sum()


def evaluate_accuracy_gpu(net, data_iter, device=None):
    """Share of correct predictions of `net` over all of `data_iter`, a float in [0, 1].

    `net` makes scores (B, num_classes) of X in evaluation mode, and is then put back into its own.
    `data_iter` is any iterable of `(X, y)`; `device` is where to evaluate, None for that of the
    network's first parameter. A GPU is waited for twice. ValueError when `data_iter` yields
    nothing, or what does not fit; RuntimeError: out of memory.
    """
    device = torch.device(device_of(net) if device is None else device)
    data_iter = data_iter.to(device) if isinstance(data_iter, ImageIterator) else data_iter
    return evaluate(net, data_iter, device, "data_iter")


def evaluate(net, data_iter, device, name, precision=None):
    """As `evaluate_accuracy_gpu`, at a `Precision`; `name` says in messages what `data_iter` is."""
    num_correct = num_samples = 0
    for _, scores, y in predictions(net, data_iter, device, name, precision):
        num_correct += accuracy(scores, y.to(scores.device))
        num_samples += len(y)
    return int(num_correct) / num_samples


def predictions(net, data_iter, device, name, precision=None):
    """Yield X, the scores of `net` in evaluation mode, and y, of each batch."""
    X, done = None, 0
    autocast = precision.autocast() if precision else contextlib.nullcontext()
    with evaluation_mode(net), torch.no_grad():
        try:
            for done, (X, y) in enumerate(batches_of(data_iter, net, device, name), start=1):
                with autocast:
                    scores = net(X)
                checks.check_scores(scores, X, y if done > 1 else y.cpu(), name)
                yield X, scores, y
        except Exception as error:
            checks.raise_explained(error, name, net, X)
    if not done:
        raise ValueError(f"{name} yields no batch: there is nothing to work on")


def batches_of(data_iter, net, device, name):
    """Yield the batches of one pass: X on `device`, in the format of `net`, and y where it was."""
    dtype = dtype_of(net)
    for number, batch in enumerate(data_iter, start=1):
        X, y = checks.as_tensors(batch, name, number)
        # Only CUDA may copy while the program goes on; others mix data up.
        yield X.to(device, dtype if X.is_floating_point() else None,
                   non_blocking=device.type == "cuda"), y  # fmt: skip
