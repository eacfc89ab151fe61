"""The trainer of the four chapters: `train_ch6` and its checks.

It computes what the reference's `train_ch6` (d2l 0.17.0) computes: Xavier-uniform weights (Glorot
and Bengio, 2010), mean cross-entropy and plain stochastic gradient descent.
"""

import contextlib
import dataclasses
import math
import numbers
import re
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from d2lmini import checkpoint as checkpoints
from d2lmini.animator import Animator
from d2lmini.device import memory_kept, release_memory, try_gpu
from d2lmini.metrics import Accumulator, accuracy, evaluate_accuracy_gpu, to_device
from d2lmini.precision import Precision

__all__ = ["History", "train_ch6"]

POINTS_PER_EPOCH = 5  # of the training curves, as in the reference
SECONDS_BETWEEN_REDRAWS = 0.5  # a fast GPU must not wait for the plot
# What torch says of GPUs; of the CPU, on Windows too; of cuBLAS and cuDNN, also while autotuning.
OUT_OF_MEMORY = (
    "out of memory|allocate memory|not enough memory|ALLOC_FAILED|unable to find an engine"
)
# Of Linear, convolution and pooling, when an image is too small or too large for the layers.
WRONG_IMAGE_SIZE = "shapes cannot be multiplied|Kernel size can't be|Output size is too small"


@dataclasses.dataclass
class History:
    """What a training run measured; each list has one value an epoch.

    Attributes:
        train_loss, train_acc: means over the epoch's samples, taken while the weights moved.
        test_acc: over the whole test set, after the epoch.
        train_seconds, test_seconds: wall time of the epoch's training and of its evaluation.
        curve: the points of the plot, (epoch, train loss, train acc, test acc or None).
        num_samples: training samples in an epoch.
        device, precision, seed: where and how it ran.
        stopped: None, or why training ended early.
    """

    device: str
    precision: str
    seed: int | None = None
    num_samples: int = 0
    train_loss: list = dataclasses.field(default_factory=list)
    train_acc: list = dataclasses.field(default_factory=list)
    test_acc: list = dataclasses.field(default_factory=list)
    train_seconds: list = dataclasses.field(default_factory=list)
    test_seconds: list = dataclasses.field(default_factory=list)
    curve: list = dataclasses.field(default_factory=list)
    stopped: str | None = None

    @property
    def examples_per_sec(self):
        """Training samples over the wall time of training: data, steps, metrics and plot.

        Evaluation is left out; the device has finished its work when the clock is read. NaN
        before the first epoch has ended.
        """
        if not self.train_seconds:
            return math.nan
        return self.num_samples * len(self.train_seconds) / sum(self.train_seconds)

    def __repr__(self):
        done = len(self.test_acc)
        last = (f", loss {self.train_loss[-1]:.3f}, train acc {self.train_acc[-1]:.3f}, "
                f"test acc {self.test_acc[-1]:.3f}") if done else ""  # fmt: skip
        return f"History({done} epochs on {self.device}, {self.precision}{last})"


def train_ch6(net, train_iter, test_iter, num_epochs, lr, device=None, *, seed=None,
              checkpoint=None, precision="tf32", caption=None):  # fmt: skip
    """Initialise `net`, train it on a device with plain SGD, plot and print the results.

    Every Linear and Conv2d gets Xavier-uniform weights (biases stay); the loss is the mean
    cross-entropy. Prints `training on DEVICE`, then `loss …, train acc …, test acc …` and
    `… examples/sec on DEVICE` (end to end, see `History.examples_per_sec`). The network stays on
    the device, in evaluation mode. Ctrl-C, a loss that is not finite, and scores that are all zero
    (dead for good) end the training early; what was reached is kept and `History.stopped` says why.

    Args:
        net: module from X (B, C, H, W) float32 to scores (B, num_classes).
        train_iter, test_iter: iterables of `(X, y)`, y int64 (B,): those of
            `load_data_fashion_mnist`, or any DataLoader.
        num_epochs: passes over `train_iter`, at least 1.
        lr: learning rate, positive.
        device: None takes `try_gpu()`.
        seed: fixes weights, dropout and, of a `train_iter` without a generator of its own, the
            order. Biases are left as they are; to repeat a run, call `torch.manual_seed` and build
            the network anew.
        checkpoint: file that is written after every epoch; where it exists already, training
            goes on from it, to the same result as a run that was never cut off (bit for bit on a
            CPU; a GPU may pick other kernels).
        precision: "tf32" (fp32 weights, on CUDA TF32 products), "bf16" or "fp16" (autocast),
            "auto" (on CUDA that of these two which the device multiplies fastest; on a CPU bf16
            where it multiplies that faster than fp32; else as "tf32"), all in the fastest memory
            layout, and on a CPU a batch of more than 64 images in parts where its images do not
            depend on each other; or "fp32": the reference's arithmetic in the reference's layout,
            on a CPU bit for bit (on CUDA d2l leaves torch's TF32 convolutions on; here they are
            off).
        caption: text under the plot.

    Returns:
        `History`.

    Raises:
        ValueError: bad arguments, no data, a network that does not fit the data, or a checkpoint
            of another run.
        RuntimeError: out of memory, with a batch size to try.
    """
    _check_arguments(net, num_epochs, lr)
    device = torch.device(device) if device is not None else try_gpu()
    precision = Precision(precision, device)
    if checkpoint is not None:
        _check_writable(checkpoint)
    if seed is not None:
        seed = int(seed)  # of NumPy's integers too, which a checkpoint could not be read with
        torch.manual_seed(seed)
    net.cpu().apply(init_xavier)  # there, so that a seed gives the same weights everywhere
    batch_size = getattr(train_iter, "batch_size", None)
    with _explained_errors("the data set", batch_size):
        net.to(device)
        run = TrainingRun(net, train_iter, test_iter, num_epochs, lr, precision, seed)
    if checkpoint is not None:
        state = checkpoints.load(checkpoint, run.settings())
        if state is not None:
            run.restore(state)

    print("training on", device, flush=True)
    animator = Animator(xlabel="epoch", xlim=[0, num_epochs], caption=caption,
                        legend=["train loss", "train acc", "test acc"])  # fmt: skip
    for epoch, *values in run.history.curve:  # of a run that goes on
        animator.add(epoch, values, redraw=False)
    animator.redraw()
    try:
        with (
            _explained_errors("the data set", batch_size),
            memory_kept(device),
            precision.applied_to(net),
        ):
            while len(run.history.test_acc) < num_epochs and run.history.stopped is None:
                run.train_epoch(animator)
                if checkpoint is not None and run.history.stopped is None:
                    checkpoints.save(checkpoint, run.settings(), run.state())
    except KeyboardInterrupt:
        run.history.stopped = "interrupted"
    else:
        if run.history.stopped and checkpoint is not None and Path(checkpoint).exists():
            # The steps that led there may be in it: what comes back would be as hopeless.
            run.history.stopped += f"; delete checkpoint={str(checkpoint)!r} before that"
    net.eval()
    animator.redraw()
    _print_results(run.history)
    return run.history


class TrainingRun:
    """One training run: the network, its data, and what has been measured so far.

    `train_ch6` drives it; its arguments are explained there, `precision` is a `Precision`.
    """

    def __init__(self, net, train_iter, test_iter, num_epochs, lr, precision, seed):
        self.net, self.num_epochs, self.lr = net, num_epochs, float(lr)
        self.precision, self.device = precision, precision.device
        self.images_at_once = precision.images_at_once(net)
        self.train_iter, self.test_iter = (
            data_iter.on(self.device) if hasattr(data_iter, "on") else data_iter
            for data_iter in (train_iter, test_iter)
        )
        parameters = [p for p in net.parameters() if p.requires_grad]
        on_cuda = self.device.type == "cuda"
        self.optimizer = torch.optim.SGD(parameters, self.lr, fused=on_cuda or None)
        scales = precision.name == "fp16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scales)
        self.history = History(str(self.device), precision.name, seed)
        self.last_redraw = time.perf_counter()

    def train_epoch(self, animator):
        """One pass over the training set and one over the test set, or a part and the reason."""
        history, epoch = self.history, len(self.history.test_acc)
        num_batches = _length(self.train_iter)
        points = {math.ceil(num_batches * k / POINTS_PER_EPOCH) for k in range(1, POINTS_PER_EPOCH)}
        sums, num_samples = Accumulator(3), 0  # loss, correct, scores that are not 0
        self.net.train()
        started = time.perf_counter()
        for done, (X, y) in enumerate(self.train_iter, start=1):
            at_once = min(len(X), self.images_at_once)
            with _explained_errors(f"a batch of shape {tuple(X.shape)}", at_once):
                self.step(X, y, sums, check_labels=done == 1)
            num_samples += len(y)
            if done in points and done < num_batches:  # reading the sums waits for the device
                history.stopped = _hopeless(sums, epoch + 1, self.lr)
                if history.stopped:
                    return
                rate = num_samples / (time.perf_counter() - started)
                left = _time_left(history, self.num_epochs, num_batches / done * num_samples / rate,
                                  done / num_batches)  # fmt: skip
                means = (sums[0] / num_samples, sums[1] / num_samples)
                self._add_point(
                    animator,
                    (epoch + done / num_batches, *means, None),
                    f"epoch {epoch + 1}/{self.num_epochs}, batch {done}/{num_batches}, "
                    f"{rate:.0f} examples/sec, about {left} left",
                )
        if num_samples == 0:
            raise ValueError(
                f"train_iter yields no batch in epoch {epoch + 1}: there is nothing to train on "
                "(a generator yields its batches once only; give a list or a DataLoader)"
            )
        history.stopped = _hopeless(sums, epoch + 1, self.lr)  # waits for the device
        if history.stopped:
            return
        trained = time.perf_counter()
        release_memory(self.device)  # evaluation, of whole batches, would need more besides
        batch_size = getattr(self.test_iter, "batch_size", None)
        with self.precision.autocast(), _explained_errors("the images of test_iter", batch_size):
            test_acc = evaluate_accuracy_gpu(self.net, self.test_iter, self.device)
        history.num_samples = num_samples
        history.train_loss.append(sums[0] / num_samples)
        history.train_acc.append(sums[1] / num_samples)
        history.train_seconds.append(trained - started)
        history.test_seconds.append(time.perf_counter() - trained)
        history.test_acc.append(test_acc)  # last: its length is the number of whole epochs
        point = (epoch + 1, history.train_loss[-1], history.train_acc[-1], test_acc)
        self._add_point(animator, point)

    def step(self, X, y, sums, check_labels):
        """Forward, backward, update for one batch, without waiting for the device.

        `sums`, an `Accumulator(3)`, gets the loss summed over the images, the number of correct
        predictions, and that of the scores that are not 0.
        """
        if len(X) != len(y) or len(X) == 0:
            raise ValueError(
                "a batch needs at least one image, and a label for each; got "
                f"{len(X)} images and {len(y)} labels"
            )
        self.optimizer.zero_grad(set_to_none=True)  # first: activations need the memory
        num_parts = math.ceil(len(X) / self.images_at_once) or 1  # of no limit
        for part in zip(X.chunk(num_parts), y.chunk(num_parts), strict=True):
            self._add_gradients(*part, len(y), sums, check_labels)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _add_gradients(self, X, y, batch_size, sums, check_labels):
        """Forward and backward of a batch or a part of it, whose mean loss counts by its size."""
        labels = y
        X, y = to_device(X, self.device), to_device(y, self.device)
        with self.precision.autocast():
            logits = self.net(X)
        if logits.dim() != 2 or len(logits) != len(y):
            raise ValueError(
                f"the network must return scores of shape ({len(y)}, num_classes) for {len(y)} "
                f"images, got {tuple(logits.shape)}"
            )
        # Labels on a GPU are read once an epoch only, for reading them waits for it.
        if check_labels or labels.device.type == "cpu":
            _check_labels(labels, logits.shape[1])
        loss = F.cross_entropy(logits.float(), y)
        self.scaler.scale(loss * (len(y) / batch_size)).backward()
        logits = logits.detach()
        sums.add(loss.detach() * len(y), accuracy(logits, y), logits.count_nonzero())

    def _add_point(self, animator, point, status=None):
        self.history.curve.append(point)
        animator.add(point[0], point[1:], redraw=False)
        if time.perf_counter() - self.last_redraw > SECONDS_BETWEEN_REDRAWS:
            animator.redraw(status)
            self.last_redraw = time.perf_counter()

    def settings(self):
        """What a checkpoint must have in common with this run, by name."""
        return {
            "network": str(self.net),
            "parameters": "\n".join(
                f"{n} {tuple(p.shape)}" for n, p in self.net.named_parameters()
            ),
            "lr": self.lr,
            "precision": self.history.precision,
            "memory layout": str(self.precision.layout),
            "seed": self.history.seed,
            "batch size": getattr(self.train_iter, "batch_size", None),
            "image size": getattr(self.train_iter, "resize", None),
            "number of batches": _length(self.train_iter),
            "own generator": getattr(self.train_iter, "generator", None) is not None,
        }

    def state(self):
        """All that the epochs to come depend on; plain SGD has no state of its own."""
        generator = getattr(self.train_iter, "generator", None)
        return {
            "net": self.net.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": dataclasses.asdict(self.history),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device)
            if self.device.type == "cuda"
            else None,
            "order": generator.get_state() if generator is not None else None,
        }

    def restore(self, state):
        """Take up the run that left `state`."""
        self.net.load_state_dict(state["net"])
        self.scaler.load_state_dict(state["scaler"])
        self.history = History(**{**state["history"], "device": str(self.device)})
        torch.set_rng_state(state["rng"])
        if self.device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        if state["order"] is not None:
            self.train_iter.generator.set_state(state["order"])


def init_xavier(module):
    """Xavier-uniform weights for a Linear or Conv2d; for `net.apply`."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.xavier_uniform_(module.weight)


def _length(data_iter):
    try:
        return len(data_iter)
    except TypeError:  # a generator, or a DataLoader of an IterableDataset: one point an epoch
        return 0


def _time_left(history, num_epochs, epoch_seconds, epoch_done):
    """Remaining training and evaluation time as text, from the epochs so far and this one."""
    evaluation = history.test_seconds[-1] if history.test_seconds else 0
    epochs_left = num_epochs - len(history.test_acc) - epoch_done
    minutes, seconds = divmod(round(epochs_left * (epoch_seconds + evaluation)), 60)
    return f"{minutes}:{seconds:02d} min"


def _hopeless(sums, epoch, lr):
    """Why more training cannot help, or None; `sums` as in `TrainingRun.train_epoch`."""
    if not math.isfinite(sums[0]):
        return (
            f"the loss became {sums[0]} in epoch {epoch}: the steps are too large. Try a smaller "
            f"learning rate, lr={lr / 10:g}, and define the network anew"
        )
    if sums[2] == 0:
        return (
            f"all scores were exactly 0 in epoch {epoch}: the last ReLU is dead, the loss is the "
            "logarithm of the number of classes and every gradient is 0, so waiting cannot help. "
            "Define the network anew and train again (other initial weights), or try a smaller "
            f"learning rate, lr={lr / 2:g}"
        )
    return None


def _print_results(history):
    if history.stopped:
        print(f"stopped early, {len(history.test_acc)} whole epochs done: {history.stopped}")
    if history.test_acc:
        print(
            f"loss {history.train_loss[-1]:.3f}, train acc {history.train_acc[-1]:.3f}, "
            f"test acc {history.test_acc[-1]:.3f}"
        )
        print(f"{history.examples_per_sec:.1f} examples/sec on {history.device}")


def _check_arguments(net, num_epochs, lr):
    if not isinstance(num_epochs, int) or isinstance(num_epochs, bool) or num_epochs < 1:
        raise ValueError(f"num_epochs must be a positive int, got {num_epochs!r}")
    if not (isinstance(lr, numbers.Real) and math.isfinite(lr) and lr > 0):
        raise ValueError(f"lr must be a positive number, got {lr!r}")
    if not any(p.requires_grad for p in net.parameters()):
        raise ValueError("the network has no parameter to train")


def _check_labels(labels, num_classes):
    if labels.dim() != 1 or labels.is_floating_point():
        raise ValueError(
            "labels must be whole numbers of shape (B,), the number of each image's class; got "
            f"{labels.dtype} of shape {tuple(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"the data has labels from {low} to {high}, but the network has {num_classes} scores, "
            f"for labels 0 to {num_classes - 1}"
        )


def _check_writable(path):
    """Find out before the first epoch, not after it."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=Path(path).parent):
            pass
        if Path(path).is_dir():
            raise IsADirectoryError("it is a folder")
    except OSError as error:
        raise ValueError(
            f"checkpoint={str(path)!r} cannot be written ({error}); name another file"
        ) from error


@contextlib.contextmanager
def _explained_errors(images, batch_size=None):
    """Torch's errors about memory and shapes, with what to try; `images` says what was given."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if error.__cause__ is not None:  # explained already
            raise
        if isinstance(error, torch.cuda.OutOfMemoryError) or re.search(OUT_OF_MEMORY, text):
            smaller = f"batches of {batch_size // 2}" if batch_size and batch_size > 1 else "less"
            raise RuntimeError(
                f"out of memory with {images}: try {smaller} or a smaller resize in "
                f"load_data_fashion_mnist; if it stays so, restart the kernel ({error})"
            ) from error
        if re.search(WRONG_IMAGE_SIZE, text):
            raise ValueError(
                f"the network does not take {images}: {error}. A network with fully connected "
                "layers fits one image size only; see the argument resize of "
                "load_data_fashion_mnist"
            ) from error
        if "view size is not compatible" in text:
            raise ValueError(
                "the network calls .view() on feature maps whose layout in memory is channels "
                "last: put nn.Flatten() or .reshape() in its place, or train with "
                f"precision='fp32' ({error})"
            ) from error
        raise
