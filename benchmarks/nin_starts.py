"""How NiN starts, over seeds: when its loss leaves ln 10, and how often it dies.

    python benchmarks/nin_starts.py --seeds 10 --epochs 2 --output nin-starts.json

Trains the chapter's network with the chapter's settings, one seed after another, on the best device
present, each to the end of the epoch in which it starts or dies: seconds on a GPU, a quarter of an
hour an epoch and more on two CPU cores. The file is written after every seed, and a run that was
cut off goes on after the last one.
"""

import argparse
import contextlib
import io
import json
import math
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import d2lmini as d2l
from d2lmini.device import device_name
from tools import notebooks

# A fifth of an epoch with a mean loss below this is over the start, which is at ln 10 = 2.303.
STARTED = 2.2


@notebooks.exit_on_fault("nin_starts")
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="so many, from 0 on")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--output", type=Path, default=Path("nin-starts.json"))
    arguments = parser.parse_args(argv)

    device = d2l.try_gpu()
    settings = {
        "device": f"{device} ({device_name(device)})",
        "torch": torch.__version__,
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
    }
    runs = []
    if arguments.output.exists():
        found = json.loads(arguments.output.read_text("utf-8"))
        runs = found.pop("runs")
        if found != settings:
            sys.exit(f"{arguments.output} holds runs of other settings: {found}; name another file")
    for seed in range(len(runs), arguments.seeds):
        runs.append(first_epochs(seed, arguments, device))
        content = json.dumps({**settings, "runs": runs}, indent=1) + "\n"
        arguments.output.write_text(content, encoding="utf-8")
        print(describe(runs[-1]), flush=True)
    print(summary(runs))


def first_epochs(seed, arguments, device):
    """Train one seed until it has started, has died, or the epochs are over; what became of it."""
    chapter = notebooks.chapter("nin")
    torch.manual_seed(seed)
    net = notebooks.network_namespace("nin")["net"]
    train_iter, test_iter = d2l.load_data_fashion_mnist(arguments.batch_size, resize=chapter.side)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        for num_epochs in range(1, arguments.epochs + 1):  # each goes on from the one before
            history = d2l.train_ch6(net, train_iter, test_iter, num_epochs, chapter.lr, device,
                                    seed=seed, checkpoint=Path(folder, "nin.pt"))  # fmt: skip
            started = start(history.curve)
            if history.stopped == "interrupted":
                raise KeyboardInterrupt
            why = (history.stopped or "").split(":")[0]  # what follows is advice
            died = why or dead(net, test_iter, device)
            if started is not None or died:
                break
    curve = [point[:3] for point in history.curve]
    return {"seed": seed, "started": started, "died": died, "curve": curve}


def start(curve):
    """The epochs after which a stretch between two points of the curve has a loss below STARTED."""
    before = (0.0, 0.0)  # epochs, and the loss summed over this epoch so far
    for epoch, mean_loss, *_ in curve:
        this_epoch = math.ceil(epoch) - 1
        since = max(before[0], this_epoch)
        summed = before[1] if before[0] > this_epoch else 0.0
        total = mean_loss * (epoch - this_epoch)
        if (total - summed) / (epoch - since) < STARTED:
            return epoch
        before = (epoch, total)
    return None


def dead(net, test_iter, device):
    """Why the network is past help though training has not noticed, or None."""
    X, _ = next(iter(test_iter))
    with torch.no_grad():
        logits = net(X.to(device))
    if (logits == logits[0]).all():
        return f"the scores of {len(X)} test images are all the same"
    return None


def describe(run):
    if run["died"]:
        return f"seed {run['seed']}: {run['died']}"
    epoch, loss, accuracy = run["curve"][-1]
    when = "has not started" if run["started"] is None else f"started by epoch {run['started']:.1f}"
    return f"seed {run['seed']}: {when}; at {epoch:.0f} loss {loss:.3f}, train acc {accuracy:.3f}"


def outcomes(runs):
    """How many runs started in the first epoch, started later, died, and did neither."""
    alive = [run["started"] for run in runs if run["died"] is None]
    first = sum(epoch <= 1 for epoch in alive if epoch is not None)
    neither = alive.count(None)
    return first, len(alive) - neither - first, len(runs) - len(alive), neither


def summary(runs):
    first, later, died, neither = outcomes(runs)
    return (
        f"{len(runs)} seeds: {first} started in the first epoch, {later} later, {died} died, "
        f"{neither} neither"
    )


if __name__ == "__main__":
    main()
