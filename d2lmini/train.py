"""The trainer of the chapters: `train_ch6`.

It computes what the reference's `train_ch6` (d2l 0.17.0) computes: Xavier-uniform weights (Glorot
and Bengio, 2010), mean cross-entropy and plain stochastic gradient descent.
"""

import contextlib
import dataclasses
import math
import operator
import time
import traceback
from pathlib import Path

import torch
from torch.nn import functional as F

from d2lmini import checkpoint as checkpoints
from d2lmini import checks
from d2lmini.animator import Animator
from d2lmini.batches import (
    batches,
    check_images,
    check_labels,
    check_scores,
    scores_of,
    to_device,
)
from d2lmini.capture import GraphRecorder, Replayed, can_be_replayed
from d2lmini.device import cuda_missing, memory_kept, release_memory
from d2lmini.explain import BadInput, Explained, explained, whole_number
from d2lmini.metrics import Accumulator, accuracy, evaluate
from d2lmini.network import evaluation_mode, init_xavier, is_lazy
from d2lmini.precision import Precision

__all__ = ["History", "train_ch6"]

POINTS_PER_EPOCH = 5  # of the training curves, as in the reference
SECONDS_BETWEEN_REDRAWS = 0.5  # a fast GPU must not wait for the plot


@dataclasses.dataclass
class History:
    """What a training run measured; each list has one value an epoch.

    Where training ended while an epoch was evaluated, those of training have one more.

    Attributes:
        train_loss, train_acc: means over the epoch's samples, taken while the weights moved.
        test_acc: over the whole test set, after the epoch.
        train_seconds, test_seconds: wall time of the epoch's training and of its evaluation.
        cpu_seconds: processor time of both together, over all of the process's threads.
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
    cpu_seconds: list = dataclasses.field(default_factory=list)
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

    def results(self):
        """Training loss, training and test accuracy of the last whole epoch, as text."""
        last = len(self.test_acc) - 1
        return (
            f"loss {self.train_loss[last]:.3f}, train acc {self.train_acc[last]:.3f}, "
            f"test acc {self.test_acc[last]:.3f}"
        )

    def __repr__(self):
        done = len(self.test_acc)
        results = f", {self.results()}" if done else ""
        return f"History({done} epochs on {self.device}, {self.precision}{results})"


def train_ch6(net, train_iter, test_iter, num_epochs, lr, device=None, *, seed=None,
              checkpoint=None, precision="tf32", init_weights=True, caption=None):  # fmt: skip
    """Initialise `net`, train it on a device with plain SGD, plot and print the results.

    Every Linear and Conv2d that is to be trained gets Xavier-uniform weights (biases stay, and so
    does what is frozen by `requires_grad_(False)`); the loss is the mean cross-entropy. Prints
    `training on DEVICE`, then `loss …, train acc …, test acc …` and `… examples/sec on DEVICE` (end
    to end, see `History.examples_per_sec`). The network stays on the device, in evaluation mode.
    Ctrl-C, a loss that is not finite, scores that are all zero (dead for good), and data that does
    not fit once an epoch is done end the training early; what was reached is kept and
    `History.stopped` says why.

    On CUDA the batches of `load_data_fashion_mnist` are replayed as a graph of the first steps, see
    `d2lmini.capture`. A network that a graph cannot repeat (it looks at values, draws on the CPU,
    counts its calls, has hooks) is trained step by step; what its `forward` does to variables
    outside of its modules goes unnoticed.

    Args:
        net: module from X (B, C, H, W) float32 to scores (B, num_classes), which the loss turns
            into probabilities itself. Lazy layers get their sizes from the first batch.
        train_iter, test_iter: iterables of `(X, y)`, y whole numbers (B,): those of
            `load_data_fashion_mnist`, any DataLoader, a list of batches. Their first batches are
            looked at before the first step: whatever does not fit is refused then.
        num_epochs: passes over `train_iter`, at least 1.
        lr: learning rate, positive.
        device: None takes `try_gpu()`.
        seed: fixes weights, dropout and, of a `train_iter` without a generator of its own, the
            order. Biases are left as they are; to repeat a run, call `torch.manual_seed` and build
            the network anew.
        checkpoint: file that is written after every epoch; where it exists already, training
            goes on from it, to the same result as a run that was never cut off (bit for bit on a
            CPU; a GPU may pick other kernels). A finished run goes on with a larger `num_epochs`.
            The trained weights in it are for any program:
            `net.load_state_dict(torch.load(checkpoint)["state"]["net"])`; to keep only them,
            `torch.save(net.state_dict(), path)`.
        precision: "tf32" (fp32 weights, on CUDA TF32 products), "bf16" or "fp16" (autocast),
            "auto" (on CUDA that of these two which the device multiplies fastest; on a CPU bf16
            where it multiplies that faster than fp32; else as "tf32"), all in the fastest memory
            layout, and on a CPU a batch of more than 64 images in parts where its images do not
            depend on each other; or "fp32": the reference's arithmetic in the reference's layout,
            on a CPU bit for bit (on CUDA d2l leaves torch's TF32 convolutions on; here they are
            off).
        init_weights: False leaves the weights as they are, to train on from given ones.
        caption: text under the plot.

    Returns:
        `History`.

    Raises:
        ValueError: bad arguments, no data, a network that does not fit the data, or a checkpoint
            of another run.
        RuntimeError: out of memory, with a batch size to try.
    """
    num_epochs = whole_number("num_epochs", num_epochs)
    device, seed = checks.checked_arguments(net, lr, device, seed, checkpoint)
    precision = Precision(precision, device)
    batch_size = getattr(train_iter, "batch_size", None)
    with explained("the data set", batch_size):
        checks.check_iterator(train_iter, "train_iter", num_epochs)
        checks.check_iterator(test_iter, "test_iter", num_epochs)
        net.cpu()  # there, so that a seed gives the same weights everywhere
        if is_lazy(net):  # before the seed, as the layers of other networks get their biases
            checks.find_sizes(net, train_iter)
        if seed is not None:
            torch.manual_seed(seed)
        if init_weights:
            net.apply(init_xavier)
        net.to(device)
        run = TrainingRun(net, train_iter, test_iter, num_epochs, lr, precision, seed)
    settings = None
    if checkpoint is not None:
        settings = run.settings()
        state = checkpoints.load(checkpoint, settings, run.state())
        if state is not None:
            run.restore(state)

    print(f"training on {device}", *filter(None, [cuda_missing()]), sep="\n", flush=True)
    if len(run.history.test_acc) >= num_epochs:
        print(f"nothing is trained: the checkpoint holds {len(run.history.test_acc)} epochs "
              "already; ask for more, or delete the file to start afresh")  # fmt: skip
    epochs_before = len(run.history.train_loss)
    animator = Animator(xlabel="epoch", xlim=[0, num_epochs], caption=caption,
                        legend=["train loss", "train acc", "test acc"])  # fmt: skip
    for epoch, *values in run.history.curve:  # of a run that goes on
        animator.add(epoch, values, redraw=False)
    animator.redraw()
    try:
        with (
            explained("the data set", batch_size),
            memory_kept(device),
            precision.applied_to(net),
            contextlib.closing(run),
        ):
            while len(run.history.test_acc) < num_epochs and run.history.stopped is None:
                run.train_epoch(animator)
                if checkpoint is not None and run.history.stopped is None:
                    checkpoints.save(checkpoint, settings, run.state())
    except KeyboardInterrupt:
        run.history.stopped = "interrupted"
    except Exception as error:
        if len(run.history.train_loss) == epochs_before:
            raise
        # What was trained is not to be lost.
        run.history.stopped = str(error)
        if not isinstance(error, Explained):
            run.history.stopped = f"{type(error).__name__}: {error}"
            traceback.print_exc()
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
            data_iter.on(self.device) if callable(getattr(data_iter, "on", None)) else data_iter
            for data_iter in (train_iter, test_iter)
        )
        parameters = [p for p in net.parameters() if p.requires_grad]
        on_cuda = self.device.type == "cuda"
        self.optimizer = torch.optim.SGD(parameters, self.lr, fused=on_cuda or None)
        scales = precision.name == "fp16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scales)
        self.history = History(str(self.device), precision.name, seed)
        self.sums = Accumulator(3)  # loss, correct, scores that are not 0, of an epoch
        self.num_correct = Accumulator(1)  # of the test images
        self.last_redraw = self.last_progress = time.perf_counter()
        self.shown_status = None  # under the plot
        self.full_size = None  # of a batch, as the first has it
        self.looked = False  # at what the first scores are needed for
        self.recorder = None
        self.replayed_step = self._replayed(self._step_on, self.train_iter)
        self.replayed_test = self.replayed_step and self._replayed(self._test_on, self.test_iter)

    def _replayed(self, work, data_iter):
        """`work` on the batches of `data_iter` by graphs, or None where that cannot be."""
        if not can_be_replayed(self.net, data_iter):
            return None
        self.recorder = self.recorder or GraphRecorder(self.net)
        return Replayed(work, self.recorder)

    def train_epoch(self, animator):
        """One pass over the training set and one over the test set, or a part and the reason."""
        history, epoch = self.history, len(self.history.test_acc)
        num_batches = _length(self.train_iter)
        points = {math.ceil(num_batches * k / POINTS_PER_EPOCH) for k in range(1, POINTS_PER_EPOCH)}
        sums, num_samples = self.sums, 0
        sums.reset()
        self.net.train()
        started, cpu_started = time.perf_counter(), time.process_time()
        for done, num_images in enumerate(self.steps(), start=1):
            num_samples += num_images
            if done in points and done < num_batches:
                if self.device.type != "cpu":  # which has work to do meanwhile
                    self._redraw(animator)
                # Reading the sums waits for the device.
                history.stopped = self.hopeless(sums)
                if history.stopped:
                    return
                means = (sums[0] / num_samples, sums[1] / num_samples)
                self._add_point(
                    animator,
                    (epoch + done / num_batches, *means, None),
                    self.status(done, num_batches, num_samples, started),
                )
            elif time.perf_counter() - self.last_progress > SECONDS_BETWEEN_REDRAWS:
                animator.progress(self.status(done, num_batches, num_samples, started))
                self.last_progress = time.perf_counter()
        if num_samples == 0:
            raise BadInput(
                f"train_iter yields no batch in epoch {epoch + 1}: there is nothing to train on "
                "(a generator yields its batches once only; give a list or a DataLoader)"
            )
        history.stopped = self.hopeless(sums)  # waits for the device
        if history.stopped:
            return
        trained = time.perf_counter()
        history.num_samples = num_samples
        history.train_loss.append(sums[0] / num_samples)
        history.train_acc.append(sums[1] / num_samples)
        history.train_seconds.append(trained - started)
        release_memory(self.device)  # evaluation, of whole batches, would need more besides
        test_acc = self.test_accuracy()
        history.test_seconds.append(time.perf_counter() - trained)
        history.cpu_seconds.append(time.process_time() - cpu_started)
        history.test_acc.append(test_acc)  # last: its length is the number of whole epochs
        point = (epoch + 1, history.train_loss[-1], history.train_acc[-1], test_acc)
        self._add_point(animator, point)

    def steps(self):
        """Train on one batch after another, adding to `sums`; yields their numbers of images."""
        if self.replayed_step is not None:
            self.replayed_step.look_again()
            for indices in self.train_iter.order():
                self.replayed_step(indices)
                yield len(indices)
            return
        for number, (X, y) in enumerate(batches(self.train_iter, self.device, "train_iter")):
            self.step(X, y, self.sums, is_first=number == 0)
            yield len(y)

    def _step_on(self, indices):
        """A step on the images of these numbers; all labels have been looked at."""
        self.step(*self.train_iter.batch(indices), self.sums, is_first=False)

    def step(self, X, y, sums, is_first):
        """Forward, backward, update for one batch, without waiting for the device.

        `sums`, an `Accumulator(3)`, gets the loss summed over the images, the number of correct
        predictions, and that of the scores that are not 0. `is_first` says that it is the epoch's
        first batch.
        """
        self.full_size = self.full_size or len(X)
        self.precision.tune(len(X) == self.full_size)
        with explained(f"a batch of shape {tuple(X.shape)}", min(len(X), self.images_at_once)):
            self.optimizer.zero_grad(set_to_none=True)  # first: activations need the memory
            num_parts = math.ceil(len(X) / self.images_at_once) or 1  # of no limit
            for part in zip(X.chunk(num_parts), y.chunk(num_parts), strict=True):
                self._add_gradients(*part, len(y), sums, is_first)
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def _add_gradients(self, X, y, batch_size, sums, is_first):
        """Forward and backward of a batch or a part of it, whose mean loss counts by its size."""
        with self.precision.autocast():
            logits = scores_of(self.net, X, self.device, "train_iter")
        check_scores(logits, len(X))
        if not self.looked:  # nothing has moved yet
            self.looked = True
            checks.look(self.net, X, logits, self.train_iter, self.test_iter, self.evaluate)
        # Labels on a GPU are read once an epoch only, for reading them waits for it.
        if is_first or y.device.type == "cpu":
            check_labels(y, logits.shape[1], "train_iter")
        y = to_device(y, self.device)
        loss = F.cross_entropy(logits.float(), y)
        self.scaler.scale(loss * (len(y) / batch_size)).backward()
        logits = logits.detach()
        sums.add(loss.detach() * len(y), accuracy(logits, y), logits.count_nonzero())

    def status(self, done, num_batches, num_samples, started):
        """Where training is, how fast, and when it will be over, in one line.

        `done` batches of this epoch are, with `num_samples` images, since `started`.
        """
        epoch = len(self.history.test_acc) + 1
        seconds = max(time.perf_counter() - started, 1e-9)  # of a clock that stands
        text = f"epoch {epoch}/{self.num_epochs}, batch {done}"
        if not num_batches:  # of a stream
            return f"{text}, {num_samples / seconds:.0f} examples/sec"
        evaluation = self.history.test_seconds[-1] if self.history.test_seconds else 0
        epochs_left = self.num_epochs - epoch + 1 - done / num_batches
        left = epochs_left * (num_batches / done * seconds + evaluation)
        minutes, seconds_left = divmod(round(left), 60)
        return (
            f"{text}/{num_batches}, {num_samples / seconds:.0f} examples/sec, about "
            f"{minutes}:{seconds_left:02d} min left"
        )

    def hopeless(self, sums):
        """Why more training cannot help, or None; `sums` as in `train_epoch`."""
        epoch = len(self.history.test_acc) + 1
        if not math.isfinite(sums[0]):
            if self.device.type != "cpu":  # where each batch has been looked at
                for number, (X, _) in enumerate(
                    batches(self.train_iter, self.device, "train_iter")
                ):
                    check_images(X, "train_iter", number + 1)
            return (
                f"the loss became {sums[0]} in epoch {epoch}: the steps are too large. Try a "
                f"smaller learning rate, lr={self.lr / 10:g}, and define the network anew"
            )
        if sums[2] == 0:
            return (
                f"all scores were exactly 0 in epoch {epoch}: the last ReLU is dead, the loss is "
                "the logarithm of the number of classes and every gradient is 0, so waiting cannot "
                "help. Define the network anew and train again (other initial weights), or try a "
                f"smaller learning rate, lr={self.lr / 2:g}"
            )
        return None

    def evaluate(self, net, data_iter, name):
        """Share of correct predictions, at the run's precision."""
        batch_size = getattr(data_iter, "batch_size", None)
        self.precision.tune(True)
        with self.precision.autocast(), explained(f"the images of {name}", batch_size):
            return evaluate(net, data_iter, self.device, name)

    def test_accuracy(self):
        """That of the whole test set."""
        if self.replayed_test is None:
            return self.evaluate(self.net, self.test_iter, "test_iter")
        self.replayed_test.look_again()
        self.num_correct.reset()
        with evaluation_mode(self.net), torch.no_grad():
            for indices in self.test_iter.order():
                self.replayed_test(indices)
        return self.num_correct[0] / len(self.test_iter.labels)

    def _test_on(self, indices):
        """Count the correct predictions for the images of these numbers."""
        X, y = self.test_iter.batch(indices)
        self.precision.tune(len(X) == self.test_iter.batch_size)
        with self.precision.autocast():
            scores = scores_of(self.net, X, self.device, "test_iter")
        self.num_correct.add(accuracy(scores, y))

    def _add_point(self, animator, point, status=None):
        self.history.curve.append(point)
        animator.add(point[0], point[1:], redraw=False)
        self.shown_status = status
        if self.device.type == "cpu":
            self._redraw(animator)

    def _redraw(self, animator):
        """Show the points so far, if the last time is long enough ago."""
        if time.perf_counter() - self.last_redraw > SECONDS_BETWEEN_REDRAWS:
            animator.redraw(self.shown_status)
            self.last_redraw = time.perf_counter()

    def close(self):
        """Give back the memory of a GPU that replaying takes."""
        if self.recorder is not None:
            self.replayed_step = self.replayed_test = None
            self.optimizer.zero_grad(set_to_none=True)  # gradients lie in the graphs' memory
            self.recorder.close()

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
            "batch size": _number(self.train_iter, "batch_size"),
            "image size": _number(self.train_iter, "resize"),
            "number of batches": _length(self.train_iter),
            "own generator": self._generator() is not None,
            **checkpoints.identity(self.net, self.train_iter, self.test_iter),
        }

    def state(self):
        """All that the epochs to come depend on; plain SGD has no state of its own."""
        generator = self._generator()
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
            self._generator().set_state(state["order"])

    def _generator(self):
        """The generator that the training order is drawn with, if it is not torch's own."""
        generator = getattr(self.train_iter, "generator", None)
        return generator if isinstance(generator, torch.Generator) else None


def _number(data_iter, name):
    """An attribute of an iterator, if it is a whole number."""
    with contextlib.suppress(TypeError):
        return operator.index(getattr(data_iter, name, None))
    return None


def _length(data_iter):
    try:
        return len(data_iter)
    except TypeError:  # a generator, or a DataLoader of an IterableDataset: one point an epoch
        return 0


def _print_results(history):
    if history.stopped:
        print(f"stopped early, {len(history.test_acc)} whole epochs done: {history.stopped}")
    done = len(history.test_acc)
    if len(history.train_loss) > done:  # an epoch that was not evaluated
        print(f"loss {history.train_loss[-1]:.3f}, train acc {history.train_acc[-1]:.3f} "
              f"in epoch {done + 1}, not evaluated")  # fmt: skip
    if done:
        print(history.results())
        print(f"{history.examples_per_sec:.1f} examples/sec on {history.device}")
