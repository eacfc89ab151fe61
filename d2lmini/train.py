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
from d2lmini import checks
from d2lmini.animator import Progress
from d2lmini.checks import check_labels, check_scores, raise_explained
from d2lmini.cuda_graph import GraphedStep, can_be_graphed
from d2lmini.data import ImageIterator
from d2lmini.device import Precision, cuda_missing, trim_heap
from d2lmini.metrics import Accumulator, accuracy, batches_of, evaluate
from d2lmini.network import device_of, dtype_of, evaluation_mode, init_xavier, is_lazy, uncompiled

__all__ = ["History", "train_ch6"]


@dataclasses.dataclass
class History:
    """What a training run measured; each list has one value an epoch.

    Where training ended while an epoch was evaluated, those of training have one more.

    Attributes:
        train_loss, train_acc: means over the epoch's samples, while the weights moved; the loss in
            nats, accuracies in [0, 1]. test_acc: over the whole test set, after the epoch.
        train_seconds, test_seconds: wall time. cpu_seconds: of all threads, both together.
        curve: the points of the plot, (epoch, train loss, train acc, test acc or None).
        num_samples: training samples in an epoch.
        precision: "fp32", the same but "fp32, channels last", "tf32", "bf16" or "fp16".
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

        Evaluation is left out; the device has finished its work. NaN before the first epoch.
        """
        seconds = sum(self.train_seconds)
        return self.num_samples * len(self.train_seconds) / seconds if seconds else math.nan

    def results(self):
        """Training loss, training and test accuracy of the last whole epoch, as text."""
        last = len(self.test_acc) - 1
        train = f"loss {self.train_loss[last]:.3f}, train acc {self.train_acc[last]:.3f}"
        return f"{train}, test acc {self.test_acc[last]:.3f}"

    def __repr__(self):
        results = f", {self.results()}" if self.test_acc else ""
        return f"History({len(self.test_acc)} epochs on {self.device}, {self.precision}{results})"


def train_ch6(net, train_iter, test_iter, num_epochs, lr, device=None, *, seed=None,
              checkpoint=None, precision="tf32", init_weights=True, caption=None,
              cuda_graph=False):  # fmt: skip
    """Initialise `net`, train it on a device with plain SGD, plot and print the results.

    Every Linear and Conv2d that is to be trained gets Xavier-uniform weights (biases stay, and so
    does what is frozen by `requires_grad_(False)`); the loss is the mean cross-entropy. The network
    stays on the device, in evaluation mode. Ctrl-C, a loss that is not finite and scores that are
    dead (all zero, and all gradients) end training early; `History.stopped` says why. Exceptions
    pass: the network keeps its weights, the checkpoint its last epoch, and `error.history` (after a
    cell `sys.last_value.history`) what was measured. Returns a `History`.

    Args:
        net: module from X (B, C, H, W) float32 to scores (B, num_classes), which the loss turns
            into probabilities itself. Lazy layers get their sizes from the first batch.
        train_iter, test_iter: iterables of `(X, y)`, y whole numbers (B,): those of
            `load_data_fashion_mnist`, any DataLoader, a list of batches. A first batch is looked at
            before anything is changed: whatever does not fit is refused then, with a ValueError.
        num_epochs, lr, device: passes over `train_iter`; learning rate; None takes `try_gpu()`.
        seed: fixes weights, dropout and, of a `train_iter` without a generator of its own, the
            order. Biases stay; to repeat a run, `torch.manual_seed` and build the network anew.
        checkpoint: file that is written after every epoch. Where it exists, training goes on from
            it, to the same result as a run that was never cut off (bit for bit on a CPU); a
            finished run with a larger `num_epochs`. It knows its run by plain values, the printed
            network, parameters, lr, seed, sizes, number format and the data of
            `load_data_fashion_mnist`; not by other data or the code of `forward`. Its weights:
            `net.load_state_dict(torch.load(checkpoint)["state"]["net"])`.
        precision: "tf32" (fp32 weights, on CUDA TF32 products), "bf16" or "fp16" (autocast), "auto"
            (the checkpoint's; else that of 16 bits which the device multiplies fastest, if it does
            so faster than fp32), all in the fastest memory layout that the network takes, and on a
            CPU more than 64 images in parts where they do not depend on each other; or "fp32": the
            reference's arithmetic and layout, on a CPU bit for bit (on CUDA without TF32).
        init_weights: False leaves the weights as they are, to train on from given ones.
        caption: text under the plot.
        cuda_graph: True captures the work of a full batch of `load_data_fashion_mnist` as a CUDA
            graph and replays it: `forward` must then do the same each time, with no look at values,
            no random numbers but the GPU's, nothing counted or kept. Where launches limit the speed
            it brings much (GoogLeNet on an H200: 3.7 times), on slower GPUs nothing.
    """
    # Look: what is refused here has changed nothing.
    num_epochs, device, seed = checks.check_arguments(net, num_epochs, lr, device, seed, checkpoint)
    found, state = checkpoints.load(checkpoint) if checkpoint is not None else (None, None)
    if precision == "auto" and found:
        precision = found["number format"].replace("fp32, channels last", "tf32")
    precision = Precision(precision, device)
    try:
        train_iter, test_iter = (it.to(device) if isinstance(it, ImageIterator) else it
                                 for it in (train_iter, test_iter))  # fmt: skip
        X, trial, hints = checks.check_first_batches(net, train_iter, test_iter, num_epochs,
                                                     precision)  # fmt: skip
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
        trim_heap(device)
        if seed is not None:
            torch.manual_seed(seed)
        if init_weights:
            net.apply(init_xavier)
        net.to(device)
    except Exception as error:
        raise_explained(error, "the data set", size=getattr(train_iter, "batch_size", None))
    history, on_cuda = History(str(device), precision.name, seed), device.type == "cuda"
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], float(lr),
                                fused=on_cuda or None)  # fmt: skip
    scaler = torch.amp.GradScaler(device.type, enabled=precision.dtype == torch.float16)
    if state:
        checkpoints.restore(state, uncompiled(net), scaler, train_iter, device)
        history = History(**{**state["history"], "device": str(device)})

    # Train.
    done = len(history.test_acc)
    print(f"training on {device}", *filter(None, [cuda_missing()]), sep="\n", flush=True)
    for hint in hints:
        print("note:", hint)
    if done >= num_epochs:
        print(f"nothing is trained: the checkpoint holds {done} epochs already; ask for more, or "
              "delete the file to start afresh")  # fmt: skip
    elif state:
        print(f"going on from the checkpoint, {done} epochs done")
    sums = Accumulator(3)  # loss, correct, scores that are not 0, of an epoch
    progress = Progress(history, num_epochs, train_iter, on_cuda, caption)
    is_graphed = cuda_graph and can_be_graphed(train_iter, device)
    graph = GraphedStep(device_of(net)) if is_graphed else None
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
                    state = checkpoints.state_of(uncompiled(net), scaler, train_iter, device)
                    state["history"] = dataclasses.asdict(history)
                    try:
                        checkpoints.save(checkpoint, settings, state)
                    except (OSError, RuntimeError) as error:  # a full disk: training goes on
                        warnings.warn(f"checkpoint of epoch {len(history.test_acc)} not written: "
                                      f"{error}", stacklevel=2)  # fmt: skip
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
    if history.stopped:
        print(f"stopped early, {len(history.test_acc)} whole epochs done: {history.stopped}")
    if len(history.train_loss) > len(history.test_acc):  # an epoch that was not evaluated
        print(f"loss {history.train_loss[-1]:.3f}, train acc {history.train_acc[-1]:.3f} "
              f"in epoch {len(history.train_loss)}, not evaluated")  # fmt: skip
    if history.test_acc:
        print(history.results())
        print(f"{history.examples_per_sec:.1f} examples/sec on {history.device}")
    return history


def train_epoch(net, train_iter, optimizer, scaler, precision, sums, progress, graph=None):
    """Train on all batches of `train_iter` once; means and points go into the history.

    Where more training cannot help it ends early, with the reason in `history.stopped`.
    """
    history, device, on_cuda = progress.history, precision.device, precision.device.type == "cuda"
    labels_known = isinstance(train_iter, ImageIterator)  # all have been looked at
    X, num_samples, full_size, started = None, 0, None, time.perf_counter()

    def step(X, y):
        """Forward, backward and update for one batch, without waiting for a GPU."""
        if on_cuda:
            torch.backends.cudnn.benchmark = len(y) == full_size  # takes seconds for each new size
        optimizer.zero_grad(set_to_none=True)  # first: activations need the memory
        num_parts = math.ceil(len(y) / precision.images_at_once)  # 1 but on a CPU
        for part_X, part_y in zip(X.chunk(num_parts), y.chunk(num_parts), strict=True):
            with precision.autocast():
                scores = net(part_X)
            check_scores(scores, len(part_X))
            if not labels_known and (y.device.type == "cpu" or num_samples == 0):
                check_labels(part_y, scores.shape[1], "train_iter")
            part_y = part_y.to(device, non_blocking=on_cuda)
            loss = F.cross_entropy(scores.float(), part_y)
            scaler.scale(loss * (len(part_y) / len(y))).backward()  # parts count by their sizes
            scores = scores.detach()
            sums.add(loss.detach() * len(part_y), accuracy(scores, part_y), scores.count_nonzero())
        scaler.step(optimizer)
        scaler.update()

    sums.reset()
    net.train()
    batches = batches_of(train_iter, net, device, "train_iter")
    try:
        for done, batch in enumerate(train_iter.batch_indices() if graph else batches, start=1):
            size = len(batch if graph else batch[1])
            full_size = full_size or size
            if graph:  # the images are made inside
                graph(lambda indices: step(*train_iter.batch(indices)), batch, full_size)
            else:
                X, y = batch
                step(X, y)
            num_samples += size
            if progress.is_due(done, num_samples, started):  # reading sums waits for a GPU
                history.stopped = why_stop(sums, optimizer, train_iter, net, progress)
                if history.stopped:
                    return
                epoch = len(history.test_acc) + done / progress.num_batches
                progress.add(epoch, sums[0] / num_samples, sums[1] / num_samples)
        if not num_samples:
            raise checks.BadInput("train_iter yields no batch in this epoch")
        history.stopped = why_stop(sums, optimizer, train_iter, net, progress)  # waits for a GPU
    except Exception as error:
        given = "the data set" if X is None else f"a batch of shape {tuple(X.shape)}"
        size = 0 if X is None else min(len(X), precision.images_at_once)
        raise_explained(error, given, net, X, size)
    if not history.stopped:
        history.num_samples = num_samples
        history.train_loss.append(sums[0] / num_samples)
        history.train_acc.append(sums[1] / num_samples)
        history.train_seconds.append(time.perf_counter() - started)


def why_stop(sums, optimizer, train_iter, net, progress):
    """Why more training cannot help, or None; `sums` are those of the epoch so far."""
    epoch, (group,) = len(progress.history.test_acc) + 1, optimizer.param_groups
    if not math.isfinite(sums[0]):
        if group["params"][0].device.type != "cpu":  # where each batch has been looked at
            for _ in batches_of(train_iter, net, torch.device("cpu"), "train_iter"):
                pass
        advice = (
            f"Try a smaller learning rate, lr={group['lr'] / 10:g}, and define the network anew"
        )
        return f"the loss became {sums[0]} in epoch {epoch}: the steps are too large. {advice}"
    if sums[2] == 0 and not any(p.grad is not None and p.grad.any() for p in group["params"]):
        return (f"all scores were exactly 0 in epoch {epoch}: the last ReLU is dead, the loss is "
                "the logarithm of the number of classes and every gradient is 0, so waiting cannot "
                "help. Define the network anew and train again (other initial weights), or try a "
                f"smaller learning rate, lr={group['lr'] / 2:g}")  # fmt: skip
    return None
