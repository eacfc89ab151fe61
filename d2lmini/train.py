"""The trainer of the chapters: `train_ch6`.

It computes what the reference's `train_ch6` (d2l 0.17.0) computes: Xavier-uniform weights (Glorot
and Bengio, 2010), mean cross-entropy and plain stochastic gradient descent.
"""

import dataclasses
import math
import time
import warnings
from pathlib import Path

import torch
from torch.nn import functional as F

from d2lmini import checkpoint as checkpoints
from d2lmini.animator import Animator
from d2lmini.checks import (
    check_arguments,
    check_first_batches,
    check_labels,
    check_scores,
    raise_explained,
    refuse,
)
from d2lmini.cuda_graph import GraphedStep, can_be_graphed
from d2lmini.data import ImageIterator
from d2lmini.device import Precision, cuda_missing, trim_heap
from d2lmini.metrics import Accumulator, accuracy, batches_of, evaluate
from d2lmini.network import dtype_of, evaluation_mode, init_xavier, is_lazy, uncompiled

__all__ = ["History", "train_ch6"]

POINTS_PER_EPOCH = 5  # of the training curves, as in the reference
SECONDS_BETWEEN_REDRAWS = 0.5  # a fast GPU must not wait for the plot


@dataclasses.dataclass
class History:
    """What a training run measured; each list has one value an epoch.

    Where training ended while an epoch was evaluated, those of training have one more.

    Attributes:
        train_loss, train_acc: means over the epoch's samples, taken while the weights moved, the
            loss in nats, the accuracy in [0, 1].
        test_acc: over the whole test set, after the epoch, in [0, 1].
        train_seconds, test_seconds: wall time of the epoch's training and of its evaluation.
        cpu_seconds: processor time of both together, over all of the process's threads.
        curve: the points of the plot, (epoch, train loss, train acc, test acc or None).
        num_samples: training samples in an epoch.
        device, seed: where and how it ran.
        precision: the arithmetic that the device was given: "fp32", the same "fp32, channels last",
            "tf32", "bf16" or "fp16".
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
              checkpoint=None, precision="tf32", init_weights=True, caption=None,
              cuda_graph=False):  # fmt: skip
    """Initialise `net`, train it on a device with plain SGD, plot and print the results.

    Every Linear and Conv2d that is to be trained gets Xavier-uniform weights (biases stay, and so
    does what is frozen by `requires_grad_(False)`); the loss is the mean cross-entropy. Prints
    `training on DEVICE`, then `loss …, train acc …, test acc …` and `… examples/sec on DEVICE` (end
    to end, see `History.examples_per_sec`). The network stays on the device, in evaluation mode.
    Ctrl-C, a loss that is not finite and scores that are dead (all zero, and all gradients) end the
    training early; what was reached is kept and `History.stopped` says why. Exceptions pass: the
    network keeps its weights, the checkpoint its last epoch, and `error.history` is the `History`
    (`sys.last_value.history` after a cell).

    Args:
        net: module from X (B, C, H, W) float32 to scores (B, num_classes), which the loss turns
            into probabilities itself. Lazy layers get their sizes from the first batch.
        train_iter, test_iter: iterables of `(X, y)`, y whole numbers (B,): those of
            `load_data_fashion_mnist`, any DataLoader, a list of batches. Their first batches are
            looked at before anything is changed: whatever does not fit is refused then.
        num_epochs: passes over `train_iter`, at least 1.
        lr: learning rate, positive.
        device: None takes `try_gpu()`.
        seed: fixes weights, dropout and, of a `train_iter` without a generator of its own, the
            order. Biases are left as they are; to repeat a run, call `torch.manual_seed` and build
            the network anew.
        checkpoint: file that is written after every epoch; where it exists already, training
            goes on from it, to the same result as a run that was never cut off (bit for bit on a
            CPU; a GPU may pick other kernels). A finished run goes on with a larger `num_epochs`.
            It knows its run by plain values: the printed network, its parameters, lr, seed, batch
            and image size, number format, and the data of `load_data_fashion_mnist`; not by the
            code of `forward`, nor by other data. The trained weights in it are for any program:
            `net.load_state_dict(torch.load(checkpoint)["state"]["net"])`; to keep only them,
            `torch.save(net.state_dict(), path)`.
        precision: "tf32" (fp32 weights, on CUDA TF32 products), "bf16" or "fp16" (autocast),
            "auto" (that of the checkpoint, else on CUDA that of these two which the device
            multiplies fastest; on a CPU bf16 where it multiplies that faster than fp32; else as
            "tf32"), all in the fastest memory layout that the network can work with, and on a CPU a
            batch of more than 64 images in parts where its images do not depend on each other; or
            "fp32": the reference's arithmetic in the reference's layout, on a CPU bit for bit (on
            CUDA d2l leaves torch's TF32 convolutions on; here they are off).
        init_weights: False leaves the weights as they are, to train on from given ones.
        caption: text under the plot.
        cuda_graph: True captures the work of a full batch of `load_data_fashion_mnist`'s as a CUDA
            graph and replays it: `forward` must then do the same each time, with no look at values,
            no random numbers but the GPU's, nothing counted or kept. Where launches limit the speed
            it brings much (GoogLeNet on an H200: 3.7 times), on slower GPUs nothing.

    Returns:
        `History`.

    Raises:
        ValueError: bad arguments, no data, a network that does not fit the data, or a checkpoint
            of another run.
        RuntimeError: out of memory, with a batch size to try.
    """
    # Look: what is refused here has changed nothing.
    num_epochs, device, seed = check_arguments(net, num_epochs, lr, device, seed, checkpoint)
    found, state = checkpoints.load(checkpoint) if checkpoint is not None else (None, None)
    if precision == "auto" and found:
        names = {"fp32, channels last": "tf32"}
        precision = names.get(found["number format"], found["number format"])
    precision = Precision(precision, device)
    try:
        train_iter, test_iter = (
            it.to(device) if isinstance(it, ImageIterator) else it for it in (train_iter, test_iter)
        )
        X, trial, hints = check_first_batches(net, train_iter, test_iter, num_epochs, precision)
        settings = None
        if checkpoint is not None:
            settings = checkpoints.fingerprint(trial, train_iter, test_iter, lr, seed, precision,
                                               init_weights)  # fmt: skip
        if state:
            settings = checkpoints.check_same_run(checkpoint, found, settings, state)
        del trial  # its memory

        # Initialise: on the CPU, so that a seed gives the same weights everywhere.
        net.cpu()
        if is_lazy(net):  # before the seed, as the layers of other networks get their biases
            with evaluation_mode(net), torch.no_grad():
                uncompiled(net)(X.to("cpu", dtype_of(net)))
        del X
        if seed is not None:
            torch.manual_seed(seed)
        if init_weights:
            net.apply(init_xavier)
        net.to(device)
    except Exception as error:
        batch_size = getattr(train_iter, "batch_size", None)
        raise_explained(error, "the data set", batch_size=batch_size)
    on_cuda = device.type == "cuda"
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, float(lr), fused=on_cuda or None)
    scaler = torch.amp.GradScaler(device.type, enabled=precision.dtype == torch.float16)
    history = History(str(device), precision.name, seed)
    if state:
        history = _restore(state, net, scaler, train_iter, device)

    # Train.
    print(f"training on {device}", *filter(None, [cuda_missing()]), sep="\n", flush=True)
    for hint in hints:
        print("note:", hint)
    done = len(history.test_acc)
    if done >= num_epochs:
        print(f"nothing is trained: the checkpoint holds {done} epochs already; ask for more, or "
              "delete the file to start afresh")  # fmt: skip
    elif state:
        print(f"going on from the checkpoint, {done} epochs done")
    sums = Accumulator(3)  # loss, correct, scores that are not 0, of an epoch
    progress = Progress(history, num_epochs, _length(train_iter), on_cuda, caption)
    graph = GraphedStep(device) if cuda_graph and can_be_graphed(train_iter, device) else None
    try:
        with precision.applied_to(net):
            while len(history.test_acc) < num_epochs:
                cpu_started = time.process_time()
                train_epoch(net, train_iter, optimizer, scaler, precision, sums, progress, graph)
                if history.stopped:
                    break
                trim_heap(device)  # evaluation, of whole batches, would need more besides
                evaluation_started = time.perf_counter()
                test_acc = evaluate(net, test_iter, device, "test_iter", precision)
                history.test_seconds.append(time.perf_counter() - evaluation_started)
                history.cpu_seconds.append(time.process_time() - cpu_started)
                history.test_acc.append(test_acc)  # last: its length is that of whole epochs
                progress.add(len(history.test_acc), history.train_loss[-1], history.train_acc[-1],
                             test_acc)  # fmt: skip
                if checkpoint is not None:
                    _save(checkpoint, settings, _state(net, scaler, history, train_iter, device))
    except KeyboardInterrupt:
        history.stopped = "interrupted"
    except Exception as error:
        error.history = history
        raise
    finally:
        net.eval()
        if graph is not None:
            optimizer.zero_grad(set_to_none=True)  # gradients lie in the graph's memory
            graph.close()
    is_hopeless = history.stopped not in (None, "interrupted")
    if is_hopeless and checkpoint is not None and Path(checkpoint).exists():
        # The steps that led there may be in it: what comes back would be as hopeless.
        history.stopped += f"; delete checkpoint={str(checkpoint)!r} before that"
    progress.animator.redraw()
    _print_results(history)
    return history


def train_epoch(net, train_iter, optimizer, scaler, precision, sums, progress, graph=None):
    """Train on all batches of `train_iter` once; means and points go into the history.

    Where more training cannot help it ends early, with the reason in `history.stopped`.
    """
    history, device = progress.history, precision.device
    labels_known = isinstance(train_iter, ImageIterator)  # all have been looked at

    def step(X, y):
        """Forward, backward and update for one batch, without waiting for a GPU."""
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = len(y) == full_size  # takes seconds for each new size
        optimizer.zero_grad(set_to_none=True)  # first: activations need the memory
        num_parts = math.ceil(len(y) / precision.images_at_once)  # 1 but on a CPU
        for part_X, part_y in zip(X.chunk(num_parts), y.chunk(num_parts), strict=True):
            with precision.autocast():
                scores = net(part_X)
            check_scores(scores, len(part_X))
            if not labels_known and (y.device.type == "cpu" or num_samples == 0):
                check_labels(part_y, scores.shape[1], "train_iter")
            part_y = part_y.to(device, non_blocking=device.type == "cuda")
            loss = F.cross_entropy(scores.float(), part_y)
            # Parts count by their sizes, in the gradient and in the means.
            scaler.scale(loss * (len(part_y) / len(y))).backward()
            scores = scores.detach()
            sums.add(loss.detach() * len(part_y), accuracy(scores, part_y), scores.count_nonzero())
        scaler.step(optimizer)
        scaler.update()

    sums.reset()
    net.train()
    X, num_samples, full_size, started = None, 0, None, time.perf_counter()
    batches = batches_of(train_iter, net, device, "train_iter")
    try:
        for done, batch in enumerate(train_iter.batch_indices() if graph else batches, start=1):
            y = batch if graph else batch[1]
            full_size = full_size or len(y)
            if graph:  # the images are made inside
                graph(lambda indices: step(*train_iter.batch(indices)), batch, full_size)
            else:
                X = batch[0]
                step(*batch)
            num_samples += len(y)
            if progress.is_due(done, num_samples, started):  # reading sums waits for a GPU
                history.stopped = why_stop(sums, optimizer, train_iter, net, progress)
                if history.stopped:
                    return
                epoch = len(history.test_acc) + done / progress.num_batches
                progress.add(epoch, sums[0] / num_samples, sums[1] / num_samples)
    except Exception as error:
        given = "the data set" if X is None else f"a batch of shape {tuple(X.shape)}"
        size = None if X is None else min(len(X), precision.images_at_once)
        raise_explained(error, given, net, X, size)
    refuse((num_samples == 0, f"train_iter yields no batch in epoch {len(history.test_acc) + 1}"))
    history.stopped = why_stop(sums, optimizer, train_iter, net, progress)  # waits for the device
    if not history.stopped:
        history.num_samples = num_samples
        history.train_loss.append(sums[0] / num_samples)
        history.train_acc.append(sums[1] / num_samples)
        history.train_seconds.append(time.perf_counter() - started)


def why_stop(sums, optimizer, train_iter, net, progress):
    """Why more training cannot help, or None; `sums` are those of the epoch so far."""
    epoch, (group,) = len(progress.history.test_acc) + 1, optimizer.param_groups
    if not math.isfinite(sums[0]):
        device = group["params"][0].device
        if device.type != "cpu":  # where each batch has been looked at
            for _ in batches_of(train_iter, net, torch.device("cpu"), "train_iter"):
                pass
        return (
            f"the loss became {sums[0]} in epoch {epoch}: the steps are too large. Try a smaller "
            f"learning rate, lr={group['lr'] / 10:g}, and define the network anew"
        )
    if sums[2] == 0 and not any(p.grad is not None and p.grad.any() for p in group["params"]):
        return (
            f"all scores were exactly 0 in epoch {epoch}: the last ReLU is dead, the loss is "
            "the logarithm of the number of classes and every gradient is 0, so waiting cannot "
            "help. Define the network anew and train again (other initial weights), or try a "
            f"smaller learning rate, lr={group['lr'] / 2:g}"
        )
    return None


class Progress:
    """What a reader sees of a run: the curves, and a line with the speed and the time left."""

    def __init__(self, history, num_epochs, num_batches, on_gpu, caption):
        self.history, self.num_epochs, self.num_batches = history, num_epochs, num_batches
        self.draws_first = on_gpu  # which has work to do meanwhile
        self.points = {math.ceil(num_batches * k / POINTS_PER_EPOCH)
                       for k in range(1, POINTS_PER_EPOCH)} - {num_batches}  # fmt: skip
        self.status, self.last_redraw, self.last_status = None, *2 * [time.perf_counter()]
        self.animator = Animator(xlabel="epoch", xlim=[0, num_epochs], caption=caption,
                                 legend=["train loss", "train acc", "test acc"])  # fmt: skip
        for epoch, *values in history.curve:  # of a run that goes on
            self.animator.add(epoch, values, redraw=False)
        self.animator.redraw()

    def is_due(self, done, num_samples, started):
        """Whether the curves get a point after `done` batches of an epoch; shows the status."""
        due, now = done in self.points, time.perf_counter()
        if not due and now - self.last_status <= SECONDS_BETWEEN_REDRAWS:
            return False
        epoch, seconds = len(self.history.test_acc) + 1, max(now - started, 1e-9)
        status = f"epoch {epoch}/{self.num_epochs}, batch {done}"
        rate = f"{num_samples / seconds:.0f} examples/sec"
        if self.num_batches:
            evaluation = self.history.test_seconds[-1] if self.history.test_seconds else 0
            left = self.num_epochs - epoch + 1 - done / self.num_batches
            left = round(left * (self.num_batches / done * seconds + evaluation))
            rate += f", about {left // 60}:{left % 60:02d} min left"
            status += f"/{self.num_batches}"
        self.status = f"{status}, {rate}"
        if due and self.draws_first:
            self.redraw()
        elif not due:
            self.animator.progress(self.status)
            self.last_status = now
        return due

    def add(self, epoch, train_loss, train_acc, test_acc=None):
        """Add a point to the curves."""
        self.history.curve.append((epoch, train_loss, train_acc, test_acc))
        self.animator.add(epoch, (train_loss, train_acc, test_acc), redraw=False)
        if test_acc is not None:
            self.status = None
        if not self.draws_first:
            self.redraw()

    def redraw(self):
        """Show the curves, if the last time is long enough ago."""
        if time.perf_counter() - self.last_redraw > SECONDS_BETWEEN_REDRAWS:
            self.animator.redraw(self.status)
            self.last_redraw = time.perf_counter()


def _state(net, scaler, history, train_iter, device):
    """All that the epochs to come depend on; plain SGD has no state of its own."""
    generator = getattr(train_iter, "generator", None)
    of_device = {"cuda": torch.cuda, "mps": torch.mps}.get(device.type)
    arguments = [device] if device.type == "cuda" else []
    return {
        "net": uncompiled(net).state_dict(),
        "scaler": scaler.state_dict(),
        "history": dataclasses.asdict(history),
        "rng": torch.get_rng_state(),
        "device_rng": of_device and of_device.get_rng_state(*arguments),
        "order": generator.get_state() if isinstance(generator, torch.Generator) else None,
    }


def _restore(state, net, scaler, train_iter, device):
    """Take up the run that left `state`; return its history."""
    uncompiled(net).load_state_dict(state["net"])
    scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(state["rng"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["device_rng"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state["device_rng"])
    if state["order"] is not None:
        train_iter.generator.set_state(state["order"])
    return History(**{**state["history"], "device": str(device)})


def _save(path, settings, state):
    try:
        checkpoints.save(path, settings, state)
    except (OSError, RuntimeError) as error:  # a full disk: the training is worth more
        epochs = len(state["history"]["test_acc"])
        warnings.warn(f"checkpoint of epoch {epochs} not written: {error}", stacklevel=3)


def _length(data_iter):
    """The number of batches; 0 of a generator, or a DataLoader of an IterableDataset."""
    try:
        return len(data_iter)
    except TypeError:
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
