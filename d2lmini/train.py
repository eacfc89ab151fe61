"""The trainer of the chapters, with the arithmetic of the reference's `train_ch6` (d2l 0.17.0)."""

import dataclasses
import math
import time

import torch
from torch.nn import functional as F

from d2lmini import checks
from d2lmini.animator import Progress, current_cell
from d2lmini.checkpoint import Checkpoint
from d2lmini.cuda_graph import graphed_step
from d2lmini.data import ImageIterator
from d2lmini.device import Precision, cuda_missing, trim_heap, try_gpu
from d2lmini.metrics import Accumulator, accuracy, batches_of, evaluate
from d2lmini.network import dtype_of, evaluation_mode, init_xavier, is_lazy


@dataclasses.dataclass
class History:
    """What a training run measured; each list has one value an epoch.

    Attributes:
        train_loss, train_acc: means over the epoch's samples, while the weights moved; the loss in
            nats, accuracies in [0, 1]. test_acc: over the whole test set, after the epoch.
        train_seconds, test_seconds: wall time. cpu_seconds: of all threads, both together.
        curve, num_samples: points (epoch, train loss, train acc, test acc or None); in an epoch.
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
        """Training samples over the wall time of data, steps and plot; NaN before an epoch."""
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

    def _ipython_display_(self):
        if self.curve and current_cell() != vars(self).get("cell"):
            Progress(self, len(self.train_loss), (), False, None)  # draws the curve
        else:  # it stands over this already
            print(self)


def train_ch6(net, train_iter, test_iter, num_epochs, lr, device=None, *, seed=None,
              checkpoint=None, precision="tf32", init_weights=True, caption=None,
              cuda_graph=False):  # fmt: skip
    """Initialise `net`, train it on a device with plain SGD, plot and print the results.

    Every Linear and Conv2d that is to be trained gets Xavier-uniform weights (Glorot and Bengio,
    2010); biases stay, and what is frozen. The loss is the mean cross-entropy. The network stays on
    the device, in evaluation mode. Ctrl-C, a loss that is not finite and scores that are dead (all
    zero, and all gradients) end training early; `History.stopped` says why. Exceptions pass: the
    network keeps its weights, the checkpoint its last epoch, and `error.history` (after a cell
    `sys.last_value.history`) what was measured. Returns a `History`.

    Args:
        net: module from X (B, C, H, W) float32 to scores (B, num_classes), not probabilities.
        train_iter, test_iter: iterables of `(X, y)`, y whole numbers (B,): those of
            `load_data_fashion_mnist`, any DataLoader, a list of batches. The network is tried on a
            first batch of both before anything is changed: what does not fit is a ValueError.
        num_epochs, lr, device: passes over `train_iter`; learning rate; None takes `try_gpu()`.
        seed: fixes weights, dropout and, of a `train_iter` without a generator of its own, the
            order. Biases stay; to repeat a run, `torch.manual_seed` and build the network anew.
        checkpoint: file that is written after every epoch. Where it exists, training goes on from
            it, to the same result as a run that was never cut off (bit for bit on a CPU). It knows
            its run by plain values, such as the printed network, not by the code of `forward` or
            the data in a DataLoader. Its weights:
            `net.load_state_dict(torch.load(checkpoint)["state"]["net"])`.
        precision: "tf32" (fp32 weights, on CUDA TF32 products), "bf16" or "fp16" (autocast), "auto"
            (the checkpoint's, else what the device multiplies fastest), all in the fastest memory
            layout that the network takes, and on a CPU more than 64 images in parts where they do
            not depend on each other; or "fp32": the reference's arithmetic and layout.
        init_weights, caption: False trains on from the weights as they are; text under the plot.
        cuda_graph: True replays a full batch of `load_data_fashion_mnist` as a CUDA graph, for
            which `forward` must do the same each time: no look at values, no random numbers but the
            GPU's, nothing counted or kept. It helps where launches limit the speed.
    """
    # Look: what is refused here has changed nothing.
    num_epochs, seed = checks.check_arguments(net, num_epochs, lr, seed)
    device = try_gpu() if device is None else torch.device(device)
    plain_net = getattr(net, "_orig_mod", net)  # what torch.compile was given
    file, on_cuda = Checkpoint(checkpoint), device.type == "cuda"
    if precision == "auto" and file.settings:
        precision = file.settings["number format"].replace("fp32, channels last", "tf32")
    precision = Precision(precision, device)
    train_iter, test_iter = (it.to(device) if isinstance(it, ImageIterator) else it
                             for it in (train_iter, test_iter))  # fmt: skip
    X, sized_net, hints = checks.check_first_batches(plain_net, train_iter, test_iter, num_epochs,
                                                     precision)  # fmt: skip
    if checkpoint is not None:
        file.check_same_run(sized_net, train_iter, test_iter, lr, seed, precision, init_weights)

    # Initialise: on the CPU, so that a seed gives the same weights everywhere.
    net.cpu()
    if is_lazy(net):  # before the seed, as other networks got their biases
        with evaluation_mode(net), torch.no_grad():
            plain_net(X.to("cpu", dtype_of(net)))
    del X, sized_net
    trim_heap(device)
    if seed is not None:
        torch.manual_seed(seed)
    if init_weights:
        net.apply(init_xavier)
    net.to(device)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], float(lr),
                                fused=on_cuda or None)  # fmt: skip
    scaler = torch.amp.GradScaler(device.type, enabled=precision.dtype == torch.float16)
    history = History(str(device), precision.name, seed)
    if file.state:
        history = History(**file.restore(plain_net, scaler, train_iter, device))
    graph = graphed_step(train_iter) if cuda_graph else None

    # Train.
    lines = f"training on {device}", cuda_missing(), *hints.values()
    print(*filter(None, lines), sep="\n", flush=True)
    if (done := len(history.test_acc)) >= num_epochs:
        print(f"nothing is trained: the checkpoint holds {done} epochs already; ask for more")
    elif file.state:
        print(f"going on from the checkpoint, {done} epochs done")
    sums = Accumulator(3)  # loss, correct, scores that are not 0, of an epoch
    progress = Progress(history, num_epochs, train_iter, on_cuda, caption)
    try:
        with precision.applied_to(net):
            while len(history.test_acc) < num_epochs:
                cpu_started = time.process_time()
                train_epoch(net, train_iter, optimizer, scaler, precision, sums, progress, graph)
                if history.stopped:
                    break
                trim_heap(device)  # evaluation, of whole batches, would need more besides
                started = time.perf_counter()
                test_acc = evaluate(net, test_iter, device, "test_iter", precision)
                history.test_seconds.append(time.perf_counter() - started)
                history.cpu_seconds.append(time.process_time() - cpu_started)
                history.test_acc.append(test_acc)  # last: its length is that of whole epochs
                progress.add(len(history.test_acc), history.train_loss[-1], history.train_acc[-1],
                             test_acc)  # fmt: skip
                file.save(plain_net, scaler, train_iter, device, history)
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

    # Report.
    history.cell = current_cell()
    progress.animator.redraw()
    if history.stopped:
        if file.state and history.stopped != "interrupted":
            # The steps that led there may be in the file: what comes back would be as hopeless.
            history.stopped += f"; delete checkpoint={str(checkpoint)!r} before that"
        print(f"stopped early, {len(history.test_acc)} whole epochs done: {history.stopped}")
    if history.test_acc:
        print(history.results())
        print(f"{history.examples_per_sec:.1f} examples/sec on {history.device}")
    return history


def train_epoch(net, train_iter, optimizer, scaler, precision, sums, progress, graph=None):
    """Train on all batches once; means go into the history, or why it ended into its `stopped`."""
    history, device, on_cuda = progress.history, precision.device, precision.device.type == "cuda"
    X, num_samples, full_size, started = None, 0, None, time.perf_counter()

    def step(X, y):
        if on_cuda:
            torch.backends.cudnn.benchmark = len(y) == full_size  # takes seconds for each new size
        optimizer.zero_grad(set_to_none=True)  # first: activations need the memory
        num_parts = math.ceil(len(y) / precision.images_at_once)  # 1 but on a CPU
        for part_X, part_y in zip(X.chunk(num_parts), y.chunk(num_parts), strict=True):
            with precision.autocast():
                scores = net(part_X)
            checks.check_scores(scores, part_X, part_y, "train_iter")
            part_y = part_y.to(device, non_blocking=on_cuda)
            loss = F.cross_entropy(scores.float(), part_y)
            scaler.scale(loss * (len(part_y) / len(y))).backward()  # parts count by their sizes
            scores = scores.detach()
            sums.add(loss.detach() * len(part_y), accuracy(scores, part_y), scores.count_nonzero())
        scaler.step(optimizer)
        scaler.update()

    sums.reset()
    net.train()
    try:
        ordinary = batches_of(train_iter, net, device, "train_iter")
        for done, batch in enumerate(train_iter.batch_indices() if graph else ordinary, start=1):
            X, y = (None, batch) if graph else batch  # of a graph, the numbers of its images
            full_size = full_size or len(y)
            if graph:
                graph(lambda indices: step(*train_iter.batch(indices)), y, full_size)
            else:
                step(X, y)
            num_samples += len(y)
            if progress.is_due(done, num_samples, started):  # reading sums waits for a GPU
                history.stopped = why_stop(sums, optimizer, len(history.test_acc) + 1)
                if history.stopped:
                    return
                epoch = len(history.test_acc) + done / progress.num_batches
                progress.add(epoch, sums[0] / num_samples, sums[1] / num_samples)
        if not num_samples:
            raise ValueError("train_iter yields no batch in this epoch")
        history.stopped = why_stop(sums, optimizer, len(history.test_acc) + 1)
    except Exception as error:
        checks.raise_explained(error, "train_iter", net, X,
                               min(full_size or 0, precision.images_at_once))  # fmt: skip
    if not history.stopped:
        history.num_samples = num_samples
        history.train_loss.append(sums[0] / num_samples)
        history.train_acc.append(sums[1] / num_samples)
        history.train_seconds.append(time.perf_counter() - started)


def why_stop(sums, optimizer, epoch):
    """Why more training cannot help, or None."""
    (group,) = optimizer.param_groups
    if not math.isfinite(sums[0]):
        return (f"the loss became {sums[0]} in epoch {epoch}: the steps are too large. Try a "
                f"smaller learning rate, lr={group['lr'] / 10:g}, and define the network anew"
                )  # fmt: skip
    if sums[2] == 0 and not any(p.grad is not None and p.grad.any() for p in group["params"]):
        return (f"all scores were exactly 0 in epoch {epoch}: the last ReLU is dead and every "
                "gradient is 0, so waiting cannot help. Define the network anew (other initial "
                f"weights), or try a smaller learning rate, lr={group['lr'] / 2:g}")  # fmt: skip
